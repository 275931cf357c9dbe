"""Who has no token, or comes from elsewhere, gets nothing; who has it gets the page, without anything from elsewhere."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import threading
import time
from urllib.parse import urlencode, urlsplit

import pytest

from raykv import sim
from raykv.dashboard import Dashboard, Feed, Shown, server
from raykv.dashboard.server import LOOPBACK, MAX_COOKIES, cookies, is_asked_for
from raykv.errors import QuorumNotMet


@pytest.fixture(scope="module")
def looks():
    with sim.start(seed=7, nodes=3) as world:
        store = world.connect()
        store.put_many({f"k{number}": number for number in range(20)})
        world.sleep(12)
        store.put("k1", 1)
        return store.status(), store.ring()


def explain(bucket, key):
    if key == "fail":
        raise QuorumNotMet("<b>no</b>")
    return f"<p>{bucket} {len(key)}</p>"


def opened(looks, commands=None, names=("simulated",), **where):
    """A dashboard of these stores, which all look alike but for their names."""

    def open_store(name):
        return Shown(Feed(lambda: {**looks[0], "name": name}, lambda: looks[1]), explain, commands or {})

    return Dashboard(open_store, lambda: names, **where)


@pytest.fixture
def dashboard(looks):
    with opened(looks, {"repair": lambda: "done"}) as dashboard:
        yield dashboard


class Browser:
    """A browser that knows one site."""

    def __init__(self, dashboard):
        self.at = dashboard
        self.host = f"127.0.0.1:{dashboard.port}"
        self.cookie = ""

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.at.port, timeout=10)
        own = {"Host": self.host} | ({"Cookie": self.cookie} if self.cookie else {})
        own |= {"Origin": f"http://{self.host}"} if method == "POST" else {}
        own |= {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {name: value for name, value in own.items() if value is not None})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, data

    def login(self, token=None):
        answer, data = self.ask("POST", "/login", urlencode({"token": token or self.at.token}))
        self.cookie = (answer.headers.get("Set-Cookie") or "").split(";")[0]
        return answer, data


@pytest.fixture
def browser(dashboard):
    return Browser(dashboard)


def test_without_the_token_there_is_a_form_and_nothing_else(browser):
    answer, data = browser.ask("GET", "/")
    assert answer.status == 200
    assert b'name="token"' in data
    assert b"k1" not in data
    assert b"/api/state" not in data
    for path in ("/api/state", "/api/wheel", "/api/explain?key=a", "/x"):
        assert browser.ask("GET", path)[0].status == 401
    assert browser.ask("POST", "/api/do/repair", "")[0].status == 401
    answer, data = browser.login("wrong")
    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers
    browser.cookie = f"raykv-{browser.at.port}=guess"
    assert browser.ask("GET", "/api/state")[0].status == 401


def test_with_it_all_is_there_and_the_token_stands_in_no_address(browser, dashboard):
    answer, _ = browser.login()
    assert answer.status == 303
    assert answer.headers["Location"] == "/"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert dashboard.token not in cookie + dashboard.url
    answer, data = browser.ask("GET", "/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert not re.findall(rb"(?:src|href)=\"(?!data:)", data), "nothing from elsewhere"
    assert len(data) < 40_000
    state = json.loads(browser.ask("GET", "/api/state")[1])
    assert [node["state"] for node in state["nodes"]] == ["up"] * 3
    assert browser.ask("GET", "/api/wheel")[1].startswith(b"<svg")
    assert len(json.dumps(state)) < 10_000
    assert browser.ask("GET", "/api/explain?bucket=b&key=abc")[1] == b"<p>b 3</p>"
    assert b"&lt;b&gt;no" in browser.ask("GET", "/api/explain?key=fail")[1]
    assert browser.ask("GET", "/nothing")[0].status == 404


def test_two_dashboards_of_one_host_leave_each_other_s_login_alone(looks):
    with opened(looks) as left, opened(looks) as right:
        jar = {}  # as a browser keeps it: by name, for all ports
        for dashboard in (left, right):
            browser = Browser(dashboard)
            browser.login()
            name, _, value = browser.cookie.partition("=")
            jar[name] = value
        for dashboard in (left, right):
            browser = Browser(dashboard)
            browser.cookie = "; ".join(f"{name}={value}" for name, value in jar.items())
            assert browser.ask("GET", "/api/state")[0].status == 200
        browser.cookie = f"raykv-{right.port}={left.session}"
        assert browser.ask("GET", "/api/state")[0].status == 401


@pytest.mark.parametrize(
    "foreign",
    ['x={"a":1}', "x=a,b c", "=", "", ";;", "raykv-{port}=another", "x=é", "raykv=1", "y" * 30_000, "z;" * 900],
)
def test_cookies_of_others_change_nothing(browser, foreign):
    browser.login()
    own, foreign = browser.cookie, foreign.format(port=browser.at.port) if "{port}" in foreign else foreign
    for both in (f"{foreign}; {own}", f"{own}; {foreign}", f"{foreign};{own}"):
        browser.cookie = both.encode("latin-1")
        assert browser.ask("GET", "/api/state")[0].status == 200
    browser.cookie = foreign.encode("latin-1")
    assert browser.ask("GET", "/api/state")[0].status == 401


def test_so_many_cookies_are_not_looked_through():
    assert cookies("x=1; " * MAX_COOKIES + "raykv-80=a", "raykv-80") == []
    assert cookies("raykv-80=a; raykv-8=b; xraykv-80=c; raykv-80 = d", "raykv-80") == ["a", "d"]


@pytest.mark.parametrize(
    ("headers", "method", "path"),
    [
        ({"Host": "evil.example"}, "GET", "/"),
        ({"Host": "evil.example"}, "GET", "/api/state"),
        ({"Host": None}, "GET", "/"),
        ({"Origin": "http://evil.example"}, "GET", "/api/state"),
        ({"Origin": "null"}, "POST", "/api/do/repair"),
        ({"Origin": "http://evil.example"}, "POST", "/login"),
        ({"Origin": None}, "POST", "/login"),
        ({"Sec_Fetch_Site": "cross-site"}, "GET", "/api/explain?key=a"),
        ({"Sec_Fetch_Site": "same-site"}, "POST", "/api/do/repair"),
    ],
)
def test_from_elsewhere_nothing(browser, headers, method, path):
    browser.login()
    if headers.get("Host", "") is None:
        headers = {"Host": ""}
    answer, data = browser.ask(method, path, "" if method == "POST" else None, **headers)
    assert answer.status == 403
    assert data == b""


def test_commands_are_there_for_administrators_alone(browser, looks):
    browser.login()
    assert json.loads(browser.ask("POST", "/api/do/repair", "")[1]) == {"said": "done"}
    assert browser.ask("GET", "/api/do/repair")[0].status == 404
    with opened(looks) as plain:
        other = Browser(plain)
        other.login()
        assert other.ask("POST", "/api/do/repair", "")[0].status == 404


def test_too_much_is_refused_before_it_is_read(browser):
    assert browser.ask("POST", "/login", "x" * 5000)[0].status == 413
    answer, _ = browser.ask("POST", "/login", "token=a", Content_Length="many")
    assert answer.status in {400, 413}


@pytest.mark.parametrize(
    ("host", "port", "fits"),
    [
        ("127.0.0.1:8300", 8300, True),
        ("localhost:8300", 8300, True),
        ("LocalHost:8300", 8300, True),
        ("[::1]:8300", 8300, True),
        ("myhost.example:8300", 8300, True),
        ("MyHost.example:8300", 8300, True),
        ("[2001:db8::a]:8300", 8300, True),
        ("[fe80::1]:8300", 8300, True),
        ("::1:8300", 8300, False),
        ("localhost", 8300, False),
        ("localhost:80", 8300, False),
        ("localhost:8301", 8300, False),
        ("evil.example:8300", 8300, False),
        ("localhost.evil.example:8300", 8300, False),
        ("", 8300, False),
        ("localhost", 80, True),
        ("localhost:80", 80, True),
        ("MYHOST.example", 80, True),
        ("[::1]", 80, True),
        ("[2001:DB8::A]:80", 80, True),
        ("localhost:8300", 80, False),
        ("localhost:80:80", 80, False),
        ("evil.example", 80, False),
        ("", 80, False),
        (":80", 80, False),
    ],
)
def test_which_hosts_are_its_own(host, port, fits):
    names = ("MyHost.Example", "2001:db8::A", "fe80::1%eth0", *LOOPBACK)
    assert is_asked_for(host, names, port) is fits


def test_browsers_leave_port_80_out_of_host_and_origin(browser, dashboard, monkeypatch):
    monkeypatch.setattr(server, "HTTP_PORT", dashboard.port)
    for host in ("127.0.0.1", "LOCALHOST", f"localhost:{dashboard.port}"):
        browser.host = host
        assert browser.login()[0].status == 303
        assert browser.ask("GET", "/api/state", Origin=f"http://{host}")[0].status == 200
    assert browser.ask("POST", "/api/do/repair", "", Origin="http://127.0.0.1")[0].status == 403
    assert browser.ask("POST", "/api/do/repair", "", Origin=f"https://{browser.host}")[0].status == 403


@pytest.mark.parametrize("host", ["LOCALHOST", "::1", "::"])
def test_it_is_reached_by_the_address_that_it_says_itself(looks, host):
    try:
        dashboard = opened(looks, host=host)
    except OSError:
        pytest.skip("this host has no IPv6")
    with dashboard:
        address = urlsplit(dashboard.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.request("GET", "/", headers={"Host": address.netloc})
        assert connection.getresponse().status == 200
        connection.close()


@pytest.fixture
def dripping():
    """A function that opens connections to a port, which send a byte of a head now and then."""
    over, opened, dripped = threading.Event(), [], []

    def drip(connection):
        try:
            while not over.wait(0.02):
                connection.sendall(b"x")
        except OSError:
            dripped.append(connection)

    def begin(port, count):
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            opened.append((connection, threading.Thread(target=drip, args=(connection,))))
            opened[-1][1].start()
        return dripped

    yield begin
    over.set()
    for connection, thread in opened:
        thread.join()
        connection.close()


def until(condition, wait_s=10.0):
    deadline_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline_s, "it does not come to be"
        time.sleep(0.01)


def test_a_request_that_drips_is_ended_as_one_that_does_not_come(looks, monkeypatch, dripping):
    monkeypatch.setattr(server._Handler, "timeout", 0.3)
    with opened(looks) as dashboard:
        dripped = dripping(dashboard.port, 3)
        until(lambda: len(dripped) == 3)
        body = f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{dashboard.port}\r\nSec-Fetch-Site: same-origin\r\n"
        with socket.create_connection(("127.0.0.1", dashboard.port), timeout=10) as slow:
            slow.sendall(f"{body}Content-Length: 4000\r\n\r\n".encode())
            with pytest.raises(OSError, match=r"reset|[Pp]ipe"):  # noqa: PT012 - each byte may be the last one
                for _ in range(500):
                    slow.sendall(b"x")
                    time.sleep(0.02)


def test_strangers_that_drip_lock_nobody_out(looks, monkeypatch, dripping):
    monkeypatch.setattr(server, "MAX_THREADS", 8)
    with opened(looks) as dashboard:
        browser = Browser(dashboard)
        browser.login()
        known = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=10)
        ask = {"Host": browser.host, "Cookie": browser.cookie}
        known.request("GET", "/api/stores", headers=ask)
        known.getresponse().read()
        dripping(dashboard.port, 20)
        began_s = time.monotonic()
        assert Browser(dashboard).ask("GET", "/")[0].status == 200
        assert browser.ask("GET", "/api/stores")[0].status == 200
        assert time.monotonic() - began_s < server.REQUEST_TIMEOUT_S / 2, "at once, whatever the drips' time-out"
        kept = known.sock
        known.request("GET", "/api/stores", headers=ask)
        assert known.getresponse().status == 200
        assert known.sock is kept, "who has the token keeps the connection"
        known.close()
        until(lambda: len(dashboard._server._strangers) <= 8)


def test_where_all_have_the_token_nobody_makes_room(looks, monkeypatch):
    monkeypatch.setattr(server, "MAX_THREADS", 2)
    with opened(looks) as dashboard:
        browser = Browser(dashboard)
        browser.login()
        kept = [http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=10) for _ in range(2)]
        for _ in range(2):
            for connection in kept:
                connection.request("GET", "/api/stores", headers={"Host": browser.host, "Cookie": browser.cookie})
                assert connection.getresponse().read() == b'["simulated"]'
            with pytest.raises((OSError, http.client.HTTPException)):
                browser.ask("GET", "/")
        for connection in kept:
            connection.close()


def test_a_head_without_end_is_not_read_to_its_end(dashboard):
    with socket.create_connection(("127.0.0.1", dashboard.port), timeout=10) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError, match=r"reset|[Pp]ipe"):  # noqa: PT012 - each line may be the last one
            for number in range(90):
                endless.sendall(f"X{number}: {'x' * 60_000}\r\n".encode())


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "http://[x/", {}, 400),
        ("GET", "/api/state?" + "&".join(f"f{number}=1" for number in range(9)), {}, 400),
        ("POST", "http://[x/login", {}, 400),
        ("POST", "/api/do/repair?" + "&".join(f"f{number}=1" for number in range(9)), {}, 400),
        ("POST", "/login", {"Content-Length": "9" * 6000}, 413),
        ("POST", "/login", {"Content-Length": "-1"}, 413),
    ],
)
def test_what_is_no_proper_request_is_answered(browser, method, path, headers, status):
    browser.login()
    assert browser.ask(method, path, "" if method == "POST" else None, **headers)[0].status == status


def test_a_form_of_too_many_fields_is_answered(browser):
    assert browser.ask("POST", "/login", "a=1&" * 9)[0].status == 400


@pytest.mark.parametrize(("error", "status"), [(QuorumNotMet("no <b>answer"), 503), (RuntimeError("odd"), 500)])
def test_trouble_with_the_stores_is_answered(error, status):
    def listed():
        raise error

    with Dashboard(lambda name: None, listed) as dashboard:
        browser = Browser(dashboard)
        browser.login()
        for method, path in (("GET", "/"), ("GET", "/api/stores"), ("GET", "/api/state"), ("POST", "/api/do/repair")):
            answer, data = browser.ask(method, path, "" if method == "POST" else None)
            assert answer.status == status
            assert (b"no &lt;b&gt;answer" in data) is (status == 503)


def test_a_port_that_is_taken(dashboard, looks):
    with pytest.raises(OSError, match="already in use"):
        opened(looks, port=dashboard.port)


def test_what_a_page_has_already_is_not_sent_again_and_what_is_sent_is_packed(browser):
    browser.login()
    answer, data = browser.ask("GET", "/api/state?page=a")
    number, again_s = answer.headers["Raykv-Look"], float(answer.headers["Raykv-Again-S"])
    assert again_s == 2.0
    answer, packed = browser.ask("GET", "/api/state?page=a", Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed))["store"] == json.loads(data)["store"]
    assert len(packed) < len(data) / 2
    answer, nothing = browser.ask("GET", f"/api/state?page=a&since={answer.headers['Raykv-Look']}")
    assert (answer.status, nothing) == (204, b"")
    assert browser.ask("GET", f"/api/state?since={int(number) + 100}")[0].status == 200, "from another dashboard"


def test_of_several_stores_each_has_its_page_and_no_other_name_has_one(looks):
    with opened(looks, {"repair": lambda: "done"}, ("left", "right")) as several:
        browser = Browser(several)
        assert browser.ask("GET", "/api/stores")[0].status == 401
        browser.login()
        assert json.loads(browser.ask("GET", "/api/stores")[1]) == ["left", "right"]
        for path, name in (
            ("/api/state", "left"),
            ("/api/state?store=right", "right"),
            ("/api/state?store=left", "left"),
        ):
            assert json.loads(browser.ask("GET", path)[1])["store"] == name
        for path in ("/?store=other", "/api/state?store=../right", "/api/wheel?store=other"):
            assert browser.ask("GET", path)[0].status == 404
        assert browser.ask("POST", "/api/do/repair?store=other", "")[0].status == 404
        assert json.loads(browser.ask("POST", "/api/do/repair?store=right", "")[1]) == {"said": "done"}
        assert {*several._shown} == {"left", "right"}


def test_on_all_addresses_it_is_reached_by_any_of_its_own_and_by_no_other_name(looks):
    with opened(looks, host="0.0.0.0") as everywhere:
        for host, status in (("127.0.0.2", 200), ("127.0.0.3", 403), ("evil.example", 403)):
            connection = http.client.HTTPConnection("127.0.0.2", everywhere.port, timeout=10)
            connection.request("GET", "/", headers={"Host": f"{host}:{everywhere.port}"})
            assert connection.getresponse().status == status, host
            connection.close()
