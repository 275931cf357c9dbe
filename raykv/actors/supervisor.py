"""The supervisor actor."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.actors import hosts
from raykv.actors.calls import RayTransport, call_itself
from raykv.actors.hosts import first_line
from raykv.actors.launcher import RayLauncher
from raykv.actors.logs import log_to_a_file
from raykv.actors.marker import Marker, claim_path
from raykv.actors.published import publish_for_ever
from raykv.config import NodeConfig
from raykv.errors import RaykvError, StoreUnavailable, to_data
from raykv.protocol import frames as f
from raykv.supervision.founding import Plan
from raykv.supervision.supervisor import Supervisor
from raykv.system.files import OsFileSystem
from raykv.system.process import SystemClock, exit_soon

if TYPE_CHECKING:
    from raykv.ports import FileSystem

logger = logging.getLogger("raykv.supervisor")

RETRY_S = 1.0
MOST_RETRY_S = 30.0
"""Between two attempts at a start: twice as long each time, up to this."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor actor is created with; kept by Ray for its restarts."""

    plan: Plan
    path: str
    node: NodeConfig = NodeConfig()
    given: dict[str, Any] = {}
    """The settings that all must agree on, as far as the caller named them: n, partitions, durability."""


class SupervisorActor:
    """Starts the store, and again after a restart by Ray."""

    def __init__(self, orders: bytes) -> None:
        self._orders = msgspec.msgpack.decode(orders, type=Orders)
        log_to_a_file(f"{self._orders.plan.store.name}-supervisor")
        self._supervisor: Supervisor | None = None
        self._starting: Supervisor | None = None
        self._started: asyncio.Task[dict[str, Any]] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._staying: asyncio.Task[None] | None = None
        call_itself("stay_started")  # its founder's call finds it started

    async def stay_started(self) -> None:
        """Start the store, and retry until it has started: after a restart by Ray nobody else may ask for it."""
        if self._staying is None:
            self._staying = asyncio.get_running_loop().create_task(self._stay_started())

    async def _stay_started(self) -> None:
        retry_s = RETRY_S
        while "failed" in await self.start():
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, MOST_RETRY_S)

    async def start(self) -> dict[str, Any]:
        """Start the store. Returns {"path"} or {"failed": an error as data}; concurrent callers get the same answer.

        The next request retries a failed start.
        """
        if self._started is None or (self._started.done() and self._supervisor is None):
            self._started = asyncio.get_running_loop().create_task(self._start())
        return await asyncio.shield(self._started)

    async def serve(self, frame: bytes) -> bytes:
        """Answer a request frame."""
        await self.start()
        if self._supervisor is None:
            refused = f.Failed.of(StoreUnavailable("the store has not started; raykv.start() says why"))
            return f.supervisor_answers.encode(f.Refused(refused))
        return await self._supervisor.serve(frame)

    async def path(self) -> str:
        """Return the store's path."""
        return self._orders.path

    async def trouble(self) -> str:
        """Return what the start is waiting for."""
        if self._starting is None:
            return f"it looks at what lies at {self._orders.path} on the hosts"
        return self._starting.trouble() or "all of its nodes are up"

    async def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    async def stop(self) -> None:
        """Stop watching and close the nodes cleanly."""
        if self._staying is not None:
            self._staying.cancel()
        if self._started is not None:
            self._started.cancel()
        if self._publishing is not None:
            self._publishing.cancel()
        if self._supervisor is not None:
            await self._supervisor.stop()

    async def _start(self) -> dict[str, Any]:
        orders, store = self._orders, self._orders.plan.store
        try:
            fs = OsFileSystem()
            loop = asyncio.get_running_loop()
            elsewhere = await loop.run_in_executor(None, _elsewhere, fs, orders.path)
            store_id, store = claim_path(fs, orders.path, store, orders.given, elsewhere)
            launcher = RayLauncher(store_id, store, orders.node, orders.path, fs)
            supervisor = Supervisor(
                store_id,
                msgspec.structs.replace(orders.plan, store=store),
                await launcher.hosts(),
                transport=RayTransport(store.name),
                clock=SystemClock(),
                launcher=launcher,
                on_failure=exit_soon,
            )
            self._starting = supervisor
            await supervisor.start()
            self._supervisor = supervisor
            self._publishing = loop.create_task(publish_for_ever(supervisor.status))
        except RaykvError as error:
            logger.error("store %s: not started: %s", store.name, error)
            return {"failed": to_data(error)}
        except Exception as error:  # the callers that wait for the start get the error
            logger.exception("store %s: not started", store.name)
            return {"failed": to_data(StoreUnavailable(f"store {store.name!r} did not start: {first_line(error)}"))}
        return {"path": orders.path}


def _elsewhere(fs: FileSystem, path: str) -> dict[str, Marker]:
    """Return the markers on other hosts. A binding marker on this host suffices."""
    here = hosts.this_host()
    if hosts.bound({here: hosts.look_here(fs, path)}, ""):
        return {}
    return hosts.bound(hosts.look_everywhere(path), here)
