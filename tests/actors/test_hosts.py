"""The directories on each host."""

from __future__ import annotations

import json
import os
import random
import textwrap
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ray_starts import run_python

from raykv.actors import hosts, lifecycle
from raykv.actors.hosts import Look, bound, chosen, first_line, hosts_of, living, look_here, places, whereabouts
from raykv.actors.marker import Marker, claim_path, leave_marker, note_founded, read_marker
from raykv.actors.naming import node_directory
from raykv.config import StoreConfig
from raykv.errors import InvalidOption
from raykv.ports import Host, LaunchFailed
from raykv.storage import NodeDirectory
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from pathlib import Path

STORE = StoreConfig(name="t", copies=1)


def test_a_directory_counts_once_it_says_whose_it_is(tmp_path: Path) -> None:
    """A first start may die after the directories were made: they hold nothing, and must be founded as new ones."""
    fs, path = OsFileSystem(), str(tmp_path)
    assert look_here(fs, f"{path}/not/there").nodes == {}
    for node_id in ("n1", "n2", "n3"):
        fs.make_directories(node_directory(path, node_id))
    assert look_here(fs, path).nodes == {}
    NodeDirectory.open(
        fs, node_directory(path, "n2"), store_id="s", node_id="n2", random=random.Random(1), complete_if_new=True,
        note=json.dumps({"pid": 7, "host": "h2"}).encode(),
    ).close()  # fmt: skip
    assert look_here(fs, path).nodes == {"n2": "h2"}
    with open(f"{node_directory(path, 'n3')}/identity", "wb") as file:
        file.write(b"garbage")
    found = look_here(fs, path)
    assert found.nodes == {"n2": "h2", "n3": ""}, "a damaged one is somebody's: it is not founded anew"
    assert found.marker is None
    assert found.disk_bytes > 0
    claim_path(fs, path, STORE, {})
    marker = look_here(fs, path).marker
    assert marker is not None
    assert marker.store == STORE


def test_a_directory_is_where_its_node_last_ran_if_that_host_is_there() -> None:
    shared = {"n1": "h1", "n2": "h2", "n3": ""}
    looks = {"h1": Look(nodes=shared), "h2": Look(nodes=shared)}
    assert places(looks, ["h1", "h2"]) == {"n1": "h1", "n2": "h2", "n3": "h1"}
    assert places({"h1": Look(nodes=shared)}, ["h1", "h2"])["n2"] == "h2", "seen from one of the hosts that share it"
    assert places({"h9": Look(nodes={"n2": "h2"})}, ["h9"]) == {"n2": "h9"}, "the machine has another name by now"
    apart = {"h1": Look(nodes={"n2": "h1"}), "h2": Look(nodes={"n2": "h2"}), "h3": Look(nodes={"n2": "h3"})}
    there = ["h1", "h2", "h3"]
    assert places(apart, there) == places(apart, there, {"n2": "h9"}) == {"n2": "h1"}
    assert places(apart, there, {"n2": "h2"}) == {"n2": "h2"}, "it has a directory of its own there"
    assert places(looks, ["h1", "h2"], {"n2": "h1"})["n2"] == "h2", "there is one, which two hosts share"


def test_what_was_set_aside_is_no_node_any_more(tmp_path: Path) -> None:
    """Else each start would start a process for it, which would only report that the directory is another node's."""
    fs, path = OsFileSystem(), str(tmp_path)
    for name in ("n1", "n1.left-0", "n1 (copy)", "\udcff", "n" * 65):
        NodeDirectory.open(
            fs, f"{path}/nodes/{name}", store_id="s", node_id="n1", random=random.Random(1), complete_if_new=True
        ).close()
    assert look_here(fs, path).nodes == {"n1": ""}


def test_what_cannot_be_read_at_a_path_does_not_end_the_look(tmp_path: Path) -> None:
    fs, path = OsFileSystem(), str(tmp_path)
    claim_path(fs, path, STORE, {})
    for number, craft in enumerate((os.mkfifo, lambda at: os.symlink("/dev/zero", at), os.mkdir)):
        fs.make_directories(node_directory(path, f"n{number}"))
        craft(f"{node_directory(path, f'n{number}')}/identity")
        craft(f"{node_directory(path, f'n{number}')}/lock")
    (tmp_path / "nodes" / "file").write_text("no directory")
    assert look_here(fs, path).nodes == {"n0": "", "n1": "", "n2": ""}, "somebody's, and not founded anew"
    os.unlink(f"{path}/store.json")
    os.mkfifo(f"{path}/store.json")
    assert "not a regular file" in look_here(fs, path).trouble
    os.rename(f"{path}/nodes", f"{path}/aside")
    (tmp_path / "nodes").write_text("no directory")
    assert "nodes" in look_here(fs, path).trouble


