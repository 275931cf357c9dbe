"""The version of a value in a linearizable bucket, and a value with it."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from raykv.config import shown
from raykv.errors import InvalidOption
from raykv.records.linear_record import STAMP_BYTES

T = TypeVar("T")


class Version:
    """Names one write of one key for ever: opaque, to be given back as ``if_version``. ``bytes(version)`` stores it.

    False in a condition if the key never had a value, or its delete is forgotten.

    >>> Version(bytes(Version())) == Version()
    True
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes = b"") -> None:
        """Take what ``bytes(version)`` returned. Raises ``InvalidOption``."""
        given: object = data
        if not isinstance(given, bytes) or len(given) not in {0, STAMP_BYTES}:
            raise InvalidOption(f"not the bytes of a version: {shown(data)}")
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data

    def __bool__(self) -> bool:
        return bool(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._data == other._data

    def __hash__(self) -> int:
        return hash(self._data)

    def __repr__(self) -> str:
        return f"Version(bytes.fromhex({self._data.hex()!r}))"


class Versioned(NamedTuple, Generic[T]):
    """A value (None: absent) and its version."""

    value: T
    version: Version
