"""Storage nodes in the simulated world, and nobody who looks after them: no supervisor, no launcher, no clients.

``raykv.sim.cluster`` with the upper half left out, on the same hosts, disks, network and processes. Fuzzers and schedules
about parts stand on it: they start nodes on the directories that they like, and decide what nodes learn.
"""

from __future__ import annotations

import random as random_module
from typing import TYPE_CHECKING

from raykv.cluster.peers import node_address
from raykv.node.node import NodeSpec
from raykv.sim.host import Host, SimExecutor
from raykv.sim.kernel import Process
from raykv.sim.network import Network
from raykv.sim.nodes import EXIT_AFTER_S, PATH, storage_node
from raykv.sim.trace import Trace
from simulation.history import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.config import NodeConfig, StoreConfig
    from raykv.node.node import StorageNode
    from raykv.ports import Executor, Known
    from raykv.sim.kernel import VirtualLoop


class BareCluster:
    """Hosts with disks, a network, and the nodes that were opened last; ``violations``: the broken promises so far."""

    store_id = "bare"
    about = ""
    """What it is about, for its reports."""

    def __init__(
        self, loop: VirtualLoop, seed: str, store: StoreConfig, node_ids: Sequence[str], others: Sequence[str] = ()
    ) -> None:
        """``others``: hosts that are no nodes'."""
        self.loop = loop
        self.seed = seed
        self.store = store
        self.trace = Trace(loop)
        self.network = Network(loop, self.rng_for("network"), self.trace)
        self.node_ids = [*node_ids]
        self.hosts = {name: Host(name, loop, self.rng_for(name), self.trace) for name in [*node_ids, *others]}
        self.nodes: dict[str, StorageNode] = {}
        self.processes: dict[str, Process] = {}
        self.violations: list[Violation] = []

    def rng_for(self, purpose: str) -> random_module.Random:
        """Return a generator of its own for ``purpose``."""
        return random_module.Random(f"{self.seed}/{purpose}")

    def report(self, rule: str, text: str, key: str = "") -> None:
        """Note what is wrong."""
        self.violations.append(Violation(rule, key, f"in a world {self.about}: {text}", self.loop.now_s))

    def open(
        self,
        node_id: str,
        config: NodeConfig,
        rng: random_module.Random,
        *,
        fresh: bool,
        known: Known,
        reaches_others: bool = False,
    ) -> StorageNode:
        """Open a node in a process of its own, in place of the last one, and note both. It is not on the network yet.

        ``reaches_others``: whether it can ask its peers, and so heal. Raises what ``StorageNode`` raises; the process has
        ended then.
        """
        process, host = Process(self.loop, node_address(node_id)), self.hosts[node_id]
        spec = NodeSpec(
            store_id=self.store_id, node_id=node_id, path=PATH, store=self.store, node=config, fresh=fresh, known=known
        )

        def opened() -> StorageNode:
            return storage_node(
                spec,
                host,
                process,
                self.network if reaches_others else None,
                random=rng,
                on_failure=lambda cause: self.failed(node_id, process, cause),
                executor=self.executor(host, process),
            )

        try:
            node = process.run(opened)
        except BaseException:
            process.kill()
            raise
        self.nodes[node_id], self.processes[node_id] = node, process
        self.trace.note(f"runs as incarnation {node.incarnation}", node_id)
        return node

    def executor(self, host: Host, process: Process) -> Executor:
        """Return what a node's long work is done by."""
        return SimExecutor(host, process)

    def failed(self, node_id: str, process: Process, cause: str) -> None:
        """Hear that a node has given itself up: its process ends a moment later."""
        del node_id, cause
        self.loop.later(EXIT_AFTER_S / 10, process.kill)

    def runs(self, node_id: str) -> bool:
        """Whether a node's process runs."""
        return self.processes[node_id].alive
