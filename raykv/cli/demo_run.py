"""Drives the demo: start, load, mix and kill, read back, list, clean up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import sys
import tempfile
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import raykv
from raykv.cli import demo_cities
from raykv.cli.cluster import import_ray_quietly
from raykv.cli.demo_history import History
from raykv.cli.demo_report import latencies
from raykv.cli.demo_traffic import BACK_WITHIN_S, RATE_PER_S, READ_SHARE, Traffic
from raykv.errors import BatchError, RaykvError, StoreNotFound
from raykv.system import holder
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Sequence

    from raykv.cli.demo_cities import City
    from raykv.client.store import Store
    from raykv.client.views import NodeStatus

    Say = Callable[[str], None]

SLICE = 2000
OBJECT_STORE_BYTES = 150 * 1024 * 1024
BATCH_TIMEOUT_S = 30.0
"""For each request of a batch: on two cores, the requests of a slice wait for one another."""


class Options(NamedTuple):
    """The user's options."""

    records: int | None
    everything: bool
    nodes: int
    seconds: float
    keep: bool
    address: str | None


def run(options: Options, say: Say, *, on_stderr: bool) -> dict[str, Any]:
    """Run the demo and return its figures. In any case it stops the store and ends every process that it started."""
    say("reading the cities of GeoNames")
    cities = demo_cities.load(options.records, everything=options.everything)
    with contextlib.ExitStack() as cleanup:
        name = f"demo-{secrets.token_hex(4)}"
        _join_ray(options.address, cleanup, say)
        path = tempfile.mkdtemp(prefix="raykv-demo-")
        cleanup.callback(_leave_or_delete, path, name, options.keep, say)
        cleanup.callback(_shutdown, name)
        say(f"starting store {name!r} with {options.nodes} nodes in {path}")
        store = raykv.start(name, nodes=options.nodes, path=path)
        return _Demo(store, path, cities, say, on_stderr).run(options.seconds) | {"nodes": options.nodes}


class _Demo:
    """One run against a running store."""

    def __init__(self, store: Store, path: str, cities: dict[str, City], say: Say, on_stderr: bool) -> None:
        self._store = store
        self._path = path
        self._cities = cities
        self._say = say
        self._on_stderr = on_stderr
        self._history = History()
        self._failed = 0

    def run(self, seconds: float) -> dict[str, Any]:
        load_s = self._load()
        figures = self._mix(seconds)
        self._say(f"reading all {len(self._cities):,} records back")
        lost, read_s = self._read_back()
        listing = self._list()
        count = len(self._cities)
        return {
            "records": count,
            "acknowledged": self._history.acknowledged_writes,
            "lost": lost,
            "failed": self._failed,
            **figures,
            "listing": listing,
            "load_per_s": round(count / load_s, 1),
            "read_per_s": round(count / read_s, 1),
        }

    def _load(self) -> float:
        self._say(f"loading {len(self._cities):,} records")
        spent_s = 0.0
        for keys in self._slices("load"):
            for key in keys:
                self._history.begin(key, first=True)
            began_s = time.monotonic()
            errors: dict[Any, RaykvError] = {}
            try:
                self._store.put_many({key: self._cities[key] for key in keys}, timeout=BATCH_TIMEOUT_S)
            except BatchError as error:
                errors = error.errors
            spent_s += time.monotonic() - began_s
            for key in keys:
                if key in errors:
                    self._history.unknown(key)
                else:
                    self._history.acknowledged(key)
            self._count_failures(errors)
        return spent_s

    def _mix(self, seconds: float) -> dict[str, Any]:
        self._say(
            f"single reads and writes, {READ_SHARE:.0%} reads, {RATE_PER_S:g} a second, for {seconds:g} s before the kill "
            f"and at least {seconds:g} s after"
        )
        traffic = Traffic(self._store.aio, self._cities, self._history)
        node = node_to_kill(self._store.status()["nodes"], self._path)

        def kill() -> None:
            self._say(f"killing node {node['node_id']}: SIGKILL to process {node['pid']}; the mix goes on")
            if why := holder.end_holder(_note_of(node, self._path), node["host"], _lock_of(node, self._path)):
                raise click.ClickException(f"nothing was killed: {why}")

        outage = asyncio.run(traffic.run(seconds, kill, node["node_id"], node["incarnation"], self._say))
        if outage.back_s is None:
            self._say(f"node {node['node_id']} was not back within {BACK_WITHIN_S:g} s")
        self._failed += traffic.failures.total()
        self._say_causes(traffic.failures)
        return {
            "stale": traffic.stale,
            "node_killed": node["node_id"],
            "node_back_s": None if outage.back_s is None else round(outage.back_s - outage.killed_s, 2),
            "latency_ms": latencies(traffic.samples, outage.killed_s, outage.back_s),
        }

    def _read_back(self) -> tuple[int, float]:
        """Return the number of keys with a wrong value, and the seconds that reading took."""
        lost, spent_s = 0, 0.0
        for keys in self._slices("read back"):
            began_s = time.monotonic()
            errors: dict[Any, RaykvError] = {}
            try:
                values = self._store.get_many(keys, timeout=BATCH_TIMEOUT_S)
            except BatchError as error:
                values, errors = error.results, error.errors
            spent_s += time.monotonic() - began_s
            lost += sum(not self._right(key, value) for key, value in values.items())
            self._count_failures(errors)
        return lost, spent_s

    def _list(self) -> dict[str, Any]:
        """List one country by prefix and compare."""
        country = demo_cities.country_to_list(list(self._cities))
        prefix = demo_cities.prefix_of(country)
        self._say(f"listing {prefix} by prefix")
        listed: list[tuple[Any, Any]]
        expected = {key for key in self._cities if key.startswith(prefix)}
        try:
            listed = list(self._store.scan(prefix=prefix))
        except RaykvError as error:
            self._count_failures({prefix: error})
            listed = []
        keys = [key for key, _ in listed]
        wrong = len(expected.symmetric_difference(keys)) + len(keys) - len(set(keys)) + int(keys != sorted(keys))
        wrong += sum(key in expected and not self._right(key, value) for key, value in listed)
        return {"prefix": prefix, "expected": len(expected), "listed": len(listed), "wrong": wrong}

    def _right(self, key: Any, value: Any) -> bool:
        return self._history.allows(key, demo_cities.revision_of(self._cities[key], value))

    def _slices(self, label: str) -> Iterator[tuple[str, ...]]:
        """Yield the keys a slice at a time, with a progress bar."""
        stream = sys.stderr if self._on_stderr else sys.stdout
        if not stream.isatty():
            yield from batched_keys(self._cities)
            return
        with click.progressbar(length=len(self._cities), label=f"{label:>9}", file=stream, show_pos=True) as bar:
            for keys in batched_keys(self._cities):
                yield keys
                bar.update(len(keys))

    def _count_failures(self, errors: dict[Any, RaykvError]) -> None:
        self._failed += len(errors)
        for key, error in islice(errors.items(), 1):
            self._say(f"{len(errors)} failed; the first, {key}: {error.message}")

    def _say_causes(self, failures: Counter[str]) -> None:
        for cause, count in failures.most_common(3):
            self._say(f"failed {count} times: {cause}")


