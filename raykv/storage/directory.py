"""A node's directory: one process holds it, and it remembers its owner (P6).

``lock``      held while the node runs; its content is a note on the holder
``identity``  store, node, *directory id*, incarnation, two promises: *clean* and *complete*; where the data is, and
              when the node was last alive
``register``  the node's copy of the cluster's state, with the directory id that it was kept under

A *directory id* is drawn at random when the directory is made: a node that was replaced and joins again with an empty
directory keeps its node id and gets another directory id. The *incarnation* grows by one, durably, with every opening,
before anything else: two runs of a node never bear the same number, unless the directory was copied back, which the
peers notice. A clean stop sets ``clean``; the next opening clears it, durably, and keeps what it found in ``previous``.
``complete`` is this directory's own opinion on whether it holds all that it acknowledged (P1).

A directory that turns out to be an old copy gets a new directory id. If it is older than the time for which deletes are
remembered, its data is also set aside, within this directory, and the node begins empty: its records may have been
deleted and forgotten everywhere else (P6, P10). A long absence alone is no reason: while a node is unavailable, nothing
of its share is forgotten.

The identity is written before any data: data without an identity is a directory that somebody has tampered with, and is
refused. Omitted: moving and copying directories (``Engine`` has no part in it).
"""

from __future__ import annotations

import contextlib
import re
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from crc32c import crc32c

from raykv.errors import CorruptData, PairTooLarge, RaykvError
from raykv.records.limits import DirectoryId, FileName, Name, NodeId, Number
from raykv.storage.blob import TEMPORARY_SUFFIX, read_blob, unpack, write_blob
from raykv.storage.damage import DiskFull
from raykv.storage.mark import Mark

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Callable, Iterable

    from raykv.ports import FileLock, FileSystem

LOCK_NAME = "lock"
IDENTITY_NAME = "identity"
REGISTER_NAME = "register"
OLD_SUFFIX = ".old"
IDENTITY_MAGIC = b"RAYKVIDN"
REGISTER_MAGIC = b"RAYKVREG"
IDENTITY_VERSION = 2
REGISTER_VERSION = 1
DIRECTORY_ID_BYTES = 32
MAX_IDENTITY_BYTES = 16 << 10
MAX_REGISTER_BYTES = 16 << 20
MAX_INCARNATION = 1 << 62
_MAX_NOTE_BYTES = 4 << 10
_SHOWN_NOTE_BYTES = 300
_DATA = re.compile(r"data(-[0-9]{1,20})?", re.ASCII)
_DIRECTORY_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NO_STRAYS = (LOCK_NAME, IDENTITY_NAME + TEMPORARY_SUFFIX, "lost+found")


class DirectoryInUse(RaykvError):
    """Another process holds the directory. ``note`` is its note in the lock: JSON with its process id."""

    @property
    def note(self) -> bytes:
        """The holder's note in the lock; empty if it cannot be read."""
        note: bytes = self.details.get("note", b"")
        return note


class DirectoryForeign(RaykvError):
    """The directory belongs to another store or node, or is another directory of this node. Set it aside; never write."""


class Identity(msgspec.Struct, frozen=True):
    """The owner of a directory, and the state in which it was left."""

    store_id: Name
    node_id: NodeId
    directory_id: DirectoryId = msgspec.field(name="life")  # its name on disk
    """32 hexadecimal digits."""
    incarnation: Number
    clean: bool
    complete: bool
    votes: bool = False
    """Whether its register holds all that it ever promised and accepted (P5)."""
    data: FileName = "data"
    """The name of the subdirectory with the engine's files."""
    alive_ms: int = 0
    """When the node was last known to run, by its wall clock."""
    stale: bool = False
    """Whether the next opening must set ``data`` aside."""
    mark: Mark | None = None
    """What is known of the data (``raykv.storage.mark``); None: nothing was recorded."""
    register: int = 0
    """The checksum of the register, as far as it is known, which distinguishes it from an older one; 0: there was none."""


_decode_identity = msgspec.msgpack.Decoder(Identity).decode


