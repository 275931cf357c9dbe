"""The driver: how many requests at once, what is sent again and what is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from raykv.client import driver
from raykv.client.exchange import Exchange
from raykv.errors import BatchError, QuorumNotMet, StoreUnavailable, WriteOutcomeUnknown
from raykv.ports import PeerAbsent, PeerDead, PeerFailure, PeerSilent
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace


def absent(*, at_submit: bool = False) -> PeerAbsent:
    failure = PeerAbsent("no such process runs")
    failure.at_submit = at_submit  # type: ignore[attr-defined]
    return failure


# ---- reads ----


@pytest.mark.parametrize("at_submit", [False, True])
@pytest.mark.parametrize("kind", [PeerDead, PeerAbsent])
def test_a_read_whose_coordinator_died_is_sent_again(
    both: Callable[..., Any], link: Any, no_waiting: SimpleNamespace, kind: type[PeerFailure], at_submit: bool
) -> None:
    both("put", "a", 1)
    failure = kind("its process has ended")
    failure.at_submit = at_submit  # type: ignore[attr-defined]
    link.script = [failure, failure]
    assert both("get", "a") == 1
    assert len(link.requests) == 4
    first, second = no_waiting.slept
    assert 0.5 <= first / driver.RETRY_S <= 1.5
    assert 0.5 <= second / (2 * driver.RETRY_S) <= 1.5, "twice as long, the spread aside"


def test_a_read_without_an_answer_is_an_error_and_not_sent_again(both: Callable[..., Any], link: Any) -> None:
    link.script = [PeerSilent("no answer")]
    with pytest.raises(QuorumNotMet, match="no coordinator answered within 5 s"):
        both("get", "a")
    assert len(link.requests) == 1


def test_a_read_gives_up_when_its_time_is_over(
    both: Callable[..., Any], link: Any, no_waiting: SimpleNamespace
) -> None:
    link.script = [absent()] * 1000
    began_s = no_waiting.now_s
    with pytest.raises(StoreUnavailable, match="no coordinator of the store can be reached"):
        both("get", "a", timeout=2)
    assert 1.5 < no_waiting.now_s - began_s <= 2 * driver.GRACE


def test_a_longer_wait_tries_less_often_and_never_in_step_with_others(
    both: Callable[..., Any], link: Any, no_waiting: SimpleNamespace
) -> None:
    waits: list[list[float]] = []
    for _ in range(2):
        link.script = [absent()] * 12
        no_waiting.slept.clear()
        both("get", "a", timeout=30)
        waits.append(list(no_waiting.slept))
        for tries, slept_s in enumerate(waits[-1]):
            assert 0.5 <= slept_s / min(driver.RETRY_CEILING_S, driver.RETRY_S * 2**tries) <= 1.5
    assert all(one != other for one, other in zip(*waits, strict=True))


# ---- writes ----


@pytest.mark.parametrize("kind", [PeerDead, PeerSilent, PeerFailure])
def test_a_write_that_may_have_been_carried_out_is_never_sent_again(
    both: Callable[..., Any], link: Any, kind: type[PeerFailure]
) -> None:
    link.script = [kind("gone")]
    with pytest.raises(WriteOutcomeUnknown, match="may stand, and may surface later") as caught:
        both("put", "a", 1)
    assert len(link.requests) == 1
    (_, body, _) = link.requests[0].items[0]
    assert caught.value.operation_id == body[:16].hex()
    assert caught.value.acks == ()


@pytest.mark.parametrize("at_submit", [False, True])
def test_a_write_that_found_no_coordinator_is_sent_again_the_same(
    both: Callable[..., Any], link: Any, no_waiting: SimpleNamespace, at_submit: bool
) -> None:
    link.script = [absent(at_submit=at_submit)] * 3
    result = both("put", "a", 1)
    assert len(link.requests) == 4
    assert len({request.items[0][1] for request in link.requests}) == 1, "one operation id, one body"
    assert result.operation_id == link.requests[0].items[0][1][:16].hex()


def test_a_write_that_never_finds_a_coordinator_was_not_made(
    both: Callable[..., Any], link: Any, no_waiting: SimpleNamespace
) -> None:
    link.script = [absent()] * 1000
    with pytest.raises(StoreUnavailable):
        both("put", "a", 1, timeout=1)
    assert not link.records


def test_a_write_that_comes_to_another_run_of_the_coordinator_is_sent_again(
    both: Callable[..., Any], link: Any, no_waiting: SimpleNamespace
) -> None:
    """P8: what the client knows of the former run's clock says nothing of this one's."""
    both("put", "a", 1)
    link.requests.clear()
    link.run, link.ahead_s = 8, -20.0
    link.script = [absent()]
    result = both("put", "a", 2, timeout=3)
    runs = [request.run for request in link.requests]
    assert runs == [7, 7, 8], "not there; there, and another one; as that one said"
    assert len({request.items[0][1] for request in link.requests}) == 1, "one operation"
    assert result.operation_id == link.requests[0].items[0][1][:16].hex()
    assert both("get", "a") == 2
    assert link.timeouts[-2] < 3 * driver.GRACE, "within the same time"


@pytest.mark.parametrize("name", ["put", "delete"])
def test_a_write_that_always_comes_late_was_not_made(both: Callable[..., Any], link: Any, name: str) -> None:
    both("put", "a", 1)
    link.requests.clear()
    link.script = [f.DeadlinePassed(7, 2000.0 + number) for number in range(100)]
    with pytest.raises(StoreUnavailable, match=r"nothing was written.*after its deadline"):
        both(name, "a", *([2] if name == "put" else []))
    assert len(link.requests) == 3
    link.script = []
    assert both("get", "a") == 1


def test_a_write_whose_time_is_over_at_the_refusal_is_not_sent_again(both: Callable[..., Any], link: Any) -> None:
    """The coordinator was frozen with the request in hand, and thawed after its time."""

    def thawed(request: f.WriteMany) -> Any:
        link.now_s += 2.05
        return link.answer(request)

    both("put", "a", 1)
    link.requests.clear()
    link.script = [thawed]
    with pytest.raises(StoreUnavailable, match="nothing was written"):
        both("put", "a", 2, timeout=2)
    assert len(link.requests) == 1
    assert both("get", "a") == 1


def test_of_a_batch_only_what_came_late_is_sent_again(both: Callable[..., Any], link: Any) -> None:
    pairs = {f"k{number}": number for number in range(1200)}
    link.script = [link.answer, f.DeadlinePassed(7, 1050.0), link.answer]
    assert both("put_many", pairs).keys() == pairs.keys()
    sent = [[key for key, _, _ in request.items] for request in link.requests]
    assert len(sent) == 4
    assert sent[3] == sent[1]
    assert both("get_many", list(pairs)) == pairs


def test_a_retry_that_then_dies_is_unknown(both: Callable[..., Any], link: Any, no_waiting: SimpleNamespace) -> None:
    link.script = [absent(), PeerDead("its process has ended")]
    with pytest.raises(WriteOutcomeUnknown):
        both("delete", "a")
    assert len(link.requests) == 2


def test_in_a_batch_each_request_is_settled_by_itself(both: Callable[..., Any], link: Any) -> None:
    pairs = {f"k{number}": "x" * 5000 for number in range(40)}
    link.script = [link.answer, PeerDead("its process has ended")]
    with pytest.raises(BatchError) as caught:
        both("put_many", pairs)
    results, errors = caught.value.results, caught.value.errors
    assert results.keys() | errors.keys() == pairs.keys()
    assert not results.keys() & errors.keys()
    assert {type(error) for error in errors.values()} == {WriteOutcomeUnknown}
    assert 10 < len(errors) < 20, "one request's items"
    assert len({error.operation_id for error in errors.values()}) == len(errors)
    assert len(link.requests) == 3


# ---- the window and the time ----


def test_a_few_requests_are_under_way_at_once_and_answers_keep_their_order(both: Callable[..., Any], link: Any) -> None:
    keys = [f"k{number}" for number in range(4000)]
    both("put_many", {key: key for key in keys[:3000]})
    link.most_under_way = 0
    assert both("get_many", keys) == {key: key for key in keys[:3000]} | dict.fromkeys(keys[3000:])
    assert link.most_under_way == driver.WINDOW


def test_the_client_waits_a_little_longer_than_the_coordinator(both: Callable[..., Any], link: Any) -> None:
    both("get", "a", timeout=2)
    both("put", "a", 1, timeout=3)
    assert link.requests[0].timeout_s == 2
    assert 2.0 < link.timeouts[0] <= 2 * 1.1
    assert 3.0 < link.timeouts[1] <= 3 * 1.1


def test_exchanges_run_without_frames_too() -> None:
    def steps() -> Any:
        answers = yield Exchange([], 1.0, repeatable=True)
        return answers

    assert driver.run(steps(), None) == []  # type: ignore[arg-type]
    assert asyncio.run(driver.run_async(steps(), None)) == []  # type: ignore[arg-type]
