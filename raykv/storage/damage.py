"""Damage to stored bytes, as data and as errors.

*Damage* is corruption: bytes that were once safely on disk and have changed. It is never ignored: a damaged node may
lack something that it acknowledged, so it counts as incomplete for the damaged keys (for all its keys where the range is
unknown) until its peers have restored them. It stays in the manifest until ``Engine.heal`` removes it; a compaction does
not launder it.

A torn tail of the log is not damage: those bytes were never acknowledged. Nor is a failing log: it ends the engine
(``EngineFailed``), because after a failed fsync it is unknown which bytes are on the disk.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from raykv.errors import RaykvError
from raykv.records.limits import FileName, Offset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger("raykv.storage")

CorruptionHandler: TypeAlias = "Callable[[CorruptBlock], None]"


class EngineFailed(RaykvError):
    """The log could not be written or synced. The engine answers nothing more: close it and recover."""


class CompressionMissing(RaykvError):
    """A table, or the node's setting, needs a package that is not installed here. Nothing is lost; the message names it."""


class DiskFull(OSError):
    """There is no room for the write. The file to be replaced or extended is unchanged: retry when there is room."""

    @classmethod
    def of(cls, error: OSError) -> DiskFull | None:
        """Convert an error that means "no room" (disk, quota, file descriptors); None for any other."""
        return cls(error.errno, error.strerror, error.filename) if error.errno in _NO_ROOM else None

    @property
    def of_descriptors(self) -> bool:
        """Whether the process or the machine is out of file descriptors."""
        return self.errno in _NO_DESCRIPTOR


class NumbersUsedUp(DiskFull):
    """The log has begun all the segments that it may: it takes no more updates, and all that it holds is read."""

    def __init__(self, directory: str) -> None:
        super().__init__(errno.ENOSPC, "the numbers of the log's segments are used up", directory)


_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT}) | _NO_DESCRIPTOR


class Damage(msgspec.Struct, frozen=True, array_like=True):
    """One corrupt place: ``offset`` in ``file``, and its keys ``[start, end)``; None where unknown."""

    file: FileName
    offset: Offset
    start: bytes | None
    end: bytes | None
    reason: str

    def __str__(self) -> str:
        keys = "keys not known" if self.start is None else f"keys {self.start!r} to {self.end!r}"
        return f"{self.file} at {self.offset}: {self.reason} ({keys})"

    def touches(self, start: bytes, end: bytes | None) -> bool:
        """Return whether it may have cost a key in ``[start, end)``."""
        if self.start is None:
            return True
        return (end is None or self.start < end) and (self.end is None or start < self.end)

    def same_place(self, other: Damage) -> bool:
        """Return whether both concern the same bytes."""
        return self.file == other.file and self.offset == other.offset


class CorruptBlock(Exception):  # not a RaykvError: it never leaves this package
    """A table's block, index or footer fails its checksum, or cannot be read."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(str(damage))
        self.damage = damage


def damaged_ranges(damages: Iterable[Damage]) -> list[tuple[bytes, bytes | None]]:
    """Return the known key ranges ``[start, end)`` of the damages, sorted."""
    return sorted(
        ((damage.start, damage.end) for damage in damages if damage.start is not None),
        key=lambda pair: (pair[0], pair[1] is None, pair[1] or b""),
    )


def intact(
    ranges: Iterable[tuple[bytes, bytes | None]], start: bytes, end: bytes | None
) -> list[tuple[bytes, bytes | None]]:
    """Return the stretches of ``[start, end)`` that no range touches, ascending. ``ranges``: as ``damaged_ranges``."""
    stretches: list[tuple[bytes, bytes | None]] = []
    for low, high in ranges:
        if end is not None and low >= end:
            break
        if low > start:
            stretches.append((start, low))
        if high is None:
            return stretches
        start = max(start, high)
    if end is None or start < end:
        stretches.append((start, end))
    return stretches


def report(damage: Damage) -> None:
    """Log the damage in one line."""
    logger.error("corruption in %s", damage)
