"""The gossip of ``raykv.membership`` at any size, in virtual time: what it costs, how fast it is, how often it is wrong.

The detectors and the verdicts are the real ones; here are only N of them, messages between them that take 1 to 20 ms or
are lost, ticks at random phases that come up to 5 ms late, and deaths. It stands apart from ``kernel`` and ``network``
because 500 nodes exchange 2,000 tables of 500 entries in every virtual second: a heap of tuples, no event loop, no trace.
A seed decides everything.

``spread``, ``cost``, ``deaths`` and ``calm`` answer one question each; ``scripts/gossip`` asks them all.

Left out: the way of reports to the supervisor (they arrive at once and always; it is one more message), nodes that are
slow, and what a call through Ray adds to a frame.
"""

from __future__ import annotations

import heapq
import random
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raykv.config import MAX_NODES, check_count
from raykv.errors import InvalidOption
from raykv.membership import FailureDetector, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from raykv.membership import Table

EVERY_S = 0.5
FANOUT = 2
EXPIRES_ROUNDS = 6.0
PARDON_ROUNDS = 4.0
"""The time after a restart in which verdicts on the node do not count: its first heartbeat must get round."""
DELAY_S = (0.001, 0.020)
LATE_S = 0.005
HEADER_BYTES = 64
"""What a message carries besides the table, about: kind, number, sender, incarnation, checksum."""
WARM_S = 20.0
"""After this long the detectors have learned 40 gaps of each peer, and their first guess hardly counts."""
PATIENCE_S = 30.0

_TICK, _PUSH, _PULL = range(3)


