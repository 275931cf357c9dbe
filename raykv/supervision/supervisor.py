"""The supervisor: founds a store or brings it back, keeps the cluster's state, and answers for the store as a whole.

It watches the nodes (``watch``), lets nodes come and go (``members``), moves partitions when the members have changed
(``rebalancing``), and runs the autoscaler (``scaling``). All of them read and change the cluster's state, which the register
keeps (P5), one change at a time.

One line is logged per change of state, with store, node and cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.cluster import moves
from raykv.cluster.peers import node_address
from raykv.cluster.register import Register, Superseded, latest, missing_for_majority
from raykv.cluster.state import (
    DEFAULT_BUCKET,
    BucketEntry,
    ClusterState,
    bucket_from_options,
    check_same_bucket,
    encode_state,
)
from raykv.errors import CorruptData, InvalidOption, NotEnoughNodes, RaykvError, StoreUnavailable
from raykv.ports import Host, PeerFailure
from raykv.protocol import frames as f
from raykv.protocol.requests import SUPERVISOR, check_handlers, handled
from raykv.ring import Member, partition_warning
from raykv.supervision.autoscaling import NodeLoad
from raykv.supervision.chronicle import Chronicle
from raykv.supervision.client_counters import ClientCounters
from raykv.supervision.founding import Plan, first_state
from raykv.supervision.members import ON_COMMAND, Members
from raykv.supervision.rebalancing import Rebalancing
from raykv.supervision.restarting import Restarting
from raykv.supervision.scaling import Scaling, check_limits, named
from raykv.supervision.watch import LAUNCH_TIMEOUT_S, PING_EVERY_S, PING_TIMEOUT_S, Node, Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from raykv.ports import Clock, Host, Launcher, Transport

logger = logging.getLogger("raykv.supervisor")

GROW_TIMEOUT_S = 600.0
"""How long a node added by the autoscaler may wait for a machine."""
MAJORITY_TIMEOUT_S = 30.0
STATUS_TIMEOUT_S = 1.0


class Supervisor:
    """One store's supervisor. ``start`` it once, then ``serve`` frames."""

    def __init__(
        self,
        store_id: str,
        plan: Plan,
        hosts: Sequence[Host],
        *,
        transport: Transport,
        clock: Clock,
        launcher: Launcher,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        """``on_failure(cause)`` is called when this supervisor must not go on: another has taken over, or a bug.

        It has stopped watching by then; its process starts another one.
        """
        self._store_id = store_id
        self._plan = plan
        self._hosts = hosts
        self._transport = transport
        self._clock = clock
        self._launcher = launcher
        self._on_failure = on_failure
        self._register = Register(transport, clock)
        self._sequence = 0
        self._changing = asyncio.Lock()
        self._tasks: dict[asyncio.Task[None], None] = {}  # ordered by start: iteration order must be deterministic
        self._chronicle = Chronicle(clock)
        self._watch = Watch(
            self._name,
            transport=transport,
            clock=clock,
            launcher=launcher,
            register=self._register,
            bring_up_to_date=self._bring_up_to_date,
            came_back=self._came_back,
            changed=self._publish,
            spawn=self._spawn,
            chronicle=self._chronicle,
        )
        self.members = Members(
            self._name,
            clock=clock,
            launcher=launcher,
            watch=self._watch,
            state=lambda: self.state,
            changing=self._changing,
            change=self._change,
            changed=self._publish,
            spawn=self._spawn,
            chronicle=self._chronicle,
        )
        self._rebalancing = Rebalancing(
            plan.store.name,
            transport=transport,
            clock=clock,
            state=lambda: self.state,
            change=self._alter,
            knows=self._knows,
            left=self.members.see_off,
            away=self.members.away,
            chronicle=self._chronicle,
        )
        self._restarting = Restarting(
            plan.store.name,
            transport=transport,
            clock=clock,
            watch=self._watch,
            state=lambda: self.state,
            stats=self._stats,
            changed=self._publish,
            spawn=self._spawn,
        )
        self._clients = ClientCounters()
        self._scaling = Scaling(
            plan.store.name,
            clock=clock,
            state=lambda: self.state,
            measure=self._loads,
            add=lambda why: self.members.add_node(0.0, "", "", GROW_TIMEOUT_S, why),
            remove=lambda node_id, why: self.members.remove_node(node_id, LAUNCH_TIMEOUT_S, why),
            rebalance=self.members.restore,
        )
        self._handlers = self._all_handlers()
        check_handlers(SUPERVISOR, self._handlers)

    @property
    def _name(self) -> str:
        return self._plan.store.name

    @property
    def state(self) -> ClusterState:
        """The cluster's state. Raises ``StoreUnavailable`` before a majority holds one."""
        if self._register.state is None:
            raise StoreUnavailable(f"store {self._name!r} is starting")
        return self._register.state

    # ---- start and stop ----

    async def start(self) -> ClusterState:
        """Found the store, or bring back the one whose directories are here; then watch it.

        Raises ``InvalidOption`` (a directory cannot be used), ``StoreUnavailable`` (no majority of the nodes came up, or
        another supervisor is taking over; try again).
        """
        try:
            return await self._start()
        except Superseded as error:  # also a node's answer to a promise that reaches it twice
            raise StoreUnavailable(f"store {self._name!r} is being taken over: {error}") from None

    async def _start(self) -> ClusterState:
        founded = await self._launcher.founded()
        places = await self._launcher.directories(everywhere=not founded)
        if founded and not places:  # this host's directories are gone, or were always elsewhere
            places = await self._launcher.directories(everywhere=True)
        self._watch.hosts_of.update(places)
        found = sorted(places)
        unusable = await self._watch.bring_up(found)
        answers = await self._read_all(found)
        if latest(answers) is not None:
            await self._recover(answers)
            self._chronicle.note(
                "note", "a supervisor has taken over", f"generation {self.state.generation}: it was started anew"
            )
        elif await self._launcher.founded():
            raise unusable or StoreUnavailable(
                f"store {self._name!r} was founded, and its state is in none of the directories that are left "
                f"({', '.join(found) or 'none is'}): bring the others back, or destroy the store"
            )
        elif unusable is not None:
            raise unusable
        else:
            # No state was ever handed out: this is the first start, or an earlier one did not finish. A state that another
            # start stored on a majority is found here, whichever nodes are silent.
            await self._found(found, answers)
        await self._launcher.note_founded()
        members = [member.node_id for member in self.state.ring.members]
        for node_id in members:
            self._watch.tend(node_id)
        await self._publish()
        # Former supervisors may have been lost before they saw a node off, which may run on any host.
        running = await self._launcher.running()
        self._spawn(self.members.see_off_strays(sorted({*found, *running} - {*members})))
        self._spawn(self._rebalancing.run())
        self._spawn(self.members.replace_the_lost())
        self._spawn(self._scaling.run())
        logger.info(
            "store %s: serving with %d nodes, %d partitions, %d copies (generation %d)",
            self._name, len(self.state.ring.members), self.state.ring.partitions, self.state.ring.copies,
            self.state.generation,
        )  # fmt: skip
        return self.state

    def trouble(self) -> str:
        """Describe the nodes that are not up, with causes; empty if all are up."""
        return self._watch.trouble()

    async def stop(self) -> None:
        """Stop watching and close every node cleanly. Nodes that do not answer are left to the caller."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*(self._watch.stop_node(node_id) for node_id in self._watch.nodes))
        logger.info("store %s: stopped", self._name)

    async def _found(self, found: Sequence[str], answers: dict[str, f.AcceptorAnswer]) -> None:
        plan = self._plan
        if plan.nodes < plan.store.copies:
            raise NotEnoughNodes(f"n={plan.store.copies} copies need as many nodes; nodes={plan.nodes}")
        state = first_state(plan, self._store_id, self._hosts)
        if (warning := partition_warning(state.ring.members, state.ring.partitions)) is not None:
            logger.warning("store %s: %s", self._name, warning)
        self._watch.hosts_of = {member.node_id: member.host for member in state.ring.members}
        new = [member.node_id for member in state.ring.members if member.node_id not in found]
        self._watch.unborn.update(new)
        unusable = await self._watch.bring_up(new)
        if unusable is not None:
            raise unusable
        try:
            await self._register.found(state, answers)
        except StoreUnavailable as error:
            trouble = self._watch.trouble()
            raise StoreUnavailable(f"{error.message}; missing: {trouble}" if trouble else error.message) from None

    async def _read_all(self, nodes: Sequence[str]) -> dict[str, f.AcceptorAnswer]:
        """Read the nodes' copies, waiting for those that are up and slow."""
        deadline_s = self._clock.monotonic_s() + MAJORITY_TIMEOUT_S
        while True:
            answers = await self._register.read(nodes)
            waiting = [
                node_id for node_id in nodes if node_id not in answers and self._watch.nodes[node_id].state == "up"
            ]
            if not waiting or latest(answers) is not None or self._clock.monotonic_s() > deadline_s:
                return answers
            await self._clock.sleep(PING_EVERY_S)

    async def _recover(self, answers: dict[str, f.AcceptorAnswer]) -> None:
        state = latest(answers)
        assert state is not None
        if state.config != self._plan.store:
            raise CorruptData(f"store {self._name!r}: its path and its nodes disagree on how it was founded")
        if state.store_id != self._store_id:
            raise InvalidOption(f"the directories hold another store ({state.config.name!r})")
        for node_id in await self._watch.start_where_they_joined(state.ring.members):
            answers.pop(node_id, None)
        deadline_s = self._clock.monotonic_s() + MAJORITY_TIMEOUT_S
        while True:
            await self._bring_up_elsewhere(state.ring.members)
            if not (missing := missing_for_majority(state, answers)):
                break
            if self._clock.monotonic_s() > deadline_s:
                raise StoreUnavailable(self._minority(state.ring.members, missing), missing=missing)
            await self._clock.sleep(PING_EVERY_S)
            answers = await self._register.read([member.node_id for member in state.ring.members])
            state = latest(answers) or state  # possibly a later one, with other members
        await self._register.take_over(answers)

    async def _bring_up_elsewhere(self, members: Sequence[Member]) -> None:
        """Start the members whose directories were not found here, on the hosts where they are."""
        elsewhere = [member.node_id for member in members if member.node_id not in self._watch.nodes]
        if not elsewhere:
            return
        there = {host.name for host in await self._launcher.hosts()}
        self._watch.hosts_of = {member.node_id: member.host for member in members} | self._watch.hosts_of
        if not {self._watch.hosts_of[node_id] for node_id in elsewhere} <= there:
            # A restarted machine may have another name. Its directories count, whatever it is called.
            places = await self._launcher.directories(everywhere=True)
            self._watch.hosts_of.update({node_id: places[node_id] for node_id in elsewhere if node_id in places})
        if not await self._launcher.founded():
            self._watch.unborn.update(
                elsewhere
            )  # the state stands, and was never handed out: nobody has written anything
        logger.info("store %s: %s started on other hosts", self._name, ", ".join(elsewhere))
        await self._watch.bring_up(elsewhere)

    def _minority(self, members: Sequence[Member], missing: Sequence[str]) -> str:
        """Describe which nodes of the majority are missing."""
        said = []
        for node_id in missing:
            host, cause = self._watch.hosts_of.get(node_id), self._watch.nodes[node_id].cause
            said.append(f"{node_id}{f' on host {host}' if host else ''} ({cause or 'it does not answer'})")
        there = len(members) - len(missing)
        return (
            f"these are a minority: {there} of {len(members)} nodes of store {self._name!r} came up, "
            f"{len(members) // 2 + 1} are needed; missing: {', '.join(said)}"
        )

    async def _came_back(self, node_id: str) -> None:
        """Let a restarted node learn the present state and drop what it does not own."""
        await self._bring_up_to_date(node_id)
        self._rebalancing.look_into(node_id)

    async def _bring_up_to_date(self, node_id: str) -> None:
        """Make sure that the node knows the present state."""
        if not await self._register.bring_up_to_date(node_id):
            async with self._changing:
                with contextlib.suppress(StoreUnavailable):  # the next pong will show
                    await self._store(self.state)  # under a number above that of the change that failed

    # ---- the cluster's state ----

    def cluster_update(self) -> f.ClusterUpdate:
        """Return what coordinators need to know."""
        down = {node_id: node.cause for node_id, node in self._watch.nodes.items() if node.state != "up"}
        incarnations = {node_id: node.incarnation for node_id, node in self._watch.nodes.items()}
        return f.ClusterUpdate(self._sequence, encode_state(self.state), down, incarnations)

    async def _publish(self) -> None:
        """Send the coordinator a cluster update. One that is unavailable asks for it when it is back."""
        self._sequence += 1
        try:
            await self._transport.call(
                "coordinator", f.coordinator_requests.encode(self.cluster_update()), PING_TIMEOUT_S
            )
        except PeerFailure as failure:
            logger.debug("store %s: the coordinator did not get the cluster update: %s", self._name, failure)

    async def open_bucket(self, name: str, options: dict[str, Any]) -> BucketEntry:
        """Return the bucket, created with these options if there is none."""
        async with self._changing:
            entry = self.state.bucket(name)
            if entry is not None:
                check_same_bucket(entry.config, options)
                return entry
            await self._change(self.state.with_bucket(bucket_from_options(name, options, self.state.ring.copies)))
            created = self.state.bucket(name)
            assert created is not None
            logger.info("store %s: bucket %r created: %s", self._name, name, created.config)
            self._chronicle.note("note", f"bucket {name!r} was created", "a client opened it")
            return created

    async def drop_bucket(self, name: str) -> bool:
        """Drop the bucket; False if there is none."""
        if name == DEFAULT_BUCKET:
            raise InvalidOption(f"the bucket {DEFAULT_BUCKET!r} is part of the store and cannot be dropped")
        async with self._changing:
            if self.state.bucket(name) is None:
                return False
            await self._change(self.state.without_bucket(name))
            logger.info("store %s: bucket %r dropped", self._name, name)
            self._chronicle.note("note", f"bucket {name!r} was dropped", ON_COMMAND)
            return True

    async def _knows(self, node_id: str, ballot: tuple[int, int]) -> bool:
        """Return whether a node durably knows the state of this ballot or a later one; if not, send it."""
        for _ in range(2):
            node = self._watch.nodes.get(node_id)
            if node is None or await self._watch.ping(node_id) is None:
                return False
            if node.ballot >= ballot:
                return True
            await self._bring_up_to_date(node_id)
        return False

    async def _alter(self, change: Callable[[ClusterState], ClusterState]) -> None:
        async with self._changing:
            await self._change(change(self.state))

    async def _change(self, state: ClusterState) -> None:
        try:
            await self._store(state)
        except Superseded as error:
            self._fail(str(error))
            raise
        await self._publish()

    async def _store(self, state: ClusterState) -> None:
        """Have a majority accept the state; log once when the register is lost."""
        lost = self._register.lost
        try:
            await self._register.accept(state)
        except StoreUnavailable as error:
            if self._register.lost and not lost:
                logger.error("store %s: nothing can be read or decided any more: %s", self._name, error)
            raise

    # ---- answering ----

    async def serve(self, frame: bytes) -> bytes:
        """Answer one request frame."""
        try:
            answer = await self._answer(f.supervisor_requests.decode(frame))
        except Superseded as error:
            answer = f.Refused(f.Failed.of(StoreUnavailable(f"this supervisor was replaced: {error}")))
        except RaykvError as error:
            answer = f.Refused(f.Failed.of(error))
        return f.supervisor_answers.encode(answer)

    async def _answer(self, request: f.SupervisorRequest) -> f.SupervisorAnswer:
        answer = await self._handlers[type(request)](request)
        return answer if isinstance(answer, f.ClusterUpdate | f.BucketOpened) else f.Info(answer)

    def _all_handlers(self) -> dict[type[f.Message], Callable[[Any], Awaitable[Any]]]:
        """Return each request's handler."""
        members = self.members
        return dict(
            (
                handled(f.GetClusterUpdate, self._get_cluster_update),
                handled(f.OpenBucket, self._open),
                handled(f.DropBucket, lambda request: self.drop_bucket(request.name)),
                handled(f.AddNode, lambda r: members.add_node(r.weight, r.zone, r.host, r.timeout_s)),
                handled(f.RemoveNode, lambda r: members.remove_node(r.node_id, r.timeout_s)),
                handled(f.ReplaceNode, lambda r: members.replace_node(r.node_id, r.host, r.timeout_s)),
                handled(f.RestartNode, self._restarting.restart),
                handled(f.SetWeight, lambda r: members.set_weight(r.node_id, r.weight, r.timeout_s)),
                handled(f.Rebalance, lambda request: self.rebalance(request.action)),
                handled(f.Autoscale, lambda r: self.autoscale(r.limits, dry_run=r.dry_run, off=r.off)),
                handled(f.GetInfo, lambda _: self.status()),
            )
        )

    async def _get_cluster_update(self, request: f.GetClusterUpdate) -> f.ClusterUpdate:
        if request.run:
            self._clients.report(request.run, request.counters, self._clock.monotonic_s(), request.histograms)
        return self.cluster_update()

    async def _open(self, request: f.OpenBucket) -> f.BucketOpened:
        entry = await self.open_bucket(request.name, request.options)
        return f.BucketOpened(entry.bucket_id, msgspec.to_builtins(entry.config))

    async def rebalance(self, action: str) -> None:
        """Pause, resume, abort or restore the moves."""
        match action:
            case "pause" | "resume":
                await self._alter(lambda state: state.with_paused(paused=action == "pause"))
                self._chronicle.note("note", f"moves are {action}d", ON_COMMAND)
            case "restore":
                await self.members.restore()
            case "abort":
                async with self._changing:
                    state = self.state
                    if any(move.reads_new for move in state.moves):
                        raise StoreUnavailable(
                            "new owners are already being read; this ends in a moment, try again then"
                        )
                    if state.goal is not None:
                        await self._change(moves.abort(state))
                        self._chronicle.moves_for = ""
                        self._chronicle.note("note", "the moves are called off", ON_COMMAND)
            case _:
                raise InvalidOption(f"the action must be 'pause', 'resume' or 'abort'; got {action!r}")

    async def autoscale(self, limits: dict[str, Any] | None, *, dry_run: bool, off: bool) -> dict[str, Any]:
        """Turn the autoscaler on or off, or try limits; return its observations and decision. See ``frames.Autoscale``."""
        wanted = None if limits is None else check_limits(limits, self.state.ring.copies)
        if dry_run:
            return await self._scaling.report(wanted or self.state.scaling)
        if off or wanted is not None:
            await self._alter(lambda state: state.with_scaling(wanted))
            logger.info("store %s: autoscaling is %s", self._name, f"on: {wanted}" if wanted is not None else "off")
            self._chronicle.note("note", f"autoscaling is {'off' if wanted is None else 'on'}", ON_COMMAND)
        return await self._scaling.report()

    async def _loads(self) -> list[NodeLoad]:
        """Return the loads that the nodes report; silent nodes are left out."""
        members = self.state.ring.members
        stats = await asyncio.gather(*(self._stats(member.node_id) for member in members))
        return [
            NodeLoad(
                member.node_id,
                member.weight,
                float(figures["load"].get("ops_per_s", 0.0)),
                int(figures["disk_bytes"]),
                tuple((bytes(key), float(drawn)) for key, drawn in figures["load"].get("keys", ())),
                float(figures["load"].get("p99_ms", 0.0)),
            )
            for member, figures in zip(members, stats, strict=True)
            if figures is not None
        ]

    async def status(self) -> dict[str, Any]:
        """Return the store as plain data: settings, nodes with their state and figures."""
        state = self.state
        members = state.ring.members
        reported = await asyncio.gather(*(self._stats(member.node_id) for member in members))
        return {
            "name": self._name,
            "store_id": self._store_id,
            "generation": state.generation,
            "version": state.version,
            "ring_epoch": state.ring.epoch,
            "rebalancing": self._rebalancing.progress(),
            "autoscaling": self._scaling.last_decision(),
            "config": msgspec.structs.asdict(state.config),
            "buckets": [entry.config.name for entry in state.buckets],
            "events": self._chronicle.figures(),
            "clients": self._clients.figures(self._clock.monotonic_s()),
            "nodes": [self._status_of(state, member, stats) for member, stats in zip(members, reported, strict=True)],
        }

    def _status_of(self, state: ClusterState, member: Member, stats: dict[str, Any] | None) -> dict[str, Any]:
        node = self._watch.nodes.get(member.node_id) or Node(state="left")  # it left while the others were asked
        if stats is not None and (load := stats["load"]):
            keys = [named(bytes(key), state) | {"ops_per_s": drawn} for key, drawn in load["keys"]]
            stats = stats | {"load": load | {"keys": keys}}
        if stats is not None:
            names = {entry.bucket_id: entry.config.name for entry in state.buckets}
            latencies = [
                {**each, "bucket": names[each["bucket_id"]]}
                for each in stats.get("latencies", ())
                if each["bucket_id"] in names
            ]
            stats = stats | {"latencies": latencies}
            stats = stats | {
                "large": [
                    named(bytes(key), state) | {"bytes": size_bytes} for key, size_bytes in stats.get("large", ())
                ],
                "tombstones": [
                    {"bucket": names[bucket_id], "count": count}
                    for bucket_id, count in stats.get("tombstones", ())
                    if bucket_id in names
                ],
            }
            groups = [(named(bytes(group), state), size_bytes) for group, size_bytes in stats.get("groups", ())]
            stats = stats | {
                "groups": [
                    {"bucket": name["bucket"], "group": name["key"], "bytes": size_bytes} for name, size_bytes in groups
                ]
            }
        return {
            "node_id": member.node_id,
            "state": node.state,
            "cause": node.cause,
            "for_s": round(self._clock.monotonic_s() - node.since_s, 1),
            "incarnation": node.incarnation,
            "pid": node.pid,
            "restarts": node.restarts,
            "last_outage_s": node.last_outage_s,
            "host": member.host,
            "zone": member.zone,
            "weight": member.weight,
            "partitions": len(state.ring.partitions_of(member.node_id)),
            "storage": stats,
        }

    async def _stats(self, node_id: str) -> dict[str, Any] | None:
        if node_id not in self._watch.nodes or self._watch.nodes[node_id].state != "up":
            return None  # else the status would be slow just when it matters
        frame = f.node_requests.encode(f.NodeRequest(0, f.Ping(with_stats=True)))
        try:
            answer = f.node_answers.decode(await self._transport.call(node_address(node_id), frame, STATUS_TIMEOUT_S))
        except (PeerFailure, CorruptData):
            return None
        return answer.body.stats if isinstance(answer.body, f.Pong) else None

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(f"it came upon {error!r}")

    def _fail(self, cause: str) -> None:
        """Stop watching: half a supervisor is worse than none, and the next one starts from the register."""
        logger.error("store %s: the supervisor stops: %s", self._name, cause)
        for task in list(self._tasks):
            task.cancel()
        if self._on_failure is not None:
            self._on_failure(cause)
