"""Frames: every message goes through and comes back; all else is refused at the door."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raykv.errors import CorruptData, QuorumNotMet, RaykvError, WriteOutcomeUnknown
from raykv.protocol import codec
from raykv.protocol import frames as f

TERM = (1).to_bytes(8) + b"randomly"
VERSION = TERM + (5).to_bytes(8)
FAILED = f.Failed("QuorumNotMet", "too few", {"needed": 2, "have": ["n1"]})
COORDINATOR_REQUESTS: list[tuple[Any, str]] = [
    (
        f.GetMany(1, [b"\x02a", b"\x01b"], 2, 5.0, causality=True),
        "0196a74765744d616e790192c4020261c402016202cb4014000000000000c3",
    ),
    (
        f.WriteMany(1, [(b"\x02a", b"body", None), (b"\x02b", b"body", b"seen")], 2, 0.5, 9, 7, 1.5),
        "0198a957726974654d616e79019293c4020261c404626f6479c093c4020262c404626f6479c4047365656e02cb3fe0000000"
        "0000000907cb3ff8000000000000",
    ),
    (
        f.ScanPage(1, b"", b"\x03", 10, True, False, 2, 5.0),
        "019ba85363616e5061676501c400c401030ac3c202cb4014000000000000c290",
    ),
    (f.OpenBucket("b", {"n": 2}, 1.0), "0194aa4f70656e4275636b6574a16281a16e02cb3ff0000000000000"),
    (f.DropBucket("b", 1.0), "0193aa44726f704275636b6574a162cb3ff0000000000000"),
    (f.AddNode(2.0, "a", "h1", 1.0), "0195a74164644e6f6465cb4000000000000000a161a26831cb3ff0000000000000"),
    (f.RemoveNode("n1", 1.0), "0193aa52656d6f76654e6f6465a26e31cb3ff0000000000000"),
    (f.ReplaceNode("n1", "h1", 1.0), "0194ab5265706c6163654e6f6465a26e31a26831cb3ff0000000000000"),
    (f.RestartNode("n1", 4, True, 1.0), "0195ab526573746172744e6f6465a26e3104c3cb3ff0000000000000"),
    (
        f.Autoscale({"ops_per_s": 5.0}, True, False, 1.0),
        "0195a94175746f7363616c6581a96f70735f7065725f73cb4014000000000000c3c2cb3ff0000000000000",
    ),
    (f.SetWeight("n1", 2.0, 1.0), "0194a9536574576569676874a26e31cb4000000000000000cb3ff0000000000000"),
    (f.Rebalance("pause", 1.0), "0193a9526562616c616e6365a57061757365cb3ff0000000000000"),
    (f.GetInfo("ring", 1.0), "0193a7476574496e666fa472696e67cb3ff0000000000000"),
    (
        f.ClusterUpdate(3, b"state", {"n1": "gone"}, {"n1": 4}),
        "0195ad436c757374657255706461746503c405737461746581a26e31a4676f6e6581a26e3104",
    ),
    (f.IndirectProbe("n1", 1.0), "0193ad496e64697265637450726f6265a26e31cb3ff0000000000000"),
    (f.RepairPartitions([5, 6], 1.0), "0193b0526570616972506172746974696f6e73920506cb3ff0000000000000"),
    (
        f.TakeSnapshot("/backups/shop", 9.0, 7),
        "0194ac54616b65536e617073686f74ad2f6261636b7570732f73686f70cb402200000000000007",
    ),
    (
        f.ExplainOperation(b"frame", 9.0),
        "0193b04578706c61696e4f7065726174696f6ec4056672616d65cb4022000000000000",
    ),
    (
        f.LoadRecords(1, [(b"\x02a", b"rec")], 9.0),
        "0194ab4c6f61645265636f726473019192c4020261c403726563cb4022000000000000",
    ),
    (
        f.ChangeMany(
            1,
            [
                f.Change(b"\x02a", f.ADD, b"\x04" + b"\0" * 8, b"lanelane", 3, None, 0, True),
                f.Change(b"\x02a", f.PUT, b"\x01v", b"lanelane", 4, b"", 7),
            ],
            0.5,
            7,
            1.5,
        ),
        "0197aa4368616e67654d616e7901929aa64368616e6765c402026103c409040000000000000000c4086c616e"
        "656c616e6503c000c3c29aa64368616e6765c402026101c4020176c4086c616e656c616e6504c40007c2c2cb"
        "3fe000000000000007cb3ff8000000000000cb0000000000000000",
    ),
]
ELASTIC = f.ElasticRequest
SUPERVISOR_REQUESTS: list[tuple[Any, str]] = [
    (
        f.GetClusterUpdate(7, {"hedges": 3}, {"get": [9, 0, 1]}),
        "0194b0476574436c75737465725570646174650781a66865646765730381a367657493090001",
    ),
    *(pair for pair in COORDINATOR_REQUESTS if isinstance(pair[0], f.OpenBucket | f.DropBucket | f.GetInfo | ELASTIC)),
]
COORDINATOR_ANSWERS: list[tuple[Any, str]] = [
    (
        f.OperationExplained(b"frame", {"took_ms": 1.5}),
        "0193b24f7065726174696f6e4578706c61696e6564c4056672616d6581a7746f6f6b5f6d73cb3ff8000000000000",
    ),
    (
        f.GotMany([f.KeyVersions([b"x", b"y"], True, b"seen"), f.KeyVersions([]), FAILED], 9),
        "0193a7476f744d616e799394ab4b657956657273696f6e7392c40178c40179c3c4047365656e94ab4b65795665727369"
            "6f6e7390c2c40094a64661696c6564ac51756f72756d4e6f744d6574a7746f6f2066657782a66e656564656402a46861"
            "766591a26e3109",
    ),
    (f.WroteMany([f.Acked(b"id", ["n1"], b"seen"), FAILED], 9),
     "0193a957726f74654d616e799294a541636b6564c402696491a26e31c4047365656e94a64661696c6564ac51756f72756d4e"
     "6f744d6574a7746f6f2066657782a66e656564656402a46861766591a26e3109"),
    (f.DeadlinePassed(7, 1.5), "0193ae446561646c696e6550617373656407cb3ff8000000000000"),
    (f.Page([(b"\x02a", [b"x", b"y"], True)], b"\x02b"), "0193a4506167659193c402026192c40178c40179c3c4020262"),
    (f.BucketOpened(2, {"n": 3}, "s", 7, 1.5), "0196ac4275636b65744f70656e65640281a16e03a17307cb3ff8000000000000"),
    (f.Info([1, "a", None, True]), "0192a4496e666f9401a161c0c3"),
    (f.Refused(FAILED), "0192a75265667573656494a64661696c6564ac51756f72756d4e6f744d6574a7746f6f20666577"
     "82a66e656564656402a46861766591a26e31"),
    (
        f.ChangedMany([f.Settled(f.DONE, VERSION, b"\x01v"), f.Settled(f.CONFLICT), FAILED]),
        "0192ab4368616e6765644d616e799396a7536574746c656400c418000000000000000172616e646f6d6c7900"
     "00000000000005c4020176a0c296a7536574746c656401c400c0a0c294a64661696c6564ac51756f72756d4e"
     "6f744d6574a7746f6f2066657782a66e656564656402a46861766591a26e31",
    ),
]  # fmt: skip
SUPERVISOR_ANSWERS = [
    next(pair for pair in COORDINATOR_REQUESTS if isinstance(pair[0], f.ClusterUpdate)),
    *(pair for pair in COORDINATOR_ANSWERS if isinstance(pair[0], f.BucketOpened | f.Info | f.Refused)),
]
NODE_BODIES: list[tuple[Any, str]] = [
    (
        f.Read(1, [b"\x02a"], True),
        "0195ab4e6f6465526571756573740794a4526561640191c4020261c3c000",
    ),
    (
        f.ReserveDots(1, [b"\x02a", b"\x02b"], [b"id", b""], True),
        "0195ab4e6f6465526571756573740795ab52657365727665446f74730192c4020261c402026292c4026964c400c3c000",
    ),
    (
        f.Write(1, [(b"\x02a", b"rec")], 17, stored=True),
        "0195ab4e6f6465526571756573740795a55772697465019192c4020261c40372656311c3c000",
    ),
    (
        f.Hint(1, [(b"\x02a", b"rec", ["n1", "n2"])], 17, counted=True),
        "0195ab4e6f6465526571756573740795a448696e74019193c4020261c40372656392a26e31a26e3211c3c000",
    ),
    (
        f.Scan(1, b"", b"\x03", 5, False, True, [0, 1]),
        "0195ab4e6f646552657175657374079aa45363616e01c400c4010305c2c3920001c200c000",
    ),
    (f.Ping(), "0195ab4e6f6465526571756573740792a450696e67c2c000"),
    (f.ReadState(), "0195ab4e6f6465526571756573740791a9526561645374617465c000"),
    (f.PrepareState(3), "0195ab4e6f6465526571756573740792ac50726570617265537461746503c000"),
    (f.AcceptState(3, 4, b"s"), "0195ab4e6f6465526571756573740796ab41636365707453746174650304c40173c290c000"),
    (f.Stop(), "0195ab4e6f6465526571756573740791a453746f70c000"),
    (
        f.Gossip("n1", {"n1": (1, 2)}),
        "0195ab4e6f6465526571756573740793a6476f73736970a26e3181a26e31920102c000",
    ),
    (
        f.Tree(5, [1, 2], 3, -1, []),
        "0195ab4e6f6465526571756573740796a4547265650592010203ff90c000",
    ),
    (
        f.Leaves(5, [1, 2], 3, [0, 7]),
        "0195ab4e6f6465526571756573740795a64c65617665730592010203920007c000",
    ),
    (
        f.Fetch(1, [b"\x02a"]),
        "0195ab4e6f6465526571756573740793a546657463680191c4020261c000",
    ),
    (
        f.Purge([(1, b"\x02a", 1 << 63)], sure=True),
        "0195ab4e6f6465526571756573740794a55075726765919301c4020261cf8000000000000000c3c2c000",
    ),
    (f.DropUnowned(), "0195ab4e6f6465526571756573740792ab44726f70556e6f776e6564c0c000"),
    (f.DropUnowned([3, 300]), "0195ab4e6f6465526571756573740792ab44726f70556e6f776e65649203cd012cc000"),
    (
        f.PullPartition(5, 1.0, ["n2"]),
        "0195ab4e6f6465526571756573740794ad50756c6c506172746974696f6e05cb3ff000000000000091a26e32c000",
    ),
    (
        f.Repair(5, 1.0),
        "0195ab4e6f6465526571756573740794a652657061697205cb3ff0000000000000c3c000",
    ),
    (
        f.Apply(
            1, [f.Change(b"\x02a", f.ADD, b"\x04" + b"\0" * 8, b"lanelane", 3, None, 0, True)], 7, 1.5, ["n2"], ["n3"]
        ),
        "0195ab4e6f6465526571756573740798a54170706c7901919aa64368616e6765c402026103c4090400000000"
        "00000000c4086c616e656c616e6503c000c3c207cb3ff800000000000091a26e3291a26e33cb000000000000"
        "0000c000",
    ),
    (
        f.ReadHeads(1, [b"\x02a"]),
        "0195ab4e6f6465526571756573740793a95265616448656164730191c4020261c000",
    ),
    (
        f.Promise(5, 3, TERM, "n1", again=True),
        "0195ab4e6f6465526571756573740796a750726f6d6973650503c410000000000000000172616e646f6d6c79a26e31c3c000",
    ),
    (f.HandOver(9.0), "0195ab4e6f6465526571756573740792a848616e644f766572cb4022000000000000c000"),
    (f.Lead(3, [5, 6]), "0195ab4e6f6465526571756573740793a44c65616403920506c000"),
    (
        f.ReadPromises(5),
        "0195ab4e6f6465526571756573740792ac5265616450726f6d6973657305c000",
    ),
    (
        f.Look(1, 3, "n1", [(5, TERM, [b"\x02a"])]),
        "0195ab4e6f6465526571756573740795a44c6f6f6b0103a26e31919305c410000000000000000172616e646f6d6c7991c4020261c000",
    ),
    (
        f.Accept(3, "n1", 9, [(5, TERM, [(1, b"\x02a", b"rec")])]),
        "0195ab4e6f6465526571756573740795a641636365707403a26e3109919305c410000000000000000172616e646f6d6c7991"
        "9301c4020261c403726563c000",
    ),
    (
        f.CopyTables("/backups/shop", "20261129T170000Z-0000002a", 9.0),
        "0195ab4e6f6465526571756573740794aa436f70795461626c6573ad2f6261636b7570732f73686f70b93230323631313239"
        "543137303030305a2d3030303030303261cb4022000000000000c000",
    ),
    (
        f.KeepManifest("/backups/shop", "20261129T170000Z-0000002a", b"m", 7),
        "0195ab4e6f6465526571756573740795ac4b6565704d616e6966657374ad2f6261636b7570732f73686f70b9323032363131"
        "3239543137303030305a2d3030303030303261c4016d07c000",
    ),
    (
        f.ExplainRequest(b"frame"),
        "0195ab4e6f6465526571756573740792ae4578706c61696e52657175657374c4056672616d65c000",
    ),
]
NODE_ANSWER_BODIES: list[tuple[Any, str]] = [
    (f.ReadDone([b"rec", None], [1], [2]), "0194aa4e6f6465416e737765720794a852656164446f6e6592c403726563c091019102c0"),
    (
        f.DotsReserved([f.Reserved(b"actor", 5, b"seen", 2, 99), None]),
        "0194aa4e6f6465416e737765720792ac446f747352657365727665649296a85265736572766564c4056163746f7205c4"
        "047365656e0263c0c0",
    ),
    (f.WriteDone([0, 9]), "0194aa4e6f6465416e737765720792a95772697465446f6e65920009c0"),
    (
        f.ScanDone([(b"\x02a", b"rec")], None),
        "0194aa4e6f6465416e737765720793a85363616e446f6e659192c4020261c403726563c0c0",
    ),
    (f.Incomplete("wiped"), "0194aa4e6f6465416e737765720792aa496e636f6d706c657465a57769706564c0"),
    (
        f.Pong({"records": 1}, ["n2"], (3, 4)),
        "0194aa4e6f6465416e737765720794a4506f6e6781a77265636f7264730191a26e32920304c0",
    ),
    (
        f.TreeDone([0, (1 << 64) - 1], 9, complete=True),
        "0194aa4e6f6465416e737765720794a854726565446f6e659200cfffffffffffffffff09c3c0",
    ),
    (
        f.LeavesDone([(1, b"\x02a", 5)], complete=False, left=[7]),
        "0194aa4e6f6465416e737765720794aa4c6561766573446f6e65919301c402026105c29107c0",
    ),
    (
        f.Purged([0, 2]),
        "0194aa4e6f6465416e737765720792a6507572676564920002c0",
    ),
    (f.Cleared(3), "0194aa4e6f6465416e737765720792a7436c656172656403c0"),
    (f.NotOwner(b"s"), "0194aa4e6f6465416e737765720792a84e6f744f776e6572c40173c0"),
    (
        f.Repaired({"sent": 3}),
        "0194aa4e6f6465416e737765720792a8526570616972656481a473656e7403c0",
    ),
    (
        f.Gossip("n1", {"n1": (1, 2)}),
        "0194aa4e6f6465416e737765720793a6476f73736970a26e3181a26e31920102c0",
    ),
    (
        f.AcceptorAnswer(True, 3, 2, 5, b"s"),
        "0194aa4e6f6465416e737765720798ae4163636570746f72416e73776572c3030205c40173c300c0",
    ),
    (f.NodeRefused("moved", "why"), "0194aa4e6f6465416e737765720793ab4e6f646552656675736564a56d6f766564a3776879c0"),
    (
        f.Applied([f.Settled(f.ELSEWHERE, leader="n2")], 7, 2.5),
        "0194aa4e6f6465416e737765720794a74170706c6965649196a7536574746c656408c400c0a26e32c207cb4004000000000000c0",
    ),
    (
        f.HeadsRead([b"rec", None], [TERM, b""], [0], [1], []),
        "0194aa4e6f6465416e737765720796a948656164735265616492c403726563c092c410000000000000000172616e646f6d6c"
        "79c4009100910190c0",
    ),
    (
        f.Promised(True, TERM, "n1", 9, [4]),
        "0194aa4e6f6465416e737765720796a850726f6d69736564c3c410000000000000000172616e646f6d6c79a26e31099104c0",
    ),
    (f.HandedOver(2), "0194aa4e6f6465416e737765720792aa48616e6465644f76657202c0"),
    (
        f.PromisesRead([(3, TERM, "n1")], complete=True),
        "0194aa4e6f6465416e737765720793ac50726f6d6973657352656164919303c410000000000000000172616e646f6d6c79a26e31c3c0",
    ),
    (
        f.Looked([(b"", "", [b"rec", None]), (TERM, "n2", [])]),
        "0194aa4e6f6465416e737765720792a64c6f6f6b65649293c400a092c403726563c093c410000000000000000172616e646f"
        "6d6c79a26e3290c0",
    ),
    (
        f.Accepted([(b"", ""), (TERM, "n2")]),
        "0194aa4e6f6465416e737765720792a841636365707465649292c400a092c410000000000000000172616e646f6d6c79a26e32c0",
    ),
    (
        f.TablesCopied(b"s", 5, 2, 1 << 41, 99, 7, 3, 400, 5000, 1, 1700),
        "0194aa4e6f6465416e73776572079cac5461626c6573436f70696564c401730502cf0000020000000000630703cd0190cd13"
        "8801cd06a4c0",
    ),
    (
        f.ManifestKept(2, 10, "why"),
        "0194aa4e6f6465416e737765720794ac4d616e69666573744b657074020aa3776879c0",
    ),
    (
        f.RequestExplained(b"frame", {"looked_us": 1.5}),
        "0194aa4e6f6465416e737765720793b0526571756573744578706c61696e6564c4056672616d6581a96c6f6f6b65645f7573"
        "cb3ff8000000000000c0",
    ),
]
CASES: list[tuple[f.FrameType[Any], Any, str]] = [
    *((f.coordinator_requests, *pair) for pair in COORDINATOR_REQUESTS),
    *((f.supervisor_requests, *pair) for pair in SUPERVISOR_REQUESTS),
    *((f.coordinator_answers, *pair) for pair in COORDINATOR_ANSWERS),
    *((f.supervisor_answers, *pair) for pair in SUPERVISOR_ANSWERS),
    *((f.node_requests, f.NodeRequest(7, body), golden) for body, golden in NODE_BODIES),
    *((f.node_answers, f.NodeAnswer(7, body), golden) for body, golden in NODE_ANSWER_BODIES),
    (f.handed_answers, f.HandleAnswer(True, "auto", f.GotMany([]), [b"place"]),
     "0195ac48616e646c65416e73776572c3a46175746f93a7476f744d616e79900091c405706c616365"),
    (f.handed_answers, f.HandleVersioned("auto", f.GotMany([])),
     "0193af48616e646c6556657273696f6e6564a46175746f93a7476f744d616e799000"),
    (f.handed_answers, f.HandleChanges(True, "auto", [f.Settled(0, b"version")], [f.Change(b"tkey", 1)], "call"),
     "0196ad48616e646c654368616e676573c3a46175746f9196a7536574746c656400c40776657273696f6ec0a0"
     "c2919aa64368616e6765c404746b657901c400c40000c000c2c2a463616c6c"),
]  # fmt: skip
KINDS = [
    f.coordinator_requests, f.coordinator_answers, f.supervisor_requests, f.supervisor_answers, f.handed_answers,
    f.node_requests, f.node_answers,
]  # fmt: skip


def name(value: object) -> str:
    body = getattr(value, "body", value)
    return type(body).__name__ if isinstance(body, msgspec.Struct) else ""


@pytest.mark.parametrize(("kind", "message", "golden"), CASES, ids=name)
def test_a_message_comes_back_and_its_bytes_never_change(kind: f.FrameType[Any], message: Any, golden: str) -> None:
    frame = kind.encode(message)
    assert kind.decode(frame) == message
    assert frame.hex() == golden
    assert frame[0] == f.FRAME_VERSION == 1


@pytest.mark.parametrize(
    ("union", "shown"),
    [
        (f.CoordinatorRequest, COORDINATOR_REQUESTS),
        (f.SupervisorRequest, SUPERVISOR_REQUESTS),
        (f.CoordinatorAnswer, COORDINATOR_ANSWERS),
        (f.SupervisorAnswer, SUPERVISOR_ANSWERS),
        (f.NodeRequestBody, NODE_BODIES),
        (f.NodeAnswerBody, NODE_ANSWER_BODIES),
    ],
)
def test_no_kind_of_message_is_left_out_above(union: Any, shown: list[tuple[Any, str]]) -> None:
    assert {type(message) for message, _ in shown} == set(get_args(union))


@pytest.mark.parametrize(("kind", "message", "golden"), CASES, ids=name)
def test_every_truncation_and_every_tail_is_refused(kind: f.FrameType[Any], message: Any, golden: str) -> None:
    frame = bytes.fromhex(golden)
    for cut in range(len(frame)):
        with pytest.raises(CorruptData):
            kind.decode(frame[:cut])
    with pytest.raises(CorruptData):
        kind.decode(frame + b"\xc0")


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(KINDS), st.binary(max_size=80), st.booleans())
@example(f.coordinator_answers, b"\x92\xa4Told\xa2\xff\xfe", True)  # text that is not UTF-8
@example(f.coordinator_answers, b"\x92\xa4Told\x81\xa2\xff\xfe\x01", True)
@example(f.coordinator_answers, b"\x92\xa2\xff\xfe\x01", True)
@example(f.coordinator_answers, b"\x92\xa4Told" + b"\x91" * 200_000 + b"\x01", True)  # depth
@example(f.coordinator_answers, b"\x92\xa7GotMany\xdd\xff\xff\xff\xff", True)  # a length that is a lie
@example(f.coordinator_answers, b"\x92\xa4Told\x81\x80\x01", True)  # a dict as a dict's key
@example(f.node_requests, b"", True)
def test_random_bytes_are_corrupt_and_nothing_else(kind: f.FrameType[Any], data: bytes, versioned: bool) -> None:
    with contextlib.suppress(CorruptData):
        kind.decode(b"\x01" + data if versioned else data)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(CASES), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_frame_with_bytes_changed_is_corrupt_or_another_message(
    case: tuple[f.FrameType[Any], Any, str], changes: list[tuple[int, int]]
) -> None:
    kind, _, golden = case
    frame = bytearray.fromhex(golden)
    for at, value in changes:
        frame[at % len(frame)] = value
    try:
        message = kind.decode(bytes(frame))
    except CorruptData:
        return
    assert isinstance(message, msgspec.Struct)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused_by_name(version: int) -> None:
    frame = f.node_requests.encode(f.NodeRequest(0, f.Ping()))
    with pytest.raises(CorruptData, match=f"version {version}"):
        f.node_requests.decode(bytes([version]) + frame[1:])


def test_a_message_of_another_conversation_is_refused() -> None:
    frame = f.coordinator_requests.encode(f.IndirectProbe("n1", 1.0))
    for kind in (f.supervisor_requests, f.node_requests, f.coordinator_answers, f.node_answers):
        with pytest.raises(CorruptData):
            kind.decode(frame)


def test_a_pickle_is_no_frame() -> None:
    for data in (pickle.dumps({"a": 1}), b"\x01" + pickle.dumps({"a": 1})):
        for kind in KINDS:
            with pytest.raises(CorruptData):
                kind.decode(data)


def test_a_frame_has_a_largest_size_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    message = f.GotMany([f.KeyVersions([b"x" * 100])])
    frame = f.coordinator_answers.encode(message)
    monkeypatch.setattr(codec, "MAX_FRAME_BYTES", len(frame))
    assert f.coordinator_answers.decode(f.coordinator_answers.encode(message)) == message
    monkeypatch.setattr(codec, "MAX_FRAME_BYTES", len(frame) - 1)
    with pytest.raises(CorruptData, match=str(len(frame))):
        f.coordinator_answers.encode(message)
    with pytest.raises(CorruptData, match=str(len(frame))):
        f.coordinator_answers.decode(frame)


def test_an_error_travels_as_data() -> None:
    error = WriteOutcomeUnknown("two of three", operation_id="ab", acks=["n1"])
    back = f.coordinator_answers.decode(f.coordinator_answers.encode(f.Refused(f.Failed.of(error))))
    assert isinstance(back, f.Refused)
    raised = back.failed.error()
    assert isinstance(raised, WriteOutcomeUnknown)
    assert (raised.message, raised.operation_id, raised.acks) == ("two of three", "ab", ("n1",))
    assert type(f.Failed("NoSuchError", "m", {}).error()) is RaykvError
    assert isinstance(FAILED.error(), QuorumNotMet)


def test_messages_are_immutable() -> None:
    with pytest.raises(AttributeError):
        f.Ping().with_stats = True  # type: ignore[misc]


@pytest.mark.parametrize("incarnation", [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**40])
def test_a_request_says_what_it_is_without_being_decoded(incarnation):
    for body in (f.Ping(), f.Read(1, [b"k"]), f.Write(1, [(b"Read", b"r")]), f.DropUnowned(), f.Gossip("n1", {})):
        frame = f.node_requests.encode(f.NodeRequest(incarnation, body, None, 2**33))
        assert f.kind_of_request(frame) == type(body).__name__.encode()


def test_what_is_no_request_is_of_no_kind():
    for frame in (b"", b"\x00", b"\xff" * 14, b"x" * 40, f.node_requests.encode(f.NodeRequest(1, f.Ping()))[:14]):
        assert f.kind_of_request(frame) not in {b"Read", b"Write", b"Ping"}
