"""Starts storage actors on the hosts where their directories are."""

from __future__ import annotations

import asyncio
import logging
import shutil
from typing import TYPE_CHECKING, Any

import msgspec
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykv.actors.marker import note_founded, read_marker
from raykv.actors.naming import NAMESPACE, actor_name, find_actor, node_directories, node_directory
from raykv.actors.storage_node import StorageNodeActor
from raykv.actors.transport import until_ended
from raykv.errors import StoreUnavailable
from raykv.ports import Host, Known, Launched, LaunchFailed
from raykv.replication.node import NodeSpec
from raykv.replication.peers import node_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raykv.config import NodeConfig, StoreConfig
    from raykv.ports import FileSystem

logger = logging.getLogger("raykv.supervisor")

ASK_AGAIN_S = 0.5
NAME_WAIT_S = 5.0
RETIRE_TIMEOUT_S = 20.0

STORAGE_ACTOR_OPTIONS: dict[str, Any] = {
    "num_cpus": 0,
    "max_restarts": 0,
    "max_task_retries": 0,
    "max_concurrency": 10_000,
    "lifetime": "detached",
    "namespace": NAMESPACE,
    "enable_task_events": False,
}


class RayLauncher:
    """``ports.Launcher`` over Ray."""

    def __init__(self, store_id: str, store: StoreConfig, node: NodeConfig, path: str, fs: FileSystem) -> None:
        self._store_id = store_id
        self._store = store
        self._node = node
        self._path = path
        self._fs = fs
        self._actor = ray.remote(StorageNodeActor)

    async def directories(self) -> list[str]:
        """See ``ports.Launcher``."""
        return node_directories(self._fs, self._path)

    async def founded(self) -> bool:
        """See ``ports.Launcher``."""
        return read_marker(self._fs, self._path).founded

    async def note_founded(self) -> None:
        """See ``ports.Launcher``."""
        try:
            note_founded(self._fs, self._path)
        except OSError as error:
            raise StoreUnavailable(f"path {self._path} cannot be written: {error.strerror or error}") from None

    async def launch(
        self,
        node_id: str,
        host: str,
        *,
        fresh: Callable[[], Awaitable[bool]],
        take_over: bool,
        known: Known,
        timeout_s: float,
    ) -> Launched:
        """See ``ports.Launcher``."""
        try:
            async with asyncio.timeout(timeout_s):
                # Whom Ray knows by the node's name is a process of this store, given up by now: perhaps frozen.
                ours = await self._discard(node_id)
                handle = await self._create(node_id, host, fresh=await fresh(), known=known)
                take_over = take_over or ours
                answer: dict[str, Any] = await handle.open.remote(take_over=take_over)
        except TimeoutError:
            await self._discard(node_id)
            raise LaunchFailed("slow", f"its process did not answer within {timeout_s:g} s") from None
        except RayError as error:
            raise LaunchFailed("crashed", _first_line(error)) from None
        if "failed" in answer:
            await self._discard(node_id)
            raise LaunchFailed(answer["failed"], answer["message"])
        return Launched(answer["incarnation"], answer["pid"])

    async def hosts(self) -> list[Host]:
        """See ``ports.Launcher``."""
        hosts: list[Host] = await self._in_thread(_hosts, self._path)
        return hosts

    async def retire(self, node_id: str, host: str) -> None:
        """See ``ports.Launcher``."""
        try:
            handle = await self._in_thread(find_actor, self._store.name, node_address(node_id))
            async with asyncio.timeout(RETIRE_TIMEOUT_S):
                await handle.set_aside.remote()
        except (ValueError, TimeoutError, RayError) as error:
            logger.warning(
                "store %s: the directory of node %s%s stays where it is: %s",
                self._store.name, node_id, f" on {host}" if host else "", _first_line(error),
            )  # fmt: skip
        await self._discard(node_id)

    async def adopt(self, node_id: str, timeout_s: float) -> Launched | None:
        """See ``ports.Launcher``."""
        try:
            handle = await self._in_thread(find_actor, self._store.name, node_address(node_id))
            async with asyncio.timeout(timeout_s):
                answer: dict[str, Any] = await handle.open.remote(take_over=False)
        except (ValueError, TimeoutError, RayError):
            return None
        return Launched(answer["incarnation"], answer["pid"]) if "pid" in answer else None

    async def ended(self, node_id: str) -> str:
        """See ``ports.Launcher``."""
        while True:
            try:
                handle = await self._in_thread(find_actor, self._store.name, node_address(node_id))
            except ValueError:
                return "no process of it runs"
            if await until_ended(handle):
                return "its process ended"
            await asyncio.sleep(ASK_AGAIN_S)  # Ray lost the connection, which proves nothing: the pings decide

    async def _create(self, node_id: str, host: str, *, fresh: bool, known: Known) -> Any:
        spec = NodeSpec(
            store_id=self._store_id,
            node_id=node_id,
            path=node_directory(self._path, node_id),
            store=self._store,
            node=self._node,
            fresh=fresh,
            known=known,
        )
        options = STORAGE_ACTOR_OPTIONS | {"name": actor_name(self._store.name, node_address(node_id))}
        ray_node = await self._in_thread(_ray_node_of, host)
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(ray_node, soft=False)
        actor = self._actor.options(**options)
        deadline_s = asyncio.get_running_loop().time() + NAME_WAIT_S
        while True:  # until Ray has given the name free
            try:
                return await self._in_thread(actor.remote, msgspec.msgpack.encode(spec))
            except ValueError:
                if asyncio.get_running_loop().time() > deadline_s:
                    raise LaunchFailed("slow", "another process has its name") from None
                await asyncio.sleep(0.02)

    async def _discard(self, node_id: str) -> bool:
        """End the node's present process; False if Ray knows none."""
        try:
            handle = await self._in_thread(find_actor, self._store.name, node_address(node_id))
        except ValueError:
            return False
        await self._in_thread(ray.kill, handle)
        return True

    @staticmethod
    async def _in_thread(work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, work, *args)


def _ray_node_of(host: str) -> str:
    """Return Ray's id of the living node on that host. It changes when Ray is restarted, so it is never kept."""
    if not host:
        return str(ray.get_runtime_context().get_node_id())
    for node in ray.nodes():
        if node["Alive"] and host_name(node) == host:
            return str(node["NodeID"])
    raise LaunchFailed("no host", f"its host {host} is not in the Ray cluster")


def host_name(node: dict[str, Any]) -> str:
    """Return the name of a Ray node's host: its label ``raykv-host`` if it has one, else its address."""
    return str(node.get("Labels", {}).get("raykv-host") or node["NodeManagerAddress"])


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {cause[:300]}"


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
