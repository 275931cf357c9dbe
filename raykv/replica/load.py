"""A node's workload: operations a second, their latencies, the hottest partitions and keys.

Counts go by windows of ten seconds; figures are of the last complete one. All operations count, keys and partitions by a
sample (every seventh, fewer after a busy window), and keys only within a bounded space: the
*space-saving* counters of Metwally, Agrawal and El Abbadi ("Efficient Computation of Frequent and Top-k Elements in Data
Streams", ICDT 2005). With m counters every key that draws more than 1/m of all is among them, and none is counted too low.

Pure: the caller passes in the time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from raykv.protocol.nodes import Write
from raykv.protocol.requests import NODE, Metered
from raykv.records.keys import storage_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.protocol import frames as f

T = TypeVar("T")

WINDOW_S = 10.0
SAMPLED, SAMPLED_WHEN_BUSY = 7, 61
"""One key in seven, or in 61 after a busy window, is sampled. Primes, so that no batch of even length hides a key."""
BUSY = 50_000
"""Operations in a window above which the next one samples less."""
COUNTERS = 64
SHOWN = 5
"""The number of partitions and keys in the figures."""
_STEPS_S = [1e-5 * 1.2**step for step in range(90)]
"""The steps in which latencies are counted, up to two minutes."""
BOUNDS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""The upper bounds of the histograms that are reported; each to the nearest step below."""
MAX_HISTOGRAMS = 500
"""Kinds of requests times buckets; those of further buckets are not kept apart."""