def read_identity(fs: FileSystem, path: str) -> Identity | None:
    """Return the identity in directory ``path`` without taking its lock; None if there is none.

    ``CorruptData`` if there is one that cannot be read.
    """
    try:
        _, payload = read_blob(fs, f"{path}/{IDENTITY_NAME}", IDENTITY_MAGIC, IDENTITY_VERSION, MAX_IDENTITY_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    identity = unpack(_decode_identity, payload, f"{path}/{IDENTITY_NAME}")
    wrong = _wrong_with(identity)
    if wrong:
        raise CorruptData(f"{path}/{IDENTITY_NAME}: {wrong}", file=path)
    return identity


def _wrong_with(identity: Identity) -> str:
    """Return why the identity is invalid: its words become names of directories. Empty if it is valid."""
    if _DATA.fullmatch(identity.data) is None:
        return f"no valid name of a data directory: {identity.data[:80]!r}"
    if _DIRECTORY_ID.fullmatch(identity.directory_id) is None:
        return f"no valid directory id: {identity.directory_id[:80]!r}"
    if not 0 < identity.incarnation < MAX_INCARNATION:
        return f"no valid incarnation: {identity.incarnation}"
    return ""


class RegisterFacts(msgspec.Struct, frozen=True):
    """The register in a directory: the directory id that it was stored under, its size, and what distinguishes it."""

    directory_id: str
    size_bytes: int
    checksum: int


def read_register(fs: FileSystem, path: str) -> RegisterFacts:
    """Return the facts of the register in directory ``path`` without taking its lock.

    ``FileNotFoundError`` if there is none, ``CorruptData`` if it cannot be read.
    """
    payload = read_register_payload(fs, path)
    owner = payload[:DIRECTORY_ID_BYTES].decode("ascii", "replace")
    return RegisterFacts(owner, len(payload), 1 << 32 | crc32c(payload))


def read_register_payload(fs: FileSystem, path: str) -> bytes:
    """Return whose the register in directory ``path`` is, a directory id, with its data behind. As ``read_register``."""
    most_bytes = MAX_REGISTER_BYTES + DIRECTORY_ID_BYTES
    return read_blob(fs, f"{path}/{REGISTER_NAME}", REGISTER_MAGIC, REGISTER_VERSION, most_bytes)[1]


class NodeDirectory:
    """A directory held under its lock. Use ``NodeDirectory.open``."""

    def __init__(
        self,
        fs: FileSystem,
        path: str,
        lock: FileLock,
        identity: Identity,
        previous: Identity | None,
        random: random_module.Random,
    ) -> None:
        self._fs = fs
        self._random = random
        self._lock: FileLock | None = lock
        self.path = path
        self.identity = identity
        self._to_mark: Callable[[], None] | None = None
        """``mark_incomplete`` as it was called when the disk was full."""
        self.previous = previous
        """The identity as the last run left it; None in a new directory. A clean stop shows as ``previous.clean``."""

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        path: str,
        *,
        store_id: str,
        node_id: str,
        random: random_module.Random,
        complete_if_new: bool,
        directory_id: str | None = None,
        note: bytes = b"",
        now_ms: int = 0,
    ) -> NodeDirectory:
        """Make the directory if missing, take its lock and begin a new incarnation.

        ``directory_id``: the expected one, if it is known. ``note`` goes into the lock, for processes that find it
        taken: JSON with the process id. ``now_ms``: the wall clock. Raises ``DirectoryInUse``, ``DirectoryForeign``,
        ``CorruptData``, ``OSError``; the lock is free again then.
        """
        fs.make_directories(path)
        lock_path = f"{path}/{LOCK_NAME}"
        try:
            lock = fs.lock(lock_path, note)
        except BlockingIOError:
            raise _in_use(fs, path) from None
        try:
            previous = read_identity(fs, path)
            identity = _next_identity(fs, path, previous, store_id, node_id, directory_id, random, complete_if_new)
            identity = msgspec.structs.replace(identity, alive_ms=now_ms)
            if identity.stale:
                identity = _set_aside(identity)
            directory = cls(fs, path, lock, identity, previous, random)
            directory._save(identity)
        except BaseException:
            lock.release()
            raise
        return directory

    @property
    def directory_id(self) -> int:
        """The first 64 bits of the directory id, by which peers know it."""
        return int(self.identity.directory_id[:16], 16)

    @property
    def last_run(self) -> int:
        """The incarnation before this one; 0 if there was none."""
        return self.previous.incarnation if self.previous is not None else 0

    @property
    def owner(self) -> str:
        """The owner's name, for files that must be recognizable as its own."""
        return f"{self.identity.store_id}/{self.identity.node_id}"

    def mark_clean(self, mark: Mark | None = None) -> None:
        """Record, durably, that this run ended cleanly, and what it leaves. The last step before ``close``."""
        self._save(msgspec.structs.replace(self.identity, clean=True, mark=mark, register=self._register_left()))

    def note_data(self, mark: Mark) -> None:
        """Record, durably, what this run found: the next run must find that, or what this run made of it."""
        self._save(msgspec.structs.replace(self.identity, mark=mark, register=self._register_left()))

    def doubt_about_register(self) -> str:
        """Return why the register is not the one that was left; empty if it is. Call before ``note_data``.

        After a clean stop this detects an older copy; after a crash only a missing or unreadable one.
        """
        identity = self.identity
        try:
            found = self._register_checksum()
        except CorruptData as error:
            return str(error)
        if identity.register and not found:
            return "its register is gone"
        if identity.mark is not None and identity.mark.exact and found != identity.register:
            return "its register is not the one that was left"
        return ""

    def _register_left(self) -> int:
        """Return the checksum to record. If the register was corrupted meanwhile, the next run must doubt it."""
        try:
            return self._register_checksum()
        except CorruptData:
            return self.identity.register or 1

    def _register_checksum(self) -> int:
        """Return the register's checksum; 0 if there is no register."""
        try:
            return read_register(self._fs, self.path).checksum
        except FileNotFoundError:
            return 0

    def set_complete(self, complete: bool) -> None:
        """Record, durably, whether this directory holds all that it acknowledged."""
        if complete:
            self.mark_first()
        if complete != self.identity.complete:
            identity = msgspec.structs.replace(self.identity, complete=complete)
            try:
                self._save(identity)
            except DiskFull:
                if complete:
                    raise
                self.identity = identity  # the next run will find the same by itself

    def enfranchise(self) -> None:
        """Record, durably, that its register counts toward a majority again (P5)."""
        assert self._to_mark is None, "a vote is for the directory id that peers know"
        if not self.identity.votes:
            self._save(msgspec.structs.replace(self.identity, votes=True))

    def note_alive(self, now_ms: int) -> None:
        """Record, durably, that the node runs; without room for that, the next call does."""
        with contextlib.suppress(DiskFull):
            self._save(msgspec.structs.replace(self.identity, alive_ms=now_ms))

    def remove_old_data(self) -> None:
        """Remove the data that was set aside, except the latest. What somebody else has put beside it stays."""
        for name in data_set_aside(self._fs.list_directory(self.path), self.identity.data)[:-1]:
            self._fs.remove_tree(f"{self.path}/{name}")

    def mark_incomplete(self, known_incarnation: int = 0, *, set_aside: bool = False, stale: bool = False) -> None:
        """Record, durably and in one step, that this directory is an old copy: incomplete, under a new directory id.

        ``set_aside``: begin with no data. ``stale``: do so at the next opening. ``DiskFull``: it is incomplete, and has no
        vote, in memory only; what would make it complete again records this first.

        The register goes with the former directory id: its promises are void, and it has no vote until ``enfranchise``
        (P5). ``identity`` is then in an incarnation beyond ``known_incarnation``.
        """
        identity = _set_aside(self.identity) if set_aside else self.identity
        marked = msgspec.structs.replace(
            identity,
            complete=False,
            votes=False,
            directory_id=_new_directory_id(self._random),
            incarnation=max(identity.incarnation, known_incarnation + 1),
            stale=stale,
            register=0,
        )
        try:
            self._save(marked)
        except DiskFull:
            # It is so, whatever the disk takes: it answers nothing as complete, and does not vote.
            self.identity = msgspec.structs.replace(self.identity, complete=marked.complete, votes=marked.votes)
            self._to_mark = partial(self.mark_incomplete, known_incarnation, set_aside=set_aside, stale=stale)
            raise
        self._to_mark = None
        path = f"{self.path}/{REGISTER_NAME}"
        if self._fs.exists(path):  # it belongs to the former directory id, and may be unreadable
            self._fs.rename(path, path + OLD_SUFFIX)

    def mark_first(self) -> None:
        """Record what ``mark_incomplete`` found no room for, if anything. Raises ``DiskFull``.

        Before anything is promised, kept or judged by the directory id (P5): it gets another one, and an empty register.
        """
        if self._to_mark is not None:
            self._to_mark()

    def load_register(self) -> bytes | None:
        """Return what ``save_register`` last stored under this directory id, or None. ``CorruptData`` if unreadable."""
        try:
            payload = read_register_payload(self._fs, self.path)
        except FileNotFoundError:
            return None
        ours = payload[:DIRECTORY_ID_BYTES] == self.identity.directory_id.encode()
        return payload[DIRECTORY_ID_BYTES:] if ours else None

    def save_register(self, data: bytes) -> None:
        """Store ``data``, at most 16 MiB, durably and atomically, in place of the former. Two syncs."""
        self._assert_held()
        if len(data) > MAX_REGISTER_BYTES:
            raise PairTooLarge(f"the cluster's state is {len(data)} bytes; at most {MAX_REGISTER_BYTES} are kept")
        payload = self.identity.directory_id.encode() + data
        write_blob(self._fs, self.path, REGISTER_NAME, REGISTER_MAGIC, REGISTER_VERSION, payload)
        if not self.identity.register:
            # Record that there is one: if it is ever lost, its promises still bind.
            self._save(msgspec.structs.replace(self.identity, register=1 << 32 | crc32c(payload)))

    def close(self) -> None:
        """Release the lock. Idempotent. A clean stop calls ``mark_clean`` first."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _save(self, identity: Identity) -> None:
        self._assert_held()
        payload = msgspec.msgpack.encode(identity)
        write_blob(self._fs, self.path, IDENTITY_NAME, IDENTITY_MAGIC, IDENTITY_VERSION, payload)
        self.identity = identity

    def _assert_held(self) -> None:
        assert self._lock is not None, "the directory is closed"


def data_set_aside(names: Iterable[str], present: str) -> list[str]:
    """Return which of these names of a node's directory are of data that was set aside, the latest last."""
    ours = [name for name in names if name != present and _DATA.fullmatch(name) is not None]
    return sorted(ours, key=lambda name: int(name.partition("-")[2] or -1))


