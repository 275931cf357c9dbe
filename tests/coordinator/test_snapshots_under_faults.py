"""Snapshots among crashes, power cuts, cuts and moves, by seed: what one promises holds whenever it succeeds."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from backed_up import BACKUPS, gathered
from world import Cluster, run

from raykv.cluster.state import Move
from raykv.config import NodeConfig
from raykv.errors import RaykvError
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.repair.restoring import Backup, listed
from raykv.storage import Engine
from raykv.versions import shown

SMALL = NodeConfig(memtable_bytes=4096, table_bytes=16384, max_unflushed_bytes=1 << 20, block_cache_bytes=0)
KEYS = 12


class Story:
    """Clients put growing numbers under their own keys; an operator takes snapshots; hosts fail in between."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        nodes = self.rng.choice((3, 3, 4, 5))
        self.cluster = Cluster(
            nodes,
            versioning=self.rng.choice(("lww", "vector")),
            sloppy=self.rng.random() < 0.3,
            durability=self.rng.choice(("group", "always")),
            config=SMALL,
            maintenance=True,
        ).start()
        self.peers = [self.cluster.coordinator(f"coordinator-{number}") for number in range(2)]
        self.acknowledged: dict[str, int] = {}
        self.attempted: dict[str, int] = {}
        self.promised: list[tuple[str, dict[str, int]]] = []
        self.refused = 0
        self.ended = False

    async def write(self, name: str) -> None:
        """Put, one after the other, and note what was acknowledged."""
        turn = 0
        while not self.ended:
            turn += 1
            key = f"{name}{self.rng.randrange(KEYS)}"
            self.attempted[key] = turn
            try:
                await self.rng.choice(self.peers).put(key, f"{turn}", timeout_s=1.0)
            except RaykvError:
                await asyncio.sleep(0.02)
            else:
                self.acknowledged[key] = turn
            await asyncio.sleep(self.rng.random() * 0.02)

    async def take(self) -> None:
        """Take a snapshot; if it succeeds, what was acknowledged before is promised."""
        before = dict(self.acknowledged)
        try:
            report = (await self.rng.choice(self.peers).front.carry_out(f.TakeSnapshot(BACKUPS, 4.0))).data
        except RaykvError:
            self.refused += 1
        else:
            self.promised.append((report["snapshot"], before))

    def break_something(self) -> None:
        """End a process, cut a link, or move a partition; a minority at a time."""
        cluster, rng = self.cluster, self.rng
        down = [node_id for node_id in cluster.ids if not cluster.runs(node_id)]
        match rng.randrange(5):
            case 0 | 1 if not down:
                cluster.kill(rng.choice(cluster.ids), rng.choice(("drop", "keep", "random")))
            case 2:
                cluster.cut(f"coordinator-{rng.randrange(2)}", f"node/{rng.choice(cluster.ids)}")
            case 3 if len(cluster.ids) > 3 and not down:
                self.move()
            case _:
                cluster.mend()
                for node_id in down:
                    cluster.revive(node_id)
                if not [node_id for node_id in cluster.ids if not cluster.runs(node_id)]:
                    cluster.publish(*self.peers)

    def move(self) -> None:
        """Begin a partition's move, or take it back: step 1 of P4, in which reads ask the old owners."""
        state = self.cluster.state
        moves: tuple[Move, ...] = ()
        if not state.moves:
            partition = self.rng.randrange(state.ring.partitions)
            owners = state.ring.owners(partition)
            others = [node_id for node_id in self.cluster.ids if node_id not in owners]
            moves = (Move(partition, (self.rng.choice(others), *owners[:2])),)
        self.cluster.state = msgspec.structs.replace(
            state, version=state.version + 1, epoch=state.epoch + 1, moves=moves
        )
        self.cluster.tell()

    async def tell(self) -> None:
        """Do it all for a while, then check each snapshot that was reported."""
        clients = [asyncio.create_task(self.write(name)) for name in "ab"]
        for _ in range(12):
            await asyncio.sleep(self.rng.random() * 0.3)
            if self.rng.random() < 0.4:
                task = asyncio.create_task(self.take())
                await asyncio.sleep(self.rng.random() * 0.1)
                self.break_something()
                await task
            else:
                self.break_something()
        self.cluster.mend()
        for node_id in self.cluster.ids:
            if not self.cluster.runs(node_id):
                self.cluster.revive(node_id)
        self.cluster.publish(*self.peers)
        await asyncio.sleep(2)
        await self.take()
        self.ended = True
        await asyncio.gather(*clients)
        self.check()

    def check(self) -> None:
        """Read every snapshot back: only those that were reported, or lost their report, are there."""
        disk = gathered(self.cluster)
        there = {each.snapshot for each in listed(disk, BACKUPS)} if disk.files() else set()
        assert {snapshot for snapshot, _ in self.promised} <= there
        for snapshot, before in self.promised:
            backup = Backup.open(disk, BACKUPS, snapshot)
            found: dict[bytes, int] = {}
            for batch in backup.batches(1):
                for key, record in batch.items:
                    values = [int(payload) for payload in shown(record, 0).payloads]
                    found[key] = max([found.get(key, 0), *values])
            assert not backup.lacking()
            assert not backup.check(set())
            for key, turn in before.items():
                assert found.get(encode_key(key), 0) >= turn, f"{key} of {snapshot}"
            for key, turn in self.attempted.items():
                assert found.get(encode_key(key), 0) <= turn, "nothing is invented"


def told(seed: int) -> Story:
    stories = []

    async def story():
        stories.append(Story(seed))
        await stories[0].tell()

    run(story())
    return stories[0]


@pytest.mark.parametrize("seeds", [range(4), range(4, 8)])
def test_what_a_snapshot_promises_holds_whatever_fails(seeds):
    stories = [told(seed) for seed in seeds]
    assert sum(len(story.promised) for story in stories) >= 4


def test_with_a_node_that_does_not_wait_for_its_flush_it_does_not(monkeypatch):
    monkeypatch.setattr(Engine, "flushed", lambda *_: True)
    with pytest.raises(AssertionError, match=" of 2"):
        [told(seed) for seed in range(12)]
