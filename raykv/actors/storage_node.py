"""The storage actor: one process, one data directory, one run of a node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.actors import job_process
from raykv.actors.calls import NOT_OPEN, fast_transport, this_address
from raykv.actors.hosts import this_host
from raykv.actors.logs import log_to_a_file
from raykv.actors.marker import Marker, leave_marker
from raykv.actors.naming import ASIDE, lock_of
from raykv.actors.ownership import check_node_directory
from raykv.errors import CorruptData, InvalidOption
from raykv.node.node import NodeSpec, StorageNode
from raykv.protocol import frames as f
from raykv.storage import CompressionMissing, DirectoryForeign, DirectoryInUse, EngineFailed
from raykv.system.descriptors import raise_limit
from raykv.system.files import OsFileSystem
from raykv.system.helper import HelperProcess
from raykv.system.holder import end_holder, read_note, this_note
from raykv.system.process import CountingMetrics, SystemClock, ThreadExecutor, exit_soon
from raykv.transport import StreamServer
from raykv.transport.admission import Admission, may_wait

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from raykv.system.holder import LockNote

logger = logging.getLogger("raykv.node")

LOCK_WAIT_S = 5.0
"""Grace period for a former holder of the directory: Ray ends a process in steps."""
KILL_AFTER_S = 0.3
KILL_AGAIN_S = 0.5
BY_RAY = "calls of the actor"
"""All callers through Ray count as one to ``Admission``: Ray does not identify them."""


class StorageNodeActor:
    """Opens a node's directory on request, then answers frames."""

    def __init__(self, spec: bytes) -> None:
        raise_limit()
        # Compaction and flush run Python in a thread; at the default 5 ms switch interval each would delay answers as long.
        sys.setswitchinterval(0.0005)
        self._spec = msgspec.msgpack.decode(spec, type=NodeSpec)
        log_to_a_file(f"{self._spec.store.name}-{self._spec.node_id}")
        self._node: StorageNode | None = None
        self._opening = asyncio.Lock()
        self._admission = Admission(time.monotonic)
        self._streams = StreamServer(self._take, self._admission, self._refusal)

    async def open(self, *, take_over: bool, founded: bool) -> dict[str, Any]:
        """Open the directory and recover. Returns {"incarnation", "pid"} or {"failed": kind, "message"}.

        ``founded``: whether the store was founded, for the marker beside the directory.
        """
        try:
            async with self._opening:  # concurrent calls would compete for the lock
                if self._node is None:
                    node = await asyncio.get_running_loop().run_in_executor(None, self._open, take_over, founded)
                    node.begin()
                    self._node = node
        except DirectoryInUse as error:
            return {"failed": "in use", "message": str(error)}
        except (DirectoryForeign, InvalidOption) as error:
            return {"failed": "foreign", "message": str(error)}
        except OSError as error:
            return {"failed": "unusable", "message": f"{self._spec.path}: {error.strerror or error}"}
        except (CompressionMissing, EngineFailed) as error:
            return {"failed": "unusable", "message": f"{self._spec.path}: {error}"}
        except CorruptData as error:
            return {"failed": "damaged", "message": str(error)}
        if self._node.stopped:  # its supervisor was lost before it could start the next run
            return {"failed": "stopped", "message": "the node was stopped"}
        return {"incarnation": self._node.incarnation, "pid": os.getpid()}

    async def serve(self, frame: bytes) -> bytes:
        """Answer a request frame sent as an actor call."""
        if self._node is None:
            # As data: Ray prints an unretrieved error in the caller's terminal.
            return f.node_answers.encode(f.NodeAnswer(0, f.NodeRefused("not yet", "the node is not open")))
        if not may_wait(frame):
            return await self._node.serve(frame)
        if not self._admission.enter(BY_RAY):
            return self._refusal()
        try:
            return await self._node.serve(frame)
        finally:
            self._admission.leave(BY_RAY)

    def _take(self, frame: bytes) -> bytes | Coroutine[Any, Any, bytes]:
        assert self._node is not None, "its endpoint is known only once it is open"
        return self._node.take(frame)

    @property
    def _store_path(self) -> str:
        return os.path.dirname(os.path.dirname(self._spec.path))

    def _refusal(self) -> bytes:
        assert self._node is not None, "nobody is let in before it is open"
        refused = f.NodeRefused("overloaded", "it has more to do than it can")
        return f.node_answers.encode(f.NodeAnswer(self._node.incarnation, refused))

    async def stream(self, caller: str) -> tuple[str, int, bytes] | None:
        """Return where this process listens for frames, and the secret of its run (``Endpoint``); None if it does not.

        ``caller``: the address of the caller's host. Only requested addresses are listened on, never all: a local socket
        or the loopback for processes of the same host, the address that Ray knows this host by for those of others.
        """
        if self._node is None:
            return NOT_OPEN
        if not self._node.spec.node.stream:
            return None
        here = this_address()
        try:
            host, port, secret = await (
                self._streams.listen_locally() if caller == here else self._streams.listen(here)
            )
        except OSError as error:
            logger.warning("node %s cannot listen on %s: %s", self._spec.node_id, here, error.strerror or error)
            return None
        return host, port, secret

    async def forever(self) -> None:
        """Never return: the caller learns at once when the process ends."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Close the directory cleanly. Streams stay open and requests are refused until the process ends."""
        if self._node is not None:
            await self._node.stop()

    async def note_founded(self) -> None:
        """Record on this host that the store was founded, if not yet recorded."""
        await asyncio.get_running_loop().run_in_executor(None, self._leave_marker, True)

    def _leave_marker(self, founded: bool) -> None:
        spec = self._spec
        leave_marker(
            OsFileSystem(),
            self._store_path,
            Marker(store_id=spec.store_id, store=spec.store, founded=founded),
        )

    async def set_aside(self) -> None:
        """Stop, and rename the directory: this node has left its store for good (P6)."""
        with contextlib.suppress(EngineFailed, OSError):  # the directory will never be read again
            await self.stop()
        await self._streams.close()
        await asyncio.get_running_loop().run_in_executor(None, self._rename)

    def _rename(self) -> None:
        path = self._spec.path
        free = (f"{path}{ASIDE}{number}" for number in range(1000))
        target = next((name for name in free if not os.path.lexists(name)), None)
        if target is not None:
            os.rename(path, target)

    def _open(self, take_over: bool, founded: bool) -> StorageNode:
        """Open, waiting for a former holder of the lock; with ``take_over`` end it if it does not exit by itself."""
        spec, fs = self._spec, OsFileSystem()
        for warning in check_node_directory(fs, self._store_path, spec.store_id, spec.node_id):
            logger.warning("store %s: node %s: %s", spec.store.name, spec.node_id, warning)
        self._leave_marker(founded)
        host = this_host()
        started_s = time.monotonic()
        end_at_s = started_s + KILL_AFTER_S if take_over else math.inf
        why = ""
        while True:
            try:
                return StorageNode(
                    self._spec,
                    fs=OsFileSystem(),
                    clock=SystemClock(),
                    executor=ThreadExecutor(),
                    random=random.SystemRandom(),
                    on_failure=exit_soon,
                    lock_note=msgspec.json.encode(this_note(host)),
                    transport=fast_transport(self._spec.store.name),
                    metrics=CountingMetrics(),
                    helper=HelperProcess(job_process.__name__) if self._spec.node.helper_process else None,
                )
            except DirectoryInUse as error:
                now_s = time.monotonic()
                if now_s > end_at_s:
                    why = self._end(read_note(error.note), host)
                    end_at_s = now_s + KILL_AGAIN_S
                if now_s - started_s > LOCK_WAIT_S:
                    raise DirectoryInUse(f"{error}{why}", **error.details) from None
                time.sleep(0.02)

    def _end(self, note: LockNote, host: str) -> str:
        """End this node's former process; a frozen one does not hear Ray. Returns what to do if it is left running."""
        name, node_id = self._spec.store.name, self._spec.node_id
        if why := end_holder(note, host, lock_of(self._store_path, node_id)):
            return f", and that is not ended, for {why}: if it is a former process of node {node_id}, end it by hand"
        logger.warning("store %s: node %s: ended its former process %d", name, node_id, note.pid)
        return ""
