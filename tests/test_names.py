"""Names in prose exist: modules, functions and files in docstrings, comments, the README and the notebooks."""

from __future__ import annotations

import ast
import builtins
import json
import keyword
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("raykv", "scripts", "tests")
SOURCES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py") if path != Path(__file__))
PAGES = [page for name in ("README.md", "CONTRIBUTING.md") if (page := ROOT / name).exists()]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PACKAGES = {path.name for path in (ROOT / "raykv").iterdir() if (path / "__init__.py").exists()}
OUTSIDE = {"fn", "hops", "warn_unused_ignores", "__float__"}
"""Names of other programs, and those that a comment makes up to explain something."""
IN_ACTION = re.compile(r"(?<![\w/.])(?:raykv|scripts|tests|notebooks)/[\w./*-]*\w")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def taken_apart(path: Path) -> tuple[str, frozenset[str]]:
    """Return a source's docstrings and comments, and what its code names: what it defines, uses and imports."""
    source = path.read_text()
    words, found = re.findall(r"(?:^|\s)#.*", source, re.MULTILINE), set[str]()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(name) | ast.Attribute(attr=name) | ast.arg(name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.keyword(arg=str(name)):
                found.add(name)
            case ast.alias(name, asname):
                found.update(name.split("."), [asname or name])
            case ast.Expr(ast.Constant(str(text))):
                words.append(text)
            case ast.Constant(str(text)) if text.isidentifier():
                found.add(text)
    return "\n".join(words), frozenset(found)


def prose(path: Path) -> str:
    return taken_apart(path)[0]


def identifiers(path: Path) -> frozenset[str]:
    return taken_apart(path)[1]


@cache
def homes(first: str, *, shipped: bool) -> tuple[Path, ...]:
    """Return the sources beside those that are called by the first part of a name; ``shipped``: of the package's only."""
    folders = {path.parent for path in SOURCES if path.stem == first}
    if shipped:
        folders = {folder for folder in folders if folder.is_relative_to(ROOT / "raykv")}
    return tuple(path for path in SOURCES if path.parent in folders)


def leads_somewhere(parts: list[str], own: Path | None = None) -> bool:
    """Say whether ``package.module.name`` is there; ``own``: the source that says so, where it may be a variable's."""
    if own is not None and parts[-1] in identifiers(own):
        return True
    place = ROOT / "raykv"
    for at, part in enumerate(parts):
        if (module := place / f"{part}.py").exists():
            return all(name in identifiers(module) for name in parts[at + 1 : at + 2])
        if not (place / part / "__init__.py").exists():
            return part in identifiers(place / "__init__.py")
        place /= part
    return True


def is_there(name: str, own: Path | None) -> bool:
    """Say whether a name in backticks leads somewhere. What does not begin like a module is taken for a variable's."""
    parts = name.split(".")
    if parts[-1] == "py":
        return any(path.name == name for path in SOURCES)
    if parts[0] == "raykv":
        return leads_somewhere(parts[1:])
    if len(parts) > 1 and parts[0] in PACKAGES:
        return leads_somewhere(parts, own)
    shipped = own is not None and own.is_relative_to(ROOT / "raykv")
    near = homes(parts[0], shipped=shipped) if len(parts) > 1 else ()
    return not near or any(parts[1] in identifiers(path) for path in (*near, *([own] if own else [])))


def dotted(text: str, quote: str) -> set[str]:
    """Return the names in backticks, calls without their arguments."""
    found = re.findall(rf"(?<!`){quote}([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\([^`]*\))?{quote}(?!`)", text)
    return set(found)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_name_in_a_docstring_or_comment_is_there(path: Path) -> None:
    assert [name for name in sorted(dotted(prose(path), "``")) if not is_there(name, path)] == []


def test_each_word_of_such_a_name_is_known_to_some_code() -> None:
    known = {*dir(builtins), *keyword.kwlist, *sys.stdlib_module_names, *OUTSIDE}
    for path in SOURCES:
        known |= {*identifiers(path), *path.relative_to(ROOT).with_suffix("").parts}
    strays = [
        f"{name_of(path)}: {name}"
        for path in SOURCES
        for name in sorted(dotted(prose(path), "``"))
        if not name.startswith("ray.") and not {*name.removesuffix(".py").split(".")} <= known
    ]
    assert strays == []


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=name_of)
def test_a_file_that_is_named_is_there(path: Path) -> None:
    text = prose(path) if path.suffix == ".py" else path.read_text()
    assert [name for name in sorted(set(IN_ACTION.findall(text))) if not any(ROOT.glob(name))] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_what_a_notebook_names_is_there(path: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    assert [name for name in sorted(dotted(text, "`")) if name.startswith("raykv.") and not is_there(name, None)] == []
    assert [name for name in sorted(set(IN_ACTION.findall(text))) if not any(ROOT.glob(name))] == []


def test_the_readme_names_every_package() -> None:
    inside = (ROOT / "README.md").read_text().split("## Inside")[1]
    assert sorted(name for name in PACKAGES - {"cli", "viz"} if f"`{name}`" not in inside) == []


def test_the_journeys_name_files_that_are_there_and_every_package() -> None:
    """``help(raykv)`` leads from file to file; a file that is split or renamed takes the journey along."""
    tour = ast.get_docstring(ast.parse((ROOT / "raykv" / "__init__.py").read_text())) or ""
    assert len(re.findall(r"^\*\*The journey of ", tour, re.MULTILINE)) == 4
    files = re.findall(r"(?<![\w/.])[a-z_]+/[a-z_]+\.py", tour)
    assert len(files) > 40
    assert [name for name in files if not (ROOT / "raykv" / name).exists()] == []
    assert sorted(name for name in PACKAGES - {"cli", "viz"} if not re.search(rf"\b{name}\b", tour)) == []


def test_a_package_says_what_it_leaves_out() -> None:
    essays = {name: (ROOT / "raykv" / name / "__init__.py").read_text() for name in PACKAGES - {"cli", "viz"}}
    assert (
        sorted(name for name, text in essays.items() if not re.search("left out|Left out|Omitted|Invariants", text))
        == []
    )


def test_contributing_tells_the_parts_of_the_checks() -> None:
    import run_checks

    named = re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert named == list(run_checks.PARTS)
