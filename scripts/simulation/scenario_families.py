"""Runs that are about one kind of trouble.

Swarm testing leaves kinds of fault out; a family goes further, and puts everything that one kind of mistake needs into
one short run: many clients on one key with clocks that differ, several supervisors that found the store at the same
time, disks that fail in the moment when a table is made, corruption in what is read, a node that has lost what it knew
while the next one was away. About half of the runs have one.

The draws of a family come from a generator of their own, so the other runs stay as they are.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

from raykv.config import KIB, quorum
from raykv.sim.cluster import COORDINATOR, SUPERVISOR
from raykv.sim.faults import Fault, FaultKind
from raykv.sim.network import NetworkOdds
from simulation.ring_families import lost_hosts, ring_changes
from simulation.workload import Program, Step, StepKind, draw_crowding, draw_program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulation.scenario import Scenario

KEYS = ("a1", "a2", "a3", "b1", "b2", "c1")
_SUPERVISORS: tuple[FaultKind, ...] = (
    "another supervisor", "another supervisor", "kill supervisor", "freeze supervisor",
)  # fmt: skip
_LOSSES: tuple[FaultKind, ...] = ("wipe", "wipe", "bit rot", "roll back")
QUICK = NetworkOdds(delay_s=(0.0002, 0.002))
SLOW = NetworkOdds(delay_s=(0.001, 0.02))


def with_family(scenario: Scenario) -> Scenario:
    """Return the scenario, in half of all cases made into one that is about one kind of trouble."""
    rng = random.Random(f"flavour {scenario.seed}")
    draw = rng.choice((None,) * 13 + (lost_hosts,) + _FAMILIES)
    return scenario if draw is None else draw(scenario, rng)


def _crowd(scenario: Scenario, rng: random.Random) -> Scenario:
    """Many clients write one or two keys at once, some through a coordinator whose clock is behind."""
    scenario = _with_a_clock_behind(scenario, rng)
    copies = scenario.cluster.store.copies
    keys = KEYS[: rng.choice((1, 1, 2))]
    return msgspec.structs.replace(
        scenario,
        family="crowd",
        r=quorum(copies),
        w=quorum(copies),
        programs=_crowding(rng, keys, clients=6, behind=3, steps=25, padding=(0, 20), timeouts_s=(1.0, 5.0)),
        faults=(),
        within=True,
        plain="a",
        disk_s=0.0,
        odds=rng.choice((QUICK, SLOW)),
        duration_s=6.0,
    )


def _full_crowd(scenario: Scenario, rng: random.Random) -> Scenario:
    """Do so with values that fill memtables faster than slow disks take them: all nodes refuse again and again."""
    scenario = _with_a_clock_behind(scenario, rng)
    cluster = scenario.cluster
    config = msgspec.structs.replace(cluster.config, memtable_bytes=4 * KIB, max_unflushed_bytes=4 * KIB)
    return msgspec.structs.replace(
        scenario,
        family="full crowd",
        cluster=msgspec.structs.replace(cluster, config=config),
        r=1,
        w=cluster.store.copies,
        programs=_crowding(
            rng, KEYS[:3], clients=8, behind=4, steps=40, padding=(300, 1500, 3000), timeouts_s=(0.5, 1.0)
        ),
        faults=(),
        within=False,
        plain="a",
        disk_s=rng.choice((0.05, 0.1, 0.2)),
        odds=QUICK,
        duration_s=10.0,
    )


def _with_a_clock_behind(scenario: Scenario, rng: random.Random) -> Scenario:
    cluster = msgspec.structs.replace(scenario.cluster, coordinators=2)
    skews_ms = dict.fromkeys([*_hosts(scenario), f"{COORDINATOR}2"], 0.0)
    skews_ms[COORDINATOR] = -float(rng.randint(300, 2000))
    return msgspec.structs.replace(scenario, cluster=cluster, skews_ms=skews_ms, drifts=dict.fromkeys(skews_ms, 1.0))


def _crowding(
    rng: random.Random,
    keys: Sequence[str],
    *,
    clients: int,
    behind: int,
    steps: int,
    padding: Sequence[int],
    timeouts_s: Sequence[float],
) -> tuple[Program, ...]:
    """Return programs of blind writes; ``behind`` of the clients ask the coordinator whose clock is behind."""
    return tuple(
        draw_crowding(
            rng, f"client{number + 1}", COORDINATOR if number < behind else f"{COORDINATOR}2", keys, steps, padding,
            timeouts_s,
        )
        for number in range(clients)
    )  # fmt: skip


def _founding(scenario: Scenario, rng: random.Random) -> Scenario:
    """Three supervisors found the store at the same time, each of them held up where it hurts.

    The first is frozen before it has stored anything (the nodes it waits for are). The second finds the host of one node
    off, and is frozen before it has asked the others. The third gets promises and is frozen before it stores. Now the
    second one reads: promises, and no state yet. While it waits for the node that it has not seen, the third stores its
    state and hands it out, and clients open buckets. Then the second asks for promises, with a number above the third's.

    The moments are drawn around where they must be: in about half of the runs it comes to this, in the others near it.
    """
    store = scenario.cluster.store
    if store.durability == "interval":  # which does not promise to outlive a power cut
        store = msgspec.structs.replace(store, durability="group")
    cluster = msgspec.structs.replace(scenario.cluster, store=store)
    coordinators, duration_s = cluster.coordinator_names, 9.0
    programs = []
    for number in range(rng.randint(3, 5)):
        program = draw_program(
            rng, f"client{number + 1}", rng.choice(coordinators), rng.sample(KEYS, 3), 30, duration_s
        )
        opens = tuple(Step(pause_s=0.01, kind="open", keys=(key,)) for key in rng.sample(KEYS, 3))
        programs.append(msgspec.structs.replace(program, steps=opens + program.steps + opens))
    return msgspec.structs.replace(
        scenario,
        family="founding",
        cluster=cluster,
        odds=QUICK,
        faults=_held_up(rng, cluster.node_ids),
        programs=tuple(programs),
        within=False,
        plain=scenario.plain or "a",
        duration_s=duration_s,
    )


def _held_up(rng: random.Random, nodes: Sequence[str]) -> tuple[Fault, ...]:
    """Draw what holds three founders up. A former supervisor is frozen by every second fault that starts another."""

    def about(at_s: float, by_s: float = 0.02) -> float:
        return round(at_s + rng.uniform(-by_s, by_s), 3)

    off, slow_s, wake_s, stopped_s = rng.choice(nodes), rng.choice((0.03, 0.05)), about(1.3), rng.uniform(0.6, 1.2)
    stop_s = about(wake_s + 0.05 + 3 * slow_s)
    faults = [
        Fault(about(0.5), "power", off, 0.25),
        Fault(about(0.6), "another supervisor", SUPERVISOR, 6.0),
        Fault(about(0.72), "slow node", off, 3.0, slow_s),
        Fault(about(0.85), "another supervisor", SUPERVISOR, about(0.95, 0.1)),
        Fault(stop_s, "freeze supervisor", SUPERVISOR, round(stopped_s, 3)),
        Fault(about(stop_s + 0.05), "freeze", off, round(stopped_s + 3.4, 3)),
    ]
    for node in nodes:
        if node != off:
            at_s = round(rng.uniform(0.15, 0.35), 3)
            faults += [Fault(0.0, "slow node", node, 3.0, slow_s), Fault(at_s, "freeze", node, round(wake_s - at_s, 3))]
    return tuple(sorted(faults, key=lambda each: each.at_s))


def _takeovers(scenario: Scenario, rng: random.Random) -> Scenario:
    """Supervisors come one upon the other while buckets are opened, and nodes are away or lose their directories."""
    nodes = scenario.cluster.node_ids
    faults, at_s = [], 1.0
    victims = rng.sample(nodes, max(1, (scenario.cluster.store.copies - 1) // 2))
    while at_s < 14.0:
        kind = rng.choice(_SUPERVISORS)
        faults.append(
            Fault(round(at_s, 3), kind, SUPERVISOR, 0.0 if "kill" in kind else round(rng.uniform(0.2, 3.0), 3))
        )
        node = rng.choice(nodes)
        match rng.randrange(5):
            case 0:
                faults.append(Fault(round(at_s + rng.uniform(-0.3, 0.3), 3), "kill", node))
            case 1:
                side = rng.choice(("from ", "to ", "both ")) + SUPERVISOR
                faults.append(Fault(round(at_s, 3), "cut", node, round(rng.uniform(0.3, 3.0), 3), 0.0, side))
            case 2:
                faults.append(Fault(round(at_s, 3), "freeze", node, round(rng.uniform(0.3, 2.0), 3)))
            case 3:
                faults.append(Fault(round(at_s + rng.uniform(0.0, 0.5), 3), "wipe", rng.choice(victims)))
        at_s += rng.uniform(0.3, 1.5)
    return msgspec.structs.replace(
        scenario,
        family="takeovers",
        faults=tuple(sorted(faults, key=lambda each: each.at_s)),
        programs=_openers(scenario, rng, steps=80, duration_s=14.0),
        odds=NetworkOdds(delay_s=SLOW.delay_s, late=rng.choice((0.1, 0.3)), late_s=1.0, lost=rng.choice((0.0, 0.1))),
        within=False,
        duration_s=14.0,
        disk_s=0.0,
    )


def _openers(scenario: Scenario, rng: random.Random, *, steps: int, duration_s: float) -> tuple[Program, ...]:
    """Return programs that open many buckets beside their other work."""
    coordinators = scenario.cluster.coordinator_names
    programs = []
    for number in range(rng.randint(3, 5)):
        program = draw_program(rng, f"client{number + 1}", rng.choice(coordinators), KEYS[:3], steps, duration_s)
        opening = [
            Step(
                round(rng.expovariate(20.0), 4),
                "open",
                (f"{key}{rng.randrange(20)}",),
                timeout_s=rng.choice((1.0, 5.0)),
            )
            for key in rng.choices(KEYS, k=steps // 2)
        ]
        mixed = [*program.steps, *opening[4:]]
        rng.shuffle(mixed)
        programs.append(msgspec.structs.replace(program, steps=(*opening[:4], *mixed)))
    return tuple(programs)


def _failing_disks(scenario: Scenario, rng: random.Random) -> Scenario:
    """Flushes and compactions all the time, and disks and hosts that fail in the middle of them."""
    cluster = scenario.cluster
    store = msgspec.structs.replace(cluster.store, durability=rng.choice(("group", "always")))
    nodes = cluster.node_ids
    copies = store.copies
    faults, at_s = [], 1.5
    while at_s < 18.0:
        node = rng.choice(nodes)
        power_s = round(rng.uniform(0.1, 0.4), 3)
        match rng.randrange(4):
            case 0:
                faults.append(Fault(round(at_s, 3), "sync fails", node, 0.0, rng.randrange(6)))
                faults.append(Fault(round(at_s + rng.uniform(0.0, 0.3), 3), "power", node, power_s))
            case 1:
                detail, most = rng.choice(((".sst", 10), ("manifest", 6), (".wal", 30), ("", 60)))
                faults.append(Fault(round(at_s, 3), "crash at", node, power_s, rng.randrange(most), detail))
            case 2:
                faults.append(Fault(round(at_s, 3), "slow disk", node, 2.0, rng.choice((0.05, 0.2, 0.5))))
                faults.append(Fault(round(at_s + rng.uniform(0.5, 1.5), 3), "kill", node))
            case 3:
                faults.append(Fault(round(at_s, 3), "power", node, power_s))
        if rng.random() < 0.3:  # the same write fails on all of them, and its bytes are there after the restart
            faults += [Fault(round(at_s + 0.3, 3), "sync fails", each) for each in nodes]
        at_s += rng.uniform(0.6, 2.0)
    config = msgspec.structs.replace(
        cluster.config, memtable_bytes=4 * KIB, max_unflushed_bytes=64 * KIB, block_bytes=256, runs_per_level=2
    )
    return msgspec.structs.replace(
        scenario,
        family="failing disks",
        cluster=msgspec.structs.replace(cluster, store=store, config=config),
        r=quorum(copies),
        w=quorum(copies),
        faults=tuple(sorted(faults, key=lambda each: each.at_s)),
        programs=_busy(scenario, rng, 18.0),
        odds=rng.choice((QUICK, SLOW)),
        within=False,
        duration_s=18.0,
        disk_s=rng.choice((0.0, 0.005)),
    )


def corrupt(scenario: Scenario, rng: random.Random) -> Scenario:
    """Bits flip all the time on the disks of a few nodes, in logs and tables that are read and merged."""
    cluster = scenario.cluster
    copies = cluster.store.copies
    majority = quorum(copies)
    spare = max(0, copies - majority)
    nodes = cluster.node_ids
    victims = rng.sample(nodes, max(1, spare))
    faults, at_s = [], 1.0
    while at_s < 16.0:
        victim = rng.choice(victims)
        faults.append(Fault(round(at_s, 3), "bit rot", victim))
        if rng.random() < 0.3:
            faults.append(Fault(round(at_s + rng.uniform(0.0, 0.2), 3), "kill", victim))
        at_s += rng.uniform(0.15, 0.8)
    config = msgspec.structs.replace(
        cluster.config, memtable_bytes=4 * KIB, max_unflushed_bytes=32 * KIB, block_bytes=256, block_cache_bytes=0
    )
    return msgspec.structs.replace(
        scenario,
        family="corruption",
        cluster=msgspec.structs.replace(cluster, config=config),
        r=majority,
        w=majority,
        faults=tuple(sorted(faults, key=lambda each: each.at_s)),
        programs=_busy(scenario, rng, 16.0),
        odds=QUICK,
        within=spare > 0,
        duration_s=16.0,
        disk_s=0.0,
    )


def _lost_and_away(scenario: Scenario, rng: random.Random) -> Scenario:
    """One node loses what it has while another is away, which comes back when the third goes.

    Then two are asked of which one never had what was written, and the other has it no more. A node that is complete again
    loses its power soon, as does one that gave it what it has.
    """
    cluster = scenario.cluster
    nodes = cluster.node_ids
    victims = rng.sample(nodes, rng.choice((1, 1, 1, 2)))
    kind = rng.choice(_LOSSES)
    if kind == "roll back":  # a majority of old copies is undetectable
        victims = victims[:1]
    powers = rng.random() < 0.5 and cluster.store.durability != "interval"
    faults, at_s = [], rng.uniform(2.0, 3.0)
    while at_s < 16.0:
        away, third = [*rng.sample([node for node in nodes if node not in victims], len(nodes) - len(victims)), ""][:2]
        # With two victims what both had acknowledged must be with the one that is away.
        away_s, back_s = (rng.uniform(0.5, 1.5), rng.uniform(0.01, 0.05)) if third else (0.0, rng.uniform(1.5, 3.0))
        faults.append(Fault(round(at_s - away_s, 3), "freeze", away, round(away_s + back_s, 3)))
        for victim in victims:
            for _ in range(8 if kind == "bit rot" else 1):
                age_s = round(rng.uniform(0.1, away_s + 0.2), 3) if kind == "roll back" else 0.0
                lost_s = round(at_s - rng.uniform(0.0, 0.3) * bool(third), 3)
                faults.append(Fault(lost_s, kind, victim, 0.0, age_s))
            if powers:
                faults.append(Fault(round(at_s, 3), "power when complete", victim, 0.2, rng.choice((0.0, 0.001, 0.3))))
        if third and rng.random() < 0.8:
            faults.append(Fault(round(at_s, 3), "freeze", third, round(rng.uniform(1.0, 4.0), 3)))
        at_s += rng.uniform(5.0, 7.0)
    config = msgspec.structs.replace(
        cluster.config, memtable_bytes=4 * KIB, max_unflushed_bytes=32 * KIB, block_bytes=256, block_cache_bytes=0
    )
    copies = cluster.store.copies
    return msgspec.structs.replace(
        scenario,
        family="lost and away",
        cluster=msgspec.structs.replace(cluster, config=config),
        r=quorum(copies),
        w=quorum(copies),
        faults=tuple(sorted(faults, key=lambda each: each.at_s)),
        programs=_busy(scenario, rng, 18.0),
        odds=QUICK,
        within=False,
        duration_s=18.0,
        disk_s=0.0,
    )


def _scans(scenario: Scenario, rng: random.Random) -> Scenario:
    """Scan in short pages over many keys of which every replica lacks some, with little time for each page."""
    copies, nodes = scenario.cluster.store.copies, scenario.cluster.node_ids
    keys = [f"b{number:03}" for number in range(150)]
    faults = []
    if rng.random() < 0.5:  # two at once, perhaps between the two rounds of a page
        for at_s in (1.5, 2.5, 3.5, 4.5, 5.5):
            faults += [Fault(round(at_s + rng.uniform(0.0, 0.004), 4), "kill", node) for node in rng.sample(nodes, 2)]
    kinds: list[StepKind] = ["put", "delete", "scan", "get"]
    programs = []
    for number in range(8):
        steps = tuple(
            Step(
                pause_s=round(rng.expovariate(1 / 0.01), 4),
                kind=rng.choices(kinds, (45, 5, 35, 15))[0],
                keys=(rng.choice(keys),),
                timeout_s=rng.choice((0.04, 0.2, 1.0, 1.0)),
                reverse=rng.random() < 0.3,
                page=rng.choice((None, 3, 5, 20)),
            )
            for _ in range(120)
        )
        programs.append(Program(f"client{number + 1}", rng.choice(scenario.cluster.coordinator_names), steps))
    return msgspec.structs.replace(
        scenario,
        family="scans",
        r=quorum(copies),
        w=quorum(copies),
        faults=tuple(faults),
        programs=tuple(programs),
        odds=NetworkOdds(
            delay_s=(0.0005, 0.01), late=rng.choice((0.0, 0.1)), late_s=0.3, lost=rng.choice((0.2, 0.3, 0.4))
        ),
        within=False,
        plain=rng.choice(("", "b")),
        loose="",
        duration_s=7.0,
        disk_s=0.0,
    )


def _nothing_left(scenario: Scenario, rng: random.Random) -> Scenario:
    """All directories are wiped at once, and the supervisor ends: no store must come up where one was."""
    at_s = round(rng.uniform(4.0, 6.0), 3)
    faults = [Fault(at_s, "wipe", node) for node in scenario.cluster.node_ids]
    faults.append(Fault(at_s, "kill supervisor", SUPERVISOR))
    return msgspec.structs.replace(
        scenario,
        family="nothing left",
        faults=tuple(faults),
        programs=_openers(scenario, rng, steps=40, duration_s=12.0),
        odds=QUICK,
        within=False,
        duration_s=12.0,
        disk_s=0.0,
    )


def _busy(scenario: Scenario, rng: random.Random, duration_s: float) -> tuple[Program, ...]:
    """Return programs with many values of some size."""
    coordinators = scenario.cluster.coordinator_names
    programs = []
    for number in range(4):
        program = draw_program(rng, f"client{number + 1}", rng.choice(coordinators), KEYS, 90, duration_s)
        steps = tuple(msgspec.structs.replace(step, padding=rng.choice((20, 300, 1500))) for step in program.steps)
        programs.append(msgspec.structs.replace(program, steps=steps))
    return tuple(programs)


def _hosts(scenario: Scenario) -> list[str]:
    return [*scenario.cluster.node_ids, COORDINATOR, SUPERVISOR]


_FAMILIES = (
    _crowd, _full_crowd, _founding, _founding, _failing_disks, corrupt, _takeovers, _lost_and_away, _lost_and_away, _scans,
    _nothing_left, ring_changes, ring_changes, ring_changes,
)  # fmt: skip
