"""What raykv advises to type is there: each command that a message, a help text or a docstring names, with its options."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import pytest

import raykv
from raykv.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(raykv.__file__).parent
NAMED = re.compile(r"(?P<before>'|``|<code>|)\braykv (?P<name>[a-z]+(?:-[a-z]+)*)(?P<rest>[^'`<();|>&\n]*)")
"""A command, and what follows it up to the end of the quotation, the sentence or the shell's command."""
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
UNKNOWN = "X"
"""Stands for what an f-string fills in."""


class Hint(NamedTuple):
    where: str
    name: str
    rest: str
    quoted: bool


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the string literals of a module, those that are joined and those that are filled in as one, and their lines."""
    tree = ast.parse(source)
    inside: set[int] = set()
    for node in ast.walk(tree):  # from the outside in
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node)}
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else UNKNOWN for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def hints(where: str, source: str) -> Iterator[Hint]:
    for line, text in texts(source):
        for found in NAMED.finditer(text):
            yield Hint(f"{where}:{line}", found["name"], found["rest"].split(". ")[0], bool(found["before"]))


def wrong(hint: Hint) -> str:
    """Return what is wrong with a hint, or "". A word that is no command is prose, unless it is quoted or has options."""
    options = OPTION.findall(hint.rest.split(" -- ")[0])
    command = cli.commands.get(hint.name)
    if command is None:
        return f"there is no command {hint.name}" if hint.quoted or options or "-" in hint.name else ""
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    if unknown := [option for option in options if option not in known]:
        return f"{hint.name} has no option {', '.join(unknown)}"
    first = next((each for each in command.params if isinstance(each, click.Argument)), None)
    given = hint.rest.split()
    if first is not None and isinstance(first.type, click.Choice) and given and given[0] not in first.type.choices:
        return f"{hint.name} has no {given[0]}"
    return ""


ALL = [
    hint for path in sorted(PACKAGE.rglob("*.py")) for hint in hints(str(path.relative_to(PACKAGE)), path.read_text())
]


def test_every_command_that_is_named_exists_and_has_the_options_that_are_named() -> None:
    assert {hint.where.split(":")[0] for hint in ALL} >= {
        "metrics/diagnosis.py", "metrics/registry.py", "dashboard/page.py", "actors/backups.py", "protocol/codec.py",
    }  # fmt: skip
    assert [f"{hint.where}: {wrong(hint)}" for hint in ALL if wrong(hint)] == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("'raykv rebalance --resume'", "rebalance has no option --resume"),
        ("'raykv rebalance go'", "rebalance has no go"),
        ("f'{n} wait: raykv rebalance {what}'", "rebalance has no X"),
        ("'add nodes: raykv ' 'add-nodes'", "there is no command add-nodes"),
        ("\"see 'raykv look'\"", "there is no command look"),
        ("f'raykv start --nodes {n} --dir {path}; then look'", "start has no option --dir"),
        ("f'raykv start --nodes {n} --path {path}; then --look'", ""),
        ("'raykv lock till -- sh -c ls'", ""),
        ("'a newer version of raykv has written it'", ""),
    ],
)
def test_what_is_wrong_with_a_hint(source: str, said: str) -> None:
    (hint,) = hints("here", source)
    assert wrong(hint) == said


EXAMPLES = [
    line.strip()
    for command in (cli, *cli.commands.values())
    for line in (command.epilog or "").splitlines()
    if line.strip().startswith("raykv ")
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_can_be_typed(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(example)[1:]
    words = words[: next((at for at, word in enumerate(words) if word in {"|", ">", "<", "&&"}), len(words))]
    monkeypatch.chdir(tmp_path)
    for word in words:
        if Path(word).suffix and "/" not in word:
            Path(word).touch()  # a file to import is there
    cli.commands[words[0]].make_context(words[0], words[1:])
