"""The demo's figures: percentiles, phases, the verdict, the table. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.client.views import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PHASES = ("before", "during", "after")


class Sample(NamedTuple):
    """One operation of the mix. Its latency counts from its due time and includes waiting behind a slow one."""

    due_s: float
    end_s: float


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the least value that is not below ``share`` of all (nearest rank); None if there are no values.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def phase_of(sample: Sample, killed_s: float, back_s: float | None) -> str:
    """Return the phase of an operation: "during" if any part of it lies between the kill and the node's return."""
    if sample.end_s < killed_s:
        return "before"
    return "after" if back_s is not None and sample.due_s >= back_s else "during"


def latencies(samples: Sequence[Sample], killed_s: float, back_s: float | None) -> dict[str, dict[str, Any]]:
    """Return count, p50, p99 and max of each phase, in milliseconds."""
    grouped: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for sample in samples:
        grouped[phase_of(sample, killed_s, back_s)].append((sample.end_s - sample.due_s) * 1000)
    return {phase: _summary(sorted(values)) for phase, values in grouped.items()}


def problems(figures: Mapping[str, Any]) -> list[str]:
    """Return the promises that were broken; empty if all went well."""
    found = []
    if figures["lost"]:
        found.append(f"{figures['lost']} acknowledged writes are lost")
    if figures["stale"]:
        found.append(f"{figures['stale']} reads missed an acknowledged write")
    if figures["failed"]:
        found.append(f"{figures['failed']} operations failed")
    if figures["listing"]["wrong"]:
        found.append(f"{figures['listing']['wrong']} pairs of the listing are wrong")
    if figures["node_back_s"] is None:
        found.append(f"node {figures['node_killed']} did not come back")
    return found


def report(figures: Mapping[str, Any]) -> str:
    """Return the closing tables."""
    latency = figures["latency_ms"]
    back_s = figures["node_back_s"]
    totals = [
        ["acknowledged writes", f"{figures['acknowledged']:,}"],
        ["lost", f"{figures['lost']:,}"],
        ["failed operations", f"{figures['failed']:,}"],
        ["reads that missed an acknowledged write", f"{figures['stale']:,}"],
        ["listing by prefix", _listed(figures["listing"])],
        ["node back after", "never" if back_s is None else f"{back_s:.1f} s"],
        ["load", f"{figures['load_per_s']:,.0f} records/s"],
        ["read back", f"{figures['read_per_s']:,.0f} records/s"],
    ]  # fmt: skip
    rows = [
        ["operations", *(f"{latency[phase]['operations']:,}" for phase in PHASES)],
        *([f"{name}, ms", *(_ms(latency[phase][name]) for phase in PHASES)] for name in ("p50", "p99", "max")),
    ]
    columns = ["latency", "before the kill", "until the node was back", "after"]
    return table(["records", f"{figures['records']:,}"], totals) + "\n\n" + table(columns, rows)


def _summary(ordered: Sequence[float]) -> dict[str, Any]:
    figures = {"p50": percentile(ordered, 0.5), "p99": percentile(ordered, 0.99), "max": percentile(ordered, 1.0)}
    return {"operations": len(ordered)} | {name: None if ms is None else round(ms, 2) for name, ms in figures.items()}


def _listed(listing: Mapping[str, Any]) -> str:
    return f"{listing['prefix']} {listing['listed']:,} of {listing['expected']:,}, {listing['wrong']:,} wrong"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
