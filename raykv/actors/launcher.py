"""Starts storage actors on the hosts where their directories are."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykv.actors import hosts
from raykv.actors.calls import until_ended
from raykv.actors.hosts import first_line
from raykv.actors.marker import note_founded, read_marker
from raykv.actors.naming import NAMESPACE, actor_name, find_actor, node_directory, store_actors
from raykv.actors.storage_node import StorageNodeActor
from raykv.cluster.peers import node_address
from raykv.errors import StoreUnavailable
from raykv.node.node import NodeSpec
from raykv.ports import Host, Known, Launched, LaunchFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from raykv.config import NodeConfig, StoreConfig
    from raykv.ports import FileSystem

T = TypeVar("T")

logger = logging.getLogger("raykv.supervisor")

ASK_AGAIN_S = 0.5
NAME_WAIT_S = 5.0
RETIRE_TIMEOUT_S = 20.0
NOTE_TIMEOUT_S = 10.0

STORAGE_ACTOR_OPTIONS: dict[str, Any] = {
    "num_cpus": 0,
    "max_restarts": 0,
    "max_task_retries": 0,
    "max_concurrency": 10_000,
    "lifetime": "detached",
    "namespace": NAMESPACE,
    "enable_task_events": False,
}


class _Room:
    """Requests a storage process's resources to find a host with room; autoscaling clusters add one if there is none."""

    def host(self) -> str:
        """Return the name of the host that it runs on."""
        return hosts.this_host()


class RayLauncher:
    """``ports.Launcher`` over Ray."""

    def __init__(self, store_id: str, store: StoreConfig, node: NodeConfig, path: str, fs: FileSystem) -> None:
        self._store_id = store_id
        self._store = store
        self._node = node
        self._path = path
        self._fs = fs
        self._actor = ray.remote(StorageNodeActor)
        self._founded = False
        self._handles: dict[str, Any] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def directories(
        self, *, everywhere: bool = False, preferred: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """See ``ports.Launcher``."""
        return await self._in_thread(self._places, everywhere, preferred)

    def _places(self, everywhere: bool, preferred: Mapping[str, str] | None) -> dict[str, str]:
        here = hosts.this_host()
        looks = hosts.look_everywhere(self._path) if everywhere else {here: hosts.look_here(self._fs, self._path)}
        return hosts.places(looks, there=[host.name for host in hosts.hosts(looks)], preferred=preferred)

    async def founded(self) -> bool:
        """See ``ports.Launcher``."""
        self._founded = read_marker(self._fs, self._path).founded
        return self._founded

    async def note_founded(self) -> None:
        """See ``ports.Launcher``."""
        try:
            note_founded(self._fs, self._path)
        except OSError as error:
            raise StoreUnavailable(f"path {self._path} cannot be written: {error.strerror or error}") from None
        self._founded = True
        for node_id, handle in sorted(self._handles.items()):  # on their hosts, too; failing that, at the next start
            note = asyncio.get_running_loop().create_task(self._note_there(node_id, handle))
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)

    async def _note_there(self, node_id: str, handle: Any) -> None:
        try:
            async with asyncio.timeout(NOTE_TIMEOUT_S):
                await handle.note_founded.remote()
        except (TimeoutError, RayError) as error:
            logger.info("store %s: node %s did not note the founding: %s", self._store.name, node_id, first_line(error))

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
                # Ray knows a process of this store by the node's name; it is given up by now, perhaps frozen.
                ours = await self._discard(node_id)
                ray_node = await self._in_thread(hosts.ray_node_for, node_id, host, self._node.cpus)
                handle = await self._create(node_id, ray_node, fresh=await fresh(), known=known)
                self._handles[node_id] = handle
                answer: dict[str, Any] = await handle.open.remote(take_over=take_over or ours, founded=self._founded)
        except TimeoutError:
            await self._discard(node_id)
            lack = await self._in_thread(hosts.lack_of_cpus, host, self._node.cpus) if self._node.cpus else ""
            why = f" ({lack})" if lack else ""
            raise LaunchFailed("slow", f"its process did not answer within {timeout_s:g} s{why}") from None
        except RayError as error:
            raise LaunchFailed("crashed", first_line(error)) from None
        if "failed" in answer:
            await self._discard(node_id)
            raise LaunchFailed(answer["failed"], answer["message"])
        return Launched(answer["incarnation"], answer["pid"])

    async def hosts(self) -> list[Host]:
        """See ``ports.Launcher``."""
        return await self._in_thread(lambda: hosts.hosts(hosts.look_everywhere(self._path)))

    async def room(self, timeout_s: float) -> str:
        """See ``ports.Launcher``."""
        if not self._node.cpus:
            return ""
        probe = ray.remote(_Room).options(
            num_cpus=self._node.cpus, max_restarts=0, enable_task_events=False, scheduling_strategy="SPREAD"
        )
        asked = await self._in_thread(probe.remote)
        try:
            async with asyncio.timeout(timeout_s):
                return str(await asked.host.remote())
        except TimeoutError:
            raise LaunchFailed(
                "no host", f"no host with {self._node.cpus:g} free processors came within {timeout_s:g} s"
            ) from None
        except RayError as error:
            raise LaunchFailed(
                "no host", f"no host with {self._node.cpus:g} free processors could be had: {first_line(error)}"
            ) from None
        finally:
            await self._in_thread(ray.kill, asked)

    async def running(self) -> list[str]:
        """See ``ports.Launcher``."""
        prefix = actor_name(self._store.name, node_address(""))
        try:
            actors = await self._in_thread(store_actors, self._store.name)
        except RayError as error:
            logger.warning("store %s: Ray does not list its actors: %s", self._store.name, first_line(error))
            return []
        return [name.removeprefix(prefix) for name in actors if name.startswith(prefix)]

    async def retire(self, node_id: str, host: str) -> None:
        """See ``ports.Launcher``."""
        self._handles.pop(node_id, None)
        try:
            handle = await self._in_thread(find_actor, self._store.name, node_address(node_id))
            async with asyncio.timeout(RETIRE_TIMEOUT_S):
                await handle.set_aside.remote()
        except (ValueError, TimeoutError, RayError) as error:
            logger.warning(
                "store %s: the directory of node %s%s stays where it is: %s",
                self._store.name, node_id, f" on {host}" if host else "", first_line(error),
            )  # fmt: skip
        await self._discard(node_id)

    async def adopt(self, node_id: str, timeout_s: float) -> Launched | None:
        """See ``ports.Launcher``."""
        try:
            handle = await self._in_thread(find_actor, self._store.name, node_address(node_id))
            async with asyncio.timeout(timeout_s):
                answer: dict[str, Any] = await handle.open.remote(take_over=False, founded=self._founded)
        except (ValueError, TimeoutError, RayError):
            return None
        self._handles[node_id] = handle
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

    async def _create(self, node_id: str, ray_node: str, *, fresh: bool, known: Known) -> Any:
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
        options["num_cpus"] = self._node.cpus
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(ray_node, soft=False)
        actor = self._actor.options(**options)
        encoded = msgspec.msgpack.encode(spec)
        deadline_s = asyncio.get_running_loop().time() + NAME_WAIT_S
        while True:  # until Ray has released the name
            try:
                return await self._in_thread(actor.remote, encoded)
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
    async def _in_thread(work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, work, *args)
