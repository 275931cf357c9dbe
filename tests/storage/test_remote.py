"""Jobs whose work another process does: the same tables come of it, and where it fails the thread goes on."""

import logging
import random

import msgspec
import pytest

from raykv.ports import HelperLost
from raykv.records.dropped import DroppedBuckets
from raykv.records.keys import storage_prefix
from raykv.sim.disk import SimDisk
from raykv.storage.jobs import CompactionJob, FlushJob
from raykv.storage.remote import Done, Unfinished, Worker, _decode_answer, _decode_request


class Helper:
    """A helper in this process. ``after``: how many calls it answers before it is lost."""

    def __init__(self, disk, after=10**9):
        self.worker, self.after = Worker(disk), after
        self.kinds = []

    def call(self, message):
        self.kinds.append(type(_decode_request(message)).__name__)
        self.after -= 1
        if self.after < 0:
            raise HelperLost("the test ends it")
        try:
            return self.answer(message)
        except KeyError:
            raise HelperLost("it ends over a job that it does not know") from None

    def answer(self, message):
        return self.worker.handle(message)

    def close(self):
        pass


def opened(drive, disk, helper, **changes):
    engine = drive.open(disk, **changes)
    engine.use_helper(helper, worth_bytes=0)
    return engine


def fill(drive, engine, seed=1, erase=0.2):
    rng = random.Random(seed)
    model = {}
    for step in range(600):
        key = b"k%04d" % rng.randrange(150)
        if rng.random() < erase:
            engine.erase(key)
            model.pop(key, None)
        else:
            model[key] = engine.replace(key, b"%08d" % step + rng.randbytes(90)).record
        if step % 20 == 19:
            drive.sync(engine)
            drive.work(engine)
    return model


@pytest.mark.parametrize("policy", ["tiered", "leveled"])
def test_the_same_tables_come_of_it(drive, policy):
    found = []
    for helped in (False, True):
        disk = SimDisk()
        changes = {"compaction": policy, "level_ratio": 2, "max_space_amplification": 1.5}
        helper = Helper(disk)
        engine = opened(drive, disk, helper, **changes) if helped else drive.open(disk, **changes)
        model = fill(drive, engine)
        drive.flush(engine)
        assert drive.content(engine) == model
        assert bool(helper.kinds) == helped
        infos = [table.info for run in engine._runs for table in run.tables]
        infos = [msgspec.structs.replace(info, number=0, digest=0, size_bytes=0) for info in infos]
        found.append((infos, engine.stats().garbage_bytes))
        tables = sum(len(run.tables) for run in engine._runs)
        assert len(drive.files(disk, ".sst")) == tables
        assert {*helper.kinds} == ({"Flushing", "Merging", "Go"} if helped else set())
    assert found[0] == found[1]


def test_what_was_dropped_is_left_out_by_the_helper(drive, disk):
    helper = Helper(disk)
    engine = opened(drive, disk, helper)
    keys = [storage_prefix(partition, bucket) + b"\x02k" for partition in (0, 7) for bucket in (1, 2, 3)]
    for version in (1, 2, 3):
        for key in keys:
            engine.replace(key, b"%08d" % version + bytes(1000))
        drive.sync(engine)
    engine.drop = DroppedBuckets(3, frozenset([1]))
    drive.flush(engine)
    assert "Merging" in helper.kinds
    assert engine._workshop.helper is helper
    assert [*drive.content(engine)] == [key for key in keys if key[5] != 2], "bucket 3 is not known yet"


@pytest.mark.parametrize("after", range(0, 40, 3))
def test_where_the_helper_is_lost_the_thread_does_it(drive, disk, after, caplog):
    caplog.set_level(logging.CRITICAL, "raykv.storage")
    helper = Helper(disk, after)
    engine = opened(drive, disk, helper)
    model = fill(drive, engine)
    drive.sync(engine)
    drive.work(engine)
    assert drive.content(engine) == model
    assert helper.after == -1, "it is not asked again"
    tables = sum(len(run.tables) for run in engine._runs)
    assert len(drive.files(disk, ".sst")) == tables, "what it had begun is gone"
    assert drive.content(drive.open(disk.crash(random.Random(1), "drop"))) == model


