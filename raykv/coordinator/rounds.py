"""Counting quorums: accumulators that take what came and say what to do next.

No clock, no network: ``coordinator`` fetches and waits, these decide. Each holds the items of one batch, because a batch
sends one request per node and yet each of its keys has its own quorum. Items are numbered in the caller's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import msgspec

from raykv.coordinator.judgements import acknowledges, counted, first_to_reserve
from raykv.protocol import frames as f
from raykv.protocol.frames import FULL
from raykv.versions import covers, merge

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

T = TypeVar("T")
Asks: TypeAlias = dict[str, list[int]]
"""Node id -> the items to ask it for."""
ReserveAsks: TypeAlias = dict[str, list[tuple[int, bool]]]
"""Node id -> the items to ask it for, each with whether a dot is wanted."""


class _Asking(
    msgspec.Struct, Generic[T]
):  # a struct: a request has a thousand, and a dataclass takes four times as long
    order: Sequence[str]
    asked: list[str]
    failed: list[str] = []
    answers: dict[str, T] = {}
    hedged: list[str] = []
    overloaded: list[str] = []


class AskRound(Generic[T]):
    """Asks nodes until each item has ``r`` answers."""

    def __init__(self, orders: Sequence[Sequence[str]], r: int) -> None:
        """``orders``: for each item the nodes, in the order in which to ask them."""
        self._r = r
        self._items: list[_Asking[T]] = [_Asking(order, []) for order in orders]
        self._open = set(range(len(orders)))
        self._given_up: set[int] = set()
        self.hedges = 0
        """Nodes asked because others were slow."""
        self.hedges_won = 0
        """How many of those answered before a key had its r answers."""

    @property
    def open(self) -> bool:
        """Whether an item still lacks answers."""
        return bool(self._open)

    def start(self) -> Asks:
        """Ask the first r nodes of each item."""
        asks: Asks = {}
        for index, item in enumerate(self._items):
            for node_id in item.order[: self._r]:
                self._ask(asks, index, item, node_id)
        return asks

    def answered(self, node_id: str, indexes: Sequence[int], answers: Sequence[T]) -> None:
        """Record a node's answer. Answers after the r-th are dropped."""
        for index, answer in zip(indexes, answers, strict=True):
            if index in self._open:
                item = self._items[index]
                item.answers[node_id] = answer
                self.hedges_won += node_id in item.hedged
                if len(item.answers) >= self._r:
                    self._open.discard(index)

    def failed(self, node_id: str, indexes: Sequence[int]) -> Asks:
        """Record a failure (or "incomplete", which is no answer either); ask the next in order instead."""
        asks: Asks = {}
        for index in indexes:
            if index in self._open:
                item = self._items[index]
                item.failed.append(node_id)
                self._ask_next(asks, index, item)
        return asks

    def overloaded(self, node_id: str, indexes: Sequence[int]) -> Asks:
        """Record a refusal for overload; ask the next. An item with too few nodes left is given up at once."""
        for index in indexes:
            item = self._items[index]
            item.overloaded.append(node_id)
            if index in self._open and len(item.order) - len({*item.overloaded}) < self._r:
                self._open.discard(index)
                self._given_up.add(index)
        return self.failed(node_id, indexes)

    def given_up(self, index: int) -> bool:
        """Whether too many of the possible nodes are overloaded."""
        return index in self._given_up

    def more(self) -> Asks:
        """Time has passed: race slow nodes with the next in order; where all were asked, retry the failed ones."""
        asks: Asks = {}
        for index in sorted(self._open):
            item = self._items[index]
            if self._ask_next(asks, index, item):
                self.hedges += 1
                item.hedged.append(item.asked[-1])
            else:
                for node_id in dict.fromkeys(item.failed):
                    asks.setdefault(node_id, []).append(index)
                item.failed.clear()
        return asks

    def settled(self, index: int) -> bool:
        """Whether the item has its r answers."""
        return index not in self._open and index not in self._given_up

    def answers(self, index: int) -> list[str]:
        """Return the nodes that answered."""
        return list(self._items[index].answers)

    def _ask_next(self, asks: Asks, index: int, item: _Asking[T]) -> bool:
        for node_id in item.order:
            if node_id not in item.asked:
                self._ask(asks, index, item, node_id)
                return True
        return False

    @staticmethod
    def _ask(asks: Asks, index: int, item: _Asking[T], node_id: str) -> None:
        item.asked.append(node_id)
        asks.setdefault(node_id, []).append(index)


class ReadRound(AskRound["bytes | None"]):
    """Reads until each key has ``r`` complete answers (P9)."""

    def merged(self, index: int) -> bytes | None:
        """Return the merged answers."""
        result: bytes | None = None
        for record in self._items[index].answers.values():
            if record is not None:
                result = merge(result, record)
        return result

    def holders(self, index: int, record: bytes) -> list[str]:
        """Return the nodes that answered with ``record`` or something newer."""
        return [node_id for node_id, held in self._items[index].answers.items() if covers(held, record)]

    def others(self, index: int, holders: Sequence[str]) -> list[bytes | None]:
        """Return what the other nodes answered with."""
        return [held for node_id, held in self._items[index].answers.items() if node_id not in holders]


class _Reserving(msgspec.Struct):
    order: Sequence[str]
    needed: int
    stampers: list[str] = []
    """The nodes asked for a dot."""
    waiting: list[tuple[str, bool]] = []
    """The nodes that have not answered yet, each with whether it was asked for a dot too."""
    failed: list[str] = []
    asked: list[str] = []
    """The nodes asked for anything."""
    spare: int = 0
    """How many more than needed may be asked: one more each time the wait was too long."""
    answers: dict[str, f.Reserved] = {}
    dot: f.Reserved | None = None
    others_asked: bool = False
    overloaded: set[str] = set()


class ReserveRound:
    """The first round of vector writes: for each item a dot, and what ``needed`` of its primaries hold (P7).

    One node is asked for a dot; another one when that node fails or is slow. Two reserved dots do no harm: a write uses only
    one of them (see ``replica.dot_allocator``).
    """

    def __init__(self, orders: Sequence[Sequence[str]], needed: Sequence[int]) -> None:
        """``orders``: for each item its primaries, in the order in which to ask them."""
        self._items = [_Reserving(order, count) for order, count in zip(orders, needed, strict=True)]
        self._open = set(range(len(orders)))
        self._given_up: set[int] = set()

    @property
    def open(self) -> bool:
        """Whether an item still lacks its dot or an answer."""
        return bool(self._open)

    def start(self) -> ReserveAsks:
        """Ask the first node for a dot, and as many as needed for what they hold."""
        asks: ReserveAsks = {}
        for index, item in enumerate(self._items):
            for node_id, with_dot in first_to_reserve(item.order, item.needed):
                if with_dot:
                    item.stampers.append(node_id)
                self._ask(asks, index, item, node_id, with_dot=with_dot)
        return asks

    def more(self) -> ReserveAsks:
        """Time has passed: ask one more for what is missing; where all were asked, retry the failed ones."""
        for item in self._items:
            item.failed.clear()
            item.spare += 1
        return self._ask_all()

    def answered(self, node_id: str, asked: Sequence[tuple[int, bool]], answers: Sequence[f.Reserved]) -> None:
        """Record a node's answers for (item, whether with a dot) pairs."""
        for (index, with_dot), answer in zip(asked, answers, strict=True):
            item = self._items[index]
            _forget(item.waiting, (node_id, with_dot))
            item.answers.setdefault(node_id, answer)
            if with_dot and item.dot is None:
                item.dot = answer
            if item.dot is not None and len(item.answers) >= item.needed:
                self._open.discard(index)

    def failed(self, node_id: str, asked: Sequence[tuple[int, bool]]) -> ReserveAsks:
        """Record a failure (or "incomplete"); ask others instead."""
        for index, with_dot in asked:
            item = self._items[index]
            _forget(item.waiting, (node_id, with_dot))
            if node_id not in item.failed:
                item.failed.append(node_id)
        return self._ask_all()

    def overloaded(self, node_id: str, asked: Sequence[tuple[int, bool]]) -> ReserveAsks:
        """Record a refusal for overload; ask others. An item with too few nodes left is given up at once."""
        for index, _ in asked:
            item = self._items[index]
            item.overloaded.add(node_id)
            if index in self._open and len(item.order) - len(item.overloaded) < item.needed:
                self._open.discard(index)
                self._given_up.add(index)
        return self.failed(node_id, asked)

    @property
    def second_dots(self) -> int:
        """How many items had to ask another node for a dot."""
        return sum(item.others_asked for item in self._items)

    def settled(self, index: int) -> bool:
        """Whether the item has its dot and enough answers."""
        return index not in self._open and index not in self._given_up

    def outcome(self, index: int) -> tuple[f.Reserved, list[f.Reserved]]:
        """Return the dot of a settled item, and all answers."""
        item = self._items[index]
        assert item.dot is not None, "the item is not settled"
        return item.dot, list(item.answers.values())

    def _ask_all(self) -> ReserveAsks:
        asks: ReserveAsks = {}
        for index in sorted(self._open):
            item = self._items[index]
            for node_id, with_dot in self._wanted(item):
                self._ask(asks, index, item, node_id, with_dot=with_dot)
        return asks

    @staticmethod
    def _ask(asks: ReserveAsks, index: int, item: _Reserving, node_id: str, *, with_dot: bool) -> None:
        item.waiting.append((node_id, with_dot))
        item.asked.append(node_id)
        asks.setdefault(node_id, []).append((index, with_dot))

    @staticmethod
    def _wanted(item: _Reserving) -> Iterator[tuple[str, bool]]:
        """Yield whom to ask now: first the nodes that have not been asked yet."""
        expected = {*item.answers, *(node_id for node_id, _ in item.waiting)}
        dots_waited_for = sum(with_dot for _, with_dot in item.waiting)
        if item.dot is None and dots_waited_for < 1 + item.spare:
            able = [n for n in item.order if (n, True) not in item.waiting and n not in item.failed]
            for node_id in sorted(able, key=item.stampers.count)[:1]:
                item.others_asked = item.others_asked or bool(item.stampers)
                item.stampers.append(node_id)
                expected.add(node_id)
                yield node_id, True
        lacking = item.needed - len(item.answers)
        wanted = lacking + item.spare - (len(expected) - len(item.answers)) if lacking > 0 else 0
        able = [n for n in item.order if n not in expected and n not in item.failed]
        for node_id in sorted(able, key=item.asked.count)[: max(0, wanted)]:
            yield node_id, False


def _forget(waiting: list[tuple[str, bool]], asked: tuple[str, bool]) -> None:
    if asked in waiting:
        waiting.remove(asked)


class _Writing(msgspec.Struct):
    sets: Sequence[Sequence[str]]
    """The item's owners, as sets in each of which it needs its acknowledgements: one, or two (P4)."""
    primaries: Sequence[str]
    """All of them, each once."""
    acks: list[str]
    attempt: int = 0
    """Numbers the present stamp and owners; answers to an earlier attempt do not count."""
    restamps: int = 0
    newer: dict[str, int] = {}
    pending: set[str] = set()
    retry: list[str] = []
    maybe: bool = False
    refusals: list[str] = []
    fallbacks: Sequence[str] = ()
    overloaded: set[str] = set()
    fallbacks_in_use: dict[str, str] = {}
    """Fallback -> the primary that it stands in for; "" after it has failed to."""


class WriteRound:
    """Writes until each item has ``w`` durable acknowledgements of each of its sets of owners (P4, P7, P8)."""

    def __init__(
        self,
        sets: Sequence[Sequence[Sequence[str]]],
        w: int,
        *,
        newer_counts: bool = False,
        fallbacks: Sequence[Sequence[str]] | None = None,
        was_sent: bool = False,
    ) -> None:
        """Begin; ``sets``: for each item, its sets of owners; ``fallbacks``: the nodes that may stand in (sloppy).

        ``newer_counts``: a node that holds something newer counts as one that took the record. True for read repair, which
        only wants no replica behind; false for a client's write, which a newer record would shadow (P7).
        ``was_sent``: the items have been sent before, so it is never certain that no node holds them.
        """
        self._w = w
        self._newer_counts = newer_counts
        self._items = [
            _Writing(owners, _all_of(owners), [], maybe=was_sent, fallbacks=others)
            for owners, others in zip(sets, fallbacks or [()] * len(sets), strict=True)
        ]
        self._open = set(range(len(sets)))
        self._given_up: set[int] = set()

    @property
    def open(self) -> bool:
        """Whether an item still lacks acknowledgements."""
        return bool(self._open)

    def start(self, indexes: Iterable[int] | None = None) -> Asks:
        """Send to every primary that has not acknowledged."""
        asks: Asks = {}
        for index in range(len(self._items)) if indexes is None else indexes:
            item = self._items[index]
            for node_id in item.primaries:
                if node_id not in item.acks:
                    self._ask(asks, index, item, node_id)
        return asks

    def already(self, index: int, nodes: Iterable[str]) -> None:
        """Count nodes that are known to hold the record."""
        for node_id in nodes:
            self._ack(index, self._items[index], node_id)

    def answered(self, node_id: str, attempts: Sequence[tuple[int, int]], newer: Sequence[int]) -> None:
        """Record a node's answer for (item, attempt) pairs: 0 = holds it durably, negative = no room, else the newer time.

        A restamped write is above everything acknowledged before it began: one of any W nodes has shown that. A record that
        is newer even so arrived concurrently, and its holder holds this write or a later one (P7).
        *Without: of eight concurrent writers of one key, one in twenty was overtaken each time and got "unknown".*
        """
        for (index, attempt), time in zip(attempts, newer, strict=True):
            item = self._items[index]
            if attempt != item.attempt:
                continue  # it answers an earlier stamp or earlier owners
            item.pending.discard(node_id)
            if time < 0:
                item.refusals.append("overloaded" if time == FULL else "no room")
                if node_id in item.fallbacks_in_use:
                    item.fallbacks_in_use[node_id] = ""
            elif acknowledges(time) or self._newer_counts or item.restamps:
                self._ack(index, item, node_id)
            else:
                item.newer[node_id] = time

    def failed(self, node_id: str, attempts: Sequence[tuple[int, int]], refused: str | None) -> None:
        """Record a failure. ``refused``: the reason, if the node certainly did nothing; None: it may have acted."""
        for index, attempt in attempts:
            item = self._items[index]
            if attempt != item.attempt:
                continue  # earlier attempts are accounted for in ``maybe``
            item.pending.discard(node_id)
            if node_id in item.fallbacks_in_use:
                item.fallbacks_in_use[node_id] = ""  # another one may
            else:
                item.retry.append(node_id)
            if refused is None:
                item.maybe = True
            else:
                item.refusals.append(refused)
                if refused == "overloaded":
                    item.overloaded.add(node_id)
                    self._give_up_if_in_vain(index, item)

    def _give_up_if_in_vain(self, index: int, item: _Writing) -> None:
        """Give up a write that no node has or may have, and for which too few are left: they are overloaded."""
        untouched = not (item.acks or item.newer or item.maybe or item.pending)
        if index in self._open and untouched and {*item.primaries} <= item.overloaded and not item.fallbacks:
            self.give_up(index)

    def reassign(self, sets: Sequence[Sequence[Sequence[str]]], fallbacks: Sequence[Sequence[str]] | None) -> None:
        """Continue with other owners: they changed, and the open items need them now, under the stamps that they have.

        Each item is resent to all of its owners, which does no harm. An item that has its acknowledgements keeps them.
        *Schedule without a new attempt: a former owner's late refusal has it asked again under the new epoch, which it
        accepts; it keeps a record that it has just cleared away and that no node purges.*
        """
        for index in sorted(self._open):
            item = self._items[index]
            item.attempt += 1
            item.maybe = item.maybe or bool(item.pending or item.acks)
            item.sets, item.primaries = sets[index], _all_of(sets[index])
            item.fallbacks = fallbacks[index] if fallbacks is not None else ()
            item.acks.clear()  # an owner that gave the partition up and regains it may have cleared it away meanwhile
            item.fallbacks_in_use.clear()
            item.pending.clear()
            item.retry.clear()
            item.newer.clear()

    @property
    def waiting(self) -> list[int]:
        """The items that still lack acknowledgements."""
        return sorted(self._open)

    def attempt(self, index: int) -> int:
        """Return the number of the present attempt; answers to other attempts do not count."""
        return self._items[index].attempt

    def restamps(self, index: int) -> int:
        """Return how often the item has been restamped."""
        return self._items[index].restamps

    def to_restamp(self) -> dict[int, int]:
        """Return item -> the time to be stamped above, where newer records keep W from being met.

        Only after W nodes have answered one way or the other: a lone replica with something newer does not hinder the
        others, and had its record been acknowledged, one of any W of them would hold it too (2W > N).
        """
        due: dict[int, int] = {}
        for index in sorted(self._open):
            item = self._items[index]
            if item.newer and all(self._counted(item, owners, item.newer) >= self._w for owners in item.sets):
                due[index] = max(item.newer.values())
        return due

    def restamped(self, index: int) -> None:
        """Begin the item's next attempt: acknowledgements of the former stamp do not count for it."""
        item = self._items[index]
        item.attempt += 1
        item.restamps += 1
        item.maybe = item.maybe or bool(item.acks or item.pending)
        item.pending.clear()
        item.acks.clear()
        item.newer.clear()
        item.retry.clear()
        item.fallbacks_in_use.clear()

    def fallbacks_in_use(self, *, silent: bool) -> dict[str, list[tuple[int, str]]]:
        """Return fallback -> (item, primary) pairs: the fallbacks that now stand in for failed primaries.

        ``silent``: also for primaries that have not answered yet.
        """
        found: dict[str, list[tuple[int, str]]] = {}
        for index in sorted(self._open):
            item = self._items[index]
            if silent:  # time has passed: fallbacks that failed may try again
                for node_id in [node_id for node_id, primary in item.fallbacks_in_use.items() if not primary]:
                    del item.fallbacks_in_use[node_id]
            for primary in item.primaries:
                if primary in item.acks or primary in item.newer or primary in item.fallbacks_in_use.values():
                    continue
                if primary in item.pending and not silent:
                    continue
                fallback = next((node_id for node_id in item.fallbacks if node_id not in item.fallbacks_in_use), None)
                if fallback is None:
                    break
                item.fallbacks_in_use[fallback] = primary
                item.pending.add(fallback)
                found.setdefault(fallback, []).append((index, primary))
        return found

    def missed(self, index: int) -> tuple[list[str], list[str]]:
        """Return (holders of the item, primaries that did not acknowledge it and that have no fallback) (P11)."""
        item = self._items[index]
        stood_for = {primary for node_id, primary in item.fallbacks_in_use.items() if node_id in item.acks}
        without = [n for n in item.primaries if n not in item.acks and n not in item.newer and n not in stood_for]
        return list(item.acks), [] if index in self._given_up else without

    def more(self) -> Asks:
        """Time has passed: resend to failed nodes the items that still lack acknowledgements."""
        asks: Asks = {}
        for index in sorted(self._open):
            item = self._items[index]
            for node_id in dict.fromkeys(item.retry):
                if node_id not in item.acks:
                    self._ask(asks, index, item, node_id)
            item.retry.clear()
        return asks

    def settled(self, index: int) -> bool:
        """Whether the item has its w acknowledgements."""
        return index not in self._open and index not in self._given_up

    def acks(self, index: int) -> list[str]:
        """Return the nodes known to hold the item durably."""
        return list(self._items[index].acks)

    def untouched(self, index: int) -> list[str]:
        """Return the reasons why no node wrote anything, if that is certain; none if one did or may have."""
        item = self._items[index]
        return [] if item.acks or item.newer or item.maybe or item.pending else item.refusals

    def give_up(self, index: int) -> None:
        """End the item's round without its acknowledgements: it must not be restamped."""
        self._open.discard(index)
        self._given_up.add(index)

    @staticmethod
    def _ask(asks: Asks, index: int, item: _Writing, node_id: str) -> None:
        item.pending.add(node_id)
        asks.setdefault(node_id, []).append(index)

    def _ack(self, index: int, item: _Writing, node_id: str) -> None:
        if node_id not in item.acks:
            item.acks.append(node_id)
            if all(self._counted(item, owners) >= self._w for owners in item.sets):
                self._open.discard(index)

    def _counted(self, item: _Writing, owners: Sequence[str], others: Collection[str] = ()) -> int:
        """Return how many hold the item as one of ``owners``, or in the place of one, or are owners among ``others``."""
        if self._newer_counts and len(item.sets) == 1:
            return len(item.acks)
        return counted(owners, [item.fallbacks_in_use.get(node_id) or node_id for node_id in [*item.acks, *others]])


def _all_of(sets: Sequence[Sequence[str]]) -> Sequence[str]:
    return sets[0] if len(sets) == 1 else list(dict.fromkeys(node_id for owners in sets for node_id in owners))
