"""A test for each of many seeds, with pytest: ``@raykv.sim.seeds(20, faults=True)``.

    @raykv.sim.seeds(20, faults=True)
    def test_my_queue_survives_failures(world):
        ...

pytest runs one test for each seed, with its own ``world`` (``raykv.sim.start(seed, faults=True)``), which ends with it. A
test may take ``seed`` as well, or ``seed`` alone and start its own world. An ``async def`` runs in ``world.run``, without
any plugin.

A failure reports how to rerun it: the line that starts the world, and the command for pytest. ``RAYKV_SEEDS=7`` in the
environment, or ``3,7``, or ``0-999``, replaces the seeds that the test names.

pytest is imported when the decorator is used, not before.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from raykv.config import check_count, shown
from raykv.errors import InvalidOption
from raykv.sim.world import MAX_SEED, Options, World, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Test = TypeVar("Test", bound=Callable[..., Any])

VARIABLE = "RAYKV_SEEDS"
MAX_SEEDS = 100_000


def seeds(which: int | Iterable[int], /, **options: Unpack[Options]) -> Callable[[Test], Test]:
    """Make a test for each seed: ``which`` is their number, from 0, or the seeds themselves. ``options``: as of ``start``.

    Raises ``InvalidOption`` for an invalid number of seeds, and for a test that takes neither ``world`` nor ``seed``.
    """
    named = range(check_count("seeds", which, 1, MAX_SEEDS)) if not hasattr(which, "__iter__") else which
    chosen = _asked_for() or [check_count("a seed", seed, -MAX_SEED, MAX_SEED) for seed in named]
    if unknown := sorted(options.keys() - inspect.signature(start).parameters.keys()):
        raise InvalidOption(f"a simulated world has no option {', '.join(unknown)}")

    def of_each(test: Test) -> Test:
        import pytest

        mark = pytest.mark.parametrize("seed", chosen, ids=[f"seed{seed}" for seed in chosen])
        made: Test = mark(_of_a_seed(test, options))
        return made

    return of_each


def _of_a_seed(test: Any, options: Options) -> Callable[..., None]:
    """Return the test as a function that takes ``seed`` as its last argument, and no ``world``."""
    if not inspect.isfunction(test):
        raise InvalidOption(f"seeds decorates a test function; got {shown(test)}")
    if inspect.isgeneratorfunction(test) or inspect.isasyncgenfunction(test):
        raise InvalidOption(f"{test.__name__} is a generator: it would be called, and none of it run")
    signature = inspect.signature(test)
    wanted = {"world", "seed"} & signature.parameters.keys()
    if not wanted:
        raise InvalidOption(f"{test.__name__} takes neither world nor seed, so no seed would change anything in it")
    if inspect.iscoroutinefunction(test) and "world" not in wanted:
        raise InvalidOption(f"{test.__name__} is async and takes no world, in whose time it could run")
    if options and "world" not in wanted:
        raise InvalidOption(
            f"{test.__name__} takes no world, so these options would change nothing: {', '.join(options)}"
        )

    @functools.wraps(test)
    def of_a_seed(*arguments: Any, seed: int, **fixtures: Any) -> None:
        if "seed" in wanted:
            fixtures["seed"] = seed
        try:
            if "world" not in wanted:
                test(*arguments, **fixtures)
                return
            with start(seed, **options) as world:
                _finish(world, test(*arguments, world=world, **fixtures))
        except BaseException as error:  # pytest.fail raises no Exception
            error.add_note(f"or: {_command(seed)}")
            raise

    others = [each for name, each in signature.parameters.items() if name not in {"world", "seed"}]
    taken = inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY)
    vars(of_a_seed)["__signature__"] = signature.replace(parameters=[*others, taken])
    return of_a_seed


def _finish(world: World, begun: Any) -> None:
    if inspect.iscoroutine(begun):
        world.run(begun)


def _command(seed: int) -> str:
    """Return the command that runs the test of this seed alone."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0].partition("[")[0]  # "file::test[seed7] (call)"
    return f'{VARIABLE}={seed} python -m pytest "{test}"'.removesuffix(' ""')


def _asked_for() -> list[int]:
    """Return the seeds that the environment names."""
    text = os.environ.get(VARIABLE, "").strip()
    found: list[int] = []
    for part in text.split(",") if text else []:
        if (match := re.fullmatch(r"\s*(-?\d{1,19})(?:-(\d{1,19}))?\s*", part)) is None:
            raise InvalidOption(f"{VARIABLE} is a seed, several (3,7), or a range (0-999); got {shown(text)}")
        first, last = int(match[1]), int(match[2] or match[1])
        check_count("the number of seeds", last - first + 1, 1, MAX_SEEDS)
        found += [check_count("a seed", seed, -MAX_SEED, MAX_SEED) for seed in range(first, last + 1)]
    return found
