"""Drives operations in an event loop: over streams, over Ray's calls, in the simulation.

Most operations are two steps, one when they begin and one when the answers are there, and both are taken where the loop is
at that moment: a task for each of them and for each node asked would cost several times what they do. So would a timer for
each round: one task looks after all that wait, and sleeps until the first of them is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from raykv.cluster.background import Background
from raykv.cluster.fanout import CALL_TIMEOUT_S, Wait
from raykv.cluster.peers import node_address
from raykv.coordinator.steps import Learn, Round
from raykv.ports import PeerAbsent, PeerFailure, PeerUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from raykv.cluster.fanout import Call, Fanout
    from raykv.coordinator.in_flight import InFlightWrite
    from raykv.coordinator.routing import Routing
    from raykv.coordinator.steps import Action, Handover, Steps
    from raykv.ports import Clock, Heard, Transport
    from raykv.protocol import frames as f

T = TypeVar("T")

logger = logging.getLogger("raykv.coordinator")

Done: TypeAlias = "Callable[[Any], None]"
"""Is told what became of an operation: its answer, or the exception that it raised. Once."""
Post: TypeAlias = "Callable[[str, bytes, float, Heard], None]"
"""``post(peer, frame, until_s, heard)``: send a frame, by ``until_s`` (monotonic) or not at all, and tell ``heard`` what
became of it; once, and later."""
PostAtOnce: TypeAlias = "Callable[[str, bytes, float, Heard], bool]"
"""``post(peer, frame, timeout_s, heard)``: send it now and tell what became of it, or return False: that cannot be."""


def posting(
    transport: Transport, clock: Clock, tasks: set[asyncio.Task[None]], at_once: PostAtOnce | None = None
) -> Post:
    """Return a ``Post``: ``at_once`` where that can be, else by a call of the transport, each a task in ``tasks``."""

    async def call(peer: str, frame: bytes, until_s: float, heard: Heard) -> None:
        outcome: bytes | PeerFailure
        try:
            _left_s(clock, until_s, peer)
            outcome = await transport.call(peer, frame, CALL_TIMEOUT_S)
        except PeerFailure as failure:
            outcome = failure
        except Exception as error:  # noqa: BLE001 - whatever it was, an operation waits for it
            outcome = PeerUnreachable(repr(error))
        heard(outcome)

    def post(peer: str, frame: bytes, until_s: float, heard: Heard) -> None:
        if at_once is None or not at_once(peer, frame, CALL_TIMEOUT_S, heard):
            task = asyncio.get_running_loop().create_task(call(peer, frame, until_s, heard))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    return post


def _left_s(clock: Clock, until_s: float, peer: str) -> float:
    """Return the time that is left to send something. Raises ``PeerAbsent`` if none is (P8).

    *Schedule: the process is frozen before the task that sends has begun. Its client has called the outcome unknown since,
    and may have written over it; then the process thaws.*
    """
    left_s = until_s - clock.monotonic_s()
    if left_s <= 0:
        raise PeerAbsent(f"time was up before anything was sent to {peer}")
    return left_s


@dataclass(slots=True, eq=False)
class _Operation:
    steps: Steps[Any]
    done: Done


@dataclass(slots=True, eq=False)
class _Waiting:
    """An operation that waits."""

    operation: _Operation
    until_s: float


@dataclass(slots=True, eq=False)
class _Parked(_Waiting):
    """It waits for an outcome of its calls."""

    fan: Fanout[Any]


@dataclass(slots=True, eq=False)
class _Asked(_Waiting):
    """It waits for the answers to a round."""

    round: Round
    outstanding: set[str]
    """The nodes that have not said anything yet."""
    answers: dict[str, bytes] = field(default_factory=dict)
    over: bool = False


class Driver:
    """Drives the operations of one coordinator in one event loop."""

    def __init__(
        self, routing: Routing, post: Post, clock: Clock, *, report: Callable[[str], None] = logger.error
    ) -> None:
        """``report``: told what an operation that nobody waits for has raised."""
        self._routing = routing
        self._post = post
        self._clock = clock
        self._report = report
        self._due: dict[_Waiting, None] = {}
        """All that wait, until their time is up."""
        self._parked: dict[Fanout[Any], _Parked] = {}
        self._watch: asyncio.Task[None] | None = None
        self._own_tasks = Background()
        self._looks_at_s = 0.0
        self._earlier = asyncio.Event()
        """Set when something is due before ``_looks_at_s``."""
        self._over = False
        self._under_way = 0
        self.outstanding = 0
        """How many answers to rounds are outstanding, also such that nobody waits for."""

    @property
    def busy(self) -> bool:
        """Whether an operation is under way, or an answer is outstanding."""
        return self._under_way > 0 or self.outstanding > 0

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """Those of its own: calls are among the tasks of ``routing``."""
        return [*self._own_tasks]

    def begin(self, steps: Steps[Any], done: Done) -> None:
        """Begin an operation."""
        self._under_way += 1
        self._step(_Operation(steps, done), None)

    def run(self, steps: Steps[T]) -> asyncio.Future[T]:
        """Begin an operation; the future brings what it returns or raises. Cancelled, the operation goes on."""
        future, done = _future()
        self.begin(steps, done)
        return future

    def take_over(self, handover: Handover) -> asyncio.Future[Any]:
        """Go on with an operation that another driver has begun."""
        future, done = _future()
        self._under_way += 1
        operation = _Operation(handover.steps, done)
        if self._take(operation, handover.action):
            self._step(operation, {})
        return future

    def complete(self, write: InFlightWrite) -> None:
        """Begin to complete a write: nobody waits for it."""
        self.begin(write.complete(), self._nobody_waits)

    def end(self) -> None:
        """Hear no more: the loop is at its end, and nothing is to begin in it because of an answer."""
        self._over = True
        if self._watch is not None:
            self._watch.cancel()

    # ---- steps ----

    def _step(self, operation: _Operation, answers: dict[str, bytes] | None, error: Exception | None = None) -> None:
        """Let an operation go on until it waits for something."""
        while True:
            try:
                if error is not None:
                    action = operation.steps.throw(error)
                elif answers is None:
                    action = next(operation.steps)
                else:
                    action = operation.steps.send(answers)
            except StopIteration as end:
                outcome = end.value
                break
            except Exception as raised:  # noqa: BLE001 - a mistake of ours too is for the one who waits
                outcome = raised
                break
            if not self._take(operation, action):
                return
            answers, error = {}, None
        self._under_way -= 1
        operation.done(outcome)

    def _take(self, operation: _Operation, action: Action) -> bool:
        """Begin with what an operation asks for. Whether it goes on at once."""
        if isinstance(action, Round):
            return self._ask(operation, action)
        if isinstance(action, Wait):
            return self._wait(operation, action)
        if isinstance(action, Learn):
            self._in_task(self._learn(operation, action))
            return False
        self.begin(action.steps, self._nobody_waits)
        return True

    def _nobody_waits(self, outcome: object) -> None:
        if isinstance(outcome, Exception):
            self._report(f"an operation that nobody waits for has failed: {outcome!r}")

    async def _learn(self, operation: _Operation, what: Learn) -> None:
        try:
            if what.bucket_id is None:
                await self._routing.state(what.timeout_s)
            else:
                await self._routing.learn_bucket(what.bucket_id, what.timeout_s)
        except Exception as error:  # noqa: BLE001 - it is for the operation
            self._step(operation, None, error)
        else:
            self._step(operation, {})

    # ---- rounds ----

    def _ask(self, operation: _Operation, round_: Round) -> bool:
        now_s, write = self._clock.monotonic_s(), round_.write
        if write is not None and now_s >= write.deadline_s:
            return True  # it was handed over, and this process stood still meanwhile (P8)
        asked = _Asked(operation, now_s + round_.patience_s, round_, {*round_.frames})
        self._is_due(asked)
        until_s = asked.until_s if write is None else write.deadline_s
        for node_id, frame in round_.frames.items():
            self._post(node_address(node_id), frame, until_s, partial(self._hear, asked, node_id))
            self.outstanding += 1
        return False

    def _hear(self, asked: _Asked, node_id: str, said: bytes | PeerFailure) -> None:
        self.outstanding -= 1
        if self._over:
            return
        answer = said if isinstance(said, bytes) else None
        if not asked.over:
            asked.outstanding.discard(node_id)
            if answer is not None:
                asked.answers[node_id] = answer
            if asked.round.met(asked.answers) or not asked.outstanding:
                self._go_on(asked)
        elif asked.round.write is not None and asked.round.write.heard(node_id, answer):
            self.complete(asked.round.write)

    def _go_on(self, waiting: _Waiting) -> None:
        """Let an operation go on with what has come by now."""
        del self._due[waiting]
        if isinstance(waiting, _Parked):
            del self._parked[waiting.fan]
            self._step(waiting.operation, {})
            return
        assert isinstance(waiting, _Asked)
        waiting.over = True
        self._step(waiting.operation, waiting.answers)
        write = waiting.round.write
        if write is not None and write.is_owed(waiting.round.frames, waiting.outstanding):
            self.complete(write)

    # ---- calls ----

    def _wait(self, operation: _Operation, wait: Wait) -> bool:
        fan = wait.fan
        for call in fan.start():
            self._in_task(self._call(fan, call))
        if fan.has_outcomes:
            return True
        waiting = self._parked[fan] = _Parked(operation, wait.until_s, fan)
        self._is_due(waiting)
        return False

    async def _call(self, fan: Fanout[Any], call: Call[Any]) -> None:
        outcome: f.NodeAnswerBody | PeerFailure
        try:
            left_s = _left_s(self._clock, fan.deadline_s, call.node_id)
            timeout_s = min(CALL_TIMEOUT_S, left_s)
            outcome = await self._routing.peers.call(call.node_id, call.body, call.items, timeout_s, fan.epoch)
        except PeerFailure as failure:
            outcome = failure
        except Exception as error:  # noqa: BLE001 - whatever it was, the operation waits for it
            outcome = PeerUnreachable(repr(error))
        fan.heard(call, outcome)
        if fan.has_outcomes and not self._over and (parked := self._parked.get(fan)) is not None:
            self._go_on(parked)

    # ---- time ----

    def _is_due(self, waiting: _Waiting) -> None:
        self._due[waiting] = None
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._keep_watch())
            self._own_tasks.add(self._watch)
            self._watch.add_done_callback(self._own_tasks.discard)
            self._looks_at_s = waiting.until_s
        elif waiting.until_s < self._looks_at_s:
            self._earlier.set()

    async def _keep_watch(self) -> None:
        """Let those go on whose time is up."""
        try:
            while self._due:
                self._looks_at_s = min(waiting.until_s for waiting in self._due)
                left_s = self._looks_at_s - self._clock.monotonic_s()
                if left_s > 0:
                    self._earlier.clear()
                    with contextlib.suppress(TimeoutError):
                        async with self._clock.timeout(left_s):
                            await self._earlier.wait()
                now_s = self._clock.monotonic_s()
                for waiting in [waiting for waiting in self._due if waiting.until_s <= now_s]:
                    if waiting in self._due:
                        self._go_on(waiting)
        finally:
            self._watch = None

    def _in_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._routing.tasks.add(task)
        task.add_done_callback(self._routing.tasks.discard)


def _future() -> tuple[asyncio.Future[Any], Done]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(outcome: Any) -> None:
        if future.done():
            return  # whoever waited has given up
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return future, done
