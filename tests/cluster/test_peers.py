"""A coordinator's view of the nodes: suspicion, one probe at a time, incarnations, order, bounds."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from raykv.cluster import health as h
from raykv.cluster import peers as p
from raykv.errors import CorruptData
from raykv.ports import PeerAbsent, PeerDead, PeerFailure, PeerSilent
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.cluster.peers import Said

PING = f.Ping()


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s


class Scripted:
    """A transport that answers from a script: for each call an answer, a failure, or a future to wait for."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.seen: list[tuple[str, int, float]] = []

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        request = f.node_requests.decode(frame)
        self.seen.append((peer, request.incarnation, timeout_s))
        step = self.script.pop(0)
        if isinstance(step, asyncio.Future):
            step = await step
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step = step()
        return step if isinstance(step, bytes) else f.node_answers.encode(step)


class CountingMetrics(Counter[str]):
    def count(self, name: str, amount: int = 1) -> None:
        self[name] += amount


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.transport = Scripted()
        self.metrics = CountingMetrics()
        self.peers = p.Peers(self.transport, self.clock, self.metrics)  # type: ignore[arg-type]

    async def call(self, *script: Any, node: str = "n1", body: Any = PING, timeout_s: float = 2.0) -> Any:
        self.transport.script += script
        return await self.peers.call(node, body, 1, timeout_s)

    async def fail(self, *script: Any, node: str = "n1") -> PeerFailure:
        with pytest.raises(PeerFailure) as caught:
            await self.call(*script, node=node)
        assert not self.transport.script
        return caught.value

    def took(self, seconds: float, answer: Any) -> Callable[[], Any]:
        def step() -> Any:
            self.clock.now_s += seconds
            return answer

        return step


@pytest.fixture
def bench() -> Bench:
    return Bench()


def pong(incarnation: int = 1) -> f.NodeAnswer:
    return f.NodeAnswer(incarnation, f.Pong())


def refused(reason: str, incarnation: int = 1) -> f.NodeAnswer:
    return f.NodeAnswer(incarnation, f.NodeRefused(reason, "because"))


def test_an_answer_comes_back_and_the_call_goes_to_the_nodes_address(bench: Bench) -> None:
    assert asyncio.run(bench.call(pong())) == f.Pong()
    assert bench.transport.seen == [("node/n1", 0, 2.0)]


# ---- suspicion ----


@pytest.mark.parametrize(
    ("failure", "suspected_s"),
    [(PeerSilent("x"), p.SUSPECT_SILENT_S), (PeerDead("x"), p.SUSPECT_DEAD_S), (PeerAbsent("x"), p.SUSPECT_DEAD_S)],
)
def test_a_failing_owner_is_asked_last_for_a_while(bench: Bench, failure: PeerFailure, suspected_s: float) -> None:
    assert asyncio.run(bench.fail(failure)) is failure
    assert bench.peers.in_order(["n1", "n2", "n3"]) == ["n2", "n3", "n1"]
    bench.clock.now_s += suspected_s + 0.001
    assert bench.peers.in_order(["n1", "n2", "n3"]) == ["n1", "n2", "n3"]
    assert bench.metrics["suspicions"] == 1


def test_an_answer_clears_a_suspicion(bench: Bench) -> None:
    async def story() -> None:
        await bench.fail(PeerSilent("x"))
        await bench.call(pong())
        assert bench.peers.in_order(["n1", "n2"]) == ["n1", "n2"]

    asyncio.run(story())


def test_a_refusal_raises_no_suspicion(bench: Bench) -> None:
    failure = asyncio.run(bench.fail(refused("overloaded")))
    assert isinstance(failure, p.PeerRefused)
    assert (failure.reason, str(failure)) == ("overloaded", "because")
    assert bench.peers.in_order(["n1", "n2"]) == ["n1", "n2"]


