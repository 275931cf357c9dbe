"""What a node is asked for: operations a second, how long they take, which partitions and keys draw most.

Counted in windows of ten seconds; what is told is the last one that is over. Operations are counted all, keys and
partitions by a sample (every seventh, fewer after a busy window), and keys only as many as there is room for: the
*space-saving* counters of Metwally, Agrawal and El Abbadi ("Efficient Computation of Frequent and Top-k Elements in Data
Streams", ICDT 2005). With m counters every key that draws more than 1/m of all is among them, and none is counted too low.

Pure: whoever uses it hands in the time.
"""

from __future__ import annotations

from collections import Counter
from math import ceil, log
from typing import TYPE_CHECKING, Any, TypeVar

from raykv.protocol.requests import NODE, Metered
from raykv.records.keys import storage_prefix
from raykv.ring import partition_of_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.protocol import frames as f

T = TypeVar("T")

WINDOW_S = 10.0
SAMPLED, SAMPLED_WHEN_BUSY = 7, 61
"""Every so manieth key is looked at. Primes, so that no batch of even length hides one."""
BUSY = 50_000
"""So many operations in a window are enough for a sample of the fewer."""
COUNTERS = 64
TOLD = 5
"""So many partitions and keys are told of."""
_LEAST_S, _GROWTH = 1e-5, 1.2


class SpaceSaving:
    """The keys that come most often, counted in bounded space. ``add`` is O(counters) when a new one comes, else O(1)."""

    def __init__(self, counters: int = COUNTERS) -> None:
        self._room = counters
        self._counts: dict[bytes, int] = {}

    def add(self, key: bytes) -> None:
        """Count one more of this key, in place of the rarest if there is no room."""
        counts = self._counts
        if key in counts or len(counts) < self._room:
            counts[key] = counts.get(key, 0) + 1
            return
        rarest = min(counts, key=counts.__getitem__)
        counts[key] = counts.pop(rarest) + 1

    def most(self, count: int) -> list[tuple[bytes, int]]:
        """Return the keys with the highest counts, the highest first."""
        return sorted(self._counts.items(), key=lambda entry: (-entry[1], entry[0]))[:count]


class LoadMeter:
    """One node's load. Tell it of each request from a client; ask it for the last window."""

    def __init__(self, partitions: int, now_s: float) -> None:
        self._partitions = partitions
        self._every = self._skip = SAMPLED
        """The so manieth item from here on is looked at."""
        self._last: dict[str, Any] = {}
        self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        self._began_s = now_s
        self._operations = 0
        self._times: Counter[int] = Counter()
        self._by_partition: Counter[int] = Counter()
        self._by_key = SpaceSaving()

    def note(self, request: f.NodeRequestBody, taken_s: float, now_s: float) -> None:
        """Count a request as the table of requests says (``metered``)."""
        if now_s - self._began_s >= WINDOW_S:
            self._turn(now_s)
        traits = NODE[type(request)]
        if traits.metered is Metered.BY_KEY:
            assert traits.bucket is not None
            assert traits.concerns.items is not None
            for item in self._sampled(traits.concerns.items(request)):
                self._count(traits.bucket(request), traits.concerns.key(item))
        elif traits.metered is Metered.ONCE:
            self._operations += 1
        else:
            return
        self._times[max(0, ceil(log(max(taken_s, _LEAST_S) / _LEAST_S, _GROWTH)))] += 1

    def _sampled(self, items: Sequence[T]) -> Sequence[T]:
        """Count the items of a request; return those that are to be looked at."""
        count, skip = len(items), self._skip
        self._operations += count
        if count < skip:
            self._skip = skip - count
            return ()
        every = self._every
        self._skip = every - (count - skip) % every
        return items[skip - 1 :: every]

    def _count(self, bucket_id: int, key: bytes) -> None:
        partition = partition_of_key(key, self._partitions)
        self._by_partition[partition] += 1
        self._by_key.add(storage_prefix(partition, bucket_id) + key)

    def _turn(self, now_s: float) -> None:
        """End the window if it is over."""
        lasted_s = now_s - self._began_s
        if lasted_s >= WINDOW_S:
            self._last = self._told(lasted_s)
            self._every = SAMPLED if self._operations < BUSY else SAMPLED_WHEN_BUSY
            self._skip = min(self._skip, self._every)
            self._begin(now_s)

    def _told(self, lasted_s: float) -> dict[str, Any]:
        scale = self._every / lasted_s
        return {
            "ops_per_s": round(self._operations / lasted_s, 1),
            "p99_ms": round(self._percentile(0.99) * 1000, 3),
            "partitions": [[at, round(seen * scale, 1)] for at, seen in self._by_partition.most_common(TOLD)],
            "keys": [[key, round(seen * scale, 1)] for key, seen in self._by_key.most(TOLD)],
        }

    def _percentile(self, share: float) -> float:
        """Return a time that so great a share of the answers took no longer than, to a fifth."""
        needed, seen = share * self._times.total(), 0
        for step in sorted(self._times):
            seen += self._times[step]
            if seen >= needed:
                return float(_LEAST_S * _GROWTH**step)
        return 0.0

    def figures(self, now_s: float) -> dict[str, Any]:
        """Return the last window as plain data; empty until one is over.

        ``partitions``, ``keys``: those that drew most, with their operations a second; a key as in the storage.
        """
        self._turn(now_s)
        return dict(self._last)
