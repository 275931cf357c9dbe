"""What ``store.repair()`` returns: figures over all partitions, as a dict that prints well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from raykv.client.views import size
from raykv.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

REPAIR_TIMEOUT_S = 60.0
"""For one partition."""
_SUMMED = ("compared", "fetched", "sent", "bytes", "purged")


class RepairReport(dict[str, Any]):
    """``partitions``, ``mended`` (those of them where something differed), ``compared``, ``fetched`` and ``sent`` records.

    ``bytes``: all that was sent between owners; ``purged``: deletes that were forgotten for good; ``failed``: partition ->
    why it could not be compared with all its owners.
    """

    @classmethod
    def begin(cls, partitions: int) -> Self:
        """Return a report in which nothing has been done yet."""
        return cls(partitions=partitions, mended=0, **dict.fromkeys(_SUMMED, 0), failed={})

    def add(self, figures: Mapping[str, Any]) -> None:
        """Add a partition's figures."""
        for name in _SUMMED:
            self[name] += figures[name]
        self["mended"] += bool(figures["fetched"] or figures["sent"])

    def fail(self, partition: int, error: StoreUnavailable) -> None:
        """Note that a partition could not be compared with all its owners."""
        self["failed"][partition] = error.message

    def checked(self) -> Self:
        """Return this report. Raises ``StoreUnavailable`` if a partition failed."""
        if failed := self["failed"]:
            first = next(iter(failed.values()))
            raise StoreUnavailable(
                f"{len(failed)} of {self['partitions']} partitions were not compared with all their owners; the first: "
                f"{first}; the others are mended",
                **self,
            )
        return self

    def __repr__(self) -> str:
        return (
            f"compared {self['compared']} records in {self['partitions']} partitions; {self['mended']} partitions differed: "
            f"{self['fetched']} records fetched, {self['sent']} sent; {self['purged']} deletes forgotten for good; "
            f"{size(self['bytes'])} sent in all"
        )
