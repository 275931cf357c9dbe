"""Pandas values without pickle: exact, and never believed when damaged. Skipped without pandas."""

from __future__ import annotations

import datetime as dt
import importlib.util
import subprocess
import sys
import zoneinfo
from typing import Any

import numpy as np
import pytest
from client_values import damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.client.codecs import decode_value, encode_value
from raykv.errors import CorruptData, InvalidOption

pd = pytest.importorskip("pandas", reason="pandas is not installed: its values are not tried")

from raykv.client import dataframes  # noqa: E402 - it imports pandas

PICKLE, PANDAS = b"\x03", b"\x07"
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def check_same_name(back: Any, value: Any) -> None:
    assert type(back.name) is type(value.name)
    assert repr(back.name) == repr(value.name)


def check_same_labels(back: Any, index: Any) -> None:
    assert type(back) is type(index)
    assert back.dtype == index.dtype
    assert back.equals(index)
    check_same_name(back, index)
    assert getattr(back, "freq", None) == getattr(index, "freq", None)


def check_same(back: Any, value: Any) -> None:
    assert type(back) is type(value)
    assert back.equals(value)
    check_same_labels(back.index, value.index)
    assert back.attrs == value.attrs
    assert back.flags == value.flags
    if isinstance(value, pd.Series):
        check_same_name(back, value)
        check_same_column(back, value)
        return
    check_same_labels(back.columns, value.columns)
    for at in range(len(value.columns)):
        check_same_column(back.iloc[:, at], value.iloc[:, at])


def check_same_column(back: Any, column: Any) -> None:
    assert back.dtype == column.dtype
    assert repr(back.dtype) == repr(column.dtype)
    if column.dtype == object:
        assert list(map(type, back.tolist())) == list(map(type, column.tolist()))
    if isinstance(column.dtype, pd.CategoricalDtype):
        check_same_labels(back.dtype.categories, column.dtype.categories)
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        assert type(back.dtype.tz) is type(column.dtype.tz)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
OBJECTS = st.none() | st.booleans() | INT64 | st.floats() | TEXTS | st.binary(max_size=3)
STRING_DTYPES = [pd.StringDtype("python")]
if hasattr(pd.StringDtype("python"), "_na_value"):  # since pandas 2.3
    STRING_DTYPES += ["str", pd.StringDtype("python", na_value=np.nan)]
if importlib.util.find_spec("pyarrow"):
    STRING_DTYPES.append(pd.StringDtype("pyarrow"))
NUMBERS = ["i1", "u2", "i4", "i8", "u8", "f4", "f8", "c16", "?"]
TIMES = ["M8[s]", "M8[ms]", "M8[us]", "M8[ns]", "m8[s]", "m8[ns]"]


@st.composite
def columns(draw: st.DrawFn, rows: int) -> Any:
    """A column that is not pickled."""
    kind = draw(st.sampled_from(["number", "time", "zoned", "objects", "strings", "masked", "categories"]))
    small = draw(st.lists(st.integers(0, 100), min_size=rows, max_size=rows))
    gaps = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    if kind == "number":
        return np.array(small).astype(draw(st.sampled_from(NUMBERS)))
    if kind in {"time", "zoned"}:
        unit = draw(st.sampled_from(TIMES if kind == "time" else TIMES[:4]))
        times = np.array(small, "i8").astype(unit)
        times[np.array(gaps, bool)] = "NaT"
        if kind == "time":
            return times
        zone = draw(st.sampled_from([dt.UTC, BERLIN, zoneinfo.ZoneInfo("UTC")]))
        return pd.DatetimeIndex(times).tz_localize(dt.UTC).tz_convert(zone).array
    if kind == "objects":
        values = np.empty(rows, object)
        values[:] = draw(st.lists(OBJECTS, min_size=rows, max_size=rows))
        return pd.Series(values, dtype=object)
    texts = draw(st.lists(st.none() | TEXTS, min_size=rows, max_size=rows))
    if kind == "strings":
        return pd.array(texts, dtype=draw(st.sampled_from(STRING_DTYPES)))
    if kind == "masked":
        dtype = draw(st.sampled_from(["Int8", "UInt16", "Int64", "boolean"]))
        values = [
            None if gap else number % 2 if dtype == "boolean" else number
            for gap, number in zip(gaps, small, strict=True)
        ]
        return pd.array(values, dtype=dtype)
    if draw(st.booleans()):
        return pd.Categorical(small, ordered=draw(st.booleans()))
    return pd.Categorical(texts, ordered=draw(st.booleans()))


