"""How many nodes a store should have, from what they carry: a pure policy, asked again and again.

A node is to be used between 40 and 70 percent of what it was said to be able to carry (``Limits``), by operations or by
bytes, whichever is more. Above the band nodes are added, below it one is taken away at a time, and in it nothing is done.

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

import msgspec

from raykv.config import MAX_NODES, check_count, check_seconds
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_COOL_DOWN_S = 86_400.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a store may grow and shrink to, and what a node of weight 1 can carry. ``InvalidOption`` if they do not fit."""

    ops_per_s: float
    """Operations a second, of all kinds, of which a node of weight 1 is capable."""
    node_bytes: int = 0
    """Bytes on disk for a node of weight 1; 0: no matter."""
    low: float = 0.40
    high: float = 0.70
    least: int = 3
    most: int = 16
    cool_down_s: float = 300.0
    """After a change no change in the other direction for so long."""
    ahead_s: float = 240.0
    """How long it takes until a node that joins carries its share."""
    hot_share: float = 0.25
    """A key that draws more than this share of what a node can carry is hot."""

    def __post_init__(self) -> None:
        if not self.ops_per_s > 0:
            raise InvalidOption(f"ops_per_s must be above 0; got {self.ops_per_s!r}")
        if not 0 < self.low < self.high <= 1:
            raise InvalidOption(f"the band must lie between 0 and 1; got {self.low!r} to {self.high!r}")
        if not 0 < self.hot_share <= 1:
            raise InvalidOption(f"hot_share is a share of a node; got {self.hot_share!r}")
        check_count("least", self.least, 1, MAX_NODES)
        check_count("most", self.most, self.least, MAX_NODES)
        check_seconds("cool_down_s", self.cool_down_s, MAX_COOL_DOWN_S)


class NodeLoad(NamedTuple):
    """What a node carries now. ``heaviest``: its busiest keys (encoded) with their operations a second."""

    node_id: str
    weight: float
    ops_per_s: float
    disk_bytes: int = 0
    heaviest: tuple[tuple[bytes, float], ...] = ()


class Decision(NamedTuple):
    """What to do, and why. ``nodes``: how many to add; ``node_id``: which to take away; ``hot``: keys that are too hot."""

    action: Literal["add", "remove", "nothing"]
    why: str
    nodes: int = 0
    node_id: str = ""
    hot: tuple[bytes, ...] = ()


class Autoscaler:
    """The policy with what it remembers: the last minutes, and its last change."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._seen: deque[tuple[float, float]] = deque()
        """(moment, operations a second without those of hot keys)."""
        self._changed: tuple[float, str] | None = None

    def decide(self, loads: Sequence[NodeLoad], now_s: float, *, moving: bool = False) -> Decision:
        """Return what to do now. ``moving``: partitions are on their way because of an earlier change. O(nodes).

        The caller does it; a decision other than "nothing" counts as done.
        """
        limits = self.limits
        weight = sum(load.weight for load in loads)
        if not loads or weight <= 0:
            return Decision("nothing", "no node says what it carries")
        hot = self._hot(loads)
        drawn = sum(load.ops_per_s for load in loads)
        spread = max(0.0, drawn - sum(hot.values()))
        forecast = self._forecast(spread, now_s)
        each = weight / len(loads)
        by_bytes = sum(load.disk_bytes for load in loads) / (weight * limits.node_bytes) if limits.node_bytes else 0.0
        used, ahead = (ops / (weight * limits.ops_per_s) for ops in (spread, forecast))
        used, ahead = max(used, by_bytes), max(ahead, by_bytes)
        said = f"{used:.0%} of what {len(loads)} nodes can carry is used, {ahead:.0%} in {limits.ahead_s:.0f} s"
        keys = tuple(hot)
        if max(used, ahead) > limits.high:
            middle = (limits.low + limits.high) / 2
            wanted = ceil(max(used, ahead) * len(loads) / middle)
            more = min(wanted, limits.most) - len(loads)
            if more <= 0:
                return Decision("nothing", f"{said}, and there are the most nodes allowed ({limits.most})", hot=keys)
            return self._change("add", now_s, said, moving, Decision("add", said, nodes=more, hot=keys))
        if hot and drawn / (weight * limits.ops_per_s) > limits.high:
            return Decision("nothing", f"{said}; more is drawn by keys that more nodes would not help", hot=keys)
        if max(used, ahead) < limits.low and len(loads) > limits.least:
            leaving = min(loads, key=lambda load: (load.weight, load.ops_per_s, load.node_id))
            left = max(used, ahead) * weight / max(weight - leaving.weight, each / 2)
            if left < (limits.low + 2 * limits.high) / 3:
                return self._change(
                    "remove", now_s, said, moving, Decision("remove", said, node_id=leaving.node_id, hot=keys)
                )
        return Decision("nothing", said, hot=keys)

    def _change(self, direction: str, now_s: float, said: str, moving: bool, decision: Decision) -> Decision:
        """Let a decision out, unless it comes too early."""
        if moving:
            return Decision("nothing", f"{said}; partitions are still moving", hot=decision.hot)
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
