"""Delivers hints to their holders, a few milliseconds' worth at a time.

When a node is lost all calls to it fail at the same moment, and each failed write needs a hint. One message per hint
would stall the coordinator just then, so hints are collected briefly and go to each holder together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raykv.ports import PeerFailure
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from raykv.cluster.background import Background
    from raykv.cluster.peers import Peers
    from raykv.ports import Clock, Metrics

COLLECT_S = 0.05
AT_ONCE = 500
MAX_WAITING = 20_000
"""Hints that may wait here; past it they are dropped, and anti-entropy finds what is missing."""
TIMEOUT_S = 2.0


class _Waiting(NamedTuple):
    holders: tuple[str, ...]
    primaries: tuple[str, ...]
    bucket_id: int
    item: tuple[bytes, bytes, list[str]]
    made_ms: int


class HintSender:
    """One coordinator's undelivered hints."""

    def __init__(self, peers: Peers, clock: Clock, metrics: Metrics, tasks: Background) -> None:
        self._peers = peers
        self._clock = clock
        self._metrics = metrics
        self._tasks = tasks
        self._waiting: list[_Waiting] = []
        self._collecting = False

    def take(
        self,
        holders: tuple[str, ...],
        primaries: tuple[str, ...],
        bucket_id: int,
        item: tuple[bytes, bytes, list[str]],
        made_ms: int,
    ) -> None:
        """Take a hint (see ``frames.Hint``) for the first of ``holders`` that has room for it.

        All of them hold its record; ``primaries`` among them hold it as their own, and need no copy of it.
        """
        if len(self._waiting) >= MAX_WAITING:
            self._metrics.count("hints_let_go")
            return
        self._waiting.append(_Waiting(holders, primaries, bucket_id, item, made_ms))
        if not self._collecting:
            self._collecting = True
            self._tasks.start(self._deliver)

    async def _deliver(self) -> None:
        await self._clock.sleep(COLLECT_S)
        self._collecting = False
        waiting, self._waiting = self._waiting, []
        while waiting:
            groups: dict[tuple[str, int], list[_Waiting]] = {}
            for hint in waiting:
                groups.setdefault((hint.holders[0], hint.bucket_id), []).append(hint)
            waiting = []
            for (holder, bucket_id), hints in groups.items():
                for at in range(0, len(hints), AT_ONCE):
                    waiting += await self._give(holder, bucket_id, hints[at : at + AT_ONCE])

    async def _give(self, holder: str, bucket_id: int, hints: list[_Waiting]) -> list[_Waiting]:
        """Give hints to a holder; return those that need another holder."""
        items = [
            (key, b"" if holder in hint.primaries else record, missed)
            for hint in hints
            for key, record, missed in (hint.item,)
        ]
        body = f.Hint(bucket_id, items, min(hint.made_ms for hint in hints))
        try:
            answer = await self._peers.call(holder, body, len(hints), TIMEOUT_S)
        except PeerFailure:
            answer = None
        if isinstance(answer, f.WriteDone) and len(answer.newer) == len(hints):
            left = [hint for hint, newer in zip(hints, answer.newer, strict=True) if newer < 0]
            self._metrics.count("hints", len(hints) - len(left))
            hints = left
        return [hint._replace(holders=hint.holders[1:]) for hint in hints if len(hint.holders) > 1]
