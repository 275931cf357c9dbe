"""Files that say where coordinators listen: whom they are written for, and which are believed."""

from __future__ import annotations

import os
import pickle
import socket
import stat
from pathlib import Path

import msgspec
import pytest

from raykv.actors import endpoint_file
from raykv.actors.endpoint_file import EndpointFile, found, remove, sweep, write
from raykv.errors import InvalidOption
from raykv.transport import Endpoint
from raykv.transport.sockets import LOCAL

CLUSTER, OTHER = "ab" * 28, "cd" * 28
ENDPOINT = Endpoint("@raykv-0123456789abcdef", 0, b"s" * 32)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(endpoint_file, "cache_directory", lambda: str(tmp_path / "c" / "raykv"))
    return tmp_path / "c" / "raykv" / "endpoints"


@pytest.fixture
def file(base: Path) -> Path:
    write(CLUSTER, "shop", "coordinator", ENDPOINT)
    assert [each.endpoint for each in found(CLUSTER, "shop")] == [ENDPOINT]
    return base / CLUSTER / "shop@coordinator"


def content(**changed: object) -> bytes:
    fields = {
        "cluster": CLUSTER, "store": "shop", "machine": socket.gethostname(), "host": ENDPOINT.host, "port": 0,
        "secret": ENDPOINT.secret,
    }  # fmt: skip
    return msgspec.msgpack.encode(["raykv endpoint 1", *(fields | changed).values()])


