"""What a node's directory is known to hold, recorded outside the parts that it describes.

The log alone says where it ends, and the manifest which tables there are: a truncated log or last week's manifest looks
complete. Each therefore vouches for the others. The *mark* is part of the identity: which manifest there was, and where
the log ended. The start of a run sets it to what was found, a clean stop to everything there is. The manifest records how
far the log was synced when it was saved, and by which run; the identity's own run must not be an earlier one.

A mismatch has one of two consequences. A log that ends too early or has lost a segment is *damage*, like corruption in
it: the keys are unknown, so the node is incomplete until its peers have restored it (P1). A file other than the one left
there (an older copy, another node's) is a *doubt* about the directory, which then counts as an old copy (P6).

After a crash a mark is a lower bound: what was there when that run began is still there, or what became of it. After a
clean stop it is exact.

Omitted: signatures. Anyone who can write all files of a directory can make them match; this finds accidents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from crc32c import crc32c

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raykv.storage.manifest import Manifest

LENGTH_BITS = 40
"""The end of a log is one number: the segment, followed by this many bits of length."""
ALL_OF_IT = (1 << LENGTH_BITS) - 1
MAX_SEGMENT = (1 << 63 - LENGTH_BITS) - 1
"""The last number of a segment that is read: the end of a log stays within 63 bits."""
LAST_SEGMENT = MAX_SEGMENT - 4096
"""The last one that is begun for updates: 64 TiB of them, with memtables of 8 MiB. Recoveries may need the rest."""
FAR_AHEAD = 1 << 16
"""A segment this far beyond the known end of a log is not of that log: the manifest follows with each flush."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a directory: the manifest, and the log from the first segment that matters to its end."""

    run: int = 0
    """The incarnation that set it."""
    exact: bool = False
    """Set by a clean stop: nothing has been written since."""
    generation: int = 0
    """The manifest's generation."""
    manifest: int = 0
    """The manifest's checksum."""
    log_start: int = 0
    log_end: int = 0
    log: int = 0
    """``log_digest`` of the segments up to ``log_through``, which no longer grow."""
    log_through: int = 0


def end_of(segment: int, length: int) -> int:
    """Return the end of a log as one number. A missing segment has been flushed: all of it counts."""
    return (segment << LENGTH_BITS) + (length or ALL_OF_IT)


def apart(end: int) -> tuple[int, int]:
    """Return ``(segment, length)`` of the end of a log."""
    segment, length = divmod(end, ALL_OF_IT + 1)
    return segment, 0 if length == ALL_OF_IT else length


def log_digest(digests: Mapping[int, int], start: int, through: int) -> int:
    """Return one number for the segments from ``start`` to ``through``, by the digests of each."""
    digest = 0
    for number in sorted(digests):
        if start <= number <= through:
            digest = crc32c(number.to_bytes(8) + digests[number].to_bytes(4), digest)
    return digest


def doubt_about_manifest(mark: Mark, run: int, owner: str, manifest: Manifest | None, checksum: int) -> str:
    """Return why the manifest, or the identity that the mark is from, is not the one that was left; empty if it is.

    ``run``: the last one that the identity knows of; ``owner``: the owner of the directory, by the identity.
    """
    if manifest is None:
        return "its data is gone" if mark.generation else ""
    if manifest.owner and owner and manifest.owner != owner:
        return f"its manifest is that of {manifest.owner}"
    if manifest.run > run:
        return f"its identity is of run {run}, its manifest of run {manifest.run}"
    if manifest.generation < mark.generation:
        return f"its manifest is an older one ({manifest.generation}, was {mark.generation})"
    # A later run than the mark's saved the manifest only after it had examined all this.
    if manifest.run <= mark.run and (
        (manifest.generation == mark.generation and checksum != mark.manifest)
        or (mark.exact and manifest.generation != mark.generation)
    ):
        return "its manifest is another one than was left"
    return ""


def doubt_about_log(mark: Mark, manifest: Manifest, digests: Mapping[int, int], last: int) -> str:
    """Return why the log is not the one that was left, though it is as long; empty if it is. ``last``: its last segment."""
    if manifest.run > mark.run:
        return ""
    if mark.exact and last > apart(mark.log_end)[0]:
        return "its log goes on behind the end that was left"
    if manifest.oldest_segment != mark.log_start or log_digest(digests, mark.log_start, mark.log_through) == mark.log:
        return ""
    return "its log is another one than was left"
