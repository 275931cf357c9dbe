"""Many seeds on all cores: each in a process that may die or hang without the batch being lost.

A seed is handed to a worker when the worker has done the one before, so the parent always knows which seed a worker has.
One that dies costs its seed (rule "worker died"), one whose seed takes too long ends itself with a traceback of where it
was (rule "stuck"; ``faulthandler`` does that from C, whatever Python is doing); another worker goes on with the rest.
Too long is processor time, which a busy machine does not lengthen, or many times that by the clock.
A run that raises costs nothing but its seed (``attempt``).

Workers are spawned, not forked: they begin with nothing of the parent's, as a replay does. Seeds do not see each other;
which worker ran a seed, and after which, makes no difference to its trace.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from simulation.attempt import attempt
from simulation.drawing import draw
from simulation.failure_report import report
from simulation.history import Violation
from simulation.observed import observed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIMIT_S = 120.0
_WAITS = 10
"""A run that waits takes no processor time: after this many times its limit, by the clock, it is stuck as well."""
_GRACE_S = 10.0
_STUCK = "Timeout ("
"""How faulthandler opens what it writes when the time by the clock is over."""


class Result(msgspec.Struct, kw_only=True):
    """What became of one seed, without its history and trace."""

    seed: int
    violations: list[Violation]
    trace_hash: str = ""
    virtual_s: float = 0.0
    operations: int = 0
    counts: dict[str, int] = {}
    seconds: float = 0.0
    report: str = ""
    """What to show to a person; empty if nothing is wrong."""
    reached: dict[str, list[int]] = {}
    """By file: the lines of the core reached for the first time in this worker, if that is measured."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker does with a seed. Must be importable where the worker is: no lambdas."""

    run: Callable[[int, bool], Result]
    weak: bool = False
    limit_s: float = LIMIT_S
    """Processor time that one seed may take."""

    @property
    def clock_limit_s(self) -> float:
        """How long one seed may take by the clock."""
        return _WAITS * self.limit_s


def run_seed(seed: int, weak: bool) -> Result:
    """Run one seed. ``weak``: W=1 and R=1, and all demanded of it that only strict quorums promise."""
    began_s = time.perf_counter()
    outcome = attempt(draw(seed, weak=weak), strict=not weak)
    return Result(
        seed=seed,
        violations=outcome.violations,
        trace_hash=outcome.trace_hash,
        virtual_s=outcome.virtual_s,
        operations=outcome.operations,
        counts=dict(sorted((Counter(outcome.counts) + observed(outcome)).items())),
        seconds=time.perf_counter() - began_s,
        report=report(outcome, replay(seed, weak=weak)) if outcome.violations else "",
    )


def replay(seed: int, *, weak: bool = False) -> str:
    """Return the command that runs a seed again."""
    return f"scripts/simulate --seed {seed}{' --weak' if weak else ''}"


def batch(seeds: Iterable[int], *, jobs: int = 0, job: Job | None = None) -> Iterator[Result]:
    """Run all seeds, ``jobs`` at a time (0: as many as there are cores); give each result as it comes."""
    job = job or Job(run=run_seed)
    left = iter(seeds)
    workers: list[_Worker] = []
    try:
        for _ in range(jobs or os.cpu_count() or 1):
            _employ(workers, job, left)
        while workers:
            ready = wait([worker.connection for worker in workers], timeout=1.0)
            for worker in list(workers):
                if worker.connection not in ready and not worker.overdue():
                    continue
                result = worker.result()
                yield result
                if worker.process.is_alive() and (seed := next(left, None)) is not None:
                    worker.give(seed)
                    continue
                worker.end()
                workers.remove(worker)
                _employ(workers, job, left)
    finally:
        for worker in workers:
            worker.end()


def _employ(workers: list[_Worker], job: Job, left: Iterator[int]) -> None:
    """Start a worker for the next seed, if there is one."""
    seed = next(left, None)
    if seed is not None:
        workers.append(_Worker(job))
        workers[-1].give(seed)


class _Worker:
    """The parent's side of a worker."""

    def __init__(self, job: Job) -> None:
        self._job = job
        handle, name = tempfile.mkstemp(prefix="raykv-simulate-")
        os.close(handle)
        self._last_words = Path(name)
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, job, name), daemon=True)
        self.process.start()
        theirs.close()
        self._seed = 0
        self._since_s = 0.0

    def give(self, seed: int) -> None:
        """Let it run a seed."""
        self._seed, self._since_s = seed, time.monotonic()
        with contextlib.suppress(OSError):  # it has died; ``result`` says so
            self.connection.send(seed)

    def overdue(self) -> bool:
        """Whether it should have ended itself by now."""
        return time.monotonic() - self._since_s > self._job.clock_limit_s + _GRACE_S

    def result(self) -> Result:
        """Return what became of its seed; if it cannot say so itself, it is ended."""
        try:
            if not self.overdue() or self.connection.poll():
                result: Result = self.connection.recv()
                return result
            rule, cause = "stuck", "no sign of life"
        except (EOFError, OSError):
            self.process.join(_GRACE_S)
            rule, cause = "worker died", f"exit code {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        seconds = time.monotonic() - self._since_s
        words = self._last_words.read_text(errors="replace")
        if words.startswith(_STUCK) or self.process.exitcode == -signal.SIGPROF:
            rule = "stuck"
        violation = Violation(rule, "", f"after {seconds:.1f} s: {cause}\n{words}".rstrip())
        report = _reported(self._seed, violation, weak=self._job.weak)
        return Result(seed=self._seed, violations=[violation], seconds=seconds, report=report)

    def end(self) -> None:
        """End it."""
        self.connection.close()
        self.process.kill()
        self.process.join()
        self._last_words.unlink(missing_ok=True)


def _work(connection: Connection, job: Job, last_words: str) -> None:
    """Run one seed after the other, for as long as the parent wants."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends us
    with open(last_words, "w") as words:
        faulthandler.enable(words)
        faulthandler.register(signal.SIGPROF, words, chain=True)  # and then it ends, as by any SIGPROF
        gc.collect()
        gc.freeze()  # each run ends with a collection, which need not look at the modules again
        while True:
            try:
                seed = connection.recv()
            except (EOFError, OSError):
                return
            signal.setitimer(signal.ITIMER_PROF, job.limit_s)
            faulthandler.dump_traceback_later(job.clock_limit_s, exit=True, file=words)
            try:
                result = job.run(seed, job.weak)
            except Exception as error:  # noqa: BLE001 - a report that cannot be made must not end the batch
                text = "".join(traceback.format_exception(error)).rstrip()
                violation = Violation(f"raised {type(error).__name__}", "", text)
                result = Result(seed=seed, violations=[violation], report=_reported(seed, violation, weak=job.weak))
            faulthandler.cancel_dump_traceback_later()
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            connection.send(result)


def _reported(seed: int, violation: Violation, *, weak: bool) -> str:
    return f"seed {seed}: {violation.rule}\n{violation.text}\nagain:     {replay(seed, weak=weak)}"
