"""A loop that its own thread runs and callers acquire: threads at once, interrupted holders, the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from raykv.actors import embedded_loop
from raykv.actors.embedded_loop import CannotBegin, EmbeddedLoop, LoopClosed

WAIT_S = 10.0


class Bench:
    """A loop, what is left to do in it, and what its thread has done."""

    def __init__(self):
        self.left = set()
        self.chores = self.mended = self.closings = 0
        self.loop = EmbeddedLoop(lambda: bool([*self.left]), self._chore, self._mend)

    def _chore(self):
        self.chores += 1

    def _mend(self):
        self.mended += 1

    async def last(self):
        self.closings += 1

    async def where(self, delay_s=0.0):
        """The name of the thread that runs the loop, ``delay_s`` from now."""
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

    def acquire(self):
        """Acquire it for a moment; return whether that was possible."""
        lease = self.loop.acquire(sys._getframe())
        if lease is not None:
            self.loop.release(lease)
        return lease is not None

    def acquire_and_fail(self, error=KeyboardInterrupt):
        lease = self.loop.acquire(sys._getframe())
        assert lease is not None
        raise error


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.loop.close(made.last)


def loop_threads():
    return [thread for thread in threading.enumerate() if thread.name == "raykv-loop"]


def until(condition):
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it does not come to be"
        time.sleep(0.001)


def in_threads(count, work):
    with ThreadPoolExecutor(count) as pool:
        return [future.result(WAIT_S) for future in [pool.submit(work, number) for number in range(count)]]


def test_one_thread_runs_it_for_all_waiters(bench):
    async def inside():
        return [bench.loop.call(bench.where, WAIT_S) for _ in range(3)]

    assert [bench.loop.call(bench.where, WAIT_S) for _ in range(50)] == ["raykv-loop"] * 50
    assert asyncio.run(inside()) == ["raykv-loop"] * 3, "also where another loop runs"
    assert len(loop_threads()) == 1


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
    assert bench.loop.result(work, WAIT_S)


def test_many_threads_many_calls(bench):
    def one(number):
        return [bench.loop.call(lambda turn=turn: asyncio.sleep(0, (number, turn)), WAIT_S) for turn in range(200)]

    assert in_threads(6, one) == [[(number, turn) for turn in range(200)] for number in range(6)]
    assert len(loop_threads()) == 1


def test_work_that_comes_as_the_last_one_ends_is_not_left_behind(bench):
    """The loop is then about to stop. Nothing else says that there is work: nobody waits for what is left in the loop."""
    others = []

    async def ends_as_another_comes():
        bench.left.clear()
        asyncio.get_running_loop().call_soon(lambda: others.append(bench.loop.submit(bench.where)))
        return "answer"

    for turn in range(1, 21):
        assert bench.loop.call(lambda: bench.leave(60.0, []), WAIT_S) == "answer"
        until(lambda: bench.loop._running)
        assert bench.loop.call(ends_as_another_comes, WAIT_S) == "answer"
        until(lambda turn=turn: len(others) == turn)
        assert bench.loop.result(others[-1], WAIT_S) == "raykv-loop"


def test_a_caller_hears_of_its_work_though_others_go_on(bench):
    """Each of two keeps the loop from its rest, so the end of a third's work was not told until both were done."""
    over = threading.Event()

    async def ends_as_another_comes():
        asyncio.get_running_loop().call_soon(lambda: bench.loop.submit(goes_on))
        return "answer"

    async def goes_on():
        while not over.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.001)

    try:
        for _ in range(5):
            assert bench.loop.call(ends_as_another_comes, WAIT_S) == "answer"
            over.set()
            until(lambda: bench.loop._resting)
            over.clear()
    finally:
        over.set()


def test_a_caller_that_goes_on_after_a_call_can_acquire_it(bench):
    """Else each call by the loop would make the next one go by it, too."""
    bench.loop.call(bench.where, WAIT_S)
    assert sum(bench.loop.call(bench.where, WAIT_S) is not None and bench.acquire() for _ in range(100)) > 50


def test_what_nobody_waits_for_is_finished_by_the_loops_thread(bench):
    done = []
    assert bench.loop.call(lambda: bench.leave(0.03, done), WAIT_S) == "answer"
    until(lambda: done)
    assert bench.chores
    until(lambda: bench.loop._resting)
    chores = bench.chores
    time.sleep(0.05)
    assert bench.chores == chores, "it rests when nothing is left"


def test_work_submitted_while_unawaited_work_is_finished_is_answered_at_once(bench, monkeypatch):
    monkeypatch.setattr(embedded_loop, "SLICE_S", 10 * WAIT_S)
    bench.loop.call(lambda: bench.leave(10 * WAIT_S, []), WAIT_S)
    until(lambda: bench.loop._running)
    for _ in range(3):
        assert bench.loop.call(bench.where, WAIT_S) == "raykv-loop"


