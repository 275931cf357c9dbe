"""One storage node, bits that flip on its disk all the time, and nobody who would mend anything.

What the node acknowledged it must show, or say that it cannot: unreadable, incomplete, or not to be opened any more. It
must never say "absent", nor show less, however tables are merged, logs replayed and processes killed meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raykv.config import NodeConfig
from raykv.records.keys import encode_key
from raykv.sim.nemesis import flip_a_bit
from simulation.lone_node import LoneNode, play

if TYPE_CHECKING:
    from raykv.sim.kernel import VirtualLoop
    from simulation.history import Violation

STEPS = 120


def fuzz_corruption(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Fuzz one world; return what was wrong, and the hash of all answers."""
    return play(_Fuzzer, f"rot drill {seed}.{number}")  # the name that seeds were drawn from


class _Fuzzer(LoneNode):
    about = "with corruption"
    broken = "corruption passed over"

    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        super().__init__(loop, seed)
        rng = self.rng
        self.keys = [encode_key(f"k{number:02}") for number in range(rng.choice((4, 12, 30)))]
        self.corrupt = rng.choice((0.05, 0.15, 0.3))
        """How likely a step is one that flips a bit."""
        self.config = NodeConfig(
            memtable_bytes=4096, block_bytes=rng.choice((256, 1024)), block_cache_bytes=rng.choice((0, 0, 1 << 16)),
            table_bytes=16384, runs_per_level=2, max_unflushed_bytes=32768,
        )  # fmt: skip

    async def go(self) -> _Fuzzer:
        rng = self.rng
        await self.start()
        steps = (self.write, self._read_some, self.scan, self._corrupt, self.start, self.wait)
        for _ in range(STEPS):
            if self.node is None or self.violations:
                break
            (step,) = rng.choices(steps, (9, 1, 0.3, 20 * self.corrupt, 0.6, 3))
            await step()
        for again in (False, True):
            if again:
                await self.start()
            if self.node is not None:
                await self.scan()
                await self.read(self.keys)
        if self.process is not None:
            self.process.kill()
        await asyncio.sleep(2.0)
        return self

    async def _read_some(self) -> None:
        await self.read(self.rng.sample(self.keys, 2))

    async def _corrupt(self) -> None:
        if (path := flip_a_bit(self.host.disk, self.rng)) is not None:
            self.answers.update(path.encode())
