"""Contexts: what goes in comes out, and anything that is not exactly that is refused."""

from __future__ import annotations

import copy
import pickle
from functools import reduce

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.errors import InvalidContext, RaykvError
from raykv.versions.causality import MAX_CAUSALITY_BYTES, NOTHING_SEEN, Causality, pack_causality, union
from raykv.versions.context import (
    CONTEXT_VERSION,
    PLACE_BYTES,
    Context,
    causality_in,
    place_of,
    seal,
    sealed_when_asked,
    unseal,
)

A, B = b"a" * 8, b"b" * 8
SPANS = st.builds(
    lambda actor, low, more: ((actor, low, low + more),),
    st.binary(min_size=8, max_size=8),
    st.integers(1, 50),
    st.integers(0, 50),
)
HISTORIES = st.lists(SPANS, max_size=4).map(lambda spans: reduce(union, spans, ()))
CAUSALITIES = st.builds(Causality, st.integers(0, 2**64 - 1), HISTORIES)
PLACE = place_of("store", 3, b"key")
PACKED = pack_causality(Causality(1 << 50, ((A, 1, 9), (A, 11, 11), (B, 2, 1000))))
CONTEXT = seal(PACKED, PLACE)
TOKEN = bytes(CONTEXT)


def with_checksum(head: bytes) -> bytes:
    return head + crc32c(head).to_bytes(4)


@settings(deadline=None)
@given(CAUSALITIES, st.text(max_size=10), st.integers(0, 2**40), st.binary(max_size=30))
def test_what_was_sealed_is_unsealed_at_its_place(causality: Causality, store: str, bucket: int, key: bytes) -> None:
    packed = pack_causality(causality)
    place = place_of(store, bucket, key)
    context = seal(packed, place)
    assert unseal(context, place) == packed
    assert unseal(bytes(context), place) == packed, "its bytes are as good"
    assert unseal(Context(bytes(context)), place) == packed
    assert causality_in(context) == packed


@settings(deadline=None)
@given(CAUSALITIES, CAUSALITIES)
def test_contexts_are_equal_by_what_is_in_them(one: Causality, other: Causality) -> None:
    first, second = seal(pack_causality(one), PLACE), seal(pack_causality(other), PLACE)
    assert (first == second) == (one == other) == (bytes(first) == bytes(second))
    again = Context(bytes(first))
    assert again == first
    assert hash(again) == hash(first)
    assert len({first, again}) == 1


def test_a_context_equals_nothing_but_a_context() -> None:
    assert CONTEXT != TOKEN
    assert seal(PACKED, place_of("store", 3, b"other")) != CONTEXT
    assert CONTEXT.__eq__(TOKEN) is NotImplemented


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_context_survives_pickling(protocol: int) -> None:
    again = pickle.loads(pickle.dumps(CONTEXT, protocol))
    assert again == CONTEXT
    assert type(again) is Context
    assert unseal(again, PLACE) == PACKED


def test_a_context_can_be_copied_and_shows_its_size_only() -> None:
    assert copy.deepcopy(CONTEXT) == copy.copy(CONTEXT) == CONTEXT
    assert repr(CONTEXT) == f"<raykv context, {len(TOKEN)} bytes>"


def test_a_damaged_pickle_is_refused() -> None:
    pickled = pickle.dumps(CONTEXT)
    assert pickled.count(TOKEN) == 1
    with pytest.raises(InvalidContext):
        pickle.loads(pickled.replace(TOKEN, TOKEN[:-1] + bytes([TOKEN[-1] ^ 1])))


def test_nothing_seen_is_a_context_too() -> None:
    assert unseal(seal(NOTHING_SEEN, PLACE), PLACE) == NOTHING_SEEN


def test_the_bytes_of_a_context_never_change() -> None:
    """Users keep them."""
    golden = bytes.fromhex("0140247da9180f6e8892079193c40861616161616161610103685379d5")
    packed = pack_causality(Causality(7, ((A, 1, 3),)))
    assert bytes(seal(packed, place_of("store", 3, b"key"))) == golden
    assert unseal(golden, PLACE) == packed


# ---- refused ----


def test_a_single_flipped_bit_is_refused_whichever_it_is() -> None:
    for bit in range(8 * len(TOKEN)):
        damaged = bytearray(TOKEN)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidContext):
            Context(bytes(damaged))
        with pytest.raises(InvalidContext):
            unseal(bytes(damaged), PLACE)


def test_a_truncated_context_is_refused_at_every_length() -> None:
    for length in range(len(TOKEN)):
        with pytest.raises(InvalidContext):
            Context(TOKEN[:length])
        with pytest.raises(InvalidContext):
            unseal(TOKEN[:length], PLACE)
    with pytest.raises(InvalidContext):
        Context(TOKEN + b"\x00")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.booleans())
def test_garbage_is_refused(data: bytes, checksum_holds: bool) -> None:
    if checksum_holds:
        data = with_checksum(bytes([CONTEXT_VERSION]) + PLACE + data)
    try:
        packed = unseal(data, PLACE)
    except InvalidContext:
        return
    assert checksum_holds
    assert data == bytes(seal(packed, PLACE))