NAMES = st.none() | TEXTS | INT64


@st.composite
def labels(draw: st.DrawFn, rows: int) -> Any:
    kind = draw(st.sampled_from(["range", "times", "timedeltas", "values"]))
    name = draw(NAMES)
    start = draw(st.integers(-5, 5))
    if kind == "range":
        step = draw(st.sampled_from([1, 2, -1]))
        return pd.RangeIndex(start, start + rows * step, step, name=name)
    if kind == "times":
        zone = draw(st.sampled_from([None, dt.UTC, BERLIN]))
        frequency = draw(st.sampled_from(["D", "h", "15min", "s", "7us"]))
        return pd.date_range("2024-03-30", periods=rows, freq=frequency, tz=zone, name=name)
    if kind == "timedeltas":
        return pd.timedelta_range("1h", periods=rows, freq="2h", name=name)
    return pd.Index(draw(columns(rows)), name=name)


@st.composite
def frames(draw: st.DrawFn) -> Any:
    rows, width = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    index = draw(labels(rows))
    if draw(st.integers(0, 3)) == 0:
        frame = pd.DataFrame(np.arange(rows * width).reshape(rows, width).astype(draw(st.sampled_from(NUMBERS))), index)
    else:
        made = {at: draw(columns(rows)) for at in range(width)}
        frame = (
            pd.concat([pd.Series(one).set_axis(index) for one in made.values()], axis=1)
            if made
            else pd.DataFrame(index=index)
        )
    frame.columns = draw(labels(width))
    return frame


@settings(deadline=None, max_examples=80)
@given(frames())
def test_frames_and_series_come_back_as_they_were_and_are_not_pickled(frame: Any) -> None:
    for value in (frame, *(frame.iloc[:, at] for at in range(frame.shape[1]))):
        payload = encode_value(value, "auto")
        back = decode_value(payload, "auto")
        check_same(back, value)
        has_label = isinstance(value, pd.Series) and type(value.name) not in {str, int, type(None)}  # a time, ...
        assert payload[:1] == (PICKLE if has_label else PANDAS)


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex((1 << 62) + 1, (1 << 62) + 3),
        pd.RangeIndex(-(1 << 63), 0, 1 << 62),
        pd.RangeIndex(9, 9, -(1 << 63)),
    ],
    ids=str,
)
def test_ranges_of_large_numbers_come_back(index: Any) -> None:
    series = pd.Series(1.5, index)
    payload = encode_value(series, "auto")
    assert payload[:1] == PANDAS
    check_same(decode_value(payload, "auto"), series)


def test_a_frame_is_writable_and_a_copy() -> None:
    for frame in (pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame({"a": [1.0], "b": ["x"], "c": [1]})):
        payload = encode_value(frame, "auto")
        back = decode_value(payload, "auto")
        back.iloc[0, 0] = 7.0
        back["new"] = 1
        back.to_numpy(copy=True)[0] = 3
        check_same(decode_value(payload, "auto"), frame)


def times(**options: Any) -> Any:
    return pd.date_range("2024-01-01", periods=3, **options)


class Own(pd.DataFrame):
    pass


def with_attrs() -> Any:
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["unit"] = "m"
    return frame


