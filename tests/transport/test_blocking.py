"""Operations over sockets that block: real connections, nodes that are a function in another thread. No Ray."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
import threading
import time
from collections import Counter, deque
from functools import partial

import pytest

from raykv.cluster.state import ClusterState, encode_state
from raykv.config import BucketConfig, StoreConfig
from raykv.coordinator import fast_path
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.steps import Handover, Round, Wait
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, stamp
from raykv.ring import Member, claim
from raykv.system.process import CountingMetrics, SystemClock
from raykv.transport import Endpoint, StreamServer, blocking, wire
from raykv.transport.blocking import Connections
from raykv.versions import time_from_ms

NODES = ("n1", "n2", "n3")
LOOPBACK = "127.0.0.1"
KEY = encode_key("key")
RECORD = stamp(pack_body(bytes(16), b"value"), time_from_ms(1_700_000_000_000))
WAIT_S = 30.0
"""A machine may stand still for seconds: what comes to be is waited for so long, and nobody is taken for slow before."""


class Node:
    """A listening process: answers at once, or after what ``hold`` returns was called, or as ``says`` does."""

    def __init__(self, loop):
        self.loop = loop
        self.incarnation = 5
        self.held = deque()
        """The conditions that requests wait for, one a request, from now on."""
        self.says = None
        self.asked = []
        self.server = self.endpoint = None

    async def open(self, local):
        self.server = StreamServer(self.serve)
        self.endpoint = await (self.server.listen_locally() if local else self.server.listen(LOOPBACK))

    async def serve(self, frame):
        body = f.node_requests.decode(frame).body
        self.asked.append(body)
        if self.held:
            await self.held.popleft().wait()
        if self.says is not None:
            return self.says(body)
        return self.answer(f.ReadDone([RECORD], []) if isinstance(body, f.Read) else f.WriteDone([0]))

    def hold(self, requests=1):
        """Let the next requests wait for their answers until the function that is returned is called."""
        event = asyncio.Event()
        self.held.extend([event] * requests)
        return lambda: self.loop.call_soon_threadsafe(event.set)

    def answer(self, body):
        return f.node_answers.encode(f.NodeAnswer(self.incarnation, body))

    def do(self, work):
        """Do something in the nodes' loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def open_connections(self):
        async def count():
            return len(self.server.callers.friends)

        return self.do(count())


class Bench:
    """Three nodes in a thread, and a client's lines to them."""

    def __init__(self, local):
        """``local``: over local sockets, else over TCP."""
        self.local = local
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.nodes = {node_id: Node(self.loop) for node_id in NODES}
        for node in self.nodes.values():
            node.do(node.open(local))
        self.completed = []
        store = StoreConfig(name="test", copies=3, partitions=8)
        ring = claim([Member(node_id) for node_id in NODES], 8, 3)
        state = ClusterState(store_id="s", generation=1, version=0, config=store, ring=ring)
        state = state.with_bucket(BucketConfig(name="default", n=3, r=2, w=2, versioning="lww"))
        core = Coordinator(None, SystemClock(), CountingMetrics(), random.Random(1))
        core.routing.learn(f.ClusterUpdate(1, encode_state(state), {}, dict.fromkeys(NODES, 5)))
        core.routing.peers.hedge_delay_s = lambda *_: WAIT_S
        self.core = core
        self.first, self.second, self.third = state.ring.owners(state.ring.partition_of(KEY))
        self.connections = Connections(partial(core.operation, fast=True), self.locate, self.completed.append)

    def locate(self, peer):
        return self.nodes[peer.removeprefix("node/")].endpoint

    def get(self, r=2):
        """The payloads, or None: it was handed over."""
        (answer,) = self.connections.serve([f.GetMany(1, [KEY], r, 5.0)])
        return None if isinstance(answer, Handover) else f.whole(answer.items[0]).payloads

    def put(self, w=2):
        body = pack_body(random.randbytes(16), b"new")
        return self.connections.serve([f.WriteMany(1, [(KEY, body, None)], w, 5.0)])[0]

    def close(self):
        self.connections.close()
        for node in self.nodes.values():
            with contextlib.suppress(TimeoutError):
                node.do(node.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WAIT_S)
        self.loop.close()


