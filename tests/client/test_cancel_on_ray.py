"""``ray.cancel`` of a task in the middle of a call: the worker goes on, and so does its handle."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

import patience
import pytest

if TYPE_CHECKING:
    from types import FrameType

    import raykv

pytestmark = pytest.mark.ray

KINDS = ("get", "put", "modify", "get_many", "put_many", "scan")
ROUNDS = 6
"""Cancelled calls of each kind. Ray cancels by KeyboardInterrupt, wherever the worker's thread stands."""
WAIT_S = 120


def once(store: raykv.Store, kind: str, turn: int) -> Any:
    """Run one operation of a kind."""
    match kind:
        case "get":
            return store.get("cancelled")
        case "put":
            return store.put("cancelled-put", turn)
        case "modify":
            return store.modify("cancelled-counter", lambda have: (have or 0) + 1)
        case "get_many":
            return store.get_many(["cancelled", "none"])
        case "put_many":
            return store.put_many({"cancelled-a": turn, "cancelled-b": turn})
    return list(store.scan(prefix="cancelled", limit=3))


def note_interrupts(path: str) -> None:
    """Have this process write down where its main thread is interrupted, and what is raised in vain in a callback."""

    def interrupted(_number: int, frame: FrameType | None) -> None:
        with open(path, "a") as file:
            file.write("interrupted in\n" + "".join(traceback.format_stack(frame)[-4:]))
        raise KeyboardInterrupt

    def in_vain(lost: Any) -> None:
        with open(path, "a") as file:
            file.write(f"lost in {lost.object!r}: {lost.exc_value!r}\n")

    signal.signal(signal.SIGINT, interrupted)
    sys.unraisablehook = in_vain


def test_a_cancelled_task_leaves_its_worker_intact(shared_store: raykv.Store, tmp_path: Any) -> None:
    """The next task on that worker, with the handle that the worker has already, reads what stands."""
    import ray
    from ray.exceptions import GetTimeoutError, TaskCancelledError

    shared_store.put("cancelled", "stands")

    @ray.remote(num_cpus=1, max_retries=0)
    def work(store: raykv.Store, kind: str, begun: str) -> None:
        patience.be_patient()
        note_interrupts(f"{begun}.interrupts")
        for turn in itertools.count():
            once(store, kind, turn)
            if turn == 2:
                with open(begun, "w") as file:  # from here on it may be cancelled
                    file.write(str(os.getpid()))

    @ray.remote(num_cpus=1, max_retries=0)
    def look(store: raykv.Store) -> tuple[int, Any, Any]:
        patience.be_patient()
        return os.getpid(), store.get("cancelled"), store.get_many(["cancelled"])["cancelled"]

    cancelled, looked = [], []
    lots = random.Random(19)
    for turn, kind in itertools.product(range(ROUNDS), KINDS):
        begun = tmp_path / f"{turn}-{kind}"
        task = work.remote(shared_store, kind, str(begun))
        for _ in range(WAIT_S * 100):
            if begun.exists() and begun.read_text():
                break
            if ray.wait([task], timeout=0.01)[0]:
                ray.get(task)  # it has failed
        cancelled.append(int(begun.read_text()))
        ray.wait([task], timeout=lots.random() / 100)
        ray.cancel(task)
        try:
            with pytest.raises(TaskCancelledError):
                ray.get(task, timeout=WAIT_S)
        except GetTimeoutError:
            ray.cancel(task, force=True)  # or it keeps a processor from all tests after this one
            noted = tmp_path / f"{turn}-{kind}.interrupts"
            pytest.fail(f"{kind} went on: {noted.read_text() if noted.exists() else 'it was never interrupted'}")
        pid, one, many = ray.get(look.remote(shared_store), timeout=WAIT_S)
        looked.append(pid)
        assert (one, many) == ("stands", "stands"), kind
    assert {*cancelled} & {*looked}, "no worker was asked again after a cancelled task"
    assert shared_store.get("cancelled") == "stands"
