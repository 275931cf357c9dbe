"""Schedules about the cluster's state: two supervisors and three nodes, each schedule fixed.

The register fuzzer draws its faults, and comes to most orders of promises, stores and lost votes sooner or later; for
these it takes thousands. What is watched is what the fuzzer watches.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from raykv.cluster.peers import node_address
from raykv.cluster.register import Register, Superseded
from raykv.cluster.state import bucket_from_options
from raykv.errors import RaykvError
from raykv.protocol import frames as f
from raykv.sim.disk import SimDisk
from raykv.sim.host import SimClock
from raykv.sim.kernel import Process, run_virtual
from raykv.sim.network import NetworkOdds, SimTransport
from simulation.history import Violation
from simulation.register_fuzzer import RegisterFuzzer

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from raykv.sim.kernel import VirtualLoop

NODES = 3
_SLOW_S = 0.6


def play_register_schedule(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Play one schedule, another for the next seed; return what was wrong, and the hash of its trace."""
    schedule = REGISTER_SCHEDULES[(seed + number) % len(REGISTER_SCHEDULES)]
    return play(schedule, f"{schedule.__name__} {seed}.{number}")


def play(schedule: type[RegisterSchedule], seed: str) -> tuple[list[Violation], str]:
    """Play this schedule."""
    runner, loop = run_virtual(lambda loop: schedule(loop, seed).go())
    found = runner.violations + [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.trace.hexdigest()


class RegisterSchedule(RegisterFuzzer):
    """One schedule."""

    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        super().__init__(loop, seed)
        self.node_ids = self.node_ids[:NODES]
        self.network.odds = NetworkOdds(delay_s=self.rng.choice(((0.0005, 0.005), (0.001, 0.02))))

    async def go(self) -> RegisterSchedule:
        """Play it; then all heals, and somebody must be able to take over."""
        for node_id in self.node_ids:
            self._start_node(node_id)
        await self.play()
        await self._heal_and_take_over()
        return self

    async def play(self) -> None:
        """Play it."""
        raise NotImplementedError

    def supervisor(self) -> tuple[Process, Register]:
        """Start a supervisor that a schedule commands."""
        process = Process(self.loop, f"supervisor{len(self.supervisors) + 1}")
        self.supervisors.append(process)
        return process, Register(SimTransport(self.network, process), SimClock(self.hosts["supervisors"], process))

    async def does(self, process: Process, work: Coroutine[Any, Any, object]) -> None:
        """Let a supervisor do something; it may not come off."""
        (done,), _ = await asyncio.wait([process.spawn(work)])
        if (error := done.exception()) is not None and not isinstance(error, RaykvError | Superseded):
            raise error

    async def create(self, process: Process, register: Register, name: str) -> None:
        """Let a supervisor create a bucket."""
        if register.state is not None:
            state = register.state.with_bucket(bucket_from_options(name, {}, NODES))
            await self.does(process, register.accept(state))


class AChangeThatFailed(RegisterSchedule):
    """A change comes to one node only and fails, the next one to the others, and somebody takes over.

    A supervisor that takes over reads both. If they bear the same number, nobody knows which of them was decided.
    """

    async def play(self) -> None:
        """Play it."""
        process, register = self.supervisor()
        await self.does(process, self._take_over(register))
        for made in range(self.rng.randint(0, 2)):
            await self.create(process, register, f"before{made}")
        # The lowest of those who answer is read first.
        away = self.rng.choice((None, self.node_ids[0]))
        one, *others = [node_id for node_id in self.node_ids if node_id != away]
        others += [] if away is None else [away]
        for other in others:
            self.network.cut(process.name, node_address(other))
        await self.create(process, register, "failed")
        for other in others:
            self.network.mend(process.name, node_address(other))
        await asyncio.sleep(self.rng.choice((0.0, 0.1)))
        self.network.cut(process.name, node_address(one))
        await self.create(process, register, "decided")
        later, after = self.supervisor()
        if away is not None:
            self.network.cut(later.name, node_address(away))
        await self.does(later, self._take_over(after))
        await self.create(later, after, "after")


class AVoteGivenBack(RegisterSchedule):
    """A node that has promised itself to a later supervisor is wiped, and gets the decided state from the earlier one.

    The later one has what it needs and stores it just then; if the node votes again, the earlier one decides a change with
    it which the later one has never heard of (the schedule is in ``cluster.acceptor``).
    """

    async def play(self) -> None:
        """Play it."""
        former, register = self.supervisor()
        await self.does(former, self._take_over(register))
        for made in range(self.rng.randint(0, 2)):
            await self.create(former, register, f"before{made}")
        wiped, side = self.rng.sample(self.node_ids, 2)
        later, after = self.supervisor()
        self.network.cut(later.name, node_address(side))
        storing, watched = asyncio.Event(), self.network.sent

        def sent(source: str, target: str, frame: bytes) -> None:
            watched(source, target, frame)
            unseen = source == later.name and not storing.is_set()
            if unseen and isinstance(f.node_requests.decode(frame).body, f.AcceptState):
                self.network.slow[source] = _SLOW_S
                self.loop.call_soon(self.network.slow.clear)  # what it sends now, and nothing else
                storing.set()

        self.network.sent = sent
        taking_over = self.loop.create_task(self.does(later, self._take_over(after)))
        await storing.wait()
        self.lost.add(wiped)
        self.processes[wiped].kill()
        self.hosts[wiped].replace_disk(SimDisk())
        self._start_node(wiped)
        await self.does(former, register.bring_up_to_date(wiped))
        await self.create(former, register, "late")
        await taking_over
        await self.create(later, after, "after")


REGISTER_SCHEDULES: tuple[type[RegisterSchedule], ...] = (AChangeThatFailed, AVoteGivenBack)
