"""Arrow values without pickle: equal, of one type, with their schema. Skipped without pyarrow."""

from __future__ import annotations

import datetime as dt
import decimal
import struct
import subprocess
import sys
from typing import Any

import pytest
from client_values import damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.client.codecs import decode_value, encode_value
from raykv.errors import CorruptData, InvalidOption

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: its values are not tried")

PICKLE, ARROW = b"\x03", b"\x06"


def check_same(back: Any, value: Any) -> None:
    assert type(back) is type(value)
    assert back.equals(value)
    if hasattr(value, "schema"):
        assert back.schema.equals(value.schema, check_metadata=True)
    else:
        assert back.type.equals(value.type, check_metadata=True)
    back.validate(full=True)


def elements(kind: Any) -> st.SearchStrategy[Any]:
    types = pa.types
    if types.is_boolean(kind):
        return st.booleans()
    if types.is_integer(kind):
        signed = types.is_signed_integer(kind)
        bits = kind.bit_width - signed
        return st.integers(-(1 << bits) if signed else 0, (1 << bits) - 1)
    if types.is_floating(kind):
        return st.floats(width=kind.bit_width, allow_nan=False)
    if types.is_string(kind) or types.is_large_string(kind):
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    if types.is_fixed_size_binary(kind):
        return st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    if types.is_binary(kind) or types.is_large_binary(kind):
        return st.binary(max_size=5)
    if types.is_decimal(kind):
        return st.integers(-(10**9), 10**9).map(lambda number: decimal.Decimal(number).scaleb(-2))
    if types.is_timestamp(kind):
        zone = dt.UTC if kind.tz else None
        seconds = st.integers(-(10**9), 9 * 10**9)
        return seconds.map(lambda past: dt.datetime.fromtimestamp(past, dt.UTC).replace(tzinfo=zone))
    if types.is_date(kind):
        return st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1))
    if types.is_struct(kind):
        return st.fixed_dictionaries({field.name: nullable(field.type) for field in kind})
    assert types.is_list(kind), kind
    return st.lists(nullable(kind.value_type), max_size=3)


def nullable(kind: Any) -> st.SearchStrategy[Any]:
    return st.none() | elements(kind)


LEAVES = [
    pa.bool_(), pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.string(),
    pa.large_string(), pa.binary(), pa.large_binary(), pa.binary(3), pa.decimal128(12, 2), pa.date32(), pa.timestamp("us"),
    pa.timestamp("s", "Europe/Berlin"), pa.timestamp("ns", "+02:00"),
]  # fmt: skip
TYPES = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: inner.map(pa.list_) | st.lists(inner, min_size=1, max_size=3).map(
        lambda types: pa.struct([pa.field(f"f{at}", kind) for at, kind in enumerate(types)])
    ),
    max_leaves=4,
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> Any:
    rows = draw(st.integers(0, 6))
    columns, fields = [], []
    for at in range(draw(st.integers(0, 4))):
        kind = draw(TYPES)
        column = pa.array(draw(st.lists(nullable(kind), min_size=rows, max_size=rows)), kind)
        if kind in LEAVES and draw(st.booleans()):
            column = column.dictionary_encode()
        columns.append(column)
        fields.append(pa.field(draw(st.sampled_from(["", "a", "é"])) + str(at), column.type, metadata=draw(METADATA)))
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=draw(METADATA)))
    table = pa.concat_tables([table] * draw(st.integers(1, 2))) if columns else table
    return table.slice(draw(st.integers(0, 3)), draw(st.integers(0, 6)))


METADATA = st.none() | st.dictionaries(st.binary(min_size=1, max_size=3), st.binary(max_size=3), min_size=1, max_size=2)


@settings(deadline=None, max_examples=60)
@given(tables())
def test_tables_batches_and_arrays_come_back_as_they_were_and_are_not_pickled(table: Any) -> None:
    batch = table.combine_chunks().to_batches()[:1]
    for value in (table, *batch, *table.columns, *(column.combine_chunks() for column in table.columns)):
        payload = encode_value(value, "auto")
        assert payload[:1] == ARROW
        check_same(decode_value(payload, "auto"), value)


