"""Trees: equal contents and equal roots, one change and one leaf, the way down."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.repair import merkle
from raykv.repair.merkle import FAN_OUT, MAX_DEPTH, RECORDS_PER_LEAF, Entry, Tree, depth_for, differing, digest

KEYS = st.tuples(st.integers(1, 3), st.binary(min_size=1, max_size=6))
CONTENTS = st.dictionaries(KEYS, st.binary(max_size=4), max_size=60)
DEPTHS = st.integers(0, 2)


def entries_of(contents: dict[tuple[int, bytes], bytes]) -> list[Entry]:
    return [(bucket_id, key, digest(bucket_id, key, record)) for (bucket_id, key), record in contents.items()]


def leaf_digests(tree: Tree) -> list[int]:
    if tree.depth == 0:
        return [tree.root]
    return tree.children(tree.depth - 1, range(FAN_OUT ** (tree.depth - 1)))


def walk(one: Tree, other: Tree) -> list[int]:
    """The leaves in which two trees differ, as a node finds them."""
    if one.root == other.root:
        return []
    frontier = [0]
    for level in range(one.depth):
        frontier = differing(frontier, one.children(level, frontier), other.children(level, frontier))
    return frontier


@settings(max_examples=60, deadline=None)
@given(CONTENTS, DEPTHS, st.randoms(use_true_random=False))
def test_equal_contents_have_equal_roots_in_any_order(
    contents: dict[tuple[int, bytes], bytes], depth: int, rng: random.Random
) -> None:
    entries = entries_of(contents)
    shuffled = rng.sample(entries, len(entries))
    one, other = Tree(entries, depth), Tree(shuffled, depth)
    assert one.root == other.root
    assert leaf_digests(one) == leaf_digests(other)
    assert (one.root == 0) == (not contents)
    assert one.records == len(contents)


@settings(max_examples=100, deadline=None)
@given(CONTENTS, KEYS, st.binary(max_size=4), DEPTHS)
def test_one_change_changes_the_root_and_exactly_one_leaf(
    contents: dict[tuple[int, bytes], bytes], key: tuple[int, bytes], record: bytes, depth: int
) -> None:
    changed = {**contents, key: record}
    if changed == contents:
        del changed[key]
    one, other = Tree(entries_of(contents), depth), Tree(entries_of(changed), depth)
    assert one.root != other.root
    changed_leaves = [
        at for at, (a, b) in enumerate(zip(leaf_digests(one), leaf_digests(other), strict=True)) if a != b
    ]
    assert len(changed_leaves) == 1
    assert walk(one, other) == changed_leaves
    held = one.leaves(changed_leaves)[changed_leaves[0]], other.leaves(changed_leaves)[changed_leaves[0]]
    assert set(held[0]) ^ set(held[1]), "the leaf has what differs"


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_the_way_down_finds_the_differing_leaves_and_no_others(depth: int) -> None:
    rng = random.Random(depth)
    contents = {(rng.choice([1, 2]), b"%d" % number): rng.randbytes(3) for number in range(400)}
    changed = dict(contents)
    for key in rng.sample(sorted(contents), 7):
        if rng.random() < 0.4:
            del changed[key]
        else:
            changed[key] += b"!"
    changed[3, b"new"] = b""
    one, other = Tree(entries_of(contents), depth), Tree(entries_of(changed), depth)
    found = walk(one, other)
    mine, theirs = one.leaves(range(FAN_OUT**depth)), other.leaves(range(FAN_OUT**depth))
    assert found == [leaf for leaf in mine if set(mine[leaf]) != set(theirs[leaf])]
    assert sorted(entry for entries in mine.values() for entry in entries) == sorted(one.entries), "each in one leaf"


def test_where_two_swap_their_digests_it_shows() -> None:
    """A leaf's digest is a sum: that of other keys with the same records must be another."""
    one = Tree([(1, b"a", digest(1, b"a", b"x")), (1, b"b", digest(1, b"b", b"y"))], 0)
    other = Tree([(1, b"a", digest(1, b"a", b"y")), (1, b"b", digest(1, b"b", b"x"))], 0)
    assert one.root != other.root


