"""What clients' coordinators count, added up over all processes that have reported.

A process reports the whole of its counters and histograms, under the number of its run, each time it asks for a cluster
update. What has grown since the run's last report is added to the sums: all counts once, and no sum ever falls.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from raykv.records.durations import added, shown_histogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_RUNS = 2000
"""Of more processes, the reports of those that have been silent longest are forgotten, and only their numbers kept."""
MAX_FORGOTTEN = 100_000
"""Such numbers. A process whose number is forgotten, too, counts twice if it ever reports again."""
MAX_NAMES = 256
"""Counters, and histograms, that are told apart; further ones are left out of the sums. A client's are some thirty."""
SILENT_S = 600.0
"""After this long a process has ended, or has nothing to do."""
STALENESS = "staleness"
"""Names the histogram of how far behind the copies were that reads have repaired; all others are latencies by kind."""


class _Totals:
    """Counters and histograms: of one run, or of all."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.counters: dict[str, int] = {}
        self.histograms: dict[str, list[int]] = {}


class ClientCounters:
    """The counters of one store's clients. Grows with the number of client processes, up to ``MAX_RUNS``.

    A run whose report was forgotten begins anew with its next one: nobody knows what it has counted in between, which is
    left out.
    """

    def __init__(self) -> None:
        self._sums = _Totals()
        self._runs: dict[int, _Totals] = {}
        """The most that each has reported; those that reported last stand at the end."""
        self._forgotten: dict[int, None] = {}
        """Runs that are part of the sums, without their reports; those forgotten last stand at the end."""

    def report(
        self, run: int, counters: Mapping[str, int], now_s: float, histograms: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Take a process's report. One that a later one has overtaken takes nothing back."""
        adds = run not in self._forgotten
        self._forgotten.pop(run, None)
        reported = self._runs[run] = self._runs.pop(run, _Totals())
        reported.at_s = now_s
        sums = self._sums
        for name, count in counters.items():
            if name in sums.counters or len(sums.counters) < MAX_NAMES:
                (reported.counters[name],), (grown,) = _later([reported.counters.get(name, 0)], [count])
                sums.counters[name] = sums.counters.get(name, 0) + (grown if adds else 0)
        for name, histogram in (histograms or {}).items():
            if name in sums.histograms or len(sums.histograms) < MAX_NAMES:
                reported.histograms[name], steps = _later(reported.histograms.get(name, ()), histogram)
                sums.histograms[name] = added(sums.histograms.get(name, ()), steps if adds else ())
        while len(self._runs) > MAX_RUNS:
            self._forget(next(iter(self._runs)))

    def _forget(self, run: int) -> None:
        del self._runs[run]
        self._forgotten[run] = None
        while len(self._forgotten) > MAX_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]

    def figures(self, now_s: float) -> dict[str, Any]:
        """Return the sums as plain data.

        ``processes`` that have reported lately, ``counters``, ``latencies`` by kind, ``staleness``: see ``shown_histogram``.
        """
        latencies = dict(sorted(self._sums.histograms.items()))
        staleness = latencies.pop(STALENESS, ())
        return {
            "processes": sum(now_s - reported.at_s < SILENT_S for reported in self._runs.values()),
            "counters": dict(sorted(self._sums.counters.items())),
            "latencies": [{"kind": kind, **shown_histogram(each)} for kind, each in latencies.items()],
            "staleness": shown_histogram(staleness),
        }


def _later(one: Sequence[int], other: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the later of two reports, and what ``other`` adds to ``one``: each count only grows."""
    pairs = [*zip_longest(one, other, fillvalue=0)]
    return [max(pair) for pair in pairs], [max(0, after - before) for before, after in pairs]
