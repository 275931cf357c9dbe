"""Holders of a lock: what must not be is seen, and the simulation comes upon it where the lock is broken."""

from __future__ import annotations

import pytest

from simulation.attempt import attempt
from simulation.drawing import draw
from simulation.lock_checker import Holding, check_locks
from simulation.planting import Edit, edited
from simulation.quiet import quiet

CLAIMS = "raykv.client.locks:Claims"


def held(client: str, token: int, since_s: float, until_s: float, name: str = "job") -> Holding:
    return Holding(client, name, token, since_s, until_s, lost=False)


def test_holders_one_after_the_other_are_fine():
    assert check_locks([]) == []
    assert check_locks([held("b", 5, 2.0, 3.0), held("a", 2, 0.0, 2.0), held("a", 1, 1.0, 9.0, "other")]) == []


@pytest.mark.parametrize(
    ("holdings", "rules"),
    [
        ([held("a", 1, 0.0, 2.0), held("b", 2, 1.9, 3.0)], ["two holders"]),
        ([held("a", 1, 0.0, 1.0), held("b", 1, 2.0, 3.0)], ["token does not grow"]),
        ([held("a", 3, 0.0, 1.0), held("b", 2, 2.0, 3.0)], ["token does not grow"]),
        ([held("a", 2, 0.0, 2.0), held("b", 1, 1.0, 3.0)], ["token does not grow", "two holders"]),
    ],
)
def test_what_must_not_be_is_seen(holdings: list[Holding], rules: list[str]):
    found = check_locks(holdings)
    assert [violation.rule for violation in found] == rules
    assert "a held job with token" in found[0].text


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (Edit(f"{CLAIMS}._acquire", "or now_s >= held_until_s:", "or now_s >= since_s + 0.1:"), "two holders"),
        (
            Edit(f"{CLAIMS}.release", 'tenancy.entry._replace(owner="")', 'tenancy.entry._replace(owner="", token=1)'),
            "token does not grow",
        ),
    ],
    ids=["taken over too soon", "released with another token"],
)
def test_the_simulation_comes_upon_a_lock_that_is_broken(edit: Edit, rule: str):
    scenarios = [scenario for seed in range(120) if (scenario := draw(seed)).family == "leaders"]
    with quiet(), edited([edit]):
        assert any(rule in {violation.rule for violation in attempt(each).violations} for each in scenarios)
