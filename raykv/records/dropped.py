"""Which of a node's records belong to dropped buckets, as data: compactions leave those out, in another process too."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from raykv.records.keys import STORAGE_PREFIX_BYTES, is_private
from raykv.records.limits import MAX_BUCKET_ID, MAX_BUCKETS, BucketId


class DroppedBuckets(msgspec.Struct, frozen=True, array_like=True):
    """All bucket ids given so far, but for the living ones. An id not yet given is not "dropped".

    A node with an old state must not drop the records of a bucket that it does not know yet.
    """

    next_bucket_id: Annotated[int, Meta(ge=0, le=MAX_BUCKET_ID + 1)]
    """All ids below it have been given."""
    living: Annotated[frozenset[BucketId], Meta(max_length=MAX_BUCKETS)]

    def has(self, bucket_id: int) -> bool:
        """Whether that id belonged to a bucket that was dropped. O(1)."""
        return bucket_id < self.next_bucket_id and bucket_id not in self.living

    def covers(self, storage_key: bytes) -> bool:
        """Whether a record under that key belonged to such a bucket. O(1)."""
        return (
            len(storage_key) >= STORAGE_PREFIX_BYTES
            and not is_private(storage_key)
            and self.has(int.from_bytes(storage_key[2:STORAGE_PREFIX_BYTES]))
        )
