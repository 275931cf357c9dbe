"""Virtual time, and processes that freeze and die."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from raykv.sim.kernel import NothingLeft, Process, ProcessEnded, current_process, run_virtual


def run(story):
    result, loop = run_virtual(story)
    assert loop.failures == []
    return result


def test_time_jumps_and_costs_nothing():
    async def story(loop):
        await asyncio.sleep(86_400)
        return loop.now_s

    began_s = time.monotonic()
    assert run(story) == pytest.approx(86_400)
    assert time.monotonic() - began_s < 5


def test_waiting_for_what_never_comes_is_an_error():
    async def story(loop):
        await loop.create_future()

    with pytest.raises(NothingLeft):
        run_virtual(story)


def test_a_process_has_what_its_tasks_start():
    async def story(loop):
        process = Process(loop, "p")
        seen = []

        async def inner():
            seen.append(current_process())

        async def outer():
            seen.append(current_process())
            await asyncio.gather(inner(), inner())
            asyncio.get_running_loop().call_later(1, lambda: seen.append(current_process()))

        await process.spawn(outer())
        await asyncio.sleep(2)
        assert current_process() is None
        assert seen == [process] * 4
        assert process.tasks == {}
        assert process.run(current_process) is process

    run(story)


def test_a_frozen_process_does_its_steps_late_and_in_order():
    async def story(loop):
        process = Process(loop, "p")
        done = []

        async def work():
            for number in range(5):
                await asyncio.sleep(1)
                done.append((number, int(loop.now_s)))

        async def other():
            await asyncio.sleep(3)
            done.append(("other", int(loop.now_s)))

        process.spawn(work())
        process.spawn(other())
        await asyncio.sleep(1.5)
        process.freeze()
        await asyncio.sleep(10)
        assert done == [(0, 1)]
        process.thaw()
        await asyncio.sleep(10)
        assert done == [(0, 1), (1, 11), ("other", 11), (2, 12), (3, 13), (4, 14)]

    run(story)


def test_a_time_out_that_fell_due_while_frozen_strikes_only_if_it_is_still_wanted():
    async def story(loop):
        process = Process(loop, "p")
        answer = loop.create_future()
        outcome = []

        async def work():
            try:
                async with asyncio.timeout(1):
                    outcome.append(await answer)
            except TimeoutError:
                outcome.append("too late")

        process.spawn(work())
        await asyncio.sleep(0.5)
        process.freeze()
        answer.set_result("in time")  # parked before the timer
        await asyncio.sleep(5)
        process.thaw()
        await asyncio.sleep(1)
        return outcome

    assert run(story) == ["in time"]


def test_a_killed_process_does_nothing_more():
    async def story(loop):
        process = Process(loop, "p")
        done, notified = [], []
        process.on_kill.append(lambda: notified.append(int(loop.now_s)))

        async def stubborn():
            while True:
                try:
                    process.check()
                    await asyncio.sleep(1)
                    done.append(loop.now_s)
                except asyncio.CancelledError:
                    done.append("cancelled")

        task = process.spawn(stubborn())
        await asyncio.sleep(2.5)
        process.kill()
        process.kill()
        await asyncio.sleep(5)
        assert notified == [2]
        assert done[2:] == ["cancelled"]
        assert isinstance(task.exception(), ProcessEnded)
        assert process.tasks == {}

    run(story)


def test_a_frozen_process_can_be_killed():
    async def story(loop):
        process = Process(loop, "p")
        task = process.spawn(asyncio.sleep(1))
        process.freeze()
        await asyncio.sleep(5)
        process.kill()
        await asyncio.sleep(1)
        assert task.cancelled()

    run(story)


def test_what_nobody_handled_is_a_failure_of_the_run():
    async def story(loop):
        async def fails():
            raise ValueError("unheard")

        loop.create_task(fails())
        await asyncio.sleep(1)
        gc.collect()

    _, loop = run_virtual(story)
    assert len(loop.failures) == 1
    assert "unheard" in loop.failures[0]


def test_what_a_killed_process_came_upon_is_none():
    async def story(loop):
        process = Process(loop, "p")

        async def fails():
            try:
                await asyncio.sleep(5)
            finally:
                process.check()

        process.spawn(fails())
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(1)
        gc.collect()

    run(story)


def test_a_task_of_nobody_that_is_left_behind_is_known():
    async def story(loop):
        loop.create_task(asyncio.sleep(100))
        await asyncio.sleep(1)
        return len(loop.tasks)

    assert run(story) == 2, "the story itself and the one left behind"
