"""A copy of a stopped store, made by ``cp -r``, becomes a store of its own, under another name.

Everything that tells two stores apart is drawn anew: the store's id, and each directory's. Nodes keep their ids, which are
names within a store. What the copy's nodes give out from then on (dots, terms, runs) they draw anew at every start, so two
stores that go on from one copy never name two things alike; contexts of the original are refused by the copy.

Every step can be repeated. The new ids are drawn once and noted (``deletion.ADOPTING``); the store's marker is replaced
last. The copy has to be whole: every member's directory on this host, each left by a clean stop; and a copy: a link leads to
the original.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import msgspec

from raykv.actors.deletion import ADOPTING
from raykv.actors.marker import MARKER, Marker, read_marker, replace_marker
from raykv.actors.naming import node_directories, node_directory
from raykv.actors.ownership import check_store_directory
from raykv.actors.path_lock import PathLock
from raykv.cluster.state import decode_state, encode_state
from raykv.errors import CorruptData, InvalidOption
from raykv.protocol import frames as f
from raykv.records.limits import Name
from raykv.storage.adoption import Adopted, adopt, check_adoptable, register_data
from raykv.storage.blob import read_blob, unpack, write_blob

if TYPE_CHECKING:
    from raykv.ports import FileSystem

logger = logging.getLogger("raykv")

_MAGIC = b"RAYKVADO"
_VERSION = 1
_MAX_BYTES = 1 << 20


class _Adoption(msgspec.Struct, frozen=True):
    """An adoption under way."""

    name: Name
    store_id: Name
    """Of the original."""
    nodes: tuple[Adopted, ...]


_decode = msgspec.msgpack.Decoder(_Adoption).decode


def adopt_store(fs: FileSystem, path: str, name: str, host: str) -> bool:
    """Make the copy at ``path`` the store ``name``, whose nodes are all on ``host``. False if it is that store already.

    Raises ``InvalidOption`` if nothing is there, if it runs, or is no whole copy of a stopped store; ``CorruptData``.
    """
    if not fs.exists(f"{path}/{MARKER}"):
        raise InvalidOption(f"nothing to adopt: no store is at {path}", path=path)
    try:
        for warning in check_store_directory(path):
            logger.warning("store %s: %s", name, warning)
        lock = PathLock(fs, path)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        return _adopt_held(fs, path, name, host)
    except OSError as error:
        raise _unusable(path, error) from None
    finally:
        lock.release()


def _unusable(path: str, error: OSError) -> InvalidOption:
    return InvalidOption(f"path {path} cannot be used: {error.filename or ''} {error.strerror or error}", path=path)


def _adopt_held(fs: FileSystem, path: str, name: str, host: str) -> bool:
    """Adopt under the path's lock: of two at once, the later would rewrite nodes of a store that runs."""
    marker = read_marker(fs, path)
    begun = _read(fs, path)
    if begun is None and marker.store.name == name:
        return False
    if begun is None:
        begun = _begin(fs, path, name, marker)
    elif begun.name != name:
        raise InvalidOption(f"{path} is being adopted as store {begun.name!r}: go on with that name", path=path)
    for node in begun.nodes:
        where = node_directory(path, node.node_id)
        adopt(fs, where, begun.store_id, node, lambda data: _renewed(data, name, begun.nodes[0].store_id, host))
    store = msgspec.structs.replace(marker.store, name=name)
    replace_marker(fs, path, Marker(store_id=begun.nodes[0].store_id, store=store, founded=marker.founded))
    fs.unlink(f"{path}/{ADOPTING}")
    fs.sync_directory(path)
    logger.warning("the copy at %s is store %s from now on", path, name)
    return True


def _read(fs: FileSystem, path: str) -> _Adoption | None:
    where = f"{path}/{ADOPTING}"
    try:
        _, payload = read_blob(fs, where, _MAGIC, _VERSION, _MAX_BYTES)
    except FileNotFoundError:
        return None
    begun = unpack(_decode, payload, where)
    if not begun.nodes or len({node.store_id for node in begun.nodes}) > 1:
        raise CorruptData(f"{where}: it names no new store", file=where)
    return begun


def _begin(fs: FileSystem, path: str, name: str, marker: Marker) -> _Adoption:
    """Check all directories before the first is changed, draw the new ids and note them."""
    draw = random.SystemRandom()
    store_id = draw.randbytes(8).hex()
    found = node_directories(fs, path)
    nodes = tuple(Adopted(store_id, node_id, draw.randbytes(16).hex()) for node_id in found)
    if not nodes or not marker.founded:
        raise InvalidOption(f"nothing to adopt: the store at {path} has no nodes with data", path=path)
    for node in nodes:
        check_adoptable(fs, node_directory(path, node.node_id), marker.store_id, node)
    begun = _Adoption(name, marker.store_id, nodes)
    missing = _members(fs, path, found) - {*found}
    if missing:
        raise InvalidOption(
            f"{path} is no whole copy: the directories of {', '.join(sorted(missing))} are missing; copy those of all hosts "
            "to here, or restore a backup",
            path=path,
        )
    write_blob(fs, path, ADOPTING, _MAGIC, _VERSION, msgspec.msgpack.encode(begun))
    return begun


def _members(fs: FileSystem, path: str, nodes: list[str]) -> set[str]:
    """Return the members by the latest state that a node keeps."""
    latest, members = (0, 0), set[str]()
    for node_id in nodes:
        data = register_data(fs, node_directory(path, node_id))
        kept = f.node_answers.decode(data).body if data is not None else None
        if isinstance(kept, f.AcceptorAnswer) and kept.state is not None and (kept.generation, kept.version) > latest:
            latest = kept.generation, kept.version
            members = {member.node_id for member in decode_state(kept.state).ring.members}
    return members


def _renewed(data: bytes, name: str, store_id: str, host: str) -> bytes:
    """Return what an acceptor keeps, for the new store: the same promises, the state with its name, id and host."""
    answer = f.node_answers.decode(data)
    kept = answer.body
    if not isinstance(kept, f.AcceptorAnswer) or kept.state is None:
        return data
    state = decode_state(kept.state)
    ring, goal = (
        each
        if each is None
        else msgspec.structs.replace(
            each, members=tuple(msgspec.structs.replace(member, host=host) for member in each.members)
        )
        for each in (state.ring, state.goal)
    )
    assert ring is not None
    state = msgspec.structs.replace(
        state, store_id=store_id, config=msgspec.structs.replace(state.config, name=name), ring=ring, goal=goal
    )
    return f.node_answers.encode(
        msgspec.structs.replace(answer, body=msgspec.structs.replace(kept, state=encode_state(state)))
    )
