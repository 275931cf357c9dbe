"""Reports on a node's files: right, complete, and without a trace, whatever the node does meanwhile."""

from __future__ import annotations

import random

import pytest

from raykv.errors import CorruptData, InvalidOption, RaykvError
from raykv.sim.disk import SimDisk
from raykv.storage import inspection
from raykv.storage.directory import read_identity
from raykv.storage.inspection import DataReport, ManifestReport, NodeReport, inspect

NODE = "/n"
DATA = "/n/data"


def names(report):
    return sorted({finding.file for finding in report.findings})


def files(disk, suffix):
    return [path for path in disk.files() if path.endswith(suffix)]


@pytest.fixture
def stopped(start, drive, disk):
    """A node that was stopped: some runs, some of the log, a register."""
    node = start(disk)
    node.directory.save_register(b"state")
    node.fill()
    node.fill(40, version=2)
    node.engine.update(b"\xff\xffh1", b"00000001:hint")
    node.engine.erase(b"\0\7\0\0\0\1\2k00003")
    node.stop()
    return node


@pytest.mark.parametrize("state", ["stopped", "killed", "running"])
def test_a_sound_node(start, drive, disk, state):
    node = start(disk)
    node.directory.save_register(b"state")
    node.fill()
    node.fill(40, version=2)
    stats = node.engine.stats()
    if state == "stopped":
        node.stop()
    elif state == "killed":
        disk = disk.crash(random.Random(1), "drop")
    report = inspect(disk, NODE)
    assert isinstance(report, NodeReport)
    assert report.findings == ()
    assert report.identity.node_id == "n1"
    assert report.identity.clean == (state == "stopped")
    assert report.register.directory_id == report.identity.directory_id
    assert report.lock_note == b'{"pid":1}' or state == "killed"
    tables = [table for run in report.data.runs for table in run.tables]
    assert len(report.data.runs) == stats.runs > 1
    assert len(tables) == stats.tables
    assert sum(table.count for table in tables) == stats.table_records
    assert sum(table.size_bytes for table in tables) == stats.table_bytes
    assert sum(segment.count for segment in report.data.segments) >= stats.memtable_records > 0
    assert report.data.segments[-1].ended == (state == "stopped")
    assert report.data.strays == () or state == "killed", "a crash may come before an unlink is safe"
    assert report.data.notes == ()
    assert inspect(disk, DATA + "/") == report.data


def test_it_leaves_no_trace_and_takes_no_lock(stopped, monkeypatch):
    disk = stopped.disk
    before = list(disk.trace)
    for name in ("lock", "create", "rename", "unlink", "truncate", "make_directories", "sync_directory", "remove_tree"):
        monkeypatch.setattr(disk, name, None)
    for path in (NODE, DATA, *files(disk, ""), *files(disk, ".sst")):
        if not path.endswith("/lock"):
            assert inspect(disk, path).findings == ()
    assert disk.trace == before


def test_progress_grows_to_all_of_it(stopped):
    seen = []
    inspect(stopped.disk, NODE, progress=lambda done, every: seen.append((done, every)))
    assert len({every for _, every in seen}) == 1
    done = [each for each, _ in seen]
    assert done == sorted(done)
    assert 0.9 * seen[-1][1] < done[-1] <= seen[-1][1]


