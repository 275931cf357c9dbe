"""Drills: small worlds about one matter each, run beside every cluster of a seed.

A run of a whole cluster meets everything, and the rare orders of a few steps seldom; a drill has only the parts that it is
about, and meets little else. Both run the real code. ``duel`` is about the cluster's state, ``rot_drill`` about a node
whose disk rots, ``power_drill`` about one whose host loses its power, ``copies_drill`` about copies that differ, and nodes
that make themselves whole. ``copies_scenes`` and ``register_scenes`` are shorter still: a
schedule each, played as it is told.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from simulation.copies_drill import copies_drill
from simulation.copies_scenes import AT_ONCE as SCENES_AT_ONCE
from simulation.copies_scenes import copies_scene
from simulation.power_drill import power_drill
from simulation.register_fuzzer import duel
from simulation.register_scenes import register_scene
from simulation.rot_drill import rot_drill

if TYPE_CHECKING:
    from raykv.sim.history import Violation

DUELS = 4
ROT_DRILLS = 3
COPIES_DRILLS = 2

_DRILLS = (
    (duel, DUELS), (rot_drill, ROT_DRILLS), (copies_drill, COPIES_DRILLS), (power_drill, 1), (copies_scene, SCENES_AT_ONCE),
    (register_scene, 1),
)  # fmt: skip
"""Each, and how often it is run beside a seed."""


def drilled(seed: int, rounds: int = 1) -> tuple[list[Violation], str]:
    """Run the drills of a seed, each a few times; return what was wrong, and the hash of all their traces."""
    found: list[Violation] = []
    logger = logging.getLogger("raykv")
    quiet, propagate = logging.NullHandler(), logger.propagate
    logger.addHandler(quiet)
    logger.propagate = False
    try:
        return found, _all(seed, rounds, found)
    finally:
        logger.propagate = propagate
        logger.removeHandler(quiet)


def _all(seed: int, rounds: int, found: list[Violation]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for drill, times in _DRILLS:
        for number in range(times * rounds):
            wrong, trace = drill(seed, number)
            found += wrong
            whole.update(trace.encode())
    return whole.hexdigest()
