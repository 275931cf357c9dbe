"""Codecs: what is put comes back, with its exact type; what must not be unpickled is not."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import itertools
import math
import pickle
import socket
import threading
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raykv.client import codecs
from raykv.client.codecs import decode_plain, decode_value, encode_in_cells, encode_value
from raykv.errors import CorruptData, InvalidOption
from raykv.protocol import changes
from raykv.protocol.changes import cell

if TYPE_CHECKING:
    from collections.abc import Callable

RAW, TEXT, MSGPACK, PICKLE = b"\x00", b"\x01", b"\x02", b"\x03"


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    HELLO = "hello"


class Point(NamedTuple):
    x: int
    y: Any


@dataclasses.dataclass
class Cart:
    items: list[Any]
    owner: str = "ada"


class MyInt(int):
    pass


class MyFloat(float):
    pass


class MyStr(str):
    __slots__ = ()


class MyBytes(bytes):
    pass


class MyList(list[Any]):
    pass


class MyDict(dict[Any, Any]):
    pass


def same(one: Any, other: Any) -> bool:
    """Equal, of one type, all the way down; NaN is NaN, -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        if one.dtype == object:
            return bool(one.dtype == other.dtype and one.tolist() == other.tolist())
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(mine, theirs) and same(one[mine], other[theirs]) for mine, theirs in zip(one, other, strict=True)
        )
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(same(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    if isinstance(one, set | frozenset):
        return one == other and {type(item) for item in one} == {type(item) for item in other}
    if dataclasses.is_dataclass(one):
        return same(vars(one), vars(other))
    return bool(one == other)


def there_and_back(value: Any, codec: str = "auto") -> Any:
    return decode_value(encode_value(value, codec), codec)


def test_plain_payloads_are_decoded_together_and_pickled_ones_not_at_all():
    values = [1, "x", b"y", {"a": [None]}]
    payloads = [encode_value(value, "auto") for value in values]
    assert decode_plain(payloads, "auto") == decode_plain(payloads, "msgpack") == values
    assert decode_plain([*payloads, encode_value((), "auto")], "auto") is None
    assert decode_plain([], "auto") == []
    for bad in (MSGPACK + b"\xc1", TEXT + b"\xff", b"", b"\x09"):
        with pytest.raises(CorruptData):
            decode_plain([*payloads, bad], "auto")
    with pytest.raises(CorruptData, match="codec='raw'"):
        decode_plain(payloads, "raw")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**300]),
    st.floats(),
    st.text(),
    st.text(st.characters(categories=["Cs", "Ll"]), max_size=3),  # lone surrogates
    st.binary(),
    st.binary().map(bytearray),
    st.complex_numbers(allow_nan=False),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.datetimes(),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.datetimes(timezones=st.integers(-12, 12).map(lambda h: dt.timezone(dt.timedelta(hours=h)))),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.sampled_from([Colour.RED, Number.ONE, Word.HELLO, ..., int, range(3), slice(1)]),
    st.integers().map(MyInt),
    st.floats(allow_nan=False).map(MyFloat),
    st.text(max_size=3).map(MyStr),
    st.binary(max_size=3).map(MyBytes),
    st.floats(width=32).map(np.float32),
    st.integers(0, 255).map(np.uint8),
    st.booleans().map(np.bool_),
)
KEYS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=4),
    st.binary(max_size=4), st.tuples(st.integers(0, 3), st.text(max_size=2)), st.just(Number.ONE),
)  # fmt: skip


def mixtures(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=4)
    dicts = st.dictionaries(KEYS, inner, max_size=4)
    return st.one_of(
        lists,
        dicts,
        lists.map(tuple),
        lists.map(MyList),
        lists.map(collections.deque),
        lists.map(Cart),
        dicts.map(MyDict),
        dicts.map(collections.OrderedDict),
        dicts.map(lambda plain: collections.defaultdict(list, plain)),
        inner.map(lambda value: Point(1, value)),
        st.sets(st.integers() | st.text(max_size=2), max_size=4),
        st.frozensets(st.binary(max_size=2), max_size=4),
    )


@settings(deadline=None, max_examples=400)
@given(st.recursive(SCALARS, mixtures, max_leaves=12))
@example(-0.0)
@example([math.nan, math.inf, -0.0])
@example({1: "a", 1.5: "b", None: "c", b"d": "e", "f": True})
@example({True: 1})
@example({2**64: 1})
@example({"\ud800": 1})
@example(collections.Counter("abca"))
def test_a_value_comes_back_as_what_it_was(value: Any) -> None:
    back = there_and_back(value)
    assert type(back) is type(value)
    assert same(back, value)


PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(),
        st.text(st.characters(exclude_categories=["Cs"])), st.binary(),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.integers(0, 9) | st.binary(max_size=3)
        | st.none() | st.booleans() | st.floats(allow_nan=False),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None)
@given(PLAIN)
def test_plain_values_never_touch_pickle_and_come_back_exactly_under_msgpack(value: Any) -> None:
    for codec in ("auto", "msgpack"):
        payload = encode_value(value, codec)
        assert payload[:1] in {RAW, TEXT, MSGPACK}
        assert same(decode_value(payload, codec), value)


@pytest.mark.parametrize(
    "value",
    [
        np.float64(1.5), np.int64(3), np.array(5), np.arange(6).reshape(2, 3), np.array([], dtype="f4"),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), np.array(["a", None], dtype=object)[:1],
        np.datetime64("2024-01-01"), uuid.UUID(int=5), decimal.Decimal("NaN").copy_abs(), fractions.Fraction(1, 3),
        collections.Counter("abca"), [np.float64(1.0)], {"a": np.array([1, 2])},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_numpy_and_other_types_of_libraries(value: Any) -> None:
    back = there_and_back(value)
    assert type(back) is type(value)
    if isinstance(value, decimal.Decimal):
        assert back.is_nan()
    elif isinstance(value, dict) and not isinstance(value, collections.Counter):
        assert (back["a"] == value["a"]).all()
    else:
        assert same(back, value)


def test_a_factory_comes_back_too() -> None:
    back = there_and_back(collections.defaultdict(list, {"a": [1]}))
    assert back.default_factory is list
    assert there_and_back(collections.deque([1], maxlen=3)).maxlen == 3


def nest(depth: int, kind: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"k": value}
    return value


@pytest.mark.parametrize("kind", ["list", "dict"])
@pytest.mark.parametrize("depth", [1, 99, 100, 101, 200])
def test_deep_values_come_back(kind: str, depth: int) -> None:
    assert there_and_back(nest(depth, kind)) == nest(depth, kind)


def test_absurdly_deep_values_are_refused_and_not_a_crash() -> None:
    with pytest.raises(InvalidOption):
        encode_value(nest(100_000, "list"), "auto")


def test_a_list_that_holds_itself_comes_back() -> None:
    knot: list[Any] = [1]
    knot.append(knot)
    back = there_and_back(knot)
    assert back[0] == 1
    assert back[1] is back
    ring: dict[str, Any] = {}
    ring["self"] = ring
    back = there_and_back(ring)
    assert back["self"] is back


def test_a_class_that_is_known_here_only_travels_by_value() -> None:
    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

        def double(self) -> int:
            return self.x * 2

    payload = encode_value(Local(21), "auto")
    assert payload[:1] == PICKLE
    assert decode_value(payload, "auto").double() == 42
    assert decode_value(encode_value(lambda x: x + 1, "auto"), "auto")(1) == 2


# ---- the bytes ----


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (b"ab", b"\x00ab"), (b"", b"\x00"), ("é", b"\x01\xc3\xa9"), ("", b"\x01"), (None, b"\x02\xc0"), (True, b"\x02\xc3"),
        (1, b"\x02\x01"), (1.5, b"\x02\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00"), ([1, "a"], b"\x02\x92\x01\xa1a"),
        ({"a": b"b"}, b"\x02\x81\xa1a\xc4\x01b"), (2**64 - 1, b"\x02\xcf" + b"\xff" * 8),
    ],
    ids=repr,
)  # fmt: skip
def test_the_bytes_of_plain_values_never_change(value: Any, payload: bytes) -> None:
    assert encode_value(value, "auto") == payload == encode_value(value, "msgpack")
    assert same(decode_value(payload, "auto"), value)


# ---- codec="msgpack" and codec="raw" ----

NOT_PLAIN = [
    (1, 2), {1, 2}, 2**64, -(2**63) - 1, "\ud800", Number.ONE, Word.HELLO, Colour.RED, Point(1, 2), MyInt(1), MyStr("a"),
    MyBytes(b"a"), MyList(), MyDict(), bytearray(b"a"), 1j, np.float64(1), [1, (2,)], {"a": {1}}, {(1, 2): 3}, {"a": 2**64},
    {"\ud800": 1}, ["\ud800"], nest(150, "list"), object(), collections.OrderedDict(), collections.Counter(),
]  # fmt: skip