def test_the_down_come_after_the_suspected_and_otherwise_order_stays(bench: Bench) -> None:
    bench.peers.learn({"a": 1, "b": 1, "c": 1, "d": 1}, {"a": "its process ended"})
    asyncio.run(bench.fail(PeerSilent("x"), node="b"))
    assert bench.peers.in_order(["a", "b", "c", "d"]) == ["c", "d", "b", "a"]
    assert bench.peers.in_order(["d", "a", "c", "b"]) == ["d", "c", "b", "a"]
    bench.peers.learn({}, {})
    assert bench.peers.in_order(["a", "b", "c", "d"]) == ["a", "c", "d", "b"]


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (f.Read(1, []), f.ReadDone([])),
        (f.ReserveDots(1, [], []), f.DotsReserved([])),
        (f.Scan(1, b"", b"", 1, False, False, []), f.ScanDone([], None)),
    ],
)
def test_an_incomplete_owner_is_asked_last_but_before_the_suspected_until_it_answers_a_read(
    bench: Bench, body: Any, answer: Any
) -> None:
    async def story() -> None:
        await bench.call(f.NodeAnswer(1, f.Incomplete("wiped")), node="a", body=body)
        await bench.fail(PeerSilent("x"), node="b")
        assert bench.peers.in_order(["a", "b", "c"]) == ["c", "a", "b"]
        await bench.call(f.NodeAnswer(1, f.WriteDone([])), node="a", body=f.Write(1, []))
        assert bench.peers.in_order(["a", "b", "c"]) == ["c", "a", "b"], "taking writes makes no node complete"
        await bench.call(f.NodeAnswer(1, answer), node="a", body=body)
        assert bench.peers.in_order(["a", "b", "c"]) == ["a", "c", "b"]

    asyncio.run(story())


def test_a_suspected_node_gets_one_probe_at_a_time(bench: Bench) -> None:
    async def story() -> None:
        await bench.fail(PeerSilent("x"))
        pending: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        probe = asyncio.create_task(bench.call(pending))
        await asyncio.sleep(0)
        for _ in range(3):
            failure = await bench.fail()
            assert isinstance(failure, p.PeerRefused)
            assert failure.reason == "suspected"
        assert len(bench.transport.seen) == 2, "the first call and one probe"
        pending.set_result(pong())
        assert await probe == f.Pong()
        assert await bench.call(pong()) == f.Pong()

    asyncio.run(story())


def test_a_probe_that_fails_makes_room_for_the_next(bench: Bench) -> None:
    async def story() -> None:
        for failure in (PeerSilent("1"), PeerSilent("2"), PeerSilent("3")):
            assert await bench.fail(failure) is failure
        assert bench.metrics["suspicions"] == 1, "it was suspected all the time"

    asyncio.run(story())


def test_a_probe_that_is_cancelled_makes_room_for_the_next(bench: Bench) -> None:
    async def story() -> None:
        await bench.fail(PeerSilent("x"))
        probe = asyncio.create_task(bench.call(asyncio.get_running_loop().create_future()))
        await asyncio.sleep(0)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert await bench.call(pong()) == f.Pong()

    asyncio.run(story())


def test_a_node_that_is_down_is_probed_and_not_flooded(bench: Bench) -> None:
    async def story() -> None:
        bench.peers.learn({"n1": 1}, {"n1": "its process ended"})
        pending: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        probe = asyncio.create_task(bench.call(pending))
        await asyncio.sleep(0)
        assert isinstance(await bench.fail(), p.PeerRefused)
        pending.set_result(pong())
        await probe

    asyncio.run(story())


# ---- incarnations ----


def test_the_answers_incarnation_is_learned_and_sent_from_then_on(bench: Bench) -> None:
    async def story() -> None:
        await bench.call(pong(3))
        await bench.call(pong(3))
        assert [incarnation for _, incarnation, _ in bench.transport.seen] == [0, 3]

    asyncio.run(story())


def test_an_answer_of_a_lower_incarnation_is_not_believed(bench: Bench) -> None:
    async def story() -> None:
        bench.peers.learn({"n1": 5}, {})
        failure = await bench.fail(f.NodeAnswer(4, f.WriteDone([0])))
        assert isinstance(failure, PeerSilent)
        assert bench.peers.in_order(["n1", "n2"]) == ["n2", "n1"]

    asyncio.run(story())


