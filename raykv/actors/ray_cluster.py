"""Finding the Ray cluster that this process should join.

A requested but unavailable cluster is an error, never a reason to start another Ray: a store started there would be the
wrong one, and its data would not be found where it is looked for. In ``ray.init``'s order:

1. The Ray that is initialised in this process.
2. ``RAY_ADDRESS`` (or the address argument): that cluster or an error. "local": a Ray of this process's own.
3. The cluster that Ray remembers on this machine. It counts as ended only if it was on this machine and nobody listens
   there any more. A head elsewhere, or one that does not answer, may well be alive: an error, too.

``ray.init`` waits a quarter of an hour for a dead head. A probe with the first bytes of its protocol therefore comes first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import time
from typing import Literal, NamedTuple

import ray
from ray.exceptions import RayError

from raykv.actors.authentication import WHERE, is_refused, token_to_show
from raykv.actors.forks import require_ray_to_work
from raykv.errors import InvalidOption, StoreUnavailable

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0

OWN = "local"
"""As an address: a Ray that this process starts for itself."""
AUTO = "auto"
FORGET = "'ray stop' on this machine forgets it, RAY_ADDRESS=local starts a Ray of this process's own"

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of gRPC begins: the preface of HTTP/2, and settings, which are empty. A server answers with its own."""
_FRAME_HEAD_BYTES = 9
_SETTINGS = 4

Finding = Literal["there", "nobody", "unreachable", "silent", "stranger"]

_WORDS: dict[Finding, str] = {
    "nobody": "nobody listens there",
    "unreachable": "there is no way to it",
    "silent": f"it does not answer within {ANSWER_TIMEOUT_S:g} s",
    "stranger": "what listens there does not speak as Ray's head does (is RAY_USE_TLS the same here and there?)",
}


class Choice(NamedTuple):
    """The cluster to join."""

    address: str
    """As ``ray.init`` takes it."""
    at: tuple[str, int] | None
    """Where it listens; None if only Ray knows."""
    asked: str
    """What requested it, for messages: "RAY_ADDRESS"; empty if Ray remembers it."""


def join_ray(address: str | None = None, *, log_to_driver: bool = True, logging_level: int = logging.WARNING) -> bool:
    """Join the Ray initialised here, the one requested, or the one running on this machine.

    False if none is requested and none runs. Raises ``StoreUnavailable`` if the cluster cannot be joined, at the latest
    after ``CONNECT_TIMEOUT_S`` and ``ANSWER_TIMEOUT_S``, or at once in a forked child of a process that had joined one;
    ``InvalidOption`` if the address is invalid.
    """
    require_ray_to_work()
    if ray.is_initialized():
        return True
    choice = choose(address)
    if choice is None:
        return False
    if choice.at is not None:
        finding = look(*choice.at)
        if finding == "nobody" and not choice.asked and is_here(choice.at[0]):
            return False  # it has ended
        if finding != "there":
            raise StoreUnavailable(f"{_name(choice)} cannot be reached: {_WORDS[finding]}; {_advice(choice)}")
    if choice.at is not None and "://" not in choice.address and not _speaks_tls():
        token = token_to_show(auto=choice.address == AUTO)
        if is_refused(*choice.at, token):
            what = "another token" if token else "a token, and this process has none"
            raise StoreUnavailable(
                f"{_name(choice)} refuses this process: authentication failed, the cluster expects {what} "
                f"(from {WHERE}; with an address, RAY_AUTH_MODE=token as well)"
            )
    try:
        ray.init(address=choice.address, log_to_driver=log_to_driver, logging_level=logging_level)
    except (RayError, OSError, RuntimeError, ValueError, ImportError) as error:
        raise StoreUnavailable(f"{_name(choice)} cannot be joined: {_in_a_line(error)}; {_advice(choice)}") from None
    return True


def asked_for_own() -> bool:
    """Return whether ``RAY_ADDRESS`` asks for a Ray of this process's own."""
    return os.environ.get("RAY_ADDRESS") == OWN