@pytest.mark.parametrize("error", [ImportError("no such module"), ValueError("numpy.dtype size changed")])
def test_a_library_that_does_not_import_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise error

    payload = encode_value(np.float32(1), "auto")
    monkeypatch.setattr(codecs, "_module_of", fail)
    with pytest.raises(CorruptData, match="is of numpy, which cannot be imported here") as caught:
        decode_value(payload, "auto")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("value", NOT_PLAIN, ids=lambda value: type(value).__name__)
def test_msgpack_refuses_what_would_come_back_as_something_else(value: Any) -> None:
    with pytest.raises(InvalidOption, match="codec='msgpack'"):
        encode_value(value, "msgpack")


@pytest.mark.parametrize("value", ["a", None, 1, [], {}, bytearray(b"a"), MyBytes(b"a"), memoryview(b"a")])
def test_raw_keeps_bytes_and_nothing_else(value: Any) -> None:
    with pytest.raises(InvalidOption, match="codec='raw'"):
        encode_value(value, "raw")
    assert there_and_back(b"\x03anything", "raw") == b"\x03anything"


class Trap:
    """Unpickling it leaves a mark."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _spring, ()


def _spring() -> None:
    Trap.sprung = True


@pytest.mark.parametrize("codec", ["msgpack", "raw"])
def test_a_pickled_value_is_refused_and_not_run(codec: str) -> None:
    payload = encode_value(Trap(), "auto")
    assert payload[:1] == PICKLE
    with pytest.raises(CorruptData, match="never unpickles"):
        decode_value(payload, codec)
    assert not Trap.sprung
    decode_value(payload, "auto")
    assert Trap.sprung, "the trap works"
    Trap.sprung = False


def test_raw_reads_raw_only() -> None:
    for value in ("a", [1], None):
        with pytest.raises(CorruptData, match="codec='raw'"):
            decode_value(encode_value(value, "auto"), "raw")


# ---- what cannot be decoded ----


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=60),
    st.sampled_from([RAW, TEXT, MSGPACK, b"\x04", b"\xff"]),
    st.sampled_from(["auto", "msgpack", "raw"]),
)
@example(b"\xff\xfe", TEXT, "auto")
@example(b"\xa2\xff\xfe", MSGPACK, "auto")
@example(b"\x81\x80\x01", MSGPACK, "auto")
@example(b"\x91" * 100_000, MSGPACK, "auto")
@example(b"\xdd\xff\xff\xff\xff", MSGPACK, "msgpack")
def test_garbage_is_corrupt_and_nothing_else(data: bytes, tag: bytes, codec: str) -> None:
    with contextlib.suppress(CorruptData):
        decode_value(tag + data, codec)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x04", b"\x04abc", b"\xff", b"\x02", b"\x02\xc1", b"\x01\xff", b"\x03", b"\x03garbage", b"\x02\x01\x01",
     PICKLE + b"cnosuchmodule\nThing\n.", PICKLE + b"cos\nno_such_function\n.", PICKLE + pickle.dumps([1])[:-1]],
    ids=repr,
)  # fmt: skip
def test_what_does_not_decode_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptData):
        decode_value(payload, "auto")


def test_a_value_whose_own_code_fails_is_corrupt_here() -> None:
    class Fails:
        def __reduce__(self) -> tuple[Any, ...]:
            return _fail, ()

    with pytest.raises(CorruptData, match="ZeroDivisionError"):
        decode_value(PICKLE + cloudpickle.dumps(Fails()), "auto")


def _fail() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "make", [socket.socket, lambda: (x for x in []), threading.Lock], ids=["socket", "generator", "lock"]
)
def test_what_cannot_be_pickled_is_the_callers_mistake(make: Callable[[], Any]) -> None:
    value = make()
    with pytest.raises(InvalidOption, match="cannot be pickled"):
        encode_value(value, "auto")
    if isinstance(value, socket.socket):
        value.close()


def test_a_value_whose_own_code_fails_to_pickle_is_the_callers_mistake() -> None:
    class Fails:
        def __reduce__(self) -> tuple[Any, ...]:
            raise OSError("the file is gone")

    with pytest.raises(InvalidOption):
        encode_value(Fails(), "auto")


def test_a_payload_is_bytes_even_of_a_large_value() -> None:
    payload = encode_value(["x" * 1000] * 100, "auto")
    assert type(payload) is bytes
    assert payload[:1] == MSGPACK


def test_a_value_whose_parts_are_shared_is_not_walked_once_for_each_path() -> None:
    value: list[Any] = [1]
    for _ in range(60):  # 61 lists, 2**60 paths
        value = [value, value]
    assert len(encode_value(value, "auto")) < 10_000
    with pytest.raises(InvalidOption):
        encode_value(value, "msgpack")


# ---- values with a mind of their own ----


class Touchy(type):
    """A class whose classes cannot be hashed, nor compared."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(cls, other: object) -> bool:
        raise ZeroDivisionError


