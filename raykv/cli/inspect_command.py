"""``raykv inspect``: the files of a node, for people and for programs. Reads only, and needs neither Ray nor the node."""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from raykv.cli import output
from raykv.cli.options import examples, json_option
from raykv.client.views import size, table
from raykv.records import kinds
from raykv.records.keys import HINTS, PROMISES, REPAIRS, is_private, parts_of
from raykv.records.record import KIND_LWW
from raykv.storage import inspection
from raykv.storage.inspected_files import LogRecord, SegmentReport, TableReport
from raykv.storage.inspection import DataReport, IdentityReport, ManifestReport, NodeReport
from raykv.storage.mark import apart
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.storage.directory import Identity, RegisterFacts
    from raykv.storage.inspected_files import Finding
    from raykv.storage.inspection import Report

LISTED = 20
"""How many tables, blocks, chunks, records and other files are listed without ``--all``."""
_KEY_CHARS = 48
_NOTE_CHARS = 200
_PRIVATE_NAMES = {HINTS: "hint", REPAIRS: "repair", PROMISES: "promise"}


@click.command(
    "inspect",
    epilog=examples(
        "raykv inspect /data/raykv/shop/n1", "raykv inspect /data/raykv/shop/n1/data/00000042.sst",
        "raykv inspect --json /data/raykv/shop/n1",
    )
    + "\n\nKeys are shown as PARTITION/BUCKET/KEY. Values are never decoded.",
)  # fmt: skip
@click.argument("path", type=click.Path())
@click.option("--all", "everything", is_flag=True, help=f"List everything.  [default: the first {LISTED} of each kind]")
@json_option
def inspect(path: str, everything: bool, as_json: bool) -> int:
    """Show what is in a node's files, and verify every checksum.

    PATH is a node's directory, its data directory, or a file in them: a table (.sst), a segment of the log (.wal), the
    manifest, the identity, the register. The node may be running; nothing is written, and no lock is taken.

    Exit code 1 if anything is not as it was written.
    """
    most = None if everything else LISTED
    with click.progressbar(length=1, label="bytes verified", file=sys.stderr) as bar:
        report = inspection.inspect(OsFileSystem(), path, most=most, progress=output.progress_on(bar))
    if as_json:
        click.echo(output.as_json(as_data(report, most), indent=2))
    else:
        output.show_text(as_text(report, most))
    return 1 if report.findings else 0


# ---- for people ----------------------------------------------------------------------------------------------------


def as_text(report: Report, most: int | None = LISTED) -> str:
    """Return a report as text, at most ``most`` lines of each kind; None: all."""
    if isinstance(report, NodeReport):
        parts = [_node(report), *(_data(report.data, most) if report.data is not None else [])]
    elif isinstance(report, DataReport):
        parts = _data(report, most)
    elif isinstance(report, TableReport):
        parts = _table(report, most)
    elif isinstance(report, SegmentReport):
        parts = _segment(report, most)
    elif isinstance(report, ManifestReport):
        parts = [_manifest(report), *_named(report, most)]
    elif isinstance(report, IdentityReport):
        parts = [_identity(report.identity)] if report.identity is not None else []
    else:
        parts = [_register(report.register)]
    return "\n\n".join([*(part for part in parts if part), _verdict(report.findings)])


def shown_key(key: bytes) -> str:
    r"""Return a storage key as one printable line.

    >>> shown_key(b"\x00\x07\x00\x00\x00\x01\x02user:1"), shown_key(b"\xff\xffh\x01"), shown_key(b"\x00")
    ('7/1/user:1', "-/hint/b'\\x01'", "b'\\x00'")
    """
    parts = parts_of(key)
    if parts is not None:
        partition, bucket_id, user_key = parts
        return f"{partition}/{bucket_id}/{_cut(output.shown_key(user_key))}"
    if is_private(key):
        name = _PRIVATE_NAMES.get(key[: len(HINTS)], "private")
        return f"-/{name}/{_cut(repr(key[len(HINTS) :]))}"
    return _cut(repr(key))


def kind_of(key: bytes, record: bytes) -> str:
    """Return what a record is, by its first byte."""
    if not record:
        return "erased"
    if is_private(key):
        return "private"
    if kinds.is_vector(record):
        return "vector"
    if kinds.is_linear(record):
        return "linearizable"
    return "lww" if record[0] == KIND_LWW else "unknown"


def _node(report: NodeReport) -> str:
    lines = []
    if report.identity is not None:
        lines.append(_identity(report.identity))
    if report.lock_note:
        note = ascii(report.lock_note.decode(errors="replace"))[1:-1]
        lines.append(f"lock           last taken by {note[:_NOTE_CHARS]}")
    lines.append(_register(report.register))
    if report.set_aside:
        lines.append(f"set aside      {', '.join(report.set_aside)}: earlier data, not in use")
    return "\n".join(lines)


