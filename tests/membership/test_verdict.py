"""Verdicts (P12): two witnesses, words that end, and no witness who is judged himself."""

from __future__ import annotations

import random

import pytest

from raykv.errors import InvalidOption
from raykv.membership import Verdicts


def verdicts_of(said, reporters=2, now_s=0.0):
    verdicts = Verdicts(expires_s=3.0, reporters=reporters)
    for reporter, suspects in said:
        verdicts.report(reporter, suspects, now_s)
    return verdicts


@pytest.mark.parametrize(
    ("said", "down"),
    [
        ([], {}),
        ([("a", "c")], {}),
        ([("a", "c"), ("a", "c")], {}),  # one who says it twice
        ([("a", "c"), ("b", "c")], {"c": ["a", "b"]}),
        ([("b", "c"), ("a", "c"), ("d", "c")], {"c": ["a", "b", "d"]}),
        ([("a", "c"), ("c", "c")], {}),  # nobody is his own witness
        ([("a", "b"), ("b", "a")], {}),  # two who accuse each other
        ([("a", "c"), ("b", "d")], {}),
        ([("a", "cd"), ("b", "dc")], {"c": ["a", "b"], "d": ["a", "b"]}),
        ([("a", "c"), ("b", "c"), ("a", "")], {}),  # taken back
        ([("a", "c"), ("b", "c"), ("a", "d")], {}),  # something else instead
        ([("a", "c"), ("b", "c"), ("c", "ab")], {"c": ["a", "b"]}),  # three nodes, the frozen one thaws
        ([("c", "ab"), ("a", "c"), ("b", "c")], {"c": ["a", "b"]}),  # in any order of reports
        # a cut 3 : 2, and all are heard: the two are down, in any order of reports
        ([("a", "de"), ("b", "de"), ("c", "de"), ("d", "abc"), ("e", "abc")], {"d": ["a", "b", "c"], "e": ["a", "b", "c"]}),
        ([("e", "abc"), ("d", "abc"), ("c", "de"), ("b", "de"), ("a", "de")], {"d": ["a", "b", "c"], "e": ["a", "b", "c"]}),
        # a cut 2 : 2: who was judged first stays so
        ([("a", "cd"), ("b", "cd"), ("c", "ab"), ("d", "ab")], {"c": ["a", "b"], "d": ["a", "b"]}),
        ([("c", "ab"), ("d", "ab"), ("a", "cd"), ("b", "cd")], {"a": ["c", "d"], "b": ["c", "d"]}),
        # c has three words, so it is judged before d, whose second word was c's
        ([("c", "d"), ("a", "cd"), ("b", "c"), ("e", "c")], {"c": ["a", "b", "e"]}),
        # c is judged by a and b; a is judged by e and f: b alone is not enough, and c is no witness for it
        ([("a", "c"), ("b", "c"), ("e", "a"), ("f", "a")], {"a": ["e", "f"]}),
        ([("a", "c"), ("b", "c"), ("e", "ax"), ("f", "a"), ("c", "x")], {"a": ["e", "f"]}),
    ],
)  # fmt: skip
def test_down_nodes_are_named(said, down):
    verdicts = verdicts_of(said)
    assert verdicts.down(0.0) == down
    assert list(verdicts.down(0.0)) == sorted(down)


def test_the_reporters_are_named():
    verdicts = verdicts_of([("b", "c"), ("a", "c"), ("c", "abc")])
    assert verdicts.reporters("c", 0.0) == ["a", "b"]
    assert verdicts.reporters("a", 0.0) == ["c"], "said, although it does not count"
    assert verdicts.reporters("x", 0.0) == []


@pytest.mark.parametrize(("needed", "down"), [(1, True), (2, True), (3, True), (4, False)])
def test_the_number_of_witnesses_is_a_setting(needed, down):
    assert bool(verdicts_of([("a", "x"), ("b", "x"), ("c", "x")], reporters=needed).down(0.0)) is down


def test_a_word_ends_unless_it_is_repeated():
    verdicts = verdicts_of([("a", "c"), ("b", "c")])
    verdicts.report("b", "c", 2.0)
    assert verdicts.down(2.9) == {"c": ["a", "b"]}
    assert verdicts.down(3.0) == {}
    assert verdicts.reporters("c", 3.0) == ["b"]
    assert verdicts.reporters("c", 5.0) == []
    verdicts.report("a", "c", 3.5)
    assert verdicts.down(4.9) == {"c": ["a", "b"]}