class Untouchable:
    """Neither compared, hashed, counted, printed nor asked whether it is true."""

    def _refuse(self, *_: object) -> Any:
        raise ZeroDivisionError

    __eq__ = __hash__ = __len__ = __repr__ = __bool__ = __str__ = __format__ = _refuse  # type: ignore[assignment]


def test_a_value_is_not_asked_for_more_than_its_pickle() -> None:
    for value in (Untouchable(), [Untouchable()], {"a": Untouchable()}, (Untouchable(),)):
        back = decode_value(encode_value(value, "auto"), "auto")
        assert type(back) is type(value)
        with pytest.raises(InvalidOption, match="exactly"):
            encode_value(value, "msgpack")


def test_a_type_that_cannot_be_hashed_is_the_pickles_matter() -> None:
    odd = Touchy("Odd", (), {"__module__": "nowhere"})()
    for value in (odd, [odd], {"a": [odd]}):
        with pytest.raises(InvalidOption, match="cannot be pickled"):
            encode_value(value, "auto")
        with pytest.raises(InvalidOption, match="exactly"):
            encode_value(value, "msgpack")


def test_what_fails_to_pickle_is_the_cause_with_its_traceback() -> None:
    class Fails:
        def __reduce__(self) -> tuple[Any, ...]:
            raise error

    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    for error in (OSError("the file is gone"), StopIteration("x"), Mute(), MemoryError()):
        with pytest.raises(InvalidOption, match=f"cannot be pickled: {type(error).__name__}") as caught:
            encode_value([Fails()], "auto")
        assert caught.value.__cause__ is error
    for error in (KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(error)):
            encode_value([Fails()], "auto")


def test_a_value_that_another_thread_changes_is_stored_as_one_or_refused() -> None:
    value: dict[Any, Any] = {"list": [{"a": 1} for _ in range(50)]}
    stop = threading.Event()

    def change() -> None:
        for number in itertools.cycle(range(100)):
            if stop.is_set():
                return
            value[number] = [[], {}]
            value.pop(number - 50, None)
            value[number - 50] = [()] if number % 7 == 0 else [[number]]

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            with contextlib.suppress(InvalidOption):
                assert decode_value(encode_value(value, "auto"), "auto")["list"] == value["list"]
    finally:
        stop.set()
        thread.join()


# ---- cells: integers of linearizable buckets ----

LEAST, MOST = -(1 << 63), (1 << 63) - 1


@given(number=st.integers(LEAST, MOST))
@example(number=LEAST)
@example(number=MOST)
@example(number=0)
@example(number=-1)
@pytest.mark.parametrize("codec", ["auto", "msgpack"])
def test_an_integer_comes_back_from_its_cell(codec: str, number: int) -> None:
    payload = encode_in_cells(number, codec)
    assert (payload[:1], len(payload)) == (changes.CELL, changes.CELL_BYTES)
    for decoded in (decode_value(payload, codec), *(decode_plain([payload, payload], codec) or ())):
        assert type(decoded) is int
        assert decoded == number


@pytest.mark.parametrize(
    "value", [True, False, Number.ONE, MOST + 1, LEAST - 1, np.int64(3), 1.0, "1", b"1", [1], None]
)
def test_only_an_int_of_64_bits_is_a_cell(value: Any) -> None:
    payload = encode_in_cells(value, "auto")
    assert payload == encode_value(value, "auto")
    assert not payload.startswith(changes.CELL)
    assert type(decode_value(payload, "auto")) is type(value)


def test_a_cell_s_bytes_never_change() -> None:
    assert cell(1).hex() == "040000000000000001"
    assert cell(-2).hex() == "04fffffffffffffffe"
    for beyond in (MOST + 1, LEAST - 1):
        with pytest.raises(OverflowError):
            cell(beyond)


def test_a_raw_bucket_has_no_cells() -> None:
    with pytest.raises(InvalidOption, match="stores bytes only"):
        encode_in_cells(1, "raw")
    with pytest.raises(CorruptData, match="cannot read"):
        decode_value(cell(1), "raw")
    with pytest.raises(CorruptData, match="cannot read"):
        decode_plain([cell(1)], "raw")


@pytest.mark.parametrize("payload", [changes.CELL, cell(1)[:-1], cell(1) + b"\x00"])
def test_a_cell_of_another_size_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptData, match="cannot read"):
        decode_value(payload, "auto")
