"""A coordinator that is a function: it answers frames from a dict in memory, or as a test tells it to."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.config import BucketConfig
from raykv.ports import PeerFailure
from raykv.records import frames as f
from raykv.records.record import body_operation_id, check_body, stamp, unpack

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeLink:
    """``client.driver.Link`` over a function from request to answer.

    ``script``: steps to take before the ordinary course, one a frame: a PeerFailure to raise, a message or bytes to
    answer, a function of the request.
    """

    def __init__(self, config: BucketConfig) -> None:
        self.config = config
        self.requests: list[Any] = []
        self.script: list[Any] = []
        self.timeouts: list[float] = []
        self.records: dict[bytes, bytes] = {}
        self.page_items = 10_000
        self.under_way = 0
        self.most_under_way = 0
        self.frames = 0
        self.now_s = 50.0
        self.slept: list[float] = []
        self._random = random.Random(6)

    # ---- the link ----

    def monotonic_s(self) -> float:
        return self.now_s

    def pause(self, delay_s: float) -> None:
        self.now_s += delay_s
        self.slept.append(delay_s)

    async def sleep(self, delay_s: float) -> None:
        self.pause(delay_s)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def submit(self, frame: bytes) -> Any:
        self._begin()
        step = self._step(frame)
        if isinstance(step, PeerFailure) and getattr(step, "at_submit", False):
            self.under_way -= 1
            raise step
        return step

    def result(self, ticket: Any, timeout_s: float) -> bytes:
        self.timeouts.append(timeout_s)
        self.under_way -= 1
        if isinstance(ticket, PeerFailure):
            raise ticket
        assert isinstance(ticket, bytes)
        return ticket

    async def call(self, frame: bytes, timeout_s: float) -> bytes:
        self._begin()
        self.timeouts.append(timeout_s)
        step = self._step(frame)
        await asyncio.sleep(0)
        self.under_way -= 1
        if isinstance(step, PeerFailure):
            raise step
        assert isinstance(step, bytes)
        return step

    def _begin(self) -> None:
        self.frames += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

    def _step(self, frame: bytes) -> bytes | PeerFailure:
        request = f.coordinator_requests.decode(frame)
        self.requests.append(request)
        step = self.script.pop(0) if self.script else self.answer
        if callable(step):
            step = step(request)
        return step if isinstance(step, bytes | PeerFailure) else f.coordinator_answers.encode(step)

    # ---- the ordinary course ----

    def answer(self, request: Any) -> Any:
        if isinstance(request, f.OpenBucket):
            if request.name != self.config.name:
                return f.BucketOpened(2, {"n": 3, "r": 2, "w": 2, "name": request.name} | request.options)
            return f.BucketOpened(1, msgspec.to_builtins(self.config))
        if isinstance(request, f.GetMany):
            return f.GotMany([self._value(key) for key in request.keys])
        if isinstance(request, f.WriteMany):
            for key, body in request.items:
                check_body(body)
                self.records[key] = stamp(body, 1 << 16)
            return f.WroteMany([f.Acked(body_operation_id(body), ["n1", "n2"]) for _, body in request.items])
        if isinstance(request, f.ScanPage):
            return self._page(request)
        return f.Told([msgspec.to_builtins(self.config)] if request.what == "buckets" else {})

    def _value(self, key: bytes) -> bytes | None:
        record = self.records.get(key)
        if record is None:
            return None
        taken = unpack(record)
        return None if taken.tombstone else taken.payload

    def _page(self, request: f.ScanPage) -> f.Page:
        keys = sorted((key for key in self.records if request.start <= key < request.end), reverse=request.reverse)
        size = min(request.limit, self.page_items)
        items = [(key, b"" if request.keys_only else self._value(key)) for key in keys[:size]]
        live = [(key, payload) for key, payload in items if payload is not None and self._value(key) is not None]
        if len(keys) <= size:
            return f.Page(live, None)
        last = keys[size - 1]
        return f.Page(live, last if request.reverse else last + b"\x00")


@pytest.fixture
def config() -> BucketConfig:
    return BucketConfig(name="default", n=3, r=2, w=2)


@pytest.fixture
def link(config: BucketConfig) -> FakeLink:
    return FakeLink(config)


@pytest.fixture
def store(link: FakeLink) -> Any:
    from raykv.client.store import Store

    made = Store("shop", link)
    link.requests.clear()
    link.timeouts.clear()
    link.frames = link.most_under_way = 0
    return made


@pytest.fixture(params=["blocking", "awaiting"])
def both(request: pytest.FixtureRequest, store: Any) -> Callable[..., Any]:
    """Call an operation by name on the blocking face, or on the awaiting one."""

    def call(name: str, *args: Any, on: Any = store, **options: Any) -> Any:
        if request.param == "blocking":
            if name == "contains":
                return args[0] in on
            result = getattr(on, name)(*args, **options)
            return list(result) if name in {"scan", "keys", "values", "items"} else result

        async def awaited() -> Any:
            result = getattr(on.aio, name)(*args, **options)
            if hasattr(result, "__aiter__"):
                return [item async for item in result]
            return await result

        return asyncio.run(awaited())

    return call


@pytest.fixture
def no_waiting(link: FakeLink) -> FakeLink:
    """The link, whose clock stands still but for its own waits, which take no time: ``now_s``, ``slept``."""
    return link


@pytest.fixture
def rng() -> random.Random:
    return random.Random(5)
