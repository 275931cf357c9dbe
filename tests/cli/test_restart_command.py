"""raykv restart --rolling: all nodes of a store on Ray, and the processes that keep nothing."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import raykv
from raykv.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Callable


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args))
    assert result.exit_code == code, result.output
    return result


def test_without_the_word_nothing_is_restarted() -> None:
    said = run("restart", code=2).stderr
    assert "--rolling" in said
    assert "raykv stop" in said


@pytest.mark.ray
def test_all_nodes_and_services_are_restarted_while_a_client_works(
    start_store: Callable[..., raykv.Store], store_name: str
) -> None:
    store = start_store(nodes=3, partitions=8)
    buckets: list[Any] = [
        store,
        store.bucket("last", versioning="lww"),
        store.bucket("counts", versioning="linearizable"),
    ]
    failed: list[str] = []
    written: dict[str, int] = {}
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.wait(0.01):
            for bucket in buckets:
                try:
                    bucket.put(f"k{number % 50}", number, timeout=30)
                    if bucket.get(f"k{number % 50}", timeout=30) != number:
                        failed.append(f"k{number}")
                except raykv.RaykvError as error:
                    failed.append(f"{type(error).__name__}: {error}")
            written[f"k{number % 50}"] = number
            number += 1

    client = threading.Thread(target=work)
    client.start()
    try:
        before = {node["node_id"]: (node["pid"], node["incarnation"]) for node in store.status(timeout=30)["nodes"]}
        done = run("restart", "--rolling", "--services", "--store", store_name)
        assert done.stdout == "restarted: n1, n2, n3; and supervisor, coordinator\n"
        assert "nodes restarted" in done.stderr
    finally:
        over.set()
        client.join(120)
    assert failed == []
    for bucket in buckets:
        assert bucket.get_many(written, timeout=30) == written
    status = store.status(timeout=30)
    for node in status["nodes"]:
        pid, incarnation = before[node["node_id"]]
        assert node["pid"] not in {pid, os.getpid()}
        assert node["incarnation"] == incarnation + 1
        assert node["storage"]["raykv"] == raykv.__version__
    outdated = run("restart", "--rolling", "--outdated", "--store", store_name, "--json")
    assert json.loads(outdated.stdout) == {"store": store_name, "restarted": [], "services": []}
    store.bucket("one", n=1)
    assert "bucket 'one' (1 copy)" in run("restart", "--rolling", "--store", store_name, code=2).stderr
