"""Tasks that nobody waits for, and loops that are closed below them."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from raykv.cluster.background import Background, Begun


async def three_steps(seen, steps=2):
    try:
        for _ in range(steps):
            await asyncio.sleep(0)
        seen.append("done")
        return 3
    except asyncio.CancelledError:
        seen.append("cancelled")
        raise


def test_it_runs_to_its_end_and_is_let_go():
    async def story():
        tasks, seen = Background(), []
        task = tasks.start(lambda: three_steps(seen))
        assert tasks == {task}
        assert not seen
        assert await task == 3
        await asyncio.sleep(0)
        assert not tasks
        assert seen == ["done"]

    asyncio.run(story())


@pytest.mark.parametrize("turns", [0, 1])
def test_it_is_cancelled(turns):
    async def story():
        seen = []
        task = Background().start(lambda: three_steps(seen))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled"][:turns], "what has not begun has nothing to catch it with"

    asyncio.run(story())


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("closed_first", [True, False])
def test_a_loop_that_is_closed_below_it_says_nothing(turns, closed_first, capfd):
    loop = asyncio.new_event_loop()
    tasks, seen = Background(), []

    async def story():
        tasks.start(lambda: three_steps(seen, 9))
        for _ in range(turns):
            await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.run_until_complete(story())
        if closed_first:
            for task in tasks:
                task.get_coro().close()
        loop.close()
        tasks.clear()
        del loop
        gc.collect()
    assert capfd.readouterr() == ("", "")
    assert not seen


def test_what_is_closed_before_its_first_step_takes_none():
    work = Begun(lambda: three_steps([]))
    work.close()
    with pytest.raises(RuntimeError, match="closed before"):
        work.send(None)
    with pytest.raises(TypeError, match="in a task"):
        work.__await__()
