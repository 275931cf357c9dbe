"""Event loops that come and go: whatever becomes of them, nothing of ours stays, and nothing is said.

A process for each kind of loop plays all ways in which one ends. Its stderr must be empty with all of Python's warnings
switched on, but for those of sockets that are collected: where a loop is closed in the middle of a connection only they are
left to close it.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

BEFORE = """
import asyncio, contextlib, gc, os, sys, threading, time, warnings
sys.path.insert(0, {here!r})
import real_nodes, uvloop
long = {long}
def turns(at_full_length):
    return range(at_full_length if long else max(2, at_full_length // 12))
from raykv.coordinator import routing
routing.STALE_S = 1e6
make = {make}

def has():
    return len(os.listdir("/proc/self/fd")), threading.active_count()

def check(client, had):
    until_s = time.monotonic() + 10
    while has() > had and time.monotonic() < until_s:
        time.sleep(0.01)
        gc.collect()  # for those that were not connected yet
    now = has()
    assert now[0] <= had[0] and now[1] <= had[1], (had, now)
    gc.collect()
    assert not [seat for seat in client.link._embedded.values() if seat() is not None]
    assert client.get("key3") == 3
    loop = make()
    assert loop.run_until_complete(client.aget("key4")) == 4
    loop.close()

with real_nodes.opened() as client:
    def one(number=0):
        loop = make()
        assert loop.run_until_complete(client.aget("key3")) == 3
        return loop
    client.get("key1")
    one().close()
    had = has()
"""

ENDS = {
    "closed": """
for _ in turns(600):
    one().close()
""",
    "finished and closed": """
for _ in turns(100):
    loop = one()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
""",
    "asyncio.run": """
for turn in turns(100):
    async def go():
        await asyncio.gather(*(client.aput(f"own{number}", turn) for number in range(10)))
        return await client.aget("own3")
    with asyncio.Runner(loop_factory=make) as runner:
        assert runner.run(go()) == turn
""",
    "with calls under way": """
async def some():
    calls = [asyncio.ensure_future(client.aget("key3")) for _ in range(5)]
    calls += [asyncio.ensure_future(client.aput("own", 1)), asyncio.ensure_future(client.aget_many(["key1", "key2"]))]
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*calls), number % 20 / 5000)
    with contextlib.suppress(asyncio.CancelledError):
        await calls[0]
for number in turns(200):
    loop = make()
    loop.run_until_complete(some())
    loop.close()
""",
    "with nodes that do not answer": """
for node in client.nodes.values():
    node.silent_s = 0.3
for number in turns(20):
    loop = make()
    with contextlib.suppress(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(client.aget("key3"), 0.02 * (number % 3)))
    loop.close()
for node in client.nodes.values():
    node.silent_s = 0
""",
    "before the first connection stands": """
for _ in turns(2000):
    loop = make()
    with contextlib.suppress(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(client.aget("key3"), 0.0001))
    loop.close()
""",
    "after any number of turns": """
def forgotten(call):
    task = loop.create_task(call)
    task._log_destroy_pending = False  # it is the user's own
for number in range(1, 60 if long else 24):
    for call in (lambda: client.aget("key3"), lambda: client.aput("own", 1), lambda: client.aget_many(["key1", "key2"])):
        loop = make()
        async def one_call():
            await call()
        if number % 2:
            loop.run_until_complete(client.aget("key2"))  # connections stand
        forgotten(one_call())
        for _ in range(number):
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.close()
        del loop
    gc.collect()
""",
    "in threads": """
def some():
    for _ in turns(20):
        one().close()
threads = [threading.Thread(target=some) for _ in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
""",
}


def said_by(ends: dict[str, str], make: str, *, long: bool) -> str:
    """Play these ways one after the other; return what was said on stderr. Fails where one leaves something behind."""
    program = BEFORE.format(here=str(Path(__file__).parent.parent / "support"), make=make, long=long)
    for name, body in ends.items():
        program += textwrap.indent(f"{body}\ncheck(client, had)\nprint({name!r}, flush=True)\n", "    ")
    words = [sys.executable, "-W", "default", "-W", "ignore::ResourceWarning", "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200 if long else 300, check=False)
    assert done.stdout.splitlines() == [*ends], done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize("make", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_a_loop_that_ends_leaves_nothing(make, long):
    assert said_by(ENDS, make, long=long) == ""


def test_a_loop_that_is_forgotten_leaves_nothing(long):
    body = """
for _ in turns(100):
    loop = one()
    del loop
gc.collect()
"""
    assert said_by({"forgotten": body}, "asyncio.new_event_loop", long=long) == ""
