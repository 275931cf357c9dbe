"""add and lock, and the conditions of put and delete, against a simulated store; and a lock on a real one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import raykv
import raykv.sim
from raykv.cli import lock_commands, reading, store_commands
from raykv.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYTHON = [sys.executable, "-c"]
RAYKV = [*PYTHON, "from raykv.cli.main import main; main()"]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with raykv.sim.start(seed=5) as world:
        link = world._cluster.link(world._client())
        for module in (reading, store_commands):
            monkeypatch.setattr(module, "link_to", lambda _: link)
        monkeypatch.setattr(reading, "link_by_ray", lambda _: link)
        yield world


@pytest.fixture
def jobs(world: Any) -> Any:
    return world.store.bucket("jobs", versioning="linearizable")


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args))
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == (1 if code else 0), result.stderr
    return result


# ---- add ----


def test_add_is_the_counter_of_that_name(world: Any) -> None:
    assert run("add", "hits").stdout == "1\n"
    assert run("add", "hits", "5").stdout == "6\n"
    assert run("add", "hits", "--", "-2").stdout == "4\n"
    assert json.loads(run("add", "hits", "--json").stdout) == {"key": "hits", "value": 5}
    assert world.store.counter("hits").value() == 5
    assert run("get", "hits", "--bucket", "raykv.counters").stdout == "5\n"


def test_add_in_a_bucket_of_one_s_own(world: Any) -> None:
    assert run("add", "pears", "3", "--bucket", "shop").stdout == "3\n"
    assert world.store.bucket("shop").config.versioning == "linearizable"
    world.store.bucket("shop").put("apples", "none")
    assert "'apples' is no 64-bit integer" in run("add", "apples", "--bucket", "shop", code=2).stderr
    assert "default" in run("add", "pears", "--bucket", "default", code=2).stderr
    assert world.store.get("pears") is None


# ---- conditions ----


def test_put_if_absent(jobs: Any) -> None:
    on = ["--bucket", "jobs"]
    first = run("put", "job:1", "mine", "--if-absent", *on).stdout
    assert first == f"written, version {bytes(jobs.get_versioned('job:1').version).hex()}\n"
    assert "nothing was written: 'job:1' has a value\n" in run("put", "job:1", "b", "--if-absent", *on, code=1).stderr
    assert jobs.get("job:1") == "mine"


def test_put_and_delete_if_a_version_stands(jobs: Any) -> None:
    on = ["--bucket", "jobs"]
    written = json.loads(run("put", "job:1", "new", "--json", *on).stdout)
    version = run("get", "job:1", "--version", *on).stdout.strip()
    assert version == written["version"]
    assert json.loads(run("get", "job:1", "--json", *on).stdout) == {
        "key": "job:1", "found": True, "value": "new", "version": version,
    }  # fmt: skip
    run("put", "job:1", "next", "--if-version", version, *on)
    run("put", "job:1", "late", "--if-version", version, *on, code=1)
    run("delete", "job:1", "--if-version", version, *on, code=1)
    assert jobs.get("job:1") == "next"
    deleted = run("delete", "job:1", "--if-version", run("get", "job:1", "--version", *on).stdout.strip(), *on)
    assert deleted.stdout.startswith("deleted, version ")
    run("get", "job:1", "--version", *on, code=1)
    gone = json.loads(run("get", "job:1", "--json", *on, code=1).stdout)
    assert gone["found"] is False


def test_put_with_a_fence(jobs: Any) -> None:
    on = ["--bucket", "jobs"]
    run("put", "file", "second", "--fence", "2", *on)
    assert "later fencing token" in run("put", "file", "first", "--fence", "1", *on, code=1).stderr
    run("delete", "file", "--fence", "1", *on, code=1)
    assert jobs.get("file") == "second"


def test_a_bucket_is_made_for_a_condition_only_if_it_can_hold_to_it(world: Any) -> None:
    assert "has no bucket 'new'" in run("put", "k", "v", "--if-absent", "--bucket", "new", code=1).stderr
    assert world.store.buckets() == ["default"]
    run("put", "k", "v", "--if-absent", "--bucket", "new", "--versioning", "linearizable")
    assert world.store.bucket("new").get("k") == "v"
    run("put", "k", "v", "--bucket", "new", "--versioning", "lww", code=2)
    assert "linearizable" in run("buckets").stdout


def test_a_bucket_is_made_with_a_group_and_keeps_it(world: Any) -> None:
    run("put", "user:1/a", "v", "--bucket", "orders", "--group", "/")
    assert world.store.bucket("orders", group="/").get("user:1/a") == "v"
    run("put", "user:1/b", "w", "--bucket", "orders")
    assert "exists with other settings: group is '/', asked ':'" in (
        run("put", "k", "v", "--bucket", "orders", "--group", ":", code=2).stderr
    )
    run("put", "k", "v", "--bucket", "new", "--group", "", code=2)
    assert run("scan", "--prefix", "user:1/", "--bucket", "orders").stdout.count("user:1/") == 2
    heads, *_, last = [line.split() for line in run("buckets").stdout.splitlines()]
    assert last[heads.index("group")] == "/"


@pytest.mark.parametrize(
    "args",
    [
        ["put", "k", "v", "--if-absent"],
        ["put", "k", "v", "--if-version", "00" * 24],
        ["put", "k", "v", "--fence", "1"],
        ["delete", "k", "--fence", "1"],
        ["get", "k", "--version"],
    ],
)
@pytest.mark.usefixtures("world")
def test_other_buckets_say_what_is_needed(args: list[str]) -> None:
    assert "needs a linearizable bucket, and 'default' is vector" in run(*args, code=2).stderr


@pytest.mark.parametrize(
    "args",
    [
        ["add"],
        ["add", "k", "some"],
        ["add", "k", "1.5"],
        ["add", "k", str(1 << 63)],
        ["put", "k", "v", "--if-version", "xyz"],
        ["put", "k", "v", "--if-version", "00"],
        ["put", "k", "v", "--if-absent", "--if-version", "00" * 24],
        ["put", "k", "v", "--fence", "0"],
        ["put", "k", "v", "--w", "2", "--bucket", "jobs"],
        ["put", "k", "v", "--ttl", "2", "--bucket", "jobs"],
        ["get", "k", "--r", "2", "--bucket", "jobs"],
        ["get", "k", "--version", "--versions"],
        ["lock"],
        ["lock", "leader"],
        ["lock", "leader", "--lease", "0", "--", "true"],
        ["lock", "leader", "--timeout", "-1", "--", "true"],
        ["lock", "", "--", "true"],
        ["lock", "leader", "--store", "../x", "--", "true"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("jobs")
def test_wrong_usage(args: list[str]) -> None:
    run(*args, code=2)


def test_buckets_shows_the_kind(jobs: Any) -> None:
    lines = run("buckets").stdout.splitlines()
    assert lines[0].split() == ["bucket", "n", "r", "w", "versioning", "quorum", "codec"]
    assert lines[-1].split() == ["jobs", "3", "2", "2", "linearizable", "strict", "auto"]
    assert json.loads(run("buckets", "--json").stdout)[-1]["versioning"] == jobs.config.versioning


# ---- lock ----


def test_a_command_runs_while_the_lock_is_held(world: Any, tmp_path: Any) -> None:
    said = tmp_path / "said"
    code = f"import os; open({str(said)!r}, 'w').write(os.environ['RAYKV_FENCE'])"
    run("lock", "leader", "--", *PYTHON, code)
    assert said.read_text() == "1"
    result = json.loads(run("lock", "leader", "--json", "--lease", "5", "--", *PYTHON, code).stdout)
    assert result == {"name": "leader", "token": 2, "lost": False, "exit_code": 0}
    assert said.read_text() == "2"
    with world.store.lock("leader", timeout=0) as free:
        assert free.token == 3


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ([*PYTHON, "import sys; sys.exit(7)"], 7),
        ([*PYTHON, "import os; os.kill(os.getpid(), 9)"], 128 + 9),
    ],
)
def test_the_exit_code_is_the_command_s(world: Any, command: list[str], code: int) -> None:
    assert CliRunner().invoke(cli, ["lock", "leader", "--", *command]).exit_code == code
    world.store.lock("leader", timeout=0).acquire()


def test_a_command_that_is_not_there_or_no_program(world: Any, tmp_path: Any) -> None:
    assert "there is no command '/no/such'" in run("lock", "leader", "--", "/no/such", code=127).stderr
    (tmp_path / "text").write_text("text")
    assert "cannot be run" in run("lock", "leader", "--", str(tmp_path / "text"), code=126).stderr
    world.store.lock("leader", timeout=0).acquire()


def test_a_lock_of_another_is_waited_for_and_named(world: Any, tmp_path: Any) -> None:
    ran = tmp_path / "ran"
    with world.store.lock("leader"):
        refused = run("lock", "leader", "--timeout", "0", "--", *PYTHON, f"open({str(ran)!r}, 'w')", code=1).stderr
    assert "lock 'leader' was not acquired within 0 s" in refused
    assert "fencing token 1" in refused
    assert not ran.exists()


def test_a_command_whose_lock_is_lost_is_ended(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_commands.Lock, "lost", property(lambda _: True))
    began_s = time.monotonic()
    result = CliRunner().invoke(cli, ["lock", "leader", "--json", "--", *PYTHON, "import time; time.sleep(600)"])
    assert result.exit_code == 1
    assert result.stderr.startswith("raykv: lock 'leader' was lost, and '")
    assert json.loads(result.stdout)["lost"] is True
    assert time.monotonic() - began_s < 300


def test_a_command_that_does_not_want_to_end_is_killed(
    world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    deaf = tmp_path / "deaf"
    code = (
        f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(deaf)!r}, 'w'); time.sleep(600)"
    )
    monkeypatch.setattr(lock_commands, "END_S", 0.05)
    monkeypatch.setattr(lock_commands.Lock, "lost", property(lambda self: not self.token or deaf.exists()))
    assert CliRunner().invoke(cli, ["lock", "leader", "--", *PYTHON, code]).exit_code == 1


@pytest.mark.parametrize(
    ("sent", "code"),
    [([signal.SIGTERM] * 2, 143), ([signal.SIGTERM, signal.SIGHUP], 143), ([signal.SIGINT] * 3, 130)],
)
def test_the_lock_is_free_once_the_command_has_ended_whatever_signals_come(
    world: Any,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    sent: list[signal.Signals],
    code: int,
) -> None:
    """It wants to end by none of them, so it is killed, well before its patience is over."""
    deaf, freed = tmp_path / "deaf", []
    program = "import os, signal, time; [signal.signal(number, signal.SIG_IGN) for number in (1, 2, 15)]; "
    program += (
        f"open({str(deaf) + '~'!r}, 'w').write(str(os.getpid())); os.rename({str(deaf) + '~'!r}, {str(deaf)!r}); "
    )
    program += "time.sleep(600)"
    monkeypatch.setattr(lock_commands, "END_S", 300.0)
    for number in (signal.SIGTERM, signal.SIGHUP):  # also under nohup, where the command would ignore it, as it should
        former = signal.signal(number, signal.SIG_DFL)
        request.addfinalizer(partial(signal.signal, number, former))
    release = lock_commands.Lock.release

    def is_there() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(deaf.read_text()), 0)
            return True
        return False

    def released(self: Any) -> Any:
        freed.append(is_there())
        return release(self)

    monkeypatch.setattr(lock_commands.Lock, "release", released)

    def send() -> None:
        until_s = time.monotonic() + 200
        while not deaf.exists() and time.monotonic() < until_s:
            time.sleep(0.02)
        for number in sent:
            os.kill(os.getpid(), number)
            time.sleep(5 * lock_commands.LOOK_S)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        result = CliRunner().invoke(cli, ["lock", "leader", "--", *PYTHON, program])
    finally:
        sender.join()
    assert result.exit_code == code
    assert freed[:1] == [False]


def begun(name: str, lease: float, tmp_path: Path) -> subprocess.Popen[bytes]:
    """Return a command that waits for ever while it holds a lock, in a process group of its own."""
    import ray

    up = tmp_path / "up"
    wait = f"import time; open({str(up)!r}, 'w').close(); time.sleep(600)"
    process = subprocess.Popen(
        [*RAYKV, "lock", name, "--store", "shared", "--lease", str(lease), "--", *PYTHON, wait],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}, stderr=subprocess.PIPE,
        process_group=0,
    )  # fmt: skip
    until_s = time.monotonic() + 300
    while not up.exists():
        if time.monotonic() > until_s:
            process.kill()
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.ray
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + 15)])
def test_a_signal_ends_the_command_and_frees_the_lock(
    shared_store: raykv.Store, sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    name = f"signal {sent}"
    process = begun(name, 600, tmp_path)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as the terminal does
    else:
        process.send_signal(sent)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert b"raykv/cli" not in stderr, "no traceback of its own"
    with shared_store.lock(name, timeout=5) as held:
        assert held.token == 2, "free long before its lease ends"


@pytest.mark.ray
def test_a_holder_that_was_frozen_for_its_lease_ends_its_command(shared_store: raykv.Store, tmp_path: Path) -> None:
    process = begun("frozen", 2, tmp_path)
    process.send_signal(signal.SIGSTOP)
    with shared_store.lock("frozen", timeout=60) as held:
        assert held.token == 2
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 1, stderr
        assert b"raykv: lock 'frozen' was lost, and '" in stderr
        assert not held.lost
