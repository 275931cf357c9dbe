"""A node's directory, opened and examined: whether it is the one that the last run left, and may be believed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from raykv.storage import Engine, NodeDirectory
from raykv.versions import merge_bounded

if TYPE_CHECKING:
    import random

    from raykv.node.node import NodeSpec
    from raykv.ports import Clock, FileSystem, Helper

logger = logging.getLogger("raykv.node")


class Opened(NamedTuple):
    """What a run of a node begins with."""

    directory: NodeDirectory
    engine: Engine
    old: bool
    """Whether deletes may have been forgotten since this directory was last in use (P10)."""


def open_data(
    spec: NodeSpec, fs: FileSystem, clock: Clock, random: random.Random, lock_note: bytes, helper: Helper | None
) -> Opened:
    """Open the directory under its lock, recover, and mark incomplete what falls short of what is known of it (P1, P6).

    Raises ``DirectoryInUse``, ``DirectoryForeign``, ``OSError``, ``CorruptData``.
    """
    directory = NodeDirectory.open(
        fs,
        spec.path,
        store_id=spec.store_id,
        node_id=spec.node_id,
        random=random,
        complete_if_new=spec.fresh,
        note=lock_note,
        now_ms=clock.wall_ms(),
    )
    previous = directory.previous
    away_ms = clock.wall_ms() - previous.alive_ms if previous is not None else 0
    old = away_ms > spec.store.gc_grace_s * 1000 / 2
    engine = _open_engine(spec, fs, directory, helper)
    known = spec.known
    doubt = engine.doubt or directory.doubt_about_register()
    if (
        doubt
        or directory.identity.incarnation <= known.incarnation
        or (known.directory_id == directory.directory_id and not engine.recovered(known.log_position))
    ):
        # Somebody copied an old directory back (P6), or a part of one: it lacks what was acknowledged since.
        if doubt:
            logger.error("store %s: node %s: %s; it may lack what was in it", spec.store.name, spec.node_id, doubt)
        elif previous is None:
            logger.error("store %s: node %s: its directory is gone; it begins empty", spec.store.name, spec.node_id)
        else:
            logger.error("store %s: node %s: its directory is an old one", spec.store.name, spec.node_id)
        directory.mark_incomplete(known.incarnation, set_aside=old)
        if old:
            engine.close()
            engine = _open_engine(spec, fs, directory, helper)
    directory.note_data(engine.begin_run(directory.identity.incarnation))
    directory.remove_old_data()
    return Opened(directory, engine, old)


def _open_engine(spec: NodeSpec, fs: FileSystem, directory: NodeDirectory, helper: Helper | None) -> Engine:
    engine = Engine.open(
        fs, f"{spec.path}/{directory.identity.data}", spec.node, merge_bounded, mark=directory.identity.mark,
        run=directory.last_run, owner=directory.owner,
    )  # fmt: skip
    if helper is not None:
        engine.use_helper(helper)
    return engine
