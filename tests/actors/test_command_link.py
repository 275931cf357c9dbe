"""A command's link to a port: real sockets, and what a coordinator says is made up here. Without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from raykv.actors import command_link, endpoint_file
from raykv.actors.command_link import CommandLink, ListStores, LocateStore, link_to, port_requests, running_stores
from raykv.client import administration
from raykv.client.driver import run
from raykv.errors import StoreNotFound, StoreUnavailable
from raykv.ports import PeerAbsent, PeerFailure, PeerSilent, PeerUnreachable
from raykv.protocol import frames as f
from raykv.transport import Endpoint, StreamServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLUSTER = "ab" * 28
WAIT_S = 30.0
STATUS = f.GetInfo("status", WAIT_S)


class Port:
    """Listens in a thread of its own, and answers as it is told."""

    def __init__(self) -> None:
        self.stores: Any = ["shop"]
        self.path: Any = "/data/shop"
        self.requests: list[f.CoordinatorRequest] = []
        self.speaks = threading.Event()
        self.speaks.set()
        self.fails = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.server = StreamServer(self._answer)
        self.endpoint = self._do(self.server.listen_locally())
        self._closed = False

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    async def _answer(self, frame: bytes) -> bytes:
        kind = f.kind_of_message(frame)
        if kind in {b"ListStores", b"LocateStore"}:
            port_requests.decode(frame)
            said = self.stores if kind == b"ListStores" else self.path
            answer = f.Refused(f.Failed.of(said)) if isinstance(said, Exception) else f.Info(said)
            return f.coordinator_answers.encode(answer)
        if self.fails:
            raise RuntimeError
        request = f.coordinator_requests.decode(frame)
        self.requests.append(request)
        number = len(self.requests)
        await self._loop.run_in_executor(None, self.speaks.wait, WAIT_S)
        return f.coordinator_answers.encode(f.Info(number))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.speaks.set()
        self._do(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class ByRay:
    """What joining Ray would give: a link that counts, or an error."""

    def __init__(self) -> None:
        self.joined = 0
        self.requests: list[f.CoordinatorRequest] = []
        self.error: Exception | None = None
        self.closed = False

    def __call__(self) -> Any:
        self.joined += 1
        if self.error is not None:
            raise self.error
        return self

    def submit(self, requests: list[f.CoordinatorRequest], meanwhile: object = None) -> list[Any]:
        self.requests += requests
        return [len(self.requests) for _ in requests]

    def result(self, ticket: int, timeout_s: float) -> f.Info:
        return f.Info(f"by Ray {ticket}")

    async def call(self, request: f.CoordinatorRequest, timeout_s: float) -> f.Info:
        return f.Info("awaited by Ray")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Port]:
    monkeypatch.setattr(endpoint_file, "cache_directory", lambda: str(tmp_path / "raykv"))
    monkeypatch.setattr(command_link, "cluster_to_join", lambda: CLUSTER)
    for name in ("CONNECT_TIMEOUT_S", "ASK_TIMEOUT_S", "PATH_TIMEOUT_S"):
        monkeypatch.setattr(command_link, name, WAIT_S)
    with contextlib.closing(Port()) as port:
        endpoint_file.write(CLUSTER, "shop", "coordinator", port.endpoint)
        yield port


@pytest.fixture
def by_ray() -> ByRay:
    return ByRay()


@pytest.fixture
def link(port: Port, by_ray: ByRay) -> Iterator[CommandLink]:
    link = link_to("shop", by_ray)
    assert link is not None
    with contextlib.closing(link):
        yield link


def ask(link: CommandLink, *requests: f.CoordinatorRequest, timeout_s: float = WAIT_S) -> list[Any]:
    return [link.result(ticket, timeout_s).data for ticket in link.submit(requests)]  # type: ignore[union-attr]


def test_operations_go_straight(link: CommandLink, port: Port, by_ray: ByRay) -> None:
    assert ask(link, STATUS) == [1]
    assert sorted(ask(link, STATUS, STATUS, STATUS)) == [2, 3, 4]
    assert port.requests == [STATUS] * 4
    assert link.path() == "/data/shop"
    assert running_stores() == ["shop"]
    assert by_ray.joined == 0


def test_answers_are_told_apart_in_any_order(link: CommandLink, port: Port) -> None:
    first, second = link.submit([STATUS, STATUS])
    assert {link.result(second, WAIT_S), link.result(first, WAIT_S)} == {f.Info(1), f.Info(2)}


# ---- where only Ray knows ----


def test_a_store_that_ray_does_not_list_is_not_reached(port: Port, by_ray: ByRay) -> None:
    """Its supervisor has ended: the coordinator that is left answers for no store."""
    for said in (["other"], [], "shop", None, {"shop": 1}, [1], StoreUnavailable("Ray is gone")):
        port.stores = said
        assert link_to("shop", by_ray) is None, said
    assert running_stores() is None
    assert port.requests == []


def test_without_a_file_there_is_no_way(port: Port, by_ray: ByRay) -> None:
    assert link_to("other", by_ray) is None
    endpoint_file.remove(CLUSTER, "shop")
    assert link_to("shop", by_ray) is None
    assert running_stores() is None


@pytest.mark.parametrize("cluster", ["", "cd" * 28])
def test_another_cluster_is_not_looked_into(
    port: Port, by_ray: ByRay, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_link, "cluster_to_join", lambda: cluster)
    assert link_to("shop", by_ray) is None
    assert running_stores() is None


def test_a_process_that_has_ended_is_not_waited_for(port: Port, by_ray: ByRay) -> None:
    port.close()
    assert link_to("shop", by_ray) is None
    assert running_stores() is None


def test_another_run_has_another_secret(port: Port, by_ray: ByRay) -> None:
    endpoint_file.write(CLUSTER, "shop", "coordinator", port.endpoint._replace(secret=b"x" * 32))
    assert link_to("shop", by_ray) is None
    assert port.requests == []


def test_a_frozen_process_is_waited_for_but_a_moment(
    port: Port, by_ray: ByRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_link, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        endpoint_file.write(CLUSTER, "shop", "coordinator", Endpoint("127.0.0.1", frozen.getsockname()[1], b"s" * 32))
        began_s = time.monotonic()
        assert link_to("shop", by_ray) is None
        assert time.monotonic() - began_s >= 0.2


def test_of_several_coordinators_one_that_answers_is_taken(port: Port, by_ray: ByRay) -> None:
    for number in range(2, command_link.MOST_TRIED + 1):
        endpoint_file.write(CLUSTER, "shop", f"coordinator-{number}", Endpoint("@raykv-" + "0" * 16, 0, b"s" * 32))
    for _ in range(5):
        link = link_to("shop", by_ray)
        assert link is not None
        assert len(ask(link, STATUS)) == 1
        link.close()


# ---- what is lost on the way ----


def test_once_the_connection_is_lost_ray_takes_over(link: CommandLink, port: Port, by_ray: ByRay) -> None:
    assert ask(link, STATUS) == [1]
    port.close()
    assert run(administration.status(timeout=WAIT_S), _Repeating(link)) == {"data": "by Ray"}
    assert by_ray.joined == 1
    assert ask(link, STATUS, STATUS) == ["by Ray 3", "by Ray 3"]
    assert asyncio.run(link.call(STATUS, WAIT_S)) == f.Info("awaited by Ray")
    assert by_ray.joined == 1
    with pytest.raises(StoreUnavailable, match="where the store's data is"):
        link.path()
    link.close()
    assert by_ray.closed


class _Repeating:
    """The link, except that Ray's answers read as those of a status."""

    def __init__(self, link: CommandLink) -> None:
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def result(self, ticket: Any, timeout_s: float) -> f.Info:
        answer = self._link.result(ticket, timeout_s)
        assert answer.data.startswith("by Ray")  # type: ignore[union-attr]
        return f.Info({"data": "by Ray"})


