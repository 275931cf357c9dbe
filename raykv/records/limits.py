"""Limits on what one message may carry: a single table, enforced by the decoder before any work is done.

A bounded frame size says little about the work in it: a megabyte holds a million partitions to scan. Each list, dict, text
and byte string in a message therefore has a bound of its own, as part of its type, and a message that exceeds one is
``CorruptData`` at the door (``FrameType.decode``): msgspec checks a length before it builds an element. A sender with more
data splits it into several messages. A test walks through the fields of all messages and ensures that none lacks a bound.

Plain data of arbitrary shape has no count to bound; the byte limit of its frame bounds it (``protocol.requests``).

Names are checked here too, because they become paths and actor names: a node ``../../x`` would be started there.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from msgspec import Meta

from raykv.config import (
    KIB,
    MAX_BATCH_ITEMS,
    MAX_COPIES,
    MAX_KEY_BYTES,
    MAX_NODES,
    MAX_PARTITIONS,
    MAX_SIBLINGS,
    MAX_TIMEOUT_S,
    MIB,
    NODE_ID_PATTERN,
)
from raykv.records.durations import LENGTH

MAX_LOOKED_AT = 256
"""The Merkle-tree nodes, or records to fetch or forget, in one request between nodes."""
MAX_ENTRIES = 1 << 20
"""The entries of an answer; its sender bounds their bytes."""
MAX_BUCKETS = 10_000
MAX_SETTINGS = 64
MAX_COUNTERS = 128
MAX_BUCKET_ID = (1 << 32) - 1
"""It is stored in four bytes."""
MAX_HISTOGRAMS = 16
MAX_TEXT_CHARS = 64 * KIB
MAX_NAME_CHARS = 255
MAX_STATE_BYTES = 16 * MIB
MAX_CHANGE_S = 60.0
"""The longest time that a change of a linearizable bucket may take: its receipts are kept as long (L12)."""
MAX_BALLOT_STEP = 1 << 20
"""The distance by which a generation may exceed the promised one."""
MAX_RECORD_BYTES = 16 * MIB
MAX_INNER_FRAME_BYTES = 32 * MIB
"""Of a request within another one: an operation on some keys, to be explained."""
MAX_NUMBER = (1 << 62) - 1
"""For counters that grow throughout a store's life: at a million a second this lasts for 146,000 years."""

SMALL_FRAME_BYTES = 64 * KIB
KEYS_FRAME_BYTES = 2 * MIB
STATE_FRAME_BYTES = MAX_STATE_BYTES + SMALL_FRAME_BYTES

ITEMS = Meta(max_length=MAX_BATCH_ITEMS)
LOOKED_AT = Meta(max_length=MAX_LOOKED_AT)
ENTRIES = Meta(max_length=MAX_ENTRIES)
NODES = Meta(max_length=MAX_NODES)

EncodedKey: TypeAlias = Annotated[bytes, Meta(max_length=1 + MAX_KEY_BYTES)]
Bound: TypeAlias = Annotated[bytes, Meta(max_length=4 * KIB)]
"""Bounds of a scan, and keys stored before keys were validated."""
Keys: TypeAlias = Annotated[list[EncodedKey], ITEMS]
Bytes: TypeAlias = Annotated[bytes, Meta(max_length=MAX_RECORD_BYTES)]
Frame: TypeAlias = Annotated[bytes, Meta(max_length=MAX_INNER_FRAME_BYTES)]
Payloads: TypeAlias = Annotated[list[Bytes], Meta(max_length=2 * MAX_SIBLINGS)]
OperationId: TypeAlias = Annotated[bytes, Meta(max_length=64)]
Actor: TypeAlias = Annotated[bytes, Meta(max_length=64)]
Term: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
Version: TypeAlias = Annotated[bytes, Meta(max_length=24)]
"""Of a linearizable bucket; empty for none."""
Lane: TypeAlias = Annotated[bytes, Meta(max_length=8)]
Place: TypeAlias = Annotated[bytes, Meta(max_length=64)]
State: TypeAlias = Annotated[bytes, Meta(max_length=MAX_STATE_BYTES)]
Partitions: TypeAlias = Annotated[list[int], Meta(max_length=MAX_PARTITIONS)]
BucketIds: TypeAlias = Annotated[list[Annotated[int, Meta(ge=0, le=MAX_BUCKET_ID)]], Meta(max_length=MAX_BUCKETS)]
Indexes: TypeAlias = Annotated[list[int], LOOKED_AT]
BucketId: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_BUCKET_ID)]
Copies: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_COPIES)]
"""The n of a bucket: it is stored in a byte."""
Number: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Offset: TypeAlias = Annotated[int, Meta(ge=-1, le=MAX_NUMBER)]
"""An offset in a file; -1: the entire file."""
Timeout: TypeAlias = Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_S)]
Name: TypeAlias = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
Text: TypeAlias = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
NodeId: TypeAlias = Annotated[str, Meta(pattern=NODE_ID_PATTERN)]
FileName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}\Z")]
"""The name of a file or folder in a node's directory, as the store's files record it."""
BackupPath: TypeAlias = Annotated[
    str, Meta(max_length=1024, pattern=r"^(/(?!\.{1,2}(/|\Z))[^/\x00-\x1f\x7f]{1,255}){1,64}\Z")
]
"""An absolute path of a directory for backups: no ``.`` or ``..``, no empty part, no control character."""
SnapshotName: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}\Z")]
"""The time at which a snapshot began, and random digits. It names a directory."""
DirectoryId: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
NodeIds: TypeAlias = Annotated[list[NodeId], NODES]
Targets: TypeAlias = Annotated[list[NodeId], Meta(max_length=2 * MAX_COPIES)]
"""The most nodes that a write needs while a partition moves."""
Counters: TypeAlias = Annotated[dict[Name, Number], Meta(max_length=MAX_COUNTERS)]
Histograms: TypeAlias = Annotated[
    dict[Name, Annotated[list[Number], Meta(max_length=LENGTH)]], Meta(max_length=MAX_HISTOGRAMS)
]
Settings: TypeAlias = Annotated[dict[Name, Any], Meta(max_length=MAX_SETTINGS)]
Figures: TypeAlias = Annotated[dict[Name, Any], Meta(max_length=MAX_PARTITIONS)]
