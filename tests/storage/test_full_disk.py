"""A disk without room costs a refusal, never an update, and nothing that was there before."""

from __future__ import annotations

import errno
import random

import pytest

from raykv.sim.disk import SimDisk
from raykv.storage import DiskFull, EngineFailed, NodeDirectory


def run(job, disk, again_with):
    """Run a job on a disk that may be full; then with room."""
    found_none = False
    while True:
        try:
            job.run()
        except DiskFull:
            found_none = True
            disk.space_bytes = again_with
        else:
            return found_none


@pytest.mark.parametrize("space", [0, 1, 20, 40, 60, 100, 300, 1000, 3000])
@pytest.mark.parametrize("rotates", [False, True])
def test_the_log_goes_on_where_it_found_no_room(drive, disk, space, rotates):
    engine = drive.open(disk, memtable_bytes=4096 if rotates else 1 << 20)
    model = {}
    for number in range(5):
        model[b"a%d" % number] = engine.update(b"a%d" % number, b"%08d:" % 1 + b"x" * 30).record
    drive.sync(engine)
    disk.space_bytes = space
    for number in range(60):
        model[b"b%d" % number] = engine.update(b"b%d" % number, b"%08d:" % 1 + b"y" * 50).record
    before = engine.durable_position
    job = engine.next_sync()
    with pytest.raises(DiskFull):
        job.run()
    assert engine.durable_position == before, "nothing is reported as safe"
    assert engine.failure is None
    assert engine.get(b"a0") is not None, "it goes on reading"
    for mode in ("keep", "drop"):  # what a crash leaves now has all that was safe, and no damage
        left = drive.open(disk.crash(random.Random(1), mode))
        assert left.damaged == ()
        found = drive.content(left)
        assert {f"a{n}".encode() for n in range(5)} <= {*found}
        assert all(model[key] == record for key, record in found.items())
    disk.space_bytes = None
    job.run()
    engine.finish_sync(job)
    drive.work(engine)
    left = drive.open(disk.crash(random.Random(1), "drop"))
    assert left.damaged == ()
    assert drive.content(left) == model


@pytest.mark.parametrize("operation", ["append", "create"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_finds_no_room_nothing_acknowledged_is_lost(drive, operation, error, seed):
    """Flush, compaction, manifest and log, each at some time; and the process dies at the end."""
    rng = random.Random(seed)
    disk, model = SimDisk(), {}
    engine = drive.open(disk)
    refused = 0
    for number in range(400):
        if rng.random() < 0.2:
            disk.fail(operation, rng.choice((".wal", ".sst", "manifest")), error=error)
        key = b"k%03d" % rng.randrange(60)
        record = engine.update(key, b"%08d:" % number + b"z" * 60).record
        job = engine.next_sync()
        while not job.done:
            try:
                job.run()
            except DiskFull:
                refused += 1
        engine.finish_sync(job)
        model[key] = record
        while (work := engine.next_job()) is not None:
            try:
                work.run()
            except OSError:
                engine.abandon(work)
                refused += 1
                continue
            while True:
                try:
                    engine.finish(work)
                except DiskFull:
                    refused += 1
                else:
                    break
        assert engine.get(key).record == record
    disk.stop_failing()
    assert refused > 5
    assert drive.content(engine) == model
    left = drive.open(disk.crash(rng, "drop"))
    assert left.damaged == ()
    assert drive.content(left) == model
    stray = {*drive.files(disk, ".sst")} - {
        f"{drive.directory}/{table.name}" for r in engine._runs for table in r.tables
    }
    assert not stray, "what found no room leaves nothing behind"


def test_a_sync_that_finds_no_room_ends_the_engine(drive, disk):
    """Delayed allocation: the kernel may have dropped the pages, and nobody tries again."""
    engine = drive.open(disk)
    engine.update(b"a", b"00000001:x")
    disk.fail("sync", ".wal", error=errno.ENOSPC)
    with pytest.raises(EngineFailed):
        engine.next_sync().run()
    with pytest.raises(EngineFailed):
        engine.get(b"a")


def test_identity_and_register_stay_what_they_were(disk):
    options = {"store_id": "s", "node_id": "n1", "random": random.Random(1), "complete_if_new": True}
    directory = NodeDirectory.open(disk, "/n", **options)
    directory.save_register(b"first")
    disk.space_bytes = 10
    with pytest.raises(DiskFull):
        directory.save_register(b"second")
    directory.note_alive(17)
    directory.set_complete(False)
    assert not directory.identity.complete, "what it knows it knows, written down or not"
    with pytest.raises(DiskFull):
        directory.set_complete(True)
    assert not directory.identity.complete
    assert directory.load_register() == b"first"
    assert disk.list_directory("/n") == ["identity", "lock", "register"], "nothing is left beside them"
    disk.space_bytes = None
    directory.save_register(b"second")
    assert directory.load_register() == b"second"
