"""What an Arrow type holds as it is: what it holds comes back, and what Arrow would convert it does not hold."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykv.errors import RaykvError
from raykv.portable.columns import array_of
from raykv.portable.holding import first_unheld, holds

AWARE = dt.datetime(2026, 1, 1, 1, 2, 3, 456789, tzinfo=dt.UTC)
NAIVE = AWARE.replace(tzinfo=None)
EAST = dt.timezone(dt.timedelta(hours=5))
NUMBERS = pa.list_(pa.int64())
POINT = pa.struct([("x", pa.int64()), ("y", pa.int64())])
COUNTS = pa.map_(pa.string(), pa.int64())


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.date32(), NAIVE), (pa.date64(), NAIVE), (pa.date32(), 5), (pa.duration("us"), 5), (pa.time64("us"), 5),
        (pa.timestamp("us"), 5), (pa.timestamp("us"), AWARE), (pa.timestamp("us", "UTC"), NAIVE),
        (pa.timestamp("us"), NAIVE.date()), (pa.timestamp("s"), NAIVE), (pa.timestamp("ms"), NAIVE),
        (pa.timestamp("us"), pd.Timestamp(1)), (pa.timestamp("us"), np.datetime64("NaT", "us")),
        (pa.timestamp("us", "UTC"), pd.Timestamp(NAIVE)), (pa.duration("us"), pd.Timedelta(1)),
        (pa.duration("s"), dt.timedelta(microseconds=1)), (pa.duration("ms"), dt.timedelta(microseconds=1)),
        (pa.time32("s"), NAIVE.time()), (pa.time64("us"), dt.time(1, tzinfo=dt.UTC)), (pa.int64(), np.timedelta64(5, "s")),
        (pa.decimal128(5, 2), 5), (pa.decimal128(5, 2), 1.5), (pa.binary(16), uuid.UUID(int=5)), (pa.binary(1), "a"),
        (pa.uuid(), b"a" * 16), (pa.bool8(), 1), (pa.null(), 0), (pa.string_view(), b"a"), (pa.binary_view(), "a"),
        (pa.float16(), 2049), (pa.float32(), 2**24 + 1), (pa.float64(), True), (pa.float64(), np.bool_(True)),
        (pa.dictionary(pa.int32(), pa.string()), b"a"), (pa.run_end_encoded(pa.int32(), pa.string()), b"a"),
        (NUMBERS, [1.0]), (NUMBERS, [True]), (NUMBERS, {1}), (NUMBERS, {1: 2}), (NUMBERS, collections.deque([1])),
        (NUMBERS, np.array([1.0])), (NUMBERS, np.array([1, None, 2.0], object)), (NUMBERS, np.array([[1]])),
        (NUMBERS, np.ma.array([1, 2], mask=[0, 1])), (NUMBERS, np.array(1)), (NUMBERS, "1"), (NUMBERS, b"1"),
        (pa.list_(pa.string()), [b"y"]), (pa.list_(pa.binary()), ["y"]), (pa.list_(pa.binary()), [bytearray(b"y")]),
        (pa.list_(pa.list_(pa.date32())), [[NAIVE]]), (pa.large_list(pa.int64()), [1.0]), (pa.list_(pa.int64(), 1), [1.0]),
        (pa.list_view(pa.int64()), [1.0]), (pa.list_(POINT), [{"x": 1, "z": 3}]), (pa.list_(POINT), [[]]),
        (POINT, {"z": 2}), (POINT, {"x": 1, "y": 2, "z": 3}), (POINT, {b"x": 1}), (POINT, {"x": 1.0}),
        (POINT, [("x", 1)]), (pa.struct([("p", POINT)]), {"p": {"z": 1}}), (COUNTS, {b"a": 1}), (COUNTS, {"a": 1.0}),
        (COUNTS, [{"key": "a", "value": 1, "more": 2}]), (COUNTS, [("a", 1.0)]),
    ],
    ids=lambda each: f"{each!s}"[:40],
)  # fmt: skip
def test_what_would_be_converted_is_not_held(kind, value):
    assert not holds(kind, [value])
    assert not holds(kind, [None, value])
    assert first_unheld(kind, [None, value]) == 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.date32(), NAIVE.date()), (pa.date64(), NAIVE.date()), (pa.timestamp("us"), NAIVE),
        (pa.timestamp("us", "UTC"), AWARE), (pa.timestamp("us", "UTC"), AWARE.astimezone(EAST)),
        (pa.timestamp("s"), NAIVE.replace(microsecond=0)), (pa.timestamp("ms"), NAIVE.replace(microsecond=5000)),
        (pa.timestamp("ns"), pd.Timestamp(1)), (pa.timestamp("us"), np.datetime64("2026-01-01T01", "us")),
        (pa.duration("us"), dt.timedelta(1, 2, 3)), (pa.duration("ms"), dt.timedelta(1, 2, 3000)),
        (pa.duration("s"), np.timedelta64(5, "s")), (pa.time64("us"), NAIVE.time()), (pa.time32("s"), dt.time(1)),
        (pa.decimal128(5, 2), decimal.Decimal("1.1")), (pa.uuid(), uuid.UUID(int=5)), (pa.binary(1), b"a"),
        (pa.float16(), 2048), (pa.float64(), 2**53), (pa.float64(), np.float32(1.5)), (pa.int64(), np.int8(1)),
        (pa.bool_(), np.bool_(True)), (pa.string_view(), "a"), (pa.dictionary(pa.int32(), pa.string()), "a"),
        (pa.run_end_encoded(pa.int32(), pa.string()), "a"), (pa.json_(), "{}"),
        (NUMBERS, [1, None]), (NUMBERS, []), (pa.list_(pa.float64()), [1.5, 1]), (pa.list_(pa.int64(), 1), [1]),
        (pa.list_(pa.list_(pa.string())), [["a"], None]), (POINT, {"x": 1, "y": None}), (POINT, {}), (pa.struct([]), {}),
        (pa.list_(POINT), [{"x": 1, "y": 2}, None]),
    ],
    ids=lambda each: f"{each!s}"[:40],
)  # fmt: skip
def test_what_is_held_comes_back(kind, value):
    assert holds(kind, [None, value])
    back = array_of("x", kind, ["a", "b"], [None, value]).to_pylist()[1]
    if isinstance(value, dict):
        value = dict.fromkeys(field.name for field in kind) | value
    assert back == value


@pytest.mark.parametrize(
    ("kind", "value", "back"),
    [
        (NUMBERS, (1, 2), [1, 2]), (NUMBERS, np.array([1, 2]), [1, 2]), (pa.list_(pa.string()), np.array(["a"]), ["a"]),
        (NUMBERS, np.array([1, None], object), [1, None]), (COUNTS, {"a": 1}, [("a", 1)]), (COUNTS, [("a", 1)], [("a", 1)]),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_held_in_another_form(kind, value, back):
    assert array_of("x", kind, ["a"], [value]).to_pylist() == [back]


leaves = st.sampled_from(
    [
        None,
        True,
        1,
        2**60,
        1.0,
        "a",
        b"a",
        NAIVE,
        AWARE,
        NAIVE.date(),
        dt.time(1),
        dt.timedelta(1),
        np.int8(1),
        pd.Timestamp(1),
    ]
)
values_of_all_sorts = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)
)
simple = [pa.int64(), pa.float64(), pa.string(), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.date32(), POINT]
some_types = st.sampled_from([*simple, *map(pa.list_, simple), *(pa.struct([("x", each)]) for each in simple)])


@given(some_types, st.lists(values_of_all_sorts, max_size=5))
def test_a_column_is_held_if_each_value_is(kind, values):
    assert holds(kind, values) == all(holds(kind, [value]) for value in values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.timestamp("ns"), [pd.Timestamp("2020-01-01"), dt.datetime(1600, 1, 1)]),  # noqa: DTZ001
        (pa.duration("ns"), [pd.Timedelta(seconds=1), dt.timedelta(days=200_000)]),
    ],
)
def test_what_arrow_has_no_room_for_is_told_by_arrow(kind: pa.DataType, values: list[object]) -> None:
    """Two libraries' times in one column, of which one has no room beside the other."""
    assert first_unheld(kind, values) is None
    with pytest.raises(RaykvError):
        array_of("at", kind, ["a", "b"], values)
