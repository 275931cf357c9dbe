"""How a coordinator asks the supervisor.

A question that may be asked twice is asked again, beside the first, when nothing is heard for a while: one message may be
lost, and a supervisor that is frozen is replaced within seconds. The first answer counts; the waits double, so a supervisor
that is merely slow gets a handful of questions.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from raykv.cluster.background import first_of
from raykv.errors import StoreUnavailable, WriteOutcomeUnknown
from raykv.ports import PeerAbsent, PeerDead, PeerFailure
from raykv.protocol import frames as f
from raykv.protocol.requests import SUPERVISOR

if TYPE_CHECKING:
    import asyncio

    from raykv.cluster.background import Background
    from raykv.ports import Clock, Transport

ASK_AGAIN_S = 1.0
"""After so long without an answer a question is asked again, for the first time."""


class Supervisor:
    """The supervisor, as it is asked by a coordinator."""

    def __init__(self, transport: Transport, clock: Clock, tasks: Background) -> None:
        self._transport = transport
        self._clock = clock
        self._tasks = tasks

    async def ask(self, request: f.SupervisorRequest, timeout_s: float) -> f.SupervisorAnswer:
        """Return the answer, which may be a refusal. Raises ``StoreUnavailable``, ``CorruptData``.

        Raises ``WriteOutcomeUnknown`` for what may not be asked twice, if the supervisor may have carried it out: who tries
        again would add a second node.
        """
        repeatable = SUPERVISOR[type(request)].repeatable
        frame = f.supervisor_requests.encode(request)
        try:
            if repeatable:
                answer = await self._first_answer(frame, timeout_s)
            else:
                answer = await self._transport.call("supervisor", frame, timeout_s)
        except PeerFailure as failure:
            if not repeatable and not isinstance(failure, PeerAbsent):
                raise WriteOutcomeUnknown(
                    f"the outcome of this command is unknown: the supervisor did not answer ({failure}). It may have been "
                    "carried out; check status() before repeating it"
                ) from None
            raise StoreUnavailable(f"the supervisor does not answer: {failure}") from None
        return f.supervisor_answers.decode(answer)

    async def _first_answer(self, frame: bytes, timeout_s: float) -> bytes:
        deadline_s = self._clock.monotonic_s() + timeout_s
        patience_s, another = ASK_AGAIN_S, True
        waiting = [self._begin(frame, timeout_s)]
        try:
            while True:
                left_s = deadline_s - self._clock.monotonic_s()
                # After the last of these moments the calls' own time-outs end it.
                done = await first_of(waiting, self._clock, patience_s if patience_s < left_s else None)
                failure: PeerFailure | None = None
                for task in (task for task in waiting if task in done):
                    outcome = task.result()
                    if isinstance(outcome, bytes):
                        return outcome
                    failure = outcome
                waiting = [task for task in waiting if task not in done]
                if failure is None:
                    patience_s *= 2
                elif waiting:
                    continue
                elif another and isinstance(failure, PeerDead):
                    another = False  # another process may have its place by now
                else:
                    raise failure
                waiting.append(self._begin(frame, deadline_s - self._clock.monotonic_s()))
        finally:
            for task in waiting:
                task.cancel()

    def _begin(self, frame: bytes, timeout_s: float) -> asyncio.Task[bytes | PeerFailure]:
        return self._tasks.start(partial(self._call, frame, max(0.001, timeout_s)))

    async def _call(self, frame: bytes, timeout_s: float) -> bytes | PeerFailure:
        try:
            return await self._transport.call("supervisor", frame, timeout_s)
        except PeerFailure as failure:
            return failure
