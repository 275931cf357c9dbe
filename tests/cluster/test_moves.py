"""From one state to the next: the nodes that writes need and reads ask at each step, and those that must know of it."""

from __future__ import annotations

import pytest

from raykv.cluster import moves as m
from raykv.cluster.state import ClusterState, decode_state, encode_state
from raykv.config import BucketConfig, StoreConfig
from raykv.errors import InvalidOption, NotEnoughNodes
from raykv.ring import Member, claim


def members(count: int) -> list[Member]:
    return [Member(f"n{number + 1}", host=f"h{number}") for number in range(count)]


def state_of(nodes: int = 3, copies: int = 3, partitions: int = 8, **bucket: int) -> ClusterState:
    store = StoreConfig(name="s", copies=copies, partitions=partitions)
    ring = claim(members(nodes), partitions, copies)
    state = ClusterState(store_id="s", generation=1, version=0, config=store, ring=ring)
    majority = copies // 2 + 1
    return state.with_bucket(BucketConfig(**({"name": "default", "n": copies, "r": majority, "w": majority} | bucket)))


def joined(nodes: int = 3, **options: int) -> ClusterState:
    return m.with_member(state_of(nodes, **options), Member(f"n{nodes + 1}", host="new"))


def test_a_joining_node_owns_nothing_yet_and_the_goal_is_its_share() -> None:
    before = state_of()
    state = joined()
    assert [member.node_id for member in state.ring.members] == ["n1", "n2", "n3", "n4"]
    assert all(state.ring.owners(at) == before.ring.owners(at) for at in range(8))
    assert state.goal is not None
    assert len(state.goal.partitions_of("n4")) == 6
    assert m.left(state) == 6
    assert (state.epoch, state.next_node) == (before.epoch + 1, 5)
    assert decode_state(encode_state(state)) == state
    with pytest.raises(InvalidOption, match="there is a node"):
        m.with_member(state, Member("n4"))


def test_the_reason_of_a_goal_can_be_read_from_the_state_alone() -> None:
    assert m.reason(state_of()) == ""
    assert m.reason(joined()) == "node n4 has still to get 6"
    state = state_of(5)
    left = m.with_goal(state, state.ring.members[1:])
    assert m.reason(left).startswith("node n1 is leaving")
    heavier = [Member("n1", weight=2.0, host="h0"), *state.ring.members[1:]]
    assert m.reason(m.with_goal(state, heavier)).startswith("node n1 gets weight 2 instead of 1")


def test_the_three_steps_of_a_move() -> None:
    start = joined()
    wave = m.next_wave(start)
    at = wave[0].partition
    old, new = start.ring.owners(at), wave[0].owners
    first = m.begun(start, wave)
    assert (first.write_sets(at, 3), first.read_set(at, 3)) == ((old, new), old)
    assert set(first.holders(at, 3)) == {*old, *new}
    assert first.order(at, 3)[: len(first.holders(at, 3))] == first.holders(at, 3)
    second = m.reading_new(first)
    assert (second.write_sets(at, 3), second.read_set(at, 3)) == ((old, new), new)
    third = m.ended(second)
    assert (third.write_sets(at, 3), third.read_set(at, 3)) == ((new,), new)
    assert [state.epoch for state in (first, second, third)] == [start.epoch + step for step in (1, 2, 3)]
    assert all(later.version > earlier.version for earlier, later in ((start, first), (first, second), (second, third)))


def test_other_partitions_are_not_disturbed() -> None:
    start = joined()
    wave = m.next_wave(start)[:1]
    first = m.begun(start, wave)
    assert [at for at in range(8) if first.differs(start, at)] == [wave[0].partition]


def test_a_step_may_be_taken_back_before_the_new_are_read_and_not_after() -> None:
    start = joined()
    first = m.begun(start, m.next_wave(start))
    back = m.abort(first)
    assert (back.moves, back.goal, back.ring.table) == ((), None, start.ring.table)
    assert m.postpone(first).goal == start.goal
    for change in (m.abort, m.postpone):
        with pytest.raises(AssertionError):
            change(m.reading_new(first))


def test_waves_come_to_the_goal_and_are_small() -> None:
    state = m.with_member(state_of(3, partitions=256), Member("n4", host="new"))
    waves = 0
    while m.left(state):
        wave = m.next_wave(state)
        assert 0 < len(wave) <= m.MOVES_AT_ONCE
        assert len([move for move in wave if "n4" not in state.ring.owners(move.partition)]) <= m.MOVES_A_NODE
        state = m.ended(m.reading_new(m.begun(state, wave)))
        waves += 1
    last, state = state, m.arrived(state)
    state.ring.check()
    assert last.goal is not None
    assert (state.goal, state.ring.table, state.ring.members) == (None, last.goal.table, last.goal.members)
    assert state.ring.epoch > last.ring.epoch > last.goal.epoch, "a ring is known by its epoch: it must not go back"
    assert waves >= 192 / m.MOVES_A_NODE


def test_nothing_goes_to_a_node_that_is_shunned() -> None:
    assert m.next_wave(joined(), ["n4"]) == ()


