"""When to grow and when to shrink: as a table, and over a day."""

from __future__ import annotations

import pytest

from raykv.config import ScalingConfig
from raykv.errors import InvalidOption
from raykv.supervision.autoscaling import Autoscaler, NodeLoad

LIMITS = ScalingConfig(ops_per_s=1000.0)


def nodes(count: int, used: float, **more: object) -> list[NodeLoad]:
    return [NodeLoad(f"n{number + 1}", 1.0, used * 1000.0, **more) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "used", "action", "amount"),
    [
        (3, 0.5, "nothing", 0), (3, 0.71, "add", 1), (3, 1.5, "add", 6), (16, 0.9, "nothing", 0), (3, 0.1, "nothing", 0),
        (5, 0.39, "remove", 0), (5, 0.41, "nothing", 0), (15, 0.75, "add", 1),
    ],
)  # fmt: skip
def test_a_steady_load(count: int, used: float, action: str, amount: int) -> None:
    decision = Autoscaler(LIMITS).decide(nodes(count, used), 0.0)
    assert (decision.action, decision.nodes) == (action, amount), decision.why
    assert f"{used:.0%}" in decision.why


def test_the_lightest_node_is_taken_away() -> None:
    loads = [NodeLoad("n1", 2.0, 300.0), NodeLoad("n2", 0.5, 90.0), *nodes(3, 0.1)[2:], NodeLoad("n4", 1.0, 50.0)]
    assert Autoscaler(LIMITS).decide(loads, 0.0).node_id == "n2"


def test_bytes_count_too() -> None:
    scaler = Autoscaler(ScalingConfig(ops_per_s=1000.0, node_bytes=100))
    assert scaler.decide(nodes(3, 0.1, disk_bytes=90), 0.0).action == "add"
    assert (
        Autoscaler(ScalingConfig(ops_per_s=1000.0, node_bytes=100)).decide(nodes(5, 0.1, disk_bytes=60), 0.0).action
        == "nothing"
    )


def test_one_hot_key_is_named_and_not_grown_for() -> None:
    hot = ((b"\x02hot", 900.0), (b"\x02warm", 20.0))
    decision = Autoscaler(LIMITS).decide(nodes(3, 0.95, heaviest=hot), 0.0)
    assert decision.action == "nothing"
    assert decision.hot == (b"\x02hot",)
    assert "more nodes do not help" in decision.why


def test_beside_a_hot_key_the_rest_may_be_reason_enough() -> None:
    decision = Autoscaler(LIMITS).decide(nodes(3, 1.2, heaviest=((b"\x02hot", 400.0),)), 0.0)
    assert decision.action == "add"
    assert decision.hot == (b"\x02hot",)


def test_while_partitions_move_nothing_is_decided() -> None:
    decision = Autoscaler(LIMITS).decide(nodes(3, 0.9), 0.0, moving=True)
    assert decision.action == "nothing"
    assert "still moving" in decision.why


def test_it_does_not_turn_round_within_the_cool_down() -> None:
    scaler = Autoscaler(LIMITS)
    assert scaler.decide(nodes(3, 0.9), 0.0).action == "add"
    assert scaler.decide(nodes(5, 0.9), 60.0).action == "add", "further in the same direction"
    assert "the other way" in scaler.decide(nodes(9, 0.2), 120.0).why
    assert scaler.decide(nodes(9, 0.2), 60.0 + LIMITS.cool_down_s).action == "remove"


def test_it_looks_ahead() -> None:
    scaler = Autoscaler(LIMITS)
    rising = [scaler.decide(nodes(4, 0.50 + 0.01 * step), 30.0 * step).action for step in range(16)]
    assert "add" in rising
    assert 0.50 + 0.01 * rising.index("add") < LIMITS.high - 0.05


@pytest.mark.parametrize(
    "wrong",
    [
        {"ops_per_s": 0.0}, {"low": 0.8}, {"high": 1.2}, {"least": 0}, {"most": 2}, {"cool_down_s": -1.0},
        {"hot_share": 0.0}, {"low": 0.0},
    ],
)  # fmt: skip
def test_limits_that_do_not_fit(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidOption):
        ScalingConfig(**({"ops_per_s": 1000.0} | wrong))


def test_slow_answers_are_a_reason_too_if_asked_for() -> None:
    scaler = Autoscaler(ScalingConfig(ops_per_s=1000.0, p99_ms=50.0))
    assert scaler.decide(nodes(3, 0.5, p99_ms=60.0), 0.0).nodes == 1
    assert Autoscaler(LIMITS).decide(nodes(3, 0.5, p99_ms=60.0), 0.0).action == "nothing"
    fast = Autoscaler(ScalingConfig(ops_per_s=1000.0, p99_ms=50.0))
    assert fast.decide(nodes(3, 0.1, p99_ms=60.0), 0.0).action == "nothing", "idle nodes are slow for another reason"
    one = [*nodes(2, 0.5, p99_ms=10.0), NodeLoad("n3", 1.0, 500.0, p99_ms=900.0)]
    assert fast.decide(one, 0.0).action == "nothing", "it is that node, not the load"


def test_uneven_shares_are_put_right_before_nodes_are_added() -> None:
    loads = [NodeLoad("n1", 1.0, 900.0), NodeLoad("n2", 1.0, 500.0), NodeLoad("n3", 1.0, 900.0)]
    assert Autoscaler(LIMITS).decide(loads, 0.0).action == "add"
    assert Autoscaler(LIMITS).decide(loads, 0.0, uneven=True).action == "rebalance"
    assert Autoscaler(LIMITS).decide(loads, 0.0, uneven=True, moving=True).action == "nothing"
    assert Autoscaler(LIMITS).decide(nodes(3, 0.5), 0.0, uneven=True).action == "nothing", "it does no harm"


def test_without_anybody_nothing_is_decided() -> None:
    assert Autoscaler(LIMITS).decide([], 0.0).action == "nothing"
