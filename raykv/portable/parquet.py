"""Parquet: records as typed columns, for any program that reads it, and exact for raykv.

Columns cannot say everything: a name that a record lacks and one whose value is None are both null; a tuple becomes a list;
a record may not fit the types that the first ones had. Hence one more column, ``_raykv``: null where the others give the
record back exactly, else all of it as ``tagged`` JSON. Each row is rebuilt and compared before it is written.

A chunk is a file of its own until all are there: a Parquet file cannot be gone on with. They become the row groups of one.
A file of other programs is imported too: it needs a column of keys.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.errors import InvalidOption
from raykv.portable.columns import VALUE, converted, guessed, python_values
from raykv.portable.lines import WHOLE
from raykv.portable.notes import sync
from raykv.portable.tagged import Unkept, checked_key, decode_json, decode_record, encode_json, encode_record, tagged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from raykv.records.keys import Key

KEY, EXACT = "key", "_raykv"
MAX_FIELDS = 1000
"""Records with more names than that, together, are kept in ``_raykv`` alone."""
_ABOUT = b"raykv"
_WRITTEN: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
"""Without checksums a byte that has changed is a value that has changed."""
_NULL_IS_NONE, _NULL_IS_ABSENT = "none", "absent"


class ParquetOut:
    """Chunks as files, which ``finish`` makes one."""

    def __init__(self, directory: str, state: dict[str, int]) -> None:
        """``state``: what ``append`` returned last; empty for a new file."""
        _require_pyarrow()
        self._directory = directory
        self._chunks = state.get("chunks", 0)
        lacking = next((path for path in map(self._path, range(self._chunks)) if not os.path.exists(path)), None)
        if lacking is not None:
            raise InvalidOption(f"{lacking} was noted, and is not there; remove {directory} to begin anew")
        self._schema = None if not self._chunks else _schema_of(self._path(0))

    def _path(self, chunk: int) -> str:
        return f"{self._directory}/{chunk:08d}.parquet"

    def append(self, keys: Sequence[Key], values: Sequence[Any], lines: Sequence[bytes]) -> dict[str, int]:
        """Add a chunk of records; return, once it is on disk, what is to be noted."""
        import pyarrow.parquet as pq

        if self._schema is None:
            self._schema = schema_for(keys, values)
        path = self._path(self._chunks)
        pq.write_table(table_of(self._schema, keys, values, lines), path, **_WRITTEN)
        sync(path)
        self._chunks += 1
        return {"chunks": self._chunks}

    def finish(self) -> str:
        """Make one file of the chunks; return its path."""
        import pyarrow.parquet as pq

        path, schema = f"{self._directory}/{WHOLE}", self._schema or schema_for([], [])
        with pq.ParquetWriter(path, schema, **_WRITTEN) as writer:
            for chunk in range(self._chunks):
                with pq.ParquetFile(self._path(chunk), page_checksum_verification=True) as part:
                    for group in range(part.num_row_groups):
                        writer.write_table(part.read_row_group(group))
        sync(path)
        return path

    def close(self) -> None:
        """End without finishing."""


def schema_for(keys: Sequence[Key], values: Sequence[Any]) -> pa.Schema:
    """Return the schema of a file that begins with these records. What has no one type gets no column."""
    import pyarrow as pa

    fields: dict[str, pa.DataType] = {
        KEY: pa.binary() if keys and all(isinstance(key, bytes) for key in keys) else pa.string()
    }
    dicts = [value for value in values if type(value) is dict]
    whole = not dicts
    columns: dict[str, list[Any]] = {}
    if whole:
        columns[VALUE] = [*values]
    else:
        names = dict.fromkeys(name for value in dicts for name in value if type(name) is str)
        if len(names) <= MAX_FIELDS:
            columns = {name: [value.get(name) for value in dicts] for name in names if name not in {KEY, EXACT}}
    for name, column in columns.items():
        try:
            kind = guessed(name, range(len(column)), column)  # type: ignore[arg-type]  # only its error names a key
        except InvalidOption:
            continue
        if not pa.types.is_null(kind) and _is_storable(name, kind):
            fields[name] = kind
    lacking = sum(name not in value for value in dicts for name in columns)
    nones = sum(item is None for value in dicts for item in value.values())
    about = {"whole": whole, "null": _NULL_IS_ABSENT if lacking > nones else _NULL_IS_NONE}
    return pa.schema([*(fields | {EXACT: pa.string()}).items()], {_ABOUT: encode_json(about)})


def _is_storable(name: str, kind: pa.DataType) -> bool:
    """Whether Parquet takes such a column: a struct without fields, or a hundred levels, are Arrow's alone."""
    pq, pa = _require_pyarrow()
    try:
        stored = pa.BufferOutputStream()
        pq.write_table(pa.schema([(name, kind)]).empty_table(), stored)
        pq.read_table(pa.BufferReader(stored.getvalue()))
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True


