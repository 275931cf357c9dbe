"""Watches a store's nodes: starts them, notices when one is lost, and brings it back.

One task per node (``_tend``) waits until the node is lost, marks it down, restarts it on its directory, and announces it.
A node is lost in one of two ways (P12): its process has ended, which Ray notices within a tenth of a second and which is
proof; or it does not answer the supervisor, and two reporters suspect it: two other nodes, which report their suspicions
with every answer to a ping; or one of them, or a coordinator, and the supervisor itself after two unanswered pings. A
report expires. While a node answers the supervisor, the suspicions of others do not matter: there is a cut between them,
which a new process would not mend.

A restarted node takes over its directory only once the former process is gone (P6): the launcher ends that process and
waits for the lock. Therefore a supervisor that reaches only a minority may restart nodes, too: on its own side this is
harmless, and it cannot get the locks of the other side's directories. (P12 asks for a majority. Changes of the cluster's
state need one anyway, see ``register``.)

A node that is to be restarted (``restarting``) is none that is lost: its own task stops it cleanly and starts it again on
its directory. It is "restarting" meanwhile, not down, so nobody replaces it. If it does not start it is down like any
other.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raykv.cluster.peers import node_address
from raykv.errors import CorruptData, InvalidOption, StoreUnavailable
from raykv.membership import Verdicts
from raykv.ports import Known, LaunchFailed, PeerFailure
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from raykv.cluster.register import Register
    from raykv.ports import Clock, Launched, Launcher, Transport
    from raykv.ring import Member
    from raykv.supervision.chronicle import Chronicle

logger = logging.getLogger("raykv.supervisor")

PING_EVERY_S = 0.5
PING_TIMEOUT_S = 1.0
ADOPT_TIMEOUT_S = 5.0
"""Time that a running process gets to answer before it is ended and replaced."""
MISSES_BEFORE_SUSPICION = 2
WORD_EXPIRES_S = 3.0
"""How long a report is valid: a little more than two rounds of pings."""
LAUNCH_TIMEOUT_S = 30.0
BRING_UP_TIMEOUT_S = 75.0
"""Time for the processes with which a supervisor begins: nothing can be done without them, and they start all at once."""
LAUNCH_CEILING_S = 300.0
"""A process that was too slow gets twice the time when it is started again: on a machine that busy it is needed."""
LAUNCH_RETRY_CEILING_S = 5.0
UNDECIDED_S = 30.0
"""A node is started as one that has run before if this stays undecided for this long."""


@dataclass(slots=True)
class Node:
    """The supervisor's view of a node."""

    state: str = "starting"
    cause: str = ""
    incarnation: int = 0
    pid: int = 0
    since_s: float = 0.0
    host_gone: bool = False
    """Whether the last attempt to start it found its host missing."""
    log_end: f.LogEnd | None = None
    ballot: tuple[int, int] = (0, 0)
    """Ballot of the decided state that the node knows."""
    restarts: int = 0
    last_outage_s: float | None = None


