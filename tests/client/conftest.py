"""A coordinator that is a function: it answers frames from a dict in memory, or as a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.client.codecs import pickle_plainly
from raykv.client.renewals import ThreadRenewals
from raykv.config import BucketConfig
from raykv.errors import CorruptData
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.records.record import body_operation_id, check_body, stamp, time_of, unpack
from raykv.versions.causality import Causality, pack_causality, unpack_causality

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


STORE_ID = "fake"


class FakeLink:
    """``client.driver.Link`` over a function from request to answer.

    ``script``: steps to take before the ordinary course, one a request: a PeerFailure to raise, a message or bytes to
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
        self.sent = 0
        self.now_s = 50.0
        self.slept: list[float] = []
        self.run = 7
        self.ahead_s = 1000.0  # the coordinator's clock, of the client's
        self.time = 0
        self._random = random.Random(6)

    # ---- the link ----

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + round(1000 * self.now_s)

    def pause(self, delay_s: float) -> None:
        self.now_s += delay_s
        self.slept.append(delay_s)

    async def sleep(self, delay_s: float) -> None:
        self.pause(delay_s)

    def lacks(self) -> str:
        """See ``client.driver.Link``."""
        return ""

    def place(self) -> str:
        return "here"

    def beside(self, repeated: Any, delay_s: float, user: object) -> Any:
        return ThreadRenewals(repeated, self, delay_s, user)

    def took(self, request: Any, requests: int, began_s: float) -> None:
        pass

    def count(self, name: str, amount: int) -> None:
        pass

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def pickled(self, value: Any) -> bytes:
        return pickle_plainly(value)

    def close(self) -> None:
        """See ``client.driver.Link``."""

    def submit(self, requests: Sequence[f.CoordinatorRequest], meanwhile: Any = None) -> list[Any]:
        tickets = [self._submit(request) for request in requests]
        for index, ticket in enumerate(tickets):  # a link may call it, for some or for all
            if meanwhile is not None and index % 3 < 2 and isinstance(ticket, tuple):
                with contextlib.suppress(CorruptData):
                    (step,) = ticket
                    if isinstance(step, bytes):
                        meanwhile(index, f.coordinator_answers.decode(step))
        return tickets

    def _submit(self, request: f.CoordinatorRequest) -> Any:
        self._begin()
        step = self._step(request)
        if isinstance(step, PeerFailure) and getattr(step, "at_submit", False):
            self.under_way -= 1
            return step
        return (step,)

    def result(self, ticket: Any, timeout_s: float) -> f.CoordinatorAnswer:
        self.timeouts.append(timeout_s)
        self.under_way -= 1
        (step,) = ticket
        if isinstance(step, PeerFailure):
            raise step
        return f.coordinator_answers.decode(step)

    async def call(self, request: f.CoordinatorRequest, timeout_s: float) -> f.CoordinatorAnswer:
        self._begin()
        self.timeouts.append(timeout_s)
        step = self._step(request)
        await asyncio.sleep(0)
        self.under_way -= 1
        if isinstance(step, PeerFailure):
            raise step
        return f.coordinator_answers.decode(step)

    def _begin(self) -> None:
        self.sent += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

    def _step(self, request: f.CoordinatorRequest) -> bytes | PeerFailure:
        request = f.coordinator_requests.decode(f.coordinator_requests.encode(request))
        self.requests.append(request)
        step = self.script.pop(0) if self.script else self.answer
        if callable(step):
            step = step(request)
        return step if isinstance(step, bytes | PeerFailure) else f.coordinator_answers.encode(step)

    # ---- the ordinary course ----

    def answer(self, request: Any) -> Any:
        if isinstance(request, f.OpenBucket):
            if request.name != self.config.name:
                config = {"n": 3, "r": 2, "w": 2, "name": request.name} | request.options
                return f.BucketOpened(2, config, STORE_ID, self.run, self.now_s + self.ahead_s)
            return f.BucketOpened(1, msgspec.to_builtins(self.config), STORE_ID, self.run, self.now_s + self.ahead_s)
        if isinstance(request, f.GetMany):
            return f.GotMany(
                [self._found(key, request) for key in request.keys],
                max((time_of(self.records[key]) for key in request.keys if key in self.records), default=0),
            )
        if isinstance(request, f.WriteMany):
            return self._write(request)
        if isinstance(request, f.ScanPage):
            return self._page(request)
        return f.Info([msgspec.to_builtins(self.config)] if request.what == "buckets" else {})

    def _write(self, request: f.WriteMany) -> f.WroteMany | f.DeadlinePassed:
        now_s = self.now_s + self.ahead_s
        if request.run and (request.run != self.run or now_s > request.expires_s):
            return f.DeadlinePassed(self.run, now_s)
        self.time += 1 << 16
        for key, body, seen in request.items:
            check_body(body)
            if seen is not None:
                unpack_causality(seen)
            self.records[key] = stamp(body, self.time)
        causality = pack_causality(Causality(self.time))
        items = [f.Acked(body_operation_id(body), ["n1", "n2"], causality) for _, body, _ in request.items]
        return f.WroteMany(list(items), self.time)

    def _causality(self, key: bytes, request: f.GetMany) -> bytes:
        if not request.causality:
            return b""
        return pack_causality(Causality(time_of(self.records[key]) if key in self.records else 0))

    def _found(self, key: bytes, request: f.GetMany) -> bytes | f.KeyVersions:
        """As a coordinator does: a value alone stands by itself."""
        payloads, causality = self._payloads(key), self._causality(key, request)
        return payloads[0] if len(payloads) == 1 and not causality else f.KeyVersions(payloads, False, causality)

    def _payloads(self, key: bytes) -> list[bytes]:
        record = self.records.get(key)
        if record is None:
            return []
        taken = unpack(record)
        return [] if taken.tombstone else [taken.payload]

    def _page(self, request: f.ScanPage) -> f.Page:
        keys = sorted((key for key in self.records if request.start <= key < request.end), reverse=request.reverse)
        size = min(request.limit, self.page_items)
        live = [
            (key, [b""] if request.keys_only else payloads, False)
            for key in keys[:size]
            if (payloads := self._payloads(key))
        ]
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
    link.sent = link.most_under_way = 0
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
