"""Whose data: the handle that a job was given, and a sample of its records."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raykv.config import check_count, shown
from raykv.data.tensors import inferred
from raykv.errors import InvalidOption, from_callers_code
from raykv.portable.columns import Layout, laid_out
from raykv.portable.lasting import CALL_TIMEOUT_S, pairs_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raykv.client.store import Bucket
    from raykv.records.keys import Key

SAMPLE = 1000
MAX_SAMPLE = 100_000


def sampled(
    bucket: Bucket[Any, Any],
    prefix: Key | None,
    sample: int,
    *,
    key: str | None,
    columns: Iterable[str] | None,
    schema: pa.Schema | None,
) -> Layout:
    """Return the layout of a bucket's records, by the first and the last of them in key order. Raises ``InvalidOption``."""
    count = check_count("sample", sample, 1, MAX_SAMPLE)
    if key is not None and not isinstance(key, str):
        raise InvalidOption(f"key is the name of a column; got {shown(key)}")
    columns = None if columns is None else _names(columns)
    if schema is not None and (not isinstance(schema, pa.Schema) or len({*schema.names}) < len(schema.names)):
        raise InvalidOption(
            f"schema is a pyarrow.Schema, each of whose columns has a name of its own; got {shown(schema)}"
        )

    def first(most: int, *, reverse: bool = False) -> dict[Any, Any]:
        pairs = pairs_of(
            lambda after: bucket.scan(prefix, after=after, limit=most, reverse=reverse, timeout=CALL_TIMEOUT_S)
        )
        return dict(itertools.islice(pairs, most))

    some = first(1) if schema is not None else first(count) | first(count, reverse=True)
    learned = f" by the first and last {count:,} records" if schema is None else " of the schema"
    return laid_out([*some], [*some.values()], key=key, columns=columns, schema=schema, learned=learned, infer=inferred)


def _names(columns: Iterable[str]) -> list[str]:
    """Return the names of columns as a list: an iterator's can be looked at only once."""
    try:
        names = [] if isinstance(columns, str) else list(columns)
    except TypeError as error:
        if from_callers_code(error):
            raise
        names = []
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidOption(f"columns is a list of names, one at least; got {shown(columns)}")
    return [str.__str__(name) for name in names]
