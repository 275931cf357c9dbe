"""The metrics of a store, handed to Ray, whose Prometheus endpoint on the supervisor's host has them as ``ray_raykv_...``.

One process speaks for all nodes: the supervisor, which asks them for their figures anyway. Ray knows no cumulated histogram,
and no counter that is set: what has grown since the last time is added.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

from ray.util import metrics as ray_metrics

from raykv.metrics import samples
from raykv.metrics.registry import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from raykv.metrics import Sample

logger = logging.getLogger("raykv")

EVERY_S = 10.0
Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


class Published:
    """Ray's metric objects for one store, and what each series was last."""

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {}
        self._last: dict[Series, float] = {}

    def publish(self, found: Iterable[Sample]) -> None:
        """Hand over the present values. A series that is no longer there becomes zero."""
        seen: set[Series] = set()
        for sample in found:
            metric, name = BY_NAME[sample.name], BY_NAME[sample.name].full_name + sample.suffix
            series = name, tuple(sorted(sample.labels.items()))
            seen.add(series)
            grows = metric.kind != "gauge"
            exported = self._exported(name, metric.help, sample.labels, grows=grows)
            if not grows:
                exported.set(sample.value, tags=sample.labels)
            elif (step := sample.value - self._last.get(series, 0.0)) != 0:
                exported.inc(step if step > 0 else sample.value, tags=sample.labels)  # it began anew, if it is less
            self._last[series] = sample.value
        for name, labels in self._last.keys() - seen:
            exported = self._metrics[name]
            if isinstance(exported, ray_metrics.Gauge):
                exported.set(0.0, tags=dict(labels))
            del self._last[name, labels]

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
