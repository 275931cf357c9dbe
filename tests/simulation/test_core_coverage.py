"""Which lines are reached: of a small module, and of the core by a seed."""

from __future__ import annotations

import importlib.util
import textwrap

import pytest

from simulation.batch import run_seed
from simulation.core_coverage import (
    COMPLETE,
    Tracer,
    core_files,
    coverage_of,
    functions_of,
    named_lines,
    run_seed_measured,
)

MODULE = textwrap.dedent(
    """
    TABLE = [each for each in range(2)]

    class Thing:
        limit = 3

        def meet(self) -> None:
            ...

        def judge(self, number):
            '''Say what it is.'''
            if number > self.limit:
                return sum(
                    each
                    for each in range(number)
                )
            return 0

    def outer():
        def inner():
            return 1
        yield inner()
        yield 2
    """
).lstrip()


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("small", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_lines_of_functions_count_and_no_others(module):
    assert functions_of(module.__file__) == {
        11: "Thing.judge", 12: "Thing.judge", 13: "Thing.judge.<genexpr>", 14: "Thing.judge",
        16: "Thing.judge", 19: "outer", 20: "outer.inner", 21: "outer", 22: "outer",
    }  # fmt: skip


def test_what_is_reached_is_collected_and_nothing_when_it_is_over(module):
    tracer = Tracer([module.__file__])
    with tracer.measuring():
        assert module.Thing().judge(1) == 0
        steps = module.outer()
        assert next(steps) == 1
    assert tracer.reached == {module.__file__: {11, 16, 19, 20, 21}}
    assert next(steps) == 2
    assert module.Thing().judge(4) == 6
    assert tracer.reached == {module.__file__: {11, 16, 19, 20, 21}}
    with tracer.measuring():
        module.Thing().judge(4)
        list(module.outer())
    assert tracer.reached[module.__file__] == set(functions_of(module.__file__))


def test_the_report_has_what_is_neither_reached_nor_named():
    judgements = next(file for file in core_files() if file.endswith("judgements.py"))
    names = named_lines()
    every = {file: functions_of(file).keys() - names.get(file, {}).keys() for file in core_files()}
    found = coverage_of(every)
    assert (found.left, found.text.splitlines()[-1]) == (0, COMPLETE)
    assert "reached all the same" not in found.text
    line, function = next(iter(functions_of(judgements).items()))
    every[judgements].discard(line)
    found = coverage_of(every)
    assert found.left == 1
    assert f"raykv/coordinator/judgements.py:{line} in {function}: " in found.text
    assert COMPLETE not in found.text


def test_the_report_says_which_named_lines_are_reached_all_the_same():
    file, lines = next(iter(named_lines().items()))
    found = coverage_of({each: set(functions_of(each)) for each in core_files()})
    assert found.left == 0
    for line in lines:
        assert f"{file.rpartition('/')[2]}:{line} in " in found.text.partition("reached all the same")[2]


@pytest.mark.simulation
def test_a_measured_seed_runs_as_ever_and_reaches_the_core():
    measured, plain = run_seed_measured(1, weak=False), run_seed(1, weak=False)
    assert (measured.trace_hash, measured.counts) == (plain.trace_hash, plain.counts)
    assert set(measured.reached) == set(core_files())
    assert not plain.reached
    assert any(len(lines) > 50 for file, lines in measured.reached.items() if file.endswith("rounds.py"))
