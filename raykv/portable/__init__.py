"""Buckets as files that other programs read: JSON Lines, and Parquet (which needs pyarrow: ``pip install 'raykv[data]'``).

    from raykv.portable import export_file, import_file

    export_file(store.bucket("cities"), "cities.parquet")
    import_file(store.bucket("cities again"), "cities.parquet")

Read in this order:

* ``tagged``: a value as JSON that comes back as what it was, or is refused.
* ``columns``: records as typed columns of Arrow, with errors that name the key; ``raykv.data`` makes its blocks of them too.
* ``holding``: which values an Arrow type holds as they are.
* ``lasting``: reads and puts that outlast the death of a node.
* ``lines`` and ``parquet``: the two formats. ``exporting`` and ``importing``: what is done to a bucket and a file.

**Invariants.**

1. What is imported is what was exported: same keys, same values of the same types, exactly. A value that a format cannot
   keep is refused, with its key, and never written as something like it.
2. Under its final name a file is whole or not there. It is written beside it, in PATH.partial, and renamed once it is on
   disk. The note goes before that: nothing goes on in an export that has ended.
3. An export or import that was interrupted goes on where it was: what is finished is durable before the note that says so,
   and the note names the last key, or the place in the file, up to which it is. No record is exported twice.
4. Memory is bounded by a chunk of records, whatever the size of bucket or file, and whatever a line or a value says.
5. Nothing in a file runs: neither format has pickles. What a file or a note says is checked, and told with where it stands.

**Omitted.** Versions and siblings: a file has of each key the value that the handle's ``get`` shows. Expiry times. Settings
of the bucket. A snapshot: an export is as current as a scan, and takes in what is written behind it. ``store.snapshot`` is
the backup: exact, incremental, and faster.
"""

from __future__ import annotations

from raykv.portable.exporting import Exported, export_file
from raykv.portable.importing import Imported, import_file

__all__ = ["export_file", "import_file", "Exported", "Imported"]
