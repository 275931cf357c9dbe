"""Runs an operation's exchanges over a link to the coordinator, blocking or awaiting.

At most ``WINDOW`` requests of an exchange are in flight at once. A request that reached no coordinator is resent until its
deadline (Ray may be restarting the coordinator); one that may have been carried out is resent only if it is repeatable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from raykv.client.exchange import WINDOW
from raykv.client.given import CallersStop
from raykv.errors import BatchError, CorruptData, QuorumNotMet, RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.ports import PeerAbsent, PeerFailure, PeerSilent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from raykv.client.exchange import Answer, Exchange, Steps
    from raykv.protocol import frames as f

T = TypeVar("T")

_OUT_OF_REACH = (QuorumNotMet, WriteOutcomeUnknown, StoreUnavailable, BatchError)

RETRY_S = 0.1
RETRY_CEILING_S = 1.0
GRACE = 1.08
"""The coordinator watches the deadline; the client waits a little longer for its answer."""


Repeated: TypeAlias = "Callable[[], Steps[float | None]]"
"""``repeated()``: steps to run again and again; they return in how many seconds they are due next, None for never."""


class Stoppable(Protocol):
    """Work in the background."""

    def stop(self) -> None:
        """Begin no more of it. Never waits."""
        ...


class Beside(Stoppable, Protocol):
    """Work in the background of a blocking program."""

    def join(self, timeout_s: float) -> None:
        """Wait until nothing of it is under way, once it was stopped."""
        ...


class Link(Protocol):
    """A client's connection to its coordinator, which may run in the same process."""

    def submit(self, requests: Sequence[f.CoordinatorRequest], meanwhile: f.Meanwhile | None = None) -> list[Any]:
        """Send requests; return for each a ticket for ``result``, or the ``PeerFailure`` where nothing was sent.

        ``meanwhile``: see ``Exchange``; not every link calls it.
        """
        ...

    def result(self, ticket: Any, timeout_s: float) -> f.CoordinatorAnswer:
        """Wait for the answer. Raises ``PeerFailure``; ``CorruptData`` if the frame does not decode."""
        ...

    def call(self, request: f.CoordinatorRequest, timeout_s: float) -> Awaitable[f.CoordinatorAnswer]:
        """Send a request; return an awaitable of the answer, which raises as ``result`` does."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment."""
        ...

    def took(self, request: f.CoordinatorRequest, requests: int, began_s: float) -> None:
        """Note that an exchange that began then is over: so many requests, of which this is the first."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 by this host's wall clock, which may jump."""
        ...

    def pause(self, delay_s: float) -> None:
        """Wait, blocking."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait, awaiting."""
        ...

    def random_bytes(self, count: int) -> bytes:
        """Draw random bytes, for operation ids."""
        ...

    def pickled(self, value: Any) -> bytes:
        """Return a value's pickle. Raises ``InvalidOption`` for values that must not be stored, and the value's errors."""
        ...

    def lacks(self) -> str:
        """Name the resource that this process has exhausted and needs for any connection; empty if there is none."""
        ...

    def count(self, name: str, amount: int) -> None:
        """Add to a counter that this process reports, if it reports any."""
        ...

    def place(self) -> str:
        """Name this process for people: the host, and the process id."""
        ...

    def beside(self, repeated: Repeated, delay_s: float, user: object) -> Beside:
        """Run steps in the background of a blocking program, first after ``delay_s``, until their ``user`` is collected.

        Raises ``Overloaded`` if this process gets no more threads.
        """
        ...

    def close(self) -> None:
        """Close the connection. Idempotent."""
        ...


def run(steps: Steps[T], link: Link) -> T:
    """Run an operation, blocking."""
    try:
        exchange = next(steps)
        while True:
            exchange = steps.send(_exchange(link, exchange))
    except StopIteration as done:
        result: T = done.value
        return result
    except _OUT_OF_REACH as error:
        raise _explained(error, link)  # noqa: B904 - the same error
    except CallersStop as carried:
        stop = carried.error
    raise stop


async def run_async(steps: Steps[T], link: Link) -> T:
    """Run an operation, awaiting."""
    try:
        exchange = next(steps)
        while True:
            if exchange.pause_s:
                await link.sleep(exchange.pause_s)
            # A single request: through the window's semaphore, task and gather it would cost 24 us instead of 2.
            answers: list[Answer] = []
            if exchange.requests:
                began_s = link.monotonic_s()
                if len(exchange.requests) == 1:
                    answers = [await _one_async(link, exchange, exchange.requests[0], began_s)]
                else:
                    answers = await _several_async(link, exchange)
                link.took(exchange.requests[0], len(answers), began_s)
            exchange = steps.send(answers)
    except StopIteration as done:
        result: T = done.value
        return result
    except _OUT_OF_REACH as error:
        raise _explained(error, link)  # noqa: B904 - the same error
    except CallersStop as carried:
        stop = carried.error
    raise stop  # Python makes a RuntimeError of it that says so


