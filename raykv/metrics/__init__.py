"""WHAT IT COUNTS: one registry of metrics with their names, units and help, and all that is made from it.

``registry`` lists every metric once. ``samples`` takes their values from ``status()``, which has the figures of all nodes
and what clients report; nothing else is asked. ``exposition`` writes them as Prometheus reads them, ``grafana`` makes a
dashboard and alert rules of the registry. ``raykv.actors.published`` hands the samples to Ray's metrics, from the
supervisor.

**What it costs.** A node counts each request of a client once, in a histogram by bucket and kind; all else are figures that
it has anyway. A client's coordinator counts what is rare, and how long each operation took (some 0.3 us); it reports that
when it asks for the cluster's state, and when it is closed.

**Omitted.** Exact counts of tombstones between two comparisons of a partition: only a scan would know. What clients count
in the last half minute of a process that is killed, or whose event loop ends before its handle is closed. Latencies of
clients that go through a coordinator actor. Traces: ``store.explain_get`` explains one operation.
"""

from __future__ import annotations

from raykv.metrics.exposition import exposition
from raykv.metrics.grafana import alert_rules, dashboard
from raykv.metrics.registry import METRICS, Metric
from raykv.metrics.samples import Sample, samples

__all__ = ["METRICS", "Metric", "Sample", "alert_rules", "dashboard", "exposition", "samples"]
