"""Values: what arrays, tables and frames cost beside the same by pickle, and what large pairs cost.

Pickle is the way of any value that is not plain: here it is put in a tuple of one. Both sides are measured in turn. Large
pairs are put and read back in a store of their own for each size; the memory is that of the largest node's process, before
and after the same number of bytes has been written.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import raykv
from benchmarks.engine_sides import memory_bytes
from benchmarks.stage import keys_in_turn
from benchmarks.timing import Timed, alternate, percentile, settle, spread
from raykv.actors.pickling import pickled
from raykv.client.codecs import decode_value, encode_value
from raykv.config import MAX_PAIR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stage import Stage

NAME = "values"
PAIR_BYTES = (1_000, 10_240, 102_400, 1_048_576)
WRITTEN_BYTES = 96 * 2**20
_KEY_BYTES = 16
_KEYS = 50


def measure(stage: Stage) -> dict[str, Any]:
    """Return the figures of the part ``values``."""
    made = _values(stage)
    codec = [_codec(stage, what, value) for what, value in made.items()]
    store = stage.store(name=NAME)
    bucket: raykv.Bucket[str, Any] = store.bucket("values", pair_bytes=MAX_PAIR_BYTES)
    stored = [_stored(stage, bucket, what, value) for what, value in made.items()]
    raykv.shutdown(NAME)
    pairs = [_pair(stage, pair_bytes) for pair_bytes in PAIR_BYTES]
    return {"codec": codec, "stored": stored, "pairs": pairs}


def _values(stage: Stage) -> dict[str, Any]:
    """Return one value of each kind whose library is installed."""
    found: dict[str, Any] = {}
    try:
        import numpy as np
    except ImportError:
        stage.skip("arrays", "numpy is not installed")
        return found
    draw = np.random.default_rng(1)
    found["1,000 floats"] = draw.normal(size=1000)
    found["100 x 100 float32"] = draw.normal(size=(100, 100)).astype(np.float32)
    found["a numpy float"] = np.float64(1.5)
    try:
        import pandas as pd
    except ImportError:
        stage.skip("data frames", "pandas is not installed")
    else:
        names = [f"{('AAPL', 'MSFT', 'GOOG')[at % 3]}{at % 50}" for at in range(1000)]
        times = pd.date_range("2024-01-01", periods=1000, freq="min")
        numbers = {"time": times, "price": draw.normal(size=1000), "size": draw.integers(0, 100, 1000)}
        found["frame, 1,000 x 4 floats"] = pd.DataFrame(draw.normal(size=(1000, 4)), columns=list("abcd"))
        found["frame, 1,000 x time, float, int"] = pd.DataFrame(numbers)
        found["frame, 1,000 x those and text"] = pd.DataFrame({**numbers, "name": names})
    try:
        import pyarrow as pa
    except ImportError:
        stage.skip("Arrow tables", "pyarrow is not installed")
    else:
        columns = {"price": draw.normal(size=1000), "name": [f"name{at % 50}" for at in range(1000)]}
        found["Arrow table, 1,000 x float, text"] = pa.table(columns)
    return found


def _row(what: str, ways: dict[str, Callable[[str], Any]], rounds: int, block: int, blocks: int) -> dict[str, Any]:
    """Return p50 of both ways in microseconds, and the ratio of one to the other, over rounds."""
    settle()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    keys = [f"{what[:40]}:{number}" for number in range(_KEYS)]
    for turn in range(rounds):
        sides = {name: Timed(way, block) for name, way in ways.items()}
        for name, latencies in alternate(sides, keys_in_turn(keys, turn), turn, blocks).items():
            taken[name].append(percentile(latencies, 0.5))
    ratios = [ours / theirs for ours, theirs in zip(taken["raykv"], taken["pickle"], strict=True)]
    return {**{f"{name}_us": spread(values) for name, values in taken.items()}, "ratio": spread(ratios)}


def _codec(stage: Stage, what: str, value: Any) -> dict[str, Any]:
    stage.report(f"values: encoding and decoding {what}")
    ours, theirs = encode_value(value, "auto", pickled), encode_value((value,), "auto", pickled)
    block, blocks = (20, 2) if stage.quick else (200, 5)
    encoding = {
        "raykv": lambda _: encode_value(value, "auto", pickled),
        "pickle": lambda _: encode_value((value,), "auto", pickled),
    }
    decoding = {"raykv": lambda _: decode_value(ours, "auto"), "pickle": lambda _: decode_value(theirs, "auto")}
    return {
        "what": what,
        "raykv_bytes": len(ours),
        "pickle_bytes": len(theirs),
        "encode": _row(what, encoding, stage.rounds, block, blocks),
        "decode": _row(what, decoding, stage.rounds, block, blocks),
    }


def _stored(stage: Stage, bucket: raykv.Bucket[str, Any], what: str, value: Any) -> dict[str, Any]:
    stage.report(f"values: putting and getting {what}")
    block, blocks = (5, 2) if stage.quick else (25, 6)
    putting: dict[str, Callable[[str], Any]] = {
        "raykv": lambda key: bucket.put(f"{key}:r", value, timeout=60),
        "pickle": lambda key: bucket.put(f"{key}:p", (value,), timeout=60),
    }
    getting = {"raykv": lambda key: bucket.get(f"{key}:r"), "pickle": lambda key: bucket.get(f"{key}:p")}
    for number in range(_KEYS):
        for put in putting.values():
            put(f"{what[:40]}:{number}")
    return {
        "what": what,
        "put": _row(what, putting, stage.rounds, block, blocks),
        "get": _row(what, getting, stage.rounds, block, blocks),
    }


def _pair(stage: Stage, pair_bytes: int) -> dict[str, Any]:
    stage.report(f"values: pairs of {pair_bytes:,} bytes")
    name = f"{NAME}{pair_bytes}"
    store = stage.store(name=name)
    bucket: raykv.Bucket[str, bytes] = store.bucket("pairs", pair_bytes=max(pair_bytes, 1024))
    value = os.urandom(pair_bytes - _KEY_BYTES)
    before = _node_mib(store)
    count = max(10, (2**20 if stage.quick else WRITTEN_BYTES) // pair_bytes)
    keys = [f"{number:0{_KEY_BYTES}d}" for number in range(count)]
    timed = keys[:: max(1, count // 200)]
    rest = sorted({*keys} - {*timed})
    ways = {"put": lambda key: bucket.put(key, value, timeout=60), "get": lambda key: bucket.get(key, timeout=60)}
    found: dict[str, Any] = {"pair_bytes": pair_bytes}
    for kind, way in ways.items():
        settle()
        (taken,) = alternate({kind: Timed(way, len(timed))}, timed, 0, 1).values()
        found[kind] = {"p50_ms": percentile(taken, 0.5) / 1000, "p99_ms": percentile(taken, 0.99) / 1000}
    each = max(1, 2**20 // pair_bytes)
    for at in range(0, len(rest), each):
        bucket.put_many(dict.fromkeys(rest[at : at + each], value), timeout=60)
    found |= {"written_bytes": count * pair_bytes, "node_mib": {"before": before, "after": _node_mib(store)}}
    raykv.shutdown(name)
    return found


def _node_mib(store: raykv.Store) -> float:
    """Return the memory of the largest node's process."""
    return max(memory_bytes("VmRSS", node["pid"]) for node in store.status()["nodes"]) / 2**20
