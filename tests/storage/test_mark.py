"""Detecting what a directory has lost: every file, every way to harm it, every kind of stop.

One demand, of all files alike: each key that was acknowledged is read right, or the node says that it may lack it
(incomplete, unreadable), or it does not open. Never "absent", nor anything older, from a node that calls itself complete.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from raykv.config import NodeConfig, StoreConfig
from raykv.errors import CorruptData
from raykv.node.node import NodeSpec, StorageNode
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, stamp
from raykv.sim.disk import Inode, SimDisk
from raykv.sim.kernel import VirtualLoop
from raykv.storage import DirectoryForeign

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NODE = "/n"
WALL_MS = 1_700_000_000_000
CONFIG = NodeConfig(
    memtable_bytes=4096, block_bytes=256, table_bytes=16384, max_unflushed_bytes=1 << 20, block_cache_bytes=0
)


class Clock:
    def wall_ms(self) -> int:
        return WALL_MS

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def timeout(self, delay_s: float) -> Any:
        return asyncio.timeout(delay_s)


class Executor:
    async def run(self, work: Callable[[], Any]) -> Any:
        return work()


def open_node(disk: SimDisk, *, fresh: bool = False, name: str = "n1", seed: int = 1) -> StorageNode:
    spec = NodeSpec(
        store_id="s", node_id=name, path=NODE, fresh=fresh, node=CONFIG,
        store=StoreConfig(name="t", copies=1, partitions=8, durability="group"),
    )  # fmt: skip
    return StorageNode(
        spec, fs=disk, clock=Clock(), executor=Executor(), random=random.Random(seed), on_failure=lambda _cause: None
    )


def run(story: Any) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)


async def ask(node: StorageNode, body: Any) -> Any:
    return f.node_answers.decode(await node.serve(f.node_requests.encode(f.NodeRequest(0, body)))).body


class Left(NamedTuple):
    """A directory as its last run left it, as it was at the end of each run before, and what it acknowledged."""

    disk: SimDisk
    earlier: tuple[SimDisk, ...]
    acknowledged: Mapping[str, bytes]


def copied(disk: SimDisk) -> SimDisk:
    return SimDisk.holding({path: disk.read_file(path, 1 << 30) for path in disk.files()}, disk._directories)


def build(runs: tuple[tuple[int, int], ...], *, clean: bool, name: str = "n1") -> Left:
    """Make a directory. ``runs``: for each, how many keys are written and how large they are."""

    async def story() -> Left:
        disk, acknowledged, earlier, time = SimDisk(), {}, [], WALL_MS << 16
        for at, (count, size) in enumerate(runs):
            node = open_node(disk, fresh=not at, name=name, seed=at + len(name))
            node._directory.save_register(
                f.node_answers.encode(f.NodeAnswer(0, f.AcceptorAnswer(True, at + 1, 0, 0, None)))
            )
            for number in range(count):
                time += 1
                key = f"{name}-{at % 2}-{number:03}"
                record = stamp(pack_body(bytes(16), bytes([65 + at]) * size), time)
                assert await ask(node, f.Write(1, [(encode_key(key), record)])) == f.WriteDone([0])
                acknowledged[key] = record
            await asyncio.sleep(5)
            if clean or at < len(runs) - 1:
                await node.stop()
                disk = copied(disk)
            else:
                disk = disk.crash(random.Random(1), "drop")
            earlier.append(copied(disk))
        return Left(disk, tuple(earlier[:-1]), acknowledged)

    return run(story())


def judge(disk: SimDisk, acknowledged: Mapping[str, bytes]) -> str:
    """Open the directory and read all that it acknowledged. Return the outcome; raise if it lies."""

    async def story() -> str:
        try:
            node = open_node(disk, seed=99)
        except (CorruptData, DirectoryForeign):
            return "refused"
        words = {"complete"} if node.complete else {"incomplete"}
        for key, record in acknowledged.items():
            answer = await ask(node, f.Read(1, [encode_key(key)]))
            if isinstance(answer, f.Incomplete):
                words.add("incomplete")
                continue
            assert isinstance(answer, f.ReadDone), answer
            if answer.unreadable:
                words.add("unreadable")
                continue
            assert answer.records == [record], f"{key} is not what was acknowledged, and no word of it"
        answer = await ask(node, f.Scan(1, b"", b"\xff", 2000, False, False, [*range(8)]))
        if isinstance(answer, f.ScanDone):
            assert dict(answer.items) == {encode_key(k): r for k, r in acknowledged.items()}
        if node.complete and node._engine.failure is None:
            await node.stop()
        return " ".join(sorted(words - {"complete"})) or "complete"

    return run(story())


def harmed(left: Left, path: str, harm: str, stranger: Left) -> SimDisk | None:
    """Return the directory with one file harmed; None if that is no harm."""
    disk = copied(left.disk)
    before = disk.read_file(path, 1 << 30)
    if harm == "deleted":
        disk._names.pop(path)
    else:
        sources = {"older": left.earlier[-1:], "oldest": left.earlier[:1], "another node's": (stranger.disk,)}
        if harm in sources:
            if not sources[harm] or path not in sources[harm][0].files():
                return None
            after = sources[harm][0].read_file(path, 1 << 30)
        else:
            after = {"cut by 1": before[:-1], "cut by 200": before[:-200], "emptied": b""}[harm]
        if after == before:
            return None
        disk._names[path] = Inode(after, len(after))
    disk._safe_names = dict(disk._names)
    return disk


HARMS = ("cut by 1", "cut by 200", "emptied", "deleted", "older", "oldest", "another node's")
SHAPES = {
    "all in the log": ((5, 50),),
    "one update": ((1, 10),),
    "three runs, all in the log": ((5, 50), (5, 50), (5, 50)),
    "tables and a log": ((60, 100), (60, 100), (7, 50)),
    "the last run was idle": ((60, 100), (5, 50), (0, 0)),
    "many tables": ((200, 100), (200, 100), (200, 100)),
}


@pytest.mark.parametrize("clean", [True, False], ids=["clean stop", "power cut"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_acknowledged_is_read_right_or_the_node_says_that_it_may_lack_it(shape: str, clean: bool) -> None:
    left = build(SHAPES[shape], clean=clean)
    stranger = build(SHAPES[shape], clean=clean, name="n2")
    assert judge(copied(left.disk), left.acknowledged) == "complete", "untouched, it lacks nothing"
    lies = []
    for path in left.disk.files():
        for harm in HARMS:
            if not clean and not promised_after_a_power_cut(path, harm, left.disk):
                continue
            disk = harmed(left, path, harm, stranger)
            if disk is None:
                continue
            try:
                judge(disk, left.acknowledged)
            except AssertionError as lie:
                lies.append(f"{path} {harm}: {str(lie).splitlines()[0]}")
    assert not lies, "\n".join(lies)


def promised_after_a_power_cut(path: str, harm: str, disk: SimDisk) -> bool:
    """Whether it shows without a clean stop: the last writes to the log then look like a torn tail."""
    if not path.endswith(".wal"):
        return True
    return harm != "another node's" and path != max(name for name in disk.files() if name.endswith(".wal"))


@pytest.mark.parametrize("clean", [True, False], ids=["clean stop", "power cut"])
@pytest.mark.parametrize("shape", SHAPES)
def test_several_files_that_are_gone_or_of_another_time(shape: str, clean: bool) -> None:
    """All the log, all the tables, all the data; the data of an earlier time, or of another node, under this identity."""
    left = build(SHAPES[shape], clean=clean)
    stranger = build(SHAPES[shape], clean=clean, name="n2")
    for suffix in (".wal", ".sst", "data/"):
        disk = copied(left.disk)
        for path in disk.files():
            if (suffix == "data/" and suffix in path) or path.endswith(suffix):
                disk._names.pop(path)
        disk._safe_names = dict(disk._names)
        if suffix == "data/":
            disk._directories.discard(f"{NODE}/data")
        if suffix != ".wal" or clean:
            judge(disk, left.acknowledged)
    for other in (*left.earlier, stranger.disk):
        disk = copied(left.disk)
        for path in [path for path in disk.files() if "data/" in path]:
            disk._names.pop(path)
        for path in [path for path in other.files() if "data/" in path]:
            disk._names[path] = Inode(*(other.read_file(path, 1 << 30), other.size(path)))
        disk._safe_names = dict(disk._names)
        judge(disk, left.acknowledged)


@pytest.mark.parametrize("clean", [True, False], ids=["clean stop", "power cut"])
def test_a_node_whose_register_is_gone_or_is_an_older_one_has_no_vote(clean: bool) -> None:
    left = build(SHAPES["all in the log"] * 2, clean=clean)
    stranger = build(SHAPES["one update"], clean=clean, name="n2")
    for harm in HARMS:
        disk = harmed(left, f"{NODE}/register", harm, stranger)
        if disk is None or (harm in {"older", "oldest", "another node's"} and not clean):
            continue  # after a crash an older copy of a register looks like one that was not written to
        node = open_node(disk)
        assert not node.identity["votes"], harm
        assert node.identity["life"] != open_node(copied(left.disk)).identity["life"], harm
        assert node._directory.load_register() is None, "what it holds is of the former directory"
    assert open_node(copied(left.disk)).identity["votes"]


def test_what_was_found_out_survives_a_crash_right_after() -> None:
    """Doubt and damage are written down before what raised them is written over."""
    for path, harm in ((f"{NODE}/data/00000001.wal", "cut by 200"), (f"{NODE}/data/manifest", "another node's"),
                       (f"{NODE}/register", "deleted"), (f"{NODE}/data/00000001.wal", "deleted")):  # fmt: skip
        left = build(((5, 50),), clean=True)
        stranger = build(((60, 100),), clean=True, name="n2")
        for operation in range(40):
            disk = harmed(left, path, harm, stranger)
            assert disk is not None
            count = 0

            class Crash(BaseException):
                pass

            def on_operation(_operation: str, _path: str, *, at: int = operation) -> None:
                nonlocal count
                count += 1
                if count > at:
                    raise Crash

            disk.on_operation = on_operation
            try:
                open_node(disk)
            except Crash:
                pass
            else:
                break
            for mode in ("keep", "drop"):
                node = open_node(disk.crash(random.Random(operation), mode))
                assert not node.complete, f"{path} {harm}, a crash before operation {operation}, {mode}"
        else:
            pytest.fail("an opening has fewer operations")


def test_a_log_that_was_cut_is_damage_until_it_is_healed_and_then_no_more() -> None:
    left = build(((5, 50),), clean=True)
    disk = harmed(left, f"{NODE}/data/00000001.wal", "cut by 200", left)
    assert disk is not None
    for _ in range(3):
        node = open_node(disk)
        (damage,) = node._engine.damaged
        assert damage.file == "00000001.wal"
        assert damage.start is None
        run(node.stop())
        disk = copied(disk)
    node = open_node(disk)
    node._replica.mark_complete(node._engine.damaged)
    run(node.stop())
    for _ in range(3):
        disk = copied(disk)
        node = open_node(disk)
        assert node.complete
        run(node.stop())


def test_the_end_of_the_log_grows_also_when_its_end_was_lost() -> None:
    """Peers who have heard of the former end must not take what comes for what was."""
    for harm in ("cut by 200", "emptied", "deleted"):
        left = build(((5, 50),), clean=True)
        before = open_node(copied(left.disk)).known.log_position
        disk = harmed(left, f"{NODE}/data/00000001.wal", harm, left)
        assert disk is not None
        node = open_node(disk)
        record = stamp(pack_body(bytes(16), b"new"), WALL_MS << 17)
        run(ask(node, f.Write(1, [(encode_key("x"), record)])))
        assert node.known.log_position > before
        run(node.stop())
