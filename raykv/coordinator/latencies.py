"""How long operations take, by kind: a client's exchanges, and what a coordinator answers for clients that do not count.

A client's exchange lasts from its first request to its last answer: pickling is not in it, retries are. What a client does
in several exchanges (``modify``, a scan page by page) counts as these. A process reports what is counted here with its
counters.
"""

from __future__ import annotations

from math import frexp
from typing import TYPE_CHECKING

from raykv.protocol.clients import ChangeMany, GetMany, ScanPage, WriteMany  # by their names: a dot less an operation
from raykv.records.durations import LEAST_S, ORIGIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.ports import Metrics
    from raykv.protocol.frames import CoordinatorRequest


class Latencies:
    """Counts into a process's histograms. Any thread; of two that count at once one may be lost."""

    def __init__(self, metrics: Metrics, now_s: Callable[[], float]) -> None:
        """``now_s``: the clock of ``Link.monotonic_s``."""
        self._now_s = now_s
        self._get, self._get_many = metrics.histogram("get"), metrics.histogram("get_many")
        self._put, self._put_many = metrics.histogram("put"), metrics.histogram("put_many")
        self._change, self._change_many = metrics.histogram("change"), metrics.histogram("change_many")
        self._scan = metrics.histogram("scan_page")

    def note(self, request: CoordinatorRequest, requests: int, began_s: float) -> None:
        """Count an exchange of so many requests, of which this is the first."""
        # Not ``count_into``: the call would cost as much as all of this.
        kind = type(request)
        if kind is GetMany:
            histogram = self._get if requests == 1 and len(request.keys) == 1 else self._get_many  # type: ignore[union-attr]
        elif kind is WriteMany:
            histogram = self._put if requests == 1 and len(request.items) == 1 else self._put_many  # type: ignore[union-attr]
        elif kind is ChangeMany:
            histogram = self._change if requests == 1 and len(request.items) == 1 else self._change_many  # type: ignore[union-attr]
        elif kind is ScanPage:
            histogram = self._scan
        else:
            return
        taken_s = self._now_s() - began_s
        histogram[0] += taken_s
        try:
            histogram[frexp(taken_s + LEAST_S)[1] + ORIGIN] += 1
        except IndexError:
            histogram[-1] += 1
