"""Which of Python's values an Arrow type holds as they are: what it would convert or cut in silence, it does not hold.

Arrow makes a date of a datetime and 1970 of an int, leaves out the fields of a dict that a struct has not, and takes a set
for a list. ``holds`` is asked first: it looks at whole columns, since a hundred thousand values are mostly of one type, and
at their items and fields in the same way. A column is held if each of its values is.

What counts as held though it is written otherwise: an int among floats that a float holds exactly, a float rounded to the
column's own precision, a tuple as a list, a dict as a map or as a struct with more fields, a numpy array as a list of its
items, an aware datetime as its instant. Whether a number has room, Arrow says itself.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import itertools
import uuid
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

_NONE = type(None)
_KINDS = (bool, int, float, str, bytes, dt.datetime, dt.date, dt.time, dt.timedelta, decimal.Decimal, dict)
"""A subclass stands before its base: a bool is an int, a datetime is a date."""
_PYTHONS_TIMES = frozenset((dt.datetime, dt.date, dt.time, dt.timedelta))
_EXACT_TO = {"halffloat": 2**11, "float": 2**24, "double": 2**53}
"""Up to which number a float of that type holds each int."""
_MICROSECONDS = {"s": 1_000_000, "ms": 1000}
"""How many are the step of a time in that unit, for the units that would cut some off."""


def _number_kinds() -> dict[str, tuple[type, ...]]:
    """Return which kinds a column of that Arrow type takes, for numbers and texts."""
    ints = {f"{sign}int{bits}": (int,) for sign in ("", "u") for bits in (8, 16, 32, 64)}
    floats = dict.fromkeys(_EXACT_TO, (float, int))
    texts = dict.fromkeys(("string", "large_string"), (str,)) | dict.fromkeys(("binary", "large_binary"), (bytes,))
    return {"bool": (bool,), **ints, **floats, **texts}


NUMBERS_AND_TEXTS = _number_kinds()
_OTHERS: dict[str, tuple[type, ...]] = {
    "null": (),
    "string_view": (str,),
    "binary_view": (bytes,),
    "date32[day]": (dt.date,),
    "date64[ms]": (dt.date,),
    "extension<arrow.uuid>": (uuid.UUID,),
}


def kind_of(given: type) -> type:
    """Return the kind of values of this type, by which a column is of one kind; for types of its own, the type."""
    for kind in _KINDS:
        if issubclass(given, kind):
            return kind
    if issubclass(given, list | tuple):
        return list
    if given.__module__ == "numpy" and (base := _numpy_kind(given)) is not None:
        return base
    return given


def _numpy_kind(given: type) -> type | None:
    import numpy as np  # there is a value of its types

    bases: tuple[tuple[type, type], ...] = (
        (np.bool_, bool), (np.timedelta64, dt.timedelta), (np.integer, int), (np.floating, float),
        (np.datetime64, dt.datetime),
    )  # fmt: skip
    return next((kind for base, kind in bases if issubclass(given, base)), None)


def kinds_of(values: Sequence[Any]) -> dict[type, type]:
    """Return the types of the values that are not None, each with its kind."""
    return {given: kind_of(given) for given in dict.fromkeys(map(type, values)) if given is not _NONE}


def holds(kind: pa.DataType, values: Sequence[Any]) -> bool:
    """Whether a column of this type has all these values as they are; None it has always.

    What has no room in it is held here, and an error of Arrow's: an int of 70 bits, a text that UTF-8 cannot say.
    """
    import pyarrow as pa

    there = dict.fromkeys(map(type, values))
    if _NONE in there:
        del there[_NONE]
        values = [value for value in values if value is not None]
    if not there:
        return True
    kinds = {given: kind_of(given) for given in there}
    types = pa.types
    if types.is_struct(kind):
        return {dict}.issuperset(kinds.values()) and _struct_holds(kind, values)
    if types.is_map(kind):
        return {dict, list}.issuperset(kinds.values()) and _map_holds(kind, values)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or _is_list_view(kind):
        return _list_holds(kind, kinds, values)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return holds(kind.value_type, values)
    taken = _taken(kind)
    if taken is None:
        return _come_back(kind, values)
    if not {*taken}.issuperset(kinds.values()):
        return False
    if taken[:1] == (float,):
        return int not in kinds.values() or _floats_hold(kind, values)
    return _times_are_held(kind, kinds, values) if types.is_temporal(kind) else True


def first_unheld(kind: pa.DataType, values: Sequence[Any]) -> int | None:
    """Return the place of the first value that a column of this type does not have as it is; None: none by itself."""
    if holds(kind, values):
        return None
    return next((at for at, value in enumerate(values) if not holds(kind, [value])), None)


def _taken(kind: pa.DataType) -> tuple[type, ...] | None:
    """Return the kinds of values that a type without items or fields takes; None: it is not known."""
    import pyarrow as pa

    types = pa.types
    if types.is_timestamp(kind):
        return (dt.datetime,)
    if types.is_time(kind):
        return (dt.time,)
    if types.is_duration(kind):
        return (dt.timedelta,)
    if types.is_decimal(kind):
        return (decimal.Decimal,)
    if types.is_fixed_size_binary(kind):
        return (bytes,)
    name = str(kind)
    return NUMBERS_AND_TEXTS.get(name, _OTHERS.get(name))


def _is_list_view(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _struct_holds(kind: pa.DataType, dicts: Sequence[Any]) -> bool:
    fields = {field.name: field.type for field in kind}
    if set().union(*dicts) - fields.keys():
        return False
    return all(holds(its, [value.get(name) for value in dicts]) for name, its in fields.items())


def _map_holds(kind: pa.DataType, values: Sequence[Any]) -> bool:
    """Whether dicts, or lists of pairs as Arrow gives maps back, have keys and items that are held."""
    pairs: list[Any] = []
    for value in values:
        pairs += value.items() if isinstance(value, dict) else value
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        return False
    return holds(kind.key_type, [key for key, _ in pairs]) and holds(kind.item_type, [item for _, item in pairs])


def _list_holds(kind: pa.DataType, kinds: dict[type, type], values: Sequence[Any]) -> bool:
    arrays = [given for given, its in kinds.items() if its is not list]
    if not arrays:
        return holds(kind.value_type, [*itertools.chain.from_iterable(values)])
    import numpy as np

    if arrays != [np.ndarray]:  # a masked array is one of another type: Arrow would drop its mask
        return False
    others = [value for value in values if type(value) is not np.ndarray]
    return holds(kind, others) and all(
        _array_is_held(kind.value_type, value) for value in values if type(value) is np.ndarray
    )


def _array_is_held(item: pa.DataType, array: Any) -> bool:
    import pyarrow as pa

    if array.ndim != 1:  # which Arrow does not take
        return False
    try:
        if array.dtype.kind in "biuf" and pa.from_numpy_dtype(array.dtype) == item:
            return True
    except pa.ArrowException:
        return False
    return holds(item, [*array])


def _floats_hold(kind: pa.DataType, values: Sequence[Any]) -> bool:
    exact_to = _EXACT_TO[str(kind)]
    return all(abs(int(value)) <= exact_to for value in values if kind_of(type(value)) is int)


def _times_are_held(kind: pa.DataType, kinds: dict[type, type], values: Sequence[Any]) -> bool:
    """Whether times have the zone that the column has, or like it none, and no more digits than it."""
    import pyarrow as pa

    if not _PYTHONS_TIMES.issuperset(kinds):  # pandas' and numpy's have nanoseconds
        return _come_back(kind, values)
    if pa.types.is_date(kind):
        return True
    if not pa.types.is_duration(kind):
        zones = {*map(type, map(attrgetter("tzinfo"), values))}
        if _NONE in zones if pa.types.is_timestamp(kind) and kind.tz is not None else zones != {_NONE}:
            return False
    step = _MICROSECONDS.get(kind.unit)
    digits = attrgetter("microseconds" if pa.types.is_duration(kind) else "microsecond")
    return step is None or not any(digits(value) % step for value in values)


def _come_back(kind: pa.DataType, values: Sequence[Any]) -> bool:
    """Whether Arrow gives back the same, for types that are rare or not known here. What it refuses is not held."""
    import pyarrow as pa

    with contextlib.suppress(pa.ArrowException, OverflowError, ValueError, TypeError):
        back = pa.array(values, kind).to_pylist()
        types = dict.fromkeys(zip(map(type, back), map(type, values), strict=True))
        if back == [*values] and all(kind_of(one) is kind_of(other) for one, other in types):
            return True
    return len(values) > 1 and all(_come_back(kind, [value]) for value in values)
