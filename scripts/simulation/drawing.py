"""From a seed to a scenario: everything that will be done to a cluster.

**Swarm** (Groce et al., "Swarm Testing", ISSTA 2012): each run leaves some kinds of fault out, for with all of them in
every run the rare ones would drown in the common ones, and what a fault hides from another would stay hidden. Two thirds
of the runs belong to a family, which is about one kind of trouble (``scenario_families``).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

from raykv.config import KIB, Durability, NodeConfig, StoreConfig
from raykv.sim.cluster import DIRECT, SUPERVISOR, ClusterSpec
from raykv.sim.faults import draw_faults, draw_odds
from simulation.change_workload import SHARE, draw_changes
from simulation.coordination_families import with_coordination
from simulation.leader_families import with_leaders
from simulation.scenario import Scenario
from simulation.scenario_families import with_family
from simulation.workload import TTL_PREFIX, Program, draw_program

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

KEYS = ("a1", "a2", "a3", "b1", "b2", "c1", f"{TTL_PREFIX}1", f"{TTL_PREFIX}2")
_DURABILITIES: tuple[Durability, ...] = ("group", "group", "group", "always", "interval")
DIRECT_RUNS, DIRECT_RUNS_OF_FAMILIES = 0.6, 0.2
"""In this share of the runs some clients coordinate for themselves; most families are about what befalls coordinators."""
REPAIR_EVERY_S = (86_400.0, 5.0, 15.0)
HEALED_WITHIN_S = 100.0
"""Within this time after the faults everything is read and written once more: contexts must not have shrunk by then."""
GROUPED = 0.25
"""In this share of the runs buckets are grouped."""
FORGETFUL = 0.2
"""This share of the runs ends with a purge."""


def draw(seed: int, *, weak: bool = False) -> Scenario:
    """Return the scenario of a seed. ``weak``: W=1 and R=1 with delays, for checkers that must report."""
    rng = random.Random(f"scenario {seed}")
    copies, nodes = rng.choice(((3, 3), (3, 3), (3, 3), (3, 4), (3, 5), (5, 5), (2, 3)))
    majority = copies // 2 + 1
    r, w = rng.choice(((majority, majority),) * 5 + ((1, copies), (1, copies), (copies, majority)))
    if weak:
        copies, nodes, r, w = 3, 3, 1, 1
    within = rng.random() < 0.7
    durability: Durability = rng.choice(_DURABILITIES)
    cluster = ClusterSpec(
        store=StoreConfig(name="sim", copies=copies, partitions=rng.choice((8, 8, 16)), durability=durability),
        nodes=nodes,
        coordinators=rng.choice((1, 2, 2)),
        config=_node_config(rng),
    )
    duration_s = rng.uniform(10.0, 40.0)
    coordinators, node_ids = cluster.coordinator_names, cluster.node_ids
    skewed = rng.random() < 0.5
    hosts = [*node_ids, *coordinators, SUPERVISOR]
    faults = draw_faults(rng, cluster, duration_s, copies - max(r, w) if within else None)
    far_off = any(fault.kind == "clock far off" for fault in faults)
    cluster = _with_maintenance(cluster, seed, duration_s, clocks_far_off=far_off)
    scenario = Scenario(
        seed=seed,
        cluster=cluster,
        r=r,
        w=w,
        odds=draw_odds(rng, weak=weak),
        skews_ms={host: round(rng.uniform(-1000, 1000)) if skewed else 0.0 for host in hosts},
        drifts={host: 1 + rng.uniform(-0.005, 0.005) if skewed else 1.0 for host in hosts},
        faults=faults,
        programs=_draw_programs(rng, coordinators, duration_s),
        within=within,
        plain=random.Random(f"buckets {seed}").choice(("", "at", "b", "b", "t", "abct")),
        loose=random.Random(f"loose {seed}").choice(("", "c", "c")) if nodes > copies and not weak else "",
        grouped=random.Random(f"grouped {seed}").random() < GROUPED,
        disk_s=rng.choice((0.0, 0.0, 0.005, 0.03)),
        duration_s=duration_s,
        fuzzers=0 if weak else 1,
    )
    if any(letter in scenario.plain for letter in scenario.loose):
        scenario = msgspec.structs.replace(scenario, loose="")
    return (
        scenario
        if weak
        else with_leaders(_with_changes(with_coordination(_with_direct_clients(with_family(scenario)))))
    )


def seeds_of(family: str, seeds: Iterable[int]) -> Iterator[int]:
    """Iterate over those of these seeds whose runs are of a family; "": over all. Some milliseconds a seed."""
    for seed in seeds:
        if not family or draw(seed).family == family:
            yield seed


def _with_changes(scenario: Scenario) -> Scenario:
    """Return the scenario, in most cases with clients of a linearizable bucket beside the others."""
    rng = random.Random(f"changes {scenario.seed}")
    if rng.random() >= SHARE:
        return scenario
    spec = scenario.cluster
    programs = draw_changes(rng, spec.coordinator_names, scenario.duration_s)
    skewed = any(scenario.skews_ms.values())
    skews_ms = {program.client: round(rng.uniform(-1000, 1000)) if skewed else 0.0 for program in programs}
    return msgspec.structs.replace(
        scenario, programs=scenario.programs + programs, skews_ms=scenario.skews_ms | skews_ms
    )


def _with_direct_clients(scenario: Scenario) -> Scenario:
    """Return the scenario, some of whose clients may coordinate for themselves."""
    rng = random.Random(f"direct {scenario.seed}")
    if rng.random() > (DIRECT_RUNS_OF_FAMILIES if scenario.family else DIRECT_RUNS):
        return scenario
    every = rng.random() < 0.3
    programs = tuple(
        msgspec.structs.replace(program, coordinator=DIRECT) if every or rng.random() < 0.5 else program
        for program in scenario.programs
    )
    skewed = any(scenario.skews_ms.values())
    skews_ms = {program.client: round(rng.uniform(-1000, 1000)) if skewed else 0.0 for program in programs}
    return msgspec.structs.replace(scenario, programs=programs, skews_ms=scenario.skews_ms | skews_ms)


def _node_config(rng: random.Random) -> NodeConfig:
    memtable = rng.choice((4, 4, 8, 64)) * KIB
    return NodeConfig(
        memtable_bytes=memtable,
        block_bytes=rng.choice((256, 1024, 4096)),
        block_cache_bytes=rng.choice((0, 16 * KIB)),
        table_bytes=rng.choice((16, 64)) * KIB,
        runs_per_level=rng.choice((2, 2, 3)),
        max_unflushed_bytes=memtable * rng.choice((2, 8)),
        sync_interval_s=rng.choice((0.05, 0.2)),
    )


def _draw_programs(rng: random.Random, coordinators: Sequence[str], duration_s: float) -> tuple[Program, ...]:
    clients = rng.randint(3, 6)
    keys = rng.sample(KEYS, rng.randint(2, 6))
    steps = rng.randint(240, 420) // clients
    return tuple(
        draw_program(rng, f"client{number + 1}", rng.choice(coordinators), keys, steps, duration_s)
        for number in range(clients)
    )


def _with_maintenance(cluster: ClusterSpec, seed: int, duration_s: float, *, clocks_far_off: bool) -> ClusterSpec:
    """Return the cluster with settings for repair and grace; nothing is forgotten before the clients are done.

    With clocks that are far off everything may be dead for long, or nothing ever.
    """
    rng = random.Random(f"upkeep {seed}")
    config = msgspec.structs.replace(cluster.config, repair_every_s=rng.choice(REPAIR_EVERY_S))
    store = cluster.store
    if rng.random() < FORGETFUL and not clocks_far_off:
        store = msgspec.structs.replace(store, gc_grace_s=round(duration_s) + HEALED_WITHIN_S)
        config = msgspec.structs.replace(config, max_hint_age_s=store.gc_grace_s / 2)
    return msgspec.structs.replace(cluster, store=store, config=config)
