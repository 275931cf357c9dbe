"""A bucket as a dataset: a read task is some splits, and a block so many records of them."""

from __future__ import annotations

import inspect
import itertools
from typing import TYPE_CHECKING, Any

import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykv.actors.hosts import living
from raykv.config import MAX_PARTITIONS, MIB, check_count
from raykv.data.bucket import SAMPLE, sampled
from raykv.data.tensors import array_of
from raykv.portable.exporting import checked_bucket
from raykv.portable.lasting import CALL_TIMEOUT_S, pairs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from raykv.client.splits import Split
    from raykv.client.store import Bucket
    from raykv.portable.columns import Layout
    from raykv.records.keys import Key

BLOCK_ROWS = 20_000
BLOCK_BYTES = 64 * MIB
"""A block has at most as many records as could have these bytes, the bucket's largest pairs."""
TASKS_A_CPU = 2
SPLITS = 256
"""A bucket is read in so many splits, several to a task: a page of few partitions costs a third of one of all."""
NODE_ID_LABEL = "ray.io/node-id"


def read(
    bucket: Bucket[Any, Any],
    *,
    prefix: Key | None = None,
    columns: Iterable[str] | None = None,
    schema: pa.Schema | None = None,
    key: str = "key",
    parallelism: int | None = None,
    sample: int = SAMPLE,
) -> ray.data.Dataset:
    """Return a store's or bucket's records as a dataset of Ray Data; they are read when it is consumed.

    A row has the key in the column ``key``, and a column for each name of a value that is a dict; any other value stands in
    the column "value". ``columns``: those wanted; None: all. ``prefix``: of the keys; "" reads the ``str`` keys alone.

    The types are those of the first and last ``sample`` records, or the ``schema``'s. numpy arrays are tensors. A record
    that does not fit is an ``InvalidOption`` that names its key, in the task that reads it. A name that a record lacks is
    null.

    ``parallelism``: the number of read tasks; None: two for each processor, and no fewer than nodes. A task reads some
    partitions, wherever they are by then, and runs on a host that has a copy, if it can. Each record that stands still is
    in the dataset exactly once, while nodes die and partitions move.

    Raises ``InvalidOption``, ``QuorumNotMet``, ``StoreUnavailable``.
    """
    bucket = checked_bucket(bucket)
    layout = sampled(bucket, prefix, sample, key=key, columns=columns, schema=schema)
    if parallelism is None:
        cpus = ray.cluster_resources().get("CPU", 1.0)
        parallelism = max(round(TASKS_A_CPU * cpus), len(bucket.splits(timeout=CALL_TIMEOUT_S)))
    else:
        parallelism = check_count("parallelism", parallelism, 1, MAX_PARTITIONS)
    splits = bucket.splits(max(parallelism, SPLITS), prefix=prefix, timeout=CALL_TIMEOUT_S)
    name = bucket.name
    parts = []
    for nodes, some in by_host(splits):
        tasks = dealt_out(some, -(-parallelism * len(some) // len(splits)))
        source = BucketDatasource(name, tasks, layout, bucket.config.pair_bytes)
        parts.append(ray.data.read_datasource(source, override_num_blocks=len(tasks), **placed(nodes)))
    return parts[0] if len(parts) == 1 else parts[0].union(*parts[1:])


class BucketDatasource(Datasource):  # type: ignore[misc]  # Ray's classes are untyped
    """Splits of a bucket, by read task."""

    def __init__(self, name: str, tasks: Sequence[Sequence[Split[Any, Any]]], layout: Layout, pair_bytes: int) -> None:
        super().__init__()
        self._name = name
        self._tasks = tasks
        self._layout = layout
        self._rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // pair_bytes))

    def get_name(self) -> str:
        """Return the name that Ray Data's progress shows."""
        return f"Raykv({self._name})"

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: nobody has counted."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Return the tasks; their number was settled by ``read``."""
        del parallelism, data_context
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        limit = {} if per_task_row_limit is None else {"per_task_row_limit": per_task_row_limit}
        return [
            ReadTask(_Reading(splits, self._layout, self._rows), unknown, schema=self._layout.schema, **limit)
            for splits in self._tasks
        ]


class _Reading:
    """Reads splits, block by block, all of ``rows`` records but the last: the same blocks however often it is run."""

    def __init__(self, splits: Sequence[Split[Any, Any]], layout: Layout, rows: int) -> None:
        self._splits = splits
        self._layout = layout
        self._rows = rows
        self.__name__ = "read_splits"

    def __call__(self) -> Iterator[pa.Table]:
        pairs = itertools.chain.from_iterable(pairs_of(split.items) for split in self._splits)
        while some := [*itertools.islice(pairs, self._rows)]:
            keys, values = zip(*some, strict=True)
            yield self._layout.table(keys, values, array_of)


def dealt_out(splits: Sequence[Split[Any, Any]], tasks: int) -> list[list[Split[Any, Any]]]:
    """Return the splits in so many parts of about the same size, none of them empty."""
    tasks = max(1, min(tasks, len(splits)))
    bounds = [len(splits) * index // tasks for index in range(tasks + 1)]
    return [[*splits[low:high]] for low, high in itertools.pairwise(bounds)]


def by_host(splits: Sequence[Split[Any, Any]]) -> list[tuple[list[str], list[Split[Any, Any]]]]:
    """Return the splits by the host where to read them: the ids of its Ray nodes, none if it does not matter where."""
    there = living(ray.nodes())
    if len(there) < 2:
        return [([], [*splits])]
    together: dict[str, list[Split[Any, Any]]] = {}
    for split in splits:
        together.setdefault(next((host for host in split.hosts if host in there), ""), []).append(split)
    return [([node["NodeID"] for node in there.get(host, ())], some) for host, some in sorted(together.items())]


def placed(nodes: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of ``read_datasource`` by which tasks prefer these Ray nodes, and may run on others."""
    if not nodes:
        return {}
    if "fallback_strategy" in inspect.signature(ray.data.read_datasource).parameters:
        anywhere = {"label_selector": {NODE_ID_LABEL: "!in(none)"}}
        return {"label_selector": {NODE_ID_LABEL: f"in({','.join(nodes)})"}, "fallback_strategy": [anywhere]}
    return {"ray_remote_args": {"scheduling_strategy": NodeAffinitySchedulingStrategy(nodes[0], soft=True)}}
