from __future__ import annotations

import pytest

from raykv.cli.demo_history import ABSENT, FIRST, History


def loaded(*keys: str) -> History:
    history = History()
    for key in keys:
        history.begin(key, first=True)
        history.acknowledged(key)
    return history


def allowed(history: History, key: str, revisions: range = range(-1, 6)) -> list[int]:
    return [revision for revision in revisions if history.allows(key, revision)]


def test_a_key_that_was_never_written_is_absent() -> None:
    assert allowed(History(), "a") == [ABSENT]


def test_after_an_acknowledgement_only_that_write_may_be_read() -> None:
    history = loaded("a", "b")
    assert allowed(history, "a") == [FIRST]
    assert history.begin("a") == 1
    history.acknowledged("a")
    assert allowed(history, "a") == [1]
    assert allowed(history, "b") == [FIRST]
    assert history.acknowledged_writes == 3


def test_a_first_write_of_unknown_outcome_may_stand_or_not() -> None:
    history = History()
    history.begin("a", first=True)
    history.unknown("a")
    assert allowed(history, "a") == [ABSENT, FIRST]
    assert history.acknowledged_writes == 0


def test_later_unknown_writes_stay_possible_until_one_is_acknowledged() -> None:
    history = loaded("a")
    for _ in range(2):
        history.begin("a")
        history.unknown("a")
    assert allowed(history, "a") == [FIRST, 1, 2]
    history.begin("a")
    history.acknowledged("a")
    assert allowed(history, "a") == [3]


def test_revisions_are_unique_over_all_keys_and_belong_to_their_key() -> None:
    history = loaded("a", "b")
    assert (history.begin("a"), history.begin("b")) == (1, 2)
    history.acknowledged("a")
    history.acknowledged("b")
    assert allowed(history, "a") == [1]
    assert allowed(history, "b") == [2]


def test_what_nobody_wrote_is_never_allowed() -> None:
    assert not loaded("a").allows("a", None)


def test_a_read_may_find_what_stood_when_it_began_and_what_was_written_meanwhile() -> None:
    history = loaded("a")
    history.begin("a")
    history.acknowledged("a")
    expectation = history.expect("a")
    for _ in range(2):
        history.begin("a")
        history.acknowledged("a")
    history.begin("a")  # still under way
    assert [revision for revision in range(-1, 6) if history.allows("a", revision, expectation)] == [1, 2, 3, 4]


def test_a_write_under_way_may_be_read() -> None:
    history = loaded("a")
    history.begin("a")
    assert history.allows("a", 1, history.expect("a"))


def test_writes_of_one_key_come_one_after_another() -> None:
    history = loaded("a")
    history.begin("a")
    with pytest.raises(ValueError, match="under way"):
        history.begin("a")