def test_an_answer_under_way_when_a_later_run_becomes_known_is_not_believed(bench: Bench) -> None:
    async def story() -> None:
        await bench.call(pong(1))
        pending: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call = asyncio.create_task(bench.fail(pending))
        await asyncio.sleep(0)
        bench.peers.learn({"n1": 2}, {})
        pending.set_result(f.NodeAnswer(1, f.WriteDone([0])))
        assert isinstance(await call, PeerSilent)

    asyncio.run(story())


def test_moved_is_tried_again_with_the_new_incarnation_within_the_same_time(bench: Bench) -> None:
    async def story() -> None:
        await bench.call(pong(1))
        bench.transport.seen.clear()
        assert await bench.call(bench.took(0.5, refused("moved", 2)), pong(2)) == f.Pong()
        assert [incarnation for _, incarnation, _ in bench.transport.seen] == [1, 2]
        assert bench.transport.seen[1][2] == pytest.approx(1.5)

    asyncio.run(story())


def test_moved_for_ever_is_silence(bench: Bench) -> None:
    failure = asyncio.run(bench.fail(*(refused("moved", number) for number in (2, 3, 4, 5))))
    assert isinstance(failure, PeerSilent)


def test_moved_past_the_time_is_silence(bench: Bench) -> None:
    failure = asyncio.run(bench.fail(bench.took(5.0, refused("moved", 2))))
    assert isinstance(failure, PeerSilent)


def test_an_update_of_a_later_run_clears_suspicion_and_an_older_one_does_not_go_back(bench: Bench) -> None:
    async def story() -> None:
        await bench.call(pong(3))
        await bench.fail(PeerSilent("x"))
        bench.peers.learn({"n1": 3}, {})
        assert bench.peers.in_order(["n1", "n2"]) == ["n2", "n1"], "the same run is suspected as before"
        bench.peers.learn({"n1": 4}, {})
        assert bench.peers.in_order(["n1", "n2"]) == ["n1", "n2"]
        bench.peers.learn({"n1": 2}, {})
        await bench.call(pong(4))
        assert bench.transport.seen[-1][1] == 4

    asyncio.run(story())


def test_an_answer_that_is_no_frame_is_a_refusal(bench: Bench) -> None:
    failure = asyncio.run(bench.fail(b"\x01garbage"))
    assert isinstance(failure, p.PeerRefused)
    assert failure.reason == "corrupt"


# ---- bounds and estimates ----


def test_calls_to_one_peer_are_bounded_and_the_place_is_given_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(p, "MAX_CALLS_PER_PEER", 2)

    async def story() -> None:
        pending = [asyncio.get_running_loop().create_future() for _ in range(2)]
        calls = [asyncio.create_task(bench.call(one)) for one in pending]
        await asyncio.sleep(0)
        failure = await bench.fail()
        assert isinstance(failure, p.PeerRefused)
        assert failure.reason == "overloaded"
        assert await bench.call(pong(), node="n2") == f.Pong(), "another peer has places of its own"
        pending[0].set_result(pong())
        pending[1].set_exception(PeerSilent("x"))
        await asyncio.gather(*calls, return_exceptions=True)
        assert await bench.call(pong()) == f.Pong()

    asyncio.run(story())


def test_the_estimate_comes_to_rest_at_about_the_95th_percentile(bench: Bench) -> None:
    async def story() -> None:
        for number in range(3000):
            await bench.call(bench.took(0.200 if number % 25 == 0 else 0.1, pong()))  # 4 % are slow
        assert 0.09 < bench.peers.hedge_delay_s("Ping", 1, ["n1"]) < 0.15
        for number in range(3000):
            await bench.call(bench.took(0.200 if number % 10 == 0 else 0.1, pong()))  # 10 % are slow
        assert 0.15 < bench.peers.hedge_delay_s("Ping", 1, ["n1"]) < 0.25

    asyncio.run(story())


def test_estimates_are_kept_by_kind_and_size_and_bounded(bench: Bench) -> None:
    async def story() -> None:
        for _ in range(200):
            await bench.call(bench.took(3.0, pong()))
            await bench.call(bench.took(0.0001, f.NodeAnswer(1, f.ReadDone([]))), body=f.Read(1, []))
        assert bench.peers.hedge_delay_s("Ping", 1, ["n1"]) == h.HEDGE_CEILING_S
        assert bench.peers.hedge_delay_s("Read", 1, ["n1"]) == h.HEDGE_FLOOR_S
        unknown_s = bench.peers.hedge_delay_s("Read", 1000, ["n1"])
        assert h.HEDGE_FLOOR_S <= unknown_s <= h.HEDGE_CEILING_S
        assert unknown_s == bench.peers.hedge_delay_s("Read", 1, ["n9"]) == bench.peers.hedge_delay_s("Read", 1, [])

    asyncio.run(story())


