"""The metrics of a store, handed to Ray, whose Prometheus endpoint on the supervisor's host has them as ``ray_raykv_...``.

One process speaks for all nodes: the supervisor, which asks them for their figures anyway. Ray knows no cumulated histogram,
and no counter that is set: what has grown since the last time is added.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from ray.util import metrics as ray_metrics

from raykv.metrics import samples
from raykv.metrics.registry import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from raykv.metrics import Sample

logger = logging.getLogger("raykv")

EVERY_S = 10.0
ABSENT_LOOKS = 3
"""A gauge whose series is absent so often in a row becomes zero: a node that is busy may miss a look."""
MAX_ABSENT = 20_000
"""Series that are absent and whose counts are remembered. One that returns after that is added from zero again."""
Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


class Published:
    """Ray's metric objects for one store, and what each series was last.

    The series of a node that misses a look, or is away for long, go on from where they were.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {}
        self._last: dict[Series, float] = {}
        """Of what grows; those that were present last stand at the end."""
        self._absent: dict[Series, int] = {}
        """Of gauges: for how many looks, 0 for those that are present."""

    def publish(self, found: Iterable[Sample]) -> None:
        """Hand over the present values. A gauge whose series is no longer there becomes zero."""
        growing = 0
        for series in self._absent:
            self._absent[series] += 1
        for sample in found:
            metric, name = BY_NAME[sample.name], BY_NAME[sample.name].full_name + sample.suffix
            series = name, tuple(sorted(sample.labels.items()))
            grows = metric.kind != "gauge"
            exported = self._exported(name, metric.help, sample.labels, grows=grows)
            if not grows:
                exported.set(sample.value, tags=sample.labels)
                self._absent[series] = 0
                continue
            growing += 1
            step = sample.value - self._last.pop(series, 0.0)
            if (grown := step if step >= 0 else sample.value) > 0:  # it began anew, if it is less; Ray refuses zero
                exported.inc(grown, tags=sample.labels)
            self._last[series] = sample.value
        for name, labels in [series for series, looks in self._absent.items() if looks >= ABSENT_LOOKS]:
            self._metrics[name].set(0.0, tags=dict(labels))
            del self._absent[name, labels]
        for series in [*islice(self._last, max(0, len(self._last) - growing - MAX_ABSENT))]:
            del self._last[series]

    def _exported(self, name: str, about: str, labels: dict[str, str], *, grows: bool) -> Any:
        known = self._metrics.get(name)
        if known is None:
            kind = ray_metrics.Counter if grows else ray_metrics.Gauge
            known = self._metrics[name] = kind(name, description=about, tag_keys=tuple(labels))
        return known


async def publish_for_ever(status: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Publish a store's metrics again and again. Whatever goes wrong is no reason to stop."""
    published, said = Published(), False
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            published.publish(samples(await status()))
        except Exception:  # the store matters more than its metrics
            if not said:
                logger.exception("the store's metrics could not be published")
            said = True
