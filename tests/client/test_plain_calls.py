"""The decoded result of a plain call of the coordinator's actor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from client_values import FAILED, found, gone_module

from raykv.client.plain_calls import decode_handed
from raykv.client.writes import WriteResult
from raykv.errors import BatchError, CorruptData, InvalidOption, QuorumNotMet
from raykv.protocol import frames as f
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
