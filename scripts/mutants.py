"""Mutation testing: change one thing in a module at a time, and see whether its tests notice.

A mutant whose tests all pass has *survived*: a test is missing, or the change has no meaning (``scripts/mutation.py`` says
what is changed). Nothing is written to the sources: a mutant lives in a process of its own, forked for it, whose import of
the module brings the changed one. One that runs out of time counts as noticed.

Prints the survivors, and the share that was noticed, module by module; exit code 1 if it is below ``--least``.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.util
import io
import json
import os
import random
import resource
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis
import pytest

import mutation

if TYPE_CHECKING:
    import ast
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

ROOT = Path(__file__).parents[1]
_ENGINE = ("storage/test_engine.py", "storage/test_damage.py", "storage/test_erase.py", "storage/test_mark.py",
           "storage/test_full_disk.py", "storage/test_every_bit.py", "storage/test_crash.py")  # fmt: skip
_COUNTING = ("coordinator/test_rounds.py", "coordinator/test_fast_path.py", "coordinator/test_writes.py",
             "coordinator/test_reads.py", "coordinator/test_write_fanout.py", "coordinator/test_coordinator.py")  # fmt: skip
_LEADING = ("replica/test_tenure.py", "replica/test_leader.py", "replica/test_voting.py", "replica/test_turns.py",
            "replica/test_promises.py", "replica/test_lanes.py", "node/test_leading.py", "coordinator/test_changes.py",
            "simulation/test_leader_schedules.py")  # fmt: skip
_VERSIONS = ("versions", "records/test_vector_record.py", "replica/test_applying.py")
TESTS: dict[str, tuple[str, ...]] = {
    "raykv.storage.wal": ("storage/test_wal.py", *_ENGINE),
    "raykv.storage.replay": ("storage/test_wal.py", "storage/test_crafted.py", *_ENGINE),
    "raykv.storage.sstable": (
        "storage/test_sstable.py",
        "storage/test_crafted.py",
        "storage/test_shortage.py",
        *_ENGINE,
    ),
    "raykv.storage.manifest": ("storage/test_blob.py", "storage/test_crafted.py", *_ENGINE),
    "raykv.storage.compaction": ("storage/test_compaction.py", "storage/test_engine.py", "storage/test_erase.py"),
    "raykv.versions.dvvset": _VERSIONS,
    "raykv.versions.merging": _VERSIONS,
    "raykv.versions.causality": _VERSIONS,
    "raykv.versions.context": _VERSIONS,
    "raykv.versions.vector_clock": _VERSIONS,
    "raykv.versions.hybrid_clock": _VERSIONS,
    "raykv.coordinator.judgements": _COUNTING,
    "raykv.coordinator.rounds": _COUNTING,
    "raykv.replica.tenure": _LEADING,
    "raykv.replica.turns": _LEADING,
}
"""The modules, and the tests (below tests/) that are to notice, the likeliest first."""
CPU_FACTOR, CPU_MORE_S = 4, 10.0
WALL_FACTOR = 10


class Verdict(NamedTuple):
    """What became of a mutant. ``by``: what noticed it; empty if nothing did."""

    module: str
    mutant: mutation.Mutant
    by: str
    took_s: float


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Brings one module with another tree."""

    def __init__(self, name: str, tree: ast.Module, path: str) -> None:
        self._name, self._tree, self._path = name, tree, path

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self._path)

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self._path
        exec(compile(self._tree, self._path, "exec"), module.__dict__)


def path_of(module: str) -> Path:
    """Return the source of a module."""
    return ROOT / (module.replace(".", "/") + ".py")


def run_tests(
    tests: Sequence[str], tree: ast.Module | None, module: str, cpu_s: float, wall_s: float
) -> tuple[str, float]:
    """Run tests in a fork, on the changed module if there is a tree. Returns (what noticed it or "", CPU seconds)."""
    read, write = os.pipe()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if not child:
        os.close(read)
        said = "it cannot be imported"
        try:
            if cpu_s:
                resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s) + 1, int(cpu_s) + 2))
                signal.alarm(int(wall_s) + 1)
            if tree is not None:
                sys.meta_path.insert(0, _Changed(module, tree, str(path_of(module))))
            said = _pytest(tests)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it was noticed
            said = f"{type(error).__name__}"
        finally:
            os.write(write, (said or "-").encode()[:500])
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ("out of time" if not answer else "" if answer == "-" else answer), after.ru_utime - before.ru_utime