def test_a_failure_is_no_measure_of_latency(bench: Bench) -> None:
    async def story() -> None:
        before_s = bench.peers.hedge_delay_s("Ping", 1, ["n1"])
        await bench.fail(bench.took(3.0, refused("overloaded")))
        assert bench.peers.hedge_delay_s("Ping", 1, ["n1"]) == before_s

    asyncio.run(story())


def test_a_quick_answer_is_a_new_beginning_for_a_slow_node(bench: Bench) -> None:
    async def story() -> None:
        for _ in range(4):
            bench.peers.note_slow("n1")
            bench.clock.now_s += 31
        await bench.call(bench.took(0.01, pong()))
        bench.peers.note_slow("n1")
        bench.clock.now_s += 1.01
        assert bench.peers.in_order(["n1", "n2"]) == ["n1", "n2"]

    asyncio.run(story())


def test_a_node_that_answers_no_reads_is_asked_last_until_it_does(bench: Bench) -> None:
    async def story() -> None:
        await bench.call(f.NodeAnswer(1, f.Incomplete("wiped")), body=f.Read(1, [b"\x02a"]))
        assert bench.peers.in_order(["n1", "n2"]) == ["n2", "n1"]
        await bench.call(f.NodeAnswer(1, f.WriteDone([0])))
        assert bench.peers.in_order(["n1", "n2"]) == ["n2", "n1"], "a write says nothing of it"
        await bench.call(f.NodeAnswer(1, f.ReadDone([None])), body=f.Read(1, [b"\x02a"]))
        assert bench.peers.in_order(["n1", "n2"]) == ["n1", "n2"]

    asyncio.run(story())


def test_an_update_about_a_death_is_old_once_a_later_run_has_answered(bench: Bench) -> None:
    """Another supervisor may have started it; the one that tells still tries to (seed 712926 of the simulation)."""
    bench.peers.learn({"n1": 2}, {})
    asyncio.run(bench.call(pong(3)))
    bench.peers.learn({"n1": 2}, {"n1": "its process ended"})
    assert bench.peers.in_order(["n1", "n2"]) == ["n1", "n2"]
    bench.peers.learn({"n1": 3}, {"n1": "its process ended"})
    assert bench.peers.in_order(["n1", "n2"]) == ["n2", "n1"]


def test_a_call_to_a_former_run_that_comes_to_nothing_says_nothing_of_the_present_one(bench: Bench) -> None:
    async def story() -> None:
        lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        old = asyncio.create_task(bench.fail(lost))
        await asyncio.sleep(0)
        bench.clock.now_s += 1.0
        await bench.call(pong(2))
        lost.set_result(PeerSilent("no answer"))
        await old
        assert bench.peers.in_order(["n1", "n2"]) == ["n1", "n2"]

    asyncio.run(story())


# ---- how far a node's log is (P6) ----


def end(incarnation: int, position: int, directory_id: int = 7) -> f.LogEnd:
    return f.LogEnd(directory_id, incarnation, position)


def as_far(incarnation: int, log_end: f.LogEnd) -> f.NodeAnswer:
    return f.NodeAnswer(incarnation, f.Pong(), log_end)


