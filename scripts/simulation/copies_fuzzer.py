"""Three copies, one coordinator, no clients and no supervisor: differences that last until somebody reads or heals.

In a run of a whole cluster hints and repairs level the copies within moments, and what a read or a scan does about copies
that differ is seldom seen. Here records are put on any of the copies, nodes are killed, wiped and corrupted, and
in half of the worlds nothing mends by itself. One thing after the other, so it is known at every moment what a quorum has
acknowledged or shown: no read and no scan may show less from then on. ``Promises`` watches each node as well.
"""

from __future__ import annotations

import asyncio
import random as random_module
from typing import TYPE_CHECKING

from raykv.coordinator.writes import Put
from raykv.errors import RaykvError, StoreUnavailable
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, pack_tombstone_body, stamp
from raykv.repair.merkle import digest
from raykv.sim.disk import SimDisk
from raykv.sim.kernel import run_virtual
from raykv.sim.nemesis import flip_a_bit
from simulation.copies_world import COPIES, CopiesWorld, Settings
from simulation.history import Violation

if TYPE_CHECKING:
    from raykv.sim.kernel import VirtualLoop

STEPS = 60
_ALL_KEYS = (b"\x00", b"\xff")


def fuzz_copies(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Fuzz one world; return what was wrong, and the hash of its trace."""
    runner, loop = run_virtual(lambda loop: _Fuzzer(loop, f"copies drill {seed}.{number}").go())
    found = runner.violations + runner.promises.broken
    found += [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.trace.hexdigest()


def _settings(rng: random_module.Random) -> Settings:
    delay_s = (0.0002, rng.choice((0.002, 0.01)))
    gc_grace_s = rng.choice((1.0, 1.0, 600.0))  # with the last an old directory may be believed, as far as it goes
    mends, all_get_all = rng.random() < 0.5, rng.random() < 0.3
    return Settings(
        r=1 if all_get_all else 2,
        w=COPIES if all_get_all else 2,
        mends=mends,
        gc_grace_s=gc_grace_s,
        delay_s=delay_s,
        scan_bytes=rng.choice((1 << 20, 1000, 3000)),
        repair_every_s=rng.choice((86_400.0, 1.0)),
        slow_disk_s=rng.choice((0.0, 0.02, 0.1)),
        keys=rng.choice((6, 40, 40)),
    )


class _Fuzzer(CopiesWorld):
    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        rng = random_module.Random(seed)
        super().__init__(loop, seed, rng, _settings(rng))
        self.all_get_all = self.w == COPIES
        """Whether all writes are put on all copies (W=3, R=1): then two of them may be lost at once."""
        self.old_disks: dict[str, SimDisk] = {}
        self.puts: list[asyncio.Task[None]] = []
        self.faults = 0

    async def go(self) -> _Fuzzer:
        await self.begin()
        rng = self.rng
        self.kinds = rng.sample(("kill", "wipe", "corruption", "wait", "old copy"), 4)
        steps = (
            self._put, self._put_beside, self._read_some, self._scan, self._fault, self.start_all, self._forget,
            self._put_in_vain,
        )  # fmt: skip
        for _ in range(STEPS):
            if self.violations or self.promises.broken:
                break
            (step,) = rng.choices(steps, (7, 4, 4, 2, 4, 4, 2, 1))
            await step()
        await self.start_all()
        await asyncio.sleep(rng.choice((0.0, 2.0)))
        for _ in range(2):  # other copies are asked, or in another order
            await self.read(self.keys)
            await self._scan()
        await self.end_all()
        return self

    # ---- what is done ----

    async def _put(self) -> None:
        """Put a few records on all copies or on some; a record on a majority of complete ones is acknowledged."""
        rng, faults = self.rng, self.faults
        targets = self.node_ids if self.all_get_all else rng.sample(self.node_ids, rng.choice((1, 2, 2, 3)))
        items = []
        for key in rng.sample(self.keys, rng.randint(1, 3)):
            self.time += 1
            payload = rng.randbytes(rng.choice((10, 300)))
            items.append((encode_key(key), stamp(pack_body(rng.randbytes(16), payload), self.time)))
        asked = [asyncio.ensure_future(self.ask(node_id, f.Write(self.bucket_id, items))) for node_id in targets]
        done = [isinstance(answer, f.WriteDone) for answer in await asyncio.gather(*asked)]
        if sum(done) >= self.w and self.faults == faults:  # else one may have said so before it was wiped
            for encoded, record in items:
                self.raise_floor(encoded[1:].decode(), int.from_bytes(record[1:9], "big"))

    async def _put_beside(self) -> None:
        """Begin a put, and do not wait for it."""
        self.puts.append(self.client.spawn(self._put()))

    async def _put_in_vain(self) -> None:
        """Put a record with only one node left, whose disk fails; the answer to the client must be true."""
        rng = self.rng
        alone = rng.choice(self.node_ids)
        if not self.runs(alone) or self.lossy - {alone}:
            return
        for node_id in self.node_ids:
            if node_id != alone:
                self.end(node_id)
        operation = rng.randbytes(16)
        items = [Put(encode_key(rng.choice(self.keys)), pack_body(operation, rng.randbytes(10)), None)]
        self.hosts[alone].disk.fail(rng.choice(("sync", "sync", "append")))
        try:
            writes = self.coordinator._writes  # noqa: SLF001 - and not by way of a frame
            (outcome,) = await self.carry_out(writes.write(self.entry, items, self.w, self.loop.now_s + 0.3))
        except StoreUnavailable as error:
            outcome = error
        if isinstance(outcome, StoreUnavailable):
            self.refused.add(operation)
        self.end(alone)
        self.hosts[alone].disk.stop_failing()
        await self.start_all()

    async def _read_some(self) -> None:
        await self.read(self.rng.sample(self.keys, 3))

    async def _forget(self) -> None:
        """Delete a key on all copies, and let all of them forget it, as a purge does."""
        if self.store.gc_grace_s > 1.0:
            return
        await asyncio.gather(*self.puts, return_exceptions=True)  # or one would come after it that was made before
        await asyncio.sleep(max(0.0, self.store.gc_grace_s - self.loop.now_s))  # all records are of the beginning
        if not all(self.runs(node_id) and self.nodes[node_id].complete for node_id in self.node_ids):
            return
        self.old_disks.clear()  # no directory comes back from before a purge: it would be too old for that (P10)
        key, faults = self.rng.choice(sorted(self.floor) or self.keys), self.faults
        beneath = self.rng.random() < 0.7
        if beneath:  # what is deleted is in a table, and the delete in the log
            for node in self.nodes.values():
                node._engine.compact_fully()  # noqa: SLF001
            await self.read([key])
            await asyncio.sleep(0.3)
        self.time += 1
        self.deleted[key] = self.time
        encoded, tombstone = encode_key(key), stamp(pack_tombstone_body(self.rng.randbytes(16)), self.time)
        write = f.Write(self.bucket_id, [(encoded, tombstone)])
        done = await asyncio.gather(*(self.ask(node_id, write) for node_id in self.node_ids))
        if not all(isinstance(answer, f.WriteDone) for answer in done):
            return
        purge = f.Purge([(self.bucket_id, encoded, digest(self.bucket_id, encoded, tombstone))], sure=True)
        self.promises.forget(self.bucket_id, encoded)
        self.floor.pop(key, None)
        purged = await asyncio.gather(*(self.ask(node_id, purge) for node_id in self.node_ids))
        if all(isinstance(answer, f.Purged) and answer.indexes for answer in purged) and faults == self.faults:
            self.forgotten[key] = self.time
            if beneath:
                await self._corrupt_the_log(self.rng.choice(self.node_ids))

    async def _corrupt_the_log(self, node_id: str) -> None:
        """Corrupt most of what a node has logged lately, deletes and what was forgotten among it; start it again."""
        if self.lossy - {node_id} or "corruption" not in self.kinds:
            return
        for _ in range(3):  # corruption in what nothing was logged after looks like a torn tail
            await self._put()
        self.faults += 1
        self.lossy.add(node_id)
        self.corrupted.add(node_id)
        self.end(node_id)
        for _ in range(3):
            flip_a_bit(self.hosts[node_id].disk, self.rng, ".wal", times=20)
        self.start(node_id)
        await self.send_state(node_id)
        await asyncio.sleep(self.rng.choice((0.0, 3.0)))

    async def _scan(self) -> None:
        rng, limit, reverse = self.rng, self.rng.choice((3, 7, 1000)), self.rng.random() < 0.5
        start, end = _ALL_KEYS
        shown: dict[str, bytes] = {}
        floor = dict(self.floor)
        if rng.random() < 0.3:
            for node_id in rng.sample(self.node_ids, 2):
                if self.runs(node_id):
                    self.loop.later(rng.uniform(0.0, 0.02), self.end, node_id)
        while True:
            request = f.ScanPage(self.bucket_id, start, end, limit, reverse, False, self.r, 0.5)
            try:
                steps = self.coordinator._scans.page(  # noqa: SLF001 - complete records
                    self.entry,
                    request,
                    self.loop.now_s + 0.5,
                    self.coordinator.routing.clock.wall_ms(),
                    fast=limit == 7,
                )
                pairs, resume = await self.carry_out(steps)
            except RaykvError:
                return
            shown |= {key[1:].decode(): record for key, record in pairs}
            if resume is None:
                break
            start, end = (start, resume) if reverse else (resume, end)
        for key in self.keys:
            self.compare(key, shown.get(key), "scan", floor)

    # ---- faults ----

    async def _fault(self) -> None:
        rng, kind = self.rng, self.rng.choice(self.kinds)
        node_id = rng.choice(self.node_ids)
        self.faults += 1
        self.trace.note(f"fault: {kind}", node_id)
        may_lose = not self.lossy - {node_id}
        match kind:
            case "kill" if self.runs(node_id):
                self.end(node_id)
            case "wipe" if may_lose:
                await self._wipe(node_id)
            case "old copy":
                await self._old_copy(node_id, may_lose=may_lose)
            case "corruption" if may_lose and self.runs(node_id):
                self.lossy.add(node_id)
                self.corrupted.add(node_id)
                for _ in range(6):
                    flip_a_bit(self.hosts[node_id].disk, rng)
            case _:
                await asyncio.sleep(rng.choice((0.01, 0.3, 3.0)))

    async def _wipe(self, node_id: str) -> None:
        rng, victims = self.rng, [node_id]
        self.lossy.add(node_id)
        if self.all_get_all:  # and the third is away, from whom all could be had
            victims.append(rng.choice([other for other in self.node_ids if other != node_id]))
            self.lossy.update(victims)
            for other in self.node_ids:
                self.end(other)
        for victim in victims:
            self.end(victim)
            self.hosts[victim].replace_disk(SimDisk())
            self.start(victim)
            await self.send_state(victim)
        if rng.random() < 0.5:  # of one that gives, or one that takes
            self.loop.later(rng.uniform(0.0, 0.3), self.power, rng.choice(self.node_ids))
        for _ in range(rng.choice((0, 3))):
            await self._put_beside()
        await asyncio.sleep(rng.choice((0.0, 3.0)))

    async def _old_copy(self, node_id: str, *, may_lose: bool) -> None:
        """Make a copy of a node's directory, or put the one back that was made before."""
        if node_id not in self.old_disks or self.rng.random() < 0.3:
            self.old_disks[node_id] = self.hosts[node_id].disk.crash(self.rng, "keep")
        elif may_lose:
            self.lossy.add(node_id)
            self.end(node_id)
            self.hosts[node_id].replace_disk(self.old_disks.pop(node_id))
            self.start(node_id)
            await self.send_state(node_id)
            await asyncio.sleep(self.rng.choice((0.0, 3.0)))
