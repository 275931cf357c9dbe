"""Operations explained: the operation as ever, each of its requests wrapped, and what came of it as one ``Explanation``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from raykv.errors import CorruptData, RaykvError
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.records.keys import decode_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.client.exchange import Answer, Exchange, Steps

T = TypeVar("T")

_SLACK_S = 1.0
"""How much longer an explained request may take: it waits for late answers too."""
_EXPLAINED = (f.GetMany, f.WriteMany, f.ChangeMany, f.ScanPage)


class Explanation:
    """What one operation did, and how long each part of it took. Prints as a ladder; draws itself in a notebook.

    ``result``: what the operation returned; ``error``: what it raised, or None. ``took_ms``: of all its requests.
    ``requests``: a dict for each request to the coordinator, in order: ``bucket``, ``token``, ``partition``, ``owners``,
    ``epoch``, ``leader``, ``outcome``, ``took_ms``, and ``requests``, those to the nodes: ``node_id``, ``kind``, ``why``,
    ``sent_ms``, ``answered_ms``, ``answer``, and ``node``, with what the node looked into.
    """

    def __init__(self, operation: str, key: Any) -> None:
        self.operation = operation
        self.key = key
        self.result: Any = None
        self.error: RaykvError | None = None
        self.requests: list[dict[str, Any]] = []

    @property
    def took_ms(self) -> float:
        """How long its requests took together, in milliseconds, by the coordinator's clock."""
        return float(sum(each["took_ms"] for each in self.requests))

    @property
    def nodes(self) -> list[str]:
        """The ids of the nodes that were asked, in the order of the first request to each."""
        return [*dict.fromkeys(each["node_id"] for request in self.requests for each in request["requests"])]

    def __repr__(self) -> str:
        from raykv import viz

        return viz.ladder_text(self)

    def _repr_html_(self) -> str:
        from raykv import viz

        return viz.ladder_html(self)

    def _repr_svg_(self) -> str:
        from raykv import viz

        return viz.ladder_svg(self)


def explained(operation: str, key: Any, steps: Steps[T], now_s: Callable[[], float]) -> Steps[Explanation]:
    """Run an operation; return its explanation. Its error is part of that, unless nothing was sent: then it is raised."""
    explanation = Explanation(operation, key)
    try:
        exchange = next(steps)
        while True:
            began_s = now_s()
            answers = yield _wrapped(exchange)
            exchange = steps.send([_unwrapped(each, explanation, (now_s() - began_s) * 1000) for each in answers])
    except StopIteration as done:
        explanation.result = done.value
    except RaykvError as error:
        if not explanation.requests:
            raise
        explanation.error = error
    return explanation


def _wrapped(exchange: Exchange) -> Exchange:
    """Return an exchange whose requests are explained. Later answers are not looked at before all are there."""
    requests = [
        f.ExplainOperation(f.coordinator_requests.encode(request), exchange.timeout_s)
        if isinstance(request, _EXPLAINED)
        else request
        for request in exchange.requests
    ]
    timeout_s = exchange.timeout_s + _SLACK_S if requests else exchange.timeout_s
    return exchange._replace(requests=requests, timeout_s=timeout_s, meanwhile=None)


def _unwrapped(answer: Answer, explanation: Explanation, took_ms: float) -> Answer:
    if isinstance(answer, f.OperationExplained):
        key = answer.figures.get("key")
        try:
            shown: Any = decode_key(key) if isinstance(key, bytes) and key else None
        except CorruptData:
            shown = key
        explanation.requests.append(answer.figures | {"key": shown, "there_and_back_ms": round(max(0.0, took_ms), 3)})
        return f.coordinator_answers.decode(answer.frame)
    if isinstance(answer, PeerFailure):
        explanation.requests.append(_unanswered(str(answer), took_ms))
    return answer


def _unanswered(why: str, took_ms: float) -> dict[str, Any]:
    """Return the entry of a request that no coordinator answered."""
    return {
        "operation": "", "bucket": "", "versioning": "", "n": 0, "level": 0, "key": None, "keys": 0, "token": "",
        "partition": -1, "partitions": 0, "epoch": 0, "owners": [], "hosts": {}, "moving": [], "leader": "",
        "took_ms": round(took_ms, 3), "there_and_back_ms": round(took_ms, 3), "outcome": why, "requests": [],
    }  # fmt: skip