def _set_aside(identity: Identity) -> Identity:
    """Return the identity with a new, empty place for its data; the present data stays where it is."""
    return msgspec.structs.replace(
        identity, data=f"data-{identity.incarnation}", stale=False, complete=False, mark=None
    )


def _new_directory_id(random: random_module.Random) -> str:
    return f"{random.getrandbits(128):032x}"


def _next_identity(
    fs: FileSystem,
    path: str,
    previous: Identity | None,
    store_id: str,
    node_id: str,
    directory_id: str | None,
    random: random_module.Random,
    complete_if_new: bool,
) -> Identity:
    if previous is None:
        strays = [name for name in fs.list_directory(path) if name not in _NO_STRAYS and not name.startswith(".")]
        if strays:
            raise CorruptData(f"{path} holds {strays[0]!r} but no identity", file=path)
        if directory_id is not None:
            raise DirectoryForeign(
                f"{path} is new, not directory {directory_id!r}", path=path, found=None, expected=directory_id
            )
        return Identity(
            store_id=store_id,
            node_id=node_id,
            directory_id=_new_directory_id(random),
            incarnation=1,
            clean=False,
            complete=complete_if_new,
            votes=complete_if_new,
        )
    for what, found, expected in (
        ("store", previous.store_id, store_id),
        ("node", previous.node_id, node_id),
        ("directory id", previous.directory_id, directory_id if directory_id is not None else previous.directory_id),
    ):
        if found != expected:
            raise DirectoryForeign(
                f"{path} belongs to {what} {found!r}, not {expected!r}", path=path, found=found, expected=expected
            )
    return msgspec.structs.replace(previous, incarnation=previous.incarnation + 1, clean=False)


def _in_use(fs: FileSystem, path: str) -> DirectoryInUse:
    note = b""
    with contextlib.suppress(OSError):
        note = fs.read_file(f"{path}/{LOCK_NAME}", _MAX_NOTE_BYTES)
    said = ascii(note[:_SHOWN_NOTE_BYTES].decode(errors="replace"))  # it goes to somebody's terminal, whatever it is
    return DirectoryInUse(f"{path} is held by another process (its note: {said})", path=path, note=note)
