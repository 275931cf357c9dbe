"""Operations: what is checked before anything is sent, what is sent, and what is made of the answers."""

from __future__ import annotations

import enum
import itertools
import math
import traceback
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pytest
from client_values import FAILED, UNREADABLE, found, gone_module, keep, payload_of, raising
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.client import batches
from raykv.client.operations import Operations
from raykv.config import MAX_PAIR_BYTES, BucketConfig
from raykv.errors import (
    BatchError,
    CorruptData,
    InvalidContext,
    InvalidKey,
    InvalidOption,
    Overloaded,
    PairTooLarge,
    QuorumNotMet,
    RaykvError,
    SiblingsFound,
    StoreUnavailable,
    WriteOutcomeUnknown,
)
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import unpack
from raykv.versions.causality import NOTHING_SEEN, Causality, pack_causality
from raykv.versions.context import Context, place_of, seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BAD_KEYS = [
    "", b"", "k" * 1025, b"k" * 1025, "é" * 600, "a\ud800", 5, None, ("a",), bytearray(b"a"), 1.5, True, ["a"], {"a": 1},
    object(),
]  # fmt: skip
BAD_LEVELS = [4, 0, -1, True, False, 1.5, 2.0, "two", "ALL", "", b"one", [], math.nan, 10**9]
BAD_TIMES = [0, -1, 0.0, -0.5, math.nan, math.inf, -math.inf, "5", True, b"5", [1], 1e10, 5j]


# ---- before anything is sent ----


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:20])
def test_a_bad_key_is_refused_and_nothing_is_sent(both: Callable[..., Any], store: Any, link: Any, key: Any) -> None:
    calls = [
        lambda: both("get", key), lambda: both("put", key, 1), lambda: both("delete", key), lambda: both("contains", key),
        lambda: both("get_many", ["a", key]), lambda: both("delete_many", ["a", key]),
        lambda: both("put_many", [("a", 1), (key, 1)]),
        lambda: store[key], lambda: store.__setitem__(key, 1), lambda: store.__delitem__(key),
    ]  # fmt: skip
    for number, call in enumerate(calls):
        with pytest.raises((InvalidKey, InvalidOption) if number == 6 else InvalidKey) as caught:
            call()
        assert isinstance(caught.value, ValueError)
    assert link.sent == 0


@pytest.mark.parametrize("level", BAD_LEVELS, ids=repr)
def test_a_bad_level_is_refused_and_nothing_is_sent(both: Callable[..., Any], link: Any, level: Any) -> None:
    for call in (
        lambda: both("get", "a", r=level),
        lambda: both("get_many", ["a"], r=level),
        lambda: both("scan", r=level),
        lambda: both("put", "a", 1, w=level),
        lambda: both("put_many", {"a": 1}, w=level),
        lambda: both("delete", "a", w=level),
        lambda: both("delete_many", ["a"], w=level),
    ):
        with pytest.raises(InvalidOption, match="must be 1 to 3"):
            call()
    assert link.sent == 0


@pytest.mark.parametrize("seconds", [*BAD_TIMES, None, 1e9, 3601], ids=repr)
def test_a_bad_timeout_is_refused_and_nothing_is_sent(both: Callable[..., Any], link: Any, seconds: Any) -> None:
    for call in (
        lambda: both("get", "a", timeout=seconds),
        lambda: both("get_many", ["a"], timeout=seconds),
        lambda: both("put", "a", 1, timeout=seconds),
        lambda: both("put_many", {"a": 1}, timeout=seconds),
        lambda: both("delete", "a", timeout=seconds),
        lambda: both("delete_many", ["a"], timeout=seconds),
        lambda: both("scan", timeout=seconds),
        lambda: both("bucket", "b", timeout=seconds),
        lambda: both("drop_bucket", "b", timeout=seconds),
        lambda: both("status", timeout=seconds),
        lambda: both("ring", timeout=seconds),
        lambda: both("buckets", timeout=seconds),
    ):
        with pytest.raises(InvalidOption, match="timeout must be"):
            call()
    assert link.sent == 0


@pytest.mark.parametrize("ttl", BAD_TIMES, ids=repr)
def test_a_bad_ttl_is_refused_and_nothing_is_sent(both: Callable[..., Any], link: Any, ttl: Any) -> None:
    for call in (
        lambda: both("put", "a", 1, ttl=ttl),
        lambda: both("put_many", {"a": 1}, ttl=ttl),
        lambda: both("bucket", "b", ttl=ttl),
    ):
        with pytest.raises(InvalidOption, match="ttl must be"):
            call()
    assert link.sent == 0


