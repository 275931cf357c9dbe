"""The merge of two records of a key, and a reader's view of one: the same questions for both kinds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.errors import CorruptData
from raykv.records import linear_record as linear
from raykv.records import vector_record as vector
from raykv.records.kinds import header_of
from raykv.records.linear_record import LinearRecord, Receipt
from raykv.records.record import pack_body, pack_tombstone_body, stamp
from raykv.records.vector_record import Dot, Seen, Sibling, VersionSet
from raykv.versions import dvvset, lww, time_from_ms
from raykv.versions.causality import Causality, with_dot
from raykv.versions.merging import (
    Shown,
    causality_of,
    covers,
    dead_since_ms,
    merge,
    merge_bounded,
    only_value,
    seen_and_shown,
    shown,
)

A, B, C = b"a" * 8, b"b" * 8, b"c" * 8
MINE, OTHERS = b"run-1---actor-1-", b"run-2---actor-2-"
NOW_MS = 1_000_000


def operation(number: int) -> bytes:
    return bytes([number]) * 16


def last_writer(number: int, time: int) -> bytes:
    body = pack_tombstone_body(operation(number)) if number == 3 else pack_body(operation(number), bytes([number]))
    return stamp(body, time)


def record_of(fates: dict[Dot, bool]) -> bytes:
    """Dot -> whether it stands. The time and the body go with the dot: one dot, one write."""
    seen: Seen = ()
    for dot in fates:
        seen = with_dot(seen, dot)
    stand = sorted(dot for dot in fates if fates[dot])
    return vector.encode(
        VersionSet(
            seen, tuple(Sibling(*dot, dot[1] % 3, pack_body((dot[0] * 2)[:15] + bytes([dot[1]]), b"")) for dot in stand)
        )
    )


def linear_record(term: int, seq: int) -> bytes:
    """Term and seq name one byte string (L6); now and then it is a delete, or one that a later term has confirmed."""
    term_, payload = linear.pack_term(term, term % 3), None if seq == 3 else bytes([term, seq])
    origin = linear.pack_term(1, 1) + seq.to_bytes(8) if seq % 2 else b""
    receipts = (Receipt(b"lanelane", seq, 0),) if seq == 2 else ()
    return linear.encode(LinearRecord(term_, seq, time_from_ms(seq), payload, origin, 0, receipts))


DOTS = st.tuples(st.sampled_from([A, B, C]), st.integers(1, 4))
VECTORS = st.dictionaries(DOTS, st.booleans(), max_size=8).map(record_of)
LAST_WRITERS = st.builds(last_writer, st.integers(0, 3), st.integers(0, 3))
LINEARS = st.builds(linear_record, st.integers(0, 4), st.integers(1, 4))
KINDS = (VECTORS, LAST_WRITERS, LINEARS)
PAIRS = st.one_of([st.tuples(kind, kind) for kind in KINDS])
TRIPLES = st.one_of([st.tuples(kind, kind, kind) for kind in KINDS])


def versions(*siblings: tuple[Dot, int, bytes], seen: Seen = ()) -> bytes:
    """Return a vector record in which these (dot, hybrid time, body) stand."""
    state = VersionSet(seen)
    for dot, time, body in siblings:
        state = dvvset.sync(state, dvvset.event(dot, (), time, body))
    return vector.encode(state)


def payloads_of(record: bytes | None, now_ms: int) -> list[bytes]:
    return shown(record, now_ms).payloads


# ---- two records ----


@settings(deadline=None)
@given(TRIPLES)
def test_merge_is_commutative_associative_and_idempotent_for_each_kind(records: tuple[bytes, bytes, bytes]) -> None:
    one, two, three = records
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, one) == one == merge(None, one)
    assert merge(merge(one, two), two) == merge(one, two)


@settings(deadline=None)
@given(PAIRS)
def test_what_was_merged_covers_both_and_only_the_greater_covers_the_other(records: tuple[bytes, bytes]) -> None:
    one, other = records
    kept = merge(one, other)
    assert covers(kept, one)
    assert covers(kept, other)
    assert covers(one, one)
    assert covers(one, other) == (kept == one)
    assert not covers(None, one)


@settings(deadline=None)
@given(LAST_WRITERS, LAST_WRITERS)
def test_the_last_writer_wins_where_that_is_the_kind(one: bytes, other: bytes) -> None:
    assert merge(one, other) == lww.merge(one, other)
    assert covers(one, other) == lww.covers(one, other)


@settings(deadline=None)
@given(LINEARS, LINEARS)
def test_the_later_term_wins_and_in_a_term_the_later_seq(one: bytes, other: bytes) -> None:
    first, second = linear.decode(one), linear.decode(other)
    is_later = (second.term, second.seq) > (first.term, first.seq)
    assert merge(one, other) == merge_bounded(one, other) == (other if is_later else one)
    assert covers(one, other) == (not is_later)


@settings(deadline=None)
@given(VECTORS, VECTORS)
def test_vector_records_are_synced(one: bytes, other: bytes) -> None:
    synced = dvvset.sync(vector.decode(one), vector.decode(other))
    assert merge(one, other) == vector.encode(synced)


@given(VECTORS, VECTORS)
def test_where_one_replaces_the_other_it_is_what_both_make(one: bytes, other: bytes) -> None:
    new, old = vector.decode(other), vector.decode(one)
    assert vector.seen_of(one) == old.seen == vector.seen_of(vector.with_own(one, MINE))
    if dvvset.replaces(new, old.seen):
        assert dvvset.sync(old, new) == new


def test_a_write_that_has_seen_what_stands_replaces_it_and_one_that_has_not_does_not() -> None:
    first = dvvset.event((A, 1), (), 1, b"first")
    assert dvvset.replaces(dvvset.event((B, 1), first.seen, 2, b"second"), first.seen)
    assert not dvvset.replaces(dvvset.event((B, 1), (), 2, b"beside"), first.seen)
    assert not dvvset.replaces(first, dvvset.event((B, 1), first.seen, 2, b"second").seen), "it was superseded"


def test_concurrent_versions_stay_side_by_side_and_what_was_seen_goes() -> None:
    anne = versions(((A, 1), 1, pack_body(operation(1), b"anne")))
    bob = versions(((B, 1), 2, pack_body(operation(2), b"bob")))
    merged = merge(anne, bob)
    assert shown(merged, 0).payloads == [b"bob", b"anne"]
    seen = causality_of(merged).seen
    resolved = vector.encode(dvvset.event((A, 2), seen, 3, pack_body(operation(3), b"both")))
    assert shown(merge(merged, resolved), 0).payloads == [b"both"]
    assert covers(resolved, merged)
    assert not covers(merged, resolved)


@pytest.mark.parametrize(
    ("stored", "incoming", "kept"),
    [(b"", b"", b""), (MINE, b"", MINE), (b"", MINE, MINE), (OTHERS, MINE, MINE), (MINE, MINE, MINE)],
)
def test_the_nodes_own_part_is_the_incoming_one_else_the_stored_one(
    stored: bytes, incoming: bytes, kept: bytes
) -> None:
    one = versions(((A, 1), 1, pack_body(operation(1), b"x")))
    other = versions(((B, 1), 2, pack_body(operation(2), b"y")))
    merged = merge(vector.with_own(one, stored), vector.with_own(other, incoming))
    assert vector.own_of(merged) == kept
    assert vector.with_own(merged, b"") == merge(one, other)
    again = merge(vector.with_own(one, stored), vector.with_own(one, incoming))
    assert vector.own_of(again) == kept, "also where there is nothing new"
    assert merge(None, vector.with_own(one, incoming)) == vector.with_own(one, incoming)


@settings(deadline=None)
@given(VECTORS, VECTORS)
def test_what_a_node_keeps_for_itself_does_not_change_what_it_covers(stored: bytes, record: bytes) -> None:
    assert covers(vector.with_own(stored, MINE), record) == covers(stored, record)


LWW_RECORD = last_writer(1, 5)
VECTOR_RECORD = versions(((A, 1), 1, pack_body(operation(1), b"x")))
LINEAR_RECORD = linear_record(1, 1)
MIXED = pytest.mark.parametrize(
    ("stored", "incoming"),
    [
        (LWW_RECORD, VECTOR_RECORD),
        (VECTOR_RECORD, LWW_RECORD),
        (vector.with_own(VECTOR_RECORD, MINE), LWW_RECORD),
        (LINEAR_RECORD, LWW_RECORD),
        (LWW_RECORD, LINEAR_RECORD),
        (LINEAR_RECORD, VECTOR_RECORD),
        (VECTOR_RECORD, LINEAR_RECORD),
    ],
    ids=[
        "vector on lww",
        "lww on vector",
        "lww on a vector record with an own part",
        "lww on linear",
        "linear on lww",
        "vector on linear",
        "linear on vector",
    ],
)


@MIXED
def test_records_of_two_kinds_do_not_merge(stored: bytes, incoming: bytes) -> None:
    with pytest.raises(CorruptData, match="kinds"):
        merge(stored, incoming)


@MIXED
def test_a_record_of_one_kind_is_not_compared_with_one_of_the_other(stored: bytes, incoming: bytes) -> None:
    with pytest.raises(CorruptData, match="kinds"):
        covers(stored, incoming)


# ---- what a reader sees ----


def test_the_newest_value_comes_first_and_a_tie_goes_by_operation_whatever_the_actor() -> None:
    record = versions(
        ((A, 1), 5, pack_body(operation(1), b"tied, lower")),
        ((A, 2), 9, pack_body(operation(3), b"newest")),
        ((B, 1), 2, pack_body(operation(9), b"oldest")),
        ((C, 1), 5, pack_body(operation(2), b"tied, higher")),
    )
    assert shown(record, 0).payloads == [b"newest", b"tied, higher", b"tied, lower", b"oldest"]


def test_each_sibling_expires_for_itself_after_its_own_time() -> None:
    early, late = time_from_ms(NOW_MS), time_from_ms(NOW_MS + 500)
    record = versions(
        ((A, 1), early, pack_body(operation(1), b"short", 1000)),
        ((B, 1), late, pack_body(operation(2), b"later", 1000)),
        ((C, 1), early, pack_body(operation(3), b"for ever")),
    )
    assert shown(record, NOW_MS + 999).payloads == [b"later", b"for ever", b"short"]
    assert shown(record, NOW_MS + 1000).payloads == [b"later", b"for ever"]
    assert shown(record, NOW_MS + 1499).payloads == [b"later", b"for ever"]
    assert shown(record, NOW_MS + 1500).payloads == [b"for ever"]


def test_a_tombstone_hides_what_its_writer_saw_and_nothing_beside() -> None:
    value = dvvset.event((A, 1), (), 1, pack_body(operation(1), b"seen"))
    deleted = dvvset.event((A, 2), dvvset.join(value).seen, 9, pack_tombstone_body(operation(2)))
    concurrent = dvvset.event((B, 1), (), 2, pack_body(operation(3), b"not seen"))
    record = merge(merge(vector.encode(value), vector.encode(deleted)), vector.encode(concurrent))
    assert payloads_of(record, 0) == [b"not seen"]
    assert causality_of(record) == Causality(9, ((A, 1, 2), (B, 1, 1)))


@pytest.mark.parametrize(("deleted_at", "gone"), [(9, True), (1, False)])
def test_a_delete_newer_than_all_values_is_reported_and_hides_none(deleted_at: int, gone: bool) -> None:
    record = versions(
        ((A, 1), deleted_at, pack_tombstone_body(operation(1))),
        ((B, 1), 5, pack_body(operation(2), b"newer")),
        ((C, 1), 4, pack_body(operation(3), b"older")),
    )
    assert shown(record, 0) == Shown([b"newer", b"older"], gone)


def test_a_delete_at_the_time_of_a_value_is_newer_if_its_operation_is() -> None:
    value = pack_body(operation(5), b"tied")
    for number, gone in [(4, False), (6, True)]:
        record = versions(((A, 1), 7, value), ((B, 1), 7, pack_tombstone_body(operation(number))))
        assert shown(record, 0) == Shown([b"tied"], gone)


def test_an_expired_version_newer_than_all_values_is_reported_and_hides_none() -> None:
    record = versions(
        ((A, 1), time_from_ms(NOW_MS), pack_body(operation(1), b"stays")),
        ((B, 1), time_from_ms(NOW_MS) + 1, pack_body(operation(2), b"goes", 10)),
    )
    assert shown(record, NOW_MS + 9) == Shown([b"goes", b"stays"], gone=False)
    assert shown(record, NOW_MS + 10) == Shown([b"stays"], gone=True)


def test_where_only_tombstones_stand_there_is_no_value_but_a_context() -> None:
    record = versions(
        ((A, 1), 4, pack_tombstone_body(operation(1))),
        ((B, 1), 7, pack_tombstone_body(operation(2))),
        seen=((C, 1, 3),),
    )
    assert shown(record, 0) == Shown([], gone=False)
    assert causality_of(record) == Causality(7, ((A, 1, 1), (B, 1, 1), (C, 1, 3)))


def test_an_expired_value_is_not_seen_but_belongs_to_the_context() -> None:
    record = versions(((A, 1), 4, pack_body(operation(1), b"gone", 1)))
    assert shown(record, NOW_MS) == Shown([], gone=False)
    assert causality_of(record) == Causality(4, ((A, 1, 1),))


@pytest.mark.parametrize("now_ms", [NOW_MS, NOW_MS + 10])
def test_a_header_shows_as_many_values_as_the_record(now_ms: int) -> None:
    record = versions(
        ((A, 1), time_from_ms(NOW_MS), pack_body(operation(1), b"stays")),
        ((B, 1), time_from_ms(NOW_MS) + 1, pack_body(operation(2), b"goes", 10)),
        ((C, 1), 3, pack_tombstone_body(operation(3))),
    )
    whole, bare = shown(record, now_ms), shown(header_of(record), now_ms)
    assert bare == Shown([b""] * len(whole.payloads), whole.gone)
    assert causality_of(header_of(record)) == causality_of(record)


def test_of_a_linearizable_buckets_record_there_is_one_value_or_none_whatever_the_clock_says() -> None:
    value, deleted = linear_record(2, 2), linear_record(2, 3)
    for record, payloads in ((value, [b"\2\2"]), (deleted, [])):
        assert shown(record, NOW_MS) == Shown(payloads)
        assert seen_and_shown(record, NOW_MS) == (causality_of(record), Shown(payloads))
        assert causality_of(header_of(record)) == causality_of(record)
        assert shown(header_of(record), 0) == Shown([b""] * len(payloads))
        assert only_value(record) is None, "its time orders nothing, and must not be adopted"


def test_a_delete_of_a_linearizable_bucket_is_as_old_as_its_leaders_clock_said_and_a_value_has_no_age() -> None:
    assert dead_since_ms(linear_record(2, 3)) == 3 == dead_since_ms(header_of(linear_record(2, 3)))
    assert dead_since_ms(linear_record(2, 2)) is None
    assert dead_since_ms(header_of(linear_record(2, 2))) is None


def test_of_a_last_writer_wins_record_there_is_one_value_and_a_time() -> None:
    record = stamp(pack_body(operation(1), b"one", 1000), time_from_ms(NOW_MS))
    assert shown(record, NOW_MS) == Shown([b"one"], gone=False)
    assert shown(record, NOW_MS + 1000) == Shown([], gone=False)
    assert causality_of(record) == Causality(time_from_ms(NOW_MS), ())
    deleted = last_writer(3, 6)
    assert shown(deleted, 0) == Shown([], gone=False)
    assert causality_of(deleted) == Causality(6, ())


def test_of_nothing_there_is_no_value_and_nothing_was_seen() -> None:
    for record in (None, vector.encode(VersionSet())):
        assert shown(record, 0) == Shown([], gone=False)
        assert causality_of(record) == Causality(0, ())
