"""Storage nodes behind real sockets, in processes that may run another version of raykv each. No Ray, no supervisor.

Run as a script it is one node: it prints where it listens, reads where the others do, and answers questions, a line each.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

import raykv
from raykv.actors.calls import Inherited
from raykv.client.codecs import pickle_plainly
from raykv.client.driver import run_async
from raykv.client.lanes import Lanes
from raykv.client.operations import Operations
from raykv.cluster.state import ClusterState, encode_state
from raykv.config import BucketConfig, NodeConfig, StoreConfig
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.service import CoordinatorService
from raykv.node.node import NodeSpec, StorageNode
from raykv.protocol import frames as f
from raykv.ring import Member, claim
from raykv.system.files import OsFileSystem
from raykv.system.process import CountingMetrics, SystemClock, ThreadExecutor
from raykv.transport import Endpoint, StreamServer, StreamTransport

NODES = ("n1", "n2", "n3")
BUCKETS = ("vector", "lww", "linearizable")
STORE = StoreConfig(name="versions", copies=3, partitions=8)
TIMEOUT_S = 20.0


def state() -> ClusterState:
    """The cluster's state: three nodes, a bucket of each kind."""
    ring = claim([Member(node_id) for node_id in NODES], STORE.partitions, 3)
    found = ClusterState(store_id="s", generation=1, version=0, config=STORE, ring=ring)
    for name in BUCKETS:
        found = found.with_bucket(BucketConfig(name=name, n=3, r=2, w=2, versioning=name))
    return found


class Node:
    """One node, and a coordinator in its process."""

    def __init__(self, node_id: str, path: str, *, fresh: bool = True) -> None:
        self.node_id = node_id
        self.endpoints: dict[str, Endpoint] = {}
        self.transport = StreamTransport(Inherited(self.endpoints), Inherited(self.endpoints).endpoint, patient=True)
        self.clock = SystemClock()
        self.failed: list[str] = []
        spec = NodeSpec(
            store_id="s", node_id=node_id, path=path, store=STORE, node=NodeConfig(helper_process=False), fresh=fresh
        )
        self.node = StorageNode(
            spec, fs=OsFileSystem(), clock=self.clock, executor=ThreadExecutor(), random=random.SystemRandom(),
            on_failure=self.failed.append, transport=self.transport,
        )  # fmt: skip
        self.server = StreamServer(self.node.take)
        core = Coordinator(self.transport, self.clock, CountingMetrics(), random.Random(node_id))
        self.core, self.front = core, CoordinatorService(core, self.transport, self.clock)
        self.lanes = Lanes(self.random_bytes)

    async def begin(self) -> Endpoint:
        self.node.begin()
        return await self.server.listen("127.0.0.1")

    async def meet(self, endpoints: dict[str, Endpoint], runs: dict[str, int]) -> None:
        """Hear where the nodes are, and of the cluster's state, as from a supervisor."""
        self.endpoints.update({f"node/{node_id}": endpoint for node_id, endpoint in endpoints.items()})
        data = encode_state(state())
        told = f.AcceptState(1, 0, data, decided=True, directory_ids=[self.node._directory.directory_id])
        answer = f.node_answers.decode(await self.node.serve(f.node_requests.encode(f.NodeRequest(0, told))))
        assert isinstance(answer.body, f.AcceptorAnswer), answer
        self.core.routing.learn(f.ClusterUpdate(1, data, {}, runs))

    async def ask(self, node_id: str, body: Any) -> Any:
        frame = f.node_requests.encode(f.NodeRequest(0, body))
        return f.node_answers.decode(await self.transport.call(f"node/{node_id}", frame, TIMEOUT_S)).body

    async def use(self, prefix: str, count: int) -> dict[str, Any]:
        """Write and read in all buckets, by this process's coordinator; return what was read."""
        found: dict[str, Any] = {}
        for entry in state().buckets:
            operations = Operations(entry.bucket_id, entry.config, "s", lanes=self.lanes)
            for number in range(count):
                key = f"{prefix}{number}"
                await run_async(operations.put(key, number, context=None, w=None, ttl=None, timeout=TIMEOUT_S), self)
                value = await run_async(operations.get(key, None, r=None, timeout=TIMEOUT_S), self)
                found[f"{entry.config.name} {key}"] = value
        return found

    async def read(self, prefix: str, count: int) -> dict[str, Any]:
        """Read what another has written, all copies of it."""
        found: dict[str, Any] = {}
        for entry in state().buckets:
            operations = Operations(entry.bucket_id, entry.config, "s", lanes=self.lanes)
            level = None if entry.config.versioning == "linearizable" else 3
            for number in range(count):
                key = f"{prefix}{number}"
                value = await run_async(operations.get(key, None, r=level, timeout=TIMEOUT_S), self)
                found[f"{entry.config.name} {key}"] = value
        return found

    async def end(self) -> None:
        await self.transport.close()
        await self.server.close()
        await self.node.stop()

    # ---- client.driver.Link ----

    async def call(self, request: Any, timeout_s: float) -> Any:
        del timeout_s
        return await self.front.answer(request)

    def monotonic_s(self) -> float:
        return self.clock.monotonic_s()

    def took(self, request: f.CoordinatorRequest, requests: int, began_s: float) -> None:
        """See ``client.driver.Link``."""

    def count(self, name: str, amount: int) -> None:
        pass

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def lacks(self) -> str:
        return ""

    def place(self) -> str:
        return self.node_id

    def random_bytes(self, count: int) -> bytes:
        return random.SystemRandom().randbytes(count)

    def pickled(self, value: Any) -> bytes:
        return pickle_plainly(value)

    def close(self) -> None:
        """Nothing to close."""


def written(endpoint: Endpoint) -> list[Any]:
    return [endpoint[0], endpoint[1], endpoint[2].hex()]


def read(said: list[Any]) -> Endpoint:
    return Endpoint(said[0], said[1], bytes.fromhex(said[2]))


async def _serve(node_id: str, path: str) -> None:
    """Be one node, as the lines on stdin say."""
    node = Node(node_id, path)
    endpoint = await node.begin()
    loop = asyncio.get_running_loop()

    def say(**what: Any) -> None:
        print(json.dumps(what), flush=True)

    say(endpoint=written(endpoint), run=node.node.incarnation, version=raykv.__version__, file=raykv.__file__)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order, *arguments = json.loads(line)
        match order:
            case "meet":
                await node.meet({name: read(said) for name, said in arguments[0].items()}, arguments[1])
                say(met=True)
            case "use":
                say(found=await node.use(*arguments))
            case "read":
                say(found=await node.read(*arguments))
            case "ask":  # a request of this version, by its name
                body = await node.ask(arguments[0], getattr(f, arguments[1])(*arguments[2:]))
                say(kind=type(body).__name__, reason=getattr(body, "reason", ""), message=getattr(body, "message", ""))
    await node.end()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