PICKLED = {
    "subclass": lambda: Own({"a": [1]}),
    "attrs": with_attrs,
    "flags": lambda: pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False),
    "multi_index": lambda: pd.DataFrame({"a": [1, 2], "b": [3, 4], "c": [5, 6]}).set_index(["a", "b"]),
    "multi_columns": lambda: pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
    "period": lambda: pd.Series(pd.period_range("2024-01", periods=2, freq="M")),
    "period_index": lambda: pd.Series([1, 2], pd.period_range("2024-01", periods=2, freq="M")),
    "interval": lambda: pd.Series(pd.interval_range(0, 2)),
    "intervals_as_categories": lambda: pd.cut(pd.Series([1, 2, 3]), 2),
    "sparse": lambda: pd.Series(pd.arrays.SparseArray([0, 0, 1])),
    "masked_float": lambda: pd.Series([1.5, None], dtype="Float64"),
    "lists": lambda: pd.Series([[1, 2], None]),
    "numpy_objects": lambda: pd.Series([np.float64(1), np.int64(2)], dtype=object),
    "missing_objects": lambda: pd.Series([pd.NaT, None, pd.NA], dtype=object),
    "large_int": lambda: pd.Series([1 << 70, 1]),
    "surrogate": lambda: pd.Series(["\ud800"], dtype=object),
    "name_tuple": lambda: pd.Series([1], name=("a", 1)),
    "name_numpy": lambda: pd.Series([1], name=np.int64(1)),
    "index_name": lambda: pd.Series([1], pd.Index([1], name=1.5)),
    "monthly": lambda: pd.Series(range(3), times(freq="MS")),
    "business_days": lambda: pd.Series(range(3), times(freq="B")),
    "offset_zone": lambda: pd.Series(range(3), times(tz=dt.timezone(dt.timedelta(hours=2)))),
    "index": lambda: pd.Index([1, 2]),
    "timestamp": lambda: pd.Timestamp("2024-01-01"),
    "categorical": lambda: pd.Categorical(["a"]),
}


@pytest.mark.parametrize("make", PICKLED.values(), ids=PICKLED)
def test_what_would_lose_something_is_pickled(make: Any) -> None:
    value = make()
    payload = encode_value(value, "auto")
    assert payload[:1] == PICKLE
    back = decode_value(payload, "auto")
    if isinstance(value, pd.DataFrame | pd.Series):
        check_same(back, value)
    else:
        assert type(back) is type(value)
        assert repr(back) == repr(value)


def test_a_wide_frame_of_unlike_columns_is_pickled_and_one_of_numbers_is_not() -> None:
    numbers = pd.DataFrame(np.zeros((1, 1001)))
    assert encode_value(numbers, "auto")[:1] == PANDAS
    check_same(decode_value(encode_value(numbers, "auto"), "auto"), numbers)
    unlike = pd.concat([numbers, pd.DataFrame({"a": ["x"]})], axis=1)
    assert encode_value(unlike, "auto")[:1] == PICKLE


def test_the_bytes_never_change() -> None:
    series = pd.Series([1], [b"k"], "<i2", "n")
    expected = (
        b"\x07\x94\xa6series\x92\x92\xa7objects\x91\xc4\x01k\xc0\xa1n\x93\xa7numbers\xc4\x12"
        b"\0\0\0\x07\x92\xa3<i2\x91\x01" + bytes(5) + b"\x01\0\xc0"
    )
    assert encode_value(series, "auto") == expected


def test_other_codecs_take_and_read_none() -> None:
    frame = pd.DataFrame({"a": [1]})
    for codec in ("msgpack", "raw"):
        with pytest.raises(InvalidOption, match=f"codec='{codec}'"):
            encode_value(frame, codec)
        with pytest.raises(CorruptData, match="cannot read"):
            decode_value(encode_value(frame, "auto"), codec)


# ---- damage ----


def stored(part: Any) -> bytes:
    return PANDAS + dataframes._encode(part)


def numbers(values: Any, dtype: str = "<i8") -> bytes:
    return dataframes._array(np.array(values, dtype))


