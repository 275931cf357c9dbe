"""Giving a copied directory another identity, so that it can run beside the original.

A node's directory says in four places whose it is: the identity, the manifest's owner, the register (the cluster's state,
with the directory's id in front), and the marks by which these vouch for one another. All of them change together here, for
a directory that was left by a clean stop: of one that was copied while its node ran, or after a crash, the files need not
fit together.

The identity is written last. Until then the directory is still the former one's, with a manifest or a register that another
attempt replaces again: an attempt with the same ``Adopted`` has the same outcome, wherever the one before ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from crc32c import crc32c

from raykv.errors import CorruptData, InvalidOption
from raykv.records.limits import DirectoryId, Name, NodeId
from raykv.storage import manifest as manifests
from raykv.storage.blob import write_blob
from raykv.storage.directory import (
    DIRECTORY_ID_BYTES,
    IDENTITY_MAGIC,
    IDENTITY_NAME,
    IDENTITY_VERSION,
    LOCK_NAME,
    REGISTER_MAGIC,
    REGISTER_NAME,
    REGISTER_VERSION,
    read_identity,
    read_register_payload,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.ports import FileSystem
    from raykv.storage.directory import Identity


class Adopted(msgspec.Struct, frozen=True):
    """Who a node's directory becomes."""

    store_id: Name
    node_id: NodeId
    directory_id: DirectoryId


def check_adoptable(fs: FileSystem, path: str, store_id: str, adopted: Adopted) -> Identity:
    """Return the directory's identity. Raises ``InvalidOption`` if it cannot be adopted; ``CorruptData``, ``OSError``."""
    identity = read_identity(fs, path)
    if identity is None:
        raise InvalidOption(f"{path} is no node's directory", path=path)
    for directory in (path, f"{path}/{identity.data}"):
        if not fs.is_directory(directory):
            raise InvalidOption(f"{directory} is no directory itself: a link may lead to the original", path=path)
    if identity.node_id != adopted.node_id or identity.store_id not in (store_id, adopted.store_id):
        raise InvalidOption(f"{path} belongs to node {identity.node_id!r} of store {identity.store_id!r}", path=path)
    if identity.store_id != adopted.store_id and not (identity.clean and identity.mark and identity.mark.exact):
        raise InvalidOption(
            f"{path} was not left by a clean stop, so its files need not fit together: stop the store (raykv stop), and "
            "copy it again; or take a backup (raykv backup), which needs no stop",
            path=path,
        )
    return identity


def adopt(fs: FileSystem, path: str, store_id: str, adopted: Adopted, with_register: Callable[[bytes], bytes]) -> None:
    """Make a node's directory that of another store, durably. Idempotent.

    ``store_id``: the former store's; ``with_register(data)``: the register's data for the new one, the same whenever asked.
    Raises as ``check_adoptable``; and ``InvalidOption`` if a process holds the directory.
    """
    try:
        lock = fs.lock(f"{path}/{LOCK_NAME}")
    except BlockingIOError:
        raise InvalidOption(f"{path} is held by a running node: it is no copy of a stopped store", path=path) from None
    try:
        identity = check_adoptable(fs, path, store_id, adopted)
        if identity.store_id == adopted.store_id:
            return
        assert identity.mark is not None
        mark = identity.mark
        data = f"{path}/{identity.data}"
        manifest = manifests.load(fs, data)
        if manifest is not None:
            manifest = msgspec.structs.replace(manifest, owner=f"{adopted.store_id}/{adopted.node_id}")
            manifests.save(fs, data, manifest)
            mark = msgspec.structs.replace(mark, manifest=manifests.checksum(manifest))
        register = _renewed_register(fs, path, identity, adopted, with_register)
        identity = msgspec.structs.replace(
            identity, store_id=adopted.store_id, directory_id=adopted.directory_id, mark=mark, register=register
        )
        write_blob(fs, path, IDENTITY_NAME, IDENTITY_MAGIC, IDENTITY_VERSION, msgspec.msgpack.encode(identity))
    finally:
        lock.release()


def register_data(fs: FileSystem, path: str) -> bytes | None:
    """Return what a node's directory keeps in its register; None if there is none. ``CorruptData``, ``OSError``."""
    try:
        return read_register_payload(fs, path)[DIRECTORY_ID_BYTES:]
    except FileNotFoundError:
        return None


def _renewed_register(
    fs: FileSystem, path: str, identity: Identity, adopted: Adopted, with_register: Callable[[bytes], bytes]
) -> int:
    """Write the register for the new store; return its checksum, as the identity keeps it; 0 if there is none."""
    try:
        payload = read_register_payload(fs, path)
    except FileNotFoundError:
        if identity.register:
            raise CorruptData(f"{path}/{REGISTER_NAME} is missing", file=path) from None
        return 0
    owner = payload[:DIRECTORY_ID_BYTES]
    if owner == identity.directory_id.encode():
        payload = adopted.directory_id.encode() + with_register(payload[DIRECTORY_ID_BYTES:])
        write_blob(fs, path, REGISTER_NAME, REGISTER_MAGIC, REGISTER_VERSION, payload)
    elif owner != adopted.directory_id.encode():  # an attempt before this one has not written it either
        return identity.register
    return 1 << 32 | crc32c(payload)
