"""A server's admission of callers, and its treatment of misbehaving ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from raykv.config import MAX_FRAME_BYTES
from raykv.ports import PeerUnreachable
from raykv.protocol.frames import NodeRequest, Ping, Read, node_requests
from raykv.transport import StreamServer, callers, server, sockets, wire
from raykv.transport.admission import Admission
from raykv.transport.client import Connection, connect
from raykv.transport.sockets import LOCAL
from tests.transport.conftest import LOOPBACK, Bench, settled

if TYPE_CHECKING:
    from collections.abc import Awaitable


async def echo(frame: bytes) -> bytes:
    return b"stream " + frame


async def raw(bench: Bench) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert bench.endpoint is not None
    return await asyncio.open_connection(LOOPBACK, bench.endpoint.port)


async def friend(bench: Bench) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has shaken hands, in the test's own hands."""
    reader, writer = await raw(bench)
    handshake = wire.ClientHandshake(bench.server.secret, b"c" * 32)
    writer.write(handshake.hello())
    writer.write(handshake.feed(await reader.readexactly(70)))
    return reader, writer


async def hung_up(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def test_a_caller_without_the_secret_is_disconnected_and_asks_nothing(run) -> None:
    seen = []

    async def serve(frame: bytes) -> bytes:
        seen.append(frame)
        return b""

    async def work() -> None:
        async with Bench(serve) as bench:
            reader, writer = await raw(bench)
            writer.write(b"raykv" + bytes([wire.VERSION]) + b"c" * 32)
            reply = await reader.readexactly(70)
            reflected = reply[-32:]
            writer.write(reflected + wire.head(1, wire.REQUEST, b"hello") + b"hello")
            assert await hung_up(reader)
            writer.close()
            assert seen == []
            assert not bench.server.callers.friends

    run(work())


def test_another_version_hears_which_one_this_is(run) -> None:
    async def work() -> None:
        async with Bench(echo) as bench:
            reader, writer = await raw(bench)
            writer.write(b"raykv" + bytes([wire.VERSION + 1]) + bytes(10))
            assert await reader.read() == b"raykv" + bytes([wire.VERSION])
            writer.close()
            await settled(lambda: not bench.server.callers.strangers)

    run(work())


def test_a_stranger_has_a_few_seconds(run, monkeypatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_S", 0.05)

    async def work() -> None:
        async with Bench(echo) as bench:
            reader, writer = await raw(bench)
            writer.write(b"ray")
            assert await hung_up(reader)
            writer.close()
            assert not bench.server.callers.strangers

    run(work())


def test_a_stranger_that_sends_too_much_is_disconnected(run) -> None:
    async def work() -> None:
        async with Bench(echo) as bench:
            reader, writer = await raw(bench)
            writer.write(b"raykv" + bytes([wire.VERSION]) + bytes(100_000))
            assert await hung_up(reader)
            writer.close()

    run(work())


def test_strangers_are_bounded_and_a_friend_gets_through(run, monkeypatch) -> None:
    monkeypatch.setattr(callers, "MAX_STRANGERS_OF_A_CALLER", 5)
    monkeypatch.setattr(callers, "SOON_S", 0.0)

    async def work() -> None:
        async with Bench(echo) as bench:
            strangers = [await raw(bench) for _ in range(12)]
            await settled(lambda: len(bench.server.callers.strangers) == 5)
            assert bench.endpoint is not None
            connection = await connect(bench.endpoint)
            assert await connection.call(b"x", 5.0) == b"stream x"
            assert len(bench.server.callers.strangers) <= 5
            assert await hung_up(strangers[0][0])
            connection.close()
            for _, writer in strangers:
                writer.close()

    run(work())


def test_connections_are_bounded(run, monkeypatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)

    async def work() -> None:
        async with Bench(echo) as bench:
            assert bench.endpoint is not None
            first = await connect(bench.endpoint)
            with pytest.raises(ConnectionError):
                await connect(bench.endpoint)
            assert await first.call(b"x", 5.0) == b"stream x"
            first.close()

    run(work())


def test_a_frame_above_the_bound_ends_the_connection(run) -> None:
    async def work() -> None:
        async with Bench(echo) as bench:
            reader, writer = await friend(bench)
            writer.write((MAX_FRAME_BYTES + 1).to_bytes(4, "little") + bytes(9))
            assert await hung_up(reader)
            writer.close()

    run(work())


def test_requests_sent_byte_by_byte_are_answered(run) -> None:
    async def work() -> None:
        async with Bench(echo) as bench:
            reader, writer = await friend(bench)
            for byte in wire.head(9, wire.REQUEST, b"hello") + b"hello":
                writer.write(bytes([byte]))
                await asyncio.sleep(0.001)
            answer = wire.head(9, wire.ANSWER, b"stream hello") + b"stream hello"
            assert await reader.readexactly(len(answer)) == answer
            writer.close()

    run(work())


def test_a_handler_that_breaks_leaves_the_outcome_unknown_and_the_connection_up(run, caplog) -> None:
    async def serve(frame: bytes) -> bytes:
        if frame == b"break":
            raise RuntimeError("a bug")
        if frame == b"cancel":
            raise asyncio.CancelledError
        return frame

    async def work() -> None:
        async with Bench(serve) as bench:
            await bench.connected()
            for frame in (b"break", b"cancel"):
                with pytest.raises(PeerUnreachable, match="failed while"):
                    await bench.call(frame)
            assert await bench.call(b"x") == b"x"
            assert bench.beside.frames == []

    with caplog.at_level(logging.ERROR, "raykv.stream"):
        run(work())
    assert [record.message for record in caplog.records] == ["a request failed"]


def test_a_caller_that_asks_too_much_at_once_is_read_more_slowly_and_answered_all_the_same(run, monkeypatch) -> None:
    monkeypatch.setattr(server, "MAX_UNDER_WAY", 10)
    most = 0

    async def serve(frame: bytes) -> bytes:
        nonlocal most
        most = max(most, len(bench.server.tasks))
        await asyncio.sleep(0.001)
        return frame

    bench = Bench(serve)

    async def work() -> None:
        async with bench:
            await bench.connected()
            frames = [b"%6d" % number + bytes(60_000) for number in range(200)]
            assert await asyncio.gather(*map(bench.call, frames)) == frames
            assert 1 < most < 30  # the bound, and what one read may bring beyond it

    run(work())


def test_a_caller_that_does_not_read_its_answers_is_not_read_from_and_then_dropped(run, monkeypatch, caplog) -> None:
    monkeypatch.setattr(server, "HIGH_WATER_BYTES", 100_000)
    monkeypatch.setattr(server, "MAX_UNREAD_BYTES", 30_000_000)

    served = []

    async def serve(frame: bytes) -> bytes:
        served.append(frame)
        return bytes(10_000_000) if frame == b"large" else frame

    async def work() -> None:
        async with Bench(serve) as bench:
            _, writer = await friend(bench)
            writer.transport.pause_reading()
            writer.write(wire.head(1, wire.REQUEST, b"large") + b"large")
            await settled(lambda: any(connection._paused for connection in bench.server.callers.friends))
            writer.write(wire.head(2, wire.REQUEST, b"small") + b"small")
            await asyncio.sleep(0.05)
            assert served == [b"large"]
            writer.transport.abort()
            await settled(lambda: not bench.server.callers.friends)
            # All at once, so that they are read before the first answer is due.
            _, writer = await friend(bench)
            writer.transport.pause_reading()
            writer.write(b"".join(wire.head(number, wire.REQUEST, b"large") + b"large" for number in range(8)))
            await settled(lambda: len(served) > 1)
            await settled(lambda: not bench.server.callers.friends)
            writer.transport.abort()

    with caplog.at_level(logging.WARNING, "raykv.stream"):
        run(work())
    assert "does not read its answers" in caplog.text


def test_answers_are_read_on_after_a_pause(run, monkeypatch) -> None:
    monkeypatch.setattr(server, "HIGH_WATER_BYTES", 100_000)

    async def serve(frame: bytes) -> bytes:
        return bytes(3_000_000)

    async def work() -> None:
        async with Bench(serve) as bench:
            await bench.connected()
            connection = bench.transport._routes["node/a"].connection
            assert isinstance(connection, Connection)
            connection._transport.pause_reading()
            calls = [asyncio.ensure_future(bench.call(b"x")) for _ in range(5)]
            await settled(lambda: any(caller._paused for caller in bench.server.callers.friends))
            connection._transport.resume_reading()
            assert [len(answer) for answer in await asyncio.gather(*calls)] == [3_000_000] * 5
            assert await bench.call(b"x") == bytes(3_000_000)

    run(work())


def test_closing_leaves_no_task_and_no_socket(run) -> None:
    async def work() -> None:
        forever = asyncio.Event()

        async def serve(frame: bytes) -> bytes:
            await forever.wait()
            return frame

        listening = StreamServer(serve)
        endpoint = await listening.listen(LOOPBACK)
        assert await listening.listen(LOOPBACK) == endpoint
        connection = await connect(endpoint)
        _, writer = await asyncio.open_connection(LOOPBACK, endpoint.port)
        call = asyncio.ensure_future(connection.call(b"x", 5.0))
        await settled(lambda: len(listening.tasks) == 1 and len(listening.callers.strangers) == 1)
        await listening.close()
        with pytest.raises(PeerUnreachable):
            await call
        await settled(lambda: not listening.callers.friends)
        assert not listening.tasks
        assert not listening.callers.strangers
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, endpoint.port), 1)
        writer.close()

    run(work())


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::"])
def test_it_never_listens_on_all_addresses(run, host: str) -> None:
    async def work() -> None:
        with pytest.raises(AssertionError, match="never"):
            await StreamServer(echo).listen(host)

    run(work())


