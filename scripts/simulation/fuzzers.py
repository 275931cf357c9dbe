"""Fuzzers: small worlds about one matter each, run beside every cluster of a seed.

A run of a whole cluster meets everything, and the rare orders of a few steps seldom; a fuzzer has only the parts that
it is about, and meets little else. Both run the real code. ``register_fuzzer`` is about the cluster's state,
``corruption_fuzzer`` about a node whose disk corrupts data, ``power_fuzzer`` about one whose host loses its power,
``copies_fuzzer`` about copies that differ, and nodes that make themselves complete, ``leader_fuzzer`` about leaders of
linearizable buckets, ``queue_fuzzer`` about work queues, in a whole cluster. ``copies_schedules``,
``register_schedules`` and ``leader_schedules`` are shorter still: each plays one fixed schedule.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from simulation.copies_fuzzer import fuzz_copies
from simulation.copies_schedules import AT_ONCE as SCHEDULES_AT_ONCE
from simulation.copies_schedules import play_copies_schedule
from simulation.corruption_fuzzer import fuzz_corruption
from simulation.leader_fuzzer import fuzz_leaders
from simulation.leader_schedules import AT_ONCE as LEADER_SCHEDULES_AT_ONCE
from simulation.leader_schedules import play_leader_schedule
from simulation.power_fuzzer import fuzz_power
from simulation.queue_fuzzer import fuzz_queue
from simulation.quiet import quiet
from simulation.register_fuzzer import fuzz_register
from simulation.register_schedules import play_register_schedule

if TYPE_CHECKING:
    from simulation.history import Violation

REGISTER_RUNS = 4
CORRUPTION_RUNS = 3
COPIES_RUNS = 2
LEADER_RUNS = 2

_FUZZERS = (
    (fuzz_register, REGISTER_RUNS), (fuzz_corruption, CORRUPTION_RUNS), (fuzz_copies, COPIES_RUNS), (fuzz_power, 1),
    (fuzz_leaders, LEADER_RUNS), (fuzz_queue, 1), (play_copies_schedule, SCHEDULES_AT_ONCE), (play_register_schedule, 1),
    (play_leader_schedule, LEADER_SCHEDULES_AT_ONCE),
)  # fmt: skip
"""Each, and how often it is run beside a seed."""


def fuzz(seed: int, rounds: int = 1) -> tuple[list[Violation], str]:
    """Run the fuzzers of a seed, each a few times; return what was wrong, and the hash of all their traces."""
    found: list[Violation] = []
    traces = hashlib.blake2b(digest_size=16)
    with quiet():
        for fuzzer, times in _FUZZERS:
            for number in range(times * rounds):
                wrong, trace = fuzzer(seed, number)
                found += wrong
                traces.update(trace.encode())
    return found, traces.hexdigest()