def test_a_digest_tells_bucket_key_and_record_apart() -> None:
    seen = {digest(bucket_id, key, record) for bucket_id in (1, 2) for key in (b"a", b"ab") for record in (b"b", b"bb")}
    assert len(seen) == 8
    assert digest(1, b"a", b"bc") != digest(1, b"ab", b"c")
    assert all(0 <= value < 1 << 64 for value in seen)


@pytest.mark.parametrize(
    ("records", "depth"),
    [(0, 0), (RECORDS_PER_LEAF, 0), (RECORDS_PER_LEAF + 1, 1), (64, 1), (65, 2), (1024, 2), (1025, 3), (1 << 60, 5)],
)
def test_how_deep_a_tree_should_be(records: int, depth: int) -> None:
    assert depth_for(records) == depth <= MAX_DEPTH


def test_deeper_is_the_same_tree_over_another_number_of_leaves() -> None:
    entries = entries_of({(1, b"%d" % number): b"v" for number in range(50)})
    tree = Tree(entries, 1)
    assert tree.deeper(1) is tree
    assert tree.deeper(3).depth == 3
    assert leaf_digests(tree.deeper(2)) == leaf_digests(Tree(entries, 2))
    assert tree.deeper(0).root == Tree(entries, 0).root


def test_children_are_those_below_in_the_order_asked() -> None:
    tree = Tree(entries_of({(1, b"%d" % number): b"v" for number in range(500)}), 2)
    assert tree.children(-1, []) == [tree.root] == tree.children(-1, [5])
    assert len(tree.children(0, [0])) == FAN_OUT
    second, fifth = tree.children(1, [2]), tree.children(1, [5])
    assert tree.children(1, [5, 2]) == fifth + second
    assert second == leaf_digests(tree)[2 * FAN_OUT : 3 * FAN_OUT]
    assert tree.children(1, []) == []


@pytest.mark.parametrize(
    ("level", "indexes"), [(-2, [0]), (2, [0]), (99, [0]), (0, [1]), (0, [-1]), (1, [16]), (1, [0, 16]), (1, [-1])]
)
def test_a_node_that_is_not_there_has_no_children(level: int, indexes: list[int]) -> None:
    with pytest.raises(IndexError):
        Tree(entries_of({(1, b"a"): b"v"}), 2).children(level, indexes)


def test_a_tree_of_one_leaf_has_no_children() -> None:
    tree = Tree(entries_of({(1, b"a"): b"v"}), 0)
    with pytest.raises(IndexError):
        tree.children(0, [0])
    assert tree.leaves([0, 7]) == {0: list(tree.entries), 7: []}


def test_differing_numbers_the_children_of_the_next_level() -> None:
    mine = [0] * FAN_OUT * 2
    theirs = list(mine)
    theirs[3] = theirs[FAN_OUT + 15] = 9
    assert differing([2, 7], mine, theirs) == [2 * FAN_OUT + 3, 7 * FAN_OUT + 15]


@pytest.mark.parametrize("records", [0, 1, 20])
def test_who_asks_for_a_deep_tree_decides_the_memory_of_its_leaves_and_not_the_work(
    records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer names the depth: a million leaves over an empty partition held the node's loop for 70 ms."""
    counted = 0
    above = merkle._above

    def counting(*given: Any) -> int:
        nonlocal counted
        counted += 1
        return above(*given)

    monkeypatch.setattr(merkle, "_above", counting)
    entries = [(1, b"k%d" % number, number + 1) for number in range(records)]
    deep, usual = Tree(entries, MAX_DEPTH), Tree(entries, 1)
    assert counted <= records * MAX_DEPTH + 1
    assert deep.weight > FAN_OUT**MAX_DEPTH / 100 > usual.weight >= records
