"""backup, restore."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from raykv.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path

    import raykv


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args))
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize(
    "args",
    [
        ["backup"],
        ["backup", "/x", "--list", "--verify"],
        ["backup", "/x", "--snapshot", "y"],
        ["backup", "/x", "--verify", "--keep", "2"],
        ["restore", "/x"],
        ["start", "--adopt"],
    ],
)
def test_wrong_usage(args: list[str]) -> None:
    assert run(*args, code=2).stderr.startswith("raykv: ")


def test_a_directory_without_backups_is_said(tmp_path: Path) -> None:
    for args in (["backup", "--list", str(tmp_path)], ["backup", "--verify", str(tmp_path)]):
        assert "holds no backups" in run(*args, code=2).stderr


@pytest.mark.ray
def test_a_store_is_backed_up_listed_verified_and_restored(start_store: Any, store_name: str, tmp_path: Path) -> None:
    store: raykv.Store = start_store(nodes=2, partitions=8)
    store.put_many({f"k{number}": number for number in range(300)})
    path, named, name = str(tmp_path / "backups"), ["--store", store_name], f"{store_name}-again"
    report = json.loads(run("backup", path, *named, "--json").stdout)
    assert report["new_tables"] == report["tables"]
    assert "keep must be" in run("backup", path, *named, "--keep", "0", code=2).stderr
    assert "snapshot 2" in run("backup", path, *named, "--keep", "2").stdout
    listed = json.loads(run("backup", "--list", path, "--json").stdout)
    assert listed[0]["snapshot"] == report["snapshot"]
    assert len(listed) == 2
    assert store_name in run("backup", "--list", path).stdout
    assert run("backup", "--verify", path).stdout.count("intact") == 2
    assert "removed 2 older snapshots" in run("backup", path, *named, "--keep", "1").stdout
    made = run("restore", path, "--as", name, "--nodes", "1", "--path", str(tmp_path / "again"), "--json")
    try:
        assert json.loads(made.stdout)["records"] == 300
        assert run("get", "k7", "--store", name).stdout.strip() == "7"
        assert "already" in run("restore", path, "--as", name, "--path", str(tmp_path / "again"), code=2).stderr
    finally:
        run("stop", "--store", name)
    for table in (tmp_path / "backups").rglob("*.sst"):
        damaged = bytearray(table.read_bytes())
        damaged[60] ^= 1
        table.unlink()
        table.write_bytes(damaged)
    verified = run("backup", "--verify", path, code=1).stdout
    assert "damaged" in verified
    assert "does not have all" in verified
    failed = run("restore", path, "--as", name, "--path", str(tmp_path / "third"), code=1).stderr
    assert "--partial" in failed
    assert not (tmp_path / "third").exists()
