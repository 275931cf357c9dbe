"""Work that begins at once, and becomes a task only if it has to wait for something.

Most requests of a node are answered without a wait. A task for each of them would cost a second turn of the event loop,
which, in a process that was asleep a moment ago, takes longer than the answer. (Python 3.12 has tasks of this kind,
``asyncio.eager_task_factory``.)
"""

from __future__ import annotations

from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Generator


def start_at_once(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run ``work`` up to where it first waits; return the task of what is left, None if nothing is.

    In that first part there is no current task: it must not use ``asyncio.timeout`` and the like. What it raises there is
    raised here.
    """
    try:
        waits_for = work.send(None)
    except StopIteration:
        return None
    return loop.create_task(_rest(work, waits_for))


async def _rest(work: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _go_on(work, waits_for)


@coroutine
def _go_on(work: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Do what a task would have done with ``work`` from there on."""
    while True:
        try:
            outcome = yield waits_for
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:  # noqa: BLE001 - it is for the work to take or to let through
            step = partial(work.throw, error)
        else:
            step = partial(work.send, outcome)
        try:
            waits_for = step()
        except StopIteration:
            return
