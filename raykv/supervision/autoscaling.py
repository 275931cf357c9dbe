"""How many nodes a store should have, given their load: a pure policy, evaluated periodically.

A node should run at 40 to 70 percent of its configured capacity (``config.ScalingConfig``), in operations or in bytes,
whichever is higher. Above the band nodes are added, below it one at a time is removed, within it nothing happens. With a
latency bound, a node is also added while most nodes are slower. If the partitions do not match the weights (moves were
aborted), restoring the balance comes first.

**It looks ahead.** A joining node helps only once its partitions have moved, so the policy uses the load forecast for
that moment from the trend of the last minutes; otherwise a store that grows every morning is late every morning.

**It does not oscillate.** After a change, no change in the other direction is made during the cool-down, and a node is
removed only if the remaining nodes are then well inside the band. Several growth steps in a row are allowed.

**One hot key is no reason to grow.** However many nodes there are, the same N serve it. Keys that take more than a given
share of a node are excluded from the load that decides on growth; if they alone exceed the band, the decision is to do
nothing, and it names them.

Omitted: measuring the load, and acting on decisions (``scaling``); the cost of hosts.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.config import ScalingConfig


class NodeLoad(NamedTuple):
    """A node's present load. ``heaviest``: its busiest keys (encoded) with their operations per second."""

    node_id: str
    weight: float
    ops_per_s: float
    disk_bytes: int = 0
    heaviest: tuple[tuple[bytes, float], ...] = ()
    p99_ms: float = 0.0


class Decision(NamedTuple):
    """What to do, and why. ``nodes``: how many to add; ``node_id``: which to remove; ``hot``: overly hot keys."""

    action: Literal["add", "remove", "rebalance", "nothing"]
    why: str
    nodes: int = 0
    node_id: str = ""
    hot: tuple[bytes, ...] = ()


class Autoscaler:
    """The policy with its memory: the load of the last minutes, and the last change."""

    def __init__(self, limits: ScalingConfig) -> None:
        self.limits = limits
        self._seen: deque[tuple[float, float]] = deque()
        """(time, operations per second, hot keys excluded)."""
        self._changed: tuple[float, str] | None = None

    def decide(
        self, loads: Sequence[NodeLoad], now_s: float, *, moving: bool = False, uneven: bool = False
    ) -> Decision:
        """Return what to do now. O(nodes).

        ``moving``: partitions are still moving because of an earlier change. ``uneven``: the partitions do not match
        the weights. The caller acts on the decision; any decision but "nothing" counts as carried out.
        """
        limits = self.limits
        weight = sum(load.weight for load in loads)
        if not loads or weight <= 0:
            return Decision("nothing", "no node reports its load")
        hot = self._hot(loads)
        drawn = sum(load.ops_per_s for load in loads)
        spread = max(0.0, drawn - sum(hot.values()))
        forecast = self._forecast(spread, now_s)
        by_bytes = sum(load.disk_bytes for load in loads) / (weight * limits.node_bytes) if limits.node_bytes else 0.0
        used, ahead = (max(ops / (weight * limits.ops_per_s), by_bytes) for ops in (spread, forecast))
        said = f"{used:.0%} of what {len(loads)} nodes can carry is used, {ahead:.0%} in {limits.ahead_s:.0f} s"
        most, keys = max(used, ahead), tuple(hot)
        fullest = max(load.ops_per_s / (load.weight * limits.ops_per_s) for load in loads)
        if uneven and fullest > limits.high and not hot:
            said = f"{said}; one node carries {fullest:.0%}, and the partitions do not match the weights"
            return self._change("rebalance", now_s, moving, Decision("rebalance", said))
        wanted = ceil(most * len(loads) / ((limits.low + limits.high) / 2)) if most > limits.high else 0
        if not wanted and (slow_ms := self._slow_ms(loads)):
            wanted, said = len(loads) + 1, f"{said}; the 99th percentile of answers is {slow_ms:.3g} ms"
        if wanted:
            more = min(wanted, limits.most) - len(loads)
            if more <= 0:
                return Decision("nothing", f"{said}, and the store has the maximum of {limits.most} nodes", hot=keys)
            return self._change("add", now_s, moving, Decision("add", said, nodes=more, hot=keys))
        if hot and drawn / (weight * limits.ops_per_s) > limits.high:
            return Decision("nothing", f"{said}; the rest is hot keys, which more nodes do not help", hot=keys)
        if most < limits.low and len(loads) > limits.least:
            leaving = min(loads, key=lambda load: (load.weight, load.ops_per_s, load.node_id))
            left = most * weight / max(weight - leaving.weight, weight / len(loads) / 2)
            if left < (limits.low + 2 * limits.high) / 3:
                decision = Decision("remove", said, node_id=leaving.node_id, hot=keys)
                return self._change("remove", now_s, moving, decision)
        return Decision("nothing", said, hot=keys)

    def changed(self, now_s: float, direction: str) -> None:
        """Record a change that this policy did not decide."""
        self._changed = (now_s, direction)

    def _slow_ms(self, loads: Sequence[NodeLoad]) -> float:
        """Return the median p99 of the busy nodes if most nodes are busy and it exceeds the bound; else 0."""
        limits = self.limits
        busy = sorted(load.p99_ms for load in loads if load.ops_per_s > limits.low / 2 * load.weight * limits.ops_per_s)
        middle_ms = busy[(len(busy) - 1) // 2] if 2 * len(busy) > len(loads) else 0.0
        return middle_ms if limits.p99_ms and middle_ms > limits.p99_ms else 0.0

    def _change(self, direction: str, now_s: float, moving: bool, decision: Decision) -> Decision:
        """Return the decision, or "nothing" if it comes too early."""
        said = decision.why
        if moving:
            return Decision("nothing", f"{said}; partitions are still moving", hot=decision.hot)
        if direction == "rebalance":
            return decision
        if self._changed is not None:
            at_s, last = self._changed
            if last != direction and now_s - at_s < self.limits.cool_down_s:
                wait_s = self.limits.cool_down_s - (now_s - at_s)
                return Decision(
                    "nothing",
                    f"{said}; the last change went the other way, {wait_s:.0f} s of cool-down left",
                    hot=decision.hot,
                )
        self._changed = (now_s, direction)
        return decision

    def _forecast(self, ops_per_s: float, now_s: float) -> float:
        """Return the load forecast for when a node that joins now carries its share, from the trend over as long a time."""
        seen, span_s = self._seen, self.limits.ahead_s
        while seen and now_s - seen[0][0] > span_s:
            seen.popleft()
        seen.append((now_s, ops_per_s))
        past_s = now_s - seen[0][0]
        if past_s < span_s / 2:
            return ops_per_s
        return max(0.0, ops_per_s + (ops_per_s - seen[0][1]) * span_s / past_s)

    def _hot(self, loads: Sequence[NodeLoad]) -> dict[bytes, float]:
        """Return the hot keys with their load on all nodes, hottest first."""
        drawn: dict[bytes, float] = {}
        most: dict[bytes, float] = {}
        for load in loads:
            for key, ops_per_s in load.heaviest:
                drawn[key] = drawn.get(key, 0.0) + ops_per_s
                most[key] = max(most.get(key, 0.0), ops_per_s / load.weight)
        bound = self.limits.hot_share * self.limits.ops_per_s
        return {key: drawn[key] for key in sorted(drawn, key=lambda key: (-drawn[key], key)) if most[key] > bound}
