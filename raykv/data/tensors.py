"""Columns of numpy arrays, as Ray Data keeps tensors; every other column is ``raykv.portable.columns``'.

Arrays of one shape make a column of that shape, others one of variable shape; which, the schema says, that all blocks share.
A row of such a column has an array, always: a null takes no room in it, and Ray Data, which finds row i at i times the size,
would give the rows behind it arrays of others.
"""

from __future__ import annotations

from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from ray.data.extensions import ArrowTensorArray, ArrowVariableShapedTensorArray, get_arrow_extension_tensor_types

from raykv.config import shown
from raykv.errors import InvalidOption
from raykv.portable import columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.records.keys import Key

_MAX_NUMBER_BYTES = 8
_sort = attrgetter("shape", "dtype")
_UNITS = frozenset((unit, 1) for unit in ("s", "ms", "us", "ns"))


def is_tensor(kind: pa.DataType) -> bool:
    """Whether a column of this type holds tensors."""
    return isinstance(kind, get_arrow_extension_tensor_types())


def inferred(name: str, keys: Sequence[Key], values: Sequence[Any]) -> pa.DataType:
    """As ``columns.inferred``, for numpy arrays too."""
    if not any(isinstance(value, np.ndarray) for value in values):
        return columns.inferred(name, keys, values)
    sorts = _sorts(name, keys, values, "")
    for what, each in (
        ("types", [value.dtype for value in values]),
        ("numbers of dimensions", [value.ndim for value in values]),
    ):
        other = next((at for at, one in enumerate(each) if one != each[0]), None)
        if other is not None:
            raise InvalidOption(
                f"column {name!r} has arrays of several {what}: key {shown(keys[0])} of {each[0]}, key {shown(keys[other])} "
                f"of {each[other]}; read such records apart (prefix=), or leave the column out (columns=)",
                key=keys[other],
            )
    return _tensors(values[:1], fixed=len(sorts) == 1).type


def array_of(
    name: str, kind: pa.DataType, keys: Sequence[Key], values: Sequence[Any], *, learned: str = ""
) -> pa.Array:
    """As ``columns.array_of``, for numpy arrays too."""
    if not is_tensor(kind):
        return columns.array_of(name, kind, keys, values, learned=learned)
    if not values:
        return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))
    fixed = None not in kind.shape
    fits = cache(lambda shape, dtype: _fits(kind, np.empty(shape, dtype)))
    for shape, dtype in _sorts(name, keys, values, learned):
        if not fits(shape if fixed else (0,) * len(shape), dtype):
            key = next(key for key, value in zip(keys, values, strict=True) if _sort(value) == (shape, dtype))
            raise InvalidOption(
                f"column {name!r} is of type {kind}{learned}, and key {shown(key)} has an array of shape {shape} and type "
                f"{dtype}; give a schema= that fits all records, or leave the column out (columns=)",
                key=key,
            )
    return _tensors(values, fixed=fixed)


def _fits(kind: pa.DataType, value: Any) -> bool:
    fixed = None not in kind.shape
    its = _tensors([value], fixed=fixed).type
    return bool(its == kind and (fixed or its.ndim == kind.ndim))  # types of variable shape are equal without that


def _tensors(values: Sequence[Any], *, fixed: bool) -> pa.Array:
    if not all(value.dtype.isnative for value in values):
        values = [value.astype(value.dtype.newbyteorder("=")) for value in values]
    if fixed:
        return ArrowTensorArray.from_numpy(np.stack(values))
    return ArrowVariableShapedTensorArray.from_numpy([*values])


def _sorts(name: str, keys: Sequence[Key], values: Sequence[Any], learned: str) -> dict[Any, None]:
    """Return the shapes and types of arrays, in the order in which they come. Raises ``InvalidOption``, which names a key.

    They are few in most columns: what is checked of an array is checked of them.
    """
    if not {np.ndarray}.issuperset(
        map(type, values)
    ):  # a masked array is of a type of its own, and would lose its mask
        at = next(at for at, value in enumerate(values) if type(value) is not np.ndarray)
        raise InvalidOption(
            f"column {name!r} has numpy arrays{learned}, and key {shown(keys[at])} has {shown(values[at])} there; read such "
            "records apart (prefix=), or leave the column out (columns=)",
            key=keys[at],
        )
    sorts = dict.fromkeys(map(_sort, values))
    for shape, dtype in sorts:
        if not shape or not _is_held(dtype):
            key = next(key for key, value in zip(keys, values, strict=True) if _sort(value) == (shape, dtype))
            raise InvalidOption(
                f"column {name!r} is one of tensors{learned}, and key {shown(key)} has an array "
                f"{f'of type {dtype}' if shape else 'without dimensions'}, which Ray Data does not hold; store arrays of "
                "numbers, or leave the column out (columns=)",
                key=key,
            )
    return sorts


def _is_held(kind: np.dtype[Any]) -> bool:
    """Whether Ray Data gives arrays of this type back: numbers of up to 64 bits, and times in units that Arrow has."""
    if kind.kind in "mM":
        return np.datetime_data(kind) in _UNITS
    return kind.kind in "biuf" and kind.itemsize <= _MAX_NUMBER_BYTES
