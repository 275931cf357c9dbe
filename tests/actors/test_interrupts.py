"""Blocking calls that are interrupted anywhere: at every line, and at instructions, of what runs in the caller's thread.

A trace function raises at the first place that is passed, at the second, and so on, until a call gets through. After each
the next call must work, and all must still be there. Real sockets and loops, nodes that are a function; no Ray.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import raykv
from raykv.coordinator import fast_path, routing

HOME = str(Path(raykv.__file__).parent) + os.sep
PLACES = os.environ.get("RAYKV_TEST_INTERRUPTS")
"""``"3,41"``: every third line and every 41st instruction. All of them take some minutes."""
WAIT_S = 10.0


class Interrupt(BaseException):
    """Raised by a signal's handler."""


@pytest.fixture
def client(monkeypatch, real_nodes):
    monkeypatch.setattr(routing, "STALE_S", 1e6)  # there is no supervisor to ask
    monkeypatch.setattr(fast_path, "WRITE_PATIENCE_S", WAIT_S)  # traced it takes its time
    with real_nodes.opened() as made:
        yield made


class InterruptAt:
    """Raises at the n-th line, or instruction, of raykv's that this thread passes."""

    def __init__(self, number, event):
        self.left = number
        self.event = event
        self.where = None

    def __enter__(self):
        sys.settrace(self._trace)
        return self

    def __exit__(self, kind, *_):
        sys.settrace(None)
        return kind is Interrupt

    def _trace(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        frame.f_trace_opcodes = self.event == "opcode"
        if event == self.event:
            self.left -= 1
            if self.left == 0:
                self.where = f"{frame.f_code.co_filename.removeprefix(HOME)}:{frame.f_lineno}"
                raise Interrupt
        return self._trace


CALLS = {
    "get": lambda client, turn: client.get("key3") == 3,
    "put": lambda client, turn: client.put("own", turn).acks,
    "get_many": lambda client, turn: (
        client.get_many([f"key{n}" for n in range(30)]) == {f"key{n}": n for n in range(30)}
    ),
    "put_many": lambda client, turn: client.put_many({f"many{number}": turn for number in range(3)}),
}


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # interrupted before it has a name
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("event", ["line", "opcode"])
def test_interrupted_anywhere_the_next_call_works(client, call, event, long):
    lines_every, instructions_every = (int(each) for each in (PLACES or ("3,41" if long else "7,97")).split(","))
    every = lines_every if event == "line" else instructions_every
    work, number, interrupted = CALLS[call], 1, 0
    while True:
        deadline_s = time.monotonic() + WAIT_S
        while not client.is_on_the_fast_path:  # as most calls are
            assert client.get("key1") == 1
            assert time.monotonic() < deadline_s
        with InterruptAt(number, event) as trace:
            work(client, number)
        if trace.where is None:
            break
        interrupted += 1
        began_s = time.monotonic()
        assert work(client, -number), trace.where
        assert client.get("key2") == 2, trace.where
        assert time.monotonic() - began_s < WAIT_S / 2, f"a time-out ran out after {trace.where}"
        if call == "put":
            assert client.get("own") == -number, trace.where
        number += every
    assert interrupted > 20, "it passes that many places at the least"
    threads = [thread for thread in threading.enumerate() if thread.name == "raykv-loop"]
    assert len(threads) <= 2, (
        "one, and one for a call that interrupts another; other tests may have left threads of theirs"
    )
    assert len(client.link._connections._connections) <= 3


def test_a_call_out_of_the_handler_of_a_signal_that_interrupts_one(client):
    """Also one that ends well: what it has interrupted goes on, and neither hears the other's answers."""
    found = []

    def call(*_):
        found.append(client.get("key5"))
        client.put("from the handler", len(found))

    before = signal.signal(signal.SIGALRM, call)
    try:
        for turn in range(500):
            signal.setitimer(signal.ITIMER_REAL, 0.0001 * (turn % 20 + 1))  # once a turn, however slow the machine is
            assert client.get("key3") == 3
            client.put("own", turn)
            assert client.get("own") == turn
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert {*found} == {5}
    assert client.get("from the handler") == len(found)


def test_a_finalizer_that_calls(client):
    class Last:
        def __del__(self):
            found.append(client.get("key5"))

    found = []
    for number in range(200):
        with InterruptAt(7 * number + 1, "line") as trace:  # (a place that is passed: there something ends)
            trace._trace = _ends(Last, trace)
            sys.settrace(trace._trace)
            assert client.get("key3") == 3
    assert len(found) > 20
    assert {*found} == {5}


def _ends(kind, trace):
    def passes(frame, event, _):
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line":
            trace.left -= 1
            if trace.left == 0:
                sys.settrace(None)
                kind()
                sys.settrace(passes)
        return passes

    return passes
