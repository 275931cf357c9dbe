"""Runs about who leads the partitions of a linearizable bucket: half of all faults are at the leader of a hot key."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

from raykv.config import KIB
from raykv.sim.cluster import SUPERVISOR
from raykv.sim.faults import ELASTIC, LEADERS, Fault, FaultKind
from raykv.sim.network import NetworkOdds
from simulation.change_workload import KEYS, draw_changes, draw_holders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulation.scenario import Scenario

SHARE = 0.2
"""This share of the runs that are of no other family are of this one."""
SHORT_GRACE_S = 8.0
GIVEN_UP_S = 7.0
"""A leader that stands still for this long, and meets nothing else, is given up and ended for its directory (P6)."""
GIVEN_UP_SHARE = 0.9
_AT_NODES: tuple[FaultKind, ...] = ("kill", "freeze", "power", "cut")


def with_leaders(scenario: Scenario) -> Scenario:
    """Return the scenario; if it is of no family, by chance one about leaders. The draws are from a generator of its own."""
    rng = random.Random(f"leaders {scenario.seed}")
    if scenario.family or rng.random() >= SHARE:
        return scenario
    spec = scenario.cluster
    short = rng.random() < 0.4
    given_up = random.Random(f"given up {scenario.seed}").random() < GIVEN_UP_SHARE
    duration_s = 12.0 + GIVEN_UP_S * given_up
    store = msgspec.structs.replace(
        spec.store, durability="group", partitions=8, gc_grace_s=SHORT_GRACE_S if short else 10 * 86_400.0
    )
    config = msgspec.structs.replace(
        spec.config,
        memtable_bytes=16 * KIB,
        max_unflushed_bytes=128 * KIB,
        repair_every_s=rng.choice((86_400.0, 3.0)),
        max_hint_age_s=store.gc_grace_s / 2 if short else 3600.0,
    )
    cluster = msgspec.structs.replace(spec, store=store, config=config, coordinators=2)
    rough = rng.random() < 0.5
    hosts = [*cluster.node_ids, *cluster.coordinator_names, SUPERVISOR]
    return msgspec.structs.replace(
        scenario,
        family="leaders",
        cluster=cluster,
        r=store.copies // 2 + 1,
        w=store.copies // 2 + 1,
        odds=NetworkOdds(
            delay_s=rng.choice(((0.0002, 0.002), (0.001, 0.02))),
            late=rng.choice((0.0, 0.1)) if rough else 0.0,
            late_s=rng.choice((0.3, 2.0)),
            lost=rng.choice((0.0, 0.05)) if rough else 0.0,
            repeated=rng.choice((0.0, 0.1)) if rough else 0.0,
        ),
        skews_ms=dict.fromkeys(hosts, 0.0),
        drifts=dict.fromkeys(hosts, 1.0),
        faults=draw_leader_faults(
            rng, cluster.node_ids, duration_s, short=short, ring=rng.random() < 0.3 and not short, given_up=given_up
        ),
        programs=(
            *draw_changes(rng, cluster.coordinator_names, duration_s, clients=rng.randint(4, 6), direct=0.5),
            *draw_holders(random.Random(f"holders {scenario.seed}"), cluster.coordinator_names, duration_s),
        ),
        within=False,
        plain="",
        loose="",
        disk_s=0.0,
        duration_s=duration_s,
    )


def draw_leader_faults(
    rng: random.Random,
    nodes: list[str],
    duration_s: float,
    keys: Sequence[str] = KEYS,
    *,
    short: bool = False,
    ring: bool = False,
    given_up: bool = False,
) -> tuple[Fault, ...]:
    """Return faults, most of them at the leaders of ``keys``. ``short``: the clocks stay right, for a short grace."""
    faults, at_s = [], rng.uniform(1.0, 2.0)
    if given_up:
        faults.append(Fault(round(at_s, 3), "freeze leader", rng.choice(keys), GIVEN_UP_S))
        at_s += GIVEN_UP_S
    known = [kind for kind in LEADERS if not (short and kind.startswith("clock"))]  # a short grace needs right clocks
    kinds = rng.sample(known, rng.randint(2, len(known)))
    while at_s < duration_s:
        draw, at_s = rng.random(), round(at_s, 3)
        if draw < 0.65:
            faults.append(_at_leader(rng, rng.choice(kinds), at_s, keys))
        elif draw < 0.8 and ring:
            faults.append(Fault(at_s, rng.choice(ELASTIC), SUPERVISOR, 0.0, rng.choice((0.5, 1.0, 3.0))))
        else:
            kind, node = rng.choice(_AT_NODES), rng.choice(nodes)
            detail = f"{rng.choice(('from', 'to', 'both'))} all" if kind == "cut" else ""
            faults.append(
                Fault(at_s, kind, node, 0.0 if kind == "kill" else round(rng.uniform(0.2, 2.0), 3), 0.0, detail)
            )
        at_s += rng.uniform(0.1, 1.5)
    return tuple(faults)


def _at_leader(rng: random.Random, kind: FaultKind, at_s: float, keys: Sequence[str]) -> Fault:
    for_s, amount, detail = round(rng.choice((0.3, 0.8, 2.0, 4.0)), 3), 0.0, ""
    match kind:
        case "kill leader":
            for_s = 0.0
        case "kill sending leader":
            amount = float(rng.choice((0, 1, 2)))
        case "cut leader":
            detail = f"{rng.choice(('from', 'to', 'both'))} all"
        case "full disk at leader":
            amount = float(rng.randrange(8000))
        case "clock jump at leader":
            for_s, amount = 0.0, float(rng.choice((-1500, -300, 300, 1500)))
    return Fault(at_s, kind, rng.choice(keys), for_s, amount, detail)