F = dataframes
ONE = F._Index(F._Range(0, 1, 1), None)
DAMAGED = {
    "too_short": F._Series(F._Index(F._Range(0, 1 << 40, 1), None), None, F._Numbers(numbers([1]))),
    "too_long": F._Series(ONE, None, F._Numbers(numbers([1, 2]))),
    "no_step": F._Series(F._Index(F._Range(0, 1, 0), None), None, F._Numbers(numbers([1]))),
    "two_axes": F._Series(ONE, None, F._Numbers(numbers([[1]]))),
    "a_range": F._Series(ONE, None, F._Range(0, 1, 1)),
    "a_list": F._Series(ONE, None, F._Objects([[1]])),
    "no_array": F._Series(ONE, None, F._Numbers(b"")),
    "a_structure": F._Series(ONE, None, F._Numbers(F._array(np.zeros(1, [("a", "i4")])))),
    "no_zone": F._Series(ONE, None, F._Zoned(numbers([1], "<M8[s]"), "No/Such")),
    "a_path": F._Series(ONE, None, F._Zoned(numbers([1], "<M8[s]"), "../../etc/passwd")),
    "not_times": F._Series(ONE, None, F._Zoned(numbers([1]), "")),
    "no_storage": F._Series(ONE, None, F._Strings(["a"], "nowhere", missing_nan=True)),
    "no_mask": F._Series(ONE, None, F._Masked(numbers([1]), numbers([1]))),
    "mask_too_long": F._Series(ONE, None, F._Masked(numbers([1]), numbers([1, 0], "?"))),
    "no_category": F._Series(ONE, None, F._Categories(numbers([5]), F._Objects(["a"]), ordered=False)),
    "same_categories": F._Series(ONE, None, F._Categories(numbers([0]), F._Objects(["a", "a"]), ordered=False)),
    "rows": F._Block(ONE, ONE, numbers([[1], [2]])),
    "axes": F._Block(ONE, ONE, numbers([1])),
    "columns": F._Frame(ONE, ONE, []),
    "column": F._Frame(ONE, ONE, [F._Numbers(numbers([1, 2]))]),
    "frequency": F._Series(
        F._Index(F._Numbers(numbers([1, 5], "<M8[s]"), "D"), None), None, F._Numbers(numbers([1, 2]))
    ),
    "offset": F._Series(F._Index(F._Numbers(numbers([1], "<M8[s]"), "MS"), None), None, F._Numbers(numbers([1]))),
    "no_times": F._Series(F._Index(F._Numbers(numbers([1]), "D"), None), None, F._Numbers(numbers([1]))),
}


@pytest.mark.parametrize("part", DAMAGED.values(), ids=DAMAGED)
def test_parts_that_do_not_fit_are_corrupt(part: Any) -> None:
    with pytest.raises(CorruptData):
        decode_value(stored(part), "auto")


STORED = [
    encode_value(value, "auto")
    for value in (
        pd.DataFrame({"a": [1.5, 2]}, times(tz=BERLIN)[:2]),
        pd.DataFrame({"a": pd.Categorical(["x", "y"]), "b": pd.array([1, None], "Int8"), "c": ["x", None]}),
        pd.Series([None, "a", 1], name="n", dtype=object),
    )
]


@settings(deadline=None, max_examples=250)
@given(
    st.sampled_from(STORED),
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 255)), max_size=4),
    st.integers(0, 9),
)
def test_flipped_bytes_are_corrupt_or_another_value(payload: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    try:
        value = decode_value(damaged(payload, changes, cut), "auto")
    except CorruptData:
        return
    assert isinstance(value, pd.DataFrame | pd.Series)


def test_without_pandas_the_error_says_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "from raykv.client.codecs import decode_value\n"
        f"decode_value({encode_value(pd.Series([1]), 'auto')!r}, 'auto')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "CorruptData: the stored value is of pandas, which cannot be imported here" in run.stderr
