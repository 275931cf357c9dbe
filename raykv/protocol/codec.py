"""Frames as bytes: one byte of format version, then one msgpack value of a declared type.

Two versions of raykv may talk to each other (``raykv.protocol``): a message grows at its end, by fields with defaults. A
reader passes over fields that it does not know, and takes the default of those that are not there; a request that it does
not know is refused as just that.

msgspec checks the type on the way in: a frame that does not fit is ``CorruptData`` at the door, never an
``AttributeError`` further in. Nothing in a frame is ever unpickled. How much each field may hold stands with the field
(``raykv.records.limits``); how many bytes a request may have as a whole stands in the table of requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from raykv.config import MAX_FRAME_BYTES, VERSION
from raykv.errors import CorruptData, RaykvError, from_data, to_data
from raykv.records import limits as lim

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FRAME_VERSION = 1
T = TypeVar("T")
_VERSION = bytes([FRAME_VERSION])
_ENCODER = msgspec.msgpack.Encoder()


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The base of all messages: immutable, positional on the wire, tagged with the class's name.

    Messages that a batch has once per key are exempt from the garbage collector (``gc=False``): they hold bytes and lists
    of bytes, so no cycle goes through them, and thousands of them made a batch a third slower.
    """


class Failed(Message, frozen=True):
    """An error as data: class name, message, details (see raykv.errors.to_data)."""

    name: lim.Name
    message: lim.Text
    details: lim.Figures

    @classmethod
    def of(cls, error: RaykvError) -> Failed:
        """Encode an error. A message that is too long for an answer is cut."""
        name, message, details = to_data(error)
        return cls(name, message[: lim.MAX_TEXT_CHARS], details)

    def error(self) -> RaykvError:
        """Return the error, ready to be raised."""
        return from_data(self.name, self.message, self.details)


class FrameType(Generic[T]):
    """Encodes and decodes frames of one type."""

    def __init__(
        self,
        kind: Any,
        what: str,
        kind_of: Callable[[bytes], bytes] | None = None,
        frame_bytes: Mapping[bytes, int] | None = None,
    ) -> None:
        """``kind_of(frame)``: the name of the message in it. ``frame_bytes``: name -> the maximum size of its frame.

        Without them any frame may have ``MAX_FRAME_BYTES``.
        """
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._what = what
        self._kind_of = kind_of
        self._frame_bytes = frame_bytes or {}

    def encode(self, message: T) -> bytes:
        """Return the frame. Raises ``CorruptData`` if it would exceed ``MAX_FRAME_BYTES``."""
        buffer = bytearray(_VERSION)
        _ENCODER.encode_into(message, buffer, 1)
        if len(buffer) > MAX_FRAME_BYTES:
            raise CorruptData(f"a {self._what} of {len(buffer)} bytes exceeds the bound of {MAX_FRAME_BYTES}")
        return bytes(buffer)

    def decode(self, frame: bytes) -> T:
        """Return the message. Raises ``CorruptData`` for anything that is not a frame of this type."""
        if not 1 < len(frame) <= MAX_FRAME_BYTES:
            raise CorruptData(f"not a {self._what}: {len(frame)} bytes")
        if frame[0] != FRAME_VERSION:
            raise CorruptData(
                f"a {self._what} of format version {frame[0]}; this raykv ({VERSION}) speaks {FRAME_VERSION}: these two "
                "cannot run in one cluster"
            )
        if len(frame) > lim.SMALL_FRAME_BYTES and self._kind_of is not None:
            kind = self._kind_of(frame)
            if len(frame) > (most := self._frame_bytes.get(kind, lim.SMALL_FRAME_BYTES)):
                raise CorruptData(
                    f"not a {self._what}: {kind.decode(errors='replace')!r} of {len(frame)} bytes; at most {most}"
                )
        try:
            return self._decoder.decode(memoryview(frame)[1:])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if unknown := self._unknown(frame):
                raise CorruptData(
                    f"this raykv ({VERSION}) knows no {self._what} {unknown!r}: its sender is of another version; restart "
                    "what is older ('raykv restart --rolling --services', then clients)",
                    unknown=unknown,
                ) from None
            raise CorruptData(f"not a {self._what}: {error}") from None

    def _unknown(self, frame: bytes) -> str:
        """Return the name of the request in a frame, if it looks like one and is none that this version knows."""
        kind = b"" if self._kind_of is None else self._kind_of(frame)
        name = kind.decode("ascii", errors="replace")
        return name if name.isidentifier() and kind not in self._frame_bytes else ""


def kind_of_message(frame: bytes) -> bytes:
    """Return the name of the message in a frame (``b"GetMany"``), without decoding it; empty if it is cut off."""
    length = frame[2] & 0x1F if len(frame) > 2 else 0
    return frame[3 : 3 + length] if len(frame) >= 3 + length else b""
