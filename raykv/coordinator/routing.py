"""A coordinator's view of the cluster: its state, as the supervisor sends it, and who owns a key.

A coordinator actor receives cluster updates, and polls once a second besides. An embedded coordinator receives none:
there may be a thousand of them. It polls when it has reason to (a node does not answer, a bucket is unknown), and
otherwise once in ``STALE_S``, or each second while a node is down; nodes themselves report a change of owners (P4).
"""

from __future__ import annotations

import contextlib
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from raykv.cluster.background import Background
from raykv.cluster.fanout import CALL_TIMEOUT_S, RETRY_S
from raykv.cluster.peers import Peers
from raykv.cluster.state import decode_state
from raykv.coordinator.hint_sender import HintSender
from raykv.coordinator.nearness import NOWHERE, Nearness, Place
from raykv.coordinator.supervisor import Supervisor
from raykv.errors import InvalidOption, RaykvError, StoreUnavailable
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.records.limits import MAX_COUNTERS
from raykv.ring import partition_in, partitions_in

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from raykv.cluster.state import BucketEntry, ClusterState
    from raykv.config import BucketConfig
    from raykv.ports import Clock, Metrics, Transport


Share: TypeAlias = tuple[tuple[str, ...], list[int]]
"""Nodes, and the partitions that they own together."""

ASK_EVERY_S = 1.0
"""An embedded coordinator polls for cluster updates at most this often."""
STALE_S = 30.0
UPDATE_TIMEOUT_S = 5.0
REFRESH_TIMEOUT_S = 1.0


