"""Ray Serve: a chat's session that outlives the replica it was held with.

The problem. A replica's memory is gone when it dies, is redeployed or scaled away, and the next request of the same
user may be routed to another replica anyway. Here every replica reads and writes the session in a bucket. Two
requests of one session at the same time (two tabs, a retry) both stand: the bucket keeps concurrent writes as
siblings, and ``merge`` unites them. A turn has the id of its request, so a request that is repeated is one turn.

Without raykv. A dict in the replica, with requests pinned to it: ``self.sessions[user].append(turn)``. Fast, and lost
with the replica; the demo keeps one beside the bucket to show it. A named actor that holds the dict is shared by all
replicas, and its one process is what everybody waits for and what everything is lost with, unless it writes to disk
and is restarted by hand-made code. Redis works well, is another service to run, and of two writers of one session the
last one wins unless the history is a list on the server (RPUSH), or each change is a transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

import raykv

sys.path.append(str(Path(__file__).parents[1]))  # this file is run by its own path

from examples import alone

KEEP = 100
"""Turns of a session that are kept: what is stored has a bound."""
PAUSE_S = 0.2
Turn = list[Any]
"""Its number in the session, the id of its request, what was said."""


def merge(histories: list[list[Turn]]) -> list[Turn]:
    """Unite what two replicas have written at the same time: each turn once, in one order for all who look."""
    turns = {turn[1]: turn for history in histories for turn in history}
    return sorted(turns.values())[-KEEP:]


class Sessions:
    """The sessions of all users. ``bucket``: of vector versioning, with ``merge`` as its resolver."""

    def __init__(self, bucket: raykv.AsyncBucket[str, list[Turn]]) -> None:
        self._bucket = bucket

    async def say(self, session: str, request: str, text: str, within_s: float = 30.0) -> None:
        """Add a turn. ``request``: its id, the same when it is repeated. Raises what kept it, after ``within_s``."""

        def with_turn(history: list[Turn]) -> list[Turn]:
            if any(known == request for _, known, _ in history):
                return history
            return [*history, [history[-1][0] + 1 if history else 1, request, text]][-KEEP:]

        until_s = asyncio.get_running_loop().time() + within_s
        while True:
            try:
                await self._bucket.modify(session, with_turn, [])
                return
            except (raykv.WriteOutcomeUnknown, raykv.QuorumNotMet, raykv.StoreUnavailable, raykv.Overloaded):
                if asyncio.get_running_loop().time() > until_s:
                    raise
                await asyncio.sleep(PAUSE_S)  # then the same again: a turn that stands already is not added

    async def history(self, session: str) -> list[str]:
        """Return what was said, the oldest first."""
        return [text for _, _, text in await self._bucket.get(session, [])]


class Chat:
    """The deployment. Its own dict is there to show what is lost; a real one would ask a model for its reply."""

    def __init__(self, store: raykv.Store) -> None:
        self._store, self._own = store.aio, dict[str, list[str]]()

    async def __call__(self, session: str, request: str, text: str) -> dict[str, Any]:
        """Take a turn; return the session as raykv has it, and as this replica does."""
        sessions = Sessions(await self._store.bucket("sessions", resolver=merge))
        await sessions.say(session, request, text)
        self._own.setdefault(session, []).append(text)
        return {
            "replica": os.getpid(), "in_raykv": await sessions.history(session), "in_replica": list(self._own[session]),
        }  # fmt: skip


def demo(store: raykv.Store) -> None:
    """Hold a conversation with two replicas, killing the one that answered last."""
    from ray import serve

    serve.start(proxy_location="Disabled")  # the demo calls by handle; over HTTP it is the same
    deployment = serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0}, health_check_period_s=1)
    chat = serve.run(deployment(Chat).bind(store), name="chat", route_prefix=None)

    def say(text: str) -> dict[str, Any]:
        request = uuid.uuid4().hex
        for _ in range(50):
            with contextlib.suppress(Exception):  # the replica died; the same request again
                answer: dict[str, Any] = chat.remote("ada", request, text).result(timeout_s=30)
                return answer
        raise TimeoutError(f"no replica answers: {text!r}")

    try:
        for turn in range(1, 7):
            answer = say(f"turn {turn}")
            print(
                f"turn {turn}: replica {answer['replica']} knows {len(answer['in_raykv'])} turns from raykv, "
                f"{len(answer['in_replica'])} from its own memory"
            )
            if turn in {2, 4}:
                os.kill(answer["replica"], signal.SIGKILL)
                print(f"        replica {answer['replica']} is killed")
        wanted = [f"turn {turn}" for turn in range(1, 7)]
        print("the session is whole:", answer["in_raykv"] == wanted)
    finally:
        serve.delete("chat")


def main() -> int:
    """Run the demo on a store of its own; return the exit code."""
    return alone(lambda store, _: demo(store), needs="serve")


if __name__ == "__main__":
    sys.exit(main())
