"""The autoscaler over a day."""

import pytest

from raykv.config import ScalingConfig
from simulation.autoscaling import day


@pytest.mark.parametrize("seed", range(6))
def test_a_day_with_a_burst_stays_in_the_band_without_swinging(seed):
    found = day(seed)
    assert found.inside >= 0.95
    assert found.turned_too_soon(ScalingConfig(ops_per_s=1.0).cool_down_s) == 0
    assert {action for _, action, _ in found.changes} == {"add", "remove"}
    assert max(count for _, _, count in found.looks) > min(count for _, _, count in found.looks) + 5


def test_a_day_is_the_same_again_and_a_band_that_cannot_be_kept_is_not():
    assert day(3) == day(3)
    assert day(3, ScalingConfig(ops_per_s=1000.0, most=5)).inside < 0.8
