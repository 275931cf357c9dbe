"""Calls over a stream: many at once, late, given up, lost, made again."""

from __future__ import annotations

import asyncio
import itertools
import socket

import pytest

from raykv.cluster.peers import PeerRefused
from raykv.ports import PeerAbsent, PeerFailure, PeerSilent, PeerUnreachable
from raykv.transport import Endpoint, StreamServer, StreamTransport, client, wire
from tests.transport.conftest import LOOPBACK, Bench, Beside, settled


async def echo(frame: bytes) -> bytes:
    return b"stream " + frame


class Gate:
    """A handler with scripted answers at scripted times."""

    def __init__(self) -> None:
        self.asked: dict[bytes, asyncio.Future[bytes]] = {}

    async def __call__(self, frame: bytes) -> bytes:
        if frame == b"knock":
            return b""
        self.asked[frame] = asyncio.get_running_loop().create_future()
        return await self.asked[frame]


def test_the_first_calls_go_beside_and_the_others_through_the_stream(run) -> None:
    async def work() -> None:
        async with Bench(echo) as bench:
            assert await bench.call(b"1") == b"beside 1"
            await settled(lambda: bench.transport.connected() == ["node/a"])
            assert await bench.call(b"2") == b"stream 2"
            assert await bench.call(bytes(3_000_000)) == b"stream " + bytes(3_000_000)
            assert bench.beside.frames == [b"1"]
            assert bench.located == 1

    run(work())


def test_many_are_under_way_at_once_and_each_gets_its_own_answer(run) -> None:
    async def work() -> None:
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            frames = [b"%d" % number for number in range(500)]
            calls = [asyncio.ensure_future(bench.call(frame)) for frame in frames]
            await settled(lambda: len(gate.asked) == 500)
            for frame, asked in reversed(gate.asked.items()):
                asked.set_result(b"for " + frame)
            assert await asyncio.gather(*calls) == [b"for " + frame for frame in frames]

    run(work())


def test_a_caller_that_gives_up_is_forgotten_and_the_late_answer_dropped(run) -> None:
    async def work() -> None:
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            given_up = asyncio.ensure_future(bench.call(b"given up"))
            await settled(lambda: b"given up" in gate.asked)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            with pytest.raises(PeerSilent, match="no answer within"):
                await bench.call(b"slow", 0.05)
            stays = asyncio.ensure_future(bench.call(b"stays"))
            await settled(lambda: len(gate.asked) == 3)
            for name in (b"given up", b"slow", b"stays"):
                gate.asked[name].set_result(name)
            assert await stays == b"stays"
            connection = bench.transport._routes["node/a"].connection
            assert connection is not None
            assert connection._pending == {}
            assert bench.beside.frames == []

    run(work())


def test_an_answer_that_comes_in_the_turn_in_which_the_caller_gave_up_is_dropped(run) -> None:
    async def work() -> None:
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            call = asyncio.ensure_future(bench.call(b"x"))
            await settled(lambda: b"x" in gate.asked)
            connection = bench.transport._routes["node/a"].connection
            assert connection is not None
            (number,) = connection._pending
            call.cancel()
            connection.data_received(wire.head(number, wire.ANSWER, b"late") + b"late")
            with pytest.raises(asyncio.CancelledError):
                await call
            assert bench.transport.connected() == ["node/a"]
            gate.asked[b"x"].set_result(b"")
            assert await bench.call(b"knock") == b""

    run(work())


def test_what_is_under_way_when_the_connection_is_lost_has_an_unknown_outcome_and_is_not_sent_again(run) -> None:
    async def work() -> None:
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            calls = [asyncio.ensure_future(bench.call(b"%d" % number)) for number in range(3)]
            await settled(lambda: len(gate.asked) == 3)
            unsent = asyncio.ensure_future(bench.call(b"in the same turn"))
            await asyncio.sleep(0)
            for connection in list(bench.server.callers.friends):
                connection.drop()
            failures = await asyncio.gather(*calls, unsent, return_exceptions=True)
            assert [type(failure) for failure in failures] == [PeerUnreachable] * 4
            assert bench.beside.frames == []
            assert await bench.call(b"next") == b"beside next"  # at once
            for asked in gate.asked.values():
                asked.done() or asked.set_result(b"")

    run(work())


