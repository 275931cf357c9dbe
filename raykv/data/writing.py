"""A dataset into a bucket: each block in batches of puts, tried anew while the store lacks a node, and counted.

A row counts once it is acknowledged. Ray may run a task again whose worker died: its rows are put again, the same values
under the same keys, and counted by the attempt that came to its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import ray.data
from ray.data import Datasink
from ray.data.block import BlockAccessor

from raykv.config import check_count, shown
from raykv.data.tensors import is_tensor
from raykv.errors import InvalidKey, InvalidOption, RaykvError
from raykv.portable.columns import VALUE, python_values
from raykv.portable.exporting import checked_bucket
from raykv.portable.lasting import put_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from raykv.client.store import Bucket

BATCH_ROWS = 2000
MAX_BATCH_ROWS = 100_000
MAX_CONCURRENCY = 100_000


class Written(NamedTuple):
    """What became of a dataset's rows."""

    rows: int = 0
    """Acknowledged: put by W nodes or more. Of rows with one key in a batch the last is put, and all of them count."""
    skipped: int = 0
    """With ``if_absent``: those whose key had a value, or stands earlier in the batch. If Ray runs a task again whose worker
    died, the rows that it had written are among them."""
    retries: int = 0
    """Puts that were sent again, since the store could not take them at first."""

    def plus(self, other: Written) -> Written:
        """Return the sum."""
        return Written(*(mine + its for mine, its in zip(self, other, strict=True)))


def write(
    dataset: ray.data.Dataset,
    bucket: Bucket[Any, Any],
    *,
    key: str = "key",
    value: str | None = None,
    if_absent: bool = False,
    batch: int = BATCH_ROWS,
    concurrency: int | None = None,
) -> Written:
    """Put each row of a dataset into a store or bucket; return how many were written.

    ``key``: the column of keys, ``str`` or ``bytes``. ``value``: the column of values; None: a dict of all the other columns
    or, if "value" is the only one, that. So ``write(read(a), b)`` copies a bucket. ``if_absent``: only where the key has no
    value (linearizable buckets). ``batch``: rows in a ``put_many``; ``concurrency``: how many tasks may write at once.

    Batches are tried anew, with pauses, while nodes are away. Otherwise it raises what kept a row from being written, an
    error of raykv that names the key. By then others were written: run it again. Of rows with the same key in different
    batches it is open which is last.
    """
    bucket = checked_bucket(bucket)
    if not isinstance(dataset, ray.data.Dataset):
        raise InvalidOption(f"this takes a ray.data.Dataset; got {shown(dataset)}")
    if concurrency is not None:
        check_count("concurrency", concurrency, 1, MAX_CONCURRENCY)
    if value is not None and value == key:
        raise InvalidOption(f"key= and value= name the same column, {shown(key)}")
    if if_absent and bucket.config.versioning != "linearizable":
        raise InvalidOption(f"if_absent takes a linearizable bucket; {bucket.name!r} is {bucket.config.versioning}")
    sink = BucketDatasink(bucket, key, value, if_absent, check_count("batch", batch, 1, MAX_BATCH_ROWS))
    try:
        dataset.write_datasink(sink, concurrency=concurrency)
    except Exception as error:
        cause = _of_raykv(error)
        if cause is None:
            raise
        raise cause from None
    return sink.written


class BucketDatasink(Datasink[Written]):  # type: ignore[misc]  # Ray's classes are untyped
    """A bucket, as what Ray Data writes to."""

    def __init__(
        self, bucket: Bucket[Any, Any], key: str, value: str | None, if_absent: bool, batch: int = BATCH_ROWS
    ) -> None:
        self._bucket = bucket
        self._bucket_name = bucket.name
        self._key = key
        self._value = value
        self._if_absent = if_absent
        self._batch = batch
        self.written = Written()

    def get_name(self) -> str:
        """Return the name that Ray Data's progress shows."""
        return f"Raykv({self._bucket_name})"

    def write(self, blocks: Iterable[Any], ctx: object) -> Written:
        """Write a task's blocks."""
        del ctx
        written = Written()
        for block in blocks:
            table = BlockAccessor.for_block(block).to_arrow()
            for start in range(0, table.num_rows, self._batch):
                some = table.slice(start, self._batch)
                pairs = [*pairs_of_rows(some, self._key, self._value)]
                try:
                    put = put_all(self._bucket, pairs, if_absent=self._if_absent)
                except RaykvError as error:
                    raise _told(error, written.rows) from None
                written = written.plus(Written(*put))
        return written

    def on_write_complete(self, write_result: Any) -> None:
        """Add up what the tasks have counted."""
        for each in write_result.write_returns:
            self.written = self.written.plus(Written(*each))


def pairs_of_rows(table: pa.Table, key: str, value: str | None) -> Iterator[tuple[Any, Any]]:
    """Return the rows as pairs. Raises ``InvalidOption`` without a column, ``InvalidKey`` for a row without a key."""
    names = table.column_names
    for name in (key, value):
        if name is not None and name not in names:
            raise InvalidOption(f"the dataset has no column {shown(name)}; it has {', '.join(names)}")
    if len({*names}) < len(names):
        raise InvalidOption(f"the dataset has columns of the same name: {', '.join(names)}")
    others = [name for name in names if name != key] if value is None else [value]
    keys = column_values(table, key)
    for each in keys:
        if not isinstance(each, str | bytes):
            raise InvalidKey(f"column {key!r} has {shown(each)}, and a key is a str or bytes")
    if value is not None or others == [VALUE]:
        return zip(keys, column_values(table, others[0]), strict=True)
    columns = [column_values(table, name) for name in others]
    rows = zip(*columns, strict=True) if columns else iter([()] * len(keys))
    return zip(keys, (dict(zip(others, row, strict=True)) for row in rows), strict=True)


def column_values(table: pa.Table, name: str) -> Sequence[Any]:
    """Return a column as Python's values; tensors as numpy arrays."""
    column = table.column(name)
    if is_tensor(column.type):
        return [row for chunk in column.chunks for row in chunk.to_numpy(zero_copy_only=False)]
    return python_values(name, column)


def _told(error: RaykvError, rows: int) -> RaykvError:
    before = f" (this task had written {rows:,} rows before; the job can be run again)"
    return type(error)(error.message + before, **error.details)


def _of_raykv(error: BaseException | None) -> RaykvError | None:
    """Return raykv's own error behind one of Ray's, if there is one."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, RaykvError) and type(error).__module__ == RaykvError.__module__:
            return error
        error, seen = getattr(error, "cause", None) or error.__cause__ or error.__context__, seen + 1
    return None