@pytest.mark.parametrize("value_kind", [str, bytes])
@pytest.mark.parametrize("key", ["key", b"key", "é" * 10, "k" * 1024])
def test_a_pair_of_10240_bytes_is_fine_and_one_more_is_not(
    both: Callable[..., Any], link: Any, key: Any, value_kind: type
) -> None:
    key_bytes = len(key.encode()) if isinstance(key, str) else len(key)
    room = 10_240 - key_bytes
    exactly, over = (("x" * size if value_kind is str else b"x" * size) for size in (room, room + 1))
    both("put", key, exactly)
    assert both("get", key) == exactly
    link.sent = 0
    for call in (lambda: both("put", key, over), lambda: both("put_many", {"a": 1, key: over})):
        with pytest.raises(PairTooLarge, match=r"has 10241 bytes.*at most 10240") as caught:
            call()
        assert caught.value.details == {"size_bytes": 10_241, "limit_bytes": 10_240}
    assert link.sent == 0


def test_sizes_are_of_bytes_and_not_of_characters(both: Callable[..., Any], link: Any) -> None:
    with pytest.raises(PairTooLarge):
        both("put", "k", "é" * 5200)
    both("put", "k", "é" * 5119)
    with pytest.raises(PairTooLarge):
        both("put", "k", [b"x" * 5000, b"x" * 5300])
    assert link.sent == 1


def test_a_buckets_own_limit_holds(link: Any) -> None:
    config = BucketConfig(name="b", n=3, r=2, w=2, pair_bytes=5)
    operations = Operations(1, config)
    operations.write_request([("k", b"1234")], None, None, 1.0)
    with pytest.raises(PairTooLarge, match=r"bucket 'b' allows at most 5 .*store\.bucket\(name, pair_bytes=6\)"):
        operations.write_request([("k", b"12345")], None, None, 1.0)
    with pytest.raises(PairTooLarge, match="No bucket takes more than 1048576: store parts of it"):
        operations.write_request([("k", bytes(MAX_PAIR_BYTES))], None, None, 1.0)


@pytest.mark.parametrize(
    "items", [[("a", 1), ("", 2)], {"a": 1, 5: 2}, [("a", 1), ("b", "x" * 20_000)], [("a", 1), ("b",)], 5, None, "ab", [1]],
    ids=repr,
)  # fmt: skip
def test_one_bad_item_refuses_the_entire_batch_before_anything_is_sent(
    both: Callable[..., Any], link: Any, items: Any
) -> None:
    with pytest.raises((InvalidKey, InvalidOption, PairTooLarge)):
        both("put_many", items)
    assert link.sent == 0


@pytest.mark.parametrize("keys", ["abc", b"abc", 5, None, 1.5], ids=repr)
def test_one_key_is_not_several(both: Callable[..., Any], link: Any, keys: Any) -> None:
    for name in ("get_many", "delete_many"):
        with pytest.raises(InvalidKey, match="keys must be an iterable"):
            both(name, keys)
    assert link.sent == 0


def test_a_value_that_the_codec_does_not_take_refuses_the_batch(link: Any) -> None:
    operations = Operations(1, BucketConfig(name="b", n=3, r=2, w=2, codec="msgpack"))
    with pytest.raises(InvalidOption, match="codec='msgpack'"):
        operations.write_request([("a", 1), ("b", (1, 2))], None, None, 1.0)


# ---- what is sent ----


def test_levels_times_and_ttl_as_they_are_sent(both: Callable[..., Any], link: Any) -> None:
    both("get", "a")
    both("get", "a", r="one", timeout=1)
    both("put", "a", 1, w="all", ttl=1.5, timeout=2)
    both("delete", "a", w=1)
    both("put", "b", 1)
    first, second, third, fourth, fifth = link.requests
    assert (first.r, first.timeout_s) == (2, 5.0)
    assert (second.r, second.timeout_s) == (1, 1.0)
    assert (third.w, third.timeout_s) == (3, 2.0)
    assert unpack(b"\x01" + bytes(8) + third.items[0][1]).ttl_ms == 1500
    assert (fourth.w, unpack(b"\x01" + bytes(8) + fourth.items[0][1]).tombstone) == (1, True)
    assert (fifth.w, unpack(b"\x01" + bytes(8) + fifth.items[0][1]).ttl_ms) == (2, None)


def test_a_buckets_ttl_is_the_default_and_a_calls_goes_first() -> None:
    operations = Operations(1, BucketConfig(name="b", n=3, r=2, w=2, ttl_ms=7000))

    def ttl_ms(ttl: Any) -> int | None:
        return unpack(b"\x01" + bytes(8) + operations.write_request([("a", 1)], None, ttl, 1.0).items[0][1]).ttl_ms

    assert ttl_ms(None) == 7000
    assert ttl_ms(2) == 2000


def test_every_write_has_an_operation_id_of_its_own(both: Callable[..., Any], link: Any) -> None:
    both("put_many", {f"k{number}": 1 for number in range(1200)})
    both("put", "a", 1)
    both("put", "a", 1)
    ids = [body[:16] for request in link.requests for _, body, _ in request.items]
    assert len(set(ids)) == len(ids) == 1202


