"""A coordinator's view of the storage nodes: which run answers, who is slow, whom to ask first.

One coordinator's suspicion steers its own traffic and nothing else; "down" is the cluster's verdict and comes from the
supervisor. A slow peer is asked after the others for some seconds; one that owes an answer for longer than a healthy node
ever takes, and has given none since, after those. A suspected one is asked last, and calls to it fail at
once except for one probe at a time, so that a frozen node does not gather calls. Its first answer clears it.

Every call names the incarnation it is meant for, every answer the one that gave it; what comes from a lower one than is
known comes from a process that was given up, perhaps frozen and thawed, and is not believed (P6).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raykv.errors import CorruptData
from raykv.ports import PeerDead, PeerFailure, PeerSilent, PeerUnreachable
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from raykv.cluster.state import ClusterState
    from raykv.ports import Clock, Metrics, Transport

logger = logging.getLogger("raykv.coordinator")

SUSPECT_DEAD_S = 0.1
SUSPECT_SILENT_S = 1.0
SILENT_S = 0.3
"""A node that has owed an answer for so long, and has given none meanwhile, is asked after the others."""
MAX_CALLS_PER_PEER = 2000
HEDGE_FLOOR_S = 0.02
FIRST_S = 0.05
"""So long a node is given before it is known how long it usually takes."""
SLOW_S = (1.0, 30.0)
"""How long a node that was raced is asked after the others: at first, and at the most if it is slow every time."""
HEDGE_CEILING_S = 0.5
RACES_MOST = 100.0
RACES_AN_ANSWER = 0.05
"""Races are paid for by answers, so that in the long run at the most one item in twenty is asked for once more; so many may
be saved up for a node that stops of a sudden (Dean & Barroso 2013 bound hedging likewise). Where all nodes are slow, for
there is more to do than they can, racing would double what there is to do."""
RACES_OWED = 2000.0
"""So many may be owed: those that were under way to a node that stops of a sudden."""
LATE = 4
"""So many times longer is waited when no race is left."""
_QUANTILE = 0.95
_STEP = 0.1
MOVED = "moved on"
"""The reason of a refusal: the node was chosen by a state that is not the present one."""


def node_address(node_id: str) -> str:
    """Return the address by which the transport finds a storage node."""
    return f"node/{node_id}"


class PeerRefused(PeerFailure):
    """The peer answered that it will not: certain that it did nothing. ``reason`` is NodeRefused's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_overloaded(failure: PeerFailure | None) -> bool:
    """Whether a peer did nothing because it has more to do than it can."""
    return isinstance(failure, PeerRefused) and failure.reason == "overloaded"


@dataclass(slots=True)
class _Peer:
    incarnation: int = 0
    log_end: f.LogEnd | None = None
    said_end: f.LogEnd | None = None
    """What the last request of the straight way has said of it."""
    suspected_until_s: float = 0.0
    down: str | None = None
    calls: int = 0
    probing: bool = False
    told: bool = False
    """Whether its present silence was logged."""
    slow_until_s: float = 0.0
    slow_s: float = 0.0
    incomplete: bool = False
    """Whether it last answered a read with "incomplete": it is asked last, until it answers one."""
    usual_s: dict[tuple[str, int], float] = field(default_factory=dict)
    pending: dict[int, float] = field(default_factory=dict)
    """Calls under way -> when each began, the oldest first."""
    answered_s: float = 0.0

    def silent(self, now_s: float) -> bool:
        """Whether it owes an answer for too long."""
        oldest_s = next(iter(self.pending.values()), now_s)
        return now_s - max(oldest_s, self.answered_s) > SILENT_S


