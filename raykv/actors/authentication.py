"""Ray's token authentication, as far as joining or starting a cluster requires it.

``ray.init`` finds the token itself. Against a head that wants another one, it retries for twenty seconds and then reports
the head as missing. One probe beforehand makes the refusal visible: the first call of any Ray client (gRPC: HTTP/2 without
Huffman coding).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MODE, TOKEN_BYTES = "RAY_AUTH_MODE", 32
TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 1 << 16
WHERE = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"

_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_ID_BYTES = 28
_ID_FIELD = bytes([2 << 3 | 2, _ID_BYTES])
"""How protobuf begins the field ``cluster_id`` of the answer: number 2, bytes of this length."""
_STATUS_TAG = 1 << 3 | 2
_FRAME_HEAD_BYTES = 9
_UNAUTHENTICATED = b"grpc-status\x0216"


def shows_token(*, auto: bool) -> bool:
    """Whether ``ray.init`` would present a token that it has.

    ``auto``: Ray finds the cluster itself, and presents this machine's token unless configured otherwise.
    """
    mode = os.environ.get(MODE)
    return auto if mode is None else mode.lower() == "token"


def token_to_show(*, auto: bool) -> str | None:
    """Return the token that ``ray.init`` would present; None if it would present none. ``auto``: see ``shows_token``."""
    if not shows_token(auto=auto):
        return None
    loader = _loader()
    if not loader.has_token(ignore_auth_mode=True):
        return None
    return str(loader.get_raw_token(ignore_auth_mode=True))


def is_refused(host: str, port: int, token: str | None) -> bool:
    """Return whether the head listening there rejects this token. False also if it does not say."""
    _, answer = next(_answers(host, port, token, TIMEOUT_S), (_DATA, b""))
    return _UNAUTHENTICATED in answer


def cluster_id(host: str, port: int, token: str | None, timeout_s: float = TIMEOUT_S) -> str:
    """Return the id of the cluster whose head listens there, in hex; empty if it does not say, or rejects this token."""
    message = b""
    for kind, answer in _answers(host, port, token, timeout_s):
        if kind == _DATA:
            message += answer
            if (found := _id_in(message)) is not None:
                return found
    return ""


def _id_in(message: bytes) -> str | None:
    """Return the id in an answer of gRPC; None if the answer is not there in full, "" if it has none.

    The answer is a flag (1 byte; 0: not compressed), a length (4), and protobuf: perhaps a status, and the id.
    """
    length = int.from_bytes(message[1:5], "big")
    if len(message) < 5 or len(message) < 5 + length:
        return None
    body = message[5 : 5 + length]
    if message[0] == 0 and len(body) > 1 and body[0] == _STATUS_TAG and body[1] < 128:
        body = body[2 + body[1] :]
    if message[0] != 0 or len(body) != len(_ID_FIELD) + _ID_BYTES or not body.startswith(_ID_FIELD):
        return ""
    return body[len(_ID_FIELD) :].hex()


def _answers(host: str, port: int, token: str | None, timeout_s: float) -> Iterator[tuple[int, bytes]]:
    """Ask a head for its cluster's id; yield the frames of its answer as they come: kind, and bytes."""
    deadline_s = time.monotonic() + timeout_s
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(_question(f"{host}:{port}", token))
            heard, at = b"", 0
            while len(heard) < MAX_ANSWER_BYTES:
                connection.settimeout(max(deadline_s - time.monotonic(), 0.001))
                more = connection.recv(4096)
                heard += more
                while (found := _next_answer(heard, at)) is not None:
                    kind, flags, answer, at = found
                    yield kind, answer
                    if flags & _END_STREAM:
                        return
                if not more:
                    return
    except (OSError, UnicodeError):
        return


def make_token() -> None:
    """Ensure that this user has a token, in Ray's own place and readable by nobody else. Raises ``OSError``.

    Ray can create one, too, but readable by all users of the machine.
    """
    path = os.path.join(os.path.expanduser("~"), ".ray", "auth_token")
    loader = _loader()
    if not loader.has_token(ignore_auth_mode=True):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process has just created it
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(made, "w") as file:
                file.write(secrets.token_hex(TOKEN_BYTES))
        loader.reset_cache()
    with contextlib.suppress(FileNotFoundError):  # the token comes from elsewhere
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & 0o077:
            os.chmod(path, 0o600)


def _loader() -> Any:
    """Return Ray's token loader with its cache reset. Raises ``ImportError`` if this Ray has none."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    return loader


def _question(authority: str, token: str | None) -> bytes:
    headers = {
        ":method": "POST", ":scheme": "http", ":path": _CALL, ":authority": authority,
        "te": "trailers", "content-type": "application/grpc",  # codespell:ignore te
    }  # fmt: skip
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    block = b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers.items())
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, block)
        + _frame(_DATA, _END_STREAM, 1, bytes(5))  # a message without fields
    )


def _string(text: str) -> bytes:
    """Encode text as an HPACK literal string (RFC 7541, 5)."""
    data = text.encode()
    rest = len(data) - 127
    if rest < 0:
        return bytes([len(data)]) + data
    length = bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes(length) + bytes([rest]) + data


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _next_answer(heard: bytes, at: int) -> tuple[int, int, bytes, int] | None:
    """Return the next frame from ``at`` on that answers the probe: kind, flags, bytes, its end; None if not all is there."""
    while len(heard) - at >= _FRAME_HEAD_BYTES:
        end = at + _FRAME_HEAD_BYTES + int.from_bytes(heard[at : at + 3], "big")
        if end > len(heard):
            return None
        if int.from_bytes(heard[at + 5 : at + _FRAME_HEAD_BYTES], "big") == 1 and heard[at + 3] in {_DATA, _HEADERS}:
            return heard[at + 3], heard[at + 4], heard[at + _FRAME_HEAD_BYTES : end], end
        at = end
    return None
