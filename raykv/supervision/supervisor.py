"""The supervisor: brings the storage nodes up, watches them, brings them back, and keeps the cluster's state.

For every node one task (``_tend``) waits until the node is lost, makes it down, starts it again on its directory, and
tells the coordinators. A node is lost in one of two ways (P12): its process has ended, which Ray notices within a tenth
of a second and which is proof; or it does not answer the supervisor, and two reporters say that it is silent: two other
nodes, which suspect it by their gossip and say so with every answer to a ping; or one of them, or a coordinator, and the
supervisor itself after two pings in vain. A reporter's word expires. While a node answers the supervisor, what others
say of it does not matter: there is a cut between them, which a new process would not mend.

A node that is started again takes over its directory only once the former process is gone (P6): the launcher ends it and
waits for the lock. That is why a supervisor which reaches a minority only may start nodes again, too: on its own side it
does no harm, and of the other side's directories it cannot have the locks. (P12 asks for a majority. What changes the
cluster's state needs one anyway, see ``register``.)

One line is logged per change of state, with store, node and cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.errors import CorruptData, InvalidOption, NotEnoughNodes, RaykvError, StoreUnavailable
from raykv.membership import Verdicts
from raykv.ports import Host, Known, LaunchFailed, PeerFailure
from raykv.records import frames as f
from raykv.replication import moves
from raykv.replication.cluster_state import (
    DEFAULT_BUCKET,
    BucketEntry,
    ClusterState,
    bucket_from_options,
    check_same_bucket,
    encode_state,
)
from raykv.replication.peers import node_address
from raykv.ring import Member, partition_warning
from raykv.supervision.autoscaling import NodeLoad
from raykv.supervision.founding import Plan, first_state, place_one
from raykv.supervision.rebalancing import Rebalancing
from raykv.supervision.register import Register, Superseded, latest, missing_for_majority
from raykv.supervision.scaling import Scaling, check_limits, named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.ports import Clock, Host, Launched, Launcher, Transport

logger = logging.getLogger("raykv.supervisor")

PING_EVERY_S = 0.5
PING_TIMEOUT_S = 1.0
ADOPT_TIMEOUT_S = 5.0
"""How long a process that runs already is given to answer, before it is ended and another started in its place."""
MISSES_BEFORE_SUSPICION = 2
WORD_EXPIRES_S = 3.0
"""How long a reporter's word holds: a little more than two rounds of pings."""
LAUNCH_TIMEOUT_S = 30.0
LAUNCH_RETRY_CEILING_S = 5.0
GROW_TIMEOUT_S = 600.0
"""How long a node that the autoscaler adds may wait for a machine to come."""
MAJORITY_TIMEOUT_S = 30.0
STATUS_TIMEOUT_S = 1.0
REPLACE_LOOK_S = 1.0
REPLACE_RETRY_S = 10.0
LOST_AFTER_S = 20.0
"""A node that is to leave, and is down for so long, is not waited for: what only it holds is given up."""


