"""What lies in a node's files, as data: for ``raykv inspect`` and for whoever wants to see how the parts fit.

``inspect`` takes a node's directory, its data directory, or one file in them, and returns a report: who owns it, what
the manifest names, each table and segment of the log, and every place that is not as it was written. All checksums are
verified, also of what no read would meet soon.

Nothing is written and no lock is taken: the node may be running. Its files then change meanwhile: a table that a
compaction has replaced, or a segment that a flush has made superfluous, is looked up again in the next manifest. What a
running node is just writing looks like what a crash leaves; such things are *notes*. A *finding* is what should not be:
damage, known to the node or not.

The judgement is recovery's own (``raykv.storage.recovery``): of a gap in the log ``replay.judge``, of a manifest or a log
from another time ``mark``. Unlike recovery, this repairs nothing.

Omitted: the records' content. They are opaque here, and whoever shows them must not decode a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from raykv.errors import CorruptData, InvalidOption
from raykv.storage import manifest as manifests
from raykv.storage.blob import TEMPORARY_SUFFIX
from raykv.storage.directory import (
    IDENTITY_NAME,
    LOCK_NAME,
    REGISTER_NAME,
    Identity,
    RegisterFacts,
    data_set_aside,
    read_identity,
    read_register,
)
from raykv.storage.inspected_files import (
    Finding,
    Limit,
    Progress,
    SegmentReport,
    TableReport,
    inspect_segment,
    inspect_table,
)
from raykv.storage.manifest import Manifest, number_of
from raykv.storage.mark import apart, doubt_about_log, doubt_about_manifest
from raykv.storage.recovery import CORRUPT_SUFFIX
from raykv.storage.replay import read_header
from raykv.storage.sstable import MAGIC as TABLE_MAGIC
from raykv.storage.sstable import table_name
from raykv.storage.wal import HEADER_BYTES, segment_name
from raykv.storage.wal import MAGIC as LOG_MAGIC

if TYPE_CHECKING:
    from raykv.ports import FileSystem

_ATTEMPTS = 10
"""How often the files of a running node may change before it is given up."""
_MAX_NOTE_BYTES = 4 << 10
_MAGIC_BYTES = 8


class Stray(msgspec.Struct, frozen=True):
    """A file that is no part of the store."""

    file: str
    size_bytes: int
    why: str


class ManifestReport(msgspec.Struct, frozen=True):
    """A manifest that could be read. ``tables``: those that it names."""

    file: str
    size_bytes: int
    manifest: Manifest
    findings: tuple[Finding, ...] = ()

    @property
    def tables(self) -> int:
        """The number of tables."""
        return sum(len(run.tables) for run in self.manifest.runs)


class RunReport(msgspec.Struct, frozen=True):
    """A sorted run and its tables, in key order."""

    number: int
    tables: tuple[TableReport, ...]


class DataReport(msgspec.Struct, frozen=True):
    """The engine's files in one directory. ``runs`` are newest first, ``segments`` oldest first."""

    path: str
    manifest: ManifestReport | None
    runs: tuple[RunReport, ...]
    segments: tuple[SegmentReport, ...]
    strays: tuple[Stray, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


class NodeReport(msgspec.Struct, frozen=True):
    """A node's directory. ``lock_note``: what the last holder of the lock left in it."""

    path: str
    identity: Identity | None
    lock_note: bytes
    register: RegisterFacts | None
    data: DataReport | None
    set_aside: tuple[str, ...]
    """Directories with earlier data, which the node does not use."""
    findings: tuple[Finding, ...]
    """Of all parts."""


class IdentityReport(msgspec.Struct, frozen=True):
    """An identity by itself."""

    file: str
    identity: Identity | None
    findings: tuple[Finding, ...]


class RegisterReport(msgspec.Struct, frozen=True):
    """A register by itself."""

    file: str
    register: RegisterFacts | None
    findings: tuple[Finding, ...]


Report: TypeAlias = (
    NodeReport | DataReport | ManifestReport | TableReport | SegmentReport | IdentityReport | RegisterReport
)


def inspect(fs: FileSystem, path: str, *, most: int | None = 20, progress: Progress | None = None) -> Report:
    """Return a report on ``path``; every checksum in it has been verified. O(bytes).

    ``path``: a node's directory, a data directory, a table, a segment of the log, a manifest, an identity or a register.
    ``most``: bounds the blocks of a table and the chunks and records of a segment that a report on one file lists; None:
    all of them. ``progress(done_bytes, all_bytes)`` is called now and then.

    Raises ``InvalidOption`` if the path is none of these, ``OSError``, and ``CorruptData`` for a format of the future.
    """
    path = path.rstrip("/") or "/"
    progress = progress or _no_progress
    limit = Limit(most)
    try:
        names = fs.list_directory(path)
    except NotADirectoryError:
        return _inspect_file(fs, path, limit, progress)
    except FileNotFoundError:
        if fs.exists(path):  # the simulated disk's word for a file
            return _inspect_file(fs, path, limit, progress)
        raise
    if IDENTITY_NAME in names:
        return inspect_node(fs, path, progress)
    if manifests.NAME in names or any(name.endswith((".sst", ".wal")) for name in names):
        return inspect_data(fs, path, progress)
    within = [name for name in names if fs.exists(f"{path}/{name}/{IDENTITY_NAME}")]
    if within:
        shown = ", ".join(within[:10]) + (", ..." if len(within) > 10 else "")
        raise InvalidOption(f"{path} holds the directories of several nodes; name one of them: {shown}")
    raise InvalidOption(f"{path} is not the directory of a node: it has no identity and no manifest")


def inspect_node(fs: FileSystem, path: str, progress: Progress | None = None) -> NodeReport:
    """Return a report on a node's directory and its present data."""
    report = _inspect_node(fs, path, progress)
    for _ in range(_ATTEMPTS):
        if not report.findings or _identity(fs, path, []) == report.identity:
            break
        report = _inspect_node(fs, path, progress)  # the node has started or stopped meanwhile
    return report


def _inspect_node(fs: FileSystem, path: str, progress: Progress | None) -> NodeReport:
    found: list[Finding] = []
    names = fs.list_directory(path)
    identity = _identity(fs, path, found)
    register = _register(fs, path, identity, found)
    note = b""
    if LOCK_NAME in names:
        try:
            note = fs.read_file(f"{path}/{LOCK_NAME}", _MAX_NOTE_BYTES)
        except OSError as error:
            found.append(Finding(LOCK_NAME, -1, f"cannot be read: {error.strerror or error}"))
    data = None
    used = identity.data if identity is not None else "data"
    if used in names:
        data = inspect_data(fs, f"{path}/{used}", progress, identity)
        found += [finding.within(used) for finding in data.findings]
    elif identity is not None and identity.mark is not None and identity.mark.generation:
        found.append(Finding(used, -1, "its data is gone"))
    aside = tuple(data_set_aside(names, used))
    return NodeReport(path, identity, note, register, data, aside, tuple(found))


def inspect_data(
    fs: FileSystem, path: str, progress: Progress | None = None, identity: Identity | None = None
) -> DataReport:
    """Return a report on the engine's files. ``identity``: of their node, which vouches for them."""
    progress = progress or _no_progress
    done: dict[int, TableReport] = {}
    for _ in range(_ATTEMPTS):
        try:
            return _inspect_data(fs, path, progress, identity, done)
        except _Changed:
            continue
    raise InvalidOption(f"the files in {path} change faster than they can be read; stop the node, or try again later")


class _Changed(Exception):
    """A file is gone that the manifest named when it was read."""


def _inspect_data(
    fs: FileSystem, path: str, progress: Progress, identity: Identity | None, done: dict[int, TableReport]
) -> DataReport:
    """``done``: the reports on tables from earlier attempts: tables never change."""
    found: list[Finding] = []
    notes: list[str] = []
    report, first = None, 1
    try:
        report = _manifest(fs, f"{path}/{manifests.NAME}")
    except CorruptData as error:
        found.append(Finding(manifests.NAME, -1, error.message))
    except FileNotFoundError:
        found.append(Finding(manifests.NAME, -1, "it is missing"))
    names = fs.list_directory(path)
    if report is None:
        notes.append("without a manifest no table counts, and nothing says where the log begins")
        first = min((number for name in names if (number := number_of(name, ".wal"))), default=1)
    manifest = report.manifest if report is not None else Manifest(oldest_segment=first)
    live = [table for run in manifest.runs for table in run.tables]
    sizes = _Sizes(progress, sum(info.size_bytes for info in live) + _log_bytes(fs, path, names, manifest))
    runs = _inspect_runs(fs, path, manifest, sizes, done)
    found += [finding for run in runs for table in run.tables for finding in table.findings]
    segments = _inspect_log(fs, path, names, manifest, identity, sizes, found)
    if identity is not None and identity.mark is not None and report is not None:
        found += _doubts(identity, manifest, segments, bool(found))
    seen = {(finding.file, finding.offset) for finding in found}
    found += [
        Finding(damage.file, damage.offset, f"known damage, not yet restored by its peers: {damage.reason}")
        for damage in manifest.damaged
        if (damage.file, damage.offset) not in seen
    ]
    if _present(fs, path, manifest).generation != manifest.generation:
        notes.append("the node is running: its files have changed while they were read")
    strays = tuple(_strays(fs, path, names, manifest))
    return DataReport(path, report, tuple(runs), tuple(segments), strays, tuple(found), tuple(notes))


def _inspect_runs(
    fs: FileSystem, path: str, manifest: Manifest, sizes: _Sizes, done: dict[int, TableReport]
) -> list[RunReport]:
    runs = []
    for run in manifest.runs:
        for info in run.tables:
            if info.number in done:
                sizes.add(info.size_bytes)
                continue
            name = table_name(info.number)
            healed = {damage.offset for damage in manifest.healed if damage.file == name}
            table = inspect_table(fs, path, name, info=info, healed=healed, limit=Limit(0), progress=sizes.add)
            if table.findings and not _still_counts(fs, path, manifest, table=info.number):
                raise _Changed
            done[info.number] = table
        runs.append(RunReport(run.number, tuple(done[info.number] for info in run.tables)))
    return runs


def _present(fs: FileSystem, path: str, manifest: Manifest) -> Manifest:
    """Return the manifest that is there by now; the known one if it cannot be read."""
    try:
        return manifests.load(fs, path) or manifest
    except (CorruptData, OSError):
        return manifest


def _still_counts(fs: FileSystem, path: str, manifest: Manifest, *, table: int = 0, segment: int = 0) -> bool:
    """Return whether the present manifest needs this file, too. A running node removes what it no longer needs."""
    present = _present(fs, path, manifest)
    if segment:
        return segment >= present.oldest_segment
    return any(info.number == table for run in present.runs for info in run.tables)


def _log_bytes(fs: FileSystem, path: str, names: list[str], manifest: Manifest) -> int:
    return sum(
        _size(fs, f"{path}/{name}") for name in names if (number_of(name, ".wal") or 0) >= manifest.oldest_segment
    )


def _inspect_log(
    fs: FileSystem,
    path: str,
    names: list[str],
    manifest: Manifest,
    identity: Identity | None,
    sizes: _Sizes,
    found: list[Finding],
) -> list[SegmentReport]:
    """Report on the segments that matter; what is missing between them goes to ``found``."""
    oldest = manifest.oldest_segment
    numbers = sorted(number for name in names if (number := number_of(name, ".wal") or 0) >= oldest)
    mark = identity.mark if identity is not None else None
    ends = [manifest.log_end, *([mark.log_end] if mark is not None else [])]
    promised = {segment: length for segment, length in sorted(map(apart, ends)) if segment >= oldest}
    healed = {(damage.file, damage.offset) for damage in manifest.healed}
    segments: list[SegmentReport] = []

    def read(number: int, *, sealed: bool) -> SegmentReport:
        name = segment_name(number)
        known = {offset for file, offset in healed if file == name}
        try:
            segment = inspect_segment(
                fs, path, number, sealed=sealed, promised_length=promised.get(number, 0), known=known, limit=Limit(0),
                progress=sizes.add,
            )  # fmt: skip
        except FileNotFoundError:
            raise _Changed from None
        if segment.findings and not _still_counts(fs, path, manifest, segment=number):
            raise _Changed
        return segment

    begun: SegmentReport | None = None
    if numbers:  # one whose creation was cut short is no witness that the one before was sealed, as in recovery
        newest = read(numbers[-1], sealed=False)
        if newest.length < HEADER_BYTES and not newest.findings:
            begun = newest
            numbers.pop()
    last = max([*numbers, *promised], default=0)
    following = oldest
    for number in [*numbers, *([last] if last and last not in numbers else [])]:
        upto = number - 1 if number in numbers else number
        if upto >= following and (segment_name(following), 0) not in healed:
            what = f"segments of the log up to {upto} are missing" if upto > following else "the segment is missing"
            if not _still_counts(fs, path, manifest, segment=following):
                raise _Changed
            found.append(Finding(segment_name(following), 0, what))
        following = number + 1
        if number in numbers:
            segments.append(read(number, sealed=number < last))
            found += segments[-1].findings
    return [*segments, *([begun] if begun is not None else [])]


def _doubts(identity: Identity, manifest: Manifest, segments: list[SegmentReport], damaged: bool) -> list[Finding]:
    """Return why the data is not the one that the identity speaks of."""
    mark = identity.mark
    assert mark is not None
    owner = f"{identity.store_id}/{identity.node_id}"
    doubt = doubt_about_manifest(mark, identity.incarnation, owner, manifest, manifests.checksum(manifest))
    if doubt:
        return [Finding(manifests.NAME, -1, f"not the directory that was left: {doubt}")]
    if not damaged:
        digests = {segment.number: segment.digest for segment in segments}
        doubt = doubt_about_log(mark, manifest, digests, max(digests, default=0))
        if doubt:
            return [Finding(segment_name(manifest.oldest_segment), -1, f"not the directory that was left: {doubt}")]
    return []


def _strays(fs: FileSystem, path: str, names: list[str], manifest: Manifest) -> list[Stray]:
    live = {table.number for run in manifest.runs for table in run.tables}
    strays = []
    for name in names:
        table, segment = number_of(name, ".sst"), number_of(name, ".wal")
        why = ""
        if table is not None and table not in live:
            why = "not in the manifest: a flush or compaction under way, or one that a crash cut short"
        elif segment is not None and segment < manifest.oldest_segment:
            why = "all of it is in tables; it is about to be removed"
        elif name.endswith(CORRUPT_SUFFIX):
            why = "a damaged table, set aside until its peers have restored what was in it"
        elif name.endswith(TEMPORARY_SUFFIX):
            why = "a file that is being written, or that a crash cut short"
        elif table is None and segment is None and name != manifests.NAME:
            why = "no file of the store"
        if why:
            strays.append(Stray(name, _size(fs, f"{path}/{name}"), why))
    return strays


def _inspect_file(fs: FileSystem, path: str, limit: Limit, progress: Progress) -> Report:
    """Report on one file; its first bytes say what it is, or where they are damaged its name."""
    directory, _, name = path.rpartition("/")
    directory = directory or ("/" if path.startswith("/") else ".")
    file = fs.open_read(path)
    try:
        magic, size = file.pread(0, _MAGIC_BYTES), file.size()
    finally:
        file.close()
    sizes = _Sizes(progress, size)
    segment = number_of(name, ".wal")
    if magic == TABLE_MAGIC or number_of(name.removesuffix(CORRUPT_SUFFIX), ".sst") is not None:
        return inspect_table(fs, directory, name, info=None, healed=set(), limit=limit, progress=sizes.add)
    if magic == LOG_MAGIC or segment is not None:
        if segment is None:
            raise InvalidOption(
                f"{path} is a segment of a log under another name: it is called NUMBER.wal, as 00000001.wal"
            )
        later = segment_name(segment + 1)
        return inspect_segment(
            fs, directory, segment, sealed=fs.exists(f"{directory}/{later}") and read_header(fs, directory, segment + 1)
            is not None, promised_length=0, known=set(), limit=limit, progress=sizes.add,
        )  # fmt: skip
    if magic == manifests.MAGIC or name == manifests.NAME:
        try:
            return _manifest(fs, path)
        except CorruptData as error:
            return ManifestReport(name, size, Manifest(), (Finding(name, -1, error.message),))
    found: list[Finding] = []
    if name == IDENTITY_NAME:
        return IdentityReport(name, _identity(fs, directory, found), tuple(found))
    if name == REGISTER_NAME:
        return RegisterReport(name, _register(fs, directory, None, found), tuple(found))
    raise InvalidOption(
        f"{path} is no file of a store: neither a table (.sst) nor a segment of the log (.wal), a manifest, an identity "
        "or a register"
    )


def _manifest(fs: FileSystem, path: str) -> ManifestReport:
    directory, _, name = path.rpartition("/")
    if name != manifests.NAME:
        raise InvalidOption(f"{path} is a manifest under another name: it is called {manifests.NAME!r}")
    size = _size(fs, path)
    found = manifests.load(fs, directory)
    if found is None:
        raise FileNotFoundError(path)
    return ManifestReport(name, size, found)


def _identity(fs: FileSystem, path: str, found: list[Finding]) -> Identity | None:
    try:
        return read_identity(fs, path)
    except CorruptData as error:
        found.append(Finding(IDENTITY_NAME, -1, error.message))
    return None


def _register(fs: FileSystem, path: str, identity: Identity | None, found: list[Finding]) -> RegisterFacts | None:
    try:
        facts = read_register(fs, path)
    except FileNotFoundError:
        if identity is not None and identity.register:
            found.append(Finding(REGISTER_NAME, -1, "it is gone"))
        return None
    except CorruptData as error:
        found.append(Finding(REGISTER_NAME, -1, error.message))
        return None
    exact = identity is not None and identity.clean and identity.mark is not None and identity.mark.exact
    if exact and identity is not None and facts.checksum != identity.register:
        found.append(Finding(REGISTER_NAME, -1, "it is not the one that was left"))
    return facts


class _Sizes:
    """Sums the bytes that have been read."""

    def __init__(self, progress: Progress, every: int) -> None:
        self._progress = progress
        self._every = every
        self._done = 0

    def add(self, size_bytes: int) -> None:
        """Count bytes."""
        self._done = min(self._every, self._done + size_bytes)
        self._progress(self._done, self._every)


def _no_progress(_done: int, _every: int) -> None:
    return


def _size(fs: FileSystem, path: str) -> int:
    """Return the size of a file; 0 if it cannot be opened, or is a directory."""
    try:
        file = fs.open_read(path)
    except OSError:
        return 0
    try:
        return file.size()
    finally:
        file.close()
