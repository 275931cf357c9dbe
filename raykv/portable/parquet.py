"""Parquet: records as typed columns, for any program that reads it, and exact for raykv.

Columns cannot say everything: a name that a record lacks and one whose value is None are both null; a tuple becomes a list;
a record may not fit the types that the first ones had. Hence one more column, ``_raykv``: null where the others give the
record back exactly, else all of it as ``tagged`` JSON. Each row is rebuilt and compared before it is written.

A chunk is a file of its own until all are there: a Parquet file cannot be gone on with. They become the row groups of one.
A file of other programs is imported too: it needs a column of keys.
"""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.config import shown
from raykv.errors import InvalidOption
from raykv.portable.columns import VALUE, array_of, inferred, plain_values
from raykv.portable.lines import WHOLE
from raykv.portable.tagged import Unkept, decode_json, encode_json, restored, tagged, tagged_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from raykv.records.keys import Key

KEY, EXACT = "key", "_raykv"
MAX_FIELDS = 1000
"""Records with more names than that, together, are kept in ``_raykv`` alone."""
_ABOUT = b"raykv"
_NULL_IS_NONE, _NULL_IS_ABSENT = "none", "absent"


class ParquetOut:
    """Chunks as files, which ``finish`` makes one."""

    def __init__(self, directory: str, state: dict[str, Any]) -> None:
        """``state``: what ``append`` returned last; empty for a new file."""
        _require_pyarrow()
        self._directory = directory
        self._chunks: int = state.get("chunks", 0)
        self._schema = None if not self._chunks else _schema_of(self._path(0))

    def _path(self, chunk: int) -> str:
        return f"{self._directory}/{chunk:08d}.parquet"

    def append(self, keys: Sequence[Key], values: Sequence[Any], tagged: Sequence[Any]) -> dict[str, Any]:
        """Add a chunk of records; return, once it is on disk, what is to be noted."""
        import pyarrow.parquet as pq

        if self._schema is None:
            self._schema = schema_for(keys, values)
        path = self._path(self._chunks)
        pq.write_table(table_of(self._schema, keys, values, tagged), path, compression="zstd")
        _sync(path)
        self._chunks += 1
        return {"chunks": self._chunks}

    def finish(self) -> str:
        """Make one file of the chunks; return its path."""
        import pyarrow.parquet as pq

        path, schema = f"{self._directory}/{WHOLE}", self._schema or schema_for([], [])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for chunk in range(self._chunks):
                with pq.ParquetFile(self._path(chunk)) as part:
                    for group in range(part.num_row_groups):
                        writer.write_table(part.read_row_group(group))
        _sync(path)
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
            kind = inferred(name, range(len(column)), column)  # type: ignore[arg-type]  # only its error names a key
        except InvalidOption:
            continue
        if not pa.types.is_null(kind):
            fields[name] = kind
    lacking = sum(name not in value for value in dicts for name in columns)
    nones = sum(item is None for value in dicts for item in value.values())
    about = {"whole": whole, "null": _NULL_IS_ABSENT if lacking > nones else _NULL_IS_NONE}
    return pa.schema([*(fields | {EXACT: pa.string()}).items()], {_ABOUT: encode_json(about)})


def table_of(schema: pa.Schema, keys: Sequence[Key], values: Sequence[Any], exact: Sequence[Any]) -> pa.Table:
    """Return records as a table; ``exact``: their values as tagged JSON. What a column cannot hold is null there."""
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
    corrections = [
        None if _is_same(rebuilt, key, value) else encode_json({"key": tagged_of(key, key), "value": value}).decode()
        for rebuilt, key, value in zip(rows_of(made, about), keys, exact, strict=True)
    ]
    return made.append_column(EXACT, pa.array(corrections, pa.string())).cast(schema)


def _is_same(rebuilt: tuple[Any, Any], key: Key, exact: Any) -> bool:
    if type(rebuilt[0]) is not type(key) or rebuilt[0] != key:
        return False
    try:
        return encode_json(tagged(rebuilt[1])) == encode_json(exact)
    except Unkept:
        return False


def _fitting(name: str, kind: pa.DataType, column: Sequence[Any]) -> pa.Array:
    """Return the values as a column, null where one does not fit."""
    places: Any = range(len(column))
    try:
        return array_of(name, kind, places, column)
    except InvalidOption:
        return array_of(name, kind, places, [value if _fits(name, kind, value) else None for value in column])


def _fits(name: str, kind: pa.DataType, value: Any) -> bool:
    try:
        array_of(name, kind, [""], [value])
    except InvalidOption:
        return False
    return True


def rows_of(table: pa.Table, about: dict[str, Any], key: str = KEY) -> Iterator[tuple[Any, Any]]:
    """Yield (key, value) of each row, by its columns; the key is None where the column cannot hold it."""
    names = [name for name in table.column_names if name not in {key, EXACT}]
    columns = [_python(table.column(name)) for name in names]
    keys = _python(table.column(key))
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


def _python(column: pa.ChunkedArray) -> list[Any]:
    import pyarrow as pa

    values = [value for chunk in column.chunks for value in plain_values(chunk)]
    if pa.types.is_timestamp(column.type) and column.type.tz == "UTC":
        return [value if value is None else value.astimezone(dt.UTC) for value in values]
    return values


class ParquetIn:
    """A Parquet file, read from a row on."""

    def __init__(self, path: str, state: dict[str, Any]) -> None:
        """``state``: that of the last pair that is not wanted again; empty: from the beginning."""
        pq, pa = _require_pyarrow()
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise InvalidOption(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None
        schema = self._file.schema_arrow
        if KEY not in schema.names:
            self._file.close()
            raise InvalidOption(f"{path} has no column {KEY!r}; it has {', '.join(schema.names)}")
        self._about = _about(schema)
        self.size = self._file.metadata.num_rows
        self._begin = state.get("rows", 0)

    def chunks(self, rows: int) -> Iterator[tuple[list[tuple[Key, Any]], dict[str, Any], int]]:
        """Yield pairs, at most ``rows`` at a time, with the state behind them and how far that is, of ``size``."""
        import pyarrow as pa

        at = 0
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if at + count <= self._begin:
                at += count
                continue
            for batch in self._file.iter_batches(batch_size=rows, row_groups=[group]):
                skipped = min(max(0, self._begin - at), batch.num_rows)
                at += batch.num_rows
                if skipped < batch.num_rows:
                    table = pa.Table.from_batches([batch]).slice(skipped)
                    yield [*self._pairs(table, at - table.num_rows)], {"rows": at}, at

    def _pairs(self, table: pa.Table, first: int) -> Iterator[tuple[Key, Any]]:
        exact = table.column(EXACT).to_pylist() if EXACT in table.column_names else [None] * table.num_rows
        for row, ((key, value), correction) in enumerate(
            zip(rows_of(table, self._about), exact, strict=True), first + 1
        ):
            if correction is not None:
                try:
                    record = decode_json(correction.encode())
                    key, value = restored(record["key"]), restored(record["value"])  # noqa: PLW2901
                except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError) as error:
                    raise self._wrong(row, f"{EXACT!r} is not what raykv writes there ({error})") from None
            if not isinstance(key, str | bytes):
                raise self._wrong(row, f"the key is {shown(key)}, neither text nor bytes")
            yield key, value

    def _wrong(self, row: int, what: str) -> InvalidOption:
        return InvalidOption(f"{self._path}, row {row:,}: {what}; the rows of the batches before it are imported")

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


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