def waiting(drive, engine, kind, keys=150):
    """Bring the engine to where a job of this kind is due, and return it."""
    rng = random.Random(1)
    for step in range(3000):
        engine.replace(b"k%04d" % rng.randrange(keys), b"%08d" % step + rng.randbytes(90))
        drive.sync(engine)
        job = engine.next_job()
        if type(job) is kind:
            return job
        if job is not None:
            job.run()
            engine.finish(job)
    raise AssertionError


@pytest.mark.parametrize("kind", [FlushJob, CompactionJob])
@pytest.mark.parametrize("steps", [0, 1, 2, 100])
def test_a_job_given_up_is_forgotten_by_the_helper(drive, disk, kind, steps):
    helper = Helper(disk)
    engine = opened(drive, disk, helper, table_bytes=16384, memtable_bytes=1 << 16, block_bytes=1024)
    job = waiting(drive, engine, kind, keys=9999)
    before = drive.content(engine)
    files = drive.files(disk, ".sst")
    for _ in range(steps):
        if job.step():
            break
    engine.abandon(job)
    assert not helper.worker._jobs
    assert drive.files(disk, ".sst") == files
    drive.work(engine)
    assert drive.content(engine) == before


def test_a_full_disk_is_an_error_of_the_job(drive, disk):
    helper = Helper(disk)
    engine = opened(drive, disk, helper)
    job = waiting(drive, engine, CompactionJob)
    disk.space_bytes = 0
    with pytest.raises(OSError, match="space"):
        job.run()
    engine.abandon(job)
    assert not helper.worker._jobs
    disk.space_bytes = None
    before = len(helper.kinds)
    assert drive.work(engine)
    assert len(helper.kinds) > before, "it is asked again"


def test_corruption_that_the_helper_finds_is_noted(drive, disk):
    helper = Helper(disk)
    engine = opened(drive, disk, helper)
    job = waiting(drive, engine, CompactionJob)
    path = f"{drive.directory}/{job.sources[0][0].name}"
    disk.flip_bit(path, 30)
    job.run()
    engine.finish(job)
    assert [damage.offset for damage in engine.damaged] == [12]
    assert not disk.exists(path)
    assert disk.exists(path + ".rotten")


def test_a_table_that_the_helper_cannot_open_is_left_to_the_node(drive, disk):
    """The node has its index in memory, and saves what can be read."""
    helper = Helper(disk)
    engine = opened(drive, disk, helper)
    job = waiting(drive, engine, CompactionJob)
    before = drive.content(engine)
    path = f"{drive.directory}/{job.sources[0][0].name}"
    disk.flip_bit(path, disk.size(path) - 3)
    job.run()
    engine.finish(job)
    assert drive.content(engine) == before
    assert not engine.damaged
    assert engine._workshop.helper is helper, "it goes on with other jobs"


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xc1", b"\x91\x07", msgspec.msgpack.encode(Unfinished(9)), msgspec.msgpack.encode(Unfinished(-1))],
)
def test_an_answer_that_makes_no_sense_ends_it(drive, disk, answer, caplog):
    caplog.set_level(logging.CRITICAL, "raykv.storage")

    class Mad(Helper):
        def answer(self, message):
            good = self.worker.handle(message)
            return answer if type(_decode_answer(good)) in (Unfinished, Done) else good

    engine = opened(drive, disk, Mad(disk))
    model = fill(drive, engine)
    assert drive.content(engine) == model
    assert engine._workshop.helper is None


def test_it_cannot_name_tables_that_are_not_its_own(drive, disk, caplog):
    caplog.set_level(logging.CRITICAL, "raykv.storage")

    class Greedy(Helper):
        def answer(self, message):
            good = _decode_answer(self.worker.handle(message))
            if type(good) is Done and good.built:
                info = msgspec.structs.replace(good.built[0].info, number=1)
                good = msgspec.structs.replace(good, built=[msgspec.structs.replace(good.built[0], info=info)])
            return msgspec.msgpack.encode(good)

    engine = opened(drive, disk, Greedy(disk))
    model = fill(drive, engine)
    assert drive.content(engine) == model
    assert engine._workshop.helper is None
