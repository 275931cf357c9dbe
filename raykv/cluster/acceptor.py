"""A node's side of the replicated register: the acceptor of Paxos for the cluster's state, one value for ever (P5).

It promises, accepts, and keeps both on disk before it answers; ``register`` is the proposer, the supervisor's side.

A node that lost its register has no vote: it may have promised a supervisor that still counts on it. A decided state
restores its vote only if a majority of the others accepted that state after the loss. Every promise of its former
directory was part of a majority too, so one of those others knew of it, and would have refused.

*Schedule without this: A and C promise S3; A is wiped; S2, of an earlier generation, sends A a state decided long
ago; A and B accept a change of S2; S3 stores what it read of A and C before, and the change is gone.*
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raykv.cluster.state import decode_state
from raykv.protocol import frames as f
from raykv.records.limits import MAX_BALLOT_STEP

if TYPE_CHECKING:
    from raykv.storage import NodeDirectory


class Acceptor:
    """A node's copy of the cluster's state, with what it promised. See the module."""

    def __init__(self, directory: NodeDirectory) -> None:
        self._directory = directory
        data = directory.load_register()
        kept = f.node_answers.decode(data).body if data is not None else None
        self._kept = kept if isinstance(kept, f.AcceptorAnswer) else f.AcceptorAnswer(True, 0, 0, 0, None)

    def forget(self) -> None:
        """Begin anew: what was promised and held belongs to a former directory."""
        self._kept = f.AcceptorAnswer(True, 0, 0, 0, None)

    def read(self) -> f.AcceptorAnswer:
        """Return what is promised and kept."""
        return self._answer(granted=True)

    def prepare(self, request: f.PrepareState) -> f.AcceptorAnswer:
        """Promise to refuse every earlier generation, unless this one or a later was promised."""
        self._directory.mark_first()
        granted = self._is_near(request) and request.generation > self._kept.promised
        if granted:
            self._keep(msgspec.structs.replace(self._kept, promised=request.generation))
        return self._answer(granted=granted)

    def accept(self, request: f.AcceptState) -> f.AcceptorAnswer:
        """Keep a state, unless a later generation was promised or a later state is kept. Raises ``CorruptData``.

        A directory that has lost something gets another id first. *Schedule without: there was no room to record the loss; a
        state that lists its former id gives it its vote back, and what it accepts then goes with that id: a voter that has
        forgotten what it promised.*
        """
        self._directory.mark_first()
        kept = self._kept
        ballot, held = (request.generation, request.version), (kept.generation, kept.version)
        later = ballot > held or (ballot == held and request.state == kept.state)  # one ballot, one state
        granted = request.generation >= kept.promised and later and self._is_near(request)
        if granted and ballot > held and (self.votes or self._may_vote_again(request)):
            decode_state(request.state)  # nothing undecodable is kept
            self._keep(f.AcceptorAnswer(True, request.generation, *ballot, request.state))
            self._directory.enfranchise()
        return self._answer(granted=granted)

    @property
    def votes(self) -> bool:
        """Whether this copy counts toward a majority: it was not lost since the node promised anything."""
        return self._directory.identity.votes

    def _is_near(self, request: f.PrepareState | f.AcceptState) -> bool:
        """Whether a supervisor may have reached the generation from what is promised here.

        Each goes one above what it hears. *Schedule without this: one frame makes a node promise the last number there is,
        and no supervisor can ever exceed it.* A node that was away for long, or that follows one which was pushed ahead,
        catches up step by step (``register``): a promise only refuses what is earlier, so a promise to a generation without
        a supervisor does no harm.
        """
        return request.generation - self._kept.promised <= MAX_BALLOT_STEP

    def _may_vote_again(self, request: f.AcceptState) -> bool:
        return request.decided and self._directory.directory_id in request.directory_ids

    def _answer(self, *, granted: bool) -> f.AcceptorAnswer:
        return msgspec.structs.replace(
            self._kept, granted=granted, voter=self.votes, directory_id=self._directory.directory_id
        )

    def _keep(self, kept: f.AcceptorAnswer) -> None:
        self._directory.save_register(f.node_answers.encode(f.NodeAnswer(0, kept)))
        self._kept = kept