def test_what_was_under_way_may_have_been_carried_out(link: CommandLink, port: Port) -> None:
    port.speaks.clear()
    (ticket,) = link.submit([STATUS])
    while not port.requests:
        time.sleep(0.01)
    port.close()
    with pytest.raises(PeerUnreachable):
        link.result(ticket, WAIT_S)


def test_what_was_not_sent_says_so(link: CommandLink, port: Port) -> None:
    port.close()
    lost = []
    while not any(isinstance(each, PeerAbsent) for each in lost):  # the kernel takes what comes before it has heard
        lost = link.submit([STATUS, STATUS, STATUS])
        for ticket in lost:
            with pytest.raises(PeerFailure):
                raise ticket if isinstance(ticket, PeerFailure) else link.result(ticket, WAIT_S)
        if link._connection is None:
            break
    assert link._connection is None


def test_a_store_that_was_stopped_meanwhile_is_told_as_ray_tells_it(
    link: CommandLink, port: Port, by_ray: ByRay
) -> None:
    by_ray.error = StoreNotFound("store 'shop' is not running")
    port.close()
    with pytest.raises(StoreNotFound, match="is not running"):
        run(administration.status(timeout=WAIT_S), link)


def test_a_late_answer_is_not_taken_for_the_next(link: CommandLink, port: Port) -> None:
    port.speaks.clear()
    (ticket,) = link.submit([STATUS])
    with pytest.raises(PeerSilent):
        link.result(ticket, 0.05)
    port.speaks.set()
    (second,) = link.submit([STATUS])
    assert link.result(second, WAIT_S) == f.Info(2)


def test_a_failure_there_is_one_here(link: CommandLink, port: Port) -> None:
    port.fails = True
    with pytest.raises(PeerUnreachable, match="failed while it was at the request"):
        ask(link, STATUS)
    port.fails = False
    assert ask(link, STATUS) == [1]


def test_an_interrupt_ends_the_connection(link: CommandLink, by_ray: ByRay, monkeypatch: pytest.MonkeyPatch) -> None:
    (ticket,) = link.submit([STATUS])

    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_link.Connection, "answer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        link.result(ticket, WAIT_S)
    assert ask(link, STATUS) == ["by Ray 1"]


def test_what_a_port_does_not_say_is_an_error(link: CommandLink, port: Port) -> None:
    port.path = None
    with pytest.raises(StoreUnavailable, match="where the store's data is"):
        link.path()
    port.path = StoreUnavailable("no supervisor")
    with pytest.raises(StoreUnavailable, match="no supervisor"):
        link.path()


def test_its_own_requests_are_none_of_a_coordinator() -> None:
    own = {port_requests.encode(each) for each in (ListStores(), LocateStore())}
    kinds = {kind.__name__.encode() for kind in f.COORDINATOR}
    assert not {f.kind_of_message(frame) for frame in own} & kinds


@pytest.mark.parametrize("module", ["raykv.actors.command_link", "raykv.cli.reading"])
def test_nothing_that_takes_long_is_imported(module: str) -> None:
    code = (
        f"import sys, {module}; print(*sorted({{'ray', 'asyncio', 'ssl', 'uvloop', 'raykv.viz'}} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"