def batched_keys(cities: dict[str, City]) -> Iterator[tuple[str, ...]]:
    """Yield the keys in slices."""
    keys = iter(cities)
    while taken := tuple(islice(keys, SLICE)):
        yield taken


def _join_ray(address: str | None, cleanup: contextlib.ExitStack, say: Say) -> None:
    """Use the Ray of this process or at ``address``, else start one that ends with the demo."""
    import_ray_quietly()
    import ray

    from raykv.actors.ray_cluster import join_ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address in (None, "local") or not join_ray(address, **quiet):
        say("starting a Ray of the demo's own")
        ray.init(address="local", num_cpus=2, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **quiet)
    cleanup.callback(ray.shutdown)


def _shutdown(name: str) -> None:
    with contextlib.suppress(StoreNotFound):  # it did not start
        raykv.shutdown(name)


def _leave_or_delete(path: str, name: str, keep: bool, say: Say) -> None:
    if keep:
        say(f"the data stays in {path}; raykv start --store {name} --path {path} has it again")
    else:
        shutil.rmtree(path, ignore_errors=True)


def node_to_kill(nodes: Sequence[NodeStatus], path: str) -> NodeStatus:
    """Return a node with a process on this machine that is proved to be its own. Raises ``ClickException`` if none."""
    why = ""
    for node in nodes:
        note = _note_of(node, path)
        if node["state"] == "up" and node["pid"] and note.pid == node["pid"]:
            why = holder.objection(note, node["host"], _lock_of(node, path))
            if not why:
                return node
    raise click.ClickException(
        f"none of the demo's storage nodes runs on this machine, so none can be killed here{f' ({why})' if why else ''}"
    )


def _lock_of(node: NodeStatus, path: str) -> str:
    from raykv.actors.naming import lock_of  # which imports Ray

    return lock_of(path, node["node_id"])


def _note_of(node: NodeStatus, path: str) -> holder.LockNote:
    try:
        return holder.read_note(OsFileSystem().read_file(_lock_of(node, path), holder.MAX_NOTE_BYTES))
    except OSError:
        return holder.LockNote()
