"""Serves the page to those who have the token. Only the standard library's server, and nothing of the store's own code.

The token is given in a form, by POST; a cookie of its own (``HttpOnly``, ``SameSite=Strict``) stands for it from then on. A
browser shares cookies between all ports of a host: the port is part of the cookie's name, and others may stand beside it.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import secrets
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from raykv.dashboard import page
from raykv.errors import RaykvError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from raykv.dashboard.feed import Feed, Look

MAX_BODY_BYTES = 4096
MAX_LENGTH_DIGITS = 20
"""Python makes no number of thousands of digits."""
MAX_COOKIES = 1000
"""Looked through for the page's own; what is sent is bounded by the longest line that the base class takes, too."""
MAX_REQUEST_BYTES = 256 * 1024
"""Head and body. Browsers and servers commonly take heads of 8 to 64 KiB."""
MAX_THREADS = 256
REQUEST_TIMEOUT_S = 15.0
"""For a whole request, and for an answer: a connection that sends a byte now and then is closed like one that is silent."""
PARTING_S = 1.0
"""How long a connection waits for the thread of another one that makes room for it."""
WRONG_TOKEN_S = 0.5
"""How long a wrong token waits for its answer."""
LIST_EVERY_S = 5.0
MAX_STORES = 100
HTTP_PORT = 80
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - the user's choice
"""What stands for all addresses of the host, and one of these."""
MAPPED = "::ffff:"
"""Begins an IPv4 address where IPv6 is listened to."""


def cookies(header: str, name: str) -> list[str]:
    """Return the values of the cookies of one name, of which a browser may send several, whatever stands beside them.

    The standard library's parser gives up all of them for one that it cannot read; any other server on the host may set one.

    >>> cookies('x={"a":1}; raykv-80=abc', "raykv-80")
    ['abc']
    """
    pairs = (each.partition("=") for each in header.split(";", MAX_COOKIES)[:MAX_COOKIES])
    return [value.strip() for each, _, value in pairs if each.strip() == name]


def bracketed(name: str) -> str:
    """Return a host as it stands in an address: an IPv6 address in brackets, without the zone that is its host's own."""
    return f"[{name.partition('%')[0]}]" if ":" in name and not name.startswith("[") else name


def authority(host: str, port: int) -> str:
    """Return a ``Host`` as it is compared: in lower case, and with the port that browsers leave out.

    >>> authority("MyHost", 80)
    'myhost:80'
    """
    left_out = f":{HTTP_PORT}" if port == HTTP_PORT else ""
    return host.lower().removesuffix(left_out) + left_out


def is_asked_for(host: str, names: Iterable[str], port: int) -> bool:
    """Return whether a ``Host`` means one of these names, or addresses, and this port."""
    return authority(host, port) in {f"{bracketed(name).lower()}:{port}" for name in names}


class Shown(NamedTuple):
    """What the page needs of one store."""

    feed: Feed
    explain: Callable[[str, str], str]
    """``explain(bucket, key)``: HTML of what a read does."""
    commands: Mapping[str, Callable[[], str]] = {}
    """Name -> what changes the store (``--admin``)."""


