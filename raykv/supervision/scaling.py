"""The autoscaler's loop: measures the nodes' load, asks the policy (``autoscaling``), and carries out the decision.

A supervisor that takes over starts with an empty memory: it knows no trend and no last change. It therefore waits for one
cool-down before it removes a node.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.config import ScalingConfig
from raykv.errors import InvalidOption, RaykvError
from raykv.records.keys import STORAGE_PREFIX_BYTES, decode_key, storage_bucket
from raykv.ring import targets
from raykv.supervision.autoscaling import Autoscaler, Decision, NodeLoad

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raykv.cluster.state import ClusterState
    from raykv.ports import Clock

logger = logging.getLogger("raykv.supervisor")

LOOK_EVERY_S = 5.0
MIN_OPS_PER_S = 1e-3
MIN_SHARE = 1e-3
"""Lower limits say nothing, and their quotients are beyond what a float holds."""


class Scaling:
    """One supervisor's autoscaler. ``run`` it for ever; it idles while the cluster's state has no limits."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        state: Callable[[], ClusterState],
        measure: Callable[[], Awaitable[list[NodeLoad]]],
        add: Callable[[str], Awaitable[object]],
        remove: Callable[[str, str], Awaitable[object]],
        rebalance: Callable[[str], Awaitable[object]],
    ) -> None:
        """``add(why)``, ``remove(node_id, why)``, ``rebalance(why)``: carry out decisions."""
        self._name = name
        self._clock = clock
        self._state = state
        self._measure = measure
        self._add = add
        self._remove = remove
        self._rebalance = rebalance
        self._policy: Autoscaler | None = None
        self._last: Decision | None = None
        self._failed = ""

    async def run(self) -> None:
        """Look, decide, act."""
        while True:
            limits = self._state().scaling
            if limits is None:
                self._policy, self._last, self._failed = None, None, ""
            else:
                if self._policy is None or self._policy.limits != limits:
                    self._policy = Autoscaler(limits)
                    self._policy.changed(self._clock.monotonic_s(), "add")
                await self._look(self._policy)
            await self._clock.sleep(LOOK_EVERY_S)

    async def _look(self, policy: Autoscaler) -> None:
        try:
            decision = await self._decide(policy)
        except RaykvError as error:
            if self._failed != str(error):
                logger.warning("store %s: %s", self._name, error)
            self._failed = str(error)
        else:
            await self._act(decision)

    async def _decide(self, policy: Autoscaler) -> Decision:
        loads, state = await self._measure(), self._state()
        if len(loads) < len(state.ring.members):
            return Decision("nothing", f"only {len(loads)} of {len(state.ring.members)} nodes report their load")
        try:
            return policy.decide(loads, self._clock.monotonic_s(), moving=state.goal is not None, uneven=uneven(state))
        except ArithmeticError as error:  # limits from before there were bounds
            raise InvalidOption(f"autoscaling: nothing follows from these limits: {error}") from None

    async def _act(self, decision: Decision) -> None:
        before, self._last = self._last, decision
        if decision.hot and (before is None or before.hot != decision.hot):
            logger.warning("store %s: hot keys: %s", self._name, ", ".join(map(_shown, self._keys(decision))))
        if decision.action == "nothing":
            return
        logger.info("store %s: autoscaling: %s: %s", self._name, _what(decision), decision.why)
        self._failed = ""
        why = f"by the autoscaler: {decision.why}"
        try:
            match decision.action:
                case "add":
                    limits = self._state().scaling
                    for _ in range(decision.nodes):
                        if self._state().scaling != limits:
                            break  # while a machine was awaited
                        await self._add(why)
                case "remove":
                    await self._remove(decision.node_id, why)
                case "rebalance":
                    await self._rebalance(why)
        except RaykvError as error:
            self._failed = str(error)
            logger.warning("store %s: autoscaling: %s failed: %s", self._name, _what(decision), error)

    def last_decision(self) -> dict[str, Any] | None:
        """Return the last decision and its reason, for the status; None while autoscaling is off."""
        if self._state().scaling is None:
            return None
        decision = self._last or Decision("nothing", "it has just started")
        return {"would": _what(decision), "why": decision.why, "hot": self._keys(decision), "failed": self._failed}

    async def report(self, tried: ScalingConfig | None = None) -> dict[str, Any]:
        """Return its observations and decision as plain data. ``tried``: limits to use instead of those that are set."""
        state = self._state()
        limits, decision = tried or state.scaling, self._last
        if limits is not None and (tried is not None or decision is None):
            decision = await self._decide(Autoscaler(limits))
        loads = await self._measure()
        return {
            "on": state.scaling is not None,
            "dry_run": tried is not None,
            "limits": None if limits is None else msgspec.to_builtins(limits),
            "action": "nothing" if decision is None else decision.action,
            "would": "" if decision is None else _what(decision),
            "why": "it is off" if decision is None else decision.why,
            "hot": [] if decision is None else self._keys(decision),
            "failed": self._failed,
            "nodes": [
                {
                    "node_id": load.node_id,
                    "ops_per_s": load.ops_per_s,
                    "disk_bytes": load.disk_bytes,
                    "p99_ms": load.p99_ms,
                    "used": None if limits is None else round(load.ops_per_s / (load.weight * limits.ops_per_s), 3),
                }
                for load in loads
            ],
        }

    def _keys(self, decision: Decision) -> list[dict[str, Any]]:
        return [named(key, self._state()) for key in decision.hot]


def named(key: bytes, state: ClusterState) -> dict[str, Any]:
    """Return a storage key's bucket and key as text; a bytes key as its repr (``b'...'``)."""
    names = {entry.bucket_id: entry.config.name for entry in state.buckets}
    shown = decode_key(key[STORAGE_PREFIX_BYTES:])
    return {
        "bucket": names.get(storage_bucket(key), "?"),
        "key": shown if isinstance(shown, str) else repr(shown),  # the status is plain data, for JSON too
    }


def uneven(state: ClusterState) -> bool:
    """Return whether a node's copies do not match its weight (P13) though nothing moves: the moves were aborted."""
    if state.goal is not None:
        return False
    ring = state.ring
    goals = targets(ring.members, ring.partitions, ring.copies)
    return any(abs(len(ring.partitions_of(node_id)) - goal) >= 1 for node_id, goal in goals.items())


def check_limits(limits: dict[str, Any], copies: int) -> ScalingConfig:
    """Return the limits, checked. Raises ``InvalidOption``: a store needs at least as many nodes as copies.

    The lower bounds are not those of ``ScalingConfig``: a store that has been given such limits must still open.
    """
    try:
        config = msgspec.convert({"least": copies, **limits}, ScalingConfig)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"autoscaling: {error}") from None
    for name, least in (
        ("ops_per_s", MIN_OPS_PER_S),
        ("low", MIN_SHARE),
        ("high", MIN_SHARE),
        ("hot_share", MIN_SHARE),
    ):
        if getattr(config, name) < least:
            raise InvalidOption(f"{name} must be at least {least:g}; got {getattr(config, name):g}")
    if config.least < copies:
        raise InvalidOption(f"least: the store keeps {copies} copies, so it needs as many nodes; got {config.least}")
    return config


def _what(decision: Decision) -> str:
    match decision.action:
        case "add":
            return f"add {decision.nodes} node{'s' if decision.nodes > 1 else ''}"
        case "remove":
            return f"remove node {decision.node_id}"
        case "rebalance":
            return "move partitions to match the weights"
        case _:
            return "do nothing"


def _shown(key: dict[str, Any]) -> str:
    return f"{key['key']!r} in bucket {key['bucket']!r}"
