"""Injects a scenario's faults into a cluster, and undoes the reversible ones when everything should heal."""

from __future__ import annotations

import asyncio
import random as random_module
from functools import partial
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from raykv.cluster.moves import wanted_members
from raykv.cluster.peers import node_address
from raykv.cluster.register import Superseded
from raykv.errors import RaykvError
from raykv.sim.cluster import SUPERVISOR
from raykv.sim.disk import SimDisk
from raykv.sim.network import NetworkOdds
from raykv.sim.nodes import EXIT_AFTER_S
from raykv.storage.wal import CHECKSUM, CHUNK, CHUNK_HEAD_BYTES, HEADER_BYTES, SENTINEL

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Sequence

    from raykv.sim.cluster import Cluster
    from raykv.sim.faults import Fault
    from raykv.supervision.supervisor import Supervisor

MAX_LOG_BYTES = 64 << 20
MAX_NODES = 7
ELASTIC_TIMEOUT_S = 60.0
ASK_AGAIN_S = 0.5
REPLACE_TRIES = 500
"""Enough to last until long after everything has healed; a bound, so that every run ends."""


class Nemesis:
    """The faults of one run. ``done`` counts those carried out, by kind."""

    def __init__(self, cluster: Cluster, faults: Sequence[Fault]) -> None:
        self._cluster = cluster
        self._faults = faults
        self._rng: random.Random = cluster.rng("nemesis")
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self._kept: dict[int, SimDisk] = {}
        self._asked: list[asyncio.Task[None]] = []
        self._when_complete: dict[str, Fault] = {}
        self.hurting: dict[str, int] = {}
        """Target -> the number of lasting faults on it now."""

    async def run(self) -> None:
        """Begin each fault at its time, and end it at its end."""
        cluster = self._cluster
        agenda: list[tuple[float, int, Callable[[], None]]] = []
        for number, fault in enumerate(self._faults):
            agenda.append((fault.at_s, number, partial(self.begin, fault, number)))
            if fault.kind == "roll back":
                agenda.append((fault.at_s - fault.amount, number, partial(self._keep, fault, number)))
        for at_s, _, work in sorted(agenda, key=lambda entry: entry[:2]):
            await asyncio.sleep(max(0.0, at_s - cluster.loop.now_s))
            work()

    def heal(self) -> None:
        """End all lasting faults: cuts, frozen processes, slow and full disks, a bad network."""
        cluster = self._cluster
        cluster.trace.note("all heals")
        self._when_complete.clear()
        pending, self._undo = self._undo, []
        for _, undo in pending:
            undo()
        cluster.network.odds = NetworkOdds(delay_s=cluster.network.odds.delay_s)
        cluster.end_former_supervisors()
        for host in cluster.hosts.values():
            host.crash_after = None
            host.disk.stop_failing()

    def _until(self, fault: Fault, undo: Callable[[], None]) -> None:
        """Undo a fault after its time, or when everything heals."""
        target = fault.target
        self.hurting[target] = self.hurting.get(target, 0) + 1

        def over() -> None:
            undo()
            self.hurting[target] -= 1
            if not self.hurting[target]:
                del self.hurting[target]

        entry = (fault.at_s, over)
        self._undo.append(entry)

        def end() -> None:
            if entry in self._undo:
                self._undo.remove(entry)
                self._cluster.trace.note(f"over: {fault.kind}", "nemesis", target)
                over()

        self._cluster.loop.later(fault.for_s, end)

    def _keep(self, fault: Fault, number: int) -> None:
        """Copy a directory, for restoring it later."""
        disk = self._cluster.hosts[fault.target].disk
        self._kept[number] = disk.crash(random_module.Random(0), "keep")

    def begin(self, fault: Fault, number: int = -1) -> None:
        """Begin a fault now, whatever its scheduled time."""
        cluster = self._cluster
        cluster.trace.note(f"fault: {fault.kind} {fault.detail} {fault.amount:g}", "nemesis", fault.target)
        cluster.counts[f"fault: {fault.kind}"] += 1
        getattr(self, f"_do_{fault.kind.replace(' ', '_')}")(fault, number)

    # ---- processes ----

    def _do_kill(self, fault: Fault, number: int) -> None:
        del number
        self._cluster.nodes.kill(fault.target)

    def _do_crash_at(self, fault: Fault, number: int) -> None:
        host = self._cluster.hosts[fault.target]
        host.crash_after, host.crash_in = int(fault.amount), fault.detail
        host.on_crash = partial(self._do_power, fault, number) if fault.for_s else None

    def _do_freeze(self, fault: Fault, number: int) -> None:
        del number
        current = self._cluster.nodes.current.get(fault.target)
        if current is not None and current.process.alive:
            current.process.freeze()

            def thaw() -> None:
                current.process.thaw()
                if current.forgotten:  # it receives Ray's signals of that time
                    self._cluster.loop.later(EXIT_AFTER_S, current.process.kill)

            self._until(fault, thaw)

    def _do_kill_coordinator(self, fault: Fault, number: int) -> None:
        del number
        self._cluster.actors[fault.target].kill()

    _do_kill_supervisor = _do_kill_coordinator

    def _do_freeze_coordinator(self, fault: Fault, number: int) -> None:
        del number
        process = self._cluster.actors[fault.target]
        if process.alive:
            process.freeze()
            self._until(fault, process.thaw)

    _do_freeze_supervisor = _do_freeze_coordinator

    def _do_another_supervisor(self, fault: Fault, number: int) -> None:
        """Start one beside the running one, whose host Ray has lost sight of: it runs on, perhaps frozen for a while."""
        former = self._cluster.actors[fault.target]
        if former.alive:
            if number % 2:
                former.freeze()
                self._until(fault, former.thaw)
            self._cluster.start_another_supervisor()

    def _do_add_node(self, fault: Fault, number: int) -> None:
        del number
        if len(self._cluster.node_ids) < MAX_NODES:
            self._ask_supervisor(
                lambda supervisor: supervisor.members.add_node(fault.amount, "", "", ELASTIC_TIMEOUT_S)
            )

    def _do_remove_node(self, fault: Fault, number: int) -> None:
        del fault, number
        draw = self._rng.random()
        self._ask_supervisor(
            lambda supervisor: supervisor.members.remove_node(_member(supervisor, draw), ELASTIC_TIMEOUT_S)
        )

    def _do_set_weight(self, fault: Fault, number: int) -> None:
        del number
        draw = self._rng.random()
        self._ask_supervisor(
            lambda supervisor: supervisor.members.set_weight(_member(supervisor, draw), fault.amount, ELASTIC_TIMEOUT_S)
        )

    def _do_replace_node(self, fault: Fault, number: int) -> None:
        del number
        self._replace(fault.target, REPLACE_TRIES)

    def _replace(self, node_id: str, tries: int) -> None:
        """Request it until it is under way: nobody else repeats it, and a command may find no supervisor or end with it."""
        cluster, supervisor = self._cluster, self._present_supervisor()
        if supervisor is not None and all(each.node_id != node_id for each in wanted_members(supervisor.state)):
            return

        def again(_: object = None) -> None:
            if tries:
                cluster.loop.later(ASK_AGAIN_S, self._replace, node_id, tries - 1)

        if supervisor is None:
            again()
        else:
            self._ask(
                supervisor, lambda asked: asked.members.replace_node(node_id, "", ELASTIC_TIMEOUT_S)
            ).add_done_callback(again)

    def _ask_supervisor(self, work: Callable[[Supervisor], Coroutine[Any, Any, object]], tries: int = 10) -> None:
        cluster, supervisor = self._cluster, self._present_supervisor()
        if supervisor is not None:
            self._ask(supervisor, work)
        elif tries:
            cluster.loop.later(ASK_AGAIN_S, self._ask_supervisor, work, tries - 1)

    def _present_supervisor(self) -> Supervisor | None:
        """Return the supervisor that serves; None if none does now."""
        cluster = self._cluster
        return cluster.supervisor if cluster.actors[SUPERVISOR].alive else None

    def _ask(
        self, supervisor: Supervisor, work: Callable[[Supervisor], Coroutine[Any, Any, object]]
    ) -> asyncio.Task[None]:
        """Send the supervisor a request; a refusal goes to the trace."""

        async def ask() -> None:
            try:
                await work(supervisor)
            except (RaykvError, Superseded) as error:
                self._cluster.trace.note(f"does not change the ring: {error}", SUPERVISOR)

        task = self._cluster.actors[SUPERVISOR].spawn(ask())
        self._asked.append(task)
        return task

    @property
    def asking(self) -> bool:
        """Whether a requested change of the ring may still begin."""
        return any(not task.done() for task in self._asked)

    def _do_kill_all(self, fault: Fault, number: int) -> None:
        """End every process of the store: its successors have only the disks."""
        del fault, number
        cluster = self._cluster
        for node_id in list(cluster.node_ids):
            cluster.nodes.kill_all(node_id)
        for process in list(cluster.actors.values()):
            process.kill()

    def _do_power(self, fault: Fault, number: int) -> None:
        del number
        cluster, host = self._cluster, self._cluster.hosts[fault.target]
        if not host.up:
            return
        self._power_off(fault.target)

        def up() -> None:
            host.up = True
            cluster.network.unreachable.discard(node_address(fault.target))

        self._until(fault, up)

    def _do_lose_host(self, fault: Fault, number: int) -> None:
        del number
        self._power_off(fault.target)

    def _power_off(self, node_id: str) -> None:
        cluster, host = self._cluster, self._cluster.hosts[node_id]
        host.up = False
        cluster.network.unreachable.add(node_address(node_id))
        cluster.nodes.kill_all(node_id)
        host.replace_disk(host.disk.crash(self._rng, "random"))

    def _do_power_when_complete(self, fault: Fault, number: int) -> None:
        del number
        self._when_complete[fault.target] = fault

    def complete_again(self, node_id: str) -> None:
        """Take notice that a node has completed itself: its power may go now."""
        if (fault := self._when_complete.pop(node_id, None)) is not None:
            self._cluster.loop.later(fault.amount, self._do_power, fault, -1)

    # ---- network and clocks ----

    def _do_cut(self, fault: Fault, number: int) -> None:
        del number
        network, target = self._cluster.network, node_address(fault.target)
        direction, _, other = fault.detail.partition(" ")
        names = [*(node_address(node_id) for node_id in self._cluster.node_ids), *self._cluster.coordinator_names]
        names.append(SUPERVISOR)
        others = names if other == "all" else [node_address(other) if other in self._cluster.node_ids else other]
        pairs = []
        for name in others:
            if name != target:
                pairs += [(target, name)] if direction in {"from", "both"} else []
                pairs += [(name, target)] if direction in {"to", "both"} else []
        for pair in pairs:
            network.cut(*pair)

        def mend() -> None:
            for pair in pairs:
                network.mend(*pair)

        self._until(fault, mend)

    def _do_slow_node(self, fault: Fault, number: int) -> None:
        del number
        slow, name = self._cluster.network.slow, node_address(fault.target)
        slow[name] = fault.amount
        self._until(fault, lambda: slow.__setitem__(name, 0.0))

    def _do_clock_jump(self, fault: Fault, number: int) -> None:
        del number
        self._cluster.hosts[fault.target].skew_ms += fault.amount

    _do_clock_far_off = _do_clock_jump

    # ---- disks ----

    def _do_slow_disk(self, fault: Fault, number: int) -> None:
        del number
        host = self._cluster.hosts[fault.target]
        usual_s, host.slow_disk_s = host.slow_disk_s, fault.amount

        def end() -> None:
            host.slow_disk_s = min(usual_s, host.slow_disk_s)

        self._until(fault, end)

    def _do_sync_fails(self, fault: Fault, number: int) -> None:
        del number
        self._cluster.hosts[fault.target].disk.fail("sync", after=int(fault.amount))

    def _do_write_fails(self, fault: Fault, number: int) -> None:
        del number
        self._cluster.hosts[fault.target].disk.fail("append", after=int(fault.amount))

    def _do_disk_full(self, fault: Fault, number: int) -> None:
        del number
        host = self._cluster.hosts[fault.target]
        host.disk.space_bytes = int(fault.amount)

        def end() -> None:
            host.disk.space_bytes = None

        self._until(fault, end)

    def _do_wipe(self, fault: Fault, number: int) -> None:
        del number
        self._cluster.nodes.kill_all(fault.target)
        self._cluster.hosts[fault.target].replace_disk(SimDisk())

    def _do_roll_back(self, fault: Fault, number: int) -> None:
        kept = self._kept.get(number)
        if kept is not None:
            self._cluster.nodes.kill_all(fault.target)
            self._cluster.hosts[fault.target].replace_disk(kept)

    def _do_bit_rot(self, fault: Fault, number: int) -> None:
        del number
        if (path := flip_a_bit(self._cluster.hosts[fault.target].disk, self._rng)) is not None:
            self._cluster.trace.note(f"corruption in {path}", "nemesis", fault.target)


