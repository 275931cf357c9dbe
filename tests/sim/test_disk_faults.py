"""Whatever befalls one node's disk: the store serves, never a wrong value; the node says so, and is complete again.

The faults of the issue's list, each on one node of three while clients write and read: full, failed sync, short write,
damaged block, the log in its middle and at its end, manifest, missing files, read-only, no descriptors.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import raykv.sim
from raykv.config import NodeConfig
from raykv.storage import read_identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.sim.disk import SimDisk

NODE = NodeConfig(
    memtable_bytes=8 << 10, max_unflushed_bytes=64 << 10, table_bytes=32 << 10, block_bytes=512, block_cache_bytes=0,
    min_free_bytes=0, runs_per_level=3,
)  # fmt: skip
KEYS = [f"key {number:03}" for number in range(150)]
HEALED_WITHIN_S = 240.0


class Cluster:
    """A world of three nodes whose first one's disk is at hand."""

    def __init__(self, seed: int = 1) -> None:
        self.world = raykv.sim.start(seed=seed, nodes=3, partitions=8, node=NODE, replace_after=60.0)
        self.store = self.world.store
        self.host = self.world._cluster.hosts["n1"]
        self.written: dict[str, str] = {}
        self.round = 0

    @property
    def disk(self) -> SimDisk:
        return self.host.disk

    def write_and_read(self) -> None:
        """Overwrite some keys and read all of them: no operation fails, and none reads what was not written last."""
        self.round += 1
        changed = {
            key: f"{key} of round {self.round} " + "x" * 200
            for number, key in enumerate(KEYS)
            if self.round == 1 or (number + self.round) % 3 == 0
        }
        self.store.put_many(changed, timeout=10)
        self.written |= changed
        assert self.store.get_many(KEYS, timeout=10) == self.written

    def status(self) -> dict[str, Any]:
        """What the store says of the node."""
        return next(node for node in self.store.status()["nodes"] if node["node_id"] == "n1")

    def healthy(self) -> bool:
        node = self.status()
        storage = node["storage"] or {}
        return bool(node["state"] == "up" and storage.get("complete") and not storage["damage"])

    def wait_until_healthy(self) -> None:
        until_s = self.world.now_s + HEALED_WITHIN_S
        while not self.healthy():
            assert self.world.now_s < until_s, self.status()
            self.world.sleep(1)

    def check_alone(self) -> None:
        """Read everything from the node alone: it has what it should have."""
        for _ in range(20):  # what it refused is handed off to it meanwhile
            self.world.sleep(5)
            for other in ("n2", "n3"):
                self.world.freeze(other, 4)
            found = self.store.get_many(KEYS, r=1, timeout=3)
            if found == self.written:
                return
        raise AssertionError({key: value for key, value in found.items() if value != self.written[key]})

    def files(self, ending: str) -> list[str]:
        """Its files that the store uses, in the order of their names."""
        directory = next(path for path in self.disk.files() if path.endswith("/identity")).removesuffix("/identity")
        identity = read_identity(self.disk, directory)
        assert identity is not None
        return [path for path in self.disk.files() if path.startswith(f"{directory}/") and path.endswith(ending)]


class Fault(NamedTuple):
    """``begin`` and ``end`` act on the disk; with ``dead`` the process is ended first. ``said``: in status or log."""

    begin: Callable[[Cluster], object]
    said: str
    end: Callable[[Cluster], object] = lambda cluster: cluster.disk.stop_failing()
    dead: bool = False
    replaced: bool = False
    """Whether the node cannot come back, and another one takes its place."""


def failing(
    operation: str, part: str = "", error: int = errno.EIO, *, lasting: bool = False
) -> Callable[[Cluster], None]:
    return lambda cluster: cluster.disk.fail(operation, part, error=error, lasting=lasting)


def every(*operations: str, error: int) -> Callable[[Cluster], None]:
    def begin(cluster: Cluster) -> None:
        for operation in operations:
            cluster.disk.fail(operation, error=error, lasting=True)

    return begin


def flip(ending: str, share: float, which: int = -1) -> Callable[[Cluster], None]:
    def begin(cluster: Cluster) -> None:
        path = cluster.files(ending)[which]
        cluster.disk.flip_bit(path, int(share * (cluster.disk.size(path) - 1)), 3)

    return begin