def test_a_request_that_is_alone_on_its_connection_and_waits_for_nothing_is_no_task(run) -> None:
    tasks = []
    slow = asyncio.Event()

    def serve(frame: bytes) -> bytes | Awaitable[bytes]:
        tasks.append(_task())
        return later(frame) if b"slow" in frame else b"stream " + frame

    async def later(frame: bytes) -> bytes:
        await slow.wait()
        return b"stream " + frame

    read = node_requests.encode(NodeRequest(1, Read(1, [b"k"])))
    waits = node_requests.encode(NodeRequest(1, Read(1, [b"slow"])))
    ping = node_requests.encode(NodeRequest(1, Ping()))

    async def work() -> None:
        async with Bench(serve) as bench:
            reader, writer = await friend(bench)

            async def hears(frame: bytes) -> None:
                head = wire.head(7, wire.ANSWER, b"stream " + frame)
                assert await reader.readexactly(len(head) + 7 + len(frame)) == head + b"stream " + frame

            for frames, alone in (([read], True), ([ping], True), ([read, read], False)):
                tasks.clear()
                writer.write(b"".join(wire.head(7, wire.REQUEST, frame) + frame for frame in frames))
                for frame in frames:
                    await hears(frame)
                assert [task is None for task in tasks] == [alone] * len(frames)
                assert not bench.server.tasks
            tasks.clear()
            writer.write(wire.head(7, wire.REQUEST, waits) + waits)
            await settled(lambda: len(bench.server.tasks) == 1)
            assert tasks == [None], "it has begun at once, and is a task from where it waits"
            writer.write(wire.head(7, wire.REQUEST, read) + read)
            await hears(read)
            assert tasks[1] is not None, "it is not alone"
            slow.set()
            await hears(waits)
            await settled(lambda: not bench.server.tasks)
            writer.close()

    run(work())


