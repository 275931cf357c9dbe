"""Settings: every bound, on both sides."""

from __future__ import annotations

import datetime as dt
import enum
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest

from raykv import config as c
from raykv.errors import InvalidOption

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("name", ["a", "A9", "shop", "a.b-c_d", "0", "x" * 64, "a..b".replace("..", ".")])
def test_store_names_that_are_fine(name: str) -> None:
    assert c.check_store_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "-a", "a-", "a_", "_a", "a..b", "a/b", "a b", "é", "x" * 65, "a\n", "..", None, 5, b"a", ["a"]]
)
def test_store_names_that_are_not(name: object) -> None:
    with pytest.raises(InvalidOption, match="name"):
        c.check_store_name(name)


@pytest.mark.parametrize("name", ["a", " x ", "carts/2024", "é" * 127, "x" * 255])
def test_bucket_names_that_are_fine(name: str) -> None:
    assert c.check_bucket_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "a\nb", "\x00", "\ud800", None, 3, b"a"])
def test_bucket_names_that_are_not(name: object) -> None:
    with pytest.raises(InvalidOption, match="a bucket name must be"):
        c.check_bucket_name(name)


@pytest.mark.parametrize(("value", "fine"), [(1, True), (5, True), (0, False), (6, False), (True, False), (2.0, False),
                                             ("2", False), (None, False), (-1, False)])  # fmt: skip
def test_counts(value: object, fine: bool) -> None:
    if fine:
        assert c.check_count("x", value, 1, 5) == value
    else:
        with pytest.raises(InvalidOption, match="x must be a whole number from 1 to 5"):
            c.check_count("x", value, 1, 5)


BAD_SECONDS = [0, 0.0, -1, -0.001, NAN, INF, -INF, None, "5", True, b"5", [5], 5j]


@pytest.mark.parametrize("value", [*BAD_SECONDS, 3600.1, 1e9])
def test_timeouts_that_are_not(value: object) -> None:
    with pytest.raises(InvalidOption, match="timeout must be a number of seconds above 0 and at most 3600"):
        c.check_timeout(value)


@pytest.mark.parametrize("value", [1e-9, 1, 5.0, 3600])
def test_timeouts_that_are_fine(value: float) -> None:
    checked = c.check_timeout(value)
    assert checked == value
    assert type(checked) is float


@pytest.mark.parametrize("value", [*BAD_SECONDS, 1e10, c.MAX_TTL_S + 1])
def test_ttls_that_are_not(value: object) -> None:
    with pytest.raises(InvalidOption, match="ttl must be"):
        c.check_ttl(value)


@pytest.mark.parametrize(
    ("value", "ttl_ms"), [(1, 1000), (0.0001, 1), (0.0015, 2), (1.5, 1500), (c.MAX_TTL_S, 3153600000000)]
)
def test_ttls_become_milliseconds(value: float, ttl_ms: int) -> None:
    assert c.check_ttl(value) == ttl_ms


@pytest.mark.parametrize(
    ("value", "n", "asked"),
    [(1, 3, 1), (3, 3, 3), ("one", 3, 1), ("quorum", 3, 2), ("quorum", 4, 3), ("quorum", 1, 1), ("all", 5, 5)],
)
def test_levels(value: Any, n: int, asked: int) -> None:
    assert c.check_level("w", value, n) == asked


@pytest.mark.parametrize("value", [0, 4, -1, True, False, 1.5, 2.0, "two", "", "ALL", None, b"one", NAN])
def test_levels_that_are_none(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"w must be 1 to 3 \(the bucket keeps 3 copies\)"):
        c.check_level("w", value, 3)


@pytest.mark.parametrize("value", [0.01, 1, 2.5, 1000])
def test_weights(value: float) -> None:
    assert c.check_weight(value) == value


@pytest.mark.parametrize("value", [0, 0.009, 1000.1, -1, NAN, INF, True, "1", None])
def test_weights_that_are_not(value: object) -> None:
    with pytest.raises(InvalidOption, match="weight"):
        c.check_weight(value)


@pytest.mark.parametrize("value", ["", "a b", "x" * 64, "é", None, 1, "a\n"])
def test_zones_that_are_not(value: object) -> None:
    with pytest.raises(InvalidOption, match="zone"):
        c.check_zone(value)
    assert c.check_zone("a_1.-Z" + "x" * 57) == "a_1.-Z" + "x" * 57


@pytest.mark.parametrize("value", ["c", "", None, 1, ["a"], ("a", "b")])
def test_choices(value: object) -> None:
    assert c.check_choice("x", "b", ("a", "b")) == "b"
    with pytest.raises(InvalidOption, match="x must be one of 'a', 'b'"):
        c.check_choice("x", value, ("a", "b"))


def test_a_message_shows_no_endless_value() -> None:
    with pytest.raises(InvalidOption) as caught:
        c.check_timeout("x" * 10_000)
    assert len(str(caught.value)) < 200


def test_an_enormous_int_is_refused_as_any_other() -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        c.check_count("x", 10**5000, 1, 5)
    assert isinstance(caught.value, InvalidOption)