class SpaceSaving:
    """The most frequent keys, counted in bounded space. ``add`` is O(counters) for a new key, else O(1)."""

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
    """One node's load. Takes each request from a client; returns the figures of the last window."""

    def __init__(
        self,
        partition_of: Callable[[int, bytes], int],
        now_s: float,
        is_there: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """``partition_of(bucket_id, key)``: of an encoded key. ``is_there(bucket_id)``: whether it was not dropped."""
        self._partition_of = partition_of
        self._is_there = is_there
        self._every = self._skip = SAMPLED
        """The distance in items to the next sampled one (1: the next item)."""
        self._last: dict[str, Any] = {}
        self._histograms: dict[tuple[type, int], list[float]] = {}
        """(Kind, bucket id) -> requests by ``_STEPS_S``, those beyond, and the sum of their times in seconds."""
        self._large: dict[bytes, int] = {}
        """Storage key -> bytes of the record, of the largest ones written since the start."""
        self._large_bytes = 0
        """What is not above it is not among them."""
        self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        self._began_s = now_s
        self._operations = 0
        self._times: Counter[int] = Counter()
        self._by_partition: Counter[int] = Counter()
        self._by_key = SpaceSaving()

    def note(self, request: f.NodeRequestBody, taken_s: float, now_s: float) -> None:
        """Count a request by its row in the table of requests (``metered``)."""
        if now_s - self._began_s >= WINDOW_S:
            self._turn(now_s)
        traits = NODE[type(request)]
        if traits.metered is Metered.BY_KEY:
            concerns = traits.concerns
            assert concerns.items is not None
            for item in self._sampled(concerns.items(request)):
                self._count(concerns.bucket(request, item), concerns.key(item))
            if type(request) is Write:
                for key, record in request.items:
                    if len(record) > self._large_bytes:
                        self._note_large(request.bucket_id, key, len(record))
        elif traits.metered is Metered.ONCE:
            self._operations += 1
        else:
            return
        step = bisect_left(_STEPS_S, taken_s)
        self._times[step] += 1
        histogram = self._histograms.get((type(request), request.bucket_id))  # type: ignore[union-attr]  # all metered have
        if histogram is None and (histogram := self._begin_histogram(request)) is None:
            return
        histogram[step] += 1
        histogram[-1] += taken_s

    def _begin_histogram(self, request: f.NodeRequestBody) -> list[float] | None:
        """Return a new histogram; None if there are too many. Those of dropped buckets go."""
        for each in [each for each in self._histograms if not self._is_there(each[1])]:
            del self._histograms[each]
        if len(self._histograms) >= MAX_HISTOGRAMS:
            return None
        histogram = [0.0] * (len(_STEPS_S) + 2)
        self._histograms[type(request), request.bucket_id] = histogram  # type: ignore[union-attr]  # as above
        return histogram

    def _sampled(self, items: Sequence[T]) -> Sequence[T]:
        """Count the items of a request; return the sampled ones."""
        count, skip = len(items), self._skip
        self._operations += count
        if count < skip:
            self._skip = skip - count
            return ()
        every = self._every
        self._skip = every - (count - skip) % every
        return items[skip - 1 :: every]

    def _count(self, bucket_id: int, key: bytes) -> None:
        partition = self._partition_of(bucket_id, key)
        self._by_partition[partition] += 1
        self._by_key.add(storage_prefix(partition, bucket_id) + key)

    def _note_large(self, bucket_id: int, key: bytes, size_bytes: int) -> None:
        """Keep the largest, in place of the smallest of these."""
        place = storage_prefix(self._partition_of(bucket_id, key), bucket_id) + key
        self._large[place] = max(size_bytes, self._large.get(place, 0))
        if len(self._large) > SHOWN:
            del self._large[min(self._large, key=self._large.__getitem__)]
        if len(self._large) == SHOWN:
            self._large_bytes = min(self._large.values())

    def largest(self) -> list[list[Any]]:
        """Return the largest pairs written since the start: each key as in the storage, with the bytes of its record."""
        return [[key, size_bytes] for key, size_bytes in sorted(self._large.items(), key=lambda each: -each[1])]

    def _turn(self, now_s: float) -> None:
        """End the window if it is over."""
        lasted_s = now_s - self._began_s
        if lasted_s >= WINDOW_S:
            self._last = self._summary(lasted_s)
            self._every = SAMPLED if self._operations < BUSY else SAMPLED_WHEN_BUSY
            self._skip = min(self._skip, self._every)
            self._begin(now_s)

    def _summary(self, lasted_s: float) -> dict[str, Any]:
        scale = self._every / lasted_s
        return {
            "ops_per_s": round(self._operations / lasted_s, 1),
            "p99_ms": round(self._percentile(0.99) * 1000, 3),
            "partitions": [[at, round(seen * scale, 1)] for at, seen in self._by_partition.most_common(SHOWN)],
            "keys": [[key, round(seen * scale, 1)] for key, seen in self._by_key.most(SHOWN)],
        }

    def _percentile(self, share: float) -> float:
        """Return the latency at the percentile ``share`` of the answers, to a fifth."""
        needed, seen = share * self._times.total(), 0
        for step in sorted(self._times):
            seen += self._times[step]
            if seen >= needed:
                return _STEPS_S[min(step, len(_STEPS_S) - 1)]
        return 0.0

    def latencies(self) -> list[dict[str, Any]]:
        """Return the histograms since the start as plain data: requests up to each bound, not cumulated."""
        edges = [0, *(bisect_right(_STEPS_S, bound_s) for bound_s in BOUNDS_S)]
        return [
            {
                "kind": kind.__name__,
                "bucket_id": bucket_id,
                "counts": [
                    [bound_s, int(sum(histogram[begin:end]))]
                    for bound_s, begin, end in zip(BOUNDS_S, edges, edges[1:], strict=False)
                ],
                "beyond": int(sum(histogram[edges[-1] : -1])),
                "sum_s": histogram[-1],
            }
            for (kind, bucket_id), histogram in self._histograms.items()
        ]

    def figures(self, now_s: float) -> dict[str, Any]:
        """Return the last window as plain data; empty until one is over.

        ``partitions``, ``keys``: the hottest ones, with their operations a second; a key as in the storage.
        """
        self._turn(now_s)
        return dict(self._last)