def test_a_node_that_gains_by_its_place_in_the_row_only_is_shunned_too() -> None:
    """In a bucket of one copy the first owner holds all: a change of order moves it."""
    state = joined(n=1, r=1, w=1)
    for _ in range(20):
        wave = m.next_wave(state, ["n2"])
        assert all("n2" not in m.gains(state, move) for move in wave)
        if not wave:
            break
        state = m.ended(m.reading_new(m.begun(state, wave)))
    assert state.goal is not None
    assert all(m.gains(state, m.Move(at, state.goal.owners(at))) for at in range(8) if at in left_of(state))


def left_of(state: ClusterState) -> list[int]:
    assert state.goal is not None
    return [at for at in range(8) if state.ring.owners(at) != state.goal.owners(at)]


def test_one_that_is_lost_is_not_waited_for_but_all_others_are() -> None:
    start = joined()
    wave = m.next_wave(start)[:1]
    first = m.begun(start, wave)
    old = start.ring.owners(wave[0].partition)
    others = [node_id for node_id in old if node_id != old[0]]
    assert m.lacking(first, [*others, "n4"], [old[0]]) == set()
    assert m.lacking(first, [others[0], "n4"], [old[0]]) != set()


def test_before_step_three_only_the_old_must_know() -> None:
    start = joined()
    second = m.reading_new(m.begun(start, m.next_wave(start)[:1]))
    old = second.ring.owners(second.moves[0].partition)
    assert m.lacking(second, old[:2]) == set()
    assert m.lacking(second, ["n4"]) != set()


def test_the_goal_may_change_at_step_two_and_begins_from_where_the_moves_lead() -> None:
    start = joined(nodes=4)
    first = m.begun(start, m.next_wave(start))
    rest = [member for member in first.ring.members if member.node_id != "n2"]
    with pytest.raises(AssertionError):
        m.with_goal(first, rest)
    second = m.reading_new(first)
    changed = m.with_goal(second, rest)
    assert (changed.moves, changed.ring) == (second.moves, second.ring)
    assert decode_state(encode_state(changed)) == changed
    assert changed.goal is not None
    assert changed.goal.table == m.with_goal(m.ended(second), rest).goal.table  # type: ignore[union-attr]
    replaced = m.with_replacement(second, Member("n6", host="newer"), "n2")
    assert replaced.goal is not None
    assert [member.node_id for member in replaced.goal.members] == ["n1", "n3", "n4", "n5", "n6"]
    assert m.lacking(changed, ["n1", "n3", "n4"], ["n2"]) == set()


def test_fewer_than_the_copies_are_refused() -> None:
    state = state_of(3)
    with pytest.raises(NotEnoughNodes, match="3 copies"):
        m.with_goal(state, state.ring.members[:2])
    with pytest.raises(InvalidOption):
        m.with_goal(state, [*state.ring.members, Member("n9")])


@pytest.mark.parametrize(
    ("r", "w", "old_knowing", "enough"),
    [(2, 2, 1, False), (2, 2, 2, True), (1, 3, 2, False), (1, 3, 3, True), (3, 3, 1, False), (3, 3, 2, True)],
)
def test_how_many_owners_must_know_of_a_step(r: int, w: int, old_knowing: int, enough: bool) -> None:
    start = joined(r=r, w=w)
    wave = m.next_wave(start)[:1]
    first = m.begun(start, wave)
    old = [*start.ring.owners(wave[0].partition)]
    gone = [node_id for node_id in old if node_id not in wave[0].owners]
    old.sort(key=lambda node_id: node_id in gone)  # those first that are in both sets
    knowing = [*old[:old_knowing], "n4"]
    assert (m.lacking(first, knowing) == set()) is enough
    assert m.lacking(first, []) != set()
    assert m.lacking(first, [*old, "n4"]) == set()


def test_in_a_bucket_of_fewer_copies_only_some_owners_gain() -> None:
    state = joined(n=1, r=1, w=1)
    gains = [m.gains(state, move) for move in m.next_wave(state)]
    assert all(set(found) <= {"n1", "n2", "n3", "n4"} for found in gains)
    assert any(found == {} for found in gains) or any(set(found) == {"n4"} for found in gains)


def test_an_id_is_not_used_again_after_the_last_node_has_left() -> None:
    state = m.with_goal(state_of(4), members(3))
    while m.left(state):
        state = m.ended(m.reading_new(m.begun(state, m.next_wave(state))))
    state = m.arrived(state)
    assert [member.node_id for member in state.ring.members] == ["n1", "n2", "n3"]
    assert m.next_id(state) == "n5"


def test_an_id_that_was_taken_is_given_to_no_other_node() -> None:
    start = state_of()
    taken = m.with_id_taken(start)
    assert (m.next_id(start), m.next_id(taken)) == ("n4", "n5")
    assert (taken.epoch, taken.version) == (start.epoch, start.version + 1)
    joined = m.with_member(taken, Member("n4", host="new"))
    assert m.next_id(joined) == "n5", "it was taken once"