def test_the_old_word_of_a_frozen_node_is_not_the_second():
    verdicts = verdicts_of([("a", "b")])  # and freezes
    verdicts.report("c", "b", 10.0)
    assert verdicts.down(10.0) == {}


def test_a_node_that_is_judged_no_more_is_a_witness_again():
    verdicts = verdicts_of([("a", "c"), ("b", "c"), ("c", "x"), ("e", "x")])
    assert verdicts.down(0.0) == {"c": ["a", "b"]}
    verdicts.report("b", "", 0.0)
    assert verdicts.down(0.0) == {"x": ["c", "e"]}


def test_a_verdict_that_stood_is_forgotten_once_it_falls():
    verdicts = verdicts_of([("c", "ab"), ("d", "ab")])
    assert sorted(verdicts.down(0.0)) == ["a", "b"]
    for reporter, suspects in (("a", "cd"), ("b", "cd"), ("c", "ab"), ("d", "ab")):
        verdicts.report(reporter, suspects, 10.0)
    assert sorted(verdicts.down(10.0)) == ["c", "d"], "by now a and b were the first"


def test_a_restarted_node_is_heard_and_judged_anew():
    verdicts = verdicts_of([("a", "c"), ("b", "c"), ("c", "ab"), ("c", "d"), ("a", "d")])
    verdicts.forget("c")
    assert verdicts.down(0.0) == {}
    assert verdicts.reporters("a", 0.0) == []
    assert verdicts.reporters("c", 0.0) == []
    assert verdicts.reporters("d", 0.0) == ["a"]
    verdicts.forget("never heard of")
    verdicts.report("b", "c", 0.0)
    assert verdicts.down(0.0) == {}
    verdicts.report("d", "c", 0.0)
    assert verdicts.down(0.0) == {"c": ["b", "d"]}


def test_what_is_said_soon_after_a_restart_is_passed_over():
    verdicts = verdicts_of([("a", "c"), ("b", "c")])
    verdicts.forget("c", until_s=2.0)
    for reporter in "ab":
        verdicts.report(reporter, "cd", 1.9)
    assert verdicts.down(1.9) == {"d": ["a", "b"]}
    for reporter in "ab":
        verdicts.report(reporter, "c", 2.0)
    assert verdicts.down(2.0) == {"c": ["a", "b"]}


def test_seniority_lasts_as_long_as_the_words_are_repeated():
    verdicts = verdicts_of([("c", "ab"), ("d", "ab")])
    for now_s in range(1, 10):
        for reporter, suspects in (("a", "cd"), ("b", "cd"), ("c", "ab"), ("d", "ab")):
            verdicts.report(reporter, suspects, now_s)
            assert sorted(verdicts.down(now_s)) == ["a", "b"]
    verdicts.report("c", "", 10.0)
    verdicts.report("c", "ab", 10.0)
    assert sorted(verdicts.down(10.0)) == ["c", "d"], "c took it back for a moment"


def test_a_restarted_node_has_no_seniority():
    verdicts = verdicts_of([("c", "ab"), ("d", "ab")])
    verdicts.forget("b")
    verdicts.forget("a")
    for reporter, suspects in (("a", "cd"), ("b", "cd"), ("c", "ab"), ("d", "ab")):
        verdicts.report(reporter, suspects, 0.0)
    assert sorted(verdicts.down(0.0)) == ["c", "d"]


@pytest.mark.parametrize("seed", range(100))
def test_whatever_is_said_down_nodes_were_judged_by_enough_that_are_not(seed):
    rng = random.Random(seed)
    names = "abcdefgh"
    needed = rng.choice([1, 2, 2, 3])
    verdicts = Verdicts(expires_s=3.0, reporters=needed)
    now_s = 0.0
    for _ in range(60):
        now_s += rng.choice([0.0, 0.1, 1.0])
        verdicts.report(rng.choice(names), rng.sample(names, rng.randrange(4)), now_s)
        if rng.random() < 0.1:
            verdicts.forget(rng.choice(names))
        down = verdicts.down(now_s)
        for suspect, witnesses in down.items():
            assert len(witnesses) >= needed
            assert not set(witnesses) & set(down)
            assert set(witnesses) <= set(verdicts.reporters(suspect, now_s)) - {suspect}
            assert witnesses == sorted(witnesses)
        assert verdicts.down(now_s) == down, "asking twice changes nothing"
    assert verdicts.down(now_s + 3.0) == {}


@pytest.mark.parametrize("wrong", [{"expires_s": 0.0}, {"expires_s": 1.0, "reporters": 0}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(InvalidOption):
        Verdicts(**wrong)
