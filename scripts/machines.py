"""Lets Ray's own autoscaler bring a machine for a storage node, and take it back when the node has left.

Ray starts with one host and its autoscaler, whose provider of machines starts Rays on this machine that count as hosts
(Ray's own for tests). Nodes ask for processors (``NodeConfig.cpus``), so a fourth finds no room: a machine has to come for
it. When it is removed, it is drained first, and the machine, idle then, is to go. Every record is read after each step.

Takes about 40 seconds. Ray's provider joins machines at port 6379, so nothing else may listen there. Ends with 1 if no
machine comes or goes in time, or a record is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray

import raykv
from raykv.actors.hosts import HOST_LABEL
from raykv.config import NodeConfig

if TYPE_CHECKING:
    from collections.abc import Callable

PORT = 6379
OBJECT_STORE_BYTES = 80 << 20
CPUS_A_NODE = 0.3
RECORDS = 2000
WAIT_S = 120.0
END_WAIT_S = 10.0
CURRENT_CLUSTER = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")
NAME = "machines"
HEAD_KIND = "ray.head.default"
"""Ray's provider looks for this name."""


def configuration(machines: int) -> dict[str, Any]:
    """Return the configuration of Ray's autoscaler: a head, and ``machines`` kinds of machine, one of each."""
    kinds: dict[str, Any] = {
        f"kind-{number}": {
            "resources": {"CPU": 1, "object_store_memory": OBJECT_STORE_BYTES},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 1,
            "labels": {HOST_LABEL: f"machine-{number}"},
        }
        for number in range(1, machines + 1)
    }
    kinds[HEAD_KIND] = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
    provider = ("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check")
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": NAME,
        "max_workers": machines,
        "idle_timeout_minutes": 0.2,
        "upscaling_speed": 1.0,
        "provider": {"type": "fake_multinode", **dict.fromkeys(provider, True)},
        "available_node_types": kinds,
        "head_node_type": HEAD_KIND,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        **{f"{command}_commands": [] for command in commands},
    }


def start_ray(directory: str) -> None:
    """Start Ray with its autoscaler, and connect."""
    file = Path(directory, "autoscaler.json")
    file.write_text(json.dumps(configuration(2)))
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", f"--autoscaling-config={file}", f"--port={PORT}",
        "--num-cpus=1", f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-dashboard=false",
        "--labels", f"{HOST_LABEL}=head",
    ]  # fmt: skip
    settings = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    done = subprocess.run(
        command, check=False, env=os.environ | settings, capture_output=True, text=True, timeout=WAIT_S
    )
    if done.returncode != 0:
        raise SystemExit(f"Ray did not start; is port {PORT} in use?\n{done.stdout}{done.stderr}")
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")


def end_ray() -> None:
    """End that Ray and all that it started: whatever has this run's token."""
    ray.shutdown()
    token, started = os.environ["RAY_AUTH_TOKEN"], []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("RAY_AUTH_TOKEN") == token:
                started.append(process)
                process.terminate()
    _, left = psutil.wait_procs(started, END_WAIT_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    with contextlib.suppress(OSError):  # where Ray notes its latest cluster: another Ray is not to look for this one
        if CURRENT_CLUSTER.read_text().endswith(f":{PORT}"):
            CURRENT_CLUSTER.unlink()


def machines() -> list[str]:
    """Return the names of the hosts that are up, sorted."""
    return sorted(node.get("Labels", {}).get(HOST_LABEL, "?") for node in ray.nodes() if node["Alive"])


def took(what: Callable[[], object]) -> float:
    """Return how many seconds something took."""
    began = time.monotonic()
    what()
    return round(time.monotonic() - began, 1)


def until_alone() -> None:
    """Wait until there is the head only."""
    deadline = time.monotonic() + WAIT_S
    while machines() != ["head"]:
        if time.monotonic() > deadline:
            raise SystemExit(f"the machine did not go within {WAIT_S:g} s: {machines()}")
        time.sleep(0.5)


def run_it(path: str) -> dict[str, Any]:
    """Return the figures."""
    store = raykv.start(NAME, path=path, partitions=32, config=NodeConfig(cpus=CPUS_A_NODE))
    records = {f"k{number}": number for number in range(RECORDS)}
    store.put_many(records)
    figures: dict[str, Any] = {"before": machines()}
    figures["joined_s"] = took(lambda: store.add_node(timeout=WAIT_S))
    figures["with_four"] = machines()
    figures["nodes"] = {node["node_id"]: node["host"] for node in store.status()["nodes"]}
    found = [store.get_many(list(records)) == records]
    figures["left_s"] = took(lambda: store.remove_node("n4", timeout=WAIT_S))
    figures["machine_gone_s"] = took(until_alone)
    found.append(store.get_many(list(records)) == records)
    figures["all_there"] = all(found)
    raykv.shutdown(NAME)
    return figures


def main() -> int:
    """Run it in a directory of its own."""
    parser = argparse.ArgumentParser(
        prog="scripts/machines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raykv-machines-") as directory:
        try:
            start_ray(directory)
            figures = run_it(directory)
        finally:
            end_ray()
    print(json.dumps(figures))
    well = figures["before"] == ["head"] and len(figures["with_four"]) == 2 and figures["all_there"]
    return 0 if well and figures["nodes"]["n4"] != "head" else 1


if __name__ == "__main__":
    sys.exit(main())