def test_a_host_without_a_marker_learns_of_the_store_on_the_others(tmp_path: Path) -> None:
    fs, path = OsFileSystem(), str(tmp_path)
    marker = Marker(store_id="right", store=StoreConfig(name="t", copies=3, partitions=64), founded=True)
    looks = {"h1": Look(), "h2": Look(marker=marker), "h3": Look(marker=Marker(store_id="begun", store=STORE))}
    assert bound(looks, "h1") == {"h2": marker}, "a first start that came to nothing binds nobody"
    assert bound(looks, "h2") == {}
    assert claim_path(fs, path, STORE, {}, bound(looks, "h1")) == ("right", marker.store)
    assert read_marker(fs, path) == marker
    assert claim_path(fs, path, STORE, {}, {}) == ("right", marker.store)
    with pytest.raises(InvalidOption, match="partitions is 64, asked 8"):
        claim_path(fs, str(tmp_path / "other"), STORE, {"partitions": 8}, bound(looks, "h1"))


def test_two_stores_of_a_name_are_not_mixed(tmp_path: Path) -> None:
    fs = OsFileSystem()
    found = {host: Marker(store_id=host, store=STORE, founded=True) for host in ("h2", "h3")}
    with pytest.raises(InvalidOption, match="different stores named 't' on the hosts h2, h3"):
        claim_path(fs, str(tmp_path), STORE, {}, found)
    assert not fs.exists(str(tmp_path / "store.json"))


def test_a_node_leaves_a_marker_where_it_is(tmp_path: Path) -> None:
    fs, path = OsFileSystem(), str(tmp_path)
    marker = Marker(store_id="a", store=STORE)
    leave_marker(fs, path, marker)
    assert read_marker(fs, path) == marker
    leave_marker(fs, f"{path}/not/there/yet", marker)
    assert read_marker(fs, f"{path}/not/there/yet") == marker, "a host that the store comes to has no such path yet"
    leave_marker(fs, path, Marker(store_id="a", store=STORE, founded=True))
    leave_marker(fs, path, marker)
    assert read_marker(fs, path).founded
    note_founded(fs, path)
    with pytest.raises(InvalidOption, match="in use by store 't'"):
        leave_marker(fs, path, Marker(store_id="b", store=STORE))
    with open(tmp_path / "store.json", "wb") as file:
        file.write(b"corruption")
    leave_marker(fs, path, marker)
    assert read_marker(fs, path) == marker


def ray_node(node_id: str, address: str = "10.0.0.1", *, alive: bool = True, **more: Any) -> dict[str, Any]:
    """An entry of ``ray.nodes()``."""
    resources = {"memory": 100.0} | more.pop("resources", {"CPU": 2.0})
    return {"NodeID": node_id, "NodeManagerAddress": address, "Alive": alive, "Resources": resources, "Labels": more}


def test_ray_nodes_of_one_address_are_one_host() -> None:
    """They share the machine and its disk. Where they stand for several hosts, labels say so."""
    nodes = [
        ray_node("c"), ray_node("a"), ray_node("b", alive=False), ray_node("d", "10.0.0.2", resources={}),
        ray_node("e", **{"raykv-host": "h"}), ray_node("f", "10.0.0.9", **{"raykv-host": "h", "raykv-zone": "z"}),
    ]  # fmt: skip
    assert {name: [node["NodeID"] for node in there] for name, there in living(nodes).items()} == {
        "10.0.0.1": ["a", "c"],
        "10.0.0.2": ["d"],
        "h": ["e", "f"],
    }
    assert hosts_of(nodes, {"h": Look(disk_bytes=7)}) == [
        Host(name="10.0.0.1", cpus=4.0, memory_bytes=200),
        Host(name="10.0.0.2", cpus=1.0, memory_bytes=100),
        Host(name="h", cpus=4.0, memory_bytes=200, disk_bytes=7, zone="z"),
    ]


def test_storage_processes_are_dealt_out_over_a_hosts_ray_nodes() -> None:
    there = [ray_node("a"), ray_node("b"), ray_node("c", resources={"CPU": 8.0})]
    assert {chosen(f"n{number}", "h", there, 0, {}) for number in (1, 2, 3)} == {"a", "b", "c"}
    assert {chosen(f"n{number}", "h", there[:1], 0, {}) for number in (1, 2, 3)} == {"a"}
    assert {chosen(name, "h", there, 0, {}) for name in ("", "x", "n" * 99, "n\u0663")} == {"a"}
    assert {chosen(f"n{number}", "h", there, 2, {"a": 1.0, "b": 2.0, "c": 0.0}) for number in (1, 2, 3)} == {"b"}
    assert {chosen(f"n{number}", "h", there, 2, {}) for number in (1, 2, 3)} == {"a", "b", "c"}, (
        "all busy: one is waited for"
    )
    assert {chosen(f"n{number}", "h", there, 4, {}) for number in (1, 2, 3)} == {"c"}


def test_a_process_that_can_never_be_placed_says_why() -> None:
    with pytest.raises(LaunchFailed, match="host h is not in the Ray cluster") as caught:
        chosen("n1", "h", [], 0, {})
    assert caught.value.kind == "no host"
    with pytest.raises(
        LaunchFailed, match="asks for 4 processors, and no Ray node of host h has more than 2"
    ) as caught:
        chosen("n1", "h", [ray_node("a"), ray_node("b", resources={})], 4, {})
    assert caught.value.kind == "too small"