def some_table() -> Any:
    return pa.table(
        {
            "time": pa.array([1, None, 3], pa.timestamp("us", "Europe/Berlin")),
            "price": [1.5, -0.0, None],
            "symbol": pa.array(["A", None, "A"]).dictionary_encode(),
            "sizes": [[1, 2], None, []],
        },
        metadata={"source": "here"},
    )


SIMPLE = {
    "ordered": lambda: pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), ["a", "b"], ordered=True),
    "dictionaries": lambda: pa.chunked_array([pa.array(part).dictionary_encode() for part in (["a"], ["b", "c"])]),
    "no_chunks": lambda: pa.chunked_array([], pa.int8()),
    "map": lambda: pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
    "fixed_list": lambda: pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
    "large_list": lambda: pa.array([["a"], None], pa.large_list(pa.string())),
    "half": lambda: pa.array([1.5, None], pa.float16()),
    "time": lambda: pa.array([1, None], pa.time64("ns")),
    "duration": lambda: pa.array([1, None], pa.duration("ms")),
    "not_null": lambda: pa.table([pa.array([1])], schema=pa.schema([pa.field("a", pa.int64(), nullable=False)])),
    "same_names": lambda: pa.table([pa.array([1]), pa.array(["x"])], names=["a", "a"]),
    "no_columns": lambda: pa.table({}),
}


@pytest.mark.parametrize("make", SIMPLE.values(), ids=SIMPLE)
def test_other_types_come_back(make: Any) -> None:
    value = make()
    assert encode_value(value, "auto")[:1] == ARROW
    check_same(decode_value(encode_value(value, "auto"), "auto"), value)


PICKLED = {
    "null": lambda: pa.nulls(3),
    "null_inside": lambda: pa.table({"a": [[None]]}),
    "view": lambda: pa.array(["a"], pa.string_view()),
    "run_end_encoded": lambda: pa.RunEndEncodedArray.from_arrays([2], ["a"]),
    "union": lambda: pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
    "no_fields": lambda: pa.array([{}, {}], pa.struct([])),
    "no_width": lambda: pa.array([b""], pa.binary(0)),
    "extension": lambda: pa.array([b"0" * 16], pa.uuid()) if hasattr(pa, "uuid") else pa.nulls(1),
    "schema": lambda: some_table().schema,
    "scalar": lambda: pa.scalar(5),
}


INVALID = {
    "date64": lambda: pa.array([1], pa.int64()).view(pa.date64()),
    "time32": lambda: pa.chunked_array([pa.array([90_000], pa.int32()).view(pa.time32("s"))]),
    "decimal": lambda: pa.Array.from_buffers(
        pa.decimal128(3), 1, [None, pa.py_buffer((10**9).to_bytes(16, sys.byteorder))]
    ),
    "text": lambda: pa.table({"a": pa.array([b"\xff"]).view(pa.string())}),
    "index": lambda: pa.DictionaryArray.from_arrays(pa.array([5]), pa.array(["a"]), safe=False),
}


@pytest.mark.parametrize("make", INVALID.values(), ids=INVALID)
def test_what_breaks_the_rules_of_arrow_is_pickled_and_stays_readable(make: Any) -> None:
    value = make()
    with pytest.raises(pa.ArrowInvalid):
        value.validate(full=True)
    payload = encode_value(value, "auto")
    assert payload[:1] == PICKLE
    back = decode_value(payload, "auto")
    assert type(back) is type(value)
    column, expected = (each.column(0) if hasattr(each, "column") else each for each in (back, value))
    assert [part.buffers() for part in parts(column)] == [part.buffers() for part in parts(expected)]


def parts(column: Any) -> list[Any]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


@pytest.mark.parametrize("make", PICKLED.values(), ids=PICKLED)
def test_what_could_grow_when_it_is_read_is_pickled(make: Any) -> None:
    value = make()
    payload = encode_value(value, "auto")
    assert payload[:1] == PICKLE
    back = decode_value(payload, "auto")
    assert type(back) is type(value)
    assert back.equals(value)


