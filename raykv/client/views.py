"""``status()`` and ``ring()``: plain data (dicts, ready for JSON) that prints well and renders itself in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from raykv.client import faces
from raykv.config import GIB
from raykv.records.keys import encode_key
from raykv.ring import TOKEN_BITS, partition_in, token_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from raykv.records.keys import Key

LARGE_GROUP_BYTES = GIB
"""A group above this is pointed out: its partition is one that a ring cannot spread."""
MOST_ROWS = 20
"""Nodes that a table in a notebook shows."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class NodeStatus(TypedDict):
    """A storage node in ``status()["nodes"]``."""

    node_id: str
    state: str
    """"up", "down", "starting", ...; ``cause`` says why."""
    cause: str
    for_s: float
    incarnation: int
    pid: int
    restarts: int
    last_outage_s: float | None
    """How long the last outage took, in seconds."""
    host: str
    zone: str
    weight: float
    partitions: int
    storage: dict[str, Any] | None
    """Its own figures; None if it does not answer."""


class NodeLoad(TypedDict):
    """A storage node in ``autoscale()["nodes"]``."""

    node_id: str
    ops_per_s: float
    used: float | None
    """The share of its capacity in use; None without limits."""
    disk_bytes: int
    p99_ms: float


class RingMember(TypedDict):
    """A storage node in ``ring()["members"]``."""

    node_id: str
    weight: float
    host: str
    zone: str


