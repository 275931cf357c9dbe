"""Calls to storage nodes, and which answers to trust.

Every call names the incarnation it is meant for, every answer the one that gave it; an answer from a lower incarnation
than the known one comes from a process that was given up, perhaps frozen and thawed, and is not trusted (P6). One
judgement of an answer (``believe``) serves both paths of an operation: the quorum path calls (``call``), the fast path
makes frames (``request``) and passes in the answers (``plain``). Facts about a node are kept in ``health``.

A suspected node's calls fail at once except for one probe at a time, so that a frozen node does not gather calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from raykv.cluster.health import Health, Node
from raykv.errors import CorruptData
from raykv.ports import PeerDead, PeerFailure, PeerSilent, PeerUnreachable
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.cluster.state import ClusterState
    from raykv.ports import Clock, Metrics, Transport

_OF_COMPLETE_NODES = (f.ReadDone, f.DotsReserved, f.ScanDone)
Said: TypeAlias = "dict[str, f.LogEnd | None]"
"""Node id -> what a request to that node has said of its log."""

SUSPECT_DEAD_S = 0.1
SUSPECT_SILENT_S = 1.0
MAX_CALLS_PER_PEER = 2000
MOVED = "moved on"
"""The reason of a refusal: the node was chosen by a state that is not the present one."""


def node_address(node_id: str) -> str:
    """Return the address by which the transport finds a storage node."""
    return f"node/{node_id}"


class PeerRefused(PeerFailure):
    """The peer refused: certain that it did nothing. ``reason`` is NodeRefused's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_overloaded(failure: PeerFailure | None) -> bool:
    """Whether a peer did nothing because it is overloaded."""
    return isinstance(failure, PeerRefused) and failure.reason == "overloaded"


