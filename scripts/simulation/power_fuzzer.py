"""One storage node whose host loses its power again and again, in front of any operation on its disk.

A power cut alone costs a node nothing that it acknowledged or showed: it comes up again, complete, with all of it. In a run
of a whole cluster the moment between two certain operations (a manifest is renamed, and its directory is not synced yet)
is seldom met, and what a disk may have lost then is one outcome of several. Here the operations that other files rely on
are met more often than the many appends between them, in recoveries too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raykv.config import NodeConfig
from raykv.ports import Known
from raykv.records.keys import encode_key
from raykv.sim.kernel import ProcessEnded
from simulation.lone_node import LoneNode, play

if TYPE_CHECKING:
    from raykv.errors import CorruptData
    from raykv.sim.kernel import VirtualLoop
    from simulation.history import Violation

CUTS = 2
WRITES_AT_MOST = 60
_BEFORE = (("", 30), ("sync_directory", 5), ("sync_directory", 5), ("rename", 3), ("unlink", 3))
"""Kind of operation ("": any), and the number of the next ones before one of which the power goes."""


def fuzz_power(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Fuzz one world; return what was wrong, and the hash of all answers."""
    return play(_Fuzzer, f"power drill {seed}.{number}")


class _Fuzzer(LoneNode):
    about = "with power cuts"
    broken = "lost with the power"

    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        super().__init__(loop, seed)
        rng = self.rng
        self.keys = [encode_key(f"k{number:02}") for number in range(rng.choice((4, 12, 30)))]
        self.config = NodeConfig(
            memtable_bytes=4096, block_bytes=256, block_cache_bytes=0, table_bytes=16384,
            runs_per_level=2, max_unflushed_bytes=32768,
        )  # fmt: skip
        self.last = Known()
        self.cuts = 0

    async def go(self) -> _Fuzzer:
        await self.start()
        for _ in range(CUTS):
            await self._until_the_power_goes()
            if self.violations:
                break
            await self.start()
            if self.node is not None and not self.violations:
                await self.scan()
                await self.read(self.keys)
        if self.process is not None:
            self.process.kill()
        await asyncio.sleep(2.0)
        return self

    async def _until_the_power_goes(self) -> None:
        rng = self.rng
        self._arm()
        for _ in range(
            rng.choice((0, 0, 6))
        ):  # flushes find no room, and are tried again: memtables pile up in the log
            self.host.disk.fail("create", ".sst")
        cuts = self.cuts
        for _ in range(WRITES_AT_MOST):
            if self.cuts > cuts or self.violations or self.node is None:
                return
            await (self.write() if rng.random() < 0.8 else self.wait())

    def _arm(self) -> None:
        rng, host = self.rng, self.host
        host.crash_of, most = rng.choice(_BEFORE)
        host.crash_after = rng.randrange(most)
        host.on_crash = self._power

    def _power(self) -> None:
        self.cuts += 1
        self.host.replace_disk(self.host.disk.crash(self.rng, "random"))

    def known(self) -> Known:
        """Return how far the log of the last run was durable."""
        if self.node is not None:
            self.last = self.node.known
        return self.last

    async def start(self) -> None:
        """Start the node, as often as it takes: its power may go while it recovers, or as soon as it runs."""
        while True:
            try:
                await super().start()
            except ProcessEnded:
                if self.rng.random() < 0.5:
                    self._arm()
                continue
            if self.node is not None and not self.node.complete:
                self.report("not complete", "nothing but its power went, and the node says that it lacks something")
            return

    def not_opened(self, error: CorruptData) -> None:
        """Report it."""
        self.report("not to be opened", f"nothing but its power went: {error}")

    def compare(self, key: bytes, record: bytes | None, what: str) -> None:
        """Compare, and keep what was shown: it must not be lost either."""
        super().compare(key, record, what)
        if record is not None:
            self.held[key] = record
