"""A server and its clients in one event loop: asyncio's and uvloop's, for Ray's async actors may run on either."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import pytest
import uvloop

from raykv.transport import Endpoint, StreamServer, StreamTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

LOOPBACK = "127.0.0.1"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine, for a minute at the most; fails if it leaves a task or lets the loop meet an error."""

    def run_it(work: Coroutine[Any, Any, Any]) -> Any:
        troubles: list[dict[str, Any]] = []

        async def bounded() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
            async with asyncio.timeout(60):
                result = await work
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"left behind: {left}"
            return result

        make = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=make) as runner:
            result = runner.run(bounded())
        assert troubles == []
        return result

    return run_it


class Beside:
    """Carries calls while there is no stream: answers ``b"beside " + frame``."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        self.frames.append(frame)
        return b"beside " + frame


class Bench:
    """A server whose handler is handed in, and a transport to it as ``node/a``."""

    def __init__(self, serve: Callable[[bytes], bytes | Awaitable[bytes]]) -> None:
        self.serve = serve
        self.server = StreamServer(serve)
        self.beside = Beside()
        self.transport = StreamTransport(self.beside, self.locate)
        self.located = 0
        self.endpoint: Endpoint | None = None

    async def locate(self, peer: str) -> Endpoint | None:
        assert peer == "node/a"
        self.located += 1
        return self.endpoint

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def listen(self) -> None:
        self.endpoint = await self.server.listen(LOOPBACK)

    async def start_anew(self) -> None:
        """As after the death of the process: another port, another secret."""
        await self.server.close()
        self.server = StreamServer(self.serve)
        await self.listen()

    async def __aexit__(self, *_: object) -> None:
        await self.transport.close()
        await self.server.close()
        await settled(lambda: not self.server.callers.friends and not self.server.callers.strangers)

    async def call(self, frame: bytes, timeout_s: float = 5.0) -> bytes:
        return await self.transport.call("node/a", frame, timeout_s)

    async def connected(self) -> None:
        """Call until a stream stands, at both of its ends."""
        while not self.transport.connected():
            await self.call(b"knock")
            await asyncio.sleep(0.01)
        await settled(lambda: bool(self.server.callers.friends))
        self.beside.frames.clear()


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    while not condition():  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0.005)