class Dashboard:
    """A page on a port. Use as a context manager, or ``start`` and ``stop``."""

    def __init__(
        self,
        open_store: Callable[[str], Shown],
        stores: Callable[[], Sequence[str]],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Take a port. ``stores()``: the stores that may be looked at, asked for at most every ``LIST_EVERY_S``.

        ``open_store(name)``: called once for each of them that somebody looks at. Raises ``OSError`` if the port cannot be
        had.
        """
        self.token = secrets.token_urlsafe(24)
        self._open_store = open_store
        self._list = stores
        self._listed: tuple[float, list[str]] | None = None
        self._shown: dict[str, Shown] = {}
        self._opening = threading.Lock()
        self.session = secrets.token_urlsafe(24)
        self._server = _Server((host, port), self)
        self.port: int = self._server.server_address[1]
        self.cookie = f"raykv-{self.port}"
        self.names = {host, *LOOPBACK} if host.lower() in LOOPBACK else {host, socket.gethostname(), *LOOPBACK}
        self._thread = threading.Thread(target=self._server.serve_forever, name="raykv-dashboard-http", daemon=True)

    @property
    def url(self) -> str:
        """The page's address, without the token."""
        host = str(self._server.server_address[0])
        return f"http://{bracketed(ALL_ADDRESSES.get(host, host))}:{self.port}/"

    def stores(self) -> list[str]:
        """Return the stores that may be looked at."""
        with self._opening:
            now_s = time.monotonic()
            if self._listed is None or now_s - self._listed[0] > LIST_EVERY_S:
                try:
                    self._listed = now_s, list(self._list())[:MAX_STORES]
                except Exception:  # those known so far say what is wrong
                    if self._listed is None:
                        raise
            return self._listed[1]

    def at(self, name: str) -> Shown | None:
        """Return what is shown of a store, the first one if ``name`` is empty; None if there is no such store."""
        names = self.stores()
        name = name or (names[0] if names else "")
        with self._opening:
            if name not in names:
                return self._shown.get(name)  # one that has ended says so itself
            if name not in self._shown:
                shown = self._shown[name] = self._open_store(name)
                shown.feed.start()
            return self._shown[name]

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        for shown in self._shown.values():
            shown.feed.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    """Serves ``MAX_THREADS`` connections, each in a thread.

    Where all are taken, the stranger that has been there for longest makes room: who has shown neither cookie nor token.
    Addresses tell nobody apart here, as all who come through a tunnel, and all users of the host, have the same.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], dashboard: Dashboard) -> None:
        self.dashboard = dashboard
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._room = threading.BoundedSemaphore(MAX_THREADS)
        self._lock = threading.Lock()
        self._strangers: dict[socket.socket, None] = {}
        """Connections without a cookie so far, the oldest first."""
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection if there is room for it, or can be made."""
        if not self._room.acquire(blocking=False) and not (self._part() and self._room.acquire(timeout=PARTING_S)):
            self.shutdown_request(request)
            return
        with self._lock:
            self._strangers[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def _part(self) -> bool:
        """End the connection of the oldest stranger, if there is one."""
        with self._lock:  # nobody closes it meanwhile
            stranger = next(iter(self._strangers), None)
            if stranger is None:
                return False
            del self._strangers[stranger]
            with contextlib.suppress(OSError):  # it has ended by itself
                stranger.shutdown(socket.SHUT_RDWR)
            return True

    def know(self, request: Any) -> None:
        """Take a connection for one of somebody who has the token."""
        with self._lock:
            self._strangers.pop(request, None)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self.know(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever connects may break off."""


class _Incoming(io.RawIOBase):
    """What a connection sends, request by request, each of bounded length and within a bounded time."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self.begin()

    def begin(self) -> None:
        """Begin to wait for a request."""
        self._until_s = time.monotonic() + self._timeout_s
        self._room_bytes = MAX_REQUEST_BYTES

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See ``io.RawIOBase``. Raises ``TimeoutError`` for what is too slow, or too much."""
        left_s = self._until_s - time.monotonic()
        if left_s <= 0 or self._room_bytes <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        try:
            count = self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._timeout_s)  # for the answer
        self._room_bytes -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "raykv", ""
    timeout = REQUEST_TIMEOUT_S

    def setup(self) -> None:
        """Take a connection."""
        super().setup()
        self.rfile.close()
        self._incoming = _Incoming(self.connection, self.timeout)
        self.rfile = io.BufferedReader(self._incoming)

    def handle_one_request(self) -> None:
        """Take and answer a request."""
        self._incoming.begin()
        super().handle_one_request()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""

    # ---- requests ----

    def do_GET(self) -> None:
        """Answer a look."""
        self._answered(self._get)

    def do_POST(self) -> None:
        """Answer the form of the token, or a command."""
        self._answered(self._post)

    def _answered(self, answer: Callable[[], None]) -> None:
        """Answer, whatever is wrong with the request, or with the store."""
        try:
            answer()
        except RaykvError as error:  # it is shown where the page would be
            self._send(page.text(error.message), "text/html", status=HTTPStatus.SERVICE_UNAVAILABLE)
        except ValueError:  # no address, or too many fields
            self._refuse(HTTPStatus.BAD_REQUEST)
        except OSError:  # the connection has broken
            raise
        except Exception:  # noqa: BLE001 - who asks is to see that it is not the connection
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _get(self) -> None:
        if not self._is_ours():
            return
        dashboard, parts = self.server.dashboard, urlsplit(self.path)
        if not self._is_known():
            if parts.path == "/":
                self._send(page.login(), "text/html")
            else:
                self._refuse(HTTPStatus.UNAUTHORIZED)
            return
        query = {name: values[0] for name, values in parse_qs(parts.query, max_num_fields=8).items()}
        shown = dashboard.at(query.get("store", ""))
        if shown is None:
            self._send(page.text("No such store runs here."), "text/html", status=HTTPStatus.NOT_FOUND)
            return
        match parts.path:
            case "/":
                nonce = secrets.token_urlsafe(12)
                self._send(page.page(nonce, [*shown.commands]), "text/html", nonce)
            case "/api/stores":
                self._send_bytes(msgspec.json.encode(dashboard.stores()), "application/json")
            case "/api/state":
                self._tell(shown.feed.latest(query.get("page", "")[:40]), query.get("since", ""))
            case "/api/wheel":
                self._send_bytes(shown.feed.wheel(), "image/svg+xml")
            case "/api/explain":
                self._explain(shown, query.get("bucket", "default"), query.get("key", ""))
            case _:
                self._refuse(HTTPStatus.NOT_FOUND)

    def _tell(self, look: Look, since: str) -> None:
        """Answer with a look, or with nothing to who has it; and say when to ask again."""
        headers = {"Raykv-Look": str(look.number), "Raykv-Again-S": f"{look.again_s:g}"}
        if look.number and since == str(look.number):
            self.send_response(HTTPStatus.NO_CONTENT)
            self._end(0, headers)
        elif "gzip" in self.headers.get("Accept-Encoding", ""):
            self._send_bytes(look.packed, "application/json", more=headers | {"Content-Encoding": "gzip"})
        else:
            self._send_bytes(look.data, "application/json", more=headers)

    def _post(self) -> None:
        if not self._is_ours(changes=True):
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > MAX_LENGTH_DIGITS or int(length) > MAX_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        parts = urlsplit(self.path)
        path = parts.path
        if path == "/login":
            self._login(body)
        elif not self._is_known():
            self._refuse(HTTPStatus.UNAUTHORIZED)
        elif path.startswith("/api/do/") and (command := self._command(path.removeprefix("/api/do/"), parts.query)):
            try:
                said = command()
            except RaykvError as error:
                said = f"{type(error).__name__}: {error.message}"
            self._send_bytes(msgspec.json.encode({"said": said}), "application/json")
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _command(self, name: str, query: str) -> Callable[[], str] | None:
        store = parse_qs(query, max_num_fields=8).get("store", [""])[0]
        shown = self.server.dashboard.at(store)
        return None if shown is None else shown.commands.get(unquote(name))

    def _login(self, body: bytes) -> None:
        given = parse_qs(body.decode("latin-1"), max_num_fields=4).get("token", [""])[0]
        dashboard = self.server.dashboard
        if not hmac.compare_digest(given.strip().encode(), dashboard.token.encode()):
            time.sleep(WRONG_TOKEN_S)
            self._send(page.login("That is not the token."), "text/html", status=HTTPStatus.FORBIDDEN)
            return
        self.server.know(self.request)
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Set-Cookie", f"{dashboard.cookie}={dashboard.session}; HttpOnly; SameSite=Strict; Path=/")
        self.send_header("Location", "/")
        self._end(0)

    def _explain(self, shown: Shown, bucket: str, key: str) -> None:
        try:
            html = shown.explain(bucket[:200], key[:1000])
        except RaykvError as error:
            html = page.text(f"{type(error).__name__}: {error.message}")
        self._send(html, "text/html")

    # ---- who asks ----

    def _is_ours(self, *, changes: bool = False) -> bool:
        """Refuse what was meant for another host, or comes from a page of another origin."""
        dashboard, host = self.server.dashboard, self.headers.get("Host", "")
        port = dashboard.port
        here = self.connection.getsockname()[0].removeprefix(
            MAPPED
        )  # where it was reached: no name, which may be rebound
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site")
        fits = is_asked_for(host, (*dashboard.names, here), port)
        if origin is not None:
            scheme, _, of = origin.partition("://")
            fits = fits and scheme == "http" and authority(of, port) == authority(host, port)
        if fits and (changes or urlsplit(self.path).path != "/"):  # a link may lead here, no more
            fits = site in {None, "same-origin"}
        if fits and changes and origin is None and site is None:
            fits = False
        if not fits:
            self._refuse(HTTPStatus.FORBIDDEN)
        return fits

    def _is_known(self) -> bool:
        dashboard = self.server.dashboard
        given = cookies(self.headers.get("Cookie", ""), dashboard.cookie)
        known = any(hmac.compare_digest(value.encode(), dashboard.session.encode()) for value in given)
        if known:
            self.server.know(self.request)
        return known

    # ---- answers ----

    def _send(self, text: str, kind: str, nonce: str = "", status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send_bytes(text.encode(), f"{kind}; charset=utf-8", nonce, status)

    def _send_bytes(
        self,
        data: bytes,
        kind: str,
        nonce: str = "",
        status: HTTPStatus = HTTPStatus.OK,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        script = f"script-src 'nonce-{nonce}'; " if nonce else ""
        self.send_header(
            "Content-Security-Policy",
            f"default-src 'none'; {script}style-src 'unsafe-inline'; connect-src 'self'; form-action 'self'; "
            "frame-ancestors 'none'; base-uri 'none'",
        )
        self._end(len(data), more)
        self.wfile.write(data)

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Connection", "close")
        self._end(0)

    def _end(self, length: int, more: Mapping[str, str] | None = None) -> None:
        if length or more is None:  # an answer without content has no length
            self.send_header("Content-Length", str(length))
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "same-origin")
        self.end_headers()