class Status(dict[str, Any]):
    """A store's settings, nodes and figures, as a dict: "name", "config", "buckets" (their names), "nodes", ...

    "rebalancing" and "autoscaling" are None while neither is at work.
    """

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["nodes"], /) -> list[NodeStatus]: ...
        @overload
        def __getitem__(self, key: Literal["buckets"], /) -> list[str]: ...
        @overload
        def __getitem__(self, key: Literal["name", "store_id"], /) -> str: ...
        @overload
        def __getitem__(self, key: Literal["generation", "version", "ring_epoch"], /) -> int: ...
        @overload
        def __getitem__(self, key: Literal["config"], /) -> dict[str, Any]: ...
        @overload
        def __getitem__(
            self, key: Literal["rebalancing", "autoscaling", "coordinator"], /
        ) -> dict[str, Any] | None: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: str, /) -> Any: ...

    def __repr__(self) -> str:
        config = self["config"]
        head = (
            f"store {self['name']!r}: {len(self['nodes'])} nodes, {config['copies']} copies, "
            f"{config['partitions']} partitions, durability {config['durability']}, "
            f"buckets: {', '.join(self['buckets'])}"
        )
        return "\n".join([head, *self._lines(), table(_NODE_COLUMNS, self._rows())])

    @property
    def paths(self) -> dict[str, list[str]]:
        """Where the nodes keep their data: directory of the store -> node ids."""
        found: dict[str, list[str]] = {}
        for node in self["nodes"]:
            path = ((node["storage"] or {}).get("disk") or {}).get("path", "")
            if path:
                store = (path.rpartition("/")[0] or path).removesuffix("/nodes") or "/"
                found.setdefault(store, []).append(node["node_id"])
        return found

    def _repr_html_(self) -> str:
        head, *more = repr(self).splitlines()
        return faces.card(
            escape(head), *map(faces.line, more[: len(self._lines())]), self._html_rows(_NODE_COLUMNS, self._rows())
        )

    def card(self) -> str:
        """Return the shorter face that a store has in a notebook."""
        wanted = ["node", "state", "host", "records", "on disk", "ops/s", "p99"]
        places = [_NODE_COLUMNS.index(column) for column in wanted]
        cells = [[row[at] for at in places] for row in self._rows()]
        return faces.card(
            escape(f"store {self['name']!r}"),
            faces.line(f"{self['config']['copies']} copies; buckets: {', '.join(self['buckets'])}"),
            self._html_rows(wanted, cells),
        )

    def _html_rows(self, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
        """Return a table of the first nodes, their states in colour, without columns that are empty."""
        shown = [at for at in range(len(columns)) if any(row[at] for row in cells)]
        state = columns.index("state")
        html = [
            [faces.state(row[at]) if at == state else faces.text_of(row[at]) for at in shown]
            for row in cells[:MOST_ROWS]
        ]
        more = faces.line(f"and {len(cells) - MOST_ROWS} more nodes") if len(cells) > MOST_ROWS else ""
        return faces.rows([columns[at] for at in shown], html) + more

    def _rows(self) -> list[list[str]]:
        return [_node_row(node) for node in self["nodes"]]

    def largest_groups(self) -> dict[str, tuple[str, int]]:
        """Return for each grouped bucket its largest group, and about how many bytes of each of its nodes that takes.

        An estimate (``raykv.replica.groups``); buckets of which too little is stored are missing.
        """
        largest: dict[str, tuple[str, int]] = {}
        for node in self["nodes"]:
            for each in (node["storage"] or {}).get("groups", ()):
                if each["bytes"] > largest.get(each["bucket"], ("", 0))[1]:
                    largest[each["bucket"]] = each["group"], each["bytes"]
        return largest

    def _lines(self) -> list[str]:
        """Return a line on moving partitions, one on the autoscaler, and one a grouped bucket, as applicable."""
        lines = [
            f"bucket {bucket!r}: the largest group is {group!r}, about {size(size_bytes)} on each of its nodes"
            + (f"; a group cannot be divided, and should stay below {size(LARGE_GROUP_BYTES)}" if large else "")
            for bucket, (group, size_bytes) in self.largest_groups().items()
            for large in [size_bytes > LARGE_GROUP_BYTES]
        ]
        lines += [f"data in {path}" for path in self.paths]
        if (moving := self.get("rebalancing")) is not None:
            held = "held" if moving["paused"] else moving["waits_for"] or moving["step"]
            lines.append(f"{moving['partitions_left']} partitions are to move{f' ({held})' if held else ''}")
        if (scaling := self.get("autoscaling")) is not None:
            lines.append(f"autoscaling would {scaling['would']}: {scaling['failed'] or scaling['why']}")
        return lines

    @property
    def healthy(self) -> bool:
        """Whether every node is up and complete."""
        return all(node["state"] == "up" and (node["storage"] or {}).get("complete", False) for node in self["nodes"])


class ScalingView(dict[str, Any]):
    """The autoscaler's measurements and plan, with reasons."""

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["would", "why", "failed"], /) -> str: ...
        @overload
        def __getitem__(self, key: Literal["on", "dry_run"], /) -> bool: ...
        @overload
        def __getitem__(self, key: Literal["nodes"], /) -> list[NodeLoad]: ...
        @overload
        def __getitem__(self, key: Literal["hot"], /) -> list[dict[str, Any]]: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: str, /) -> Any: ...

    def __repr__(self) -> str:
        how = "dry run" if self["dry_run"] else "on" if self["on"] else "off"
        lines = [f"autoscaling ({how}) would {self['would'] or 'do nothing'}: {self['failed'] or self['why']}"]
        lines += [f"hot: {hot['key']!r} in bucket {hot['bucket']!r}" for hot in self["hot"]]
        return "\n".join([*lines, table(_LOAD_COLUMNS, self._rows())])

    def _repr_html_(self) -> str:
        lines = repr(self).splitlines()[: 1 + len(self["hot"])]
        return "".join(f"<p>{escape(line)}</p>" for line in lines) + html_table(_LOAD_COLUMNS, self._rows())

    def _rows(self) -> list[list[str]]:
        return [
            [
                node["node_id"], f"{node['ops_per_s']:g}", "?" if node["used"] is None else f"{node['used']:.0%}",
                size(node["disk_bytes"]), f"{node['p99_ms']:.3g} ms",
            ]
            for node in self["nodes"]
        ]  # fmt: skip


class Picture:
    """A picture that draws itself in a notebook. ``svg``: its text."""

    def __init__(self, svg: str) -> None:
        self.svg = svg

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<a picture of {len(self.svg)} characters of SVG; its text is in .svg>"


