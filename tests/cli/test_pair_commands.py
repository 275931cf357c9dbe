"""put, get, delete, scan against a store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from raykv.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path

    import raykv

pytestmark = pytest.mark.ray

ON = ["--store", "shared", "--bucket", "cli"]


class MakesDirectory:
    """Unpickling this runs code."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def run(*args: str, stdin: bytes | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [args[0], *ON, *args[1:]], input=stdin)
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == (1 if code else 0), result.stderr
    return result


@pytest.mark.usefixtures("shared_store")
def test_a_pair_comes_and_goes() -> None:
    assert run("put", "user:1", "Ada").stdout.startswith("written to n")
    assert run("get", "user:1").stdout == "Ada\n"
    assert run("delete", "user:1", "--w", "all").stdout == "deleted on n1, n2, n3\n"
    gone = run("get", "user:1", code=1)
    assert (gone.stdout, gone.stderr) == ("", "raykv: there is no key 'user:1'\n")


@pytest.mark.usefixtures("shared_store")
def test_forms_of_values(shared_store: raykv.Store) -> None:
    bucket = shared_store.bucket("cli")
    run("put", "--json-value", "form:json", '{"name": "Grace", "tags": [1, 2.5, null]}')
    run("put", "--bytes", "form:bytes", "-", stdin=b"\x00\xff\n")
    run("put", "form:stdin", "-", stdin="zwölf\n".encode())
    run("put", "form:dash", "--", "-1")
    assert bucket.get_many(["form:json", "form:bytes", "form:stdin", "form:dash"]) == {
        "form:json": {"name": "Grace", "tags": [1, 2.5, None]},
        "form:bytes": b"\x00\xff\n",
        "form:stdin": "zwölf\n",
        "form:dash": "-1",
    }
    assert run("get", "form:json").stdout == '{"name": "Grace", "tags": [1, 2.5, null]}\n'
    assert run("get", "form:bytes").stdout == "b'\\x00\\xff\\n'\n"
    assert run("get", "--bytes", "form:bytes").stdout_bytes == b"\x00\xff\n"
    assert run("get", "--bytes", "form:stdin").stdout_bytes == "zwölf\n".encode()
    run("get", "--bytes", "form:json", code=1)


@pytest.mark.usefixtures("shared_store")
def test_json_for_programs() -> None:
    written = json.loads(run("put", "json:1", "Ada", "--w", "3", "--json").stdout)
    assert written["key"] == "json:1"
    assert sorted(written["acks"]) == ["n1", "n2", "n3"]
    assert len(bytes.fromhex(written["operation_id"])) > 0
    assert json.loads(run("get", "json:1", "--r", "all", "--json").stdout) == {
        "key": "json:1", "found": True, "value": "Ada",
    }  # fmt: skip
    assert json.loads(run("get", "json:2", "--json", code=1).stdout) == {"key": "json:2", "found": False}
    assert json.loads(run("delete", "json:1", "--json").stdout)["key"] == "json:1"


@pytest.mark.usefixtures("shared_store")
def test_a_time_to_live(monkeypatch: pytest.MonkeyPatch) -> None:
    run("put", "ttl:1", "soon gone", "--ttl", "0.001")
    run("get", "ttl:1", code=1)


def test_scan(shared_store: raykv.Store) -> None:
    shared_store.bucket("cli").put_many({f"scan:{number:02}": number for number in range(12)} | {"scan:x\ty": "a\nb"})
    assert run("scan", "--prefix", "scan:", "--end", "scan:02").stdout == "scan:00\t0\nscan:01\t1\n"
    assert run("scan", "--prefix", "scan:x").stdout == "scan:x\\u0009y\ta\\u000ab\n"
    assert run("scan", "--prefix", "scan:0", "--keys-only", "--start", "scan:08").stdout == "scan:08\nscan:09\n"
    lines = run("scan", "--prefix", "scan:1", "--reverse", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"key": "scan:11", "value": 11}, {"key": "scan:10", "value": 10}]
    first = CliRunner().invoke(cli, ["scan", *ON, "--prefix", "scan:0", "--limit", "3"])
    assert first.stdout == "scan:00\t0\nscan:01\t1\nscan:02\t2\n"
    assert "--after scan:02" in first.stderr
    assert run("scan", "--prefix", "scan:0", "--after", "scan:02", "--limit", "7").stdout.count("\n") == 7
    assert run("scan", "--prefix", "none:").stdout == ""
    assert CliRunner().invoke(cli, ["scan", *ON, "--prefix", "scan:", "--limit", "0"]).stdout == ""


