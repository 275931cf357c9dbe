"""A loop that whoever waits drives: threads that come at once, work that nobody waits for, and the end."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raykv.actors import driven_loop
from raykv.actors.driven_loop import DrivenLoop, LoopClosed

WAIT_S = 3.0


class Bench:
    """A loop, what is left to do in it, and who has driven it when."""

    def __init__(self):
        self.left = set()
        self.chores = 0
        self.closings = 0
        self.loop = DrivenLoop(lambda: bool([*self.left]), self._chore)

    def _chore(self):
        self.chores += 1

    async def last(self):
        self.closings += 1

    async def where(self, delay_s=0.0):
        """The name of the thread that drives, ``delay_s`` from now."""
        await asyncio.sleep(delay_s)
        return threading.current_thread().name

    async def leave(self, delay_s, done):
        """Begin something that nobody waits for, and answer at once."""

        async def rest():
            await asyncio.sleep(delay_s)
            done.append(threading.current_thread().name)

        task = asyncio.get_running_loop().create_task(rest())
        self.left.add(task)
        task.add_done_callback(self.left.discard)
        return "answer"


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.loop.close(made.last)


def keepers():
    return [thread for thread in threading.enumerate() if thread.name == "raykv-keeper"]


def until(condition):
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it does not come to be"
        time.sleep(0.001)


def in_threads(count, work):
    with ThreadPoolExecutor(count) as pool:
        return [future.result(WAIT_S) for future in [pool.submit(work, number) for number in range(count)]]


def test_who_waits_drives_and_no_thread_is_needed(bench):
    for _ in range(50):
        assert bench.loop.call(bench.where, WAIT_S) == threading.current_thread().name
    assert not keepers()


def test_what_it_raises_is_raised_and_the_loop_goes_on(bench):
    async def fails():
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        bench.loop.call(fails, WAIT_S)
    assert bench.loop.call(bench.where, WAIT_S)


def test_time_is_up_and_it_goes_on_all_the_same(bench):
    work = bench.loop.submit(lambda: bench.where(0.05))
    with pytest.raises(TimeoutError):
        bench.loop.result(work, 0.01)
    assert bench.loop.result(work, WAIT_S) == threading.current_thread().name


def test_followers_work_in_the_leaders_turn_and_one_of_them_leads_on(bench):
    """The first to come leads; each of the others is done at its time, whoever leads by then."""
    began_s = time.monotonic()

    def one(number):
        time.sleep(number * 0.005)
        return bench.loop.call(lambda: bench.where(0.1), WAIT_S)

    drove = in_threads(8, one)
    assert len(drove) == 8
    assert len(set(drove)) >= 2, "the leader has gone before the last one was done"
    assert time.monotonic() - began_s < 0.5, "side by side"


def test_many_threads_many_calls(bench):
    def one(number):
        return [bench.loop.call(lambda turn=turn: asyncio.sleep(0, (number, turn)), WAIT_S) for turn in range(200)]

    assert in_threads(6, one) == [[(number, turn) for turn in range(200)] for number in range(6)]


def test_what_nobody_waits_for_is_brought_to_its_end_by_the_keeper(bench):
    done = []
    assert bench.loop.call(lambda: bench.leave(0.03, done), WAIT_S) == "answer"
    until(lambda: done)
    assert done == ["raykv-keeper"]
    assert bench.chores
    time.sleep(0.02)
    chores = bench.chores
    time.sleep(0.02)
    assert bench.chores == chores, "it rests when nothing is left"


def test_a_follower_that_goes_without_leading_leaves_nothing_undone(bench):
    """Leader and follower are done in one turn of the loop; what both have left is the keeper's all the same."""
    for _ in range(30):
        done, together = [], []

        async def both(together=together, done=done):
            if not together:
                together.append(asyncio.get_running_loop().create_future())
                await together[0]
            else:
                await bench.leave(0.0, done)
                together[0].set_result(None)

        in_threads(2, lambda _, both=both: bench.loop.call(both, WAIT_S))
        until(lambda done=done: done)


def test_while_it_is_borrowed_nothing_happens_in_it(bench):
    done = []
    bench.loop.call(lambda: bench.leave(0.01, done), WAIT_S)
    assert bench.loop.borrow()
    assert not bench.loop.borrow()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(bench.loop.call, bench.where, WAIT_S)
        time.sleep(0.06)
        assert not done
        assert not other.done()
        bench.loop.give_back()
        assert other.result(WAIT_S)
    until(lambda: done)


def test_what_is_left_is_not_looked_at_while_another_changes_it(bench):
    """The keeper asks only when nobody drives: else it would look at what is being changed."""
    asked = []

    def pending():
        asked.append(bench.loop._driving and threading.current_thread() is not holder[0])
        return True

    bench.loop._pending = pending
    bench.loop.call(bench.where, WAIT_S)  # leaves the keeper something
    until(lambda: keepers())
    holder = [None]
    until(lambda: bench.loop.borrow())
    holder[0] = threading.current_thread()
    before = len(asked)
    time.sleep(0.05)
    assert asked[before:] == []
    bench.loop._pending = lambda: False
    bench.loop.give_back()


def test_in_a_thread_with_a_running_loop_the_keeper_leads(bench):
    async def inside():
        return [bench.loop.call(bench.where, WAIT_S) for _ in range(3)]

    assert asyncio.run(inside()) == ["raykv-keeper"] * 3


def test_some_with_a_loop_and_some_without(bench):
    async def inside(number):
        return [bench.loop.call(lambda: asyncio.sleep(0.001, number), WAIT_S) for _ in range(10)]

    def one(number):
        if number % 2:
            return asyncio.run(inside(number))
        return [bench.loop.call(lambda: asyncio.sleep(0.001, number), WAIT_S) for _ in range(10)]

    assert in_threads(4, one) == [[number] * 10 for number in range(4)]


