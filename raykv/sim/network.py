"""The simulated network: frames between processes, late, lost, repeated, out of order, cut off.

Every message, request or answer, takes its own time: two of them may overtake each other. A *cut* between two processes is
one-way; messages that meet it are lost, or (half of them, by the odds) kept and delivered when the cut is mended, as by a
connection that survives. ``delays`` sets how long messages from one process to another take; ``lose_next`` loses one.

Callers learn what Ray would report: that a process has ended (proof), that none of that name runs, or nothing at all until
their deadline.

A process that has begun to serve a request continues, even if nobody waits for the answer any more.
``heard`` gets ("asks" or "answers", from, to, frame) of every delivered frame; the checkers learn stamps there.
``sent`` gets (from, to, frame) of every request when it is sent.

Frames from clients are never repeated: Ray delivers an actor call at most once when it may not retry it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from raykv.ports import PeerAbsent, PeerDead, PeerFailure, PeerSilent, PeerUnreachable
from raykv.protocol.nodes import NodeAnswer, NodeRequest
from raykv.sim.kernel import Process, ProcessEnded

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from raykv.sim.kernel import VirtualLoop
    from raykv.sim.trace import Trace

ANYBODY = "*"
"""In ``Network.delays``: every sender that has no entry of its own."""
NOTICE_S = (0.02, 0.2)
"""The time until callers learn that a process has ended."""


_ENVELOPES = {NodeRequest.__name__, NodeAnswer.__name__}


class NetworkOdds(msgspec.Struct, frozen=True, kw_only=True):
    """The network's treatment of messages, as probabilities; delays in seconds."""

    delay_s: tuple[float, float] = (0.0002, 0.002)
    late: float = 0.0
    """A message takes up to ``late_s`` instead."""
    late_s: float = 1.0
    lost: float = 0.0
    repeated: float = 0.0
    kept: float = 0.5
    """A message that meets a cut is delivered once the cut is mended."""


class Endpoint(NamedTuple):
    """A process that answers frames."""

    process: Process
    serve: Callable[[bytes], Awaitable[bytes]]


class _Call:
    __slots__ = ("answer", "number", "peer", "source")

    def __init__(self, number: int, source: Process, peer: str, answer: asyncio.Future[bytes]) -> None:
        self.number = number
        self.source = source
        self.peer = peer
        self.answer = answer

    def settle(self, outcome: bytes | PeerFailure) -> None:
        if not self.answer.done():
            if isinstance(outcome, PeerFailure):
                self.answer.set_exception(outcome)
            else:
                self.answer.set_result(outcome)


