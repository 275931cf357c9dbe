"""One storage node by itself, and its clients: the common part of the fuzzers of one disk.

In a run of a whole cluster the peers give back what a disk lost before anybody has asked its node for it. Here nobody
does. What the node acknowledged it must show, or say that it cannot.
"""

from __future__ import annotations

import asyncio
import hashlib
import random as random_module
from typing import TYPE_CHECKING

from raykv.config import NodeConfig, StoreConfig
from raykv.errors import CorruptData
from raykv.ports import Known
from raykv.protocol import frames as f
from raykv.records.record import pack_body, stamp, stamp_of
from raykv.sim.host import EPOCH_MS
from raykv.sim.kernel import Process, run_virtual
from simulation.bare_cluster import BareCluster
from simulation.history import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.node.node import StorageNode
    from raykv.sim.kernel import VirtualLoop

NODE = "n1"
PARTITIONS = 8


class LoneNode(BareCluster):
    """A cluster of one node, and its promises. A fuzzer decides what happens to it."""

    store_id = "s"
    about = "with one node"
    """What it is about, for its reports."""
    broken = "passed over"
    """The rule that it breaks who shows less than was acknowledged."""

    async def go(self) -> LoneNode:
        """Let it all happen."""
        raise NotImplementedError

    def __init__(
        self, loop: VirtualLoop, seed: str, keys: Sequence[bytes] = (), config: NodeConfig | None = None
    ) -> None:
        store = StoreConfig(name="lone", copies=1, partitions=PARTITIONS, durability="group")
        super().__init__(loop, seed, store, [NODE])
        self.rng = random_module.Random(seed)
        self.answers = hashlib.blake2b(digest_size=16)
        self.host = self.hosts[NODE]
        self.keys = [*keys]
        self.config = config or NodeConfig()
        self.held: dict[bytes, bytes] = {}
        """Key -> the newest record that was acknowledged."""
        self.time = EPOCH_MS << 16
        self.node: StorageNode | None = None

    def rng_for(self, purpose: str) -> random_module.Random:
        """Return a generator of its own for ``purpose``."""
        return super().rng_for("host" if purpose == NODE else purpose)

    @property
    def process(self) -> Process | None:
        """The last one that opened the node."""
        return self.processes.get(NODE)

    def known(self) -> Known:
        """Return what is known of earlier runs, for a node that starts."""
        return Known()

    async def start(self) -> None:
        """Start the node, after its end."""
        if self.process is not None:
            self.process.kill()
            await asyncio.sleep(0.01)
        try:
            self.node = self.open(NODE, self.config, self.rng, fresh=not self.held, known=self.known())
        except CorruptData as error:
            self.node = None  # it says so: what it held can be had from the others only
            self.not_opened(error)

    def not_opened(self, error: CorruptData) -> None:
        """Hear that the node cannot be opened any more."""

    async def ask(self, body: f.NodeRequestBody) -> f.NodeAnswerBody | None:
        """Return the node's answer; None if it has ended over it."""
        assert self.node is not None
        assert self.process is not None
        frame = f.node_requests.encode(f.NodeRequest(0, body))
        task = self.process.spawn(self.node.serve(frame))
        await asyncio.wait([task])
        if not self.process.alive or task.cancelled() or task.exception() is not None:
            await self.start()
            return None
        self.answers.update(task.result())
        return f.node_answers.decode(task.result()).body

    async def write(self) -> None:
        """Write a few keys, each a value that is new."""
        rng = self.rng
        items: list[tuple[bytes, bytes]] = []
        for key in rng.sample(self.keys, rng.randint(1, 3)):
            self.time += 1
            body = pack_body(rng.randbytes(16), rng.randbytes(rng.choice((10, 100, 600))))
            items.append((key, stamp(body, self.time)))
        answer = await self.ask(f.Write(1, items))
        if isinstance(answer, f.WriteDone):
            for (key, record), newer in zip(items, answer.newer, strict=True):
                if not newer:
                    self.held[key] = max(record, self.held.get(key, b""), key=_stamp)

    async def read(self, keys: Sequence[bytes]) -> None:
        """Read keys, and compare with what was acknowledged."""
        answer = await self.ask(f.Read(1, [*keys]))
        if isinstance(answer, f.ReadDone):
            for at, (key, record) in enumerate(zip(keys, answer.records, strict=True)):
                if at not in answer.unreadable and at not in answer.left:
                    self.compare(key, record, "read")

    async def scan(self) -> None:
        """Scan everything, and compare with what was acknowledged."""
        answer = await self.ask(f.Scan(1, b"", b"\xff", 1000, False, False, [*range(PARTITIONS)]))
        if isinstance(answer, f.ScanDone) and answer.covered is None:
            found = dict(answer.items)
            for key in self.keys:
                self.compare(key, found.get(key), "scan")

    async def wait(self) -> None:
        """Let flushes and compactions come to their end."""
        await asyncio.sleep(self.rng.choice((0.01, 0.1, 1.5)))

    def compare(self, key: bytes, record: bytes | None, what: str) -> None:
        """Compare what was shown with what was acknowledged."""
        promised, name = self.held.get(key, b""), key[1:].decode()
        if _stamp(record or b"") < _stamp(promised):
            shown = "absent" if record is None else "an older record"
            self.report(self.broken, f"a {what} of {name} shows {shown}, and no word of what cannot be read", name)


def _stamp(record: bytes) -> bytes:
    return stamp_of(record) if record else b""


def play(make: Callable[[VirtualLoop, str], LoneNode], name: str) -> tuple[list[Violation], str]:
    """Run a fuzzer; return what was wrong, and the hash of all answers."""
    runner, loop = run_virtual(lambda loop: make(loop, name).go())
    found = runner.violations + [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.answers.hexdigest()
