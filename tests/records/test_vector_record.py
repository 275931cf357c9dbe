"""Vector records: one state, one form; refusal of all else; what a header keeps and what never travels."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.errors import CorruptData
from raykv.records import vector_record as v
from raykv.records.record import MAX_RECORD_BYTES, pack_body, pack_tombstone_body, stamp, unpack
from raykv.records.vector_record import Seen, Sibling, VersionSet

A, B = b"a" * 8, b"b" * 8
ID = bytes(range(16))
OWN = b"the run-the id--"
BODIES = st.one_of(
    st.builds(
        pack_body,
        st.binary(min_size=16, max_size=16),
        st.binary(max_size=20),
        st.none() | st.integers(1, 2**63),
    ),
    st.builds(pack_tombstone_body, st.binary(min_size=16, max_size=16)),
)
TIMES = st.integers(0, 2**64 - 1)


@st.composite
def histories(draw: st.DrawFn) -> Seen:
    """Draw gaps and lengths, so that every form there is can come."""
    spans = []
    for actor in sorted(draw(st.frozensets(st.binary(min_size=8, max_size=8) | st.sampled_from([A, B]), max_size=3))):
        after = 0
        for gap, length in draw(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300)), max_size=3)):
            low = after + gap + (after > 0)
            spans.append((actor, low, low + length))
            after = low + length
    return tuple(spans)


@st.composite
def version_sets(draw: st.DrawFn) -> VersionSet:
    seen = draw(histories())
    dots = sorted({(actor, counter) for actor, low, high in seen for counter in (low, high)})
    standing = [dot for dot in dots if draw(st.booleans())]
    return VersionSet(seen, tuple(Sibling(*dot, draw(TIMES), draw(BODIES)) for dot in standing))


def public(seen: object, siblings: object) -> bytes:
    """Return the bytes of a record with anything in it."""
    return bytes([v.KIND_VECTOR, 0]) + msgspec.msgpack.encode([seen, siblings])


PUT = pack_body(ID, b"\x00value")
STATE = VersionSet(((A, 1, 3), (B, 2, 2)), (Sibling(A, 3, 7 << 16, PUT), Sibling(B, 2, 5, pack_tombstone_body(ID))))
RECORD = v.encode(STATE)


# ---- what goes in comes out ----


@settings(deadline=None)
@given(version_sets())
def test_a_state_comes_back_as_it_was(state: VersionSet) -> None:
    record = v.encode(state)
    assert v.check(record) == state
    assert v.decode(record) == state
    assert hash(v.decode(record)) == hash(state), "it is made of tuples again"
    assert v.own_of(record) == b""


@settings(deadline=None)
@given(version_sets(), version_sets())
def test_equal_states_are_equal_bytes_and_others_are_not(one: VersionSet, other: VersionSet) -> None:
    assert (v.encode(one) == v.encode(other)) == (one == other)
    assert v.encode(v.decode(v.encode(one))) == v.encode(one)


@settings(deadline=None)
@given(version_sets(), st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_the_own_part_is_put_on_and_taken_off_and_changes_nothing_else(
    state: VersionSet, own: bytes, other: bytes
) -> None:
    record = v.encode(state)
    mine = v.with_own(record, own)
    assert mine == v.encode(state, own)
    assert v.own_of(mine) == own
    assert v.decode(mine) == state
    assert v.with_own(mine, other) == v.encode(state, other)
    assert v.with_own(mine, own) == mine
    assert v.with_own(mine, b"") == record
    assert v.with_own(record, b"") == record


@settings(deadline=None)
@given(version_sets(), st.binary(min_size=16, max_size=16), TIMES)
def test_a_header_keeps_all_that_decides_what_is_seen_and_drops_the_payloads(
    state: VersionSet, own: bytes, now: int
) -> None:
    header = v.header(v.encode(state))
    bare = v.check(header)
    assert bare.seen == state.seen
    assert [one._replace(payload=b"") for one in records_of(state)] == records_of(bare)
    now_ms = now >> 16
    assert [one.live(now_ms) for one in records_of(bare)] == [one.live(now_ms) for one in records_of(state)]
    assert v.header(header) == header
    assert v.header(v.encode(state, own)) == header, "the own part stays at home"


def records_of(state: VersionSet) -> list:
    return [sibling.record for sibling in state.siblings]


def test_a_header_is_shorter_by_the_payloads() -> None:
    body = pack_body(ID, bytes(1000), 60_000)
    record = v.encode(VersionSet(((A, 1, 2),), (Sibling(A, 1, 1, body), Sibling(A, 2, 1, body))))
    assert len(v.header(record)) < len(record) - 2000 <= len(v.header(record)) + 8


def test_a_sibling_is_a_record_of_its_own() -> None:
    assert STATE.siblings[0].record == unpack(stamp(PUT, 7 << 16))
    assert STATE.siblings[0].dot == (A, 3)


@pytest.mark.parametrize(
    ("record", "golden"),
    [
        (RECORD,
         "0200929293c408616161616161616101039 3c4086262626262626262020292"
         "94c408616161616161616103ce00070000c417000102030405060708090a0b0c0d0e0f000076616c7565"
         "94c40862626262626262620205c411000102030405060708090a0b0c0d0e0f01"),
        (v.encode(VersionSet(), OWN), "02107468652072756e2d7468652069642d2d929090"),
        (v.encode(VersionSet()), "0200929090"),
    ],
    ids=["two versions", "an own part", "nothing"],
)  # fmt: skip
def test_the_bytes_of_a_vector_record_never_change(record: bytes, golden: str) -> None:
    assert record.hex() == golden.replace(" ", "")


# ---- refused ----


@pytest.mark.parametrize(
    ("seen", "siblings"),
    [
        ([[A, 1, 3], [B, 2, 2]], [[B, 2, 1, PUT], [A, 3, 1, PUT]]),
        ([[A, 1, 3]], [[A, 3, 1, PUT], [A, 2, 1, PUT]]),
        ([[A, 1, 3]], [[A, 3, 1, PUT], [A, 3, 1, PUT]]),
        ([[A, 1, 3]], [[A, 3, 1, PUT], [A, 3, 2, PUT]]),
        ([[A, 1, 3]], [[A, 4, 1, PUT]]),
        ([[A, 2, 3]], [[A, 1, 1, PUT]]),
        ([[A, 1, 1], [A, 3, 3]], [[A, 2, 1, PUT]]),
        ([[A, 1, 3]], [[B, 1, 1, PUT]]),
        ([], [[A, 1, 1, PUT]]),
        ([[A, 1, 3]], [[A, 0, 1, PUT]]),
        ([[A, 1, 3]], [[A[:7], 1, 1, PUT]]),
        ([[A, 1, 3]], [[A, 1, -1, PUT]]),
        ([[A, 1, 3]], [[A, 1, 1, b""]]),
        ([[A, 1, 3]], [[A, 1, 1, PUT[:16]]]),
        ([[A, 1, 3]], [[A, 1, 1, ID + b"\x03"]]),
        ([[A, 1, 3]], [[A, 1, 1, pack_tombstone_body(ID) + b"x"]]),
    ],
    ids=[
        "versions unsorted by actor", "versions unsorted by counter", "a version twice", "a dot twice",
        "beyond its history", "below its history", "in a gap of its history", "of an actor not in its history",
        "no history", "counter 0", "actor too short", "time negative", "no body", "body too short", "no such flags",
        "tombstone with a payload",
    ],
)  # fmt: skip
def test_versions_that_cannot_be_are_corrupt(seen: object, siblings: object) -> None:
    with pytest.raises(CorruptData):
        v.check(public(seen, siblings))


@pytest.mark.parametrize(
    "seen",
    [
        [[B, 1, 1], [A, 1, 1]], [[A, 3, 3], [A, 1, 1]], [[A, 1, 1], [A, 2, 2]], [[A, 1, 2], [A, 2, 3]],
        [[A, 1, 1], [A, 1, 1]], [[A, 0, 1]], [[A, -1, 1]], [[A, 2, 1]], [[A, 1, 1 << 63]], [[A[:7], 1, 1]],
        [[A + b"a", 1, 1]], [[b"", 1, 1]],
    ],
    ids=[
        "actors unsorted", "counters unsorted", "adjacent", "overlapping", "twice", "counter 0", "negative",
        "ends before it begins", "counter too high", "actor too short", "actor too long", "no actor",
    ],
)  # fmt: skip
def test_a_history_in_another_form_is_corrupt(seen: object) -> None:
    with pytest.raises(CorruptData):
        v.check(public(seen, []))


@pytest.mark.parametrize(
    "rest",
    [
        None, 7, b"", "text", {}, [None, []], [[], None], [[[A, 1]], []], [[[A, 1, 1, 1]], []], [[["a" * 8, 1, 1]], []],
        [[[A, 1.5, 2]], []], [[[A, 1, 1]], [[A, 1, 1]]], [[[A, 1, 1]], [A]], [[[A, 1, 1]], [[A, 1, 1, "x" * 20]]],
        {"seen": [], "siblings": []},
    ],
    ids=repr,
)  # fmt: skip
def test_another_shape_is_corrupt(rest: object) -> None:
    record = b"\x02\x00" + msgspec.msgpack.encode(rest)
    for ask in (v.check, v.decode, v.header):
        with pytest.raises(CorruptData):
            ask(record)


@pytest.mark.parametrize(
    "rest",
    [
        "90",
        "9190",
        "93909000",
        "dc00029090",
        "dd000000029090",
        "92dc000090",
        "929193c4086161616161616161cc010190",
        "929193c408616161616161616101cf000000000000000190",
        "929193c408616161616161616101d30000000000000001" + "90",
        "929193c5000861616161616161610101" + "90",
        "92" + "9193c40861616161616161610101" + "9195c408616161616161616101" + "05c411" + ID.hex() + "01" + "00",
    ],
    ids=[
        "no fields", "no versions", "a field more", "array16", "array32", "array16 inside", "uint8", "uint64", "int64",
        "bin16", "a version with a field more",
    ],
)  # fmt: skip
def test_the_same_state_in_another_form_is_corrupt(rest: str) -> None:
    """Replicas compare by bytes: two forms of one state would never be equal, and be mended for ever."""
    with pytest.raises(CorruptData):
        v.check(bytes.fromhex("0200" + rest))


def test_the_nodes_own_part_must_not_travel() -> None:
    with pytest.raises(CorruptData, match="travel"):
        v.check(v.with_own(RECORD, OWN))
    assert v.check(v.with_own(v.with_own(RECORD, OWN), b"")) == STATE


@pytest.mark.parametrize("size", [1, 8, 15, 17, 255])
def test_an_own_part_of_another_size_is_corrupt(size: int) -> None:
    record = bytes([v.KIND_VECTOR, size]) + bytes(size) + RECORD[2:]
    for ask in (v.check, v.decode, v.own_of, v.header):
        with pytest.raises(CorruptData):
            ask(record)
    with pytest.raises(AssertionError):
        v.encode(STATE, bytes(size))


@pytest.mark.parametrize("kind", [0, 1, 3, 255])
def test_a_record_of_another_kind_is_corrupt(kind: int) -> None:
    for ask in (v.check, v.decode, v.own_of, v.header):
        with pytest.raises(CorruptData):
            ask(bytes([kind]) + RECORD[1:])


@pytest.mark.parametrize("record", [RECORD, v.with_own(RECORD, OWN)], ids=["public", "with an own part"])
def test_a_truncated_record_is_corrupt_at_every_length(record: bytes) -> None:
    for length in range(len(record)):
        for ask in (v.check, v.decode, v.header):
            with pytest.raises(CorruptData):
                ask(record[:length])
    for ask in (v.check, v.decode, v.header):
        with pytest.raises(CorruptData):
            ask(record + b"\x00")


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(lambda rest: b"\x02\x00" + rest),
        st.binary(max_size=60).map(lambda rest: b"\x02\x00\x92" + rest),
    )
)
def test_garbage_is_corrupt_or_a_complete_record_and_never_another_error(data: bytes) -> None:
    try:
        state = v.check(data)
    except CorruptData:
        return
    assert v.encode(state) == data, "one state, one form"


@settings(deadline=None, max_examples=300)
@given(version_sets(), st.data())
def test_a_damaged_record_is_corrupt_or_another_complete_record(state: VersionSet, data: st.DataObject) -> None:
    damaged = bytearray(v.encode(state))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        taken = v.check(bytes(damaged))
    except CorruptData:
        return
    assert v.encode(taken) == damaged, "one state, one form"


def test_a_record_may_be_so_long_and_no_longer() -> None:
    def of(*payload_bytes: int) -> bytes:
        bodies = [pack_body(ID, bytes(size)) for size in payload_bytes]
        siblings = tuple(Sibling(A, number, 1, body) for number, body in enumerate(bodies, 1))
        return v.encode(VersionSet(((A, 1, len(bodies)),), siblings))

    mib = 1 << 20
    left = v.MAX_VECTOR_RECORD_BYTES - len(of(*[mib] * 14, 100_000)) + 100_000
    fits = of(*[mib] * 14, left)
    assert len(fits) == v.MAX_VECTOR_RECORD_BYTES
    v.check(fits)
    with pytest.raises(CorruptData, match="too long"):
        v.check(of(*[mib] * 14, left + 1))


def test_a_version_may_be_as_long_as_a_record_and_no_longer() -> None:
    longest = MAX_RECORD_BYTES - len(stamp(pack_body(ID, b""), 0))
    v.check(v.encode(VersionSet(((A, 1, 1),), (Sibling(A, 1, 1, pack_body(ID, bytes(longest))),))))
    with pytest.raises(CorruptData):
        v.check(v.encode(VersionSet(((A, 1, 1),), (Sibling(A, 1, 1, pack_body(ID, bytes(longest + 1))),))))


def test_the_spans_of_a_history_are_bounded() -> None:
    spans = tuple((A, 2 * number + 1, 2 * number + 1) for number in range(v.MAX_SPANS + 1))
    assert v.check(v.encode(VersionSet(spans[:-1]))).seen == spans[:-1]
    with pytest.raises(CorruptData, match=f"at most {v.MAX_SPANS}"):
        v.check(v.encode(VersionSet(spans)))
