"""The detector: whom it talks to, whom it suspects, and that it knows when it stood still itself."""

from __future__ import annotations

import random

import pytest

from raykv.errors import InvalidOption
from raykv.membership import FailureDetector

EVERY_S = 0.5


def of(node_id="a", members="abcde", incarnation=1, seed=1, **options):
    detector = FailureDetector(node_id, incarnation, every_s=EVERY_S, random=random.Random(seed), **options)
    detector.set_members(members, 0.0)
    return detector


def alive(detector, peers, number, now_s):
    """Let the detector hear that these run."""
    detector.hear(dict.fromkeys(peers, (1, number)), now_s)


def rounds(detector, peers, first, last):
    """Tick and hear from ``peers`` in the rounds from ``first`` on, before ``last``; return the partners of each."""
    partners = []
    for number in range(first, last):
        partners.append(detector.tick(number * EVERY_S))
        alive(detector, peers, number, number * EVERY_S + 0.1)
    return partners


def test_a_round_beats_once_and_names_other_members():
    detector = of()
    for number, partners in enumerate(rounds(detector, "bcde", 1, 200), 1):
        assert len(set(partners)) == len(partners) == 2
        assert set(partners) <= set("bcde")
        assert detector.table()["a"] == (1, number) or number < 199
    assert detector.table() == {"a": (1, 199), **dict.fromkeys("bcde", (1, 199))}


@pytest.mark.parametrize(("members", "fanout", "expected"), [("a", 2, 0), ("ab", 2, 1), ("abc", 9, 2), ("abcd", 1, 1)])
def test_there_are_at_most_fanout_partners(members, fanout, expected):
    assert len(of(members=members, fanout=fanout).tick(0.5)) == expected


def test_everybody_is_a_partner_about_as_often():
    counts = dict.fromkeys("bcde", 0)
    for partners in rounds(of(), "bcde", 1, 2000):
        for partner in partners:
            counts[partner] += 1
    assert 900 < min(counts.values()) <= max(counts.values()) < 1100