def _member(supervisor: Supervisor, draw: float) -> str:
    members = supervisor.state.ring.members
    return members[int(draw * len(members))].node_id


def flip_a_bit(disk: SimDisk, rng: random.Random, ending: str = "", *, times: int = 1) -> str | None:
    """Flip one or more bits of the safe bytes on a disk, in a file of any kind (or whose name has this ending).

    Returns the file; None if there is none.
    """
    files = [path for path in disk.files() if disk.synced_size(path) > 0 and path.endswith(ending)]
    kinds = sorted({path.rpartition(".")[2] for path in files})  # one log among many tables is as likely as all of them
    if not kinds:
        return None
    kind = rng.choice(kinds)
    path = rng.choice([path for path in files if path.endswith(kind)])
    size = disk.synced_size(path)
    if kind == "wal":
        # Data synced since the last chunk of a log was written has no witness yet: corruption in it looks like a torn
        # tail, and only peers that know the end of the log can tell the difference. A limit of the design.
        size = max(HEADER_BYTES, _witnessed(disk.read_file(path, MAX_LOG_BYTES)[:size]))
    for _ in range(times):
        disk.flip_bit(path, rng.randrange(size), rng.randrange(8))
    return path


def _witnessed(log: bytes) -> int:
    """Return the synced length of a log, as its intact chunks record it."""
    at, witnessed = HEADER_BYTES, 0
    while log[at : at + len(SENTINEL)] == SENTINEL and at + CHUNK_HEAD_BYTES <= len(log):
        head = log[at : at + CHUNK.size]
        _, length, _, _, synced_up_to, checksum = CHUNK.unpack(head)
        payload = log[at + CHUNK_HEAD_BYTES : at + CHUNK_HEAD_BYTES + length]
        (head_checksum,) = CHECKSUM.unpack_from(log, at + CHUNK.size)
        if crc32c(head) != head_checksum or len(payload) != length or crc32c(payload) != checksum:
            break
        witnessed = synced_up_to
        at += CHUNK_HEAD_BYTES + length
    return witnessed
