"""A cluster with a linearizable bucket. Its nodes do nothing by themselves, and a test holds their messages in its hands."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from world import BUCKET, WALL_MS, Cluster, run

from raykv.ports import PeerSilent
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.protocol.changes import cell
from raykv.records import linear_record as linear
from raykv.records.keys import encode_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from world import NodeProcess

    from raykv.records.linear_record import LinearRecord
    from raykv.replica.tenure import Tenure
    from raykv.sim.kernel import Process
    from raykv.sim.network import Network

__all__ = ["BUCKET", "WALL_MS", "Caller", "Leaders", "Sent", "Wire", "cell", "run"]


class Sent(NamedTuple):
    """A message from one node to another."""

    source: str
    target: str
    body: Any


class Rule:
    """Messages that are held up: these kinds, from and to these nodes (None: any)."""

    def __init__(
        self, wire: Wire, kinds: tuple[type[Any], ...], source: str | None, target: str | None, *, answers: bool
    ) -> None:
        self._wire = wire
        self._kinds = kinds
        self._source = source
        self._target = target
        self.answers = answers
        self._open = asyncio.Semaphore(0)
        self._caught = asyncio.Event()
        self.held: list[Sent] = []

    def fits(self, sent: Sent) -> bool:
        return (
            isinstance(sent.body, self._kinds or object)
            and self._source in {None, sent.source}
            and self._target in {None, sent.target}
        )

    async def wait(self, sent: Sent) -> None:
        self.held.append(sent)
        self._caught.set()
        await self._open.acquire()

    async def caught(self) -> Any:
        """Wait until it holds something up; return the body of the first."""
        await self._caught.wait()
        return self.held[0].body

    def release(self) -> None:
        """Let go what was held up, and what comes."""
        self.let_go(len(self.held))
        self._wire.rules.remove(self)

    def let_go(self, count: int) -> None:
        """Let go the first of what is held up."""
        for _ in range(count):
            self._open.release()

    def end(self) -> None:
        """Let go what comes; what was held up is lost."""
        self._wire.rules.remove(self)


class Wire:
    """A network whose messages to nodes are known, and held up where a test asks for it."""

    def __init__(self, network: Network) -> None:
        self._call = network.call
        network.call = self.call  # type: ignore[method-assign]
        self.rules: list[Rule] = []
        self.sent: list[Sent] = []

    def hold(
        self, *kinds: type[Any], source: str | None = None, target: str | None = None, answers: bool = False
    ) -> Rule:
        """Hold up messages, or the answers to them; never released they are lost."""
        rule = Rule(self, kinds, source, target, answers=answers)
        self.rules.append(rule)
        return rule

    async def call(self, source: Process, peer: str, frame: bytes, timeout_s: float) -> bytes:
        """See ``Network.call``."""
        if not peer.startswith("node/"):
            return await self._call(source, peer, frame, timeout_s)
        sent = Sent(source.name.removeprefix("node/"), peer.removeprefix("node/"), f.node_requests.decode(frame).body)
        self.sent.append(sent)
        try:
            async with asyncio.timeout(timeout_s):
                await self._pass(sent, answers=False)
                answer = await self._call(source, peer, frame, timeout_s)
                await self._pass(sent, answers=True)
                return answer
        except TimeoutError:
            raise PeerSilent("held up") from None

    async def _pass(self, sent: Sent, *, answers: bool) -> None:
        for rule in [*self.rules]:
            if rule.answers == answers and rule.fits(sent):
                await rule.wait(sent)

    def of(self, kind: type[Any]) -> list[Sent]:
        """The messages of one kind so far."""
        return [sent for sent in self.sent if isinstance(sent.body, kind)]


class Leaders(Cluster):
    """Nodes with a linearizable bucket; no background work, so all that happens was asked for."""

    def __init__(self, nodes: int = 3, copies: int = 3, **options: Any) -> None:
        super().__init__(nodes, copies=copies, versioning="linearizable", maintenance=True, **options)
        self.wire = Wire(self.network)
        self.n = copies

    def start_node(self, node_id: str, *, fresh: bool = False) -> NodeProcess:
        started = super().start_node(node_id, fresh=fresh)
        for task in started.node._loops:
            task.cancel()
        return started

    def kill(self, node_id: str, mode: Any = "drop") -> None:
        super().kill(node_id, mode)
        self.node(node_id)._leaders._tenures.clear()

    # ---- what stands ----

    def led(self, key: str) -> tuple[int, int]:
        """What a leader of the key leads: partition, and number of copies."""
        return self.partition(key), self.n

    def replica(self, node_id: str) -> Any:
        return self.node(node_id)._replica

    def promised(self, node_id: str, key: str) -> tuple[bytes, str]:
        kept = self.replica(node_id).promises.of(*self.led(key))
        return kept.term, kept.leader

    def tenure(self, node_id: str, key: str) -> Tenure | None:
        found: Tenure | None = self.node(node_id)._leaders._tenures.get(self.led(key))
        return found

    def record(self, node_id: str, key: str) -> LinearRecord | None:
        kept = self.stored(node_id, key)
        return None if kept is None else linear.decode(kept)

    def payloads(self, key: str) -> list[bytes | None]:
        """What each owner holds."""
        return [None if (kept := self.record(at, key)) is None else kept.payload for at in self.owners(key)]

    def names(self) -> dict[bytes, set[bytes]]:
        """Term and seq -> the records that were sent under it: one for each (L6)."""
        found: dict[bytes, set[bytes]] = {}
        for sent in self.wire.of(f.Accept):
            for _, _, items in sent.body.groups:
                for _, _, record in items:
                    found.setdefault(record[1:25], set()).add(record)
        return found

    # ---- what is asked ----

    def handle(self, node_id: str, body: Any) -> Any:
        """Have a node answer at once, as if the message had arrived just now."""
        return self.replica(node_id).handle(body)[0]

    async def apply(
        self,
        node_id: str,
        *items: f.Change,
        timeout_s: float = 5.0,
        silent: Sequence[str] = (),
        unable: Sequence[str] = (),
        left_s: float = 0.0,
    ) -> list[f.Settled]:
        """Have a node carry out changes, as their coordinator would. ``left_s``: if it is more than the time-out."""
        node = self.node(node_id)
        expires_s = node._clock.monotonic_s() + timeout_s
        body = f.Apply(
            BUCKET, [*items], node.incarnation, expires_s, [*silent], [*unable], left_s or max(0.001, timeout_s)
        )
        answer = await self.ask(node_id, body)
        assert isinstance(answer, f.Applied), answer
        return answer.items

    async def one(self, node_id: str, change: f.Change, **options: Any) -> f.Settled:
        (settled,) = await self.apply(node_id, change, **options)
        return settled

    def promise(self, node_id: str, key: str, term: bytes, leader: str) -> f.Promised:
        answer = self.handle(node_id, f.Promise(*self.led(key), term, leader))
        assert isinstance(answer, f.Promised), answer
        return answer

    def accept(self, node_id: str, term: bytes, leader: str, *records: tuple[str, bytes], key: str = "") -> Any:
        """Have a node accept (key, record)s of one partition; none: just the term, in the partition of ``key``."""
        partition = self.partition(records[0][0] if records else key)
        items = [(BUCKET, encode_key(name), record) for name, record in records]
        return self.handle(node_id, f.Accept(self.n, leader, WALL_MS, [(partition, term, items)]))


class Caller:
    """A lane of a client, and its calls."""

    def __init__(self, name: int = 1) -> None:
        self.lane = name.to_bytes(8)
        self._numbers: Iterator[int] = itertools.count(1)

    def call(self, key: str, kind: int, payload: bytes = b"", **options: Any) -> f.Change:
        number = options.pop("number", None) or next(self._numbers)
        return f.Change(encode_key(key), kind, payload, self.lane, number, **options)

    def put(self, key: str, value: str, **options: Any) -> f.Change:
        return self.call(key, c.PUT, value.encode(), **options)

    def delete(self, key: str, **options: Any) -> f.Change:
        return self.call(key, c.DELETE, **options)

    def add(self, key: str, amount: int = 1, **options: Any) -> f.Change:
        return self.call(key, c.ADD, cell(amount), **options)

    @staticmethod
    def read(key: str) -> f.Change:
        return f.Change(encode_key(key), c.READ)
