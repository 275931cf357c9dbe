"""The invariants stand once, in full, and whatever cites one by its number cites one that stands there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from raykv.protocol import invariants
from raykv.protocol.invariants import RULES
from simulation.planted import CATALOGUE

ROOT = Path(__file__).parents[2]
HOME = ROOT / "raykv" / "protocol" / "invariants.py"
CITED = re.compile(r"(?<![\w.])[PL][0-9]{1,2}(?![\w%])")
NO_RULE = {"clock", "lww", "queue", "storage", "vector"}
"""Promises that concern one record, one node or one queue alone: planted bugs name them, and that package's docstring states
them (``raykv.client.shards``, for queues)."""


class Entry(NamedTuple):
    title: str
    text: str
    modules: list[str]
    tests: list[str]

    @property
    def planted(self) -> bool:
        return "No guard to plant:" not in self.text


def entries() -> dict[str, Entry]:
    """Take the docstring apart: a heading at the margin, its text indented."""
    found = {}
    for number, title, text in re.findall(
        r"^([PL]\d+)\. (.+)\n((?:    .*\n|\n)+)", f"{invariants.__doc__}\n", re.MULTILINE
    ):
        assert number not in found, f"{number} stands twice"
        where, held_by = text.split("    In: ")[1].split("Held by: ")
        modules = re.findall(r"``([a-z_.]+)``", where)
        found[number] = Entry(title, text, modules, re.findall(r"``(tests/[a-z_/]+\.py)``", held_by))
    return found


def sources() -> list[Path]:
    paths = [path for top in ("raykv", "scripts", "tests") for path in (ROOT / top).rglob("*.py")]
    pictures = ROOT / "raykv" / "viz"  # in the path of a drawing L8 is a line
    return [path for path in paths if path not in {HOME, Path(__file__)} and not path.is_relative_to(pictures)]


def prose(path: Path) -> str:
    """A module's strings and comments: names such as ``P1`` in code are not citations."""
    source = path.read_text()
    if not CITED.search(source):
        return ""
    strings = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return "\n".join(strings + re.findall(r"#.*", source))


@cache
def citations() -> dict[Path, set[str]]:
    return {path: set(CITED.findall(prose(path))) for path in sources()}


def cited_in(top: str) -> set[str]:
    return {number for path, numbers in citations().items() if path.is_relative_to(ROOT / top) for number in numbers}


def test_the_table_names_what_the_docstring_states() -> None:
    assert {number: entry.title for number, entry in entries().items()} == RULES
    assert list(entries()) == sorted(RULES, key=lambda number: (number[0] != "P", int(number[1:])))


@pytest.mark.parametrize("number", RULES)
def test_a_rule_comes_with_its_schedule_its_place_and_its_tests(number: str) -> None:
    entry = entries()[number]
    assert re.search(r"\*Schedules?\.\*", entry.text)
    assert entry.modules
    for module in entry.modules:
        path = ROOT.joinpath("raykv", *module.split(".")).with_suffix(".py")
        assert number in citations().get(path, ()), f"{module} does not cite {number}"
    assert entry.tests
    for test in entry.tests:
        assert number in citations().get(ROOT / test, ()), f"{test} does not cite {number}"


def test_what_is_cited_stands_there() -> None:
    strays = {
        str(path.relative_to(ROOT)): sorted(unknown)
        for path, cited in citations().items()
        if (unknown := cited - RULES.keys())
    }
    assert strays == {}


@pytest.mark.parametrize("top", ["raykv", "tests"])
def test_what_stands_there_is_cited(top: str) -> None:
    assert cited_in(top) >= RULES.keys()


def test_a_planted_bug_guards_a_rule_that_stands_there() -> None:
    for bug in CATALOGUE.values():
        guarded = bug.rule.split(", ")
        assert set(guarded) <= RULES.keys() | NO_RULE, bug.name
        assert len(set(guarded)) == len(guarded), bug.name


def test_a_guard_has_a_planted_bug_and_what_has_none_says_why() -> None:
    planted = {number for bug in CATALOGUE.values() for number in bug.rule.split(", ")}
    assert {number for number, entry in entries().items() if entry.planted} == planted & RULES.keys()


def test_the_guards_of_a_rule_can_be_picked() -> None:
    import planted

    of_hints = planted.chosen([], None, "P11")
    assert of_hints == [name for name, bug in CATALOGUE.items() if "P11" in bug.rule.split(", ")]
    assert of_hints
    assert "dots given out are forgotten" not in of_hints
    with pytest.raises(SystemExit, match="P13"):
        planted.chosen([], None, "P13")
