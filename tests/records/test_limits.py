"""The one table of limits: every list, dict, text and piece of bytes of every message has one, and it is enforced."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from raykv.config import MAX_BATCH_ITEMS, MAX_PARTITIONS
from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.protocol.requests import COORDINATOR, NODE, frame_bytes_of, misfit
from raykv.records import limits as lim
from raykv.storage.damage import Damage
from raykv.storage.directory import Identity
from tests.protocol.test_frames import COORDINATOR_REQUESTS, KINDS, NODE_BODIES

UNIONS = (
    f.CoordinatorRequest, f.SupervisorRequest, f.CoordinatorAnswer, f.SupervisorAnswer, f.NodeRequestBody, f.NodeAnswerBody,
    f.NodeRequest, f.NodeAnswer, f.Handed, f.LogEnd, f.KeyVersions, f.Acked, f.Failed, f.Reserved,
    f.Change, f.Settled,
)  # fmt: skip
MESSAGES = sorted({each for union in UNIONS for each in (get_args(union) or (union,))}, key=lambda kind: kind.__name__)
HOSTILE = [
    "../../x",
    "..",
    ".",
    "",
    "/etc",
    "a/b",
    "a\\b",
    "n1\n",
    "n1\0",
    "n" * 300,
    "\uff4e1",
    "n1 ",
    "-rf",
    "~",
    "\ud800",
]


def unbounded(kind: Any, where: str) -> list[str]:
    """The places in a type that hold any number of things."""
    if get_origin(kind) is Annotated:
        inner, *metas = get_args(kind)
        bounded = any(isinstance(meta, msgspec.Meta) and (meta.max_length or meta.pattern) for meta in metas)
        return (
            unbounded(inner, where)
            if not bounded
            else [hit for each in get_args(inner) for hit in unbounded(each, where)]
        )
    if get_origin(kind) in {typing.Union, types.UnionType, tuple}:
        return [hit for each in get_args(kind) for hit in unbounded(each, where)]
    found = [where] if (get_origin(kind) or kind) in {list, dict, str, bytes, set, frozenset} else []
    return found + [hit for each in get_args(kind) for hit in unbounded(each, where)]


def fields(message: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        name: hint for name, hint in get_type_hints(message, include_extras=True).items() if not name.startswith("_")
    }


@pytest.mark.parametrize("message", [*MESSAGES, Damage, Identity], ids=lambda kind: kind.__name__)
def test_nothing_in_a_message_is_without_a_bound(message: type[msgspec.Struct]) -> None:
    lacking = [hit for name, kind in fields(message).items() for hit in unbounded(kind, f"{message.__name__}.{name}")]
    known = {f"{each.__name__}.{name}" for each, name in ((Damage, "start"), (Damage, "end"), (Damage, "reason"))}
    known.add("Identity.mark")  # they come in files, whose size is bounded where they are read
    assert [hit for hit in lacking if hit not in known] == []


@pytest.mark.parametrize("message", MESSAGES, ids=lambda kind: kind.__name__)
def test_what_is_stored_in_a_few_bytes_is_bounded_wherever_it_comes_in(message: type[msgspec.Struct]) -> None:
    """An answer, too: the n of a promise ended the task of a node that healed, at each of its runs."""
    found = {field.name: field.type for field in msgspec.inspect.type_info(message).fields}
    for name, top in (("n", 255), ("bucket_id", (1 << 32) - 1)):
        if name in found:
            kind = found[name]
            assert isinstance(kind, msgspec.inspect.IntType)
            assert kind.ge is not None
            assert kind.le is not None
            assert 0 <= kind.ge <= kind.le <= top


def test_the_n_of_a_promise_in_an_answer_is_bounded() -> None:
    answer = f.node_answers.encode(f.NodeAnswer(1, f.PromisesRead([(3, bytes(16), "n2")], True)))
    assert isinstance(f.node_answers.decode(answer).body, f.PromisesRead)
    wrong = msgspec.structs.replace(f.PromisesRead([], True), items=[(300, bytes(16), "n2")])
    with pytest.raises(CorruptData):
        f.node_answers.decode(f.node_answers.encode(f.NodeAnswer(1, wrong)))


def test_the_walker_sees_what_has_none() -> None:
    class Careless(msgspec.Struct):
        some: list[tuple[int, bytes | None]]
        more: Annotated[list[bytes], msgspec.Meta(max_length=3)]
        figures: dict[lim.Name, Any]

    hits = [
        hit for name, kind in get_type_hints(Careless, include_extras=True).items() for hit in unbounded(kind, name)
    ]
    assert hits == ["some", "some", "more", "figures"]


def node_frame(*body: Any) -> bytes:
    return b"\x01" + msgspec.msgpack.encode(["NodeRequest", 7, list(body), None, 0])


def many(count: int, item: Any) -> list[Any]:
    return [item] * count


def change(**odd: Any) -> list[Any]:
    return ["Change", *({"key": b"\x02a", "kind": 3, "payload": b"", "lane": bytes(8), "number": 1, "condition": None,
                         "fence": 0, "resent": False, "turn": False} | odd).values()]  # fmt: skip


OVER = [
    ("Read", 1, many(MAX_BATCH_ITEMS + 1, b"\x02a"), False),
    ("Read", 1, [b"\x02" + b"k" * 1025], False),
    ("ReserveDots", 1, many(MAX_BATCH_ITEMS + 1, b"\x02a"), [b""], False),
    ("ReserveDots", 1, [b"\x02a"], many(MAX_BATCH_ITEMS + 1, b""), False),
    ("Write", 1, many(MAX_BATCH_ITEMS + 1, [b"\x02a", b""]), 0),
    ("Hint", 1, many(MAX_BATCH_ITEMS + 1, [b"\x02a", b"", []]), 0, False),
    ("Hint", 1, [[b"\x02a", b"", many(50, "n1")]], 0, False),
    ("Scan", 1, b"", b"\x03", 10, False, False, many(MAX_PARTITIONS + 1, 1), False),
    ("Gossip", "n1", {f"n{number}": [1, 2] for number in range(1001)}),
    ("Gossip", "n1", {"n1": [-1, 2]}),
    ("Tree", 5, many(10_001, 1), 3, -1, []),
    ("Tree", 5, [1], 3, -1, many(257, 1)),
    ("Leaves", 5, [1], 3, many(257, 1)),
    ("Fetch", 1, many(257, b"\x02a")),
    ("Purge", many(257, [1, b"\x02a", 1]), True),
    ("DropUnowned", many(MAX_PARTITIONS + 1, 1)),
    ("PullPartition", 5, 1.0, many(1001, "n1")),
    ("PullPartition", 5, float("nan"), []),
    ("Repair", 5, float("inf"), True),
    ("Repair", 5, -1.0, True),
    ("Apply", 1, many(MAX_BATCH_ITEMS + 1, change()), 7, 1.0, [], []),
    ("Apply", 1, [change(key=b"\x02" + b"k" * 1025)], 7, 1.0, [], []),
    ("Apply", 1, [change(kind=7)], 7, 1.0, [], []),
    ("Apply", 1, [change(lane=bytes(9))], 7, 1.0, [], []),
    ("Apply", 1, [change(number=1 << 62)], 7, 1.0, [], []),
    ("Apply", 1, [change(condition=bytes(25))], 7, 1.0, [], []),
    ("Apply", 1, [change(fence=-1)], 7, 1.0, [], []),
    ("Apply", 1, [change()], 7, 1.0, many(1001, "n1"), []),
    ("Apply", 1, [change()], 7, 1.0, [], many(1001, "n1")),
    ("ReadHeads", 1, many(MAX_BATCH_ITEMS + 1, b"\x02a")),
    ("Promise", 5, 3, bytes(15), "n1", False),
    ("Promise", 5, 300, bytes(16), "n1", False),
    ("Look", 1, 0, "n1", []),
    ("Look", 1 << 32, 3, "n1", []),
    ("Read", -1, [b"\x02a"], False),
    ("Accept", 300, "n1", 9, []),
    ("Lead", 300, []),
    ("Look", 1, 3, "n1", many(MAX_BATCH_ITEMS + 1, [5, bytes(16), []])),
    ("Look", 1, 3, "n1", [[5, bytes(16), many(MAX_BATCH_ITEMS + 1, b"\x02a")]]),
    ("Look", 1, 3, "n1", [[5, bytes(17), [b"\x02a"]]]),
    ("Accept", 3, "n1", 9, many(MAX_BATCH_ITEMS + 1, [5, bytes(16), []])),
    ("Accept", 3, "n1", 9, [[5, bytes(16), many(MAX_BATCH_ITEMS + 1, [1, b"\x02a", b""])]]),
    ("Accept", 3, "n1", 9, [[5, b"", []]]),
    ("PrepareState", -1),
    ("PrepareState", 1 << 63),
    ("AcceptState", 1, 1 << 62, b"s", False, []),
    ("AcceptState", 1, 1, bytes(lim.MAX_STATE_BYTES + 1), False, []),
]


@pytest.mark.parametrize("body", OVER, ids=lambda body: body[0])
def test_what_goes_past_a_bound_is_refused(body: Any) -> None:
    with pytest.raises(CorruptData):
        f.node_requests.decode(node_frame(*body))


@pytest.mark.parametrize("kind", [f.Look, f.Accept], ids=lambda kind: kind.__name__)
def test_groups_together_are_no_more_than_a_batch(kind: type[Any]) -> None:
    """Each group is bounded, and how many there are: their product is not."""

    def asked(count: int) -> Any:
        keys: list[Any] = [b"\x02a"] * count
        if kind is f.Look:
            return f.Look(1, 3, "n1", [(0, bytes(16), keys), (1, bytes(16), [b"\x02a"])])
        return f.Accept(
            3, "n1", 9, [(0, bytes(16), [(1, key, b"") for key in keys]), (1, bytes(16), [(1, b"\x02a", b"")])]
        )

    assert misfit(asked(MAX_BATCH_ITEMS - 1), 8) == ""
    assert f"{MAX_BATCH_ITEMS + 1} items" in misfit(asked(MAX_BATCH_ITEMS), 8)


@pytest.mark.parametrize("body", [body for body, _ in NODE_BODIES], ids=lambda body: type(body).__name__)
def test_every_kind_has_a_largest_frame_and_its_name_is_found(body: Any) -> None:
    kind = type(body).__name__.encode()
    frame = f.node_requests.encode(f.NodeRequest(7, body))
    assert f.kind_of_request(frame) == kind
    with pytest.raises(CorruptData):
        f.node_requests.decode(frame + bytes(frame_bytes_of(NODE)[kind]))


@pytest.mark.parametrize(
    "message", [message for message, _ in COORDINATOR_REQUESTS], ids=lambda body: type(body).__name__
)
def test_what_clients_ask_has_a_largest_frame_too(message: Any) -> None:
    kind = type(message).__name__.encode()
    frame = f.coordinator_requests.encode(message)
    assert f.kind_of_message(frame) == kind
    with pytest.raises(CorruptData):
        f.coordinator_requests.decode(frame + bytes(frame_bytes_of(COORDINATOR)[kind]))


def test_free_data_is_bounded_by_its_frame() -> None:
    frame = f.coordinator_requests.encode(f.OpenBucket("b", {"ttl_ms": "x" * 100_000}, 1.0))
    with pytest.raises(CorruptData, match=r"OpenBucket.*at most 65536"):
        f.coordinator_requests.decode(frame)


def places_of_names() -> list[tuple[Any, Any]]:
    """(frame type, message with a hostile name in place of each node's id) for all requests that carry one."""
    return [
        (f.node_requests, lambda name: f.NodeRequest(0, f.Gossip(name, {}))),
        (f.node_requests, lambda name: f.NodeRequest(0, f.Gossip("n1", {name: (1, 2)}))),
        (f.node_requests, lambda name: f.NodeRequest(0, f.Hint(1, [(b"\x02a", b"", [name])], 0))),
        (f.node_requests, lambda name: f.NodeRequest(0, f.PullPartition(1, 1.0, [name]))),
        (f.node_requests, lambda name: f.NodeRequest(0, f.Apply(1, [], 7, 1.0, [name]))),
        (f.node_requests, lambda name: f.NodeRequest(0, f.Apply(1, [], 7, 1.0, [], [name]))),
        (f.node_requests, lambda name: f.NodeRequest(0, f.Promise(5, 3, bytes(16), name))),
        (f.node_requests, lambda name: f.NodeRequest(0, f.Look(1, 3, name, []))),
        (f.node_requests, lambda name: f.NodeRequest(0, f.Accept(3, name, 9, []))),
        (f.node_answers, lambda name: f.NodeAnswer(1, f.PromisesRead([(3, bytes(16), name)], True))),
        (f.coordinator_requests, lambda name: f.IndirectProbe(name, 1.0)),
        (f.coordinator_requests, lambda name: f.RemoveNode(name, 1.0)),
        (f.coordinator_requests, lambda name: f.ReplaceNode(name, "", 1.0)),
        (f.coordinator_requests, lambda name: f.SetWeight(name, 1.0, 1.0)),
        (f.coordinator_requests, lambda name: f.ClusterUpdate(1, b"", {name: ""}, {})),
        (f.coordinator_requests, lambda name: f.ClusterUpdate(1, b"", {}, {name: 1})),
        (f.coordinator_answers, lambda name: f.WroteMany([f.Acked(b"", [name], b"")])),
        (f.node_answers, lambda name: f.NodeAnswer(1, f.Pong(None, [name]))),
    ]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_no_name_of_a_node_leads_elsewhere(name: str) -> None:
    for kind, message in places_of_names():
        with pytest.raises((CorruptData, UnicodeEncodeError)):
            kind.decode(b"\x01" + msgspec.msgpack.encode(message(name)))
        assert kind.decode(b"\x01" + msgspec.msgpack.encode(message("n1")))


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "\ud800"], ids=repr)
def test_no_file_that_a_file_names_lies_elsewhere(name: str) -> None:
    directory_id = "0" * 32
    good = Identity("s", "n1", directory_id, 1, True, True)
    for wrong in ({"data": name}, {"node_id": name}, {"life": name}):
        data = msgspec.msgpack.encode(msgspec.to_builtins(good) | wrong)
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(data, type=Identity)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(good), type=Identity) == good
    for damage in ([name, 0, None, None, ""], ["000001.sst", -2, None, None, ""]):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(damage), type=Damage)


def test_all_conversations_are_looked_at() -> None:
    assert len(KINDS) == 7, "add a new one to UNIONS above"