class Peers(Health):
    """Calls to storage nodes."""

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
        """``state()``: the cluster's state as the caller knows it, to be sent to a node that does not know it yet.

        ``moved(state)``: called with a later one. ``trouble``, ``quiet``: see ``Health``.
        """
        super().__init__(clock, metrics, trouble=trouble, quiet=quiet)
        self._state = state
        self._moved = moved
        self._transport = transport
        self._calls = 0

    def believe(self, node_id: str, frame: bytes, said_end: f.LogEnd | None) -> f.NodeAnswerBody:
        """Return a node's answer, refusals too, and record what it says of the node.

        An answer that names other owners takes effect: the next operation asks those. ``said_end``: what the request
        said of the node's log. Raises ``PeerSilent`` (an earlier run), ``PeerRefused`` (of no run yet, or undecodable).
        """
        node = self._node(node_id)
        try:
            answer = f.node_answers.decode(frame)
            body = answer.body
            if not answer.incarnation and isinstance(body, f.NodeRefused):  # of a process that is no run yet
                raise PeerRefused(body.reason, body.message)
            if answer.incarnation < node.incarnation:
                raise PeerSilent(f"an earlier run of node {node_id} answered; not believed")
            if answer.incarnation > node.incarnation:
                node.incarnation, node.down = answer.incarnation, None  # no need to wait for a cluster update
            node.take_end(answer.log_end, said_end)
            if isinstance(body, f.NotOwner):
                self._moved(body.state)
        except CorruptData as error:
            raise PeerRefused("corrupt", str(error)) from None
        if isinstance(body, _OF_COMPLETE_NODES):
            node.incomplete = False
        elif isinstance(body, f.Incomplete):
            node.incomplete = True
        if not isinstance(body, f.NodeRefused):
            node.suspected_until_s, node.logged = 0.0, False
        return body

    # ---- frames of the fast path ----

    def request(self, node_id: str, body: f.NodeRequestBody, epoch: int, said: Said) -> bytes:
        """Return the frame of a request to the run of the node that is known, and note in ``said`` what it says."""
        node = self._node(node_id)
        said[node_id] = node.log_end
        return f.node_requests.encode(f.NodeRequest(node.incarnation, body, node.log_end, epoch))

    def plain(self, node_id: str, frame: bytes | None, said: Said) -> f.NodeAnswerBody | None:
        """Return the answer to a frame of ``request``; None if there is none that is believed.

        ``said``: of just that request. *Schedule: a request says nothing of the log; an answer of the run before comes
        late, and tells how far the log was; the next request says that, and is lost. The first is answered by a run
        that has lost a part of its log and has written more since: taken for an answer to the second, it would hide the
        loss (P6).*
        """
        if frame is None:
            return None
        try:
            body = self.believe(node_id, frame, said.get(node_id))
        except PeerFailure:
            return None
        self._answered(self._nodes[node_id], 1)
        return body

    # ---- calls ----

    async def call(
        self, node_id: str, body: f.NodeRequestBody, items: int, timeout_s: float, epoch: int = 0
    ) -> f.NodeAnswerBody:
        """Ask a node. Raises ``PeerRefused`` (did nothing), ``PeerSilent``, ``PeerDead`` (may have done it).

        ``epoch``: of the state by which the node was chosen. Refused with ``MOVED`` if it is not of the present.
        """
        node = self._node(node_id)
        if node.calls >= MAX_CALLS_PER_PEER:
            raise PeerRefused("overloaded", f"{MAX_CALLS_PER_PEER} calls to node {node_id} are under way")
        suspected = node.doubt(self._clock.monotonic_s()) > 0
        if suspected and node.probing:
            raise PeerRefused("suspected", f"node {node_id} is not answering")
        node.probing = node.probing or suspected
        node.calls += 1
        self._calls += 1
        number, started_s = self._calls, self._clock.monotonic_s()
        node.pending[number] = started_s
        try:
            answer = await self._call_incarnation(node_id, node, body, timeout_s, epoch)
        except PeerRefused as refused:
            if refused.reason == "stopping":
                self._avoid(node, SUSPECT_DEAD_S)
            raise
        except PeerDead:
            self._suspect(node_id, node, SUSPECT_DEAD_S, "its process has ended")
            raise
        except PeerSilent:
            if node.answered_s <= started_s:  # else it lives: this call may have been for a former run of it
                self._suspect(node_id, node, SUSPECT_SILENT_S, f"no answer within {timeout_s:.2g} s")
            raise
        except PeerUnreachable as failure:
            self._suspect(node_id, node, SUSPECT_SILENT_S, str(failure))
            raise
        finally:
            node.calls -= 1
            del node.pending[number]
            if suspected:
                node.probing = False
        self.record_latency(type(body).__name__, {node_id: items}, self._clock.monotonic_s() - started_s)
        return answer

    async def _call_incarnation(
        self, node_id: str, node: Node, body: f.NodeRequestBody, timeout_s: float, epoch: int
    ) -> f.NodeAnswerBody:
        deadline_s = self._clock.monotonic_s() + timeout_s
        shown = False
        for _ in range(4):
            remaining_s = deadline_s - self._clock.monotonic_s()
            if remaining_s <= 0:
                break
            said_end = node.log_end
            request = f.node_requests.encode(f.NodeRequest(node.incarnation, body, said_end, epoch))
            frame = await self._transport.call(node_address(node_id), request, remaining_s)
            answer = self.believe(node_id, frame, said_end)
            if isinstance(answer, f.NotOwner):
                raise PeerRefused(MOVED, f"node {node_id} knows of other owners")
            if not isinstance(answer, f.NodeRefused):
                return answer
            if answer.reason == "behind" and not shown and (frame_of_state := self._state_frame(epoch)):
                shown = True  # the supervisor sends it too, but this caller knows it already
                await self._transport.call(node_address(node_id), frame_of_state, remaining_s)
                continue
            if answer.reason == "failed":  # after it had begun: it may have been carried out
                raise PeerSilent(answer.message)
            if answer.reason != "moved":
                raise PeerRefused(answer.reason, answer.message)
        raise PeerSilent(f"node {node_id} did not settle on an incarnation")

    def _state_frame(self, epoch: int) -> bytes | None:
        known = self._state()
        if known is None or known[0].epoch < epoch:
            return None
        state, data = known
        body = f.AcceptState(state.generation, state.version, data, decided=True)
        return f.node_requests.encode(f.NodeRequest(0, body))
