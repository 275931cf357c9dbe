"""The requests of one bucket: arguments checked, keys and values encoded, before anything is sent.

``Requests`` is the base of all operations on a bucket: the bucket, its policy, and the handle's part (its resolver, its
session's clock, its pickler). Every invalid argument is detected here, in the caller's own call.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from raykv.client.codecs import TAG_BYTES, Decode, Pickle, decode_of, encode_in_cells, encode_value, pickle_plainly
from raykv.client.lanes import Lanes
from raykv.client.session_clock import SessionClock
from raykv.config import MAX_PAIR_BYTES, BucketConfig, check_level, check_ttl
from raykv.errors import InvalidOption, PairTooLarge
from raykv.protocol import frames as f
from raykv.records.keys import Key, encode_key
from raykv.records.record import OPERATION_ID_BYTES, pack_body, pack_tombstone_body
from raykv.versions.context import place_of
from raykv.versions.resolvers import Resolver, is_newest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

Item: TypeAlias = tuple[bytes, bytes, bytes | None]
"""A write: encoded key, body, and the causality of the context it was given."""


class Requests:
    """Makes the requests of one bucket."""

    def __init__(
        self,
        bucket_id: int,
        config: BucketConfig,
        store_id: str = "",
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        session_clock: SessionClock | None = None,
        resolver: Resolver = "newest",
        pickled: Pickle = pickle_plainly,
        decode: Decode = decode_of,
        lanes: Lanes | None = None,
    ) -> None:
        """``random_bytes`` draws operation ids; ``pickled`` pickles values that are not plain; ``decode`` reads values."""
        self.bucket_id = bucket_id
        self.config = config
        self.store_id = store_id
        self.resolver = resolver
        self._newest = is_newest(resolver)
        self._pickled = pickled
        self._decode = decode
        self._random_bytes = random_bytes
        self._session_clock = session_clock or SessionClock(time.monotonic)
        self._lanes = lanes or Lanes(random_bytes)
        self._contended: dict[bytes, float] = {}
        """Encoded key -> until when others are taken to write it too (``atomic``)."""
        self._encode = encode_in_cells if config.versioning == "linearizable" else encode_value

    def now_s(self) -> float:
        """Seconds by the client's monotonic clock."""
        return self._session_clock.now_s()

    def read_request(self, keys: Iterable[Key], r: Any, timeout_s: float, *, causality: bool = False) -> f.GetMany:
        """Return the request for these keys."""
        replicas = self.check_r(r)
        return f.GetMany(self.bucket_id, [encode_key(key) for key in keys], replicas, timeout_s, causality)

    def check_r(self, r: Any) -> int:
        """Return how many replicas a read asks. Raises ``InvalidOption``."""
        if r is not None and self.config.versioning == "linearizable":
            raise InvalidOption(
                f"bucket {self.config.name!r} is linearizable and takes no r: it reads a majority, or from the leader"
            )
        return check_level("r", self.config.r if r is None else r, self.config.n)

    def write_request(self, pairs: Iterable[tuple[Key, Any]], w: Any, ttl: Any, timeout_s: float) -> f.WriteMany:
        """Return the request that writes these pairs. Every invalid argument is detected here."""
        replicas = check_level("w", self.config.w if w is None else w, self.config.n)
        ttl_ms = self.config.ttl_ms if ttl is None else check_ttl(ttl)
        ids = _operation_ids(self._random_bytes)
        items: list[Item] = []
        for key, value in pairs:
            encoded = encode_key(key)
            items.append((encoded, pack_body(next(ids), self._payload(encoded, value), ttl_ms), None))
        return f.WriteMany(self.bucket_id, items, replicas, timeout_s)

    def delete_request(self, keys: Iterable[Key], w: Any, timeout_s: float) -> f.WriteMany:
        """Return the request that deletes these keys."""
        replicas = check_level("w", self.config.w if w is None else w, self.config.n)
        ids = _operation_ids(self._random_bytes)
        items: list[Item] = [(encode_key(key), pack_tombstone_body(next(ids)), None) for key in keys]
        return f.WriteMany(self.bucket_id, items, replicas, timeout_s)

    def _place(self, key: bytes) -> bytes:
        return place_of(self.store_id, self.bucket_id, key)

    def _payload(self, key: bytes, value: Any) -> bytes:
        payload = self._encode(value, self.config.codec, self._pickled)
        key_bytes = len(key) - TAG_BYTES
        pair_bytes = key_bytes + len(payload) - TAG_BYTES
        if pair_bytes > self.config.pair_bytes:
            raise PairTooLarge(
                f"the pair has {pair_bytes} bytes (key {key_bytes}, encoded value {pair_bytes - key_bytes}), and bucket "
                f"{self.config.name!r} allows at most {self.config.pair_bytes} (its pair_bytes). Nothing was sent. "
                + _way_out(pair_bytes),
                size_bytes=pair_bytes,
                limit_bytes=self.config.pair_bytes,
            )
        return payload


def _way_out(pair_bytes: int) -> str:
    """Return what to do with a pair that is too large for its bucket."""
    if pair_bytes <= MAX_PAIR_BYTES:
        return f"A bucket that is made for such pairs takes it: store.bucket(name, pair_bytes={pair_bytes}), or more"
    return f"No bucket takes more than {MAX_PAIR_BYTES}: store parts of it under several keys, or a file, and here its path"


def _operation_ids(random_bytes: Callable[[int], bytes]) -> Generator[bytes, None, None]:
    """Draw operation ids in bulk: a system call for each would cost as much as the rest of a put."""
    count = 1
    while True:
        drawn = random_bytes(count * OPERATION_ID_BYTES)
        for at in range(0, len(drawn), OPERATION_ID_BYTES):
            yield drawn[at : at + OPERATION_ID_BYTES]
        count = min(2 * count, 256)
