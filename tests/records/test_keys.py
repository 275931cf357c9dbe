"""Keys: the order of their bytes, what comes back, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.config import MAX_KEY_BYTES
from raykv.errors import CorruptData, InvalidKey
from raykv.records.keys import (
    LAST_TAG_END,
    MAX_ENCODED_KEY_BYTES,
    STORAGE_PREFIX_BYTES,
    after_prefix,
    check_keys,
    decode_key,
    encode_bound,
    encode_key,
    group_of,
    group_of_range,
    is_key,
    storage_bucket,
    storage_prefix,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
KEYS = st.one_of(TEXTS.filter(bool), st.binary(min_size=1, max_size=40))


def rank(key: str | bytes) -> tuple[int, list[int]]:
    """The order that keys are to have: bytes first, then str by code point."""
    return (0, list(key)) if isinstance(key, bytes) else (1, [ord(char) for char in key])


@settings(deadline=None)
@given(KEYS)
def test_a_key_comes_back_as_what_it_was(key: str | bytes) -> None:
    back = decode_key(encode_key(key))
    assert back == key
    assert type(back) is type(key)


@settings(deadline=None)
@given(KEYS, KEYS)
def test_encoded_keys_sort_bytes_first_then_str_by_code_point(one: str | bytes, other: str | bytes) -> None:
    assert (encode_key(one) < encode_key(other)) == (rank(one) < rank(other))
    assert encode_key(one) < LAST_TAG_END


def test_code_points_beyond_the_first_plane_sort_last() -> None:
    # UTF-16 would put the surrogates of U+1F600 before U+FFFD.
    keys = ["a", "a\x00", "z", "é", "\u07ff", "\ufffd", "\U0001f600"]
    assert sorted(keys, key=encode_key) == keys


@pytest.mark.parametrize(
    ("golden", "key"),
    [(b"\x02a", "a"), (b"\x01a", b"a"), (b"\x02\xc3\xa9", "é"), (b"\x01\x00\xff", b"\x00\xff"), (b"\x02\x00", "\x00")],
)
def test_the_bytes_of_a_key_never_change(golden: bytes, key: str | bytes) -> None:
    assert encode_key(key) == golden
    assert decode_key(golden) == key


@pytest.mark.parametrize("key", ["k" * 1024, b"k" * 1024, "é" * 512, "\U0001f600" * 256])
def test_a_key_of_exactly_the_limit_is_fine(key: str | bytes) -> None:
    assert len(encode_key(key)) == MAX_ENCODED_KEY_BYTES == 1 + MAX_KEY_BYTES
    assert decode_key(encode_key(key)) == key


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", ["empty"]),
        (b"", ["empty"]),
        ("k" * 1025, ["1024", "1025"]),
        (b"k" * 1025, ["1024", "1025"]),
        ("é" * 600, ["1024", "1200"]),
        ("a\ud800b", ["UTF-8", "surrogate"]),
        (5, ["str or bytes", "int", "5"]),
        (None, ["str or bytes", "NoneType"]),
        (("a", 1), ["str or bytes", "tuple"]),
        (bytearray(b"a"), ["str or bytes", "bytearray"]),
        pytest.param(memoryview(b"a"), ["str or bytes", "memoryview"], id="memoryview"),  # its repr has an address
        (True, ["str or bytes", "bool"]),
        (1.5, ["str or bytes", "float"]),
        (["a"], ["str or bytes", "list"]),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_bad_key_is_refused_saying_what_was_given_and_what_is_allowed(key: object, words: list[str]) -> None:
    with pytest.raises(InvalidKey) as caught:
        encode_key(key)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert len(str(caught.value)) < 250, "a long key is cut"


def test_a_key_too_long_tells_the_sizes_as_data() -> None:
    with pytest.raises(InvalidKey) as caught:
        encode_key("é" * 600)
    assert caught.value.details == {"size_bytes": 1200, "limit_bytes": 1024}


def test_an_enormous_int_is_an_invalid_key_too() -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        encode_key(10**5000)  # type: ignore[arg-type]
    assert isinstance(caught.value, InvalidKey)


@pytest.mark.parametrize(("bound", "encoded"), [("", b"\x02"), (b"", b"\x01"), ("k" * 2000, b"\x02" + b"k" * 2000)])
def test_a_bound_may_be_empty_or_long(bound: str | bytes, encoded: bytes) -> None:
    assert encode_bound(bound) == encoded


@pytest.mark.parametrize("encoded", [b"", b"\x00", b"\x03a", b"a", b"\x02\xff", b"\x02\xed\xa0\x80"])
def test_bytes_that_are_no_key_are_corrupt(encoded: bytes) -> None:
    with pytest.raises(CorruptData):
        decode_key(encoded)


@settings(deadline=None)
@given(st.binary(max_size=4), st.binary(max_size=5))
def test_after_prefix_is_the_end_of_all_that_begin_so(prefix: bytes, other: bytes) -> None:
    end = after_prefix(prefix)
    if end is None:
        assert set(prefix) <= {0xFF}
        assert other < prefix or other.startswith(prefix) or prefix < other[: len(prefix)]
        return
    assert (prefix <= other < end) == other.startswith(prefix)


def test_after_prefix_is_the_least_such_bound() -> None:
    assert after_prefix(b"\x02a\xff\xff") == b"\x02b"
    assert after_prefix(b"") is None
    assert after_prefix(b"\xff\xff") is None


@settings(deadline=None)
@given(st.integers(0, 65_535), st.integers(0, 2**32 - 1), KEYS)
def test_a_storage_key_names_its_bucket_and_sorts_by_partition_first(partition: int, bucket: int, key: str) -> None:
    prefix = storage_prefix(partition, bucket)
    assert len(prefix) == STORAGE_PREFIX_BYTES == 6
    assert storage_bucket(prefix + encode_key(key)) == bucket
    if partition < 65_535:
        assert prefix + encode_key(key) < storage_prefix(partition + 1, 0)


NO_KEYS = [
    b"", b"\x01", b"\x02", b"\x00a", b"\x03a", b"\x07k", b"\xff", b"\x02\xff", b"\x02a\xc3", b"\x02\xed\xa0\x80",
    b"\x02" + b"k" * 1025,
]  # fmt: skip


@pytest.mark.parametrize("wrong", NO_KEYS, ids=repr)
def test_an_invalid_key_is_found_alone_and_among_others(wrong: bytes) -> None:
    assert not is_key(wrong)
    keys = [encode_key("a"), encode_key("ä"), encode_key(b"\xff\xc3")]
    check_keys(keys)
    check_keys([])
    for some in ([wrong], [wrong, *keys], [*keys, wrong], [keys[0], wrong], [keys[2], wrong, keys[2]]):
        with pytest.raises(InvalidKey, match="not a key"):
            check_keys(some)


def test_halves_of_a_character_do_not_make_up_for_each_other() -> None:
    with pytest.raises(InvalidKey):
        check_keys([b"\x02\xc3", b"\x02\xa4"])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=6), max_size=5))
def test_keys_are_checked_together_as_each_by_itself(some: list[bytes]) -> None:
    good = all(is_key(key) for key in some)
    try:
        check_keys(some)
    except InvalidKey:
        assert not good
    else:
        assert good


@pytest.mark.parametrize(
    ("key", "separator", "group"),
    [
        ("user:1:name", ":", b"\x02user"), ("user", ":", b"\x02user"), ("user:", ":", b"\x02user"), (":x", ":", b"\x02"),
        ("a::b", "::", b"\x02a"), ("a:b::c", "::", b"\x02a:b"), (b"user:1", ":", b"\x01user"), ("\x02a", "\x02", b"\x02"),
        ("\u00e9\u2192x", "\u2192", b"\x02\xc3\xa9"), (b"\x02:\x02", "\x02", b"\x01"),
    ],
)  # fmt: skip
def test_a_group_is_what_stands_before_the_first_separator(key: str | bytes, separator: str, group: bytes) -> None:
    assert group_of(encode_key(key), separator) == group


FEW_LETTERS = st.text("ab:\x00", max_size=6)


@settings(deadline=None, max_examples=400)
@given(FEW_LETTERS, FEW_LETTERS, FEW_LETTERS.filter(bool), st.sampled_from([":", "::", "a:", "aba"]))
def test_all_keys_of_a_range_of_one_group_belong_to_it(start: str, end: str, key: str, separator: str) -> None:
    low, high, encoded = encode_bound(start), encode_bound(end), encode_key(key)
    group = group_of_range(low, high, separator)
    if group is not None and low <= encoded < high:
        assert group_of(encoded, separator) == group


@pytest.mark.parametrize("separator", [":", "::"])
def test_a_prefix_with_its_separator_is_a_range_of_one_group(separator: str) -> None:
    for more in ("", "1", "\U0010ffff"):
        prefix = encode_bound(f"user{separator}{more}")
        assert group_of_range(prefix, after_prefix(prefix) or LAST_TAG_END, separator) == b"\x02user"
    prefix = encode_bound("user")
    assert group_of_range(prefix, after_prefix(prefix) or LAST_TAG_END, separator) is None
    assert group_of_range(encode_bound(f"a{separator}"), encode_bound(f"b{separator}"), separator) is None
    cursor = encode_key(f"user{separator}7") + b"\x00"
    assert group_of_range(cursor, encode_bound(f"user{separator}") + b"\xff", separator) == b"\x02user"
