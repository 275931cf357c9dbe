"""The supervisor actor."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import msgspec
import ray

from raykv.actors.launcher import RayLauncher, host_name
from raykv.actors.logs import log_to_stderr
from raykv.actors.os_files import OsFileSystem
from raykv.actors.transport import RayTransport
from raykv.actors.world import SystemClock, exit_soon
from raykv.config import NodeConfig
from raykv.errors import CorruptData, InvalidOption, RaykvError, to_data
from raykv.supervision.founding import Host, Plan
from raykv.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    from raykv.ports import FileSystem

logger = logging.getLogger("raykv.supervisor")

MARKER = "store.json"
MARKER_FORMAT = 1
MAX_MARKER_BYTES = 4096


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor actor is created with; kept by Ray for its restarts."""

    plan: Plan
    path: str
    node: NodeConfig = NodeConfig()


class SupervisorActor:
    """Starts the store when first called, and so again after Ray has restarted it."""

    def __init__(self, orders: bytes) -> None:
        log_to_stderr()
        self._orders = msgspec.msgpack.decode(orders, type=Orders)
        self._supervisor: Supervisor | None = None
        self._started: asyncio.Task[dict[str, Any]] | None = None
        # Nobody calls a supervisor that Ray has restarted, so it calls itself; its founder's call finds it started.
        ray.get_runtime_context().current_actor.start.remote()

    async def start(self) -> dict[str, Any]:
        """Start the store. Returns {"path"} or {"failed": an error as data}; the same to all who ask meanwhile.

        A start that failed is tried again by whoever asks next: after a restart by Ray that is a coordinator, each second.
        """
        if self._started is None or (self._started.done() and self._supervisor is None):
            self._started = asyncio.get_running_loop().create_task(self._start())
        return await asyncio.shield(self._started)

    async def serve(self, frame: bytes) -> bytes:
        """Answer a request frame."""
        await self.start()
        if self._supervisor is None:
            raise RuntimeError("the store did not start")
        return await self._supervisor.serve(frame)

    async def path(self) -> str:
        """Return the store's path."""
        return self._orders.path

    async def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    async def stop(self) -> None:
        """Stop watching and close the nodes cleanly."""
        if self._supervisor is not None:
            await self._supervisor.stop()

    async def _start(self) -> dict[str, Any]:
        orders, store = self._orders, self._orders.plan.store
        try:
            fs = OsFileSystem()
            store_id = _claim_path(fs, orders.path, store.name)
            supervisor = Supervisor(
                store_id,
                orders.plan,
                _hosts(orders.path),
                transport=RayTransport(store.name),
                clock=SystemClock(),
                launcher=RayLauncher(store_id, store, orders.node, orders.path, fs),
                on_failure=exit_soon,
            )
            await supervisor.start()
            self._supervisor = supervisor
        except RaykvError as error:
            logger.error("store %s: not started: %s", store.name, error)
            return {"failed": to_data(error)}
        return {"path": orders.path}


def _claim_path(fs: FileSystem, path: str, name: str) -> str:
    """Return the id of the store that lives at ``path``, putting it there if the path is new.

    Raises ``InvalidOption`` if the path cannot be used or is another store's.
    """
    marker = f"{path}/{MARKER}"
    try:
        fs.make_directories(path)
        if not fs.exists(marker):
            _write_marker(fs, path, name)
        data = json.loads(fs.read_file(marker, MAX_MARKER_BYTES))
        owner, store_id, version = str(data["name"]), str(data["store_id"]), data["format"]
    except OSError as error:
        raise InvalidOption(f"path {path} cannot be used: {error.strerror or error}", path=path) from None
    except (ValueError, KeyError, TypeError):
        raise CorruptData(f"{marker} is damaged") from None
    if version != MARKER_FORMAT:
        raise InvalidOption(f"path {path} is in format {version}; this raykv reads {MARKER_FORMAT}", path=path)
    if owner != name:
        raise InvalidOption(f"path {path} is in use by store {owner!r}; each store needs its own", path=path)
    return store_id


def _write_marker(fs: FileSystem, path: str, name: str) -> None:
    draft = f"{path}/{MARKER}.{os.getpid()}"
    store_id = random.SystemRandom().randbytes(8).hex()
    file = fs.create(draft)
    try:
        file.append(json.dumps({"format": MARKER_FORMAT, "name": name, "store_id": store_id}).encode())
        file.sync()
    finally:
        file.close()
    fs.rename(draft, f"{path}/{MARKER}")
    fs.sync_directory(path)


def _hosts(path: str) -> list[Host]:
    disk_bytes = shutil.disk_usage(path).total
    hosts = {
        host_name(node): Host(
            name=host_name(node),
            cpus=float(node["Resources"].get("CPU", 1.0)),
            memory_bytes=int(node["Resources"].get("memory", 0)),
            disk_bytes=disk_bytes,
            zone=str(node.get("Labels", {}).get("raykv-zone", "")),
        )
        for node in ray.nodes()
        if node["Alive"]
    }
    return [hosts[name] for name in sorted(hosts)]
