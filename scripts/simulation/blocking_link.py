"""A client with blocking connections, as the simulation has it.

In production a blocking caller drives its operations itself, over sockets of its own (``raykv.transport.blocking``), and
an operation that asks for more than a round goes over, as it stands, to the driver of the embedded coordinator's loop.
Those sockets cannot be in a simulated world. What they do to an operation can:

* a round is sent at once and waited for; what comes later is heard beside the caller's next operation;
* a connection that owes an answer for too long is given up, and a write that was sent on it is completed by the loop;
* to a node whose connection has just been given up none is made for a while: an operation that asks for it is handed over;
* between the caller's thread and that of the loop time passes, sometimes much: the loop's thread may not get its turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raykv.client.handle import Session
from raykv.cluster.peers import node_address
from raykv.coordinator.steps import Handover, Round
from raykv.errors import RaykvError
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.sim.cluster import SimDirectLink
from raykv.sim.network import SimTransport
from raykv.transport.blocking import CONNECT_PAUSE_S, OUTSTANDING_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.client.driver import Link
    from raykv.config import Routing
    from raykv.coordinator.in_flight import InFlightWrite
    from raykv.coordinator.steps import Action, Steps
    from raykv.sim.cluster import Cluster
    from raykv.sim.kernel import Process

BLOCKING = "blocking"
"""In the place of a coordinator's name: the client coordinates for itself, over blocking connections."""
HELD_UP = 0.05
"""How often the loop's thread does not get its turn for long."""
HELD_UP_S = (0.2, 2.0)
TURN_S = (0.00005, 0.0005)


class _Asked:
    """What was asked of some nodes, and is waited for."""

    def __init__(self, round_: Round) -> None:
        self.round = round_
        self.waiting = {*round_.frames}
        self.answers: dict[str, bytes] = {}
        self.enough = asyncio.Event()
        self.over = False


class BlockingLink(SimDirectLink):
    """``client.driver.Link`` of such a client."""

    def __init__(self, cluster: Cluster, process: Process) -> None:
        super().__init__(cluster, process)
        self._transport = SimTransport(cluster.network, process)
        self._draws = cluster.rng(f"turns of {process.name}")
        self._not_before_s: dict[str, float] = {}
        """Node id -> when to try again to connect to it."""
        cluster.counts["blocking clients"] += 1

    async def _answer(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        steps = self._service._coordinator.operation(request)  # noqa: SLF001 - as the embedded coordinator gives it out
        if steps is None:
            return await self._service.answer(request)
        outcome = await self._drive(steps)
        if not isinstance(outcome, Handover):
            return outcome
        self._cluster.counts["handed over"] += 1
        held_up = self._draws.random() < HELD_UP
        await asyncio.sleep(self._draws.uniform(*(HELD_UP_S if held_up else TURN_S)))
        return await self._service.go_on(outcome, request)

    async def _drive(self, steps: Steps[f.CoordinatorAnswer]) -> f.CoordinatorAnswer | Handover:
        """Drive an operation as far as rounds take it."""
        last: _Asked | None = None
        while True:
            outcome: f.CoordinatorAnswer | Handover | None = None
            action: Action | None = None
            try:
                action = next(steps) if last is None else steps.send(last.answers)
            except StopIteration as end:
                outcome = end.value
            except RaykvError as error:
                outcome = f.Refused(f.Failed.of(error))
            write = None if last is None else last.round.write
            if last is not None and write is not None and write.needs_completion(last.round.frames, last.waiting):
                self._complete(write)
            if outcome is not None:
                return outcome
            assert action is not None
            if not (isinstance(action, Round) and self._connected(action)):
                return Handover(steps, action)
            last = await self._round(action)

    def _connected(self, round_: Round) -> bool:
        now_s = self.monotonic_s()
        return all(self._not_before_s.get(node_id, 0.0) <= now_s for node_id in round_.frames)

    async def _round(self, round_: Round) -> _Asked:
        asked = _Asked(round_)
        for node_id, frame in round_.frames.items():
            self._process.spawn(self._ask(asked, node_id, frame))
        try:
            async with asyncio.timeout(round_.patience_s):
                await asked.enough.wait()
        except TimeoutError:
            pass
        asked.over = True
        return asked

    async def _ask(self, asked: _Asked, node_id: str, frame: bytes) -> None:
        said: bytes | None
        try:
            said = await self._transport.call(node_address(node_id), frame, asked.round.patience_s + OUTSTANDING_S)
        except PeerFailure:
            said = None
            self._not_before_s[node_id] = self.monotonic_s() + CONNECT_PAUSE_S
        if not asked.over:
            asked.waiting.discard(node_id)
            if said is not None:
                asked.answers[node_id] = said
            if asked.round.met(asked.answers) or not asked.waiting:
                asked.enough.set()
        elif (write := asked.round.write) is not None and write.heard(node_id, said):
            self._complete(write)

    def _complete(self, write: InFlightWrite) -> None:
        self._process.spawn(self._service.complete(write))


def blocking_session(cluster: Cluster, process: Process) -> Callable[[str, Link, Routing], Session]:
    """Return what ``Cluster.connect`` is to make the session of such a client with."""

    def session(name: str, link: Link, routing: Routing) -> Session:
        link.close()
        return Session(name, BlockingLink(cluster, process), routing)

    return session
