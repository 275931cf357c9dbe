"""Buckets as datasets of Ray Data: ``read``, ``write`` and ``Lookup``. Needs the extra: ``pip install 'raykv[data]'``.

    from raykv import data

    dataset = data.read(store.bucket("cities"), columns=["key", "name", "population"])
    written = data.write(dataset, store.bucket("names"), key="key", value="name")
    joined = visits.map_batches(data.Lookup(store.bucket("cities"), on="city"))

Read in this order:

* ``bucket``: a sample of the bucket's records, and the columns by it. ``raykv.portable.lasting`` has reads and puts that
  outlast a node's death.
* ``tensors``: columns of numpy arrays; all other types are ``raykv.portable.columns``'.
* ``reading``: a datasource. A read task is some splits of the bucket (``bucket.splits()``), wherever their partitions are.
* ``writing``: a datasink: blocks as batches of puts, and the count of what was written.
* ``joining``: columns of the store beside those of a batch, by ``get_many``.

**Invariants.**

1. Each record is read exactly once, while nodes die and partitions move: splits share no partition, and a split goes on
   behind the last key that it has (P15). A read task that Ray runs again gives out the same blocks: their bounds depend on
   records alone, never on pages or time.
2. What ``write`` counts was acknowledged. A row that could not be written fails the job; nothing is left out in silence.
3. All blocks of a dataset have one schema. A record that does not fit it is an error that names its key: no value
   is converted to fit, and no part of one left out.
4. A host is a hint: tasks go where copies lie if they can, and anywhere else if not.

**Omitted.** A snapshot of the bucket: a read is as current as scans are, and a record written meanwhile may show or not.
Transactions: a job that failed has written some of its rows, and is run again. Pushing filters down to nodes, which do not
decode values.
"""

from __future__ import annotations

try:
    import pandas  # noqa: F401, ICN001 - Ray Data imports it at its first use, in the middle of a job
    import pyarrow  # noqa: F401, ICN001
    import ray.data  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"raykv.data works with Ray Data, and that is not all installed here ({error}): pip install 'raykv[data]'"
    ) from error

from raykv.data.joining import Lookup
from raykv.data.reading import read
from raykv.data.writing import Written, write

__all__ = ["read", "write", "Lookup", "Written"]
