"""Each finding, from a healthy store with one thing made wrong; each says what to do."""

from __future__ import annotations

import copy

import pytest

from raykv import sim
from raykv.metrics.diagnosis import HostReport, diagnosis

HOST = HostReport(
    host="h1", raykv="1", ray="2", python="3", clock_ahead_s=0.01, clock_error_s=0.02, descriptors=65_536,
    disk_free_bytes=50 << 30, disk_bytes=100 << 30, leftovers={},
)  # fmt: skip
OWN = {"raykv": "1", "ray": "2", "python": "3"}


@pytest.fixture(scope="module")
def healthy():
    with sim.start(seed=2, nodes=3) as world:
        store = world.connect()
        store.put_many({f"k{number}": number for number in range(50)})
        world.sleep(20)
        for number in range(20):
            store.put("k1", number)
        world.sleep(11)
        store.get("k1")
        return store.status(), store.ring()


def found(healthy, change=lambda status, ring: None, **more):
    status, ring = copy.deepcopy(dict(healthy[0])), copy.deepcopy(dict(healthy[1]))
    change(status, ring)
    findings = diagnosis(status, ring, **more)
    assert all(each.do and each.what and each.subject for each in findings)
    return [(each.severity, each.subject, each.what) for each in findings]


def test_a_healthy_store_has_nothing(healthy):
    security = {"token": True, "tls": True}
    assert found(healthy, hosts=[HOST], own=OWN, security=security, running=["simulated"]) == []


def one(healthy, severity, subject, words, change=lambda status, ring: None, **more):
    findings = found(healthy, change, **more)
    assert any((each[0], each[1]) == (severity, subject) and words in each[2] for each in findings), findings


def test_nodes_down_and_partitions_without_their_owners(healthy):
    def down(*ids):
        def change(status, _):
            for node in status["nodes"]:
                if node["node_id"] in ids:
                    node |= {"state": "down", "cause": "its process has ended", "storage": None}

        return change

    one(healthy, "critical", "node n1", "down: its process has ended", down("n1"))
    one(healthy, "warning", "partitions", "32 of 32 have fewer than 3 owners", down("n1"))
    one(healthy, "critical", "partitions", "32 of 32 have no majority", down("n1", "n2"))
    assert found(healthy, down("n1", "n2"))[0][0] == "critical", "the worst first"


def on_storage(**changes):
    def change(status, _):
        status["nodes"][0]["storage"] |= changes

    return change


@pytest.mark.parametrize(
    ("severity", "words", "changes"),
    [
        ("critical", "it is full", {"disk": {"full": "it is full", "free_bytes": 0, "path": "/d", "failing": ""}}),
        ("warning", "MiB are free", {"disk": {"full": "", "free_bytes": 5 << 20, "path": "/d", "failing": ""}}),
        ("critical", "flush fails", {"disk": {"full": "", "free_bytes": 5 << 40, "path": "/d", "failing": "flush fails"}}),
        ("warning", "lacks data", {"complete": False}),
        ("warning", "2 corrupt places, such as a.sst", {"damage": ["a.sst", "b.sst"]}),
        ("warning", "31 sorted runs", {"runs": 31}),
        ("warning", "3 memtables wait", {"sealed_memtables": 3}),
        ("critical", "9 MiB of tables are due to be merged, and only 5 MiB", {
            "compaction_debt_bytes": 9 << 20, "disk": {"full": "", "free_bytes": 5 << 20, "path": "/d", "failing": ""}}),
        ("note", "7 hints for n2", {"hints": {"n2": 7}}),
        ("warning", "takes 900 ms", {"load": {"ops_per_s": 5.0, "p99_ms": 900.0, "partitions": [], "keys": []}}),
        (
            "warning", "partition 3 takes 80% of its operations; hot keys: 'k' of bucket 'b'",
            {"load": {"ops_per_s": 1000.0, "p99_ms": 1.0, "partitions": [[3, 800.0]],
                      "keys": [{"bucket": "b", "key": "k", "ops_per_s": 700.0}]}},
        ),
    ],
)  # fmt: skip
def test_what_a_node_reports(healthy, severity, words, changes):
    one(healthy, severity, f"node {healthy[0]['nodes'][0]['node_id']}", words, on_storage(**changes))


