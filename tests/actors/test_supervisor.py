"""The supervisor actor's report of a start that fails or does not end."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from ray.exceptions import GetTimeoutError

from raykv.actors import lifecycle, supervisor
from raykv.actors.supervisor import Orders, SupervisorActor
from raykv.config import StoreConfig
from raykv.errors import StoreUnavailable
from raykv.supervision.founding import Plan

if TYPE_CHECKING:
    from pathlib import Path

PLAN = Plan(store=StoreConfig(name="t", copies=1), nodes=1)


def actor(path: str) -> SupervisorActor:
    """A supervisor actor that Ray did not make."""
    made = SupervisorActor.__new__(SupervisorActor)
    made._orders = Orders(plan=PLAN, path=path)
    made._supervisor = made._starting = made._started = made._staying = made._publishing = None
    return made


def test_the_waiters_of_a_start_get_whatever_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise TypeError("\nof a kind\nthat nobody thought of")

    monkeypatch.setattr(supervisor, "_elsewhere", broken)
    answer = asyncio.run(actor(str(tmp_path)).start())
    name, message, _ = answer["failed"]
    assert name == "StoreUnavailable"
    assert "did not start: TypeError: of a kind" in message


def test_a_start_that_takes_long_says_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_elsewhere", lambda *_: time.sleep(0.5))

    async def story() -> str:
        made = actor(str(tmp_path))
        started = asyncio.create_task(made.start())
        await asyncio.sleep(0)
        said = await made.trouble()
        started.cancel()
        return said

    assert asyncio.run(story()) == f"it looks at what lies at {tmp_path} on the hosts"


def test_a_start_that_fails_is_retried_without_a_caller_until_the_store_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """*Schedule without: Ray restarts the supervisor while a host is away, its start fails, and no client asks again.*"""
    attempts: list[float] = []

    async def story(*, failures: int) -> bool:
        made = actor(str(tmp_path))
        attempts.clear()

        async def start() -> dict[str, Any]:
            attempts.append(time.monotonic())
            return {"failed": ("StoreUnavailable", "a host is away", {})} if len(attempts) <= failures else {"path": ""}

        monkeypatch.setattr(made, "_start", start)
        await made.stay_started()
        await made.stay_started()  # Ray may deliver it twice
        staying = made._staying
        assert staying is not None
        async with asyncio.timeout(60):
            while len(attempts) < min(failures + 1, 3):  # noqa: ASYNC110 - the attempts are no event
                await asyncio.sleep(0.001)
        if failures > 10:
            await made.stop()
        await asyncio.wait([staying], timeout=60)
        return staying.cancelled()

    monkeypatch.setattr(supervisor, "RETRY_S", 0.001)
    assert not asyncio.run(story(failures=2))
    assert len(attempts) == 3
    monkeypatch.setattr(supervisor, "MOST_RETRY_S", 0.01)
    assert asyncio.run(story(failures=10**9))


class Method:
    """Stands in for a method of an actor's handle."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def remote(self) -> Any:
        return self._answer


class Handle:
    """Stands in for a supervisor's handle: its start does not end."""

    def __init__(self, trouble: Any) -> None:
        self.start = Method(GetTimeoutError("late"))
        self.trouble = Method(trouble)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("n2 on host h (no answer)", "no answer within 90 s; it waits for: n2 on host h (no answer)"),
        (GetTimeoutError("late"), "no answer within 90 s; its supervisor does not answer (Ray does not say why)"),
    ],
)
def test_a_waiter_in_vain_gets_the_cause(trouble: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def get(answer: Any, **_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(lifecycle, "ensure_ray", lambda: False)
    monkeypatch.setattr(lifecycle, "START_TIMEOUT_S", 90.0)
    monkeypatch.setattr(lifecycle, "_supervisor_of", lambda *_: (Handle(trouble), False))
    with pytest.raises(StoreUnavailable) as caught:
        lifecycle.found_or_join(PLAN, "/nowhere", lifecycle.NodeConfig(), {})
    assert said in str(caught.value)
