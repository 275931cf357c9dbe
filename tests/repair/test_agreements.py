"""What all owners agreed on: since when, how much of it is remembered, and for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.repair import agreements
from raykv.repair.agreements import Agreements

if TYPE_CHECKING:
    import pytest


def entries(bucket_id: int, count: int) -> list[tuple[int, bytes, int]]:
    return [(bucket_id, b"\x02k%d" % number, number) for number in range(count)]


def note(agreed: Agreements, partition: int, bucket_id: int, count: int, now_s: float = 1.0) -> int:
    """Note up to so many; return how many the place then has."""
    for entry in entries(bucket_id, count):
        agreed.since_s(partition, entry, now_s)
    return len(agreed.of(partition, bucket_id))


def test_the_first_time_counts() -> None:
    agreed, (entry,) = Agreements("n1"), entries(1, 1)
    assert agreed.since_s(3, entry, 5.0) is None
    assert agreed.since_s(3, entry, 9.0) == 5.0
    assert agreed.since_s(4, entry, 9.0) is None, "another partition"
    agreed.forget(3, [entry, *entries(2, 1)])
    assert agreed.since_s(3, entry, 10.0) is None
    assert len(agreed) == 2


def test_each_place_has_its_share_when_half_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreements, "MAX_AGREED", 40)
    agreed = Agreements("n1")
    assert note(agreed, 0, 1, 100) == 20
    assert note(agreed, 1, 1, 100) == 10
    assert note(agreed, 1, 2, 100) == 6
    assert sum(note(agreed, partition, 1, 100) for partition in range(2, 50)) == 4
    assert len(agreed) == 40
    agreed.forget(0, entries(1, 100))
    assert note(agreed, 60, 1, 1) == 1, "there is room again"
    assert len(agreed) == 21


def test_only_what_is_held_is_kept() -> None:
    agreed = Agreements("n1")
    for partition, bucket_id, count in ((0, 1, 3), (0, 2, 4), (1, 1, 5)):
        note(agreed, partition, bucket_id, count)
    agreed.retain(lambda partition, bucket_id: (partition, bucket_id) != (0, 2))
    assert len(agreed) == 8
    assert agreed.of(0, 2) == []
    agreed.retain(lambda *_: False)
    assert len(agreed) == 0
