"""One run, as plain data: a cluster's make, its clients' programs, its faults.

**Within** the promises a minority of a key's copies is disturbed at once, and what cannot be undone stays on at most
``N - max(R, W)`` nodes; then every acknowledged write must be readable when all is over. **Beyond** them anything may
come together: then a store may refuse, but what it answers must still be true.

A failing scenario can be run again with faults and steps left out (``simulation.shrink``).
"""

from __future__ import annotations

import msgspec

from raykv.sim.cluster import ClusterSpec
from raykv.sim.faults import GONE, LASTING, Fault
from raykv.sim.network import NetworkOdds
from simulation.rig_faults import RigFault
from simulation.workload import Program


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One run, completely: with the same scenario the same happens."""

    seed: int
    cluster: ClusterSpec
    r: int
    w: int
    odds: NetworkOdds
    skews_ms: dict[str, float]
    drifts: dict[str, float]
    faults: tuple[Fault, ...]
    programs: tuple[Program, ...]
    within: bool
    rig_faults: tuple[RigFault, ...] = ()
    batching: bool = False
    """Whether the coordinators batch what begins together, as those of Ray do."""
    plain: str = ""
    """The first letters of the keys that are in the bucket where the last writer wins; the others keep vectors."""
    loose: str = ""
    """The first letters of the keys that are in a sloppy bucket."""
    grouped: bool = False
    """Whether the other buckets than the default one are grouped: keys of one letter then share a partition."""
    disk_s: float = 0.0
    """What every disk takes longer than a quick one."""
    family: str = ""
    """The one kind of trouble that this run is about (``simulation.scenario_families``)."""
    duration_s: float
    """How long clients and faults go on; then everything heals."""
    fuzzers: int = 0
    """How often the fuzzers of the seed run beside it (``simulation.fuzzers``)."""

    @property
    def skew_ms(self) -> float:
        """The most by which a host's clock can be off in this run."""
        off = max(map(abs, self.skews_ms.values()), default=0.0)
        drift = max((abs(drift - 1.0) for drift in self.drifts.values()), default=0.0) * 300_000
        return off + drift + sum(abs(fault.amount) for fault in self.faults if fault.kind.startswith("clock"))

    @property
    def lasting(self) -> set[str]:
        """The nodes that a fault did something to that nothing undoes."""
        return {fault.target for fault in self.faults if fault.kind in (*LASTING, GONE)}

    @property
    def gone(self) -> set[str]:
        """The nodes whose host is lost for good."""
        return {fault.target for fault in self.faults if fault.kind == GONE}
