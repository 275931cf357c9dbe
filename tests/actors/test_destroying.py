"""Destroying a store stops and deletes the one that was meant, on all hosts, and no other of its name."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray_starts import run_python

import raykv
from raykv.actors import deletion, destroying, hosts, lifecycle
from raykv.actors.marker import MARKER, claim_path, leave_marker, read_marker
from raykv.actors.path_lock import PathLock
from raykv.config import StoreConfig
from raykv.errors import InvalidOption, StoreNotFound, StoreUnavailable
from raykv.system.files import OsFileSystem


def store_at(path: Path, name: str = "shop") -> str:
    """A store that was begun at a path, and does not run."""
    claim_path(OsFileSystem(), str(path), StoreConfig(name=name, copies=1), {})
    return str(path)


def is_there(path: str) -> bool:
    return os.path.exists(f"{path}/{MARKER}")


def not_running(name: str, *_: str) -> Any:
    raise StoreNotFound(f"store {name!r} is not running")


class Running:
    """Ray's view of one running store."""

    def __init__(self, path: str | None, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.stops = 0
        patch.setattr(lifecycle, "running_path", lambda _: self.path)
        patch.setattr(lifecycle, "stop", self.stop)
        patch.setattr(lifecycle, "join", not_running)

    def stop(self, _: str) -> str | None:
        self.stops += 1
        return self.path


@pytest.mark.ray
def test_a_path_of_another_store_of_that_name_spares_the_one_that_runs(
    start_store: Any, store_name: str, tmp_path: Path
) -> None:
    store = start_store(nodes=1)
    store.put("k", 1)
    left = store_at(tmp_path / "left", store_name)
    raykv.destroy(store_name, path=left, confirm=store_name)
    assert not is_there(left)
    assert store.get("k") == 1
    with pytest.raises(StoreNotFound, match="no data"):
        raykv.destroy(store_name, path=left, confirm=store_name)
    assert store.get("k") == 1
    (tmp_path / "link").symlink_to(tmp_path / store_name)
    raykv.destroy(store_name, path=str(tmp_path / "link"), confirm=store_name)
    assert not is_there(str(tmp_path / store_name))


def test_the_running_store_is_stopped_only_if_its_path_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, left = store_at(tmp_path / "running"), store_at(tmp_path / "left")
    ray = Running(running, monkeypatch)
    raykv.destroy("shop", path=left, confirm="shop")
    assert (ray.stops, is_there(running), is_there(left)) == (0, True, False)
    raykv.destroy("shop", path=f"{running}/../running/", confirm="shop")
    assert (ray.stops, is_there(running)) == (1, False)


def test_a_store_that_does_not_report_its_path_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, ray = store_at(tmp_path / "left"), Running(None, monkeypatch)
    for path in (None, left):
        with pytest.raises(StoreUnavailable, match="nothing was stopped or deleted"):
            raykv.destroy("shop", path=path, confirm="shop")
    assert (ray.stops, is_there(left)) == (0, True)


def test_a_store_that_was_started_elsewhere_meanwhile_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, other = store_at(tmp_path / "running"), store_at(tmp_path / "other")
    Running(running, monkeypatch)
    monkeypatch.setattr(lifecycle, "stop", lambda _: other)
    with pytest.raises(InvalidOption, match="meanwhile"):
        raykv.destroy("shop", confirm="shop")
    assert is_there(running)
    assert is_there(other)


def test_nothing_is_deleted_while_it_is_unknown_whether_the_store_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_: str) -> None:
        raise StoreUnavailable("the Ray cluster of RAY_ADDRESS=h:1 cannot be reached")

    path = store_at(tmp_path / "left")
    monkeypatch.setattr(lifecycle, "running_path", unreachable)
    with pytest.raises(StoreUnavailable, match="RAY_ADDRESS"):
        raykv.destroy("shop", path=path, confirm="shop")
    assert is_there(path)


@pytest.mark.parametrize("path", ["", "a\0", 5])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(InvalidOption, match="name of a directory"):
        raykv.destroy("shop", path=path, confirm="shop")


class Others:
    """The other hosts, with disks of their own, which run what they are asked here."""

    def __init__(self, disks: dict[str, Path], patch: pytest.MonkeyPatch) -> None:
        self.disks = disks
        self.silent: dict[str, str] = {}
        patch.setattr(destroying.ray, "is_initialized", lambda: True)
        patch.setattr(destroying.ray, "nodes", list)
        patch.setattr(hosts, "living", lambda _: {host: [] for host in [*disks, "here"]})
        patch.setattr(hosts, "this_host", lambda: "here")
        patch.setattr(hosts, "ask_the_others", self.ask)

    def ask(self, work: Any, path: str, *given: str, **_: object) -> Any:
        """Paths of other hosts are those of directories here; a deletion has the name of the store before the path."""
        answers = {}
        for host, disk in self.disks.items():
            if host not in self.silent:
                sent = (path, str(disk), *given[1:]) if given else (str(disk),)
                answers[host] = work(*sent), 0.0, 0.0
        return answers, self.silent


