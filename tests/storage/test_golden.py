"""Files that versions 1, 2 and 3 wrote, which every later raykv must read.

``golden/v3-plain`` is also what today's code writes, byte for byte: a change of format that forgot its version shows
here. ``golden/v3-lz4`` and ``v3-zstd`` are only read (another lz4 may pack otherwise). Rewrite them, after a change of
version, with ``python tests/storage/test_golden.py``, and keep the old ones under their own name. The number is that of
tables, the youngest of the formats.
"""

from __future__ import annotations

import pathlib
import random

import pytest

from raykv.config import NodeConfig
from raykv.sim.disk import SimDisk
from raykv.storage import Engine, NodeDirectory, sstable_writer

GOLDEN = pathlib.Path(__file__).parent / "golden"
KEYS = [b"\x00\x07\x00\x00\x00\x01\x02key %03d" % number for number in range(40)]


def record(number, version):
    return b"\x01%04d" % version + b"value of %d " % number * 3


def merge(stored, incoming):
    return incoming if stored is None else max(stored, incoming)


def config(name):
    kind = name.partition("-")[2]
    return NodeConfig(compression="none" if kind == "plain" else kind, block_bytes=512, memtable_bytes=1 << 16)


def run(engine):
    sync = engine.next_sync()
    if sync is not None:
        sync.run()
        engine.finish_sync(sync)
    while (job := engine.next_job()) is not None:
        job.run()
        engine.finish(job)


def open_engine(disk, name, directory):
    engine = Engine.open(
        disk,
        "/n/data",
        config(name),
        merge,
        mark=directory.identity.mark,
        run=directory.last_run,
        owner=directory.owner,
    )
    assert not engine.doubt
    assert not directory.doubt_about_register()
    directory.note_data(engine.begin_run(directory.identity.incarnation))
    return engine


def build(name):
    """A node's directory with a flushed table and a log of two segments behind it, stopped cleanly."""
    disk = SimDisk()
    options = {"store_id": "golden", "node_id": "n1", "random": random.Random(1), "complete_if_new": True}
    directory = NodeDirectory.open(disk, "/n", **options)
    directory.save_register(b"the cluster's state")
    engine = open_engine(disk, name, directory)
    for number, key in enumerate(KEYS[:30]):
        engine.update(key, record(number, 1))
    engine.compact_fully()
    run(engine)
    for number, key in enumerate(KEYS[20:], start=20):
        engine.update(key, record(number, 2))
        if number % 5 == 4:
            run(engine)
    engine.close()
    directory.mark_clean(engine.mark())
    directory.close()
    return disk


def files(disk):
    for folder in ("/n", "/n/data"):
        for name in disk.list_directory(folder):
            if name not in ("lock", "data"):
                yield f"{folder}/{name}"[3:], disk.read_file(f"{folder}/{name}", 1 << 20)


def load(name):
    disk = SimDisk()
    disk.make_directories("/n/data")
    for path in sorted((GOLDEN / name).rglob("*")):
        if path.is_file():
            file = disk.create(f"/n/{path.relative_to(GOLDEN / name).as_posix()}")
            file.append(path.read_bytes())
            file.sync()
    disk.sync_directory("/n")
    disk.sync_directory("/n/data")
    return disk


@pytest.mark.parametrize("name", ["v1-plain", "v1-lz4", "v2-plain", "v2-lz4", "v3-plain", "v3-lz4", "v3-zstd"])
def test_today_reads_it(name):
    if name.endswith("zstd"):
        pytest.importorskip("zstandard")
    disk = load(name)
    assert disk.list_directory("/n/data") == ["00000002.sst", "00000002.wal", "manifest"]
    options = {"store_id": "golden", "node_id": "n1", "random": random.Random(2), "complete_if_new": False}
    directory = NodeDirectory.open(disk, "/n", **options)
    assert directory.previous.clean
    assert directory.identity.complete
    assert (directory.identity.incarnation, directory.load_register()) == (2, b"the cluster's state")
    engine = open_engine(disk, name, directory)
    assert not engine.damaged
    assert engine.stats().table_records == 30
    assert engine.stats().memtable_records == 20
    expected = {key: record(number, 1 if number < 20 else 2) for number, key in enumerate(KEYS)}
    assert {key: found.record for key, found in engine.scan(b"", None)} == expected
    engine.close()
    directory.mark_clean(engine.mark())
    directory.close()
    again = NodeDirectory.open(disk, "/n", **options)
    assert again.identity.mark.exact, "and from then on it is known what was left"
    assert {key: found.record for key, found in open_engine(disk, name, again).scan(b"", None)} == expected


def test_today_writes_the_same_bytes():
    written = dict(files(build("v3-plain")))
    kept = dict(files(load("v3-plain")))
    assert sorted(written) == sorted(kept)
    for path, data in written.items():
        assert data == kept[path], f"{path}: the format changed; give it a new version"


def test_a_golden_table_has_a_dictionary():
    pytest.importorskip("zstandard")
    engine = Engine.open(load("v3-zstd"), "/n/data", config("v3-zstd"), merge)
    assert engine._runs[0].tables[0]._dictionary


if __name__ == "__main__":
    sstable_writer.train = lambda _: b"value of 12 value of 12 value of 12 " * 4  # 30 records are not worth one
    for golden in ("v3-plain", "v3-lz4", "v3-zstd"):
        for path, data in files(build(golden)):
            target = GOLDEN / golden / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