def test_the_same_seed_names_the_same_partners():
    chosen = [rounds(of(seed=seed), "bc", 1, 60) for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_silent_are_suspected_within_three_seconds_and_cleared_by_news():
    detector = of()
    rounds(detector, "bcde", 1, 60)
    rounds(detector, "bd", 60, 63)
    assert detector.suspects(63 * EVERY_S) == []
    rounds(detector, "bd", 63, 66)
    assert detector.suspects(66 * EVERY_S) == ["c", "e"]
    assert detector.phi("c", 66 * EVERY_S) > 8 > 1 > detector.phi("b", 66 * EVERY_S)
    alive(detector, "c", 66, 66 * EVERY_S)
    assert detector.suspects(66 * EVERY_S) == ["e"]


def test_old_news_are_no_sign_of_life():
    detector = of()
    rounds(detector, "bcde", 1, 60)
    for number in range(60, 70):
        detector.tick(number * EVERY_S)
        alive(detector, "bcde", 59, number * EVERY_S)
    assert detector.suspects(70 * EVERY_S) == ["b", "c", "d", "e"]


def test_the_suspected_are_asked_now_and_then_in_addition():
    detector = of()
    rounds(detector, "bcde", 1, 60)
    partners = rounds(detector, "bcd", 70 - 10, 470)[10:]
    asked = [chosen for chosen in partners if "e" in chosen]
    assert 60 < len(asked) < 140, "a quarter of 400 rounds"
    assert all(len(set(chosen) - {"e"}) == 2 for chosen in partners), "nobody is asked less for it"


def test_a_node_that_is_cut_off_from_all_asks_all():
    detector = of()
    rounds(detector, "bcde", 1, 60)
    chosen = rounds(detector, "", 60, 100)[20:]
    assert all(len(set(partners)) == 2 for partners in chosen)
    assert {partner for partners in chosen for partner in partners} == set("bcde")


def test_a_process_that_stood_still_judges_nobody_for_a_while():
    detector = of()
    rounds(detector, "bcde", 1, 60)
    detector.tick(90.0)
    assert detector.stalled_until == pytest.approx(90.0 + 10 * EVERY_S)
    assert detector.suspects(90.0) == []
    for number in range(1, 11):  # nobody is heard of; by the usual limit all were suspected after 3 s
        assert detector.suspects(90.0 + number * EVERY_S - 0.01) == []
        detector.tick(90.0 + number * EVERY_S)
    assert detector.suspects(90.0 + 10 * EVERY_S) == ["b", "c", "d", "e"]


@pytest.mark.parametrize("first", ["tick", "hear", "suspects", "set_members"])
def test_whatever_comes_first_after_a_stall_sees_it(first):
    detector = of()
    rounds(detector, "bcde", 1, 60)
    calls = {
        "tick": lambda: detector.tick(90.0),
        "hear": lambda: alive(detector, "b", 60, 90.0),
        "suspects": lambda: detector.suspects(90.0),
        "set_members": lambda: detector.set_members("abcdef", 90.0),
    }
    calls[first]()
    assert detector.stalled_until == 95.0
    assert detector.suspects(90.0) == []
    detector.tick(90.1)
    assert detector.stalled_until == 95.0, "one stall is seen once"


def test_a_stall_teaches_nothing_about_the_others():
    still, steady = of(), of()
    rounds(steady, "bcde", 1, 100)
    rounds(still, "bcde", 1, 60)
    rounds(still, "bcde", 62 + 10, 62 + 10 + 40)  # away for 13 rounds
    silent_s = [
        next(s / 100 for s in range(2000) if detector.phi("b", last * EVERY_S + s / 100) >= 8)
        for detector, last in ((steady, 99), (still, 111))
    ]
    assert silent_s[0] == pytest.approx(silent_s[1], abs=0.05)


@pytest.mark.parametrize(("late_s", "stalled"), [(1.49, False), (1.51, True)])
def test_a_tick_may_be_a_little_late(late_s, stalled):
    detector = of()
    rounds(detector, "bcde", 1, 11)
    detector.tick(5.0 + late_s)
    assert (detector.stalled_until > 5.0) is stalled


def test_a_detector_that_begins_late_has_not_stood_still():
    detector = FailureDetector("a", 1, every_s=EVERY_S, random=random.Random(1))
    detector.set_members("ab", 1000.0)
    detector.tick(1000.5)
    assert detector.stalled_until < 0


def test_without_ticks_nobody_is_ever_judged():
    detector = of()
    rounds(detector, "bcde", 1, 60)
    assert all(detector.suspects(30.0 + 0.1 * step) == [] for step in range(16, 600))


def test_a_new_member_has_a_grace_and_one_that_left_is_forgotten():
    detector = of(members="ab")
    for number in range(1, 100):
        detector.tick(number * EVERY_S)
        if number == 50:
            detector.set_members("abx", number * EVERY_S)
        alive(detector, "b", number, number * EVERY_S)
        assert ("x" in detector.suspects(number * EVERY_S)) == (number * EVERY_S > 25 + 3.6)
    detector.set_members("ab", 49.5)
    assert detector.suspects(49.5) == []
    assert sorted(detector.table()) == ["a", "b"]
    detector.set_members("abx", 49.5)
    assert detector.suspects(49.5) == [], "it starts anew"


def test_members_set_again_change_nothing():
    detector = of()
    rounds(detector, "bcd", 1, 60)
    detector.set_members("edcba", 30.0)
    assert detector.suspects(30.0) == ["e"]


def test_a_replaced_process_learns_of_it():
    detector = of(incarnation=3)
    detector.hear({"a": (3, 99)}, 0.1)
    assert not detector.superseded
    detector.hear({"a": (4, 0)}, 0.2)
    assert detector.superseded


@pytest.mark.parametrize("wrong", [{"fanout": 0}, {"fanout": 1.5}, {"threshold": -1.0}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(InvalidOption):
        of(**wrong)