def copied(path: str, *targets: Path) -> None:
    """Leave a store's marker on other hosts, as its nodes do."""
    for target in targets:
        leave_marker(OsFileSystem(), str(target), read_marker(OsFileSystem(), path))


def test_what_other_hosts_hold_is_deleted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next start finds their markers and brings the store back."""
    here, disks = store_at(tmp_path / "here"), {"h2": tmp_path / "h2", "h3": tmp_path / "h3", "h4": tmp_path / "h4"}
    copied(here, disks["h2"])
    other = store_at(disks["h3"], "shop")
    others = Others(disks, monkeypatch)
    Running(here, monkeypatch)
    raykv.destroy("shop", confirm="shop")
    assert not is_there(here)
    assert not is_there(str(disks["h2"]))
    assert is_there(other), "another store of that name is not the one that was meant"
    assert not others.silent


def test_hosts_that_do_not_confirm_are_named_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, disks = store_at(tmp_path / "here"), {"h2": tmp_path / "h2", "h3": tmp_path / "h3"}
    copied(here, *disks.values())
    lock = PathLock(OsFileSystem(), str(disks["h3"]))
    monkeypatch.setattr(deletion, "LOCK_WAIT_S", 0.0)
    others = Others(disks, monkeypatch)
    others.silent = {"h2": "did not say within 9 s"}
    monkeypatch.setattr(lifecycle, "running_path", not_running)
    with pytest.raises(
        StoreUnavailable, match=rf"on this host only.*h2:{here} \(did not say within 9 s\); h3:.*being restored"
    ) as caught:
        raykv.destroy("shop", path=here, confirm="shop")
    assert caught.value.details == {"hosts": ["h2", "h3"]}
    assert not is_there(here)
    assert is_there(str(disks["h3"]))
    lock.release()
    others.silent = {}
    raykv.destroy("shop", path=here, confirm="shop")
    assert not any(is_there(str(disk)) for disk in disks.values())
    with pytest.raises(StoreNotFound, match="no data"):
        raykv.destroy("shop", path=here, confirm="shop")


def test_a_host_of_a_node_that_is_down_has_not_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = store_at(tmp_path / "here")
    Others({"h2": tmp_path / "h2"}, monkeypatch)
    Running(here, monkeypatch)
    nodes = [{"host": "gone", "state": "down"}, {"host": "h2", "state": "down"}, {"host": "old name", "state": "up"}]
    monkeypatch.setattr(lifecycle, "join", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(destroying, "run", lambda *_: {"nodes": nodes})
    with pytest.raises(StoreUnavailable, match="is not in the Ray cluster") as caught:
        raykv.destroy("shop", confirm="shop")
    assert caught.value.details == {"hosts": ["gone"]}


def test_which_of_two_stores_on_other_hosts_is_meant_must_be_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = {host: Path(store_at(tmp_path / host)) for host in ("h2", "h3")}
    Others(disks, monkeypatch)
    monkeypatch.setattr(lifecycle, "running_path", not_running)
    with pytest.raises(InvalidOption, match="h2, h3 have different stores named 'shop'"):
        raykv.destroy("shop", path=str(tmp_path / "here"), confirm="shop")
    assert all(is_there(str(disk)) for disk in disks.values())


def test_a_path_that_leads_to_the_running_store_elsewhere_is_left_alone_there(tmp_path: Path) -> None:
    running = store_at(tmp_path / "running")
    (tmp_path / "link").symlink_to(running)
    data = destroying._delete_there("shop", str(tmp_path / "link"), "", running)
    assert b"leads to the store that runs" in data
    assert is_there(running)


@pytest.mark.ray
def test_another_host_deletes_what_it_has(tmp_path: Path) -> None:
    """The driver stands for a host with a disk of its own, on which nothing is."""
    script = """
        import os, sys
        import ray, raykv
        from ray.cluster_utils import Cluster
        from raykv.actors import deletion
        from raykv.actors.marker import claim_path
        from raykv.config import StoreConfig
        from raykv.system.files import OsFileSystem

        def nothing_here(*_, **__):
            raise raykv.StoreNotFound("nothing is here")

        path = sys.argv[1]
        options = {"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=options | {"labels": {"raykv-host": "h1"}})
        cluster.add_node(**options, labels={"raykv-host": "h2"})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            claim_path(OsFileSystem(), path, StoreConfig(name="shop", copies=1), {})
            deletion.delete = deletion.marker_of = nothing_here
            raykv.destroy("shop", path=path, confirm="shop")
            assert not os.path.exists(path)
            try:
                raykv.destroy("shop", path=path, confirm="shop")
            except raykv.StoreNotFound:
                print("went well")
        finally:
            ray.shutdown()
            cluster.shutdown()
    """
    ran = run_python("-c", textwrap.dedent(script), str(tmp_path / "d"))
    assert "went well" in ran.stdout, ran.stderr[-3000:]
