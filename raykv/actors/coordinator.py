"""The coordinator actor."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from raykv.actors.calls import call_itself, fast_transport
from raykv.actors.command_port import CommandPort
from raykv.actors.hosts import whereabouts
from raykv.actors.logs import log_to_a_file
from raykv.actors.pickling import pickled
from raykv.actors.this_process import ThisProcess
from raykv.client.atomic import check_change_timeout
from raykv.client.driver import run_async
from raykv.client.given import pairs_of, several_keys
from raykv.client.lanes import Lanes
from raykv.client.operations import Operations
from raykv.cluster.state import DEFAULT_BUCKET
from raykv.config import MAX_BATCH_ITEMS, check_bucket_name, check_timeout
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.service import CoordinatorService
from raykv.errors import InvalidOption, RaykvError, StoreUnavailable
from raykv.protocol import frames as f
from raykv.protocol.changes import ADD, MAXIMUM, MINIMUM
from raykv.system.process import CountingMetrics, SystemClock
from raykv.versions.context import place_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Asked: TypeAlias = "f.GetMany | f.WriteMany | list[f.Change]"


class CoordinatorActor:
    """Serves frames to ``Store`` handles, and plain calls to holders of the actor's handle.

    A plain call takes Python keys and values as ``Store`` does and returns an answer frame, for ``Store.decode``: it
    carries errors as data, and ``ray.get`` raises none of raykv's.

    A change of a linearizable bucket is carried out once for each call, however often this actor has to send it. Ray itself
    does not repeat calls of this actor; a caller that does may have it carried out twice.
    """

    def __init__(self, store: str, listens: bool = True) -> None:
        """Begin. ``listens``: whether to open a port for commands."""
        log_to_a_file(f"{store}-coordinator")
        clock = SystemClock()
        transport = fast_transport(store)
        self._coordinator = Coordinator(transport, clock, CountingMetrics(), random.SystemRandom(), here=whereabouts())
        self._service = CoordinatorService(self._coordinator, transport, clock, for_others=True)
        self._lanes = Lanes(os.urandom)
        self._watch: asyncio.Task[None] | None = None
        self._port = CommandPort(store, self.serve)
        self._open: asyncio.Task[None] | None = None
        if listens:
            call_itself("open_port")

    async def serve(self, frame: bytes) -> bytes:
        """Answer a request frame."""
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._service.keep_up_to_date())
        return await self._service.serve_together(frame)

    async def open_port(self) -> None:
        """Open the port for commands of this user on this host."""
        if self._open is None:
            self._open = asyncio.get_running_loop().create_task(self._port.stay_open())

    async def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    async def get(self, key: Any, *, bucket: str = DEFAULT_BUCKET, r: Any = None, timeout: float = 5.0) -> bytes:
        """Read a key. The answer decodes to its value, or None."""
        return await self._plain(bucket, timeout, True, lambda ops: ops.read_request([key], r, check_timeout(timeout)))

    async def get_many(self, keys: Any, *, bucket: str = DEFAULT_BUCKET, r: Any = None, timeout: float = 5.0) -> bytes:
        """Read keys. The answer decodes to a list of values, in the order of the keys."""
        return await self._plain(
            bucket, timeout, False, lambda ops: ops.read_request(several_keys(keys), r, check_timeout(timeout))
        )

    async def get_versioned(self, key: Any, *, bucket: str = DEFAULT_BUCKET, timeout: float = 5.0) -> bytes:
        """Read a key of a linearizable bucket. The answer decodes to a ``Versioned``."""

        def request(ops: Operations) -> f.GetMany:
            ops.refuse_elsewhere("get_versioned")
            return ops.read_request([key], None, check_timeout(timeout), causality=True)

        return await self._plain(bucket, timeout, True, request)

    async def put(
        self,
        key: Any,
        value: Any,
        *,
        bucket: str = DEFAULT_BUCKET,
        w: Any = None,
        ttl: Any = None,
        if_absent: Any = False,
        if_version: Any = None,
        fence: Any = None,
        timeout: float = 5.0,
    ) -> bytes:
        """Write a key. The answer decodes to a ``WriteResult``."""

        def request(ops: Operations) -> f.WriteMany | list[f.Change]:
            if ops.linearizable:
                ops.refuse(w=w, ttl=ttl)
                return [ops.put_change(key, value, if_absent=if_absent, if_version=if_version, fence=fence)]
            ops.refuse_conditions(if_absent=if_absent, if_version=if_version, fence=fence)
            return ops.write_request([(key, value)], w, ttl, check_timeout(timeout))

        return await self._plain(bucket, timeout, True, request)

    async def put_many(
        self,
        items: Any,
        *,
        bucket: str = DEFAULT_BUCKET,
        w: Any = None,
        ttl: Any = None,
        if_absent: Any = False,
        timeout: float = 5.0,
    ) -> bytes:
        """Write pairs. The answer decodes to a list of ``WriteResult``, in their order."""

        def request(ops: Operations) -> f.WriteMany | list[f.Change]:
            pairs = pairs_of(items)
            if ops.linearizable:
                ops.refuse(w=w, ttl=ttl)
                return [ops.put_change(key, value, if_absent=if_absent) for key, value in pairs.items()]
            ops.refuse_conditions(if_absent=if_absent)
            return ops.write_request(pairs.items(), w, ttl, check_timeout(timeout))

        return await self._plain(bucket, timeout, False, request)

    async def delete(
        self,
        key: Any,
        *,
        bucket: str = DEFAULT_BUCKET,
        w: Any = None,
        if_version: Any = None,
        fence: Any = None,
        timeout: float = 5.0,
    ) -> bytes:
        """Delete a key. The answer decodes to a ``WriteResult``."""

        def request(ops: Operations) -> f.WriteMany | list[f.Change]:
            if ops.linearizable:
                ops.refuse(w=w)
                return [ops.delete_change(key, if_version=if_version, fence=fence)]
            ops.refuse_conditions(if_version=if_version, fence=fence)
            return ops.delete_request([key], w, check_timeout(timeout))

        return await self._plain(bucket, timeout, True, request)

    async def add(self, key: Any, amount: Any = 1, *, bucket: str = DEFAULT_BUCKET, timeout: float = 5.0) -> bytes:
        """Add to an integer of a linearizable bucket. The answer decodes to the sum."""
        return await self._plain(bucket, timeout, True, lambda ops: [ops.count_change(key, ADD, amount)])

    async def max(self, key: Any, value: Any, *, bucket: str = DEFAULT_BUCKET, timeout: float = 5.0) -> bytes:
        """Raise an integer of a linearizable bucket. The answer decodes to what it is then."""
        return await self._plain(bucket, timeout, True, lambda ops: [ops.count_change(key, MAXIMUM, value)])

    async def min(self, key: Any, value: Any, *, bucket: str = DEFAULT_BUCKET, timeout: float = 5.0) -> bytes:
        """Lower an integer of a linearizable bucket. The answer decodes to what it is then."""
        return await self._plain(bucket, timeout, True, lambda ops: [ops.count_change(key, MINIMUM, value)])

    async def swap(self, key: Any, value: Any, *, bucket: str = DEFAULT_BUCKET, timeout: float = 5.0) -> bytes:
        """Write a value of a linearizable bucket. The answer decodes to the one before it, or None."""
        return await self._plain(bucket, timeout, True, lambda ops: [ops.swap_change(key, value)])

    async def _in_parts(self, asked: f.GetMany | f.WriteMany) -> f.CoordinatorAnswer:
        """Split a request of any number of items into requests within the limits, and answer them."""
        if isinstance(asked, f.GetMany):
            parts = [msgspec.structs.replace(asked, keys=asked.keys[part]) for part in _slices(len(asked.keys))]
            answers = [await self.serve_one(part) for part in parts]
            return f.GotMany(_items(answers, parts)) if len(parts) > 1 else answers[0]
        writes = [msgspec.structs.replace(asked, items=asked.items[part]) for part in _slices(len(asked.items))]
        answers = [await self.serve_one(part) for part in writes]
        return f.WroteMany(_items(answers, writes)) if len(writes) > 1 else answers[0]

    async def serve_one(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        """Answer a request of this process's own."""
        return f.coordinator_answers.decode(await self.serve(f.coordinator_requests.encode(request)))

    async def _plain(self, bucket: str, timeout: float, single: bool, request: Callable[[Operations], Asked]) -> bytes:
        codec = "raw"
        places: list[bytes] = []
        versioned = False
        answer: f.CoordinatorAnswer
        try:
            state = await self._coordinator.routing.state(check_timeout(timeout))
            entry = state.bucket(check_bucket_name(bucket))
            if entry is None:
                raise InvalidOption(f"there is no bucket {bucket!r}; create it with store.bucket({bucket!r})")
            codec = entry.config.codec
            operations = Operations(entry.bucket_id, entry.config, pickled=pickled, lanes=self._lanes)
            asked = request(operations)
            versioned = isinstance(asked, f.GetMany) and asked.causality
            if isinstance(asked, list):
                return await self._changed(operations, asked, timeout, single)
            if isinstance(asked, f.WriteMany):
                places = [place_of(state.store_id, entry.bucket_id, key) for key, _, _ in asked.items]
            answer = await self._in_parts(asked)
        except RaykvError as error:
            answer = f.Refused(f.Failed.of(error))
        if versioned:
            return f.handed_answers.encode(f.HandleVersioned(codec, answer))
        return f.handed_answers.encode(f.HandleAnswer(single, codec, answer, places))

    async def _changed(self, operations: Operations, asked: list[f.Change], timeout: float, single: bool) -> bytes:
        """Carry out changes in a lane of this actor's: each once, though Ray may lose the answer on its way."""
        settled, call = await run_async(
            operations.carry_out(asked, check_change_timeout(timeout)), Here(self.serve_one)
        )
        items = [f.Failed.of(each) if isinstance(each, RaykvError) else each for each in settled]
        changes = [f.Change(change.key, change.kind, condition=change.condition) for change in asked]
        return f.handed_answers.encode(f.HandleChanges(single, operations.config.codec, items, changes, call))


