"""The checker of queues: silent about what may be, and it names what must not be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from simulation.queue_checker import Delivery, PutOp, check_queue

ACKED = {"settled": "acked", "settling_s": 1.5, "settled_s": 1.6}


def put(value: str = "a", outcome: Any = "ok", job_id: str = "0.0.0") -> PutOp:
    return PutOp("p", value, outcome, job_id, 0.5)


def got(number: int = 1, at_s: float = 1.0, value: str = "a", job_id: str = "0.0.0", **fields: Any) -> Delivery:
    return Delivery("c", value, job_id, number, at_s, 2.0, at_s, at_s + 0.1, **fields)


def rules(
    puts: list[PutOp], deliveries: list[Delivery], dead: dict[str, int] | None = None, *, drained: bool = True
) -> list[str]:
    return [each.rule for each in check_queue(puts, deliveries, dead or {}, 5, drained=drained)]


@pytest.mark.parametrize(
    ("puts", "deliveries"),
    [
        ([], []),
        ([put()], [got(**ACKED)]),
        ([put(outcome="unknown", job_id="")], []),
        ([put(outcome="unknown", job_id="")], [got(**ACKED)]),
        ([put(outcome="refused", job_id=""), put()], [got(**ACKED)]),
        ([put()], [got(), got(2, 3.5, settled="ack unknown")]),
        ([put()], [got(settled="nacked", settling_s=1.2), got(2, 1.3, **ACKED)]),
        ([put()], [got(2, 1.0, **ACKED), Delivery("c", "a", "0.0.0", 1, 0.2, 0.5, 0.2, 5.1)]),
        ([put(), put("b", job_id="0.0.1")], [got(**ACKED), got(1, 1.0, "b", "0.0.1", **ACKED)]),
    ],
    ids=[
        "nothing", "put and done", "unknown and not there", "unknown and there", "refused, then put under its name",
        "delivered again after its lease", "delivered again when given back", "its first consumer stood still", "two jobs",
    ],
)  # fmt: skip
def test_what_may_be(puts: list[PutOp], deliveries: list[Delivery]) -> None:
    assert rules(puts, deliveries) == []


@pytest.mark.parametrize(
    ("puts", "deliveries", "rule"),
    [
        ([put()], [], "job lost"),
        ([put()], [got()], "job lost"),
        ([put()], [got(settled="nacked")], "job lost"),
        ([], [got(**ACKED)], "job from nowhere"),
        ([put(outcome="refused", job_id="")], [got(**ACKED)], "job from nowhere"),
        ([put(), put(job_id="0.1.0")], [got(**ACKED), got(job_id="0.1.0", **ACKED)], "put twice"),
        ([put()], [got(**ACKED), got(2, 2.0)], "done and delivered"),
        ([put()], [got(**ACKED), got(2, 1.55, settled="acked", settled_s=9.0)], "done twice"),
        ([put(), put("b")], [got(**ACKED)], "put over another"),
        ([msgspec.structs.replace(put(), due_s=1.2)], [got(**ACKED)], "delivered too early"),
        ([put()], [got(settled="nacked", settling_s=1.2, due_s=1.6), got(2, 1.3, **ACKED)], "delivered too early"),
        ([put()], [got(), got(2, 2.5, settled="ack unknown")], "job held by two"),
        ([put()], [got(settled="ack unknown"), got(1, 9.0)], "one delivery to two"),
        ([put()], [got(6, **ACKED)], "delivered too often"),
    ],
)
def test_what_must_not_be_is_named(puts: list[PutOp], deliveries: list[Delivery], rule: str) -> None:
    assert rules(puts, deliveries) == [rule]
    assert rules(puts, deliveries[::-1]) == [rule]


def test_what_is_dead_or_not_asked_for_is_not_lost() -> None:
    assert rules([put()], [], {"0.0.0": 5}) == []
    assert rules([put()], [], drained=False) == []


def test_a_dead_letter_was_delivered_often_enough_and_not_done() -> None:
    assert rules([put()], [], {"0.0.0": 4}) == ["dead too soon"]
    assert rules([put()], [got(**ACKED)], {"0.0.0": 5}) == ["dead and done"]


def test_a_delivery_says_what_it_is() -> None:
    assert "c got a (0.0.0, delivery 1) at 1.1000" in msgspec.structs.replace(got()).told()
