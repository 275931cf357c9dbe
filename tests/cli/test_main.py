"""The entry point: what is imported, and what becomes of an error. No Ray runs here."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from raykv.cli import reading
from raykv.cli.main import cli
from raykv.errors import (
    BucketMismatch,
    CorruptData,
    InvalidKey,
    NotEnoughNodes,
    Overloaded,
    PairTooLarge,
    RaykvError,
    StoreNotFound,
    WriteOutcomeUnknown,
)

if TYPE_CHECKING:
    from pathlib import Path

RAYKV = [sys.executable, "-c", "from raykv.cli.main import main; main()"]


def invoke(*args: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, list(args), input=stdin)


def one_line(result: Result) -> bool:
    return result.stderr.startswith("raykv: ") and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_help_needs_no_ray_and_little_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import sys; from raykv.cli.main import cli; cli.main(['--help'], standalone_mode=False); "
    code += "sys.exit('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1.0


def test_the_commands_are_the_promised_ones() -> None:
    assert set(cli.commands) == {
        "start", "stop", "restart",
        "status", "ring", "put", "get", "delete", "scan", "buckets", "repair", "demo", "add", "lock", "queue",
        "add-node", "remove-node", "replace-node", "set-weight", "rebalance", "autoscale", "inspect",
        "explain", "metrics", "doctor", "dashboard", "list",
        "backup", "restore", "export", "import",
    }  # fmt: skip
    assert "start" in invoke().stdout


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help_with_an_example_and_json(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"\n    raykv {command}" in result.stdout
    assert "--json" in result.stdout


BAD_INPUT: list[tuple[list[str], bytes | None]] = [
    (["frobnicate"], None),
    (["--frobnicate"], None),
    (["put"], None),
    (["put", "k"], None),
    (["put", "k", "v", "w"], None),
    (["put", "", "v"], None),
    (["put", "k" * 1025, "v"], None),
    (["put", "\udcff", "v"], None),
    (["put", "k", "v", "--w", "0"], None),
    (["put", "k", "v", "--w", "many"], None),
    (["put", "k", "v", "--w", "-1"], None),
    (["put", "k", "v", "--ttl", "0"], None),
    (["put", "k", "v", "--ttl", "soon"], None),
    (["put", "k", "v", "--ttl", "nan"], None),
    (["put", "k", "v", "--json-value"], None),
    (["put", "k", "NaN", "--json-value"], None),
    (["put", "k", "1e999", "--json-value"], None),
    (["put", "k", '{"a": [-1e999]}', "--json-value"], None),
    (["put", "k", '{"a": 1, "a": 2}', "--json-value"], None),
    (["put", "k", '[{"b": {"a": 1, "\\u0061": 2}}]', "--json-value"], None),
    (["queue", "mails", "put", "1e999", "--json-value"], None),
    (["queue", "mails", "put", '{"a": 1, "a": 1}', "--json-value"], None),
    (["put", "k", "18446744073709551616", "--json-value"], None),
    (["put", "k", '"\\ud800"', "--json-value"], None),
    (["put", "k", "[" * 200 + "]" * 200, "--json-value"], None),
    (["put", "k", "[" * 100_000, "--json-value"], None),
    (["put", "k", "-"], b"\xff"),
    (["put", "k", "-"], b"x" * (1024 * 1024 + 1)),
    (["get", "k", "--timeout", "0"], None),
    (["get", "k", "--timeout", "-1"], None),
    (["get", "k", "--timeout", "inf"], None),
    (["get", "k", "--timeout", "nan"], None),
    (["get", "k", "--timeout", "soon"], None),
    (["get", "k", "--r", "10"], None),
    (["get", "k", "--r", ""], None),
    (["get", "k", "--r", "²"], None),
    (["get", "k", "--bucket", ""], None),
    (["get", "k", "--bucket", "a\nb"], None),
    (["get", "k", "--store", "../x"], None),
    (["get", "k", "--store", ""], None),
    (["delete"], None),
    (["scan", "--limit", "-1"], None),
    (["scan", "--limit", "ten"], None),
    (["scan", "extra"], None),
    (["scan", "--prefix", "\udcff"], None),
    (["start", "--nodes", "0"], None),
    (["start", "--nodes", "three"], None),
    (["start", "--nodes", "2", "--n", "3"], None),
    (["start", "--partitions", "100"], None),
    (["start", "--durability", "never"], None),
    (["start", "--weight", "1"], None),
    (["start", "--zone", ""], None),
    (["start", "--path", ""], None),
    (["start", "--config", "/none/such.toml"], None),
    (["demo", "--records", "0"], None),
    (["demo", "--records", "some"], None),
    (["demo", "--nodes", "2"], None),
    (["demo", "--seconds", "0"], None),
]


@pytest.mark.parametrize(("args", "stdin"), BAD_INPUT, ids=lambda value: repr(value)[:40])
def test_bad_input_is_one_line_and_exit_code_2(
    args: list[str], stdin: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_cluster() -> None:
        raise AssertionError("bad input must be noticed before Ray is looked for")

    for module in ("reading", "store_commands"):
        monkeypatch.setattr(f"raykv.cli.{module}.join_ray", no_cluster)
    monkeypatch.setattr("raykv.cli.store_commands.join_or_start_ray", no_cluster)
    monkeypatch.setattr("raykv.cli.demo_run.run", no_cluster)
    result = invoke(*args, stdin=stdin)
    assert result.exit_code == 2, result.stderr
    assert one_line(result), result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1e999", "'1e999' is beyond what a float can hold"),
        ('{"a": 1, "a": 2}', "an object has the name 'a' twice"),
        ('{"' + "n" * 500 + '": 1, "' + "n" * 500 + '": 2}', "nnn... twice"),
        ("-" + "9" * 500 + ".5", "999... is beyond what a float can hold"),
        ("Infinity", "Infinity is not JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_a_value_that_would_change_on_its_way_in_is_named(text: str, said: str) -> None:
    assert said in invoke("put", "k", "--json-value", "--", text).stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidKey("bad"), 2),
        (PairTooLarge("bad"), 2),
        (BucketMismatch("bad"), 2),
        (NotEnoughNodes("bad"), 2),
        (StoreNotFound("bad"), 1),
        (Overloaded("bad"), 1),
        (WriteOutcomeUnknown("bad\nand worse\x1b[2J"), 1),
        (CorruptData("bad"), 1),
        (RaykvError("bad"), 1),
        (OSError(28, "bad: no space left", "ring.svg"), 1),
        (RuntimeError("bad\n  traceback"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(store: str) -> None:
        raise error

    monkeypatch.setattr(reading, "link_to", fail)
    result = invoke("get", "k")
    assert result.exit_code == code
    line = result.stderr.lstrip("\n")  # click ends the terminal's ^C line
    assert line.startswith("raykv: ")
    assert line.count("\n") == 1
    assert line.rstrip("\n").isprintable()
    assert ("bad" in line) == (code != 130)


def test_a_reader_that_has_gone_is_no_error_to_talk_about() -> None:
    process = subprocess.Popen([*RAYKV, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def test_a_missing_file_in_a_configuration_is_named(tmp_path: Path) -> None:
    result = invoke("start", "--config", str(tmp_path / "none.toml"))
    assert "none.toml" in result.stderr
