"""Changes a function of raykv for a while: the text ``old`` in its source becomes ``new``, and afterwards nothing is left.

The core has no switches. What a planted bug needs is read from the source as it stands, changed, compiled with the globals
of its module, and put where the function was; a text that is not there exactly once is an error (``Stale``), so that the
catalogue cannot outlive the code that it speaks of.

Invariants: a function is changed everywhere or nowhere (a function of a module is known to others that imported it by
name, and a method may have a second name in its class); undone, the very objects of before are back, whatever was
imported meanwhile. Refused are functions that a copy could not stand for: with a closure (``super()`` has one), under
decorators other than ``staticmethod``, ``classmethod`` and ``property``, or with names that a class mangles.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import importlib
import inspect
import linecache
import sys
import textwrap
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WRAPPERS = {"staticmethod", "classmethod", "property"}
_FLAGS = __future__.annotations.compiler_flag


class Stale(Exception):
    """An edit does not fit the code any more, or cannot be made."""


class Edit(NamedTuple):
    """In ``target`` ("raykv.module:function" or "raykv.module:Class.method") the text ``old`` becomes ``new``."""

    target: str
    old: str
    new: str


class Planted(NamedTuple):
    """A guard switched off. ``why``: what happens to a store without it. ``rule``: the promise that it keeps."""

    name: str
    rule: str
    why: str
    edits: tuple[Edit, ...]
    family: str = ""
    """The family of runs that is about what it guards, if it is seldom met in others: it is hunted in these."""


class _Place(NamedTuple):
    """Where a function stands: ``found`` is what its owner holds under the name, ``function`` what is inside of it."""

    owner: ModuleType | type
    module: ModuleType
    found: object
    function: FunctionType


@contextlib.contextmanager
def edited(edits: Iterable[Edit]) -> Iterator[None]:
    """Make the edits for the time of the block. Raises ``Stale`` before anything is changed."""
    by_target: dict[str, list[Edit]] = {}
    for edit in edits:
        by_target.setdefault(edit.target, []).append(edit)
    changes = []
    for target, wanted in by_target.items():
        place = _find(target)
        changes.append((place, place.found, _wrapped(place, _compiled(target, place, wanted))))
    try:
        for place, original, changed in changes:
            _replace(place.owner, original, changed)
        yield
    finally:
        for place, original, changed in changes:
            _replace(place.owner, changed, original)


def source_of(target: str) -> str:
    """Return the source in which an edit's text is looked for: the function's, moved to the left margin."""
    return _source(target, _find(target))


def _find(target: str) -> _Place:
    module_name, _, path = target.partition(":")
    module = importlib.import_module(module_name)
    owner: ModuleType | type = module
    *outer, name = path.split(".")
    for part in outer:
        owner = vars(owner).get(part, owner)
    found = vars(owner).get(name)
    function: object = found
    if isinstance(found, staticmethod | classmethod):
        function = found.__func__
    elif isinstance(found, property):
        function = found.fget
    if not isinstance(function, FunctionType) or function.__name__ != name:
        raise Stale(f"{target}: there is no such function")
    if function.__closure__ is not None:
        raise Stale(f"{target}: it has a closure, which a copy would not share")
    return _Place(owner, module, found, function)


def _source(target: str, place: _Place) -> str:
    if place.function.__code__.co_filename != place.module.__file__:
        raise Stale(f"{target}: it is changed already, or is not of its module")
    return textwrap.dedent(inspect.getsource(place.function))


def _compiled(target: str, place: _Place, edits: Iterable[Edit]) -> FunctionType:
    text = _source(target, place)
    for edit in edits:
        if (count := text.count(edit.old)) != 1:
            raise Stale(f"{target}: this text is there {count} times, not once:\n{edit.old}")
        text = text.replace(edit.old, edit.new)
    tree = ast.parse(text)
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
    if strange := {ast.unparse(decorator) for decorator in definition.decorator_list} - _WRAPPERS:
        raise Stale(f"{target}: it is decorated with {', '.join(sorted(strange))}")
    if mangled := [name for node in ast.walk(tree) if _is_mangled(name := _name_of(node))]:
        raise Stale(f"{target}: a class would mangle {', '.join(mangled)}")
    definition.decorator_list = []
    file_name = f"<planted in {target}>"
    linecache.cache[file_name] = (len(text), None, text.splitlines(keepends=True), file_name)  # for tracebacks
    names: dict[str, FunctionType] = {}
    exec(compile(tree, file_name, "exec", _FLAGS, dont_inherit=True), vars(place.module), names)
    function = names[definition.name]
    function.__qualname__ = place.function.__qualname__
    return function


def _name_of(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_mangled(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")


def _wrapped(place: _Place, function: FunctionType) -> object:
    found = place.found
    if isinstance(found, property):
        return property(function, found.fset, found.fdel, found.__doc__)
    return type(found)(function) if isinstance(found, staticmethod | classmethod) else function


def _replace(owner: ModuleType | type, present: object, wanted: object) -> None:
    """Put ``wanted`` wherever ``present`` stands: in the class, or in every module of raykv that has it."""
    owners: list[ModuleType | type] = [owner]
    if isinstance(owner, ModuleType):
        package = owner.__name__.partition(".")[0]
        owners = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == package]
    for holder in owners:
        for name in [name for name, held in vars(holder).items() if held is present]:
            setattr(holder, name, wanted)