@pytest.fixture(params=["local", "tcp"])
def bench(monkeypatch, request):
    monkeypatch.setattr(fast_path, "WRITE_PATIENCE_S", WAIT_S)  # the machine may have other things to do
    monkeypatch.setattr(blocking, "CONNECT_TIMEOUT_S", WAIT_S)
    monkeypatch.setattr(blocking, "OUTSTANDING_S", WAIT_S)
    made = Bench(local=request.param == "local")
    yield made
    outstanding = [
        outstanding for line in made.connections._connections.values() for outstanding in line.outstanding.values()
    ]
    assert made.connections._outstanding == len(outstanding)
    assert made.connections._outstanding_writes == sum(each.write is not None for each in outstanding)
    made.close()


def until(condition):
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it does not come to be"
        time.sleep(0.001)


def heard(bench):
    bench.connections.listen()
    return not bench.connections.writes_outstanding


def handed_over(outcomes):
    """The actions with which operations were handed over."""
    return [outcome.action for outcome in outcomes if isinstance(outcome, Handover)]


def test_reads_and_writes_on_lines_that_stay(bench):
    for _ in range(20):
        assert bench.get(r=3) == [b"value"]
        assert len(bench.put(w=3).items[0].nodes) == 3
    assert [bench.nodes[node_id].open_connections() for node_id in NODES] == [1, 1, 1]
    assert not bench.connections.writes_outstanding
    assert not bench.completed


def test_only_those_that_are_asked_get_a_line(bench):
    assert bench.get(r=1) == [b"value"]
    assert [bench.nodes[node_id].open_connections() for node_id in (bench.first, bench.second)] == [1, 0]


def test_answers_come_in_any_order_and_are_matched(bench):
    """The first asked answers last; what it owes of a former operation comes between."""
    answer = bench.nodes[bench.first].hold()
    assert len(bench.put().items[0].nodes) == 2
    assert bench.connections.writes_outstanding
    answer()
    for _ in range(5):
        assert bench.get(r=3) == [b"value"]
    until(lambda: heard(bench))
    assert not bench.completed


def reads(count):
    return [f.GetMany(1, [encode_key(f"{number}-{at}") for at in range(3)], 2, 5.0) for number in range(count)]


def says_all(body):
    return f.node_answers.encode(f.NodeAnswer(5, f.ReadDone([RECORD] * len(body.keys), [])))


def test_of_a_batch_a_few_requests_are_under_way_at_once(bench):
    under_way, most, full = Counter(), Counter(), asyncio.Event()

    async def slowly(node_id, frame):
        under_way[node_id] += 1
        most[node_id] = max(most[node_id], under_way[node_id])
        if most[node_id] >= blocking.AHEAD:
            full.set()
        await full.wait()
        await asyncio.sleep(0.01)  # for one more, if there were one
        under_way[node_id] -= 1
        return says_all(f.node_requests.decode(frame).body)

    for node_id, node in bench.nodes.items():
        node.server.serve = partial(slowly, node_id)
    answers = bench.connections.serve(reads(8))
    assert [len(answer.items) for answer in answers] == [3] * 8
    assert max(most.values()) == blocking.AHEAD
    assert not bench.connections._asked


def test_an_answer_is_taken_apart_while_others_are_under_way(bench):
    for node in bench.nodes.values():
        node.says = says_all
    seen = []

    def take(place, answer):
        seen.append((place, len(answer.items), len(bench.connections._asked)))

    bench.connections.serve(reads(1))
    bench.connections.serve(reads(8), take)
    assert seen == [(place, 3, min(blocking.AHEAD, 7 - place)) for place in range(7)], "the last one keeps nobody"
    seen.clear()
    bench.nodes[bench.first].says = lambda _: bench.nodes[bench.first].answer(f.Incomplete(""))
    answers = bench.connections.serve(reads(5), take)
    assert [place for place, *_ in seen] == [place for place in range(4) if not isinstance(answers[place], Handover)]