STORE = {"name": "shop", "copies": 3}
BUCKET = {"name": "b", "n": 3, "r": 2, "w": 2}


def make(kind: Any, base: dict[str, Any], **changes: Any) -> Any:
    return kind(**{**base, **changes})


@pytest.mark.parametrize(
    ("field", "fine", "bad"),
    [
        ("name", ["a"], ["", "a/b"]),
        ("copies", [1, 9], [0, 10, True, 2.0]),
        ("partitions", [8, 16, 256, 32_768], [0, 4, 7, 9, 100, 65_536, 256.0, True]),
        ("durability", ["group", "interval", "always"], ["", "never", None]),
    ],
)
def test_store_settings(field: str, fine: list[Any], bad: list[Any]) -> None:
    for value in fine:
        assert getattr(make(c.StoreConfig, STORE, **{field: value}), field) == value
    for value in bad:
        with pytest.raises(InvalidOption):
            make(c.StoreConfig, STORE, **{field: value})


@pytest.mark.parametrize(
    ("field", "fine", "bad"),
    [
        ("name", ["a b"], ["", "a\n"]),
        ("n", [3, 9], [0, 1, 10, True]),  # 1 is less than r and w
        ("r", [1, 3], [0, 4, True, "one"]),
        ("w", [1, 3], [0, 4, True, "all"]),
        ("versioning", ["vector", "lww", "linearizable"], ["newest", "", None]),
        ("codec", ["auto", "msgpack", "raw"], ["pickle", None]),
        ("pair_bytes", [1, 10_240, 1 << 20], [0, (1 << 20) + 1, 1.5]),
        ("group", [":", "::", "\u2192" * 5, "x" * 16], ["", "x" * 17, "\u2192" * 6, b":", 1, "\ud800"]),
    ],
)
def test_bucket_settings(field: str, fine: list[Any], bad: list[Any]) -> None:
    for value in fine:
        assert getattr(make(c.BucketConfig, BUCKET, **{field: value}), field) == value
    for value in bad:
        with pytest.raises(InvalidOption):
            make(c.BucketConfig, BUCKET, **{field: value})


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"r": 1}, "majority"),
        ({"w": 1}, "majority"),
        ({"r": 3, "w": 3}, "majority"),
        ({"n": 4}, "3 of n=4"),
        ({"n": 5, "r": 3, "w": 2}, "majority"),
        ({"sloppy": True}, "sloppy"),
        ({"ttl_ms": 1000}, "ttl"),
    ],
)
def test_a_linearizable_bucket_leaves_no_choice(options: dict[str, Any], word: str) -> None:
    """*Schedule without (L13): two calls with w=1 are acknowledged by different owners, and each order contradicts one.*"""
    with pytest.raises(InvalidOption, match=word):
        make(c.BucketConfig, BUCKET, versioning="linearizable", **options)


@pytest.mark.parametrize(("n", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (9, 5)])
def test_a_linearizable_bucket_reads_and_writes_a_majority(n: int, majority: int) -> None:
    made = make(c.BucketConfig, BUCKET, versioning="linearizable", n=n, r=majority, w=majority)
    assert (made.r, made.w) == (majority, majority)


@pytest.mark.parametrize("ttl_ms", [-5, 0, 2**70, 1.5, True])
def test_a_buckets_ttl_has_bounds(ttl_ms: Any) -> None:
    with pytest.raises(InvalidOption):
        make(c.BucketConfig, BUCKET, ttl_ms=ttl_ms)


