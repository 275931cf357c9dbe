"""Mutants of a module: small changes of its meaning, one at a time, as a careless hand might make them.

``mutants`` lists those of a source text, in order; ``apply`` returns the tree of one of them. What no test can tell apart
is left out: annotations, docstrings, messages (the arguments of what is raised or logged), assertions, which are tests
themselves, and declarations (type aliases, ``__slots__``, ``__all__``, what only the type checker reads).
"""

from __future__ import annotations

import ast
import copy
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitOr,
}  # fmt: skip
_CALLS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "bisect_left": "bisect_right",
    "bisect_right": "bisect_left",
}
_LOGGERS = {"logger", "logging"}
_DECLARATIONS = {"__slots__", "__all__"}


class Mutant(NamedTuple):
    """One change. ``number``: its place among all of the module; ``line``: of the source; ``was``, ``became``: in short."""

    number: int
    line: int
    function: str
    was: str
    became: str


class _Walker(ast.NodeTransformer):
    """Visits all places that can be changed in one fixed order, and changes the one that is wanted."""

    def __init__(self, wanted: int | None) -> None:
        self.wanted = wanted
        self.found: list[Mutant] = []
        self._where: list[str] = []

    def _offer(self, node: ast.AST, changed: Callable[[], ast.AST], was: ast.AST | None = None) -> ast.AST:
        number = len(self.found)
        new = changed()
        ast.copy_location(new, node)
        ast.fix_missing_locations(new)
        line = getattr(node, "lineno", 0)
        self.found.append(Mutant(number, line, ".".join(self._where), _short(was or node), _short(new)))
        return new if number == self.wanted else node

    # ---- what is left alone ----

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None and not _is_alias(node):
            node.value = self.visit(node.value)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if any("Protocol" in ast.unparse(base) for base in node.bases):
            return node
        self._where.append(node.name)
        node.body = self._body(node.body)
        self._where.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._where.append(node.name)
        node.args.defaults = [self.visit(each) for each in node.args.defaults]
        node.args.kw_defaults = [each and self.visit(each) for each in node.args.kw_defaults]
        node.body = self._body(node.body)
        self._where.pop()
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        self._where.append(node.name)
        node.body = self._body(node.body)
        self._where.pop()
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return self._offer(node, ast.Pass)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = self._body(node.body)
        return node

    def _body(self, body: list[ast.stmt]) -> list[ast.stmt]:
        return [self.visit(statement) if _matters(statement) else statement for statement in body]

    # ---- what is changed ----

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        result: ast.AST = node
        for at, operator in enumerate(node.ops):
            other = _COMPARISONS.get(type(operator))
            if other is not None:

                def changed(at: int = at, other: type[ast.cmpop] = other) -> ast.AST:
                    new = copy.copy(node)
                    new.ops = [*node.ops[:at], other(), *node.ops[at + 1 :]]
                    return new

                offered = self._offer(node, changed)
                result = offered if offered is not node else result
        return result

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = _OPERATORS.get(type(node.op))
        if other is None or _is_text(node.left) or _is_text(node.right):
            return node
        return self._offer(node, lambda: ast.BinOp(node.left, other(), node.right))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        other = _OPERATORS.get(type(node.op))
        return node if other is None else self._offer(node, lambda: ast.AugAssign(node.target, other(), node.value))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return self._offer(node, lambda: ast.BoolOp(other, node.values))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return self._offer(node, lambda: node.operand) if isinstance(node.op, ast.Not | ast.USub) else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, bool):
            return self._offer(node, lambda: ast.Constant(not value))
        if isinstance(value, int | float):
            return self._offer(node, lambda: ast.Constant(value + 1))
        if isinstance(value, bytes):
            return self._offer(node, lambda: ast.Constant(value + b"x"))
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        node.test = self.visit(node.test)
        node.body, node.orelse = self._body(node.body), self._body(node.orelse)
        if isinstance(node.test, ast.UnaryOp | ast.Compare):  # its own change does the same
            return node
        return self._offer(node, lambda: ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse), node.test)

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None):
            return node
        return self._offer(node, lambda: ast.Return(ast.Constant(None)))

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Yield | ast.YieldFrom):
            self.generic_visit(node)
            return node
        if not isinstance(node.value, ast.Call) or _is_log(node.value):
            return node
        self.generic_visit(node)
        return self._offer(node, ast.Pass)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        node.value = self.visit(node.value)
        inside = bool(self._where) and self._where[-1] not in {"__init__", *_classes(self._where)}
        if inside and all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            return self._offer(node, ast.Pass)
        return node

    def visit_Break(self, node: ast.Break) -> ast.AST:
        return self._offer(node, ast.Continue)

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        return self._offer(node, ast.Break)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _is_log(node):
            return node
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _CALLS:
            return node
        return self._offer(node, lambda: ast.Call(ast.Name(_CALLS[name], ast.Load()), node.args, node.keywords))


def mutants(source: str) -> list[Mutant]:
    """Return all mutants of a source text."""
    walker = _Walker(None)
    walker.visit(ast.parse(source))
    return walker.found


def apply(source: str, number: int) -> ast.Module:
    """Return the tree of a mutant. ``IndexError`` if there is none of that number."""
    walker = _Walker(number)
    tree = walker.visit(ast.parse(source))
    if not 0 <= number < len(walker.found):
        raise IndexError(number)
    assert isinstance(tree, ast.Module)
    return ast.fix_missing_locations(tree)


def _matters(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return False
    if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
        return False
    if isinstance(statement, ast.Assign):
        return not any(isinstance(target, ast.Name) and target.id in _DECLARATIONS for target in statement.targets)
    return True


def _is_alias(node: ast.AnnAssign) -> bool:
    return "TypeAlias" in ast.unparse(node.annotation)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_log(node: ast.Call) -> bool:
    function = node.func
    return (
        isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in _LOGGERS
    )


def _classes(where: list[str]) -> Iterator[str]:
    """Yield the names in ``where`` that are classes: their bodies declare."""
    return (name for name in where if name.lstrip("_")[:1].isupper())


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 120 else text[:117] + "..."
