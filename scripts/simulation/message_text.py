"""What the frames of a run say, in a few words: for the sequence chart of a failing run, and to be counted.

A frame names neither its type nor what it answers. Its type follows from who sends it to whom; what it answers from the
number that joins it with its request, so an ``Interpreter`` must see all frames in their order.

Words are short: ``c1.14`` is the value ``client1.14@key`` (the 14th that client1 wrote), ``@9.706`` the hybrid time of
the write in seconds since the run began, as the clock of the coordinator that stamped it had it.

Never raises: a frame that does not decode is said to be one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from raykv.client.codecs import decode_value
from raykv.cluster.state import decode_state
from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.protocol.requests import NODE
from raykv.records import vector_record as vector
from raykv.records.keys import decode_key, encode_key
from raykv.records.kinds import is_linear, is_vector
from raykv.records.record import TIME_COUNTER_BITS, stamp, unpack
from raykv.sim.cluster import COORDINATOR, SUPERVISOR
from raykv.sim.host import EPOCH_MS
from raykv.versions import time_to_ms
from raykv.versions.causality import unpack_causality
from simulation import leader_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from raykv.records.vector_record import Dot, Seen
    from raykv.sim.trace import Event

Topic = Literal["data", "state", "life"]
"""data: reads and writes. state: the cluster's state, buckets. life: is anybody there?"""
_ITEMS_SHOWN = 4
_NODE = "node/"


class _Range(NamedTuple):
    start: bytes
    end: bytes


class Said(NamedTuple):
    """A message in words. ``concerns``: whether it concerns the key that was asked for (any, if none was)."""

    words: str
    topic: Topic
    concerns: bool


def short(name: str) -> str:
    """Return a process's name for a narrow column.

    >>> short("coordinator2"), short("client1"), short("node/n3")
    ('co2', 'c1', 'n3')
    """
    if name == COORDINATOR:
        return "co1"
    shorter = name.removeprefix(_NODE).replace("client-", "").replace("client", "c").replace(COORDINATOR, "co")
    return "sup" if name == SUPERVISOR else shorter


def brief(value: object) -> str:
    """Return a value of a client's program as its number; any other as it is."""
    if not isinstance(value, str):
        return f"{value!r:.20}"
    return value.partition("@")[0].replace("client", "c")[:20]


def moment(time: int) -> str:
    """Return a hybrid time in seconds since the run began."""
    counter = time & ((1 << TIME_COUNTER_BITS) - 1)
    return f"@{(time_to_ms(time) - EPOCH_MS) / 1000:.3f}{f'+{counter}' if counter else ''}"


def of_mark(mark: bytes) -> str:
    """Return a stamp (24 bytes): its time, and the first digits of its operation id."""
    return f"{moment(int.from_bytes(mark[:8], 'big'))}~{mark[8:10].hex()}"


def held(record: bytes | None) -> str:
    """Return a record in words."""
    if record is None:
        return "absent"
    if is_vector(record):
        return _held_versions(record)
    if is_linear(record):
        return leader_text.held_linear(record)
    try:
        taken = unpack(record)
        ttl = "" if taken.ttl_ms is None else f" ttl {taken.ttl_ms / 1000:g}s"
        if taken.tombstone:
            return f"deleted~{taken.operation_id[:2].hex()}{moment(taken.time)}"
        value = brief(decode_value(taken.payload, "msgpack")) if taken.payload else "some value"
        return f"{value}{moment(taken.time)}{ttl}"
    except CorruptData as error:
        return f"damaged ({error})"


def _held_versions(record: bytes) -> str:
    try:
        versions = vector.decode(record)
        said = [
            f"{held(stamp(sibling.body, sibling.time))}({dot_in_words(sibling.dot)})" for sibling in versions.siblings
        ]
    except CorruptData as error:
        return f"damaged ({error})"
    return f"{' | '.join(said) or 'nothing'} over {history_in_words(versions.seen)}"