def test_the_answers_are_there_whichever_comes_last(bench, monkeypatch):
    monkeypatch.setattr(blocking, "ANSWERS_S", 0.05)
    for slow in (bench.first, bench.second):
        for after_s in (0.0, 0.02, 0.2):  # within what one answer is waited for, and beyond
            node = bench.nodes[slow]

            async def slowly(frame, node=node, after_s=after_s):
                await asyncio.sleep(after_s)
                return await node.serve(frame)

            node.server.serve = slowly
            assert bench.get() == [b"value"]
            node.server.serve = node.serve


def test_a_waiter_for_two_answers_wakes_once(bench, monkeypatch):
    monkeypatch.setattr(blocking, "ANSWERS_S", 0.9)
    heard = []
    hear = bench.connections._hear
    monkeypatch.setattr(bench.connections, "_hear", lambda wait_s: heard.append(wait_s) or hear(wait_s))
    for _ in range(3):
        assert bench.get() == [b"value"]
    assert heard == [], "it looks at all lines only if one does not answer"


def test_an_answer_that_comes_in_pieces_is_waited_for_no_longer_than_the_patience(bench):
    bench.get()
    bench.core.routing.peers.hedge_delay_s = lambda *_: 0.15
    node = bench.nodes[bench.second]
    ended = asyncio.Event()

    async def trickles(frame):
        (connection,) = node.server.callers.friends
        connection._write([wire.head(1000, wire.ANSWER, bytes(50_000_000))])
        while connection in node.server.callers.friends:  # until the waiting caller has hung up
            connection._write([bytes(40)])
            await asyncio.sleep(0.01)
        ended.set()
        return b""

    node.server.serve = trickles
    assert bench.get() is None
    bench.connections.close()
    node.do(asyncio.wait_for(ended.wait(), WAIT_S))


def test_a_silent_node_is_waited_for_no_longer_than_the_patience(bench):
    bench.get()
    bench.core.routing.peers.hedge_delay_s = lambda *_: 0.1
    for silent in (bench.first, bench.second):
        node = bench.nodes[silent]

        held = asyncio.Event()

        async def never(frame, held=held):
            await held.wait()
            return says_all(f.node_requests.decode(frame).body)

        node.server.serve = never
        assert bench.get() is None, "although it has not answered yet"
        node.loop.call_soon_threadsafe(held.set)
        node.server.serve = node.serve


def test_a_connection_that_is_lost_is_lost_to_all_that_are_under_way(bench):
    for node in bench.nodes.values():
        node.says = says_all
    bench.connections.serve(reads(1))
    lost = bench.nodes[bench.first]

    async def drops(frame):
        for connection in [*lost.server.callers.friends]:
            connection.drop()
        return says_all(f.node_requests.decode(frame).body)

    lost.server.serve = drops
    answers = bench.connections.serve(reads(5))
    assert handed_over(answers), "the quorum path finds out"
    assert not bench.connections._asked
    assert not any(line.outstanding for line in bench.connections._connections.values())
    lost.server.serve = lost.serve
    assert not handed_over(bench.connections.serve(reads(5)))


def test_an_answer_that_came_while_others_were_taken_apart_is_in_time(bench, monkeypatch):
    for node in bench.nodes.values():
        node.says = says_all
    bench.connections.serve(reads(1))
    bench.core.routing.peers.hedge_delay_s = lambda *_: 0.05
    send = bench.connections._send

    def slowly(ask, to):
        asked = send(ask, to)
        time.sleep(0.1)
        sockets = [line.socket for line in to.values()]
        until(lambda: len(select.select(sockets, [], [], 0)[0]) == len(sockets))
        return asked

    monkeypatch.setattr(bench.connections, "_send", slowly)
    assert not handed_over(bench.connections.serve(reads(3)))


