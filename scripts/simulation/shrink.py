"""A failing scenario made small: what can be left out while the run still fails in the same way is left out.

Delta debugging (Zeller & Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", TSE 2002; ``ddmin``), first on
the faults, then on whole clients, on keys, on steps; then what is left is made simpler: no odds, right clocks, small
values, one key a step, a shorter run. All of it again, as long as something goes.

"In the same way" means: a violation of the same rule. Its text may differ, for with a step left out all values after it
have other numbers, and all that is drawn on the way falls otherwise: leaving out what does not matter may move what
does. Against that, a step that is left out leaves its pause behind, to keep the others near their times; and when
nothing goes any more, everything is tried again with luck: each candidate under a few other seeds. (A scenario is plain
data; its seed only says what is drawn *in* the run.)

Deterministic: with the same scenario, rule and budget the same comes out. No scenario is run twice. Omitted of ddmin:
the test whether one part alone fails; complements get there too.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeVar

import msgspec

from raykv.sim.network import NetworkOdds
from simulation.attempt import attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from simulation.rig_faults import RigFault
    from simulation.scenario import Scenario
    from simulation.workload import Program, Step

T = TypeVar("T")

BUDGET_RUNS = 600
_LUCK = 4
"""How many seeds a candidate is tried under in the end."""
_SEED_STEP = 1_000_000
_AFTER_S = 0.5
"""How long a shortened run goes on after the violation, or its last fault."""


class _Spent(Exception):
    """The budget is used up."""


def shrink(
    scenario: Scenario,
    *,
    rule: str,
    strict: bool = True,
    budget_runs: int = BUDGET_RUNS,
    progress: Callable[[str], None] | None = None,
) -> Scenario:
    """Return the smallest scenario found that breaks ``rule``, after at most ``budget_runs`` runs.

    Returns ``scenario`` itself if it does not break the rule. ``progress`` is called after each run, with a line.
    """
    search = _Search(scenario, rule, strict, budget_runs, progress)
    try:
        if search.fails(scenario):
            search.to_the_end()
            search.luck = _LUCK
            search.to_the_end()
    except _Spent:
        pass
    return search.best


def size_of(scenario: Scenario) -> str:
    """Return how large a scenario is, in words."""
    steps = sum(len(program.steps) for program in scenario.programs)
    return f"{len(scenario.faults) + len(scenario.rig_faults)} faults, {len(scenario.programs)} clients, {steps} steps"


def ddmin(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return a part of ``items`` that still fails, and of which no single item can be left out.

    O(n^2) calls at the worst, O(n log n) or less as a rule. ``fails(items)`` must hold.
    """
    left = list(items)
    if left and fails([]):
        return []
    parts = 2
    while len(left) > 1:
        bounds = [len(left) * number // parts for number in range(parts + 1)]
        for low, high in itertools.pairwise(bounds):
            rest = left[:low] + left[high:]
            if fails(rest):
                left, parts = rest, max(parts - 1, 2)
                break
        else:
            if parts >= len(left):
                break
            parts = min(2 * parts, len(left))
    return left


class _Search:
    def __init__(
        self, scenario: Scenario, rule: str, strict: bool, budget_runs: int, progress: Callable[[str], None] | None
    ) -> None:
        self.best = scenario
        self.luck = 1
        self._rule = rule
        self._strict = strict
        self._left = budget_runs
        self._progress = progress
        self._known: dict[bytes, bool] = {}
        self._seed = scenario.seed
        self._violated_s = scenario.duration_s

    def to_the_end(self) -> None:
        """Leave out until nothing goes any more."""
        before = None
        while before != self.best:
            before = self.best
            self._round()

    def fails(self, candidate: Scenario) -> bool:
        """Whether the candidate breaks the rule, under one of the seeds; then it is the best so far."""
        seeds = [candidate.seed, *(self._seed + turn * _SEED_STEP for turn in range(self.luck))]
        return any(
            self._fails(msgspec.structs.replace(candidate, seed=seed)) for seed in dict.fromkeys(seeds[: self.luck])
        )

    def _fails(self, candidate: Scenario) -> bool:
        name = msgspec.msgpack.encode(candidate)
        if name not in self._known:
            if self._left <= 0:
                raise _Spent
            self._left -= 1
            broken = [found for found in attempt(candidate, strict=self._strict).violations if found.rule == self._rule]
            self._known[name] = bool(broken)
            if broken:
                self._violated_s = broken[0].at_s
                self.best = candidate
            if self._progress is not None:
                self._progress(f"{size_of(self.best)}; {self._left} runs left")
        return self._known[name]

    def _round(self) -> None:
        """Leave out what can be left out, once through all kinds of things."""
        idle = tuple(msgspec.structs.replace(program, steps=()) for program in self.best.programs[:1])
        if self.best.fuzzers and self.fails(
            msgspec.structs.replace(self.best, faults=(), rig_faults=(), programs=idle)
        ):
            return  # it was one of the fuzzers: the rest has nothing to do with it
        self.fails(msgspec.structs.replace(self.best, fuzzers=0))
        ddmin(self.best.faults, self._with_faults)
        ddmin(self.best.rig_faults, self._with_rig_faults)
        ddmin(self.best.programs, self._with_programs)
        ddmin(sorted(_keys(self.best)), self._with_keys)
        for number in range(len(self.best.programs)):
            self._shrink_steps(number)
        for candidate in self._simpler():
            self.fails(candidate)

    def _with_faults(self, faults: Sequence[object]) -> bool:
        return self.fails(msgspec.structs.replace(self.best, faults=tuple(faults)))

    def _with_rig_faults(self, faults: Sequence[RigFault]) -> bool:
        return self.fails(msgspec.structs.replace(self.best, rig_faults=tuple(faults)))

    def _with_programs(self, programs: Sequence[Program]) -> bool:
        return self.fails(msgspec.structs.replace(self.best, programs=tuple(programs)))

    def _with_keys(self, keys: Sequence[str]) -> bool:
        return self.fails(_only_keys(self.best, frozenset(keys)))

    def _shrink_steps(self, number: int) -> None:
        program = self.best.programs[number]

        def with_steps(chosen: Sequence[int]) -> bool:
            steps = _leave_out(program.steps, frozenset(chosen))
            return self.fails(_with_program(self.best, number, msgspec.structs.replace(program, steps=steps)))

        ddmin(range(len(program.steps)), with_steps)

    def _simpler(self) -> Iterator[Scenario]:
        """Yield what is simpler than the best so far, one change at a time."""
        plain = NetworkOdds(delay_s=self.best.odds.delay_s)
        yield msgspec.structs.replace(self.best, odds=plain)
        for name in ("late", "lost", "repeated"):
            yield msgspec.structs.replace(self.best, odds=msgspec.structs.replace(self.best.odds, **{name: 0.0}))
        yield msgspec.structs.replace(self.best, skews_ms=dict.fromkeys(self.best.skews_ms, 0.0))
        yield msgspec.structs.replace(self.best, drifts=dict.fromkeys(self.best.drifts, 1.0))
        yield _each_step(self.best, lambda step: msgspec.structs.replace(step, padding=0))
        yield _each_step(self.best, lambda step: msgspec.structs.replace(step, keys=step.keys[:1]))
        for fault in range(len(self.best.faults)):
            at_once = msgspec.structs.replace(self.best.faults[fault], for_s=0.0)
            faults = (*self.best.faults[:fault], at_once, *self.best.faults[fault + 1 :])
            yield msgspec.structs.replace(self.best, faults=faults)
        last_s = max((fault.at_s + fault.for_s for fault in self.best.faults), default=0.0)
        for end_s in (self._violated_s, last_s):
            yield msgspec.structs.replace(self.best, duration_s=round(min(self.best.duration_s, end_s + _AFTER_S), 3))


def _keys(scenario: Scenario) -> set[str]:
    return {key for program in scenario.programs for step in program.steps for key in step.keys}


def _only_keys(scenario: Scenario, keys: frozenset[str]) -> Scenario:
    """Leave out all other keys, and the steps that have none then."""
    programs = []
    for program in scenario.programs:
        steps = [
            msgspec.structs.replace(step, keys=tuple(key for key in step.keys if key in keys)) for step in program.steps
        ]
        chosen = frozenset(number for number, step in enumerate(steps) if step.keys)
        programs.append(msgspec.structs.replace(program, steps=_leave_out(steps, chosen)))
    return msgspec.structs.replace(scenario, programs=tuple(programs))


def _leave_out(steps: Sequence[Step], chosen: frozenset[int]) -> tuple[Step, ...]:
    """Return the chosen steps, each after its own pause and those of the steps left out in front of it."""
    result = []
    waited_s = 0.0
    for number, step in enumerate(steps):
        waited_s += step.pause_s
        if number in chosen:
            result.append(msgspec.structs.replace(step, pause_s=round(waited_s, 4)))
            waited_s = 0.0
    return tuple(result)


def _with_program(scenario: Scenario, number: int, program: Program) -> Scenario:
    programs = (*scenario.programs[:number], program, *scenario.programs[number + 1 :])
    return msgspec.structs.replace(scenario, programs=programs)


def _each_step(scenario: Scenario, change: Callable[[Step], Step]) -> Scenario:
    programs = [
        msgspec.structs.replace(program, steps=tuple(change(step) for step in program.steps))
        for program in scenario.programs
    ]
    return msgspec.structs.replace(scenario, programs=tuple(programs))
