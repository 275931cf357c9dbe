"""One face for all who are measured. Each gives back values as they were: all sides encode and decode.

raykv does so by its own codec, Ray by pickling what it passes; for Redis, etcd and ``internal_kv``, which keep bytes,
it is ``msgspec.msgpack``.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import itertools
import json
import random
import time
from typing import TYPE_CHECKING, Any

import msgspec
import ray
from ray.experimental import internal_kv

import raykv
from benchmarks.servers import Missing, start_etcd, start_redis
from benchmarks.timing import closed_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from benchmarks.stage import Stage

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode
PIPELINE = 1000
_numbers = itertools.count(1)
POLITE_S = 0.01
"""The approximate pause after ``Overloaded``."""


class Side:
    """Somebody who keeps values by keys."""

    name = ""
    fast = True
    """Whether a call takes well under a millisecond: then more of them are measured."""

    def get(self, key: str) -> Any:
        """Return the value."""
        raise NotImplementedError

    def put(self, key: str, value: Any) -> Any:
        """Keep the value."""
        raise NotImplementedError

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values."""
        return {key: self.get(key) for key in keys}

    def put_many(self, items: Mapping[str, Any]) -> None:
        """Keep the values."""
        for key, value in items.items():
            self.put(key, value)

    def close(self) -> None:
        """End what was begun."""


class AsyncSide(Side):
    """One that can be asked by many at once, in an event loop that it keeps, with what is connected in it."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()

    def work(self) -> Callable[[str], Awaitable[Any]]:
        """Return what gets a key, to be awaited in ``runner``."""
        raise NotImplementedError

    def tune(self, keys: Sequence[str], width: int) -> str:
        """Choose, of several ways to serve ``width`` clients, the fastest here; return its name."""
        self.at_once(keys, width)
        return "the only way"

    def at_once(self, keys: Sequence[str], width: int) -> list[float]:
        """Get the keys, by ``width`` clients at once; return latencies in microseconds."""
        return self.runner.run(closed_loop(self.work(), keys, width))

    def rate(self, keys: Sequence[str], width: int) -> float:
        """Return how many gets a second ``width`` clients have."""
        began = time.perf_counter()
        self.at_once(keys, width)
        return len(keys) / (time.perf_counter() - began)

    def close(self) -> None:
        """End the loop."""
        self.runner.close()


class RaykvSide(AsyncSide):
    """A bucket."""

    def __init__(self, bucket: raykv.Bucket[Any, Any], name: str = "raykv") -> None:
        super().__init__()
        self.name = name
        self.bucket = bucket
        self.refused = 0
        """The number of concurrent operations that were refused with ``Overloaded`` and retried a little later."""
        self.get, self.put, self.get_many = bucket.get, bucket.put, bucket.get_many  # type: ignore[method-assign]

    def put_many(self, items: Mapping[str, Any]) -> None:
        """See ``Side``."""
        self.bucket.put_many(items)

    def work(self) -> Callable[[str], Awaitable[Any]]:
        """See ``AsyncSide``."""
        ask = self.bucket.aio.get

        async def get(key: str) -> Any:
            while True:
                try:
                    return await ask(key)
                except raykv.Overloaded:
                    self.refused += 1
                    await asyncio.sleep(POLITE_S * (0.5 + random.random()))

        return get


@ray.remote(num_cpus=0)
class DictActor:
    """What a Ray user would write otherwise: one process, lost on restart."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}

    def put(self, key: str, value: Any) -> None:
        """Keep it."""
        self.data[key] = value

    def get(self, key: str) -> Any:
        """Return it."""
        return self.data.get(key)

    def put_many(self, items: dict[str, Any]) -> None:
        """Keep them."""
        self.data.update(items)

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        """Return them."""
        return {key: self.data.get(key) for key in keys}


@ray.remote(num_cpus=0)
class BareActor:
    """The least that a call of an async actor can do."""

    async def nothing(self) -> None:
        """Do nothing."""


class DictActorSide(AsyncSide):
    """A named actor that holds a dict."""

    name = "dict actor"
    fast = False

    def __init__(self) -> None:
        super().__init__()
        self.actor = DictActor.options(name=f"bench-dict-{next(_numbers)}").remote()  # type: ignore[attr-defined]
        self.in_waves = False

    def get(self, key: str) -> Any:
        """See ``Side``."""
        return ray.get(self.actor.get.remote(key))

    def put(self, key: str, value: Any) -> Any:
        """See ``Side``."""
        return ray.get(self.actor.put.remote(key, value))

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """See ``Side``."""
        return dict(ray.get(self.actor.get_many.remote(list(keys))))

    def put_many(self, items: Mapping[str, Any]) -> None:
        """See ``Side``."""
        ray.get(self.actor.put_many.remote(dict(items)))

    def work(self) -> Callable[[str], Awaitable[Any]]:
        """See ``AsyncSide``."""
        ask = self.actor.get

        async def get(key: str) -> Any:
            return await ask.remote(key)

        return get

    def tune(self, keys: Sequence[str], width: int) -> str:
        """See ``AsyncSide``."""
        rates = {}
        for self.in_waves in (False, True):
            self.rate(keys, width)
            rates[self.in_waves] = self.rate(keys, width)
        self.in_waves = rates[True] > rates[False]
        return f"{width} calls, then ray.get of all" if self.in_waves else f"{width} tasks that await"

    def at_once(self, keys: Sequence[str], width: int) -> list[float]:
        """See ``AsyncSide``."""
        if not self.in_waves:
            return super().at_once(keys, width)
        taken = []
        for at in range(0, len(keys), width):
            began, wave = time.perf_counter(), keys[at : at + width]
            ray.get([self.actor.get.remote(key) for key in wave])
            taken += [(time.perf_counter() - began) * 1e6] * len(wave)
        return taken

    def close(self) -> None:
        """End the actor."""
        super().close()
        ray.kill(self.actor)


