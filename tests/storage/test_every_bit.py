"""Every bit of every file of a small node flipped, every truncation, every file removed.

Never a wrong value, and never in silence. The node was stopped cleanly, so nothing in its files may change. It is started
on what is left and read. What it says of a key is what was acknowledged, or it refuses the key (``CorruptData``), or it
says of itself that it may lack something, and then shows nothing that was never written: damage of unknown keys or a doubt,
for which the node answers no reads (P1).

In short form one bit of each byte; with ``--long`` all of them.
"""

from __future__ import annotations

import logging
import random

import pytest

from raykv.errors import CorruptData, RaykvError
from raykv.sim.disk import SimDisk
from raykv.storage import Engine, NodeDirectory
from raykv.storage.sstable import HEADER

DIRECTORIES = ("/n", "/n/data")


@pytest.fixture(autouse=True)
def silence(caplog):
    caplog.set_level(logging.CRITICAL, "raykv.storage")


@pytest.fixture
def left(start, drive):
    """The files of a small node, all that each key ever was (the newest last), and how to start it."""
    disk = SimDisk()
    node = start(disk, memtable_bytes=4096, block_bytes=256, compression="lz4")
    node.directory.save_register(b"state")
    history = {}

    def write(number, version):
        key = b"\0\7\0\0\0\1\2k%02d" % number
        record = b"%08d:" % version + b"r%d" % number * 9
        assert node.engine.update(key, record).record == record
        history.setdefault(key, []).append(record)

    for number in range(24):
        write(number, 1)
    node.flush()
    for number in range(0, 24, 5):
        write(number, 2)
        drive.sync(node.engine)
    node.engine.erase(b"\0\7\0\0\0\1\2k07")
    history[b"\0\7\0\0\0\1\2k07"].append(None)
    node.stop()
    return {path: disk.read_file(path, 1 << 20) for path in disk.files()}, history, node.engine._config


def judge(files, history, config, drive, what):
    """Start a node on these files, and read everything. Returns whether it noticed anything."""
    disk = SimDisk.holding(files, DIRECTORIES)
    try:
        directory = NodeDirectory.open(
            disk, "/n", store_id="shop", node_id="n1", random=random.Random(2), complete_if_new=False
        )
        engine = Engine.open(
            disk, "/n/data", config, drive.merge, mark=directory.identity.mark, run=directory.last_run,
            owner=directory.owner,
        )  # fmt: skip
    except RaykvError:
        return True
    doubt = engine.doubt or directory.doubt_about_register()
    if directory.previous is None or not directory.previous.clean:
        doubt = doubt or "not stopped cleanly"
    filters_lost = any(table.filter_lost for run in engine._runs for table in run.tables)
    noticed = bool(doubt) or filters_lost
    for key, states in history.items():
        try:
            found = engine.get(key)
        except CorruptData:
            noticed = True
            continue
        unsure = bool(doubt) or any(damage.start is None for damage in engine.damaged)
        expected = {*states, None} if unsure else {states[-1]}
        assert (found and found.record) in expected, f"{what}: {key!r}"
    try:
        for key, found in engine.scan(b"", None):
            assert found.record in history[key], f"{what}: {key!r} in a scan"
    except CorruptData:
        noticed = True
    return noticed or bool(engine.damaged)


def contents(path):
    """Whether a change of this file must be noticed: the lock's is a note for people."""
    return not path.endswith("/lock")


def test_it_is_read_right(left, drive):
    files, history, config = left
    assert not judge(files, history, config, drive, "untouched")
    assert {path.rpartition(".")[2] for path in files} >= {"sst", "wal"}


def test_every_bit(left, drive, long):
    files, history, config = left
    for path, data in files.items():
        unnoticed = []
        for place in range(len(data)):
            for bit in range(8) if long else [place * 5 % 8]:
                changed = bytearray(data)
                changed[place] ^= 1 << bit
                if not judge(
                    {**files, path: bytes(changed)}, history, config, drive, f"{path}, byte {place}, bit {bit}"
                ):
                    unnoticed.append(place)
        if path.endswith(".sst"):
            assert all(place < HEADER.size for place in unnoticed), "no read depends on a table's header"
        elif contents(path):
            assert not unnoticed, f"{path}: {unnoticed}"


def test_every_truncation(left, drive, long):
    files, history, config = left
    for path, data in files.items():
        for length in range(0, len(data), 1 if long else 3):
            noticed = judge({**files, path: data[:length]}, history, config, drive, f"{path}, {length} bytes")
            assert noticed or not contents(path), f"{path}, {length} bytes"


def test_every_file_missing_or_another(left, drive):
    files, history, config = left
    for path in files:
        without = {name: data for name, data in files.items() if name != path}
        noticed = judge(without, history, config, drive, f"without {path}")
        assert noticed or not contents(path), path
        for other in files:
            if other != path and contents(path):
                assert judge({**files, path: files[other]}, history, config, drive, f"{other} as {path}")


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\x5a"])
def test_every_stretch_overwritten(left, drive, filler):
    """A page that was never written, or written by somebody else."""
    files, history, config = left
    for path, data in files.items():
        for begin in range(0, len(data), 61):
            changed = data[:begin] + (filler * 64)[: len(data) - begin] + data[begin + 64 :]
            noticed = judge({**files, path: changed}, history, config, drive, f"{path} from {begin}")
            assert noticed or changed == data or not contents(path) or begin < HEADER.size, f"{path} from {begin}"
