"""An index of checkpoints: the latest and the best of each run, which a trainer that is taken for dead cannot spoil.

The problem. Checkpoints are files; which of them is whole, which the latest and which the best is known to the
trainer alone, and it dies. A trainer that was only frozen (a paused machine, a hung file system) wakes when its
successor has resumed, and registers what is out of date. Here a run's index is one value of a linearizable bucket,
replaced by ``update``; a trainer holds the run's lock, and its token is in the index: once a successor has opened the
run, what an earlier token registers is refused. A checkpoint is registered when its file is complete, so what is in
the index can be loaded.

Without raykv. ``ray.train`` keeps the latest and the best of a run by itself (``ray.train.CheckpointConfig``), under
``storage_path``: enough for one run with one driver, which is what it is for; another job has to read its directory,
and two drivers on one directory are kept apart by nothing. A file that names the latest, beside the checkpoints,
replaced by ``os.replace``, needs a shared file system, and the zombie replaces it as well as anybody. A table in
Postgres does it as here, with a database to run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import raykv

sys.path.append(str(Path(__file__).parents[1]))  # this file is run by its own path

from examples import alone

KEEP = 20
"""Checkpoints that a run's index names: the latest ones, beside the best."""

RETRY = (
    raykv.Conflict, raykv.WriteOutcomeUnknown, raykv.QuorumNotMet, raykv.StoreUnavailable, raykv.Overloaded,
)  # fmt: skip
TRIES, PAUSE_S = 20, 0.5


class Checkpoint(NamedTuple):
    """Where a checkpoint is, the step after which it was made, and its metric: the less the better."""

    path: str
    step: int
    metric: float


class Superseded(Exception):
    """A later trainer has opened the run: this one is to stop."""


class Run:
    """The index of a run, for the trainer that holds its lock. ``bucket``: a linearizable one. ``token``: the lock's.

    >>> with store.lock("run:digits", lease=10, timeout=600) as held:
    ...     run = Run(bucket, "digits", held.token)
    """

    def __init__(self, bucket: raykv.Bucket[str, dict[str, Any]], name: str, token: int) -> None:
        self._bucket, self._name, self._token = bucket, name, token

    def open(self) -> Checkpoint | None:
        """Keep earlier trainers out from now on; return the checkpoint to resume from. Raises ``Superseded``."""
        latest: list[Any] | None = self._change(lambda _: None)["latest"]
        return None if latest is None else Checkpoint(*latest)

    def register(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint, whose file is complete, into the index. Done twice it is the same. Raises ``Superseded``."""

        def add(index: dict[str, Any]) -> None:
            others = [known for known in index["kept"] if known[1] != checkpoint.step]
            index["kept"] = sorted([*others, [*checkpoint]], key=lambda known: known[1])[-KEEP:]
            index["latest"] = index["kept"][-1]
            if index["best"] is None or checkpoint.metric < index["best"][2]:
                index["best"] = [*checkpoint]

        self._change(add)

    def _change(self, change: Any) -> dict[str, Any]:
        def replaced(index: dict[str, Any] | None) -> dict[str, Any]:
            new = {"token": 0, "latest": None, "best": None, "kept": []} if index is None else dict(index)
            if new["token"] > self._token:
                raise Superseded(
                    f"run {self._name!r} was opened with token {new['token']}; this trainer has {self._token}"
                )
            new["token"] = self._token
            change(new)
            return new

        for tried in range(TRIES):
            try:
                return self._bucket.update(self._name, replaced)
            except RETRY:  # a trainer that was frozen in the middle of it has this too, when it wakes
                if tried == TRIES - 1:
                    raise
                time.sleep(PAUSE_S)
        raise AssertionError("the last try returns or raises")


def latest_and_best(bucket: raykv.Bucket[str, dict[str, Any]], name: str) -> tuple[Checkpoint, Checkpoint] | None:
    """Return a run's latest checkpoint and its best one, for anybody; None if it has none."""
    index = bucket.get(name)
    if index is None or index["latest"] is None:
        return None
    return Checkpoint(*index["latest"]), Checkpoint(*index["best"])


class Trainer:
    """Stands for what trains: a Ray actor that minimises a parabola, with a checkpoint after each step."""

    def __init__(self, store: raykv.Store, name: str, folder: str) -> None:
        self._store, self._name, self._folder = store, name, folder

    def pid(self) -> int:
        """Return its process, for the demo to kill."""
        return os.getpid()

    def train(self, steps: int, pause_s: float = 0.2) -> str:
        """Train up to a step, from the latest checkpoint on; return what happened."""
        bucket = self._store.bucket("checkpoints", versioning="linearizable")
        with self._store.lock(f"run:{self._name}", lease=2, timeout=120) as held:
            run = Run(bucket, self._name, held.token)
            latest = run.open()
            first, weight = 0, 0.0
            if latest is not None:
                with open(latest.path, encoding="utf-8") as file:
                    first, weight = latest.step, json.load(file)["weight"]
            for step in range(first + 1, steps + 1):
                weight += 0.2 * (3 - weight)
                path = os.path.join(self._folder, f"{held.token}-{step:06}.json")  # no other trainer's file
                with open(f"{path}.part", "w", encoding="utf-8") as file:
                    json.dump({"weight": weight}, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(f"{path}.part", path)
                overfitted = 0.02 * step
                try:
                    run.register(Checkpoint(path, step, round((3 - weight) ** 2 + overfitted, 4)))
                except Superseded as refused:
                    return f"refused at step {step}: {refused}"
                time.sleep(pause_s)
            return f"trained from step {first} to step {steps}"


def demo(store: raykv.Store, folder: str) -> None:
    """Kill a trainer, freeze the next one, and wake it when a third has taken over."""
    import ray

    bucket = store.bucket("checkpoints", versioning="linearizable")
    actor = ray.remote(num_cpus=0, max_restarts=0)(Trainer)

    def begin(steps: int) -> tuple[Any, int, Any]:
        trainer = actor.remote(store, "parabola", folder)
        pid = ray.get(trainer.pid.remote(), timeout=120)
        return trainer, pid, trainer.train.remote(steps)

    def wait_for(step: int) -> None:
        until_s = time.monotonic() + 120
        while (found := latest_and_best(bucket, "parabola")) is None or found[0].step < step:
            if time.monotonic() > until_s:
                raise TimeoutError(f"no trainer has come to step {step}")
            time.sleep(0.05)

    first, pid, _ = begin(1000)
    wait_for(4)
    os.kill(pid, signal.SIGKILL)
    print("the first trainer is killed after step 4")
    second, pid, of_second = begin(1000)
    wait_for(9)
    os.kill(pid, signal.SIGSTOP)
    print("the second trainer is frozen after step 9; its lock is free after a lease of 2 s")
    try:
        third, _, of_third = begin(20)
        print("the third trainer:", ray.get(of_third, timeout=120))
    finally:
        os.kill(pid, signal.SIGCONT)
    print("the second one wakes:", ray.get(of_second, timeout=120))
    found = latest_and_best(bucket, "parabola")
    assert found is not None
    latest, best = found
    print(f"latest: step {latest.step}, {latest.metric}; best: step {best.step}, {best.metric}")
    print("both can be loaded:", all(os.path.exists(checkpoint.path) for checkpoint in found))
    for trainer in (first, second, third):
        ray.kill(trainer)


def main() -> int:
    """Run the demo on a store of its own; return the exit code."""
    return alone(demo)


if __name__ == "__main__":
    sys.exit(main())
