"""Loading a backup's records into a new store, as they are.

Not a client's write: the records keep their versions, times and deletes. They are merged at the nodes like the records of a
repair, so that loading twice, or beside other writes, loses nothing; nothing is stamped. No quorum either: every owner must
hold a record before it counts as loaded, in a new store that has nothing else to be busy with.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raykv.cluster.fanout import CALL_TIMEOUT_S, RETRY_S
from raykv.config import check_timeout
from raykv.coordinator.judgements import check_items
from raykv.errors import PairTooLarge, StoreUnavailable
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.records.keys import check_keys
from raykv.ring import partitions_in

if TYPE_CHECKING:
    from raykv.coordinator.routing import Routing

_LOAD_TIMEOUT_S = 5 * CALL_TIMEOUT_S


class Loading:
    """A coordinator's work on the records of a backup."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    async def load(self, request: f.LoadRecords) -> int:
        """Bring the records to all owners of their keys; return their number.

        Raises ``StoreUnavailable`` if an owner did not take them in time, ``PairTooLarge`` if one has no room for a key's
        versions, ``InvalidOption`` if the bucket was dropped, ``InvalidKey``, ``CorruptData``.
        """
        clock = self._routing.clock
        deadline_s = clock.monotonic_s() + check_timeout(request.timeout_s)
        check_items(len(request.items))
        check_keys([key for key, _ in request.items])
        if not self._routing.is_there(request.bucket_id):
            await self._routing.learn_bucket(request.bucket_id, request.timeout_s)
        entry = self._routing.bucket(request.bucket_id)
        left = request.items
        places = partitions_in(entry.config, [key for key, _ in left], self._routing.present.ring.partitions)
        done: set[tuple[str, int]] = set()
        while True:
            state = self._routing.present
            parts: dict[str, list[int]] = {}
            owners = {place: state.holders(place, entry.config.n) for place in set(places)}
            for at, place in enumerate(places):
                for node_id in owners[place]:
                    parts.setdefault(node_id, []).append(at)
            parts = {node_id: [at for at in some if (node_id, at) not in done] for node_id, some in parts.items()}
            asked = {node_id: some for node_id, some in sorted(parts.items()) if some}
            if not asked:
                return len(request.items)
            failures = await asyncio.gather(
                *(
                    self._write(
                        node_id, request, some, min(_LOAD_TIMEOUT_S, deadline_s - clock.monotonic_s()), state.epoch
                    )
                    for node_id, some in asked.items()
                )
            )
            failed = {node_id: failure for node_id, failure in zip(asked, failures, strict=True) if failure}
            done |= {(node_id, at) for node_id, some in asked.items() if node_id not in failed for at in some}
            if failed and clock.monotonic_s() + RETRY_S >= deadline_s:
                said = "; ".join(f"{node_id}: {failure}" for node_id, failure in failed.items())
                raise StoreUnavailable(f"not all owners took the records in time ({said}); load them again")
            if failed:
                await clock.sleep(RETRY_S)

    async def _write(
        self, node_id: str, request: f.LoadRecords, places: list[int], timeout_s: float, epoch: int
    ) -> PeerFailure | None:
        """Have a node keep these of the request's records. Returns why it did not."""
        items = [request.items[at] for at in places] if len(places) < len(request.items) else request.items
        if timeout_s <= 0:
            return PeerFailure("no time is left")
        try:
            answer = await self._routing.peers.call(
                node_id, f.Write(request.bucket_id, items, stored=True), len(items), timeout_s, epoch
            )
        except PeerFailure as failure:
            return failure
        if not isinstance(answer, f.WriteDone):
            return PeerFailure(f"it answered with {type(answer).__name__}")
        if f.NO_ROOM in answer.newer:
            raise PairTooLarge("the versions of a key in the backup together exceed the size limit of a key")
        return None
