"""What clients' coordinators count, added up over all processes that have reported.

A process reports the whole of its counters and histograms, under the number of its run, each time it asks for a cluster
update. The latest report of each run counts. Runs that have been silent for long are only remembered as a sum.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.records.durations import added, shown_histogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_RUNS = 2000
"""Of more processes at once, those that have been silent longest become part of the sum."""
MAX_NAMES = 256
"""Counters, and histograms, that are told apart; further ones are left out of the sum. A client's are some thirty."""
SILENT_S = 600.0
"""After this long a process has ended, or has nothing to do."""
STALENESS = "staleness"
"""Names the histogram of how far behind the copies were that reads have repaired; all others are latencies by kind."""


class _Report(NamedTuple):
    at_s: float
    counters: Mapping[str, int]
    histograms: Mapping[str, Sequence[int]]


class _Sum:
    """Counters and histograms of several processes."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.histograms: dict[str, Sequence[int]] = {}

    def add(self, counters: Mapping[str, int], histograms: Mapping[str, Sequence[int]]) -> None:
        for name, count in counters.items():
            if name in self.counters or len(self.counters) < MAX_NAMES:
                self.counters[name] += count
        for name, histogram in histograms.items():
            if name in self.histograms or len(self.histograms) < MAX_NAMES:
                self.histograms[name] = added(self.histograms.get(name, ()), histogram)


class ClientCounters:
    """The counters of one store's clients. Grows with the number of client processes, up to ``MAX_RUNS``."""

    def __init__(self) -> None:
        self._runs: dict[int, _Report] = {}
        """By run; those that reported last stand at the end."""
        self._ended = _Sum()

    def report(
        self, run: int, counters: Mapping[str, int], now_s: float, histograms: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Take a process's report."""
        self._runs.pop(run, None)
        self._runs[run] = _Report(now_s, counters, histograms or {})
        while len(self._runs) > MAX_RUNS:
            self._end(next(iter(self._runs)))

    def _end(self, run: int) -> None:
        report = self._runs.pop(run)
        self._ended.add(report.counters, report.histograms)

    def figures(self, now_s: float) -> dict[str, Any]:
        """Return the sums as plain data.

        ``processes`` that have reported lately, ``counters``, ``latencies`` by kind, ``staleness``: see ``shown_histogram``.
        """
        for run, report in [*self._runs.items()]:
            if now_s - report.at_s < SILENT_S:
                break
            self._end(run)
        total = _Sum()
        total.add(self._ended.counters, self._ended.histograms)
        for report in self._runs.values():
            total.add(report.counters, report.histograms)
        latencies = dict(sorted(total.histograms.items()))
        staleness = latencies.pop(STALENESS, ())
        return {
            "processes": len(self._runs),
            "counters": dict(sorted(total.counters.items())),
            "latencies": [{"kind": kind, **shown_histogram(each)} for kind, each in latencies.items()],
            "staleness": shown_histogram(staleness),
        }
