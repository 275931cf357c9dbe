"""One storage node, bits that flip on its disk all the time, and nobody who would mend anything.

In a run of a whole cluster the peers give back what rot took before anybody has asked this node for it. Here nobody does.
What the node acknowledged it must show, or say that it cannot: unreadable, incomplete, or not to be opened any more. It
must never say "absent", nor show less, however tables are merged, logs replayed and processes killed meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import random as random_module
from typing import TYPE_CHECKING

from raykv.config import NodeConfig, StoreConfig
from raykv.errors import CorruptData
from raykv.records import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, stamp, stamp_of
from raykv.replication.node import NodeSpec
from raykv.sim.history import Violation
from raykv.sim.host import EPOCH_MS, Host
from raykv.sim.kernel import Process, run_virtual
from raykv.sim.nemesis import flip_a_bit
from raykv.sim.nodes import open_node
from raykv.sim.trace import Trace

if TYPE_CHECKING:
    from raykv.replication.node import StorageNode
    from raykv.sim.kernel import VirtualLoop

PATH = "/data"
STEPS = 120
_PARTITIONS = 8


def rot_drill(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Run one drill; return what was wrong, and the hash of all answers."""
    runner, loop = run_virtual(lambda loop: _Drill(loop, f"rot drill {seed}.{number}").go())
    found = runner.violations + [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.answers.hexdigest()


class _Drill:
    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        self.loop = loop
        self.rng = rng = random_module.Random(seed)
        self.violations: list[Violation] = []
        self.answers = hashlib.blake2b(digest_size=16)
        self.host = Host("n1", loop, random_module.Random(f"{seed}/host"), Trace(loop))
        self.keys = [encode_key(f"k{number:02}") for number in range(rng.choice((4, 12, 30)))]
        self.rotten = rng.choice((0.05, 0.15, 0.3))
        """How likely a step is one that flips a bit."""
        self.config = NodeConfig(
            memtable_bytes=4096, block_bytes=rng.choice((256, 1024)), block_cache_bytes=rng.choice((0, 0, 1 << 16)),
            table_bytes=16384, runs_per_level=2, max_unflushed_bytes=32768,
        )  # fmt: skip
        self.held: dict[bytes, bytes] = {}
        """Key -> the newest record that was acknowledged."""
        self.time = EPOCH_MS << 16
        self.node: StorageNode | None = None
        self.process: Process | None = None

    async def go(self) -> _Drill:
        rng = self.rng
        await self._start()
        steps = (self._write, self._read_some, self._scan, self._rot, self._start, self._wait)
        for _ in range(STEPS):
            if self.node is None or self.violations:
                break
            (step,) = rng.choices(steps, (9, 1, 0.3, 20 * self.rotten, 0.6, 3))
            await step()
        for again in (False, True):
            if again:
                await self._start()
            if self.node is not None:
                await self._scan()
                await self._read(self.keys)
        if self.process is not None:
            self.process.kill()
        await asyncio.sleep(2.0)
        return self

    async def _start(self) -> None:
        """Start the node, after its end."""
        if self.process is not None:
            self.process.kill()
            await asyncio.sleep(0.01)
        process = self.process = Process(self.loop, "node/n1")
        spec = NodeSpec(
            store_id="s", node_id="n1", path=PATH, fresh=not self.held, node=self.config,
            store=StoreConfig(name="rot", copies=1, partitions=_PARTITIONS, durability="group"),
        )  # fmt: skip
        try:
            self.node = open_node(spec, self.host, process, self.rng)
        except CorruptData:
            self.node = None  # it says so: what it held can be had from the others only

    async def _ask(self, body: f.NodeRequestBody) -> f.NodeAnswerBody | None:
        """Return the node's answer; None if it has ended over it."""
        assert self.node is not None
        assert self.process is not None
        frame = f.node_requests.encode(f.NodeRequest(0, body))
        task = self.process.spawn(self.node.serve(frame))
        await asyncio.wait([task])
        if not self.process.alive or task.cancelled() or task.exception() is not None:
            await self._start()
            return None
        self.answers.update(task.result())
        return f.node_answers.decode(task.result()).body

    async def _write(self) -> None:
        rng = self.rng
        items: list[tuple[bytes, bytes]] = []
        for key in rng.sample(self.keys, rng.randint(1, 3)):
            self.time += 1
            body = pack_body(rng.randbytes(16), rng.randbytes(rng.choice((10, 100, 600))))
            items.append((key, stamp(body, self.time)))
        answer = await self._ask(f.Write(1, items))
        if isinstance(answer, f.WriteDone):
            for (key, record), newer in zip(items, answer.newer, strict=True):
                if not newer:
                    self.held[key] = max(record, self.held.get(key, b""), key=_stamp)

    async def _read_some(self) -> None:
        await self._read(self.rng.sample(self.keys, 2))

    async def _rot(self) -> None:
        if (path := flip_a_bit(self.host.disk, self.rng)) is not None:
            self.answers.update(path.encode())

    async def _wait(self) -> None:
        """Let flushes and compactions come to their end."""
        await asyncio.sleep(self.rng.choice((0.01, 0.1, 1.5)))

    async def _read(self, keys: list[bytes]) -> None:
        answer = await self._ask(f.Read(1, keys))
        if isinstance(answer, f.ReadDone):
            for at, (key, record) in enumerate(zip(keys, answer.records, strict=True)):
                if at not in answer.unreadable and at not in answer.left:
                    self._compare(key, record, "read")

    async def _scan(self) -> None:
        answer = await self._ask(f.Scan(1, b"", b"\xff", 1000, False, False, [*range(_PARTITIONS)]))
        if isinstance(answer, f.ScanDone) and answer.covered is None:
            found = dict(answer.items)
            for key in self.keys:
                self._compare(key, found.get(key), "scan")

    def _compare(self, key: bytes, record: bytes | None, what: str) -> None:
        promised = self.held.get(key, b"")
        if _stamp(record or b"") < _stamp(promised):
            shown = "absent" if record is None else "an older record"
            text = (
                f"in a drill with rot: a {what} of {key[1:].decode()} shows {shown}, and no word of what cannot be read"
            )
            self.violations.append(Violation("rot passed over", key[1:].decode(), text, self.loop.now_s))


def _stamp(record: bytes) -> bytes:
    return stamp_of(record) if record else b""
