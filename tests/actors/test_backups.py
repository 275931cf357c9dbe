"""Backups and copies on a real Ray: taken under load, verified, restored on other numbers of nodes, adopted."""

from __future__ import annotations

import os
import shutil
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import raykv
from raykv.actors import backups, lifecycle
from raykv.actors.backups import _Ahead
from raykv.actors.marker import claim_path
from raykv.config import StoreConfig
from raykv.errors import CorruptData, InvalidOption

if TYPE_CHECKING:
    from pathlib import Path


def contents(store: Any) -> dict[Any, Any]:
    return dict(store.items())


@pytest.mark.ray
def test_a_store_is_backed_up_under_load_and_restored_on_3_and_on_5_nodes(
    start_store: Any, store_name: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "backups")
    store = start_store(partitions=16)
    carts = store.bucket("carts", ttl=3600)
    jobs = store.bucket("jobs", versioning="linearizable")
    store.put_many({f"key:{number}": {"n": number} for number in range(2000)})
    carts.put_many({f"c{number}": [number] for number in range(300)})
    orders = store.bucket("orders", group=":")
    orders.put_many({f"user{user}:{number}": number for user in range(20) for number in range(10)})
    hits = store.counter("hits")
    hits.add(5)
    version = jobs.put("job", "first").version
    assert version is not None
    store.delete("key:7")
    first = store.get_versions("key:8").context
    store.put("key:8", "one", context=first)
    store.put("key:8", "other", context=first)
    ended = threading.Event()
    acknowledged: list[int] = []

    def load() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            store.put("turning", turn)
            acknowledged.append(turn)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        while len(acknowledged) < 20:
            ended.wait(0.01)
        before = acknowledged[-1]
        report = store.snapshot(path)
    finally:
        ended.set()
        thread.join()
    assert report["nodes"].keys() == {"n1", "n2", "n3"}
    assert report["new_tables"] == report["tables"] > 0
    again = store.snapshot(path)
    assert again["new_tables"] <= 3, "what has come since"
    (verified, _) = backups.verify(path)
    assert verified["wrong"] == []
    assert verified["restorable"]
    kept = contents(store)
    for nodes in (3, 5):
        name = f"{store_name}-{nodes}"
        seen: list[tuple[int, int]] = []
        made = raykv.restore(
            path, name, nodes=nodes, path=str(tmp_path / name), snapshot=report["snapshot"],
            progress=lambda *progress, seen=seen: seen.append(progress),
        )  # fmt: skip
        try:
            assert made["nodes"] == nodes
            assert not made["resumed"]
            assert seen[-1] == (16, 16)
            other = raykv.connect(name)
            assert len(other.status()["nodes"]) == nodes
            found = contents(other)
            assert found.pop("turning") >= before
            assert found == {key: value for key, value in kept.items() if key != "turning"}
            assert sorted(other.get_versions("key:8").values) == ["one", "other"]
            assert contents(other.bucket("carts", ttl=3600)) == contents(carts)
            other_orders = other.bucket("orders", group=":")
            assert dict(other_orders.scan(prefix="user7:")) == {f"user7:{number}": number for number in range(10)}
            assert contents(other_orders) == contents(orders)
            assert other.get("key:7") is None
            # Linearizable: the same value under the same version; what comes next is above it, under another.
            again_jobs = other.bucket("jobs", versioning="linearizable")
            assert again_jobs.get_versioned("job").value == "first"
            assert again_jobs.get_versioned("job").version == version
            later = again_jobs.put("job", "second", if_version=version).version
            assert later != version
            assert again_jobs.get("job") == "second"
            assert other.counter("hits").add(1) == 6
            with pytest.raises(raykv.InvalidContext):
                other.put("key:8", "merged", context=store.get_versions("key:8").context)
            other.put("key:8", "merged", context=other.get_versions("key:8").context)
            assert other.get_versions("key:8").values == ["merged"]
            with pytest.raises(InvalidOption, match="already"):
                raykv.restore(path, name, path=str(tmp_path / name))
        finally:
            raykv.shutdown(name)
    assert store.get("key:1") == {"n": 1}, "the original goes on"


