"""A client's link to itself: it coordinates its own operations, with the code that the coordinator actor runs.

An operation then costs one round to the replicas, without a preceding call to a coordinator (Dynamo, section 6.4, halves
its latency that way). A process has one ``DirectLink`` per store, shared by all handles. The link holds a *seat* for each
event loop that awaits operations, with its own connections; blocking calls share one more, in an ``EmbeddedLoop``.

A seat belongs to its loop: only a timer of that loop, which never fires, holds it. The seat therefore ends when the loop is
closed, in whatever way, or collected, and leaves nothing open, pending or logged. After a fork the child starts afresh and
never touches the parent's sockets and selectors. Ray does not work there; the child relies on what its parent knew, the
cluster's state and where nodes listen (``ForkState``). That suffices for pairs until all those nodes have restarted.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import random
import sys
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import ray

from raykv.actors.calls import fast_transport
from raykv.actors.embedded_loop import CannotBegin, EmbeddedLoop, LoopClosed, Work
from raykv.actors.forks import forked_from_ray
from raykv.actors.hosts import whereabouts
from raykv.actors.this_process import ThisProcess
from raykv.cluster.background import Background
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.latencies import Latencies
from raykv.coordinator.service import CoordinatorService
from raykv.coordinator.steps import Handover
from raykv.ports import PeerAbsent, PeerFailure, PeerSilent
from raykv.protocol import frames as f
from raykv.system.process import CountingMetrics, SystemClock
from raykv.transport.blocking import Connections

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from raykv.coordinator.in_flight import InFlightWrite
    from raykv.transport import Endpoint
    from raykv.transport.blocking import Outcome

Place: TypeAlias = tuple[str, str]
"""A store's name, and which of that name."""
Ticket: TypeAlias = f.CoordinatorAnswer | Work[f.CoordinatorAnswer] | PeerFailure
"""An answer, an awaitable of it, or the reason why nothing was sent."""

CLOSING_S = 0.3
"""How long a closed handle waits for owners to acknowledge its writes, and resends them to those that do not.

As long again for its last report."""
LOOK_EVERY_S = 0.002
FOR_EVER_S = 1e7
MAX_COUNTED = 100
"""Stores whose counters go on with the process's next link to them; those linked to last."""

_run = random.SystemRandom().getrandbits(62) + 1
"""Names this process to itself: all its seats have the same clock."""


class ForkState(NamedTuple):
    """What a forked child inherits from its parent; may be empty."""

    state: bytes | None
    endpoints: dict[str, Endpoint]