def table_of(schema: pa.Schema, keys: Sequence[Key], values: Sequence[Any], lines: Sequence[bytes]) -> pa.Table:
    """Return records as a table; ``lines``: the same by ``encode_record``.

    What a column cannot hold is null there, and what could not be read back from it.
    """
    import pyarrow as pa

    about = _about(schema)
    arrays = {}
    for name, kind in zip(schema.names, schema.types, strict=True):
        if name == KEY:
            column: Sequence[Any] = keys
        elif name == EXACT:
            continue
        elif about["whole"]:
            column = values
        else:
            column = [value.get(name) if type(value) is dict else None for value in values]
        arrays[name] = _fitting(name, kind, column)
    made = pa.Table.from_arrays([*arrays.values()], names=[*arrays])
    try:
        rows = [*rows_of(made, about)]
    except InvalidOption:
        made = pa.Table.from_arrays([_readable(name, array) for name, array in arrays.items()], names=[*arrays])
        rows = [*rows_of(made, about)]
    corrections = [
        None if _is_same(rebuilt, key, line) else line.decode()
        for rebuilt, key, line in zip(rows, keys, lines, strict=True)
    ]
    return pa.Table.from_arrays([*made.columns, pa.array(corrections, pa.string())], schema=schema)


def _is_same(rebuilt: tuple[Any, Any], key: Key, line: bytes) -> bool:
    if type(rebuilt[0]) is not type(key) or rebuilt[0] != key:
        return False
    try:
        return encode_record(key, tagged(rebuilt[1])) == line
    except Unkept:
        return False


def _fitting(name: str, kind: pa.DataType, column: Sequence[Any]) -> pa.Array:
    """Return the values as a column, null where one does not fit."""
    places: Any = range(len(column))
    import pyarrow as pa

    with contextlib.suppress(InvalidOption):
        return converted(name, kind, places, column)
    with contextlib.suppress(InvalidOption):
        return converted(name, kind, places, [value if _fits(name, kind, value) else None for value in column])
    return pa.nulls(
        len(column), kind
    )  # within a value, Arrow takes an empty list for a struct, unless a dict came before


def _fits(name: str, kind: pa.DataType, value: Any) -> bool:
    try:
        converted(name, kind, [""], [value])
    except InvalidOption:
        return False
    return True


def _readable(name: str, array: pa.Array) -> pa.Array:
    """Return a column, null where it cannot be read back: a time that has no year from 1 to 9999 in the column's zone."""
    import pyarrow as pa

    def is_read(part: pa.Array) -> bool:
        try:
            _values(name, pa.chunked_array([part]))
        except InvalidOption:
            return False
        return True

    if is_read(array):
        return array
    return array.take(pa.array([at if is_read(array.slice(at, 1)) else None for at in range(len(array))], pa.int64()))


def rows_of(table: pa.Table, about: dict[str, Any], key: str = KEY) -> Iterator[tuple[Any, Any]]:
    """Yield (key, value) of each row, by its columns; the key is None where the column cannot hold it."""
    names = [name for name in table.column_names if name not in {key, EXACT}]
    columns = [_values(name, table.column(name)) for name in names]
    keys = _values(key, table.column(key))
    if about["whole"]:
        yield from zip(keys, columns[0] if columns else [None] * len(keys), strict=True)
    elif about["null"] == _NULL_IS_NONE:
        rows = zip(*columns, strict=True) if columns else iter([()] * len(keys))
        yield from zip(keys, (dict(zip(names, row, strict=True)) for row in rows), strict=True)
    else:
        for at, its in enumerate(keys):
            yield (
                its,
                {name: column[at] for name, column in zip(names, columns, strict=True) if column[at] is not None},
            )


