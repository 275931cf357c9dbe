"""Heartbeats: only what is newer is taken, only of members, and the order of tables does not matter."""

from __future__ import annotations

import random

import msgspec
import pytest

from raykv.membership import Heartbeats, Table


def of(node_id, incarnation, members):
    heartbeats = Heartbeats(node_id, incarnation)
    heartbeats.set_members(members)
    return heartbeats


def test_a_node_counts_up_itself_alone():
    heartbeats = of("b", 7, ["c", "a", "b"])
    assert list(heartbeats.table().items()) == [("a", (0, 0)), ("b", (7, 0)), ("c", (0, 0))]
    heartbeats.beat()
    heartbeats.beat()
    assert heartbeats.table() == {"a": (0, 0), "b": (7, 2), "c": (0, 0)}


@pytest.mark.parametrize(
    ("held", "entry", "advances"),
    [
        ((2, 5), (2, 6), True),
        ((2, 5), (2, 5), False),
        ((2, 5), (2, 4), False),
        ((2, 5), (3, 1), True),  # a restarted process counts from the start
        ((2, 5), (1, 900), False),  # from the grave
        ((0, 0), (0, 1), True),
        ((2, 5), (2, -1), False),
        ((2, 5), (-1, 6), False),
        ((2, 5), (3, -1), False),
        ((2, 5), (3, True), False),
        ((2, 5), (True, 3), False),
        ((0, 0), (True, 3), False),
        ((2, 5), (3, 1.5), False),
        ((2, 5), ("3", 1), False),
        ((2, 5), (3,), False),
        ((2, 5), (3, 1, 1), False),
        ((2, 5), [3, 1], False),
        ((2, 5), None, False),
        ((2, 5), 7, False),
    ],
)
def test_what_advances(held, entry, advances):
    heartbeats = of("a", 1, ["a", "b", "c"])
    heartbeats.merge({"b": held})
    assert heartbeats.merge({"b": entry, "c": (1, 1)}) == (["b"] if advances else []) + ["c"]
    assert heartbeats.table()["b"] == (entry if advances else held)


def test_strangers_are_neither_taken_nor_passed_on():
    heartbeats = of("a", 1, ["a", "b"])
    assert heartbeats.merge({"x": (1, 1), "b": (1, 1)}) == ["b"]
    assert sorted(heartbeats.table()) == ["a", "b"]
    heartbeats.set_members(["c"])
    assert heartbeats.table() == {"a": (1, 0), "c": (0, 0)}, "the own entry stays whatever the members are"
    heartbeats.set_members(["b"])
    assert heartbeats.table()["b"] == (0, 0), "who had left is forgotten"


@pytest.mark.parametrize(
    ("entry", "superseded"), [((4, 0), True), ((3, 999), False), ((2, 999), False), ((-4, 0), False), (("4", 0), False)]
)
def test_what_others_say_of_oneself(entry, superseded):
    heartbeats = of("a", 3, ["a", "b"])
    heartbeats.beat()
    assert heartbeats.merge({"a": entry}) == []
    assert heartbeats.table()["a"] == (3, 1)
    assert heartbeats.superseded is superseded
    heartbeats.merge({"a": (3, 999)})
    assert heartbeats.superseded is superseded, "a later run does not unhappen"


def test_a_table_is_a_copy_and_travels():
    heartbeats = of("a", 1, ["a", "b"])
    table = heartbeats.table()
    heartbeats.beat()
    assert table["a"] == (1, 0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(table), type=Table) == table


@pytest.mark.parametrize("seed", range(20))
def test_tables_in_any_order_and_twice_give_the_highest_of_each(seed):
    rng = random.Random(seed)
    names = [f"n{number}" for number in range(6)]
    tables = [{name: (rng.randrange(3), rng.randrange(5)) for name in names} for _ in range(8)]
    heartbeats = of("me", 1, names)
    for table in rng.choices(tables, k=20) + rng.sample(tables, len(tables)):
        before = heartbeats.table()
        advanced = heartbeats.merge(table)
        assert advanced == [name for name in names if heartbeats.table()[name] > before[name]]
    highest = {name: max(table[name] for table in tables) for name in names}
    assert heartbeats.table() == {"me": (1, 0), **highest}
