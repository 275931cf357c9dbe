"""export, import."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

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
    ("args", "told"),
    [
        (["export"], "PATH"),
        (["export", "/tmp/a.csv"], "neither .jsonl nor .parquet"),
        (["export", "/tmp/a.jsonl", "--format", "csv"], "csv"),
        (["import", "/tmp/there-is-none.jsonl"], "does not exist"),
    ],
    ids=repr,
)
def test_wrong_usage(args: list[str], told: str) -> None:
    assert told in run(*args, code=2).stderr


def test_a_file_is_looked_at_before_any_bucket_is_made(tmp_path: Path) -> None:
    for name, told in (("wrong.jsonl", "line 1: this is no JSON"), ("wrong.parquet", "is no Parquet file")):
        (tmp_path / name).write_text("PAR0")
        assert told in run("import", str(tmp_path / name), "--bucket", "new", code=2).stderr


@pytest.mark.ray
def test_a_bucket_goes_out_and_comes_back(shared_store: raykv.Store, tmp_path: Path) -> None:
    bucket = shared_store.bucket("files")
    pairs = {f"user:{number}": {"name": f"Ada {number}", "raw": b"\x00", "n": number} for number in range(40)}
    bucket.put_many(pairs)
    for ending in ("jsonl", "parquet"):
        path, on = str(tmp_path / f"users.{ending}"), ["--store", "shared"]
        exported = json.loads(run("export", path, *on, "--bucket", "files", "--json").stdout)
        assert (exported["records"], exported["resumed"]) == (40, 0)
        assert "there is a file" in run("export", path, *on, "--bucket", "files", code=2).stderr
        run("export", path, *on, "--bucket", "files", "--overwrite")
        assert "40 records imported" in run("import", path, *on, "--bucket", f"files {ending}").stdout
        assert dict(shared_store.bucket(f"files {ending}").scan()) == pairs
        claims = ["--bucket", f"claims {ending}", "--if-absent", "--json"]
        assert "has no bucket" in run("import", path, *on, *claims, code=1).stderr
        first = run("import", path, *on, *claims, "--versioning", "linearizable")
        assert json.loads(first.stdout) == {"records": 40, "skipped": 0, "resumed": 0}
        assert json.loads(run("import", path, *on, *claims).stdout)["skipped"] == 40
    assert (
        "has no bucket 'wrong-name'"
        in run("export", str(tmp_path / "x.jsonl"), *on, "--bucket", "wrong-name", code=1).stderr
    )
    assert "wrong-name" not in shared_store.buckets()


@pytest.mark.ray
def test_a_pickle_is_loaded_only_if_told_to(shared_store: raykv.Store, tmp_path: Path) -> None:
    bucket, path = shared_store.bucket("pickled files"), str(tmp_path / "pickled.jsonl")
    bucket.put("pair", (1, 2))
    on = ["--store", "shared", "--bucket", "pickled files"]
    assert "'pair' is a pickle" in run("export", path, *on, code=2).stderr
    run("export", str(tmp_path / "loaded.jsonl"), *on, "--unpickle")
    assert (tmp_path / "loaded.jsonl").read_text() == '{"key":"pair","value":{"$tuple":[1,2]}}\n'
