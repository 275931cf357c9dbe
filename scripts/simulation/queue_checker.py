"""What must hold of a work queue: no job is lost, none comes back, none is held by two.

By what consumers were told: a delivery with its number, and what became of it. A later number means a later delivery; that
it came to a consumer later means nothing, for consumers stand still. An ack that was tried again after its lease may be
granted for what another has done.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import msgspec

from simulation.history import Violation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CLOSE_S = 1e-6

PutOutcome = Literal["ok", "refused", "unknown"]
Settled = Literal["", "acked", "ack unknown", "ack refused", "nacked"]


class PutOp(msgspec.Struct, frozen=True):
    """A job that was put, once or by a retry under its name. Times in virtual seconds."""

    client: str
    value: str
    outcome: PutOutcome
    job_id: str
    at_s: float
    due_s: float = 0.0
    """It is not to be delivered before."""


class Delivery(msgspec.Struct):
    """One job of a claim, as its consumer saw it."""

    client: str
    value: str
    job_id: str
    number: int
    """How often the job was delivered, this time included."""
    held_since_s: float
    """When the claim was asked for, or its last renewal that was granted."""
    lease_s: float
    asked_s: float
    got_s: float
    settled: Settled = ""
    settling_s: float = float("inf")
    """When its consumer began to ack or nack it."""
    settled_s: float = float("inf")
    due_s: float = 0.0
    """Given back, it is not to be delivered before."""

    def told(self) -> str:
        """Return a line for people."""
        return (
            f"{self.client} got {self.value} ({self.job_id}, delivery {self.number}) at {self.got_s:.4f}, lease "
            f"{self.lease_s:g} from {self.held_since_s:.4f}, {self.settled or 'not settled'} at {self.settled_s:.4f}"
        )


def check_queue(
    puts: Sequence[PutOp],
    deliveries: Sequence[Delivery],
    dead: Mapping[str, int],
    max_deliveries: int,
    *,
    drained: bool,
) -> list[Violation]:
    """Return what must not be. O(jobs * deliveries of a job squared).

    ``dead``: id -> number of deliveries, of the dead letters at the end. ``drained``: whether nothing else was left.
    """
    found: list[Violation] = []

    def report(rule: str, text: str, at_s: float) -> None:
        found.append(Violation(rule, "", text, at_s))

    by_job: dict[str, list[Delivery]] = defaultdict(list)
    for each in deliveries:
        by_job[each.job_id].append(each)
    ids_of: dict[str, set[str]] = defaultdict(set)
    values_of: dict[str, set[str]] = defaultdict(set)
    due_s: dict[str, float] = {}
    outcomes: dict[str, set[PutOutcome]] = defaultdict(set)
    for put in puts:
        outcomes[put.value].add(put.outcome)
        if put.job_id:
            ids_of[put.value].add(put.job_id)
            values_of[put.job_id].add(put.value)
            due_s[put.job_id] = min(put.due_s, due_s.get(put.job_id, put.due_s))
    for each in deliveries:
        ids_of[each.value].add(each.job_id)
        values_of[each.job_id].add(each.value)
        if each.got_s < due_s.get(each.job_id, 0.0) - _CLOSE_S:
            report("delivered too early", f"due at {due_s[each.job_id]:.4f}: {each.told()}", each.got_s)
        if not outcomes[each.value] - {"refused"}:
            report("job from nowhere", f"nothing was to have been put: {each.told()}", each.got_s)
        if each.number > max_deliveries:
            report("delivered too often", f"{max_deliveries} deliveries are to be the last: {each.told()}", each.got_s)
    for value, ids in ids_of.items():
        if len(ids) > 1:
            report("put twice", f"{value} is {len(ids)} jobs: {', '.join(sorted(ids))}", 0.0)
    for job_id, values in values_of.items():
        if len(values) > 1:
            report("put over another", f"{job_id} is {len(values)} jobs: {', '.join(sorted(values))}", 0.0)
    for job_id, number in dead.items():
        if number < max_deliveries:
            report("dead too soon", f"{job_id} was delivered {number} times, and may be {max_deliveries} times", 0.0)
        if done := [each for each in by_job[job_id] if each.settled == "acked"]:
            report("dead and done", done[0].told(), done[0].settled_s)
    for several in by_job.values():
        for one, other in combinations(sorted(several, key=lambda each: each.number), 2):
            found += _of_two(one, other)
    for put in puts if drained else ():
        ended = any(each.settled in {"acked", "ack unknown"} for each in by_job[put.job_id])
        if put.outcome == "ok" and not ended and put.job_id not in dead:
            told = "; ".join(each.told() for each in by_job[put.job_id]) or "never delivered"
            report("job lost", f"{put.value} ({put.job_id}), put at {put.at_s:.4f} by {put.client}: {told}", put.at_s)
    return found


def _of_two(one: Delivery, other: Delivery) -> list[Violation]:
    """Return what must not be of two deliveries of a job, the second of which has the higher number."""
    both = f"{one.told()}; {other.told()}"
    if one.number == other.number:
        return [Violation("one delivery to two", "", both, other.got_s)]
    if one.settled == "acked" and one.settled_s < other.asked_s:
        return [Violation("done and delivered", "", both, other.got_s)]
    if one.settled == other.settled == "acked" and one.settled_s <= one.held_since_s + one.lease_s:
        return [Violation("done twice", "", both, other.settled_s)]
    if one.settled == "nacked" and other.number == one.number + 1 and other.got_s < one.due_s - _CLOSE_S:
        return [Violation("delivered too early", "", f"due at {one.due_s:.4f}: {both}", other.got_s)]
    over_s = min(one.settling_s, one.held_since_s + one.lease_s)
    if other.got_s < over_s - _CLOSE_S:
        return [Violation("job held by two", "", both, other.got_s)]
    return []
