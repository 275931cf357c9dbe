"""Taking a snapshot: every node copies its tables, then every node keeps the manifest (``raykv.cluster.backup``).

Two rounds. The first must bring parts of one epoch from enough nodes; where a node knows a later one by then, all are asked
again, and copy only what is new. Not before all these parts are durable does the second round write the manifest, without
which nothing of it counts: what an interrupted snapshot leaves is a pool that the next one uses.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from raykv.cluster.backup import BackupManifest, PartEntry, encode_manifest, lacking, snapshot_name
from raykv.cluster.fanout import CALL_TIMEOUT_S
from raykv.cluster.state import decode_state
from raykv.config import check_timeout
from raykv.errors import StoreUnavailable
from raykv.ports import PeerFailure
from raykv.protocol import frames as f

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Callable, Sequence

    from raykv.cluster.state import ClusterState
    from raykv.coordinator.routing import Routing

KEEP_TIMEOUT_S = 2.0
"""At least as long the nodes have to keep the manifest, when all the copying is done."""
ASK_AGAIN_S = 0.25
"""Pause before all nodes are asked again: the ring has changed meanwhile."""
_FIGURES = ("tables", "records", "table_bytes", "new_tables", "new_bytes")


class Snapshots:
    """A coordinator's work on snapshots."""

    def __init__(self, routing: Routing, random: random_module.Random) -> None:
        self._routing = routing
        self._random = random

    async def take(self, request: f.TakeSnapshot) -> dict[str, Any]:
        """Take a snapshot; return its figures. Raises ``StoreUnavailable``."""
        routing, clock = self._routing, self._routing.clock
        deadline_s = clock.monotonic_s() + check_timeout(request.timeout_s)
        began_s, made_ms = clock.monotonic_s(), clock.wall_ms()
        snapshot = snapshot_name(made_ms, self._random.getrandbits(32))
        await routing.refresh(request.timeout_s)
        while True:
            state = await routing.state(request.timeout_s)
            copied, failed = await self._copy(state, request.path, snapshot, deadline_s)
            agreed = _agreed(copied)
            if agreed is not None:
                break
            if (left_s := deadline_s - clock.monotonic_s()) <= ASK_AGAIN_S:
                _raise(
                    failed,
                    len(copied),
                    "the partitions kept moving; wait until status() shows no moves, or give more time",
                )
            await clock.sleep(ASK_AGAIN_S)
            await routing.refresh(left_s)
        newest, data = agreed
        missing = {
            member.node_id: failed.get(member.node_id) or "it was not a member yet when the snapshot began"
            for member in newest.ring.members
            if member.node_id not in copied
        }
        if short := lacking(newest, copied.keys()):
            _raise(missing, len(copied), "; ".join(short))
        manifest = BackupManifest(
            snapshot=snapshot,
            store_id=newest.store_id,
            store=newest.config.name,
            epoch=newest.epoch,
            made_ms=made_ms,
            state=data,
            parts=tuple(_entry(newest, node_id, answer) for node_id, answer in sorted(copied.items())),
            missing={node_id: why[:1000] for node_id, why in missing.items()},
        )
        keeping = f.KeepManifest(request.path, snapshot, encode_manifest(manifest), request.keep)
        kept, without = await self._keep(sorted(copied), keeping, deadline_s)
        hosts = {member.node_id: member.host for member in newest.ring.members}
        return {
            "snapshot": snapshot,
            "path": request.path,
            "store": newest.config.name,
            "epoch": newest.epoch,
            "seconds": clock.monotonic_s() - began_s,
            **{name: sum(getattr(answer, name) for answer in copied.values()) for name in _FIGURES},
            "nodes": {node_id: hosts[node_id] for node_id in sorted(copied)},
            "missing": missing,
            "without_manifest": without,
            "removed": max(answer.removed for answer in kept.values()),
            "removed_bytes": sum(answer.removed_bytes for answer in kept.values()),
            "not_removed": {node_id: answer.trouble for node_id, answer in kept.items() if answer.trouble},
        }

    async def _copy(
        self, state: ClusterState, path: str, snapshot: str, deadline_s: float
    ) -> tuple[dict[str, f.TablesCopied], dict[str, str]]:
        """Have all nodes copy their tables. Returns the answers, and why others gave none."""
        nodes = [member.node_id for member in state.ring.members]
        at_once = max(1, len(nodes) // state.config.copies)
        answers = await self._ask(
            nodes, lambda left_s: f.CopyTables(path, snapshot, left_s), deadline_s, state.epoch, at_once
        )
        copied = {node_id: answer for node_id, answer in answers.items() if isinstance(answer, f.TablesCopied)}
        return copied, {node_id: str(answer) for node_id, answer in answers.items() if node_id not in copied}

    async def _keep(
        self, nodes: Sequence[str], request: f.KeepManifest, deadline_s: float
    ) -> tuple[dict[str, f.ManifestKept], dict[str, str]]:
        """Have the nodes keep the manifest. Returns the answers, and why some did not; raises if none did."""
        deadline_s = max(deadline_s, self._routing.clock.monotonic_s() + KEEP_TIMEOUT_S)
        answers = await self._ask(nodes, lambda _: request, deadline_s, 0, at_once=len(nodes))
        kept = {node_id: answer for node_id, answer in answers.items() if isinstance(answer, f.ManifestKept)}
        without = {node_id: str(answer) for node_id, answer in answers.items() if node_id not in kept}
        if not kept:
            _raise(without, 0, "no node could keep the manifest")
        return kept, without

    async def _ask(
        self,
        nodes: Sequence[str],
        body: Callable[[float], f.NodeRequestBody],
        deadline_s: float,
        epoch: int,
        at_once: int,
    ) -> dict[str, f.NodeAnswerBody | PeerFailure]:
        """Ask all nodes, some at once. ``body(share_s)``: the request to a node that has so much time.

        Each has its share of the time: one that freezes must not take that of those behind it.
        """
        turns = asyncio.Semaphore(at_once)
        peers, waiting = self._routing.peers, len(nodes)

        async def asked(node_id: str) -> f.NodeAnswerBody | PeerFailure:
            nonlocal waiting
            async with turns:
                left_s = max(deadline_s - self._routing.clock.monotonic_s(), 0.001)
                share_s = left_s / max(1.0, waiting / at_once)
                waiting -= 1
                try:
                    await peers.call(node_id, f.Ping(), 1, min(CALL_TIMEOUT_S, share_s))
                    return await peers.call(node_id, body(share_s), 1, share_s, epoch)
                except PeerFailure as failure:
                    return failure

        return dict(zip(nodes, await asyncio.gather(*map(asked, nodes)), strict=True))


def _agreed(copied: dict[str, f.TablesCopied]) -> tuple[ClusterState, bytes] | None:
    """Return the newest state that the parts were taken under, and its bytes; None if their epochs differ."""
    states = {answer.state: decode_state(answer.state) for answer in copied.values()}
    if not states:
        return None
    newest, data = max(((state, data) for data, state in states.items()), key=lambda pair: pair[0].ballot)
    return (newest, data) if all(state.epoch == newest.epoch for state in states.values()) else None


def _entry(state: ClusterState, node_id: str, answer: f.TablesCopied) -> PartEntry:
    return PartEntry(
        node_id=node_id,
        host=next(member.host for member in state.ring.members if member.node_id == node_id),
        directory_id=answer.directory_id,
        incarnation=answer.incarnation,
        log_end=answer.log_end,
        part_bytes=answer.part_bytes,
        part_checksum=answer.part_checksum,
        tables=answer.tables,
        records=answer.records,
        table_bytes=answer.table_bytes,
    )


def _raise(failed: dict[str, str], copied: int, why: str) -> None:
    """Raise the error of a snapshot that was not taken."""
    said = "; ".join(f"{node_id}: {reason}" for node_id, reason in sorted(failed.items()))
    message = f"no snapshot was taken: {why}" + (f" ({said})" if said else "")
    raise StoreUnavailable(message, nodes=copied, failed=failed)
