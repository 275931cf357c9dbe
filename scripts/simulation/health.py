"""Which processes were healthy at which time, for judging failed operations.

Within the promises an operation must not fail: where at most N - max(R, W) nodes were unwell at any time from shortly
before it was asked until it failed, and nothing else was wrong (its coordinator ran, no message was lost or very late),
there is no excuse for it.

A node is unwell while its process is down, opening, frozen, or was frozen a moment ago; while it is incomplete; and from
the beginning to the end of each fault that concerns it, with what comes after until it serves again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.sim.cluster import SUPERVISOR
from simulation.fleeting import is_excused
from simulation.history import Violation

if TYPE_CHECKING:
    from raykv.sim.cluster import Cluster
    from raykv.sim.nemesis import Nemesis
    from simulation.history import History, Op
    from simulation.scenario import Scenario

EVERY_S = 0.1
BEFORE_S = 1.5
"""A fault may hurt an operation that is asked shortly after it: a suspicion lasts for a second."""
_EXCUSED = ("Overloaded", "overloaded")


class Health:
    """Samples a cluster every tenth of a second."""

    def __init__(self, cluster: Cluster, nemesis: Nemesis, scenario: Scenario) -> None:
        self._cluster = cluster
        self._nemesis = nemesis
        self._scenario = scenario
        self._samples: list[tuple[float, frozenset[str]]] = []

    def sample(self) -> None:
        """Note who is unwell now."""
        unwell = frozenset(self._unwell())
        self._samples.append((self._cluster.loop.now_s, unwell))

    def _unwell(self) -> list[str]:
        cluster = self._cluster
        names = []
        for node_id in cluster.node_ids:
            node = cluster.nodes.living(node_id)
            process = cluster.nodes.current[node_id].process if node is not None else None
            hurt = node_id in self._scenario.lasting or node_id in self._nemesis.hurting
            if node is None or process is None or process.frozen or hurt:
                names.append(node_id)
        for name, process in cluster.actors.items():
            # One that runs and does not serve yet keeps a coordinator waiting that has just started, too.
            if not process.alive or process.frozen or (name == SUPERVISOR and cluster.supervisor is None):
                names.append(name)
        return names

    def judge(self, history: History) -> list[Violation]:
        """Return the operations that failed without an excuse."""
        scenario = self._scenario
        spare = scenario.cluster.store.copies - max(scenario.r, scenario.w)
        far_off = any(fault.kind == "clock far off" for fault in scenario.faults)
        if scenario.odds.lost or scenario.odds.late or scenario.odds.delay_s[1] > 0.01 or far_off:
            return []
        found = []
        for op in history.ops:
            if op.outcome == "ok" or any(word in op.error for word in _EXCUSED) or is_excused(op.key, op.error):
                continue
            unwell = self._during(op)
            nodes = unwell & set(self._cluster.node_ids)
            if len(nodes) <= spare and unwell == nodes:
                excuse = ", ".join(sorted(nodes)) or "nobody"
                text = f"{op.client}'s {op.kind} failed though only {excuse} was unwell: {op.error}"
                found.append(Violation("failed within the promises", op.key, text, op.returned_s))
        return found[:3]

    def _during(self, op: Op) -> set[str]:
        """Return who was unwell at any time that matters for an operation."""
        unwell: set[str] = set()
        for at_s, names in self._samples:
            if op.invoked_s - BEFORE_S <= at_s <= op.returned_s + EVERY_S:
                unwell |= names
        return unwell
