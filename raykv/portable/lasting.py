"""Reads and puts that outlast the death of a node.

A single call gives up after its time-out, which suits somebody who waits for it. A job of hours should not end because a
node was started again: here each step is tried anew, with pauses, until ``PATIENCE_S`` have brought nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.errors import (
    BatchError,
    Conflict,
    Overloaded,
    QuorumNotMet,
    RaykvError,
    StoreUnavailable,
    WriteOutcomeUnknown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from raykv.client.store import Bucket
    from raykv.records.keys import Key

PATIENCE_S = 300.0
"""For so long a step is tried anew before its error ends the job."""
CALL_TIMEOUT_S = 30.0
"""Of each attempt: those of many tasks at once may take a while, and to give up early only adds to the load."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
PASSING = (Overloaded, QuorumNotMet, StoreUnavailable)
"""Errors after which nothing was written, and which pass by themselves."""
_AGAIN = (*PASSING, WriteOutcomeUnknown)
"""Writing the same value again is safe where the outcome is unknown."""
_ABSENT: Any = object()


class Patience:
    """How long to go on trying: counts from the first failure after a success."""

    def __init__(self, patience_s: float | None = None) -> None:
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self.succeeded()

    def succeeded(self) -> None:
        """Begin again."""
        self._until_s: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def pause(self, error: RaykvError) -> None:
        """Wait before the next attempt; raise the error if there is no time for another."""
        now_s = time.monotonic()
        if self._until_s is None:
            self._until_s = now_s + self._patience_s
        if now_s + self._pause_s > self._until_s:
            raise error
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def pairs_of(
    scan: Callable[[Key | None], Iterator[tuple[Any, Any]]], after: Key | None = None
) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs of ``scan(after)``, each once; where a page fails for now, go on behind the last pair."""
    patience = Patience()
    while True:
        try:
            for pair in scan(after):
                after = pair[0]
                patience.succeeded()
                yield pair
            return
        except PASSING as error:
            patience.pause(error)


def values_of(bucket: Bucket[Any, Any], keys: Sequence[Key]) -> dict[Any, Any]:
    """Return ``{key: value}`` of those keys that have a value. Raises the error of a key that cannot be read."""
    patience, left, found = Patience(), [*keys], dict[Any, Any]()
    while left:
        try:
            read = bucket.get_many(left, _ABSENT, timeout=CALL_TIMEOUT_S)
            left = []
        except BatchError as error:
            read, failed = error.results, error.errors
            lasting = next((each for each in failed.values() if not isinstance(each, PASSING)), None)
            if lasting is not None:
                raise lasting from None
            if len(failed) < len(left):
                patience.succeeded()
            left = [*failed]
            patience.pause(failed[left[0]])
        except PASSING as error:
            patience.pause(error)
            continue
        found |= {key: value for key, value in read.items() if value is not _ABSENT}
    return found


class Put(NamedTuple):
    """What became of pairs that were put."""

    pairs: int = 0
    """Acknowledged, with those that gave way to a later one of the same key."""
    skipped: int = 0
    """With ``if_absent``: those whose key had a value, or stands earlier among them."""
    retries: int = 0
    """Puts that were sent again."""


def put_all(bucket: Bucket[Any, Any], pairs: Sequence[tuple[Any, Any]], *, if_absent: bool = False) -> Put:
    """Put all pairs, trying anew those that the store cannot take now. Raises the error of one that it refuses.

    Of several with one key the last stands, as if they were put one by one; with ``if_absent``, the first.
    """
    patience, left = Patience(), dict(reversed(pairs) if if_absent else pairs)
    doubled = len(pairs) - len(left)
    done = Put(skipped=doubled) if if_absent else Put(doubled)
    unknown: set[Any] = set()
    while left:
        failed: dict[Any, RaykvError] = {}
        try:
            bucket.put_many(left, if_absent=if_absent, timeout=CALL_TIMEOUT_S)
        except BatchError as error:
            failed = error.errors
        except PASSING as error:
            failed = dict.fromkeys(left, error)
        there = {each: error for each, error in failed.items() if isinstance(error, Conflict)}
        lasting = next((each for each in failed if each not in there and not isinstance(failed[each], _AGAIN)), None)
        if lasting is not None:
            raise failed[lasting]
        again = {each: left[each] for each in failed if each not in there}
        # A put of ours whose outcome was unknown is in its own way.
        own = sum(each in unknown and _same(error.value, left[each]) for each, error in there.items())
        done = Put(
            done.pairs + len(left) - len(failed) + own, done.skipped + len(there) - own, done.retries + len(again)
        )
        unknown |= {each for each in again if isinstance(failed[each], WriteOutcomeUnknown)}
        if len(again) < len(left):
            patience.succeeded()
        if again:
            patience.pause(failed[next(iter(again))])
        left = again
    return done


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - values compare by their own code; an array has no truth
        return False