def _explained(error: RaykvError, link: Link) -> RaykvError:
    """Add to an error the resource that this process lacks, if that is why it reached no coordinator."""
    if why := link.lacks():
        failed = list(error.errors.values()) if isinstance(error, BatchError) else []
        for each in (error, *(one for one in failed if isinstance(one, _OUT_OF_REACH))):
            if why not in each.message:
                each.message = f"{each.message}; {why}"
                each.args = (each.message,)
    return error


def _may_repeat(exchange: Exchange, failure: PeerFailure, remaining_s: float) -> bool:
    if remaining_s <= RETRY_S:
        return False
    return isinstance(failure, PeerAbsent) or (exchange.repeatable and not isinstance(failure, PeerSilent))


def _pause_s(tries: int, link: Link, remaining_s: float) -> float:
    """Return how long to wait before the next try: longer each time, with jitter against retries in step.

    The pause leaves time for one more try (``remaining_s`` is above ``RETRY_S``, see ``_may_repeat``).
    """
    spread = 0.5 + link.random_bytes(1)[0] / 255
    return float(min(min(RETRY_CEILING_S, RETRY_S * 2.0**tries) * spread, remaining_s - RETRY_S / 2))


def _exchange(link: Link, exchange: Exchange) -> list[Answer]:
    if exchange.pause_s:
        link.pause(exchange.pause_s)
    answers: list[Answer] = []
    if not exchange.requests:
        return answers
    began_s = now_s = link.monotonic_s()
    for at in range(0, len(exchange.requests), WINDOW):
        some = exchange.requests[at : at + WINDOW]
        if at:
            now_s = link.monotonic_s()
        deadline_s = now_s + exchange.timeout_s * GRACE
        tickets = link.submit(some, _shifted(exchange.meanwhile, at))
        for request, ticket in zip(some, tickets, strict=True):
            answers.append(_finish(link, exchange, request, ticket, deadline_s))
    link.took(exchange.requests[0], len(exchange.requests), began_s)
    return answers


def _shifted(meanwhile: f.Meanwhile | None, first: int) -> f.Meanwhile | None:
    """Return ``meanwhile`` for a window of requests that begins at index ``first`` of the exchange."""
    if meanwhile is None or not first:
        return meanwhile
    return lambda index, answer: meanwhile(first + index, answer)


def _finish(link: Link, exchange: Exchange, request: f.CoordinatorRequest, ticket: Any, deadline_s: float) -> Answer:
    tries = 0
    while True:
        try:
            if isinstance(ticket, PeerFailure):
                raise ticket
            return link.result(ticket, max(0.001, deadline_s - link.monotonic_s()))
        except CorruptData as error:
            return error
        except PeerFailure as failure:
            remaining_s = deadline_s - link.monotonic_s()
            if not _may_repeat(exchange, failure, remaining_s):
                return failure
            link.pause(_pause_s(tries, link, remaining_s))
            tries += 1
            (ticket,) = link.submit([request])


async def _several_async(link: Link, exchange: Exchange) -> list[Answer]:
    import asyncio  # late: blocking calls do without, and it would be a third of raykv's import

    window = asyncio.Semaphore(WINDOW)

    async def one(index: int, request: f.CoordinatorRequest) -> Answer:
        async with window:
            answer = await _one_async(link, exchange, request, link.monotonic_s())
        if exchange.meanwhile is not None and not isinstance(answer, PeerFailure | CorruptData):
            exchange.meanwhile(index, answer)
        return answer

    return list(await asyncio.gather(*(one(index, request) for index, request in enumerate(exchange.requests))))


async def _one_async(link: Link, exchange: Exchange, request: f.CoordinatorRequest, began_s: float) -> Answer:
    deadline_s = began_s + exchange.timeout_s * GRACE
    tries = 0
    while True:
        try:
            return await link.call(request, max(0.001, deadline_s - link.monotonic_s()))
        except CorruptData as error:
            return error
        except PeerFailure as failure:
            remaining_s = deadline_s - link.monotonic_s()
            if not _may_repeat(exchange, failure, remaining_s):
                return failure
            await link.sleep(_pause_s(tries, link, remaining_s))
            tries += 1
