"""The cluster's state: a value that travels, changes by methods only, and never gives an id twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.cluster import state as cs
from raykv.config import BucketConfig, StoreConfig
from raykv.errors import BucketMismatch, CorruptData, InvalidOption
from raykv.ring import Member, claim

RING = claim([Member("n1", 2.0, "h1", "a"), Member("n2"), Member("n3")], 8, 3)


def state(**changes: Any) -> cs.ClusterState:
    base = {
        "store_id": "s1", "generation": 1, "version": 1, "ring": RING,
        "config": StoreConfig(name="shop", copies=3, partitions=8),
    }  # fmt: skip
    return cs.ClusterState(**{**base, **changes})


def bucket(name: str) -> BucketConfig:
    return BucketConfig(name=name, n=3, r=2, w=2)


def test_a_state_comes_back_as_it_was() -> None:
    one = state().with_bucket(bucket("a")).with_bucket(BucketConfig(name="b", n=2, r=1, w=2, ttl_ms=5, codec="raw"))
    back = cs.decode_state(cs.encode_state(one))
    assert back == one
    assert back.ring.owners(0) == one.ring.owners(0)
    assert isinstance(back.buckets[0].config, BucketConfig)


def test_ballots_order_states_by_generation_then_version() -> None:
    ballots = [state(generation=g, version=v).ballot for g, v in [(1, 9), (2, 1), (2, 2)]]
    assert ballots == sorted(ballots)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=30))
def test_bucket_ids_are_never_given_twice(steps: list[tuple[bool, str]]) -> None:
    now = state()
    ever: list[int] = []
    for add, name in steps:
        before = now
        if add and now.bucket(name) is None:
            now = now.with_bucket(bucket(name))
            entry = now.bucket(name)
            assert entry is not None
            assert entry.bucket_id not in ever
            ever.append(entry.bucket_id)
        elif not add:
            now = now.without_bucket(name)
            assert now.bucket(name) is None
        else:
            continue
        assert now.version == before.version + 1
        assert now.generation == before.generation
        assert before == cs.decode_state(cs.encode_state(before)), "the former value is untouched"
        alive = {entry.bucket_id for entry in now.buckets}
        assert {bucket_id for bucket_id in ever if not now.dropped(bucket_id)} == alive
        assert not now.dropped(now.next_bucket_id), "an id not yet given is not dropped"
        assert not now.dropped(10**6)


def test_a_store_has_a_most_of_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cs, "MAX_BUCKETS", 1)
    one = state().with_bucket(bucket("a"))
    with pytest.raises(InvalidOption, match="at most 1 buckets"):
        one.with_bucket(bucket("b"))
    assert one.without_bucket("a").with_bucket(bucket("b")).bucket("b") is not None


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_state_is_corrupt_or_another_state(data: st.DataObject) -> None:
    whole = cs.encode_state(state().with_bucket(bucket("a")))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = damaged[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else damaged
    try:
        back = cs.decode_state(bytes(cut))
    except CorruptData:
        return
    assert isinstance(back, cs.ClusterState)


def test_every_truncation_is_corrupt() -> None:
    whole = cs.encode_state(state().with_bucket(bucket("a")))
    for cut in range(len(whole)):
        with pytest.raises(CorruptData):
            cs.decode_state(whole[:cut])


def test_a_state_of_another_format_is_refused_by_name() -> None:
    for unknown in (0, 3):
        with pytest.raises(CorruptData, match=f"format {unknown}; this raykv reads up to 2"):
            cs.decode_state(cs.encode_state(state(format=unknown)))


def test_a_grouped_bucket_begins_an_epoch_and_makes_a_state_that_older_versions_refuse() -> None:
    """They would seek its keys elsewhere. A state without any stays readable for them."""
    plain = state().with_bucket(bucket("a"))
    assert (plain.format, plain.epoch) == (1, 1)
    grouped = plain.with_bucket(BucketConfig(name="b", n=3, r=2, w=2, group=":"))
    assert (grouped.format, grouped.epoch, grouped.version) == (2, 2, plain.version + 1)
    assert cs.decode_state(cs.encode_state(grouped)) == grouped
    assert grouped.config_of(2) == grouped.buckets[1].config
    assert grouped.config_of(3) is None
    assert grouped.with_bucket(bucket("c")).epoch == 2


def test_a_state_from_before_there_were_groups_is_read() -> None:
    written = msgspec.msgpack.decode(cs.encode_state(state().with_bucket(bucket("a"))))
    for _, config in written["buckets"]:
        del config["group"]
    assert cs.decode_state(msgspec.msgpack.encode(written)).buckets[0].config.group is None


def test_a_bucket_with_another_group_is_another_bucket() -> None:
    config = cs.bucket_from_options("orders", {"group": ":"}, 3)
    cs.check_same_bucket(config, {"group": ":"})
    cs.check_same_bucket(config, {})
    with pytest.raises(BucketMismatch, match="group is ':', asked '/'"):
        cs.check_same_bucket(config, {"group": "/"})
    with pytest.raises(BucketMismatch, match="group is None, asked ':'"):
        cs.check_same_bucket(cs.bucket_from_options("plain", {}, 3), {"group": ":"})


def test_a_state_whose_ring_or_policy_cannot_be_is_corrupt() -> None:
    plain = msgspec.to_builtins(state().with_bucket(bucket("a")))
    plain["ring"]["table"] = plain["ring"]["table"][:-1]
    with pytest.raises(CorruptData, match="rows"):
        cs.decode_state(msgspec.msgpack.encode(plain))
    plain = msgspec.to_builtins(state().with_bucket(bucket("a")))
    plain["buckets"][0][1]["r"] = 9
    with pytest.raises(CorruptData, match="r must be"):
        cs.decode_state(msgspec.msgpack.encode(plain))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (3, 2, 2)),
        ({"n": 1}, (1, 1, 1)),
        ({"n": 2}, (2, 2, 2)),
        ({"r": 1, "w": 3}, (3, 1, 3)),
        ({"n": 2, "r": 1}, (2, 1, 2)),
    ],
)
def test_defaults_of_a_bucket_are_majorities(options: dict[str, Any], expected: tuple[int, int, int]) -> None:
    made = cs.bucket_from_options("b", options, 3)
    assert (made.n, made.r, made.w) == expected
    assert made.name == "b"


@pytest.mark.parametrize(
    "options",
    [
        {"n": 4}, {"n": 0}, {"n": True}, {"n": "2"}, {"n": None}, {"r": 4}, {"w": 0}, {"r": "one"}, {"n": 1, "w": 2},
        {"codec": "pickle"}, {"versioning": "newest"}, {"pair_bytes": 0}, {"ttl_ms": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        cs.bucket_from_options("b", options, 3)


def test_a_bad_name_is_refused_and_options_cannot_rename() -> None:
    with pytest.raises(InvalidOption):
        cs.bucket_from_options("a\n", {}, 3)
    assert cs.bucket_from_options("b", {"name": "other"}, 3).name == "b"


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InvalidOption):
        cs.bucket_from_options("b", {"slopy": True}, 3)


def agreed(**changes: Any) -> cs.ClusterState:
    whole = state().with_bucket(bucket("one")).with_bucket(bucket("two"))
    return msgspec.structs.replace(whole, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"next_bucket_id": 2}, "ids of its buckets"),
        ({"buckets": (cs.BucketEntry(1, bucket("one")),) * 2}, "ids of its buckets"),
        ({"buckets": (cs.BucketEntry(0, bucket("one")),)}, "ids of its buckets"),
        ({"buckets": (cs.BucketEntry(1, BucketConfig(name="one", n=5, r=3, w=3)),)}, "more than the ring's 3 copies"),
        ({"goal": claim([Member(f"n{number}") for number in range(1, 4)], 16, 3)}, "another shape"),
        ({"moves": (cs.Move(8, ("n1", "n2", "n3")),)}, "other owners than 3"),
        ({"moves": (cs.Move(-1, ("n1", "n2", "n3")),)}, "other owners than 3"),
        ({"moves": (cs.Move(0, ("n1", "n2")),)}, "other owners than 3"),
        ({"moves": (cs.Move(0, ("n1", "n2", "n2")),)}, "other owners than 3"),
        ({"moves": (cs.Move(0, ("n1", "n2", "n9")),)}, "no members"),
    ],
)
def test_a_state_whose_parts_disagree_is_corrupt(changes: dict[str, Any], why: str) -> None:
    """Each part is sound; what a node, or a backup, makes of all of them would end in another error, or in a loop."""
    assert cs.decode_state(cs.encode_state(agreed())) == agreed()
    with pytest.raises(CorruptData, match=why):
        cs.decode_state(cs.encode_state(agreed(**changes)))


def test_a_mismatch_shows_both_sides() -> None:
    existing = cs.bucket_from_options("b", {"r": 1, "codec": "raw"}, 3)
    cs.check_same_bucket(existing, {})
    cs.check_same_bucket(existing, {"r": 1})
    with pytest.raises(BucketMismatch) as caught:
        cs.check_same_bucket(existing, {"r": 2, "codec": "auto", "w": 2})
    assert caught.value.details == {"bucket": "b", "differing": {"r": [1, 2], "codec": ["raw", "auto"]}}
    assert "codec is 'raw', asked 'auto'" in str(caught.value)
    assert "r is 1, asked 2" in str(caught.value)
    assert "w is" not in str(caught.value)


def test_an_unknown_option_of_an_existing_bucket_is_an_error_of_raykvs_own() -> None:
    with pytest.raises((BucketMismatch, InvalidOption)):
        cs.check_same_bucket(cs.bucket_from_options("b", {}, 3), {"sloppy": True})


def test_a_state_from_before_moves_could_be_paused_opens() -> None:
    paused = state().with_paused(paused=True)
    assert cs.decode_state(cs.encode_state(paused)).paused
    fields = msgspec.msgpack.decode(cs.encode_state(paused))
    del fields["paused"]
    assert cs.decode_state(msgspec.msgpack.encode(fields)) == msgspec.structs.replace(paused, paused=False)
