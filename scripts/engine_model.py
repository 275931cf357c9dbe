"""Run the storage engine beside a dict: many runs of many steps, drawn by Hypothesis.

See scripts/simulation/engine_model.py. A run that fails is shrunk, and printed as the steps that show it again; the exit
code is 1 then.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from simulation.engine_model import EngineMachine


def run(runs: int, steps: int, seed: int) -> int:
    """Run the model; return the exit code. Runs come in batches of 100, each drawn from a seed of its own."""
    logging.getLogger("raykv.storage").setLevel(logging.CRITICAL)  # every second disk has a torn tail
    begun = time.monotonic()
    done = 0
    while done < runs:
        batch = min(100, runs - done)
        machine = type("EngineMachine", (EngineMachine,), {"_hypothesis_internal_use_seed": seed + done // 100})
        how = settings(
            max_examples=batch, stateful_step_count=steps, deadline=None, database=None, print_blob=False,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
        )  # fmt: skip
        run_state_machine_as_test(machine, settings=how)
        done += batch
        took_s = time.monotonic() - begun
        print(f"{done:,} of {runs:,} runs of up to {steps} steps, {took_s:.0f} s", flush=True)
    return 0


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=2_000, help="how many runs (default 2,000)")
    parser.add_argument("--steps", type=int, default=100, help="steps of a run, at most (default 100)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first hundred runs; the next take the next (default 0)"
    )
    options = parser.parse_args()
    return run(options.runs, options.steps, options.seed)


if __name__ == "__main__":
    sys.exit(main())
