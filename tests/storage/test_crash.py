"""Crashes at every kind of moment, on a disk that keeps no more than it promised.

After a crash: of every key there is what was reported durable (or something newer; what was erased is gone), nothing is
there that was not written, no torn tail is called corruption, and recovering again, or being cut off while recovering,
changes nothing.
"""

import random

import pytest

from raykv.sim.disk import SimDisk


class Crash(Exception):
    pass


class World:
    """One disk through many crashes, and what its writer knows."""

    def __init__(self, drive, seed, modes):
        self.drive = drive
        self.rng = random.Random(seed)
        self.modes = modes
        self.disk = SimDisk()
        self.version = 0
        self.written = {}  # key -> all that it ever was, oldest first: records, None where it was not there
        self.durable = {}  # key -> the place there of what was reported durable
        self.waiting = []  # (position, key, place)
        self.end = 0  # the furthest durable end of the log that was reported

    def arm(self, operations):
        left = [operations]

        def count(_operation, _path):
            left[0] -= 1
            if left[0] < 0:
                raise Crash

        self.disk.on_operation = count

    def crash(self):
        self.disk = self.disk.crash(self.rng, self.rng.choice(self.modes))

    def sync(self, engine, sync):
        job = engine.next_sync(sync=sync)
        if job is None:
            return
        job.run(sync)
        engine.finish_sync(job)
        if sync:
            assert engine.durable_end >= self.end
            self.end = engine.durable_end
            for position, key, place in self.waiting:
                if position <= job.position:
                    self.durable[key] = place
            self.waiting = [entry for entry in self.waiting if entry[0] > job.position]

    def write(self, engine, key):
        rng = self.rng
        self.version += 1
        record = b"%08d" % self.version + rng.randbytes(rng.randrange(120))
        states = self.written.setdefault(key, [None])
        what = rng.random()
        if what < 0.15:
            position, kept = engine.erase(key), None
        elif what < 0.3:  # with what an update would lose
            found = engine.replace(key, b"00000000" + record)
            kept, position = found.record, found.position
        else:
            found = engine.update(key, record)
            kept, position = found.record, found.position
            assert kept == record
        if kept != states[-1]:
            states.append(kept)
            self.waiting.append((position, key, len(states) - 1))

    def run(self, engine, steps):
        rng = self.rng
        jobs = []
        for _ in range(steps):
            self.write(engine, b"%02d" % rng.randrange(60))
            if rng.random() < 0.3:
                self.sync(engine, sync=rng.random() < 0.7)
            if rng.random() < 0.2 and (job := engine.next_job()) is not None:
                jobs.append(job)
            if jobs and rng.random() < 0.3:
                job = jobs.pop(rng.randrange(len(jobs)))
                job.run()
                engine.finish(job)
            if rng.random() < 0.01:
                engine.compact_fully()
        for job in jobs:
            engine.abandon(job)
        if rng.random() < 0.3:
            engine.close()
            self.durable.update({key: place for _, key, place in self.waiting})
            self.waiting = []

    def check(self, content):
        assert content.keys() <= self.written.keys(), "invented"
        for key, states in self.written.items():
            assert content.get(key) in states, "invented"
            assert content.get(key) in states[self.durable.get(key, 0) :], "lost, or back again, or went back"

    def go_on_from(self, content):
        """All that is there now is durable, and nothing else was ever written."""
        self.written = {key: [record] for key, record in content.items()}
        self.durable, self.waiting = {}, []


@pytest.mark.parametrize("modes", [("drop",), ("keep",), ("random",), ("random", "keep", "drop")])
@pytest.mark.parametrize("seed", range(25))
def test_crashes(drive, seed, modes):
    world = World(drive, seed, modes)
    for _ in range(8):
        engine = None
        try:
            world.arm(world.rng.randrange(8) if world.rng.random() < 0.3 else world.rng.randrange(300))
            engine = drive.open(world.disk)
            world.run(engine, world.rng.randrange(10, 200))
        except Crash:
            pass
        world.disk.on_operation = None
        world.crash()
        # A recovery interrupted anywhere, then a complete one, then another: all see the same.
        twin = world.disk.crash(world.rng, "keep")
        expected = drive.content(drive.open(twin))
        for _ in range(world.rng.randrange(3)):
            try:
                world.arm(world.rng.randrange(8))
                drive.open(world.disk)
            except Crash:
                pass
            world.disk.on_operation = None
            world.disk = world.disk.crash(world.rng, "keep")
        engine = drive.open(world.disk)
        assert not engine.damaged, [str(damage) for damage in engine.damaged]
        assert engine.recovered(world.end), "an honest node is never taken for an old copy"
        world.end = engine.durable_end
        content = drive.content(engine)
        assert content == expected
        world.check(content)
        assert all(found.position == 0 for _, found in engine.scan(b"", None))
        world.crash()  # what recovery showed is safe
        again = drive.open(world.disk)
        assert not again.damaged
        assert drive.content(again) == content
        world.go_on_from(content)
        world.crash()


@pytest.mark.parametrize("seed", range(12))
def test_crashes_in_recovery_on_a_disk_with_corruption(drive, seed):
    """Corruption stays corruption, whatever recoveries were cut off and whatever torn tail came with it."""
    rng = random.Random(seed)
    world = World(drive, seed, ("random",))
    engine = drive.open(world.disk, memtable_bytes=1 << 16)
    for number in range(30):
        engine.update(b"%02d" % number, b"%08d" % number)
        drive.sync(engine)
    engine.update(b"tail", b"x" * 300)
    drive.sync(engine, sync=False)
    (path,) = drive.files(world.disk, ".wal")
    disk = world.disk.crash(rng, "keep")
    disk.flip_bit(path, rng.randrange(200, 1200), rng.randrange(8))
    disk.flip_bit(path, disk.size(path) - rng.randrange(1, 300))
    expected = None
    for _ in range(6):
        world.disk = disk
        try:
            world.arm(rng.randrange(10))
            engine = drive.open(disk, memtable_bytes=1 << 16)
            seen = (drive.content(engine), [damage.offset for damage in engine.damaged])
            assert expected in (None, seen)
            expected = seen
        except Crash:
            pass
        disk.on_operation = None
        disk = disk.crash(rng, "keep" if expected is None else "random")
    engine = drive.open(disk, memtable_bytes=1 << 16)
    seen = (drive.content(engine), [damage.offset for damage in engine.damaged])
    assert expected in (None, seen)
    assert len(seen[1]) == 1
    assert 28 <= len(seen[0]) <= 29
    assert b"tail" not in seen[0]
