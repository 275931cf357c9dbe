"""Pandas data frames and series as bytes and back, column by column and without pickle.

The form is msgpack: labels, index and columns, each a *vector* of one of the kinds below. Numbers and times are the bytes
of ``raykv.client.arrays``; objects and strings are lists of plain values, which msgpack returns unchanged. Nothing of it is
Arrow's: by pandas' way to Arrow and back a frame of 1,000 rows takes several times as long as by pickle, and a column of
objects may come back as one of strings.

A frame comes back with its dtypes, row and column labels and their names, time zones, frequencies and categories. Columns of
one numeric dtype come back as one block, all others as a block each. It is writable.

Left to pickle, which preserves them: subclasses, ``attrs`` and flags, a ``MultiIndex``, periods, intervals, sparse and
Arrow-backed columns, floats with a mask, and objects that are not plain.

This module imports numpy and pandas; ``codecs`` imports it when it meets the first such value.
"""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np
import pandas as pd
from msgspec import Meta

from raykv.client import arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_COLUMNS = 1000
"""Of unlike columns; a wider frame is pickled, block by block, in less time."""
_Name: TypeAlias = str | int | None
_Word: TypeAlias = Annotated[str, Meta(max_length=64)]
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_TEXTS: Final = frozenset({type(None), str})
_FREQUENCY = re.compile(r"[0-9]{0,12}(?:D|h|min|s|ms|us|ns)\Z")


class Damaged(ValueError):
    """The bytes are no frame's."""


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A part of a frame or series."""


class _Range(_Part, frozen=True, tag="range"):
    start: int
    stop: int
    step: int


class _Numbers(_Part, frozen=True, tag="numbers"):
    """An array's bytes; with ``frequency`` those of a regular index of times."""

    array: bytes
    frequency: _Word | None = None


class _Objects(_Part, frozen=True, tag="objects"):
    """Each None, a bool, int, float, str or bytes."""

    values: list[Any]


class _Strings(_Part, frozen=True, tag="strings"):
    """``missing_nan``: what stands for a missing one is NaN, else ``pd.NA``."""

    values: list[str | None]
    storage: _Word
    missing_nan: bool


class _Zoned(_Part, frozen=True, tag="zoned"):
    """Times in UTC. ``zone``: the key of a ``zoneinfo.ZoneInfo``, or "" for UTC itself."""

    array: bytes
    zone: _Word
    frequency: _Word | None = None


class _Masked(_Part, frozen=True, tag="masked"):
    """Integers or booleans, and which of them are missing."""

    array: bytes
    missing: bytes


class _Categories(_Part, frozen=True, tag="categories"):
    codes: bytes
    categories: _Range | _Numbers | _Objects | _Strings | _Zoned
    ordered: bool


_Vector: TypeAlias = _Range | _Numbers | _Objects | _Strings | _Zoned | _Masked | _Categories


class _Index(_Part, frozen=True):
    values: _Vector
    name: _Name


class _Block(_Part, frozen=True, tag="block"):
    """A frame whose columns have one numeric dtype: an array of two axes."""

    index: _Index
    columns: _Index
    array: bytes


class _Frame(_Part, frozen=True, tag="frame"):
    index: _Index
    columns: _Index
    vectors: Annotated[list[_Vector], Meta(max_length=_MAX_COLUMNS)]


class _Series(_Part, frozen=True, tag="series"):
    index: _Index
    name: _Name
    values: _Vector


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Block | _Frame | _Series).decode


class _NotExact(Exception):
    """Something of the value has no form here: it is pickled."""


def packed(value: Any, kind: type, before: bytes) -> bytes | None:
    """Return a frame's or series' bytes behind ``before``, the tag; None for what is left to pickle."""
    if kind is not pd.DataFrame and kind is not pd.Series:
        return None
    if value.attrs or not value.flags.allows_duplicate_labels:
        return None
    try:
        part = _series(value) if kind is pd.Series else _frame(value)
        return before + _encode(part)
    except (_NotExact, UnicodeEncodeError, OverflowError):
        return None