@settings(deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=200))
def test_a_batch_is_cut_by_size_and_count(sizes: list[int]) -> None:
    items = [(b"\x02k", bytes(size), None) for size in sizes]
    chunks = batches._chunks(items)
    assert [item for chunk in chunks for item in items[chunk]] == items
    for chunk in chunks:
        part = items[chunk]
        assert 1 <= len(part) <= batches.CHUNK_WRITES
        assert len(part) == 1 or sum(len(key) + len(body) for key, body, _ in part) <= batches.CHUNK_BYTES
    for before, after in itertools.pairwise(chunks):
        first = items[after.start]
        full = len(items[before]) == batches.CHUNK_WRITES
        assert full or sum(len(k) + len(b) for k, b, _ in [*items[before], first]) > batches.CHUNK_BYTES, (
            "no cut without need"
        )


def test_frames_of_a_batch_stay_below_what_ray_moves_cheaply(both: Callable[..., Any], link: Any) -> None:
    both("put_many", {f"k{number}": "x" * 10_000 for number in range(100)})
    assert len(link.requests) == 13
    both("put_many", {f"s{number}": 1 for number in range(5000)})
    for request in link.requests:
        assert len(f.coordinator_requests.encode(request)) < 100 * 1024
    link.requests.clear()
    both("get_many", [f"s{number}" for number in range(5000)])
    assert [len(request.keys) for request in link.requests] == [batches.CHUNK_READS] * (5000 // batches.CHUNK_READS)


# ---- reads ----


def test_values_absent_and_defaults(both: Callable[..., Any], store: Any) -> None:
    both("put", "a", None)
    assert both("get", "a", "default") is None, "None is a value"
    assert both("get", "b") is None
    assert both("get", "b", "default") == "default"
    assert both("contains", "a") is True
    assert both("contains", "b") is False
    both("delete", "a")
    assert both("get", "a", 7) == 7
    assert both("contains", "a") is False


def test_get_many_keeps_the_order_and_asks_for_duplicates_once(both: Callable[..., Any], link: Any) -> None:
    both("put_many", {"a": 1, b"a": 2, "c": 3})
    link.requests.clear()
    got = both("get_many", (key for key in ["c", "a", "zz", b"a", "a", "c"]), default=0)
    assert list(got.items()) == [("c", 3), ("a", 1), ("zz", 0), (b"a", 2)]
    (request,) = link.requests
    assert len(request.keys) == 4
    assert both("get_many", []) == {}
    assert both("put_many", {}) == {}
    assert both("delete_many", []) == {}
    assert len(link.requests) == 1, "nothing to ask, nobody asked"


RAN: list[int] = []


def _ran(number: int) -> int:
    RAN.append(number)
    return number


class _Ran:
    """Says when it is unpickled."""

    def __reduce__(self) -> Any:
        return _ran, (len(RAN),)


def test_what_others_may_run_is_not_run_while_requests_are_under_way() -> None:
    """A pickled value, a resolver: they may use the store, which is busy with what is under way."""
    operations = Operations(1, BucketConfig(name="default", n=3, r=2, w=2))
    items: list[Any]
    plain, pickled = payload_of(1), payload_of(_Ran())
    for items, values in (
        ([plain, plain], [1, 1]),
        ([plain, f.KeyVersions([])], [1, None]),
        ([plain, pickled], None),
        ([pickled, f.KeyVersions([])], None),
        ([plain, f.KeyVersions([plain, plain])], None),
        ([plain, f.KeyVersions([plain], True)], None),
        ([plain, FAILED], None),
        ([plain, b"\x02no msgpack"], None),
        ([plain], None),
        ([], None),
    ):
        RAN.clear()
        assert operations._plain_values(f.GotMany(items), 2, None) == values
        assert not RAN
    assert operations._plain_values(f.Refused(FAILED), 1, None) is None
    assert operations._plain_values(f.GotMany([]), 0, None) == []


def test_get_many_gives_each_key_its_own_in_any_way_of_taking_answers_apart(
    both: Callable[..., Any], link: Any
) -> None:
    values: dict[str, Any] = {f"k{number}": number if number % 400 else (number,) for number in range(2100)}
    both("put_many", values)
    assert both("get_many", [*values, "absent"], "nothing") == values | {"absent": "nothing"}
    link.script = [link.answer, f.Refused(FAILED), lambda request: f.GotMany([FAILED] * len(request.keys))]
    with pytest.raises(BatchError) as caught:
        both("get_many", values)
    assert caught.value.results == {key: value for number, (key, value) in enumerate(values.items())
                                    if not 250 <= number < 750}  # fmt: skip
    assert list(caught.value.results) == [key for key in values if key in caught.value.results]


def test_a_failed_read_never_reads_as_absent(both: Callable[..., Any], store: Any, link: Any) -> None:
    both("put", "a", 1)
    for answer in (f.GotMany([FAILED]), f.Refused(FAILED)):
        for call in (
            lambda: both("get", "a", "default"), lambda: both("contains", "a"), lambda: store["a"],
            lambda: store.__delitem__("a"),
        ):  # fmt: skip
            link.script = [answer]
            with pytest.raises(QuorumNotMet, match="the read needs 2"):
                call()
    link.script = [f.GotMany([found(1), FAILED, f.KeyVersions([])])]
    with pytest.raises(BatchError) as caught:
        both("get_many", ["a", "b", "c"], default="default")
    assert caught.value.results == {"a": 1, "c": "default"}
    assert list(caught.value.errors) == ["b"]
    assert isinstance(caught.value.errors["b"], QuorumNotMet)
    assert "1 of 3 reads" in str(caught.value)


def test_an_undecodable_value_is_an_error_of_its_key_only(both: Callable[..., Any], link: Any) -> None:
    link.script = [f.GotMany([found(1), f.KeyVersions([b"\x09what"])])]
    with pytest.raises(BatchError) as caught:
        both("get_many", ["a", "b"])
    assert caught.value.results == {"a": 1}
    assert isinstance(caught.value.errors["b"], CorruptData)
    link.script = [f.GotMany([f.KeyVersions([b"\x09what"])])]
    with pytest.raises(CorruptData):
        both("get", "a")


# ---- writes ----


def test_a_result_names_the_nodes_and_the_operation(both: Callable[..., Any], link: Any) -> None:
    result = both("put", "a", 1)
    assert result.acks == ("n1", "n2")
    assert bytes.fromhex(result.operation_id) == link.requests[-1].items[0][1][:16]
    results = both("put_many", [("a", 1), ("b", 2), ("a", 3)])
    assert list(results) == ["a", "b"]
    assert both("get_many", ["a", "b"]) == {"a": 3, "b": 2}, "of a key that stands twice the last counts"
    results = both("delete_many", ["a", "b", "a"])
    assert list(results) == ["a", "b"]
    assert both("get_many", ["a", "b"]) == {"a": None, "b": None}


@pytest.mark.parametrize(
    "error", [Overloaded("full", items=3), WriteOutcomeUnknown("1 of 2", acks=["n1"]), StoreUnavailable("x")]
)
def test_an_error_of_a_write_comes_out_as_it_is(both: Callable[..., Any], link: Any, error: RaykvError) -> None:
    for answer in (f.WroteMany([f.Failed.of(error)]), f.Refused(f.Failed.of(error))):
        for call in (lambda: both("put", "a", 1), lambda: both("delete", "a")):
            link.script = [answer]
            with pytest.raises(type(error)) as caught:
                call()
            assert (caught.value.message, caught.value.details) == (error.message, error.details)


def test_a_batch_settles_all_and_then_raises_one_error(both: Callable[..., Any], link: Any) -> None:
    """P14, over several requests of which one was refused entirely and one in part."""
    keys = [f"k{number}" for number in range(1300)]

    def partly(request: f.WriteMany) -> f.WroteMany:
        acked = [f.Acked(body[:16], ["n1", "n2"], NOTHING_SEEN) for _, body, _ in request.items]
        return f.WroteMany([FAILED if number % 2 else ack for number, ack in enumerate(acked)])

    link.script = [link.answer, f.Refused(f.Failed.of(Overloaded("full"))), partly]
    with pytest.raises(BatchError) as caught:
        both("put_many", dict.fromkeys(keys, 1))
    error = caught.value
    assert list(error.results) + list(error.errors) != keys
    assert error.results.keys() | error.errors.keys() == set(keys)
    assert len(error.results) == 500 + 150
    assert len(error.errors) == 500 + 150
    assert {type(one) for one in error.errors.values()} == {Overloaded, QuorumNotMet}
    back = cloudpickle.loads(cloudpickle.dumps(error))
    assert back.results == error.results
    assert back.errors.keys() == error.errors.keys()


# ---- versions and contexts ----


NOTHING = Causality()
SEEN = Causality(5 << 16, ((b"actor..1", 1, 3),))


def context_of(key: Any, causality: Causality = NOTHING, *, bucket_id: int = 1, store: str = "fake") -> Context:
    return seal(pack_causality(causality), place_of(store, bucket_id, encode_key(key)))


def test_versions_are_all_that_stands_and_their_context(both: Callable[..., Any], link: Any) -> None:
    link.script = [
        f.GotMany([f.KeyVersions([payload_of((1, 2)), payload_of("x")], True, pack_causality(SEEN))], SEEN.time)
    ]
    versions = both("get_versions", "a", r="all", timeout=2)
    assert versions == ([(1, 2), "x"], context_of("a", SEEN))
    assert (link.requests[0].r, link.requests[0].timeout_s, link.requests[0].causality) == (3, 2.0, True)
    assert both("get_versions", "absent") == ([], context_of("absent"))
    both("get", "a")
    both("get_many", ["a"])
    assert [request.causality for request in link.requests] == [True, True, False, False], "only where it is wanted"
    link.script = [f.GotMany([FAILED])]
    with pytest.raises(QuorumNotMet):
        both("get_versions", "a")


def test_a_context_goes_with_the_write_as_it_is_or_as_bytes(both: Callable[..., Any], link: Any) -> None:
    context = context_of("a", SEEN)
    for form in (context, bytes(context), Context(bytes(context))):
        both("put", "a", 1, context=form)
        both("delete", "a", context=form)
    both("put", "a", 1)
    both("put", "a", 1, context=context_of("a"))
    sent = [request.items[0][2] for request in link.requests]
    assert sent == [pack_causality(SEEN)] * 6 + [None, NOTHING_SEEN], "to have found nothing is not not to have looked"


def test_a_result_has_the_context_of_its_own_key(both: Callable[..., Any], link: Any) -> None:
    result = both("put", "a", 1)
    assert result.context == context_of("a", Causality(link.time))
    both("put", "a", 2, context=result.context)
    results = both("put_many", {"b": 1, b"b": 2})
    written_at = link.time
    for key, written in results.items():
        assert written.context == context_of(key, Causality(written_at))
        both("delete", key, context=written.context)
    assert both("delete_many", ["b"])["b"].context == context_of("b", Causality(link.time))


@pytest.mark.parametrize(
    "context",
    [
        b"", b"x" * 30, "text", 5, True, (), bytes(context_of("a"))[:-1], bytes(context_of("a")) + b"x",
        context_of("b"), context_of(b"a"), context_of("a", bucket_id=2), context_of("a", store="other"),
        seal(b"junk", place_of("fake", 1, encode_key("a"))),
    ],
    ids=repr,
)  # fmt: skip
def test_a_context_that_does_not_fit_is_refused_and_nothing_is_sent(
    both: Callable[..., Any], link: Any, context: Any
) -> None:
    for call in (lambda: both("put", "a", 1, context=context), lambda: both("delete", "a", context=context)):
        with pytest.raises(InvalidContext):
            call()
    assert link.sent == 0


def test_what_a_program_has_seen_is_said_with_its_next_write(both: Callable[..., Any], store: Any, link: Any) -> None:
    """P7: over all handles of one ``connect``, whichever key and bucket it saw."""
    both("put", "a", 1)
    assert link.requests[-1].after == 0
    both("put", "b", 1)
    assert link.requests[-1].after == 1 << 16, "the time of its last write"
    bucket = store.bucket("carts")
    link.script = [f.GotMany([found(1)], 77 << 16)]
    assert both("get", "a", on=bucket) == 1
    both("delete", "a")
    assert link.requests[-1].after == 77 << 16
    link.script = [f.GotMany([found(1)], 88 << 16)]
    both("get_many", ["a"])
    both("put_many", {"a": 1})
    assert link.requests[-1].after == 88 << 16
    both("put", "a", 1, on=bucket)
    assert link.requests[-1].after == 88 << 16


def test_a_write_says_until_when_it_may_be_begun_in_the_coordinators_time(both: Callable[..., Any], link: Any) -> None:
    """P8."""
    both("put", "a", 1, timeout=2)
    both("delete_many", ["a"], timeout=3)
    link.now_s += 10
    both("put", "a", 1)
    assert [request.run for request in link.requests] == [7] * 3
    assert [request.expires_s for request in link.requests] == [1052.0, 1053.0, 1065.0]


# ---- resolvers and modify ----


def several(*values: Any, gone: bool = False, causality: Causality = SEEN) -> f.GotMany:
    return f.GotMany([f.KeyVersions([payload_of(value) for value in values], gone, pack_causality(causality))])


def test_a_resolver_is_asked_where_there_are_several_and_given_the_newest_first(
    both: Callable[..., Any], store: Any, link: Any
) -> None:
    asked: list[list[Any]] = []

    def union(values: list[Any]) -> Any:
        asked.append(values)
        return sorted(set().union(*values))

    bucket = store.bucket("carts", resolver=union)
    for answer, expected in (
        (several([3], [1]), [1, 3]),
        (several([3], [1], gone=True), [1, 3]),
        (several([7]), [7]),
        (several([7], gone=True), [7]),
        (several(), "none"),
    ):
        link.script = [answer]
        assert both("get", "a", "none", on=bucket) == expected
        link.script = [f.GotMany([*answer.items, found([5], [6])])]
        assert both("get_many", ["a", "b"], "none", on=bucket) == {"a": expected, "b": [5, 6]}
    assert asked.count([[3], [1]]) == 4
    assert [[7]] not in asked
    link.script = [f.Page([(encode_key("a"), [payload_of([2]), payload_of([4])], False)], None)]
    assert both("scan", on=bucket) == [("a", [2, 4])]
    link.script = [several([3], [1])]
    assert both("contains", "a", on=bucket) is True


def test_the_newest_is_the_one_by_default_and_none_if_that_is_a_delete(both: Callable[..., Any], link: Any) -> None:
    for answer, expected in (
        (several("new", "old"), "new"),
        (several("old", "older", gone=True), "none"),
        (several("old", gone=True), "none"),
    ):
        link.script = [answer] * 3
        assert both("get", "a", "none") == expected
        assert both("get_many", ["a"], "none") == {"a": expected}
        assert both("contains", "a") is (expected != "none")
        assert link.script == []
    link.script = [several("old", "older", gone=True)]
    assert both("get_versions", "a").values == ["old", "older"], "they do stand"


def test_a_resolver_that_raises_loses_nothing(both: Callable[..., Any], store: Any, link: Any) -> None:
    def fails(values: list[Any]) -> Any:
        raise LookupError(f"what to do with {len(values)} values")

    bucket = store.bucket("carts", resolver=fails)
    calls: list[Callable[[], Any]] = [
        lambda: both("get", "a", on=bucket),
        lambda: both("modify", "a", lambda value: value, on=bucket),
        lambda: both("get_many", ["a"], on=bucket),
        lambda: both("scan", on=bucket),
    ]
    for call in calls:
        link.requests.clear()
        link.script = [several(1, 2)] if len(calls) - 1 != calls.index(call) else [
            f.Page([(encode_key("a"), [payload_of(1), payload_of(2)], False)], None)
        ]  # fmt: skip
        with pytest.raises(LookupError, match="what to do with 2 values"):
            call()
        assert [type(request) for request in link.requests] in ([f.GetMany], [f.ScanPage]), "nothing is written"
    link.script = [several(1, 2)]
    assert both("get_versions", "a", on=bucket).values == [1, 2]
    both("put", "a", 3, on=bucket)


def test_modify_writes_the_outcome_with_the_context_read(both: Callable[..., Any], store: Any, link: Any) -> None:
    place = context_of("a", SEEN)
    link.script = [several(41)]
    result = both("modify", "a", lambda value: value + 1, 0, r=1, w="all", ttl=1.5)
    read, write = link.requests
    assert (read.r, read.causality, write.w) == (1, True, 3)
    ((_, body, causality),) = write.items
    assert (body[16:17], unpack(b"\x01" + bytes(8) + body).ttl_ms) == (b"\x02", 1500)
    assert causality == pack_causality(SEEN)
    assert bytes(place)[9:-4] == causality
    assert len(result.acks) == 2
    assert both("get", "a") == 42
    seen: list[Any] = []
    for answer, expected in ((several(gone=False), "none"), (several(gone=True), "none"), (several(None), None)):
        link.script = [answer]
        both("modify", "a", seen.append, "none")
        assert seen.pop() == expected
    merging = store.bucket("carts", resolver=sum)
    link.script = [several(1, 2, gone=True)]
    both("modify", "a", lambda value: value * 10, on=merging)
    assert both("get", "a", on=merging) == 30


class Oops(Exception):
    pass


def test_what_the_function_of_modify_raises_is_passed_on_and_nothing_is_written(
    both: Callable[..., Any], link: Any
) -> None:
    both("put", "a", 1)

    def fails(value: Any) -> Any:
        raise Oops(value)

    link.requests.clear()
    with pytest.raises(Oops, match="1"):
        both("modify", "a", fails)
    assert [type(request) for request in link.requests] == [f.GetMany]
    for change, error in (
        (lambda _: "x" * 10_240, PairTooLarge),
        (lambda _: [b"x" * 6000] * 2, PairTooLarge),
    ):
        with pytest.raises(error):
            both("modify", "a", change)
    assert {type(request) for request in link.requests} == {f.GetMany}
    assert both("get", "a") == 1


def test_modify_is_checked_before_anything_is_sent(both: Callable[..., Any], link: Any) -> None:
    def same(value: Any) -> Any:
        return value

    for call, error in (
        (lambda: both("modify", "a", 5), InvalidOption),
        (lambda: both("modify", "a", None), InvalidOption),
        (lambda: both("modify", "", same), InvalidKey),
        (lambda: both("modify", "a", same, w=4), InvalidOption),
        (lambda: both("modify", "a", same, r=4), InvalidOption),
        (lambda: both("modify", "a", same, timeout=0), InvalidOption),
        (lambda: both("modify", "a", same, ttl=-1), InvalidOption),
    ):
        with pytest.raises(error):
            call()
    assert link.sent == 0


def test_modify_has_one_time_for_all_that_it_does(both: Callable[..., Any], link: Any) -> None:
    def slow(value: Any) -> Any:
        link.now_s += 2.0
        return value

    both("put", "a", 1)
    link.requests.clear()
    both("modify", "a", slow, timeout=3)
    read, write = link.requests
    assert (read.timeout_s, write.timeout_s) == (3.0, pytest.approx(1.0))
    assert write.expires_s == pytest.approx(link.now_s + link.ahead_s + 1.0)
    with pytest.raises(StoreUnavailable, match=r"nothing was written.*all of the 2 s"):
        both("modify", "a", slow, timeout=2)
    assert isinstance(link.requests[-1], f.GetMany)


# ---- answers that do not fit ----


@pytest.mark.parametrize(
    "answer",
    [b"", b"junk", f.Info(1), f.WroteMany([]), f.GotMany([]), f.GotMany([f.KeyVersions([])] * 2), f.Page([], None)],
    ids=repr,
)
def test_an_answer_that_does_not_fit_is_corrupt(both: Callable[..., Any], link: Any, answer: Any) -> None:
    link.script = [answer]
    with pytest.raises(CorruptData):
        both("get", "a")
    link.script = [answer]
    with pytest.raises(BatchError) as caught:
        both("get_many", ["a"])
    assert isinstance(caught.value.errors["a"], CorruptData)
    if not isinstance(answer, f.Page):
        link.script = [answer]
        with pytest.raises(CorruptData):
            both("scan")


@pytest.mark.parametrize("answer", [b"junk", f.Info(1), f.WroteMany([])], ids=repr)
def test_an_answer_to_a_write_that_does_not_fit_leaves_its_items_unknown(
    both: Callable[..., Any], link: Any, answer: Any
) -> None:
    keys = [f"k{number}" for number in range(700)]
    link.script = [answer]
    with pytest.raises(BatchError) as caught:
        both("put_many", dict.fromkeys(keys, 1))
    assert len(caught.value.results) == 200
    assert {type(error) for error in caught.value.errors.values()} == {WriteOutcomeUnknown}


@pytest.mark.parametrize("answer", [several(1, 2), several(*range(9)), several(1, gone=True), several(1, 2, gone=True)])
def test_modify_drops_no_version_that_it_has_not_looked_at(
    both: Callable[..., Any], store: Any, link: Any, answer: f.GotMany
) -> None:
    (item,) = answer.items
    assert isinstance(item, f.KeyVersions)
    standing = len(item.payloads) + item.gone
    for key in ("a", b"a"):
        link.requests.clear()
        link.script = [answer]
        with pytest.raises(
            SiblingsFound, match=rf"{standing} concurrent versions.*resolver=.*get_versions.*context="
        ) as caught:
            both("modify", key, lambda _: pytest.fail("there is nothing to give it"), 0)
        assert (caught.value.key, caught.value.details["versions"]) == (key, standing)
        assert [type(request) for request in link.requests] == [f.GetMany], "nothing is written"
    merging = store.bucket("carts", resolver=sum)
    link.script = [answer]
    both("modify", "a", lambda value: value, on=merging)
    link.script = [answer]
    context = both("get_versions", "a").context
    both("put", "a", 1, context=context)


def test_modify_says_so_also_of_versions_that_cannot_be_read_here(both: Callable[..., Any], link: Any) -> None:
    link.script = [f.GotMany([f.KeyVersions([b"\x03junk", b"\x03junk"], False, pack_causality(SEEN))])]
    with pytest.raises(SiblingsFound):
        both("modify", "a", lambda value: value)


def test_numpy_numbers_are_no_keys(store: Any, link: Any) -> None:
    with pytest.raises(InvalidKey):
        store.get(np.int64(2))
    assert link.sent == 0


@pytest.mark.parametrize("two", [np.int64(2), np.uint8(2), np.array(2)], ids=repr)
def test_numbers_of_any_kind_travel_as_plain_ones(both: Callable[..., Any], store: Any, link: Any, two: Any) -> None:
    both("put", "a", 1, w=two, ttl=two, timeout=np.float32(2))
    both("put_many", {"a": 1}, w=two, ttl=Fraction(4, 2), timeout=Decimal(2))
    both("get", "a", r=two, timeout=two)
    both("get_many", ["a"], r=two, timeout=two)
    both("contains", "a")
    both("modify", "a", lambda value: value, r=two, w=two, ttl=two, timeout=two)
    both("delete", "a", w=two, timeout=two)
    assert both("scan", limit=two, r=two, timeout=two, reverse=np.True_) == []
    both("bucket", np.str_("b"), n=two, r=two, w=two, ttl=two, pair_bytes=np.int32(2000), timeout=two)
    link.script = [f.Info({}), f.Info(None)]
    both("autoscale", ops_per_s=np.int64(100), most=np.int8(9), high=np.float32(0.5), dry_run=np.True_)
    both("set_weight", "n1", np.float32(2), wait=False)
    assert link.requests[-2].limits == {"ops_per_s": 100, "most": 9, "high": 0.5}
    asked = [request for request in link.requests if isinstance(request, f.GetMany | f.WriteMany | f.ScanPage)]
    assert {getattr(request, "r", None) or getattr(request, "w", None) for request in asked} == {2}
    assert {request.timeout_s for request in asked if isinstance(request, f.GetMany)} <= {2.0, 5.0}


class Quorum(str, enum.Enum):  # noqa: UP042 - as many programs still have them; see StrEnum
    MOST = "quorum"
    BUCKET = "b"


def test_an_enum_that_is_a_str_is_that_str(both: Callable[..., Any], link: Any) -> None:
    both("get", "a", r=Quorum.MOST)
    assert link.requests[-1].r == 2
    both("bucket", Quorum.BUCKET)
    assert link.requests[-1].name == "b"


# ---- the caller's own errors ----

OWN = [
    TypeError("own"), ValueError("own"), RuntimeError("own"), KeyError("own"), QuorumNotMet("of a call within"),
    InvalidOption("of a call within"), StopAsyncIteration("own"), KeyboardInterrupt(), SystemExit(3), GeneratorExit(),
    StopIteration("own"),
]  # fmt: skip


@pytest.mark.parametrize("error", OWN, ids=lambda error: type(error).__name__)
def test_what_the_callers_code_raises_is_the_callers(
    both: Callable[..., Any], store: Any, link: Any, error: BaseException
) -> None:
    def raises(*_: Any) -> Any:
        raise error

    def late(first: Any) -> Iterator[Any]:
        yield first
        raises()

    class Odd(dict[Any, Any]):
        keys = values = items = __iter__ = __getitem__ = raises

    class Unhashable(str):
        __slots__ = ()
        __hash__ = raises  # type: ignore[assignment]

    class Pair:
        __iter__ = raises

    class Items(Mapping[Any, Any]):
        __getitem__ = __iter__ = __len__ = raises

    own = Unhashable("k")
    merging = store.bucket("merging", resolver=raises)
    calls: dict[str, Callable[[], Any]] = {
        "put_many, pairs": lambda: both("put_many", late(("a", 1))),
        "put_many, begun": lambda: both("put_many", Pair()),
        "put_many, a pair": lambda: both("put_many", [("a", 1), Pair()]),
        "put_many, C code": lambda: both("put_many", map(raises, ["a"])),
        "put_many, mapping": lambda: both("put_many", Items()),
        "put_many, hash": lambda: both("put_many", [(own, 1)]),
        "get_many": lambda: both("get_many", late("a")),
        "get_many, begun": lambda: both("get_many", Pair()),
        "get_many, hash": lambda: both("get_many", [own]),
        "delete_many": lambda: both("delete_many", late("a")),
        "delete_many, begun": lambda: both("delete_many", Pair()),
    }
    link.sent = 0
    if isinstance(error, StopIteration):
        del calls["put_many, C code"]  # there it is the end
    for name, call in calls.items():
        check_own(error, call, name)
    assert link.sent == 0
    link.script = [several(1)]
    check_own(error, lambda: both("modify", "a", raises), "modify")
    link.script = [several(1, 2)]
    check_own(error, lambda: both("get", "a", on=merging), "resolver")
    link.script = [f.Info(None), f.Info({"rebalancing": {"partitions_left": 3, "waits_for": ""}})]
    check_own(error, lambda: both("remove_node", "n1", progress=raises), "progress")
    assert link.records == {}


def check_own(error: BaseException, call: Callable[[], Any], name: str) -> None:
    """Python lets no StopIteration out of a generator or a coroutine: there it is the cause of what comes out."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which, is what is looked at
        call()
    if isinstance(error, StopIteration) and isinstance(caught.value, RuntimeError):
        assert "raised StopIteration" in str(caught.value), name
        assert caught.value.__cause__ is error, name
    else:
        assert caught.value is error, name
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert frames[-1] == "raises", name


# ---- values that cannot be read here ----


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
def test_what_needs_no_value_decodes_none(both: Callable[..., Any], store: Any, link: Any, payload: bytes) -> None:
    merging = store.bucket("merging", resolver=lambda _: pytest.fail("there is nothing to merge"))
    for key in ("bad", b"bad"):
        keep(link, key, payload)
        assert both("contains", key) is True
        assert key in list(both("keys"))
        assert both("count") == len(link.records)
        assert both("delete", key).acks
        assert both("contains", key) is False
        keep(link, key, payload)
        assert both("put", key, "good").acks
        assert both("get", key) == "good"
        keep(link, key, payload)
        assert list(both("delete_many", [key])) == [key]
        keep(link, key, payload)
        del store[key]
        assert key not in store
        with pytest.raises(KeyError):
            del store[key]
        link.script = [f.GotMany([f.KeyVersions([payload, payload])])]
        assert both("contains", key, on=merging) is True
        link.records.clear()


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
def test_a_read_of_a_value_that_cannot_be_read_names_the_key(
    both: Callable[..., Any], link: Any, payload: bytes
) -> None:
    for key in ("bad", b"bad", np.str_("bad")):
        keep(link, key, payload)
        for name, arguments in (("get", ()), ("get_versions", ()), ("modify", (lambda value: value,))):
            with pytest.raises(CorruptData, match=r"\(key b?'bad'\)") as caught:
                both(name, key, *arguments)
            assert caught.value.key == key
            assert type(caught.value.key) in {str, bytes}


def test_what_went_wrong_is_the_cause(both: Callable[..., Any], link: Any) -> None:
    for payload, cause in ((gone_module(), ModuleNotFoundError), (raising(LookupError("own")), LookupError)):
        keep(link, "bad", payload)
        with pytest.raises(CorruptData, match=cause.__name__) as caught:
            both("get", "bad")
        assert type(caught.value.__cause__) is cause
        with pytest.raises(BatchError) as batch:
            both("get_many", ["bad"])
        assert type(batch.value.errors["bad"].__cause__) is cause
    for error in (KeyboardInterrupt(), SystemExit()):
        keep(link, "bad", raising(error))
        for name, arguments in (("get", ["bad"]), ("get_many", [["bad"]]), ("scan", [])):
            with pytest.raises(type(error)):
                both(name, *arguments)
