"""What begins at once is a task only from where it waits, and behaves as one there."""

from __future__ import annotations

import asyncio

import pytest

from raykv.actors.stream.eager import start_at_once


def test_what_waits_for_nothing_is_done_at_once(run) -> None:
    done = []

    async def work() -> None:
        done.append(1)

    async def story() -> None:
        assert start_at_once(work(), asyncio.get_running_loop()) is None
        assert done == [1]

    run(story())


def test_what_waits_goes_on_as_a_task(run) -> None:
    seen = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()

        async def work() -> None:
            seen.append(await first)
            await asyncio.sleep(0)
            try:
                await second
            except ValueError as error:
                seen.append(str(error))
            async with asyncio.timeout(5):  # there is a task by now
                await asyncio.sleep(0)
            seen.append("end")

        task = start_at_once(work(), loop)
        assert task is not None
        assert seen == []
        first.set_result("first")
        await asyncio.sleep(0.01)
        second.set_exception(ValueError("second"))
        await task
        assert seen == ["first", "second", "end"]

    run(story())


def test_what_it_raises_is_raised_where_it_runs(run) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()

        async def fails(wait: bool) -> None:
            if wait:
                await asyncio.sleep(0)
            raise LookupError("none")

        with pytest.raises(LookupError):
            start_at_once(fails(wait=False), loop)
        task = start_at_once(fails(wait=True), loop)
        assert task is not None
        with pytest.raises(LookupError):
            await task

    run(story())


def test_it_can_be_cancelled_where_it_waits(run) -> None:
    seen = []

    async def story() -> None:
        loop = asyncio.get_running_loop()

        async def work() -> None:
            try:
                await loop.create_future()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = start_at_once(work(), loop)
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled"]

    run(story())
