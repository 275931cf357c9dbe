"""A node's answer to a request, with an explanation: what the request looked into, and how long the node took.

The other request is carried out as it would be alone; before that its keys are looked up once more, step by step
(``raykv.storage.explaining``). The figures of ``RequestExplained``, plain data::

    looks        a list for each key, of sources asked (``storage.explaining.Look``); none if the request was refused
    looked_us    microseconds for all of them
    handled_us   for the request itself, by then with warm caches
    waited_us    until the log was durable, or others had answered; 0 where nothing was waited for
    omitted      the number of further keys, which were not looked up
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from raykv.errors import CorruptData, RaykvError
from raykv.protocol import frames as f
from raykv.protocol.requests import NODE, misfit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from raykv.ports import Clock
    from raykv.replica.handlers import Replica
    from raykv.storage import Engine

MAX_KEYS = 16
"""Keys of one request that are explained."""
_REFUSALS = (f.NotOwner, f.NodeRefused, f.Incomplete)


class Explaining:
    """Answers ``ExplainRequest``."""

    def __init__(
        self,
        take: Callable[[bytes], bytes | Coroutine[Any, Any, bytes]],
        engine: Engine,
        replica: Replica,
        clock: Clock,
        partitions: int,
    ) -> None:
        """``take(frame)``: what answers any request."""
        self._take = take
        self._engine = engine
        self._replica = replica
        self._clock = clock
        self._partitions = partitions

    async def explain(self, request: f.ExplainRequest) -> f.NodeAnswerBody:
        """See ``RequestExplained``."""
        try:
            body = f.node_requests.decode(request.frame).body
        except CorruptData as error:
            return f.NodeRefused("corrupt", str(error))
        if isinstance(body, f.ExplainRequest):
            return f.NodeRefused("corrupt", "an explanation is not explained")
        now_s = self._clock.monotonic_s
        began_s = now_s()
        looks, omitted = self._looks(body)
        looked_s = now_s()
        answer = self._take(request.frame)
        handled_s = answered_s = now_s()
        if not isinstance(answer, bytes):
            answer = await answer
            answered_s = now_s()
        if isinstance(f.node_answers.decode(answer).body, _REFUSALS):
            looks = []  # it is not to tell what it has of another node's keys
        figures = {
            "looks": looks,
            "looked_us": _us(looked_s - began_s),
            "handled_us": _us(handled_s - looked_s),
            "waited_us": _us(answered_s - handled_s),
            "omitted": omitted,
        }
        return f.RequestExplained(answer, figures)

    def _looks(self, body: f.NodeRequestBody) -> tuple[list[list[dict[str, Any]]], int]:
        if misfit(body, self._partitions):
            return [], 0
        wanted = [*NODE[type(body)].concerns.keys_in_buckets(body)]
        looks = []
        for bucket_id, key in wanted[:MAX_KEYS]:
            try:
                (place,) = self._replica.storage_keys(bucket_id, [key])
                looked = self._engine.explain(place, self._clock.monotonic_s)
            except RaykvError:  # the request itself says what is wrong
                looked = []
            looks.append([msgspec.to_builtins(each) for each in looked])
        return looks, max(0, len(wanted) - MAX_KEYS)


def _us(duration_s: float) -> float:
    return round(duration_s * 1e6, 1)