def test_every_flipped_bit_is_found(stopped):
    """The node was stopped cleanly: nothing in its files may change."""
    disk, rng = stopped.disk, random.Random(5)
    for path in disk.files():
        if path.endswith("/lock"):  # a note for people
            continue
        size = disk.size(path)
        everywhere = range(8 * size)
        for at in everywhere if size < 500 else rng.sample(everywhere, 300):
            disk.flip_bit(path, at // 8, at % 8)
            try:
                assert path.endswith(tuple(names(inspect(disk, NODE)))), f"{path}: bit {at % 8} of byte {at // 8}"
                alone = inspect(disk, path)
                assert alone.findings or path.endswith(("identity", "register", "manifest", ".wal")), "no mark seals it"
            except (CorruptData, InvalidOption) as error:
                assert "format" in str(error) or "another name" in str(error)  # noqa: PT017 - any of two
            disk.flip_bit(path, at // 8, at % 8)
    assert inspect(disk, NODE).findings == ()


def test_every_truncation_is_found(stopped):
    disk = stopped.disk
    for path in disk.files():
        if path.endswith("/lock"):
            continue
        content = disk.read_file(path, 1 << 30)
        for length in sorted({*range(min(len(content), 60)), *range(0, len(content), 97), len(content) - 1}):
            files = {**{name: disk.read_file(name, 1 << 30) for name in disk.files()}, path: content[:length]}
            cut = SimDisk.holding(files, ["/n", "/n/data"])
            assert names(inspect(cut, NODE)), f"{path} of {length} bytes"


def test_missing_files_are_found(stopped):
    disk = stopped.disk
    everything = {name: disk.read_file(name, 1 << 30) for name in disk.files()}
    for path in [name for name in everything if not name.endswith(("/lock", "/identity"))]:
        left = SimDisk.holding({name: data for name, data in everything.items() if name != path}, ["/n", "/n/data"])
        assert names(inspect(left, NODE)), path


def test_files_of_another_time_are_found(start, drive, disk):
    node = start(disk)
    node.fill(60)
    node.stop()
    old = {name: disk.read_file(name, 1 << 30) for name in disk.files()}
    node = start(disk)
    node.fill(200, version=3)
    node.stop()
    new = {name: disk.read_file(name, 1 << 30) for name in disk.files()}
    assert inspect(SimDisk.holding(new, ["/n", "/n/data"]), NODE).findings == ()
    mixed = SimDisk.holding({**new, "/n/data/manifest": old["/n/data/manifest"]}, ["/n", "/n/data"])
    assert "not the directory that was left" in str(inspect(mixed, NODE).findings)
    without = {name: data for name, data in new.items() if not name.startswith("/n/data/")}
    assert "its data is gone" in str(inspect(SimDisk.holding(without, ["/n"]), NODE).findings)


def test_known_damage_is_a_finding_until_it_is_healed(start, drive, disk):
    node = start(disk, compression="none", block_cache_bytes=0)
    node.fill()
    node.flush()
    path = files(disk, ".sst")[0]
    disk.flip_bit(path, disk.size(path) // 2, 2)
    (unknown,) = inspect(disk, NODE).findings
    assert unknown.file == "data/" + path.rpartition("/")[2]
    assert unknown.start < unknown.end
    with pytest.raises(CorruptData):
        list(node.engine.scan(b"", None))
    assert [finding.offset for finding in inspect(disk, NODE).findings] == [unknown.offset], "named once"
    (damage,) = node.engine.damaged
    assert (damage.start, damage.end) == (unknown.start, unknown.end)
    node.engine.heal(damage)
    report = inspect(disk, NODE)
    assert report.findings == ()
    assert sum(table.healed for run in report.data.runs for table in run.tables) == 1


def test_damage_whose_file_is_gone_stays_a_finding(start, drive, disk):
    node = start(disk, compression="none", block_cache_bytes=0)
    node.fill()
    node.flush()
    path = files(disk, ".sst")[0]
    disk.flip_bit(path, disk.size(path) // 2, 2)
    node.flush()
    report = inspect(disk, NODE)
    assert "known damage" in str(report.findings)
    (stray,) = report.data.strays
    assert stray.file.endswith(".sst.rotten")
    assert inspect(disk, f"{DATA}/{stray.file}").findings, "it can be looked at by itself"


def test_the_log_in_the_middle_and_at_the_end(start, drive, disk):
    node = start(disk, memtable_bytes=1 << 20)
    for number in range(30):
        node.engine.update(b"%02d" % number, b"r" * 20)
        drive.sync(node.engine)
    (path,) = files(disk, ".wal")
    node.engine.update(b"last", b"r" * 300)
    drive.sync(node.engine, sync=False)
    torn = SimDisk.holding(
        {name: disk.read_file(name, 1 << 30)[: None if name != path else -100] for name in disk.files()},
        ["/n", "/n/data"],
    )
    report = inspect(torn, NODE)
    assert report.findings == (), "a torn tail is no damage"
    assert "torn tail" in str(report.data.segments[-1].notes)
    assert report.data.segments[-1].length < report.data.segments[-1].size_bytes
    torn.flip_bit(path, torn.size(path) // 3)
    (finding,) = inspect(torn, NODE).findings
    assert finding.file == "data/" + path.rpartition("/")[2]
    assert "make no sense" in finding.text


def test_a_segment_whose_creation_was_cut_short_is_no_damage(start, drive, disk):
    node = start(disk)
    node.fill(10)
    files_now = {name: disk.read_file(name, 1 << 30) for name in disk.files()}
    files_now["/n/data/00000002.wal"] = b"RAYKVWAL\0\0"
    cut = SimDisk.holding(files_now, ["/n", "/n/data"])
    report = inspect(cut, NODE)
    assert report.findings == ()
    assert "cut short" in str(report.data.segments[-1].notes)


class Meanwhile:
    """A disk on which something happens at the n-th opening of a file."""

    def __init__(self, disk, at, happens):
        self._disk, self._left, self._happens = disk, at, happens

    def __getattr__(self, name):
        return getattr(self._disk, name)

    def _count(self):
        self._left -= 1
        if self._left == 0:
            self._happens()

    def open_read(self, path):
        self._count()
        return self._disk.open_read(path)

    def read_file(self, path, max_bytes):
        self._count()
        return self._disk.read_file(path, max_bytes)


@pytest.mark.parametrize("what", ["flush and compact", "write", "stop", "stop and start"])
def test_a_running_node_is_never_called_damaged(start, what):
    happened = 0
    for at in range(1, 60):
        disk = SimDisk()
        node = start(disk)
        node.directory.save_register(b"state")
        node.fill(150)

        def happens(node=node, disk=disk):
            nonlocal happened
            happened += 1
            if what == "flush and compact":
                node.flush()
            elif what == "write":
                node.fill(60, version=2)
            else:
                node.stop()
                if what == "stop and start":
                    start(disk)

        report = inspect(Meanwhile(disk, at, happens), NODE)
        assert report.findings == (), at
    assert happened > 10


def test_files_that_never_stand_still_are_an_error(start, drive, disk, monkeypatch):
    node = start(disk)
    node.fill(150)

    def gone(*_, **__):
        node.flush()
        node.fill(20, version=7)
        raise inspection._Changed

    monkeypatch.setattr(inspection, "_inspect_runs", gone)
    with pytest.raises(InvalidOption, match="faster than they can be read"):
        inspect(disk, NODE)


def test_what_is_no_part_of_a_store(stopped):
    disk = stopped.disk
    with pytest.raises(FileNotFoundError):
        inspect(disk, "/nowhere")
    disk.make_directories("/other/deeper")
    with pytest.raises(InvalidOption, match="no identity and no manifest"):
        inspect(disk, "/other")
    several = SimDisk.holding({"/all/n/identity": b""}, ["/all", "/all/n"])
    with pytest.raises(InvalidOption, match="name one of them: n"):
        inspect(several, "/all")
    for name, data in (("notes.txt", b"hello"), ("copy-of-log", b"RAYKVWAL"), ("copy", b"RAYKVMAN"), ("empty", b"")):
        file = disk.create(f"/other/{name}")
        file.append(data)
        with pytest.raises(InvalidOption, match=r"no file of a store|another name"):
            inspect(disk, f"/other/{name}")


def test_a_format_of_the_future_is_an_error_and_no_damage(stopped, monkeypatch):
    for module, path in (("manifest", "manifest"), ("sstable", ".sst"), ("replay", ".wal")):
        with monkeypatch.context() as patch:
            patch.setattr(f"raykv.storage.{module}.VERSION", 0)
            said = ""
            try:
                said = str(inspect(stopped.disk, files(stopped.disk, path)[0]).findings)
            except RaykvError as error:
                said = error.message
            assert "this raykv reads up to" in said


def test_a_manifest_by_itself(stopped):
    report = inspect(stopped.disk, f"{DATA}/manifest")
    assert isinstance(report, ManifestReport)
    assert report.tables == stopped.engine.stats().tables
    assert report.manifest.owner == "shop/n1"
    stopped.disk.flip_bit(f"{DATA}/manifest", 40)
    assert inspect(stopped.disk, f"{DATA}/manifest").findings
    report = inspect(stopped.disk, DATA)
    assert isinstance(report, DataReport)
    assert report.manifest is None
    assert names(report) == ["manifest"]


def test_identity_and_register_by_themselves(stopped):
    disk = stopped.disk
    assert inspect(disk, "/n/identity").identity == read_identity(disk, NODE)
    assert inspect(disk, "/n/register").register == inspect(disk, NODE).register
    for name in ("identity", "register"):
        disk.flip_bit(f"/n/{name}", 30)
        assert names(inspect(disk, f"/n/{name}")) == [name]
    assert {"identity", "register"} <= {*names(inspect(disk, NODE))}
