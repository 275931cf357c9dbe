"""What clients' coordinators count, added up over all processes that have reported.

A process reports the whole of its counters, under the number of its run, each time it asks for a cluster update. The latest
report of each run counts. Runs that have been silent for long are only remembered as a sum.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_RUNS = 2000
"""Of more processes at once, those that have been silent longest become part of the sum."""
SILENT_S = 600.0
"""After this long a process has ended, or has nothing to do."""


class ClientCounters:
    """The counters of one store's clients. Grows with the number of client processes, up to ``MAX_RUNS``."""

    def __init__(self) -> None:
        self._runs: dict[int, tuple[float, Mapping[str, int]]] = {}
        """Run -> (when it last reported, its counters); those that reported last stand at the end."""
        self._ended: Counter[str] = Counter()

    def report(self, run: int, counters: Mapping[str, int], now_s: float) -> None:
        """Take a process's report."""
        self._runs.pop(run, None)
        self._runs[run] = now_s, counters
        while len(self._runs) > MAX_RUNS:
            self._end(next(iter(self._runs)))

    def _end(self, run: int) -> None:
        self._ended.update(self._runs.pop(run)[1])

    def figures(self, now_s: float) -> dict[str, Any]:
        """Return the sums as plain data: ``counters``, and the ``processes`` that have reported lately."""
        for run, (then_s, _) in [*self._runs.items()]:
            if now_s - then_s < SILENT_S:
                break
            self._end(run)
        total = Counter(self._ended)
        for _, counters in self._runs.values():
            total.update(counters)
        return {"processes": len(self._runs), "counters": dict(sorted(total.items()))}
