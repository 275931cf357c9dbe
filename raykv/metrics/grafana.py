"""A Grafana dashboard and Prometheus alert rules, made of the registry: each metric with a panel gets one.

Ray puts ``ray_`` in front of what it exports (``prefix="ray_"``), and ``_total`` behind whatever grows; ``raykv metrics``
does not.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from raykv.metrics.registry import METRICS, PREFIX

if TYPE_CHECKING:
    from raykv.metrics.registry import Metric

RAYS_SUFFIX = "_total"
_WIDTH, _HEIGHT = 8, 7
_UNITS = {"bytes": "bytes", "seconds": "s", "second": "ops"}


def dashboard(prefix: str = "") -> dict[str, Any]:
    """Return a Grafana dashboard, schema 39, as plain data: rows by subject, panels in the order of the registry."""
    panels: list[dict[str, Any]] = []
    y = 0
    shown = sorted((metric for metric in METRICS if metric.panel), key=lambda metric: _rows().index(metric.panel))
    for row, metrics in groupby(shown, key=lambda metric: metric.panel):
        panels.append(
            {"type": "row", "title": row, "collapsed": False, "id": len(panels) + 1, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        )  # fmt: skip
        y += 1
        at = 0
        for at, metric in enumerate(metrics):
            place = {"x": at % 3 * _WIDTH, "y": y + at // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_panel(metric, len(panels) + 1, place, prefix))
        y += (at // 3 + 1) * _HEIGHT
    return {
        "title": "raykv", "uid": "raykv", "tags": ["raykv"], "schemaVersion": 39, "editable": True, "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"}, "panels": panels,
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "store", "type": "query", "datasource": {"uid": "${datasource}"}, "multi": True,
                    "includeAll": True, "query": f"label_values({prefix}{PREFIX}ring_epoch, store)", "refresh": 2,
                },
            ]
        },
    }  # fmt: skip


def _rows() -> list[str]:
    return [*dict.fromkeys(metric.panel for metric in METRICS if metric.panel)]


def _panel(metric: Metric, number: int, place: dict[str, int], prefix: str) -> dict[str, Any]:
    targets = [
        {"expr": expression, "legendFormat": legend, "refId": "ABC"[at], "datasource": {"uid": "${datasource}"}}
        for at, (expression, legend) in enumerate(_expressions(metric, prefix))
    ]
    return {
        "type": "timeseries", "id": number, "title": _title(metric), "description": metric.help, "gridPos": place,
        "datasource": {"uid": "${datasource}"}, "targets": targets,
        "fieldConfig": {"defaults": {"unit": _unit(metric), "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
    }  # fmt: skip


def _expressions(metric: Metric, prefix: str) -> list[tuple[str, str]]:
    chosen = '{store=~"$store"}'
    name = prefix + metric.full_name
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels if label not in {"host", "zone"}) or "{{store}}"
    if metric.kind == "histogram":
        labels = [label for label in metric.labels if label != "node"]
        by = f"sum by ({', '.join(['le', *labels])})"
        return [
            (
                f"histogram_quantile({share}, {by} (rate({name}_bucket{RAYS_SUFFIX if prefix else ''}{chosen}[1m])))",
                " ".join([f"p{round(100 * share)}", *(f"{{{{{label}}}}}" for label in labels)]),
            )
            for share in (0.5, 0.99)
        ]
    if metric.kind == "counter":
        return [(f"rate({name}{chosen}[1m])", legend)]
    return [(f"{name}{chosen}", legend)]


def _title(metric: Metric) -> str:
    title = metric.name.removesuffix("_total").replace("_", " ")
    return title[:1].upper() + title[1:] + (" a second" if metric.kind == "counter" else "")


def _unit(metric: Metric) -> str:
    word = metric.name.removesuffix("_total").rpartition("_")[2]
    unit = _UNITS.get(word, "short")
    return {"bytes": "Bps", "short": "ops"}.get(unit, unit) if metric.kind == "counter" else unit


def alert_rules(prefix: str = "") -> str:
    """Return Prometheus alert rules, as YAML."""
    lines = ["groups:", "- name: raykv", "  rules:"]
    for metric in METRICS:
        if (alert := metric.alert) is None:
            continue
        lines += [
            f"  - alert: {alert.name}",
            f"    expr: {alert.expression.replace(metric.full_name, prefix + metric.full_name)}",
            f"    for: {alert.for_s}s",
            "    labels:",
            f"      severity: {alert.severity}",
            "    annotations:",
            f"      summary: {_quoted(alert.summary)}",
        ]
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    """Return a YAML string in single quotes."""
    return "'" + text.replace("'", "''") + "'"
