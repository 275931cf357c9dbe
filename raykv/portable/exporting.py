"""A bucket into a file, chunk by chunk; interrupted, it goes on behind the last key that is on disk."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import stat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import msgspec

from raykv.client.faces import Pickled, Unread, decode_shown
from raykv.client.store import Bucket
from raykv.config import MIB, shown
from raykv.errors import InvalidOption
from raykv.portable.lasting import CALL_TIMEOUT_S, pairs_of
from raykv.portable.lines import MAX_LINE_BYTES, LinesOut
from raykv.portable.notes import read_note, remove_note, sync, take_lock, write_note
from raykv.portable.parquet import ParquetOut
from raykv.portable.tagged import checked_key, encode_record, restored, tagged_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raykv.records.keys import Key

FileFormat: TypeAlias = Literal["jsonl", "parquet"]
ENDINGS: dict[str, FileFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
CHUNK_ROWS = 20_000
CHUNK_BYTES = 16 * MIB
"""A chunk ends with the record with which it reaches so many records, or bytes of JSON."""
_NOTE, _LOCK = "note.json", "lock"
_OURS = re.compile(r"note\.json(\.new)?|lock|whole|[0-9]{8}\.parquet")
"""The names of what an export puts into its directory of parts."""


class Exported(NamedTuple):
    """What an export has written."""

    records: int
    """In the file."""
    resumed: int
    """Of them, those that an earlier export of it had written when it was interrupted."""
    bytes: int
    """The size of the file."""


class _State(msgspec.Struct):
    after: Any = None
    """The last key, tagged."""
    records: int = 0
    out: dict[str, int] = {}


def export_file(
    bucket: Bucket[Any, Any],
    path: str | os.PathLike[str],
    *,
    format: FileFormat | None = None,  # noqa: A002 - the word that everybody uses
    prefix: Key | None = None,
    overwrite: bool = False,
    unpickle: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Exported:
    """Write a store's or bucket's records into a file, in key order; return how many.

    ``format``: "jsonl" or "parquet"; None: by the path's ending. Under ``path`` the file appears once it is whole. Until
    then its parts are in ``path`` + ".partial": an export of the same that was interrupted goes on there. ``overwrite``:
    whether a file that is there is replaced, at the end. ``prefix``: only these keys.

    Values come back exactly from ``import_file``: None, bool, int, float, str, bytes, list, tuple, set, dict, dates and
    times, ``Decimal``, ``UUID``, in one another. Any other is an ``InvalidOption`` that names the key. Some of these are
    pickles in the store; with ``unpickle=False`` such a value is refused, and not unpickled, which runs its writer's code.

    ``progress(done, all)`` receives numbers of records; they are counted first, which is a scan of the keys. Raises
    ``OSError`` where the file cannot be written, ``InvalidOption``, ``QuorumNotMet``, ``StoreUnavailable``.
    """
    given = os.path.abspath(os.fsdecode(path))
    form = format_of(given, format)
    bucket = checked_bucket(bucket)
    path = os.path.realpath(given)
    if os.path.exists(path) and not os.path.isfile(path):
        raise InvalidOption(f"{path} is no regular file: an export makes one")
    if os.path.exists(path) and not overwrite:
        raise InvalidOption(f"there is a file {path} already; overwrite=True replaces it, at the end")
    operations = bucket._operations  # noqa: SLF001 - its own package's handle
    about = {
        "format": form,
        "store": operations.store_id,
        "bucket": operations.bucket_id,
        "prefix": None if prefix is None else tagged_of(prefix, prefix),
    }
    every = _counted(bucket, prefix) if progress is not None else 0
    with _parts(path) as partial:
        note = f"{partial}/{_NOTE}"
        state = read_note(note, about, "export", _State)
        resumed = state.records
        out = LinesOut(partial, state.out) if form == "jsonl" else ParquetOut(partial, state.out)
        try:
            for keys, values, lines in _chunks(bucket, prefix, _key_of(state, note), unpickle):
                written = out.append(keys, values, lines)
                state = _State(tagged_of(keys[-1], keys[-1]), state.records + len(keys), written)
                write_note(note, about, state)
                if progress is not None:
                    progress(state.records, max(every, state.records))
            whole = out.finish()
        finally:
            out.close()
        size = os.path.getsize(whole)
        if not overwrite and os.path.exists(path):
            raise InvalidOption(
                f"a file {path} has come up meanwhile; move it away, and export again: that goes on here"
            )
        remove_note(note)  # first: by it the next export would go on in what is no part any more
        try:
            os.replace(whole, path)
        except OSError:
            write_note(note, about, state)
            raise
        sync(os.path.dirname(path))
    return Exported(state.records, resumed, size)


def _key_of(state: _State, note: str) -> Key | None:
    """Return the last key that was noted, if one was. Raises ``InvalidOption``."""
    try:
        return None if state.after is None else checked_key(restored(state.after))
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{note} is damaged ({error}); remove it to begin anew") from None


def checked_bucket(bucket: object) -> Bucket[Any, Any]:
    """Return the handle. Raises ``InvalidOption`` for anything else, an awaitable one among them."""
    if not isinstance(bucket, Bucket):
        raise InvalidOption(f"this takes a store, or a bucket as store.bucket(name) returns it; got {shown(bucket)}")
    return bucket


def format_of(path: str, given: str | None) -> FileFormat:
    """Return the format. Raises ``InvalidOption``."""
    found = ENDINGS.get(os.path.splitext(path)[1].lower()) if given is None else given
    if found not in {"jsonl", "parquet"}:
        what = f"the path {path} ends with neither .jsonl nor .parquet" if given is None else f"got {shown(given)}"
        raise InvalidOption(f'format is "jsonl" or "parquet"; {what}')
    return "jsonl" if found == "jsonl" else "parquet"


def _counted(bucket: Bucket[Any, Any], prefix: Key | None) -> int:
    operations = bucket._operations  # noqa: SLF001 - its own package's handle

    def scan(after: Key | None) -> Iterator[tuple[Any, Any]]:
        return bucket._pairs(operations.scan(prefix, after=after, keys_only=True, timeout=CALL_TIMEOUT_S))  # noqa: SLF001

    return sum(1 for _ in pairs_of(scan))


def _chunks(
    bucket: Bucket[Any, Any], prefix: Key | None, after: Key | None, unpickle: bool
) -> Iterator[tuple[list[Any], list[Any], list[bytes]]]:
    """Yield keys, values, and the records of both as lines of JSON."""
    operations = bucket._operations  # noqa: SLF001 - its own package's handle
    if not unpickle:
        operations = copy.copy(operations)
        operations._decode = decode_shown  # noqa: SLF001 - its own package's way of reading

    def scan(behind: Key | None) -> Iterator[tuple[Any, Any]]:
        return bucket._pairs(operations.scan(prefix, after=behind, timeout=CALL_TIMEOUT_S))  # noqa: SLF001

    keys: list[Any] = []
    values: list[Any] = []
    lines: list[bytes] = []
    size_bytes = 0
    for key, value in pairs_of(scan, after):
        if isinstance(value, Pickled):
            raise InvalidOption(
                f"the value of key {shown(key)} is a pickle; to unpickle it runs its writer's code: unpickle=True, or "
                "--unpickle, does that",
                key=key,
            )
        if isinstance(value, Unread):
            raise InvalidOption(
                f"the value of key {shown(key)} is of {value.library}: these files hold plain values; store it as lists, or "
                "read it with raykv.data",
                key=key,
            )
        line = encode_record(key, tagged_of(key, value))
        if len(line) >= MAX_LINE_BYTES:
            raise InvalidOption(
                f"the value of key {shown(key)} has {len(line):,} bytes as JSON, and an import takes {MAX_LINE_BYTES:,} "
                "of a record; leave such keys out (prefix=), or back the store up instead (store.snapshot)",
                key=key,
            )
        keys.append(key)
        values.append(value)
        lines.append(line)
        size_bytes += len(line)
        if len(keys) >= CHUNK_ROWS or size_bytes >= CHUNK_BYTES:
            yield keys, values, lines
            keys, values, lines, size_bytes = [], [], [], 0
    if keys:
        yield keys, values, lines


@contextlib.contextmanager
def _parts(path: str) -> Iterator[str]:
    """Hold the directory of parts, which goes at the end unless a note in it says where to go on.

    Raises ``InvalidOption`` if another export holds it, or if it is somebody else's, who could have links in it.
    """
    directory = f"{path}.partial"
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    there = os.lstat(directory)
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid():
        raise InvalidOption(f"the parts of the export would be in {directory}, which is no directory of this user's")
    descriptor = os.open(f"{directory}/{_LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        take_lock(descriptor, f"exports to {path}")
        try:
            yield directory
        except OSError as error:
            if error.errno is None or not os.path.exists(f"{directory}/{_NOTE}"):
                raise
            raise OSError(error.errno, f"{error.strerror}; the same export goes on where it was", directory) from error
        finally:
            if not os.path.exists(f"{directory}/{_NOTE}"):
                _clear(directory)
    finally:
        os.close(descriptor)


def _clear(directory: str) -> None:
    """Remove the parts, and the directory if nothing else is in it."""
    with contextlib.suppress(OSError):
        for name in filter(_OURS.fullmatch, os.listdir(directory)):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