def test_what_breaks_a_request_that_is_alone_breaks_nothing_else(run) -> None:
    def serve(frame: bytes) -> bytes:
        raise LookupError("no such thing")

    read = node_requests.encode(NodeRequest(1, Read(1, [b"k"])))

    async def work() -> None:
        async with Bench(serve) as bench:
            reader, writer = await friend(bench)
            for _ in range(2):
                writer.write(wire.head(7, wire.REQUEST, read) + read)
                assert await reader.readexactly(13) == wire.head(7, wire.FAILED, b"")
            writer.close()

    run(work())


def test_a_request_that_is_alone_is_refused_when_there_is_too_much_and_counted_while_it_waits(run) -> None:
    read = node_requests.encode(NodeRequest(1, Read(1, [b"k"])))
    goes_on = asyncio.Event()

    async def later(frame: bytes) -> bytes:
        await goes_on.wait()
        return frame

    async def work() -> None:
        async with Bench(later) as bench:
            admission = bench.server.admission = Admission(lambda: 0.0)
            bench.server.refusal = lambda: b"no"
            reader, writer = await friend(bench)
            ask = wire.head(7, wire.REQUEST, read) + read
            admission.limit = 0
            writer.write(ask)
            assert await reader.readexactly(15) == wire.head(7, wire.ANSWER, b"no") + b"no"
            assert (admission.refused, admission._total) == (1, 0)
            admission.limit = 128
            writer.write(ask)
            await settled(lambda: admission._total == 1)
            goes_on.set()
            assert await reader.readexactly(13 + len(read)) == wire.head(7, wire.ANSWER, read) + read
            assert (admission.refused, admission._total) == (1, 0)
            writer.close()

    run(work())


