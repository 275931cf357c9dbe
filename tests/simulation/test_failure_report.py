import msgspec
import pytest

from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, pack_tombstone_body, stamp
from raykv.sim.host import EPOCH_MS
from raykv.sim.trace import Event
from raykv.versions import time_from_ms
from raykv.versions.causality import NOTHING_SEEN, Causality, pack_causality
from raykv.versions.dvvset import event
from simulation.drawing import draw
from simulation.excerpt import Gap, excerpt
from simulation.failure_report import history_of, make_of, moments_of, report
from simulation.history import Violation
from simulation.message_text import Interpreter, brief, moment, short
from simulation.run import Outcome
from simulation.sequence_chart import WIDTH, World, chart

AT = time_from_ms(EPOCH_MS + 1500)
A1 = encode_key("a1")


def record(value, time=AT):
    return stamp(pack_body(b"o" * 16, b"\x01" + value.encode()), time)


def asks(number, target, body, source="coordinator", what="asks", at_s=1.0):
    if target.startswith("node/"):
        frame = f.node_requests.encode(f.NodeRequest(2, body))
    else:
        frame = f.coordinator_requests.encode(body)
    return Event(at_s, what, source, target, number, frame)


def answers(number, source, body, target="coordinator", at_s=1.01):
    if source.startswith("node/"):
        frame = f.node_answers.encode(f.NodeAnswer(2, body))
    else:
        frame = f.coordinator_answers.encode(body)
    return Event(at_s, "answers", source, target, number, frame)


def said(*events, key=None):
    interpreter = Interpreter(key)
    return [interpreter.said(event) for event in events][-1]


def outcome_of(*events):
    return Outcome(
        seed=1,
        violations=[],
        trace_hash="",
        virtual_s=2.0,
        operations=0,
        events=len(events),
        counts={},
        trace=[*events],
    )


def test_names_values_and_times_are_short():
    assert [short(name) for name in ("node/n2", "coordinator", "coordinator2", "supervisor", "client3", "client-last")] == [
        "n2", "co1", "co2", "sup", "c3", "last",
    ]  # fmt: skip
    assert brief("client1.14@a1......") == "c1.14"
    assert moment(AT) == "@1.500"
    assert moment(AT + 3) == "@1.500+3"


def test_messages_to_nodes_in_words():
    write = asks(1, "node/n1", f.Write(1, [(A1, record("client1.3@a1..."))]))
    assert said(write).words == "write a1=c1.3@1.500 [run 2]"
    assert said(write, answers(1, "node/n1", f.WriteDone([0]))).words == "a1 kept [run 2]"
    assert said(write, answers(1, "node/n1", f.WriteDone([AT + 1]))).words == "a1 newer held @1.500+1 [run 2]"
    read = asks(2, "node/n1", f.Read(1, [A1, encode_key("b1")]))
    assert said(read).words == "read a1, b1 [run 2]"
    gone = stamp(pack_tombstone_body(b"o" * 16), AT)
    assert (
        said(read, answers(2, "node/n1", f.ReadDone([gone, None]))).words == "a1=deleted~6f6f@1.500, b1=absent [run 2]"
    )
    assert said(read, answers(2, "node/n1", f.ReadDone([None, None], [0]))).words.startswith("a1=unreadable")
    assert said(read, answers(2, "node/n1", f.NodeRefused("moved", "x"))).words == "refused moved: x [run 2]"
    assert said(asks(3, "node/n1", f.Ping())).topic == "life"
    assert said(asks(3, "node/n1", f.PrepareState(4))) == ("prepare generation 4 [run 2]", "state", True)


