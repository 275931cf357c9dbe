"""What nodes say to each other of linearizable buckets, watched frame by frame (L1, L2, L6).

A stamp, term and seq, names one byte string for ever, on whatever way it travels. What a node has promised, or has shown
and accepted under, it does not go below: an answer that grants or accepts less, to a request that came after that, breaks
it. A node that has made itself complete again has promised what it found with the others, and begins anew here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.records.kinds import is_linear
from raykv.records.linear_record import term_of
from simulation.history import Violation

if TYPE_CHECKING:
    from raykv.sim.kernel import VirtualLoop

MAX_REPORTED = 3
Voted: TypeAlias = "dict[tuple[int, int], bytes]"
"""(partition, n) -> the highest term that a node has answered for."""
_NAMES = tuple(kind.__name__.encode() for kind in (f.Promise, f.Look, f.Accept))
_WITHIN = 40


class LeaderWatch:
    """The terms and stamps of one run."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._records: dict[bytes, tuple[int, bytes, bytes]] = {}
        self._voted: dict[str, Voted] = {}
        self._leaders: dict[bytes, str] = {}
        self.broken: list[Violation] = []

    def hear(self, request: bytes) -> None:
        """Take note of a request to a node."""
        body = _body(request)
        if body is None:
            return
        terms = [body.term] if isinstance(body, f.Promise) else [term for _, term, _ in body.groups]
        for term in terms:
            if self._leaders.setdefault(term, body.leader) != body.leader:
                self._break("", f"{body.leader} and {self._leaders[term]} go by one term (L1)", "two leaders of a term")
        if isinstance(body, f.Accept):
            for _, term, items in body.groups:
                for bucket_id, key, record in items:
                    self._stamped_once(bucket_id, key, record)
                    if term_of(record) != term:
                        self._break(
                            key.decode(errors="replace"), "sent under a term that is not its own (L6)", "two terms"
                        )

    def hear_write(self, request: f.Write) -> None:
        """Take note of records that travel by other ways."""
        for key, record in request.items:
            if is_linear(record):
                self._stamped_once(request.bucket_id, key, record)

    def _stamped_once(self, bucket_id: int, key: bytes, record: bytes) -> None:
        known = self._records.setdefault(record[1:25], (bucket_id, key, record))
        if known != (bucket_id, key, record):
            name = key[1:].decode(errors="replace")
            text = (
                f"stamp {record[1:25].hex()} names {known[2].hex()} of {known[1]!r} and {record.hex()} of {key!r} (L6)"
            )
            self._break(name, text, "stamp given twice")

    def before(self, node_id: str) -> Voted:
        """Return what a node has answered for now: what it says to a request that arrives now may not be below."""
        return dict(self._voted.get(node_id, {}))

    def forget(self, node_id: str) -> None:
        """Forget what a node has answered for: it was incomplete."""
        self._voted.pop(node_id, None)

    def answered(self, node_id: str, request: bytes, answer: bytes, before: Voted) -> None:
        """Compare an answer with what the node had answered for when its request came."""
        body = _body(request)
        if body is None:
            return
        said = f.node_answers.decode(answer).body
        match body, said:
            case f.Promise(), f.Promised():
                if said.granted:
                    self._votes(node_id, (body.partition, body.n), body.term, before)
            case f.Look(), f.Looked():
                for (partition, term, _), (later, _, _) in zip(body.groups, said.groups, strict=True):
                    if not later:
                        self._votes(node_id, (partition, body.n), term, before)
            case f.Accept(), f.Accepted():
                for (partition, term, _), (later, _) in zip(body.groups, said.groups, strict=True):
                    if not later:
                        self._votes(node_id, (partition, body.n), term, before)

    def _votes(self, node_id: str, place: tuple[int, int], term: bytes, before: Voted) -> None:
        if term < before.get(place, b""):
            text = f"{node_id} goes by term {term.hex()} of {place}, and had gone by {before[place].hex()} (L2)"
            self._break("", text, "promise of a term broken")
        voted = self._voted.setdefault(node_id, {})
        voted[place] = max(term, voted.get(place, b""))

    def _break(self, key: str, text: str, rule: str) -> None:
        if len(self.broken) < MAX_REPORTED:
            self.broken.append(Violation(rule, key, text, self._loop.now_s))


def _body(request: bytes) -> f.Promise | f.Look | f.Accept | None:
    """Return what a leader asks; None for any other request."""
    if not any(name in request[:_WITHIN] for name in _NAMES):
        return None
    try:
        body = f.node_requests.decode(request).body
    except CorruptData:
        return None
    return body if isinstance(body, f.Promise | f.Look | f.Accept) else None