def test_a_peer_that_starts_anew_is_found_again_at_its_new_address(run) -> None:
    async def work() -> None:
        async with Bench(echo) as bench:
            await bench.connected()
            before = bench.endpoint
            await bench.start_anew()
            assert before is not None
            assert before.secret != bench.server.secret
            await settled(lambda: not bench.transport.connected())
            assert await bench.call(b"1") == b"beside 1"
            await bench.connected()
            assert await bench.call(b"2") == b"stream 2"

    run(work())


def test_a_peer_that_cannot_be_reached_is_tried_less_and_less_often(run, monkeypatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(client, "LONGEST_PAUSE_S", 0.2)

    async def work() -> None:
        with socket.create_server((LOOPBACK, 0)) as taken:
            port = taken.getsockname()[1]
        async with Bench(echo) as bench:
            real, bench.endpoint = bench.endpoint, Endpoint(LOOPBACK, port, b"")
            bench.transport._routes.clear()
            loop = asyncio.get_running_loop()
            tries: list[float] = []
            while len(tries) < 6:
                assert await bench.call(b"x") == b"beside x"
                if len(tries) < bench.located:
                    tries.append(loop.time())
                await asyncio.sleep(0.001)
            gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
            assert gaps[-1] > 0.08, "each pause about twice the one before, up to a bound"
            bench.endpoint = real
            await bench.connected()
            assert await bench.call(b"x") == b"stream x"

    run(work())


def test_a_node_that_does_not_listen_is_called_beside_for_long(run) -> None:
    async def work() -> None:
        beside = Beside()
        asked = []

        async def nowhere(peer: str) -> None:
            asked.append(peer)

        transport = StreamTransport(beside, nowhere)
        for _ in range(20):
            assert await transport.call("supervisor", b"x", 1.0) == b"beside x"
            await asyncio.sleep(0.01)
        assert asked == ["supervisor"]
        await transport.close()

    run(work())


def test_a_patient_one_waits_for_the_connection_and_goes_beside_only_where_there_is_none(run) -> None:
    async def story() -> None:
        async with Bench(echo) as bench:
            patient = StreamTransport(bench.beside, bench.locate, patient=True)
            assert await patient.call("node/a", b"x", 1.0) == b"stream x"
            assert patient.endpoints() == {"node/a": bench.endpoint}
            await patient.close()

            async def nowhere(peer: str) -> None:
                await asyncio.sleep(0.05)

            patient = StreamTransport(bench.beside, nowhere, patient=True)
            assert await patient.call("node/a", b"x", 1.0) == b"beside x", "nobody listens"
            await patient.close()

            async def slow(peer: str) -> Endpoint | None:
                await asyncio.sleep(60)
                return bench.endpoint

            patient = StreamTransport(bench.beside, slow, patient=True)
            began_s = asyncio.get_running_loop().time()
            assert await patient.call("node/a", b"x", 0.1) == b"beside x"
            assert asyncio.get_running_loop().time() - began_s < 30, "no longer than the call may take"
            await patient.close()

    run(story())


@pytest.mark.parametrize("failure", [PeerAbsent("none"), PeerUnreachable("away"), OSError("no such host")])
def test_a_peer_that_does_not_say_where_it_listens_is_called_beside(run, failure: Exception) -> None:
    async def work() -> None:
        async def fails(peer: str) -> Endpoint:
            raise failure

        transport = StreamTransport(Beside(), fails)
        assert await transport.call("node/a", b"x", 1.0) == b"beside x"
        await settled(lambda: transport._routes["node/a"].connecting is None)
        assert transport.connected() == []
        await transport.close()

    run(work())


def test_a_server_with_another_secret_gets_nothing(run) -> None:
    async def work() -> None:
        seen = []

        async def serve(frame: bytes) -> bytes:
            seen.append(frame)
            return b""

        async with Bench(serve) as bench:
            assert bench.endpoint is not None
            bench.endpoint = bench.endpoint._replace(secret=b"guessed")
            with pytest.raises(wire.WireError, match="server does not know"):
                await client.connect(bench.endpoint)
            assert await bench.call(b"x") == b"beside x"
            await settled(lambda: bench.transport._routes["node/a"].connecting is None)
            assert bench.transport.connected() == []
            assert seen == []

    run(work())


def test_a_server_that_never_says_anything_does_not_hold_a_call_up(run, monkeypatch) -> None:
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.1)

    async def work() -> None:
        with socket.create_server((LOOPBACK, 0)) as mute:

            async def there(peer: str) -> Endpoint:
                return Endpoint(LOOPBACK, mute.getsockname()[1], b"")

            transport = StreamTransport(Beside(), there)
            assert await transport.call("node/a", b"x", 1.0) == b"beside x"
            await settled(lambda: transport._routes["node/a"].connecting is None)
            assert transport.connected() == []
            reader, writer = await asyncio.open_connection(sock=mute.accept()[0])
            assert len(await reader.read()) == 38  # the greeting, and then the end: it was hung up on
            writer.close()
            await transport.close()

    run(work())


