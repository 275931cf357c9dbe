"""A run that may go wrong in any way: what it raises is a violation like another.

A batch must go on after a seed whose run ended in an exception, and shrinking must be able to keep such a failure.
"""

from __future__ import annotations

import gc
import hashlib
import sys
import traceback
from typing import TYPE_CHECKING

import msgspec

from simulation.fuzzers import fuzz
from simulation.history import Violation
from simulation.run import Outcome, run

if TYPE_CHECKING:
    from simulation.scenario import Scenario


def attempt(scenario: Scenario, *, strict: bool = True) -> Outcome:
    """Run a scenario, keeping history and trace. An exception becomes a violation of the rule "raised <its class>"."""
    try:
        outcome = run(scenario, keep=True, strict=strict)
        return outcome if not scenario.fuzzers else _with_fuzzers(outcome, scenario)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - ProcessEnded is no Exception, and may get here too
        rule, text = f"raised {type(error).__name__}", "".join(traceback.format_exception(error)).rstrip()
    _clear_away()
    return Outcome(
        seed=scenario.seed,
        violations=[Violation(rule, "", text)],
        trace_hash="",
        virtual_s=0.0,
        operations=0,
        events=0,
        counts={},
        scenario=scenario,
    )


def _with_fuzzers(outcome: Outcome, scenario: Scenario) -> Outcome:
    found, trace_hash = fuzz(scenario.seed, scenario.fuzzers)
    both = hashlib.blake2b((outcome.trace_hash + trace_hash).encode(), digest_size=16)
    return msgspec.structs.replace(outcome, violations=outcome.violations + found, trace_hash=both.hexdigest())


def _clear_away() -> None:
    """Collect what the run left behind, tasks of a loop that is closed, without what Python has to say of each."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