@pytest.mark.parametrize(
    ("store", "bucket", "key"),
    [
        ("other", 3, b"key"), ("store", 4, b"key"), ("store", 3, b"other"), ("store", 3, b""), ("store", 3, b"key\x00"),
        ("store3", 3, b"key"), ("store", 33, b"key"), ("stor", 3, b"key"), ("store", 3, b"KEY"),
    ],
)  # fmt: skip
def test_a_context_of_another_key_bucket_or_store_is_refused(store: str, bucket: int, key: bytes) -> None:
    other = place_of(store, bucket, key)
    assert len(other) == PLACE_BYTES
    for context in (CONTEXT, TOKEN):
        with pytest.raises(InvalidContext, match="another key, bucket or store"):
            unseal(context, other)


def test_where_one_part_of_a_place_ends_and_the_next_begins_matters() -> None:
    assert place_of("store", 31, b"key") != place_of("store", 3, b"1key")
    assert place_of("store1", 3, b"key") != place_of("store", 13, b"key")


@pytest.mark.parametrize("version", [0, CONTEXT_VERSION + 1, 255])
def test_a_context_of_another_version_is_refused_and_says_so(version: int) -> None:
    with pytest.raises(InvalidContext, match=f"version {version}"):
        Context(with_checksum(bytes([version]) + TOKEN[1:-4]))


@pytest.mark.parametrize(
    "packed",
    [b"\x00", b"garbage", PACKED[:-1], PACKED + b"\x00", pack_causality(Causality(1, ((A, 3, 2),)))],
    ids=["a number", "garbage", "truncated", "too long", "impossible spans"],
)
def test_what_cannot_be_read_inside_is_refused_though_the_checksum_holds(packed: bytes) -> None:
    with pytest.raises(InvalidContext, match="cannot be read"):
        unseal(seal(packed, PLACE), PLACE)


def test_an_empty_inside_and_one_beyond_all_bounds_are_refused() -> None:
    with pytest.raises(InvalidContext):
        seal(b"", PLACE)
    seal(bytes(MAX_CAUSALITY_BYTES), PLACE)
    with pytest.raises(InvalidContext):
        seal(bytes(MAX_CAUSALITY_BYTES + 1), PLACE)


@pytest.mark.parametrize(
    "wrong",
    [None, 7, "text", TOKEN.hex(), bytearray(TOKEN), memoryview(TOKEN), [TOKEN], {}],
    ids=lambda w: str(type(w)),
)
def test_another_type_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidContext, match=type(wrong).__name__):
        unseal(wrong, PLACE)
    with pytest.raises(InvalidContext, match=type(wrong).__name__):
        Context(wrong)


@settings(deadline=None)
@given(CAUSALITIES)
def test_from_bytes_takes_back_what_bytes_gave(causality: Causality) -> None:
    context = seal(pack_causality(causality), PLACE)
    back = Context.from_bytes(bytes(context))
    assert back == context
    assert hash(back) == hash(context)
    assert unseal(back, PLACE) == pack_causality(causality)


def test_from_bytes_refuses_what_bytes_never_gave() -> None:
    for at in range(len(TOKEN)):
        damaged = bytearray(TOKEN)
        damaged[at] ^= 0x10
        with pytest.raises(InvalidContext):
            Context.from_bytes(bytes(damaged))
        with pytest.raises(InvalidContext):
            Context.from_bytes(TOKEN[:at])
    wrong: object
    for wrong in (None, 7, TOKEN.hex(), bytearray(TOKEN), CONTEXT):
        with pytest.raises(InvalidContext, match=type(wrong).__name__):
            Context.from_bytes(wrong)  # type: ignore[arg-type]
    crafted = with_checksum(bytes([CONTEXT_VERSION]) + PLACE + b"\xff" * 40)
    with pytest.raises(InvalidContext, match="cannot be read"):
        Context.from_bytes(crafted)  # not first where it is used: its checksum holds, what is in it does not


def test_an_invalid_context_is_the_callers_mistake() -> None:
    assert issubclass(InvalidContext, ValueError)
    assert issubclass(InvalidContext, RaykvError)


# ---- size ----


@pytest.mark.parametrize("actors", [1, 2, 3, 5])
def test_a_context_takes_less_than_40_bytes_an_actor(actors: int) -> None:
    now = 1_900_000_000_000 << 16
    seen = tuple((bytes([number]) * 8, 1, 1000) for number in range(actors))
    assert len(bytes(seal(pack_causality(Causality(now, seen)), PLACE))) < 40 * actors


def test_a_context_that_is_made_when_asked_for_is_the_same() -> None:
    causality = pack_causality(Causality(5, ((b"a" * 8, 1, 3),)))
    now = seal(causality, place_of("store", 7, b"key"))
    for look in (bytes, hash, repr, lambda context: bytes(pickle.loads(pickle.dumps(context)))):
        assert look(sealed_when_asked(causality, "store", 7, b"key")) == look(now)
    assert sealed_when_asked(causality, "store", 7, b"key") == now
    assert sealed_when_asked(causality, "store", 7, b"other") != now
    assert unseal(sealed_when_asked(causality, "store", 7, b"key"), place_of("store", 7, b"key")) == causality