class Routing:
    """The coordinator's view; reads, writes and scans share it."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        metrics: Metrics,
        *,
        asks: bool = False,
        run: int = 0,
        here: Place = NOWHERE,
    ) -> None:
        """``asks``: it receives no cluster updates, and polls when something seems amiss. ``here``: reads prefer it.

        ``run``: under which it reports what ``metrics`` has counted, when it polls; 0: it does not.
        """
        self._run = run
        self._here = here
        self._nearness = Nearness(here)
        self._transport = transport
        self.clock = clock
        self.metrics = metrics
        self.asks = asks
        """Whether it runs inside a client and receives no cluster updates."""
        self._asked_s = clock.monotonic_s()
        self._stale_s = STALE_S
        """How old a cluster update may get. Little while a node is down: it is not asked, so only another update brings it
        back, and until then every write leaves a hint for it."""
        self._asking: asyncio.Task[None] | None = None
        self.peers = Peers(
            transport,
            clock,
            metrics,
            state=lambda: self._known,
            moved=self.learn_state,
            trouble=self._request_update,
            quiet=asks,
        )
        self.tasks: Background = Background()
        """Calls in flight, some of which outlive their operation: a write should reach all N, not only W."""
        self.supervisor = Supervisor(transport, clock, self.tasks)
        self.hint_sender = HintSender(self.peers, clock, metrics, self.tasks)
        self._state: ClusterState | None = None
        self._known: tuple[ClusterState, bytes] | None = None
        """The state with its bytes as received: nodes compare those."""
        self._buckets: dict[int, BucketEntry] = {}
        self._primaries: dict[tuple[int, int], tuple[str, ...]] = {}  # of this state: (partition, n) -> nodes
        self._write_sets: dict[tuple[int, int], tuple[tuple[str, ...], ...]] = {}
        self._fallbacks: dict[tuple[int, int], tuple[str, ...]] = {}
        self._settled: dict[tuple[int, int], tuple[str, ...]] = {}
        self._owners_in_both_rings: dict[tuple[int, int], tuple[str, ...]] = {}
        self._shares: dict[int, list[Share]] = {}
        self._reported: f.GetClusterUpdate | None = None
        """What this process has counted by its last poll."""
        self._last = (0, 0)  # generation and sequence of the latest cluster update

    def beside(self, transport: Transport) -> Routing:
        """Return a view that knows what this one knows, and asks by another transport: for an operation of its own.

        The two share what they learn of the nodes' health, and the tasks under way.
        """
        other = Routing(transport, self.clock, self.metrics, asks=self.asks, run=self._run, here=self._here)
        other.peers.share_health_of(self.peers)
        other.tasks = self.tasks
        other._asked_s, other._stale_s, other._last = self._asked_s, self._stale_s, self._last
        if self._known is not None:
            other._take(*self._known)
        return other

    def learn(self, update: f.ClusterUpdate) -> None:
        """Take a cluster update, unless a newer one is known."""
        state = decode_state(update.state)
        another = self._state is not None and state.store_id != self._state.store_id  # of the same name, founded since
        older = (state.generation, update.sequence) <= self._last or (self._state and state.ballot < self._state.ballot)
        if older and not another:
            return
        self._last = (state.generation, update.sequence)
        self._take(state, update.state)
        self._stale_s = ASK_EVERY_S if update.down else STALE_S
        for node_id in self.peers.learn(update.incarnations, update.down):
            self.tasks.start(partial(self._send_log_end, node_id))

    async def _send_log_end(self, node_id: str) -> None:
        """Tell a restarted node at once how far its log was, as every request does (P6).

        *Schedule without: while B is away, A and C acknowledge a write by way of this coordinator, which alone knows
        how far C's log is by then. C restarts on an old copy of its directory; another coordinator asks B and C before
        this one sends C anything, and does not see the write.*
        """
        with contextlib.suppress(PeerFailure):
            await self.peers.call(node_id, f.Ping(), 1, CALL_TIMEOUT_S)

    def learn_state(self, data: bytes) -> None:
        """Take a decided state that a node knows, unless a later one is known."""
        state = decode_state(data)
        if self._state is None or state.ballot > self._state.ballot:
            self._take(state, data)

    def _take(self, state: ClusterState, data: bytes) -> None:
        # The state last: a client's thread may be interrupted in between; the next call then repeats what is missing.
        self._buckets = {entry.bucket_id: entry for entry in state.buckets}
        self._primaries, self._write_sets, self._fallbacks, self._settled = {}, {}, {}, {}
        self._owners_in_both_rings, self._shares = {}, {}
        self._nearness.learn([*state.ring.members, *(state.goal.members if state.goal is not None else ())])
        self._known = state, data
        self._state = state

    @property
    def known_state(self) -> bytes | None:
        """The last known state, as received; None if there is none."""
        return None if self._known is None else self._known[1]

    @property
    def epoch(self) -> int:
        """The epoch of the last known state."""
        return self._state.epoch if self._state is not None else 0

    def _request_update(self, every_s: float = ASK_EVERY_S) -> None:
        """Poll in the background, if this coordinator polls at all and has not done so for a while."""
        now_s = self.clock.monotonic_s()
        if not self.asks or self._asking is not None or now_s - self._asked_s < every_s:
            return
        self._asked_s = now_s
        self._asking = self.tasks.start(self._fetch_quietly)
        self._asking.add_done_callback(self._asked)

    async def _fetch_quietly(self) -> None:
        with contextlib.suppress(RaykvError):  # the next occasion repeats it
            await self.fetch_update(UPDATE_TIMEOUT_S)

    def _asked(self, _task: asyncio.Task[None]) -> None:
        self._asking = None

    async def fetch_update(self, timeout_s: float) -> None:
        """Request a cluster update from the supervisor. Raises ``StoreUnavailable``."""
        answer = await self.supervisor.ask(self._question(), timeout_s)
        if isinstance(answer, f.Refused):
            raise answer.failed.error()
        if isinstance(answer, f.ClusterUpdate):
            self.learn(answer)

    def _question(self) -> f.GetClusterUpdate:
        """Return the request for a cluster update, with what this process has counted.

        A coordinator's actor reports once it has answered clients: it counts for them.
        """
        histograms = self.metrics.histograms() if self._run else {}
        if not self._run or not (self.asks or histograms):
            return f.GetClusterUpdate()
        counted = self.metrics.counted()
        self._reported = f.GetClusterUpdate(self._run, dict(islice(counted.items(), MAX_COUNTERS)), histograms)
        return self._reported

    async def report(self, timeout_s: float) -> None:
        """Report what was counted since the last poll, if anything was. Raises ``PeerFailure``, ``TimeoutError``."""
        before = self._reported
        if self._state is None or not self._run or self._question() == before or self._reported is None:
            return
        async with self.clock.timeout(timeout_s):
            await self._transport.call("supervisor", f.supervisor_requests.encode(self._reported), timeout_s)

    async def refresh(self, timeout_s: float, *, always: bool = False) -> None:
        """Fetch a cluster update now, where none is sent, or ``always``: one that is sent may be lost.

        While the supervisor is away, the last known state must do.
        """
        if not self.asks and not always:
            return
        if self._state is None:
            await self.fetch_update(timeout_s)
        else:
            with contextlib.suppress(StoreUnavailable):
                await self.fetch_update(min(timeout_s, REFRESH_TIMEOUT_S))

    async def state(self, timeout_s: float) -> ClusterState:
        """Return the last known state; request it if there is none yet."""
        deadline_s = self.clock.monotonic_s() + timeout_s
        while self._state is None:
            try:
                await self.fetch_update(max(0.001, deadline_s - self.clock.monotonic_s()))
            except StoreUnavailable:  # coordinator and supervisor were both away: the supervisor is coming back
                if self.clock.monotonic_s() + RETRY_S >= deadline_s:
                    raise
                await self.clock.sleep(RETRY_S)
        return self._state

    def known_bucket(self, bucket_id: int) -> BucketEntry | None:
        """Return a bucket by its id if it is known and the last cluster update is fresh enough."""
        if self.asks and self.clock.monotonic_s() - self._asked_s >= self._stale_s:
            return None  # ``learn_bucket`` asks
        return self._buckets.get(bucket_id)

    def bucket(self, bucket_id: int) -> BucketEntry:
        """Return a bucket by its id. Raises ``InvalidOption`` if it was dropped."""
        self.check_there(bucket_id)
        return self._buckets[bucket_id]

    async def learn_bucket(self, bucket_id: int, timeout_s: float) -> None:
        """Request what is unknown about a bucket: the state, the bucket, or a fresh cluster update."""
        await self.state(timeout_s)
        if self.asks:
            self._request_update(self._stale_s)
        if bucket_id not in self._buckets:
            await self.fetch_update(timeout_s)

    def is_there(self, bucket_id: int) -> bool:
        """Whether the last known state has such a bucket."""
        return bucket_id in self._buckets

    def check_there(self, bucket_id: int) -> None:
        """Raise ``InvalidOption`` if the last known state has no such bucket."""
        if not self.is_there(bucket_id):
            raise InvalidOption(
                "the bucket was dropped; call store.bucket(name) again to create it anew", bucket_id=bucket_id
            )

    def primaries(self, config: BucketConfig, key: bytes) -> tuple[str, ...]:
        """Return the n nodes of which a read of a key asks R, the nearest first."""
        place = self.place(config, key)
        nodes = self._primaries.get(place)
        if nodes is None:
            nodes = self._primaries[place] = self.read_set(*place)
        return nodes

    def read_set(self, partition: int, n: int) -> tuple[str, ...]:
        """Return the n nodes of which reads of a partition ask R, the nearest first."""
        return self.nearest_first(self.present.read_set(partition, n))

    def nearest_first(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """Return the nodes, those of this host first, then those of its zone; else as given."""
        return self._nearness.nearest_first(nodes)

    def owners_in_both_rings(self, config: BucketConfig, keys: Sequence[bytes]) -> list[tuple[str, ...]]:
        """Return for each key those of its ``primaries`` that are owners both before and after a move in progress.

        What R of these hold, R of each set hold: a read may show it at once, and no read of other owners a step later
        shows less (P9). All n, while nothing moves.
        """
        known, found, n = self._owners_in_both_rings, [], config.n
        for partition, key in zip(partitions_in(config, keys, self.present.ring.partitions), keys, strict=True):
            place = partition, n
            nodes = known.get(place)
            if nodes is None:
                sets = self.write_sets(config, key)
                nodes = tuple(node for node in self.primaries(config, key) if all(node in owners for owners in sets))
                known[place] = nodes
            found.append(nodes)
        return found

    def settled_owners(self, config: BucketConfig, key: bytes) -> tuple[str, ...] | None:
        """Return the n nodes for both reads and writes; None while the key's partition moves."""
        return self.settled_at(self.place(config, key))

    def settled_at(self, place: tuple[int, int]) -> tuple[str, ...] | None:
        """Return ``settled_owners`` of all keys of a (partition, n)."""
        known = self._settled.get(place)
        if known is None:
            sets = self.present.write_sets(*place)
            known = self._settled[place] = sets[0] if len(sets) == 1 else ()
        return known or None

    def write_sets(self, config: BucketConfig, key: bytes) -> tuple[tuple[str, ...], ...]:
        """Return the sets of n nodes; W of each must acknowledge a write of a key (P4)."""
        place = self.place(config, key)
        sets = self._write_sets.get(place)
        if sets is None:
            sets = self._write_sets[place] = self.present.write_sets(*place)
        return sets

    @property
    def present(self) -> ClusterState:
        """The last known state. To be used where a bucket is known."""
        assert self._state is not None, "asked before a state was heard"
        return self._state

    def place(self, config: BucketConfig, key: bytes) -> tuple[int, int]:
        """Return where a key's owners are to be found: its partition, and the number of its copies."""
        return partition_in(config, key, self.present.ring.partitions), config.n

    def orders(self, config: BucketConfig, keys: Sequence[bytes], *, sloppy: bool = False) -> list[list[str]]:
        """Return for each key its primaries in the order in which to ask them; ``sloppy``: the fallbacks after them."""
        primaries = [self.primaries(config, key) for key in keys]
        in_order = {nodes: self.peers.in_order(nodes) for nodes in dict.fromkeys(primaries)}
        if not sloppy:
            return [in_order[nodes] for nodes in primaries]
        return [in_order[nodes] + self.fallbacks(config, key) for key, nodes in zip(keys, primaries, strict=True)]

    def fallbacks(self, config: BucketConfig, key: bytes) -> list[str]:
        """Return the other nodes, in the order in which they may stand in for the key's primaries."""
        place = self.place(config, key)
        nodes = self._fallbacks.get(place)
        if nodes is None:
            holders, every = self.present.holders(*place), self.present.order(*place)
            nodes = self._fallbacks[place] = every[len(holders) :]
        return self.peers.in_order(nodes)

    def shares(self, n: int) -> list[Share]:
        """Return the partitions by the n nodes of which reads ask R: there are far fewer such sets than partitions."""
        known = self._shares.get(n)
        if known is None:
            state = self.present
            together: dict[tuple[str, ...], list[int]] = {}
            for partition in range(state.ring.partitions):
                together.setdefault(self.read_set(partition, n), []).append(partition)
            known = self._shares[n] = [*together.items()]
        return known

    def owners(self, partition: int) -> list[str]:
        """Return the nodes that hold copies of a partition, in the order in which to ask them."""
        return self.peers.in_order(self.present.read_set(partition, self.present.ring.copies))
