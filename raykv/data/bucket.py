"""Whose data: the handle that a job was given, and a sample of its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykv.config import check_count, shown
from raykv.data.tensors import inferred
from raykv.errors import InvalidOption
from raykv.portable.columns import Layout, laid_out
from raykv.portable.lasting import CALL_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from raykv.client.store import Bucket
    from raykv.records.keys import Key

SAMPLE = 1000
MAX_SAMPLE = 100_000


def sampled(
    bucket: Bucket[Any, Any],
    prefix: Key | None,
    sample: int,
    *,
    key: str,
    columns: Sequence[str] | None,
    schema: pa.Schema | None,
) -> Layout:
    """Return the layout of a bucket's records, by the first and the last of them in key order. Raises ``InvalidOption``."""
    count = check_count("sample", sample, 1, MAX_SAMPLE)
    if columns is not None and (isinstance(columns, str) or not all(isinstance(name, str) for name in columns)):
        raise InvalidOption(f"columns is a list of names; got {shown(columns)}")
    some = dict(bucket.scan(prefix=prefix, limit=count if schema is None else 1, timeout=CALL_TIMEOUT_S))
    if schema is None:
        some |= dict(bucket.scan(prefix=prefix, limit=count, reverse=True, timeout=CALL_TIMEOUT_S))
    learned = f" by the first and last {count:,} records" if schema is None else " of the schema"
    return laid_out([*some], [*some.values()], key=key, columns=columns, schema=schema, learned=learned, infer=inferred)
