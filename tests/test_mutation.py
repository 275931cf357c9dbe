"""Which changes of a module's meaning are made, and which are not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mutants
import mutation

SOURCE = '''
"""Docs: 1 < 2."""
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    LIMIT = 1
__slots__ = (1, 2)
SIZE: int = 4

class Box:
    """Docs."""
    kind = 3

    def __init__(self, n):
        self.n = n

    def fits(self, n, loud=False):
        """Docs."""
        assert n > 0
        if not loud and self.n <= n + 1:
            self.last = n
            logger.info("fits %d", 5)
            return min(n, self.n)
        raise ValueError(f"{n + 1} is too much")
'''


def changes() -> list[tuple[str, str]]:
    return [(mutant.was, mutant.became) for mutant in mutation.mutants(SOURCE)]


def test_what_is_changed() -> None:
    found = changes()
    for expected in (
        ("4", "5"), ("3", "4"), ("False", "True"), ("not loud", "loud"), ("self.n <= n + 1", "self.n < n + 1"),
        ("n + 1", "n - 1"), ("self.last = n", "pass"), ("min(n, self.n)", "max(n, self.n)"),
        ("return min(n, self.n)", "return None"), ("raise ValueError(f'{n + 1} is too much')", "pass"),
    ):  # fmt: skip
        assert expected in found, expected


def test_what_no_test_can_tell_apart_is_left_alone() -> None:
    text = str(changes())
    assert "n > 0" not in text
    assert ("5", "6") not in changes()
    assert not any(was.startswith("logger") for was, _ in changes())
    assert "LIMIT" not in text
    assert "self.n = n" not in text
    assert text.count("n + 1 is") == 0
    assert sum(was == "2" for was, _ in changes()) == 0


def test_each_is_one_change_and_runs() -> None:
    original = ast.unparse(ast.parse(SOURCE))
    seen = set()
    for mutant in mutation.mutants(SOURCE):
        text = ast.unparse(mutation.apply(SOURCE, mutant.number))
        assert text != original
        compile(mutation.apply(SOURCE, mutant.number), "mutant", "exec")
        seen.add(text)
    assert len(seen) == len(mutation.mutants(SOURCE)), "no two are the same"
    with pytest.raises(IndexError):
        mutation.apply(SOURCE, len(seen))


@pytest.mark.parametrize("module", mutants.TESTS)
def test_the_modules_have_mutants_and_tests(module: str) -> None:
    source = mutants.path_of(module).read_text()
    found = mutation.mutants(source)
    assert found
    compile(mutation.apply(source, found[-1].number), "mutant", "exec")
    for test in mutants.TESTS[module]:
        assert (Path(mutants.ROOT) / "tests" / test).exists(), test