def test_a_stop_that_came_too_late_for_its_leader_does_not_end_the_next_ones_turn(bench):
    async def stop_twice():
        loop = asyncio.get_running_loop()
        loop.call_later(
            0.0, lambda: (loop.stop(), loop.call_soon(loop.stop), loop.call_soon(loop.call_soon, loop.stop))
        )

    bench.loop.call(stop_twice, WAIT_S)
    assert bench.loop.call(lambda: bench.where(0.02), WAIT_S)

    async def inside():
        await asyncio.sleep(0)
        return bench.loop.call(lambda: bench.where(0.02), WAIT_S)

    bench.loop.call(stop_twice, WAIT_S)
    assert asyncio.run(inside()) == "raykv-keeper", "nor the keeper's life"


def test_a_leader_that_is_interrupted_steps_down(bench):
    """Ctrl-C: who waits goes, the others are served, and its own work goes on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in a shell's background ignore it
    try:
        work = bench.loop.submit(lambda: bench.where(0.15))
        timer = threading.Timer(0.05, _thread.interrupt_main)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            bench.loop.result(work, WAIT_S)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert bench.loop.call(bench.where, WAIT_S)
    assert bench.loop.result(work, WAIT_S)


def test_a_keeper_that_fails_is_followed_by_another(bench, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: told.append(failed.exc_type))
    done = []

    def chore():
        bench.loop._chore = lambda: None
        raise ZeroDivisionError

    bench.loop._chore = chore
    bench.loop.call(lambda: bench.leave(0.05, done), WAIT_S)
    until(lambda: told)
    assert told == [ZeroDivisionError]
    until(lambda: not keepers())
    bench.loop.call(bench.where, WAIT_S)
    until(lambda: done)


# ---- the end ----


def test_closing_ends_what_is_left_and_all_threads():
    bench, done = Bench(), []
    bench.loop.call(lambda: bench.leave(60.0, done), WAIT_S)
    until(keepers)
    bench.loop.close(bench.last)
    assert not keepers()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("raykv")]
    assert bench.loop._loop.is_closed()
    assert not bench.left
    assert not done
    bench.loop.close(bench.last)
    assert bench.closings == 1
    with pytest.raises(LoopClosed):
        bench.loop.call(bench.where, WAIT_S)
    assert not bench.loop.borrow()


def test_closing_in_a_thread_with_a_running_loop():
    bench = Bench()

    async def inside():
        bench.loop.call(bench.where, WAIT_S)
        bench.loop.close(bench.last)

    asyncio.run(inside())
    assert bench.loop._loop.is_closed()
    assert bench.closings == 1
    assert not keepers()


def test_closing_waits_for_the_leader_and_ends_who_follows():
    bench, outcomes = Bench(), []

    def one(delay_s):
        with contextlib.suppress(LoopClosed):
            outcomes.append((delay_s, bench.loop.call(lambda: asyncio.sleep(delay_s, "done"), WAIT_S)))
            return
        outcomes.append((delay_s, "closed"))

    threads = [threading.Thread(target=one, args=(delay_s,)) for delay_s in (0.1, 2.0)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    began_s = time.monotonic()
    bench.loop.close(bench.last)
    for thread in threads:
        thread.join(WAIT_S)
    assert outcomes == [(0.1, "done"), (2.0, "closed")]
    assert time.monotonic() - began_s < 1.0
    assert bench.loop._loop.is_closed()


def test_closing_ends_who_waits_for_the_keeper():
    bench, told = Bench(), []

    async def inside():
        with pytest.raises(LoopClosed):
            bench.loop.call(lambda: asyncio.sleep(WAIT_S), WAIT_S)
        told.append(time.monotonic() - began_s)

    began_s = time.monotonic()
    thread = threading.Thread(target=lambda: asyncio.run(inside()))
    thread.start()
    until(keepers)
    time.sleep(0.02)
    bench.loop.close(bench.last)
    thread.join(WAIT_S)
    assert told
    assert told[0] < 1.0
    assert not keepers()


def test_a_leader_that_takes_longer_than_the_close_ends_the_loop_itself(monkeypatch):
    monkeypatch.setattr(driven_loop, "CLOSE_TIMEOUT_S", 0.05)
    bench, told = Bench(), []
    leader = threading.Thread(target=lambda: told.append(bench.loop.call(lambda: bench.where(0.3), WAIT_S)))
    leader.start()
    until(lambda: bench.loop._driving)
    bench.loop.close(bench.last)
    assert not bench.loop._loop.is_closed()
    leader.join(WAIT_S)
    assert told == [leader.name]
    until(bench.loop._loop.is_closed)
    assert bench.closings == 1


def test_at_the_end_of_the_interpreter_no_thread_can_be_started(monkeypatch):
    bench = Bench()
    bench.loop.call(bench.where, WAIT_S)

    def refuse(_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        bench.loop.close(bench.last)
    assert bench.loop._loop.is_closed()
    assert bench.closings == 1


def test_what_is_handed_in_at_the_very_end_is_not_begun():
    bench, begun, work = Bench(), [], []

    async def late():
        begun.append(1)
        await asyncio.sleep(WAIT_S)

    async def last():
        work.append(bench.loop.submit(late))

    bench.loop.call(lambda: asyncio.sleep(0), WAIT_S)
    bench.loop.close(last)
    assert bench.loop._loop.is_closed()
    assert begun == []
    assert isinstance(work[0].error, LoopClosed)