class Gossip:
    """N nodes that gossip. ``InvalidOption`` if ``nodes`` is out of range or ``loss`` is no share.

    ``loss``: the share of messages that never arrive, each direction by itself.
    """

    def __init__(
        self, nodes: int, *, seed: int, loss: float = 0.0, every_s: float = EVERY_S, fanout: int = FANOUT
    ) -> None:
        check_count("nodes", nodes, 2, MAX_NODES)
        if not 0 <= loss < 1:
            raise InvalidOption(f"loss is a share from 0 to below 1; got {loss!r}")
        self.now_s = 0.0
        self.node_ids = [f"node-{number:03}" for number in range(nodes)]
        self.dead: dict[str, float] = {}
        """When each node that is dead died."""
        self.messages = 0
        self.false_suspicions = 0
        """How often a node began to suspect a living one."""
        self.false_verdicts = 0
        """How often a living node came to be down."""
        self.two_after_s: dict[str, float] = {}
        """Dead node -> the seconds until it was down."""
        self._every_s = every_s
        self._fanout = fanout
        self._loss = loss
        self._random = random.Random(seed)
        self._verdicts = Verdicts(expires_s=EXPIRES_ROUNDS * every_s)
        self._down: set[str] = set()
        self._suspects: dict[str, set[str]] = {node_id: set() for node_id in self.node_ids}
        self._incarnations = dict.fromkeys(self.node_ids, 0)
        self._side: dict[str, int] = {}
        self._numbers = count()
        self._events: list[tuple[float, int, int, str, str, Table, int]] = []
        self.detectors: dict[str, FailureDetector] = {}
        for node_id in self.node_ids:
            self._start(node_id)

    def kill(self, node_id: str) -> None:
        """Let a node die. Messages that are under way from it arrive."""
        self.dead[node_id] = self.now_s
        self._incarnations[node_id] += 1
        self._suspects[node_id] = set()

    def revive(self, node_id: str) -> None:
        """Start a dead node again, in its next incarnation; what was said about it and by it is forgotten."""
        del self.dead[node_id]
        self.two_after_s.pop(node_id, None)
        self._down.discard(node_id)
        self._verdicts.forget(node_id, self.now_s + PARDON_ROUNDS * self._every_s)
        self._start(node_id)

    def cut(self, *sides: Iterable[str]) -> None:
        """Lose everything between these groups of nodes, and between them and the rest; with none, heal all cuts."""
        self._side = {node_id: number for number, side in enumerate(sides, 1) for node_id in side}

    def suspected_by(self, node_id: str) -> list[str]:
        """Return who suspected a node at their last tick, in the order of the nodes."""
        return [reporter for reporter in self.node_ids if node_id in self._suspects[reporter]]

    def down(self) -> dict[str, list[str]]:
        """Return the nodes that are down, with their witnesses."""
        return self._verdicts.down(self.now_s)

    def run(self, until_s: float) -> None:
        """Let virtual time go on until then."""
        while self._events and self._events[0][0] <= until_s:
            self.step()
        self.now_s = until_s

    def step(self) -> None:
        """Let the next thing happen."""
        self.now_s, _, what, node_id, sender, table, incarnation = heapq.heappop(self._events)
        if node_id in self.dead or (what == _TICK and incarnation != self._incarnations[node_id]):
            return
        if what == _TICK:
            self._tick(node_id, incarnation)
            return
        detector = self.detectors[node_id]
        if what == _PUSH:
            self._send(_PULL, node_id, sender, detector.table())
        detector.hear(table, self.now_s)

    def _start(self, node_id: str) -> None:
        detector = FailureDetector(
            node_id,
            self._incarnations[node_id],
            every_s=self._every_s,
            random=random.Random(self._random.getrandbits(64)),
            fanout=self._fanout,
        )
        detector.set_members(self.node_ids, self.now_s)
        self.detectors[node_id] = detector
        self._schedule(self._every_s * self._random.random(), _TICK, node_id)

    def _schedule(self, after_s: float, what: int, node_id: str, sender: str = "", table: Table | None = None) -> None:
        event = (self.now_s + after_s, next(self._numbers), what, node_id, sender, table or {})
        heapq.heappush(self._events, (*event, self._incarnations[node_id]))

    def _send(self, what: int, sender: str, node_id: str, table: Table) -> None:
        self.messages += 1
        cut = self._side.get(sender, 0) != self._side.get(node_id, 0)
        if not cut and self._random.random() >= self._loss:
            self._schedule(self._random.uniform(*DELAY_S), what, node_id, sender, table)

    def _tick(self, node_id: str, incarnation: int) -> None:
        assert incarnation == self._incarnations[node_id]
        detector = self.detectors[node_id]
        for peer in detector.tick(self.now_s):
            self._send(_PUSH, node_id, peer, detector.table())
        self._report(node_id, detector.suspects(self.now_s))
        self._schedule(self._every_s + LATE_S * self._random.random(), _TICK, node_id)

    def _report(self, node_id: str, suspects: list[str]) -> None:
        before = self._suspects[node_id]
        if not suspects and not before:
            return
        self._suspects[node_id] = set(suspects)
        self.false_suspicions += sum(suspect not in before and suspect not in self.dead for suspect in suspects)
        self._verdicts.report(node_id, suspects, self.now_s)
        down = set(self._verdicts.down(self.now_s))
        for judged in sorted(down - self._down):
            if judged in self.dead:
                self.two_after_s[judged] = self.now_s - self.dead[judged]
            else:
                self.false_verdicts += 1
        self._down = down


def spread(nodes: int, seed: int, fanout: int = FANOUT) -> list[int]:
    """Return how many nodes know of a new heartbeat after 0, 1, 2, ... rounds, until all do. No loss.

    >>> spread(3, seed=1)
    [1, 3]
    """
    gossip = Gossip(nodes, seed=seed, fanout=fanout)
    gossip.run(2 * EVERY_S)
    first = gossip.node_ids[0]
    wanted = gossip.detectors[first].table()[first][1] + 1

    def knowing() -> int:
        return sum(detector.table()[first][1] >= wanted for detector in gossip.detectors.values())

    while gossip.detectors[first].table()[first][1] < wanted:
        gossip.step()
    known = [1]
    began_s = gossip.now_s
    while known[-1] < nodes:
        gossip.run(began_s + len(known) * EVERY_S)
        known.append(knowing())
    return known


class Cost(NamedTuple):
    """What a node sends, in messages and bytes a second, by gossip and if everybody sent to everybody."""

    gossip_messages_per_s: float
    gossip_bytes_per_s: float
    all_to_all_messages_per_s: float
    all_to_all_bytes_per_s: float


