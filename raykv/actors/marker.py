"""The file at the top of a store's path that records the store's identity and its founding settings.

A restarted store takes its settings from here, not from the caller of start: with another number of partitions every node
would look for its records in the wrong place and find nothing.

Every host with a node of the store has a marker. The store is thus found from any of them, and a host that lost its marker
is not mistaken for one that never had any.
"""

from __future__ import annotations

import logging
import os
import random
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.actors.naming import node_directories
from raykv.actors.ownership import check_store_directory
from raykv.config import StoreConfig
from raykv.errors import CorruptData, InvalidOption, RaykvError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raykv.ports import FileSystem

logger = logging.getLogger("raykv.supervisor")

MARKER = "store.json"
FORMAT = 1
MAX_BYTES = 4096
_AGREED = {"n": "copies", "partitions": "partitions", "durability": "durability"}


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content, as JSON."""

    format: int = FORMAT
    store_id: str
    store: StoreConfig
    founded: bool = False
    """Whether the nodes have held a state once. From then on missing directories are a loss, not a first start."""


def claim_path(
    fs: FileSystem, path: str, wanted: StoreConfig, given: dict[str, Any], elsewhere: Mapping[str, Marker] | None = None
) -> tuple[str, StoreConfig]:
    """Return the id and settings of the store at ``path``; a new path becomes the store ``wanted``.

    ``given``: settings that the caller named. ``elsewhere``: the binding markers at this path on other hosts (host ->
    marker). Raises ``InvalidOption`` if a given setting differs from the founding one, if the path is unusable or another
    store's, or if hosts hold different stores of this name; ``CorruptData``.
    """
    others = {host: marker for host, marker in (elsewhere or {}).items() if marker.store.name == wanted.name}
    try:
        fs.make_directories(path)
        for warning in check_store_directory(path):
            logger.warning("store %s: %s", wanted.name, warning)
        marker = read_marker(fs, path) if fs.exists(f"{path}/{MARKER}") else None
        unbound = marker is not None and not marker.founded and not node_directories(fs, path)
        if marker is None or (marker.store.name == wanted.name and unbound):
            if len({other.store_id for other in others.values()}) > 1:
                raise InvalidOption(
                    f"path {path} holds different stores named {wanted.name!r} on the hosts {', '.join(others)}; "
                    "start the store on the host of the right one, and move the others away",
                    path=path,
                )
            if others:
                marker = next(iter(others.values()))
                replace_marker(fs, path, marker)
                unbound = False
        if marker is None or (marker.store.name == wanted.name and unbound):
            # New, or a first start that did not reach its first node: nothing binds it yet.
            store_id = marker.store_id if marker is not None else random.SystemRandom().randbytes(8).hex()
            marker = Marker(store_id=store_id, store=wanted)
            replace_marker(fs, path, marker)
    except OSError as error:
        raise InvalidOption(f"path {path} cannot be used: {error.strerror or error}", path=path) from None
    if marker.format != FORMAT:
        raise InvalidOption(f"path {path} has format {marker.format}; this raykv reads format {FORMAT}", path=path)
    if marker.store.name != wanted.name:
        raise InvalidOption(
            f"path {path} is in use by store {marker.store.name!r}; each store needs a path of its own. If it is a copy of "
            "that store, made while it was stopped, adopt=True (--adopt) makes it a store of its own",
            path=path,
        )
    check_agreed(marker.store, given)
    return marker.store_id, marker.store


def check_agreed(store: StoreConfig, given: dict[str, Any]) -> None:
    """Raise ``InvalidOption`` if a given setting that all must agree on differs from the store's."""
    have = {what: getattr(store, name) for what, name in _AGREED.items()}
    differing = {
        what: [have[what], value] for what, value in given.items() if value is not None and value != have[what]
    }
    if differing:
        shown = ", ".join(f"{what} is {old!r}, asked {new!r}" for what, (old, new) in differing.items())
        raise InvalidOption(f"store {store.name!r} exists with other settings: {shown}", differing=differing)


def read_marker(fs: FileSystem, path: str) -> Marker:
    """Return the marker at ``path``. Raises ``OSError`` or ``CorruptData``."""
    try:
        return msgspec.json.decode(fs.read_file(f"{path}/{MARKER}", MAX_BYTES), type=Marker)
    except (msgspec.MsgspecError, UnicodeDecodeError, RaykvError, RecursionError) as error:
        raise CorruptData(f"{path}/{MARKER} is damaged: {error}") from None


def note_founded(fs: FileSystem, path: str) -> None:
    """Record durably that the store at ``path`` was founded. Idempotent. Raises ``OSError``, ``CorruptData``."""
    marker = read_marker(fs, path)
    if not marker.founded:
        replace_marker(fs, path, msgspec.structs.replace(marker, founded=True))


def leave_marker(fs: FileSystem, path: str, marker: Marker) -> None:
    """Leave the marker at ``path``, for a present or future node of its store, if none is there.

    Raises ``OSError``, and ``InvalidOption`` if the path is another store's.
    """
    fs.make_directories(path)
    try:
        present = read_marker(fs, path)
    except (FileNotFoundError, CorruptData):  # a damaged one is of no use
        present = None
    if (
        present is not None
        and present.store_id != marker.store_id
        and (present.founded or present.store != marker.store)
    ):
        raise InvalidOption(f"path {path} is in use by store {present.store.name!r} ({present.store_id})", path=path)
    if present is None or present.store_id != marker.store_id or (marker.founded and not present.founded):
        replace_marker(fs, path, marker)


def replace_marker(fs: FileSystem, path: str, marker: Marker) -> None:
    """Write the marker durably and atomically, in place of any other. Raises ``OSError``."""
    draft = f"{path}/{MARKER}.{os.getpid()}"  # several nodes of a host may write it at the same time
    if fs.exists(draft):
        fs.unlink(draft)
    file = fs.create(draft)
    try:
        file.append(msgspec.json.encode(marker))
        file.sync()
    finally:
        file.close()
    fs.rename(draft, f"{path}/{MARKER}")
    fs.sync_directory(path)
