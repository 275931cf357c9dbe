"""Arrow tables, record batches, arrays and chunked arrays as bytes and back: Arrow's own stream format, without pickle.

The form: a byte that says which of the four it is, zeros up to 16 bytes of the payload, tag included, then an Arrow IPC
stream, uncompressed. What is read back refers to the bytes that were read, with no copy; Arrow's values are immutable.

Left to pickle: types whose length takes no bytes or whose parts may overlap (null, run-end encoded, views, unions, extension
types, structures without fields). All others take at least a bit for each element, and a value that is read cannot become
much larger than its bytes. Likewise values that break Arrow's own rules, which a cast may yield (a ``date64`` within a day,
a ``decimal128`` beyond its precision, a string that is not UTF-8): here they would be refused on reading.

A table is cut into chunks wherever one of its columns was, and chunks without rows may go: Arrow's equality ignores them.

Nothing is believed: compressed messages are refused before they are decompressed, types are checked before a batch is read,
and every offset and length is validated before anybody follows it.

This module imports pyarrow; ``codecs`` imports it when it meets the first such value.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import pyarrow as pa
from pyarrow import ipc, lib

_BEGIN = 16
_TABLE, _BATCH, _ARRAY, _CHUNKED = range(4)
_MAX_DEPTH = 32
_MAX_TYPES = 100_000
_LEAVES: Final = frozenset(
    {
        lib.Type_BOOL, lib.Type_INT8, lib.Type_INT16, lib.Type_INT32, lib.Type_INT64, lib.Type_UINT8, lib.Type_UINT16,
        lib.Type_UINT32, lib.Type_UINT64, lib.Type_HALF_FLOAT, lib.Type_FLOAT, lib.Type_DOUBLE, lib.Type_DECIMAL128,
        lib.Type_DECIMAL256, lib.Type_DATE32, lib.Type_DATE64, lib.Type_TIMESTAMP, lib.Type_TIME32, lib.Type_TIME64,
        lib.Type_DURATION, lib.Type_INTERVAL_MONTH_DAY_NANO, lib.Type_STRING, lib.Type_LARGE_STRING, lib.Type_BINARY,
        lib.Type_LARGE_BINARY,
    }
)  # fmt: skip
_NESTED: Final = frozenset({lib.Type_LIST, lib.Type_LARGE_LIST, lib.Type_MAP})
_EXTENSION = b"ARROW:extension:"
_RECORD_BATCH, _DICTIONARY = "record batch", "dictionary"


class Damaged(ValueError):
    """The bytes are no Arrow value's."""


def packed(value: Any, kind: type, before: bytes) -> bytes | None:
    """Return the value's bytes behind ``before``, the tag; None for what is left to pickle."""
    try:
        if kind is pa.Table:
            return _stream(_TABLE, value, before)
        if kind is pa.RecordBatch:
            return _stream(_BATCH, value, before)
        if kind is pa.ChunkedArray:
            return _stream(_CHUNKED, pa.Table.from_arrays([value], [""]), before)
        if issubclass(kind, pa.Array):
            return _stream(_ARRAY, pa.RecordBatch.from_arrays([value], [""]), before)
    except (pa.ArrowException, NotImplementedError, TypeError):  # what Arrow cannot write, pickle may
        pass
    return None


def _stream(form: int, data: Any, before: bytes) -> bytes | None:
    schema = data.schema
    if not _is_simple(schema) or _EXTENSION in schema.serialize().to_pybytes():
        return None
    data.validate(full=True)  # as on reading
    sink = pa.BufferOutputStream()
    sink.write(before + bytes((form,)) + bytes(_BEGIN - len(before) - 1))
    with ipc.new_stream(sink, schema) as writer:
        writer.write(data)
    payload: bytes = sink.getvalue().to_pybytes()
    return payload