def cost(nodes: int, fanout: int = FANOUT, every_s: float = EVERY_S) -> Cost:
    """Return what each node sends: by gossip ``fanout`` tables a round and as many answers, else N - 1 heartbeats.

    The table is one in MessagePack as it is after half a day, with ids of 8 characters.
    """
    check_count("nodes", nodes, 2, MAX_NODES)
    table = {f"node-{number:03}": (1, 100_000 + number) for number in range(nodes)}
    table_bytes = HEADER_BYTES + len(msgspec.msgpack.encode(table))
    entry_bytes = HEADER_BYTES + len(msgspec.msgpack.encode({"node-000": table["node-000"]}))
    gossip_per_s = 2 * min(fanout, nodes - 1) / every_s
    all_per_s = (nodes - 1) / every_s
    return Cost(gossip_per_s, gossip_per_s * table_bytes, all_per_s, all_per_s * entry_bytes)


class Deaths(NamedTuple):
    """How long it took, in seconds from each death, until two suspected the dead node, and until all living ones did.

    ``missed``: deaths that not everybody had noticed after 30 s; they stand in neither list.
    """

    two_s: list[float]
    all_s: list[float]
    missed: int


def deaths(
    nodes: int, *, loss: float, seed: int, times: int, progress: Callable[[str], object] | None = None
) -> Deaths:
    """Kill a node (of over 100 nodes, one in a hundred) at random moments of one round, ``times`` times over.

    Between two times all are revived, and the detectors get 20 s to learn. With fewer than 3 nodes, two never suspect one.
    """
    check_count("nodes", nodes, 3, MAX_NODES)
    gossip = Gossip(nodes, seed=seed, loss=loss)
    draw = random.Random(seed)
    two_s: list[float] = []
    all_s: list[float] = []
    missed = 0
    for number in range(times):
        gossip.run(gossip.now_s + WARM_S)
        chosen = draw.sample(gossip.node_ids, max(1, nodes // 100))
        for at_s, node_id in sorted((gossip.now_s + EVERY_S * draw.random(), node_id) for node_id in chosen):
            gossip.run(at_s)
            gossip.kill(node_id)
        began_s = gossip.now_s
        noticed: dict[str, float] = {}
        while len(noticed) < len(chosen) and gossip.now_s < began_s + PATIENCE_S:
            gossip.run(gossip.now_s + EVERY_S / 20)
            for node_id in chosen:
                if node_id not in noticed and len(gossip.suspected_by(node_id)) == nodes - len(chosen):
                    noticed[node_id] = gossip.now_s - gossip.dead[node_id]
        missed += len(chosen) - len(noticed)
        two_s += [gossip.two_after_s[node_id] for node_id in noticed]
        all_s += noticed.values()
        for node_id in chosen:
            gossip.revive(node_id)
        if progress:
            progress(f"{nodes} nodes, {loss:.0%} loss: {number + 1} of {times} rounds of deaths")
    return Deaths(two_s, all_s, missed)


class Calm(NamedTuple):
    """What happened while nobody died."""

    virtual_s: float
    messages: int
    false_suspicions: int
    false_verdicts: int


def calm(
    nodes: int, *, loss: float, seed: int, virtual_s: float, progress: Callable[[str], object] | None = None
) -> Calm:
    """Let ``nodes`` living nodes gossip for so long, after 20 s to learn, and count who was suspected all the same."""
    gossip = Gossip(nodes, seed=seed, loss=loss)
    gossip.run(WARM_S)
    before = gossip.messages, gossip.false_suspicions, gossip.false_verdicts
    end_s = gossip.now_s + virtual_s
    while gossip.now_s < end_s:
        gossip.run(min(end_s, gossip.now_s + 2 * EVERY_S))
        if progress:
            left_s = end_s - gossip.now_s
            progress(
                f"{nodes} nodes, {loss:.0%} loss: {left_s:,.0f} virtual s left, {gossip.false_suspicions} suspicions"
            )
    after = gossip.messages, gossip.false_suspicions, gossip.false_verdicts
    return Calm(virtual_s, *(now - then for now, then in zip(after, before, strict=True)))
