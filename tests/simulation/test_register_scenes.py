"""Scenes about the cluster's state: clean, the same again for the same seed, and each shows what it is about."""

from __future__ import annotations

import pytest

from simulation.planted import planted
from simulation.register_scenes import REGISTER_SCENES, play, register_scene

BUGS = {
    "AChangeThatFailed": "one number, two states",
    "AVoteGivenBack": "a vote is given back with what was decided before",
}


@pytest.mark.parametrize("scene", REGISTER_SCENES, ids=lambda scene: scene.__name__)
def test_a_scene_is_clean_and_the_same_again(scene):
    hashes = []
    for number in range(8):
        found, trace_hash = play(scene, f"test {number}")
        assert found == []
        hashes.append(trace_hash)
    assert play(scene, "test 3")[1] == hashes[3]
    assert len({*hashes}) == len(hashes)


@pytest.mark.parametrize("scene", REGISTER_SCENES, ids=lambda scene: scene.__name__)
def test_a_scene_shows_what_it_is_about(scene):
    with planted(BUGS[scene.__name__]):
        found = [violation.rule for number in range(5) for violation in play(scene, f"test {number}")[0]]
    assert "two stories" in found


def test_seeds_take_turns():
    hashes = {register_scene(seed)[1] for seed in range(len(REGISTER_SCENES))}
    assert len(hashes) == len(REGISTER_SCENES)
