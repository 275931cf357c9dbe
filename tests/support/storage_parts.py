"""A node's part of a snapshot, taken and read as the node and a restore do."""

from __future__ import annotations

from raykv.storage.snapshot import Part, PartReader, TableCopier, prepare

PATH = "/backups/shop"
FIRST = "20261129T170000Z-00000001"


def take(fs, engine, name=FIRST, path=PATH, store_id="s"):
    """Take a node's part, as the node does; return it with its file's size and checksum, and how many tables were new."""
    prepare(fs, path, store_id, "n1", name)
    held = engine.hold_tables()
    copier = TableCopier(fs, held.directory, path, "n1")
    copied = [copier.copy(table) for table in held.tables]
    part = Part(
        store_id=store_id, node_id="n1", snapshot=name, manifest=held.manifest,
        checksums=tuple(each.checksum for each in copied),
    )  # fmt: skip
    size_bytes, checksum = copier.write_part(part)
    held.release()
    return part, size_bytes, checksum, sum(each.new for each in copied)


def contents(fs, part, path=PATH):
    reader = PartReader(fs, path, part)
    found = {}
    for keys, records in reader.batches():
        assert not found or keys[0] > max(found)
        found.update(zip(keys, records, strict=True))
    return found, reader.damages


def flushed(drive, engine):
    through = engine.begin_snapshot()
    drive.sync(engine)
    drive.work(engine)
    assert engine.flushed(through)
