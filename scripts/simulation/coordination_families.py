"""Runs about what a coordinator meets: operations that begin together, stops in the middle of one, overload, clocks.

About one run in five has one of these families in place of what it would be else. They are drawn from a generator of
their own: all other runs stay as they are. See ``scenario_families`` for what a family is.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

from raykv.config import KIB, StoreConfig, quorum
from raykv.sim.cluster import DIRECT, SUPERVISOR
from raykv.sim.faults import Fault, FaultKind
from raykv.sim.network import NetworkOdds
from simulation.blocking_link import BLOCKING
from simulation.rig_faults import RigFault
from simulation.scenario_families import corrupt
from simulation.workload import Program, Step, StepKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.sim.cluster import ClusterSpec
    from simulation.scenario import Scenario

SHARE = 0.2
"""How many of the runs."""
GRACE_S = StoreConfig(name="any", copies=1).gc_grace_s
"""In these runs nothing dead is forgotten: they end soon."""
KEYS = ("a1", "a2", "a3", "b1", "b2", "b3")
QUICK = NetworkOdds(delay_s=(0.0002, 0.002))
_KINDS: dict[StepKind, float] = {
    "put": 20, "get": 14, "delete": 2, "put_many": 6, "get_many": 8, "delete_many": 2, "scan": 2, "get_versions": 8,
    "put_seen": 8, "modify": 3, "repair": 1, "look": 1,
}  # fmt: skip
_PASSING: tuple[FaultKind, ...] = ("kill", "freeze", "cut", "power")
_DISTURBING: tuple[FaultKind, ...] = ("cut", "slow node", "kill", "freeze")


def with_coordination(scenario: Scenario) -> Scenario:
    """Return the scenario, perhaps made into one of these."""
    rng = random.Random(f"coordinating {scenario.seed}")
    return rng.choice(_FAMILIES)(scenario, rng) if rng.random() < SHARE else scenario


def _together(scenario: Scenario, rng: random.Random) -> Scenario:
    """Clients begin many operations at once, as a program's tasks do, and they leave as few; nodes go one at a time.

    More groups than may be under way at once: writes of one key go each by itself.
    """
    clients = _clients(scenario, rng, 4)
    programs = []
    for client, coordinator in clients:
        steps: list[Step] = []
        for _ in range(25):
            burst = rng.choice((2, 3, 8, 30))
            only = rng.choice((None, "put", "get"))
            key = rng.choice((None, None, rng.choice(KEYS)))
            timeout_s = rng.choice((1.0, 5.0))
            for place in range(burst):
                step = _step(rng, KEYS if key is None else (key,), timeouts_s=(timeout_s,), kind=only)
                steps.append(msgspec.structs.replace(step, together=place > 0))
        programs.append(_paced(rng, Program(client, coordinator, tuple(steps)), 0.25))
    return _put_together(
        scenario, "together", programs, 7.0, faults=_one_by_one(rng, scenario.cluster.node_ids, 6.0), batching=True
    )


def _stopped(scenario: Scenario, rng: random.Random) -> Scenario:
    """Clients that coordinate for themselves stand still in the middle of a round, and others write on meanwhile (P8)."""
    clients = _clients(scenario, rng, 5)
    programs = [
        _program(rng, client, coordinator, ("a1", "b1", "b2"), steps=120, pause_s=0.05, timeouts_s=(0.3, 0.6, 1.0))
        for client, coordinator in clients
    ]
    able = [client for client, coordinator in clients if coordinator in {DIRECT, BLOCKING}]
    rig_faults, faults, at_s = [], [], 1.5
    while at_s < 7.0:
        for target in rng.sample(able, min(len(able), 2)) + rng.sample(scenario.cluster.coordinator_names, 1):
            for_s = round(rng.choice((rng.uniform(0.05, 0.3), rng.uniform(0.3, 2.5))), 3)
            begin_s = round(at_s + rng.uniform(0.0, 0.3), 3)
            if rng.random() < 0.7:
                rig_faults.append(RigFault(begin_s, "stop while it sends", target, for_s, float(rng.randint(1, 9))))
            else:
                faults.append(Fault(begin_s, "freeze coordinator", target, for_s))
        if rng.random() < 0.4:
            faults.append(Fault(round(at_s + rng.uniform(0.0, 0.5), 3), "kill", rng.choice(scenario.cluster.node_ids)))
        at_s += rng.uniform(0.4, 1.5)
    return _put_together(
        scenario, "stopped", programs, 8.0, faults=faults, rig_faults=rig_faults, odds=_some_odds(rng), batching=True
    )


def _blocking(scenario: Scenario, rng: random.Random) -> Scenario:
    """Clients with blocking connections hand over what meets a slow, a cut off or a dead node, or old owners."""
    clients = [(f"client{number + 1}", BLOCKING if number < 3 else DIRECT) for number in range(4)]
    cluster = scenario.cluster
    if rng.random() < 0.4:  # two may miss a write that stands
        cluster = msgspec.structs.replace(cluster, nodes=5, store=msgspec.structs.replace(cluster.store, copies=5))
    programs = [
        _program(rng, client, coordinator, KEYS, steps=120, pause_s=0.05, timeouts_s=(0.5, 1.0, 5.0))
        for client, coordinator in clients
    ]
    faults, at_s = [], 1.2
    while at_s < 7.0:
        kind = rng.choice(_DISTURBING)
        for node in rng.sample(cluster.node_ids, rng.choice((1, 1, 2))):
            for_s = 0.0 if kind == "kill" else round(rng.uniform(0.2, rng.choice((2.0, 2.0, 6.0))), 3)
            amount = rng.choice((0.02, 0.12, 0.3)) if kind == "slow node" else 0.0
            detail = rng.choice(("from all", "to all", "both all")) if kind == "cut" else ""
            faults.append(Fault(round(at_s, 3), kind, node, for_s, amount, detail))
        at_s += rng.uniform(0.3, 1.5)
    return _put_together(scenario, "blocking", programs, 8.0, faults=faults, cluster=cluster, odds=_some_odds(rng))


def _overloaded(scenario: Scenario, rng: random.Random) -> Scenario:
    """Nodes refuse what they may, one, some or all of them; or they really have more to flush than they can."""
    clients = _clients(scenario, rng, 5)
    programs = [
        _program(rng, client, coordinator, KEYS, steps=120, pause_s=0.04, timeouts_s=(0.3, 1.0, 5.0), padding=1500)
        for client, coordinator in clients
    ]
    nodes, rig_faults, at_s = scenario.cluster.node_ids, [], 1.2
    while at_s < 6.5:
        for node in rng.sample(nodes, rng.choice((1, 2, len(nodes), len(nodes)))):
            for_s, share = round(rng.uniform(0.1, 1.5), 3), rng.choice((0.3, 0.8, 1.0, 1.0))
            rig_faults.append(RigFault(round(at_s + rng.uniform(0.0, 0.1), 3), "overload", node, for_s, share))
        at_s += rng.uniform(0.5, 2.0)
    config = msgspec.structs.replace(scenario.cluster.config, memtable_bytes=4 * KIB, max_unflushed_bytes=4 * KIB)
    full = rng.random() < 0.5
    cluster = msgspec.structs.replace(scenario.cluster, config=config) if full else scenario.cluster
    return _put_together(
        scenario,
        "overloaded",
        programs,
        8.0,
        faults=_one_by_one(rng, nodes, 6.0) if rng.random() < 0.5 else (),
        rig_faults=rig_faults,
        cluster=cluster,
        disk_s=rng.choice((0.05, 0.2)) if full else 0.0,
    )


def _dropped(scenario: Scenario, rng: random.Random) -> Scenario:
    """Drop a bucket and make it again while clients use it, some of which have not heard of it; supervisors end."""
    clients = _clients(scenario, rng, 5)
    clients[1:3] = [(client, DIRECT) for client, _ in clients[1:3]]
    fleeting = ("f1", "f2", "f3")
    programs = []
    for client, coordinator in clients:
        program = _program(
            rng, client, coordinator, fleeting, steps=140, pause_s=0.04, timeouts_s=(0.5, 1.0, 5.0),
        )  # fmt: skip
        drops = [
            Step(round(rng.expovariate(20.0), 4), "drop", fleeting[:1], timeout_s=rng.choice((0.5, 2.0)))
            for _ in range(rng.choice((2, 4, 8)))
        ]
        some = [_step(rng, KEYS, timeouts_s=(1.0,)) for _ in range(20)]
        # What a read of many has found stays, though the bucket is gone when the rest is read.
        many = [
            msgspec.structs.replace(_step(rng, fleeting, timeouts_s=(1.0,), kind=kind), pause_s=0.01)
            for kind in rng.choices(("get_many", "put_many"), k=150 if coordinator == DIRECT else 0)
        ]
        steps = [*program.steps, *drops, *some, *many]
        rng.shuffle(steps)
        programs.append(_with_bursts(rng, msgspec.structs.replace(program, steps=tuple(steps))))
    faults = _one_by_one(rng, scenario.cluster.node_ids, 6.0) if rng.random() < 0.5 else []
    central: tuple[FaultKind, ...] = ("kill supervisor", "kill supervisor", "freeze supervisor", "kill coordinator")
    for kind in rng.choices(central, k=rng.randint(0, 6)):
        target = rng.choice(scenario.cluster.coordinator_names) if "coordinator" in kind else SUPERVISOR
        for_s = 0.0 if "kill" in kind else round(rng.uniform(0.5, 2.0), 3)
        faults.append(Fault(round(rng.uniform(1.0, 7.0), 3), kind, target, for_s))
    return _put_together(
        scenario,
        "dropped bucket",
        programs,
        8.0,
        faults=faults,
        odds=NetworkOdds(delay_s=QUICK.delay_s, late=0.1, late_s=0.5, lost=0.02),
        plain=rng.choice(("a", "af")),
        batching=True,
    )


def _clocks_apart(scenario: Scenario, rng: random.Random) -> Scenario:
    """Set the clocks of two coordinators further apart than a stamp may be ahead, each near enough to the nodes' own.

    The one whose clock is behind cannot write above what the other has written, and must say so: whatever it was shown, by
    a node, by the session or by a context that came from another client.
    """
    cluster = msgspec.structs.replace(scenario.cluster, coordinators=2)
    ahead, behind = rng.sample(cluster.coordinator_names, 2)
    programs, targets = [], {ahead: 45_000.0, behind: -45_000.0}
    for number in range(6):
        client = f"client{number + 1}"
        # Who never reads through the one behind has no session that would know.
        blind = number % 2 == 0
        coordinator = (ahead, behind, behind, DIRECT, DIRECT, BLOCKING)[number]
        if coordinator in {DIRECT, BLOCKING}:
            targets[client] = -45_000.0
        program = _program(rng, client, coordinator, KEYS, steps=110, pause_s=0.05, timeouts_s=(0.5, 1.0))
        kinds: tuple[StepKind, ...] = ("put", "put", "put_many", "put_seen", "put_seen", "delete")
        steps = [
            msgspec.structs.replace(
                step, kind=rng.choice(kinds) if blind else step.kind, passed_on=rng.choice(("", "last", "last"))
            )
            for step in program.steps
        ]
        programs.append(_with_bursts(rng, msgspec.structs.replace(program, steps=tuple(steps))))
    at_s = rng.uniform(1.0, 2.0)
    faults = [Fault(round(at_s, 3), "clock far off", target, 0.0, amount) for target, amount in targets.items()]
    return _put_together(
        scenario,
        "clocks apart",
        programs,
        6.0,
        faults=faults,
        cluster=cluster,
        within=False,
        batching=rng.random() < 0.5,
    )


def _full_fallbacks(scenario: Scenario, rng: random.Random) -> Scenario:
    """Fallbacks stand in for primaries that are away, and have soon no room for more hints, or end themselves."""
    store = msgspec.structs.replace(scenario.cluster.store, copies=3)
    config = msgspec.structs.replace(scenario.cluster.config, max_hint_bytes=rng.choice((400, 2000, 20_000)))
    cluster = msgspec.structs.replace(scenario.cluster, nodes=rng.choice((4, 5, 5)), store=store, config=config)
    keys = ("c1", "c2", "c3", "c4", "a1")
    programs = [
        _program(rng, client, coordinator, keys, steps=120, pause_s=0.04, timeouts_s=(1.0, 2.0), padding=300)
        for client, coordinator in _clients(scenario, rng, 5)
    ]
    faults, at_s = [], 1.0
    while at_s < 7.0:
        for node in rng.sample(cluster.node_ids, rng.choice((1, 2, 2, 3))):
            kind = rng.choice((*_PASSING, "disk full"))
            begin_s, for_s = round(at_s + rng.uniform(0.0, 0.5), 3), round(rng.uniform(0.5, 2.0), 3)
            detail = "both all" if kind == "cut" else ""
            faults.append(
                Fault(begin_s, kind, node, for_s, float(rng.randrange(2000)) if kind == "disk full" else 0.0, detail)
            )
        at_s += rng.uniform(1.0, 2.5)
    return _put_together(
        scenario, "full fallbacks", programs, 8.0, faults=faults, cluster=cluster, loose="c", within=False
    )


def _siblings(scenario: Scenario, rng: random.Random) -> Scenario:
    """Clients give back a context of long ago, again and again, until more versions stand than may."""
    clients = _clients(scenario, rng, 6)
    programs = []
    for client, coordinator in clients:
        steps = []
        for _ in range(60):
            kind: StepKind = rng.choices(("put_seen", "get_versions", "get", "put"), (90, 4, 2, 4))[0]
            key = "b2" if kind == "put" else rng.choice(("b1", "b1", "b1", "b2"))
            steps.append(Step(0.0, kind, (key,), timeout_s=1.0, passed_on="first"))
        programs.append(_paced(rng, Program(client, coordinator, tuple(steps)), 0.05))
    return _put_together(scenario, "siblings", programs, 6.0, plain="a")


def _rot_underneath(scenario: Scenario, rng: random.Random) -> Scenario:
    """Clients that coordinate for themselves ask nodes that cannot read some of what they hold."""
    scenario = msgspec.structs.replace(corrupt(scenario, rng), family="corruption underneath", loose="", plain="a")
    programs = [msgspec.structs.replace(program, coordinator=DIRECT) for program in scenario.programs]
    victims = sorted(scenario.lasting)
    rig_faults = [
        RigFault(round(rng.uniform(1.5, 16.0), 3), "corruption in a table", rng.choice(victims), 0.0) for _ in range(60)
    ]
    return msgspec.structs.replace(
        scenario, programs=tuple(programs), rig_faults=tuple(rig_faults), skews_ms={}, drifts={}
    )


# ---- parts ----


def _clients(scenario: Scenario, rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Return names of clients, each with whom it asks: half of them coordinate for themselves."""
    others = scenario.cluster.coordinator_names
    return [
        (f"client{number + 1}", DIRECT if number == 0 else rng.choice((DIRECT, BLOCKING, *others, *others)))
        for number in range(count)
    ]


