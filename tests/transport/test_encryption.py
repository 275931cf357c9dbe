"""Streams between hosts where Ray encrypts its calls. The certificates are made here."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from raykv.transport import StreamServer, encryption, wire
from raykv.transport.client import connect
from raykv.transport.sockets import LOCAL, Stranger, open_socket
from tests.transport.conftest import LOOPBACK, settled

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")

SECRET_WORD = b"nobody is to read this on its way"


async def echo(frame: bytes) -> bytes:
    return b"stream " + frame


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def authority(place: Path) -> None:
    place.mkdir()
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=authority", "-keyout", place / "ca.key", "-out", place / "ca.crt")  # fmt: skip


def certificate(place: Path, name: str, names: str) -> None:
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", place / f"{name}.key", "-out", place / f"{name}.csr")  # fmt: skip
    (place / "names").write_text(f"subjectAltName={names}\n")
    openssl("x509", "-req", "-days", "2", "-in", place / f"{name}.csr", "-CA", place / "ca.crt", "-CAkey",
            place / "ca.key", "-CAcreateserial", "-extfile", place / "names", "-out", place / f"{name}.crt")  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("certificates")
    for which in ("ours", "theirs"):
        authority(place / which)
        certificate(place / which, "here", "IP:127.0.0.1")
    certificate(place / "ours", "like", "DNS:127.0.0.1")
    certificate(place / "ours", "elsewhere", "IP:10.1.2.3,DNS:localhost")
    return place


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, made: Path):
    def show(which: str, name: str, trusted: str = "ours") -> None:
        monkeypatch.setenv("RAY_USE_TLS", "1")
        monkeypatch.setenv(encryption.CERTIFICATE, str(made / which / f"{name}.crt"))
        monkeypatch.setenv(encryption.KEY, str(made / which / f"{name}.key"))
        monkeypatch.setenv(encryption.AUTHORITY, str(made / trusted / "ca.crt"))

    return show


class Wire:
    """Stands between, and keeps all that passes."""

    def __init__(self, port: int) -> None:
        self.port, self.passed = port, bytearray()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(LOOPBACK, self.port)
        await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.passed += data
            writer.write(data)
        writer.close()


@pytest.mark.parametrize("name", ["here", "like", None])
def test_what_passes_can_be_read_only_without(run, show, name: str | None) -> None:
    if name is not None:
        show("ours", name)

    async def work() -> None:
        listening = StreamServer(echo)
        endpoint = await listening.listen(LOOPBACK)
        tapped = Wire(endpoint.port)
        between = await asyncio.start_server(tapped, LOOPBACK, 0)
        connection = await connect(endpoint._replace(port=between.sockets[0].getsockname()[1]))
        large = SECRET_WORD * 100_000
        assert await connection.call(SECRET_WORD, 5.0) == b"stream " + SECRET_WORD
        assert await connection.call(large, 5.0) == b"stream " + large
        assert (SECRET_WORD in tapped.passed) == (name is None)
        assert len(tapped.passed) > 2 * len(large)
        connection.close()
        await settled(lambda: not listening.callers.friends)
        between.close()
        await listening.close()
        await asyncio.sleep(0.05)

    run(work())


@pytest.mark.parametrize("who", ["nobody", "plain", "of another authority", "plain words"])
def test_a_peer_without_a_certificate_of_the_same_authority_is_not_let_in(
    run, show, made, monkeypatch, who: str
) -> None:
    show("ours", "here")

    async def work() -> None:
        listening = StreamServer(echo)
        endpoint = await listening.listen(LOOPBACK)
        # The server reads its settings when somebody comes: what it shows stays.
        real = encryption.context(server=True)
        client = encryption.context(server=False)
        if who == "nobody":
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname = False
            client.load_verify_locations(made / "ours" / "ca.crt")
        elif who == "of another authority":
            show("theirs", "here")
            client = encryption.context(server=False)
        elif who == "plain":
            client = None
        monkeypatch.setattr(encryption, "context", lambda *, server: real if server else client)
        if who == "plain words":
            reader, writer = await asyncio.open_connection(LOOPBACK, endpoint.port)
            writer.write(b"raykv" + bytes(100))
            assert b"raykv" not in await reader.read()
            writer.close()
        else:
            with pytest.raises((OSError, wire.WireError)):
                await connect(endpoint)
        assert not listening.callers.friends
        await listening.close()
        await asyncio.sleep(0.05)

    run(work())


@pytest.mark.parametrize(("which", "name"), [("ours", "elsewhere"), ("theirs", "here")])
def test_a_server_that_is_not_the_one_meant_is_not_spoken_to(run, show, monkeypatch, which: str, name: str) -> None:
    async def work() -> None:
        show(which, name, trusted=which)
        listening = StreamServer(echo)
        endpoint = await listening.listen(LOOPBACK)
        real = encryption.context(server=True)
        show("ours", "here")
        client = encryption.context(server=False)
        monkeypatch.setattr(encryption, "context", lambda *, server: real if server else client)
        with pytest.raises((Stranger, ssl.SSLError)):
            await connect(endpoint)
        await listening.close()
        await asyncio.sleep(0.05)

    run(work())


def test_without_good_settings_there_is_no_stream_between_hosts(run, show, monkeypatch) -> None:
    async def work() -> None:
        listening = StreamServer(echo)
        plain = await listening.listen(LOOPBACK)
        show("ours", "here")
        monkeypatch.delenv(encryption.KEY)
        with pytest.raises(OSError, match=encryption.KEY):
            await connect(plain)
        with pytest.raises(OSError, match=encryption.KEY):
            await StreamServer(echo).listen(LOOPBACK)
        show("ours", "nowhere")
        with pytest.raises(FileNotFoundError):
            await StreamServer(echo).listen(LOOPBACK)
        with pytest.raises(OSError, match="no blocking connection"):
            open_socket(plain, 1.0)
        await listening.close()

    run(work())


@pytest.mark.skipif(not LOCAL, reason="Linux only")
def test_within_a_machine_nothing_is_encrypted(run, show) -> None:
    show("ours", "nowhere")

    async def work() -> None:
        listening = StreamServer(echo)
        endpoint = await listening.listen_locally()
        connection = await connect(endpoint)
        assert await connection.call(b"x", 5.0) == b"stream x"
        open_socket(endpoint, 1.0).close()
        connection.close()
        await listening.close()

    run(work())


def test_what_names_an_address() -> None:
    assert not encryption.names(None, "10.0.0.1")
    assert not encryption.names({}, "10.0.0.1")
    found = {"subjectAltName": (("DNS", "10.0.0.1"), ("IP Address", "10.0.0.2"), ("URI", "10.0.0.3"))}
    assert [encryption.names(found, f"10.0.0.{number}") for number in (1, 2, 3)] == [True, True, False]