def dot_in_words(dot: Dot) -> str:
    """Return a dot: the first digits of its actor, its counter."""
    actor, counter = dot
    return f"{actor[:2].hex()}.{counter}"


def history_in_words(seen: Seen) -> str:
    """Return a causal history."""
    spans = [
        f"{actor[:2].hex()}.{low}-{high}" if low < high else f"{actor[:2].hex()}.{low}" for actor, low, high in seen
    ]
    return f"{{{' '.join(spans)}}}"


def _context(packed: bytes | None) -> str:
    if packed is None:
        return ""
    try:
        return f" having seen {history_in_words(unpack_causality(packed).seen)}"
    except CorruptData:
        return " having seen what cannot be read"


def body_of(event: Event) -> Any:
    """Return the message that a frame carries; None if it carries none, or none that decodes."""
    request = event.what.startswith("asks")
    server = event.target if request else event.source
    try:
        if server.startswith(_NODE):
            return (f.node_requests if request else f.node_answers).decode(event.frame).body
        if server == SUPERVISOR:
            return (f.supervisor_requests if request else f.supervisor_answers).decode(event.frame)
        return (f.coordinator_requests if request else f.coordinator_answers).decode(event.frame)
    except CorruptData:
        return None


def incarnation_of(event: Event) -> int:
    """Return the incarnation that a frame to or from a node names; 0 if it names none."""
    try:
        if event.what.startswith("asks") and event.target.startswith(_NODE):
            return f.node_requests.decode(event.frame).incarnation
        if event.source.startswith(_NODE):
            return f.node_answers.decode(event.frame).incarnation
    except CorruptData:
        pass
    return 0


