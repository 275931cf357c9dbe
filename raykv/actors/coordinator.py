"""The coordinator actor."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.actors.calls import fast_transport
from raykv.actors.logs import log_to_a_file
from raykv.actors.pickling import pickled
from raykv.client.given import pairs_of, several_keys
from raykv.client.operations import Operations
from raykv.cluster.state import DEFAULT_BUCKET
from raykv.config import MAX_BATCH_ITEMS, check_bucket_name, check_timeout
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.service import CoordinatorService
from raykv.errors import InvalidOption, RaykvError, StoreUnavailable
from raykv.protocol import frames as f
from raykv.system.process import CountingMetrics, SystemClock
from raykv.versions.context import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class CoordinatorActor:
    """Serves frames to ``Store`` handles, and plain calls to holders of the actor's handle.

    A plain call takes Python keys and values as ``Store`` does and returns an answer frame, for ``Store.decode``: it
    carries errors as data, and ``ray.get`` raises none of raykv's.
    """

    def __init__(self, store: str) -> None:
        log_to_a_file(f"{store}-coordinator")
        clock = SystemClock()
        transport = fast_transport(store)
        self._coordinator = Coordinator(transport, clock, CountingMetrics(), random.SystemRandom())
        self._service = CoordinatorService(self._coordinator, transport, clock)
        self._watch: asyncio.Task[None] | None = None

    async def serve(self, frame: bytes) -> bytes:
        """Answer a request frame."""
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._service.keep_up_to_date())
        return await self._service.serve_together(frame)

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

    async def put(
        self,
        key: Any,
        value: Any,
        *,
        bucket: str = DEFAULT_BUCKET,
        w: Any = None,
        ttl: Any = None,
        timeout: float = 5.0,
    ) -> bytes:
        """Write a key. The answer decodes to a ``WriteResult``."""
        return await self._plain(
            bucket, timeout, True, lambda ops: ops.write_request([(key, value)], w, ttl, check_timeout(timeout))
        )

    async def put_many(
        self, items: Any, *, bucket: str = DEFAULT_BUCKET, w: Any = None, ttl: Any = None, timeout: float = 5.0
    ) -> bytes:
        """Write a mapping. The answer decodes to a list of ``WriteResult``, in its order."""
        return await self._plain(
            bucket,
            timeout,
            False,
            lambda ops: ops.write_request(pairs_of(items).items(), w, ttl, check_timeout(timeout)),
        )

    async def delete(self, key: Any, *, bucket: str = DEFAULT_BUCKET, w: Any = None, timeout: float = 5.0) -> bytes:
        """Delete a key. The answer decodes to a ``WriteResult``."""
        return await self._plain(
            bucket, timeout, True, lambda ops: ops.delete_request([key], w, check_timeout(timeout))
        )

    async def _in_parts(self, asked: f.GetMany | f.WriteMany) -> f.CoordinatorAnswer:
        """Split a request of any number of items into requests within the limits, and answer them."""
        if isinstance(asked, f.GetMany):
            parts = [msgspec.structs.replace(asked, keys=asked.keys[part]) for part in _slices(len(asked.keys))]
            answers = [await self._serve_one(part) for part in parts]
            return f.GotMany(_items(answers, parts)) if len(parts) > 1 else answers[0]
        writes = [msgspec.structs.replace(asked, items=asked.items[part]) for part in _slices(len(asked.items))]
        answers = [await self._serve_one(part) for part in writes]
        return f.WroteMany(_items(answers, writes)) if len(writes) > 1 else answers[0]

    async def _serve_one(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        return f.coordinator_answers.decode(await self.serve(f.coordinator_requests.encode(request)))

    async def _plain(
        self, bucket: str, timeout: float, single: bool, request: Callable[[Operations], f.GetMany | f.WriteMany]
    ) -> bytes:
        codec = "raw"
        places: list[bytes] = []
        answer: f.CoordinatorAnswer
        try:
            state = await self._coordinator.routing.state(check_timeout(timeout))
            entry = state.bucket(check_bucket_name(bucket))
            if entry is None:
                raise InvalidOption(f"there is no bucket {bucket!r}; create it with store.bucket({bucket!r})")
            codec = entry.config.codec
            asked = request(Operations(entry.bucket_id, entry.config, pickled=pickled))
            if isinstance(asked, f.WriteMany):
                places = [place_of(state.store_id, entry.bucket_id, key) for key, _, _ in asked.items]
            answer = await self._in_parts(asked)
        except RaykvError as error:
            answer = f.Refused(f.Failed.of(error))
        return f.handed_answers.encode(f.HandleAnswer(single, codec, answer, places))


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
