"""Verdicts: from the suspicions of single nodes to the cluster's judgement (P12).

A suspicion is one node's view, and may be due to its own network. A node is therefore *down* only if at least two others
suspect it; Ray's notice that its process has died is proof and needs no reporter (it is handled elsewhere). With fewer
than three nodes there cannot be two reporters, and only proof remains.

**Reports expire.** A reporter repeats all its suspicions; one that it no longer reports is withdrawn, and one not
repeated for ``expires_s`` is void. A reporter that dies or freezes leaves no suspicion behind: of three nodes A suspects
B and freezes; when C then suspects B for a moment, A's old report must not be the second.

**A node that is down is no reporter.** When a cut splits five nodes 3 : 2 and all still reach the supervisor, each side
suspects the other, and by plain counting all five would be down. Nodes are therefore judged one by one, the one with the
most reports first, and the reports of a judged node are void from then on: three judge the two, whose reports about the
three do not count. In a tie (2 : 2) the node goes first that reached the needed number of reports first, by reports
repeated since: an arbitrary choice, but half of the cluster goes on, and the verdict does not oscillate.

**Invariant**: a node that is down is reported by at least ``reporters`` nodes that are not judged themselves. A verdict
falls if its reporters are judged after it; its node does not become a reporter again. The judged nodes therefore only
grow in number while reports are counted, and circular suspicions terminate.

**After a restart** the others suspect the node until its first heartbeats have spread, and their next reports would make
it down again: ``forget`` takes a time until which reports about it are ignored.

Omitted: lying reporters. A false suspicion needs a second liar.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from raykv.config import MAX_NODES, check_count, check_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_EXPIRES_S = 3600.0


class _Word(NamedTuple):
    until_s: float
    began: int
    """Number of the report that first contained it; every report since has repeated it."""


class Verdicts:
    """The reports and the verdicts. ``InvalidOption`` if ``expires_s`` or ``reporters`` is out of range."""

    def __init__(self, *, expires_s: float, reporters: int = 2) -> None:
        self._expires_s = check_seconds("expires_s", expires_s, MAX_EXPIRES_S)
        self._needed = check_count("reporters", reporters, 1, MAX_NODES)
        self._words: dict[str, dict[str, _Word]] = {}
        """By suspect and reporter."""
        self._pardoned_s: dict[str, float] = {}
        """Until when reports about a node are ignored."""
        self._numbers = count()

    def report(self, reporter: str, suspects: Iterable[str], now_s: float) -> None:
        """Replace a reporter's suspicions; an empty list withdraws them all."""
        number = next(self._numbers)
        before = self._drop_words_by(reporter)
        for suspect in suspects:
            if suspect == reporter or now_s < self._pardoned_s.get(suspect, now_s):
                continue
            word = before.get(suspect)
            began = word.began if word and now_s < word.until_s else number
            self._words.setdefault(suspect, {})[reporter] = _Word(now_s + self._expires_s, began)

    def reporters(self, suspect: str, now_s: float) -> list[str]:
        """Return the reporters that suspect a node now, sorted, whether or not their reports count."""
        return sorted(self._unexpired(suspect, now_s))

    def down(self, now_s: float) -> dict[str, list[str]]:
        """Return the nodes that are down, sorted, each with the reporters that count. O(reports x down)."""
        began = {suspect: self._unexpired(suspect, now_s) for suspect in sorted(self._words)}
        judged: set[str] = set()
        while True:
            accused = []
            for suspect, words in began.items():
                counted = sorted(number for reporter, number in words.items() if reporter not in judged)
                if suspect not in judged and len(counted) >= self._needed:
                    accused.append((-len(counted), counted[self._needed - 1], suspect))
            if not accused:
                break
            judged.add(min(accused)[2])
        found = {suspect: sorted(began[suspect].keys() - judged) for suspect in sorted(judged)}
        return {suspect: counted for suspect, counted in found.items() if len(counted) >= self._needed}

    def forget(self, node_id: str, until_s: float = float("-inf")) -> None:
        """Drop all reports about a node and by it: it was restarted, or has left.

        ``until_s``: reports about it are ignored until then, because the others have not heard from it yet.
        """
        self._words.pop(node_id, None)
        self._drop_words_by(node_id)
        self._pardoned_s[node_id] = until_s

    def _unexpired(self, suspect: str, now_s: float) -> dict[str, int]:
        """Return reporter -> number of the report that began its unexpired suspicion of a node."""
        words = self._words.get(suspect, {})
        return {reporter: word.began for reporter, word in words.items() if now_s < word.until_s}

    def _drop_words_by(self, reporter: str) -> dict[str, _Word]:
        """Drop them and return them, by suspect."""
        dropped = {}
        for suspect in sorted(self._words):
            words = self._words[suspect]
            if reporter in words:
                dropped[suspect] = words.pop(reporter)
            if not words:
                del self._words[suspect]
        return dropped
