"""Columns of numpy arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raykv.data.tensors import array_of, inferred, is_tensor
from raykv.data.writing import column_values
from raykv.errors import InvalidOption

KEYS = ["a", "b"]
SAME = [np.arange(6.0).reshape(2, 3), np.ones((2, 3))]
RAGGED = [np.arange(3), np.arange(5)]


@pytest.mark.parametrize("values", [SAME, RAGGED, [np.float32([1.5])] * 2], ids=["one shape", "several", "float32"])
def test_arrays_come_back(values: list[np.ndarray]) -> None:
    kind = inferred("x", KEYS, values)
    assert is_tensor(kind)
    array = array_of("x", kind, KEYS, values)
    assert array.type == kind
    for one, other in zip(column_values(pa.table({"x": array}), "x"), values, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert len(array_of("x", kind, [], [])) == 0
    one = array_of("x", kind, KEYS[:1], values[:1])
    assert one.type == kind


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([SAME[0], SAME[1].astype(np.float32)], "key 'b' of float32"),
        ([SAME[0], None], "'b' has None"),
        ([SAME[0], [1.0]], r"'b' has \[1\.0\]"),
        ([1, SAME[0]], "'a' has 1"),
    ],
    ids=["another type", "none", "list", "number"],
)
def test_what_is_no_array_is_told(values: list[object], told: str) -> None:
    with pytest.raises(InvalidOption, match=told):
        inferred("x", KEYS, values)


def test_another_shape_is_told_with_its_key() -> None:
    kind = inferred("x", KEYS, SAME)
    for wrong in (np.ones((3, 2)), np.ones((2, 3), np.float32)):
        with pytest.raises(InvalidOption, match=r"key 'b' has an array of shape"):
            array_of("x", kind, KEYS, [SAME[0], wrong])


def test_other_columns_are_as_ever() -> None:
    assert inferred("x", KEYS, [1, None]) == pa.int64()
    assert array_of("x", pa.int64(), KEYS, [1, None]).to_pylist() == [1, None]