def unpacked(payload: bytes, start: int) -> Any:
    """Return the value whose bytes begin at ``start``, behind the tag. Raises ``ValueError`` or Arrow's errors."""
    if len(payload) < _BEGIN or any(payload[start + 1 : _BEGIN]):
        raise Damaged("the Arrow value's head is damaged")
    form = payload[start]
    if form > _CHUNKED:
        raise Damaged(f"the Arrow value is of kind {form}, which this version of raykv does not know")
    stream = pa.py_buffer(payload).slice(_BEGIN)
    batches = _check_messages(stream)
    if form in {_BATCH, _ARRAY} and batches != 1:
        raise Damaged(f"an Arrow value of one batch has {batches}")
    with ipc.open_stream(stream) as reader:
        if not _is_simple(reader.schema):
            raise Damaged("the Arrow value has a type that is never stored like this")
        data = reader.read_next_batch() if form in {_BATCH, _ARRAY} else reader.read_all()
    data.validate(full=True)
    if form in {_TABLE, _BATCH}:
        return data
    if data.num_columns != 1:
        raise Damaged(f"the table of an Arrow array has {data.num_columns} columns")
    return data.column(0)


def _is_simple(schema: Any) -> bool:
    """Whether every element of every type takes at least a bit. Raises ``UnicodeDecodeError`` for a name that is no text."""
    waiting = [(kind, 0) for kind in schema.types] if schema.names else []
    seen = 0
    while waiting:
        kind, depth = waiting.pop()
        seen += 1
        if depth > _MAX_DEPTH or seen > _MAX_TYPES:
            return False
        code = kind.id
        if code in _LEAVES:
            _ = code == lib.Type_TIMESTAMP and kind.tz  # decodes the name
            continue
        if code == lib.Type_FIXED_SIZE_BINARY:
            if not kind.byte_width:
                return False
        elif code == lib.Type_DICTIONARY:
            waiting.append((kind.value_type, depth + 1))
        elif code == lib.Type_FIXED_SIZE_LIST:
            if not kind.list_size:
                return False
            waiting.append((kind.value_type, depth + 1))
        elif code in _NESTED or (code == lib.Type_STRUCT and kind.num_fields):
            fields = [kind.field(at) for at in range(kind.num_fields)]
            waiting += [(field.type, depth + 1) for field in fields if isinstance(field.name, str)]  # decodes the name
        else:
            return False
    return True


def _check_messages(stream: Any) -> int:
    """Return how many record batches a stream has. Raises ``Damaged`` if one is compressed, or the schema has extensions."""
    batches = 0
    for at, message in enumerate(ipc.MessageReader.open_stream(stream)):
        head = message.metadata.to_pybytes()
        if at == 0:
            if message.type != "schema" or _EXTENSION in head:
                raise Damaged("the Arrow value does not begin with a schema that is stored like this")
        elif message.type not in {_RECORD_BATCH, _DICTIONARY}:
            raise Damaged(f"the Arrow value has a message of type {message.type!r}")
        elif _is_compressed(head, message.type == _DICTIONARY):
            raise Damaged("the Arrow value is compressed, and raykv stores none like this")
        else:
            batches += message.type == _RECORD_BATCH
    return batches


def _is_compressed(head: bytes, dictionary: bool) -> bool:
    """Return whether a message's batch names a compression. ``head`` is a flatbuffer, which Arrow has verified.

    By Arrow's Message.fbs a message's header is its field 2, a dictionary's batch its field 1, a batch's compression its
    field 3.
    """
    try:
        batch = _table(head, _number("<I", head, 0), 2)
        if dictionary and batch is not None:
            batch = _table(head, batch, 1)
        return batch is None or _table(head, batch, 3) is not None
    except struct.error as error:
        raise Damaged("a message of the Arrow value is damaged") from error


def _table(data: bytes, table: int, field: int) -> int | None:
    """Return where a table begins that is a field of another one; None if it is not there."""
    fields = table - _number("<i", data, table)
    at = 4 + 2 * field
    if at + 2 > _number("<H", data, fields):
        return None
    offset = _number("<H", data, fields + at)
    return table + offset + _number("<I", data, table + offset) if offset else None


def _number(form: str, data: bytes, at: int) -> int:
    if at < 0:  # struct would count from the end
        raise struct.error("an offset is negative")
    number: int = struct.unpack_from(form, data, at)[0]
    return number
