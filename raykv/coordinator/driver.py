"""Drives operations in an event loop: over streams, over Ray's calls, in the simulation.

Most operations are two steps, one at the start and one when the answers arrive, and both run inline at that point of the
loop: a task per operation and per node asked would cost several times as much. The same holds for a timer per round:
one task watches all waiting operations and sleeps until the first of them is due.
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
    from collections.abc import Callable

    from raykv.cluster.fanout import Call, Fanout
    from raykv.coordinator.in_flight import InFlightWrite
    from raykv.coordinator.routing import Routing
    from raykv.coordinator.steps import Action, Handover, Steps
    from raykv.ports import Clock, Heard, Transport
    from raykv.protocol import frames as f

T = TypeVar("T")

logger = logging.getLogger("raykv.coordinator")

Done: TypeAlias = "Callable[[Any], None]"
"""Receives an operation's outcome once: its answer, or the exception that it raised."""
Post: TypeAlias = "Callable[[str, bytes, float, Heard], None]"
"""``post(peer, frame, until_s, heard)``: send a frame by ``until_s`` (monotonic) or never, and call ``heard`` once, later,
with the outcome."""
PostAtOnce: TypeAlias = "Callable[[str, bytes, float, Heard], bool]"
"""``post(peer, frame, timeout_s, heard)``: send it now and report the outcome, or return False where that is impossible."""


def posting(transport: Transport, clock: Clock, tasks: Background, at_once: PostAtOnce | None = None) -> Post:
    """Return a ``Post``: ``at_once`` where possible, else a call of the transport, each a task in ``tasks``."""

    async def call(peer: str, frame: bytes, until_s: float, heard: Heard) -> None:
        outcome: bytes | PeerFailure
        try:
            _left_s(clock, until_s, peer)
            outcome = await transport.call(peer, frame, CALL_TIMEOUT_S)
        except PeerFailure as failure:
            outcome = failure
        except Exception as error:  # noqa: BLE001 - an operation waits for the outcome, whatever it is
            outcome = PeerUnreachable(repr(error))
        heard(outcome)

    def post(peer: str, frame: bytes, until_s: float, heard: Heard) -> None:
        if at_once is None or not at_once(peer, frame, CALL_TIMEOUT_S, heard):
            tasks.start(partial(call, peer, frame, until_s, heard))

    return post


def _left_s(clock: Clock, until_s: float, peer: str) -> float:
    """Return the time left to send something. Raises ``PeerAbsent`` if none is (P8).

    *Schedule: the process freezes before the sending task begins. Its client meanwhile reports the outcome as unknown, and
    may overwrite the value; then the process thaws.*
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
    """An operation that waits for an outcome of its calls."""

    fan: Fanout[Any]


@dataclass(slots=True, eq=False)
class _Asked(_Waiting):
    """An operation that waits for the answers to a round."""

    round: Round
    outstanding: set[str]
    """The nodes that have not answered yet."""
    answers: dict[str, bytes] = field(default_factory=dict)
    over: bool = False


class Driver:
    """Drives the operations of one coordinator in one event loop."""

    def __init__(
        self, routing: Routing, post: Post, clock: Clock, *, report: Callable[[str], None] = logger.error
    ) -> None:
        """``report``: receives what an operation without a waiter has raised."""
        self._routing = routing
        self._post = post
        self._clock = clock
        self._report = report
        self._due: dict[_Waiting, None] = {}
        """All waiting operations, until their time is up."""
        self._parked: dict[Fanout[Any], _Parked] = {}
        self._watch: asyncio.Task[None] | None = None
        self._own_tasks = Background()
        self._looks_at_s = 0.0
        self._earlier = asyncio.Event()
        """Set when something is due before ``_looks_at_s``."""
        self._over = False
        self._under_way = 0
        self.outstanding = 0
        """Outstanding answers to rounds, including those without a waiter."""

    @property
    def busy(self) -> bool:
        """Whether an operation is under way, or an answer is outstanding."""
        return self._under_way > 0 or self.outstanding > 0

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """The driver's own tasks: calls are among the tasks of ``routing``."""
        return [*self._own_tasks]

    def begin(self, steps: Steps[Any], done: Done) -> None:
        """Begin an operation."""
        self._under_way += 1
        self._step(_Operation(steps, done), None)

    def run(self, steps: Steps[T]) -> asyncio.Future[T]:
        """Begin an operation; the future holds its result or exception. Cancelling it does not end the operation."""
        future, done = _future()
        self.begin(steps, done)
        return future

    def take_over(self, handover: Handover) -> asyncio.Future[Any]:
        """Continue an operation that another driver has begun."""
        future, done = _future()
        self._under_way += 1
        operation = _Operation(handover.steps, done)
        if self._take(operation, handover.action):
            self._step(operation, {})
        return future

    def complete(self, write: InFlightWrite) -> None:
        """Begin to complete a write; no caller waits for it."""
        self.begin(write.complete(), self._nobody_waits)

    def end(self) -> None:
        """Ignore further answers: the loop is ending, and no answer may start anything in it."""
        self._over = True
        if self._watch is not None:
            self._watch.cancel()

    # ---- steps ----

    def _step(self, operation: _Operation, answers: dict[str, bytes] | None, error: Exception | None = None) -> None:
        """Advance an operation until it waits for something."""
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
            except Exception as raised:  # noqa: BLE001 - bugs too go to the caller
                outcome = raised
                break
            if not self._take(operation, action):
                return
            answers, error = {}, None
        self._under_way -= 1
        operation.done(outcome)

    def _take(self, operation: _Operation, action: Action) -> bool:
        """Begin the action that an operation yields; return whether it continues at once."""
        if isinstance(action, Round):
            return self._ask(operation, action)
        if isinstance(action, Wait):
            return self._wait(operation, action)
        if isinstance(action, Learn):
            self._routing.tasks.start(partial(self._learn, operation, action))
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
        except Exception as error:  # noqa: BLE001 - the operation gets it
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
        """Advance an operation with the answers so far."""
        del self._due[waiting]
        if isinstance(waiting, _Parked):
            del self._parked[waiting.fan]
            self._step(waiting.operation, {})
            return
        assert isinstance(waiting, _Asked)
        waiting.over = True
        self._step(waiting.operation, waiting.answers)
        write = waiting.round.write
        if write is not None and write.needs_completion(waiting.round.frames, waiting.outstanding):
            self.complete(write)

    # ---- calls ----

    def _wait(self, operation: _Operation, wait: Wait) -> bool:
        fan = wait.fan
        for call in fan.start():
            self._routing.tasks.start(partial(self._call, fan, call))
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
        except Exception as error:  # noqa: BLE001 - the operation waits for the outcome, whatever it is
            outcome = PeerUnreachable(repr(error))
        fan.heard(call, outcome)
        if fan.has_outcomes and not self._over and (parked := self._parked.get(fan)) is not None:
            self._go_on(parked)

    # ---- time ----

    def _is_due(self, waiting: _Waiting) -> None:
        self._due[waiting] = None
        if self._watch is None:
            self._watch = self._own_tasks.start(self._keep_watch)
            self._looks_at_s = waiting.until_s
        elif waiting.until_s < self._looks_at_s:
            self._earlier.set()

    async def _keep_watch(self) -> None:
        """Advance the operations whose time is up."""
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


def _future() -> tuple[asyncio.Future[Any], Done]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(outcome: Any) -> None:
        if future.done():
            return  # the caller has given up
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return future, done
