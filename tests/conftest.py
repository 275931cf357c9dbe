"""Fixtures for all tests: one Ray for the whole run, a store's name and directory of each test's own."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    import raykv

_numbers = itertools.count(1)
_finished = itertools.count(1)
FREEZE_EVERY = 100
PROCESSORS = 2

# How fast examples are drawn and run says something of the machine, and nothing of the code.
hypothesis.settings.register_profile(
    "raykv", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True, max_examples=50
)
hypothesis.settings.load_profile("raykv")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests that have a long form be asked for it."""
    parser.addoption("--long", action="store_true", help="tests at full length; without it some do less of the same")


def pytest_collection_finish() -> None:
    """Leave modules and test items out of later collections: each simulated world ends with one, thousands in a run."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish() -> None:
    """Leave out, now and then, what has come to stay since, as libraries: else such a collection takes half a second."""
    if next(_finished) % FREEZE_EVERY == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether tests are to run at full length."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache directory of this run's own, for it and all processes that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A small local Ray, started once; it and all its processes end with the run."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import patience
    import ray
    import ray_starts

    patience.be_patient()
    support = os.path.dirname(patience.__file__)  # for tasks, in which `patience` has to be imported again
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (support, os.environ.get("PYTHONPATH"))))
    for attempt in range(ray_starts.STARTS):
        try:
            ray.init(
                address="local",
                num_cpus=PROCESSORS,
                object_store_memory=150 * 1024 * 1024,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
            break
        except Exception as error:
            if not ray_starts.was_too_slow(str(error)) or attempt == ray_starts.STARTS - 1:
                raise
            ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def nothing_is_reserved(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves processors reserved, instead of a later one that waits for them in vain."""
    yield
    if "ray_cluster" not in request.fixturenames:
        return
    import ray
    import ray_starts

    if ray.is_initialized():
        held = ray_starts.still_reserved(PROCESSORS)
        assert not held, f"this test, or one before it on the same Ray, leaves reserved: {held}"


@pytest.fixture
def store_name() -> str:
    """A name that no other test uses."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def start_store(ray_cluster: None, store_name: str, tmp_path: Path) -> Iterator[Callable[..., raykv.Store]]:
    """Starts stores that are stopped when the test ends."""
    import raykv

    started: list[str] = []

    def start(name: str = store_name, **options: object) -> raykv.Store:
        options.setdefault("path", str(tmp_path / name))
        store = raykv.start(name, **options)
        started.append(name)
        return store

    yield start
    for name in dict.fromkeys(started):
        with contextlib.suppress(raykv.StoreNotFound):  # the test stopped it itself
            raykv.shutdown(name)


@pytest.fixture(scope="session")
def shared_store(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[raykv.Store]:
    """One store of three nodes for all tests that do it no harm. Use keys or buckets of your own."""
    import raykv

    yield raykv.start("shared", path=str(tmp_path_factory.mktemp("shared")))
    raykv.shutdown("shared")


@pytest.fixture(scope="session")
def world() -> ModuleType:
    """The module with the cluster in one event loop (``tests/support/world.py``)."""
    import world

    return world


@pytest.fixture(scope="session")
def real_nodes() -> ModuleType:
    """The module with nodes behind real sockets (``tests/support/real_nodes.py``)."""
    import real_nodes

    return real_nodes
