"""Phi: a surprise that grows with silence, learns how its peers usually sound, and is hard to fool."""

from __future__ import annotations

import math
import random

import pytest

from raykv.errors import InvalidOption
from raykv.membership import PhiAccrual


def hears(phi, peer, gaps_s, now_s=0.0):
    phi.heard([peer], now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        phi.heard([peer], now_s)
    return now_s


def limit_s(phi, peer, since_s):
    """How long after ``since_s`` the peer is suspected, to a millisecond."""
    low_s, high_s = 0.0, 1000.0
    while high_s - low_s > 0.001:
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (low_s, middle_s) if peer in phi.suspects(since_s + middle_s) else (middle_s, high_s)
    return high_s


def test_a_peer_made_known_has_a_grace():
    phi = PhiAccrual(every_s=0.5)
    assert phi.phi("a", 100.0) == 0.0
    assert phi.suspects(100.0) == []
    phi.heard(["a"], 100.0)
    assert phi.suspects(103.5) == []
    assert phi.suspects(103.7) == ["a"]


@pytest.mark.parametrize(
    ("gaps_s", "expected_s"),
    [
        ([0.5] * 1000, 1.0 + 0.5 + 5.612 * 0.125),  # as steady as can be: the floor of the deviation
        ([0.25, 0.75] * 500, 1.0 + 0.5 + 5.612 * 0.25),
        ([1.0] * 2000, 1.0 + 1.0 + 5.612 * 0.125),  # a network of its own pace
    ],
)
def test_the_limit_is_pause_and_mean_and_deviations(gaps_s, expected_s):
    phi = PhiAccrual(every_s=0.5)
    end_s = hears(phi, "a", gaps_s)
    assert limit_s(phi, "a", end_s) == pytest.approx(expected_s, abs=0.02)


@pytest.mark.parametrize("threshold", [0.5, 1.0, 8.0, 16.0])
@pytest.mark.parametrize("every_s", [0.1, 0.5, 10.0])
def test_a_suspect_is_one_whose_phi_reaches_the_threshold(threshold, every_s):
    phi = PhiAccrual(every_s=every_s, threshold=threshold)
    rng = random.Random(1)
    end_s = hears(phi, "a", [every_s * rng.uniform(0.5, 1.6) for _ in range(300)])
    silence_s = limit_s(phi, "a", end_s)
    assert phi.phi("a", end_s + silence_s + 0.002) >= threshold
    assert phi.phi("a", end_s + silence_s - 0.002) < threshold


def test_phi_is_the_chance_of_such_a_silence():
    phi = PhiAccrual(every_s=1.0)
    end_s = hears(phi, "a", [1.0] * 5000)  # the deviation is at its floor, a quarter
    assert phi.phi("a", end_s) == pytest.approx(0.0, abs=1e-9)
    assert phi.phi("a", end_s + 3.0) == pytest.approx(-math.log10(0.5), abs=0.01)  # pause and mean
    assert phi.phi("a", end_s + 3.25) == pytest.approx(-math.log10(0.158655), abs=0.02)
    assert phi.phi("a", end_s + 1000) == math.inf


@pytest.mark.parametrize("seed", range(10))
def test_phi_grows_with_silence_and_is_never_below_0(seed):
    rng = random.Random(seed)
    phi = PhiAccrual(every_s=0.5)
    end_s = hears(phi, "a", [rng.expovariate(2) for _ in range(rng.randrange(100))])
    rising = [phi.phi("a", end_s + step / 10) for step in range(300)]
    assert rising == sorted(rising)
    assert rising[0] >= 0
    assert repr(phi.phi("a", end_s - 1000)) == "0.0", "not -0.0"


def test_news_clear_a_suspect():
    phi = PhiAccrual(every_s=0.5)
    end_s = hears(phi, "a", [0.5] * 50)
    assert phi.suspects(end_s + 10) == ["a"]
    phi.heard(["a"], end_s + 10)
    assert phi.suspects(end_s + 10) == []


def test_suspects_are_sorted_and_the_forgotten_are_not_among_them():
    phi = PhiAccrual(every_s=0.5)
    for peer in ("c", "a", "b"):
        phi.heard([peer], 0.0)
    assert phi.suspects(60.0) == ["a", "b", "c"]
    phi.forget("b")
    phi.forget("never known")
    assert phi.suspects(60.0) == ["a", "c"]
    phi.heard(["b"], 60.0)
    assert phi.suspects(60.0) == ["a", "c"]


def test_one_long_silence_does_not_make_it_blind():
    phi = PhiAccrual(every_s=0.5)
    end_s = hears(phi, "a", [0.5] * 400)
    before_s = limit_s(phi, "a", end_s)
    phi.heard(["a"], end_s + 3600)
    assert limit_s(phi, "a", end_s + 3600) < before_s + 0.5


def test_a_network_that_got_slow_is_learned():
    phi = PhiAccrual(every_s=0.5)
    end_s = hears(phi, "a", [0.5] * 400)
    suspicions = 0
    for _ in range(600):
        end_s += 4.0
        suspicions += phi.suspects(end_s) == ["a"]
        phi.heard(["a"], end_s)
    assert 1 <= suspicions <= 20
    assert phi.suspects(end_s + 4.0) == []


def test_the_window_is_how_much_is_remembered():
    short, long = PhiAccrual(every_s=0.5, window=10), PhiAccrual(every_s=0.5, window=1000)
    limits_s = []
    for phi in (short, long):
        end_s = hears(phi, "a", [2.0] * 1000 + [0.5] * 60)
        limits_s.append(limit_s(phi, "a", end_s))
    assert limits_s[0] < 2.5 < 4 < limits_s[1]


def test_an_excuse_teaches_nothing():
    phi = PhiAccrual(every_s=0.5)
    end_s = hears(phi, "a", [0.5] * 400)
    before_s = limit_s(phi, "a", end_s)
    for _ in range(100):
        end_s += 1.9
        phi.excuse(end_s)
        assert phi.suspects(end_s + 1.0) == []
        end_s += 0.01
        phi.heard(["a"], end_s)
    assert limit_s(phi, "a", end_s) == pytest.approx(before_s, abs=0.01)


def test_the_first_news_after_being_made_known_teach_nothing():
    phi = PhiAccrual(every_s=0.5)
    for peer, wait_s in (("a", 0.01), ("b", 3.0)):
        phi.heard([peer], 0.0)
        phi.heard([peer], wait_s)
    assert limit_s(phi, "a", 0.01) == pytest.approx(limit_s(phi, "b", 3.0), abs=0.002)


@pytest.mark.parametrize(
    "wrong",
    [
        {"every_s": 0.0}, {"every_s": -1.0}, {"every_s": math.nan}, {"every_s": "1"},
        {"every_s": 1.0, "threshold": 0.0}, {"every_s": 1.0, "threshold": 101.0}, {"every_s": 1.0, "threshold": math.nan},
        {"every_s": 1.0, "window": 0}, {"every_s": 1.0, "window": 1.5},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(wrong):
    with pytest.raises(InvalidOption):
        PhiAccrual(**wrong)
