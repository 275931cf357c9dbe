"""How many connections each caller may have, and who gives way."""

from __future__ import annotations

import pytest

from raykv.transport import callers
from raykv.transport.callers import Caller, Callers


class Guest:
    def __init__(self, house: Callers, caller: Caller, came_s: float) -> None:
        self.house, self.caller, self.came_s = house, caller, came_s
        self.idle = True
        self.dropped = False
        self.went_on = 0

    def go_on(self) -> None:
        self.went_on += 1

    def drop(self) -> None:
        self.dropped = True
        self.house.left(self)


def stranger(house: Callers, name: str, now_s: float = 0.0, *, far: bool = False) -> Guest | None:
    caller = house.let_in(name, now_s, far=far)
    if caller is None:
        return None
    guest = Guest(house, caller, now_s)
    house.came(guest)
    return guest


def friends(house: Callers, name: str, count: int, *, far: bool = False) -> list[Guest]:
    """Let a number of callers try; return those that may stay."""
    came = [stranger(house, name, far=far) for _ in range(count)]
    return [guest for guest in came if guest is not None and house.proved(guest)]


@pytest.fixture(autouse=True)
def many_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "MAX_STRANGERS_OF_A_CALLER", 50)


def test_a_process_has_a_part_and_a_host_half_of_all() -> None:
    house = Callers(80)
    assert len(friends(house, "process 1", 50)) == 10
    assert len(friends(house, "10.0.0.2", 50, far=True)) == 40
    assert stranger(house, "process 1") is None, "it is not even looked at"
    assert len(friends(house, "process 2", 5)) == 5


def test_where_there_is_no_room_the_caller_with_the_most_gives_way() -> None:
    house = Callers(16)
    large = friends(house, "10.0.0.2", 8, far=True)
    for name in ("1", "2", "3", "4"):
        assert len(friends(house, name, 2)) == 2
    large[0].idle = False
    assert len(friends(house, "5", 1)) == 1
    assert [guest.dropped for guest in large] == [False, True] + [False] * 6, "the oldest with nothing under way"
    assert len(house.friends) == 16
    for guest in large:
        guest.idle = False
    assert len(friends(house, "6", 1)) == 1
    assert large[0].dropped, "all are busy, so the oldest"
    assert not friends(house, "1", 1), "it has its share"


def test_nobody_gives_way_to_a_caller_with_as_much() -> None:
    house = Callers(8)
    for number in range(8):
        assert len(friends(house, str(number), 1)) == 1
    assert friends(house, "late", 1) == [], "all have one"


def test_strangers_of_a_caller_are_bounded_and_an_old_one_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "MAX_STRANGERS_OF_A_CALLER", 2)
    house = Callers(80)
    first, _ = stranger(house, "1"), stranger(house, "1")
    assert stranger(house, "1", callers.SOON_S / 2) is None, "a flood is refused at once"
    assert stranger(house, "1", callers.SOON_S * 2) is not None
    assert first is not None
    assert first.dropped
    assert len(house.strangers) == 2


def test_where_too_many_have_proved_nothing_the_one_with_the_most_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "MAX_STRANGERS", 4)
    house = Callers(80)
    flood = [stranger(house, "flood") for _ in range(4)]
    assert stranger(house, "flood") is None
    assert stranger(house, "honest") is not None
    assert [guest is not None and guest.dropped for guest in flood] == [True, False, False, False]


def test_what_is_under_way_counts_on_when_its_connections_are_gone() -> None:
    house = Callers(80)
    (guest,) = friends(house, "1", 1)
    guest.caller.under_way, guest.caller.under_way_bytes = 2, 20
    guest.drop()
    (again,) = friends(house, "1", 1)
    assert again.caller is guest.caller
    again.caller.held_up[again] = None
    house.done(guest, 15)
    assert (again.caller.under_way, again.caller.under_way_bytes, again.went_on) == (1, 5, 1)
    again.drop()
    assert house.by_name
    house.done(guest, 5)
    assert not house.by_name, "nothing of it is left"
