"""Numpy values without pickle: exact, as writable as they were, and never believed when damaged."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import cloudpickle
import numpy as np
import pytest
from client_values import damaged
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import raykv
import raykv.sim
from raykv.client import arrays
from raykv.client.codecs import decode_plain, decode_value, encode_in_cells, encode_value
from raykv.errors import CorruptData, InvalidOption

PICKLE, ARRAY = b"\x03", b"\x05"


def there_and_back(value: Any) -> Any:
    return decode_value(encode_value(value, "auto"), "auto")


def check_same(back: Any, value: Any) -> None:
    assert type(back) is type(value)
    assert back.dtype == value.dtype
    assert repr(back.dtype) == repr(value.dtype)
    assert back.shape == value.shape
    assert back.tobytes() == value.tobytes()


def has_titles(dtype: Any) -> bool:
    if dtype.subdtype:
        return has_titles(dtype.base)
    return any(len(field) == 3 or has_titles(field[0]) for field in (dtype.fields or {}).values())


LEAVES = st.one_of(
    nps.boolean_dtypes(), nps.integer_dtypes(endianness="?"), nps.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    nps.complex_number_dtypes(sizes=(64, 128), endianness="?"), nps.datetime64_dtypes(endianness="?"),
    nps.timedelta64_dtypes(endianness="?"), nps.byte_string_dtypes(min_len=1), nps.unicode_string_dtypes(min_len=1),
)  # fmt: skip
DTYPES = LEAVES | nps.nested_dtypes(LEAVES, max_leaves=5, max_itemsize=200)
SHAPES = nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays_of_all_kinds(draw: st.DrawFn) -> Any:
    array = draw(nps.arrays(draw(DTYPES), draw(SHAPES)))
    array = np.require(array, requirements=draw(st.sampled_from(["C", "F"])))
    if array.ndim and draw(st.booleans()):
        array = array[:: draw(st.sampled_from([1, 2, -1]))]
    if draw(st.booleans()):
        array = array.transpose(draw(st.permutations(range(array.ndim))))
    array.flags.writeable = array.flags.writeable and draw(st.booleans())
    return array


@settings(deadline=None, max_examples=150)
@given(arrays_of_all_kinds())
@example(np.array(5))
@example(np.array("NaT", "M8[ns]"))
@example(np.zeros((0, 3), ">f4"))
@example(np.array([np.nan, -0.0, np.inf]))
@example(np.array([1], np.longlong))
@example(np.array([1], "M8[2147483647s]"))
@example(np.zeros(0, "S2147483647"))
def test_an_array_comes_back_as_it_was_and_is_not_pickled(array: Any) -> None:
    payload = encode_value(array, "auto")
    assert payload[:1] == (PICKLE if has_titles(array.dtype) or not array.dtype.itemsize else ARRAY)
    back = decode_value(payload, "auto")
    check_same(back, array)
    assert back.flags.writeable == array.flags.writeable or payload[:1] == PICKLE
    assert back.flags.aligned or payload[:1] == PICKLE
    assert back.flags.c_contiguous or not array.flags.c_contiguous
    assert back.flags.f_contiguous or not array.flags.f_contiguous


@settings(deadline=None)
@given(nps.arrays(LEAVES, ()).map(lambda array: array[()]))
@example(np.bool_(1))
@example(np.float64("nan"))
@example(np.datetime64("2024-01-01T00:00:00", "s"))
def test_a_scalar_comes_back_as_it_was(scalar: Any) -> None:
    payload = encode_value(scalar, "auto")
    assert payload[:1] == (PICKLE if isinstance(scalar, np.str_ | np.bytes_) else ARRAY)
    check_same(decode_value(payload, "auto"), scalar)


def test_the_bytes_never_change() -> None:
    array = np.array([[1.0, 2.0]])
    payload = encode_value(array, "auto")
    assert payload.hex() == "0500000892a33c6638920102" + "00" * 4 + array.tobytes().hex()
    assert encode_value(np.int16(-2), "auto").hex() == "0504000692a33c693290" + "00" * 6 + "feff"
    frozen = np.asfortranarray([[1, 2], [3, 4]], ">u2")
    frozen.flags.writeable = False
    assert encode_value(frozen, "auto").hex() == "0503000892a33e7532920202" + "00" * 4 + "0001000300020004"
    structured = np.array([(1, 2)], [("a", "i1"), ("b", "<u2")])
    head = "05000017929592a161a16292a37c6931a33c753292000103c29101"
    assert encode_value(structured, "auto").hex() == head + "00" * 5 + "010200"


def test_an_array_that_was_writable_is_a_copy_and_one_that_was_not_is_a_view() -> None:
    array = np.arange(10.0)
    payload = encode_value(array, "auto")
    back = decode_value(payload, "auto")
    back += 1
    assert (decode_value(payload, "auto") == array).all()
    array.flags.writeable = False
    payload = encode_value(array, "auto")
    back = decode_value(payload, "auto")
    bytes_read = np.frombuffer(payload, np.uint8)
    assert np.shares_memory(back, bytes_read)
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1
    del payload, bytes_read
    gc.collect()
    assert (back == array).all()


class Own(np.ndarray):
    pass


WITH_METADATA = np.dtype("i4", metadata={"unit": "m"})


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3).view(Own), np.ma.masked_array([1, 2], [True, False]),
        np.rec.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]), np.array([1, "a", None, (2,)], object),
        np.zeros(2, [("a", "O"), ("b", "i4")]), np.zeros(2, [(("title", "a"), "i4")]), np.zeros(3, WITH_METADATA),
        np.zeros(3, [("a", WITH_METADATA)]),
        np.zeros(2, np.longdouble), np.longdouble(1), np.zeros(2, "V0"), np.zeros(2, []),
        np.array([(1, 2)], [("a", "i4"), ("b", "i4")])[0], np.str_("a\0"), np.bytes_(b"a\0"), np.dtype("i4"), np.float64,
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)  # fmt: skip
def test_what_would_lose_something_is_pickled(value: Any) -> None:
    payload = encode_value(value, "auto")
    assert payload[:1] == PICKLE
    back = decode_value(payload, "auto")
    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="this numpy has no strings of variable width")
def test_strings_of_variable_width_are_pickled() -> None:
    strings = np.array(["a", "bcd"], np.dtypes.StringDType())
    assert encode_value(strings, "auto")[:1] == PICKLE
    assert there_and_back(strings).tolist() == ["a", "bcd"]


def test_aligned_structures_and_fields_that_are_arrays_come_back() -> None:
    for dtype in (
        np.dtype([("a", "i1"), ("b", "f8")], align=True),
        np.dtype([("a", ">i2", (2, 3)), ("b", [("c", "S4"), ("d", "M8[D]")])]),
        np.dtype({"names": ["x", "y"], "formats": ["u1", "u1"], "offsets": [4, 2], "itemsize": 16}),
        np.dtype("V7"),
    ):
        array = np.zeros(3, dtype)
        assert encode_value(array, "auto")[:1] == ARRAY
        back = there_and_back(array)
        check_same(back, array)
        assert back.dtype.isalignedstruct == dtype.isalignedstruct


def test_a_structure_of_too_many_fields_is_pickled() -> None:
    wide = np.zeros(1, [(f"a_name_that_is_rather_long_{at}" * 3, "i1") for at in range(900)])
    wider = np.zeros(1, [(f"f{at}", "i1") for at in range(1001)])
    for array in (wide, wider):
        assert encode_value(array, "auto")[:1] == PICKLE
        check_same(there_and_back(array), array)


def test_arrays_that_were_pickled_by_an_earlier_version_are_read() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    for value in (array, np.float64(1.5), [array]):
        back = decode_value(PICKLE + cloudpickle.dumps(value), "auto")
        assert type(back) is type(value)
        check_same(np.asarray(back), np.asarray(value))


def test_other_codecs_take_and_read_no_arrays() -> None:
    array = np.arange(3)
    for codec in ("msgpack", "raw"):
        with pytest.raises(InvalidOption, match=f"codec='{codec}'"):
            encode_value(array, codec)
        with pytest.raises(CorruptData, match="cannot read"):
            decode_value(encode_value(array, "auto"), codec)
    assert encode_in_cells(np.int64(3), "auto")[:1] == ARRAY


def test_arrays_are_decoded_with_plain_values() -> None:
    payloads = [encode_value(value, "auto") for value in (1, np.arange(3), "x")]
    one, array, text = decode_plain(payloads, "auto") or ()
    assert (one, array.tolist(), text) == (1, [0, 1, 2], "x")
    with pytest.raises(CorruptData):
        decode_plain([payloads[1][:-1]], "auto")


# ---- damage ----


def header(spec: Any, shape: Any, data: bytes = b"", flags: int = 0) -> bytes:
    return arrays._framed(ARRAY, flags, spec, shape) + data


@pytest.mark.parametrize(
    "payload",
    [
        ARRAY, ARRAY + b"\0", ARRAY + b"\0\xff\xff", header("<f8", (1,), b"\0" * 7), header("<f8", (1,), b"\0" * 9),
        header("<f8", (1 << 62, 1 << 62)), header("<f8", (1 << 62,)), header("<f8", (-1,), b"\0" * 8),
        header("<f8", (0, 1 << 63)), header("<f8", (1,) * 65, b"\0" * 8), header("|O", (1,), b"\0" * 8),
        header("O", (1,), b"\0" * 8), header("f8,f8", (1,), b"\0" * 16), header("<f8", (1,), b"\0" * 8, flags=8),
        header("<f8", (1,), b"\0" * 8, flags=arrays.SCALAR), header("|S0", (1 << 60,)), header("|V0", (1 << 60,)),
        header("|S999999999", (2,)), header(["<f8", [1 << 40, 1 << 40]], (1,)), header(["|O", [1]], (1,), b"\0" * 8),
        header([["a"], ["|O"], [0], 8, False], (1,), b"\0" * 8),
        header([["a"], ["<f8"], [100], 8, False], (1,), b"\0" * 8),
        header([["a", "a"], ["|i1", "|i1"], [0, 1], 2, False], (1,), b"\0" * 2),
        header([["a"], ["<f8", "<f8"], [0], 8, False], (1,), b"\0" * 8),
        header([["a"], ["<f8"], [-8], 8, False], (1,), b"\0" * 8),
        header([["a"], ["<f8"], [0], 1 << 40, False], (1,), b"\0" * 8), header([], (1,)), header([1, 2, 3], (1,)),
        header("<M8[ns]extra", (1,), b"\0" * 8), header("__import__('os')", (1,), b"\0" * 8),
        header("<f8\n", (1,), b"\0" * 8),
        header("|U1", (1,), b"\0" * 4)[:-4] + b"\1\0\0\0\0",
    ],
    ids=range(32),
)  # fmt: skip
def test_a_damaged_header_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptData):
        decode_value(payload, "auto")


def test_a_deep_dtype_is_corrupt_and_not_a_crash() -> None:
    spec: Any = "<f8"
    for _ in range(400):
        spec = [spec, [1]]
    with pytest.raises(CorruptData):
        decode_value(header(spec, (1,), b"\0" * 8), "auto")


STORED = [
    encode_value(value, "auto")
    for value in (np.arange(4.0), np.array(["ab", "c"]), np.zeros((2, 2), [("a", "i2"), ("b", "M8[s]")]), np.float32(1))
]


@settings(deadline=None, max_examples=250)
@given(
    st.sampled_from(STORED), st.lists(st.tuples(st.integers(1, 80), st.integers(0, 255)), max_size=4), st.integers(0, 9)
)
def test_flipped_bytes_are_corrupt_or_another_array(payload: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    try:
        value = decode_value(damaged(payload, changes, cut), "auto")
    except CorruptData:
        return
    assert isinstance(value, np.ndarray | np.generic)
    assert value.nbytes <= len(payload)


def test_without_numpy_the_error_says_what_is_missing() -> None:
    payload = encode_value(np.arange(3), "auto")
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from raykv.client.codecs import decode_value, encode_value\n"
        "assert decode_value(encode_value((1, 2), 'auto'), 'auto') == (1, 2)\n"
        f"decode_value({payload!r}, 'auto')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "CorruptData: the stored value is of numpy, which cannot be imported here" in run.stderr
    assert "install it" in run.stderr


def test_a_tag_of_a_later_version_says_so() -> None:
    with pytest.raises(CorruptData, match="a newer raykv"):
        decode_value(b"\x7fdata", "auto")


def test_arrays_go_through_a_store_by_every_way() -> None:
    array = np.arange(12, dtype=">i2").reshape(3, 4)
    with raykv.sim.start(seed=1) as world:
        store = world.store
        store.put("a", array)
        store.put_many({"b": np.float32(2), "c": [array]})
        check_same(store.get("a"), array)
        many = store.get_many(["a", "b", "c", "none"])
        check_same(many["a"], array)
        assert (type(many["b"]), many["none"]) == (np.float32, None)
        check_same(many["c"][0], array)
        for key, value in store.scan():
            check_same(value[0] if key == "c" else value, many[key][0] if key == "c" else many[key])
        assert "&lt;numpy, " in store.bucket("default")._repr_html_()
        store.modify("a", lambda standing: np.add(standing, 1, out=standing))  # it is writable
        check_same(store.get("a"), (array + 1).astype(">i2"))
        jobs = store.bucket("jobs", versioning="linearizable")
        jobs.put("a", array, if_absent=True)
        with pytest.raises(raykv.Conflict) as caught:
            jobs.put("a", array, if_absent=True)
        check_same(caught.value.value, array)