def test_a_part_of_a_table_takes_the_bytes_of_the_part_only() -> None:
    table = pa.table({"a": range(100_000)})
    assert len(encode_value(table.slice(50, 10), "auto")) < 1000


def test_what_is_read_refers_to_the_bytes_that_were_read() -> None:
    payload = encode_value(pa.array(range(10_000)), "auto")
    before = pa.total_allocated_bytes()
    array = decode_value(payload, "auto")
    assert pa.total_allocated_bytes() - before < 10_000
    del payload
    assert array.to_pylist() == list(range(10_000))


def test_other_codecs_take_and_read_none() -> None:
    for codec in ("msgpack", "raw"):
        with pytest.raises(InvalidOption, match=f"codec='{codec}'"):
            encode_value(some_table(), codec)
        with pytest.raises(CorruptData, match="cannot read"):
            decode_value(encode_value(some_table(), "auto"), codec)


# ---- damage ----


def stream(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    payload: bytes = sink.getvalue().to_pybytes()
    return payload


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("columns", [["price"], ["symbol"], ["time", "sizes"]])
def test_a_compressed_stream_is_refused_before_it_is_decompressed(compression: str, columns: list[str]) -> None:
    table = some_table().select(columns)
    assert decode_value(ARROW + bytes(15) + stream(table), "auto").equals(table)
    payload = ARROW + bytes(15) + stream(table, compression=compression)
    with pytest.raises(CorruptData, match="compressed"):
        decode_value(payload, "auto")


@pytest.mark.parametrize(
    "value", [*(make() for name, make in PICKLED.items() if name not in {"schema", "scalar", "null_inside"})], ids=str
)
def test_a_stream_of_a_type_that_is_never_written_is_refused(value: Any) -> None:
    with pytest.raises(CorruptData, match="stored like this"):
        decode_value(ARROW + bytes(15) + stream(pa.table({"a": value})), "auto")


def test_offsets_and_lengths_are_validated() -> None:
    payload = encode_value(pa.array(["abc", "def"]), "auto")
    offsets = struct.pack("<iii", 0, 3, 6)
    assert offsets in payload
    for wrong in ((0, 3, 1 << 20), (0, -5, 6), (-1, 3, 6), (0, 5, 4)):
        with pytest.raises(CorruptData):
            decode_value(payload.replace(offsets, struct.pack("<iii", *wrong)), "auto")
    words = encode_value(pa.array(["a", "b"]).dictionary_encode(), "auto")
    indexes = struct.pack("<ii", 0, 1)
    assert indexes in words
    with pytest.raises(CorruptData):
        decode_value(words.replace(indexes, struct.pack("<ii", 0, 7)), "auto")


def test_the_form_has_to_fit() -> None:
    two = stream(pa.concat_tables([some_table()] * 2))
    one = stream(some_table())
    for form, body in ((1, two), (2, one), (3, one), (4, one), (2, b""), (0, b""), (0, one[:100]), (0, b"\xff" * 64)):
        with pytest.raises(CorruptData):
            decode_value(ARROW + bytes((form,)) + bytes(14) + body, "auto")
    for payload in (ARROW, ARROW + bytes(14), ARROW + b"\0\1" + bytes(13) + one):
        with pytest.raises(CorruptData):
            decode_value(payload, "auto")


STORED = [encode_value(value, "auto") for value in (some_table(), *(make() for make in SIMPLE.values()))]


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(STORED),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4),
    st.integers(0, 9),
)
def test_flipped_bytes_are_corrupt_or_another_value(payload: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    try:
        value = decode_value(damaged(payload, changes, cut), "auto")
    except CorruptData:
        return
    value.validate(full=True)
    assert str(value.schema if hasattr(value, "schema") else value.type) is not None  # its names are text
    assert value.nbytes <= 64 * len(payload)


def test_without_pyarrow_the_error_says_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from raykv.client.codecs import decode_value\n"
        f"decode_value({encode_value(pa.array([1]), 'auto')!r}, 'auto')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "CorruptData: the stored value is of pyarrow, which cannot be imported here" in run.stderr