class EmbeddedCoordinator:
    """A coordinator in one event loop. Create it in that loop."""

    def __init__(
        self, store: str, metrics: CountingMetrics, *, threads: bool = False, legacy: ForkState | None = None
    ) -> None:
        """``threads``: see ``calls.RayTransport``. ``fork_state``: in a forked child."""
        clock = SystemClock()
        inherited = None if legacy is None else legacy.endpoints
        self._transport = fast_transport(store, threads=threads, inherited=inherited)
        self._coordinator = Coordinator(
            self._transport, clock, metrics, random.SystemRandom(),
            asks=True, run=_run, reports_as=metrics.run, here=whereabouts(),
        )  # fmt: skip
        if legacy is not None and legacy.state is not None:
            self._coordinator.routing.learn_state(legacy.state)
        self.front = CoordinatorService(self._coordinator, self._transport, clock, self._transport.post)
        """What answers requests."""
        self._leaving = Background()
        self._left = False
        self._stays: Callable[[], asyncio.TimerHandle | None] = lambda: None

    @property
    def busy(self) -> bool:
        """Return whether unawaited work is under way that must finish."""
        return self.front.busy or self._transport.connecting

    def fork_state(self) -> ForkState:
        """Return what a forked child would inherit."""
        return ForkState(self._coordinator.routing.known_state, self._transport.endpoints())

    def connections(self, complete: Callable[[InFlightWrite], None]) -> Connections:
        """Return blocking connections that drive this coordinator's operations; see ``Connections``."""
        coordinator = self._coordinator
        return Connections(coordinator.operation, self._transport.endpoint, complete, coordinator.count_error)

    def stay(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stay until the loop is closed or collected, which then releases this coordinator."""
        self._stay_on(loop, _UntilTheEnd(self))

    def _stay_on(self, loop: asyncio.AbstractEventLoop, until_the_end: _UntilTheEnd) -> None:
        self._stays = weakref.ref(loop.call_later(FOR_EVER_S, until_the_end))  # only the loop holds it

    def drop(self) -> None:
        """End without the loop, which is closed or gone."""
        if self._left:
            return
        self.front.end()
        tasks = [*self.front.tasks, *self._transport.tasks, *self._leaving]
        self._transport.drop()
        for task in tasks:
            with contextlib.suppress(BaseException):  # it needs its loop
                task.get_coro().close()

    def leave(self) -> None:
        """Begin to close. In the seat's loop."""
        self._leaving.start(self._leave)

    async def _leave(self) -> None:
        await self.report(CLOSING_S)
        await self.close()
        self._left = True
        if (timer := self._stays()) is not None:
            timer.cancel()

    async def end(self) -> None:
        """Close the connections at the end of the loop."""
        self.front.end()  # their requests fail now, instead of moving to other nodes
        await self.close()

    async def report(self, timeout_s: float) -> None:
        """Report what this process has counted since its last report. Raises nothing: it is not worth an error."""
        if ray.is_initialized():  # else the call would start one
            with contextlib.suppress(Exception):
                await self._coordinator.routing.report(timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()


class DirectLink:
    """What all handles of one store in this process share: its seats. See ``client.driver.Link`` for the calls."""

    def __init__(self, store: str, legacy: ForkState | None = None, metrics: CountingMetrics | None = None) -> None:
        """``fork_state``: in a forked child. ``metrics``: goes on counting there."""
        self._store = store
        self._fork_state = legacy
        self._metrics = metrics or CountingMetrics()
        self.count = self._metrics.count
        self.took = Latencies(self._metrics, time.monotonic).note
        """See ``client.driver.Link``; no method of its own, to save each operation a call."""
        self._embedded: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[EmbeddedCoordinator]] = (
            weakref.WeakKeyDictionary()
        )
        self._own: EmbeddedCoordinator | None = None
        self._connections: Connections
        """Those of ``_own``."""
        self._loop = EmbeddedLoop(self._busy, self._listen, self._mend)
        self._others: dict[str, DirectLink] = {}

    def _busy(self) -> bool:
        return self._own is not None and (self._own.busy or self._connections.writes_outstanding)

    def _listen(self) -> None:
        if self._own is not None:
            self._connections.listen()

    def submit(self, requests: Sequence[f.CoordinatorRequest], meanwhile: f.Meanwhile | None = None) -> list[Ticket]:
        """See ``client.driver.Link``."""
        lease = None
        if self._own is not None and not self._own.front.abandoned:
            lease = self._loop.acquire(sys._getframe())  # noqa: SLF001 - the only way to get it
        if lease is None:
            link = self._beside() if self._loop.is_acquired_here else self
            return [link._hand_in(partial(link._serve, request)) for request in requests]  # noqa: SLF001 - the same class
        seat = self._own
        assert seat is not None
        try:
            outcomes = self._connections.serve(requests, meanwhile)
            self._loop.release(lease)
        except BaseException:
            self._loop.abandon()  # if this is interrupted as well, the next call alerts the loop's thread
            raise
        return [self._ticket(seat, request, outcome) for request, outcome in zip(requests, outcomes, strict=True)]

    def _ticket(self, seat: EmbeddedCoordinator, request: f.CoordinatorRequest, outcome: Outcome) -> Ticket:
        if outcome is None:
            return self._hand_in(partial(seat.front.answer_alone, request))
        if isinstance(outcome, Handover):
            return self._hand_in(partial(seat.front.go_on, outcome, request))
        return outcome

    def _hand_in(self, start: Callable[[], Coroutine[Any, Any, f.CoordinatorAnswer]]) -> Ticket:
        try:
            return self._loop.submit(start)
        except CannotBegin as error:
            return PeerAbsent(str(error))

    def _beside(self) -> DirectLink:
        """Return another link, for a call that interrupts this one: from a signal handler or a finalizer."""
        link = self._others.get("beside") or self._others.setdefault(
            "beside", DirectLink(self._store, self._fork_state, self._metrics)
        )
        return link._beside() if link._loop.is_acquired_here else link  # noqa: SLF001 - the same class

    def _mend(self) -> None:
        if self._own is not None:
            self._connections.close()

    async def _serve(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        """Answer a request in the embedded loop, concurrently with others."""
        if self._own is None:
            own = EmbeddedCoordinator(self._store, self._metrics, threads=True, legacy=self._fork_state)
            self._own, self._connections = own, own.connections(partial(self._complete, own))
        return await self._own.front.answer_together(request)

    def _complete(self, seat: EmbeddedCoordinator, write: InFlightWrite) -> None:
        with contextlib.suppress(CannotBegin):
            self._loop.submit(partial(seat.front.complete, write))

    def result(self, ticket: Ticket, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        if isinstance(ticket, PeerFailure):
            raise ticket
        if not isinstance(ticket, Work):
            return ticket
        try:
            return self._loop.result(ticket, timeout_s)
        except TimeoutError:
            raise PeerSilent(f"no answer within {timeout_s:.3g} s") from None
        except LoopClosed as error:
            raise PeerSilent("the handle was closed meanwhile" if self._loop.closed else str(error)) from None
        except OSError as error:  # out of descriptors: the loop could not be created
            raise PeerAbsent(f"this process cannot wait for answers: {error.strerror or error}") from None

    def call(self, request: f.CoordinatorRequest, timeout_s: float) -> Awaitable[f.CoordinatorAnswer]:
        """See ``client.driver.Link``."""
        del timeout_s  # the coordinator enforces the deadline itself, in this process
        loop = asyncio.get_running_loop()
        known = self._embedded.get(loop)
        seat = None if known is None else known()
        return (seat or self._sit_down(loop)).front.answer_together(request)

    def _sit_down(self, loop: asyncio.AbstractEventLoop) -> EmbeddedCoordinator:
        """Create a seat for this loop."""
        seat = EmbeddedCoordinator(self._store, self._metrics, legacy=self._fork_state)
        seat.stay(loop)
        self._embedded[loop] = weakref.ref(seat)  # a seat references its loop and would keep it alive
        return seat

    def fork_state(self) -> ForkState:
        """Return what a forked child inherits: the knowledge of all seats, and what this process inherited itself."""
        seats = [self._own, *(seat() for seat in list(self._embedded.values()))]
        known = [seat.fork_state() for seat in seats if seat is not None]
        state, endpoints = self._fork_state or ForkState(None, {})
        for each in known:
            state = each.state or state
            endpoints = endpoints | each.endpoints
        return ForkState(state, endpoints)

    @property
    def closed(self) -> bool:
        """Whether the link was closed."""
        return self._loop.closed

    def close_soon(self) -> None:
        """Begin to close all connections, and the loop."""
        for loop, known in list(self._embedded.items()):
            if (seat := known()) is not None:
                with contextlib.suppress(RuntimeError):  # that loop is closed, and its seat with it
                    loop.call_soon_threadsafe(seat.leave)  # takes effect when the loop runs
        self._embedded.clear()
        self._loop.close(self._leave, wait=False)
        for link in [*self._others.values()]:
            link.close_soon()

    def close(self) -> None:
        """Close all connections, and the loop."""
        self.close_soon()
        self._loop.close(self._leave)
        for link in [*self._others.values()]:
            link.close()

    async def _leave(self) -> None:
        if self._own is None:
            return
        until_s = time.monotonic() + CLOSING_S
        while self._connections.writes_outstanding and time.monotonic() < until_s:  # acknowledgements beyond W
            self._connections.listen()
            await asyncio.sleep(LOOK_EVERY_S)
        self._connections.close()
        while (self._own.busy or not self._loop.begun_all) and time.monotonic() < until_s:  # noqa: ASYNC110 - at the end
            await asyncio.sleep(LOOK_EVERY_S)
        await self._own.report(CLOSING_S)
        await self._own.end()


class _UntilTheEnd:
    """What a loop's timer holds. A loop releases its timers when it is closed or collected."""

    def __init__(self, seat: EmbeddedCoordinator) -> None:
        self._embedded_here = seat

    def __call__(self) -> None:
        """Stay on if the timer fires after all."""
        self._embedded_here._stay_on(asyncio.get_running_loop(), self)  # noqa: SLF001 - part of it

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be shutting down
            self._embedded_here.drop()


# ---- one link for all handles of a process ----


class DirectHandle(ThisProcess):
    """``client.driver.Link`` of one handle: the ``DirectLink`` of the current process, also after a fork."""

    def __init__(self, store: str, founded_by: str) -> None:
        """``founded_by``: identifies the supervisor; another store of that name, or the same store restarted, differs."""
        self._place = (store, founded_by)
        self._generation = _generation
        self._link = _take(self._place, self)
        self.took = self._link.took  # type: ignore[method-assign]  # see there
        self._closed = False

    def _here(self) -> DirectLink:
        # This process was forked, or the link was closed just as this handle acquired it.
        if self._generation != _generation or (self._link.closed and not self._closed):
            self._generation, self._link = _generation, _take(self._place, self)
            self.took = self._link.took  # type: ignore[method-assign]
        return self._link

    def count(self, name: str, amount: int) -> None:
        """See ``client.driver.Link``."""
        self._here().count(name, amount)

    def submit(self, requests: Sequence[f.CoordinatorRequest], meanwhile: f.Meanwhile | None = None) -> list[Ticket]:
        """See ``client.driver.Link``."""
        return self._here().submit(requests, meanwhile)

    def result(self, ticket: Ticket, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        return self._here().result(ticket, timeout_s)

    def call(self, request: f.CoordinatorRequest, timeout_s: float) -> Awaitable[f.CoordinatorAnswer]:
        """See ``client.driver.Link``."""
        return self._here().call(request, timeout_s)

    def close(self) -> None:
        """See ``client.driver.Link``; the last handle closes all connections."""
        if not self._closed:
            self._closed = True
            _release_link(self._place, self, self._generation)


class _Shared:
    """A link and the handles that use it. Handles collected without a close drop out by themselves.

    *No finalizer counts them: an exception that interrupts a finalizer is lost, and only printed.*
    """

    def __init__(self, link: DirectLink) -> None:
        self.link = link
        self._handles: list[weakref.ref[DirectHandle]] = []

    def add(self, handle: DirectHandle) -> None:
        self._handles = [*self._others(handle), weakref.ref(handle)]

    def remove(self, handle: DirectHandle) -> bool:
        """Remove a handle. Returns whether it was the last one."""
        self._handles = self._others(handle)
        return not self._handles

    @property
    def forgotten(self) -> bool:
        """Whether all handles were collected."""
        return all(each() is None for each in self._handles)

    def _others(self, handle: DirectHandle) -> list[weakref.ref[DirectHandle]]:
        return [each for each in self._handles if each() not in {None, handle}]


_lock = threading.Lock()
_links: dict[Place, _Shared] = {}
_generation = 0
"""Number of forks between this process and the one that loaded this module."""
_NOTHING = ForkState(None, {})
_fork_states: dict[Place, ForkState] = {}
"""In a forked child: what its parent knew of each store."""
_metrics: dict[Place, CountingMetrics] = {}
"""What this process has counted of each store, over all links that it has had one after the other."""
_left_behind: list[Any] = []
"""Links that the parent had open before the fork: neither used nor closed here."""
_leaving: weakref.WeakSet[DirectLink] = weakref.WeakSet()
"""Links that close because all their handles were collected."""


def _take(place: Place, handle: DirectHandle) -> DirectLink:
    with _lock:
        shared = _links.get(place)
        if shared is None or shared.link.closed:
            _close_forgotten()
            without_ray = _generation and (forked_from_ray() or not ray.is_initialized())
            fork_state = _fork_states.get(place, _NOTHING) if without_ray else None
            shared = _links[place] = _Shared(DirectLink(place[0], fork_state, _metrics_of(place)))
        shared.add(handle)
        return shared.link


def _close_forgotten() -> None:
    """Begin to close the links without handles: a store that is started anew is another place, and has another link."""
    for place, shared in [*_links.items()]:
        if shared.forgotten:
            _leaving.add(shared.link)
            shared.link.close_soon()  # before the link is dropped, in case this thread is interrupted now
            del _links[place]


def inherited_link(store: str) -> DirectHandle | None:
    """Return, in a forked child, a link to the store of that name that its parent was connected to; None if to none."""
    places = [place for place in _fork_states if place[0] == store]
    known = [place for place in places if _fork_states[place].state is not None]
    return DirectHandle(*(known or places)[-1]) if places else None


def _metrics_of(place: Place) -> CountingMetrics:
    """Return the counters of this process's links to a store; new ones if it has had many stores since."""
    metrics = _metrics[place] = _metrics.pop(place, CountingMetrics())
    while len(_metrics) > MAX_COUNTED:
        del _metrics[next(iter(_metrics))]
    return metrics


def _release_link(place: Place, handle: DirectHandle, generation: int) -> None:
    with _lock:
        shared = _links.get(place)
        if shared is None or generation != _generation or not shared.remove(handle):
            return
        shared.link.close_soon()  # before the link is dropped, in case this thread is interrupted now
        del _links[place]
    shared.link.close()


def _close_all() -> None:
    with _lock:
        links = [*(shared.link for shared in _links.values()), *_leaving]
        _links.clear()
    for link in links:
        link.close()


def _begin_anew() -> None:
    """Reset the module in the child after a fork."""
    global _lock, _run, _generation  # noqa: PLW0603 - a different process
    _lock = threading.Lock()
    _fork_states.update({place: shared.link.fork_state() for place, shared in _links.items()})
    _left_behind.append((dict(_links), [*_leaving]))
    _links.clear()
    _leaving.clear()
    _metrics.clear()
    _generation += 1
    _run = random.SystemRandom().getrandbits(62) + 1


atexit.register(_close_all)
os.register_at_fork(after_in_child=_begin_anew)
