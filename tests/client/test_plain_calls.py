"""The decoded result of a plain call of the coordinator's actor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from client_values import FAILED, found, gone_module

from raykv.client.plain_calls import decode_handed
from raykv.client.version import Version, Versioned
from raykv.client.writes import WriteResult
from raykv.errors import BatchError, Conflict, CorruptData, InvalidOption, QuorumNotMet
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.protocol.changes import cell
from raykv.records.keys import encode_key
from raykv.versions.causality import NOTHING_SEEN
from raykv.versions.context import place_of, seal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def handed(answer: Any, *, single: bool, codec: str = "auto", places: Sequence[bytes] = ()) -> Any:
    return decode_handed(f.handed_answers.encode(f.HandleAnswer(single, codec, answer, list(places))))


def test_handed_answers_decode() -> None:
    assert handed(f.GotMany([found((1, 2))]), single=True) == (1, 2)
    assert handed(f.GotMany([f.KeyVersions([])]), single=True) is None
    assert handed(f.GotMany([found(1), f.KeyVersions([])]), single=False) == [1, None]
    place = place_of("fake", 1, encode_key("a"))
    wrote = handed(f.WroteMany([f.Acked(b"\xab", ["n1"], NOTHING_SEEN)]), single=True, places=[place])
    assert wrote == WriteResult(("n1",), "ab", seal(NOTHING_SEEN, place))
    with pytest.raises(CorruptData):
        handed(f.WroteMany([f.Acked(b"\xab", ["n1"], NOTHING_SEEN)]), single=True)
    with pytest.raises(QuorumNotMet):
        handed(f.GotMany([FAILED]), single=True)
    with pytest.raises(QuorumNotMet):
        handed(f.Refused(FAILED), single=False)
    with pytest.raises(BatchError) as caught:
        handed(f.GotMany([found(1), FAILED]), single=False)
    assert list(caught.value.errors) == [1]
    with pytest.raises(CorruptData):
        handed(f.Info(1), single=True)
    with pytest.raises(CorruptData):
        decode_handed(b"junk")
    with pytest.raises(CorruptData, match="never unpickles"):
        handed(f.GotMany([found((1, 2))]), single=True, codec="msgpack")


def test_a_handed_batch_keeps_results_and_errors_apart() -> None:
    with pytest.raises(BatchError) as caught:
        handed(f.GotMany([found(1), FAILED]), single=False)
    assert caught.value.results == {0: 1}


def test_a_handed_batch_settles_each_value_by_itself() -> None:
    with pytest.raises(BatchError) as caught:
        handed(f.GotMany([found(1), f.KeyVersions([gone_module()]), FAILED, found(None)]), single=False)
    assert caught.value.results == {0: 1, 3: None}
    assert {index: type(error) for index, error in caught.value.errors.items()} == {1: CorruptData, 2: QuorumNotMet}


def test_a_value_that_is_an_error_is_a_value(both: Callable[..., Any]) -> None:
    kept = InvalidOption("kept")
    assert handed(f.GotMany([found(kept)]), single=True).message == "kept"
    assert handed(f.GotMany([found(kept)]), single=False)[0].message == "kept"
    both("put", "a", kept)
    assert both("get", "a").message == both("get_many", ["a"])["a"].message == "kept"
    assert [value.message for _, value in both("scan")] == ["kept"]


PUT_A = f.Change(encode_key("a"), c.PUT)
ADD_A = f.Change(encode_key("a"), c.ADD)
SWAP_A = f.Change(encode_key("a"), c.SWAP)
VERSION = bytes(range(24))


def changed(change: f.Change, *items: Any, single: bool = True, codec: str = "auto") -> Any:
    answer = f.HandleChanges(single, codec, list(items), [change] * len(items), "ab-1")
    return decode_handed(f.handed_answers.encode(answer))


def test_what_changes_bring_decodes() -> None:
    written = changed(PUT_A, f.Settled(c.DONE, VERSION))
    assert (written.acks, written.operation_id, written.version) == ((), "ab-1", Version(VERSION))
    assert changed(ADD_A, f.Settled(c.DONE, VERSION, cell(7))) == 7
    assert changed(SWAP_A, f.Settled(c.DONE, VERSION, b"\x01former")) == "former"
    assert changed(SWAP_A, f.Settled(c.DONE, VERSION)) is None
    assert changed(PUT_A, single=False) == []


def test_a_refused_change_raises_what_stands() -> None:
    with pytest.raises(Conflict, match=r"'a' has a value$") as caught:
        changed(f.Change(encode_key("a"), c.PUT, condition=b""), f.Settled(c.CONFLICT, VERSION, b"\x01kept"))
    assert (caught.value.key, caught.value.value, caught.value.version) == ("a", "kept", Version(VERSION))
    with pytest.raises(InvalidOption, match="no 64-bit integer"):
        changed(ADD_A, f.Settled(c.NO_NUMBER, VERSION))
    with pytest.raises(BatchError) as several:
        changed(PUT_A, f.Settled(c.DONE, VERSION), f.Settled(c.FENCED, VERSION, b"\x01later"), FAILED, single=False)
    assert [*several.value.results] == [0]
    assert {index: type(error) for index, error in several.value.errors.items()} == {1: Conflict, 2: QuorumNotMet}
    assert several.value.errors[1].value == "later"


def test_changes_without_their_requests_are_no_answer() -> None:
    answer = f.HandleChanges(True, "auto", [f.Settled(c.DONE, VERSION)], [], "ab-1")
    with pytest.raises(CorruptData, match="wrong kind of message"):
        decode_handed(f.handed_answers.encode(answer))


def test_a_value_with_its_version_decodes() -> None:
    there = f.HandleVersioned("auto", f.GotMany([f.KeyVersions([b"\x01kept"], False, VERSION)]))
    assert decode_handed(f.handed_answers.encode(there)) == Versioned("kept", Version(VERSION))
    absent = f.HandleVersioned("auto", f.GotMany([f.KeyVersions([])]))
    assert decode_handed(f.handed_answers.encode(absent)) == Versioned(None, Version())
    for answer, error in (
        (f.GotMany([FAILED]), QuorumNotMet),
        (f.Refused(FAILED), QuorumNotMet),
        (f.GotMany([]), CorruptData),
    ):
        with pytest.raises(error):
            decode_handed(f.handed_answers.encode(f.HandleVersioned("auto", answer)))
