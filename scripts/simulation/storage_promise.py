"""What one node's storage must hold after a crash, and what an opening of it shows.

Every write that changes something (an update, a replacement, an erasure) has a number, its *version*. The whole content
must be what it was after one of them, and not after one before the newest that was promised. That is more than "every key
has a record that was written, none is older than was promised, nothing is invented, nothing erased comes back": what
survives is a prefix of all writes, as the log's order has it. An update's record stands behind its version, so that it
is one of a kind; after an erasure the content may be what it was before, and then the two are indistinguishable.

A part of a backup that was reported to be written must be there until it is removed, with what the engine held at one
moment since it was asked for. Any part that is there must be whole, unless it no longer counts: it has no manifest, and a
later one has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from crc32c import crc32c

from raykv.errors import RaykvError
from raykv.records.dropped import DroppedBuckets
from raykv.storage import Engine, Identity, NodeDirectory
from raykv.storage.blob import read_blob
from raykv.storage.remote import Worker
from raykv.storage.snapshot import (
    MAX_PART_BYTES,
    PART_MAGIC,
    PART_SUFFIX,
    PART_VERSION,
    SNAPSHOTS,
    PartReader,
    read_part,
    snapshot_directory,
)
from simulation.legal_disks import seeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raykv.config import NodeConfig
    from raykv.ports import FileSystem

PATH = "/node"
BACKUPS = "/backups"
SNAPSHOT_MANIFEST = "manifest"
DROPPED = b"~~" + bytes(4)
"""Keys from here on belong to bucket 0, which was dropped: compactions leave them out, and nobody reads them."""
_DROPPED_BUCKETS = DroppedBuckets(1, frozenset())
_VERSION_DIGITS = 8


def stamped(version: int, body: bytes) -> bytes:
    """Return a record with a version in front."""
    return b"%08d" % version + body


def merge(stored: bytes | None, incoming: bytes) -> bytes:
    """Keep the record with the higher version."""
    return incoming if stored is None else max(stored, incoming)


class Found(NamedTuple):
    """What an opening showed: the identity as it was found and as it is now, the register, the log's end, all records."""

    previous: Identity | None
    identity: Identity
    register: bytes | None
    end: int
    content: dict[bytes, bytes]
    wrong: str
    """Damage, or a position other than 0; empty if all is well."""
    parts: dict[str, dict[bytes, bytes]]
    """Snapshot -> the records of its part."""


class Promise(NamedTuple):
    """What the next opening must show.

    ``states``: version -> all records after that write, for all writes since ``durable``. ``durable``: the newest that was
    reported to be on the disk; ``written``: to be in the kernel. The log's end (``Engine.durable_end``) is at least
    ``durable_end``, or ``written_end``, likewise. ``registers`` and ``identities``: those that may be found: the one saved
    last, and one being saved.
    """

    states: dict[int, dict[bytes, bytes]]
    durable: int
    written: int
    durable_end: int
    written_end: int
    registers: tuple[bytes | None, ...]
    identities: tuple[Identity | None, ...]
    parts: dict[str, tuple[dict[bytes, bytes], ...]]
    """Snapshot -> what its part may hold, one of these."""

    def broken_by(self, found: Found, *, kernel_lived: bool) -> tuple[str, str] | None:
        """Return what was expected and what was found, if that is not the same."""
        if found.wrong:
            return "no damage, and everything at position 0", found.wrong
        if bare(found.previous) not in self.identities:
            return f"identity: one of {self.identities}", f"{found.previous}"
        if bare(found.identity) != following(found.previous):
            return f"identity: {following(found.previous)}", f"{found.identity}"
        if found.register not in self.registers:
            return f"register: one of {self.registers}", f"{found.register!r}"
        lowest, end = (self.written, self.written_end) if kernel_lived else (self.durable, self.durable_end)
        if found.end < end:
            return f"the end of the log at {end:#x} or later", f"{found.end:#x}"
        for name, contents in sorted(self.parts.items()):
            if found.parts.get(name) not in contents:
                return f"the part of snapshot {name} with one of {len(contents)} contents", _short(
                    found.parts.get(name, {})
                )
        versions = [version for version, state in self.states.items() if state == found.content]
        if not versions:
            nearest = min(self.states, key=lambda version: len(_differing(self.states[version], found.content)))
            state = self.states[nearest]
            keys = _differing(state, found.content)
            expected, shown = ({key: content.get(key) for key in keys} for content in (state, found.content))
            return f"with version {nearest}, the nearest of {len(self.states)}: {_short(expected)}", _short(shown)
        if max(versions) < lowest:
            return f"what was there after version {lowest} or later", f"what was there after version {max(versions)}"
        return None


def _differing(state: dict[bytes, bytes], content: dict[bytes, bytes]) -> list[bytes]:
    return [key for key in sorted({*state, *content}) if state.get(key) != content.get(key)]