def _identity(identity: Identity) -> str:
    alive = "never" if not identity.alive_ms else _time(identity.alive_ms)
    stopped = "stopped cleanly" if identity.clean else "running, or ended without a clean stop"
    complete = "complete" if identity.complete else "incomplete: its peers must restore what it may lack"
    return "\n".join([
        f"node           {identity.node_id} of store {identity.store_id}",
        f"directory id   {identity.directory_id}",
        f"incarnation    {identity.incarnation}, {stopped}; last known alive {alive}",
        f"state          {complete}; {'votes' if identity.votes else 'has no vote'}",
        f"data           in {identity.data}",
    ])  # fmt: skip


def _time(at_ms: int) -> str:
    try:
        return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return f"at {at_ms} ms"


def _register(register: RegisterFacts | None) -> str:
    if register is None:
        return "register       none"
    return f"register       {size(register.size_bytes)}, kept under directory id {ascii(register.directory_id)[1:-1]}"


def _data(report: DataReport, most: int | None) -> list[str]:
    parts = [_manifest(report.manifest)] if report.manifest is not None else []
    tables = [(run.number, each) for run in report.runs for each in run.tables]
    rows = [
        [
            str(run), each.file, size(each.size_bytes), f"{each.count:,}", f"{each.blocks:,}", f"{each.erased:,}",
            _ratio(each), shown_key(each.smallest), shown_key(each.largest), _state(each.findings, each.healed),
        ]
        for run, each in tables
    ]  # fmt: skip
    total = sum(each.size_bytes for _, each in tables)
    records = sum(each.count for _, each in tables)
    columns = ["run", "table", "bytes", "records", "blocks", "erased", "raw/disk", "smallest", "largest", ""]
    said = (
        f"sorted runs, newest first: {len(report.runs)}, in {len(tables)} tables of {size(total)}, {records:,} records"
    )
    parts.append(_listing(said, columns, rows, most))
    rows = [
        [
            each.file, size(each.size_bytes), f"{each.length:,}", f"{each.chunks:,}", f"{each.count:,}",
            "; ".join([_end_of(each), *each.notes, *([_state(each.findings, 0)] if each.findings else [])]),
        ]
        for each in report.segments
    ]  # fmt: skip
    columns = ["segment", "bytes", "counts to", "chunks", "updates", ""]
    parts.append(_listing(f"log segments, oldest first: {len(rows)}", columns, rows, most))
    rows = [[ascii(stray.file)[1:-1], size(stray.size_bytes), stray.why] for stray in report.strays]
    if rows:
        parts.append(_listing(f"other files: {len(rows)}", ["file", "bytes", ""], rows, most))
    return [*parts, *report.notes]


def _manifest(report: ManifestReport) -> str:
    manifest = report.manifest
    segment, length = apart(manifest.log_end)
    synced = f"synced to segment {segment} at {length:,}" if length else f"synced through segment {segment}"
    damaged = f"{len(manifest.damaged)} damaged places, {len(manifest.healed)} healed"
    return "\n".join([
        f"manifest       generation {manifest.generation} of run {manifest.run}, {size(report.size_bytes)}"
        + (f", of {output.one_line(manifest.owner)}" if manifest.owner else ""),
        f"tables         {report.tables} in {len(manifest.runs)} runs; the next is number {manifest.next_number}",
        f"log            from segment {manifest.oldest_segment}, {synced}",
        f"damage         {damaged}",
    ])  # fmt: skip


def _named(report: ManifestReport, most: int | None) -> list[str]:
    rows = [
        [
            str(run.number), str(info.number), size(info.size_bytes), f"{info.count:,}", shown_key(info.smallest),
            shown_key(info.largest),
        ]
        for run in report.manifest.runs
        for info in run.tables
    ]  # fmt: skip
    parts = [_listing(f"tables: {len(rows)}", ["run", "table", "bytes", "records", "smallest", "largest"], rows, most)]
    for name, damages in (("damaged", report.manifest.damaged), ("healed", report.manifest.healed)):
        if damages:
            rows = [[each.file, str(each.offset), _range(each.start, each.end), each.reason] for each in damages]
            parts.append(_listing(f"{name}: {len(rows)}", ["file", "at", "keys", ""], rows, most))
    return parts


def _table(report: TableReport, most: int | None) -> list[str]:
    head = "\n".join([
        f"table          {report.file}, number {report.number}, format {report.version}, {size(report.size_bytes)}",
        f"records        {report.count:,}, {report.erased:,} of them deletion markers",
        f"keys           {shown_key(report.smallest)} to {shown_key(report.largest)}",
        f"blocks         {report.blocks:,}; raw/disk {_ratio(report)}; index and filter {size(report.index_bytes)}",
    ])  # fmt: skip
    if not report.blocks:
        return []
    rows = [
        [
            str(block.offset), str(block.size_bytes), str(block.raw_bytes), str(block.count),
            shown_key(block.first), shown_key(block.last),
        ]
        for block in report.listed
    ]  # fmt: skip
    columns = ["at", "bytes", "raw", "records", "first", "last"]
    return [head, _listing(f"blocks: {report.blocks:,}", columns, rows, most, report.blocks)]


