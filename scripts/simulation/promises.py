"""What each node has acknowledged or shown, it must hold for ever, or say that it may lack it (P1, P3).

Clients see a lost promise only if enough replicas lose it at once, or the right ones are asked. Every answer of every
node is watched as well: a write that it acknowledged and a record that it showed are from then on a promise of that node.
A later answer with less breaks it; so does a run that starts with less, or ends with it. A node that says "incomplete",
or that a key is unreadable, has kept its word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.config import MAX_CLOCK_SKEW_MS
from raykv.protocol import frames as f
from raykv.protocol.requests import NODE
from raykv.records.keys import storage_prefix
from raykv.records.kinds import check, header_of, is_linear, is_vector, public
from raykv.records.record import stamp_of
from raykv.ring import partition_in
from raykv.sim.host import EPOCH_MS
from raykv.versions import causality_of, dead_since_ms, merge, time_to_ms
from raykv.versions import covers as holds
from raykv.versions.causality import covers, unpack_causality
from simulation.history import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.config import BucketConfig, StoreConfig
    from raykv.node.node import StorageNode
    from raykv.records.vector_record import Dot
    from raykv.sim.kernel import VirtualLoop

MAX_REPORTED = 3
OPERATION = slice(9, 25)
"""Where a record has its operation id."""
Held = dict[tuple[int, bytes], bytes]
"""(bucket id, encoded key) -> the record, without payloads, below which the node must not fall."""


class Promises:
    """The promises of all nodes of one run. ``forgiven``: nodes that may break theirs without knowing it.

    ``skew_ms``: the most by which a clock is off.
    """

    def __init__(self, loop: VirtualLoop, store: StoreConfig, forgiven: set[str], skew_ms: float) -> None:
        self._loop = loop
        self._partitions = store.partitions
        self.config_of: Callable[[int], BucketConfig | None] = lambda _: None
        """The policy of a bucket, by its id; None if it is not grouped either."""
        self.was_dropped: Callable[[int], bool] = lambda _: False
        """Whether anybody knows that a bucket was dropped: a run that has just begun knows nothing."""
        self._grace_ms = store.gc_grace_s * 1000 - 2 * skew_ms
        self._forgiven = forgiven
        self._held: dict[str, Held] = {}
        self.broken: list[Violation] = []
        self.dots: set[tuple[bytes, Dot]] = set()
        """All that were given, each with its key."""
        self._stamped: dict[bytes, bytes] = {}
        self._passed: set[bytes] = set()
        """Operations to which a node said that it holds something newer."""

    def before(self, node_id: str) -> Held:
        """Return what is promised now: what an answer to a request that arrives now may not fall below."""
        return dict(self._held.get(node_id, {}))

    def answered(self, node_id: str, request: bytes, answer: bytes, before: Held, wall_ms: int) -> None:
        """Compare an answer with what was promised before its request came, and add what it promises.

        ``wall_ms``: the node's clock, the latest it showed meanwhile.
        """
        body, said = f.node_requests.decode(request).body, f.node_answers.decode(answer).body
        if not isinstance(said, (*NODE[type(body)].answers, f.NodeRefused, f.NotOwner)):
            text = f"{node_id} answered {type(body).__name__} with {type(said).__name__}"
            self.broken.append(Violation("not an answer to it", "", text, self._loop.now_s))
        match body, said:
            case f.Write(), f.WriteDone():
                self._wrote(node_id, body, said, wall_ms)
            case f.ReserveDots(), f.DotsReserved():
                self._dots_given(node_id, body, said, before)
            case f.Purge(sure=True), f.Purged():
                for at, (bucket_id, key, _) in enumerate(body.items):
                    if at in said.indexes:
                        self._purged(node_id, bucket_id, key)
                    else:
                        self._let_go(bucket_id, key)
            case ((f.Read() | f.Fetch()), f.ReadDone()):
                self._read(node_id, body, said, before)
            case f.Scan(), f.ScanDone():
                self._scanned(node_id, body, said, before)
            case ((f.Accept() | f.Look() | f.ReadHeads()), _):
                self._to_leader(node_id, body, said, before)

    def _to_leader(self, node_id: str, body: f.NodeRequestBody, said: f.NodeAnswerBody, before: Held) -> None:
        """Take what a node accepted from a leader of linearizable buckets, or showed to one (L6)."""
        match body, said:
            case f.Accept(), f.Accepted():
                for (_, _, items), (later, _) in zip(body.groups, said.groups, strict=True):
                    for bucket_id, key, record in () if later else items:
                        self._promise(node_id, bucket_id, key, header_of(record))
            case f.Look(), f.Looked():
                for (_, _, keys), (_, _, records) in zip(body.groups, said.groups, strict=True):
                    for key, found in zip(keys, records, strict=False):
                        self._shown(node_id, body.bucket_id, key, found, before)
            case f.ReadHeads(), f.HeadsRead():
                for at, (key, found) in enumerate(zip(body.keys, said.records, strict=True)):
                    if at not in said.unreadable and at not in said.left:
                        self._shown(node_id, body.bucket_id, key, found, before)

    def _read(self, node_id: str, body: f.Read | f.Fetch, said: f.ReadDone, before: Held) -> None:
        """Take what a node showed. Another owner may be shown less than was promised; hints come and go."""
        for at, (key, shown) in enumerate(zip(body.keys, said.records, strict=True)):
            if isinstance(body, f.Fetch):
                if shown is not None:
                    self._promise(node_id, body.bucket_id, key, header_of(shown))
            elif at not in said.unreadable and not body.hints:
                self._shown(node_id, body.bucket_id, key, shown, before)

    def _dots_given(self, node_id: str, body: f.ReserveDots, said: f.DotsReserved, before: Held) -> None:
        for key, item in zip(body.keys, said.items, strict=True):
            if item is not None:
                if item.counter:
                    self.dots.add((key, (item.actor, item.counter)))
                self._reserved(node_id, body.bucket_id, key, item, before)

    def _wrote(self, node_id: str, body: f.Write, said: f.WriteDone, wall_ms: int) -> None:
        for (key, record), newer in zip(body.items, said.newer, strict=True):
            self._stamped_once(key, record)
            if (ahead_ms := time_to_ms(check(record)) - wall_ms) > MAX_CLOCK_SKEW_MS:
                self._break(node_id, key, f"took a write from {ahead_ms / 1000:.0f} s ahead of its clock")
            if newer:
                self._passed.add(record[OPERATION])
            else:
                self._promise(node_id, body.bucket_id, key, header_of(record))

    def _stamped_once(self, key: bytes, record: bytes) -> None:
        """Report a write that has two stamps though no node held anything newer (P7, P8)."""
        if is_vector(record) or is_linear(record):
            return  # its dots are watched (``history.Stamps``), or its stamps (``leader_watch``)
        operation, mark = record[OPERATION], stamp_of(record)
        if self._stamped.setdefault(operation, mark) != mark and operation not in self._passed:
            shown = key[1:].decode(errors="replace")
            text = f"a write of {shown} was stamped again though no node held anything newer"
            self.broken.append(Violation("stamped twice", shown, text, self._loop.now_s))
            self._passed.add(operation)

    def audit(self, node_id: str, node: StorageNode) -> None:
        """Compare what a node has now with all that it ever promised."""
        self.given_away(node_id, node)
        for (bucket_id, key), promised in self._held.get(node_id, {}).items():
            if self._lacks(node, bucket_id, key, promised):
                self._break(node_id, key, f"in incarnation {node.incarnation} has less than it acknowledged or showed")

    def _lacks(self, node: StorageNode, bucket_id: int, key: bytes, promised: bytes, *, durably: bool = False) -> bool:
        """Whether a node that answers reads holds less of a readable key: as no client could ask, at once.

        ``durably``: what its log does not hold yet does not count.
        The key is sought where it lies, not by the node's own state, of which a run that has just begun knows nothing.
        """
        replica, engine = node._replica, node._engine  # noqa: SLF001
        if not replica.complete:
            return False
        found, unreadable = engine.get_many([storage_prefix(self._partition_of(bucket_id, key), bucket_id) + key])
        if durably and found[0] is not None and found[0].position > engine.durable_position:
            return True
        return not unreadable and not _holds(None if found[0] is None else public(found[0].record), promised)

    def given_away(self, node_id: str, node: StorageNode) -> None:
        """Forget what a node promised that it is not to hold any more: others hold it (P4), or its bucket was dropped."""
        held, state = self._held.get(node_id, {}), node._replica.state  # noqa: SLF001
        for bucket_id, key in list(held):
            dropped = self.was_dropped(bucket_id) or (state is not None and state.dropped(bucket_id))
            if dropped or not node._replica.holds(self._partition_of(bucket_id, key), bucket_id):  # noqa: SLF001
                del held[bucket_id, key]

    def _partition_of(self, bucket_id: int, key: bytes) -> int:
        return partition_in(self.config_of(bucket_id), key, self._partitions)

    def left(self, node_id: str) -> None:
        """Forget what a node promised that is no member any more."""
        self._held.pop(node_id, None)

    def check_held(self, key: bytes, mark: bytes, nodes: Sequence[str], holds: Callable[[str], bool]) -> None:
        """Report a write that counts on a node which never acknowledged its last stamp (P7).

        ``holds(node_id)``: whether it holds that stamp or a later one all the same: a repair brings records that no message
        to the node shows.
        """
        for node_id in nodes:
            if holds(node_id):
                continue
            held = [record for (_, known), record in self._held.get(node_id, {}).items() if known == key]
            if held and all(not is_vector(record) and stamp_of(record) < mark for record in held):
                shown = key[1:].decode(errors="replace")
                text = f"a write of {shown} counts on {node_id}, which acknowledged it under a former stamp only"
                self.broken.append(Violation("counted under a former stamp", shown, text, self._loop.now_s))

    def renew(self, node_id: str, node: StorageNode) -> None:
        """Forget what a node promised before it lost its memory and does not have now that it is complete again.

        It has taken over what W had acknowledged; of a write that it alone had acknowledged nobody can know.
        """
        held = self._held.get(node_id, {})
        for (bucket_id, key), promised in list(held.items()):
            if self._lacks(node, bucket_id, key, promised, durably=True):
                del held[bucket_id, key]

    def _shown(self, node_id: str, bucket_id: int, key: bytes, record: bytes | None, before: Held) -> None:
        promised = before.get((bucket_id, key))
        if promised is not None and not _holds(record, promised):
            self._break(node_id, key, "answered a read with less than it had acknowledged or shown")
        if record is not None:
            self._promise(node_id, bucket_id, key, header_of(record))

    def _reserved(self, node_id: str, bucket_id: int, key: bytes, item: f.Reserved, before: Held) -> None:
        promised = before.get((bucket_id, key))
        if promised is not None and not covers(unpack_causality(item.causality).seen, causality_of(promised).seen):
            self._break(node_id, key, "gave a dot over less than it had acknowledged or shown")

    def _scanned(self, node_id: str, body: f.Scan, said: f.ScanDone, before: Held) -> None:
        given = dict(said.items)
        for (bucket_id, key), promised in before.items():
            if bucket_id != body.bucket_id or not body.start <= key < body.end:
                continue
            if self._partition_of(bucket_id, key) not in body.partitions:
                continue
            if said.covered is not None and (key < said.covered if body.reverse else key > said.covered):
                continue
            if not _holds(given.get(key), promised):
                self._break(node_id, key, "answered a scan with less than it had acknowledged or shown")
        for key, record in given.items():
            self._promise(node_id, body.bucket_id, key, header_of(record))

    def _purged(self, node_id: str, bucket_id: int, key: bytes) -> None:
        """Take back all promises of a record that its owners have agreed to forget; it must have been dead for long."""
        promised = self._held.get(node_id, {}).get((bucket_id, key))
        if promised is not None and is_linear(promised):
            # What a leader keeps itself crosses no network: the other owners have acknowledged the same record.
            known = [held[bucket_id, key] for held in self._held.values() if (bucket_id, key) in held]
            promised = max(known, key=lambda record: record[1:25])
        since_ms = None if promised is None else dead_since_ms(promised)
        now_ms = EPOCH_MS + self._loop.now_s * 1000
        if promised is not None and (since_ms is None or now_ms - since_ms < self._grace_ms):
            self._break(node_id, key, "forgot what was not dead for longer than the grace")
        self.forget(bucket_id, key)

    def _let_go(self, bucket_id: int, key: bytes) -> None:
        """Take back the promises of what is long dead: this node holds another record by now, and others forget it."""
        now_ms = EPOCH_MS + self._loop.now_s * 1000
        for held in self._held.values():
            promised = held.get((bucket_id, key))
            since_ms = None if promised is None else dead_since_ms(promised)
            if since_ms is not None and now_ms - since_ms >= self._grace_ms:
                del held[bucket_id, key]

    def forget(self, bucket_id: int, key: bytes) -> None:
        """Take back all promises of a key."""
        for held in self._held.values():
            held.pop((bucket_id, key), None)

    def _promise(self, node_id: str, bucket_id: int, key: bytes, record: bytes) -> None:
        held = self._held.setdefault(node_id, {})
        held[bucket_id, key] = merge(held.get((bucket_id, key)), record)

    def _break(self, node_id: str, key: bytes, what: str) -> None:
        if node_id not in self._forgiven and len(self.broken) < MAX_REPORTED:
            shown = key[1:].decode(errors="replace")
            self.broken.append(Violation("promise broken", shown, f"{node_id} {what}: {shown}", self._loop.now_s))


def _holds(record: bytes | None, promised: bytes) -> bool:
    """Whether ``record`` is what was promised, or more."""
    return record is not None and holds(header_of(record), promised)