def _step(
    rng: random.Random,
    keys: Sequence[str],
    *,
    timeouts_s: Sequence[float],
    padding: int = 20,
    kind: str | None = None,
) -> Step:
    chosen: StepKind = kind or rng.choices(list(_KINDS), list(_KINDS.values()))[0]  # type: ignore[assignment]
    count = rng.randint(2, len(keys)) if chosen.endswith("_many") and len(keys) > 1 else 1
    return Step(
        pause_s=0.0,
        kind=chosen,
        keys=tuple(rng.sample(list(keys), count)),
        padding=rng.choice((0, padding)),
        timeout_s=rng.choice(timeouts_s),
        reverse=rng.random() < 0.3,
        page=rng.choice((None, 2)) if chosen == "scan" else None,
        anew=rng.random() < 0.3,
    )


def _program(
    rng: random.Random,
    client: str,
    coordinator: str,
    keys: Sequence[str],
    *,
    steps: int,
    pause_s: float,
    timeouts_s: Sequence[float],
    padding: int = 20,
) -> Program:
    drawn = tuple(_step(rng, keys, timeouts_s=timeouts_s, padding=padding) for _ in range(steps))
    return _with_bursts(rng, _paced(rng, Program(client, coordinator, drawn), pause_s))


def _paced(rng: random.Random, program: Program, pause_s: float) -> Program:
    """Return the program with a pause before each step that does not begin together with another."""
    return msgspec.structs.replace(
        program,
        steps=tuple(
            msgspec.structs.replace(step, pause_s=0.0 if step.together else round(rng.expovariate(1 / pause_s), 4))
            for step in program.steps
        ),
    )


