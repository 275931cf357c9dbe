"""Feeds decoders of files, messages and values with bytes that nobody wrote: each returns, or refuses with a named error.

An input is one byte that chooses a place, and the bytes that stand there. Around it all is sound, checksums above all: a
checksum that does not hold ends every decoder at once, and what lies behind it would never be reached. A decoder that
raises anything else (``IndexError``, ``MemoryError``, an assertion), or returns what breaks its word, has failed.

``scripts/fuzz`` drives it, by coverage where atheris is installed, else by mutating what is sound.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import struct
from typing import TYPE_CHECKING, Any

import msgspec
from crc32c import crc32c

from raykv.client.codecs import decode_value, encode_value, library_of
from raykv.cluster import backup as backups
from raykv.cluster.state import ClusterState, encode_state
from raykv.config import BucketConfig, NodeConfig, StoreConfig
from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.ring import Member, claim
from raykv.sim.disk import SimDisk
from raykv.storage import Engine, read_identity
from raykv.storage import manifest as manifests
from raykv.storage.blob import UNREADABLE, write_blob
from raykv.storage.block import encode as encode_block
from raykv.storage.block import mark_of
from raykv.storage.cache import BlockCache
from raykv.storage.compression import Unpacker
from raykv.storage.damage import CompressionMissing, CorruptBlock
from raykv.storage.frame import FRAME, decode_frame, encode_frame
from raykv.storage.replay import read_header, replay_segment
from raykv.storage.snapshot import (
    PART_MAGIC,
    PART_SUFFIX,
    PART_VERSION,
    Part,
    PartReader,
    pooled_table,
    prepare,
    read_part,
    snapshot_directory,
)
from raykv.storage.sstable import FOOTER, HEADER, MAGIC, VERSION, Meta, Table, TableInfo, table_name
from raykv.storage.wal import CHECKSUM, CHUNK, HEADER_BYTES, MAX_CHUNK_BYTES, SENTINEL, segment_header, segment_name
from raykv.transport.wire import Reader, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_encode = msgspec.msgpack.Encoder().encode
_decode_meta = msgspec.msgpack.Decoder(Meta).decode
MAX_PAYLOAD_BYTES = 1 << 20
_PAIRS = [(b"key%02d" % number, b"record %02d " % number * 3) for number in range(12)]
_CONFIG = NodeConfig(memtable_bytes=4096, block_bytes=256, block_cache_bytes=1 << 16)


class Failed(AssertionError):
    """A decoder broke its word."""


# ---- a table, from its parts ----

WHOLE, META, INDEX, FILTER, BLOCK, DICTIONARY, FRAME_OF_BLOCK = range(7)


def _frame(head: bytes, data: bytes, offset: int) -> bytes:
    """Return a frame whose checksum holds over whatever kind and length it claims."""
    length, kind = struct.unpack("<IB", head)
    covered = struct.pack("<QIB", offset, length, kind)
    return FRAME.pack(crc32c(data, crc32c(covered)), length, kind) + data


def _block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    keys = [key for key, _ in pairs]
    return encode_block(keys, [record for _, record in pairs], bytes(map(mark_of, keys)))


def _table_file(place: int, data: bytes) -> bytes:
    """Return a table in which ``data`` stands in one place."""
    file = bytearray(HEADER.pack(MAGIC, VERSION))

    def put(part: int, payload: bytes) -> tuple[int, int]:
        offset = len(file)
        if part == BLOCK and place == FRAME_OF_BLOCK:
            file.extend(_frame(data[:5].ljust(5, b"\0"), data[5:], offset))
        else:
            file.extend(encode_frame(data if part == place else payload, offset))
        return offset, len(file) - offset

    offsets, firsts = [], []
    for at in range(0, len(_PAIRS), 4):
        some = _PAIRS[at : at + 4]
        payload = _block(some)
        offsets.append(put(BLOCK if at else WHOLE, payload)[0])  # the first block stays sound
        firsts.append(some[0][0])
    offsets.append(len(file))
    dictionary = put(DICTIONARY, b"what blocks share " * 4)
    index = put(INDEX, _encode((firsts, offsets)))
    bloom = put(FILTER, b"\xff" * 64)
    compression = "zstd" if place in (DICTIONARY, FRAME_OF_BLOCK) else "lz4"
    meta = Meta(
        7, len(_PAIRS), _PAIRS[0][0], _PAIRS[-1][0], *index, *bloom, 0, compression,
        *(dictionary if compression == "zstd" else (0, 0)),
    )  # fmt: skip
    footer = put(META, _encode(meta))
    checksum = crc32c(FOOTER.pack(*footer, VERSION, 0, MAGIC))
    return bytes(file) + FOOTER.pack(*footer, VERSION, checksum, MAGIC)


def table(given: bytes) -> None:
    """Open a table, and read all of it in every way."""
    place, data = given[0] % 7 if given else WHOLE, given[1:]
    file = data if place == WHOLE else _table_file(place, data)
    info = TableInfo(7, len(_PAIRS), len(file), _PAIRS[0][0], _PAIRS[-1][0])
    if place == META:
        with contextlib.suppress(*UNREADABLE):
            meta = _decode_meta(data)
            info = TableInfo(meta.number, meta.count, len(file), meta.smallest, meta.largest, meta.digest)
    disk = SimDisk.holding({f"/d/{table_name(info.number)}": file}, ["/d"])
    cache = BlockCache(1 << 16)
    try:
        opened = Table(disk, "/d", info, cache)
    except (CorruptBlock, CorruptData, CompressionMissing):
        return
    for key, record in _PAIRS[::5]:  # of each block one
        with contextlib.suppress(CorruptBlock):
            found = opened.find(key)
            if place in (FILTER, DICTIONARY) and found != record:
                raise Failed(f"{key!r} was read as {found!r}")
        with contextlib.suppress(CorruptBlock):
            opened.beside(key, reverse=bool(key[-1] & 1))
    for reverse in (False, True):
        with contextlib.suppress(CorruptBlock):
            for keys, records in opened.batches(b"key03", b"key99", reverse=reverse):
                if len(keys) != len(records):
                    raise Failed(f"{len(keys)} keys and {len(records)} records")
    damages: list[CorruptBlock] = []
    for keys, records in opened.stream(damages.append):
        if len(keys) != len(records):
            raise Failed(f"{len(keys)} keys and {len(records)} records")


# ---- the log ----


def _chunk(data: bytes, offset: int, head: bytes = b"") -> bytes:
    """Return a chunk whose checksums hold; ``head``: its length and how far it was synced, as claimed."""
    length, synced_up_to = struct.unpack("<IQ", head) if head else (len(data), offset)
    packed = CHUNK.pack(SENTINEL, length, 1, offset, synced_up_to, crc32c(data))
    return packed + CHECKSUM.pack(crc32c(packed)) + data


def log(given: bytes) -> None:
    """Replay a segment of the log."""
    place, data = given[0] % 4 if given else 0, given[1:]
    sound = _chunk(_encode(([b"key"], [b"record"])), HEADER_BYTES)
    start = segment_header(1, 0, 0) + sound
    if place == 0:
        file = data
    elif place == 1:
        file = start + data
    elif place == 2:
        file = start + _chunk(data, len(start))
    else:
        file = start + _chunk(data[12:], len(start), data[:12].ljust(12, b"\0"))
    disk = SimDisk.holding({f"/d/{segment_name(1)}": file}, ["/d"])
    for sealed in (False, True):
        with contextlib.suppress(CorruptData):
            read_header(disk, "/d", 1)
            found = replay_segment(disk, "/d", 1, len(file) if sealed else None, sealed)
            if not 0 <= found.length <= max(len(file), HEADER_BYTES):
                raise Failed(f"{found.length} of {len(file)} bytes count")
            if place and not sealed and (not found.blocks or found.blocks[0] != ([b"key"], [b"record"])):
                raise Failed("what lies before is lost")
            if any(len(keys) != len(records) for keys, records in found.blocks):
                raise Failed("a key without a record")
    assert len(file) <= MAX_CHUNK_BYTES, "inputs are small"


# ---- small files ----


def manifest(given: bytes) -> None:
    """Open an engine whose manifest is this."""
    disk = SimDisk.holding({}, ["/d"])
    write_blob(disk, "/d", manifests.NAME, manifests.MAGIC, manifests.VERSION, given)
    with contextlib.suppress(CorruptData):
        if manifests.load(disk, "/d") is None:
            raise Failed("it is there, and was not found")
        engine = Engine.open(disk, "/d", _CONFIG, lambda _, incoming: incoming)
        with contextlib.suppress(CorruptData):
            for _ in engine.scan(b"", None):
                pass
        engine.close()


def identity(given: bytes) -> None:
    """Read who a directory is."""
    disk = SimDisk.holding({}, ["/n"])
    write_blob(disk, "/n", "identity", b"RAYKVIDN", 2, given)
    with contextlib.suppress(CorruptData):
        read_identity(disk, "/n")


# ---- backups ----

_SNAPSHOT = "20261129T170000Z-00000001"
PART, MANIFEST = range(2)


def backup(given: bytes) -> None:
    """Read a node's part of a snapshot, or a snapshot's manifest, and all that they name."""
    place, data = given[0] % 2 if given else PART, given[1:]
    disk = SimDisk.holding({}, ["/b"])
    prepare(disk, "/b", "s", "n1", _SNAPSHOT)
    directory = snapshot_directory("/b", _SNAPSHOT)
    if place == MANIFEST:
        write_blob(disk, directory, backups.MANIFEST, backups.MANIFEST_MAGIC, backups.MANIFEST_VERSION, data)
        with contextlib.suppress(CorruptData):
            found = backups.read_manifest(disk, "/b", _SNAPSHOT)
            backups.lacking(found.cluster, [part.node_id for part in found.parts])
            _check_names([*(part.node_id for part in found.parts), *found.missing, found.snapshot])
        return
    write_blob(disk, directory, f"n1{PART_SUFFIX}", PART_MAGIC, PART_VERSION, data)
    with contextlib.suppress(CorruptData):
        part = read_part(disk, "/b", _SNAPSHOT, "n1", len(data), crc32c(data))
        reader = PartReader(disk, "/b", part)
        for info, checksum in part.tables():
            _check_names([pooled_table("/b", "n1", info, checksum).removeprefix("/b/tables/n1/")])
        if [*reader.batches()]:
            raise Failed("there are records in tables that are not there")


def _check_names(names: list[str]) -> None:
    if any("/" in name or name.startswith(".") or "\0" in name for name in names):
        raise Failed(f"a name that leads elsewhere: {names}")


# ---- frames ----

_unpacker = Unpacker("a table", b"what blocks share " * 4)


def frame(given: bytes) -> None:
    """Unpack a frame of a table, of any kind and claimed length."""
    framed = _frame(given[:5].ljust(5, b"\0"), given[5:], 12)
    with contextlib.suppress(ValueError, CompressionMissing):
        payload = decode_frame(framed, 12, MAX_PAYLOAD_BYTES, _unpacker)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise Failed(f"{len(payload)} bytes")


_FRAMES = (
    f.node_requests, f.node_answers, f.coordinator_requests, f.coordinator_answers, f.supervisor_requests,
    f.supervisor_answers, f.handed_answers,
)  # fmt: skip


def message(given: bytes) -> None:
    """Decode a message of each conversation, and what a socket brings."""
    for kind in _FRAMES:
        with contextlib.suppress(CorruptData):
            kind.decode(given)
    with contextlib.suppress(WireError):
        Reader().feed(given)


def value(given: bytes) -> None:
    """Decode a value of any form but a pickle's, whose bytes are code; a library's value has to bear being stored again."""
    if given[:1] == _PICKLED:
        return
    try:
        found = decode_value(given, "auto")
    except CorruptData:
        return
    if getattr(found, "nbytes", 0) > _MOST_TIMES * len(given):
        raise Failed(f"{len(given)} bytes became {found.nbytes}")
    if library_of(given) is not None:
        again = encode_value(found, "auto")
        if library_of(again) is None or encode_value(decode_value(again, "auto"), "auto") != again:
            raise Failed("what was decoded is not what is stored again")


_PICKLED = encode_value((), "auto")[:1]
_MOST_TIMES = 1000
"""Columns of an Arrow table may share bytes: that costs no memory."""


def _values() -> list[bytes]:
    """Return encoded values, those of the libraries that are installed among them."""
    found: list[Any] = [b"bytes", "text", {"a": [1, None, 2.5]}]
    if importlib.util.find_spec("numpy"):
        import numpy as np

        found += [np.arange(6.0).reshape(2, 3), np.float32(1), np.zeros(2, [("a", ">i2"), ("b", "M8[s]", (2,))])]
        found += [np.array(["ab", "c"]), np.asfortranarray(np.ones((2, 3), ">u4")), np.datetime64("NaT")]
    if importlib.util.find_spec("pandas"):
        import pandas as pd

        times = pd.date_range("2024-01-01", periods=2, freq="h", tz="Europe/Berlin")
        columns = {"a": [1, 2], "b": ["x", None], "c": pd.Categorical(["u", "v"]), "d": pd.array([1, None], "Int8")}
        found += [pd.DataFrame(columns, times), pd.DataFrame({"a": [1.5]}), pd.Series([None, 1, b"x"], dtype=object)]
        local, hours = times.tz_localize(None), pd.timedelta_range("1h", periods=2, freq="2h")
        found += [pd.Series(pd.Categorical.from_codes([0, 1], local), hours, name="n")]
        found += [pd.Series(pd.array(["a", None], "string[python]"), pd.CategoricalIndex(["b", "c"], ordered=True))]
    if importlib.util.find_spec("pyarrow"):
        import pyarrow as pa

        nested = {"a": [[1], None], "b": ["x", None], "c": pa.array(["u", "v"]).dictionary_encode()}
        found += [pa.table(nested), pa.array([1, None]), pa.chunked_array([["a"], ["b"]])]
        found += [pa.RecordBatch.from_pylist([{"a": 1.5}]), pa.array([1, None], pa.decimal128(5, 1))]
        found += [pa.array([[("k", 1)]], pa.map_(pa.dictionary(pa.int8(), pa.string()), pa.int8()))]
    return [encode_value(one, "auto") for one in found]


DECODERS: dict[str, Callable[[bytes], None]] = {
    "table": table, "log": log, "manifest": manifest, "identity": identity, "backup": backup, "frame": frame,
    "message": message, "value": value,
}  # fmt: skip


def seeds() -> Mapping[str, list[bytes]]:
    """Return sound inputs of each decoder, to begin with."""
    import lz4.block  # type: ignore[import-untyped]

    block = _block(_PAIRS[4:8])
    packed = lz4.block.compress(block, store_size=False)
    lz4_frame = struct.pack("<IB", len(block), 1) + packed
    zstd_frame = struct.pack("<IB", len(block), 2) + _zstd(block)
    file = _table_file(WHOLE, b"")
    info = TableInfo(3, 5, 100, b"a", b"b", 9)
    run = manifests.RunInfo(3, (info,))
    who = {"store_id": "s", "node_id": "n", "life": "0" * 32, "incarnation": 1, "clean": False, "complete": True}
    meta = Meta(7, 12, b"key00", b"key11", 12, 30, 42, 80, 5, "lz4")
    return {
        "table": [
            bytes([WHOLE]) + file, bytes([META]) + _encode(meta), bytes([INDEX]) + _encode(([b"key00"], [12, 200])),
            bytes([FILTER]) + b"\xff" * 128, bytes([BLOCK]) + block, bytes([DICTIONARY]) + b"what blocks share " * 4,
            bytes([FRAME_OF_BLOCK]) + lz4_frame, bytes([FRAME_OF_BLOCK]) + zstd_frame,
        ],
        "log": [
            b"\0" + segment_header(1, 0, 0) + _chunk(block, HEADER_BYTES), b"\1" + _chunk(block, 70), b"\2" + block,
            b"\3" + struct.pack("<IQ", len(block), 20) + block,
        ],
        "manifest": [_encode(manifests.Manifest()), _encode(manifests.Manifest(next_number=4, runs=(run,)))],
        "identity": [_encode(who)],
        "backup": [bytes([PART]) + _encode(_part(info)), bytes([MANIFEST]) + backups.encode_manifest(_snapshot())],
        "frame": [lz4_frame, zstd_frame, struct.pack("<IB", len(block), 0) + block],
        "message": [
            f.coordinator_requests.encode(f.GetMany(1, [b"\x02a", b"\x01b"], 2, 5.0, causality=True)),
            f.coordinator_answers.encode(f.GotMany([f.KeyVersions([b"x"], True, b"seen")], 9)),
        ],
        "value": _values(),
    }  # fmt: skip


def _part(info: TableInfo) -> Part:
    listed = manifests.Manifest(next_number=4, runs=(manifests.RunInfo(3, (info,)),))
    return Part(store_id="s", node_id="n1", snapshot=_SNAPSHOT, manifest=listed, checksums=(7,))


def _snapshot() -> backups.BackupManifest:
    state = ClusterState(
        store_id="s", generation=1, version=0, config=StoreConfig(name="shop", copies=1, partitions=8),
        ring=claim([Member("n1")], 8, 1),
    ).with_bucket(BucketConfig(name="default", n=1, r=1, w=1))  # fmt: skip
    entry = backups.PartEntry(
        node_id="n1", host="h", directory_id=1, incarnation=1, log_end=9, part_bytes=5, part_checksum=7, tables=1,
        records=2, table_bytes=3,
    )  # fmt: skip
    return backups.BackupManifest(
        snapshot=_SNAPSHOT, store_id="s", store="shop", epoch=state.epoch, made_ms=5, state=encode_state(state),
        parts=(entry,),
    )  # fmt: skip


def _zstd(payload: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        return payload
    packed: bytes = zstandard.ZstdCompressor(write_content_size=False).compress(payload)
    return packed


_TELLING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff" * 4,
    b"\xff" * 8,
    b"\xcf",
    b"\xdd",
    b"\xc6",
    b"\x91",
    b"\x90",
    b"\x01",
)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return something like ``data``: some of it changed, left out, repeated or moved."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed) + 1)
        to = min(len(changed), at + rng.choice((1, 1, 2, 4, 8, 32)))
        match rng.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at:to] = rng.choice(_TELLING)
            case 2:
                del changed[at:to]
            case 3:
                changed[at:at] = changed[at:to] * rng.choice((1, 2, 50))
            case 4:
                changed[at:to] = rng.randbytes(to - at)
            case _:
                place = rng.randrange(len(changed) + 1)
                changed[place:place] = changed[at:to]
    return bytes(changed[:65_536])


def fuzz_decoder(name: str, seed: int, inputs: int, report: Callable[[int], None] | None = None) -> bytes | None:
    """Give a decoder this many mutated inputs; return the one at which it failed, if it did. The exception propagates not.

    Repeatable: the same seed gives the same inputs.
    """
    rng = random.Random(f"{name} {seed}")
    decode, known = DECODERS[name], seeds()[name]
    pool = list(known)
    for number in range(inputs):
        given = mutate(rng, rng.choice(pool))
        if rng.random() < 0.01 and len(pool) < 200:
            pool.append(given)  # what is far from sound is reached in steps
        try:
            decode(given)
        except Exception:  # noqa: BLE001 - any error that is not named is what is looked for
            return given
        if report is not None and number % 1000 == 999:
            report(1000)
    return None