def test_what_the_peer_does_not_read_is_bounded_and_more_is_refused_at_once(run, monkeypatch) -> None:
    monkeypatch.setattr(client, "MAX_UNSENT_BYTES", 300_000)

    async def work() -> None:
        async with Bench(Gate()) as bench:
            await bench.connected()
            for connection in bench.server.callers.friends:
                connection._transport.pause_reading()
            calls = [asyncio.ensure_future(bench.call(bytes(20_000_000), 0.3))]  # more than the kernel takes
            await asyncio.sleep(0.01)
            with pytest.raises(PeerRefused) as refused:
                await bench.call(b"one more")
            assert refused.value.reason == "overloaded"
            assert bench.beside.frames == []
            with pytest.raises(PeerSilent):
                await calls[0]

    run(work())


def test_many_calls_of_one_turn_are_bounded_too(run, monkeypatch) -> None:
    monkeypatch.setattr(client, "MAX_UNSENT_BYTES", 50_000)

    async def work() -> None:
        async with Bench(echo) as bench:
            await bench.connected()
            calls = [bench.call(bytes(10_000)) for _ in range(20)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert [isinstance(answer, PeerRefused) for answer in answers] == [False] * 5 + [True] * 15

    run(work())


def test_a_connection_that_is_silent_for_long_is_given_up_but_not_what_still_waits(run, monkeypatch) -> None:
    monkeypatch.setattr(client, "QUIET_S", 0.05)

    async def work() -> None:
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            patient = asyncio.ensure_future(bench.call(b"patient"))
            with pytest.raises(PeerSilent):
                await bench.call(b"short", 0.06)
            assert bench.transport.connected() == []
            assert await bench.call(b"meanwhile") == b"beside meanwhile"
            old = next(iter(bench.server.callers.friends))
            gate.asked[b"patient"].set_result(b"came")
            assert await patient == b"came"
            await bench.connected()
            await settled(lambda: old not in bench.server.callers.friends)
            gate.asked[b"short"].set_result(b"")

    run(work())


def test_closing_ends_what_is_under_way_and_leaves_nothing(run) -> None:
    async def work() -> None:
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            call = asyncio.ensure_future(bench.call(b"x"))
            await settled(lambda: b"x" in gate.asked)
            await bench.transport.close()
            with pytest.raises(PeerFailure, match="lost"):
                await call
            gate.asked[b"x"].set_result(b"")
            await settled(lambda: not bench.server.callers.friends and not bench.server.tasks)

    run(work())


def test_a_server_that_breaks_the_protocol_is_left(run) -> None:
    async def work() -> None:
        async with Bench(echo) as bench:
            await bench.connected()
            for connection in bench.server.callers.friends:
                connection._transport.write(b"\xff" * 64)
            await settled(lambda: not bench.transport.connected())
            assert await bench.call(b"x") == b"beside x"

    run(work())


def test_two_servers_of_one_process_do_not_take_each_others_secret(run) -> None:
    async def work() -> None:
        one, other = StreamServer(echo), StreamServer(echo)
        for endpoint in (await one.listen(LOOPBACK), await one.listen_locally()):
            with pytest.raises(wire.WireError):
                await client.connect(endpoint._replace(secret=other.secret))
        await one.close()
        await other.close()

    run(work())


# ---- posts: no task, no timer of their own ----


def test_what_is_posted_is_answered_where_a_stream_stands(run) -> None:
    async def work() -> None:
        async with Bench(echo) as bench:
            heard: list[object] = []
            assert not bench.transport.post("node/a", b"1", 5.0, heard.append)
            await bench.connected()
            tasks = asyncio.all_tasks()
            for frame in (b"2", bytes(3_000_000)):
                assert bench.transport.post("node/a", frame, 5.0, heard.append)
            assert heard == [], "the outcome comes later"
            assert asyncio.all_tasks() == tasks
            await settled(lambda: len(heard) == 2)
            assert heard == [b"stream 2", b"stream " + bytes(3_000_000)]
            assert await bench.call(b"3") == b"stream 3"
            connection = bench.transport._routes["node/a"].connection
            assert connection is not None
            assert not connection._pending
            assert not connection._posted

    run(work())


def test_a_post_without_an_answer_in_time_is_reported_once_and_the_late_one_dropped(run) -> None:
    async def work() -> None:
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            heard: list[object] = []
            for number in range(3):
                assert bench.transport.post("node/a", b"%d" % number, 0.05 + number / 20, heard.append)
            await settled(lambda: len(gate.asked) == 3)
            gate.asked[b"1"].set_result(b"in time")
            await settled(lambda: len(heard) == 3)
            assert heard[0] == b"in time"
            assert [str(failure) for failure in heard[1:]] == ["no answer within 0.05 s", "no answer within 0.15 s"]
            gate.asked[b"0"].set_result(b"late")
            gate.asked[b"2"].set_result(b"late")
            assert bench.transport.post("node/a", b"knock", 5.0, heard.append)
            await settled(lambda: len(heard) == 4)
            assert heard[3] == b""

    run(work())


def test_a_post_over_a_lost_connection_is_reported_and_may_be_repeated_from_there(run) -> None:
    async def work() -> None:
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            heard: list[object] = []

            def again(outcome: object) -> None:
                heard.append(outcome)
                heard.append(bench.transport.post("node/a", b"y", 5.0, heard.append))

            assert bench.transport.post("node/a", b"x", 0.2, again)
            await settled(lambda: b"x" in gate.asked)
            await bench.server.close()
            await settled(lambda: len(heard) == 2)
            assert isinstance(heard[0], PeerUnreachable)
            assert heard[1] is False
            connection = bench.transport._routes["node/a"].connection
            assert connection is not None
            assert connection._sweep is None
            await asyncio.sleep(0.3)
            assert len(heard) == 2

    run(work())


def test_one_timer_looks_after_all_posts_also_when_their_callbacks_post_again(run) -> None:
    async def work() -> None:
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            connection = bench.transport._routes["node/a"].connection
            assert connection is not None
            sweeps = []
            sweep = connection._sweep_posted
            connection._sweep_posted = lambda: sweeps.append(1) or sweep()  # type: ignore[method-assign,func-returns-value]
            heard: list[object] = []

            def again(outcome: object) -> None:
                heard.append(outcome)
                if len(heard) <= 20:
                    connection.post(b"%d" % len(heard), 0.02, again)

            for number in range(5):
                connection.post(b"first %d" % number, 0.02, again)
            await settled(lambda: len(heard) == 25)
            assert len(sweeps) <= 2 * 25, "each but the last of one look ends one that waits, or comes a moment early"
            assert not connection._posted
            assert connection._sweep is None

    run(work())


def test_a_callback_that_fails_is_not_called_again(run) -> None:
    async def work() -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        gate = Gate()
        async with Bench(gate) as bench:
            await bench.connected()
            connection = bench.transport._routes["node/a"].connection
            assert connection is not None
            heard: list[object] = []

            def breaks(outcome: object) -> None:
                heard.append(outcome)
                raise LookupError("a mistake")

            connection.post(b"x", 0.02, breaks)
            await settled(lambda: len(reported) == 1)
            connection.post(b"y", 0.02, heard.append)
            await settled(lambda: len(heard) == 2)
            assert not connection._posted

    run(work())


def test_a_post_that_the_peer_does_not_read_is_refused(run, monkeypatch) -> None:
    monkeypatch.setattr(client, "MAX_UNSENT_BYTES", 1000)

    async def work() -> None:
        async with Bench(echo) as bench:
            await bench.connected()
            connection = bench.transport._routes["node/a"].connection
            assert connection is not None
            monkeypatch.setattr(connection, "_transport", Stuffed())
            heard: list[object] = []
            connection.post(b"x", 5.0, heard.append)
            assert heard == []
            await settled(lambda: len(heard) == 1)
            assert isinstance(heard[0], PeerRefused)

    run(work())


class Stuffed:
    """A transport whose peer does not read."""

    def get_write_buffer_size(self) -> int:
        return 2000

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass
