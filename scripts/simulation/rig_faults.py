"""Faults of the test rig: what befalls a coordinator in the middle of an operation, or a node that has too much to do.

``raykv.sim`` has the faults that a user's own test may ask for. These need more than a world offers:

* **overload**: a node refuses what its server may shed, as ``raykv.transport.admission`` has it. In production that is
  about how long requests wait for their turn in one process, of which a simulated process knows nothing.
* **stop while it sends**: a coordinator, or a client that is one, stands still right after it has sent one of the frames of
  a round. Its other frames were not sent yet, and are not to be when it goes on, if their time is over by then (P8). No
  fault that comes at a drawn moment would find it there: in virtual time all frames of a round leave at once.
* **corruption in a table**: as the world's "bit rot", and not in a log or a manifest, where a node meets it as a whole:
  one key cannot be read, and its neighbours can.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec

from raykv.protocol import frames as f
from raykv.sim.nemesis import flip_a_bit
from raykv.transport.admission import may_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.node.node import StorageNode
    from raykv.sim.cluster import Cluster
    from raykv.sim.kernel import Process
    from raykv.sim.nemesis import Nemesis

RigFaultKind = Literal["overload", "stop while it sends", "corruption in a table"]
REFUSAL = "it has more to do than it can"


class RigFault(msgspec.Struct, frozen=True):
    """A fault that hits ``target`` from ``at_s`` on, for ``for_s``.

    ``amount``: the share of requests that an overloaded node refuses; after how many more frames to nodes a process stops.
    """

    at_s: float
    kind: RigFaultKind
    target: str
    for_s: float
    amount: float = 1.0

    def describe(self) -> str:
        """Return a line for a human reader."""
        return f"{self.at_s:9.3f}  {self.kind} {self.target} ({self.amount:g}) for {self.for_s:.2f} s"


class RigFaults:
    """The faults of one run. A node that is overloaded counts as hurt, as ``health`` sees it."""

    def __init__(self, cluster: Cluster, nemesis: Nemesis, faults: Sequence[RigFault]) -> None:
        self._cluster = cluster
        self._nemesis = nemesis
        self._faults = faults
        self._rng = cluster.rng("rig faults")
        self._share: dict[str, float] = {}
        """Node -> the share of requests that it refuses now."""
        self._to_send: dict[str, tuple[int, float]] = {}
        """Process -> after how many more frames it stops, and for how long."""
        self._stopped: list[Process] = []
        self._healed = False

    def start(self) -> None:
        """Set a timer for each."""
        begin: dict[RigFaultKind, Callable[[RigFault], None]] = {
            "overload": self._overload, "stop while it sends": self._arm, "corruption in a table": self._corrupt,
        }  # fmt: skip
        for fault in self._faults:
            self._cluster.loop.later(fault.at_s, begin[fault.kind], fault)

    def heal(self) -> None:
        """End all of them, and begin none any more."""
        self._healed = True
        for node_id in list(self._share):
            self._end_overload(node_id)
        self._to_send.clear()
        for process in self._stopped:
            process.thaw()
        self._stopped.clear()

    # ---- overload ----

    def _overload(self, fault: RigFault) -> None:
        if self._healed or fault.target in self._share:
            return
        self._begun(fault)
        hurting = self._nemesis.hurting
        hurting[fault.target] = hurting.get(fault.target, 0) + 1
        self._share[fault.target] = fault.amount
        self._cluster.loop.later(fault.for_s, self._end_overload, fault.target)

    def _end_overload(self, node_id: str) -> None:
        if self._share.pop(node_id, None) is None:
            return
        hurting = self._nemesis.hurting
        hurting[node_id] -= 1
        if not hurting[node_id]:
            del hurting[node_id]

    def refusal(self, node: StorageNode, frame: bytes) -> bytes | None:
        """Return what a node says at the door; None if it takes the request."""
        share = self._share.get(node.spec.node_id)
        if share is None or not may_wait(frame) or self._rng.random() >= share:
            return None
        self._cluster.counts["shed"] += 1
        return f.node_answers.encode(f.NodeAnswer(node.incarnation, f.NodeRefused("overloaded", REFUSAL)))

    # ---- corruption ----

    def _corrupt(self, fault: RigFault) -> None:
        if not self._healed and flip_a_bit(self._cluster.hosts[fault.target].disk, self._rng, ".sst") is not None:
            self._begun(fault)

    # ---- stops ----

    def _arm(self, fault: RigFault) -> None:
        if not self._healed:
            self._to_send[fault.target] = int(fault.amount), fault.for_s

    def sent(self, source: str) -> None:
        """Note that a process has sent a node a frame."""
        armed = self._to_send.get(source)
        if armed is None:
            return
        frames, for_s = armed
        if frames > 1:
            self._to_send[source] = frames - 1, for_s
            return
        del self._to_send[source]
        process = self._cluster.actors.get(source)
        if process is None or not process.alive or process.frozen:
            return
        self._begun(RigFault(self._cluster.loop.now_s, "stop while it sends", source, for_s))
        process.freeze()
        self._stopped.append(process)
        self._cluster.loop.later(for_s, partial(self._go_on, process))

    def _go_on(self, process: Process) -> None:
        if process in self._stopped:
            self._stopped.remove(process)
            process.thaw()

    def _begun(self, fault: RigFault) -> None:
        self._cluster.trace.note(f"fault: {fault.kind} {fault.amount:g}", "nemesis", fault.target)
        self._cluster.counts[f"fault: {fault.kind}"] += 1