def test_what_a_holder_leaves_is_finished(bench):
    bench.loop.call(bench.where, WAIT_S)
    until(lambda: bench.loop._resting)
    chores = bench.chores
    lease = bench.loop.acquire(sys._getframe())
    bench.left.add("an answer")
    bench.loop.release(lease)
    until(lambda: bench.chores > chores)
    bench.left.clear()


def test_the_thread_is_woken_once_for_unawaited_work_and_not_by_each_holder(bench, monkeypatch):
    monkeypatch.setattr(embedded_loop, "PATIENCE_S", WAIT_S)  # it looks again by itself, later than this ends
    calls = []

    class Box(SimpleQueue):
        def put(self, item):
            calls.append(item)
            super().put(item)

    bench.loop._box = Box()
    assert bench.loop.call(bench.where, WAIT_S) == "raykv-loop"
    until(lambda: bench.loop._resting)
    calls.clear()
    bench.left.add("something")
    assert bench.acquire()
    until(lambda: not bench.loop._resting)
    for _ in range(50):
        assert bench.acquire()
    assert calls == [None]


def test_while_it_is_acquired_nothing_happens_in_it(bench):
    done = []
    bench.loop.call(lambda: bench.leave(0.01, done), WAIT_S)
    until(bench.acquire)
    lease = None
    while lease is None:
        lease = bench.loop.acquire(sys._getframe())
    assert not bench.acquire()
    assert bench.loop.is_acquired_here
    left = len(done)
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(lambda: bench.loop.is_acquired_here).result()
        other = pool.submit(bench.loop.call, bench.where, WAIT_S)
        time.sleep(0.1)
        assert not other.done()
        assert not pool.submit(bench.acquire).done(), "who comes later waits behind it"
        assert len(done) == left
        bench.loop.release(lease)
        assert other.result(WAIT_S)
    assert not bench.mended
    until(lambda: done)


# ---- interrupted ----


def test_an_interrupted_holder_is_detected_by_the_next_call(bench):
    for turn in range(1, 4):
        with pytest.raises(KeyboardInterrupt):
            bench.acquire_and_fail()
        assert not bench.acquire(), "it is nobody's until it is mended"
        assert bench.loop.call(bench.where, WAIT_S)
        assert bench.mended == turn
        until(bench.acquire)


def test_a_holder_in_another_thread_that_lives_or_is_dead(bench):
    go_on = threading.Event()

    def one(lives):
        with contextlib.suppress(KeyboardInterrupt):
            bench.acquire_and_fail()
        if lives:
            go_on.wait(WAIT_S)

    for turn, lives in enumerate((False, True), 1):
        thread = threading.Thread(target=one, args=(lives,))
        thread.start()
        if not lives:
            thread.join()
        until(lambda: bench.loop._held)
        until(lambda: next(iter(bench.loop._held.values())).is_abandoned)
        assert bench.loop.call(bench.where, WAIT_S)
        assert bench.mended == turn
        until(bench.acquire)
        go_on.set()
        thread.join()
        go_on.clear()


def test_a_holder_is_looked_at_while_its_stack_changes(bench):
    """Walking the stack of a running thread met frames that had gone, and the loop's thread failed with it."""
    looked, kept = threading.Event(), []

    def deeper(depth):
        return depth and deeper(depth - 1)

    def numbers():
        for depth in range(4):
            yield deeper(depth)

    def hold(bench):
        keepsake = object()
        lease = bench.loop.acquire(sys._getframe())
        kept.append(lease)
        while not looked.is_set():
            list(numbers())
        assert keepsake is not None
        raise KeyboardInterrupt

    def one():
        try:
            hold(bench)
        except KeyboardInterrupt as error:  # it keeps the frame, as a prompt's last traceback does
            kept.append(error)

    thread = threading.Thread(target=one)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread.start()
        until(lambda: kept)
        assert not any(kept[0].is_abandoned for _ in range(20_000))
    finally:
        sys.setswitchinterval(before)
        looked.set()
        thread.join()
    assert kept[1:], "what it held was not cleared while it ran"
    assert kept[0].is_abandoned
    assert bench.loop.call(bench.where, WAIT_S)
    assert bench.mended == 1


def test_a_holder_that_abandons_it_is_mended_at_once_without_a_call(bench):
    bench.loop.call(bench.where, WAIT_S)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            bench.acquire_and_fail()
        except KeyboardInterrupt:
            bench.loop.abandon()
            raise
    until(lambda: bench.mended)
    until(bench.acquire)


def test_work_whose_caller_is_interrupted_is_cancelled_before_anybody_acquires_the_loop(bench):
    heard = []

    async def work():
        try:
            await asyncio.sleep(WAIT_S)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_soon(heard.append, "what it waited for has heard of it")
            raise

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in a shell's background ignore it
    acquired = None
    try:
        handed_in = bench.loop.submit(work)
        timer = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        timer.start()
        try:
            bench.loop.result(handed_in, WAIT_S)
        except KeyboardInterrupt:
            acquired = bench.acquire()
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert acquired is False, "the loop had not heard of it yet"
    until(bench.acquire)
    assert heard
    assert bench.loop.call(bench.where, WAIT_S)
    with pytest.raises(LoopClosed):
        bench.loop.result(handed_in, WAIT_S)