@pytest.mark.ray
def test_a_restore_that_fails_leaves_nothing_and_one_that_was_killed_goes_on(
    start_store: Any, store_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name, where = str(tmp_path / "backups"), f"{store_name}-again", str(tmp_path / "again")
    store = start_store(nodes=1, partitions=8)
    store.put_many({f"key:{number}": number for number in range(1500)})
    store.snapshot(path)

    def interrupted(done: int, every: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        raykv.restore(path, name, path=where, progress=interrupted)
    assert name not in lifecycle.stores()
    assert not os.path.exists(where)
    with monkeypatch.context() as patch:  # the process is killed: nothing is undone
        patch.setattr(backups, "_undo", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            raykv.restore(path, name, path=where, progress=interrupted)
    raykv.shutdown(name)
    with pytest.raises(InvalidOption, match="interrupted"):
        raykv.start(name, nodes=1, path=where)
    try:
        report = raykv.restore(path, name, path=where)
        assert report["resumed"]
        assert report["records"] == 1500
        assert contents(raykv.connect(name)) == {f"key:{number}": number for number in range(1500)}
        raykv.shutdown(name)
        assert raykv.start(name, nodes=1, path=where).get("key:3") == 3
    finally:
        raykv.shutdown(name)


@pytest.mark.ray
def test_a_second_restore_leaves_the_first_ones_store_alone(start_store: Any, store_name: str, tmp_path: Path) -> None:
    path, name, where = str(tmp_path / "backups"), f"{store_name}-again", str(tmp_path / "again")
    store = start_store(nodes=1, partitions=8)
    store.put_many({f"key:{number}": number for number in range(500)})
    store.snapshot(path)
    refused = []

    def again(done: int, every: int) -> None:
        with pytest.raises(
            InvalidOption, match=f"being restored, adopted or deleted by process {os.getpid()} "
        ) as caught:
            raykv.restore(path, name, path=where)
        refused.append(caught.value)
        with pytest.raises(InvalidOption, match="already"):
            raykv.restore(path, name, path=str(tmp_path / "elsewhere"))

    try:
        assert raykv.restore(path, name, path=where, progress=again)["records"] == 500
        assert refused
        assert raykv.connect(name).get("key:3") == 3
        with pytest.raises(InvalidOption, match="already"):
            raykv.restore(path, name, path=where)
        assert not os.path.exists(tmp_path / "elsewhere")
        assert sorted(os.listdir(where)) == ["nodes", "store.json"], "neither lock nor note stays"
    finally:
        raykv.shutdown(name)


@pytest.mark.ray
def test_a_restore_neither_loads_nor_stops_a_store_of_its_name_that_runs_elsewhere(
    start_store: Any, store_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name, where = str(tmp_path / "backups"), f"{store_name}-again", str(tmp_path / "again")
    store = start_store(nodes=1, partitions=8)
    store.put_many({f"key:{number}": number for number in range(500)})
    store.snapshot(path)

    def interrupted(done: int, every: int) -> None:
        raise KeyboardInterrupt

    def killed() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(backups, "_undo", lambda *_: None)
            with pytest.raises(KeyboardInterrupt):
                raykv.restore(path, name, path=where, progress=interrupted)
        raykv.shutdown(name)

    killed()
    production = start_store(name, nodes=1, path=str(tmp_path / "production"))
    production.put("key:3", "of production")
    begun = backups.read_begun(backups.OsFileSystem(), where)
    with pytest.raises(InvalidOption, match=f"runs at {tmp_path}/production"):
        raykv.restore(path, name, path=where)
    assert contents(production) == {"key:3": "of production"}
    assert backups.read_begun(backups.OsFileSystem(), where) == begun, "another can go on with it later"
    # Started between the look and the join: what was begun is deleted, the store that runs goes on.
    with monkeypatch.context() as patch:
        patch.setattr(backups, "_check_free", lambda fs, where, *_: backups.read_begun(fs, where))
        with pytest.raises(InvalidOption, match=f"runs at {tmp_path}/production"):
            raykv.restore(path, name, path=where)
        assert not os.path.exists(where)
        with pytest.raises(InvalidOption, match=f"runs at {tmp_path}/production"):
            raykv.restore(path, name, path=where)
    assert not os.path.exists(where)
    assert contents(production) == {"key:3": "of production"}


def test_a_store_that_another_process_started_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another host, say, which has a path of that name and a lock of its own there."""
    fs, where, stops = backups.OsFileSystem(), str(tmp_path / "again"), []
    monkeypatch.setattr(lifecycle, "stores", list)
    monkeypatch.setattr(lifecycle, "running_path", lambda _: where)
    monkeypatch.setattr(lifecycle, "stop", stops.append)
    source: Any = SimpleNamespace(manifest=SimpleNamespace(store_id="s", snapshot="1"))
    attempt = backups._Attempt(fs, "shop", where, source)
    attempt.created = False
    claim_path(fs, where, StoreConfig(name="shop", copies=1), {})
    with pytest.raises(InvalidOption, match="meanwhile"):
        attempt.check_running()
    attempt.end()
    assert (os.listdir(where), stops) == (["store.json"], [])


def test_a_finished_restore_is_never_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is undone is what carries this restore's own note."""
    fs, where, stops = backups.OsFileSystem(), str(tmp_path / "again"), []
    monkeypatch.setattr(lifecycle, "stores", list)
    monkeypatch.setattr(lifecycle, "running_path", lambda _: where)
    monkeypatch.setattr(lifecycle, "stop", stops.append)
    source: Any = SimpleNamespace(manifest=SimpleNamespace(store_id="s", snapshot="1"))
    attempt = backups._Attempt(fs, "shop", where, source)
    attempt.created = True
    claim_path(fs, where, StoreConfig(name="shop", copies=1), {})
    os.unlink(f"{where}/{backups.BEGUN}")
    with pytest.raises(FileNotFoundError):
        attempt.finish()
    attempt.end()
    assert (os.listdir(where), stops) == (["store.json"], [])


@pytest.mark.ray
def test_a_copy_runs_beside_the_original(start_store: Any, store_name: str, tmp_path: Path) -> None:
    store = start_store(partitions=16)
    store.put_many({f"key:{number}": number for number in range(500)})
    jobs = store.bucket("jobs", versioning="linearizable")
    jobs.put("job", 1)
    raykv.shutdown(store_name)
    copy, name = str(tmp_path / "copy"), f"{store_name}-copy"
    shutil.copytree(tmp_path / store_name, copy, symlinks=True)
    with pytest.raises(InvalidOption, match="adopt"):
        raykv.start(name, path=copy)
    store = start_store(partitions=16)
    with pytest.raises(InvalidOption, match=f"runs at {tmp_path}/{store_name}"):  # it would be a handle of the original
        raykv.start(store_name, path=copy, adopt=True)
    other = start_store(name, path=copy, adopt=True)
    start_store(name, path=f"{copy}/", adopt=True)
    assert contents(other) == contents(store) == {f"key:{number}": number for number in range(500)}
    store.put("key:1", "original")
    other.put("key:1", "copy")
    assert (store.get("key:1"), other.get("key:1")) == ("original", "copy")
    assert other.bucket("jobs", versioning="linearizable").put("job", 2).version != jobs.get_versioned("job").version
    assert other.status().healthy
    with pytest.raises(raykv.InvalidContext):
        other.put("key:2", 0, context=store.get_versions("key:2").context)
    raykv.shutdown(name)
    assert start_store(name, path=copy).get("key:1") == "copy", "it needs no word about it from then on"


def test_what_is_no_backup_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="no backups"):
        raykv.restore(str(tmp_path), "again")
    with pytest.raises(InvalidOption, match="no backups"):
        backups.verify(str(tmp_path))


@pytest.mark.parametrize(
    "options", [{"backup": 5}, {"snapshot": 5}, {"partial": 1}, {"name": "../x"}, {"path": ""}, {"backup": "a\0"}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        raykv.restore(**{"backup": "/nowhere", "name": "again"} | options)


def test_reading_ahead_gives_all_in_order_and_passes_errors_on() -> None:
    with _Ahead(iter(range(1000)), 3) as items:
        assert [*items] == [*range(1000)]

    def fails() -> Any:
        yield 1
        raise CorruptData("damaged")

    with _Ahead(fails(), 3) as items:
        assert next(items) == 1
        with pytest.raises(CorruptData, match="damaged"):
            next(items)
    ahead = _Ahead(iter(range(1000)), 3)
    with ahead as items:
        assert next(items) == 0
    assert not ahead._thread.is_alive(), "leaving early ends it"
