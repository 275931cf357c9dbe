"""Settings, in three classes by scope. All are frozen and validated; units are in the names.

* ``StoreConfig``: what every part of a store agrees on; fixed at creation and kept with the cluster's state.
* ``BucketConfig``: the policy of one bucket; fixed when the bucket is created and kept with the cluster's state.
* ``NodeConfig``: may differ between nodes, and from one start to the next.

Nothing here reads the environment or a file at import. The command line fills these from a TOML file (``--config``).
"""

from __future__ import annotations

import math
import numbers
import operator
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, TypeAlias, cast

import msgspec

from raykv.errors import InvalidOption, from_callers_code

VERSION = "0.1.0"
"""Of raykv, as ``raykv.__version__``: here for the layers below the face."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

MAX_KEY_BYTES = 1 * KIB
DEFAULT_PAIR_BYTES = 10 * KIB
MAX_SEPARATOR_BYTES = 16
MAX_PAIR_BYTES = 1 * MIB
MAX_NODES = 1000
MAX_PARTITIONS = 32_768
MAX_COPIES = 9
MAX_TIMEOUT_S = 3600.0
MAX_TTL_S = 100 * 365 * 86_400.0
MAX_COOL_DOWN_S = 86_400.0
MAX_CLOCK_SKEW_MS = 60_000
MAX_FRAME_BYTES = 64 * MIB
MAX_BATCH_ITEMS = 1000
"""Keys or pairs in one request, which keeps a node busy for some milliseconds. A larger batch is sent in parts."""
MAX_SIBLINGS = 64
"""Unmerged versions of one key. Past this a write whose context has not seen them is refused."""
MAX_SIBLINGS_BYTES = 4 * MIB

Level: TypeAlias = int | Literal["one", "quorum", "all"]
Durability: TypeAlias = Literal["group", "interval", "always"]
Versioning: TypeAlias = Literal["vector", "lww", "linearizable"]
VERSIONINGS: tuple[Versioning, ...] = ("vector", "lww", "linearizable")
MAX_COORDINATORS = 64
Routing: TypeAlias = Literal["auto", "direct", "coordinator"]
Codec: TypeAlias = Literal["auto", "msgpack", "raw"]

_STORE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")
_ZONE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
NODE_ID_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\Z"
"""A node's id names a directory and an actor: no separators, no ``..``, no line breaks."""
_NODE_ID = re.compile(NODE_ID_PATTERN)


def check_store_name(name: object) -> str:
    """Return ``name`` if it can name a store (and so a folder and an actor): letters, digits, ``_ . -``, at most 64."""
    if not isinstance(name, str) or not _STORE_NAME.fullmatch(name) or ".." in name:
        raise InvalidOption(
            f"a store name must be 1 to 64 letters, digits, '_', '.' or '-', start and end with a letter or digit, and "
            f"not contain '..'; got {shown(name)}"
        )
    return str.__str__(name)


def is_node_id(name: str) -> bool:
    """Return whether ``name`` is a valid node id."""
    return _NODE_ID.match(name) is not None


def check_node_id(node_id: object) -> str:
    """Return ``node_id`` if it can name a node, and so a directory and an actor."""
    if not isinstance(node_id, str) or not is_node_id(node_id):
        raise InvalidOption(
            f"a node id must be 1 to 63 letters, digits, '_', '.' or '-', not starting with '.' or '-'; got {shown(node_id)}"
        )
    return node_id


def check_host(host: object) -> str:
    """Return ``host`` if it can name a host: at most 255 printable characters, or empty."""
    if not isinstance(host, str) or len(host) > 255 or not (host.isprintable() or not host):
        raise InvalidOption(f"a host name must be at most 255 printable characters; got {shown(host)}")
    return host


def check_bucket_name(name: object) -> str:
    """Return ``name`` if it can name a bucket: 1 to 255 bytes of printable text."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name.encode(errors="replace")) > 255:
        raise InvalidOption(f"a bucket name must be 1 to 255 bytes of printable text; got {shown(name)}")
    return str.__str__(name)


def check_group(separator: object) -> str:
    """Return ``separator`` if it can end a key's group: 1 to ``MAX_SEPARATOR_BYTES`` bytes of text in UTF-8."""
    if isinstance(separator, str):
        try:
            if 0 < len(str.encode(separator)) <= MAX_SEPARATOR_BYTES:
                return str.__str__(separator)
        except UnicodeEncodeError:
            pass
    raise InvalidOption(
        f"group is the text behind a key's group, 1 to {MAX_SEPARATOR_BYTES} bytes, such as ':'; got {shown(separator)}"
    )