class Interpreter:
    """Puts messages into words, with a ``key`` in front of the others that they carry."""

    def __init__(self, key: str | None = None) -> None:
        self._key = key
        self._requests: dict[int, Any] = {}

    def said(self, event: Event) -> Said:
        """Put a request or an answer into words."""
        body = body_of(event)
        if event.what.startswith("asks"):
            self._requests[event.number] = body
            words, topic, keys = self._asked(body)
        else:
            request = self._requests.get(event.number)
            _, topic, keys = self._asked(request)
            words = self._answered(body, request)
        run = incarnation_of(event)
        return Said(f"{words}{f' [run {run}]' if run else ''}", topic, self._touches(keys))

    def concerns(self, number: int) -> bool:
        """Whether the request of that number concerns the key."""
        return self._touches(self._asked(self._requests.get(number))[2])

    # ---- keys ----

    def _touches(self, keys: Sequence[bytes] | _Range) -> bool:
        if self._key is None:
            return True
        encoded = encode_key(self._key)
        return keys.start <= encoded < keys.end if isinstance(keys, _Range) else encoded in keys

    def _list(self, named: Iterable[tuple[bytes, str]]) -> str:
        """Join what is said of keys: of the one asked for alone, if it is among them, else of the first few."""
        items = [(_name(key), text) for key, text in named]
        chosen = [(name, text) for name, text in items if name == self._key] or items[:_ITEMS_SHOWN]
        more = f" +{len(items) - len(chosen)}" if len(items) > len(chosen) else ""
        return ", ".join(f"{name}{text}" for name, text in chosen) + more

    # ---- requests ----

    def _asked(self, body: Any) -> tuple[str, Topic, Sequence[bytes] | _Range]:
        """Return words, topic, and the keys that a request is about."""
        if (of_leaders := leader_text.asked(body)) is not None:
            words, items = of_leaders
            return words + self._list(items), "data", [key for key, _ in items]
        match body:
            case f.GetMany():
                return f"get {self._list((key, '') for key in body.keys)} r={body.r}", "data", body.keys
            case f.Read():
                return f"read {self._list((key, '') for key in body.keys)}", "data", body.keys
            case f.WriteMany():
                items = [(key, _of_body(item) + _context(seen)) for key, item, seen in body.items]
                return f"put {self._list(items)} w={body.w}", "data", [key for key, _ in items]
            case f.ReserveDots():
                wanted = [
                    (key, " dot" if with_dot else "")
                    for key, with_dot in zip(body.keys, body.operation_ids, strict=False)
                ]
                return f"reserve {self._list(wanted)}", "data", body.keys
            case f.Write():
                words = self._list((key, "=" + held(record)) for key, record in body.items)
                return f"write {words}", "data", [key for key, _ in body.items]
            case f.ScanPage() | f.Scan():
                words = f"scan {_name(body.start)}.. {'backward ' if body.reverse else ''}"
                level = f"r={body.r}" if isinstance(body, f.ScanPage) else f"of {len(body.partitions)} partitions"
                return words + level, "data", _Range(body.start, body.end)
            case f.Hint() | f.Fetch() | f.Purge() | f.Tree() | f.Leaves() | f.Repair() | f.RepairPartitions():
                return self._asked_beside(body)
            case f.Ping() | f.IndirectProbe() | f.Stop() | f.GetInfo() | f.GetClusterUpdate() | f.Gossip():
                return _of_life(body), "life", ()
            case None:
                return "a request that does not decode", "life", ()
        if (traits := NODE.get(type(body))) is not None and (keys := [*traits.concerns.keys(body)]):
            return f"{_words(body)} {self._list((key, '') for key in keys)}", "data", keys
        return _of_state(body), "state", ()

    def _asked_beside(self, body: Any) -> tuple[str, Topic, Sequence[bytes] | _Range]:
        """Do so for what nodes ask each other in the background."""
        match body:
            case f.Hint():
                words = self._list(
                    (key, f"{'=' + held(record) if record else ''} for {','.join(of)}")
                    for key, record, of in body.items
                )
                return f"keep {words}", "data", [key for key, _, _ in body.items]
            case f.Fetch():
                return f"fetch {self._list((key, '') for key in body.keys)}", "data", body.keys
            case f.Purge():
                words = self._list((key, "") for _, key, _ in body.items)
                return f"{'forget' if body.sure else 'may we forget?'} {words}", "data", [k for _, k, _ in body.items]
        return _of_comparison(body), "state", ()

    # ---- answers ----

    def _answered(self, body: Any, request: Any) -> str:
        if (of_leaders := leader_text.answered(body, request)) is not None:
            return of_leaders if isinstance(of_leaders, str) else self._list(of_leaders)
        match body:
            case f.GotMany() if isinstance(request, f.GetMany):
                got = [
                    item.name if isinstance(item, f.Failed) else _payloads(f.whole(item).payloads)
                    for item in body.items
                ]
                return self._list((key, "=" + text) for key, text in zip(request.keys, got, strict=False))
            case f.WroteMany() if isinstance(request, f.WriteMany):
                done = [
                    f": {i.name}" if isinstance(i, f.Failed) else f" acked by {','.join(i.nodes)}" for i in body.items
                ]
                return self._list((key, text) for (key, _, _), text in zip(request.items, done, strict=False))
            case f.ReadDone() if isinstance(request, f.Read | f.Fetch):
                found = [
                    "unreadable" if at in body.unreadable else held(record) for at, record in enumerate(body.records)
                ]
                return self._list((key, "=" + text) for key, text in zip(request.keys, found, strict=False))
            case f.DotsReserved() if isinstance(request, f.ReserveDots):
                shown = ["unreadable" if item is None else _reserved(item) for item in body.items]
                return self._list((key, text) for key, text in zip(request.keys, shown, strict=False))
            case f.WriteDone() if isinstance(request, f.Write | f.Hint):
                keys = [item[0] for item in request.items]
                return self._list((key, _kept(time)) for key, time in zip(keys, body.newer, strict=False))
            case f.Page():
                return (
                    self._list((key, "=" + _payloads(payloads)) for key, payloads, _ in body.items) or "nothing there"
                )
            case f.ScanDone():
                return self._list((key, "=" + held(record)) for key, record in body.items) or "nothing there"
        return _of_answer(body)


