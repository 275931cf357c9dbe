"""The guards of one node's disk, as bugs to plant: sync order, corruption, which record is the newest."""

from __future__ import annotations

from simulation.planting import Edit, Planted

_WAITS = "            return self._answer_when_durable(request.body, body, self._commit.enqueue(position), began_s)\n"


def _answer_at_once(kinds: str) -> str:
    return f"""\
            waiting = self._commit.enqueue(position)
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
            if not isinstance(request.body, {kinds}):
                return self._answer_when_durable(request.body, body, waiting, began_s)
"""


ON_DISK = (
    # ---- nothing unsynced is acknowledged, nothing unsynced is seen ----
    Planted(
        "write acknowledged before its sync",
        "P3",
        "the node answers, its host loses power, and the write is gone from a replica that counted",
        (Edit("raykv.node.node:StorageNode.take", _WAITS, _answer_at_once("f.Write")),),
    ),
    Planted(
        "read answered before the sync",
        "P3",
        "a value is read, the host loses power, and a later read finds an older one",
        (Edit("raykv.node.node:StorageNode.take", _WAITS, _answer_at_once("(f.Read, f.Scan)")),),
    ),
    Planted(
        "repeated write acknowledged at once",
        "P3",
        "the network repeats a write, the node knows it already and says so, and the first is not synced yet",
        (
            Edit(
                "raykv.storage.engine:Engine.update",
                "            return found\n",
                "            return Found(kept, 0)\n",
            ),
            Edit(
                "raykv.storage.engine:Engine.update_many",
                "                continue\n",
                "                result[index] = Found(kept, 0)\n                continue\n",
            ),
        ),
    ),
    Planted(
        "a sync covers what came after it",
        "P3",
        "while the log is synced a write is appended; when the sync is done that write is acknowledged too",
        (
            Edit("raykv.storage.wal:Log.finish", "if job.position < self.durable_position:", "if False:"),
            Edit(
                "raykv.storage.wal:Log.finish",
                "self.durable_position = job.position",
                "self.durable_position = self.appended_position",
            ),
        ),
    ),
    Planted(
        "written is taken for synced",
        "P3",
        "every acknowledgement means the kernel's memory, which does not outlive the host's power",
        (Edit("raykv.storage.wal:_Writer.sync", "        self._file.sync()\n", ""),),
    ),
    Planted(
        "a failed sync is taken for a success",
        "P3",
        "the disk says that it could not write; the node acknowledges all the same",
        (
            Edit(
                "raykv.storage.wal:Log.carry_out",
                "        if sync:\n            self._writer.sync()\n",
                "        if sync:\n"
                "            try:\n"
                "                self._writer.sync()\n"
                "            except OSError:\n"
                "                self._writer.synced_up_to = self._writer.length\n",
            ),
        ),
    ),
    Planted(
        "a failed write is passed over",
        "P3",
        "an append to the log failed; later ones succeed, and the log has a hole",
        (
            Edit(
                "raykv.storage.wal:_Writer._append",
                "        if full is None:\n            raise\n",
                "        if full is None:\n            return\n",
            ),
        ),
    ),
    Planted(
        "recovery shows what it has not synced",
        "P3",
        "a process dies between write and sync, the next one answers from those bytes, and then the power goes",
        (Edit("raykv.storage.recovery:_make_safe", "    fs.truncate(path, size)", "    size"),),
    ),
    # ---- files that are replaced atomically ----
    Planted(
        "small file renamed before it is synced",
        "storage",
        "after a power cut the manifest, identity or register has its name and not its bytes",
        (Edit("raykv.storage.blob:write_blob", "            file.sync()\n", ""),),
    ),
    Planted(
        "directory not synced behind a rename",
        "P5, P6",
        "a power cut brings the former manifest, identity or register back: promises and incarnations are forgotten",
        (Edit("raykv.storage.blob:write_blob", "    fs.sync_directory(directory)\n", ""),),
    ),
    Planted(
        "directory not synced behind a new log segment",
        "P3",
        "a power cut takes the name of the newest segment, with all that was acknowledged into it",
        (Edit("raykv.storage.wal:_Writer.begin", "    self._fs.sync_directory(self._directory)\n", ""),),
    ),
    Planted(
        "directory not synced behind new tables",
        "storage",
        "a power cut takes the name of a table whose log is gone already",
        (
            Edit(
                "raykv.storage.jobs:Workshop.open",
                "        self.fs.sync_directory(self.directory)\n",
                "        pass\n",
            ),
        ),
    ),
    Planted(
        "table named before it is synced",
        "storage",
        "a power cut empties a table whose log is gone already",
        (Edit("raykv.storage.sstable_writer:TableWriter.finish", "    self._file.sync()\n", ""),),
    ),
    Planted(
        "log unlinked before the manifest is safe",
        "storage",
        "a crash between the two leaves a manifest that needs the log, and no log",
        (
            Edit(
                "raykv.storage.engine:Engine._finish_flush",
                "    self._save_manifest()\n    self._unlink_segments(before, self._manifest.oldest_segment)",
                "    oldest = min(memtable.first_segment for memtable in [self._memtable, *self._sealed])\n"
                "    self._unlink_segments(before, oldest)\n    self._save_manifest()",
            ),
        ),
    ),
    Planted(
        "tables unlinked before the manifest is safe",
        "storage",
        "a crash between the two leaves a manifest that names tables that are gone",
        (
            Edit("raykv.storage.engine:Engine._finish_compaction", "    self._save_manifest()\n", ""),
            Edit(
                "raykv.storage.engine:Engine._finish_compaction",
                "replaced.append(table.name)",
                "replaced.append(table.name)\n    self._save_manifest()",
            ),
            Edit("raykv.storage.engine:Engine._finish_compaction", "if replaced is None or", "if True or"),
        ),
    ),
    Planted(
        "log forgotten before it is flushed",
        "storage",
        "the manifest names the newest segment as the oldest that matters; a crash loses the memtables that wait",
        (
            Edit(
                "raykv.storage.engine:Engine._save_manifest",
                "oldest = min(memtable.first_segment for memtable in [self._memtable, *self._sealed])",
                "oldest = self._memtable.first_segment",
            ),
        ),
    ),
    # ---- corruption and torn tails ----
    Planted(
        "torn tail taken for corruption",
        "storage",
        "after a power cut the node calls itself damaged, and answers no reads until its peers have completed it",
        (
            Edit(
                "raykv.storage.replay:judge",
                "if gap.start < witness",
                "if gap.start < max(witness, size)",
            ),
        ),
    ),
    Planted(
        "corruption taken for a torn tail",
        "P1",
        "a corrupt byte in the log, and all acknowledged writes behind it are cut off in silence",
        (
            Edit("raykv.storage.replay:judge", "if gap.start < witness", "if gap.start < 0"),
            Edit(
                "raykv.storage.replay:judge",
                "for start, _ in gaps if start >= witness",
                "for start, _ in gaps if start >= 0",
            ),
        ),
    ),
    Planted(
        "corruption of unknown keys is no reason to be incomplete",
        "P1",
        'a segment of the log is damaged, and the node says "absent" of the keys that were in it',
        (
            Edit(
                "raykv.replica.handlers:Replica._note_damage",
                "if unknown is not None and self.complete:",
                "if unknown is not None and not self.complete:",
            ),
        ),
    ),
    Planted(
        "corrupt block read as empty",
        "P1",
        'once its corruption is noted a block is passed over, and the node says "absent" of its keys',
        (Edit("raykv.storage.lookups:Lookups.get", "if self._ranges:", "if not self._ranges:"),),
    ),
    Planted(
        "compaction launders corruption",
        "P1",
        "a corrupt block is left out of the merged table and nobody remembers that its keys are missing",
        (
            Edit(
                "raykv.storage.engine:Engine._finish_compaction", "        self._note(damage)\n", "        del damage\n"
            ),
        ),
    ),
    Planted(
        "scan passes over corruption",
        "P15",
        "a scan ends where a corrupt block lies, as if there were nothing behind it",
        (
            Edit(
                "raykv.storage.scans:Scans._scan",
                "    if within:\n        at =",
                "    if within is None:\n        at =",
            ),
        ),
    ),
    Planted(
        "blocks are not verified",
        "storage",
        "a flipped bit comes out as a value that nobody wrote",
        (Edit("raykv.storage.frame:decode_frame", "if checksum != crc32c(", "if checksum is None or 0 * crc32c("),),
    ),
    Planted(
        "chunks of the log are not verified",
        "storage",
        "half a write, or a flipped bit, comes out of recovery as a value that nobody wrote",
        (Edit("raykv.storage.replay:_read_chunk", " or crc32c(payload) != payload_crc", ""),),
    ),
    # ---- the newest record stands ----
    Planted(
        "compaction keeps the older record",
        "storage",
        "two runs are merged, and of a key that is in both the older record stands",
        (Edit("raykv.storage.merge:settle", "in reversed(parts)", "in parts"),),
    ),
    Planted(
        "reads ask the oldest run first",
        "storage",
        "after two flushes a node answers with the record of the first",
        (
            Edit(
                "raykv.storage.lookups:Lookups._find_below",
                "for run in self._runs:",
                "for run in reversed(self._runs):",
            ),
            Edit(
                "raykv.storage.lookups:Lookups._find_many", "for run in self._runs:", "for run in reversed(self._runs):"
            ),
        ),
    ),
    Planted(
        "a record found in a table outlives the next flush",
        "storage",
        "a record is read from a table, written anew and flushed, and the next read is answered with what was read first",
        (Edit("raykv.storage.cache:RecordCache.get", "and kept[1] == age else None", "else None"),),
    ),
    Planted(
        "replayed memtables in the wrong order",
        "storage",
        "a crash with two memtables to be flushed, and the older one covers the newer",
        (Edit("raykv.storage.recovery:_replay", "sealed.insert(0, memtable)", "sealed.append(memtable)"),),
    ),
    Planted(
        "corruption is written over before it is noted",
        "P1",
        "a write is merged with what corruption has left; the next run finds it first, and takes itself for complete",
        (
            Edit("raykv.storage.engine:Engine._put", "if self._unsaved_damage:", "if False:"),
            Edit("raykv.storage.engine:Engine._put_many", "if self._unsaved_damage:", "if False:"),
        ),
    ),
    # ---- whose directory it is ----
    Planted(
        "directory opened without its lock",
        "P6",
        "a frozen process that was given up is thawed, and two processes write to one log",
        (
            Edit(
                "raykv.storage.directory:NodeDirectory.open",
                "lock = fs.lock(lock_path, note)",
                "lock = type('NoLock', (), {'release': lambda self: None})()",
            ),
        ),
    ),
    Planted(
        "incarnation not kept",
        "P6",
        "two runs of a node bear the same number, and nobody can distinguish their answers",
        (
            Edit(
                "raykv.storage.directory:NodeDirectory.open",
                "directory._save(identity)",
                "directory.identity = identity",
            ),
        ),
    ),
    Planted(
        "new directory counted complete",
        "P1",
        'a wiped node comes back and says "absent" of all that it had acknowledged',
        (Edit("raykv.storage.directory:NodeDirectory.open", "random, complete_if_new)", "random, True)"),),
    ),
    Planted(
        "old directory counted complete",
        "P1, P6",
        "a directory is brought back from a copy, and the node answers with the past",
        (
            Edit(
                "raykv.storage.directory:NodeDirectory.mark_incomplete", "complete=False", "complete=identity.complete"
            ),
        ),
    ),
)