class Watch:
    """The nodes of one store. ``bring_up`` some, then ``tend`` them."""

    def __init__(
        self,
        name: str,
        *,
        transport: Transport,
        clock: Clock,
        launcher: Launcher,
        register: Register,
        bring_up_to_date: Callable[[str], Awaitable[None]],
        came_back: Callable[[str], Awaitable[None]],
        changed: Callable[[], Awaitable[None]],
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
        chronicle: Chronicle,
    ) -> None:
        """``bring_up_to_date(node_id)`` sends the node the present state; ``came_back(node_id)`` follows a restart.

        ``changed()`` is called when a node has come up or gone down.
        """
        self._name = name
        self._transport = transport
        self._clock = clock
        self._launcher = launcher
        self._register = register
        self._bring_up_to_date = bring_up_to_date
        self._came_back = came_back
        self._changed = changed
        self._spawn = spawn
        self._chronicle = chronicle
        self.nodes: dict[str, Node] = {}
        self.hosts_of: dict[str, str] = {}
        self.unborn: set[str] = set()
        """Nodes of a store being founded that have never run: their empty directories are complete."""
        self._undecided: dict[str, float] = {}
        """Since when it has been undecided whether a node ever ran."""
        self._verdicts = Verdicts(expires_s=WORD_EXPIRES_S)
        self._adopted: set[str] = set()
        """Nodes whose processes ran when this supervisor began."""
        self._silent: set[str] = set()
        """Nodes that missed several pings in a row."""
        self._out_of_reach: set[str] = set()
        """Nodes that the coordinator could not reach when asked."""
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, asyncio.Event] = {}
        """Nodes that are to be stopped and started again."""

    def tend(self, node_id: str) -> None:
        """Keep a node up from now on."""
        self._tending[node_id] = self._spawn(self._tend(node_id))

    def let_rest(self, node_id: str) -> None:
        """Stop keeping a node up."""
        if (task := self._tending.pop(node_id, None)) is not None:
            task.cancel()

    def forget(self, node_id: str) -> None:
        """Forget a node that is no member."""
        self.nodes.pop(node_id, None)
        self._asked.pop(node_id, None)
        self.hosts_of.pop(node_id, None)
        self._silent.discard(node_id)
        self._out_of_reach.discard(node_id)
        self._verdicts.forget(node_id)

    async def bring_up(self, nodes: Sequence[str]) -> InvalidOption | None:
        """Start these nodes, or adopt those already running.

        Returns the error to raise if the store cannot do without the nodes whose directories are unusable.
        """

        async def one(node_id: str) -> None:
            self.nodes.setdefault(node_id, Node(since_s=self._clock.monotonic_s()))
            launched = await self._launcher.adopt(node_id, ADOPT_TIMEOUT_S)
            if launched is not None:
                self._adopted.add(node_id)
            self.up(node_id, launched or await self.launch(node_id, take_over=False, timeout_s=BRING_UP_TIMEOUT_S))

        results = await asyncio.gather(*(one(node_id) for node_id in nodes), return_exceptions=True)
        unusable: InvalidOption | None = None
        for node_id, result in zip(nodes, results, strict=True):
            if isinstance(result, LaunchFailed):
                self._down(node_id, str(result))
                self.nodes[node_id].host_gone = result.kind == "no host"
                where = f" on host {host}" if (host := self.hosts_of.get(node_id)) else ""
                if result.kind in {"in use", "foreign", "unusable"}:
                    unusable = unusable or InvalidOption(f"node {node_id} cannot use its directory{where}: {result}")
                elif result.kind == "too small":
                    unusable = unusable or InvalidOption(f"node {node_id} cannot be started: {result}")
            elif isinstance(result, BaseException):
                raise result
        return unusable

    async def start_where_they_joined(self, members: Sequence[Member]) -> list[str]:
        """Start nodes that have a second directory anew, on the host where they joined; return them.

        The directory found first may be what an attempt to join has left: empty, complete by its own account, and without
        what the member has promised. What it answered does not count.
        """
        joined = {
            each.node_id: each.host for each in members if self.hosts_of.get(each.node_id, "") not in {"", each.host}
        }
        if not joined:
            return []
        places = await self._launcher.directories(everywhere=True, preferred=joined)
        twice = [node_id for node_id, host in sorted(joined.items()) if host and places.get(node_id) == host]
        self.hosts_of.update({node_id: joined[node_id] for node_id in twice})
        # A process that has run all the while is left alone.
        again = [node_id for node_id in twice if node_id not in self._adopted]
        for node_id in again:
            logger.warning(
                "store %s: node %s is started on host %s, where it joined", self._name, node_id, joined[node_id]
            )
            await self.stop_node(node_id)
        await self.bring_up(again)
        return again

    async def _tend(self, node_id: str) -> None:
        """Keep one node up, for ever."""
        node = self.nodes[node_id]
        while True:
            if node.state in {"up", "restarting"}:
                cause = await self._until_lost(node_id)
                if cause is None:
                    await self.stop_node(node_id)
                else:
                    self._down(node_id, cause)
                    await self._changed()
            await self._bring_back(node_id)
            await self._came_back(node_id)
            await self._changed()

    def drain(self, node_id: str) -> None:
        """Have coordinators ask others than this node, which is up and goes on answering: it is to be restarted."""
        node = self.nodes[node_id]
        node.state, node.cause, node.since_s = (
            "restarting",
            "it is being restarted, as asked",
            self._clock.monotonic_s(),
        )

    def restart(self, node_id: str) -> None:
        """Have a drained node stopped cleanly and started again on its directory, by the task that tends it."""
        self._asked.setdefault(node_id, asyncio.Event()).set()

    async def _until_lost(self, node_id: str) -> str | None:
        """Wait until the node's process has ended, or two reporters agree that it does not answer; return the cause.

        None: it is to be restarted.
        """
        asked = self._asked.setdefault(node_id, asyncio.Event())
        ended = asyncio.ensure_future(self._launcher.ended(node_id))
        silent = asyncio.ensure_future(self._until_silent(node_id))
        restart = asyncio.ensure_future(asked.wait())
        try:
            done, _ = await asyncio.wait({ended, silent, restart}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended in done else silent.result() if silent in done else None
        finally:
            ended.cancel()
            silent.cancel()
            restart.cancel()

    async def _until_silent(self, node_id: str) -> str:
        misses = 0
        while True:
            await self._clock.sleep(PING_EVERY_S)
            misses = 0 if await self.ping(node_id) is not None else misses + 1
            if misses < MISSES_BEFORE_SUSPICION:
                self._silent.discard(node_id)
                self._out_of_reach.discard(node_id)
            elif node_id not in self._silent:
                self._silent.add(node_id)
                logger.warning("store %s: node %s suspected: no answer to %d pings", self._name, node_id, misses)
                why = f"it answered none of {misses} pings of the supervisor"
                self._chronicle.note("note", f"node {node_id} is suspected", why)
            if not misses:
                state = self._register.state  # the state that was sent may not have reached it
                if state is not None and self.nodes[node_id].ballot < state.ballot:
                    await self._bring_up_to_date(node_id)
                continue
            reporters = self._judged(node_id)
            if misses >= MISSES_BEFORE_SUSPICION and not reporters:
                (self._out_of_reach.discard if await self._second_reaches(node_id) else self._out_of_reach.add)(node_id)
                reporters = self._judged(node_id)
            if reporters:
                return f"it does not answer: {misses} pings went unanswered, and {', '.join(reporters)} say so"

    def _judged(self, node_id: str) -> list[str]:
        """Return the reporters by whom the node is down: nodes, the coordinator, this supervisor. Empty: it is not down."""
        now_s = self._clock.monotonic_s()
        self._verdicts.report("supervisor", sorted(self._silent), now_s)
        self._verdicts.report("coordinator", sorted(self._out_of_reach), now_s)
        return self._verdicts.down(now_s).get(node_id, [])

    async def ping(self, node_id: str) -> int | None:
        """Return the node's incarnation, or None if it does not answer; record what it reports."""
        frame = f.node_requests.encode(f.NodeRequest(0, f.Ping(), self.nodes[node_id].log_end))
        try:
            answer = f.node_answers.decode(await self._transport.call(node_address(node_id), frame, PING_TIMEOUT_S))
        except (PeerFailure, CorruptData):
            return None
        if not isinstance(answer.body, f.Pong):
            return None
        node = self.nodes[node_id]
        self._verdicts.report(node_id, answer.body.suspects, self._clock.monotonic_s())
        if answer.incarnation >= node.incarnation:
            node.ballot = answer.body.ballot
            node.log_end = answer.log_end  # to notice when its directory is an old copy one day
        return answer.incarnation

    def _known(self, node_id: str) -> Known:
        node = self.nodes[node_id]
        end = node.log_end
        return Known(node.incarnation) if end is None else Known(node.incarnation, end.directory_id, end.position)

    async def _second_reaches(self, node_id: str) -> bool:
        """Ask a coordinator whether it reaches the node. No answer is no second reporter."""
        frame = f.coordinator_requests.encode(f.IndirectProbe(node_id, PING_TIMEOUT_S))
        try:
            answer = f.coordinator_answers.decode(await self._transport.call("coordinator", frame, PING_TIMEOUT_S * 2))
        except (PeerFailure, CorruptData):
            return True
        return not (isinstance(answer, f.Info) and answer.data is False)

    async def _bring_back(self, node_id: str) -> None:
        """Start a lost node again, for as long as it takes."""
        node = self.nodes[node_id]
        delay_s, again, timeout_s = 0.1, False, LAUNCH_TIMEOUT_S
        while node.state != "up":
            try:
                # A former supervisor that is still alive may have started what could not be started here.
                adopted = await self._launcher.adopt(node_id, PING_TIMEOUT_S) if again else None
                launched = adopted or await self.launch(node_id, take_over=True, timeout_s=timeout_s)
            except LaunchFailed as failure:
                again = True
                if failure.kind == "slow":
                    timeout_s = min(2 * timeout_s, LAUNCH_CEILING_S)
                node.host_gone = failure.kind == "no host"
                if node.state == "restarting":
                    self._down(node_id, str(failure))
                    await self._changed()
                elif node.cause != str(failure):
                    node.cause = str(failure)
                    logger.error("store %s: node %s could not be started: %s", self._name, node_id, failure)
                    self._chronicle.note("bad", f"node {node_id} could not be started", str(failure))
                await self._clock.sleep(delay_s)
                delay_s = min(2 * delay_s, LAUNCH_RETRY_CEILING_S)
            else:
                node.restarts += node.state != "restarting"
                self.up(node_id, launched)

    async def launch(self, node_id: str, *, take_over: bool, timeout_s: float = LAUNCH_TIMEOUT_S) -> Launched:
        """Start a node on its host. Raises ``LaunchFailed``."""
        return await self._launcher.launch(
            node_id,
            self.hosts_of.get(node_id, ""),
            fresh=lambda: self._never_ran(node_id),
            take_over=take_over,
            known=self._known(node_id),
            timeout_s=timeout_s,
        )

    async def _never_ran(self, node_id: str) -> bool:
        """Return whether an empty directory of the node is complete.

        It is not if another supervisor has founded or taken over the store: the node may have run for that one and lost
        its directory since. Raises ``LaunchFailed`` while this is unknown, for at most ``UNDECIDED_S``: the nodes that
        cannot answer may have lost their votes, and regain them only with this node (P5).
        """
        if node_id not in self.unborn:
            return False
        if self._register.state is None:
            return not await self._launcher.founded()
        try:
            return await self._register.owned()
        except StoreUnavailable as error:
            since_s = self._undecided.setdefault(node_id, self._clock.monotonic_s())
            if self._clock.monotonic_s() - since_s > UNDECIDED_S:
                return False  # as an incomplete node it is harmless, and the undecided ones may need it
            raise LaunchFailed("undecided", f"it may have run before: {error}") from None

    def up(self, node_id: str, launched: Launched) -> None:
        """Record that a node is up."""
        node, now_s = self.nodes[node_id], self._clock.monotonic_s()
        if (asked := self._asked.get(node_id)) is not None:  # of its former run
            asked.clear()
        self.unborn.discard(node_id)
        self._undecided.pop(node_id, None)
        self._silent.discard(node_id)
        self._out_of_reach.discard(node_id)
        self._verdicts.forget(node_id)
        if node.state == "down":
            node.last_outage_s = now_s - node.since_s
            again = "was started anew" if launched.incarnation != node.incarnation else "answers again"
            cause = f"it {again}, after {node.last_outage_s:.1f} s"
            self._chronicle.note("good", f"node {node_id} is up", cause)
        node.state, node.cause, node.since_s, node.host_gone = "up", "", now_s, False
        node.incarnation, node.pid = launched.incarnation, launched.pid
        logger.info("store %s: node %s up: incarnation %d, pid %d", self._name, node_id, node.incarnation, node.pid)

    def _down(self, node_id: str, cause: str) -> None:
        node = self.nodes[node_id]
        node.state, node.cause, node.since_s = "down", cause, self._clock.monotonic_s()
        logger.warning("store %s: node %s down: %s", self._name, node_id, cause)
        self._chronicle.note("bad", f"node {node_id} is down", cause)

    def trouble(self) -> str:
        """Say which nodes are not up, where, and why; empty if all are."""
        return ", ".join(
            f"{node_id}{f' on host {host}' if (host := self.hosts_of.get(node_id)) else ''} "
            f"({node.cause or ('is being started' if node.state == 'starting' else 'it does not answer')})"
            for node_id, node in sorted(self.nodes.items())
            if node.state != "up"
        )

    async def stop_node(self, node_id: str) -> None:
        """Close a node cleanly, if it answers."""
        frame = f.node_requests.encode(f.NodeRequest(0, f.Stop()))
        try:
            answer = f.node_answers.decode(await self._transport.call(node_address(node_id), frame, 10.0))
            why = answer.body.message if isinstance(answer.body, f.NodeRefused) else ""
        except (PeerFailure, CorruptData) as failure:
            why = str(failure)
        if why:
            logger.warning("store %s: node %s did not stop cleanly: %s", self._name, node_id, why)
