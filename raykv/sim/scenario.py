"""From a seed to everything that will be done to a cluster: its make, its clients' programs, its faults.

**Swarm** (Groce et al., "Swarm Testing", ISSTA 2012): each run leaves some kinds of fault out, for with all of them in
every run the rare ones would drown in the common ones, and what a fault hides from another would stay hidden.

**Within** the promises a minority of a key's copies is disturbed at once, and what cannot be undone (a wiped, rotten or old
directory) stays on at most ``N - max(R, W)`` nodes; then every acknowledged write must be readable when all is over.
**Beyond** them anything may come together: then a store may refuse, but what it answers must still be true.

A scenario is plain data. A failing one can be run again with faults and steps left out (``simulation.shrink``).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal

import msgspec

from raykv.config import KIB, Durability, NodeConfig, StoreConfig
from raykv.sim.cluster import DIRECT, SUPERVISOR, ClusterSpec
from raykv.sim.flavours import flavoured
from raykv.sim.network import NetworkOdds
from raykv.sim.upkeep_settings import with_upkeep
from raykv.sim.workload import TTL_PREFIX, Program, draw_program

if TYPE_CHECKING:
    from collections.abc import Sequence

FaultKind = Literal[
    "kill", "crash at", "power", "freeze", "cut", "slow node", "slow disk", "sync fails", "write fails", "disk full",
    "bit rot", "wipe", "roll back", "kill coordinator", "freeze coordinator", "kill supervisor", "freeze supervisor",
    "clock jump", "another supervisor", "clock far off", "power when whole", "add node", "remove node", "set weight",
    "lose host", "replace node", "kill all",
]  # fmt: skip
DISTURBING: tuple[FaultKind, ...] = (
    "kill", "crash at", "power", "freeze", "cut", "slow node", "slow disk", "sync fails", "write fails", "disk full",
)  # fmt: skip
LASTING: tuple[FaultKind, ...] = ("bit rot", "wipe", "roll back")
CENTRAL: tuple[FaultKind, ...] = (
    "kill coordinator", "freeze coordinator", "kill supervisor", "freeze supervisor", "clock jump",
    "another supervisor", "clock far off",
)  # fmt: skip
ELASTIC: tuple[FaultKind, ...] = ("add node", "remove node", "set weight")
GONE: FaultKind = "lose host"
"""A host goes for good, with all that lies on it: its node is to be replaced."""
KEYS = ("a1", "a2", "a3", "b1", "b2", "c1", f"{TTL_PREFIX}1", f"{TTL_PREFIX}2")
_DURABILITIES: tuple[Durability, ...] = ("group", "group", "group", "always", "interval")
DIRECT_RUNS, DIRECT_RUNS_OF_FLAVOURS = 0.6, 0.2
"""In so many of the runs some clients coordinate for themselves; most flavours are about what befalls coordinators."""
RECOVERY_S = 3.0
"""What a node is given after a fault to be back, before another node is disturbed (within the promises)."""


class Fault(msgspec.Struct, frozen=True):
    """Something that goes wrong: from ``at_s`` on, for ``for_s`` (0: at once over), to ``target``.

    ``amount``: the n-th operation for "crash at", seconds for the slow ones, bytes for "disk full", milliseconds for the
    clocks, age in seconds for "roll back", seconds after a node has made itself whole for "power when whole"; a weight.
    ``detail``: for "cut", from whom, and whether both ways; for "crash at", which files count; with ``for_s`` the power
    goes with it.
    """

    at_s: float
    kind: FaultKind
    target: str
    for_s: float = 0.0
    amount: float = 0.0
    detail: str = ""

    def told(self) -> str:
        """Return a line for a person."""
        during = f" for {self.for_s:.2f} s" if self.for_s else ""
        extra = f" ({self.amount:g})" if self.amount else ""
        return f"{self.at_s:9.3f}  {self.kind} {self.target}{' ' + self.detail if self.detail else ''}{extra}{during}"


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
    plain: str = ""
    """The first letters of the keys that are in the bucket where the last writer wins; the others keep vectors."""
    loose: str = ""
    """The first letters of the keys that are in a sloppy bucket."""
    disk_s: float = 0.0
    """What every disk takes longer than a quick one."""
    flavour: str = ""
    """The one kind of trouble that this run is about (``raykv.sim.flavours``)."""
    duration_s: float
    """How long clients and faults go on; then everything heals."""
    drills: int = 0
    """How often the drills of the seed are run beside it (``simulation.drills``)."""

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
    cluster = with_upkeep(cluster, seed, duration_s, clocks_far_off=far_off)
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
        disk_s=rng.choice((0.0, 0.0, 0.005, 0.03)),
        duration_s=duration_s,
        drills=0 if weak else 1,
    )
    if any(letter in scenario.plain for letter in scenario.loose):
        scenario = msgspec.structs.replace(scenario, loose="")
    return scenario if weak else _with_direct_clients(flavoured(scenario, Fault))


def _with_direct_clients(scenario: Scenario) -> Scenario:
    """Return the scenario, some of whose clients may coordinate for themselves."""
    rng = random.Random(f"direct {scenario.seed}")
    if rng.random() > (DIRECT_RUNS_OF_FLAVOURS if scenario.flavour else DIRECT_RUNS):
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


def draw_odds(rng: random.Random, *, weak: bool = False) -> NetworkOdds:
    """Draw how the network treats messages."""
    rough = weak or rng.random() < 0.7
    return NetworkOdds(
        delay_s=rng.choice(((0.0002, 0.002), (0.001, 0.02))),
        late=rng.choice((0.0, 0.05, 0.3)) if rough else 0.0,
        late_s=rng.choice((0.3, 3.0)),
        lost=rng.choice((0.0, 0.02, 0.15)) if rough and not weak else 0.0,
        repeated=rng.choice((0.0, 0.02, 0.2)) if rough else 0.0,
    )


def _draw_programs(rng: random.Random, coordinators: Sequence[str], duration_s: float) -> tuple[Program, ...]:
    clients = rng.randint(3, 6)
    keys = rng.sample(KEYS, rng.randint(2, 6))
    steps = rng.randint(240, 420) // clients
    return tuple(
        draw_program(rng, f"client{number + 1}", rng.choice(coordinators), keys, steps, duration_s)
        for number in range(clients)
    )


def draw_faults(rng: random.Random, cluster: ClusterSpec, duration_s: float, budget: int | None) -> tuple[Fault, ...]:
    """Draw the faults; ``budget``: how many nodes may be lost for good, None: any.

    What passes may befall any minority of the copies at once: operations may fail then, and nothing is lost.
    """
    nodes, coordinators = cluster.node_ids, cluster.coordinator_names
    interval = cluster.store.durability == "interval"
    kinds = [kind for kind in rng.sample(DISTURBING, rng.randint(0, 6)) if not (interval and kind == "power")]
    central = [kind for kind in CENTRAL if rng.random() < (0.1 if kind == "clock far off" else 0.3)]
    lasting = [kind for kind in LASTING if rng.random() < 0.25]
    if "roll back" in lasting:
        # That a directory is an old copy only those know who have heard from the node since. Until nodes hear from each
        # other, these are the supervisor and the coordinators, and they know it only for as long as they live.
        central = [kind for kind in central if not kind.startswith("kill")]
    passing = len(nodes) if budget is None else (cluster.store.copies - 1) // 2
    victims = rng.sample(nodes, passing)
    lost = victims if budget is None else victims[:budget]
    lasting = lasting if lost else []
    faults = _draw_passing(
        rng, kinds, victims if lasting or budget is None else nodes, [*nodes, *coordinators, SUPERVISOR], duration_s,
        power=not interval, one_by_one=budget is not None,
    ) if victims else []  # fmt: skip
    if budget is None and kinds and rng.random() < 0.6:
        faults += _draw_at_once(rng, kinds, nodes, duration_s, power=not interval)
    faults += _draw_lasting(rng, lasting, lost, duration_s, together=budget is None)
    if "kill supervisor" in central:  # and just then nobody is there who remembers
        faults += [Fault(fault.at_s, "kill supervisor", SUPERVISOR) for fault in faults if fault.kind == "wipe"]
    for kind in central:
        for _ in range(rng.randint(1, 4)):
            faults.append(_draw_central(rng, kind, nodes, coordinators, duration_s))
    faults += _draw_elastic(rng, duration_s)
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _draw_elastic(rng: random.Random, duration_s: float) -> list[Fault]:
    """Draw changes of the ring: which node is to leave or to carry more is seen when it is time."""
    if rng.random() > 0.3:
        return []
    kinds = rng.choices(ELASTIC, (3, 2, 1), k=rng.randint(1, 5))
    return [
        Fault(round(rng.uniform(1.0, duration_s), 3), kind, SUPERVISOR, 0.0, rng.choice((0.5, 1.0, 1.0, 3.0)))
        for kind in kinds
    ]


def _draw_central(
    rng: random.Random, kind: FaultKind, nodes: Sequence[str], coordinators: Sequence[str], duration_s: float
) -> Fault:
    """Draw what befalls a supervisor, a coordinator or a clock."""
    target = SUPERVISOR if "supervisor" in kind else rng.choice(coordinators)
    for_s = amount = 0.0
    if kind.startswith("freeze") or kind == "another supervisor":
        for_s = round(rng.uniform(0.2, 6.0), 3)
    elif kind == "clock jump":
        target, amount = rng.choice([*nodes, *coordinators]), round(rng.uniform(-2000, 2000))
    elif kind == "clock far off":
        amount = rng.choice((-1, 1)) * rng.choice((90_000, 120_000, 3_600_000))
    return Fault(round(rng.uniform(0.0, duration_s), 3), kind, target, for_s, amount)


def _draw_at_once(
    rng: random.Random, kinds: Sequence[FaultKind], nodes: Sequence[str], duration_s: float, *, power: bool
) -> list[Fault]:
    """Draw a fault of one kind that befalls a majority, or all, at about the same time."""
    faults = []
    for _ in range(rng.randint(1, 3)):
        kind, at_s = rng.choice(kinds), rng.uniform(1.0, duration_s)
        some = rng.sample(list(nodes), rng.choice((len(nodes), len(nodes), len(nodes) // 2 + 1)))
        times_s = [at_s + rng.choice((0.0, rng.uniform(0.0, 0.05))) for _ in some]
        faults += [
            _disturb(rng, kind, time_s, target, nodes, power=power)
            for target, time_s in zip(some, times_s, strict=True)
        ]
    return faults


def _draw_passing(
    rng: random.Random,
    kinds: Sequence[FaultKind],
    targets: Sequence[str],
    others: Sequence[str],
    duration_s: float,
    *,
    power: bool,
    one_by_one: bool,
) -> list[Fault]:
    """Draw what disturbs nodes for a while: up to three faults close together on one node, then on another."""
    faults: list[Fault] = []
    at_s = rng.uniform(0.0, 4.0)
    while kinds and at_s < duration_s:
        target = rng.choice(targets)
        over_s = 0.0
        for _ in range(rng.choice((1, 1, 2, 3))):
            fault = _disturb(rng, rng.choice(kinds), at_s, target, others, power=power)
            faults.append(fault)
            over_s = max(over_s, fault.at_s + fault.for_s)
            at_s += rng.choice((rng.uniform(0.0, 0.6), rng.uniform(0.3, 3.0)))  # perhaps while it is coming back
        at_s = max(at_s, over_s + RECOVERY_S) if one_by_one else at_s + rng.expovariate(1.0)
    return faults


def _draw_lasting(
    rng: random.Random, kinds: Sequence[FaultKind], targets: Sequence[str], duration_s: float, *, together: bool
) -> list[Fault]:
    """Draw what nothing undoes. ``together``: on several nodes at once."""
    faults = []
    for kind in kinds:
        # Old copies of a majority's directories, all at once, are a store restored from a backup: nobody can tell.
        most = 1 if kind == "roll back" or not together else rng.randint(1, len(targets))
        for target in rng.sample(list(targets), min(most, len(targets))):
            for _ in range(rng.randint(1, 4) if kind == "bit rot" else 1):
                at_s = round(rng.uniform(2.0, duration_s), 3)
                age_s = round(rng.uniform(0.5, at_s), 3) if kind == "roll back" else 0.0
                faults.append(Fault(at_s, kind, target, 0.0, age_s))
                if (
                    kind == "bit rot" and rng.random() < 0.5
                ):  # it is found when the node starts, or else when it is read
                    faults.append(Fault(round(at_s + rng.uniform(0.0, 2.0), 3), "kill", target))
    return faults


def _disturb(
    rng: random.Random, kind: FaultKind, at_s: float, target: str, others: Sequence[str], *, power: bool = True
) -> Fault:
    for_s, amount, detail = 0.0, 0.0, ""
    match kind:
        case "crash at":
            detail = rng.choice(("", "", "", ".wal", ".sst", "manifest", "register", "identity"))
            amount = rng.randrange(0, {"": rng.choice((3, 30, 200)), ".wal": 40, ".sst": 12}.get(detail, 8))
            for_s = rng.uniform(0.1, 3.0) if power and rng.random() < 0.5 else 0.0
        case "power":
            for_s = rng.uniform(0.1, 8.0)
        case "freeze":
            for_s = rng.choice((rng.uniform(0.1, 1.0), rng.uniform(1.0, 10.0)))
        case "cut":
            for_s = rng.uniform(0.2, 8.0)
            detail = rng.choice(("from ", "to ", "both ")) + rng.choice(("all", *(o for o in others if o != target)))
        case "slow node":
            for_s, amount = rng.uniform(0.5, 8.0), rng.choice((0.02, 0.2, 1.0))
        case "slow disk":
            for_s, amount = rng.uniform(0.5, 8.0), rng.choice((0.01, 0.1, 1.0))
        case "disk full":
            for_s, amount = rng.uniform(0.5, 6.0), rng.randrange(0, 20_000)
        case "sync fails" | "write fails":
            amount = rng.randrange(0, 20)
    return Fault(round(at_s, 3), kind, target, round(for_s, 3), amount, detail)
