"""Runs in which nodes come, go and are replaced (see ``scenario_families``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raykv.config import KIB, quorum
from raykv.sim.cluster import SUPERVISOR
from raykv.sim.faults import ELASTIC, Fault, FaultKind
from raykv.sim.network import NetworkOdds
from simulation.workload import Program, Step, StepKind

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from raykv.sim.cluster import ClusterSpec
    from simulation.scenario import Scenario

KEYS = tuple(f"{letter}{number:02}" for letter in "ab" for number in range(12))
SOON_S, NEVER_S = 3.0, 3600.0
_SUPERVISORS: tuple[FaultKind, ...] = ("kill supervisor", "another supervisor")
_CHANGES: tuple[FaultKind, ...] = ("add node", "set weight")
_PASSING: tuple[FaultKind, ...] = ("kill", "freeze", "power")


def ring_changes(scenario: Scenario, rng: random.Random) -> Scenario:
    """Nodes join, leave and change their weight, one after the other, over a network on which many writes reach W only.

    Many keys, so that each partition has some; coordinators that were frozen come back with a ring of the past; two that
    run, and a supervisor that ends in the middle of a wave.
    """
    copies = rng.choice((2, 3, 3))
    config = msgspec.structs.replace(scenario.cluster.config, memtable_bytes=4 * KIB, repair_every_s=86_400.0)
    store = msgspec.structs.replace(scenario.cluster.store, copies=copies, partitions=8)
    cluster = msgspec.structs.replace(
        scenario.cluster, config=config, store=store, nodes=copies + rng.choice((0, 1)), coordinators=2
    )
    faults, at_s = [], rng.uniform(1.5, 2.5)
    while at_s < 16.0:
        kind = rng.choices(ELASTIC, (4, 3, 3))[0]
        faults.append(Fault(round(at_s, 3), kind, SUPERVISOR, 0.0, rng.choice((0.3, 1.0, 4.0))))
        if rng.random() < 0.5:
            frozen = rng.choice(cluster.coordinator_names)
            before_s = max(0.0, at_s - rng.uniform(0.0, 0.5))
            faults.append(Fault(round(before_s, 3), "freeze coordinator", frozen, round(rng.uniform(0.1, 3.0), 3)))
        if rng.random() < 0.15:
            later_s = round(at_s + rng.uniform(0.0, 2.0), 3)
            faults.append(
                Fault(
                    later_s, rng.choice(("kill supervisor", "kill supervisor", "another supervisor")), SUPERVISOR, 1.0
                )
            )
        if rng.random() < 0.25:
            faults.append(Fault(round(at_s + rng.uniform(0.0, 1.0), 3), "kill", rng.choice(cluster.node_ids)))
        at_s += rng.uniform(0.5, 4.0)
    return _put_together(
        scenario,
        family="ring changes",
        cluster=cluster,
        faults=faults,
        programs=_programs(cluster, rng),
        odds=NetworkOdds(
            delay_s=(0.0005, 0.01), late=rng.choice((0.0, 0.2)), late_s=1.0, lost=rng.choice((0.0, 0.1, 0.25))
        ),
        within=False,
        plain=rng.choice(("", "a", "ab")),
    )


def lost_hosts(scenario: Scenario, rng: random.Random) -> Scenario:
    """Let a host go for good, and its node be replaced, by itself or by command; others are disturbed one by one.

    In half of the runs every process of the store ends at once, perhaps in the middle of it: a cold start. No network
    trouble, so that whatever fails can be held against the store.
    """
    copies = 3
    by_itself = rng.random() < 0.6
    store = msgspec.structs.replace(
        scenario.cluster.store, copies=copies, partitions=8, durability="group",
        replace_after_s=SOON_S if by_itself else NEVER_S,
    )  # fmt: skip
    config = msgspec.structs.replace(scenario.cluster.config, memtable_bytes=4 * KIB, repair_every_s=86_400.0)
    cluster = msgspec.structs.replace(
        scenario.cluster, config=config, store=store, nodes=copies + rng.choice((0, 0, 1, 2)), coordinators=2
    )
    victim, *others = rng.sample(cluster.node_ids, cluster.nodes)
    at_s = rng.uniform(1.5, 4.0)
    faults = [Fault(round(at_s, 3), "lose host", victim)]
    if not by_itself:
        faults.append(Fault(round(at_s + 2.0, 3), "replace node", victim))
    if rng.random() < 0.5:
        faults.append(Fault(round(at_s + rng.choice((-1.0, 1.0, rng.uniform(2.0, 8.0))), 3), "kill all", SUPERVISOR))
    if rng.random() < 0.4:
        kind = rng.choice(_SUPERVISORS)
        faults.append(Fault(round(at_s + rng.uniform(0.0, 8.0), 3), kind, SUPERVISOR, 1.0))
    if rng.random() < 0.4:
        kind = rng.choice(_CHANGES)
        faults.append(Fault(round(at_s + rng.uniform(-1.0, 6.0), 3), kind, SUPERVISOR, 0.0, rng.choice((0.5, 2.0))))
    while (at_s := at_s + rng.uniform(5.0, 7.0)) < 16.0:
        kind, target = rng.choice(_PASSING), rng.choice(others)
        for_s = 0.0 if kind == "kill" else rng.uniform(0.2, 2.0)
        faults.append(Fault(round(at_s - 3.0, 3), kind, target, round(for_s, 3)))
    return _put_together(
        scenario,
        family="lost hosts",
        cluster=cluster,
        faults=faults,
        programs=_programs(cluster, rng),
        odds=NetworkOdds(delay_s=(0.0005, 0.005)),
        within=True,
        plain=rng.choice(("", "a", "ab")),
    )


def _programs(cluster: ClusterSpec, rng: random.Random) -> tuple[Program, ...]:
    """Return programs over many keys, so that each partition has some."""
    kinds: list[StepKind] = ["put", "delete", "get", "scan"]
    programs = []
    for number in range(6):
        steps = tuple(
            Step(
                pause_s=round(rng.expovariate(1 / 0.15), 4),
                kind=rng.choices(kinds, (50, 5, 40, 5))[0],
                keys=(rng.choice(KEYS),),
                timeout_s=rng.choice((0.5, 2.0, 5.0)),
            )
            for _ in range(90)
        )
        programs.append(Program(f"client{number + 1}", rng.choice(cluster.coordinator_names), steps))
    return tuple(programs)


def _put_together(scenario: Scenario, *, cluster: ClusterSpec, faults: Sequence[Fault], **others: object) -> Scenario:
    """Return the scenario with clocks that agree, majorities, and disks and clients that are quick enough for 18 s."""
    hosts = [*cluster.node_ids, *cluster.coordinator_names, SUPERVISOR]
    return msgspec.structs.replace(
        scenario,
        cluster=cluster,
        r=quorum(cluster.store.copies),
        w=quorum(cluster.store.copies),
        skews_ms=dict.fromkeys(hosts, 0.0),
        drifts=dict.fromkeys(hosts, 1.0),
        faults=tuple(sorted(faults, key=lambda each: each.at_s)),
        loose="",
        duration_s=18.0,
        disk_s=0.0,
        **others,
    )