def test_messages_of_clients_in_words():
    put = asks(1, "coordinator", f.WriteMany(1, [(A1, record("client1.3@a1")[9:], None)], 2, 1.0), source="client1")
    assert said(put).words == "put a1=c1.3 w=2"
    done = answers(1, "coordinator", f.WroteMany([f.Acked(b"o" * 16, ["n1", "n2"], NOTHING_SEEN)]), target="client1")
    assert said(put, done).words == "a1 acked by n1,n2"
    get = asks(2, "coordinator", f.GetMany(1, [A1], 2, 1.0), source="client1")
    got = answers(2, "coordinator", f.GotMany([f.KeyVersions([b"\x01client1.3@a1"])]), target="client1")
    assert said(get, got).words == "a1=c1.3"
    two = answers(
        2, "coordinator", f.GotMany([f.KeyVersions([b"\x01client1.3@a1", b"\x01client2.1@a1"])]), target="client1"
    )
    assert said(get, two).words == "a1=c1.3 | c2.1"
    none = answers(2, "coordinator", f.GotMany([f.KeyVersions([])]), target="client1")
    assert said(get, none).words == "a1=absent"


def test_messages_about_versions_in_words():
    actor, seen = b"\xab\xcd" + bytes(6), ((b"\xab\xcd" + bytes(6), 1, 3),)
    packed = pack_causality(Causality(AT, seen))
    put = asks(1, "coordinator", f.WriteMany(1, [(A1, record("client1.3@a1")[9:], packed)], 2, 1.0), source="client1")
    assert said(put).words == "put a1=c1.3 having seen {abcd.1-3} w=2"
    reserve = asks(2, "node/n1", f.ReserveDots(1, [A1], [b"o" * 16]))
    assert said(reserve).words == "reserve a1 dot [run 2]"
    given = answers(2, "node/n1", f.DotsReserved([f.Reserved(actor, 4, packed, 1, 60)]))
    assert said(reserve, given).words == "a1 given abcd.4 over {abcd.1-3} [run 2]"
    version = vector.encode(event((actor, 4), seen, AT, record("client1.3@a1")[9:]))
    assert (
        said(asks(3, "node/n1", f.Write(1, [(A1, version)]))).words
        == "write a1=c1.3@1.500(abcd.4) over {abcd.1-4} [run 2]"
    )


def test_a_frame_that_does_not_decode_is_said_to_be_one():
    broken = Event(1.0, "asks", "coordinator", "node/n1", 7, b"\x01nonsense")
    assert said(broken).words == "a request that does not decode"
    assert said(broken, Event(1.0, "answers", "node/n1", "coordinator", 7, b"")).words == "raised: not ready to serve"


def test_with_a_key_only_what_concerns_it_counts():
    both = asks(1, "node/n1", f.Read(1, [encode_key("b1"), A1]))
    assert said(both, key="a1").words == "read a1 +1 [run 2]"
    assert said(both, key="a1").concerns
    assert not said(both, key="c1").concerns
    assert not said(both, answers(1, "node/n1", f.ReadDone([None, None])), key="c1").concerns
    scan = asks(2, "node/n1", f.Scan(1, encode_key("a"), encode_key("b"), 10, False, False, [0]))
    assert said(scan, key="a1").concerns
    assert not said(scan, key="b1").concerns


def test_a_ladder_is_drawn():
    events = [
        Event(0.5, "runs as incarnation 2", "node/n1", "", 0, b""),
        asks(1, "node/n2", f.Write(1, [(A1, record("client1.3@a1"))])),
        asks(1, "node/n2", f.Write(1, [(A1, record("client1.3@a1"))]), what="asks, lost"),
        asks(2, "node/n1", f.Read(1, [encode_key("b1")])),
        asks(3, "node/n3", f.Read(1, [A1]), at_s=1.2),
        answers(1, "node/n2", f.WriteDone([0]), at_s=1.5),
        Event(1.6, "fault: kill  0", "nemesis", "n2", 0, b""),
        Event(1.7, "gives up", "coordinator", "node/n3", 3, b""),
        asks(4, "node/n2", f.Read(1, [A1]), at_s=1.8),
        Event(1.9, "is absent, lost", "node/n2", "coordinator", 4, b""),
    ]
    assert chart(outcome_of(*events), 1.5, key="a1").splitlines() == [
        "             co1     n2      n3",
        "   0.5000 == n1 runs as incarnation 2 ==",
        "   1.0000     o------>|       |     write a1=c1.3@1.500 [run 2]",
        "   1.0000     o---x   |       |     once more: write a1=c1.3@1.500 [run 2]",
        "   1.2000     o-------+------>|     read a1 [run 2]   -- never answered",
        "   1.5000     |<------o       |     a1 kept [run 2]   (0.50 s after it was asked)",
        "   1.6000 == FAULT n2: kill ============",
        "   1.7000     X               |     waits no longer for n3",
        "   1.8000     o------>        |     read a1 [run 2]",
        "   1.9000     |   x---o       |     no such process runs",
    ]
    assert "read b1" in chart(outcome_of(*events), 1.5)
    assert "read" not in chart(outcome_of(*events), 1.5, topics=["state"])


