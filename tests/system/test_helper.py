"""A real helper process: its messages, its end, and the lock that it holds with its node."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raykv.config import NodeConfig
from raykv.ports import HelperLost
from raykv.storage import Engine
from raykv.system.files import OsFileSystem
from raykv.system.helper import HelperProcess, read_message, write_message

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS = "raykv.actors.job_process"
CONFIG = NodeConfig(memtable_bytes=1 << 16, max_unflushed_bytes=1 << 20, runs_per_level=3, table_bytes=1 << 16)


def newest(stored: bytes | None, incoming: bytes) -> bytes:
    del stored
    return incoming


def work(engine: Engine) -> None:
    sync = engine.next_sync()
    if sync is not None:
        sync.run()
        engine.finish_sync(sync)
    while (job := engine.next_job()) is not None:
        job.run()
        engine.finish(job)


def wait_until_gone(pid: int) -> None:
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if (
            Path(f"/proc/{pid}/stat").exists()
            and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        ):
            return
        time.sleep(0.02)
    pytest.fail("it still runs")


def test_flushes_and_compactions_run_in_it_and_it_may_die(tmp_path: Path) -> None:
    helper = HelperProcess(JOBS)
    engine = Engine.open(OsFileSystem(), str(tmp_path), CONFIG, newest)
    engine.use_helper(helper, worth_bytes=0)
    rng = random.Random(1)
    model = {}
    assert helper.pid is None, "it is started when it is needed"
    for step in range(4000):
        if step == 3000:
            assert helper.pid is not None
            os.kill(helper.pid, signal.SIGKILL)
        key = b"%05d" % rng.randrange(1000)
        model[key] = engine.replace(key, b"%08d" % step + rng.randbytes(200)).record
        if step % 100 == 0:
            work(engine)
    work(engine)
    assert {key: found.record for key, found in engine.scan(b"", None)} == model
    assert engine.stats().compactions > 3
    engine.close()
    helper.close()
    assert len(list(tmp_path.glob("*.sst"))) == engine.stats().tables
    with pytest.raises(HelperLost):
        helper.call(b"")


def test_it_ends_over_a_message_that_makes_no_sense() -> None:
    helper = HelperProcess(JOBS)
    with pytest.raises(HelperLost):
        helper.call(b"\xc1")
    assert helper.pid is None
    helper.close()


OWNER = """
import sys, os
from raykv.system.files import OsFileSystem
from raykv.system.helper import HelperProcess
lock = OsFileSystem().lock(sys.argv[1])
helper = HelperProcess("tests_sleeper")
print(helper.call(b"hello").decode(), flush=True)
sys.stdin.read()
"""
SLEEPER = """
import os
from raykv.system.helper import serve

def handle(message):
    return str(os.getpid()).encode()

serve(handle)
"""


OUTLIVES = SLEEPER.replace(
    "serve(handle)", "from raykv.system import helper\nhelper._die_with_parent = int\nserve(handle)"
)


@pytest.mark.parametrize("outlives", [False, True])
def test_the_lock_is_held_until_the_helper_of_a_killed_process_is_gone(tmp_path: Path, outlives: bool) -> None:
    """``outlives``: where no kernel ends it with its process. It stands still meanwhile, in the midst of something."""
    (tmp_path / "tests_sleeper.py").write_text(OUTLIVES if outlives else SLEEPER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "lock")],
        cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    os.kill(pid, signal.SIGSTOP)
    owner.kill()
    owner.wait()
    if outlives:
        with pytest.raises(BlockingIOError):
            OsFileSystem().lock(str(tmp_path / "lock"))
        os.kill(pid, signal.SIGCONT)
    wait_until_gone(pid)
    OsFileSystem().lock(str(tmp_path / "lock")).release()


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HelperProcess, int]]:
    """A helper that stands still, and its process id."""
    (tmp_path / "tests_sleeper.py").write_text(SLEEPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = HelperProcess("tests_sleeper")
    pid = int(helper.call(b"hello"))
    os.kill(pid, signal.SIGSTOP)
    yield helper, pid
    helper.close()


@pytest.mark.parametrize("message", [b"", bytes(1 << 20)])  # which no pipe takes
def test_one_that_stands_still_is_given_up(sleeper: tuple[HelperProcess, int], message: bytes) -> None:
    """Else flushes wait for it for ever, and the node refuses all writes while everybody takes it for healthy."""
    helper, pid = sleeper
    helper.answer_s = 0.1
    with pytest.raises(HelperLost, match="does not answer"):
        helper.call(message)
    wait_until_gone(pid)


def test_it_ends_also_while_it_is_asked_for_something(sleeper: tuple[HelperProcess, int]) -> None:
    helper, pid = sleeper
    heard: list[Exception] = []

    def ask() -> None:
        try:
            helper.call(b"more")
        except HelperLost as lost:
            heard.append(lost)

    asking = threading.Thread(target=ask)
    asking.start()
    until_s = time.monotonic() + 30
    while not helper._turn.locked() and time.monotonic() < until_s:
        time.sleep(0.001)
    helper.close()
    asking.join(30)
    assert len(heard) == 1
    wait_until_gone(pid)


def test_messages_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    with path.open("wb") as target:
        write_message(target, b"one")
        write_message(target, b"")
        target.write(b"\xff\xff\xff\xff")
    with path.open("rb") as source:
        assert [read_message(source), read_message(source)] == [b"one", b""]
        with pytest.raises(ValueError, match="4294967295"):
            read_message(source)
        with pytest.raises(EOFError):
            read_message(source)
