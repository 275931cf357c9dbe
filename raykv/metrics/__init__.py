"""WHAT IT COUNTS: one registry of metrics with their names, units and help, and all that is made from it.

``registry`` lists every metric once. ``samples`` takes their values from ``status()``, which has the figures of all nodes
and what clients report; nothing else is asked. ``exposition`` writes them as Prometheus reads them, ``grafana`` makes a
dashboard and alert rules of the registry. ``raykv.actors.published`` hands the samples to Ray's metrics, from the
supervisor.

**What it costs.** A node counts each request of a client once, in a histogram by bucket and kind; all else are figures that
it has anyway. A client's coordinator counts what is rare, and reports its counters when it asks for the cluster's state.

**Omitted.** Latencies as clients see them, and the age of what their reads show beyond ``read_repairs`` and
``siblings_read``; the number of tombstones, which only a scan would know. Traces: ``store.explain_get`` explains one.
"""

from __future__ import annotations

from raykv.metrics.exposition import exposition
from raykv.metrics.grafana import alert_rules, dashboard
from raykv.metrics.registry import METRICS, Metric
from raykv.metrics.samples import Sample, samples

__all__ = ["METRICS", "Metric", "Sample", "alert_rules", "dashboard", "exposition", "samples"]
