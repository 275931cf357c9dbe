"""Each recipe does what it says, while nodes and coordinators fail and clients are frozen."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from recipes import barrier, dedupe, election, jobs, rate_limiter

if TYPE_CHECKING:
    from raykv.sim.kernel import Process

FOLDER = Path(barrier.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
BUCKET = {"versioning": "linearizable"}


def process_of(store: Any) -> Process:
    process: Process = store._session.link._process
    return process


async def clients(world: Any, count: int) -> list[Any]:
    return [await world.connect_aio() for _ in range(count)]


async def breaking(world: Any, for_s: float) -> None:
    """Kill and freeze one node after the other, and the coordinator now and then."""
    until_s, turn = world.now_s + for_s, 0
    while world.now_s < until_s:
        node_id = world.nodes[turn % len(world.nodes)]
        world.kill(node_id) if turn % 2 else world.freeze(node_id, 3)
        if turn % 3 == 2:
            world.kill_coordinator()
        await asyncio.sleep(7)
        turn += 1


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_short_and_on_the_public_face(name: str) -> None:
    source = (FOLDER / f"{name}.py").read_text()
    assert sum(1 for line in source.splitlines() if line.strip()) < 60
    assert "raykv._" not in source
    assert "from raykv" not in source


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_s_demonstration_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with raykv.sim.start(seed=1) as world:
        world.run(importlib.import_module(f"recipes.{name}").demo(world.store.aio))
    assert capsys.readouterr().out.count("\n") >= 1


# ---- rate limiter ----


def test_the_limit_is_reached_and_never_exceeded() -> None:
    with raykv.sim.start(seed=21) as world:
        passed: Counter[int] = Counter()

        async def caller(store: Any) -> None:
            limiter = rate_limiter.RateLimiter(await store.bucket("limits", **BUCKET), 5, 10.0, lambda: world.now_s)
            for _ in range(60):
                window = int(world.now_s // 10)
                allowed = await limiter.allows("ada")
                passed[window] += allowed
                await asyncio.sleep(0.5)

        async def work() -> None:
            await world.store.aio.bucket("limits", **BUCKET)
            await asyncio.gather(*map(caller, await clients(world, 4)))

        world.run(work())
        assert [passed[window] for window in range(3)] == [5, 5, 5]
        assert passed[3] <= 5, "the last one was hardly begun"
        assert list(world.store.bucket("limits").keys()) == ["ada"], "one key a caller"


def test_the_limit_holds_while_nodes_fail() -> None:
    with raykv.sim.start(seed=22) as world:
        counted: Counter[int] = Counter()

        async def caller(store: Any) -> None:
            windows: list[int] = []
            limiter = rate_limiter.RateLimiter(
                await store.bucket("limits", **BUCKET),
                5,
                10.0,
                lambda: windows.append(int(world.now_s // 10)) or world.now_s,
            )
            for _ in range(100):
                counted[windows[-1] if await limiter.allows("ada") else -1] += 1
                await asyncio.sleep(0.5)

        async def work() -> None:
            await world.store.aio.bucket("limits", **BUCKET)
            await asyncio.gather(*map(caller, await clients(world, 4)), breaking(world, 45))

        world.run(work())
        del counted[-1]
        assert max(counted.values()) <= 5
        assert sum(counted.values()) > 10


# ---- election ----


def test_another_leads_after_the_leader_s_host_is_gone() -> None:
    """Client and node die at once; the successor leads within a lease and some, and terms stay in order."""
    with raykv.sim.start(seed=23, nodes=5, n=3) as world:
        terms: list[tuple[float, str, int]] = []

        async def candidate(store: Any, who: str) -> None:
            log = await store.bucket("log", **BUCKET)

            async def lead(held: raykv.AsyncLock) -> None:
                terms.append((world.now_s, who, held.token))
                while not held.lost:
                    await log.update("entries", lambda entries: [*entries, held.token], [], timeout=10)
                    await log.put("leader", who, fence=held.token)
                    await asyncio.sleep(0.5)

            await election.campaign(store, "captain", lead, lease_s=3)

        async def work() -> None:
            stores = await clients(world, 3)
            await world.store.aio.bucket("log", **BUCKET)
            for number, store in enumerate(stores):
                process_of(store).spawn(candidate(store, f"c{number}"))
            for round_, node_id in enumerate(world.nodes[:2]):
                await asyncio.sleep(15)
                _, who, _ = terms[-1]
                gone_s = world.now_s
                process_of(stores[int(who[1:])]).kill()
                world.power_cut(node_id, 5)
                await asyncio.sleep(20)
                assert terms[-1][1] != who, "another one"
                assert terms[round_ + 1][0] - gone_s < 10
            for store in stores:
                process_of(store).kill()

        world.run(work())
        tokens = [token for _, _, token in terms]
        assert tokens == sorted(set(tokens))
        entries = world.store.bucket("log").get("entries", timeout=30)
        assert entries == sorted(entries), "no leader writes after its successor has begun"


def test_a_frozen_leader_that_wakes_does_no_harm() -> None:
    with raykv.sim.start(seed=24) as world:
        refused: list[str] = []

        async def candidate(store: Any, who: str) -> None:
            log = await store.bucket("log", **BUCKET)

            async def lead(held: raykv.AsyncLock) -> None:
                for _ in range(40):
                    try:
                        await log.put("leader", who, fence=held.token)  # without a look at held.lost
                    except raykv.Conflict:
                        refused.append(who)
                        raise
                    await asyncio.sleep(0.25)

            await election.campaign(store, "captain", lead, lease_s=2)

        async def work() -> None:
            await world.store.aio.bucket("log", **BUCKET)
            first, second = await clients(world, 2)
            process_of(first).spawn(candidate(first, "first"))
            await asyncio.sleep(2)
            task = process_of(second).spawn(candidate(second, "second"))
            process_of(first).freeze()
            await asyncio.sleep(7)
            assert await (await world.connect_aio()).bucket("log") is not None
            process_of(first).thaw()
            await asyncio.sleep(1)
            bucket = await world.store.aio.bucket("log")
            assert await bucket.get("leader") == "second"
            await task

        world.run(work())
        assert "first" in refused


# ---- events that arrive twice ----


@pytest.mark.parametrize("faults", [False, True])
def test_every_event_has_one_handler(faults: bool) -> None:
    with raykv.sim.start(seed=25) as world:
        handled: Counter[str] = Counter()

        async def receiver(store: Any) -> None:
            seen = await store.bucket("seen", **BUCKET)
            for number in range(30):
                if await dedupe.is_first(seen, f"event:{number}", within_s=300):
                    handled[f"event:{number}"] += 1
                await asyncio.sleep(1 if faults else 0)

        async def work() -> None:
            await world.store.aio.bucket("seen", **BUCKET)
            await asyncio.gather(*map(receiver, await clients(world, 5)), *([breaking(world, 30)] if faults else []))

        world.run(work())
        assert handled == {f"event:{number}": 1 for number in range(30)}


def test_a_winner_whose_answer_was_lost_learns_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with raykv.sim.start(seed=26) as world:
        seen = world.store.bucket("seen", **BUCKET).aio
        put, lost = seen.put, []

        async def answer_lost(*args: Any, **options: Any) -> Any:
            written = await put(*args, **options)
            if not lost:
                lost.append(1)
                raise raykv.WriteOutcomeUnknown("the answer was lost", acks=[])
            return written

        monkeypatch.setattr(seen, "put", answer_lost)
        assert world.run(dedupe.is_first(seen, "event")) is True
        assert world.run(dedupe.is_first(seen, "event")) is False


# ---- jobs ----


def test_every_job_is_done_at_least_once_and_late_results_are_refused() -> None:
    with raykv.sim.start(seed=27) as world:
        done: Counter[str] = Counter()
        refused: list[str] = []
        wanted = {f"job:{number}": number**2 for number in range(12)}

        async def worker(store: Any) -> None:
            work = jobs.Jobs(await store.bucket("jobs", **BUCKET), await store.bucket("results", **BUCKET), lease_s=4)
            while len(done) < len(wanted):
                try:
                    claim = await work.claim()
                    if claim is not None:
                        await asyncio.sleep(1)
                        await work.finish(claim, claim.payload**2)
                        done[claim.key] += 1
                except raykv.Conflict:
                    refused.append(claim.key)
                except raykv.RaykvError:
                    pass
                await asyncio.sleep(0.3)

        async def work() -> None:
            stores = await clients(world, 3)
            made = [await stores[0].bucket(name, **BUCKET) for name in ("jobs", "results")]
            for key in wanted:
                await jobs.Jobs(*made).add(key, int(key[4:]))
                await jobs.Jobs(*made).add(key, -1)
            tasks = [process_of(store).spawn(worker(store)) for store in stores]
            await asyncio.sleep(1)
            process_of(stores[0]).freeze()
            await asyncio.sleep(12)
            process_of(stores[0]).thaw()
            await asyncio.gather(*tasks, breaking(world, 20))

        world.run(work())
        results = dict(world.store.bucket("results").items())
        assert results == wanted
        assert refused, "the one that was frozen with a claim"
        assert list(world.store.bucket("jobs").keys()) == []


# ---- barrier ----


@pytest.mark.parametrize("faults", [False, True])
def test_nobody_goes_on_before_all_have_arrived(faults: bool) -> None:
    with raykv.sim.start(seed=28) as world:
        arrived: Counter[int] = Counter()

        async def party(store: Any, who: int) -> None:
            bucket = await store.bucket("barriers", **BUCKET)
            for turn in range(5):
                await asyncio.sleep((who * 7 + turn * 3) % 5)
                arrived[turn] += 1
                await barrier.arrive(bucket, f"turn {turn}", f"p{who}", 4, timeout=300)
                assert arrived[turn] == 4

        async def work() -> None:
            await world.store.aio.bucket("barriers", **BUCKET)
            parties = [party(store, who) for who, store in enumerate(await clients(world, 4))]
            await asyncio.gather(*parties, *([breaking(world, 25)] if faults else []))

        world.run(work())
        assert arrived == dict.fromkeys(range(5), 4)


def test_a_barrier_that_some_never_reach_times_out() -> None:
    with raykv.sim.start(seed=29) as world:
        bucket = world.store.bucket("barriers", **BUCKET).aio
        with pytest.raises(TimeoutError):
            world.run(barrier.arrive(bucket, "start", "alone", 2, timeout=5))
        assert world.now_s >= 5
