"""Typed columns: the type that fits all values, and whose value does not."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykv.errors import InvalidOption
from raykv.portable.columns import array_of, converted, inferred, laid_out, plain_values

KEYS = ["a", "b", "c", "d"]
AWARE = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NAIVE = AWARE.replace(tzinfo=None)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, None], "int64"),
        ([1, 2.5], "double"),
        ([True, None], "bool"),
        (["a", None], "string"),
        ([b"a"], "binary"),
        ([None, None], "null"),
        ([], "null"),
        ([[1], [2, 3]], "list<item: int64>"),
        ([(1.5,), []], "list<item: double>"),
        ([{"x": 1}, {"y": "a"}], "struct<x: int64, y: string>"),
        ([dt.date(2026, 1, 1)], "date32[day]"),
        ([NAIVE], "timestamp[us]"),
        ([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)], "timestamp[us, tz=UTC]"),
        ([dt.timedelta(1)], "duration[us]"),
        ([decimal.Decimal("1.10")], "decimal128(3, 2)"),
        ([np.float32(1.5)], "float"),
        ([np.int16(1), np.int16(2)], "int16"),
    ],
    ids=repr,
)
def test_the_type_that_fits_all(values, kind):
    assert str(inferred("x", KEYS[: len(values)], values)) == kind


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1, None, "two"], "key 'a' has an int, key 'c' a str"),
        ([1.5, True], "key 'a' has a float, key 'b' a bool"),
        (["a", b"b"], "key 'a' has a str, key 'b' a bytes"),
        ([[1], {"x": 1}], "key 'a' has a list, key 'b' a dict"),
        ([1.5, 2**60 + 1], "key 'b' an int that no float holds"),
        pytest.param([1.5, 10**5000], "an enormous int", id="enormous"),  # too long for a test's name, too
        ([NAIVE, dt.date(2026, 1, 1)], "a datetime, key 'b' a date"),
        ([[1], [2], ["x"]], "before key 'c'"),
        ([{"x": 1}, {"x": "a"}], "before key 'b'"),
        ([type], "before key 'a'"),
    ],
    ids=repr,
)
def test_mixed_values_are_told_with_their_keys(values, told):
    with pytest.raises(InvalidOption, match=told) as caught:
        inferred("x", KEYS[: len(values)], values)
    assert caught.value.details["key"] in KEYS


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int64(), 1.0), (pa.int64(), True), (pa.int64(), "1"), (pa.int64(), 2**70), (pa.int8(), 300),
        (pa.float64(), "1"), (pa.float64(), 2**60 + 1), (pa.string(), b"a"), (pa.string(), 5), (pa.binary(), "a"),
        (pa.bool_(), 1), (pa.list_(pa.int64()), ["a"]), (pa.timestamp("us"), "now"), (pa.null(), 1),
        (pa.struct([("n", pa.int64())]), []), (pa.struct([("n", pa.struct([("m", pa.int64())]))]), {"n": 5}),
    ],
    ids=repr,
)  # fmt: skip
def test_nothing_is_converted_in_silence(kind, value):
    with pytest.raises(InvalidOption, match="'b'"):
        array_of("x", kind, ["a", "b"], [None, value])


def test_a_layout_of_dicts():
    keys, values = ["a", "b"], [{"n": 1, "s": "x"}, {"s": "y"}]
    layout = laid_out(keys, values)
    table = layout.table(keys, values)
    assert table.to_pylist() == [{"key": "a", "n": 1, "s": "x"}, {"key": "b", "n": None, "s": "y"}]
    assert table.schema == layout.schema
    with pytest.raises(InvalidOption, match=r"key 'c' has a field 'z'"):
        layout.table(["c"], [{"z": 1}])
    with pytest.raises(InvalidOption, match="key 'c' has an int, 5, where other records have dicts"):
        layout.table(["c"], [5])
    some = laid_out(keys, values, columns=["s"])
    assert some.table(["c"], [{"s": "t", "z": 1}]).to_pylist() == [{"s": "t"}]


def test_a_layout_of_other_values_and_of_a_schema():
    assert laid_out(["a"], [5]).table(["a", "b"], [5, 6]).to_pylist() == [
        {"key": "a", "value": 5},
        {"key": "b", "value": 6},
    ]
    schema = pa.schema([("id", pa.binary()), ("n", pa.float32())])
    layout = laid_out([b"a"], [{"n": 1}], key="id", schema=schema)
    assert layout.table([b"a"], [{"n": 1}]).schema == schema
    with pytest.raises(InvalidOption, match="'id' is of type binary"):
        layout.table(["a"], [{"n": 1}])


@pytest.mark.parametrize(
    ("keys", "values", "options", "told"),
    [
        (["a", b"b"], [1, 2], {}, "'key' has values of several types"),
        (["a"], [{"key": 1}], {}, "key="),
        (["a"], [{5: 1}], {}, "a column's name is a str"),
        (["a", "b"], [{"n": 1}, 2], {}, "key 'b' has an int"),
        (["a"], [{"\ud800": 1}], {}, "a column's name is a str that UTF-8 can say"),
        (["a"], [{"n": 1}], {"columns": ["m"]}, "there is no column 'm'; there are key, n$"),
        (["a"], [{"n": 1}], {"key": None, "columns": ["m"]}, "there is no column 'm'; there are n$"),
        (["a"], [1], {"schema": pa.schema([("n", pa.int64())])}, "no dicts"),
    ],
    ids=repr,
)
def test_what_has_no_layout(keys, values, options, told):
    with pytest.raises(InvalidOption, match=told):
        laid_out(keys, values, **options)


@given(
    st.lists(st.lists(st.text(max_size=3) | st.none(), max_size=4) | st.none(), max_size=8)
    | st.lists(st.lists(st.lists(st.integers(-5, 5), max_size=3), max_size=3), max_size=8),
    st.integers(0, 4),
)
def test_plain_values_are_what_arrow_returns(values, begin):
    array = pa.array(values)[begin:]
    assert plain_values(array) == values[begin:] == array.to_pylist()


def test_what_fits_by_itself_and_not_behind_others_is_told():
    kind = pa.list_(pa.struct([("n", pa.int64())]))
    assert converted("x", kind, ["a"], [[[]]]).to_pylist() == [[{"n": None}]]  # Arrow's own idea of an empty list
    with pytest.raises(InvalidOption, match=r"key 'b' has a list, \[\[\]\]"):
        converted("x", kind, ["a", "b"], [[{"n": 1}], [[]]])
    with pytest.raises(InvalidOption, match=r"key 'a' has a list, \[\[\]\]"):
        array_of("x", kind, ["a"], [[[]]])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([NAIVE, AWARE], "key 'b' has one with a time zone, key 'a' one without"),
        ([AWARE, None, NAIVE], "key 'a' has one with a time zone, key 'c' one without"),
        ([[NAIVE], [AWARE]], "key 'b' has a list"),
        ([{"t": AWARE}, {"t": NAIVE}], "key 'b' has a dict"),
        ([dt.time(1), dt.time(1, tzinfo=dt.UTC)], "key 'b' has a time with a time zone"),
        ([{"x": 1}, {b"y": 1}], "key 'b' has a dict"),
        ([["a"], [b"b"]], "key '[ab]' has a list"),
        ([[NAIVE.date()], [NAIVE]], "key '[ab]' has a list"),
    ],
    ids=repr,
)
def test_no_type_is_found_that_converts_some_of_the_values(values, told):
    with pytest.raises(InvalidOption, match=told) as caught:
        inferred("x", KEYS[: len(values)], values)
    assert caught.value.details["key"] in KEYS


def test_the_error_says_what_of_a_value_does_not_fit():
    kind = pa.struct([("name", pa.string())])
    with pytest.raises(InvalidOption, match="key 'b' has a dict with a field 'vat' that the type has not"):
        array_of("x", kind, ["a", "b"], [{"name": "n"}, {"name": "m", "vat": 5}])
    with pytest.raises(InvalidOption, match="key 'a' has a datetime without a time zone"):
        array_of("x", pa.timestamp("us", "UTC"), ["a"], [NAIVE])
