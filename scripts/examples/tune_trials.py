"""Ray Tune: trials whose results are kept, and that are not run again.

The problem. A study is stopped in the middle: the driver is killed, the cluster is taken down over night, somebody
adds points next week. Here a callback puts the result of each finished trial into a bucket, under the trial's own
point, and a run begins by asking which points have none. Several drivers on one study see each other's results; of
two that finish the same point the first one stands. A trial that was cut short begins anew, unless it keeps
checkpoints (``checkpoint_index``).

Without raykv. ``ray.tune.Tuner.restore`` goes on with an experiment, from the directory that its driver
wrote: on this disk, or on a shared or cloud file system (``storage_path``) from another host. It restores schedulers
and search algorithms too, which this does not. But it belongs to one experiment: the search space has to be the same,
points cannot be added, two drivers cannot share it, and what was written since its last snapshot (some seconds) is
run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import raykv

sys.path.append(str(Path(__file__).parents[1]))  # this file is run by its own path

from examples import alone

if TYPE_CHECKING:
    from collections.abc import Iterable

Point = dict[str, Any]
"""What is tried: names with values that JSON knows."""
POINTS: list[Point] = [{"rate": rate, "width": width} for rate in (0.01, 0.1, 1.0) for width in (8, 64)]
WORDS = (str, int, float, bool, type(None))


class Trials:
    """The finished trials of a study. ``bucket``: a linearizable one; it pickles, and so does this."""

    def __init__(self, bucket: raykv.Bucket[str, dict[str, Any]], study: str) -> None:
        self._bucket, self._study = bucket, study

    def key(self, point: Point) -> str:
        """Return the key of a point: the same however its names are ordered."""
        return f"{self._study}/{json.dumps(point, sort_keys=True, separators=(',', ':'))}"

    def record(self, point: Point, result: dict[str, Any]) -> bool:
        """Keep a result; return False if the point had one, which stays. Done twice it is the same."""
        plain = {name: value for name, value in result.items() if isinstance(value, WORDS)}
        try:
            self._bucket.put(self.key(point), {"point": point, "result": plain}, if_absent=True)
        except raykv.Conflict:
            return False
        return True

    def left(self, points: Iterable[Point]) -> list[Point]:
        """Return the points that have no result yet, each once."""
        keys = {self.key(point): point for point in points}
        return [keys[key] for key, known in self._bucket.get_many(keys).items() if known is None]

    def results(self) -> list[tuple[Point, dict[str, Any]]]:
        """Return all points with their results, whoever ran them."""
        return [(kept["point"], kept["result"]) for _, kept in self._bucket.scan(prefix=f"{self._study}/")]


def kept_by(study: Trials, within_s: float = 60.0) -> Any:
    """Return a Tune callback that records each trial when it is complete; ``config["point"]`` is its point."""
    from ray import tune

    class Keep(tune.Callback):  # type: ignore[misc] # ray is not typed here
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
            until_s = time.monotonic() + within_s
            while True:
                try:
                    study.record(trial.config["point"], trial.last_result)
                    return
                except (raykv.WriteOutcomeUnknown, raykv.StoreUnavailable, raykv.Overloaded):
                    if time.monotonic() > until_s:
                        raise
                    time.sleep(0.2)

    return Keep()


def train(config: dict[str, Any]) -> dict[str, float]:
    """Stand for what takes hours."""
    time.sleep(0.5)
    rate, width = config["point"]["rate"], config["point"]["width"]
    return {"loss": (rate - 0.1) ** 2 + 1 / width}


def run(trials: Trials, points: list[Point], folder: str) -> int:
    """Run the points that have no result; return their number."""
    left = trials.left(points)
    if left:
        from ray import tune

        tune.Tuner(
            tune.with_resources(train, {"cpu": 0.5}),
            param_space={"point": tune.grid_search(left)},
            tune_config=tune.TuneConfig(max_concurrent_trials=2, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=folder, callbacks=[kept_by(trials)], verbose=0),
        ).fit()
    return len(left)


class Driver:
    """A study's driver: a process with a job of its own, as somebody's script has.

    Ray keeps what Tune reserves for trials until that job ends, though the task or actor that began them be dead.
    """

    def __init__(self, store: raykv.Store, folder: str) -> None:
        import ray

        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, __file__, "drive", address, store.store_name, folder]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def is_running(self) -> bool:
        """Tell whether it goes on."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End its process at once; its trials end with it."""
        self._process.kill()
        self._process.communicate(timeout=60)

    def wait(self, timeout_s: float = 300.0) -> int:
        """Return the number of trials that it ran, its last line; kill it and raise if it takes too long or fails."""
        try:
            printed, _ = self._process.communicate(timeout=timeout_s)
        finally:
            self._process.kill()  # nothing, if it has ended
        if self._process.returncode:
            raise RuntimeError(f"the study's driver ended with {self._process.returncode}: {printed}")
        return int(printed.splitlines()[-1])


def drive(address: str, name: str, folder: str) -> None:
    """Be a driver: run what the study has left."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    print(run(study(raykv.connect(name)), POINTS, folder))


def study(store: raykv.Store) -> Trials:
    """Return the study of the demo."""
    return Trials(store.bucket("trials", versioning="linearizable"), "rates")


def demo(store: raykv.Store, folder: str) -> None:
    """Kill a study's driver in the middle, and run it again."""
    trials = study(store)
    first = Driver(store, folder)
    while len(trials.results()) < 2 and first.is_running():
        time.sleep(0.1)
    if not first.is_running():
        first.wait()  # it failed, or was faster than this
    first.kill()
    print(f"the driver is killed: {len(trials.results())} of {len(POINTS)} trials are finished")
    print(f"the second run has {Driver(store, folder).wait()} trials to run")
    print(f"the third one has {Driver(store, folder).wait()}")
    best, result = min(trials.results(), key=lambda trial: trial[1]["loss"])
    print(f"results: {len(trials.results())}; the best: {best}, loss {result['loss']:.4f}")


def main() -> int:
    """Run the demo on a store of its own, or be one of its drivers; return the exit code."""
    if sys.argv[1:2] == ["drive"]:
        drive(*sys.argv[2:])
        return 0
    return alone(demo, needs="tune")


if __name__ == "__main__":
    sys.exit(main())
