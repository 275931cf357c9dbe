"""Columns of numpy arrays, as Ray Data keeps tensors; every other column is ``raykv.portable.columns``'.

Arrays of one shape make a column of that shape, others one of variable shape; which, the schema says, that all blocks share.
"""

from __future__ import annotations

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


def is_tensor(kind: pa.DataType) -> bool:
    """Whether a column of this type holds tensors."""
    return isinstance(kind, get_arrow_extension_tensor_types())


def inferred(name: str, keys: Sequence[Key], values: Sequence[Any]) -> pa.DataType:
    """As ``columns.inferred``, for numpy arrays too."""
    if not any(isinstance(value, np.ndarray) for value in values):
        return columns.inferred(name, keys, values)
    _check_arrays(name, keys, values, "")
    other = next((at for at, value in enumerate(values) if value.dtype != values[0].dtype), None)
    if other is not None:
        raise InvalidOption(
            f"column {name!r} has arrays of several types: key {shown(keys[0])} of {values[0].dtype}, key "
            f"{shown(keys[other])} of {values[other].dtype}; read such records apart (prefix=), or leave the column out "
            "(columns=)",
            key=keys[other],
        )
    return _tensors(values, fixed=len({value.shape for value in values}) == 1).type


def array_of(
    name: str, kind: pa.DataType, keys: Sequence[Key], values: Sequence[Any], *, learned: str = ""
) -> pa.Array:
    """As ``columns.array_of``, for numpy arrays too."""
    if not is_tensor(kind):
        return columns.array_of(name, kind, keys, values, learned=learned)
    if not values:
        return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))
    _check_arrays(name, keys, values, learned)
    fixed = None not in kind.shape
    made = _tensors(values, fixed=fixed and len({value.shape for value in values}) == 1)
    if made.type != kind or len({value.dtype for value in values}) > 1:  # which numpy would convert in silence
        key, value = next(
            (
                (key, value)
                for key, value in zip(keys, values, strict=True)
                if _tensors([value], fixed=fixed).type != kind
            ),
            (keys[0], values[0]),
        )
        raise InvalidOption(
            f"column {name!r} is of type {kind}{learned}, and key {shown(key)} has an array of shape {value.shape} and type "
            f"{value.dtype}; give a schema= that fits all records, or leave the column out (columns=)",
            key=key,
        )
    return made


def _tensors(values: Sequence[Any], *, fixed: bool) -> pa.Array:
    if fixed:
        return ArrowTensorArray.from_numpy(np.stack(values))
    return ArrowVariableShapedTensorArray.from_numpy([*values])


def _check_arrays(name: str, keys: Sequence[Key], values: Sequence[Any], learned: str) -> None:
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, np.ndarray):
            raise InvalidOption(
                f"column {name!r} has numpy arrays{learned}, and key {shown(key)} has {shown(value)} there; read such "
                "records apart (prefix=), or leave the column out (columns=)",
                key=key,
            )