def _with_bursts(rng: random.Random, program: Program) -> Program:
    """Return the program, some of whose steps begin together."""
    steps = tuple(
        msgspec.structs.replace(step, together=place > 0 and rng.random() < 0.15)
        for place, step in enumerate(program.steps)
    )
    return msgspec.structs.replace(program, steps=steps)


def _one_by_one(rng: random.Random, nodes: Sequence[str], until_s: float) -> list[Fault]:
    faults, at_s = [], rng.uniform(1.2, 1.8)
    while at_s < until_s:
        kind, node = rng.choice(_PASSING), rng.choice(nodes)
        for_s = 0.0 if kind == "kill" else round(rng.uniform(0.2, 1.0), 3)
        detail = rng.choice(("from all", "to all", "both all")) if kind == "cut" else ""
        faults.append(Fault(round(at_s, 3), kind, node, for_s, 0.0, detail))
        at_s += for_s + rng.uniform(1.0, 2.5)
    return faults


def _some_odds(rng: random.Random) -> NetworkOdds:
    return NetworkOdds(
        delay_s=rng.choice(((0.0002, 0.002), (0.001, 0.02))), late=rng.choice((0.0, 0.05, 0.15)),
        late_s=rng.choice((0.3, 1.0)), lost=rng.choice((0.0, 0.02)),
    )  # fmt: skip


