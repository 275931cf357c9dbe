"""Frames between processes: delays, losses, repetitions, cuts, deaths."""

from __future__ import annotations

import asyncio
import random

import pytest

from raykv.ports import PeerAbsent, PeerDead, PeerSilent, PeerUnreachable
from raykv.protocol import frames as f
from raykv.sim.kernel import Process, run_virtual
from raykv.sim.network import ANYBODY, Network, NetworkOdds, SimTransport
from raykv.sim.trace import Trace


class Bench:
    def __init__(self, loop, **odds):
        self.loop = loop
        self.network = Network(loop, random.Random(3), Trace(loop))
        self.network.odds = NetworkOdds(**odds)
        self.served = []
        self.delay_s = 0.0
        self.b = self.endpoint("b")
        self.a = Process(loop, "a")
        self.transport = SimTransport(self.network, self.a)

    def endpoint(self, name):
        process = Process(self.loop, name)

        async def serve(frame):
            self.served.append(frame)
            await asyncio.sleep(self.delay_s)
            if frame == b"raise":
                raise ValueError(frame)
            if frame == b"unreachable":
                raise PeerUnreachable("not open")
            return frame + b"!"

        self.network.register(process, serve)
        return process

    def ask(self, frame, timeout_s=1.0, peer="b"):
        return self.a.spawn(self.transport.call(peer, frame, timeout_s))


def run(story, **odds):
    async def on(loop):
        return await story(Bench(loop, **odds))

    result, loop = run_virtual(on)
    return result, loop.failures


def test_an_answer_comes_back_after_two_delays():
    async def story(bench):
        assert await bench.ask(b"x") == b"x!"
        assert 0.2 <= bench.loop.now_s <= 0.4

    assert run(story, delay_s=(0.1, 0.2)) == (None, [])


def test_messages_overtake_each_other():
    async def story(bench):
        await asyncio.gather(*(bench.ask(b"%02d" % number) for number in range(50)))
        assert sorted(bench.served) != bench.served
        assert len(bench.served) == 50

    run(story, delay_s=(0.0, 0.1))


def test_lost_messages_leave_the_caller_waiting_and_may_have_been_carried_out():
    async def story(bench):
        outcomes = await asyncio.gather(*(bench.ask(b"%02d" % n) for n in range(200)), return_exceptions=True)
        silent = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, PeerSilent)]
        assert 60 < len(silent) < 140, "one way or the other"
        assert any(b"%02d" % n in bench.served for n in silent)
        assert any(b"%02d" % n not in bench.served for n in silent)

    run(story, lost=0.3)


def test_a_repeated_request_is_served_twice_and_answered_once():
    async def story(bench):
        assert await bench.ask(b"x") == b"x!"
        await asyncio.sleep(1)
        assert bench.served == [b"x", b"x"]
        bench.a = Process(bench.loop, "client1")
        bench.transport = SimTransport(bench.network, bench.a)
        await bench.ask(b"y")
        await asyncio.sleep(1)
        assert bench.served == [b"x", b"x", b"y"], "what clients ask is delivered once at most"

    run(story, repeated=1.0)


