"""Rounds of: interrupt a blocking call at a random moment, then see that the next call works and that its answer is right.

The moment is drawn from the time that a call takes, so it lies anywhere in it. Ways to interrupt: ``signal`` (a timer's
signal whose handler raises KeyboardInterrupt, as Ctrl-C does), ``alarm`` (one whose handler raises an error of its own),
``thread`` (``PyThreadState_SetAsyncExc`` in a thread that is not the main one). Beside it, if asked for, other threads call
all the while. At the end there are as many threads and about as many descriptors as in the beginning.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import ray

import raykv

if TYPE_CHECKING:
    from collections.abc import Callable

PAIRS = {f"pair:{number:03}": number for number in range(40)}
WAYS = ("signal", "alarm", "thread")
AGAIN_S = 0.5
POOL = "raykv-ask"
"""The threads of ``raykv.actors.calls`` are named so."""
SLOW_S = 2.5
"""A call of an idle store that takes longer waits for something that will not come."""


class Stopped(Exception):
    """What the handler of the alarm raises."""


class Calls:
    """The calls to be interrupted; each checks its answer."""

    def __init__(self, store: raykv.Store) -> None:
        self.store = store
        self.lww = store.bucket("lww", versioning="lww")
        self.merging = store.bucket("default", resolver=lambda values: values[0])
        """The same keys: a write whose call was interrupted may come to stand beside the next one."""
        self.turn = itertools.count(1)
        self.last: Any = None
        self.all: dict[str, Callable[[], object]] = {
            "get": self.get,
            "put": self.put,
            "modify": self.modify,
            "get_many": self.get_many,
            "put_many": self.put_many,
            "scan": self.scan,
            "status": self.status,
            "anew": self.anew,
        }
        self.store.put_many(PAIRS)
        self.lww.put("own", 0)
        self.store.put("own", 0)
        self.store.put("sum", [])

    def get(self) -> None:
        """Read one key."""
        assert self.store.get("pair:007") == 7, "another's answer"

    def put(self) -> None:
        """Write one key, and read it."""
        value = next(self.turn)
        for bucket in (self.store, self.lww):
            bucket.put("own", value)
            found = bucket.get("own")
            assert found == value, f"{found} where {value} was written"

    def modify(self) -> None:
        """Append to a list: what was acknowledged stays."""
        value = next(self.turn)
        self.merging.modify("sum", lambda held: [*held[-20:], value], [])
        found = self.store["sum"]
        assert found[-1] == value, f"{found[-1]} where {value} was written"

    def get_many(self) -> None:
        """Read many keys."""
        assert self.store.get_many(PAIRS) == PAIRS, "another's answers"

    def put_many(self) -> None:
        """Write many keys."""
        value = next(self.turn)
        self.lww.put_many(dict.fromkeys(PAIRS, value))
        assert self.lww.get("pair:039") == value

    def scan(self) -> None:
        """Read all in order."""
        assert dict(self.store.scan(prefix="pair:")) == PAIRS, "another's page"

    def status(self) -> None:
        """Ask the supervisor."""
        assert len(self.store.status()["nodes"]) == 3

    def anew(self) -> None:
        """Connect once more."""
        with raykv.connect(self.store.store_name) as another:
            assert another.get("pair:003") == 3


def interrupted(work: Callable[[], object], way: str, delay_s: float) -> bool:
    """Do ``work`` again and again, until it is interrupted."""
    if way == "thread":
        return _interrupted_in_a_thread(work, delay_s)
    kind = KeyboardInterrupt if way == "signal" else Stopped
    try:
        # Again, in case it strikes in a callback of the interpreter, which loses what it raises there.
        signal.setitimer(signal.ITIMER_REAL, delay_s, AGAIN_S)
        while True:
            work()
    except kind:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _interrupted_in_a_thread(work: Callable[[], object], delay_s: float) -> bool:
    failed: list[BaseException] = []
    begun = threading.Event()

    def call() -> None:
        begun.set()
        try:
            while True:
                work()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - reported below
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    begun.wait()
    time.sleep(delay_s)
    while thread.is_alive():  # it may have been delivered where nothing of ours was being done
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stopped))
        thread.join(0.5)
    if failed:
        raise failed[0]
    return True


def _raise_stopped(*_: object) -> None:
    raise Stopped


class Others:
    """Threads that call all the while."""

    def __init__(self, store: raykv.Store, count: int) -> None:
        self.over = threading.Event()
        self.failed: list[BaseException] = []
        self.threads = [threading.Thread(target=self._call, args=(store, number)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def _call(self, store: raykv.Store, number: int) -> None:
        turn = 0
        try:
            while not self.over.is_set():
                turn += 1
                store.put(f"other:{number}", turn)
                assert store.get(f"other:{number}") == turn
                time.sleep(0.001)
        except BaseException as error:  # noqa: BLE001 - reported below
            self.failed.append(error)

    def end(self) -> None:
        """Stop them. Raises what one of them raised."""
        self.over.set()
        for thread in self.threads:
            thread.join()
        if self.failed:
            raise self.failed[0]


def threads_beside_the_pool() -> int:
    """Count the threads, but for the pool of those that wait for Ray: it has a bound, and grows to it on a busy machine."""
    return sum(not thread.name.startswith(POOL) for thread in threading.enumerate())


def rounds(
    store: raykv.Store, name: str, count: int, *, way: str = "signal", threads: int = 0, seed: int = 1
) -> dict[str, Any]:
    """Interrupt one call ``count`` times. Returns figures. Raises ``AssertionError``, or what the next call raised."""
    calls, luck = Calls(store), random.Random(seed)
    work = calls.all[name]
    before_s = time.perf_counter()
    for _ in range(10):
        work()
    usual_s = (time.perf_counter() - before_s) / 10
    signal.signal(signal.SIGALRM, _raise_stopped if way == "alarm" else signal.default_int_handler)
    others = Others(store, threads)
    slowest_s = 0.0
    had = (len(os.listdir("/proc/self/fd")), threads_beside_the_pool())
    try:
        for _ in range(count):
            interrupted(work, way, 2e-5 + luck.random() * 2 * usual_s)
            began_s = time.perf_counter()
            calls.get()
            slowest_s = max(slowest_s, time.perf_counter() - began_s)
        work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # it may be due still, and would end the process before it says why
        others.end()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    time.sleep(0.1)
    has = (len(os.listdir("/proc/self/fd")), threads_beside_the_pool() + threads)
    assert slowest_s < SLOW_S, f"{slowest_s:.2f} s for the call after an interrupted one"
    assert has[0] <= had[0] + 12, f"descriptors: {had[0]} before, {has[0]} after"
    assert has[1] <= had[1] + 8, f"threads: {had[1]} before, {has[1]} after"
    return {
        "call": name,
        "way": way,
        "rounds": count,
        "usual_us": round(usual_s * 1e6),
        "next_slowest_ms": round(slowest_s * 1e3),
    }


def main() -> int:
    """Run all that is asked for; print a line of JSON for each call."""
    parser = argparse.ArgumentParser(prog="scripts/interrupts", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5000, help="for each call (default 5000)")
    parser.add_argument("--calls", default="get,put,modify,get_many,put_many,scan,status", help="which; also: anew")
    parser.add_argument(
        "--way", default="signal", metavar="WAY,..", help=f"how to interrupt: {', '.join(WAYS)} (default signal)"
    )
    parser.add_argument("--threads", type=int, default=0, help="others that call meanwhile")
    parser.add_argument("--switch-us", type=float, help="how long Python lets a thread run at a time")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if unknown := {*options.way.split(",")} - {*WAYS}:
        parser.error(f"there is no way {', '.join(sorted(unknown))}: {', '.join(WAYS)}")
    if options.switch_us:
        sys.setswitchinterval(options.switch_us / 1e6)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory(prefix="raykv-interrupts-") as path:
        store = raykv.start("interrupts", path=os.path.join(path, "store"))
        try:
            for way, name in itertools.product(options.way.split(","), options.calls.split(",")):
                found = rounds(store, name, options.rounds, way=way, threads=options.threads, seed=options.seed)
                print(json.dumps(found), flush=True)
        finally:
            raykv.shutdown("interrupts")
            ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
