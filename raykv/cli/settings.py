"""The settings of ``raykv start``: arguments, then the ``--config`` file, then defaults.

The file is TOML, with a section ``[store]`` (nodes, path, n, zones, weights, durability, partitions, replace_after,
coordinators) and a section ``[node]`` (the fields of ``raykv.NodeConfig``). A name in neither is an error: a misspelt
setting that is silently ignored is noticed too late.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from raykv.config import (
    MAX_COORDINATORS,
    MAX_NODES,
    Durability,
    NodeConfig,
    StoreConfig,
    check_count,
    check_weight,
    check_zone,
    shown,
)
from raykv.errors import InvalidOption, NotEnoughNodes

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FILE_BYTES = 1024 * 1024


class StartSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of ``raykv.start``; the fields before ``node`` are the names of the section ``[store]``."""

    nodes: int = 3
    path: str | None = None
    n: int | None = None
    zones: list[str] | None = None
    weights: list[float] | Literal["auto"] = "auto"
    durability: Durability | None = None
    partitions: int | None = None
    replace_after: float = 600.0
    coordinators: int = 1
    node: NodeConfig = NodeConfig()

    def check(self) -> None:
        """Raise what ``raykv.start`` would raise for these settings.

        This runs before a Ray cluster is started: a typing error must not leave one behind.
        """
        check_count("nodes", self.nodes, 1, MAX_NODES)
        check_count("coordinators", self.coordinators, 1, MAX_COORDINATORS)
        copies = min(3, self.nodes) if self.n is None else self.n
        StoreConfig(
            name="default",
            copies=copies,
            partitions=256 if self.partitions is None else self.partitions,
            durability=self.durability or "group",
            replace_after_s=self.replace_after,
        )
        if copies > self.nodes:
            raise NotEnoughNodes(f"n={copies} copies need at least {copies} nodes; got nodes={self.nodes}")
        if self.path is not None and (not self.path or "\0" in self.path):
            raise InvalidOption(f"path must be the name of a directory; got {shown(self.path)}")
        for zone in self.zones or ():
            check_zone(zone)
        if self.weights != "auto":
            for weight in self.weights:
                check_weight(weight)
            if len(self.weights) != self.nodes:
                raise InvalidOption(f"one weight for each of the {self.nodes} nodes, or none; got {len(self.weights)}")

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of ``raykv.start``."""
        fields = msgspec.structs.asdict(self)
        node = fields.pop("node")
        return {**fields, "config": node}


def merged(given: Mapping[str, Any], file: Mapping[str, Any]) -> StartSettings:
    """Return the settings: those ``given`` as arguments (None: not given), then the file's, then defaults.

    Raises ``InvalidOption``.
    """
    _refuse_unknown(file, ("store", "node"), "section")
    store, node = _section(file, "store"), _section(file, "node")
    store_names = tuple(name for name in StartSettings.__struct_fields__ if name != "node")
    _refuse_unknown(store, store_names, "setting in [store]")
    _refuse_unknown(node, NodeConfig.__struct_fields__, "setting in [node]")
    values = store | {name: value for name, value in given.items() if value is not None}
    try:
        settings = msgspec.convert(values, StartSettings)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"[store]: {error}".replace(" - at `$.", " - at `")) from None
    settings = msgspec.structs.replace(settings, node=NodeConfig(**node))
    settings.check()
    return settings


def read_file(path: str) -> dict[str, Any]:
    """Return a TOML file's content. Raises ``InvalidOption``."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise InvalidOption(f"{path}: a configuration file is at most {MAX_FILE_BYTES} bytes")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise InvalidOption(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path} is not TOML: {error}") from None


def _section(file: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = file.get(name, {})
    if not isinstance(section, dict):
        raise InvalidOption(f"{name} is a section, [{name}]; got {section!r:.60}")
    return section


def _refuse_unknown(names: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidOption(f"there is no {what} named {unknown[0]!r}; there are: {', '.join(known)}")