def whole_number(value: object) -> int | None:
    """Return ``value`` as an int if its type is integral (``__index__``, as in numpy) and it is not a bool; else None.

    Exceptions that its ``__index__`` raises propagate.
    """
    kind = type(value)
    if kind is int:
        return value  # type: ignore[return-value]
    if kind is bool or not hasattr(kind, "__index__"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:  # an array of several elements has an ``__index__`` that refuses
        if from_callers_code(error):
            raise
        return None


def real_number(value: object) -> float | None:
    """Return ``value`` as a float if it is a real number (``numbers.Real``, ``Decimal``, ``__index__``), not a bool.

    A number too large for a float becomes infinite. Exceptions from its ``__float__`` or ``__index__`` propagate.
    """
    kind = type(value)
    if kind is float:
        return value  # type: ignore[return-value]
    exact: int | Decimal | Fraction | None = whole_number(value)
    if exact is None and isinstance(value, Decimal | Fraction) and not _is_nan(value):
        exact = value
    if exact is not None:
        try:
            return float(exact)
        except OverflowError:
            return math.inf if exact > 0 else -math.inf
    if kind is bool or isinstance(value, numbers.Integral):  # without __index__: numpy's timedelta64 is one
        return None
    return float(value) if isinstance(value, numbers.Real) else None


def _is_nan(value: Decimal | Fraction) -> bool:
    return isinstance(value, Decimal) and value.is_nan()


def check_count(what: str, value: object, low: int, high: int) -> int:
    """Return ``value`` as an int if it is a whole number (not a bool) in ``low..high``."""
    if type(value) is int and low <= value <= high:
        return value
    number = whole_number(value)
    if number is None or not low <= number <= high:
        raise InvalidOption(f"{what} must be a whole number from {low} to {high}; got {shown(value)}")
    return number


def check_number(what: str, value: object, low: float, high: float, *, above: bool = False) -> float:
    """Return ``value`` as a float if it is a number in ``low..high``; with ``above``, ``low`` itself is excluded."""
    number = real_number(value)
    if number is None or not low <= number <= high or (above and number == low):  # NaN fails
        least = f"above {low:g} and at most" if above else f"from {low:g} to"
        raise InvalidOption(f"{what} must be a number {least} {high:g}; got {shown(value)}")
    return number


def check_seconds(what: str, value: object, high_s: float) -> float:
    """Return ``value`` as a float if it is a finite number of seconds above 0 and at most ``high_s``."""
    if type(value) is float and 0 < value <= high_s:
        return value
    number = real_number(value)
    if number is None or not 0 < number <= high_s:  # NaN fails both
        raise InvalidOption(f"{what} must be a number of seconds above 0 and at most {high_s:g}; got {shown(value)}")
    return number


def check_ttl(value: object) -> int:
    """Convert a ttl in seconds to milliseconds (at least 1)."""
    return max(1, round(check_seconds("ttl", value, MAX_TTL_S) * 1000))


def check_timeout(value: object) -> float:
    """Return a timeout in seconds. Waiting for ever is not possible."""
    return check_seconds("timeout", value, MAX_TIMEOUT_S)


def check_level(what: str, value: object, n: int) -> int:
    """Turn a consistency level (1..N, "one", "quorum", "all") into the number of replicas it asks for."""
    if isinstance(value, str):
        replicas = {"one": 1, "quorum": n // 2 + 1, "all": n}.get(str.__str__(value))
    else:
        replicas = whole_number(value)
    if replicas is not None and 1 <= replicas <= n:
        return replicas
    raise InvalidOption(
        f"{what} must be 1 to {n} (the bucket keeps {n} copies), 'one', 'quorum' or 'all'; got {shown(value)}"
    )


def check_weight(value: object) -> float:
    """Return a node's weight: a finite number from 0.01 to 1,000."""
    number = real_number(value)
    if number is None or not 0.01 <= number <= 1000:
        raise InvalidOption(f"a weight must be a number from 0.01 to 1000, or 'auto'; got {shown(value)}")
    return number


def check_zone(value: object) -> str:
    """Return a zone's name: 1 to 63 letters, digits, ``_ . -``."""
    if not isinstance(value, str) or not _ZONE_NAME.fullmatch(value):
        raise InvalidOption(f"a zone name must be 1 to 63 letters, digits, '_', '.' or '-'; got {shown(value)}")
    return str.__str__(value)


def check_choice(what: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidOption(f"{what} must be one of {', '.join(map(repr, allowed))}; got {shown(value)}")
    return str.__str__(value)


def check_routing(value: object) -> Routing:
    """Return ``value`` if it is a routing."""
    return cast("Routing", check_choice("routing", value, ("auto", "direct", "coordinator")))


def shown(value: object) -> str:
    """Return the value as error messages show it: at most 80 characters."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - ``repr`` runs the value's own code, which may raise anything
        # Python refuses to print an int of more than 4,300 digits.
        return f"{'an enormous' if type(error) is ValueError else 'an unprintable'} {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _settle(config: msgspec.Struct, **checked: Any) -> None:
    """Store settings as their checks returned them: plain ints, floats and strings, whatever type the caller gave."""
    for name, value in checked.items():
        msgspec.structs.force_setattr(config, name, value)


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings on which all parts of one store agree. Fixed at creation."""

    name: str
    copies: int
    """N of the ring: how many primaries a partition has. A bucket may keep fewer copies, never more."""
    partitions: int = 256
    durability: Durability = "group"
    gc_grace_s: float = msgspec.field(default=10 * 86_400.0, name="grace_s")
    """How long a delete is remembered at least. Nothing older than half of it counts as a new write (P10).

    Settings on disk keep the field's first name, ``grace_s``, so stores of every version open.
    """
    replace_after_s: float = 600.0
    """A node whose host has been gone for this long is replaced on another host."""

    def __post_init__(self) -> None:
        _settle(
            self,
            name=check_store_name(self.name),
            copies=check_count("n (copies)", self.copies, 1, MAX_COPIES),
            partitions=check_count("partitions", self.partitions, 8, MAX_PARTITIONS),
            durability=check_choice("durability", self.durability, ("group", "interval", "always")),
            gc_grace_s=check_seconds("gc_grace_s", self.gc_grace_s, MAX_TTL_S),
            replace_after_s=check_seconds("replace_after_s", self.replace_after_s, MAX_TTL_S),
        )
        if self.partitions & (self.partitions - 1):
            raise InvalidOption(f"partitions must be a power of two, such as 256 or 1024; got {self.partitions}")


class ScalingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The autoscaler's bounds, and the capacity of a node of weight 1. See ``supervision.autoscaling``."""

    ops_per_s: float
    """Operations per second that a node of weight 1 can serve. Each copy read or written counts as one."""
    node_bytes: int = 0
    """Bytes on disk that a node of weight 1 can hold; 0: not considered."""
    p99_ms: float = 0.0
    """A store whose nodes answer more slowly than this at the 99th percentile grows; 0: not considered."""
    low: float = 0.40
    high: float = 0.70
    least: int = 3
    most: int = 16
    cool_down_s: float = 300.0
    """After a change, the time during which no change in the other direction is made."""
    ahead_s: float = 240.0
    """How long a joining node takes to carry its share."""
    hot_share: float = 0.25
    """A key that takes more than this share of a node's capacity is hot."""

    def __post_init__(self) -> None:
        _settle(
            self,
            ops_per_s=check_number("ops_per_s", self.ops_per_s, 0, 1e9, above=True),
            node_bytes=check_count("node_bytes", self.node_bytes, 0, 1 << 60),
            p99_ms=check_number("p99_ms", self.p99_ms, 0, 1e6),
            low=check_number("low", self.low, 0, 1, above=True),
            high=check_number("high", self.high, 0, 1, above=True),
            hot_share=check_number("hot_share", self.hot_share, 0, 1, above=True),
            least=check_count("least", self.least, 1, MAX_NODES),
            cool_down_s=check_seconds("cool_down_s", self.cool_down_s, MAX_COOL_DOWN_S),
            ahead_s=check_seconds("ahead_s", self.ahead_s, MAX_COOL_DOWN_S),
        )
        _settle(self, most=check_count("most", self.most, self.least, MAX_NODES))
        if not self.low < self.high:
            raise InvalidOption(f"low must be below high; got low={shown(self.low)} and high={shown(self.high)}")


class BucketConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The policy of one bucket. ``r`` and ``w`` are its defaults, as numbers of replicas."""

    name: str
    n: int
    r: int
    w: int
    versioning: Versioning = "vector"
    sloppy: bool = False
    """Whether a fallback may stand in for a primary that does not answer (see ``raykv.replica.hints``)."""
    ttl_ms: int | None = None
    codec: Codec = "auto"
    pair_bytes: int = DEFAULT_PAIR_BYTES
    group: str | None = None
    """The separator before which a key's group stands (see ``raykv.records.keys.group_of``); None: each key by itself."""

    def __post_init__(self) -> None:
        if not isinstance(self.sloppy, bool):
            raise InvalidOption(f"sloppy must be True or False; got {shown(self.sloppy)}")
        _settle(self, name=check_bucket_name(self.name), n=check_count("n", self.n, 1, MAX_COPIES))
        _settle(
            self,
            r=check_count("r", self.r, 1, self.n),
            w=check_count("w", self.w, 1, self.n),
            versioning=check_choice("versioning", self.versioning, VERSIONINGS),
            codec=check_choice("codec", self.codec, ("auto", "msgpack", "raw")),
            pair_bytes=check_count("pair_bytes", self.pair_bytes, 1, MAX_PAIR_BYTES),
        )
        if self.ttl_ms is not None:
            _settle(self, ttl_ms=check_count("ttl_ms", self.ttl_ms, 1, round(MAX_TTL_S * 1000)))
        if self.group is not None:
            _settle(self, group=check_group(self.group))
        if self.versioning == "linearizable":
            self._check_linearizable()

    def _check_linearizable(self) -> None:
        """Raise ``InvalidOption`` for what a linearizable bucket leaves no choice in (L13)."""
        majority = quorum(self.n)
        if (self.r, self.w) != (majority, majority):
            raise InvalidOption(
                f"a linearizable bucket reads and writes a majority, {majority} of n={self.n}: leave out r and w"
            )
        if self.sloppy:
            raise InvalidOption("a linearizable bucket cannot be sloppy: a stand-in's vote would not be a majority's")
        if self.ttl_ms is not None:
            raise InvalidOption(
                "a linearizable bucket has no ttl: when a value expires would depend on each reader's clock; delete it, or "
                "keep the time in the value"
            )


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one node. The bounds of all its queues and caches are here."""

    memtable_bytes: int = 8 * MIB
    """A memtable is flushed to an SSTable at about this size."""
    block_bytes: int = 6 * KIB
    """Target size of an SSTable block before compression."""
    block_cache_bytes: int = 64 * MIB
    """Cache of hot data: a quarter for single records, the rest for decoded blocks."""
    scan_cache_bytes: int = 8 * MIB
    """What scans have read beyond their page, kept for the next one. 0: nothing."""
    bloom_bits_per_key: int = 10
    """10 bits a key give about 1 % false positives."""
    compression: Literal["lz4", "zstd", "none"] = "lz4"
    """Of blocks. ``zstd`` needs ``raykv[zstd]``: records of some hundred bytes take about a third less room, and a get that
    finds its block in no cache takes longer. Tables of either kind are read, whatever is set."""
    table_bytes: int = 32 * MIB
    """Compaction starts a new SSTable at about this size."""
    compaction: Literal["tiered", "leveled"] = "tiered"
    """Which runs are merged: "tiered" writes less; "leveled" keeps less garbage and asks fewer runs, and merges in small
    steps. See ``raykv.storage.compaction``; may change from one start to the next."""
    runs_per_level: int = 4
    """Sorted runs of similar size that accumulate before they are merged."""
    level_ratio: int = 10
    """Under "leveled": how many times larger each level is than the one before."""
    max_space_amplification: float = 1.5
    """Bytes on disk over bytes of newest records, about: past this everything is merged, also where nothing is written."""
    max_marker_age_s: float = 7 * 86_400.0
    """What was forgotten after its grace leaves the disk after this time at most, once there is room to merge it."""
    compaction_share: float = 0.3
    """Share of the time that flushes and compactions take while clients use the node and they keep up; more as they fall
    behind, all of it without clients."""
    helper_process: bool = True
    """Whether large flushes and compactions run in a process of their own beside the node (about 30 MB), not in a thread of
    it: answers then do not wait for the interpreter."""
    max_unflushed_bytes: int = 64 * MIB
    """Memtables that wait for their flush; past this, writes are refused (``Overloaded``)."""
    min_free_bytes: int = 64 * MIB
    """With less free space the node refuses writes, with half of it deletes too; reads go on. At most a sixteenth of the
    disk."""
    sync_interval_s: float = 0.1
    """How often the log is synced under ``durability="interval"``."""
    gossip_every_s: float = 0.5
    """Time between two exchanges of heartbeats with another node."""
    max_hint_bytes: int = 1 * GIB
    """Hints kept for unavailable nodes; past this the node refuses more, and anti-entropy finds what is missing."""
    max_hint_age_s: float = 3 * 3600.0
    """Older hints are dropped, all after half of ``gc_grace_s``; one that counted as an acknowledgement is kept as long."""
    background_bytes_per_s: int = 8 * MIB
    """What hand-off, repair and healing send and fetch together; less while clients wait longer than usual."""
    background_share: float = 0.05
    """Share of the node's time for that work while clients use the node; more where copies are missing."""
    cpus: float = 0.0
    """CPUs that the node requests from Ray. 0: none, so that a laptop can hold five nodes. Otherwise the node waits for a
    host with that much room, and Ray's autoscaler brings one on demand."""
    stream: bool = True
    """Whether the node serves sockets (see ``raykv.transport``), or actor calls only."""
    repair_every_s: float = 86_400.0
    """How often the node compares each partition of which it is the first owner with the other owners."""

    def __post_init__(self) -> None:
        for name in ("stream", "helper_process"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidOption(f"{name} must be True or False; got {shown(getattr(self, name))}")
        _settle(
            self,
            memtable_bytes=check_count("memtable_bytes", self.memtable_bytes, 4 * KIB, 4 * GIB),
            block_bytes=check_count("block_bytes", self.block_bytes, 256, 4 * MIB),
            block_cache_bytes=check_count("block_cache_bytes", self.block_cache_bytes, 0, 1024 * GIB),
            scan_cache_bytes=check_count("scan_cache_bytes", self.scan_cache_bytes, 0, 1024 * GIB),
            bloom_bits_per_key=check_count("bloom_bits_per_key", self.bloom_bits_per_key, 1, 64),
            compression=check_choice("compression", self.compression, ("lz4", "zstd", "none")),
            table_bytes=check_count("table_bytes", self.table_bytes, 16 * KIB, 16 * GIB),
            compaction=check_choice("compaction", self.compaction, ("tiered", "leveled")),
            runs_per_level=check_count("runs_per_level", self.runs_per_level, 2, 64),
            level_ratio=check_count("level_ratio", self.level_ratio, 2, 100),
            max_space_amplification=check_number("max_space_amplification", self.max_space_amplification, 1.1, 1000),
            max_marker_age_s=check_seconds("max_marker_age_s", self.max_marker_age_s, MAX_TTL_S),
            compaction_share=check_number("compaction_share", self.compaction_share, 0, 1, above=True),
            min_free_bytes=check_count("min_free_bytes", self.min_free_bytes, 0, 1024 * GIB),
            sync_interval_s=check_seconds("sync_interval_s", self.sync_interval_s, 60),
            gossip_every_s=check_seconds("gossip_every_s", self.gossip_every_s, 60),
            max_hint_bytes=check_count("max_hint_bytes", self.max_hint_bytes, 0, 1024 * GIB),
            max_hint_age_s=check_seconds("max_hint_age_s", self.max_hint_age_s, MAX_TTL_S),
            background_bytes_per_s=check_count(
                "background_bytes_per_s", self.background_bytes_per_s, 1 * KIB, 1024 * GIB
            ),
            background_share=check_number("background_share", self.background_share, 0, 1, above=True),
            cpus=check_number("cpus", self.cpus, 0, 1024),
            repair_every_s=check_seconds("repair_every_s", self.repair_every_s, MAX_TTL_S),
        )
        unflushed_bytes = check_count("max_unflushed_bytes", self.max_unflushed_bytes, self.memtable_bytes, 64 * GIB)
        _settle(self, max_unflushed_bytes=unflushed_bytes)


def check_node_config(what: str, value: object) -> NodeConfig | None:
    """Return ``value`` if it is a ``NodeConfig`` or None: anything else would be ignored, or fail in the nodes."""
    if value is not None and not isinstance(value, NodeConfig):
        raise InvalidOption(f"{what} must be a raykv.NodeConfig, or None for the defaults; got {shown(value)}")
    return value


def quorum(n: int) -> int:
    """Return the majority of ``n``: floor(n/2)+1."""
    return n // 2 + 1
