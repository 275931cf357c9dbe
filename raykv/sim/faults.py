"""The faults of a simulated cluster, drawn from a seed.

Swarm testing (Groce et al., ISSTA 2012): each draw leaves some kinds of fault out. With all kinds in every run, common
ones drown the rare ones, and faults that mask each other stay masked.

Within raykv's promises a draw disturbs a minority of a key's copies at once, and irreversible faults (a wiped, corrupt or
old directory) stay on at most ``budget`` nodes. Beyond the promises, anything coincides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from raykv.sim.cluster import SUPERVISOR
from raykv.sim.network import NetworkOdds

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from raykv.sim.cluster import ClusterSpec

FaultKind = Literal[
    "kill", "crash at", "power", "freeze", "cut", "slow node", "slow disk", "sync fails", "write fails", "disk full",
    "bit rot", "wipe", "roll back", "kill coordinator", "freeze coordinator", "kill supervisor", "freeze supervisor",
    "clock jump", "another supervisor", "clock far off", "power when complete", "add node", "remove node", "set weight",
    "lose host", "replace node", "kill all", "freeze leader", "cut leader", "kill leader", "kill sending leader",
    "full disk at leader", "clock jump at leader",
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
LEADERS: tuple[FaultKind, ...] = (
    "freeze leader", "cut leader", "kill leader", "kill sending leader", "full disk at leader", "clock jump at leader",
)  # fmt: skip
"""Their target is a key: they strike the node that leads its partition then. None is drawn here."""
GONE: FaultKind = "lose host"
"""A host goes for good, with its disk: its node must be replaced."""
RECOVERY_S = 3.0
"""The time for a node to recover from a fault before another node is disturbed (within the promises)."""


class Fault(msgspec.Struct, frozen=True):
    """A fault that hits ``target`` at ``at_s`` and lasts ``for_s`` (0: instantaneous).

    ``amount``: the n-th operation for "crash at", seconds for the slow ones, bytes for "disk full", milliseconds for the
    clocks, age in seconds for "roll back", seconds after a node has completed itself for "power when complete"; a weight.
    ``detail``: for "cut", the other side, and whether both ways; for "crash at", which files count; with ``for_s`` the
    power goes as well.
    """

    at_s: float
    kind: FaultKind
    target: str
    for_s: float = 0.0
    amount: float = 0.0
    detail: str = ""

    def describe(self) -> str:
        """Return a line for a human reader."""
        during = f" for {self.for_s:.2f} s" if self.for_s else ""
        extra = f" ({self.amount:g})" if self.amount else ""
        return f"{self.at_s:9.3f}  {self.kind} {self.target}{' ' + self.detail if self.detail else ''}{extra}{during}"


def draw_odds(rng: random.Random, *, weak: bool = False) -> NetworkOdds:
    """Draw the network's treatment of messages."""
    rough = weak or rng.random() < 0.7
    return NetworkOdds(
        delay_s=rng.choice(((0.0002, 0.002), (0.001, 0.02))),
        late=rng.choice((0.0, 0.05, 0.3)) if rough else 0.0,
        late_s=rng.choice((0.3, 3.0)),
        lost=rng.choice((0.0, 0.02, 0.15)) if rough and not weak else 0.0,
        repeated=rng.choice((0.0, 0.02, 0.2)) if rough else 0.0,
    )


def draw_faults(rng: random.Random, cluster: ClusterSpec, duration_s: float, budget: int | None) -> tuple[Fault, ...]:
    """Draw the faults; ``budget``: the most nodes that may be lost for good; None: any number.

    Transient faults may hit any minority of the copies at once: operations may fail then, and nothing is lost.
    """
    nodes, coordinators = cluster.node_ids, cluster.coordinator_names
    interval = cluster.store.durability == "interval"
    kinds = [kind for kind in rng.sample(DISTURBING, rng.randint(0, 6)) if not (interval and kind == "power")]
    central = [kind for kind in CENTRAL if rng.random() < (0.1 if kind == "clock far off" else 0.3)]
    lasting = [kind for kind in LASTING if rng.random() < 0.25]
    if "roll back" in lasting:
        # Only those that have heard from a node since can recognize its directory as an old copy. Until nodes hear from
        # each other, these are the supervisor and the coordinators, and their memory ends with their processes.
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
    if "kill supervisor" in central:  # and just then nobody remembers
        faults += [Fault(fault.at_s, "kill supervisor", SUPERVISOR) for fault in faults if fault.kind == "wipe"]
    for kind in central:
        for _ in range(rng.randint(1, 4)):
            faults.append(_draw_central(rng, kind, nodes, coordinators, duration_s))
    faults += _draw_elastic(rng, duration_s)
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _draw_elastic(rng: random.Random, duration_s: float) -> list[Fault]:
    """Draw changes of the ring; the node that leaves or changes weight is chosen at that time."""
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
    """Draw faults of a supervisor, a coordinator or a clock."""
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
    """Draw a fault of one kind that hits a majority, or all, at about the same time."""
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
    """Draw transient faults: up to three close together on one node, then on another."""
    faults: list[Fault] = []
    at_s = rng.uniform(0.0, 4.0)
    while kinds and at_s < duration_s:
        target = rng.choice(targets)
        over_s = 0.0
        for _ in range(rng.choice((1, 1, 2, 3))):
            fault = _disturb(rng, rng.choice(kinds), at_s, target, others, power=power)
            faults.append(fault)
            over_s = max(over_s, fault.at_s + fault.for_s)
            at_s += rng.choice((rng.uniform(0.0, 0.6), rng.uniform(0.3, 3.0)))  # perhaps while it restarts
        at_s = max(at_s, over_s + RECOVERY_S) if one_by_one else at_s + rng.expovariate(1.0)
    return faults


def _draw_lasting(
    rng: random.Random, kinds: Sequence[FaultKind], targets: Sequence[str], duration_s: float, *, together: bool
) -> list[Fault]:
    """Draw irreversible faults. ``together``: on several nodes at once."""
    faults = []
    for kind in kinds:
        # Old copies of a majority's directories, all at once, are a store restored from a backup: undetectable.
        most = 1 if kind == "roll back" or not together else rng.randint(1, len(targets))
        for target in rng.sample(list(targets), min(most, len(targets))):
            for _ in range(rng.randint(1, 4) if kind == "bit rot" else 1):
                at_s = round(rng.uniform(2.0, duration_s), 3)
                age_s = round(rng.uniform(0.5, at_s), 3) if kind == "roll back" else 0.0
                faults.append(Fault(at_s, kind, target, 0.0, age_s))
                if kind == "bit rot" and rng.random() < 0.5:  # detected when the node starts, or when it is read
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
