"""The coordinator's front door: frames in, frames out. Every error comes back as data."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.cluster.background import Background
from raykv.cluster.peers import node_address
from raykv.cluster.state import check_same_bucket
from raykv.config import check_bucket_name, check_timeout
from raykv.coordinator.abandoned import Abandoned
from raykv.coordinator.batcher import Batcher, is_about_one_key
from raykv.coordinator.driver import Driver, posting
from raykv.coordinator.explaining import Explaining
from raykv.coordinator.latencies import Latencies
from raykv.errors import CorruptData, RaykvError, StoreUnavailable
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.protocol.requests import COORDINATOR, check_handlers, handled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from raykv.coordinator.batcher import Outcome
    from raykv.coordinator.coordinator import Coordinator
    from raykv.coordinator.driver import PostAtOnce
    from raykv.coordinator.in_flight import InFlightWrite
    from raykv.coordinator.steps import Handover, Steps
    from raykv.ports import Clock, Transport

logger = logging.getLogger("raykv.coordinator")

UPDATE_EVERY_S = 1.0


class CoordinatorService:
    """Answers the frames of clients and of the supervisor for one coordinator."""

    def __init__(
        self,
        coordinator: Coordinator,
        transport: Transport,
        clock: Clock,
        at_once: PostAtOnce | None = None,
        *,
        for_others: bool = False,
    ) -> None:
        """Begin. ``at_once``: how ``transport`` carries frames without a task for each, where it can.

        ``for_others``: whether clients of other processes ask, which do not count how long that takes.
        """
        self._coordinator = coordinator
        self._transport = transport
        self._clock = clock
        self._latencies = Latencies(coordinator.routing.metrics, clock.monotonic_s) if for_others else None
        self._answering = Background()
        post = posting(transport, clock, coordinator.routing.tasks, at_once)
        self.driver = Driver(coordinator.routing, post, clock)
        self.abandoned = Abandoned()
        self._joining = Batcher(self._begin, coordinator.most_keys, self.abandoned)
        self._handlers: dict[type[f.Message], Callable[[Any], Awaitable[f.CoordinatorAnswer]]] = dict(
            (
                handled(f.GetMany, self._operate),
                handled(f.WriteMany, self._operate),
                handled(f.ChangeMany, self._operate),
                handled(f.ScanPage, self._operate),
                handled(f.OpenBucket, self._open_bucket),
                handled(f.GetInfo, self._info),
                handled(f.ClusterUpdate, self._update),
                handled(f.IndirectProbe, self._reaches),
                handled(f.RepairPartitions, self._repair),
                handled(f.TakeSnapshot, self._take_snapshot),
                handled(f.LoadRecords, self._load),
                handled(f.ExplainOperation, Explaining(coordinator, transport, clock).explain),
            )
        )
        self._handlers |= {kind: self._pass_on for kind, traits in COORDINATOR.items() if traits.passed_on}
        check_handlers(COORDINATOR, self._handlers)

    @property
    def busy(self) -> bool:
        """Whether anything is in flight, even without a waiter."""
        return self.driver.busy or bool(self._coordinator.routing.tasks) or self._joining.busy

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """Return all tasks in flight."""
        return [*self._coordinator.routing.tasks, *self.driver.tasks, *self._answering]

    def end(self) -> None:
        """Start nothing more unasked: the loop is ending."""
        self.driver.end()

    async def serve(self, frame: bytes) -> bytes:
        """Answer one request frame by itself."""
        return await self._framed(frame, self.answer)

    async def serve_together(self, frame: bytes) -> bytes:
        """Answer one request frame, perhaps batched with concurrent ones."""
        return await self._framed(frame, self.answer_together)

    async def _framed(
        self, frame: bytes, answer: Callable[[f.CoordinatorRequest], Awaitable[f.CoordinatorAnswer]]
    ) -> bytes:
        began_s = self._clock.monotonic_s()
        try:
            request = f.coordinator_requests.decode(frame)
            answered = f.coordinator_answers.encode(await answer(request))
        except RaykvError as error:  # it is no request, or the answer is larger than a frame may be
            return f.coordinator_answers.encode(_refused(error))
        if self._latencies is not None:
            self._latencies.note(request, 1, began_s)
        return answered

    def answer_together(self, request: f.CoordinatorRequest) -> Awaitable[f.CoordinatorAnswer]:
        """Answer one request, perhaps batched with concurrent ones.

        Abandoning the answer does not end the operation: a write that has begun must reach all of its owners. A later
        write of the same keys waits for it (``abandoned``).
        """
        former = self.abandoned.before(request) if self.abandoned else None
        if former:
            return self._answer_after(former, request)
        if is_about_one_key(request):
            return self._joining.answer(request)
        return self._kept(partial(self.answer, request), request)

    async def _answer_after(
        self, former: list[asyncio.Future[None]], request: f.CoordinatorRequest
    ) -> f.CoordinatorAnswer:
        """Answer a request when others are over. Nothing was begun if the caller gives it up meanwhile, or time is up."""
        assert isinstance(request, f.WriteMany | f.ChangeMany | f.ExplainOperation), "no other request writes"
        try:
            timeout_s = check_timeout(request.timeout_s)
        except RaykvError as error:
            return _refused(error)
        until_s = self._clock.monotonic_s() + timeout_s
        _, waiting = await asyncio.wait(former, timeout=timeout_s)
        left_s = until_s - self._clock.monotonic_s()
        if waiting or left_s <= 0:
            return _refused(
                StoreUnavailable("nothing was written: a former write of the key that was given up is still under way")
            )
        return await self.answer_together(msgspec.structs.replace(request, timeout_s=left_s))

    def _kept(
        self, work: Callable[[], Coroutine[Any, Any, f.CoordinatorAnswer]], request: f.CoordinatorRequest
    ) -> Awaitable[f.CoordinatorAnswer]:
        """Do work to its end; a caller that no longer waits for it leaves an abandoned request."""
        task = self._answering.start(work)
        answer = asyncio.shield(task)

        def look(answer: asyncio.Future[f.CoordinatorAnswer]) -> None:
            if answer.cancelled() and not task.done():
                over = self.abandoned.add(request, task.get_loop())
                task.add_done_callback(lambda _: over())

        answer.add_done_callback(look)
        return answer

    async def answer(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        """Answer one request by itself."""
        try:
            return await self.carry_out(request)
        except RaykvError as error:
            self._coordinator.count_error(error)
            return _refused(error)

    async def answer_alone(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        """Answer one request by itself, to its end even if it is abandoned."""
        return await self._kept(partial(self.answer, request), request)

    async def go_on(self, handover: Handover, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        """Continue an operation that blocking connections have begun for a request."""
        return await self._kept(partial(self._go_on, handover), request)

    async def _go_on(self, handover: Handover) -> f.CoordinatorAnswer:
        try:
            answer: f.CoordinatorAnswer = await self.driver.take_over(handover)
        except RaykvError as error:
            self._coordinator.count_error(error)
            return _refused(error)
        return answer

    async def complete(self, write: InFlightWrite) -> None:
        """Complete a write that blocking connections have sent."""
        await self.driver.run(write.complete())

    async def keep_up_to_date(self) -> None:
        """Poll for cluster updates, for ever: one that was sent may have been lost."""
        while True:
            try:
                await self._coordinator.routing.fetch_update(UPDATE_EVERY_S)
            except RaykvError as error:
                logger.debug("no cluster update: %s", error)
            await self._clock.sleep(UPDATE_EVERY_S)

    async def carry_out(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        """Answer one request by itself. Raises ``RaykvError``."""
        return await self._handlers[type(request)](request)

    def _begin(self, request: f.CoordinatorRequest, done: Callable[[Outcome], None]) -> None:
        self.driver.begin(self._steps(request), done)

    async def _operate(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        return await self.driver.run(self._steps(request))

    def _steps(self, request: f.CoordinatorRequest) -> Steps[f.CoordinatorAnswer]:
        steps = self._coordinator.operation(request)
        assert steps is not None, "asked for an operation that is none"
        return steps

    async def _update(self, request: f.ClusterUpdate) -> f.CoordinatorAnswer:
        self._coordinator.routing.learn(request)
        return f.Info(None)

    async def _repair(self, request: f.RepairPartitions) -> f.CoordinatorAnswer:
        return f.Info(await self._coordinator.repair_partitions(request))

    async def _take_snapshot(self, request: f.TakeSnapshot) -> f.CoordinatorAnswer:
        return f.Info(await self._coordinator.snapshots.take(request))

    async def _load(self, request: f.LoadRecords) -> f.CoordinatorAnswer:
        return f.Info(await self._coordinator.loading.load(request))

    async def _pass_on(self, request: f.ElasticRequest | f.DropBucket) -> f.CoordinatorAnswer:
        return await self._ask_supervisor(request, request.timeout_s)

    async def _open_bucket(self, request: f.OpenBucket) -> f.CoordinatorAnswer:
        check_bucket_name(request.name)
        await self._coordinator.routing.refresh(check_timeout(request.timeout_s))
        state = await self._coordinator.routing.state(check_timeout(request.timeout_s))
        entry = state.bucket(request.name)
        if entry is not None:
            check_same_bucket(entry.config, request.options)
            opened: f.CoordinatorAnswer = f.BucketOpened(entry.bucket_id, msgspec.to_builtins(entry.config))
        else:
            opened = await self._ask_supervisor(request, request.timeout_s)
            if isinstance(opened, f.BucketOpened):
                # Its operations need not ask the supervisor then, and the list of buckets has it.
                with contextlib.suppress(StoreUnavailable):
                    await self._coordinator.routing.learn_bucket(opened.bucket_id, request.timeout_s)
        if isinstance(opened, f.BucketOpened):
            run, now_s = self._coordinator.run, self._clock.monotonic_s()
            return msgspec.structs.replace(opened, store_id=state.store_id, run=run, now_s=now_s)
        return opened

    async def _info(self, request: f.GetInfo) -> f.CoordinatorAnswer:
        if request.what != "status":
            await self._coordinator.routing.refresh(check_timeout(request.timeout_s), always=request.what == "buckets")
        state = await self._coordinator.routing.state(check_timeout(request.timeout_s))
        data: Any
        match request.what:
            case "ring":
                data = msgspec.to_builtins(state.ring)
            case "buckets":
                data = [msgspec.to_builtins(entry.config) for entry in state.buckets]
            case "status":
                answer = await self._ask_supervisor(f.GetInfo("status", request.timeout_s), request.timeout_s)
                if not isinstance(answer, f.Info):
                    return answer
                data = answer.data | {"coordinator": self._coordinator.figures()}
            case _:
                raise CorruptData(f"unknown info: {request.what!r}")
        return f.Info(data)

    async def _ask_supervisor(
        self, request: f.SupervisorRequest, timeout_s: float
    ) -> f.BucketOpened | f.Info | f.Refused:
        answer = await self._coordinator.routing.supervisor.ask(request, timeout_s)
        if isinstance(answer, f.ClusterUpdate):
            raise CorruptData("the supervisor answered with a cluster update where none was requested")
        return answer

    async def _reaches(self, request: f.IndirectProbe) -> f.CoordinatorAnswer:
        frame = f.node_requests.encode(f.NodeRequest(0, f.Ping()))
        try:
            answer = await self._transport.call(node_address(request.node_id), frame, check_timeout(request.timeout_s))
            return f.Info(isinstance(f.node_answers.decode(answer).body, f.Pong))
        except (PeerFailure, CorruptData):
            return f.Info(False)


def _refused(error: RaykvError) -> f.Refused:
    return f.Refused(f.Failed.of(error))
