"""Columns of a bucket beside those of a batch: a join by key, batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from ray.data.block import BlockAccessor

from raykv.config import shown
from raykv.data.bucket import SAMPLE, sampled
from raykv.data.tensors import array_of, is_tensor
from raykv.errors import InvalidKey, InvalidOption
from raykv.portable.exporting import checked_bucket
from raykv.portable.lasting import values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from raykv.client.store import Bucket
    from raykv.records.keys import Key


types = pa.types
_KEYS = (
    types.is_string,
    types.is_large_string,
    types.is_binary,
    types.is_large_binary,
    types.is_fixed_size_binary,
    types.is_null,
)


class Lookup:
    """Joins columns of a store or bucket to batches: ``dataset.map_batches(Lookup(bucket, on="city"))``.

    ``on``: the column of keys. The values' columns, as ``read`` makes them (``columns``, ``schema``, ``sample``), are added
    under ``prefix`` and their names. Each key of a batch is asked for once, all of them by ``get_many``. ``how``: what
    becomes of a row whose key has no value: "left" gives it nulls, "inner" leaves it out. A column of arrays has no nulls: a
    row that would have one is an ``InvalidOption`` that names its key.

    Takes batches of any format, and returns Arrow tables. It can be passed to ``map_batches`` as it is, or as a class for a
    pool of actors, which connect once each: ``map_batches(Lookup, fn_constructor_args=(bucket, "city"), concurrency=2)``.
    """

    def __init__(
        self,
        bucket: Bucket[Any, Any],
        on: str,
        *,
        columns: Iterable[str] | None = None,
        schema: pa.Schema | None = None,
        prefix: str = "",
        how: Literal["left", "inner"] = "left",
        sample: int = SAMPLE,
    ) -> None:
        if how not in {"left", "inner"}:
            raise InvalidOption(f'how is "left" or "inner"; got {shown(how)}')
        self._bucket = checked_bucket(bucket)
        self._on = on
        self._prefix = prefix
        self._inner = how == "inner"
        self._layout = sampled(self._bucket, None, sample, key=None, columns=columns, schema=schema)
        if not self._layout.fields:
            raise InvalidOption(f"{self._bucket!r} has no record whose columns could be joined; give a schema=")

    def __call__(self, batch: Any) -> pa.Table:
        """Return the batch with the columns added. Raises ``InvalidOption``, ``InvalidKey``, ``QuorumNotMet``."""
        table = _as_table(batch)
        if self._on not in table.column_names:
            raise InvalidOption(f"the batch has no column {shown(self._on)}; it has {', '.join(table.column_names)}")
        column = table.column(self._on)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not any(each(column.type) for each in _KEYS):
            raise InvalidKey(f"column {self._on!r} is of type {column.type}, and a key is a str or bytes")
        keys, places = _distinct(column)
        found = values_of(self._bucket, [key for key in keys if key is not None])
        row_of = {key: row for row, key in enumerate(found)}
        rows = np.array([row_of.get(key, -1) for key in keys] or [-1], np.int64)[places]
        if self._inner:
            table, rows = table.filter(pa.array(rows >= 0)), rows[rows >= 0]
        elif (rows < 0).any():
            self._check_nulls([key for key in keys if key not in row_of])
        values = self._layout.table([*found], [*found.values()], array_of)
        added = values.take(pa.array(rows, mask=rows < 0))
        for name in added.column_names:
            full = self._prefix + name
            if full in table.column_names:
                raise InvalidOption(f"the batch has a column {full!r} already; give another prefix=")
            table = table.append_column(full, added.column(name))
        return table

    def _check_nulls(self, lacking: Sequence[Key | None]) -> None:
        """Raise ``InvalidOption`` if there is a column of arrays for these keys, which have none."""
        tensors = next((name for name, kind in self._layout.fields.items() if is_tensor(kind)), None)
        if tensors is not None:
            raise InvalidOption(
                f"column {tensors!r} has arrays, for which there is no null, and key {shown(lacking[0])} of column "
                f'{self._on!r} has no value; leave such rows out (how="inner"), or the column (columns=)',
                key=lacking[0],
            )


def _as_table(batch: Any) -> pa.Table:
    if isinstance(batch, pa.Table):
        return batch
    return BlockAccessor.for_block(BlockAccessor.batch_to_block(batch)).to_arrow()


def _distinct(column: pa.ChunkedArray) -> tuple[list[Key | None], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return a column's values, each once, and for each row the place of its value among them."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
