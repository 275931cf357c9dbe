"""The demo's writes, and what a read may therefore return. Pure bookkeeping.

Every write of a key carries a revision of its own. A key's *possible* revisions are the last acknowledged one and every
later one with an unknown outcome: a failed write may stand, and may surface later. Any other revision read back means a
lost write (or one that nobody made). Writes to one key are sequential here, which gives "last" a meaning without trusting
the store's own clock.
"""

from __future__ import annotations

from typing import NamedTuple

ABSENT = -1
"""The revision of a key without a value."""
FIRST = 0
"""The revision of the record as it was loaded."""


class Expectation(NamedTuple):
    """The possible results of a read that begins now, apart from concurrent writes."""

    possible: tuple[int, ...]
    begun: int


class History:
    """The writes of one demo."""

    def __init__(self) -> None:
        self._possible: dict[str, list[int]] = {}
        self._begun: dict[str, list[int]] = {}
        self._under_way: set[str] = set()
        self._last_revision = FIRST
        self.acknowledged_writes = 0

    def begin(self, key: str, *, first: bool = False) -> int:
        """Return the revision for a new write. Raises ``ValueError`` if one is under way."""
        if key in self._under_way:
            raise ValueError(f"a write of {key!r} is under way")
        if first:
            revision = FIRST
        else:
            self._last_revision += 1
            revision = self._last_revision
        self._under_way.add(key)
        self._begun.setdefault(key, []).append(revision)
        self._possible.setdefault(key, [ABSENT]).append(revision)
        return revision

    def acknowledged(self, key: str) -> None:
        """Record that the write under way was acknowledged: no read may return anything older from now on."""
        self._under_way.remove(key)
        self._possible[key] = self._possible[key][-1:]
        self.acknowledged_writes += 1

    def unknown(self, key: str) -> None:
        """Record that the write under way failed: it may stand or not."""
        self._under_way.remove(key)

    def expect(self, key: str) -> Expectation:
        """Return what a read of the key that begins now may return."""
        return Expectation(tuple(self._possible.get(key, (ABSENT,))), len(self._begun.get(key, ())))

    def allows(self, key: str, revision: int | None, expectation: Expectation | None = None) -> bool:
        """Return whether a read may have returned this revision; None stands for a value that nobody wrote.

        Without an ``expectation`` the read began after all writes had ended.
        """
        expected = self.expect(key) if expectation is None else expectation
        return revision in expected.possible or revision in self._begun.get(key, [])[expected.begun :]
