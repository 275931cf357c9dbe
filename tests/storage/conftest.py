"""Fixtures of the storage tests: a simulated disk, small sizes, and an engine driven by hand."""

from __future__ import annotations

import functools
import random

import pytest

from raykv.config import NodeConfig
from raykv.sim.disk import SimDisk
from raykv.storage import Engine, NodeDirectory

DIRECTORY = "/node/data"


class Drive:
    """An engine with its jobs run by hand. Records are ``version:text``; the higher version stands."""

    config = NodeConfig(
        memtable_bytes=4096, block_bytes=256, table_bytes=16384, max_unflushed_bytes=1 << 20, runs_per_level=3,
        block_cache_bytes=1 << 16, max_space_amplification=1000,
    )  # fmt: skip
    directory = DIRECTORY

    @staticmethod
    def merge(stored, incoming):
        return incoming if stored is None else max(stored, incoming)

    @classmethod
    def open(cls, disk, **changes):
        config = cls.config if not changes else type(cls.config)(**{**cls.fields(), **changes})
        return Engine.open(disk, DIRECTORY, config, cls.merge)

    @classmethod
    def fields(cls):
        return {name: getattr(cls.config, name) for name in cls.config.__struct_fields__}

    @staticmethod
    def sync(engine, sync=True):
        job = engine.next_sync(sync=sync)
        if job is not None:
            job.run(sync)
            engine.finish_sync(job)

    @staticmethod
    def work(engine, limit=1000):
        done = 0
        while done < limit and (job := engine.next_job()) is not None:
            job.run()
            engine.finish(job)
            done += 1
        return done

    @classmethod
    def fill(cls, engine, count, prefix="k", version=1, size=40):
        """Write ``count`` keys, synced, and do the work that this makes."""
        model = {}
        for number in range(count):
            key = b"%s%05d" % (prefix.encode(), number)
            record = b"%08d:" % version + b"%05d" % number * (size // 5)
            model[key] = engine.update(key, record).record
            if number % 20 == 19:
                cls.sync(engine)
                cls.work(engine)
        cls.sync(engine)
        cls.work(engine)
        return model

    @classmethod
    def flush(cls, engine):
        """Bring everything to tables, in one run."""
        engine.compact_fully()
        cls.sync(engine)
        cls.work(engine)
        assert engine.stats().memtable_records == 0

    @staticmethod
    def content(engine):
        return {key: found.record for key, found in engine.scan(b"", None)}

    @staticmethod
    def files(disk, suffix):
        return [f"{DIRECTORY}/{name}" for name in disk.list_directory(DIRECTORY) if name.endswith(suffix)]


class Node:
    """A node's directory with an engine in it, driven by hand."""

    def __init__(self, drive, disk, **changes):
        self.drive, self.disk = drive, disk
        self.directory = NodeDirectory.open(
            disk, "/n", store_id="shop", node_id="n1", random=random.Random(1), complete_if_new=True, note=b'{"pid":1}'
        )
        config = type(drive.config)(**{**drive.fields(), **changes})
        identity = self.directory.identity
        self.engine = Engine.open(
            disk,
            "/n/data",
            config,
            drive.merge,
            mark=identity.mark,
            run=self.directory.last_run,
            owner=self.directory.owner,
        )
        self.directory.note_data(self.engine.begin_run(identity.incarnation))

    def fill(self, count=300, **how):
        """Write keys of partition 7, bucket 1."""
        return self.drive.fill(self.engine, count, prefix="\0\7\0\0\0\1\2k", **how)

    def flush(self):
        self.engine.compact_fully()
        self.drive.sync(self.engine)
        self.drive.work(self.engine)

    def stop(self):
        self.engine.close()
        self.directory.mark_clean(self.engine.mark())
        self.directory.close()


@pytest.fixture
def start():
    """Return a function that starts a node on a disk: its directory ``/n``, with the engine in it."""
    return functools.partial(Node, Drive)


@pytest.fixture
def drive():
    return Drive


@pytest.fixture
def disk():
    return SimDisk()
