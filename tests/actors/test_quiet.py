"""A user's program keeps its output and handlers: nothing of ours on its stderr, none of its handlers touched.

Programs of their own, with Ray as they would start it: what its workers print it prints in theirs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.ray

BEGIN = """
import asyncio, gc, logging, os, signal, sys, tempfile, threading, time, contextlib
import ray
ray.init(address="local", num_cpus=4, include_dashboard=False)

class Mine(logging.Handler):
    def emit(self, record):
        assert not record.name.startswith(("asyncio", "concurrent")), record.getMessage()

logging.getLogger().addHandler(Mine())
logging.getLogger("mine").setLevel(logging.DEBUG)

def held():
    loggers = {name: (each.level, each.propagate, list(each.handlers)) for name, each in
               logging.root.manager.loggerDict.items()
               if isinstance(each, logging.Logger) and not name.startswith(("raykv", "ray"))}
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return ([signal.getsignal(each) for each in signal.valid_signals()], wakeup, sys.excepthook, threading.excepthook,
            sys.unraisablehook, type(asyncio.get_event_loop_policy()), logging.root.level, list(logging.root.handlers),
            loggers, sys.getswitchinterval(), gc.get_threshold(), gc.isenabled(), logging.lastResort)

had = held()
import raykv
store = raykv.start("quiet", path=tempfile.mkdtemp() + "/store")
"""

PROGRAMS = {
    "nodes and supervisor are killed under load": """
def load():
    while not over.is_set():
        with contextlib.suppress(raykv.RaykvError):
            store.put("a", 1, timeout=1)
            store.get("a", timeout=1)
over = threading.Event()
threads = [threading.Thread(target=load) for _ in range(3)]
for thread in threads:
    thread.start()
async def many():
    await asyncio.gather(*(store.aio.get(f"key{n}", timeout=1) for n in range(50)), return_exceptions=True)
for turn in range(3):
    pids = sorted(node["pid"] for node in store.status(timeout=30)["nodes"] if node.get("pid"))
    os.kill(pids[turn % len(pids)], signal.SIGKILL)
    asyncio.run(many())
    time.sleep(1)
from raykv.actors.naming import SUPERVISOR, find_actor
os.kill(ray.get(find_actor("quiet", SUPERVISOR).pid.remote()), signal.SIGKILL)
asyncio.run(many())
until_s = time.monotonic() + 60
while time.monotonic() < until_s:
    with contextlib.suppress(raykv.RaykvError):
        if all(node["state"] == "up" for node in store.status()["nodes"]):
            break
    time.sleep(0.5)
over.set()
for thread in threads:
    thread.join()
assert held() == had, "touched"
store.close()
print("done")
""",
    "it ends in the middle of calls": """
def load():
    while True:
        store.put("a", 1)
        store.get("a")
for _ in range(3):
    threading.Thread(target=load, daemon=True).start()
async def some():
    async for _ in store.aio.scan():
        break
    await asyncio.wait([asyncio.ensure_future(store.aio.put(f"k{n}", n)) for n in range(20)], timeout=0.001)
loop = asyncio.new_event_loop()
loop.run_until_complete(store.aio.put("b", 1))
asyncio.run(some())
time.sleep(0.3)
assert held() == had, "touched"
print("done")
""",
    "it forks, and is stopped and started": """
import multiprocessing
store.put("a", 1)
pid = os.fork()
if pid == 0:
    os._exit(0 if store.get("a") == 1 else 1)
assert os.waitpid(pid, 0)[1] == 0
def read(key):
    return store.get(key)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(read, ["a"] * 4).get(30) == [1] * 4
raykv.shutdown("quiet")
with contextlib.suppress(raykv.RaykvError):
    store.get("a", timeout=1)
assert held() == had, "touched"
print("done")
""",
}
RAYS = re.compile(r"^(\x1b\[\d+m)?(\(raylet|\(autoscaler|\d{4}-\d\d-\d\d .*(INFO|WARNING) \w+\.py:|\[\d{4}-|$)")


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_of_ours_is_printed(program):
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(PROGRAMS[program])],
        capture_output=True, text=True, timeout=200, check=False, env=os.environ | {"RAY_DEDUP_LOGS": "0"},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "done\n" in said, said
    ours = (
        "raykv",
        "Actor pid=",
        "Traceback",
        "Unhandled",
        "never awaited",
        "was destroyed",
        "never retrieved",
        "Exception ignored",
    )
    lines = [line for line in said.splitlines() if any(word in line for word in ours) and not RAYS.match(line)]
    assert lines == [], said