def _pytest(tests: Sequence[str]) -> str:
    """Run the tests here; return the first that failed, or ""."""

    class Noted:
        failed = ""

        def pytest_sessionstart(self) -> None:
            """Draw no smaller example of a failure: that takes longer than all else."""
            phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
            hypothesis.settings.register_profile("mutants", hypothesis.settings(), phases=phases, database=None)
            hypothesis.settings.load_profile("mutants")

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed and not self.failed:
                self.failed = report.nodeid

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed and not self.failed:
                self.failed = f"{report.nodeid} cannot be collected"

    noted = Noted()
    marks = "not ray and not wheel and not notebook and not simulation and not crash"
    words = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-m",
        marks,
        *(f"{ROOT}/tests/{test}" for test in tests),
    ]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        code = pytest.main(words, plugins=[noted])
    return noted.failed or ("" if code == 0 else f"pytest ended with {code}")


def examine(module: str, sample: int | None, seed: int, report: Path | None) -> list[Verdict]:
    """Run the mutants of a module, or ``sample`` of them drawn by ``seed``."""
    source = path_of(module).read_text()
    every = mutation.mutants(source)
    chosen = every if sample is None or sample >= len(every) else sorted(random.Random(seed).sample(every, sample))
    tests = [test for test in TESTS[module] if (ROOT / "tests" / test).exists()]
    wrong, base_s = run_tests(tests, None, module, 0, 0)
    if wrong:
        raise SystemExit(f"the tests of {module} fail without any change: {wrong}")
    print(f"{module}: {len(chosen)} of {len(every)} mutants; its tests take {base_s:.0f} s of CPU", flush=True)
    verdicts = []
    cpu_s = CPU_FACTOR * base_s + CPU_MORE_S
    for mutant in chosen:
        began = time.monotonic()
        by, _ = run_tests(tests, mutation.apply(source, mutant.number), module, cpu_s, WALL_FACTOR * cpu_s)
        verdicts.append(Verdict(module, mutant, by, round(time.monotonic() - began, 1)))
        if not by:
            print(f"  survived: line {mutant.line}, {mutant.function}: {mutant.was}  ->  {mutant.became}", flush=True)
        if report is not None:
            with report.open("a") as file:
                file.write(
                    json.dumps({"module": module, **mutant._asdict(), "by": by, "took_s": verdicts[-1].took_s}) + "\n"
                )
    return verdicts


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"default: all of {', '.join(TESTS)}")
    parser.add_argument("--sample", type=int, metavar="COUNT", help="as many mutants of each module  [default: all]")
    parser.add_argument("--seed", type=int, default=0, help="for the sample")
    parser.add_argument("--least", type=float, default=0.0, metavar="PERCENT", help="that must be noticed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a line for each mutant")
    parser.add_argument("--list", action="store_true", help="only count the mutants")
    options = parser.parse_args()
    unknown = sorted({*options.modules} - {*TESTS})
    if unknown:
        parser.error(f"no tests are named for {unknown[0]}; there are: {', '.join(TESTS)}")
    modules = options.modules or list(TESTS)
    if options.list:
        for module in modules:
            print(f"{module:32}{len(mutation.mutants(path_of(module).read_text())):6}")
        return 0
    below = False
    for module in modules:
        verdicts = examine(module, options.sample, options.seed, options.json)
        noticed = 100 * sum(bool(verdict.by) for verdict in verdicts) / max(1, len(verdicts))
        below = below or noticed < options.least
        print(f"{module}: {noticed:.0f} % of {len(verdicts)} noticed", flush=True)
    return 1 if below else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