def _values(name: str, column: pa.ChunkedArray) -> list[Any]:
    import pyarrow as pa

    values = python_values(name, column)
    if pa.types.is_timestamp(column.type) and column.type.tz == "UTC":
        return [value if value is None else value.astimezone(dt.UTC) for value in values]
    return values


class ParquetIn:
    """A Parquet file, read from a row on."""

    def __init__(self, path: str, state: dict[str, int]) -> None:
        """``state``: that of the last pair that is not wanted again; empty: from the beginning."""
        pq, _ = _require_pyarrow()
        self._path = path
        with self._told(f"{path} is no Parquet file"):
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        try:
            with self._told(f"{path} has no columns that can be read"):
                self._about = self._checked(self._file.schema_arrow)
        except InvalidOption:
            self._file.close()
            raise
        self.size = self._file.metadata.num_rows
        self._begin = state.get("rows", 0)

    def _checked(self, schema: pa.Schema) -> dict[str, Any]:
        """Return what the file says of its columns. Raises ``InvalidOption``."""
        import pyarrow as pa

        names = schema.names
        if KEY not in names:
            raise InvalidOption(f"{self._path} has no column {KEY!r}; it has {', '.join(names)}")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidOption(f"{self._path} has two columns {twice!r}")
        if EXACT in names and (kind := schema.field(EXACT).type) not in {pa.string(), pa.large_string()}:
            raise InvalidOption(
                f"{self._path}: the column {EXACT!r} is not raykv's, which has texts; it is of type {kind}"
            )
        return _about(schema)

    def chunks(self, rows: int) -> Iterator[tuple[list[tuple[Key, Any]], dict[str, int], int]]:
        """Yield pairs, at most ``rows`` at a time, with the state behind them and how far that is, of ``size``.

        Raises ``InvalidOption`` for what is no record, after the batches before it.
        """
        import pyarrow as pa

        at = 0
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if at + count <= self._begin:
                at += count
                continue
            batches = self._file.iter_batches(batch_size=rows, row_groups=[group])
            while (batch := self._next(batches, at)) is not None:
                skipped = min(max(0, self._begin - at), batch.num_rows)
                first, at = at + skipped, at + batch.num_rows
                if first < at:
                    yield self._pairs(pa.Table.from_batches([batch]).slice(skipped), first), {"rows": at}, at

    def _next(self, batches: Iterator[pa.RecordBatch], at: int) -> pa.RecordBatch | None:
        with self._told(f"{self._path} is damaged behind row {at:,}; the rows before it are imported"):
            return next(batches, None)

    def _pairs(self, table: pa.Table, first: int) -> list[tuple[Key, Any]]:
        pairs: list[tuple[Key, Any]] = []
        try:
            exact = table.column(EXACT).to_pylist() if EXACT in table.column_names else [None] * table.num_rows
            for (key, value), correction in zip(rows_of(table, self._about), exact, strict=True):
                pairs.append((checked_key(key), value) if correction is None else decode_record(correction))
        except ValueError as error:
            beyond = " or a later one" if isinstance(error, InvalidOption) else ""  # a column is told as a whole
            raise InvalidOption(
                f"{self._path}, row {first + len(pairs) + 1:,}{beyond}: {error}; {first:,} rows are imported"
            ) from None
        return pairs

    @staticmethod
    @contextlib.contextmanager
    def _told(what: str) -> Iterator[None]:
        """Raise Arrow's errors about a file's bytes as ``InvalidOption``; the system's pass."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InvalidOption(f"{what} ({str(error).partition(chr(10))[0]})") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _about(schema: pa.Schema) -> dict[str, Any]:
    """Return what the file says of itself; a file of another program has dicts of all columns, or a column ``VALUE``."""
    stored = (schema.metadata or {}).get(_ABOUT)
    names = [name for name in schema.names if name not in {KEY, EXACT}]
    if stored is None:
        return {"whole": names == [VALUE], "null": _NULL_IS_NONE}
    try:
        about = decode_json(stored)
        return {"whole": bool(about["whole"]) and names in ([], [VALUE]), "null": str(about["null"])}
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise InvalidOption(f"the file's own note about its columns is damaged: {error}") from None


def _schema_of(path: str) -> pa.Schema:
    pq, _ = _require_pyarrow()
    return pq.read_schema(path)


def _require_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InvalidOption(
            f"Parquet needs pyarrow ({error}): pip install 'raykv[data]'; JSON Lines (.jsonl) needs nothing"
        ) from None
    return pq, pa
