"""Versions and what they supersede: the laws, and thousands of histories beside a model that knows all writes."""

from __future__ import annotations

import random
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.records import vector_record as vector
from raykv.records.record import pack_body, pack_tombstone_body
from raykv.records.vector_record import Dot, Seen, Sibling, VersionSet
from raykv.versions import dvvset
from raykv.versions.causality import Causality, union, with_dot

if TYPE_CHECKING:
    from collections.abc import Callable

ACTORS = [bytes([number]) * 8 for number in range(5)]
A, B, C = b"a" * 8, b"b" * 8, b"c" * 8


def body_of(dot: Dot) -> bytes:
    """One dot, one write: the body goes with the dot."""
    operation_id = dot[0] + dot[1].to_bytes(8)
    return pack_tombstone_body(operation_id) if dot[1] % 5 == 4 else pack_body(operation_id, dot[0][:1] * dot[1])


def time_of(dot: Dot) -> int:
    return (dot[0][0] * 5 + dot[1] * 3) % 11


def write(dot: Dot, seen: Seen = ()) -> VersionSet:
    return dvvset.event(dot, seen, time_of(dot), body_of(dot))


def standing(state: VersionSet) -> list[Dot]:
    return [sibling.dot for sibling in state.siblings]


# ---- the laws ----
# To a state a write is unknown, or it stands, or it is superseded; to take in more only ever moves it along that line.
# A state is thus a dict, dot -> whether it stands (False: superseded), and taking in both is the least of each entry.

DOTS = st.tuples(st.sampled_from(ACTORS[:3]), st.integers(1, 5))
FATES = st.dictionaries(DOTS, st.booleans(), max_size=10)


def spans_of(dots: object) -> Seen:
    seen: Seen = ()
    for dot in dots:
        seen = with_dot(seen, dot)
    return seen


def state_of(fates: dict[Dot, bool]) -> VersionSet:
    stand = sorted(dot for dot in fates if fates[dot])
    return VersionSet(spans_of(fates), tuple(Sibling(*dot, time_of(dot), body_of(dot)) for dot in stand))


def both(one: dict[Dot, bool], other: dict[Dot, bool]) -> dict[Dot, bool]:
    return {dot: one.get(dot, True) and other.get(dot, True) for dot in {*one, *other}}


STATES = FATES.map(state_of)


@settings(deadline=None, max_examples=300)
@given(FATES, FATES)
def test_a_version_stands_unless_one_side_has_seen_it_and_has_it_no_more(
    one: dict[Dot, bool], other: dict[Dot, bool]
) -> None:
    synced = dvvset.sync(state_of(one), state_of(other))
    assert synced == state_of(both(one, other))
    assert vector.check(vector.encode(synced)) == synced


@settings(deadline=None)
@given(STATES, STATES, STATES)
def test_sync_is_commutative_associative_and_idempotent(one: VersionSet, two: VersionSet, three: VersionSet) -> None:
    assert dvvset.sync(one, two) == dvvset.sync(two, one)
    assert dvvset.sync(dvvset.sync(one, two), three) == dvvset.sync(one, dvvset.sync(two, three))
    assert dvvset.sync(one, one) == one
    assert dvvset.sync(dvvset.sync(one, two), two) == dvvset.sync(one, two)
    assert dvvset.sync(dvvset.EMPTY, one) == one == dvvset.sync(one, dvvset.EMPTY)


@settings(deadline=None)
@given(st.lists(STATES, min_size=1, max_size=4))
def test_any_order_of_arrival_ends_the_same(states: list[VersionSet]) -> None:
    ends = set()
    for order in permutations(states):
        state = dvvset.EMPTY
        for arriving in order:
            state = dvvset.sync(state, arriving)
        ends.add(vector.encode(state))
    assert len(ends) == 1


@settings(deadline=None)
@given(FATES, DOTS)
def test_an_event_is_one_version_and_what_it_supersedes(fates: dict[Dot, bool], dot: Dot) -> None:
    fates.pop(dot, None)
    said = dvvset.event(dot, spans_of(fates), 7, body_of(dot))
    assert said == VersionSet(spans_of([*fates, dot]), (Sibling(*dot, 7, body_of(dot)),))
    vector.check(vector.encode(said))


def test_a_write_never_supersedes_itself() -> None:
    with pytest.raises(AssertionError):
        dvvset.event((A, 2), ((A, 1, 3),), 1, body_of((A, 2)))


@settings(deadline=None)
@given(FATES, st.frozensets(DOTS, max_size=6), DOTS)
def test_update_drops_exactly_what_the_context_has_seen(
    fates: dict[Dot, bool], context: frozenset[Dot], dot: Dot
) -> None:
    context -= {dot}
    fates.pop(dot, None)
    updated = dvvset.update(state_of(fates), dot, spans_of(context), time_of(dot), body_of(dot))
    assert updated == state_of({**fates, **dict.fromkeys(context, False), dot: True})