def test_a_scan_of_several_pages(shared_store: raykv.Store) -> None:
    keys = [f"pages:{number:05}" for number in range(2500)]
    shared_store.bucket("cli").put_many(dict.fromkeys(keys, 1))
    assert run("scan", "--prefix", "pages:", "--limit", "2500", "--keys-only").stdout.splitlines() == keys
    assert len(run("scan", "--prefix", "pages:", "--limit", "9999", "--reverse").stdout.splitlines()) == 2500


def test_looking_at_a_pickled_value_does_not_unpickle_it(shared_store: raykv.Store, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    bucket = shared_store.bucket("cli")
    bucket.put("trap:1", MakesDirectory(str(trap)))
    assert run("get", "trap:1").stdout.startswith("<pickled, ")
    assert list(json.loads(run("get", "trap:1", "--json").stdout)["value"]) == ["$pickled"]
    assert run("scan", "--prefix", "trap:").stdout.startswith("trap:1\t<pickled, ")
    run("get", "trap:1", "--bytes", code=1)
    assert not trap.exists()
    assert bucket.get("trap:1") is None  # os.mkdir's answer
    assert trap.exists()  # so the trap works


@pytest.mark.usefixtures("shared_store")
def test_looking_creates_no_bucket() -> None:
    for command in (["get", "k"], ["delete", "k"], ["scan"]):
        result = CliRunner().invoke(cli, [*command, "--store", "shared", "--bucket", "misspelt"])
        assert result.exit_code == 1
        assert "no bucket 'misspelt'" in result.stderr
        assert result.stderr.count("\n") == 1
    assert "misspelt" not in CliRunner().invoke(cli, ["buckets", "--store", "shared"]).stdout


@pytest.mark.usefixtures("shared_store")
def test_mistakes_that_only_the_store_knows_of() -> None:
    assert "at most 10240" in run("put", "big", "-", stdin=b"x" * 10_240, code=2).stderr
    run("put", "k", "v", "--w", "4", code=2)
    run("get", "k", "--r", "4", code=2)
    result = CliRunner().invoke(cli, ["get", "k", "--store", "none"])
    assert result.exit_code == 1
    assert "store 'none' is not running" in result.stderr


def test_another_process_finds_the_store(shared_store: raykv.Store) -> None:
    import ray

    shared_store.bucket("cli").put("other:1", "from here")
    code = "from raykv.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "get", "other:1", *ON],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "from here\n", "")


@pytest.mark.usefixtures("shared_store")
def test_values_that_stand_side_by_side(shared_store: raykv.Store) -> None:
    bucket = shared_store.bucket("cli")
    nothing = bucket.get_versions("cart").context
    bucket.put("cart", ["book"], context=nothing)
    bucket.put("cart", ["pen"], context=nothing)
    shown = CliRunner().invoke(cli, ["get", *ON, "cart"])
    assert (shown.exit_code, shown.stdout) == (0, '["pen"]\n')
    assert shown.stderr == "raykv: 1 more written at the same time; --versions shows all\n"
    assert run("get", "cart", "--versions").stdout == '["pen"]\n["book"]\n'
    assert json.loads(run("get", "cart", "--versions", "--json").stdout)["values"] == [["pen"], ["book"]]
    assert CliRunner().invoke(cli, ["get", *ON, "cart", "--versions", "--bytes"]).exit_code == 2
    run("delete", "cart")
    assert json.loads(run("get", "cart", "--versions", "--json", code=1).stdout) == {
        "key": "cart", "found": False, "values": [],
    }  # fmt: skip
