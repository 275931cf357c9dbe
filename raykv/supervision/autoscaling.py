"""How many nodes a store should have, from what they carry: a pure policy, asked again and again.

A node is to be used between 40 and 70 percent of what it was said to be able to carry (``config.ScalingConfig``), by
operations or by bytes, whichever is more. Above the band nodes are added, below it one is taken away at a time, and in it
nothing is done. If a bound for their times is given, too, one is added while most nodes are slower. And if partitions lie
otherwise than the weights ask for (somebody has taken moves back), putting that right comes first.

**It looks ahead.** A node that joins helps only when its partitions have moved, so what counts is the load as it will be
then, by the trend of the last minutes; else a store that grows every morning would be late every morning.

**It does not swing.** After a change in one direction there is none in the other for the cool-down, and a node is taken
away only if those that stay are then well inside the band. Growing further while it grows is no swing.

**One hot key is no reason to grow.** However many nodes there are, the same N answer for it. What the keys draw that take
more than a share of a node is left out when it is asked whether nodes would help; if only those are too much, the answer
is to do nothing, and names them.

Left out: how the load is measured, and who acts (``supervisor``). Costs of hosts: a node is a node.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.config import ScalingConfig


class NodeLoad(NamedTuple):
    """What a node carries now. ``heaviest``: its busiest keys (encoded) with their operations a second."""

    node_id: str
    weight: float
    ops_per_s: float
    disk_bytes: int = 0
    heaviest: tuple[tuple[bytes, float], ...] = ()
    p99_ms: float = 0.0


class Decision(NamedTuple):
    """What to do, and why. ``nodes``: how many to add; ``node_id``: which to take away; ``hot``: keys that are too hot."""

    action: Literal["add", "remove", "rebalance", "nothing"]
    why: str
    nodes: int = 0
    node_id: str = ""
    hot: tuple[bytes, ...] = ()


class Autoscaler:
    """The policy with what it remembers: the last minutes, and its last change."""

    def __init__(self, limits: ScalingConfig) -> None:
        self.limits = limits
        self._seen: deque[tuple[float, float]] = deque()
        """(moment, operations a second without those of hot keys)."""
        self._changed: tuple[float, str] | None = None

    def decide(
        self, loads: Sequence[NodeLoad], now_s: float, *, moving: bool = False, uneven: bool = False
    ) -> Decision:
        """Return what to do now. O(nodes).

        ``moving``: partitions are on their way because of an earlier change. ``uneven``: they lie otherwise than the
        weights ask for. The caller does it; a decision other than "nothing" counts as done.
        """
        limits = self.limits
        weight = sum(load.weight for load in loads)
        if not loads or weight <= 0:
            return Decision("nothing", "no node says what it carries")
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
            said = f"{said}; one node carries {fullest:.0%}, and partitions lie otherwise than the weights ask for"
            return self._change("rebalance", now_s, moving, Decision("rebalance", said))
        wanted = ceil(most * len(loads) / ((limits.low + limits.high) / 2)) if most > limits.high else 0
        if not wanted and (slow_ms := self._slow_ms(loads)):
            wanted, said = len(loads) + 1, f"{said}; one answer of a hundred takes {slow_ms:.3g} ms or longer"
        if wanted:
            more = min(wanted, limits.most) - len(loads)
            if more <= 0:
                return Decision("nothing", f"{said}, and there are the most nodes allowed ({limits.most})", hot=keys)
            return self._change("add", now_s, moving, Decision("add", said, nodes=more, hot=keys))
        if hot and drawn / (weight * limits.ops_per_s) > limits.high:
            return Decision("nothing", f"{said}; more is drawn by keys that more nodes would not help", hot=keys)
        if most < limits.low and len(loads) > limits.least:
            leaving = min(loads, key=lambda load: (load.weight, load.ops_per_s, load.node_id))
            left = most * weight / max(weight - leaving.weight, weight / len(loads) / 2)
            if left < (limits.low + 2 * limits.high) / 3:
                decision = Decision("remove", said, node_id=leaving.node_id, hot=keys)
                return self._change("remove", now_s, moving, decision)
        return Decision("nothing", said, hot=keys)

    def changed(self, now_s: float, direction: str) -> None:
        """Remember a change that this policy has not decided."""
        self._changed = (now_s, direction)

    def _slow_ms(self, loads: Sequence[NodeLoad]) -> float:
        """Return how slow most nodes are, if that is too slow and they have something to do; else 0."""
        limits = self.limits
        busy = sorted(load.p99_ms for load in loads if load.ops_per_s > limits.low / 2 * load.weight * limits.ops_per_s)
        middle_ms = busy[(len(busy) - 1) // 2] if 2 * len(busy) > len(loads) else 0.0
        return middle_ms if limits.p99_ms and middle_ms > limits.p99_ms else 0.0

    def _change(self, direction: str, now_s: float, moving: bool, decision: Decision) -> Decision:
        """Let a decision out, unless it comes too early."""
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
                    "nothing", f"{said}; it has just changed the other way, {wait_s:.0f} s to wait", hot=decision.hot
                )
        self._changed = (now_s, direction)
        return decision

    def _forecast(self, ops_per_s: float, now_s: float) -> float:
        """Return the load as it will be when a node that joins now carries its share, by the trend of as long a time."""
        seen, span_s = self._seen, self.limits.ahead_s
        while seen and now_s - seen[0][0] > span_s:
            seen.popleft()
        seen.append((now_s, ops_per_s))
        past_s = now_s - seen[0][0]
        if past_s < span_s / 2:
            return ops_per_s
        return max(0.0, ops_per_s + (ops_per_s - seen[0][1]) * span_s / past_s)

    def _hot(self, loads: Sequence[NodeLoad]) -> dict[bytes, float]:
        """Return the hot keys with what they draw of all nodes, the hottest first."""
        drawn: dict[bytes, float] = {}
        most: dict[bytes, float] = {}
        for load in loads:
            for key, ops_per_s in load.heaviest:
                drawn[key] = drawn.get(key, 0.0) + ops_per_s
                most[key] = max(most.get(key, 0.0), ops_per_s / load.weight)
        bound = self.limits.hot_share * self.limits.ops_per_s
        return {key: drawn[key] for key in sorted(drawn, key=lambda key: (-drawn[key], key)) if most[key] > bound}
