"""Storage nodes that are a function behind real sockets, and a handle of the store that they make up. No Ray.

The handle is a forked child's: it goes by what it was left, and that is all there is to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

from raykv.actors.embedded_coordinator import DirectLink, ForkState
from raykv.actors.this_process import ThisProcess
from raykv.client.driver import run, run_async
from raykv.client.operations import Operations
from raykv.cluster.state import ClusterState, encode_state
from raykv.config import BucketConfig, StoreConfig
from raykv.protocol import frames as f
from raykv.records.record import time_of
from raykv.ring import Member, claim
from raykv.transport import StreamServer

NODES = ("n1", "n2", "n3")
WAIT_S = 10.0


class Node:
    """Keeps what it is sent."""

    def __init__(self):
        self.records = {}
        self.silent_s = 0.0
        self.server = StreamServer(self.serve)

    async def serve(self, frame):
        if self.silent_s:
            await asyncio.sleep(self.silent_s)
        body = f.node_requests.decode(frame).body
        if isinstance(body, f.Read):
            answer = f.ReadDone([self.records.get(key) for key in body.keys], [])
        else:
            assert isinstance(body, f.Write)
            for key, record in body.items:  # what was interrupted may come later than what was sent after it
                self.records[key] = max(record, self.records.get(key, record), key=time_of)
            answer = f.WriteDone([0] * len(body.items))
        return f.node_answers.encode(f.NodeAnswer(5, answer))


class Client(ThisProcess):
    """A handle: operations on the bucket, blocking."""

    def __init__(self, legacy, config):
        self.link = DirectLink("test", legacy)
        self.submit, self.result, self.call = self.link.submit, self.link.result, self.link.call
        self.operations = Operations(1, config)
        self.timeout_s = WAIT_S

    def get(self, key):
        return run(self.operations.get(key, None, r=None, timeout=self.timeout_s), self)

    def put(self, key, value):
        return run(self.operations.put(key, value, context=None, w=None, ttl=None, timeout=self.timeout_s), self)

    def get_many(self, keys):
        return run(self.operations.get_many(keys, None, r=None, timeout=self.timeout_s), self)

    def put_many(self, pairs):
        return run(self.operations.put_many(pairs, w=None, ttl=None, timeout=self.timeout_s), self)

    async def aget(self, key):
        return await run_async(self.operations.get(key, None, r=None, timeout=self.timeout_s), self)

    async def aput(self, key, value):
        steps = self.operations.put(key, value, context=None, w=None, ttl=None, timeout=self.timeout_s)
        return await run_async(steps, self)

    async def aget_many(self, keys):
        return await run_async(self.operations.get_many(keys, None, r=None, timeout=self.timeout_s), self)

    @property
    def is_on_the_fast_path(self):
        return not self.link._loop._held and self.link._own is not None and bool(self.link._connections._connections)


@contextlib.contextmanager
def opened():
    """A client of three nodes, which run in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(WAIT_S)

    nodes = {f"node/{node_id}": Node() for node_id in NODES}
    endpoints = {peer: do(node.server.listen("127.0.0.1")) for peer, node in nodes.items()}
    config = BucketConfig(name="default", n=3, r=2, w=2, versioning="lww")
    store = StoreConfig(name="test", copies=3, partitions=8)
    ring = claim([Member(node_id) for node_id in NODES], 8, 3)
    state = ClusterState(store_id="s", generation=1, version=0, config=store, ring=ring).with_bucket(config)
    client = Client(ForkState(encode_state(state), endpoints), config)
    client.put_many({f"key{number}": number for number in range(30)})
    client.nodes = nodes
    try:
        yield client
    finally:
        client.link.close()
        for node in nodes.values():
            do(node.server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()