@dataclass(slots=True)
class _Node:
    state: str = "starting"
    cause: str = ""
    incarnation: int = 0
    pid: int = 0
    since_s: float = 0.0
    host_gone: bool = False
    """Whether the last attempt to start it found its host missing."""
    log_end: f.LogEnd | None = None
    ballot: tuple[int, int] = (0, 0)
    """Of the decided state that it knows."""
    restarts: int = 0
    last_outage_s: float | None = None


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

        It has stopped watching by then. Whoever runs it starts another.
        """
        self._store_id = store_id
        self._plan = plan
        self._hosts = hosts
        self._transport = transport
        self._clock = clock
        self._launcher = launcher
        self._on_failure = on_failure
        self._register = Register(transport, clock)
        self._nodes: dict[str, _Node] = {}
        self._hosts_of: dict[str, str] = {}
        self._unborn: set[str] = set()
        """Nodes of a store that is being founded which have never run: an empty directory of theirs lacks nothing."""
        self._verdicts = Verdicts(expires_s=WORD_EXPIRES_S)
        self._silent: set[str] = set()
        """Nodes that have not answered several pings in a row."""
        self._out_of_reach: set[str] = set()
        """Nodes that the coordinator did not reach when it was asked."""
        self._sequence = 0
        self._changing = asyncio.Lock()
        self._joining = asyncio.Lock()
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._rebalancing = Rebalancing(
            plan.store.name,
            transport=transport,
            clock=clock,
            state=lambda: self.state,
            change=self._alter,
            knows=self._knows,
            left=self._see_off,
            lost=self._lost,
        )
        self._scaling = Scaling(
            plan.store.name,
            clock=clock,
            state=lambda: self.state,
            measure=self._loads,
            add=lambda: self.add_node(0.0, "", "", GROW_TIMEOUT_S),
            remove=lambda node_id: self.remove_node(node_id, LAUNCH_TIMEOUT_S),
            rebalance=lambda: self.rebalance("restore"),
        )
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order of their start, as everything that can be seen

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
        except Superseded as error:  # also what a node says to a promise that reaches it twice
            raise StoreUnavailable(f"store {self._name!r} is being taken over: {error}") from None

    async def _start(self) -> ClusterState:
        founded = await self._launcher.founded()
        places = await self._launcher.directories(everywhere=not founded)
        if founded and not places:  # what this host once held is gone, or was always elsewhere
            places = await self._launcher.directories(everywhere=True)
        self._hosts_of.update(places)
        found = sorted(places)
        unusable = await self._bring_up(found)
        answers = await self._read_all(found)
        if latest(answers) is not None:
            await self._recover(answers)
        elif await self._launcher.founded():
            raise unusable or StoreUnavailable(
                f"store {self._name!r} was founded, and its state is in none of the directories that are left "
                f"({', '.join(found) or 'none is'}): bring the others back, or destroy the store"
            )
        elif unusable is not None:
            raise unusable
        else:
            # Nothing was ever handed out: a first start that did not come to its end, or none. What another one may have
            # stored on a majority this one finds, whoever is silent.
            await self._found(found, answers)
        await self._launcher.note_founded()
        members = [member.node_id for member in self.state.ring.members]
        for node_id in members:
            self._tending[node_id] = self._spawn(self._tend(node_id))
        await self._publish()
        self._spawn(self._see_off_strays([node_id for node_id in found if node_id not in members]))
        self._spawn(self._rebalancing.run())
        self._spawn(self._replace_the_lost())
        self._spawn(self._scaling.run())
        logger.info(
            "store %s: serving with %d nodes, %d partitions, %d copies (generation %d)",
            self._name, len(self.state.ring.members), self.state.ring.partitions, self.state.ring.copies,
            self.state.generation,
        )  # fmt: skip
        return self.state

    async def stop(self) -> None:
        """Stop watching and close every node cleanly. Nodes that do not answer are left to the caller."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*(self._stop_node(node_id) for node_id in self._nodes))
        logger.info("store %s: stopped", self._name)

    async def _stop_node(self, node_id: str) -> None:
        frame = f.node_requests.encode(f.NodeRequest(0, f.Stop()))
        try:
            await self._transport.call(node_address(node_id), frame, 10.0)
        except PeerFailure as failure:
            logger.warning("store %s: node %s did not stop cleanly: %s", self._name, node_id, failure)

    async def _found(self, found: Sequence[str], answers: dict[str, f.RegisterAnswer]) -> None:
        plan = self._plan
        if plan.nodes < plan.store.copies:
            raise NotEnoughNodes(f"n={plan.store.copies} copies need as many nodes; nodes={plan.nodes}")
        state = first_state(plan, self._store_id, self._hosts)
        if (warning := partition_warning(state.ring.members, state.ring.partitions)) is not None:
            logger.warning("store %s: %s", self._name, warning)
        self._hosts_of = {member.node_id: member.host for member in state.ring.members}
        new = [member.node_id for member in state.ring.members if member.node_id not in found]
        self._unborn.update(new)
        unusable = await self._bring_up(new)
        if unusable is not None:
            raise unusable
        await self._register.found(state, answers)

    async def _read_all(self, nodes: Sequence[str]) -> dict[str, f.RegisterAnswer]:
        """Read the nodes' copies, waiting for those that are up and slow."""
        deadline_s = self._clock.monotonic_s() + MAJORITY_TIMEOUT_S
        while True:
            answers = await self._register.read(nodes)
            waiting = [node_id for node_id in nodes if node_id not in answers and self._nodes[node_id].state == "up"]
            if not waiting or latest(answers) is not None or self._clock.monotonic_s() > deadline_s:
                return answers
            await self._clock.sleep(PING_EVERY_S)

    async def _recover(self, answers: dict[str, f.RegisterAnswer]) -> None:
        state = latest(answers)
        assert state is not None
        if state.config != self._plan.store:
            raise CorruptData(f"store {self._name!r}: its path and its nodes disagree on how it was founded")
        if state.store_id != self._store_id:
            raise InvalidOption(f"the directories hold another store ({state.config.name!r})")
        deadline_s = self._clock.monotonic_s() + MAJORITY_TIMEOUT_S
        while True:
            await self._bring_up_elsewhere(state.ring.members)
            if not (missing := missing_for_majority(state, answers)):
                break
            if self._clock.monotonic_s() > deadline_s:
                raise StoreUnavailable(self._minority(state.ring.members, missing), missing=missing)
            await self._clock.sleep(PING_EVERY_S)
            answers = await self._register.read([member.node_id for member in state.ring.members])
            state = latest(answers) or state  # perhaps a later one, with other members
        await self._register.take_over(answers)

    async def _bring_up_elsewhere(self, members: Sequence[Member]) -> None:
        """Start the members whose directories were not found here, on the hosts where they are."""
        elsewhere = [member.node_id for member in members if member.node_id not in self._nodes]
        if not elsewhere:
            return
        there = {host.name for host in await self._launcher.hosts()}
        self._hosts_of = {member.node_id: member.host for member in members} | self._hosts_of
        if not {self._hosts_of[node_id] for node_id in elsewhere} <= there:
            # A machine that was started anew may have another name. What is found on it is there, whatever it is called.
            places = await self._launcher.directories(everywhere=True)
            self._hosts_of.update({node_id: places[node_id] for node_id in elsewhere if node_id in places})
        if not await self._launcher.founded():
            self._unborn.update(elsewhere)  # the state stands, and was never handed out: nobody has written anything
        logger.info("store %s: %s started on other hosts", self._name, ", ".join(elsewhere))
        await self._bring_up(elsewhere)

    def _minority(self, members: Sequence[Member], missing: Sequence[str]) -> str:
        """Say that too few came up, and what is missing."""
        said = []
        for node_id in missing:
            host, cause = self._hosts_of.get(node_id), self._nodes[node_id].cause
            said.append(f"{node_id}{f' on host {host}' if host else ''} ({cause or 'it does not answer'})")
        there = len(members) - len(missing)
        return (
            f"these are a minority: {there} of {len(members)} nodes of store {self._name!r} came up, "
            f"{len(members) // 2 + 1} are needed; missing: {', '.join(said)}"
        )

    async def _bring_up(self, nodes: Sequence[str]) -> InvalidOption | None:
        """Start these nodes, or adopt those that run already.

        Returns the error to be raised if the store cannot do without those whose directories cannot be used.
        """

        async def one(node_id: str) -> None:
            self._nodes.setdefault(node_id, _Node(since_s=self._clock.monotonic_s()))
            launched = await self._launcher.adopt(node_id, ADOPT_TIMEOUT_S)
            self._up(node_id, launched or await self._launch(node_id, take_over=False))

        results = await asyncio.gather(*(one(node_id) for node_id in nodes), return_exceptions=True)
        unusable: InvalidOption | None = None
        for node_id, result in zip(nodes, results, strict=True):
            if isinstance(result, LaunchFailed):
                self._down(node_id, str(result))
                self._nodes[node_id].host_gone = result.kind == "no host"
                if result.kind in {"in use", "foreign", "unusable"}:
                    unusable = unusable or InvalidOption(f"node {node_id} cannot use its directory: {result}")
            elif isinstance(result, BaseException):
                raise result
        return unusable

    # ---- watching ----

    async def _tend(self, node_id: str) -> None:
        """Keep one node up, for ever."""
        node = self._nodes[node_id]
        while True:
            if node.state == "up":
                cause = await self._until_lost(node_id)
                self._down(node_id, cause)
                await self._publish()
            await self._bring_back(node_id)
            await self._bring_up_to_date(node_id)
            await self._publish()

    async def _bring_up_to_date(self, node_id: str) -> None:
        """See to it that the node knows the present state."""
        if not await self._register.bring_up_to_date(node_id):
            async with self._changing:
                with contextlib.suppress(StoreUnavailable):  # the next pong will tell
                    await self._register.store(self.state)  # under a number above that of the change that failed

    async def _until_lost(self, node_id: str) -> str:
        """Wait until the node's process has ended, or two reporters agree that it does not answer."""
        ended = asyncio.ensure_future(self._launcher.ended(node_id))
        silent = asyncio.ensure_future(self._until_silent(node_id))
        try:
            done, _ = await asyncio.wait({ended, silent}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended in done else silent.result()
        finally:
            ended.cancel()
            silent.cancel()

    async def _until_silent(self, node_id: str) -> str:
        misses = 0
        while True:
            await self._clock.sleep(PING_EVERY_S)
            misses = 0 if await self._ping(node_id) is not None else misses + 1
            if misses < MISSES_BEFORE_SUSPICION:
                self._silent.discard(node_id)
                self._out_of_reach.discard(node_id)
            elif node_id not in self._silent:
                self._silent.add(node_id)
                logger.warning("store %s: node %s suspected: no answer to %d pings", self._name, node_id, misses)
            if not misses:
                if self._nodes[node_id].ballot < self.state.ballot:  # what it was told has not reached it
                    await self._bring_up_to_date(node_id)
                continue
            reporters = self._judged(node_id)
            if misses >= MISSES_BEFORE_SUSPICION and not reporters:
                (self._out_of_reach.discard if await self._second_reaches(node_id) else self._out_of_reach.add)(node_id)
                reporters = self._judged(node_id)
            if reporters:
                return f"it does not answer: {misses} pings went unanswered, and {', '.join(reporters)} say so"

    def _judged(self, node_id: str) -> list[str]:
        """Return by whose word the node is down: other nodes, the coordinator, this supervisor. Empty: it is not."""
        now_s = self._clock.monotonic_s()
        self._verdicts.report("supervisor", sorted(self._silent), now_s)
        self._verdicts.report("coordinator", sorted(self._out_of_reach), now_s)
        return self._verdicts.down(now_s).get(node_id, [])

    async def _ping(self, node_id: str) -> int | None:
        frame = f.node_requests.encode(f.NodeRequest(0, f.Ping(), self._nodes[node_id].log_end))
        try:
            answer = f.node_answers.decode(await self._transport.call(node_address(node_id), frame, PING_TIMEOUT_S))
        except (PeerFailure, CorruptData):
            return None
        if not isinstance(answer.body, f.Pong):
            return None
        node = self._nodes[node_id]
        self._verdicts.report(node_id, answer.body.suspects, self._clock.monotonic_s())
        if answer.incarnation >= node.incarnation:
            node.ballot = answer.body.ballot
            node.log_end = answer.log_end  # to notice when its directory is an old copy one day
        return answer.incarnation

    def _known(self, node_id: str) -> Known:
        node = self._nodes[node_id]
        end = node.log_end
        return Known(node.incarnation) if end is None else Known(node.incarnation, end.life, end.position)

    async def _second_reaches(self, node_id: str) -> bool:
        """Ask a coordinator for the second opinion. No opinion is no second reporter."""
        frame = f.coordinator_requests.encode(f.Reach(node_id, PING_TIMEOUT_S))
        try:
            answer = f.coordinator_answers.decode(await self._transport.call("coordinator", frame, PING_TIMEOUT_S * 2))
        except (PeerFailure, CorruptData):
            return True
        return not (isinstance(answer, f.Told) and answer.data is False)

    async def _bring_back(self, node_id: str) -> None:
        """Start a lost node again, for as long as it takes."""
        node = self._nodes[node_id]
        delay_s, again = 0.1, False
        while node.state != "up":
            try:
                # What could not be started, perhaps somebody else has: a former supervisor that lives on.
                adopted = await self._launcher.adopt(node_id, PING_TIMEOUT_S) if again else None
                launched = adopted or await self._launch(node_id, take_over=True)
            except LaunchFailed as failure:
                again = True
                node.host_gone = failure.kind == "no host"
                if node.cause != str(failure):
                    node.cause = str(failure)
                    logger.error("store %s: node %s could not be started: %s", self._name, node_id, failure)
                await self._clock.sleep(delay_s)
                delay_s = min(2 * delay_s, LAUNCH_RETRY_CEILING_S)
            else:
                node.restarts += 1
                self._up(node_id, launched)

    async def _launch(self, node_id: str, *, take_over: bool) -> Launched:
        return await self._launcher.launch(
            node_id,
            self._hosts_of.get(node_id, ""),
            fresh=lambda: self._never_ran(node_id),
            take_over=take_over,
            known=self._known(node_id),
            timeout_s=LAUNCH_TIMEOUT_S,
        )

    async def _never_ran(self, node_id: str) -> bool:
        """Say whether an empty directory of the node lacks nothing.

        Not so if another supervisor has founded or taken over the store: the node may have run for that one, and have lost
        its directory since. Raises ``LaunchFailed`` while that cannot be told.
        """
        if node_id not in self._unborn:
            return False
        if self._register.state is None:
            return not await self._launcher.founded()
        try:
            return await self._register.owned()
        except StoreUnavailable as error:
            raise LaunchFailed("undecided", f"it may have run before: {error}") from None

    def _up(self, node_id: str, launched: Launched) -> None:
        node, now_s = self._nodes[node_id], self._clock.monotonic_s()
        self._unborn.discard(node_id)
        self._silent.discard(node_id)
        self._out_of_reach.discard(node_id)
        self._verdicts.forget(node_id)
        if node.state == "down":
            node.last_outage_s = now_s - node.since_s
        node.state, node.cause, node.since_s, node.host_gone = "up", "", now_s, False
        node.incarnation, node.pid = launched.incarnation, launched.pid
        logger.info("store %s: node %s up: incarnation %d, pid %d", self._name, node_id, node.incarnation, node.pid)

    def _down(self, node_id: str, cause: str) -> None:
        node = self._nodes[node_id]
        node.state, node.cause, node.since_s = "down", cause, self._clock.monotonic_s()
        logger.warning("store %s: node %s down: %s", self._name, node_id, cause)

    # ---- the cluster's state ----

    def news(self) -> f.Publish:
        """Return what coordinators need to know."""
        down = {node_id: node.cause for node_id, node in self._nodes.items() if node.state != "up"}
        incarnations = {node_id: node.incarnation for node_id, node in self._nodes.items()}
        return f.Publish(self._sequence, encode_state(self.state), down, incarnations)

    async def _publish(self) -> None:
        """Tell the coordinator. One that is away asks for itself when it is back."""
        self._sequence += 1
        try:
            await self._transport.call("coordinator", f.coordinator_requests.encode(self.news()), PING_TIMEOUT_S)
        except PeerFailure as failure:
            logger.debug("store %s: the coordinator was not told: %s", self._name, failure)

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
            return True

    # ---- nodes come and go ----

    async def add_node(self, weight: float, zone: str, host: str, timeout_s: float) -> str:
        """Let one more node join, and begin to give it its share. Returns its id.

        ``weight``: 0 for what its host can carry. Raises ``InvalidOption``, ``StoreUnavailable``.
        """
        async with self._joining:
            member = await self._place(weight, zone, host, timeout_s)
            await self._let_join(member, lambda state: moves.with_member(state, member), timeout_s)
        return member.node_id

    async def replace_node(self, lost: str, host: str, timeout_s: float) -> str:
        """Let a new node take the place of one that is lost. Returns its id. Raises as ``add_node``.

        It takes over from the others what the lost one had. That leaves when it has, should it come back before as well.
        """
        async with self._joining:
            former = self.state.ring.member(lost)
            if self._nodes[lost].state == "up":
                raise InvalidOption(f"node {lost} is up; what is to leave is removed, not replaced")
            if self.state.goal is not None and not self.state.goal.has_member(lost):
                raise InvalidOption(f"node {lost} is about to leave as it is")
            member = await self._place(former.weight, "", host, timeout_s, instead_of=lost)
            await self._let_join(member, lambda state: moves.with_replacement(state, member, lost), timeout_s)
        logger.info("store %s: node %s takes the place of %s", self._name, member.node_id, lost)
        return member.node_id

    async def _place(self, weight: float, zone: str, host: str, timeout_s: float, instead_of: str = "") -> Member:
        node_id = f"n{moves.next_number(self.state)}"
        if not host and not zone:
            try:
                host = await self._launcher.room(timeout_s)
            except LaunchFailed as failure:
                raise StoreUnavailable(f"no node was added: {failure}") from None
        others = [member for member in self.state.ring.members if member.node_id != instead_of]
        return place_one(others, await self._launcher.hosts(), node_id, weight=weight, host=host, zone=zone)

    async def _let_join(self, member: Member, change: Callable[[ClusterState], ClusterState], timeout_s: float) -> None:
        """Start a node that has never run, and make it a member."""
        node_id = member.node_id
        self._hosts_of[node_id] = member.host
        self._nodes[node_id] = _Node(since_s=self._clock.monotonic_s())
        self._unborn.add(node_id)
        try:
            self._up(node_id, await self._launch(node_id, take_over=True))
            await self._between_waves(change, timeout_s)
        except (LaunchFailed, RaykvError) as error:
            if not self.state.ring.has_member(node_id):
                del self._nodes[node_id]
                if not isinstance(error, LaunchFailed):
                    self._spawn(self._clear_away(node_id))
                raise StoreUnavailable(f"node {node_id} did not join: {error}") from None
        self._tending[node_id] = self._spawn(self._tend(node_id))
        logger.info("store %s: node %s joined on host %s, weight %g", self._name, node_id, member.host, member.weight)

    async def _replace_the_lost(self) -> None:
        """Replace nodes whose hosts have been gone for long, one after the other."""
        while True:
            await self._clock.sleep(REPLACE_LOOK_S)
            if self.state.goal is not None:
                continue
            patience_s, now_s = self.state.config.replace_after_s, self._clock.monotonic_s()
            for node_id, node in sorted(self._nodes.items()):
                if node.state == "down" and node.host_gone and now_s - node.since_s > patience_s:
                    logger.warning(
                        "store %s: the host of node %s has been gone for %.0f s; it is replaced",
                        self._name, node_id, now_s - node.since_s,
                    )  # fmt: skip
                    try:
                        await self.replace_node(node_id, "", LAUNCH_TIMEOUT_S)
                    except RaykvError as error:
                        logger.warning("store %s: node %s is not replaced yet: %s", self._name, node_id, error)
                        await self._clock.sleep(REPLACE_RETRY_S)
                    break

    async def remove_node(self, node_id: str, timeout_s: float) -> None:
        """Let a node give away what it holds, and leave then. Raises ``NotEnoughNodes`` if too few would be left."""
        self.state.ring.member(node_id)
        async with self._joining:
            await self._between_waves(
                lambda state: moves.with_goal(
                    state, [each for each in moves.wanted_members(state) if each.node_id != node_id]
                ),
                timeout_s,
            )
        logger.info("store %s: node %s is to leave", self._name, node_id)

    async def set_weight(self, node_id: str, weight: float, timeout_s: float) -> None:
        """Let a node carry more or less."""
        member = self.state.ring.member(node_id)
        weighted = Member(node_id=node_id, weight=weight, host=member.host, zone=member.zone)
        async with self._joining:
            await self._between_waves(
                lambda state: moves.with_goal(
                    state,
                    [weighted if each.node_id == node_id else each for each in moves.wanted_members(state)],
                ),
                timeout_s,
            )
        logger.info("store %s: node %s is to carry %g", self._name, node_id, weight)

    async def rebalance(self, action: str) -> None:
        """Hold the moves, go on with them, or take them back."""
        match action:
            case "pause" | "resume":
                self._rebalancing.paused = action == "pause"
            case "restore":
                await self._between_waves(
                    lambda state: moves.with_goal(state, moves.wanted_members(state)), LAUNCH_TIMEOUT_S
                )
            case "abort":
                async with self._changing:
                    state = self.state
                    if any(move.reads_new for move in state.moves):
                        raise StoreUnavailable("new owners are being read by now; it ends in a moment, try again then")
                    if state.goal is not None:
                        await self._change(moves.taken_back(state))
            case _:
                raise InvalidOption(f"rebalancing can be told to pause, resume or abort; got {action!r}")

    async def _between_waves(self, change: Callable[[ClusterState], ClusterState], timeout_s: float) -> None:
        """Change the state when nothing is under way just then. Raises ``StoreUnavailable`` if that takes too long."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            async with self._changing:
                if not self.state.moves:
                    await self._change(change(self.state))
                    return
            if self._clock.monotonic_s() > deadline_s:
                raise StoreUnavailable("partitions are moving just now, and the wave did not end in time; try again")
            await self._clock.sleep(0.1)

    async def _see_off(self, nodes: list[str]) -> None:
        """End those that are no members any more, and set their directories aside (P6)."""
        for node_id in nodes:
            if (task := self._tending.pop(node_id, None)) is not None:
                task.cancel()
            await self._stop_node(node_id)
            await self._launcher.retire(node_id, self._hosts_of.pop(node_id, ""))
            self._nodes.pop(node_id, None)
            self._verdicts.forget(node_id)
            logger.info("store %s: node %s has left", self._name, node_id)
        if nodes:
            await self._publish()

    async def _clear_away(self, node_id: str) -> None:
        """End a node that did not join, once nobody who takes over can find it a member.

        The state in which it is one may stand on a minority; a later one must be decided first.
        """
        while True:
            async with self._joining, self._changing:
                if self.state.ring.has_member(node_id):
                    return
                with contextlib.suppress(StoreUnavailable):
                    await self._change(msgspec.structs.replace(self.state, version=self.state.version + 1))
                    break
            await self._clock.sleep(1.0)
        await self._see_off_strays([node_id])

    async def _see_off_strays(self, nodes: list[str]) -> None:
        """See off those whose directories were found and that are no members: they have left, or never got so far."""
        async with self._joining:
            await self._see_off([node_id for node_id in nodes if not self.state.ring.has_member(node_id)])

    async def _knows(self, node_id: str, ballot: tuple[int, int]) -> bool:
        """Whether a node knows, durably, of the state with this number or of a later one; it is told if it does not."""
        for _ in range(2):
            node = self._nodes.get(node_id)
            if node is None or await self._ping(node_id) is None:
                return False
            if node.ballot >= ballot:
                return True
            await self._bring_up_to_date(node_id)
        return False

    def _lost(self) -> list[str]:
        """Return the nodes that are to leave and have been down for so long that they are taken to be gone for good."""
        goal, now_s = self.state.goal, self._clock.monotonic_s()
        return [
            node_id
            for node_id, node in self._nodes.items()
            if goal is not None
            and not goal.has_member(node_id)
            and node.state == "down"
            and now_s - node.since_s > LOST_AFTER_S
        ]

    async def _alter(self, change: Callable[[ClusterState], ClusterState]) -> None:
        async with self._changing:
            await self._change(change(self.state))

    async def _change(self, state: ClusterState) -> None:
        try:
            await self._register.store(state)
        except Superseded as error:
            self._fail(str(error))
            raise
        await self._publish()

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
        match request:
            case f.GetNews():
                return self.news()
            case f.OpenBucket():
                entry = await self.open_bucket(request.name, request.options)
                return f.BucketOpened(entry.bucket_id, msgspec.to_builtins(entry.config))
            case f.DropBucket():
                return f.Told(await self.drop_bucket(request.name))
            case f.AddNode():
                return f.Told(await self.add_node(request.weight, request.zone, request.host, request.timeout_s))
            case f.RemoveNode():
                await self.remove_node(request.node_id, request.timeout_s)
                return f.Told(None)
            case f.SetWeight():
                await self.set_weight(request.node_id, request.weight, request.timeout_s)
                return f.Told(None)
            case f.Rebalance():
                await self.rebalance(request.action)
                return f.Told(None)
            case f.ReplaceNode():
                return f.Told(await self.replace_node(request.node_id, request.host, request.timeout_s))
            case f.Autoscale():
                return f.Told(await self.autoscale(request.limits, dry_run=request.dry_run, off=request.off))
            case f.Tell():
                return f.Told(await self.status())

    async def autoscale(self, limits: dict[str, Any] | None, *, dry_run: bool, off: bool) -> dict[str, Any]:
        """Set the autoscaler going, try it, let it rest; return what it sees and would do. See ``frames.Autoscale``."""
        wanted = None if limits is None else check_limits(limits, self.state.ring.copies)
        if dry_run:
            return await self._scaling.report(wanted or self.state.scaling)
        if off or wanted is not None:
            await self._alter(lambda state: state.with_scaling(wanted))
            logger.info("store %s: autoscaling is %s", self._name, f"on: {wanted}" if wanted is not None else "off")
        return await self._scaling.report()

    async def _loads(self) -> list[NodeLoad]:
        """Return what the nodes say that they carry, those that say nothing left out."""
        members = self.state.ring.members
        stats = await asyncio.gather(*(self._stats(member.node_id) for member in members))
        return [
            NodeLoad(
                member.node_id,
                member.weight,
                float(told["load"].get("ops_per_s", 0.0)),
                int(told["disk_bytes"]),
                tuple((bytes(key), float(drawn)) for key, drawn in told["load"].get("keys", ())),
                float(told["load"].get("p99_ms", 0.0)),
            )
            for member, told in zip(members, stats, strict=True)
            if told is not None
        ]

    async def status(self) -> dict[str, Any]:
        """Return the store as plain data: settings, nodes with their state and figures."""
        state = self.state
        nodes = [member.node_id for member in state.ring.members]
        stats = dict(zip(nodes, await asyncio.gather(*map(self._stats, nodes)), strict=True))
        for told in stats.values():
            if told is not None and (load := told["load"]):
                load["keys"] = [named(bytes(key), state) | {"ops_per_s": drawn} for key, drawn in load["keys"]]
        now_s = self._clock.monotonic_s()
        return {
            "name": self._name,
            "store_id": self._store_id,
            "generation": state.generation,
            "version": state.version,
            "ring_epoch": state.ring.epoch,
            "rebalancing": self._rebalancing.progress(),
            "autoscaling": self._scaling.told(),
            "config": msgspec.to_builtins(state.config),
            "buckets": [entry.config.name for entry in state.buckets],
            "nodes": [
                {
                    "node_id": member.node_id,
                    "state": self._nodes[member.node_id].state,
                    "cause": self._nodes[member.node_id].cause,
                    "for_s": round(now_s - self._nodes[member.node_id].since_s, 1),
                    "incarnation": self._nodes[member.node_id].incarnation,
                    "pid": self._nodes[member.node_id].pid,
                    "restarts": self._nodes[member.node_id].restarts,
                    "last_outage_s": self._nodes[member.node_id].last_outage_s,
                    "host": member.host,
                    "zone": member.zone,
                    "weight": member.weight,
                    "partitions": len(state.ring.partitions_of(member.node_id)),
                    "storage": stats[member.node_id],
                }
                for member in state.ring.members
            ],
        }

    async def _stats(self, node_id: str) -> dict[str, Any] | None:
        if node_id not in self._nodes or self._nodes[node_id].state != "up":
            return None  # or whoever asks would wait for it just when it matters
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
        """Stop watching: half a supervisor would be worse than none, and the next one starts from what is kept."""
        logger.error("store %s: the supervisor stops: %s", self._name, cause)
        for task in list(self._tasks):
            task.cancel()
        if self._on_failure is not None:
            self._on_failure(cause)
