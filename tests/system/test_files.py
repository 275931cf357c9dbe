import asyncio
import contextlib
import errno
import os
import random
import stat
import subprocess
import sys
import threading

import pytest

from raykv.config import NodeConfig, StoreConfig
from raykv.node.node import NodeSpec, StorageNode
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, stamp
from raykv.storage import DirectoryInUse, Engine, NodeDirectory
from raykv.system.files import OsFileSystem

HOLD = """
import sys
from raykv.system.files import OsFileSystem
lock = OsFileSystem().lock(sys.argv[1], b"held")
print("held", flush=True)
sys.stdin.read()
"""

FORK = """
import os, sys, time
from raykv.system.files import OsFileSystem
lock = OsFileSystem().lock(sys.argv[1], b"held")
if os.fork() == 0:
    os.close(1)
    time.sleep(float(sys.argv[2]))
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def fs():
    return OsFileSystem()


@pytest.fixture
def root(tmp_path):
    return str(tmp_path)


def run(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.communicate("")


def test_append_read_truncate(fs, root):
    path = f"{root}/f"
    file = fs.create(path)
    file.append(b"abc")
    file.append(b"defgh")
    file.sync()
    file.close()
    file.close()
    assert fs.read_file(path, 8) == b"abcdefgh"
    reader = fs.open_read(path)
    assert (reader.size(), reader.pread(2, 3), reader.pread(6, 99), reader.pread(50, 1)) == (8, b"cde", b"gh", b"")
    fs.truncate(path, 3)
    assert reader.size() == 3
    reader.close()
    reader.close()
    with pytest.raises(OSError, match="descriptor"):
        reader.pread(0, 1)
    with pytest.raises(OSError, match="at most 2") as caught:
        fs.read_file(path, 2)
    assert caught.value.errno == errno.EFBIG
    with pytest.raises(FileExistsError):
        fs.create(path)
    with pytest.raises(FileNotFoundError):
        fs.open_read(f"{root}/none")


def test_modes_and_directories(fs, root):
    fs.make_directories(f"{root}/x/y")
    fs.make_directories(f"{root}/x/y")
    fs.create(f"{root}/x/y/f").close()
    fs.lock(f"{root}/x/y/lock").release()
    assert stat.S_IMODE(os.stat(f"{root}/x").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{root}/x/y/f").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(f"{root}/x/y/lock").st_mode) == 0o600
    assert fs.list_directory(f"{root}/x/y") == ["f", "lock"]
    fs.rename(f"{root}/x/y/f", f"{root}/x/y/g")
    fs.sync_directory(f"{root}/x/y")
    assert (fs.exists(f"{root}/x/y/f"), fs.exists(f"{root}/x/y/g")) == (False, True)
    fs.unlink(f"{root}/x/y/g")
    fs.remove_tree(f"{root}/x")
    fs.remove_tree(f"{root}/x")
    assert not fs.exists(f"{root}/x")
    fs.create(f"{root}/file").close()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        fs.make_directories(f"{root}/file/sub")


def test_a_short_write_is_continued_and_a_full_disk_raises(fs, root, monkeypatch):
    real, calls = os.write, []

    def stingy(fd, data):
        calls.append(len(data))
        if sum(calls) > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:7])

    monkeypatch.setattr(os, "write", stingy)
    file = fs.create(f"{root}/f")
    data = random.Random(1).randbytes(100)
    file.append(data)
    assert len(calls) == 15
    assert fs.read_file(f"{root}/f", 100) == data
    with pytest.raises(OSError, match="No space"):
        file.append(bytes(20_000))


def test_a_short_read_is_continued(fs, root, monkeypatch):
    file = fs.create(f"{root}/f")
    file.append(bytes(range(100)))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: real(fd, min(length, 9), offset))
    assert fs.open_read(f"{root}/f").pread(3, 90) == bytes(range(3, 93))
    assert fs.read_file(f"{root}/f", 100) == bytes(range(100))


def test_sync_reaches_the_system(fs, root, monkeypatch):
    synced = []
    name = "fsync" if sys.platform == "darwin" else "fdatasync"
    monkeypatch.setattr(os, name, lambda fd: synced.append(os.fstat(fd).st_size))
    file = fs.create(f"{root}/f")
    file.append(b"abc")
    file.sync()
    fs.truncate(f"{root}/f", 1)
    assert synced == [3, 1] or sys.platform == "darwin"


def test_macos_asks_for_the_full_sync(fs, root, monkeypatch):
    import fcntl

    asked = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _fd, command: asked.append(command))
    file = fs.create(f"{root}/f")
    file.sync()
    assert asked == [51]


def test_descriptors_are_not_inherited(fs, root):
    file, lock, reader = fs.create(f"{root}/f"), fs.lock(f"{root}/lock"), fs.open_read(f"{root}/f")
    assert [os.get_inheritable(one._fd) for one in (file, lock, reader)] == [False, False, False]
    for one in (file, reader):
        one.close()
    lock.release()


def test_one_lock_for_two_processes(fs, root):
    path = f"{root}/lock"
    process = run(HOLD, path)
    with pytest.raises(BlockingIOError):
        fs.lock(path)
    assert fs.read_file(path, 99) == b"held"
    process.kill()
    process.communicate()
    lock = fs.lock(path, b"x")
    assert fs.read_file(path, 99) == b"x", "a shorter note leaves nothing of the longer one"
    with pytest.raises(BlockingIOError):
        fs.lock(path)
    lock.release()
    lock.release()
    fs.lock(path).release()


def test_a_forked_child_does_not_keep_the_lock(fs, root):
    path = f"{root}/lock"
    process = run(FORK, path, "5")
    end(process)
    fs.lock(path).release()


def test_a_lock_file_that_is_replaced_is_not_locked_twice(fs, root):
    path = f"{root}/lock"
    first = fs.lock(path)
    os.unlink(path)
    second = fs.lock(path)
    first.release()
    with pytest.raises(BlockingIOError):
        fs.lock(path)
    second.release()


def test_a_lock_file_removed_between_open_and_flock_is_tried_again(fs, root, monkeypatch):
    import fcntl

    path, real, calls = f"{root}/lock", fcntl.flock, []

    def flock(fd, operation):
        calls.append(fd)
        if len(calls) == 1:
            os.unlink(path)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = fs.lock(path)
    assert len(calls) == 2
    with pytest.raises(BlockingIOError):
        fs.lock(path)
    lock.release()


def test_a_node_directory_held_by_another_process(fs, root):
    options = {"store_id": "s", "node_id": "n", "random": random.Random(1), "complete_if_new": True}
    NodeDirectory.open(fs, f"{root}/n", **options).close()
    process = run(HOLD, f"{root}/n/lock")
    with pytest.raises(DirectoryInUse) as caught:
        NodeDirectory.open(fs, f"{root}/n", **options)
    assert caught.value.note == b"held"
    process.kill()
    process.communicate()
    assert NodeDirectory.open(fs, f"{root}/n", **options).identity.incarnation == 2


def test_the_engine_on_the_real_disk_with_its_jobs_on_threads(fs, root):
    config = NodeConfig(memtable_bytes=8192, block_bytes=512, max_unflushed_bytes=1 << 20, table_bytes=16384)

    def merge(stored, incoming):
        return incoming if stored is None else max(stored, incoming)

    def on_thread(work):
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    engine, model = Engine.open(fs, f"{root}/data", config, merge), {}
    jobs = []
    rng = random.Random(1)
    for number in range(4000):
        key, record = b"%04d" % rng.randrange(900), b"%06d" % number * 5
        model[key] = engine.update(key, record).record
        if number % 50 == 0:
            sync = engine.next_sync()
            on_thread(sync.run).join()
            engine.finish_sync(sync)
            while (job := engine.next_job()) is not None:
                jobs.append((job, on_thread(job.run)))
        for job, thread in list(jobs):
            if not thread.is_alive():
                engine.finish(job)
                jobs.remove((job, thread))
    for job, thread in jobs:
        thread.join()
        engine.finish(job)
    assert engine.stats().compactions > 2
    assert {key: found.record for key, found in engine.scan(b"", None)} == model
    engine.close()
    engine = Engine.open(fs, f"{root}/data", config, merge)
    assert {key: found.record for key, found in engine.scan(b"", None)} == model
    engine.close()


def crafted(kind, path, target):
    """Put something else in the place of a file."""
    if kind == "link":
        os.symlink(target, path)
    elif kind == "dangling":
        os.symlink(f"{target}-none", path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "device":
        os.symlink("/dev/zero", path)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "directory", "device", "socket"])
def test_nothing_but_a_file_of_that_name_is_opened(fs, tmp_path, kind, monkeypatch):
    """A link would lead elsewhere, a pipe would be waited for, a device has no end."""
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    with open("victim", "wb") as file:
        file.write(b"precious")
    crafted(kind, "f", os.path.abspath("victim"))
    for act in (
        lambda: fs.lock("f", b"note"),
        lambda: fs.read_file("f", 100),
        lambda: fs.open_read("f"),
        lambda: fs.truncate("f", 0),
        lambda: fs.create("f"),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            act()
        assert not isinstance(caught.value, BlockingIOError)
    assert fs.read_file("victim", 100) == b"precious"
    assert not os.path.lexists("victim-none")
    assert fs.exists("f"), "a name is taken, wherever it leads"
    fs.remove_tree("f")
    assert not os.path.lexists("f")
    assert fs.read_file("victim", 100) == b"precious"


def test_a_tree_is_removed_without_what_its_links_lead_to(fs, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "f").write_text("precious")
    (tmp_path / "tree").mkdir()
    os.symlink(tmp_path / "victim", tmp_path / "tree" / "inside")
    os.symlink(tmp_path / "victim", tmp_path / "link")
    fs.remove_tree(str(tmp_path / "tree"))
    fs.remove_tree(str(tmp_path / "link"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["victim"]
    assert (tmp_path / "victim" / "f").read_text() == "precious"


def test_a_lock_with_a_second_name_is_not_written_to(fs, root):
    with open(f"{root}/victim", "wb") as file:
        file.write(b"precious")
    os.link(f"{root}/victim", f"{root}/lock")
    lock = fs.lock(f"{root}/lock", b"note")
    assert fs.read_file(f"{root}/victim", 100) == b"precious"
    assert fs.read_file(f"{root}/lock", 100) == b"note"
    with pytest.raises(BlockingIOError):
        fs.lock(f"{root}/lock")
    lock.release()


def test_a_lock_that_is_anothers_is_refused(fs, root, monkeypatch):
    fs.lock(f"{root}/lock").release()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    fs.lock(f"{root}/lock").release()  # the directory's owner's: there are file systems on which all is one user's
    real = os.fstat

    def strange(fd):
        found = list(real(fd))
        found[stat.ST_UID] = 999
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", strange)
    with pytest.raises(PermissionError, match="belongs to user 999"):
        fs.lock(f"{root}/lock")


def test_a_full_disk_costs_the_note_and_not_the_lock(fs, root, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock = fs.lock(f"{root}/lock", b"note")
    assert fs.read_file(f"{root}/lock", 100) == b""
    with pytest.raises(BlockingIOError):
        fs.lock(f"{root}/lock")
    lock.release()


# ---- a disk that is really full ----


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MiB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root mounts a small tmpfs, and only on Linux")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield str(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


class _Clock:
    def wall_ms(self):
        return 1_700_000_000_000

    def monotonic_s(self):
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s):
        await asyncio.sleep(delay_s / 20)

    def timeout(self, delay_s):
        return asyncio.timeout(delay_s)


class _Threads:
    async def run(self, work):
        return await asyncio.to_thread(work)


def _node(path, name, failed):
    config = NodeConfig(memtable_bytes=256 << 10, max_unflushed_bytes=1 << 20, table_bytes=1 << 20)
    spec = NodeSpec(
        store_id="s", node_id=name, path=f"{path}/{name}", fresh=True, node=config,
        store=StoreConfig(name="t", copies=1, partitions=8, durability="group"),
    )  # fmt: skip
    return StorageNode(
        spec,
        fs=OsFileSystem(),
        clock=_Clock(),
        executor=_Threads(),
        random=random.Random(name),
        on_failure=failed.append,
    )


async def _ask(node, body):
    return f.node_answers.decode(await node.serve(f.node_requests.encode(f.NodeRequest(0, body)))).body


def _put(number):
    body = pack_body(bytes(16), random.Random(number).randbytes(4000))
    return f.Write(1, [(encode_key(f"k{number:05}"), stamp(body, (1_700_000_000_000 << 16) + number))])


def _fill(path, most_bytes):
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.tell() < most_bytes:
            file.write(bytes(1 << 12))


def test_three_nodes_on_a_disk_that_fills_up_go_on_reading_and_come_back(small_disk):
    """They fill it themselves, then somebody else takes what was left, then there is room again. And after a restart."""
    failed = []

    async def story():
        _fill(f"{small_disk}/ballast", 4 << 20)
        nodes = [_node(small_disk, name, failed) for name in ("n1", "n2", "n3")]
        for node in nodes:
            node.begin()
        kept, number = [], 0
        while len(kept) < 4000:
            number += 1
            answers = [await _ask(node, _put(number)) for node in nodes]
            if all(answer == f.WriteDone([0]) for answer in answers):
                kept.append(number)
            elif all(isinstance(answer, f.NodeRefused) and answer.reason == "overloaded" for answer in answers):
                break
            await asyncio.sleep(0)
        assert 300 < len(kept) < 2000
        assert all(small_disk in answer.message and "more must be" in answer.message for answer in answers)
        _fill(f"{small_disk}/stranger", 1 << 30)
        for node in nodes:
            for at in kept[::7]:
                found = await _ask(node, f.Read(1, [encode_key(f"k{at:05}")]))
                assert found.records == [_put(at).items[0][1]]
            refused = await _ask(node, _put(number + 1))
            assert isinstance(refused, f.NodeRefused)
        assert not failed, "a full disk ends no node"
        os.unlink(f"{small_disk}/stranger")
        os.unlink(f"{small_disk}/ballast")
        for node in nodes:
            for _ in range(400):
                answer = await _ask(node, _put(number + 2))
                if answer == f.WriteDone([0]):
                    break
                await asyncio.sleep(0.05)
            assert answer == f.WriteDone([0])
            await node.stop()
        kept.append(number + 2)
        again = _node(small_disk, "n1", failed)
        assert again.complete
        for at in kept:
            found = await _ask(again, f.Read(1, [encode_key(f"k{at:05}")]))
            assert found.records == [_put(at).items[0][1]]
        await again.stop()

    asyncio.run(story())


def test_a_link_is_the_same_file_and_follows_no_symbolic_link(tmp_path):
    fs = OsFileSystem()
    (tmp_path / "a").write_bytes(b"x")
    fs.link(f"{tmp_path}/a", f"{tmp_path}/b")
    fs.unlink(f"{tmp_path}/a")
    assert fs.read_file(f"{tmp_path}/b", 10) == b"x"
    with pytest.raises(FileExistsError):
        fs.link(f"{tmp_path}/b", f"{tmp_path}/b")
    with pytest.raises(FileNotFoundError):
        fs.link(f"{tmp_path}/a", f"{tmp_path}/c")
    (tmp_path / "to-b").symlink_to(tmp_path / "b")
    fs.link(f"{tmp_path}/to-b", f"{tmp_path}/d")
    assert (tmp_path / "d").is_symlink()


def test_a_symbolic_link_to_a_directory_is_no_directory(tmp_path):
    fs = OsFileSystem()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path)
    assert fs.is_directory(f"{tmp_path}")
    assert not fs.is_directory(f"{tmp_path}/link")
    assert not fs.is_directory(f"{tmp_path}/file")
    assert not fs.is_directory(f"{tmp_path}/file/below")
    assert not fs.is_directory(f"{tmp_path}/nothing")