def test_one_bad_request_of_a_batch_hinders_no_other(bench):
    bad = f.WriteMany(1, [(KEY, b"no body", None)], 2, 5.0)
    for node in bench.nodes.values():
        node.says = says_all
    first, refused, last = bench.connections.serve([*reads(1), bad, *reads(1)])
    assert isinstance(refused, f.Refused)
    assert len(first.items) == len(last.items) == 3


def test_an_answer_larger_than_what_is_received_at_once(bench):
    large = stamp(pack_body(bytes(16), bytes(900_000)), time_from_ms(1_700_000_000_000))
    for node in bench.nodes.values():
        node.says = lambda _, node=node: node.answer(f.ReadDone([large], []))
    assert bench.get() == [bytes(900_000)]
    assert bench.get(r=3) == [bytes(900_000)]


def test_a_late_acknowledgement_is_heard_and_needs_nothing(bench):
    answer = bench.nodes[bench.third].hold()
    acked = bench.put().items[0].nodes
    assert bench.third not in acked
    assert bench.connections.writes_outstanding
    answer()
    until(lambda: heard(bench))
    assert not bench.completed


@pytest.mark.parametrize("late", ["refuses", "breaks", "another run", "newer"])
def test_a_write_with_a_late_invalid_answer_is_completed(bench, late):
    node = bench.nodes[bench.third]

    def says(body):
        if late == "breaks":
            raise ZeroDivisionError
        if late == "another run":
            return f.node_answers.encode(f.NodeAnswer(4, f.WriteDone([0])))
        return node.answer(f.WriteDone([7]) if late == "newer" else f.NodeRefused("overloaded", "too much"))

    node.says, answer = says, node.hold()
    acked = bench.put().items[0].nodes
    assert bench.third not in acked
    answer()
    until(lambda: heard(bench))
    (write,) = bench.completed
    assert sorted(write.acks) == sorted(acked)
    assert [put.key for put in write.puts] == [KEY]


def test_a_refusal_is_an_answer_and_the_write_must_be_completed(bench):
    node = bench.nodes[bench.first]
    node.says = lambda _: node.answer(f.NodeRefused("overloaded", "too much"))
    answer = bench.nodes[bench.third].hold()
    (action,) = handed_over([bench.put()])
    assert isinstance(action, Wait)
    calls = action.fan.start()
    assert sorted(call.node_id for call in calls) == sorted(NODES), "the same write once more"
    assert len({call.body.items[0][1] for call in calls}) == 1
    answer()
    until(lambda: heard(bench))
    assert not bench.completed, "the operation sees to the rest"


def test_a_connection_that_is_lost_on_the_way(bench):
    """While it waits: a read takes the quorum path, a write has its W and is seen to."""
    assert bench.get(r=3) == [b"value"]
    node = bench.nodes[bench.third]
    answer = node.hold(2)
    asked = len(node.asked)

    def lose():
        until(lambda: len(node.asked) > asked)
        node.do(node.server.close())

    losing = threading.Thread(target=lose)
    losing.start()
    assert bench.get(r=3) is None
    losing.join(WAIT_S)
    answer()
    until(lambda: not node.server.callers.friends)
    assert handed_over([bench.put()])
    assert bench.get(r=2) == [b"value"], "the others have theirs"


def test_a_connection_that_is_lost_with_an_acknowledgement_outstanding(bench):
    bench.put(w=3)
    node = bench.nodes[bench.third]
    answer = node.hold()
    bench.put()
    assert bench.connections.writes_outstanding
    node.do(node.server.close())
    answer()
    until(lambda: heard(bench))
    assert len(bench.completed) == 1


def test_a_node_that_is_not_there_is_for_another_driver(bench):
    node = bench.nodes[bench.third]
    node.do(node.server.close())
    assert bench.get(r=2) == [b"value"]
    assert bench.get(r=3) is None
    (action,) = handed_over([bench.put()])
    assert isinstance(action, Round), "it has its stamp, and was sent to nobody"
    assert not action.write.acks
    assert not bench.completed
    node.endpoint = None
    assert bench.get(r=3) is None


