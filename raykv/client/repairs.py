"""What ``store.repair()`` returns: figures over all partitions, as a dict that prints well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, overload

from raykv.client import faces
from raykv.client.views import size
from raykv.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

REPAIR_TIMEOUT_S = 60.0
"""The time-out of a request, which names some partitions."""
AT_ONCE = 16
_SUMMED = ("compared", "fetched", "sent", "bytes", "purged")


class RepairReport(dict[str, Any]):
    """``partitions``, ``mended`` (those of them where something differed), ``compared``, ``fetched`` and ``sent`` records.

    ``bytes``: all that was sent between owners; ``purged``: deletes that were forgotten for good; ``failed``: partition ->
    why it could not be compared with all its owners.
    """

    if TYPE_CHECKING:

        @overload
        def __getitem__(
            self, key: Literal["partitions", "mended", "compared", "fetched", "sent", "bytes", "purged"], /
        ) -> int: ...
        @overload
        def __getitem__(self, key: Literal["failed"], /) -> dict[int, str]: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: str, /) -> Any: ...

    @classmethod
    def begin(cls, partitions: int) -> Self:
        """Return a report in which nothing has been done yet."""
        return cls(partitions=partitions, mended=0, **dict.fromkeys(_SUMMED, 0), failed={})

    def portions(self) -> Iterator[range]:
        """Yield the partitions in portions, each to be asked for at once."""
        for first in range(0, self["partitions"], AT_ONCE):
            yield range(first, min(first + AT_ONCE, self["partitions"]))

    def add(self, done: Iterable[Mapping[str, Any]]) -> None:
        """Add the figures of partitions, or why they were not compared with all their owners."""
        for figures in done:
            if "failed" in figures:
                self["failed"][figures["partition"]] = figures["failed"]
                continue
            for name in _SUMMED:
                self[name] += figures[name]
            self["mended"] += bool(figures["fetched"] or figures["sent"])

    def checked(self) -> Self:
        """Return this report. Raises ``StoreUnavailable`` if a partition failed."""
        if failed := self["failed"]:
            partition, reason = next(iter(failed.items()))
            raise StoreUnavailable(
                f"{len(failed)} of {self['partitions']} partitions could not be compared with all their owners; the first: "
                f"partition {partition} ({reason}). The others are repaired; call repair() again",
                **self,
            )
        return self

    def _repr_html_(self) -> str:
        names = ["partitions", "mended", *_SUMMED]
        cells = [[size(self[name]) if name == "bytes" else f"{self[name]:,}" for name in names]]
        failed = [faces.line(f"partition {at}: {why}") for at, why in [*self["failed"].items()][: faces.ROWS]]
        return faces.card("repaired", faces.rows(names, cells), *failed)

    def __repr__(self) -> str:
        failed = len(self["failed"])
        return (
            f"compared {self['compared']} records in {self['partitions'] - failed} partitions; "
            f"{self['mended']} partitions differed: {self['fetched']} records fetched, {self['sent']} sent; "
            f"{self['purged']} deletes forgotten for good; {size(self['bytes'])} sent in all"
            + (
                f"; {failed} of {self['partitions']} partitions failed: not compared with all their owners"
                if failed
                else ""
            )
        )