def test_restarts_silence_and_moves(healthy):
    def restarted(status, _):
        status["nodes"][0]["restarts"] = 5

    def silent(status, _):
        status["nodes"][0]["storage"] = None

    one(healthy, "warning", "node n1", "restarted 5 times", restarted)
    one(healthy, "warning", "node n1", "does not answer", silent)
    for severity, words, more in (
        ("warning", "paused with 4", {"paused": True}),
        ("warning", "4 partitions wait: n3", {"waits_for": "n3"}),
        ("note", "4 partitions are still to move", {}),
    ):
        moving = {"partitions_left": 4, "paused": False, "waits_for": "", "step": ""} | more
        one(healthy, severity, "rebalancing", words, lambda status, _, m=moving: status.update(rebalancing=m))


def test_copies_on_one_host(healthy):
    def one_host(_, ring):
        for member in ring["members"]:
            member["host"] = "h1"

    one(healthy, "note", "copies", "fewer hosts", one_host)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("it has raykv 9", {"raykv": "9"}),
        ("it has python 9", {"python": "9"}),
        ("2.0 s ahead of", {"clock_ahead_s": 2.0}),
        ("2.0 s behind", {"clock_ahead_s": -2.0}),
        ("256 files only", {"descriptors": 256}),
        ("95% full", {"disk_free_bytes": 5 << 30}),
        ("others than its owner", {"world_writable": True}),
        ("0.5% of its number of files", {"files_free_share": 0.005}),
        ("lies in memory", {"in_memory": True}),
    ],
)
def test_what_a_host_reports(healthy, words, changes):
    one(healthy, "warning", "host h1", words, hosts=[HOST._replace(**changes)], own=OWN)


def test_labels_and_what_left_nodes_have_left(healthy):
    def zones(*names):
        def change(_, ring):
            for member, zone in zip(ring["members"], names, strict=True):
                member["zone"] = zone

        return change

    ids = [member["node_id"] for member in healthy[1]["members"]]
    one(healthy, "warning", "labels", f"nodes {ids[1]} have no zone", zones("a", "", "b"))
    one(healthy, "note", "labels", "in 2 zones, fewer than the 3 copies", zones("a", "b", "b"))
    assert found(healthy, zones("a", "b", "c")) == []
    there = {member["host"]: ["10.0.0.1"] for member in healthy[1]["members"]}
    assert found(healthy, machines=there) == []
    host = healthy[0]["nodes"][0]["host"]
    one(
        healthy,
        "warning",
        "labels",
        "10.0.0.1, 10.0.0.2 are all labelled",
        machines=there | {host: ["10.0.0.2", "10.0.0.1"]},
    )
    del there[host]
    one(healthy, "warning", "labels", f"belongs to host {host}, which no machine is called now", machines=there)
    one(healthy, "note", "host h1", "nodes/n4.left-1", hosts=[HOST._replace(aside=["/d/nodes/n4.left-1"])], own=OWN)


def test_errors_that_are_the_stores_doing_are_told_and_callers_are_not(healthy):
    def failed(**counts):
        return lambda status, _: status["clients"].update(counters={f"errors.{name}": n for name, n in counts.items()})

    one(healthy, "note", "clients", "7 QuorumNotMet, 2 Overloaded", failed(Overloaded=2, QuorumNotMet=7))
    assert found(healthy, failed(Conflict=9, InvalidOption=3)) == []


def test_an_uncertain_clock_is_no_finding(healthy):
    assert found(healthy, hosts=[HOST._replace(clock_ahead_s=2.0, clock_error_s=3.0)], own=OWN) == []


def test_silent_hosts_leftovers_and_security(healthy):
    one(healthy, "warning", "host h2", "did not say within 10 s", silent={"h2": "did not say within 10 s"})
    left = HOST._replace(leftovers={"/data/old": "old", "/data/simulated": "simulated"})
    findings = found(healthy, hosts=[left], own=OWN, running=["simulated"])
    assert [each for each in findings if "old" in each[2]] == findings
    one(healthy, "note", "security", "token authentication is off", security={"token": False, "tls": True})
    one(healthy, "note", "security", "TLS is off", security={"token": True, "tls": False})