class Here(ThisProcess):
    """``client.driver.Link`` to the coordinator of this process; only for awaiting."""

    def __init__(self, serve: Callable[[f.CoordinatorRequest], Awaitable[f.CoordinatorAnswer]]) -> None:
        """``serve(request)`` awaits its answer."""
        self._serve = serve

    async def call(self, request: f.CoordinatorRequest, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        del timeout_s  # the coordinator enforces the deadline itself
        return await self._serve(request)

    def submit(self, requests: Sequence[f.CoordinatorRequest], meanwhile: f.Meanwhile | None = None) -> list[Any]:
        """See ``client.driver.Link``."""
        raise NotImplementedError

    def result(self, ticket: Any, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        raise NotImplementedError

    def close(self) -> None:
        """See ``client.driver.Link``."""


def _slices(count: int) -> list[slice]:
    return [slice(at, at + MAX_BATCH_ITEMS) for at in range(0, max(count, 1), MAX_BATCH_ITEMS)]


def _items(answers: list[f.CoordinatorAnswer], parts: Sequence[f.GetMany | f.WriteMany]) -> list[Any]:
    """Return an entry for each item of all parts; a part refused as a whole fails each of its items."""
    items: list[Any] = []
    for answer, part in zip(answers, parts, strict=True):
        if isinstance(answer, f.GotMany | f.WroteMany):
            items += answer.items
            continue
        failed = answer.failed if isinstance(answer, f.Refused) else f.Failed.of(StoreUnavailable("it gave no answer"))
        items += [failed] * len(part.keys if isinstance(part, f.GetMany) else part.items)
    return items
