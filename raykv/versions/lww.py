"""Last writer wins: of two records of a key, the one with the greater stamp stands.

A stamp is hybrid time then operation id (``raykv.records.record``); its 24 bytes compare as it does. Equal stamps mean
the same write: the operation id is random, and a retry keeps its stamp.
"""

from __future__ import annotations

from raykv.records.record import stamp_of


def merge(stored: bytes | None, incoming: bytes) -> bytes:
    """Return the record that stands. Commutative, associative, idempotent."""
    if stored is None or stamp_of(incoming) > stamp_of(stored):
        return incoming
    return stored


def covers(stored: bytes | None, record: bytes) -> bool:
    """Return whether a replica that holds ``stored`` holds ``record`` or something newer."""
    return stored is not None and stamp_of(stored) >= stamp_of(record)
