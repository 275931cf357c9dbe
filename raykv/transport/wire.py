"""The bytes of a stream: a handshake, then frames with a number each. No socket, no clock, no randomness.

The handshake (HMAC-SHA256 over the nonces of both; each side proves that it knows the secret without showing it)::

    client   "raykv" version client-nonce
    server   "raykv" version server-nonce  HMAC(secret, "server", nonces)
    client   HMAC(secret, "client", nonces), and at once what it has to ask

The two proofs differ by role, so neither can be reflected to its sender. A frame is its length (4 bytes), the number of
the request (8), its kind (1), and its bytes.
"""

from __future__ import annotations

import hmac
import struct
from typing import TYPE_CHECKING

from raykv.config import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = 1
NONCE_BYTES = 32
REQUEST, ANSWER, FAILED = 0, 1, 2
"""Kinds of frames. ``FAILED``: the server broke during the request, and may have carried it out."""

MANY_PARTS = 256
"""The parts of a partial frame past which they are joined as they come."""

_MAGIC = b"raykv"
_OPENING = _MAGIC + bytes([VERSION])
_PROOF_BYTES = 32
_HEAD = struct.Struct("<IQB")


class WireError(Exception):
    """The other side does not speak this protocol, or not with this secret. ``reply``: to be sent before hanging up."""

    def __init__(self, message: str, reply: bytes = b"") -> None:
        super().__init__(message)
        self.reply = reply


def proof(secret: bytes, role: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """Return the proof that ``role`` knows the secret. All parts but the role are of fixed length."""
    return hmac.digest(secret, b"raykv stream %d %s " % (VERSION, role) + client_nonce + server_nonce, "sha256")


class _Handshake:
    """The common part of both sides: takes bytes until there are enough, and never more than are due."""

    def __init__(self, secret: bytes, nonce: bytes) -> None:
        assert len(nonce) == NONCE_BYTES
        self._secret = secret
        self._nonce = nonce
        self._held = b""
        self.done = False
        """Whether the other side has proved that it knows the secret."""
        self.rest = b""
        """The bytes after the handshake."""

    def _opened(self, due_bytes: int) -> bool:
        """Whether an opening of ``due_bytes`` is complete. Raises ``WireError``."""
        if self._held[: len(_OPENING)] != _OPENING[: len(self._held)]:
            if self._held.startswith(_MAGIC):
                raise WireError(f"it speaks version {self._held[5]} of the stream, this raykv {VERSION}", _OPENING)
            raise WireError("it does not speak raykv's stream")
        if len(self._held) > due_bytes:
            raise WireError("it said more than it may before it has proved who it is")
        return len(self._held) == due_bytes


class ClientHandshake(_Handshake):
    """The side that connects."""

    def hello(self) -> bytes:
        """Return what to send first."""
        return _OPENING + self._nonce

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return what to send. Raises ``WireError``."""
        self._held += data
        if not self._opened(len(_OPENING) + NONCE_BYTES + _PROOF_BYTES):
            return b""
        server_nonce, theirs = self._held[len(_OPENING) : -_PROOF_BYTES], self._held[-_PROOF_BYTES:]
        if not hmac.compare_digest(theirs, proof(self._secret, b"server", self._nonce, server_nonce)):
            raise WireError("the server does not know the secret")
        self.done = True
        return proof(self._secret, b"client", self._nonce, server_nonce)


class ServerHandshake(_Handshake):
    """The side that listens."""

    _client_nonce: bytes | None = None

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return what to send. Raises ``WireError``."""
        self._held += data
        if self._client_nonce is None:
            if not self._opened(len(_OPENING) + NONCE_BYTES):
                return b""
            self._client_nonce, self._held = self._held[len(_OPENING) :], b""
            return _OPENING + self._nonce + proof(self._secret, b"server", self._client_nonce, self._nonce)
        if len(self._held) >= _PROOF_BYTES:
            theirs, self.rest = self._held[:_PROOF_BYTES], self._held[_PROOF_BYTES:]
            if not hmac.compare_digest(theirs, proof(self._secret, b"client", self._client_nonce, self._nonce)):
                raise WireError("the client does not know the secret")
            self._held, self.done = b"", True
        return b""


def head(number: int, kind: int, frame: bytes) -> bytes:
    """Return the head of a frame."""
    assert len(frame) <= MAX_FRAME_BYTES, "the encoder of a frame holds the bound"
    return _HEAD.pack(len(frame), number, kind)


class Reader:
    """Reassembles frames from arbitrary chunks."""

    def __init__(self) -> None:
        self._parts: list[bytes | bytearray] = []
        self.held_bytes = 0
        """The parts of a partial frame."""
        self._due_bytes = _HEAD.size

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Take bytes; return (number, kind, frame) for each complete frame. Raises ``WireError``.

        A frame that announces more than ``MAX_FRAME_BYTES`` is refused at once.
        """
        size = len(data)
        if not self.held_bytes and size >= _HEAD.size:  # exactly one complete frame, the usual case
            length, number, kind = _HEAD.unpack_from(data)
            if size - _HEAD.size == length <= MAX_FRAME_BYTES:
                return [(number, kind, data[_HEAD.size :])]
        parts = self._parts
        if len(parts) > MANY_PARTS:  # of a byte each perhaps, and an object costs thirty times that
            parts[:] = [bytearray().join(parts)]
        if len(parts) == 1 and isinstance(parts[0], bytearray):
            parts[0] += data
        else:
            parts.append(data)
        self.held_bytes += len(data)
        if self.held_bytes < self._due_bytes:
            return []
        if len(parts) > 1 or isinstance(parts[0], bytearray):
            data = b"".join(parts)
        frames = []
        at, size, due_bytes = 0, len(data), _HEAD.size
        while size - at >= _HEAD.size:
            length, number, kind = _HEAD.unpack_from(data, at)
            if length > MAX_FRAME_BYTES:
                raise WireError(f"a frame of {length} bytes exceeds the bound of {MAX_FRAME_BYTES}")
            due_bytes = _HEAD.size + length
            if size - at < due_bytes:
                break
            frames.append((number, kind, data[at + _HEAD.size : at + due_bytes]))
            at, due_bytes = at + due_bytes, _HEAD.size
        self._parts = [data[at:]] if at < size else []
        self.held_bytes, self._due_bytes = size - at, due_bytes
        return frames


class Outbox:
    """Collects outgoing frames until the end of the loop's turn: one write for all of them."""

    def __init__(self, soon: Callable[[Callable[[], None]], object], write: Callable[[list[bytes]], None]) -> None:
        self._soon = soon
        self._write = write
        self._waiting: list[bytes] = []
        self.waiting_bytes = 0

    @property
    def waiting(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._waiting)

    def put(self, number: int, kind: int, frame: bytes) -> None:
        """Send the frame soon."""
        if not self._waiting:
            self._soon(self._flush)
        self._waiting += (head(number, kind, frame), frame)
        self.waiting_bytes += len(frame)

    def _flush(self) -> None:
        waiting, self._waiting, self.waiting_bytes = self._waiting, [], 0
        self._write(waiting)
