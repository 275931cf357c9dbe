"""A process that lacks something is not a corrupt disk."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest

from raykv.config import NodeConfig
from raykv.sim.disk import SimDisk
from raykv.storage import Engine
from raykv.storage.jobs import CompactionJob, FlushJob


def newest(_stored: bytes | None, incoming: bytes) -> bytes:
    return incoming


def work(engine: Engine) -> None:
    while (sync := engine.next_sync()) is not None:
        sync.run()
        engine.finish_sync(sync)
    while (job := engine.next_job()) is not None:
        try:
            job.run()
        except OSError:
            engine.abandon(job)
            return
        engine.finish(job)


def filled(disk: SimDisk) -> Engine:
    engine = Engine.open(disk, "/n", NodeConfig(memtable_bytes=16384, max_unflushed_bytes=1 << 20), newest)
    for number in range(300):
        engine.update(b"k%03d" % number, b"x" * 100)
        work(engine)
    return engine


def failing(disk: SimDisk, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_read(path: str) -> Any:
        raise OSError(code, "injected", path)

    monkeypatch.setattr(disk, "open_read", open_read)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_a_start_without_file_descriptors_fails_and_sets_nothing_aside(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimDisk()
    filled(disk).close()
    before = disk.list_directory("/n")
    with monkeypatch.context() as patch:
        failing(disk, code, patch)
        with pytest.raises(OSError, match="injected"):
            Engine.open(disk, "/n", NodeConfig(), newest)
    assert [name for name in disk.list_directory("/n") if name.endswith(".sst")] == [
        name for name in before if name.endswith(".sst")
    ]
    engine = Engine.open(disk, "/n", NodeConfig(), newest)
    assert engine.damaged == ()
    assert len(list(engine.scan(b"", None))) == 300


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
def test_a_flush_whose_table_does_not_open_is_tried_again(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimDisk()
    engine = filled(disk)
    flushes = engine.stats().flushes
    with monkeypatch.context() as patch:
        failing(disk, code, patch)
        for number in range(100):
            engine.update(b"l%03d" % number, b"x" * 100)
        work(engine)
    assert engine.stats().flushes == flushes
    work(engine)
    assert engine.stats().flushes > flushes
    assert engine.damaged == ()
    assert len(list(engine.scan(b"", None))) == 400


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
def test_a_compaction_whose_tables_do_not_all_open_keeps_none_open_and_is_tried_again(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimDisk()
    config = NodeConfig(memtable_bytes=4096, table_bytes=16384, max_unflushed_bytes=1 << 20)
    engine = Engine.open(disk, "/n", config, newest)
    for number in range(600):
        engine.update(b"k%03d" % number, random.Random(number).randbytes(100))
        work(engine)
    engine.compact_fully()
    sync = engine.next_sync()
    assert sync is not None
    sync.run()
    engine.finish_sync(sync)
    flush = engine.next_job()
    assert isinstance(flush, FlushJob)
    flush.run()
    engine.finish(flush)
    opened: list[Any] = []
    open_read = disk.open_read

    def open_some(path: str) -> Any:
        if len(opened) == 2:
            raise OSError(code, "injected", path)
        opened.append(open_read(path))
        return opened[-1]

    compactions = engine.stats().compactions
    with monkeypatch.context() as patch:
        patch.setattr(disk, "open_read", open_some)
        job = engine.next_job()
        assert isinstance(job, CompactionJob)
        with pytest.raises(OSError, match="injected"):
            job.run()
        engine.abandon(job)
    assert len(opened) == 2
    assert not any(file._open for file in opened)
    work(engine)
    assert engine.stats().compactions > compactions
    assert engine.stats().runs == 1
    assert len(list(engine.scan(b"", None))) == 600


@pytest.mark.parametrize("operation", ["unlink", "list_directory"])
@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_file_that_cannot_be_removed_costs_its_space_until_the_next_start(operation: str, code: int) -> None:
    disk = SimDisk()
    engine = filled(disk)
    disk.fail(operation, error=code, lasting=True)
    for number in range(200):
        engine.update(b"l%03d" % number, b"x" * 100)
        work(engine)
    engine.compact_fully()
    work(engine)
    assert engine.failure is None
    assert len(list(engine.scan(b"", None))) == 500
    disk.stop_failing()
    left = {name for name in disk.list_directory("/n") if name.endswith((".sst", ".wal"))}
    engine.close()
    again = Engine.open(disk, "/n", NodeConfig(), newest)
    assert again.damaged == ()
    assert len(list(again.scan(b"", None))) == 500
    assert {name for name in disk.list_directory("/n") if name.endswith((".sst", ".wal"))} < left