def choose(address: str | None = None) -> Choice | None:
    """Return the cluster to join; None if a Ray of this process's own is wanted, or none is known.

    As in ``ray.init``, ``RAY_ADDRESS`` takes precedence over "auto". Raises ``InvalidOption``, ``StoreUnavailable``.
    """
    asked = "the address"
    if address in (None, AUTO) and (named := os.environ.get("RAY_ADDRESS")):
        address, asked = named, "RAY_ADDRESS"
    if address == OWN:
        return None
    if address is not None and address != AUTO:
        return Choice(address, place_of(address, asked), f"{asked}={address}")
    known = _remembered()
    if known is None:
        if address == AUTO:
            raise StoreUnavailable(
                f"{asked}=auto, but no Ray cluster runs on this machine; start one, or change {asked}"
            )
        return None
    # With "auto", Ray finds the same cluster again, and with it this machine's token.
    return Choice(AUTO, place_of(known, "what Ray remembers"), f"{asked}=auto" if address == AUTO else "")


def place_of(address: str, whose: str) -> tuple[str, int] | None:
    """Return the host and port that ``ray.init`` would connect to; None for an address of a kind that only Ray knows.

    Raises ``InvalidOption``.
    """
    scheme, _, rest = address.rpartition("://")
    if scheme.lower() in ("http", "https"):
        raise InvalidOption(
            f"{whose} is {address[:200]!r}, an address for submitting jobs; a cluster is joined at host:port"
        )
    if scheme not in ("", "ray"):
        return None
    host, _, port = (rest.partition("/")[0] if scheme else rest).rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    unreadable = (
        not bare or any(not sign.isprintable() or sign in " /[]" for sign in bare) or (":" in bare) != bracketed
    )
    if unreadable or not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise InvalidOption(f"{whose} is {address[:200]!r}, which is no address of a Ray cluster; use host:port")
    return (bare if scheme else _as_ray_resolves(bare)), int(port)


def look(host: str, port: int) -> Finding:
    """Say who is there."""
    try:
        connection = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S)
    except ConnectionRefusedError:
        return "nobody"
    except (OSError, UnicodeError):  # no such name, no route, no answer; a name that is no name
        return "unreachable"
    with connection:
        try:
            return _ask(connection)
        except TimeoutError:
            return "silent"
        except OSError:  # it hung up, or spoke no TLS
            return "stranger"


def is_here(host: str) -> bool:
    """Say whether the host is this machine."""
    try:
        infos = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, _, _, where in infos:
        with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
            probe.bind(where)
            return True
    return False


def _ask(connection: socket.socket) -> Finding:
    deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
    connection.settimeout(ANSWER_TIMEOUT_S)
    if _speaks_tls():
        # Nothing secret is said, so nobody need prove who they are: that is for Ray to ask.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(connection) as secured:
            return _greet(secured, deadline_s)
    return _greet(connection, deadline_s)


def _speaks_tls() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def _greet(connection: socket.socket, deadline_s: float) -> Finding:
    connection.sendall(_HELLO)
    head = b""
    while len(head) < _FRAME_HEAD_BYTES:
        connection.settimeout(max(deadline_s - time.monotonic(), 0.001))
        more = connection.recv(_FRAME_HEAD_BYTES - len(head))
        if not more:
            return "stranger"
        head += more
    return "there" if head[3] == _SETTINGS and head[4] == 0 and not any(head[5:]) else "stranger"


def _remembered() -> str | None:
    """Return the address of the cluster that Ray knows of on this machine, None if it knows of none."""
    from ray._private import services

    services.find_gcs_addresses.cache_clear()  # what Ray found for an earlier question may have ended
    try:
        return str(services.get_ray_address_from_environment(AUTO, None) or "") or None
    except ConnectionError:
        return None


def _as_ray_resolves(host: str) -> str:
    """Return the host that Ray goes to for this one: for the loopback, the address that it knows this machine by."""
    from ray._private import services

    return str(services.resolve_ip_for_localhost(host))


def _name(choice: Choice) -> str:
    where = f" ({_shown(choice.at)})" if choice.at is not None and choice.address == AUTO else ""
    return f"the Ray cluster {f'of {choice.asked}' if choice.asked else 'that this machine is known to be in'}{where}"


def _shown(at: tuple[str, int]) -> str:
    host, port = at
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _advice(choice: Choice) -> str:
    return f"start it, or correct or unset {choice.asked.partition('=')[0]}" if choice.asked else FORGET


def _in_a_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0][:300]}" if lines else type(error).__name__