def test_a_later_run_learns_how_far_the_earlier_one_was_before_its_answers_count() -> None:
    async def story() -> None:
        bench = Bench()
        said: list[f.LogEnd | None] = []
        answered = bench.transport.call

        async def call(peer: str, frame: bytes, timeout_s: float) -> bytes:
            said.append(f.node_requests.decode(frame).log_end)
            return await answered(peer, frame, timeout_s)

        bench.transport.call = call  # type: ignore[method-assign]
        await bench.call(as_far(3, end(3, 100)))
        slow: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        under_way = asyncio.create_task(bench.call(slow))  # says 100
        await asyncio.sleep(0)
        await bench.call(as_far(3, end(3, 150)))  # and meanwhile it was further
        slow.set_result(as_far(4, end(4, 1000)))
        await under_way
        await bench.call(as_far(4, end(4, 1001)))
        await bench.call(as_far(4, end(4, 1002)))
        await bench.call(as_far(4, end(4, 1001)))
        await bench.call(as_far(4, end(4, 5, directory_id=8)))
        await bench.call(as_far(4, end(4, 6, directory_id=8)))
        assert said == [
            None, end(3, 100), end(3, 100), end(3, 150), end(4, 1001), end(4, 1002), end(4, 1002), end(4, 5, 8),
        ]  # fmt: skip

    asyncio.run(story())


def test_the_fast_path_tells_it_too() -> None:
    bench = Bench()
    peers = bench.peers
    says: Said = {}

    def said() -> f.LogEnd | None:
        return f.node_requests.decode(peers.request("n1", PING, 1, says)).log_end

    def hear(incarnation: int, log_end: f.LogEnd) -> None:
        peers.learn({"n1": incarnation}, {})
        assert isinstance(peers.plain("n1", f.node_answers.encode(as_far(incarnation, log_end)), says), f.Pong)

    hear(3, end(3, 100))
    assert said() == end(3, 100)
    hear(3, end(3, 150))
    hear(4, end(4, 1000))
    assert said() == end(3, 150), "the later run has not heard that yet"
    hear(4, end(4, 1001))
    assert said() == end(4, 1001)


def test_an_answer_of_the_fast_path_is_judged_by_what_its_own_request_said() -> None:
    peers = Bench().peers

    def hear(log_end: f.LogEnd, says: Said) -> None:
        answer = f.node_answers.encode(as_far(log_end.incarnation, log_end))
        assert isinstance(peers.plain("n1", answer, says), f.Pong)

    former: Said = {}
    peers.request("n1", PING, 1, former)
    first: Said = {}
    peers.request("n1", PING, 1, first)  # reaches the next run, and says nothing of the log
    hear(end(3, 100), former)
    second: Said = {}
    peers.request("n1", PING, 1, second)  # says 100, and is lost
    hear(end(4, 1000), first)
    third: Said = {}
    assert f.node_requests.decode(peers.request("n1", PING, 1, third)).log_end == end(3, 100), (
        "it is still to hear that"
    )
    hear(end(4, 1001), third)
    peers.request("n1", PING, 1, third)
    assert third == {"n1": end(4, 1001)}


# ---- one judgement for both paths ----


def test_both_paths_believe_the_same_and_note_the_same(bench: Bench) -> None:
    peers = bench.peers
    peers.learn({"n1": 4}, {"n1": "it is said"})

    def plain(incarnation: int, body: f.NodeAnswerBody) -> Any:
        says: Said = {}
        peers.request("n1", PING, 1, says)
        return peers.plain("n1", f.node_answers.encode(f.NodeAnswer(incarnation, body)), says)

    assert plain(3, f.Pong()) is None, "an earlier run's word"
    assert isinstance(asyncio.run(bench.fail(pong(3))), PeerSilent)
    assert plain(0, f.NodeRefused("closed", "it opens")) is None, "of no run yet"
    assert peers.in_order(["n1", "n2"]) == ["n2", "n1"]
    assert plain(5, f.Pong()) == f.Pong()
    assert peers.in_order(["n1", "n2"]) == ["n1", "n2"], "it runs again: no need to wait for a cluster update"
    assert plain(5, f.Incomplete("wiped")) == f.Incomplete("wiped")
    assert peers.in_order(["n1", "n2"]) == ["n2", "n1"]
    assert plain(5, f.ReadDone([])) == f.ReadDone([])
    assert peers.in_order(["n1", "n2"]) == ["n1", "n2"]


def test_a_state_that_cannot_be_read_is_no_answer_and_no_crash() -> None:
    def cannot(_: bytes) -> None:
        raise CorruptData("no state")

    bench = Bench()
    bench.peers._moved = cannot
    failure = asyncio.run(bench.fail(f.NodeAnswer(1, f.NotOwner(b"?"))))
    assert isinstance(failure, p.PeerRefused)
    assert failure.reason == "corrupt"