@settings(deadline=None)
@given(FATES, st.frozensets(DOTS, max_size=6))
def test_what_is_discarded_is_gone_and_does_not_come_back(fates: dict[Dot, bool], context: frozenset[Dot]) -> None:
    state = state_of(fates)
    left = dvvset.discard(state, spans_of(context))
    assert left == state_of({**fates, **dict.fromkeys(context, False)})
    assert dvvset.sync(left, state) == left


@settings(deadline=None)
@given(STATES)
def test_a_write_that_gives_back_all_it_was_shown_is_alone_after_it(state: VersionSet) -> None:
    context = dvvset.join(state)
    assert context == Causality(max((sibling.time for sibling in state.siblings), default=0), state.seen)
    assert standing(dvvset.update(state, (C, 1), context.seen, 1, body_of((C, 1)))) == [(C, 1)]
    assert dvvset.discard(state, context.seen).siblings == ()


@settings(deadline=None)
@given(FATES, FATES)
def test_less_is_having_taken_in_less(one: dict[Dot, bool], other: dict[Dot, bool]) -> None:
    expected = one != other and both(one, other) == other
    assert dvvset.less(state_of(one), state_of(other)) == expected
    assert not dvvset.less(state_of(one), state_of(one))
    together = state_of(both(one, other))
    assert dvvset.less(state_of(one), together) or state_of(one) == together


@settings(deadline=None)
@given(FATES)
def test_size_and_values_are_of_what_stands(fates: dict[Dot, bool]) -> None:
    state = state_of(fates)
    stand = [dot for dot in fates if fates[dot]]
    assert dvvset.size(state) == len(stand)
    newest_first = sorted(stand, key=lambda dot: (time_of(dot), body_of(dot)[:16]), reverse=True)
    assert [record.operation_id for record in dvvset.newest_first(state)] == [body_of(dot)[:16] for dot in newest_first]
    payloads, gone = dvvset.values(state, 0)
    assert payloads == [dot[0][:1] * dot[1] for dot in newest_first if dot[1] % 5 != 4]
    assert gone == bool(payloads and newest_first[0][1] % 5 == 4), "a delete is the newest"
    assert dvvset.newest_time(state) == max(map(time_of, stand), default=0)


# ---- what no other clock gets right ----


def test_a_write_whose_context_lacks_a_concurrent_write_of_the_same_actor_with_a_lower_counter_keeps_it() -> None:
    """Anne has read (a, 1). While she thinks Bob writes (a, 2), blindly; then she writes, and her write is (a, 3).

    A version vector of her write is a: 3. It would claim (a, 2).
    """
    first = write((A, 1))
    anne_saw = dvvset.join(first).seen
    bob = write((A, 2))
    anne = write((A, 3), anne_saw)
    assert anne.seen == ((A, 1, 1), (A, 3, 3))
    for order in permutations([first, bob, anne]):
        state = dvvset.EMPTY
        for arriving in order:
            state = dvvset.sync(state, arriving)
        assert standing(state) == [(A, 2), (A, 3)]
        assert state.seen == ((A, 1, 3),)
    merged = write((B, 1), state.seen)
    assert standing(dvvset.sync(state, merged)) == [(B, 1)], "a reader of both supersedes both"


def test_two_writes_with_one_context_through_one_actor_are_siblings() -> None:
    first = write((A, 1))
    saw = dvvset.join(first).seen
    state = dvvset.update(first, (A, 2), saw, 1, body_of((A, 2)))
    state = dvvset.update(state, (A, 3), saw, 1, body_of((A, 3)))
    assert standing(state) == [(A, 2), (A, 3)]


def test_a_version_that_comes_late_and_was_superseded_meanwhile_is_not_taken() -> None:
    old = write((A, 1))
    new = write((B, 1), dvvset.join(old).seen)
    assert dvvset.sync(new, old) == new
    assert dvvset.sync(dvvset.discard(dvvset.EMPTY, old.seen), old).siblings == ()


# ---- the safety test ----
# A model knows every write, and of each what its writer had seen, as plain sets of dots. For 10,000 histories they are
# bit sets: a dot is one bit of an int. Nothing in the model decides by comparing clocks.

_COUNTERS = 64


def bit_of(dot: Dot) -> int:
    actor, counter = dot
    return 1 << (actor[0] * _COUNTERS + counter)


def bits_of(seen: Seen) -> int:
    bits = 0
    for actor, low, high in seen:
        bits |= ((1 << (high - low + 1)) - 1) << (actor[0] * _COUNTERS + low)
    return bits


class Taken(NamedTuple):
    """A state that has taken in these writes, and all that their writers had seen."""

    writes: int = 0
    superseded: int = 0

    def __or__(self, other: Taken) -> Taken:
        return Taken(self.writes | other.writes, self.superseded | other.superseded)


class Replica:
    def __init__(self, actor: bytes) -> None:
        self.actor = actor
        self.counter = 0
        self.state = dvvset.EMPTY
        self.taken = Taken()

    def dot(self) -> Dot:
        self.counter += 1
        return self.actor, self.counter

    def take(self, state: VersionSet, taken: Taken) -> None:
        self.state = dvvset.sync(self.state, state)
        self.taken |= taken
        self.check()

    def check(self) -> None:
        """It holds the writes that it has taken in and that none of them supersedes, and knows of all others."""
        held = 0
        for sibling in self.state.siblings:
            held |= bit_of(sibling.dot)
        assert held == self.taken.writes & ~self.taken.superseded
        assert bits_of(self.state.seen) == self.taken.writes | self.taken.superseded


class History:
    """One key on up to five replicas, its clients, and messages that come late, twice, in any order or never."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        """``choose(n)`` is one of 0..n-1."""
        self.choose = choose
        self.unused = list(ACTORS)
        self.replicas = [Replica(self.unused.pop()) for _ in range(1 + choose(5))]
        self.contexts: list[tuple[Seen, int]] = []
        """The contexts that clients hold: as the store made them, with their dots."""
        self.events: list[tuple[Dot, int, VersionSet]] = []
        """Each write: its dot, the dots that its writer had seen, and what travels."""
        self.messages: list[tuple[VersionSet, Taken]] = []

    def run(self, operations: int) -> None:
        steps = [
            self.read, self.write_with_a_context, self.write_with_a_context, self.write_blindly, self.deliver,
            self.deliver, self.deliver, self.send_all, self.draw_in_vain, self.lose_a_disk,
        ]  # fmt: skip
        for _ in range(operations):
            steps[self.choose(len(steps))]()
        self.end()

    def pick(self) -> Replica:
        return self.replicas[self.choose(len(self.replicas))]

    def read(self) -> None:
        replica = self.pick()
        seen = dvvset.join(replica.state).seen
        self.contexts.append((seen, replica.taken.writes | replica.taken.superseded))

    def write_with_a_context(self) -> None:
        if self.contexts:
            self.write(*self.contexts[self.choose(len(self.contexts))])

    def write_blindly(self) -> None:
        """It supersedes all that some replicas hold, or nothing where none was asked."""
        seen, bits = dvvset.EMPTY.seen, 0
        for _ in range(self.choose(3)):
            replica = self.pick()
            seen = union(seen, replica.state.seen)
            bits |= replica.taken.writes | replica.taken.superseded
        self.write(seen, bits)

    def write(self, seen: Seen, bits: int) -> None:
        replica = self.pick()
        dot = replica.dot()
        event = dvvset.event(dot, seen, len(self.events), body_of(dot))
        taken = Taken(bit_of(dot), bits)
        self.events.append((dot, bits, event))
        self.messages.append((event, taken))
        self.contexts.append((with_dot(seen, dot), bits | bit_of(dot)))  # a writer learns what it has superseded
        if self.choose(2):
            replica.take(event, taken)

    def deliver(self) -> None:
        if self.messages:
            self.pick().take(*self.messages[self.choose(len(self.messages))])

    def send_all(self) -> None:
        replica = self.pick()
        self.messages.append((replica.state, replica.taken))

    def draw_in_vain(self) -> None:
        self.pick().dot()

    def lose_a_disk(self) -> None:
        """The replica begins anew, with an actor id of its own: dots are never reused."""
        if self.unused and not self.choose(3):
            self.replicas[self.choose(len(self.replicas))] = Replica(self.unused.pop())

    def end(self) -> None:
        """Every write comes everywhere, in an order of each replica's own: all are equal, and nothing is lost."""
        for replica in self.replicas:
            waiting = list(self.events)
            while waiting:
                dot, bits, event = waiting.pop(self.choose(len(waiting)))
                replica.take(event, Taken(bit_of(dot), bits))
        assert len({vector.encode(replica.state) for replica in self.replicas}) == 1
        unseen = {dot for dot, _, _ in self.events if not any(bit_of(dot) & bits for _, bits, _ in self.events)}
        state = self.replicas[0].state
        assert set(standing(state)) == unseen
        assert all(sibling.body == body_of(sibling.dot) for sibling in state.siblings)
        assert vector.check(vector.encode(state)) == state


def test_no_write_that_nobody_saw_is_lost_and_none_that_was_superseded_stays_in_thousands_of_histories(
    long: bool,
) -> None:
    for seed in range(10_000 if long else 3_000):
        source = random.Random(seed)
        history = History(lambda n, below=source.random: int(below() * n))
        try:
            history.run(source.randint(5, 50))
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_write_that_nobody_saw_is_lost_in_a_history_that_can_be_shrunk(data: st.DataObject) -> None:
    History(lambda n: data.draw(st.integers(0, n - 1))).run(data.draw(st.integers(0, 20)))