def _series(series: Any) -> _Series:
    return _Series(_index(series.index), _name(series.name), _vector(series))


def _frame(frame: Any) -> _Block | _Frame:
    index, columns = _index(frame.index), _index(frame.columns)
    kinds = frame.dtypes.array
    if (
        len(kinds)
        and isinstance(kinds[0], np.dtype)
        and kinds[0].kind in "biufc"
        and all(one == kinds[0] for one in kinds)
    ):
        return _Block(index, columns, _array(frame.to_numpy()))
    if len(kinds) > _MAX_COLUMNS:
        raise _NotExact
    return _Frame(index, columns, [_vector(column) for _, column in frame.items()])


def _index(index: Any) -> _Index:
    name = _name(index.name)
    kind = type(index)
    if kind is pd.RangeIndex:
        return _Index(_Range(index.start, index.stop, index.step), name)
    if kind is pd.DatetimeIndex or kind is pd.TimedeltaIndex:
        return _Index(_vector(index, _frequency(index.freq)), name)
    if kind is pd.Index or kind is pd.CategoricalIndex:
        return _Index(_vector(index), name)
    raise _NotExact


def _name(name: Any) -> _Name:
    if name is None or type(name) is str or (type(name) is int and -(1 << 63) <= name < 1 << 63):
        return name
    raise _NotExact


def _frequency(frequency: Any) -> str | None:
    if frequency is None:
        return None
    text = frequency.freqstr
    if len(text) > 20 or not _FREQUENCY.match(text) or pd.tseries.frequencies.to_offset(text) != frequency:
        raise _NotExact
    return str(text)


def _array(array: Any) -> bytes:
    """Return an array's bytes. It comes back writable: pandas shows its own arrays as read-only."""
    payload = arrays.packed(array, type(array), b"\0")
    if payload is None:
        raise _NotExact
    return bytes((0, payload[1] & ~arrays.READ_ONLY)) + payload[2:]


def _vector(of: Any, frequency: str | None = None) -> Any:
    """Return the vector of a series or an index."""
    dtype = of.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind == "O":
            return _Objects(_plain(of.to_numpy(), _SCALARS))
        if dtype.kind not in "biufcmM":
            raise _NotExact
        return _Numbers(_array(of.to_numpy()), frequency)
    kind = type(dtype)
    vector = of.array
    if kind is pd.StringDtype:
        missing_nan = dtype.na_value is not pd.NA
        if _string_dtype(dtype.storage, missing_nan) != dtype:
            raise _NotExact
        texts = vector.to_numpy(object, na_value=None)
        return _Strings(_plain(texts, _TEXTS), dtype.storage, missing_nan)
    if kind is pd.DatetimeTZDtype:
        return _Zoned(_array(vector.tz_convert(None).to_numpy()), _zone(dtype.tz), frequency)
    if kind is pd.CategoricalDtype:
        categories = _index(dtype.categories)
        if categories.name is not None or isinstance(categories.values, _Masked | _Categories):
            raise _NotExact
        return _Categories(_array(vector.codes), categories.values, bool(dtype.ordered))
    if kind in _MASKED:
        missing = vector.isna()
        return _Masked(_array(vector.to_numpy(dtype.numpy_dtype, na_value=0)), _array(missing))
    raise _NotExact


_MASKED: Final = frozenset(
    {
        pd.BooleanDtype, pd.Int8Dtype, pd.Int16Dtype, pd.Int32Dtype, pd.Int64Dtype, pd.UInt8Dtype, pd.UInt16Dtype,
        pd.UInt32Dtype, pd.UInt64Dtype,
    }
)  # fmt: skip


def _plain(objects: Any, kinds: frozenset[Any]) -> list[Any]:
    values: list[Any] = objects.tolist()
    if not kinds.issuperset(map(type, values)):
        raise _NotExact
    return values


def _zone(zone: Any) -> str:
    if zone is dt.UTC:
        return ""
    if type(zone) is zoneinfo.ZoneInfo and zone.key and zoneinfo.ZoneInfo(zone.key) is zone:
        return str(zone.key)
    raise _NotExact