class InternalKvSide(Side):
    """Ray's own, in the head's memory."""

    name = "internal_kv"
    fast = False

    def get(self, key: str) -> Any:
        """See ``Side``."""
        return decode(internal_kv._internal_kv_get(key.encode()))  # noqa: SLF001 - it has no public name

    def put(self, key: str, value: Any) -> Any:
        """See ``Side``."""
        return internal_kv._internal_kv_put(key.encode(), encode(value), overwrite=True)  # noqa: SLF001


class RedisSide(AsyncSide):
    """Redis by redis-py, with its append-only file synced every second."""

    name = "Redis"

    def __init__(self, stage: Stage) -> None:
        """Start it. Raises ``Missing``."""
        try:
            import redis
            import redis.asyncio
        except ImportError:
            raise Missing("there is no redis-py here; pip install 'raykv[bench]'") from None
        super().__init__()
        self._redis = redis
        self.server = stage.end_with(start_redis(stage.directory()))
        self.client: Any = redis.Redis(host="127.0.0.1", port=self.server.port)
        self._awaited = self.pool(16)

    def pool(self, most: int) -> Any:
        """Return a client of so many connections, for which those wait who find none free: the plain one fails them."""
        asyncio_redis = self._redis.asyncio
        pool = asyncio_redis.BlockingConnectionPool(host="127.0.0.1", port=self.server.port, max_connections=most)
        return asyncio_redis.Redis(connection_pool=pool)

    def get(self, key: str) -> Any:
        """See ``Side``."""
        found = self.client.get(key)
        return None if found is None else decode(found)

    def put(self, key: str, value: Any) -> Any:
        """See ``Side``."""
        return self.client.set(key, encode(value))

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """See ``Side``."""
        found = self.client.mget(keys)
        return {key: None if raw is None else decode(raw) for key, raw in zip(keys, found, strict=True)}

    def put_many(self, items: Mapping[str, Any]) -> None:
        """See ``Side``."""
        pairs = list(items.items())
        for at in range(0, len(pairs), PIPELINE):
            with self.client.pipeline(transaction=False) as pipe:
                for key, value in pairs[at : at + PIPELINE]:
                    pipe.set(key, encode(value))
                pipe.execute()

    def work(self) -> Callable[[str], Awaitable[Any]]:
        """See ``AsyncSide``."""
        ask = self._awaited.get

        async def get(key: str) -> Any:
            found = await ask(key)
            return None if found is None else decode(found)

        return get

    def tune(self, keys: Sequence[str], width: int) -> str:
        """See ``AsyncSide``: with as many connections as clients, or fewer that they share."""
        rates = {}
        for most in dict.fromkeys((min(16, width), min(64, width), width)):
            self.runner.run(self._awaited.aclose())
            self._awaited = self.pool(most)
            self.rate(keys, width)
            rates[most] = self.rate(keys, width)
        best = max(rates, key=lambda most: rates[most])
        if best != most:
            self.runner.run(self._awaited.aclose())
            self._awaited = self.pool(best)
            self.rate(keys, width)
        return f"{best} connections"

    def close(self) -> None:
        """Close the connections."""
        self.runner.run(self._awaited.aclose())
        self.client.close()
        super().close()


class EtcdSide(Side):
    """etcd, by the JSON form of its interface, over one connection that stays."""

    name = "etcd"

    def __init__(self, stage: Stage) -> None:
        """Start it. Raises ``Missing``."""
        self.server = stage.end_with(start_etcd(stage.directory()))
        self.connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        until_s = time.monotonic() + 20
        while True:  # it listens before it has elected itself
            try:
                self.put("warm", 1)
                break
            except (OSError, RuntimeError, http.client.HTTPException):
                if time.monotonic() > until_s:
                    raise
                self.connection.close()
                time.sleep(0.1)

    def _ask(self, what: str, **words: bytes) -> Any:
        body = json.dumps({name: base64.b64encode(word).decode() for name, word in words.items()})
        self.connection.request("POST", f"/v3/kv/{what}", body)
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"etcd: {data[:200]!r}")
        return json.loads(data)

    def get(self, key: str) -> Any:
        """See ``Side``."""
        (found,) = self._ask("range", key=key.encode())["kvs"]
        return decode(base64.b64decode(found["value"]))

    def put(self, key: str, value: Any) -> Any:
        """See ``Side``."""
        return self._ask("put", key=key.encode(), value=encode(value))

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def redis_side(stage: Stage) -> RedisSide | None:
    """Return Redis, or None where it is not installed."""
    try:
        return stage.end_with(RedisSide(stage))  # type: ignore[no-any-return]
    except Missing as missing:
        stage.skip("Redis", str(missing))
        return None


def etcd_side(stage: Stage) -> EtcdSide | None:
    """Return etcd, or None where it is not installed."""
    try:
        return stage.end_with(EtcdSide(stage))  # type: ignore[no-any-return]
    except Missing as missing:
        stage.skip("etcd", str(missing))
        return None