def _task() -> asyncio.Task[None] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def test_requests_of_one_that_does_not_read_are_not_begun(run, monkeypatch) -> None:
    """Also those that came in one piece with the one whose answer it does not read."""
    monkeypatch.setattr(server, "HIGH_WATER_BYTES", 100_000)
    served = []

    def serve(frame: bytes) -> bytes:
        served.append(frame)
        return bytes(10_000_000)

    read = node_requests.encode(NodeRequest(1, Read(1, [b"k"])))
    ask = wire.head(1, wire.REQUEST, read) + read

    async def work() -> None:
        async with Bench(serve) as bench:
            reader, writer = await friend(bench)
            writer.transport.pause_reading()
            writer.write(ask)
            await settled(lambda: any(connection._paused for connection in bench.server.callers.friends))
            for _ in range(3):
                writer.write(ask * 3)
                await asyncio.sleep(0.02)
            assert len(served) == 1
            (connection,) = bench.server.callers.friends
            connection.data_received(ask * 3)  # as from a transport that had read ahead
            assert len(served) == 1
            assert connection.held_bytes > 1_000_000
            writer.transport.resume_reading()
            for _ in range(13):
                assert len(await reader.readexactly(10_000_013)) == 10_000_013
            assert len(served) == 13
            writer.close()

    run(work())


def test_one_that_never_reads_is_dropped_after_a_while(run, monkeypatch, caplog) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 0.2)
    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.02)

    async def work() -> None:
        async with Bench(lambda frame: bytes(30_000_000)) as bench:
            reader, writer = await friend(bench)
            writer.transport.pause_reading()
            writer.write(wire.head(1, wire.REQUEST, b"x") + b"x")
            await settled(lambda: len(bench.server.callers.friends) == 1)
            await settled(lambda: not bench.server.callers.friends)
            writer.transport.abort()
            del reader

    with caplog.at_level(logging.WARNING, "raykv.stream"):
        run(work())
    assert caplog.text.count("stands still") == 1


class Pipe:
    """A transport from which ``unread`` bytes are still to be read."""

    unread = 0

    def get_write_buffer_size(self) -> int:
        return self.unread


def test_a_slow_reader_does_not_stand_still(run) -> None:
    async def work() -> None:
        listening = StreamServer(echo)
        caller = listening.callers.let_in("10.0.0.2", 0.0, far=True)
        connection = server._Connection(listening, asyncio.get_running_loop(), caller, 0.0)
        connection._transport = pipe = Pipe()
        assert not connection.stands_still(1000.0), "it has nothing to read"
        connection._given_bytes, pipe.unread = 100, 90
        assert not connection.stands_still(1001.0)
        assert not connection.stands_still(1010.0)
        pipe.unread = 89
        assert not connection.stands_still(1011.5), "a byte is enough"
        connection._given_bytes, pipe.unread = 200, 189  # another answer is no reading
        assert not connection.stands_still(1021.0)
        assert connection.stands_still(1022.0)
        connection._forget_deadline()

    run(work())


def test_one_that_does_not_end_its_frame_is_dropped_and_one_that_is_quiet_is_not(run, monkeypatch) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 0.1)
    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.02)

    async def work() -> None:
        async with Bench(echo) as bench:
            quiet = await connect(bench.endpoint)
            assert await quiet.call(b"x", 5.0) == b"stream x"
            reader, writer = await friend(bench)
            writer.write(wire.head(1, wire.REQUEST, bytes(1000)) + bytes(500))
            assert await hung_up(reader)
            writer.close()
            assert await quiet.call(b"x", 5.0) == b"stream x"
            quiet.close()

    run(work())


def test_the_caller_with_the_most_memory_is_dropped_when_all_hold_too_much(run, monkeypatch, caplog) -> None:
    monkeypatch.setattr(server, "MAX_HELD_BYTES", 3_000_000)
    monkeypatch.setattr(server, "LOOK_EVERY_BYTES", 1_000_000)

    async def work() -> None:
        async with Bench(echo) as bench:
            begun = [await friend(bench) for _ in range(8)]
            for _, writer in begun:
                writer.write(wire.head(1, wire.REQUEST, bytes(1_000_000)) + bytes(900_000))
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
            for reader, writer in begun:
                assert await hung_up(reader)
                writer.close()
            connection = await connect(bench.endpoint)
            assert await connection.call(b"x", 5.0) == b"stream x"
            connection.close()

    with caplog.at_level(logging.WARNING, "raykv.stream"):
        run(work())
    assert "too much memory" in caplog.text


