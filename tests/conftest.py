"""Fixtures for all tests: one Ray for the whole run, a store's name and directory of each test's own."""

from __future__ import annotations

import contextlib
import gc
import inspect
import itertools
import os
import sys
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    import raykv

_numbers = itertools.count(1)
PATIENCE_S = 60.0
START_PATIENCE_S = 300.0

# How fast examples are drawn and run says something of the machine, and nothing of the code.
hypothesis.settings.register_profile(
    "raykv", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("raykv")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests that have a long form be asked for it."""
    parser.addoption("--long", action="store_true", help="tests at full length; without it some do less of the same")


def pytest_collection_finish() -> None:
    """Leave modules and test items out of later collections: each simulated world ends with one, thousands in a run."""
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
    import ray
    import ray_starts

    be_patient()
    for attempt in range(ray_starts.STARTS):
        try:
            ray.init(
                address="local",
                num_cpus=2,
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


def be_patient() -> None:
    """Give operations a minute where a test names no time-out, and stores five to start.

    The defaults suit users. Here other processes may keep the machine busy for longer.
    """
    import raykv
    from raykv.actors import lifecycle
    from raykv.cli.main import cli
    from raykv.client import exchange

    lifecycle.START_TIMEOUT_S = lifecycle.ANSWER_TIMEOUT_S = START_PATIENCE_S
    given_s = exchange.DEFAULT_TIMEOUT_S
    for module in [module for name, module in sys.modules.items() if name.startswith("raykv.client.")]:
        if hasattr(module, "DEFAULT_TIMEOUT_S"):
            module.DEFAULT_TIMEOUT_S = PATIENCE_S
        for kind in filter(inspect.isclass, vars(module).values()):
            for function in filter(inspect.isfunction, vars(kind).values()):
                for name, value in (function.__kwdefaults__ or {}).items():
                    if name in {"timeout", "timeout_s"} and value == given_s:
                        function.__kwdefaults__ = (function.__kwdefaults__ or {}) | {name: PATIENCE_S}
    for option in [option for command in cli.commands.values() for option in command.params]:
        if option.name == "timeout" and option.default == given_s:
            option.default = PATIENCE_S
    assert inspect.signature(raykv.Store.get).parameters["timeout"].default == PATIENCE_S


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
