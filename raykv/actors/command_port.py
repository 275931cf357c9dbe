"""The port at which a coordinator takes requests of commands, straight from a process of its own user on its own host.

Joining Ray takes a command seconds, and its one operation milliseconds. The port takes the very frames that the
coordinator's actor takes, and two more for what a command otherwise asks Ray: which stores run, and where a store's data
is. A command that cannot reach the port, for whatever reason, joins Ray (``command_link``).

The port opens with the coordinator, says where it is in a file of its user (``endpoint_file``), and writes that file again
should it be lost. Where Ray encrypts its calls no port opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import ray
from ray.exceptions import RayError

from raykv.actors import endpoint_file
from raykv.actors.authentication import cluster_id, token_to_show
from raykv.actors.calls import in_a_thread
from raykv.actors.command_link import ListStores, LocateStore, port_requests
from raykv.actors.naming import SUPERVISOR, actor_name, find_actor, running_stores
from raykv.errors import StoreUnavailable, described
from raykv.ports import PeerAbsent
from raykv.protocol import frames as f
from raykv.transport import StreamServer, encryption

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raykv.transport import Endpoint

Serve: TypeAlias = "Callable[[bytes], Awaitable[bytes]]"

logger = logging.getLogger("raykv.stream")

LOOK_EVERY_S = 60.0
RETRY_S = 0.5
"""After the first failure; then twice as long each time, up to ``LOOK_EVERY_S``."""
PATH_TIMEOUT_S = 10.0
_OWN = {ListStores.__name__.encode(), LocateStore.__name__.encode()}


class CommandPort:
    """Listens for commands. For one event loop."""

    def __init__(self, store: str, serve: Serve) -> None:
        """``serve(frame)`` answers a coordinator's request."""
        self._store = store
        self._serve = serve
        self._server = StreamServer(self._answer, cancels=True)  # so a later write waits for one that was given up
        self._cluster = ""

    async def stay_open(self) -> None:
        """Open, and see to it that the file stands, for ever. Returns at once where Ray encrypts its calls."""
        if encryption.is_asked_for():
            return
        said, retry_s = "", RETRY_S
        while True:
            try:
                endpoint = await self._server.listen_locally()
                why = await in_a_thread(partial(self._write_file, endpoint))
            except (OSError, ValueError, ImportError, RayError, PeerAbsent) as error:
                why = described(error)
            if why and why != said:
                logger.warning("store %s: commands go by way of Ray: %s", self._store, why)
            said = why
            await asyncio.sleep(retry_s if why else LOOK_EVERY_S)
            retry_s = min(2 * retry_s, LOOK_EVERY_S) if why else RETRY_S

    def _write_file(self, endpoint: Endpoint) -> str:
        """Write the file if it is not there; return why that failed, "" if it did not."""
        if not self._cluster:
            self._cluster = _this_cluster()
            if not self._cluster:
                return "its head does not say which cluster it is"
            endpoint_file.sweep()
        own = ray.get_runtime_context().get_actor_name() or ""
        try:
            endpoint_file.write(self._cluster, self._store, own.removeprefix(actor_name(self._store, "")), endpoint)
        except OSError as error:
            return f"its file cannot be written: {error}"
        return ""

    async def _answer(self, frame: bytes) -> bytes:
        if f.kind_of_message(frame) not in _OWN:
            return await self._serve(frame)
        request = port_requests.decode(frame)
        try:
            found = await (self._path() if isinstance(request, LocateStore) else in_a_thread(running_stores))
        except (RayError, ValueError, TimeoutError) as error:
            why = f"store {self._store!r} does not say: {type(error).__name__}"
            return f.coordinator_answers.encode(f.Refused(f.Failed.of(StoreUnavailable(why))))
        return f.coordinator_answers.encode(f.Info(found))

    async def _path(self) -> str:
        supervisor = await in_a_thread(partial(find_actor, self._store, SUPERVISOR))
        async with asyncio.timeout(PATH_TIMEOUT_S):
            return str(await supervisor.path.remote())


def _this_cluster() -> str:
    """Return the id of the Ray cluster that this process is in; "" if its head does not say."""
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    return cluster_id(host, int(port), token_to_show(auto=True))


def forget_endpoints(store: str) -> None:
    """Remove the files that the coordinators of a stopped store have left on this host."""
    with contextlib.suppress(OSError, ValueError, ImportError, AttributeError, RayError):  # a client of Ray's own
        if cluster := _this_cluster():
            endpoint_file.remove(cluster, store)