def _short(content: Mapping[bytes, bytes | None]) -> str:
    parts = [f"{key!r}: {record and record[:_VERSION_DIGITS]!r}" for key, record in content.items()]
    return "{" + ", ".join(parts[:8]) + (f" and {len(parts) - 8} more" if len(parts) > 8 else "") + "}"


def shown_by(found: Found) -> Promise:
    """Return the promise that what was shown stays so: as an opening finds it that ends before it changes anything.

    It stands as version 0: before all that will be written.
    """
    parts: dict[str, tuple[dict[bytes, bytes], ...]] = {name: (content,) for name, content in found.parts.items()}
    return Promise({0: found.content}, 0, 0, found.end, found.end, (found.register,), (bare(found.previous),), parts)


def bare(identity: Identity | None) -> Identity | None:
    """Return the identity without what it knows of other files: they are judged by what they show."""
    return None if identity is None else msgspec.structs.replace(identity, mark=None, register=0)


def following(previous: Identity | None) -> Identity:
    """Return the identity that the opening after ``previous`` gives."""
    if previous is None:
        directory_id = f"{seeded('life').getrandbits(128):032x}"
        return Identity(
            store_id="s", node_id="n1", directory_id=directory_id, incarnation=1, clean=False, complete=True, votes=True
        )
    return msgspec.structs.replace(previous, incarnation=previous.incarnation + 1, clean=False, mark=None, register=0)


def open_directory(fs: FileSystem) -> NodeDirectory:
    """Take the node's directory on that disk."""
    return NodeDirectory.open(fs, PATH, store_id="s", node_id="n1", random=seeded("life"), complete_if_new=True)


def open_engine(fs: FileSystem, config: NodeConfig, directory: NodeDirectory) -> Engine:
    """Recover the engine in it, and begin the run, as a storage process does that has no doubt."""
    engine = Engine.open(
        fs, f"{PATH}/data", config, merge, mark=directory.identity.mark, run=directory.last_run, owner=directory.owner
    )
    engine.doubt = engine.doubt or directory.doubt_about_register()
    engine.drop = _DROPPED_BUCKETS if config.compression == "lz4" else None  # with it no table is moved as it is
    if config.helper_process:
        engine.use_helper(Helper(fs), worth_bytes=0)
    directory.note_data(engine.begin_run(directory.identity.incarnation))
    return engine


class Helper:
    """A helper process without the process: what it does to the disk happens here."""

    def __init__(self, fs: FileSystem) -> None:
        self._worker = Worker(fs)

    def call(self, message: bytes) -> bytes:
        """See ``ports.Helper``."""
        return self._worker.handle(message)

    def close(self) -> None:
        """See ``ports.Helper``."""


def look(directory: NodeDirectory, engine: Engine, fs: FileSystem) -> Found:
    """Read everything that an opening shows, and the parts of backups."""
    items = list(engine.scan(b"", DROPPED))
    wrong = "; ".join([*map(str, engine.damaged), *([engine.doubt] if engine.doubt else [])])
    if any(found.position for _, found in items):
        wrong += f" positions {[(key, found.position) for key, found in items if found.position]}"
    content = {key: found.record for key, found in items}
    parts: dict[str, dict[bytes, bytes]] = {}
    base = f"{BACKUPS}/{SNAPSHOTS}"
    names = fs.list_directory(base) if fs.exists(base) else []
    finished = [name for name in names if fs.exists(f"{snapshot_directory(BACKUPS, name)}/{SNAPSHOT_MANIFEST}")]
    for name in names:
        if name not in finished and name < max(finished, default=""):
            continue
        try:
            if fs.exists(f"{snapshot_directory(BACKUPS, name)}/n1{PART_SUFFIX}"):
                parts[name] = _content_of(fs, name)
            elif name in finished:
                wrong += f" snapshot {name} has a manifest and no part"
        except (RaykvError, OSError) as error:
            wrong += f" snapshot {name}: {error}"
    return Found(
        directory.previous, directory.identity, directory.load_register(), engine.durable_end, content, wrong, parts
    )


def _content_of(fs: FileSystem, name: str) -> dict[bytes, bytes]:
    """Return the records in a part, by the size and checksum that a manifest would have."""
    where = f"{snapshot_directory(BACKUPS, name)}/n1{PART_SUFFIX}"
    _, payload = read_blob(fs, where, PART_MAGIC, PART_VERSION, MAX_PART_BYTES)
    part = read_part(fs, BACKUPS, name, "n1", len(payload), crc32c(payload))
    reader = PartReader(fs, BACKUPS, part)
    content: dict[bytes, bytes] = {}
    for keys, records in reader.batches():
        content.update((key, record) for key, record in zip(keys, records, strict=True) if key < DROPPED)
    if reader.damages:
        raise RaykvError(f"{reader.damages[0]}")
    return content