def test_signals_are_nobodys_but_the_programs():
    before = [(signal.getsignal(number), number) for number in signal.valid_signals()]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    bench = Bench()
    bench.loop.call(bench.where, WAIT_S)
    bench.loop.close(bench.last)
    assert [(signal.getsignal(number), number) for number in signal.valid_signals()] == before
    assert signal.set_wakeup_fd(wakeup) == wakeup


# ---- what cannot be had ----


def test_without_descriptors_it_fails_and_works_once_there_are_some(bench):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(3):
            with pytest.raises(OSError, match="Too many open files"):
                bench.loop.call(bench.where, WAIT_S)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert bench.loop.call(bench.where, WAIT_S) == "raykv-loop"


def test_without_threads_it_fails_and_works_once_there_are_some(bench, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(CannotBegin, match="no more threads"):
            bench.loop.call(bench.where, WAIT_S)
    assert bench.loop.call(bench.where, WAIT_S) == "raykv-loop"


def test_a_thread_that_fails_is_followed_by_another(bench, monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: raised.append(failed.exc_type))
    done = []

    def chore():
        bench.loop._chore = lambda: None
        raise ZeroDivisionError

    bench.loop._chore = chore
    with pytest.raises(LoopClosed, match="ZeroDivisionError"):
        bench.loop.call(lambda: asyncio.sleep(WAIT_S), WAIT_S)
    until(lambda: raised)
    assert raised == [ZeroDivisionError]
    until(lambda: not loop_threads())
    bench.loop.call(lambda: bench.leave(0.01, done), WAIT_S)
    until(lambda: done)


# ---- the end ----


def test_closing_ends_what_is_left_and_all_threads():
    bench, done = Bench(), []
    bench.loop.call(lambda: bench.leave(60.0, done), WAIT_S)
    loop = bench.loop._loop
    bench.loop.close(bench.last)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("raykv")]
    assert loop.is_closed()
    assert not bench.left
    assert not done
    bench.loop.close(bench.last)
    assert bench.closings == 1
    with pytest.raises(LoopClosed):
        bench.loop.call(bench.where, WAIT_S)
    assert not bench.acquire()


def test_closing_what_was_never_used_takes_nothing():
    bench = Bench()
    bench.loop.close(bench.last)
    assert bench.closings == 0
    with pytest.raises(LoopClosed):
        bench.loop.call(bench.where, WAIT_S)


def test_closing_in_a_thread_with_a_running_loop():
    bench = Bench()

    async def inside():
        bench.loop.call(bench.where, WAIT_S)
        bench.loop.close(bench.last)

    asyncio.run(inside())
    assert bench.loop._loop.is_closed()
    assert bench.closings == 1
    assert not loop_threads()


def test_closing_ends_the_waiters():
    bench, outcomes = Bench(), []

    def one(number):
        with contextlib.suppress(LoopClosed):
            outcomes.append(bench.loop.call(lambda: asyncio.sleep(WAIT_S, "done"), WAIT_S))
            return
        outcomes.append("closed")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(bench.loop._open) == 3)
    bench.loop.close(bench.last)
    for thread in threads:
        thread.join(WAIT_S)
    assert outcomes == ["closed"] * 3
    assert bench.loop._loop.is_closed()


def test_closing_waits_for_the_holder_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(embedded_loop, "CLOSE_TIMEOUT_S", 0.1)
    bench = Bench()
    bench.loop.call(bench.where, WAIT_S)
    until(bench.acquire)
    lease = bench.loop.acquire(sys._getframe())
    assert lease is not None
    bench.loop.close(bench.last)
    assert not bench.closings
    bench.loop.release(lease)
    until(lambda: not loop_threads())
    assert bench.closings == 1
    assert bench.loop._loop.is_closed()


def test_closed_by_a_thread_that_is_interrupted_right_after_it_said_so():
    """All that it says is said by one call of C."""
    bench = Bench()
    bench.loop.call(bench.where, WAIT_S)
    bench.loop._box.put(embedded_loop._Close(bench.last))
    until(lambda: not loop_threads())
    assert bench.closings == 1
    assert bench.loop.closed


def test_what_is_handed_in_at_the_very_end_is_not_begun():
    bench, begun, work = Bench(), [], []

    async def late():
        begun.append(1)
        await asyncio.sleep(WAIT_S)

    async def last():
        bench.loop._over = True
        work.append(bench.loop.submit(late))

    bench.loop.call(lambda: asyncio.sleep(0), WAIT_S)
    bench.loop.close(last)
    assert bench.loop._loop.is_closed()
    assert begun == []
    assert isinstance(work[0].error, LoopClosed)
