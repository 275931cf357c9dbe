"""Frames between processes on a real Ray: by calls of actors, and over streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

import raykv
from raykv.actors import calls
from raykv.cluster.peers import node_address
from raykv.ports import PeerAbsent, PeerDead, PeerFailure, PeerUnreachable
from raykv.protocol import frames as f
from raykv.transport import Endpoint
from raykv.transport.client import connect
from raykv.transport.sockets import LOCAL

pytestmark = pytest.mark.ray

PING = f.node_requests.encode(f.NodeRequest(0, f.Ping()))
CONNECTED = "03"


async def stream_to(transport: Any, node_id: str, timeout_s: float = 30.0) -> int:
    """Ping the node until it has answered by a stream; return its incarnation."""
    peer = node_address(node_id)
    async with asyncio.timeout(timeout_s):
        while True:
            by_stream = peer in transport.connected()
            with contextlib.suppress(PeerFailure):
                answer = f.node_answers.decode(await transport.call(peer, PING, 5.0))
                if by_stream and isinstance(answer.body, f.Pong):
                    return answer.incarnation
                assert isinstance(answer.body, f.Pong | f.NodeRefused), "a node that is not yet open refuses"
            await asyncio.sleep(0.02)


def connections_to(name: str) -> int:
    """How many connections stand to a local socket of this host (Linux)."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return sum(line[-1] == name and line[5] == CONNECTED for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's table of connections is read")
def test_the_coordinator_and_the_nodes_reach_each_other_by_streams(shared_store: raykv.Store) -> None:
    import ray

    from raykv.actors.naming import find_actor

    store = shared_store.bucket("streams")
    names = {}
    for node_id in ("n1", "n2", "n3"):
        host, port, secret = ray.get(
            find_actor(shared_store.store_name, node_address(node_id)).stream.remote(ray.util.get_node_ip_address())
        )
        assert (host[0], port) == ("@", 0)
        assert len(secret) == 32
        names[node_id] = host
    began_s = time.monotonic()
    while not all(connections_to(name) >= 3 for name in names.values()):  # the coordinator's, and two nodes'
        assert time.monotonic() - began_s < 120
        store.put("key", 1)
        store.get("key", r="all")
    store.put_many({f"k{number}": number for number in range(300)}, w="all")
    assert store.get_many([f"k{number}" for number in range(300)], r="all")["k299"] == 299
    assert dict(store.scan(prefix="k29")) == {"k29": 29} | {f"k29{digit}": 290 + digit for digit in range(10)}


def test_a_stream_is_on_the_hosts_own_address_only_for_other_hosts(
    shared_store: raykv.Store,
) -> None:
    import ray

    from raykv.actors.naming import find_actor

    here = ray.util.get_node_ip_address()
    handle = find_actor(shared_store.store_name, node_address("n1"))
    one, again, other = ray.get([handle.stream.remote(caller) for caller in (here, here, "203.0.113.9")])
    assert one == again
    assert one[0].startswith("@raykv-") if LOCAL else one[0] == "127.0.0.1"
    assert other[0] == here
    assert other[:2] != one[:2] or here == "127.0.0.1"

    async def work() -> None:
        for endpoint in (one, other):
            connection = await connect(Endpoint(*endpoint))
            assert isinstance(f.node_answers.decode(await connection.call(PING, 60.0)).body, f.Pong)
            connection.close()

    asyncio.run(work())


def test_a_store_works_by_calls_alone(start_store: Any, store_name: str) -> None:
    from raykv.actors.calls import fast_transport

    store = start_store(config=raykv.NodeConfig(stream=False))
    store.put_many({f"k{number}": number for number in range(50)})
    assert store.get("k7", r="all") == 7

    async def work() -> None:
        transport = fast_transport(store_name)
        for _ in range(20):
            await transport.call(node_address("n1"), PING, 60.0)
        assert transport.connected() == []
        await transport.close()

    asyncio.run(work())


def test_what_is_no_storage_node_is_called_by_ray(shared_store: raykv.Store) -> None:
    from raykv.actors.calls import fast_transport

    async def work() -> None:
        transport = fast_transport(shared_store.store_name)
        request = f.supervisor_requests.encode(f.GetClusterUpdate())
        for _ in range(5):
            answer = f.supervisor_answers.decode(await transport.call("supervisor", request, 60.0))
            assert isinstance(answer, f.ClusterUpdate)
        with pytest.raises(PeerAbsent):
            await transport.call(node_address("n99"), PING, 60.0)
        assert transport.connected() == []
        await transport.close()

    asyncio.run(work())


def test_a_killed_node_is_called_by_ray_and_then_by_a_stream_to_its_new_run(start_store: Any, store_name: str) -> None:
    from raykv.actors.calls import fast_transport

    store = start_store()
    pid = next(node["pid"] for node in store.status()["nodes"] if node["node_id"] == "n2")

    async def work() -> None:
        transport = fast_transport(store_name)
        assert await stream_to(transport, "n2") == 1
        os.kill(pid, signal.SIGKILL)
        await store.aio.put("key", "while it was dead")  # by the two others
        failures = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    try:
                        await transport.call(node_address("n2"), PING, 60.0)
                    except PeerFailure as failure:
                        failures.append(failure)
                    await asyncio.sleep(0.005)
        # Calls under way have unknown outcomes; later ones hear from Ray that the process has ended, or that none runs.
        assert {type(failure) for failure in failures} <= {PeerUnreachable, PeerDead, PeerAbsent}
        assert any(isinstance(failure, PeerDead) for failure in failures)
        assert await stream_to(transport, "n2") == 2
        await transport.close()

    asyncio.run(work())
    assert store.get("key", r="all") == "while it was dead"


def test_a_frozen_node_is_silent_by_either_way_and_hurts_nobody(start_store: Any, store_name: str) -> None:
    store = start_store()
    for number in range(20):
        store.put(f"key:{number}", number)
    pid = next(node["pid"] for node in store.status()["nodes"] if node["node_id"] == "n3")
    os.kill(pid, signal.SIGSTOP)
    try:
        for number in range(20):
            store.put(f"key:{number}", -number)
            assert store.get(f"key:{number}") == -number
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was given up meanwhile, and ended
            os.kill(pid, signal.SIGCONT)


def test_an_actor_goes_on_calling_itself_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """*Schedule without: Ray restarts a coordinator or the supervisor, and refuses its one call of itself, since the head
    has not said yet that it runs. Then no port for commands opens, and no store starts.*"""
    said = iter([ActorUnavailableError("it is restarting", b"0" * 16), TimeoutError(), None])

    def answer(timeout_s: float) -> None:
        assert timeout_s == calls.OWN_CALL_TIMEOUT_S
        if (error := next(said)) is not None:
            raise error

    method = SimpleNamespace(remote=lambda: SimpleNamespace(future=lambda: SimpleNamespace(result=answer)))
    own = SimpleNamespace(current_actor=SimpleNamespace(open_port=method))
    monkeypatch.setattr(calls.ray, "get_runtime_context", lambda: own)
    monkeypatch.setattr(calls, "OWN_CALL_EVERY_S", 0.001)
    calls.call_itself("open_port")
    for thread in threading.enumerate():
        if thread.name == "raykv-open_port":
            thread.join(timeout=60)
    assert next(said, "all were asked for") == "all were asked for"
