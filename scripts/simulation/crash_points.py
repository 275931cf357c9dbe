"""Crash points: before every operation on the disk, every crash.

A ``StorageLoad`` runs; before each operation that would change its disk, the disks that a crash could leave at this
very moment (``LegalDisks``; all of them if they are few, else the extremes and some drawn by chance) are recovered on
the side, one by one, and compared with what the storage must hold (``Promise``). Then a crash meets this recovery too,
before one of its operations or after the last; what that leaves is recovered in turn, and must show the same. The load
goes on untouched; now and then it gets a crash of its own, so that later points stand on what recoveries made.

After Pillai et al., "All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
Applications" (OSDI 2014), whose tool ALICE enumerates the crash states of a trace, and LevelDB's
``db/fault_injection_test.cc``, which forgets what was not synced and recovers.

A point is the number of the operation in the load, from 1; with the load's seed and the choice of a disk it names a
*state*, and ``replay`` judges that one alone. Disks that were judged before, under the same promise, are not judged
again, nor counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from simulation.legal_disks import PROCESS_DEATH, LegalDisks, seeded
from simulation.storage_load import Crashed, StorageLoad
from simulation.storage_promise import bare, look, open_directory, open_engine, shown_by

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from raykv.config import NodeConfig
    from raykv.sim.disk import SimDisk
    from simulation.storage_promise import Found, Promise

STEPS = 400
"""The operations of one load: about 600 points."""
IN_FULL = 32
"""Up to this many legal disks are all judged."""
AT_MOST = 8
"""From more, this many are drawn, beside the extremes."""
_LOAD_CRASHES = 0.01
"""The share of points at which the load itself crashes."""
_RECOVERY_OPERATIONS = 24
"""A crash comes before one of this many operations of a recovery; after it if it has fewer."""
_MORE = 0.15
"""The share of recoveries after a recovery that are crashed in turn."""


class Figures(NamedTuple):
    """What was done: crash points, different disks judged at them, and recoveries for that, those of cut-off ones too."""

    points: int
    states: int
    recoveries: int


class Violation(Exception):
    """A crash after which the storage does not keep its promise. ``replay(seed, point, choice)`` shows it again.

    ``operation`` and ``path``: what was about to happen. ``crashes``: what each crash left, in words, the first at that
    point, others within or after its recovery.
    """

    def __init__(
        self,
        seed: int,
        point: int,
        choice: int,
        operation: str,
        path: str,
        crashes: tuple[str, ...],
        expected: str,
        found: str,
    ) -> None:
        super().__init__(seed, point, choice, operation, path, crashes, expected, found)
        self.seed = seed
        self.point = point
        self.choice = choice
        self.operation = operation
        self.path = path
        self.crashes = crashes
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        crashes = "".join(f"\n  {crash}" for crash in self.crashes)
        return (
            f"{self.seed}:{self.point}:{self.choice}: a crash before {self.operation} {self.path}{crashes}"
            f"\n  expected: {self.expected}\n  found: {self.found}"
        )


def explore(seed: int, *, states: int | None = None, steps: int = STEPS) -> Figures:
    """Judge the crash points of one load, until it ends or ``states`` states are judged. Raises ``Violation``."""
    return _CrashPoints(seed, states).run(steps)


def replay(seed: int, point: int, choice: int, *, steps: int = STEPS) -> None:
    """Judge one state. Raises ``Violation`` if it is one, ``ValueError`` if there is no such state."""
    crash_points = _CrashPoints(seed, None, only=(point, choice))
    crash_points.run(steps)
    if not crash_points.ended:
        raise ValueError(f"the load of seed {seed} has {crash_points.point} points only")


class _Ended(Exception):
    """All that was asked for has been judged."""


class _CrashPoints:
    def __init__(self, seed: int, states: int | None, only: tuple[int, int] | None = None) -> None:
        self._seed = seed
        self._enough = states
        self._only = only
        self._chance = seeded("crashes", seed)
        self._load = StorageLoad(seed, self._before)
        self._judged: set[tuple[object, ...]] = set()
        self._states = self._recoveries = 0
        self._operation = self._path = ""
        self.point = 0
        self.ended = False

    def run(self, steps: int) -> Figures:
        """Run the load."""
        try:
            self._load.run(steps)
        except _Ended:
            self.ended = True
        return Figures(self.point, self._states, self._recoveries)

    def _before(self, operation: str, path: str) -> None:
        """Judge the moment before the operation, and crash the load if that is its lot."""
        self.point += 1
        self._operation, self._path = operation, path
        crashes = self._chance.random() < _LOAD_CRASHES
        if self._only is None:
            self._judge_all()
        elif self.point == self._only[0]:
            self._judge(self._legal_disks(), self._only[1])
            raise _Ended
        if crashes:
            legal = self._legal_disks()
            choice = legal.draw(self._chance)
            promise = self._judge(legal, choice)
            raise Crashed(legal.disk(choice), promise)

    def _legal_disks(self) -> LegalDisks:
        return LegalDisks(self._load.disk, (self._seed, self.point))

    def _judge_all(self) -> None:
        legal, promise = self._legal_disks(), self._load.promise
        for choice in legal.some(seeded(self._seed, self.point), IN_FULL, AT_MOST):
            if choice != PROCESS_DEATH:  # which differs from the one before at least by what the kernel still writes
                name = (
                    legal.fingerprint(choice), promise.durable, promise.durable_end, promise.registers, promise.identities,
                    tuple(promise.parts),
                )  # fmt: skip
                if name in self._judged:
                    continue
                self._judged.add(name)
            self._judge(legal, choice)
            self._states += 1
            if self._states == self._enough:
                raise _Ended

    def _judge(self, legal: LegalDisks, choice: int) -> Promise:
        """Judge one state; return the promise that the next process on that disk begins with."""
        rng = seeded(self._seed, self.point, choice)
        promise = self._load.promise
        kernel_lived = choice == PROCESS_DEATH

        def violation(crashes: tuple[str, ...], expected: str, found: str) -> Violation:
            all_crashes = (legal.words(choice), *crashes)
            return Violation(self._seed, self.point, choice, self._operation, self._path, all_crashes, expected, found)

        state = _State(self._load.config, violation)
        found = state.judge(legal.disk(choice), promise, rng, kernel_lived=kernel_lived, more=True)
        self._recoveries += state.recoveries
        return promise if kernel_lived else shown_by(found)


class _Cut(NamedTuple):
    """A crash in the midst of a recovery. ``opened``: the directory had been opened, durably."""

    disk: SimDisk
    kernel_lived: bool
    opened: bool
    words: str


class _Recovery:
    """One recovery, with a crash drawn before its operation number ``cut_at`` (from 0; None: nowhere)."""

    def __init__(self, disk: SimDisk, rng: random.Random, cut_at: int | None) -> None:
        self._disk = disk
        self._rng = rng
        self._left = cut_at
        self._opened = False
        self.cut: _Cut | None = None

    def run(self, config: NodeConfig) -> Found:
        """Open directory and engine as a storage process does, and return what they show."""
        if self._left is not None:
            self._disk.on_operation = self._before
        directory = open_directory(self._disk)
        self._opened = True
        engine = open_engine(self._disk, config, directory)
        return look(directory, engine, self._disk)

    def _before(self, operation: str, path: str) -> None:
        assert self._left is not None
        if self._left == 0:
            self.cut = self.crash(f"before {operation} {path} of the recovery")
        self._left -= 1

    def crash(self, moment: str) -> _Cut:
        """Draw what a crash leaves now."""
        legal = LegalDisks(self._disk, moment)
        choice = legal.draw(self._rng)
        words = f"{moment}: {legal.words(choice)}"
        return _Cut(legal.disk(choice), choice == PROCESS_DEATH, self._opened, words)


class _State:
    """One disk after a crash, and all that comes of it."""

    def __init__(self, config: NodeConfig, violation: Callable[[tuple[str, ...], str, str], Violation]) -> None:
        self._config = config
        self._violation = violation
        self.recoveries = 0

    def judge(
        self,
        disk: SimDisk,
        promise: Promise,
        rng: random.Random,
        *,
        kernel_lived: bool,
        more: bool,
        crashes: tuple[str, ...] = (),
    ) -> Found:
        """Recover ``disk`` and compare; with ``more``, then judge what a crash within or after this recovery leaves.

        ``kernel_lived``: the crash that left ``disk`` was the death of the process alone. Raises ``Violation``.
        """
        recovery = _Recovery(disk, rng, rng.randrange(_RECOVERY_OPERATIONS) if more else None)
        self.recoveries += 1
        try:
            found = recovery.run(self._config)
        except Exception as error:
            raise self._violation(crashes, "a recovery", repr(error)) from error
        broken = promise.broken_by(found, kernel_lived=kernel_lived)
        if broken is not None:
            raise self._violation(crashes, *broken)
        if not more:
            return found
        cut = recovery.cut
        if cut is None:
            cut = recovery.crash("after the recovery")
            promised = shown_by(found)
            if kernel_lived:  # a recovery makes the node's own files safe, no part of a backup
                promised = promised._replace(parts=promise.parts)
        else:
            # What the kernel had not written yet may be lost with a recovery that nobody saw the end of.
            promised = promise if kernel_lived else shown_by(found)
        identity = bare(found.identity)
        identities = (identity,) if cut.opened else (*promised.identities, identity)
        self.judge(
            cut.disk,
            promised._replace(identities=identities),
            rng,
            kernel_lived=cut.kernel_lived,
            more=rng.random() < _MORE,
            crashes=(*crashes, cut.words),
        )
        return found