def cut(ending: str, share: float, which: int = -1) -> Callable[[Cluster], None]:
    def begin(cluster: Cluster) -> None:
        path = cluster.files(ending)[which]
        cluster.disk.truncate(path, int(share * cluster.disk.size(path)))

    return begin


def remove(ending: str, which: int = 0) -> Callable[[Cluster], None]:
    return lambda cluster: cluster.disk.unlink(cluster.files(ending)[which])


def full(space_bytes: int) -> Callable[[Cluster], None]:
    return lambda cluster: setattr(cluster.disk, "space_bytes", space_bytes)


WRITES = ("create", "append", "rename", "unlink", "truncate")
FAULTS = {
    "full disk": Fault(full(0), "is full"),
    "short write": Fault(full(100), "is full"),
    "failed sync of the log": Fault(failing("sync", ".wal"), "injected"),
    "failed sync of a table": Fault(failing("sync", ".sst"), "injected"),
    "failed sync of the manifest": Fault(failing("sync", "manifest"), "injected"),
    "failed sync of the identity": Fault(failing("sync", "identity"), "injected", dead=True),
    "failed sync of a directory": Fault(failing("sync_directory"), "injected"),
    "failed write of the log": Fault(failing("append", ".wal"), "injected"),
    "failed write of a table": Fault(failing("append", ".sst"), "injected"),
    "failed rename of the manifest": Fault(failing("rename", "manifest"), "injected"),
    "tables cannot be written": Fault(failing("append", ".sst", lasting=True), "a flush or compaction fails"),
    "tables cannot be removed": Fault(failing("unlink", ".sst"), "could not be removed"),
    "segments cannot be removed": Fault(failing("unlink", ".wal"), "could not be removed"),
    "one read fails": Fault(failing("pread", ".sst"), "injected"),
    "reads fail for a while": Fault(failing("pread", ".sst", lasting=True), "injected"),
    "read-only": Fault(every(*WRITES, error=errno.EROFS), "injected"),
    "no descriptors": Fault(every("create", "open_read", "list_directory", error=errno.EMFILE), "descriptor"),
    "no descriptors at its start": Fault(
        every("create", "open_read", "list_directory", error=errno.EMFILE), "injected", dead=True
    ),
    "damaged block": Fault(flip(".sst", 0.4), "is unreadable"),
    "damaged index": Fault(flip(".sst", 0.97), "cannot be read", dead=True),
    "damaged footer": Fault(flip(".sst", 0.999), "cannot be read", dead=True),
    "table cut short": Fault(cut(".sst", 0.6), "cannot be read", dead=True),
    "table missing": Fault(remove(".sst"), "cannot be opened", dead=True),
    "log damaged at its beginning": Fault(flip(".wal", 0.0), "make no sense", dead=True),
    "log damaged in its middle": Fault(flip(".wal", 0.4), "make no sense", dead=True),
    "log cut at its end": Fault(cut(".wal", 0.7), "its directory is an old one", dead=True),
    "segment missing": Fault(remove(".wal", -1), "its directory is an old one", dead=True),
    "register missing": Fault(remove("/register"), "register is gone", dead=True),
    "register damaged": Fault(flip("/register", 0.5), "checksum", dead=True),
    "manifest damaged": Fault(flip("/manifest", 0.5), "checksum", dead=True, replaced=True),
    "manifest missing": Fault(remove("/manifest"), "but no manifest", dead=True, replaced=True),
    "identity damaged": Fault(flip("/identity", 0.5), "checksum does not hold", dead=True, replaced=True),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_store_serves_and_the_node_is_complete_again(name: str, caplog: pytest.LogCaptureFixture) -> None:
    fault = FAULTS[name]
    caplog.set_level(logging.INFO, "raykv")
    cluster = Cluster()
    with cluster.world:
        for _ in range(3):
            cluster.write_and_read()
        cluster.world.sleep(2)
        if fault.dead:
            cluster.world._cluster.nodes.kill_all("n1")
        fault.begin(cluster)
        said = ""
        for _ in range(5):
            cluster.write_and_read()
            cluster.world.sleep(1)
            said += str(cluster.status())
        assert fault.said in said + caplog.text, "it reports itself"
        fault.end(cluster)
        cluster.write_and_read()
        if fault.replaced:
            assert cluster.status()["state"] != "up"
            cluster.world.sleep(70)
            assert len(cluster.store.status()["nodes"]) == 3
            cluster.write_and_read()
            return
        cluster.wait_until_healthy()
        cluster.write_and_read()
        cluster.check_alone()