def test_another_run_listens_elsewhere(bench):
    assert bench.get(r=3) == [b"value"]
    node = bench.nodes[bench.first]
    node.do(node.server.close())
    node.do(node.open(local=bench.local))
    node.incarnation = 6
    assert bench.get(r=3) == [b"value"], "it is asked where it listens now"
    assert node.open_connections() == 1
    node.incarnation = 5
    assert bench.get(r=3) is None, "from now on the earlier run is not believed"


def test_a_port_with_another_secret_is_not_believed(bench):
    node = bench.nodes[bench.first]
    node.endpoint = node.endpoint._replace(secret=bytes(32))
    assert bench.get() is None


def test_a_frozen_node_holds_nobody_up_and_its_line_is_given_up(bench, monkeypatch):
    """It takes what is sent and answers nothing."""
    bench.put(w=3)
    answer = bench.nodes[bench.third].hold(10)
    for _ in range(5):
        assert len(bench.put().items[0].nodes) == 2
    assert not bench.completed
    monkeypatch.setattr(blocking, "OUTSTANDING_S", 0.1)
    until(lambda: heard(bench))
    assert len(bench.completed) == 5, "and it has answered none of them"
    assert len({id(write) for write in bench.completed}) == 5
    answer()


def test_one_that_does_not_shake_hands_costs_little_and_not_every_time(bench, monkeypatch):
    monkeypatch.setattr(blocking, "CONNECT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(blocking, "CONNECT_PAUSE_S", WAIT_S)
    with socket.create_server((LOOPBACK, 0)) as mute:
        bench.nodes[bench.first].endpoint = Endpoint(LOOPBACK, mute.getsockname()[1], bytes(32))
        for _ in range(20):
            assert bench.get() is None
        mute.settimeout(0.05)
        mute.accept()[0].close()
        with pytest.raises(TimeoutError):
            mute.accept()  # it was tried but once


def test_an_idle_caller_keeps_its_connections(bench, monkeypatch):
    """Or stood still: the answers are there, and are heard before anything is given up."""
    answers = [bench.nodes[node_id].hold() for node_id in (bench.second, bench.third)]
    bench.put(w=1)
    assert bench.connections.writes_outstanding
    monkeypatch.setattr(blocking, "OUTSTANDING_S", 0.05)
    for answer in answers:
        answer()
    before = dict(bench.connections._connections)
    sockets = [before[node_id].socket for node_id in (bench.second, bench.third)]
    until(lambda: len(select.select(sockets, [], [], 0)[0]) == 2)
    time.sleep(0.1)
    assert bench.get(r=3) == [b"value"]
    assert bench.connections._connections == before
    assert not bench.completed


def test_interrupted_it_begins_anew(bench, monkeypatch):
    """Nobody knows where in a frame it was."""
    bench.put(w=3)
    with monkeypatch.context() as patched:

        def interrupted(*_):
            raise KeyboardInterrupt

        patched.setattr(blocking._Connection, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.get()
    bench.connections.close()  # as the loop's thread does
    assert not bench.connections._connections
    assert bench.get(r=3) == [b"value"]


def test_what_is_neither_a_read_nor_a_write_is_for_the_usual_way(bench):
    assert bench.connections.serve([f.GetInfo("ring", 1.0)]) == [None]
    assert not bench.connections._connections


def test_closing_leaves_no_socket_and_completes_outstanding_writes(bench):
    bench.put(w=3)
    answer = bench.nodes[bench.third].hold()
    bench.put()
    answer()
    sockets = [line.socket for line in bench.connections._connections.values()]
    assert len(sockets) == 3
    bench.connections.close()
    assert all(each.fileno() == -1 for each in sockets)
    assert len(bench.completed) == 1
    bench.connections.close()
    assert bench.get(r=3) == [b"value"], "used again, it begins anew"