def test_the_last_descriptors_are_for_files(run, monkeypatch) -> None:
    async def work() -> None:
        async with Bench(echo) as bench:
            first = await connect(bench.endpoint)
            free = os.open("/dev/null", os.O_RDONLY)
            os.close(free)
            monkeypatch.setattr(server, "ceiling_of_sockets", lambda _: free)
            with pytest.raises(ConnectionError):
                await connect(bench.endpoint)
            assert await first.call(b"x", 5.0) == b"stream x"
            monkeypatch.undo()
            second = await connect(bench.endpoint)
            assert await second.call(b"x", 5.0) == b"stream x"
            first.close()
            second.close()

    run(work())


def test_without_a_descriptor_it_waits_and_goes_on(run) -> None:
    """In a process of its own, which has few."""
    code = """if True:
        import asyncio, os, resource, socket, sys, time
        import uvloop
        from raykv.transport import StreamServer
        from raykv.transport import server
        from raykv.transport.client import connect
        server.ceiling_of_sockets = lambda limit: limit  # nothing is kept: they do run out
        async def work():
            listening = StreamServer(lambda frame: frame)
            endpoint = await listening.listen("127.0.0.1")
            stands = await connect(endpoint)
            client = socket.socket()
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            taken = []
            try:
                while True: taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError: pass
            client.setblocking(False)
            client.connect_ex((endpoint.host, endpoint.port))
            before_s = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - before_s < 0.3, "it spins"
            assert await stands.call(b"x", 5.0) == b"x"
            for each in taken: os.close(each)
            while not listening.callers.strangers: await asyncio.sleep(0.01)
            client.close(); stands.close()
            await listening.close()
        sys.exit(uvloop.run(work()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not LOCAL, reason="Linux only")
def test_over_a_local_socket_only_processes_of_this_user_are_talked_to(run, monkeypatch) -> None:
    async def work() -> None:
        listening = StreamServer(echo)
        endpoint = await listening.listen_locally()
        monkeypatch.setattr(server, "may_be_trusted", lambda uid: uid != os.geteuid())
        with pytest.raises(ConnectionError):
            await connect(endpoint)
        monkeypatch.undo()
        monkeypatch.setattr(sockets, "may_be_trusted", lambda uid: uid != os.geteuid())
        with pytest.raises(sockets.Stranger):
            await connect(endpoint)
        with pytest.raises(sockets.Stranger):
            sockets.open_socket(endpoint, 1.0)
        monkeypatch.undo()
        connection = await connect(endpoint)
        await settled(lambda: len(listening.callers.friends) == 1)
        (guest,) = listening.callers.friends
        assert guest.caller.name == f"process {os.getpid()}"
        connection.close()
        await listening.close()

    run(work())


def test_whose_processes_may_be_trusted(monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert [sockets.may_be_trusted(uid) for uid in (0, 1000, 1001, None)] == [True, True, False, True]


def test_all_connections_of_a_process_have_one_share(run) -> None:
    read = node_requests.encode(NodeRequest(1, Read(1, [b"k"])))
    goes_on = asyncio.Event()

    async def later(frame: bytes) -> bytes:
        await goes_on.wait()
        return frame

    async def work() -> None:
        async with Bench(later) as bench:
            admission = bench.server.admission = Admission(lambda: 0.0)
            bench.server.refusal = lambda: b"no"
            admission.limit = 40
            assert admission.enter("another")
            many = [await connect(bench.endpoint) for _ in range(30)]
            calls = [asyncio.ensure_future(each.call(read, 15.0)) for each in many for _ in range(3)]
            await settled(lambda: admission._total + admission.refused == 91)
            assert admission._total == 21, "half is free for all; of the rest it has no more than a share"
            assert admission.enter("another")
            goes_on.set()
            answers = await asyncio.gather(*calls)
            assert answers.count(read) == 20
            for each in many:
                each.close()

    run(work())


def test_a_flood_of_connections_is_looked_at_slowly_and_what_stands_is_served(run, monkeypatch) -> None:
    monkeypatch.setattr(server, "BURST", 20)
    monkeypatch.setattr(server, "PER_SECOND", 0)
    looked_at = []

    async def work() -> None:
        async with Bench(echo) as bench:
            bench.server._credit = 0
            monkeypatch.setattr(server, "PER_SECOND", 1_000_000)
            stands = await connect(bench.endpoint)
            await settled(lambda: len(bench.server.callers.friends) == 1)
            monkeypatch.setattr(server, "PER_SECOND", 0)
            bench.server._credit = 20.0
            let_in = bench.server._let_in
            monkeypatch.setattr(bench.server, "_let_in", lambda came: looked_at.append(came) or let_in(came))
            flood = []
            for _ in range(30):
                flood.append(sockets.open_socket(bench.endpoint, 1.0))
                await asyncio.sleep(0.001)
            await settled(lambda: len(looked_at) == 20)
            for _ in range(20):
                assert await stands.call(b"x", 5.0) == b"stream x"
            assert len(looked_at) == 20
            monkeypatch.setattr(server, "PER_SECOND", 1_000)
            await settled(lambda: len(looked_at) == 30)
            for each in flood:
                each.close()
            stands.close()

    run(work())


def test_what_admission_does_not_look_at_is_begun_a_few_in_a_turn_by_all_connections_of_a_caller(run) -> None:
    ping = node_requests.encode(NodeRequest(1, Ping()))
    turns = [0]

    async def count_turns() -> None:
        loop, begun_before = asyncio.get_running_loop(), 0

        def turn() -> None:
            nonlocal begun_before
            turns.append(served - begun_before)
            begun_before = served
            if served < 3000:
                loop.call_soon(turn)

        loop.call_soon(turn)

    served = 0

    def serve(frame: bytes) -> bytes:
        nonlocal served
        served += 1
        return frame

    async def work() -> None:
        async with Bench(serve) as bench:
            many = [await friend(bench) for _ in range(10)]
            await count_turns()
            for _, writer in many:
                writer.write((wire.head(1, wire.REQUEST, ping) + ping) * 300)
            for reader, writer in many:
                await reader.readexactly(300 * (13 + len(ping)))
                writer.close()
            assert served == 3000
            assert max(turns) <= 2 * server.MAX_BEGUN

    run(work())


def test_a_caller_of_many_costly_requests_waits_as_long_as_they_took_and_others_do_not(run, monkeypatch) -> None:
    monkeypatch.setattr(server, "REST", 1e9)
    monkeypatch.setattr(server, "MAX_REST_S", 3600.0)
    ping = node_requests.encode(NodeRequest(1, Ping()))
    read = node_requests.encode(NodeRequest(1, Read(1, [b"k"])))
    served: list[bytes] = []

    def serve(frame: bytes) -> bytes:
        served.append(frame)
        return frame

    async def work() -> None:
        async with Bench(serve) as bench:
            reader, writer = await friend(bench)
            stands = await connect(bench.endpoint)
            size_bytes = 13 + len(ping)
            for _ in range(server.MAX_BEGUN - 1):  # who asks for one after the other, or for few, never waits
                writer.write(wire.head(1, wire.REQUEST, ping) + ping)
                await reader.readexactly(size_bytes)
            writer.write((wire.head(1, wire.REQUEST, ping) + ping) * 300)
            await settled(lambda: served.count(ping) >= 2 * server.MAX_BEGUN - 2)
            for _ in range(50):
                assert await stands.call(read, 5.0) == read
            assert served.count(ping) <= 3 * server.MAX_BEGUN
            writer.close()
            stands.close()

    run(work())


@pytest.mark.parametrize("cancels", [True, False])
def test_awaiting_an_answer_is_cancelled_with_its_connection_where_the_server_is_told_so(run, cancels) -> None:
    """Of two connections the other one's requests go on."""

    async def work() -> None:
        begun, ended, go_on = [], [], asyncio.Event()

        async def serve(frame: bytes) -> bytes:
            begun.append(frame)
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                ended.append(b"cancelled " + frame)
                raise
            ended.append(b"done " + frame)
            return frame

        async with Bench(serve) as bench:
            bench.server.cancels = cancels
            assert bench.endpoint is not None
            given_up, kept = [await connect(bench.endpoint) for _ in range(2)]
            calls = [asyncio.ensure_future(each.call(name, 30.0)) for each, name in ((given_up, b"1"), (kept, b"2"))]
            await settled(lambda: len(begun) == 2)
            given_up.close()
            with pytest.raises(PeerUnreachable):
                await calls[0]
            await settled(lambda: len(bench.server.callers.friends) == 1)
            await settled(lambda: len(bench.server.tasks) == (1 if cancels else 2))
            assert ended == ([b"cancelled 1"] if cancels else [])
            go_on.set()
            assert await calls[1] == b"2"
            await settled(lambda: not bench.server.tasks)
            assert sorted(ended) == sorted([b"cancelled 1" if cancels else b"done 1", b"done 2"])
            kept.close()

    run(work())