@pytest.mark.parametrize(
    ("field", "fine", "bad"),
    [
        ("memtable_bytes", [4096, 1 << 20], [4095, (4 << 30) + 1]),
        ("block_bytes", [256, 4 << 20], [255, (4 << 20) + 1]),
        ("block_cache_bytes", [0, 1 << 40], [-1, (1 << 40) + 1]),
        ("bloom_bits_per_key", [1, 64], [0, 65]),
        ("compression", ["lz4", "zstd", "none"], ["zip", None]),
        ("table_bytes", [16 << 10, 16 << 30], [(16 << 10) - 1, (16 << 30) + 1]),
        ("runs_per_level", [2, 64], [1, 65]),
        ("max_unflushed_bytes", [8 << 20, 64 << 30], [(8 << 20) - 1, (64 << 30) + 1]),
        ("sync_interval_s", [0.001, 60], [0, -1, 61, NAN, INF]),
        ("background_share", [0.001, 0.3, 1, 1.0], [0, -0.1, 1.01, True, NAN, INF]),
        ("stream", [True, False], [0, 1, None, "no"]),
    ],
)
def test_node_settings(field: str, fine: list[Any], bad: list[Any]) -> None:
    for value in fine:
        assert getattr(c.NodeConfig(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(InvalidOption):
            c.NodeConfig(**{field: value})


def test_defaults_are_what_is_documented() -> None:
    assert c.StoreConfig(**STORE).partitions == 256
    assert c.StoreConfig(**STORE).durability == "group"
    assert c.BucketConfig(**BUCKET).pair_bytes == 10 * 1024
    assert c.BucketConfig(**BUCKET).codec == "auto"
    assert c.MAX_KEY_BYTES == 1024
    assert c.MAX_CLOCK_SKEW_MS == 60_000


def test_settings_are_frozen_and_checked_when_decoded() -> None:
    settings = c.StoreConfig(**STORE)
    with pytest.raises(AttributeError):
        settings.copies = 1  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="copies"):
        msgspec.convert({**STORE, "copies": 0}, c.StoreConfig)


def test_settings_that_were_stored_under_their_first_names_are_read() -> None:
    stored = {**STORE, "grace_s": 60.0}
    for codec in (msgspec.json, msgspec.msgpack):
        settings = codec.decode(codec.encode(stored), type=c.StoreConfig)
        assert settings.gc_grace_s == 60.0
        assert codec.decode(codec.encode(settings), type=c.StoreConfig) == settings
        assert codec.decode(codec.encode(settings))["grace_s"] == 60.0, "an older raykv reads it, too"


@pytest.mark.parametrize(("n", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (9, 5)])
def test_a_majority(n: int, majority: int) -> None:
    assert c.quorum(n) == majority
    assert 2 * majority > n


# ---- numbers, by their protocol ----


class Own:
    """A number of the caller's: whole if it is given an int, else real."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def __index__(self) -> int:
        if isinstance(self.number, BaseException):
            raise self.number
        return self.number


WHOLE = [3, np.int64(3), np.uint8(3), np.array(3), Own(3), enum.IntEnum("Three", {"OF": 3})(3)]
REAL = [*WHOLE, 3.0, np.float32(3), np.float64(3), Fraction(6, 2), Decimal("3.0")]
NO_NUMBERS = [
    True, np.True_, np.False_, "3", np.str_("3"), b"3", None, 3j, np.complex64(3), np.datetime64("2026-01-01"),
    np.timedelta64(3, "ms"), np.array([3, 3]), np.array(["3"]), [3], dt.timedelta(seconds=3), Decimal("nan"),
    Decimal("sNaN"), np.float32("nan"), Decimal("inf"), np.inf, Fraction(10**400), 10**400, Decimal("1e999"), object(),
    -Fraction(10**400),
]  # fmt: skip


@pytest.mark.parametrize("value", WHOLE, ids=lambda value: type(value).__name__)
def test_a_whole_number_is_one_by_its_own_word(value: Any) -> None:
    for checked in (c.check_count("x", value, 1, 5), c.check_level("r", value, 3)):
        assert (checked, type(checked)) == (3, int)


@pytest.mark.parametrize("value", REAL, ids=lambda value: type(value).__name__)
def test_a_real_number_is_one_by_its_own_word(value: Any) -> None:
    for checked in (
        c.check_timeout(value), c.check_weight(value), c.check_number("x", value, 3, 3), c.check_seconds("x", value, 3.0)
    ):  # fmt: skip
        assert (checked, type(checked)) == (3.0, float)
    assert (c.check_ttl(value), type(c.check_ttl(value))) == (3000, int)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number_and_what_no_float_can_hold(value: Any) -> None:
    for check in (
        lambda: c.check_count("x", value, 0, 10**9), lambda: c.check_timeout(value), lambda: c.check_ttl(value),
        lambda: c.check_weight(value), lambda: c.check_number("x", value, 0, 1e9), lambda: c.check_level("r", value, 3),
    ):  # fmt: skip
        with pytest.raises(InvalidOption):
            check()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("own"), TypeError("own"), OverflowError("own"), KeyboardInterrupt()]
)
def test_what_a_number_raises_is_the_callers_own(error: BaseException) -> None:
    for check in (c.check_timeout, c.check_weight, lambda value: c.check_count("x", value, 1, 5)):
        with pytest.raises(type(error)) as caught:
            check(Own(error))
        assert caught.value is error


def test_settings_keep_plain_numbers() -> None:
    three = np.int64(3)
    configs = (
        c.StoreConfig(name=np.str_("s"), copies=three, partitions=np.int32(256), gc_grace_s=Fraction(1, 2)),
        c.ScalingConfig(ops_per_s=np.float32(5), least=three, most=three, low=Decimal("0.25")),
        c.BucketConfig(name=np.str_("b"), n=three, r=np.uint8(2), w=np.uint8(2), ttl_ms=three, pair_bytes=np.int16(9)),
        c.NodeConfig(memtable_bytes=np.int64(c.MIB), background_share=np.float16(0.5), cpus=three),
    )
    for config in configs:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=type(config)) == config
        for name in config.__struct_fields__:
            assert type(getattr(config, name)) in {int, float, str, bool, type(None)}, name


class Unprintable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_what_cannot_be_printed_is_refused_all_the_same() -> None:
    with pytest.raises(InvalidOption, match="an unprintable Unprintable"):
        c.check_timeout(Unprintable())
    with pytest.raises(InvalidOption, match="an enormous int"):
        c.check_timeout(10**5000)
