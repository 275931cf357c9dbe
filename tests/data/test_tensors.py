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
        ([RAGGED[0], SAME[0].astype(int)], "several numbers of dimensions: key 'a' of 1, key 'b' of 2"),
        ([RAGGED[0], np.ma.array([1, 2, 3], mask=[0, 1, 0])], "'b' has masked_array"),
        ([RAGGED[0], np.array(5)], "'b' has an array without dimensions"),
    ],
    ids=["another type", "none", "list", "number", "another rank", "masked", "no rank"],
)
def test_what_is_no_array_is_told(values: list[object], told: str) -> None:
    with pytest.raises(InvalidOption, match=told) as caught:
        inferred("x", KEYS, values)
    assert caught.value.details["key"] in KEYS


@pytest.mark.parametrize(
    "dtype",
    ["S1", "U1", "O", "c16", "g", [("x", int), ("y", int)], "m8", "M8[D]", "m8[D]", "M8[h]", "M8[ps]", "M8[10s]"],
    ids=str,
)
def test_arrays_that_ray_data_does_not_hold_are_told_with_their_key(dtype: object) -> None:
    wrong = np.zeros(3, dtype)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match=r"column 'x' .*key 'a' has an array of type") as caught:
        inferred("x", KEYS, [wrong, wrong])
    assert caught.value.details["key"] == "a"
    for kind in (inferred("x", KEYS, SAME), inferred("x", KEYS, RAGGED)):
        with pytest.raises(InvalidOption, match="key 'b' has an array of type"):
            array_of("x", kind, KEYS, [SAME[0] if None not in kind.shape else RAGGED[0], wrong])


@pytest.mark.parametrize("lengths", [(2, 2), (1, 2)], ids=["one shape", "several"])
@pytest.mark.parametrize("dtype", ["M8[us]", "m8[s]", "M8[ns]", "f2", "u8", "?", ">i4"])
def test_numbers_and_times_come_back(lengths: tuple[int, int], dtype: str) -> None:
    values = [np.arange(length).astype(dtype) for length in lengths]
    array = array_of("x", inferred("x", KEYS, values), KEYS, values)
    for one, other in zip(column_values(pa.table({"x": array}), "x"), values, strict=True):
        assert one.dtype == other.dtype.newbyteorder("=")
        np.testing.assert_array_equal(one, other)


def test_another_shape_is_told_with_its_key() -> None:
    kind = inferred("x", KEYS, SAME)
    for wrong in (np.ones((3, 2)), np.ones((2, 3), np.float32), np.ones(6)):
        with pytest.raises(InvalidOption, match=r"key 'b' has an array of shape"):
            array_of("x", kind, KEYS, [SAME[0], wrong])
        with pytest.raises(InvalidOption, match=r"key 'a' has an array of shape"):
            array_of("x", kind, KEYS, [wrong, SAME[0]])
    ragged = inferred("x", KEYS, RAGGED)
    for wrong in (np.ones((3, 2), int), np.ones(3)):
        with pytest.raises(InvalidOption, match=r"key 'b' has an array of shape"):
            array_of("x", ragged, KEYS, [RAGGED[0], wrong])


def test_other_columns_are_as_ever() -> None:
    assert inferred("x", KEYS, [1, None]) == pa.int64()
    assert array_of("x", pa.int64(), KEYS, [1, None]).to_pylist() == [1, None]