def _segment(report: SegmentReport, most: int | None) -> list[str]:
    before = (
        f"behind segment {report.previous}, of {report.previous_length:,} bytes" if report.previous else "the first"
    )
    head = "\n".join([
        f"segment        {report.file}, {before}",
        f"bytes          {report.size_bytes:,}, of which {report.length:,} count; {_end_of(report)}",
        f"updates        {report.count:,} in {report.chunks:,} chunks, {report.erased:,} of them deletion markers",
        *(f"note           {note}" for note in report.notes),
    ])  # fmt: skip
    rows = [
        [str(each.offset), str(each.size_bytes), str(each.synced_up_to), str(each.count) if each.count else "mark"]
        for each in report.listed
    ]
    columns = ["at", "bytes", "synced up to", "updates"]
    parts = [head, _listing(f"chunks: {report.chunks:,}", columns, rows, most, report.chunks)]
    rows = [
        [str(each.offset), shown_key(each.key), kind_of(each.key, each.record), str(len(each.record))]
        for each in report.records
    ]
    said = f"updates: {report.count:,}"
    return [*parts, _listing(said, ["in chunk", "key", "kind", "bytes"], rows, most, report.count)]


def _end_of(report: SegmentReport) -> str:
    if report.ended:
        return "ended cleanly"
    return "another follows" if report.sealed else "open, or cut off by a crash"


def _listing(
    said: str, columns: Sequence[str], rows: Sequence[Sequence[str]], most: int | None, every: int | None = None
) -> str:
    """Return a table under a line. ``every``: how many rows there are, if ``rows`` are already cut to ``most``."""
    kept = rows if most is None else rows[:most]
    left_out = (len(rows) if every is None else every) - len(kept)
    lines = [said, table(columns, kept)] if kept else [said]
    if left_out > 0:
        cut = most is not None and len(kept) >= most
        lines.append(f"... and {left_out:,} more (--all)" if cut else f"... and {left_out:,} that cannot be read")
    return "\n".join(lines)


def _verdict(findings: Sequence[Finding]) -> str:
    if not findings:
        return "ok: every checksum holds"
    lines = [f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'}:"]
    for finding in findings:
        where = finding.file + (f" at {finding.offset}" if finding.offset >= 0 else "")
        keys = f" (keys {_range(finding.start, finding.end)})" if finding.start is not None else ""
        lines.append(f"  {where}: {output.one_line(finding.text)}{keys}")
    return "\n".join(lines)


def _state(findings: Sequence[Finding], healed: int) -> str:
    said = [f"{len(findings)} damaged"] if findings else []
    return ", ".join([*said, *([f"{healed} healed"] if healed else [])])


def _ratio(report: TableReport) -> str:
    stored = report.size_bytes - report.index_bytes
    return f"{report.raw_bytes / stored:.2f}" if report.raw_bytes and stored > 0 else ""


def _range(start: bytes | None, end: bytes | None) -> str:
    if start is None:
        return "not known"
    return f"{shown_key(start)} to {shown_key(end) if end is not None else 'the last'}"


def _cut(text: str) -> str:
    return text if len(text) <= _KEY_CHARS else text[: _KEY_CHARS - 3] + "..."


# ---- for programs --------------------------------------------------------------------------------------------------

_KEYS = frozenset({"smallest", "largest", "first", "last", "key", "start", "end"})


def as_data(report: Report, most: int | None = LISTED) -> dict[str, Any]:
    """Return a report as plain data, at most ``most`` items of each list; beside it stands how many are left out.

    Keys are ``{"partition", "bucket", "key"}`` where they are valid, else ``{"raw"}``; of a record there is its size.
    """
    found: dict[str, Any] = {"kind": type(report).__name__.removesuffix("Report").lower(), "ok": not report.findings}
    return found | _fields(report, most)


def _fields(struct: msgspec.Struct, most: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(struct).items():
        if isinstance(value, bytes):
            found[name] = _bytes(name, value)
        elif isinstance(value, tuple):
            kept = value if most is None else value[:most]
            found[name] = [_fields(item, most) if isinstance(item, msgspec.Struct) else item for item in kept]
            if len(kept) < len(value):
                found[f"{name}_left_out"] = len(value) - len(kept)
        else:
            found[name] = _fields(value, most) if isinstance(value, msgspec.Struct) else value
    if isinstance(struct, LogRecord):
        found["kind"] = kind_of(struct.key, struct.record)
    return found


def _bytes(name: str, value: bytes) -> Any:
    if name == "record":
        return len(value)
    if name not in _KEYS:
        return value.decode(errors="replace")
    parts = parts_of(value)
    return {"raw": value} if parts is None else {"partition": parts[0], "bucket": parts[1], "key": parts[2]}


COMMANDS = (inspect,)