def test_a_late_message_is_late():
    async def story(bench):
        asked = [bench.ask(b"x", timeout_s=0.5) for _ in range(100)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        in_time = len(bench.served)
        assert any(isinstance(outcome, PeerSilent) for outcome in outcomes)
        await asyncio.sleep(20)
        assert in_time < len(bench.served) == 100

    run(story, late=0.5, late_s=10.0)


@pytest.mark.parametrize(("source", "target", "served"), [("a", "b", 0), ("b", "a", 1)])
def test_a_cut_is_one_way_and_ends(source, target, served):
    async def story(bench):
        bench.network.cut(source, target)
        bench.network.cut(source, target)
        with pytest.raises(PeerSilent):
            await bench.ask(b"x")
        assert len(bench.served) == served
        bench.network.mend(source, target)
        with pytest.raises(PeerSilent):
            await bench.ask(b"x")
        bench.network.mend(source, target)
        assert await bench.ask(b"y") == b"y!"

    run(story)


def test_some_of_what_met_a_cut_comes_when_it_is_mended():
    async def story(bench):
        bench.network.cut("a", "b")
        await asyncio.gather(*(bench.ask(b"%02d" % n) for n in range(100)), return_exceptions=True)
        assert bench.served == []
        bench.network.mend("a", "b")
        await asyncio.sleep(1)
        assert 30 < len(bench.served) < 70

    run(story)


def test_callers_learn_of_a_death_and_of_nobody_there():
    async def story(bench):
        bench.delay_s = 5.0
        call = bench.ask(b"x", timeout_s=10.0)
        await asyncio.sleep(1)
        bench.b.kill()
        with pytest.raises(PeerDead) as caught:
            await call
        assert type(caught.value) is PeerDead
        assert 1.0 < bench.loop.now_s < 1.3
        with pytest.raises(PeerAbsent):
            await bench.ask(b"x")
        with pytest.raises(PeerAbsent):
            await bench.ask(b"x", peer="c")
        assert bench.network.living("b") is None
        bench.delay_s = 0.0
        again = bench.endpoint("b")
        assert bench.network.living("b") is again
        assert await bench.ask(b"y") == b"y!"

    run(story)


def test_of_a_host_that_is_down_nobody_hears():
    async def story(bench):
        bench.delay_s = 5.0
        call = bench.ask(b"x", timeout_s=3.0)
        await asyncio.sleep(1)
        bench.network.unreachable.add("b")
        bench.b.kill()
        for asked in (call, bench.ask(b"y")):
            with pytest.raises(PeerSilent):
                await asked

    run(story)


def test_an_exception_of_a_handler_reaches_the_caller_and_fails_the_run():
    async def story(bench):
        with pytest.raises(PeerUnreachable, match="ValueError"):
            await bench.ask(b"raise")

    _, failures = run(story)
    assert len(failures) == 1

    async def expected(bench):
        with pytest.raises(PeerUnreachable, match="not open"):
            await bench.ask(b"unreachable")

    assert run(expected) == (None, [])


def test_a_dead_caller_hears_nothing():
    async def story(bench):
        bench.delay_s = 1.0
        call = bench.ask(b"x", timeout_s=5.0)
        await asyncio.sleep(0.5)
        bench.a.kill()
        await asyncio.sleep(3)
        assert call.cancelled()
        assert bench.served == [b"x"], "what was begun goes on"

    assert run(story) == (None, [])


def test_the_trace_tells_runs_apart():
    def trace_of(seed):
        async def story(bench):
            bench.network._rng.seed(seed)
            await asyncio.gather(*(bench.ask(b"x") for _ in range(5)))
            return bench.network._trace.hexdigest()

        return run(story)[0]

    assert trace_of(1) == trace_of(1)
    assert trace_of(1) != trace_of(2)


def test_messages_of_a_pair_take_the_time_that_is_set_for_it():
    async def story(bench):
        bench.network.delays["a", "b"] = 0.3
        await bench.ask(b"x")
        assert bench.loop.now_s == pytest.approx(0.4)
        bench.network.delays[ANYBODY, "b"] = 0.7
        await bench.ask(b"x")
        assert bench.loop.now_s == pytest.approx(0.8), "its own comes before that of anybody"
        del bench.network.delays["a", "b"]
        await bench.ask(b"x", timeout_s=2.0)
        assert bench.loop.now_s == pytest.approx(1.6)

    assert run(story, delay_s=(0.1, 0.1)) == (None, [])


def test_a_cut_that_keeps_nothing_delivers_nothing_when_it_is_mended():
    async def story(bench):
        bench.network.cut("a", "b")
        asked = [bench.ask(b"x", timeout_s=5.0) for _ in range(20)]
        await asyncio.sleep(1.0)
        bench.network.mend("a", "b")
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {PeerSilent}
        assert bench.served == []

    assert run(story, kept=0.0) == (None, [])


def test_the_next_message_of_a_kind_is_lost_and_no_other():
    async def story(bench):
        ping, read = (f.node_requests.encode(f.NodeRequest(0, body)) for body in (f.Ping(), f.Read(1, [])))
        bench.network.lose_next("a", "b", "Read")
        bench.network.lose_next("b", "a")
        with pytest.raises(PeerSilent):
            await bench.ask(ping)  # its answer is lost
        with pytest.raises(PeerSilent):
            await bench.ask(read)
        assert bench.served == [ping]
        await bench.ask(read)
        assert bench.served == [ping, read]

    assert run(story) == (None, [])