class RingView(dict[str, Any]):
    """The ring: ``epoch``, ``copies``, ``partitions``, ``members``, and ``table`` (for each partition its owners)."""

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["epoch", "copies", "partitions"], /) -> int: ...
        @overload
        def __getitem__(self, key: Literal["members"], /) -> list[RingMember]: ...
        @overload
        def __getitem__(self, key: Literal["table"], /) -> list[list[int]]: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: str, /) -> Any: ...

    def __repr__(self) -> str:
        head = f"ring epoch {self['epoch']}: {self['partitions']} partitions, {self['copies']} copies each"
        return head + "\n" + table(_MEMBER_COLUMNS, self._rows())

    def _repr_html_(self) -> str:
        from raykv import viz  # late: a program has no pictures

        return viz.wheel_svg(self) + html_table(_MEMBER_COLUMNS, self._rows()[:MOST_ROWS])

    def wheel(self, key: Key, down: Sequence[str] = ()) -> Picture:
        """Return the ring as a wheel on which the key stands at its token, with a line to its owners; draws itself.

        For buckets that are not grouped. ``down``: nodes to be drawn as such.
        """
        encoded = encode_key(key)
        share = token_in(None, encoded) * 1_000_000 >> TOKEN_BITS
        from raykv import viz

        return Picture(viz.wheel_svg(self, down, (repr(key), share, self.partition(key))))

    def partition(self, key: Key) -> int:
        """Return the partition of a key, in a bucket that is not grouped. Raises ``InvalidKey``."""
        return partition_in(None, encode_key(key), self["partitions"])

    def owners(self, of: int | Key) -> list[str]:
        """Return the ids of the owners of a partition, or of a key's partition, in order."""
        partition = of if isinstance(of, int) else self.partition(of)
        return [self["members"][index]["node_id"] for index in self["table"][partition]]

    def _rows(self) -> list[list[str]]:
        members = self["members"]
        held, first = [0] * len(members), [0] * len(members)
        for owners in self["table"]:
            first[owners[0]] += 1
            for index in owners:
                held[index] += 1
        return [
            [
                member["node_id"],
                f"{member['weight']:g}",
                member["host"],
                member["zone"],
                str(held[index]),
                str(first[index]),
            ]
            for index, member in enumerate(members)
        ]


_NODE_COLUMNS = [
    "node",
    "state",
    "for",
    "host",
    "zone",
    "weight",
    "partitions",
    "records",
    "on disk",
    "free",
    "ops/s",
    "p99",
    "hints",
    "restarts",
    "cause",
]
_LOAD_COLUMNS = ["node", "operations a second", "used", "on disk", "slowest of a hundred"]
_MEMBER_COLUMNS = ["node", "weight", "host", "zone", "partitions", "first owner of"]


def _node_row(node: NodeStatus) -> list[str]:
    storage = node["storage"] or {}
    state = node["state"] if storage.get("complete", True) else "up, incomplete"
    return [
        node["node_id"], state, seconds(node["for_s"]), node["host"], node["zone"], f"{node['weight']:g}",
        str(node["partitions"]), str(storage.get("records", "?")), size(storage.get("disk_bytes")),
        size((storage.get("disk") or {}).get("free_bytes")), *_load_cells(storage.get("load") or {}),
        str(sum((storage.get("hints") or {}).values()) or ""), str(node["restarts"]), node["cause"],
    ]  # fmt: skip


def _load_cells(load: Mapping[str, Any]) -> tuple[str, str]:
    """Return operations a second and the slowest of a hundred; empty before the first window is over."""
    if "ops_per_s" not in load:
        return "", ""
    return f"{load['ops_per_s']:.0f}", f"{load['p99_ms']:.1f} ms" if load["p99_ms"] else ""


def size(size_bytes: int | None) -> str:
    """Return a size in readable form."""
    if size_bytes is None:
        return "?"
    value = float(size_bytes)
    unit = _UNITS[0]
    for unit in _UNITS:  # noqa: B007 - the unit that the loop stops at is the result
        if value < 1024:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def seconds(duration_s: float) -> str:
    """Return a duration in readable form."""
    if duration_s < 120:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 7200 else f"{duration_s / 3600:.1f} h"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a text table without the columns that are empty in every row."""
    shown = [at for at in range(len(columns)) if any(row[at] for row in rows)]
    cells = [[columns[at] for at in shown]] + [[row[at] for at in shown] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(shown))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table, everything escaped."""
    shown = [at for at in range(len(columns)) if any(row[at] for row in rows)]
    head = "".join(f"<th>{escape(columns[at])}</th>" for at in shown)
    body = "".join("<tr>" + "".join(f"<td>{escape(row[at])}</td>" for at in shown) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
