"""What every option that takes seconds, or any number that need not be whole, refuses before anything is sent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from raykv.cli.main import cli
from raykv.cli.options import NumberType

if TYPE_CHECKING:
    from pathlib import Path

WAYS_OUT = ("link_to", "link_by_ray", "join_ray", "join_or_start_ray", "path_of", "is_joined")
"""By what name a command imports what looks for a store, or for Ray."""
MAY_BE_ZERO = {
    ("lock", "--timeout"), ("queue", "--delay"), ("queue", "--wait"), ("autoscale", "--p99-ms"),
}  # fmt: skip
NUMBERS = [
    (name, parameter)
    for name, command in cli.commands.items()
    for parameter in command.params
    if parameter.name == "timeout" or isinstance(parameter.type, NumberType | click.types.FloatParamType)
]


def said(parameter: click.Parameter) -> str:
    return parameter.opts[0] if isinstance(parameter, click.Option) else str(parameter.make_metavar(click.Context(cli)))


@pytest.fixture
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever leads out of this process fails."""

    def sent(*_: Any, **__: Any) -> None:
        raise AssertionError("a wrong number must be noticed before anything is asked or sent")

    for name, module in [*sys.modules.items()]:
        if name.startswith("raykv.cli."):
            for way in WAYS_OUT:
                if hasattr(module, way):
                    monkeypatch.setattr(module, way, sent)
    monkeypatch.setattr("raykv.cli.demo_run.run", sent)


def words(command: click.Command, wrong: click.Parameter, value: str, path: Path) -> list[str]:
    """Return arguments for a command of which one is wrong and nothing else."""
    file = path / "file.jsonl"
    file.touch()
    options, arguments = [], []
    for parameter in command.params:
        if parameter is wrong:
            (options if isinstance(parameter, click.Option) else arguments).append(value)
        elif isinstance(parameter, click.Argument) and parameter.required:
            arguments.append(str(file) if isinstance(parameter.type, click.Path) else "1")
    return [*([wrong.opts[0], *options] if options else []), "--", *arguments]


def test_these_are_the_commands_that_take_such_a_number() -> None:
    assert {name for name, _ in NUMBERS} >= {
        "start", "status", "repair", "restart", "add-node", "remove-node", "replace-node", "set-weight", "autoscale", "put",
        "lock", "queue", "backup", "demo",
    }  # fmt: skip


@pytest.mark.usefixtures("nothing_is_sent")
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e999", "soon", "0"])
@pytest.mark.parametrize(("name", "parameter"), NUMBERS, ids=[f"{name} {said(each)}" for name, each in NUMBERS])
def test_a_wrong_number_is_wrong_usage_before_anything_is_sent(
    name: str, parameter: click.Parameter, value: str, tmp_path: Path
) -> None:
    if value == "0" and (name, said(parameter)) in MAY_BE_ZERO:
        value = "-0.001"
    result = CliRunner().invoke(cli, [name, *words(cli.commands[name], parameter, value, tmp_path)])
    assert result.exit_code == 2, result.output
    assert f"Invalid value for '{said(parameter)}'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("nothing_is_sent")
@pytest.mark.parametrize(
    ("name", "parameter"), [each for each in NUMBERS if each[1].name == "timeout"], ids=lambda each: str(each)[:40]
)
def test_no_time_out_is_longer_than_an_hour(name: str, parameter: click.Parameter, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, [name, *words(cli.commands[name], parameter, "7200", tmp_path)])
    assert result.exit_code == 2, result.output
    assert "at most 3600" in result.stderr or "to 3600" in result.stderr


def test_none_of_them_is_of_a_type_that_lets_nan_through() -> None:
    assert [name for name, parameter in NUMBERS if not isinstance(parameter.type, NumberType)] == []


def test_of_an_option_that_repeats_each_value_is_checked() -> None:
    result = CliRunner().invoke(cli, ["start", "--nodes", "2", "--weight", "1", "--weight", "2000"])
    assert (result.exit_code, "from 0.01 to 1000" in result.stderr) == (2, True)
