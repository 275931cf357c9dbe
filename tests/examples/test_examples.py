"""Each example does what it says: its logic in simulated clusters, its demonstration on Ray."""

from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from examples import checkpoint_index, feature_store, serve_rate_limit, serve_sessions, tune_trials

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(checkpoint_index.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
LINEARIZABLE = {"versioning": "linearizable"}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_tells_the_other_way_and_is_on_the_public_face(name: str) -> None:
    module = importlib.import_module(f"examples.{name}")
    assert "The problem." in module.__doc__
    assert "Without raykv." in module.__doc__
    assert module.main.__doc__
    source = (FOLDER / f"{name}.py").read_text()
    assert "raykv._" not in source
    assert "from raykv." not in source


# ---- sessions ----


def test_no_turn_is_lost_while_two_replicas_write_one_session_and_nodes_fail() -> None:
    with raykv.sim.start(seed=31) as world:

        async def replica(name: str) -> None:
            bucket = await (await world.connect_aio()).bucket("sessions", resolver=serve_sessions.merge)
            sessions = serve_sessions.Sessions(bucket)
            for number in range(15):
                for _ in range(2):  # the caller lost the answer, and asks once more
                    await sessions.say("ada", f"{name}:{number}", f"{name}{number}", within_s=120)
                await asyncio.sleep(0.5)

        async def breaking() -> None:
            for node_id in world.nodes:
                world.kill(node_id)
                await asyncio.sleep(2)
                world.freeze(node_id, 2)
                await asyncio.sleep(2)

        async def work() -> list[str]:
            bucket = await world.store.aio.bucket("sessions", resolver=serve_sessions.merge)
            await asyncio.gather(replica("a"), replica("b"), breaking())
            return await serve_sessions.Sessions(bucket).history("ada")

        history = world.run(work())
        assert sorted(history) == sorted(f"{name}{number}" for name in "ab" for number in range(15))
        for name in "ab":
            own = [text for text in history if text[0] == name]
            assert own == [f"{name}{number}" for number in range(15)], "in the order in which they were said"


def test_merging_depends_on_no_order_and_keeps_a_bound() -> None:
    one, other = [[1, "a", "x"], [2, "b", "y"]], [[1, "a", "x"], [2, "c", "z"]]
    merged = [[1, "a", "x"], [2, "b", "y"], [2, "c", "z"]]
    assert serve_sessions.merge([one, other]) == serve_sessions.merge([other, one]) == merged
    long = [[number, str(number), ""] for number in range(serve_sessions.KEEP + 5)]
    assert serve_sessions.merge([long, one]) == long[5:]


# ---- rate limit ----


def test_all_replicas_together_pass_the_limit_and_no_more() -> None:
    with raykv.sim.start(seed=32) as world:
        answers: list[dict[str, Any]] = []

        async def replica() -> None:
            gate = serve_rate_limit.Gate(await world.connect_aio(), 5, 10.0, lambda: world.now_s)
            for _ in range(20):
                answers.append(await gate("ada"))
                await asyncio.sleep(1)

        async def work() -> None:
            await world.store.aio.bucket("limits", **LINEARIZABLE)
            await asyncio.gather(*(replica() for _ in range(3)))

        world.run(work())
        assert serve_rate_limit.most_in_a_window(answer["passed"] for answer in answers) == 5
        assert max(Counter(answer["alone"] for answer in answers if answer["alone"] is not None).values()) == 15


def test_a_number_that_two_calls_have_is_an_error() -> None:
    assert serve_rate_limit.most_in_a_window([(1, 1), (1, 2), None, (2, 1)]) == 2
    with pytest.raises(ValueError, match="one number"):
        serve_rate_limit.most_in_a_window([(1, 1), (1, 1)])


# ---- trials ----


def test_a_finished_trial_is_not_left_and_the_first_result_stands() -> None:
    with raykv.sim.start(seed=33) as world:
        bucket = world.store.bucket("trials", **LINEARIZABLE)
        trials, others = tune_trials.Trials(bucket, "a"), tune_trials.Trials(bucket, "b")
        points = [{"rate": 0.1, "width": width} for width in (8, 64)]
        assert trials.left([*points, points[0]]) == points
        assert trials.record(points[0], {"loss": 1.0, "config": {"not": "plain"}})
        assert not trials.record({"width": 8, "rate": 0.1}, {"loss": 2.0}), "the same point, its names in another order"
        assert trials.left(points) == points[1:]
        assert trials.results() == [(points[0], {"loss": 1.0})]
        assert others.left(points) == points
        assert others.results() == []


# ---- features ----


def test_the_latest_event_stands_in_whatever_order_writes_arrive() -> None:
    with raykv.sim.start(seed=34) as world:
        bucket = world.store.bucket("features", resolver=feature_store.latest_event)
        features = feature_store.Features(bucket, "rides", lambda: 10_000.0)
        for event_time_s in (9_000.0, 9_990.0, 5_000.0):
            features.write("ada", event_time_s, {"at": event_time_s})
        features.write("grace", 1_000.0, {"at": 1_000.0})
        found = features.read(["ada", "grace", "edsger"], max_age_s=100)
        assert found == {
            "ada": ("fresh", {"at": 9_990.0}, 10.0),
            "grace": ("stale", {"at": 1_000.0}, 9_000.0),
            "edsger": ("missing", None, None),
        }
        with pytest.raises(feature_store.Stale, match=r"2 without fresh features: grace \(stale\), edsger") as refused:
            features.read(found, max_age_s=100, stale="refuse")
        assert refused.value.features.keys() == {"grace", "edsger"}
        assert features.read(["ada"], max_age_s=10, stale="refuse")["ada"].state == "fresh"
        with pytest.raises(ValueError, match="ahead of this clock"):
            features.write("ada", 10_100.0, {})
        assert features.read(["ada"], 100) == {"ada": found["ada"]}


def test_of_two_that_write_at_the_same_time_the_later_event_is_read() -> None:
    with raykv.sim.start(seed=35) as world:
        bucket = world.store.bucket("features", resolver=feature_store.latest_event)
        features = feature_store.Features(bucket, "rides", lambda: 100.0)
        nothing = bucket.get_versions("rides/ada").context
        bucket.put("rides/ada", [50.0, {"rides": 5}], context=nothing)
        bucket.put("rides/ada", [40.0, {"rides": 4}], context=nothing)
        assert len(bucket.get_versions("rides/ada").values) == 2
        assert features.read(["ada"], 60)["ada"] == ("fresh", {"rides": 5}, 50.0)
        features.write("ada", 45.0, {"rides": 0})
        assert bucket.get_versions("rides/ada").values == [[50.0, {"rides": 5}]]


# ---- checkpoints ----


def test_what_a_superseded_trainer_registers_is_refused() -> None:
    with raykv.sim.start(seed=36) as world:
        bucket = world.store.bucket("checkpoints", **LINEARIZABLE)
        checkpoint = checkpoint_index.Checkpoint
        first, second = (checkpoint_index.Run(bucket, "run", token) for token in (1, 2))
        assert checkpoint_index.latest_and_best(bucket, "run") is None
        assert first.open() is None
        for step, metric in ((1, 0.5), (2, 0.2), (3, 0.4), (3, 0.4)):
            first.register(checkpoint(f"1-{step}", step, metric))
        assert second.open() == ("1-3", 3, 0.4)
        for refused in (lambda: first.register(checkpoint("1-4", 4, 0.1)), first.open):
            with pytest.raises(checkpoint_index.Superseded, match="opened with token 2; this trainer has 1"):
                refused()
        assert checkpoint_index.latest_and_best(bucket, "run") == (("1-3", 3, 0.4), ("1-2", 2, 0.2))
        second.register(checkpoint("2-4", 4, 0.3))
        assert bucket.get("run")["kept"] == [["1-1", 1, 0.5], ["1-2", 2, 0.2], ["1-3", 3, 0.4], ["2-4", 4, 0.3]]
        assert checkpoint_index.latest_and_best(bucket, "run") == (("2-4", 4, 0.3), ("1-2", 2, 0.2))


def test_an_index_has_a_bound_and_keeps_the_best() -> None:
    with raykv.sim.start(seed=37) as world:
        bucket = world.store.bucket("checkpoints", **LINEARIZABLE)
        run = checkpoint_index.Run(bucket, "run", 1)
        for step in range(1, checkpoint_index.KEEP + 6):
            run.register(checkpoint_index.Checkpoint(f"/a/{step}", step, float(step)))
        assert [known[1] for known in bucket.get("run")["kept"]] == list(range(6, checkpoint_index.KEEP + 6))
        assert checkpoint_index.latest_and_best(bucket, "run") == (("/a/25", 25, 25.0), ("/a/1", 1, 1.0))


# ---- their demonstrations, on Ray ----


@pytest.fixture
def by_value(ray_cluster: None) -> Iterator[None]:
    """Send what the examples define to Ray's workers as it is: run by their own path, they are ``__main__``."""
    from ray import cloudpickle

    modules = [importlib.import_module(f"examples.{name}") for name in NAMES]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def serve(by_value: None) -> Iterator[None]:
    """Ray Serve, stopped afterwards."""
    needs("serve")
    from ray import serve

    yield
    serve.shutdown()


def needs(library: str) -> None:
    """Skip a test whose library of Ray is not installed."""
    try:
        importlib.import_module(f"ray.{library}")
    except ImportError:
        pytest.skip(f"Ray {library.capitalize()} is not installed: pip install 'ray[{library}]'")


@pytest.mark.ray
def test_features_are_written_by_tasks(
    shared_store: raykv.Store, by_value: None, capsys: pytest.CaptureFixture[str]
) -> None:
    feature_store.demo(shared_store)
    printed = capsys.readouterr().out
    assert "4 events written by 2 tasks" in printed
    assert "ada: fresh, {'rides': 12}" in printed
    assert "refused: 2 without fresh features: grace (stale), barbara (missing)" in printed


@pytest.mark.ray
def test_a_trainer_that_wakes_is_refused(
    shared_store: raykv.Store, by_value: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_index.demo(shared_store, str(tmp_path))
    printed = capsys.readouterr().out
    assert "to step 20" in printed
    assert "the second one wakes: refused at step" in printed
    assert "latest: step 20" in printed
    assert "both can be loaded: True" in printed


@pytest.mark.ray
def test_a_study_goes_on_after_its_driver_was_killed(
    shared_store: raykv.Store, by_value: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("tune")
    tune_trials.demo(shared_store, str(tmp_path))
    printed = capsys.readouterr().out
    (finished,) = re.findall(r"the driver is killed: (\d+) of 6 trials are finished", printed)
    (left,) = re.findall(r"the second run has (\d+) trials to run", printed)
    assert int(finished) >= 2
    assert int(left) <= 6 - int(finished)
    assert "the third one has 0" in printed
    assert "results: 6; the best: {'rate': 0.1, 'width': 64}" in printed


@pytest.mark.ray
def test_a_session_outlives_its_replicas(
    shared_store: raykv.Store, serve: None, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_sessions.demo(shared_store)
    assert "the session is whole: True" in capsys.readouterr().out


@pytest.mark.ray
def test_replicas_share_a_limit(shared_store: raykv.Store, serve: None, capsys: pytest.CaptureFixture[str]) -> None:
    serve_rate_limit.demo(shared_store)
    (most,) = re.findall(r"counted in raykv: (\d+) \(the limit is 20\)", capsys.readouterr().out)
    assert 1 <= int(most) <= 20, "that it is reached too, a simulated cluster shows, which cannot be too slow for it"


@pytest.mark.parametrize(("name", "library"), [("serve_sessions", "serve"), ("tune_trials", "tune")])
def test_an_example_without_its_library_says_what_to_install(name: str, library: str) -> None:
    """Run by its own path, with the library out of reach."""
    code = (
        f"import runpy, sys; sys.modules['ray.{library}'] = None; "
        f"runpy.run_path({str(FOLDER / f'{name}.py')!r}, run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"this example needs Ray {library.capitalize()}: pip install 'ray[{library}]'\n"
