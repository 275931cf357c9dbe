"""Which lines of the coordination core the simulation reaches.

The core serves production and the simulation alike; this measures how much of it seeds run. Lines are counted in functions
only: what stands at the top of a module runs when it is imported. A function whose every line has been seen is not traced
any more, and no other file ever is, so that a measured seed costs little more than another.

What no seed can reach is named, with the reason (``unreached``): what is left is what the scenarios lack.
"""

from __future__ import annotations

import contextlib
import inspect
import linecache
import sys
from collections import Counter
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

import raykv
from simulation.batch import run_seed
from simulation.unreached import UNREACHED, named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import FrameType

    from simulation.batch import Result

ROOT = Path(raykv.__file__).parent
CORE = ("coordinator/*.py", "cluster/fanout.py", "cluster/peers.py", "cluster/health.py")


def core_files() -> list[str]:
    """Return the paths of the core, sorted."""
    return sorted(str(path) for pattern in CORE for path in ROOT.glob(pattern))


class Tracer:
    """Collects the lines of some files that are reached; one thread's only."""

    def __init__(self, files: Iterable[str]) -> None:
        self.reached: dict[str, set[int]] = {file: set() for file in files}
        self._left: dict[int, set[int]] = {}
        """The lines of a function that are not yet reached, by the id of its code, which its module keeps alive."""

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure for the time of the block."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, _event: str, _argument: object) -> Any:
        code = frame.f_code
        if code.co_filename not in self.reached:
            return None
        left = self._left.get(id(code))
        if left is None:
            left = self._left[id(code)] = _own_lines(code)
        return self._went_on if left else None

    def _went_on(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            self._left[id(frame.f_code)].discard(frame.f_lineno)
            self.reached[frame.f_code.co_filename].add(frame.f_lineno)
        return self._went_on


def functions_of(file: str) -> dict[int, str]:
    """Return the lines in the functions of a file that can be reached, each with the function it is in."""
    lines: dict[int, str] = {}
    text = Path(file).read_text()
    _add(compile(text, file, "exec", dont_inherit=True), lines)
    source = text.splitlines()
    return {
        line: lines[line] for line in sorted(lines) if source[line - 1].strip() != "..."
    }  # a protocol's has no body


def _add(code: CodeType, lines: dict[int, str]) -> None:
    inside = bool(code.co_flags & inspect.CO_OPTIMIZED)
    for inner in code.co_consts:
        if not isinstance(inner, CodeType):
            continue
        if inner.co_flags & inspect.CO_OPTIMIZED and (inside or not inner.co_name.endswith(("comp>", "genexpr>"))):
            for line in _own_lines(inner):
                lines.setdefault(line, inner.co_qualname.replace(".<locals>", ""))
        _add(inner, lines)


def _own_lines(code: CodeType) -> set[int]:
    lines = {line for _, _, line in code.co_lines() if line}
    return lines if code.co_name.startswith("<") else lines - {code.co_firstlineno}


_tracer: Tracer | None = None
"""The tracer of this worker: what one seed has reached need not be reported again by the next."""


def run_seed_measured(seed: int, weak: bool) -> Result:
    """Run one seed as ``run_seed`` does; the result says also which lines of the core no earlier one here has reached."""
    global _tracer  # noqa: PLW0603 - a worker has one
    _tracer = _tracer or Tracer(core_files())
    before = {file: set(lines) for file, lines in _tracer.reached.items()}
    with _tracer.measuring():
        result = run_seed(seed, weak)
    result.reached = {file: sorted(lines - before[file]) for file, lines in _tracer.reached.items()}
    return result


COMPLETE = "every line of the core is reached, or named"


class Coverage(NamedTuple):
    """What seeds have reached of the core, in words; ``left``: lines that they have not, and that are not named."""

    text: str
    left: int


def named_lines() -> dict[str, dict[int, str]]:
    """Return the named lines of each file, each with the reason. Raises ``Stale`` if a place is not in the code any more."""
    return named((Path(file), str(Path(file).relative_to(ROOT)), functions_of(file)) for file in core_files())


def coverage_of(reached: Mapping[str, set[int]]) -> Coverage:
    """Return a table of the core's files with their lines, the named ones by their reasons, and each line that is left."""
    rows: list[str] = []
    left: list[str] = []
    surprises: list[str] = []
    reasons: Counter[str] = Counter()
    total = Counter[str]()
    names = named_lines()
    for file in core_files():
        lines, known = functions_of(file), names.get(file, {})
        name = str(Path(file).relative_to(ROOT.parent))
        met = reached.get(file, set()) & lines.keys()
        reasons.update(reason for line, reason in known.items() if line not in met)
        surprises += [_told(name, file, line, lines[line]) for line in sorted(known.keys() & met)]
        left += [_told(name, file, line, lines[line]) for line in lines if line not in met and line not in known]
        counts = {"lines": len(lines), "reached": len(met), "named": len(known.keys() - met)}
        total.update(counts)
        if lines:
            rows.append(_row(counts, name))
    parts = [f"{'lines':>7}{'reached':>9}{'named':>7}  file", *rows, _row(total, "in all"), ""]
    parts += ["named, for no seed reaches", *(f"{reasons[reason]:>7}  {reason}" for reason in UNREACHED), ""]
    parts += ["named, and reached all the same", *surprises, ""] if surprises else []
    parts += [*left, f"{len(left)} lines of the core are neither reached nor named"] if left else [COMPLETE]
    return Coverage("\n".join(parts), len(left))


def _row(counts: Mapping[str, int], name: str) -> str:
    return f"{counts['lines']:>7}{counts['reached']:>9}{counts['named']:>7}  {name}"


def _told(name: str, file: str, line: int, function: str) -> str:
    return f"{name}:{line} in {function}: {linecache.getline(file, line).strip()}"
