"""What is known of claims stays bounded, and keeps nobody alive."""

from __future__ import annotations

import gc
from typing import Any

from raykv.client.job_claims import MOST_KNOWN, JobClaims


class Listening:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def settling(self, claim: Any, more: int) -> None:
        self.heard.append((claim, more))

    def settled(self, claim: Any, places: Any) -> None:
        self.heard.append((claim, places))


def test_the_latest_claims_are_known() -> None:
    known = JobClaims()
    claims = [(number % 4, b"%08d" % number) for number in range(3 * MOST_KNOWN)]
    for number, claim in enumerate(claims):
        known.note_made(claim, float(number))
        known.note_settled(claim, ())
    assert known.made_s(claims[-1]) == len(claims) - 1
    assert known.has_settled(claims[-1])
    assert known.made_s(claims[0]) is None
    assert not known.has_settled(claims[0])
    assert max(len(known._made_s), len(known._settled)) <= MOST_KNOWN


def test_those_who_hold_jobs_hear_of_them_for_as_long_as_they_are_there() -> None:
    known, first, second = JobClaims(), Listening(), Listening()
    known.add(first)
    known.add(second)
    known.note_settling((1, b"c"), 1)
    known.note_settled((1, b"c"), {7})
    assert first.heard == second.heard == [((1, b"c"), 1), ((1, b"c"), {7})]
    del second
    gc.collect()
    assert len(known._holders) == 1
    known.note_settling((1, b"c"), -1)
    assert len(first.heard) == 3