def unpacked(payload: bytes, start: int) -> Any:
    """Return the frame or series whose bytes begin at ``start``. Raises ``ValueError``, ``TypeError`` or msgspec's error."""
    part = _decode(memoryview(payload)[start:])
    index = _index_of(part.index)
    if isinstance(part, _Series):
        vector = _checked(_vector_of(part.values), index)
        return pd.Series(vector, index, vector.dtype, part.name, copy=False)
    columns = _index_of(part.columns)
    if isinstance(part, _Block):
        array = _array_of(part.array)
        if array.shape != (len(index), len(columns)):
            raise Damaged(f"a frame of {len(index)} rows and {len(columns)} columns has values of shape {array.shape}")
        return pd.DataFrame(array, index, columns, copy=False)
    if len(part.vectors) != len(columns):
        raise Damaged(f"a frame of {len(columns)} columns has values of {len(part.vectors)}")
    vectors = [_checked(_vector_of(vector), index) for vector in part.vectors]
    told = [
        pd.Series(one, index, object, copy=False) if one.dtype == object else one for one in vectors
    ]  # not to be guessed
    frame = pd.DataFrame(dict(enumerate(told)), index, copy=False)
    frame.columns = columns
    return frame


def _checked(vector: Any, index: Any) -> Any:
    if len(vector) != len(index):
        raise Damaged(f"a column has {len(vector)} values and the index {len(index)}")
    return vector


def _index_of(part: _Index) -> Any:
    values = part.values
    if isinstance(values, _Range):
        return pd.RangeIndex(values.start, values.stop, values.step, name=part.name)
    vector = _vector_of(values)
    index = pd.Index(vector, dtype=vector.dtype, name=part.name, copy=False)
    frequency = getattr(values, "frequency", None)
    if frequency is not None:
        if not isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex) or not _FREQUENCY.match(frequency):
            raise Damaged("the index has a frequency that is never stored like this")
        index.freq = frequency  # checked against the times
    return index


def _array_of(payload: bytes, kinds: str = "biufcmM") -> Any:
    array = arrays.unpacked(payload, 1)
    if type(array) is not np.ndarray or array.dtype.kind not in kinds:
        raise Damaged("an array of the frame has a type that is never stored like this")
    return array


def _vector_of(part: _Vector) -> Any:
    match part:
        case _Numbers(array):
            return _flat(_array_of(array))
        case _Objects(values):
            if not _SCALARS.issuperset(map(type, values)):
                raise Damaged("an object of the frame has a type that is never stored like this")
            return _objects(values)
        case _Strings(values, storage, missing_nan):
            return _strings(values, _string_dtype(storage, missing_nan))
        case _Zoned(array, zone):
            times = pd.DatetimeIndex(_flat(_array_of(array, "M")))
            return times.tz_localize(dt.UTC).tz_convert(zoneinfo.ZoneInfo(zone) if zone else dt.UTC).array
        case _Masked(array, missing):
            values, mask = _flat(_array_of(array, "biu")), _flat(_array_of(missing, "b"))
            kind = pd.arrays.BooleanArray if values.dtype.kind == "b" else pd.arrays.IntegerArray
            return kind(values, mask)
        case _Categories(codes, categories, ordered):
            index = _index_of(_Index(categories, None))
            return pd.Categorical.from_codes(_flat(_array_of(codes, "i")), index, ordered=ordered)
    raise Damaged("a column is a range")


def _strings(values: list[str | None], dtype: Any) -> Any:
    if dtype.storage != "pyarrow":
        return pd.array(_objects(values), dtype=dtype)
    import pyarrow as pa  # as the dtype itself does

    return dtype.__from_arrow__(pa.array(values, pa.large_string()))  # half of the time that objects take


def _string_dtype(storage: str, missing_nan: bool) -> Any:
    return pd.StringDtype(storage, np.nan) if missing_nan else pd.StringDtype(storage)


def _flat(array: Any) -> Any:
    if array.ndim != 1:
        raise Damaged(f"a column has {array.ndim} axes")
    return array


def _objects(values: Sequence[Any]) -> Any:
    return np.fromiter(values, object, len(values))