def test_files_are_for_their_user_alone(file: Path, base: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [stat.S_IMODE(path.stat().st_mode) for path in (base, file.parent)] == [0o700, 0o700]
    assert os.listdir(file.parent) == ["shop@coordinator"]


def test_each_is_found_by_its_cluster_and_its_store(file: Path) -> None:
    write(CLUSTER, "shop", "coordinator-2", ENDPOINT._replace(secret=b"t" * 32))
    write(CLUSTER, "shop.2", "coordinator", ENDPOINT)
    write(OTHER, "shop", "coordinator", ENDPOINT)
    assert {each.secret for each in found(CLUSTER, "shop")} == {b"s" * 32, b"t" * 32}
    assert sorted(each.store for each in found(CLUSTER, None)) == ["shop", "shop", "shop.2"]
    assert found(CLUSTER, "sho") == found("ef" * 28, "shop") == []


def test_a_run_replaces_the_file_of_the_one_before_and_leaves_its_own_alone(file: Path) -> None:
    before = file.stat().st_ino
    write(CLUSTER, "shop", "coordinator", ENDPOINT)
    assert file.stat().st_ino == before
    file.chmod(0o644)
    write(CLUSTER, "shop", "coordinator", ENDPOINT)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    write(CLUSTER, "shop", "coordinator", ENDPOINT._replace(secret=b"t" * 32))
    assert [each.secret for each in found(CLUSTER, "shop")] == [b"t" * 32]
    assert os.listdir(file.parent) == ["shop@coordinator"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_may_touch_is_not_believed(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert found(CLUSTER, "shop") == []


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o770, 0o701])
@pytest.mark.parametrize("which", ["the cluster's", "all clusters'"])
def test_nothing_is_believed_nor_written_in_a_directory_that_others_may_enter(
    file: Path, base: Path, mode: int, which: str
) -> None:
    (file.parent if which == "the cluster's" else base).chmod(mode)
    assert found(CLUSTER, "shop") == []
    with pytest.raises(PermissionError, match="this user alone"):
        write(CLUSTER, "shop", "coordinator", ENDPOINT)


def test_what_belongs_to_another_user_is_not_believed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(endpoint_file.os, "geteuid", lambda: other)
    assert found(CLUSTER, "shop") == []
    with pytest.raises(PermissionError, match="this user alone"):
        write(CLUSTER, "shop", "coordinator", ENDPOINT)


def test_no_link_is_followed(file: Path, base: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert found(CLUSTER, "shop") == []
    file.unlink()
    os.link(elsewhere, file)
    assert found(CLUSTER, "shop") == [], "it has another name as well"
    elsewhere.unlink()
    assert len(found(CLUSTER, "shop")) == 1
    file.parent.rename(tmp_path / "d")
    file.parent.symlink_to(tmp_path / "d")
    assert found(CLUSTER, "shop") == []
    file.parent.unlink()
    (tmp_path / "d").rename(file.parent)
    base.rename(tmp_path / "b")
    base.symlink_to(tmp_path / "b")
    assert found(CLUSTER, "shop") == []


def test_neither_a_pipe_nor_a_directory_holds_anybody_up(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)
    assert found(CLUSTER, "shop") == []
    file.unlink()
    file.mkdir(0o700)
    before = os.listdir("/dev/fd")
    assert found(CLUSTER, "shop") == []
    assert len(os.listdir("/dev/fd")) == len(before)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("trap"),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        content()[:-1],
        content() + b"\0" * 2000,
        content(cluster=OTHER),
        content(store="other"),
        content(store="../shop"),
        content(host="10.0.0.1"),
        content(host="@other"),
        content(host=ENDPOINT.host + "\n"),
        content(port=-1),
        content(port=1 << 16),
        content(secret=b"short"),
        content(machine="another"),
        msgspec.msgpack.encode(["raykv endpoint 2", CLUSTER, "shop", socket.gethostname(), "127.0.0.1", 1, b"s" * 32]),
        msgspec.msgpack.encode({"cluster": CLUSTER}),
        pickle.dumps(Trap()),
    ],
)
def test_what_is_no_such_file_is_not_believed(
    file: Path, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file.write_bytes(content())
    assert len(found(CLUSTER, "shop")) == 1
    file.write_bytes(data)
    assert found(CLUSTER, "shop") == []
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("cluster", ["", "..", "../" + CLUSTER, "/tmp", "x" * 30, CLUSTER.upper(), CLUSTER + "\n"])
def test_no_other_directory_is_looked_at(file: Path, cluster: str) -> None:
    assert found(cluster, "shop") == []
    remove(cluster, "shop")
    assert file.exists()
    with pytest.raises(AssertionError):
        write(cluster, "shop", "coordinator", ENDPOINT)


@pytest.mark.parametrize("actor", ["", "../x", "a b", "A", "x" * 65])
def test_names_become_no_paths(base: Path, actor: str) -> None:
    with pytest.raises(AssertionError):
        write(CLUSTER, "shop", actor, ENDPOINT)
    with pytest.raises(InvalidOption):
        write(CLUSTER, "../shop", "coordinator", ENDPOINT)
    assert not base.exists()


def test_a_stopped_store_leaves_none(file: Path, base: Path) -> None:
    write(CLUSTER, "shop", "coordinator-2", ENDPOINT)
    write(CLUSTER, "other", "coordinator", ENDPOINT)
    remove(CLUSTER, "shop")
    assert os.listdir(file.parent) == ["other@coordinator"]
    remove(CLUSTER, "other")
    remove(CLUSTER, "other")
    assert os.listdir(base) == []


@pytest.mark.skipif(not LOCAL, reason="a local socket without a file")
@pytest.mark.parametrize("step", ["mkdir", "rename"])
def test_a_coordinator_that_starts_meanwhile_does_not_sweep_away_what_is_written(
    base: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = []
    take = getattr(os, step)

    def meanwhile(*args: object, **options: object) -> None:
        sweeps = not swept and (step == "rename" or CLUSTER in str(args[0]))
        if step == "mkdir":
            take(*args, **options)
        if sweeps:
            swept.append(sweep())
        if step == "rename":
            take(*args, **options)

    monkeypatch.setattr(endpoint_file.os, step, meanwhile)
    write(CLUSTER, "shop", "coordinator", ENDPOINT)
    assert swept
    assert os.listdir(base / CLUSTER) == ["shop@coordinator"]


@pytest.mark.skipif(not LOCAL, reason="a local socket without a file")
def test_what_ended_processes_left_is_swept(file: Path, base: Path) -> None:
    write(OTHER, "gone", "coordinator", ENDPOINT._replace(host="@raykv-" + "0" * 16))
    (file.parent / ".new-0").write_bytes(b"half")
    theirs = file.parent / "theirs@coordinator"
    theirs.write_bytes(msgspec.msgpack.encode(EndpointFile(CLUSTER, "theirs", "another machine", *ENDPOINT)))
    theirs.chmod(0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + ENDPOINT.host[1:])
        listener.listen()
        sweep()
        assert sorted(os.listdir(file.parent)) == ["shop@coordinator", "theirs@coordinator"]
    sweep()
    assert (os.listdir(base), os.listdir(file.parent)) == ([CLUSTER], ["theirs@coordinator"])


def test_a_run_that_starts_during_a_sweep_keeps_its_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """*Schedule without: the file of the run before is found dead, the next run writes its own, and that one is removed.*"""

    def meanwhile(endpoint: Endpoint) -> bool:
        write(CLUSTER, "shop", "coordinator", ENDPOINT._replace(port=ENDPOINT.port + 1))
        return endpoint == ENDPOINT

    monkeypatch.setattr(endpoint_file, "_is_nobody_there", meanwhile)
    sweep()
    assert [each.port for each in found(CLUSTER, "shop")] == [ENDPOINT.port + 1]


def test_a_user_without_a_home_directory_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("no home directory")

    monkeypatch.setattr(endpoint_file, "cache_directory", none)
    assert found(CLUSTER, "shop") == []
    sweep()
    remove(CLUSTER, "shop")
    with pytest.raises(FileNotFoundError, match="home directory"):
        write(CLUSTER, "shop", "coordinator", ENDPOINT)


def test_where_there_is_nothing_nothing_is_found(base: Path) -> None:
    sweep()
    remove(CLUSTER, "shop")
    assert found(CLUSTER, "shop") == []
    assert not base.exists()