class Network:
    """Carries frames between the endpoints of one world."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, trace: Trace) -> None:
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._held: list[tuple[str, str, Callable[[], None]]] = []
        self._serving: dict[Process, dict[int, _Call]] = {}
        self._doomed: list[tuple[str, str, str]] = []
        self._numbers = 0
        self.odds = NetworkOdds()
        self.endpoints: dict[str, Endpoint] = {}
        self.cuts: dict[tuple[str, str], int] = {}
        """(from, to) -> the number of cuts between them."""
        self.delays: dict[tuple[str, str], float] = {}
        """(from, to) -> seconds that a message takes, in place of the delay by the odds; see ``ANYBODY``."""
        self.notice_s = NOTICE_S
        self.slow: dict[str, float] = {}
        """Process -> the extra delay of everything from and to it, in seconds."""
        self.unreachable: set[str] = set()
        """Processes whose host is down and whose end nobody has learned yet."""
        self.heard: Callable[[str, str, str, bytes], None] = lambda *_: None
        self.sent: Callable[[str, str, bytes], None] = lambda *_: None

    # ---- who is there ----

    def register(self, process: Process, serve: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Let ``process`` answer under its name, in place of any former one."""
        self.endpoints[process.name] = Endpoint(process, serve)
        self.unreachable.discard(process.name)
        process.on_kill.append(lambda: self._ended(process))

    def living(self, name: str) -> Process | None:
        """Return the process that answers under ``name``, if it is alive."""
        endpoint = self.endpoints.get(name)
        return endpoint.process if endpoint is not None and endpoint.process.alive else None

    def _ended(self, process: Process) -> None:
        """Notify callers of this process after a moment; the end of a host goes unnoticed."""
        waiting = self._serving.pop(process, {})
        if process.name not in self.unreachable:
            for call in waiting.values():
                self._loop.later(self._rng.uniform(*self.notice_s), call.settle, PeerDead("its process has ended"))

    # ---- cuts ----

    def cut(self, source: str, target: str) -> None:
        """Drop everything from ``source`` to ``target``."""
        self.cuts[source, target] = self.cuts.get((source, target), 0) + 1

    def is_cut(self, one: str, other: str) -> bool:
        """Return whether messages are dropped in at least one direction between them."""
        return (one, other) in self.cuts or (other, one) in self.cuts

    def mend(self, source: str, target: str) -> None:
        """End a cut and deliver the messages it kept."""
        left = self.cuts.pop((source, target), 1) - 1
        if left > 0:
            self.cuts[source, target] = left
            return
        released = [entry for entry in self._held if entry[:2] == (source, target)]
        self._held = [entry for entry in self._held if entry[:2] != (source, target)]
        for _, _, deliver in released:
            self._loop.later(self._rng.uniform(*self.odds.delay_s), deliver)

    def lose_next(self, source: str, target: str, kind: str = "") -> None:
        """Lose the next message from ``source`` to ``target``: of that class (``Write``, ``WriteDone``), or of any."""
        self._doomed.append((source, target, kind))

    def lose_no_more(self) -> None:
        """Forget what ``lose_next`` asked for and was not met."""
        self._doomed.clear()

    def _is_doomed(self, source: str, target: str, frame: bytes) -> bool:
        """Whether ``lose_next`` asked for the loss of this message; each time it was called loses one."""
        for doom in self._doomed:
            if doom[:2] == (source, target) and doom[2] in {"", kind_of(frame)}:
                self._doomed.remove(doom)
                return True
        return False

    # ---- calls ----

    async def call(self, source: Process, peer: str, frame: bytes, timeout_s: float) -> bytes:
        """See ``ports.Transport``; ``source`` is the caller."""
        source.check()
        self._numbers += 1
        answer: asyncio.Future[bytes] = self._loop.create_future()
        call = _Call(self._numbers, source, peer, answer)
        self.sent(source.name, peer, frame)
        copies = 2 if not source.name.startswith("client") and self._rng.random() < self.odds.repeated else 1
        for _ in range(copies):
            self._send(source.name, peer, "asks", call.number, frame, lambda: self._arrive(call, frame))
        try:
            async with asyncio.timeout(timeout_s):
                result = await answer
        except TimeoutError:
            self._trace.note("gives up", source.name, peer, call.number)
            source.check()
            raise PeerSilent(f"no answer within {timeout_s:.3g} s") from None
        except PeerFailure:
            source.check()
            raise
        source.check()
        return result

    def _send(
        self, source: str, target: str, what: str, number: int, frame: bytes, deliver: Callable[[], None]
    ) -> None:
        odds, rng = self.odds, self._rng
        fate = rng.random()
        if fate < odds.lost or (self._doomed and self._is_doomed(source, target, frame)):
            self._trace.note(f"{what}, lost", source, target, number, frame)
            return
        delay_s = rng.uniform(*odds.delay_s)
        if self.delays:
            delay_s = self.delays.get((source, target), self.delays.get((ANYBODY, target), delay_s))
        delay_s += self.slow.get(source, 0.0) + self.slow.get(target, 0.0)
        if fate < odds.lost + odds.late:
            delay_s += rng.random() ** 2 * odds.late_s
        self._trace.note(what, source, target, number, frame)
        self._loop.later(delay_s, self._pass, source, target, number, deliver)

    def _pass(self, source: str, target: str, number: int, deliver: Callable[[], None]) -> None:
        if (source, target) not in self.cuts:
            deliver()
            return
        held = self._rng.random() < self.odds.kept
        self._trace.note("held by a cut" if held else "lost in a cut", source, target, number)
        if held:
            self._held.append((source, target, deliver))

    def _arrive(self, call: _Call, frame: bytes) -> None:
        """Deliver a request, if its target is alive."""
        if call.peer in self.unreachable:
            return
        endpoint = self.endpoints.get(call.peer)
        if endpoint is None or not endpoint.process.alive:
            failure = PeerAbsent("no such process runs")
            self._send(call.peer, call.source.name, "is absent", call.number, b"", lambda: call.settle(failure))
            return
        self.heard("asks", call.source.name, call.peer, frame)
        process = endpoint.process
        self._serving.setdefault(process, {})[call.number] = call
        process.spawn(self._serve(endpoint, call, frame))

    async def _serve(self, endpoint: Endpoint, call: _Call, frame: bytes) -> None:
        process = endpoint.process
        outcome: bytes | PeerFailure
        try:
            outcome = await endpoint.serve(frame)
        except ProcessEnded:
            return
        except PeerFailure as failure:
            outcome = failure
        except Exception as error:  # noqa: BLE001 - Ray passes any error of a method to the caller
            self._loop.failures.append(f"{process.name} raised {error!r} while it served a request")
            outcome = PeerUnreachable(f"its method raised {type(error).__name__}")
        if not process.alive:
            return
        self._serving.get(process, {}).pop(call.number, None)
        data = outcome if isinstance(outcome, bytes) else b""
        self._send(process.name, call.source.name, "answers", call.number, data, lambda: self._return(call, outcome))

    def _return(self, call: _Call, outcome: bytes | PeerFailure) -> None:
        """Deliver an answer."""
        if isinstance(outcome, bytes) and not call.answer.done():
            self.heard("answers", call.peer, call.source.name, outcome)
        call.settle(outcome)


def kind_of(frame: bytes) -> str:
    """Return the class name of the message in a frame, or in its envelope; empty if it is no frame.

    >>> from raykv.protocol import frames as f
    >>> kind_of(f.node_requests.encode(f.NodeRequest(0, f.Ping())))
    'Ping'
    """
    try:
        name, *fields = msgspec.msgpack.decode(memoryview(frame)[1:], type=list[Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return ""
    return str(fields[1][0] if str(name) in _ENVELOPES else name)


class SimTransport:
    """``ports.Transport``: one process's end of the network."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        """See ``ports.Transport``."""
        return await self._network.call(self._process, peer, frame, timeout_s)