class Peers:
    """Calls to storage nodes, with what was learned of each."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        metrics: Metrics,
        *,
        state: Callable[[], tuple[ClusterState, bytes] | None] = lambda: None,
        moved: Callable[[bytes], None] = lambda _: None,
        trouble: Callable[[], None] = lambda: None,
        quiet: bool = False,
    ) -> None:
        """``state()``: the cluster's state as the caller knows it, to be told to a node that does not know it yet.

        ``moved(state)``: told of a later one. ``trouble()``: told that a node does not answer as it should.
        ``quiet``: suspicions are nothing to warn of here: one of many clients.
        """
        self._state = state
        self._moved = moved
        self._trouble = trouble
        self._quiet = quiet
        self._transport = transport
        self._clock = clock
        self._metrics = metrics
        self._peers: dict[str, _Peer] = {}
        self._calls = 0
        self._races = RACES_MOST

    def learn(self, incarnations: Mapping[str, int], down: Mapping[str, str]) -> list[str]:
        """Take the supervisor's news: a node that runs anew is no longer suspected.

        Returns the nodes that run anew and of whose earlier runs it is known how far their logs were.
        """
        anew: list[str] = []
        for node_id, incarnation in incarnations.items():
            peer = self._peer(node_id)
            if incarnation > peer.incarnation:
                peer.incarnation = incarnation
                peer.suspected_until_s = 0.0
                if peer.log_end is not None:
                    anew.append(node_id)
        for node_id, peer in self._peers.items():
            # One that has answered in a later run than the supervisor knows of was started by another, and is not down.
            later = peer.incarnation > incarnations.get(node_id, peer.incarnation)
            peer.down = None if later else down.get(node_id)
        return anew

    def in_order(self, nodes: Sequence[str]) -> list[str]:
        """Return ``nodes``, the down ones last, before them the suspected, incomplete, silent, slow ones; else as given."""
        now_s = self._clock.monotonic_s()

        def rank(node_id: str) -> tuple[int, bool, bool, bool]:
            peer = self._peer(node_id)
            return self._doubt(peer, now_s), peer.incomplete, peer.silent(now_s), now_s < peer.slow_until_s

        return sorted(nodes, key=rank)

    def hedge_delay_s(self, kind: str, items: int, nodes: Sequence[str]) -> float:
        """How long such nodes usually take at the most (95th percentile) for a request of this kind and size.

        The median over the nodes: a slow one must not put off the race that is run because of it. Longer when too many
        races were run of late.
        """
        size = (kind, items.bit_length())
        usual_s = [self._peer(node_id).usual_s.get(size, FIRST_S) for node_id in nodes] or [FIRST_S]
        usual_s.sort()
        delay_s = min(HEDGE_CEILING_S, max(HEDGE_FLOOR_S, usual_s[(len(usual_s) - 1) // 2]))
        return delay_s if self._races >= 1 else LATE * delay_s

    def raced(self, items: int) -> bool:
        """Take note that items are asked for again, as answers take their time. False: as they all do, it seems."""
        left, self._races = self._races, max(-RACES_OWED, self._races - items)
        return left >= 1

    def _answered(self, peer: _Peer, items: int) -> None:
        peer.answered_s = self._clock.monotonic_s()
        self._races = min(RACES_MOST, self._races + RACES_AN_ANSWER * items)

    def note_slow(self, node_id: str) -> None:
        """Take note that others were asked because this node takes its time."""
        peer, now_s = self._peer(node_id), self._clock.monotonic_s()
        if now_s >= peer.slow_until_s:
            first_s, most_s = SLOW_S
            peer.slow_s = min(most_s, max(first_s, 2 * peer.slow_s))
            peer.slow_until_s = now_s + peer.slow_s

    # ---- the straight way (``straight``) ----

    def well(self, node_id: str, now_s: float) -> bool:
        """Whether nothing speaks against a node."""
        return self.there(node_id, now_s) and now_s >= self._peers[node_id].slow_until_s

    def slowness(self, node_id: str, now_s: float) -> float:
        """How slow a node has been of late: 0 if it was not, more the more often it was raced since it was quick."""
        peer = self._peers.get(node_id)
        return 0.0 if peer is None or now_s >= peer.slow_until_s else peer.slow_s

    def there(self, node_id: str, now_s: float) -> bool:
        """Whether nothing speaks against a node, but that it may take its time."""
        peer = self._peers.get(node_id)
        return peer is not None and not peer.incomplete and not self.away(node_id, now_s)

    def away(self, node_id: str, now_s: float) -> bool:
        """Whether a known node does not answer: it is down, suspected, or silent."""
        peer = self._peers.get(node_id)
        return peer is not None and bool(
            peer.down is not None or now_s < peer.suspected_until_s or (peer.pending and peer.silent(now_s))
        )

    def request(self, node_id: str, body: f.NodeRequestBody, epoch: int) -> bytes:
        """Return the frame of a request to the run of the node that is known."""
        peer = self._peer(node_id)
        peer.said_end = peer.log_end
        return f.node_requests.encode(f.NodeRequest(peer.incarnation, body, peer.log_end, epoch))

    def plain(self, node_id: str, frame: bytes | None) -> f.NodeAnswerBody | None:
        """Take an answer of just the run that was asked; None for any other, of which nothing is taken.

        One that tells of other owners is heeded: whoever asks next, asks those.
        """
        if frame is None:
            return None
        try:
            answer = f.node_answers.decode(frame)
        except CorruptData:
            return None
        peer = self._peer(node_id)
        if answer.incarnation != peer.incarnation:
            return None
        if not isinstance(answer.body, f.NodeRefused):
            _take_end(peer, answer.log_end, peer.said_end)
        self._answered(peer, 1)
        if isinstance(answer.body, f.Moved):
            try:
                self._moved(answer.body.state)
            except CorruptData:
                return None
        return answer.body

    def missed(self, kind: str, asked: Mapping[str, int]) -> None:
        """Take note that nodes have not answered in time: node id -> how many items each was asked.

        *Without: what is usual is learned of those alone that are quick, and under load ever more come too late for it.*
        """
        for node_id, items in asked.items():
            usual_s, size = self._peer(node_id).usual_s, (kind, items.bit_length())
            usual_s[size] = min(HEDGE_CEILING_S, usual_s.get(size, FIRST_S) * (1 + _STEP * _QUANTILE))

    def took(self, kind: str, asked: Mapping[str, int], taken_s: float) -> None:
        """Take note that a round of the straight way brought all its answers: node id -> how many items it was asked."""
        for node_id, items in asked.items():
            peer = self._peer(node_id)
            self._answered(peer, items)
            self._note_latency(peer, kind, items, taken_s)

    # ---- the usual way ----

    async def call(
        self, node_id: str, body: f.NodeRequestBody, items: int, timeout_s: float, epoch: int = 0
    ) -> f.NodeAnswerBody:
        """Ask a node. Raises ``PeerRefused`` (did nothing), ``PeerSilent``, ``PeerDead`` (may have done it).

        ``epoch``: of the state by which the node was chosen. Refused with ``MOVED`` if it is not of the present.
        """
        peer = self._peer(node_id)
        if peer.calls >= MAX_CALLS_PER_PEER:
            raise PeerRefused("overloaded", f"{MAX_CALLS_PER_PEER} calls to node {node_id} are under way")
        suspected = self._doubt(peer, self._clock.monotonic_s()) > 0
        if suspected and peer.probing:
            raise PeerRefused("suspected", f"node {node_id} is not answering")
        peer.probing = peer.probing or suspected
        peer.calls += 1
        self._calls += 1
        number, started_s = self._calls, self._clock.monotonic_s()
        peer.pending[number] = started_s
        try:
            answer = await self._call_incarnation(node_id, peer, body, timeout_s, epoch)
        except PeerDead:
            self._suspect(node_id, peer, SUSPECT_DEAD_S, "its process has ended")
            raise
        except PeerSilent:
            if peer.answered_s <= started_s:  # else it lives: this call may have been for a former run of it
                self._suspect(node_id, peer, SUSPECT_SILENT_S, f"no answer within {timeout_s:.2g} s")
            raise
        except PeerUnreachable as failure:
            self._suspect(node_id, peer, SUSPECT_SILENT_S, str(failure))
            raise
        finally:
            peer.calls -= 1
            del peer.pending[number]
            if suspected:
                peer.probing = False
        peer.suspected_until_s, peer.told = 0.0, False
        self._answered(peer, items)
        if isinstance(answer, f.ReadDone | f.ReserveDone | f.ScanDone | f.Incomplete):
            peer.incomplete = isinstance(answer, f.Incomplete)
        self._note_latency(peer, type(body).__name__, items, self._clock.monotonic_s() - started_s)
        return answer

    async def _call_incarnation(
        self, node_id: str, peer: _Peer, body: f.NodeRequestBody, timeout_s: float, epoch: int
    ) -> f.NodeAnswerBody:
        deadline_s = self._clock.monotonic_s() + timeout_s
        told = False
        for _ in range(4):
            remaining_s = deadline_s - self._clock.monotonic_s()
            if remaining_s <= 0:
                break
            said_end = peer.log_end
            request = f.node_requests.encode(f.NodeRequest(peer.incarnation, body, said_end, epoch))
            frame = await self._transport.call(node_address(node_id), request, remaining_s)
            try:
                answer = f.node_answers.decode(frame)
            except CorruptData as error:
                raise PeerRefused("corrupt", str(error)) from None
            if not answer.incarnation and isinstance(answer.body, f.NodeRefused):  # of a process that is no run yet
                raise PeerRefused(answer.body.reason, answer.body.message)
            if answer.incarnation < peer.incarnation:
                raise PeerSilent(f"an earlier run of node {node_id} answered; not believed")
            if answer.incarnation > peer.incarnation:
                peer.incarnation, peer.down = answer.incarnation, None  # it runs again: no need to wait for the news
            _take_end(peer, answer.log_end, said_end)
            if isinstance(answer.body, f.Moved):
                self._moved(answer.body.state)
                raise PeerRefused(MOVED, f"node {node_id} knows of other owners")
            if not isinstance(answer.body, f.NodeRefused):
                return answer.body
            if answer.body.reason == "behind" and not told and (frame_of_state := self._what_to_tell(epoch)):
                told = True  # the supervisor will, too; but who asks knows the state already
                await self._transport.call(node_address(node_id), frame_of_state, remaining_s)
                continue
            if answer.body.reason == "failed":  # after it had begun: it may have been carried out
                raise PeerSilent(answer.body.message)
            if answer.body.reason != "moved":
                raise PeerRefused(answer.body.reason, answer.body.message)
        raise PeerSilent(f"node {node_id} did not settle on an incarnation")

    def _what_to_tell(self, epoch: int) -> bytes | None:
        known = self._state()
        if known is None or known[0].epoch < epoch:
            return None
        state, data = known
        body = f.AcceptRegister(state.generation, state.version, data, decided=True)
        return f.node_requests.encode(f.NodeRequest(0, body))

    def _peer(self, node_id: str) -> _Peer:
        peer = self._peers.get(node_id)
        if peer is None:
            peer = self._peers[node_id] = _Peer()
        return peer

    @staticmethod
    def _doubt(peer: _Peer, now_s: float) -> int:
        return (2 if peer.down is not None else 0) + (1 if now_s < peer.suspected_until_s else 0)

    def _suspect(self, node_id: str, peer: _Peer, seconds: float, cause: str) -> None:
        self._trouble()
        now_s = self._clock.monotonic_s()
        if now_s >= peer.suspected_until_s and peer.down is None:
            self._metrics.count("suspicions")
            (logger.debug if peer.told or self._quiet else logger.warning)("node %s suspected: %s", node_id, cause)
            peer.told = True
        peer.suspected_until_s = now_s + seconds

    def _note_latency(self, peer: _Peer, kind: str, items: int, taken_s: float) -> None:
        """Move the estimate of the 95th percentile (stochastic approximation, Robbins & Monro 1951)."""
        size = (kind, items.bit_length())
        if taken_s <= HEDGE_FLOOR_S and self._clock.monotonic_s() >= peer.slow_until_s:
            peer.slow_s = 0.0
        usual_s = peer.usual_s.get(size, taken_s * 2)
        step_s = _STEP * usual_s
        peer.usual_s[size] = usual_s + (step_s * _QUANTILE if taken_s > usual_s else -step_s * (1 - _QUANTILE))


def _take_end(peer: _Peer, told: f.LogEnd | None, said: f.LogEnd | None) -> None:
    """Take note of how far a node's log is, as an answer has ``told``. ``said``: what the request had said of it.

    In another life of its directory that is all there is to know. In the same one the further end stands; but the word of a
    later run only once that run has heard how far an earlier one was known to be, for it may have lost that (P6).
    """
    known = peer.log_end
    if told is None:
        return
    if known is not None and known.life == told.life:
        unheard = told.incarnation != known.incarnation and said != known
        if told.position <= known.position or unheard:
            return
    peer.log_end = told
