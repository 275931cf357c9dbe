"""The table of requests: each has a row, each row says all, and servers refuse to start without a handler for each."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from raykv.protocol import frames as f
from raykv.protocol import requests as table
from raykv.protocol.codec import Message
from raykv.records.keys import encode_key
from raykv.ring import partition_of_key
from tests.protocol.test_frames import COORDINATOR_REQUESTS, NODE_BODIES, SUPERVISOR_REQUESTS

if TYPE_CHECKING:
    import msgspec

TABLES = {
    "node": (table.NODE, f.NodeRequestBody, f.NodeAnswerBody, {f.NodeRefused, f.NotOwner}),
    "coordinator": (table.COORDINATOR, f.CoordinatorRequest, f.CoordinatorAnswer, {f.Refused}),
    "supervisor": (table.SUPERVISOR, f.SupervisorRequest, f.SupervisorAnswer, {f.Refused}),
}
A, B = encode_key("a"), encode_key("b")
TERM = bytes(16)
CONCERNED: list[tuple[Any, list[bytes], list[int]]] = [
    (f.Read(1, [A, B]), [A, B], []),
    (f.ReserveDots(1, [A], [b""]), [A], []),
    (f.Write(1, [(A, b"r"), (B, b"r")]), [A, B], []),
    (f.Hint(1, [(A, b"r", ["n1"])], 0), [A], []),
    (f.Scan(1, b"", b"\x03", 5, False, False, [0, 3]), [], [0, 3]),
    (f.Ping(), [], []),
    (f.ReadState(), [], []),
    (f.PrepareState(3), [], []),
    (f.AcceptState(3, 4, b"s"), [], []),
    (f.Stop(), [], []),
    (f.Gossip("n1", {}), [], []),
    (f.Tree(5, [1], 3, -1, []), [], [5]),
    (f.Leaves(5, [1], 3, [0]), [], [5]),
    (f.Fetch(1, [A]), [A], []),
    (f.Purge([(1, A, 7)], sure=True), [A], []),
    (f.DropUnowned([2]), [], [2]),
    (f.PullPartition(5, 1.0), [], [5]),
    (f.Repair(5, 1.0), [], [5]),
    (f.Apply(1, [f.Change(A, f.READ)], 7, 1.0), [A], []),
    (f.ReadHeads(1, [A]), [A], []),
    (f.Promise(5, 3, TERM, "n1"), [], [5]),
    (f.HandOver(9.0), [], []),
    (f.Lead(3, [5, 6]), [], [5, 6]),
    (f.ReadPromises(5), [], [5]),
    (f.Look(1, 3, "n1", [(5, TERM, [A])]), [], [5]),
    (f.Accept(3, "n1", 9, [(5, TERM, []), (6, TERM, [])]), [], [5, 6]),
    (f.CopyTables("/b", "20261129T170000Z-0000002a", 1.0), [], []),
    (f.KeepManifest("/b", "20261129T170000Z-0000002a", b"m"), [], []),
    (f.ExplainRequest(b"frame"), [], []),
]


@pytest.mark.parametrize("name", TABLES)
def test_the_rows_are_the_requests_that_there_are(name):
    rows, requests, _, _ = TABLES[name]
    assert rows.keys() == {*get_args(requests)}


@pytest.mark.parametrize("name", TABLES)
def test_the_answers_of_the_rows_are_those_that_there_are(name):
    rows, _, answers, of_any = TABLES[name]
    listed = {answer for traits in rows.values() for answer in traits.answers}
    assert all(traits.answers for traits in rows.values())
    assert listed | of_any == {*get_args(answers)}
    assert not listed & of_any


def test_a_request_or_a_row_by_itself_stops_the_import():
    class Lonely(Message, frozen=True):
        pass

    with pytest.raises(TypeError, match="Lonely"):
        table._check_rows(table.NODE, f.NodeRequestBody | Lonely)
    with pytest.raises(TypeError, match="Lonely"):
        table._check_rows({**table.NODE, Lonely: None}, f.NodeRequestBody)


@pytest.mark.parametrize(
    ("handlers", "named"),
    [
        (({}, dict.fromkeys(table.SUPERVISOR)), ""),
        ((dict.fromkeys([*table.SUPERVISOR][1:]),), "GetClusterUpdate"),
        ((dict.fromkeys(table.SUPERVISOR), {f.GetClusterUpdate: None}), "GetClusterUpdate"),
        ((dict.fromkeys(table.SUPERVISOR), {f.Read: None}), "Read"),
    ],
)
def test_each_request_has_one_handler(handlers, named):
    if not named:
        table.check_handlers(table.SUPERVISOR, *handlers)
        return
    with pytest.raises(TypeError, match=f": {named}$"):
        table.check_handlers(table.SUPERVISOR, *handlers)


def test_what_each_request_concerns_is_said_above():
    assert {type(body) for body, _, _ in CONCERNED} == table.NODE.keys()


@pytest.mark.parametrize(("body", "keys", "partitions"), CONCERNED, ids=lambda body: type(body).__name__)
def test_a_request_concerns_its_keys_and_partitions(body, keys, partitions):
    concerns = table.NODE[type(body)].concerns
    assert [*concerns.keys(body)] == keys
    assert [*concerns.named(body)] == partitions
    assert concerns.everything == isinstance(body, f.DropUnowned)


def fields_of(kind: type[msgspec.Struct]) -> set[str]:
    return {*kind.__struct_fields__}


@pytest.mark.parametrize("kind", table.NODE, ids=lambda kind: kind.__name__)
def test_what_has_keys_or_partitions_does_not_pass_for_concerning_nothing(kind):
    """A request that is said to concern nothing is answered by former owners (P4)."""
    concerns = table.NODE[kind].concerns
    about = fields_of(kind) & {"key", "keys", "items", "partition", "partitions", "groups"}
    assert bool(about) == (concerns.items is not None or concerns.partitions is not None)
    assert (concerns.partitions is not None) == bool(about & {"partition", "partitions", "groups"})


@pytest.mark.parametrize("kind", table.NODE, ids=lambda kind: kind.__name__)
def test_traits_that_go_together(kind):
    traits = table.NODE[kind]
    if traits.shed and kind is not f.ExplainRequest:  # what it explains needs one
        assert traits.bucket is not None, "only an operation of a client is shed"
        assert "coordinator" in traits.senders
    if traits.bucket is not None:
        assert "bucket_id" in fields_of(kind)
    if traits.metered is table.Metered.BY_KEY:
        assert traits.concerns.items is not None
        assert traits.bucket is not None
    for body, _ in NODE_BODIES:
        if type(body) is kind and traits.client_waits(body):
            assert traits.shed == (kind not in OF_LEADERS), "who is waited for by a client may be told to try again"


OF_LEADERS = {f.Promise, f.Look, f.Accept}
"""A client waits for the leader that sends them. It has taken the operation in by then, and that is where overload sheds it:
what the owners shed besides would look like a lost majority, and cost those that were taken in another round."""


def test_nodes_that_a_client_waits_for():
    waiting = {type(body) for body, _ in NODE_BODIES if table.NODE[type(body)].client_waits(body)}
    assert waiting == {f.Read, f.ReserveDots, f.Write, f.Scan, f.Apply, f.ReadHeads, f.ExplainRequest} | OF_LEADERS
    assert all(table.NODE[kind].senders == ("node",) for kind in OF_LEADERS)
    page = f.Scan(1, b"", b"\x03", 5, False, False, [0], background=True)
    assert not table.NODE[f.Scan].client_waits(page)


def test_a_name_on_the_wire_is_that_of_the_row():
    for body, _ in NODE_BODIES:
        assert f.kind_of_request(f.node_requests.encode(f.NodeRequest(7, body))) == table.name_of(type(body))
    for body, _ in COORDINATOR_REQUESTS:
        assert f.kind_of_message(f.coordinator_requests.encode(body)) == table.name_of(type(body))
    for body, _ in SUPERVISOR_REQUESTS:
        assert f.kind_of_message(f.supervisor_requests.encode(body)) == table.name_of(type(body))


def test_a_row_that_is_passed_on_is_one_of_the_supervisors_with_the_same_answers():
    for kind, traits in table.COORDINATOR.items():
        if traits.passed_on:
            assert table.SUPERVISOR[kind].answers == traits.answers
            assert "coordinator" in table.SUPERVISOR[kind].senders


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (f.Scan(1, b"", b"\x03", 5, False, False, [0, 7]), ""),
        (f.Scan(1, b"", b"\x03", 5, False, False, [8]), "0 to 7"),
        (f.Scan(1, b"", b"\x03", 5, False, False, [-1]), "0 to 7"),
        (f.Scan(1, b"", b"\x03", 5, False, False, [1, 1]), "partition is named twice"),
        (f.Tree(0, [1, 1], 1, -1, []), "bucket is named twice"),
        (f.Leaves(9, [1], 1, []), "0 to 7"),
        (f.DropUnowned(), ""),
        (f.DropUnowned([8]), "0 to 7"),
        (f.ReserveDots(1, [A, B], [b""]), "one operation id a key"),
        (f.Read(1, [A, A]), ""),
        (f.Promise(8, 3, TERM, "n1"), "0 to 7"),
        (f.Look(1, 3, "n1", [(5, TERM, [A]), (5, TERM, [B])]), "partition is named twice"),
        (f.Accept(3, "n1", 9, [(5, TERM, []), (8, TERM, [])]), "0 to 7"),
        (f.Accept(3, "n1", 9, [(5, TERM, []), (6, TERM, [])]), ""),
    ],
)
def test_what_no_store_of_eight_partitions_can_mean(body, wrong):
    said = table.misfit(body, 8)
    assert wrong in said
    assert bool(said) == bool(wrong)


def test_a_replica_judges_ownership_by_the_table(world):
    async def story():
        cluster = world.Cluster(1, copies=1).start()
        replica = cluster.node("n1")._replica
        for body, keys, partitions in CONCERNED:
            expected = {*range(8)} if isinstance(body, f.DropUnowned) else {*partitions}
            assert replica._concerned(body) == expected | {partition_of_key(key, 8) for key in keys}

    world.run(story())


ROOT = Path(table.__file__).parents[1]
NAMES = {kind.__name__ for kind in table.NODE}


def lists_of_kinds(path: Path) -> list[str]:
    """The places where a server tells requests to a node apart, other than by the table."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.match_case):
            classes = [each.cls for each in ast.walk(node.pattern) if isinstance(each, ast.MatchClass)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            classes = [node.args[1]]
        else:
            continue
        members = {part for each in classes for part in ast.unparse(each).replace("f.", "").split(" | ")}
        if members & NAMES:
            found.append(f"{path.name}:{classes[0].lineno}")
    return found


@pytest.mark.parametrize(
    "name",
    ["node/node.py", "replica/handlers.py", "replica/load.py", "transport/admission.py", "repair/maintenance.py"],
)
def test_no_server_keeps_a_list_of_its_own(name):
    kept = lists_of_kinds(ROOT / name)
    assert len(kept) == (name == "repair/maintenance.py"), kept  # there an answer that is gossip too


def test_the_walker_sees_lists(tmp_path):
    path = tmp_path / "some.py"
    path.write_text(
        "match body:\n    case f.Read() | f.Write():\n        pass\n"
        "isinstance(body, f.Ping)\nisinstance(body, f.Pong)\nisinstance(body, f.Pong | f.Stop)\n"
    )
    assert lists_of_kinds(path) == ["some.py:2", "some.py:4", "some.py:6"]
