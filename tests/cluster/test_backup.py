"""The manifest of a snapshot, and which parts suffice."""

from __future__ import annotations

import datetime as dt
import itertools
import pathlib
import random

import msgspec
import pytest

from raykv.cluster.backup import (
    MANIFEST,
    MANIFEST_MAGIC,
    MANIFEST_VERSION,
    BackupManifest,
    PartEntry,
    decode_manifest,
    encode_manifest,
    lacking,
    read_manifest,
    snapshot_name,
)
from raykv.cluster.state import ClusterState, Move, encode_state
from raykv.config import BucketConfig, StoreConfig
from raykv.errors import CorruptData
from raykv.ring import Member, claim
from raykv.sim.disk import SimDisk
from raykv.storage.snapshot import prepare, publish, snapshot_directory

PATH = "/backups/shop"
NAME = "20261129T170000Z-00000001"


def state_of(nodes=3, *, n=3, w=2, sloppy=False, copies=3, moves=()):
    members = [Member(f"n{number + 1}", host=f"h{number + 1}") for number in range(nodes)]
    state = ClusterState(
        store_id="s", generation=1, version=0, config=StoreConfig(name="shop", copies=copies, partitions=8),
        ring=claim(members, 8, copies), moves=moves,
    )  # fmt: skip
    return state.with_bucket(BucketConfig(name="default", n=n, r=n - w + 1, w=w, sloppy=sloppy))


def entry(node_id):
    return PartEntry(
        node_id=node_id, host="h", directory_id=1, incarnation=1, log_end=9, part_bytes=5, part_checksum=7, tables=1,
        records=2, table_bytes=3,
    )  # fmt: skip


def manifest_of(**changes):
    state = state_of()
    fields = {
        "snapshot": NAME, "store_id": "s", "store": "shop", "epoch": state.epoch, "made_ms": 5,
        "state": encode_state(state), "parts": (entry("n1"), entry("n2")), "missing": {"n3": "down"},
    }  # fmt: skip
    return BackupManifest(**fields | changes)