def _name(encoded: bytes) -> str:
    try:
        key = decode_key(encoded)
    except CorruptData:
        return repr(encoded)
    return key if isinstance(key, str) else repr(key)


def _payloads(payloads: list[bytes]) -> str:
    return " | ".join(map(_payload, payloads)) or "absent"


def _payload(payload: bytes) -> str:
    try:
        return brief(decode_value(payload, "msgpack"))
    except CorruptData:
        return "some value"


def _reserved(item: f.Reserved) -> str:
    dot = f" given {dot_in_words((item.actor, item.counter))}" if item.counter else ""
    return f"{dot} over{_context(item.causality).removeprefix(' having seen')}"


def _of_body(body: bytes) -> str:
    """Return what a client asks to be written: the record without its time."""
    return "=" + held(stamp(body, 0)).replace(moment(0), "")


def _kept(time: int) -> str:
    """Say what became of a record that a node was to keep."""
    if time < 0:
        return " no room"
    return f" newer held {moment(time)}" if time else " kept"


def _of_comparison(body: f.Tree | f.Leaves | f.Repair | f.RepairPartitions) -> str:
    match body:
        case f.Tree():
            return f"tree of partition {body.partition}, level {body.level}"
        case f.Leaves():
            return f"{len(body.indexes)} leaves of partition {body.partition}"
        case f.Repair():
            return f"repair partition {body.partition}"
    return f"repair {len(body.partitions)} partitions"


def _of_life(body: f.Ping | f.IndirectProbe | f.Stop | f.GetInfo | f.GetClusterUpdate | f.Gossip) -> str:
    match body:
        case f.IndirectProbe():
            return f"do you reach {body.node_id}?"
        case f.GetInfo():
            return f"info {body.what}?"
        case f.GetClusterUpdate():
            return "cluster update?"
    return type(body).__name__.lower()


def _of_state(body: Any) -> str:
    if (of_terms := leader_text.asked_of_terms(body)) is not None:
        return of_terms
    match body:
        case f.ClusterUpdate():
            down = f", down: {', '.join(sorted(body.down))}" if body.down else ""
            return f"update {body.sequence}: {_ballot(body.state)}{down}"
        case f.PrepareState():
            return f"prepare generation {body.generation}"
        case f.AcceptState():
            return f"accept {_ballot(body.state)}{', decided' if body.decided else ''}"
        case f.ReadState():
            return "which state do you keep?"
        case f.PullPartition():
            return f"pull partition {body.partition}"
        case f.DropUnowned():
            return "drop what you do not own"
        case f.OpenBucket() | f.DropBucket():
            return f"{'open' if isinstance(body, f.OpenBucket) else 'drop'} {body.name}"
    return _words(body)


def _ballot(data: bytes) -> str:
    """Return a state's number and its buckets: two states of one number are to look different."""
    try:
        state = decode_state(data)
    except CorruptData:
        return "a damaged state"
    names = [entry.config.name.removeprefix("bucket-") for entry in state.buckets]
    return f"state {state.generation}.{state.version} ({' '.join(names)})"


def _of_answer(body: Any) -> str:
    match body:
        case None:
            return "raised: not ready to serve"
        case f.Refused():
            return f"{body.failed.name}: {body.failed.message}"
        case f.NodeRefused():
            return f"refused {body.reason}: {body.message}"
        case f.AcceptorAnswer():
            keeps = f"keeps {body.generation}.{body.version}" if body.state is not None else "keeps none"
            granted = "granted" if body.granted else "not granted"
            return f"{granted}, promised {body.promised}, {keeps}{'' if body.voter else ', no vote'}"
        case f.ClusterUpdate():
            return _of_state(body)
        case f.BucketOpened():
            return f"bucket id {body.bucket_id}"
        case f.Info():
            return {None: "heard", True: "yes", False: "no"}.get(body.data, "info") if _plain(body.data) else "info"
    return _words(body)


def _words(body: object) -> str:
    """Return the name of a message's class as words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(body).__name__).lower()


def _plain(data: Any) -> bool:
    return data is None or isinstance(data, bool)
