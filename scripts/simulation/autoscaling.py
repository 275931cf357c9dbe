"""A day of the autoscaler in virtual time: a load like a sine, with a burst, and changes that take their time.

Only the policy is real here; a change takes two to six minutes, as partitions move, and until then carries nothing.
"""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import NamedTuple

from raykv.config import ScalingConfig
from raykv.supervision.autoscaling import Autoscaler, NodeLoad

DAY_S = 86_400
LOOK_EVERY_S = 15
BURST_S = (50_000, 51_800)
BURST = 1.6
NOISE = 0.03
CHANGE_S = (120.0, 360.0)
MIDDLE, SWING = 4.5, 2.5
"""The load, in what a node can carry: in the middle of its swing, and how far that goes."""


class Day(NamedTuple):
    """What came of it: the share of the day in the band, (second, action, nodes) of each change, and every look."""

    inside: float
    changes: list[tuple[float, str, int]]
    looks: list[tuple[float, float, int]]
    """(second, load in nodes' worth, nodes)."""

    def turned_too_soon(self, cool_down_s: float) -> int:
        """Return how often the direction changed within the cool-down."""
        return sum(
            before[1] != after[1] and after[0] - before[0] < cool_down_s for before, after in pairwise(self.changes)
        )


def day(seed: int, limits: ScalingConfig | None = None) -> Day:
    """Let the policy follow a day."""
    limits = limits or ScalingConfig(ops_per_s=1000.0, most=20)
    rng, scaler = random.Random(seed), Autoscaler(limits)
    count, pending, busy_until_s, inside = 4, 0, 0.0, 0
    changes: list[tuple[float, str, int]] = []
    looks: list[tuple[float, float, int]] = []
    for now_s in range(0, DAY_S, LOOK_EVERY_S):
        if pending and now_s >= busy_until_s:
            count, pending = count + pending, 0
        burst = BURST if BURST_S[0] <= now_s < BURST_S[1] else 1.0
        load = (MIDDLE + SWING * math.sin(2 * math.pi * now_s / DAY_S)) * burst * rng.uniform(1 - NOISE, 1 + NOISE)
        looks.append((float(now_s), load, count))
        inside += limits.low <= load / count <= limits.high
        loads = [NodeLoad(f"n{number}", 1.0, load * limits.ops_per_s / count) for number in range(count)]
        decision = scaler.decide(loads, float(now_s), moving=bool(pending))
        if decision.action != "nothing":
            pending = decision.nodes if decision.action == "add" else -1
            busy_until_s = now_s + rng.uniform(*CHANGE_S)
            changes.append((float(now_s), decision.action, count + pending))
    return Day(inside / len(looks), changes, looks)
