"""The classic clocks: how they compare, and which write they lose that the store keeps."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.records.record import pack_body
from raykv.versions import dvvset, vector_clock
from raykv.versions.vector_clock import Clock, compare, increment, merge

SERVERS = "ABC"
CLOCKS = st.dictionaries(st.sampled_from(SERVERS), st.integers(0, 3))


def at_or_below(one: Clock, other: Clock) -> bool:
    return all(one.get(server, 0) <= other.get(server, 0) for server in SERVERS)


def test_the_examples_in_the_docstrings_hold() -> None:
    failed, attempted = doctest.testmod(vector_clock)
    assert (failed, attempted > 0) == (0, True)


@settings(deadline=None)
@given(CLOCKS, CLOCKS)
def test_compare_says_which_clock_has_seen_the_other(one: Clock, other: Clock) -> None:
    expected = {
        (True, True): "equal",
        (True, False): "before",
        (False, True): "after",
        (False, False): "concurrent",
    }[at_or_below(one, other), at_or_below(other, one)]
    assert compare(one, other) == expected
    mirrored = {"before": "after", "after": "before"}
    assert compare(other, one) == mirrored.get(expected, expected)


@settings(deadline=None)
@given(CLOCKS, CLOCKS)
def test_a_merge_is_the_least_clock_above_both(one: Clock, other: Clock) -> None:
    both = merge(one, other)
    assert merge(other, one) == both
    assert at_or_below(one, both)
    assert at_or_below(other, both)
    assert all(both.get(server, 0) in {one.get(server, 0), other.get(server, 0)} for server in SERVERS)


@settings(deadline=None)
@given(CLOCKS, st.sampled_from(SERVERS))
def test_a_write_is_after_what_its_writer_had_seen(clock: Clock, server: str) -> None:
    before = dict(clock)
    written = increment(clock, server)
    assert clock == before, "a clock is never changed"
    assert compare(clock, written) == "before"
    assert {name for name in SERVERS if written.get(name, 0) != clock.get(name, 0)} == {server}


def test_a_server_that_is_not_named_has_version_0() -> None:
    assert compare({}, {"A": 0}) == "equal"
    assert compare({}, {"A": 1}) == "before"
    assert increment({}, "A") == {"A": 1}


def test_writes_through_two_servers_are_concurrent() -> None:
    assert compare(increment({}, "A"), increment({}, "B")) == "concurrent"


# ---- what they get wrong ----


def classic_put(stored: dict[str, Clock], value: str, clock: Clock) -> dict[str, Clock]:
    """As Dynamo did: of two values the one goes whose clock is at or below the other's."""
    if any(compare(clock, other) in {"equal", "before"} for other in stored.values()):
        return stored
    return {name: other for name, other in stored.items() if compare(other, clock) != "before"} | {value: clock}


def payloads(state: dvvset.VersionSet) -> set[bytes]:
    return set(dvvset.values(state, 0)[0])


@pytest.mark.parametrize("schedule", ["one write each", "one goes on"])
def test_classic_clocks_lose_a_concurrent_write_through_one_server_and_the_store_keeps_both(schedule: str) -> None:
    """Anne and Bob write through server A, and neither has seen anything of the other's."""
    actor = b"server-A"

    def body(payload: bytes) -> bytes:
        return pack_body(payload.ljust(16, b"-"), payload)

    anne = increment({}, "A")
    if schedule == "one goes on":
        anne = increment(anne, "A")  # Anne writes again, with the context of her first write
    bob = increment({}, "A")
    assert compare(bob, anne) == ("before" if schedule == "one goes on" else "equal")
    for order in [("anne", "bob"), ("bob", "anne")]:
        stored: dict[str, Clock] = {}
        for name in order:
            stored = classic_put(stored, name, {"anne": anne, "bob": bob}[name])
        assert len(stored) == 1, "a write that nobody had seen is gone"

    first = dvvset.event((actor, 1), (), 1, body(b"anne"))
    writes = [first, dvvset.event((actor, 2), (), 2, body(b"bob"))]
    if schedule == "one goes on":
        writes.append(dvvset.event((actor, 3), dvvset.join(first).seen, 3, body(b"anne, again")))
    for arriving in (writes, writes[::-1]):
        state = dvvset.EMPTY
        for write in arriving:
            state = dvvset.sync(state, write)
        assert payloads(state) == {b"bob", b"anne, again" if schedule == "one goes on" else b"anne"}