def test_names_are_dates_and_sort_by_them():
    rng = random.Random(1)
    moments = sorted(
        [0, 86_399_999, 951_782_400_000, 951_868_800_000, 4_102_444_799_000]
        + [rng.randrange(250_000_000_000_000) for _ in range(2000)]
    )
    names = [snapshot_name(ms, 0xAB) for ms in moments]
    for ms, name in zip(moments, names, strict=True):
        when = dt.datetime.fromtimestamp(ms // 1000, tz=dt.UTC)
        assert name == f"{when:%Y%m%dT%H%M%SZ}-000000ab"
    assert names == sorted(names)


def test_a_manifest_reads_back():
    disk = SimDisk()
    prepare(disk, PATH, "s", "n1", NAME)
    with pytest.raises(FileNotFoundError):
        read_manifest(disk, PATH, NAME)
    manifest = manifest_of()
    publish(disk, PATH, NAME, MANIFEST, "n1", MANIFEST_MAGIC, MANIFEST_VERSION, encode_manifest(manifest))
    publish(disk, PATH, NAME, MANIFEST, "n2", MANIFEST_MAGIC, MANIFEST_VERSION, encode_manifest(manifest))
    assert read_manifest(disk, PATH, NAME) == manifest
    assert disk.list_directory(snapshot_directory(PATH, NAME)) == [MANIFEST]


def test_the_manifest_of_version_1_is_read():
    """Every later raykv reads it. Today's code writes it as well, but for what the cluster's state has got since."""
    disk = SimDisk()
    prepare(disk, PATH, "s", "n1", NAME)
    data = (pathlib.Path(__file__).parent / "golden" / "backup-manifest-v1").read_bytes()
    disk.create(f"{snapshot_directory(PATH, NAME)}/{MANIFEST}").append(data)
    read = read_manifest(disk, PATH, NAME)
    assert read.cluster == state_of()
    assert msgspec.structs.replace(read, state=b"") == msgspec.structs.replace(manifest_of(), state=b"")


def test_every_bit_of_a_manifest_and_every_truncation_is_refused():
    disk = SimDisk()
    prepare(disk, PATH, "s", "n1", NAME)
    publish(disk, PATH, NAME, MANIFEST, "n1", MANIFEST_MAGIC, MANIFEST_VERSION, encode_manifest(manifest_of()))
    where = f"{snapshot_directory(PATH, NAME)}/{MANIFEST}"
    data = disk.read_file(where, 1 << 20)
    for bit in range(8 * len(data)):
        disk.flip_bit(where, bit // 8, bit % 8)
        with pytest.raises(CorruptData):
            read_manifest(disk, PATH, NAME)
        disk.flip_bit(where, bit // 8, bit % 8)
    assert read_manifest(disk, PATH, NAME) == manifest_of()
    for length in range(len(data) - 1, -1, -1):
        disk.truncate(where, length)
        with pytest.raises(CorruptData):
            read_manifest(disk, PATH, NAME)


@pytest.mark.parametrize(
    "changes",
    [
        {"store_id": "t"},
        {"store": "carts"},
        {"epoch": 9},
        {"parts": (entry("n1"), entry("n1"))},
        {"parts": (entry("n9"),)},
        {"state": b"nonsense"},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes):
    with pytest.raises(CorruptData):
        decode_manifest(encode_manifest(manifest_of(**changes)), "here")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("snapshot", "../../x"),
        ("snapshot", "20261129T170000Z-0000000g"),
        ("parts", [{"node_id": "../x"}]),
        ("epoch", -1),
    ],
)
def test_names_that_become_paths_are_checked_where_they_are_decoded(field, value):
    data = msgspec.to_builtins(manifest_of(), builtin_types=(bytes,))
    if field == "parts":
        data["parts"] = [data["parts"][0] | value[0]]
    else:
        data[field] = value
    with pytest.raises(CorruptData):
        decode_manifest(msgspec.msgpack.encode(data), "here")


def test_another_snapshot_s_manifest_is_refused():
    disk = SimDisk()
    prepare(disk, PATH, "s", "n1", NAME)
    other = encode_manifest(manifest_of(snapshot="20261129T170000Z-00000002"))
    publish(disk, PATH, NAME, MANIFEST, "n1", MANIFEST_MAGIC, MANIFEST_VERSION, other)
    with pytest.raises(CorruptData, match="is the manifest of"):
        read_manifest(disk, PATH, NAME)


@pytest.mark.parametrize(("n", "w"), [(3, 1), (3, 2), (3, 3), (2, 1), (2, 2), (1, 1), (5, 3)])
def test_of_each_partition_one_owner_of_every_acknowledged_write_has_a_part(n, w):
    """By trying every set of missing nodes: no W owners of a partition may all be missing, nor all that confirm a step."""
    state, r = state_of(5, n=n, w=w, copies=5), n - w + 1
    nodes = [member.node_id for member in state.ring.members]
    for count in range(len(nodes) + 1):
        for parts in itertools.combinations(nodes, count):
            loses = any(
                not {*acked} & {*parts}
                for partition in range(8)
                for acked in (
                    *itertools.combinations(state.read_set(partition, n), w),
                    *itertools.combinations(state.read_set(partition, n), n - min(r, w) + 1),
                )
            )
            assert bool(lacking(state, parts)) == loses, parts


def test_in_a_sloppy_bucket_any_nodes_may_have_acknowledged():
    state = state_of(5, n=3, w=2, sloppy=True)
    nodes = {member.node_id for member in state.ring.members}
    assert not lacking(state, nodes - {"n5"})
    assert any("sloppy" in said for said in lacking(state, nodes - {"n4", "n5"}))


def test_while_a_partition_moves_those_count_that_reads_ask():
    before = state_of(4)
    owners = before.ring.owners(0)
    (other,) = {"n1", "n2", "n3", "n4"} - {*owners}
    new = (other, *owners[:2])
    moving = state_of(4, moves=(Move(0, new),))
    moved = state_of(4, moves=(Move(0, new, reads_new=True),))
    assert moving.read_set(0, 3) == owners
    assert moved.read_set(0, 3) == new
    parts = {other, owners[0]}  # two of three new owners, one of three old ones
    assert "partition 0," in lacking(moving, parts)[0]
    assert "partition 0," not in "".join(lacking(moved, parts))


def test_damage_costs_its_partition_alone():
    state = state_of(3)
    every = {"n1", "n2", "n3"}
    assert not lacking(state, every, {(0, "n1"), (1, "n2"), (2, "n3")})
    (said,) = lacking(state, every, {(0, "n1"), (0, "n2")})
    assert "1 of 8 partitions" in said
    assert "n1, n2" in said or "n2, n1" in said