def _put_together(
    scenario: Scenario, family: str, programs: Sequence[Program], duration_s: float, **others: object
) -> Scenario:
    """Return the scenario with these programs, majorities, clocks that agree and a quick network, unless said otherwise."""
    wanted: dict[str, object] = {
        "cluster": scenario.cluster, "faults": (), "odds": QUICK, "plain": "a", "loose": "", "within": False,
        "disk_s": 0.0, **others,
    }  # fmt: skip
    cluster: ClusterSpec = wanted.pop("cluster")  # type: ignore[assignment]
    # An interval does not promise to outlive a power cut.
    durability = "group" if cluster.store.durability == "interval" else cluster.store.durability
    store = msgspec.structs.replace(cluster.store, gc_grace_s=GRACE_S, durability=durability)
    made = msgspec.structs.replace(scenario, cluster=msgspec.structs.replace(cluster, store=store))
    copies, hosts = made.cluster.store.copies, [*made.cluster.node_ids, *made.cluster.coordinator_names, SUPERVISOR]
    faults: Sequence[Fault] = wanted.pop("faults")  # type: ignore[assignment]
    wanted["rig_faults"] = tuple(wanted.get("rig_faults", ()))  # type: ignore[arg-type]
    return msgspec.structs.replace(
        made,
        family=family,
        programs=tuple(programs),
        duration_s=duration_s,
        r=quorum(copies),
        w=quorum(copies),
        skews_ms=dict.fromkeys(hosts, 0.0),
        drifts=dict.fromkeys(hosts, 1.0),
        faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
        **wanted,
    )


_FAMILIES = (
    _together, _together, _stopped, _stopped, _blocking, _overloaded, _dropped, _dropped, _clocks_apart, _full_fallbacks,
    _siblings, _rot_underneath,
)  # fmt: skip
