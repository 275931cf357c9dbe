"""Values that clients find in the tests of several modules of ``raykv.client``: plain ones, failures, unreadable ones."""

from __future__ import annotations

from typing import Any

import cloudpickle

from raykv.client.codecs import encode_value
from raykv.errors import QuorumNotMet
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, stamp

FAILED = f.Failed.of(QuorumNotMet("the read needs 2", needed=2))


def payload_of(value: Any) -> bytes:
    return encode_value(value, "auto")


def found(*values: Any) -> f.KeyVersions:
    return f.KeyVersions([payload_of(value) for value in values])


def gone_module() -> bytes:
    """Return the payload of a value of a class of a module that is not there any more."""
    return b"\x03cno_such_module\nThing\n."


def raising(error: BaseException) -> bytes:
    """Return the payload of a value whose own code raises."""

    class Raises:
        def __reduce__(self) -> Any:
            return _raise, (error,)

    return b"\x03" + cloudpickle.dumps(Raises())


def _raise(error: BaseException) -> None:
    raise error


UNREADABLE = {
    "module": gone_module(), "class": b"\x03cdatetime\nnosuch\n.", "torn": b"\x03\x80\x05]", "tag": b"\x09abc",
    "msgpack": b"\x02\xc1", "text": b"\x01\xff", "own error": raising(LookupError("own")), "stop": raising(StopIteration()),
    "memory": raising(MemoryError()), "recursion": raising(RecursionError()), "async stop": raising(StopAsyncIteration()),
}  # fmt: skip


def keep(link: Any, key: Any, payload: bytes) -> None:
    link.records[encode_key(key)] = stamp(pack_body(bytes(16), payload), 1 << 16)


def damaged(payload: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Return a payload with these bytes behind its tag replaced, (place, byte), and its last ones missing."""
    found = bytearray(payload)
    for at, byte in changes:
        found[1 + at % (len(found) - 1)] = byte
    return bytes(found[: len(found) - cut])