def test_a_worker_without_raykv_is_named_as_that_wherever_it_is_met() -> None:
    error = RuntimeError("The actor died:\n\nTraceback\nModuleNotFoundError: No module named 'raykv'\n")
    assert "runtime_env" in first_line(error)
    assert "runtime_env" in lifecycle.explain(error)
    assert first_line(RuntimeError("a\n\nKeyError: 5\n  more")) == "RuntimeError: KeyError: 5"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"node_labels": {}}, ("10.0.0.7", "")),
        ({"node_labels": {"raykv-host": "h", "raykv-zone": "z", "ray.io/availability-zone": "y"}}, ("h", "z")),
        ({"node_labels": {"ray.io/availability-zone": "y"}}, ("10.0.0.7", "y")),
        ({}, ("10.0.0.7", "")),
        (None, ("", "")),
    ],
    ids=["the address", "labels", "the cloud's zone", "an older Ray", "not connected"],
)
def test_a_process_knows_where_it_runs_without_asking(
    node: dict[str, Any] | None, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts.ray, "get_runtime_context", None)  # it would start a Ray
    known = None if node is None else SimpleNamespace(node_ip_address="10.0.0.7", **node)
    monkeypatch.setattr(hosts.ray._private.worker, "global_worker", SimpleNamespace(node=known))
    assert whereabouts() == expected


@pytest.mark.ray
def test_the_name_of_its_host_is_the_one_that_the_ring_has(ray_cluster: None) -> None:
    assert whereabouts().host == hosts.this_host()


@pytest.mark.ray
def test_a_client_of_the_client_server_asks_every_host(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own disk is none of theirs, though Ray gives it the address of the host with the server."""
    assert hosts.ask_the_others(hosts._look_there, str(tmp_path)) == ({}, {})
    monkeypatch.setattr(hosts, "is_far_away", lambda: True)
    claim_path(OsFileSystem(), str(tmp_path), STORE, {})
    looks = hosts.look_everywhere(str(tmp_path))
    assert [*looks] == [hosts.this_host()]
    answers, silent = hosts.ask_the_others(hosts._look_there, str(tmp_path))
    assert ([*answers], silent) == ([hosts.this_host()], {})


@pytest.mark.ray
def test_a_store_starts_where_several_ray_nodes_have_one_address(tmp_path: Path) -> None:
    """And it goes on when a node is killed, and a raylet; and it is stopped and started again."""
    script = """
        import contextlib, os, signal, sys, time
        import psutil, ray, raykv
        from ray.cluster_utils import Cluster
        from raykv.actors.naming import COORDINATOR, SUPERVISOR, find_actor

        options = {"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=options)
        second = cluster.add_node(**options)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

        def until(met):
            until_s = time.monotonic() + 120
            while time.monotonic() < until_s:
                with contextlib.suppress(raykv.RaykvError):
                    if met():
                        return
                time.sleep(0.2)
            raise AssertionError(raykv.connect("same").status())

        def raylets():
            return {psutil.Process(node["pid"]).ppid() for node in store.status(timeout=60)["nodes"]}

        try:
            store = raykv.start("same", path=sys.argv[1])
            assert len({node["host"] for node in store.status(timeout=60)["nodes"]}) == 1
            assert len(raylets()) == 2, "one raylet's end is not the end of all"
            services = ray.get([find_actor("same", peer).pid.remote() for peer in (SUPERVISOR, COORDINATOR)])
            head = cluster.head_node.all_processes["raylet"][0].process.pid
            assert {psutil.Process(pid).ppid() for pid in services} == {head}, "they stay where the store was started"
            store.put("k", 1, timeout=60)
            os.kill(store.status(timeout=60)["nodes"][0]["pid"], signal.SIGKILL)
            until(lambda: store.status(timeout=60)["nodes"][0]["restarts"] == 1 and store.status(timeout=60).healthy)
            cluster.remove_node(second, allow_graceful=False)
            until(lambda: len(ray.nodes()) - sum(node["Alive"] for node in ray.nodes()) == 1)
            until(lambda: store.status(timeout=60).healthy and len(raylets()) == 1)
            assert store.get("k", timeout=60) == 1
            raykv.shutdown("same")
            store = raykv.start("same", path=sys.argv[1])
            assert store.get("k", timeout=60) == 1
            raykv.shutdown("same")
            try:
                raykv.start("large", path=sys.argv[1] + "-large", config=raykv.NodeConfig(cpus=1.0))
            except raykv.InvalidOption as error:
                assert "has more than 0" in str(error), error
        finally:
            ray.shutdown()
            cluster.shutdown()
        print("went well")
    """
    ran = run_python("-c", textwrap.dedent(script), str(tmp_path / "d"))
    assert "went well" in ran.stdout, ran.stderr[-3000:]