def test_what_is_left_out_is_said():
    rows = [World(float(number), "") for number in range(100)]
    kept = excerpt(rows, [20.0, 60.0], 20)
    gaps = [row for row in kept if isinstance(row, Gap)]
    times = [row.at_s for row in kept if isinstance(row, World)]
    assert len(times) == 20
    assert {19.0, 20.0, 59.0, 60.0} <= set(times)
    assert sum(gap.rows for gap in gaps) == 80
    assert gaps[-1].describe() == "... 37 more, from 63.0000 to 99.0000 s ..."
    assert excerpt(rows[:5], [], 20) == rows[:5]


def test_the_times_that_a_violation_names_are_its_moments():
    text = "client1 was told that it wrote 'x' by 9.7068 s; at 17.5911 s client2 asked and read 'y'"
    assert moments_of(Violation("lost or stale", "a1", text, 17.6)) == [17.6, 9.7068, 17.5911]


def test_the_report_of_a_failing_run(failing):
    found = failing.violations[0]
    text = report(failing, "scripts/simulate --seed 1 --weak")
    assert text.startswith(f"seed {failing.seed}: {found.rule}, {found.key}, at")
    assert "again:     scripts/simulate --seed 1 --weak" in text
    assert found.text in text
    assert "r=1, w=1" in text
    marked = [line for line in text.splitlines() if line.startswith(">>")]
    assert len(marked) >= 2, "the operation before and the one that went wrong"
    assert f"the messages about {found.key}" in text
    assert "kept" in text
    drawn = text[text.index("the messages about") :].splitlines()
    assert max(map(len, drawn)) <= WIDTH
    assert len(text.splitlines()) < 250
    assert text == report(failing, "scripts/simulate --seed 1 --weak"), "the same each time"


def test_the_story_has_stamps_and_faults(failing):
    text = history_of(failing, failing.violations[0].key, limit=10_000)
    assert "stamped @" in text
    assert "which has @" in text
    assert "runs as incarnation 1" in text
    assert "all heals" in text
    assert "more, from" not in text
    assert "more, from" in history_of(failing, failing.violations[0].key, limit=10)


@pytest.mark.parametrize("rule", ["two states", "not up again", "raised KeyError"])
def test_a_violation_of_no_key_is_reported(failing, rule):
    other = msgspec.structs.replace(failing, violations=[Violation(rule, "", "something", 3.0)] * 9)
    text = report(other)
    assert text.startswith(f"seed {failing.seed}: {rule}, at 3.0000 s\n  something\n  and {rule}: something\n")
    assert "  and 3 more" in text
    assert rule != "two states" or "keeps" in text, "what goes to and from the registers"


def test_a_run_with_nothing_to_show_is_reported():
    bare = Outcome(
        seed=3, violations=[Violation("raised X", "", "no luck")], trace_hash="", virtual_s=0, operations=0, events=0,
        counts={},
    )  # fmt: skip
    assert report(bare) == "seed 3: raised X, at 0.0000 s\n  no luck\nagain:     scripts/simulate --seed 3"
    assert report(msgspec.structs.replace(bare, violations=[])) == "seed 3: nothing is wrong"


def test_the_make_of_any_scenario_is_described():
    for seed in range(50):
        scenario = draw(seed)
        assert len(make_of(scenario)) <= 47
        assert f"{scenario.cluster.nodes} nodes" in make_of(scenario)[0]
