"""The Ray cluster that this process would join, and its id, found without Ray.

A command at the shell needs no more of Ray than the certainty that a coordinator belongs to the very cluster that
``ray.init`` would join. Here are Ray's own rules for that (``ray_cluster`` asks Ray itself), as far as they are plain. In
any other case, and in any doubt, the answer is "": then ask Ray.

The head itself says which cluster it is, to whom it lets in: an address alone may by now be another cluster's.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from raykv.actors.authentication import cluster_id, shows_token
from raykv.transport import encryption

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 2.0
MAX_FILE_BYTES = 4096
MAX_COMMAND_BYTES = 1 << 16
_FLAG = b"--gcs-address"
_PROCESSES = "/proc"
_LOOPBACK = ("localhost", "127.", "::1", "[::1]")


def cluster_to_join() -> str:
    """Return the id, in hex, of the cluster that ``ray.init`` would join now; "" if that is not known for certain."""
    if encryption.is_asked_for():  # the question below is not encrypted
        return ""
    named = os.environ.get("RAY_ADDRESS", "")
    auto = named in {"", "auto"}
    address = _on_this_machine() if auto else named
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or ":" in host or "/" in host:
        return ""
    if not auto and host.startswith(_LOOPBACK) and sys.platform == "linux":
        return ""  # Ray goes to another address of this machine instead, where another cluster may be
    return cluster_id(host, int(port), _token_to_show(auto=auto), TIMEOUT_S)


def _on_this_machine() -> str:
    """Return the address that Ray finds for "auto"; "" if it finds none, or any of several."""
    if sys.platform != "linux":
        return ""
    remembered = _content_of(os.path.join(_temporary_directory(), "ray", "ray_current_cluster"))
    try:
        running = {address for command in _commands() for address in _gcs_addresses(command)}
    except OSError:  # the processes are not to be seen
        return ""
    if len(running) == 1:
        return running.pop()
    return remembered


def _temporary_directory() -> str:
    return os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 - where Ray looks


def _commands() -> Iterator[list[bytes]]:
    """Yield the arguments of all processes. Raises ``OSError``."""
    for name in os.listdir(_PROCESSES):
        if name.isdigit():
            try:
                with open(f"{_PROCESSES}/{name}/cmdline", "rb") as file:
                    yield file.read(MAX_COMMAND_BYTES).split(b"\0")
            except OSError:  # it has ended
                continue


def _gcs_addresses(command: list[bytes]) -> Iterator[str]:
    if b"raylet" not in os.path.basename(command[0]):
        return
    for argument in b" ".join(command).split(b" "):
        name, _, address = argument.partition(b"=")
        if name.startswith(_FLAG) and address not in {b"", b"None"}:
            yield address.decode(errors="replace")


def _token_to_show(*, auto: bool) -> str | None:
    """Return the token that ``ray.init`` would present, as ``authentication.token_to_show`` does with Ray's help."""
    if not shows_token(auto=auto):
        return None
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    own = os.path.join(os.path.expanduser("~"), ".ray", "auth_token")
    return _content_of(os.environ.get("RAY_AUTH_TOKEN_PATH") or own) or None


def _content_of(path: str) -> str:
    """Return a short text file's content; "" if there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return ""
    return data.decode(errors="replace").strip() if len(data) <= MAX_FILE_BYTES else ""
