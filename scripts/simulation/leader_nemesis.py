"""Faults that find their node when their time comes: the present leader of a key's partition in the linearizable bucket.

A fault drawn for a fixed node seldom meets the leader, and more seldom at the moment that matters. These name a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raykv.cluster.peers import node_address
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.ring import partition_in
from raykv.sim.nemesis import Nemesis
from simulation.change_workload import LINEAR_BUCKET

if TYPE_CHECKING:
    from raykv.sim.faults import Fault, FaultKind

_PASSING: dict[str, FaultKind] = {
    "freeze leader": "freeze", "cut leader": "cut", "kill leader": "kill", "full disk at leader": "disk full",
    "clock jump at leader": "clock jump",
}  # fmt: skip


class LeaderNemesis(Nemesis):
    """A nemesis that knows who leads."""

    bucket = LINEAR_BUCKET
    """The bucket whose keys the faults name."""

    def leader(self, key: str) -> str | None:
        """Return who believes that it leads, under the latest term; else who would be asked first. None if none lives."""
        cluster = self._cluster
        supervisor = cluster.supervisor
        if supervisor is None:
            return None
        copies = cluster.spec.store.copies
        state = supervisor.state
        entry = state.bucket(self.bucket)
        config = None if entry is None else entry.config
        place = partition_in(config, encode_key(key), state.ring.partitions), copies
        found = []
        for node_id in cluster.node_ids:
            node = cluster.nodes.living(node_id)
            tenure = None
            if node is not None and node._leaders is not None:  # noqa: SLF001 - it knows what no client does
                tenure = node._leaders._tenures.get(place)  # noqa: SLF001
            if tenure is not None:
                found.append((tenure.term, node_id))
        if found:
            return max(found)[1]
        first = supervisor.state.read_set(*place)[0]
        return first if cluster.nodes.living(first) is not None else None

    def _at_leader(self, fault: Fault, number: int) -> None:
        """Do to the leader what the fault's kind does to a node."""
        node_id = self.leader(fault.target)
        if node_id is not None:
            same = msgspec.structs.replace(fault, kind=_PASSING[fault.kind], target=node_id)
            getattr(self, f"_do_{same.kind.replace(' ', '_')}")(same, number)

    _do_freeze_leader = _do_cut_leader = _do_kill_leader = _at_leader
    _do_full_disk_at_leader = _do_clock_jump_at_leader = _at_leader

    def _do_kill_sending_leader(self, fault: Fault, number: int) -> None:
        """Kill the leader right after it has sent its next record: to all owners, or, with ``amount``, to so many."""
        del number
        network, loop = self._cluster.network, self._cluster.loop
        hear = network.sent
        left = int(fault.amount)

        def sent(source: str, target: str, frame: bytes) -> None:
            nonlocal left
            hear(source, target, frame)
            if not source.startswith("node/") or not self._is_record(frame) or network.sent is not sent:
                return
            left -= 1
            if left <= 0:
                network.sent = hear
                loop.call_soon(self._end, source.removeprefix("node/"))

        network.sent = sent
        self._until(fault, lambda: setattr(network, "sent", hear) if network.sent is sent else None)

    @staticmethod
    def _is_record(frame: bytes) -> bool:
        if b"Accept" not in frame[:40]:
            return False
        body = f.node_requests.decode(frame).body
        return isinstance(body, f.Accept) and any(items for _, _, items in body.groups)

    def _end(self, node_id: str) -> None:
        if self._cluster.nodes.living(node_id) is not None:
            self._cluster.trace.note("killed as it sends a record", "nemesis", node_address(node_id))
            self._cluster.nodes.kill(node_id)
