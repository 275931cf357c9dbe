"""The README's examples are run as they stand, in a simulated world where nothing else is asked for."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import raykv
import raykv.sim

if TYPE_CHECKING:
    import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
OF_TESTS = [block for block in BLOCKS if "def test_" in block]
OF_USE = [block for block in BLOCKS if block not in OF_TESTS]


def execute(block: str, names: dict[str, Any], world: raykv.sim.World) -> dict[str, Any]:
    """Run a block statement by statement, as a notebook's cells, which may await; return what it printed and made."""
    for statement in ast.parse(block).body:
        code = compile(ast.Module([statement], []), "README", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            world.run(eval(code, names))
        else:
            exec(code, names)
    return names


def test_the_blocks_of_use_run_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(OF_USE) >= 4
    with raykv.sim.start(seed=1) as world:
        monkeypatch.setattr(raykv, "start", lambda nodes: world.store if nodes == len(world.nodes) else None)
        names: dict[str, Any] = {"merge": lambda values: sorted({item for value in values for item in value})}
        execute(OF_USE[0], names, world)
        assert names["store"].counter("visits").value() == 1
        assert "user:2 {'name': 'Grace'}" in capsys.readouterr().out
        names["store"].put("cart:ada", ["book"])
        for block in OF_USE[1:]:
            execute(block, names, world)
        assert world.store.get("cart:ada") is None
        assert "compared" in capsys.readouterr().out
        assert {node["node_id"] for node in world.store.status()["nodes"]} == {"n1", "n2", "n3"}


def test_what_comments_say_of_values_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said = re.findall(r"^(store\.get\(.*?\))\s+# (\{.*\})$", OF_USE[0], re.MULTILINE)
    assert said
    with raykv.sim.start(seed=2) as world:
        monkeypatch.setattr(raykv, "start", lambda nodes: world.store)
        names = execute(OF_USE[0], {}, world)
        for expression, value in said:
            assert eval(expression, names) == ast.literal_eval(value)


def run_as_a_users_test(directory: Path, source: str, *options: str) -> str:
    """Run pytest on a file in a directory of its own, without the plugins of this run; return what it printed."""
    (directory / "test_mine.py").write_text(source)
    paths = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_mine.py"],
        cwd=directory, env=os.environ | {"PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=500, check=False,
    ).stdout  # fmt: skip


def test_the_test_of_ones_own_program_passes_with_each_of_its_seeds(tmp_path: Path, long: bool) -> None:
    (block,) = OF_TESTS
    (seeds,) = re.findall(r"@raykv\.sim\.seeds\((\d+),", block)
    assert int(seeds) >= 12
    if not long:
        seeds = "5"
        block = re.sub(r"(@raykv\.sim\.seeds\()\d+", rf"\g<1>{seeds}", block)
    printed = run_as_a_users_test(tmp_path, block, "-W", "error")
    assert re.search(rf"(?<!\d){seeds} passed in ", printed), printed


def test_without_its_retries_that_test_would_fail(tmp_path: Path) -> None:
    """The operation that the example retries must need a retry: else nobody would see why it is there."""
    (block,) = OF_TESTS
    bare = re.sub(r"except RETRY:.*", "except ZeroDivisionError:", block)
    assert bare != block
    printed = run_as_a_users_test(tmp_path, bare, "-x")
    failed = re.search(r"(\d+) failed", printed)
    assert failed is not None, printed
    assert "the same again: raykv.sim.start(seed=" in printed


def test_the_commands_that_it_names_are_there() -> None:
    from raykv.cli.main import cli

    commands = set(re.findall(r"(?:^|`)raykv ([a-z]+(?:-[a-z]+)*)", README)) | {"start", "status", "put", "get", "scan"}
    assert len(commands) > 6
    assert commands <= cli.commands.keys()
    for script in set(re.findall(r"scripts/([a-z_]+)", README)):
        assert (REPOSITORY / "scripts" / script).exists(), script
    for notebook in set(re.findall(r"notebooks/\w+\.ipynb", README)):
        assert (REPOSITORY / notebook).exists(), notebook
    for name in set(re.findall(r"raykv\.([A-Za-z]\w*)[(`]", README)):
        assert hasattr(raykv, name), name
    for name in set(re.findall(r"`store\.(\w+)", README)):
        assert hasattr(raykv.Store, name), name
