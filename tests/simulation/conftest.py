"""A run that fails: W=1 and R=1, held to what strict quorums promise."""

from __future__ import annotations

import pytest

from simulation.attempt import attempt
from simulation.drawing import draw


@pytest.fixture(scope="session")
def failing():
    for seed in range(1, 30):
        outcome = attempt(draw(seed, weak=True), strict=False)
        if any(found.rule == "lost or stale" for found in outcome.violations[:1]):
            return outcome
    raise AssertionError("the checkers are silent about a store with W=1 and R=1")
