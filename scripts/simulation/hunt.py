"""Hunts a planted bug: runs scenario after scenario without the guard, until one of them fails.

Any violation counts, and so does an exception that ends the run. But a seed that fails with the guard in place as well
says nothing of the guard: what was found is run once more as it should be, and counts only if it is clean then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from simulation.drawing import draw
from simulation.fuzzers import fuzz
from simulation.history import Violation
from simulation.planted import planted
from simulation.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from simulation.scenario import Scenario


class Caught(NamedTuple):
    """A planted bug was caught at this seed, after ``runs`` runs; ``violation`` is the first that was reported."""

    seed: int
    violation: Violation
    runs: int


def violations(scenario: Scenario) -> list[Violation]:
    """Run a scenario; return what is wrong with it."""
    try:
        return fuzz(scenario.seed, scenario.fuzzers)[0] or run(scenario).violations
    except Exception as error:  # noqa: BLE001 - whatever ends a run is a finding
        return [Violation("the run ended", "", f"{type(error).__name__}: {error}")]


def hunt(name: str, seeds: Iterable[int], scenario_of: Callable[[int], Scenario] = draw) -> Caught | None:
    """Run ``seeds`` with the bug of this name planted, until one is caught; None if none is."""
    for runs, seed in enumerate(seeds, start=1):
        scenario = scenario_of(seed)
        with planted(name):
            found = violations(scenario)
        if found and not violations(scenario):
            return Caught(seed, found[0], runs)
    return None
