"""Destroying a store stops and deletes the one that was meant, and no other of its name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

import raykv
from raykv.actors import lifecycle
from raykv.actors.marker import MARKER, claim_path
from raykv.config import StoreConfig
from raykv.errors import InvalidOption, StoreNotFound, StoreUnavailable
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from pathlib import Path


def store_at(path: Path, name: str = "shop") -> str:
    """A store that was begun at a path, and does not run."""
    claim_path(OsFileSystem(), str(path), StoreConfig(name=name, copies=1), {})
    return str(path)


def is_there(path: str) -> bool:
    return os.path.exists(f"{path}/{MARKER}")


class Running:
    """Ray's view of one running store."""

    def __init__(self, path: str | None, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.stops = 0
        patch.setattr(lifecycle, "running_path", lambda _: self.path)
        patch.setattr(lifecycle, "stop", self.stop)

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
