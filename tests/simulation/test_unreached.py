"""Names for lines that no seed reaches: each is in the code, and one that is not fails."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from simulation import unreached
from simulation.core_coverage import core_files, functions_of, named_lines
from simulation.unreached import UNREACHED, Place, Stale, lines_of

SOURCE = textwrap.dedent(
    """
    def judge(number):
        if number > 3:
            raise ValueError(
                "too many"
            )
        match number:
            case 1:
                number = 2
            case _:
                number = 3
        try:
            return int(number)
        except TypeError as error:
            del error
            return 0
    """
).lstrip()


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(SOURCE)
    return path


def lines(path, text, function="judge"):
    return lines_of(Place("small.py", function, text), functions_of(str(path)), path.read_text())


def test_every_named_place_is_in_the_code():
    names = named_lines()
    assert set(names) <= set(core_files())
    places = [place for places in UNREACHED.values() for place in places]
    assert len(set(places)) == len(places)
    assert {reason for lines in names.values() for reason in lines.values()} == set(UNREACHED)


def test_a_place_is_a_function_a_branch_a_statement_or_a_handler(small):
    assert lines(small, "") == set(functions_of(str(small)))
    assert lines(small, "if number > 3:") == lines(small, "raise ValueError(") == {3, 4}
    assert lines(small, "case 1:") == {7, 8}
    assert lines(small, "except TypeError") == {13, 14, 15}


@pytest.mark.parametrize(("function", "text"), [("judge", "raise KeyError"), ("other", ""), ("judge", "number > 3")])
def test_a_place_that_is_not_there_is_stale(small, function, text):
    with pytest.raises(Stale, match="not there"):
        lines(small, text, function)


def test_a_file_that_is_not_of_the_core_is_stale(monkeypatch, small):
    monkeypatch.setattr(unreached, "UNREACHED", {"some reason": (Place("elsewhere.py", "judge"),)})
    with pytest.raises(Stale, match=r"elsewhere\.py"):
        unreached.named([(Path(small), "small.py", functions_of(str(small)))])
