"""Commands at a shell, on a real Ray: straight to a coordinator's port they say what they say by way of Ray."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from click.testing import CliRunner
from ray.exceptions import RpcError

import raykv
from raykv.actors import command_port, endpoint_file
from raykv.actors.command_port import CommandPort
from raykv.actors.naming import COORDINATOR, actor_name, find_actor
from raykv.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CODE = """
import sys
from raykv.actors import command_link, known_cluster
from raykv.cli.main import cli
known_cluster.TIMEOUT_S = command_link.CONNECT_TIMEOUT_S = command_link.ASK_TIMEOUT_S = 60.0  # for a busy machine
code = cli.main(sys.argv[1:], standalone_mode=False)
print("ray" in sys.modules, file=sys.stderr)
sys.exit(code)
"""
PATIENCE_S = 120.0
PATIENT = ["--timeout", "60"]


class Said(NamedTuple):
    code: int
    stdout: str
    stderr: str
    used_ray: bool


def at_the_shell(*args: str) -> Said:
    import ray

    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "token"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *args], capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    *lines, used_ray = done.stderr.splitlines()
    return Said(done.returncode, done.stdout, "\n".join(lines), {"True": True, "False": False}[used_ray])


def by_ray(*args: str) -> Said:
    """The same in this process, where Ray is initialised."""
    done = CliRunner().invoke(cli, list(args))
    return Said(done.exit_code, done.stdout, done.stderr.rstrip("\n"), True)


def cluster() -> str:
    from ray._private import worker

    return str(worker.global_worker.gcs_client.cluster_id.hex())


def opened(store: str, *, other_than: bytes = b"") -> bytes:
    """Wait until the coordinator has opened its port; return the secret there."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        files = endpoint_file.found(cluster(), store)
        if files and files[0].secret != other_than:
            return files[0].secret
        assert time.monotonic() < until_s, "no port was opened"
        time.sleep(0.1)


@pytest.mark.ray
def test_commands_do_without_ray_and_say_the_same(shared_store: raykv.Store) -> None:
    opened("shared")
    bucket = shared_store.bucket("straight")
    bucket.put_many({f"k{number}": {"n": number} for number in range(30)})
    on = ["--store", "shared", "--bucket", "straight", *PATIENT]
    for args in (
        ["get", "k7", *on],
        ["get", "k7", *on, "--json"],
        ["get", "missing", *on],
        ["get", "k7", "--store", "shared", "--bucket", "misspelt"],
        ["scan", *on, "--prefix", "k1", "--limit", "5"],
        ["scan", *on, "--json", "--reverse"],
        ["buckets", "--store", "shared", *PATIENT],
        ["ring", "--store", "shared", *PATIENT],
        ["list", "--json"],
    ):
        expected = by_ray(*args)
        assert at_the_shell(*args) == expected._replace(used_ray=False), args
    status = at_the_shell("status", "--store", "shared", "--json", *PATIENT)
    assert (status.code, status.used_ray) == (0, False), status
    mine, theirs = json.loads(status.stdout), json.loads(by_ray("status", "--store", "shared", "--json").stdout)
    assert mine.keys() == theirs.keys()
    assert [node["node_id"] for node in mine["nodes"]] == [node["node_id"] for node in theirs["nodes"]]
    explained = at_the_shell("explain", "k7", *on, "--json")
    assert (explained.code, json.loads(explained.stdout)["exists"], explained.used_ray) == (0, True, False)


@pytest.mark.ray
def test_writes_go_the_same_way(shared_store: raykv.Store) -> None:
    opened("shared")
    on = ["--store", "shared", *PATIENT]
    written = at_the_shell("put", "straight", "there", *on, "--w", "all")
    assert (written.code, written.stdout, written.used_ray) == (0, "written to n1, n2, n3\n", False)
    assert shared_store.get("straight") == "there"
    assert at_the_shell("add", "straight", "2", *on) == Said(0, "2\n", "", False)
    assert at_the_shell("delete", "straight", *on, "--w", "all").stdout == "deleted on n1, n2, n3\n"
    assert shared_store.get("straight") is None


@pytest.mark.ray
def test_a_node_and_the_coordinator_are_killed_in_between(
    start_store: Callable[..., raykv.Store], store_name: str
) -> None:
    import ray

    store = start_store(nodes=3)
    store.put("k", "v", w="all")
    on = ["--store", store_name, *PATIENT]
    first = opened(store_name)
    os.kill(pid_of(store, "n1"), signal.SIGKILL)
    assert at_the_shell("get", "k", *on) == Said(0, "v\n", "", False)
    os.kill(ray.get(find_actor(store_name, COORDINATOR).pid.remote()), signal.SIGKILL)
    found = at_the_shell("get", "k", *on)  # perhaps before the next one listens
    assert found[:3] == (0, "v\n", "")
    second = opened(store_name, other_than=first)
    assert at_the_shell("put", "k", "w", *on).used_ray is False
    assert store.get("k") == "w"
    assert second != first


def pid_of(store: raykv.Store, node_id: str) -> int:
    (pid,) = {node["pid"] for node in store.status()["nodes"] if node["node_id"] == node_id}
    return int(pid)


@pytest.mark.ray
def test_a_store_that_was_stopped_leaves_no_file_and_is_not_found_by_an_old_one(
    start_store: Callable[..., raykv.Store], store_name: str
) -> None:
    start_store(nodes=1)
    opened(store_name)
    (old,) = endpoint_file.found(cluster(), store_name)
    raykv.shutdown(store_name)
    assert endpoint_file.found(cluster(), store_name) == []
    endpoint_file.write(cluster(), store_name, COORDINATOR, old.endpoint)
    said: Any = at_the_shell("get", "k", "--store", store_name)
    assert said.code == 1
    assert "is not running in this Ray cluster" in said.stderr
    assert said.used_ray
    endpoint_file.sweep()
    assert endpoint_file.found(cluster(), store_name) == []


async def at_once(work: Callable[[], str]) -> str:
    return work()


def test_a_head_that_does_not_answer_at_first_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = iter(["", RpcError("the head restarts"), "", "", "ab" * 28])

    def this_cluster() -> str:
        found = next(said)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(endpoint_file, "cache_directory", lambda: str(tmp_path / "raykv"))
    monkeypatch.setattr(command_port, "_this_cluster", this_cluster)
    monkeypatch.setattr(command_port, "in_a_thread", at_once)
    monkeypatch.setattr(command_port, "RETRY_S", 0.001)
    own = SimpleNamespace(get_actor_name=lambda: actor_name("shop", COORDINATOR))
    monkeypatch.setattr(command_port.ray, "get_runtime_context", lambda: own)

    async def until_it_is_found() -> None:
        port = CommandPort("shop", asyncio.sleep)
        opening = asyncio.create_task(port.stay_open())
        async with asyncio.timeout(PATIENCE_S):
            while not endpoint_file.found("ab" * 28, "shop") and not opening.done():  # noqa: ASYNC110 - files know no event
                await asyncio.sleep(0.01)
        assert not opening.done()
        opening.cancel()
        await asyncio.wait([opening])
        await port._server.close()

    asyncio.run(until_it_is_found())
    whys = [record.message.rpartition("Ray: ")[2] for record in caplog.records]
    silent = "its head does not say which cluster it is"
    assert whys == [silent, "RpcError: the head restarts", silent]
