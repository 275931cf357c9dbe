"""The long runs of scripts/, in their short form."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray_starts import run_python

from benchmarks.timing import longer_until
from rounds.changes import Answers, as_words
from rounds.holders import Tenancy, Told, present_holder, read, violations
from rounds.percentiles import p99_ms, times
from simulation.change_checker import ChangeOp

LONG_PARTS = ("queue", "values", "data")
"""Parts of the benchmark that take a minute each, also in their quick form: with --long alone."""
SCRIPTS = Path(__file__).parent.parent / "scripts"


def run(script: str, *words: str) -> str:
    done = run_python(SCRIPTS / script, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
def test_rounds_of_kill_and_verify_lose_nothing() -> None:
    shown = run("kill_rounds.py", "--rounds", "3", "--seed", "3")
    figures = json.loads(shown[shown.index("{\n") : shown.rindex("}") + 1])
    assert figures["rounds"] == 3
    assert figures["lost"] == 0
    assert figures["acknowledged"] > 0


@pytest.mark.ray
def test_rounds_of_faults_lose_nothing(tmp_path: Path) -> None:
    kinds = "kill,freeze,wipe,corrupt,supervisor,all"
    run("fault_rounds.py", "--rounds", "6", "--seed", "3", "--faults", kinds, "--json", str(tmp_path / "faults.json"))
    figures = json.loads((tmp_path / "faults.json").read_text())
    assert {name: row["rounds"] for name, row in figures["faults"].items()} == dict.fromkeys(kinds.split(","), 1)
    assert figures["lost"] == 0
    assert figures["acknowledged"] > 0


@pytest.mark.ray
@pytest.mark.parametrize("how", [("signal",), ("alarm,thread", "--threads", "2", "--switch-us", "50")])
def test_after_an_interrupted_call_the_next_one_works(how: tuple[str, ...]) -> None:
    calls = "get,put,modify,get_many,put_many,scan,status,anew"
    shown = run("interrupts.py", "--rounds", "15", "--calls", calls, "--way", *how)
    rows = [json.loads(line) for line in shown.splitlines()]
    every = [(way, name, 15) for way in how[0].split(",") for name in calls.split(",")]
    assert [(row["way"], row["call"], row["rounds"]) for row in rows] == every


@pytest.mark.ray
def test_what_the_benchmark_measures_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool) -> None:
    """All in one run of some minutes, hence in one test: processes of tests share no fixture."""
    monkeypatch.setenv("PATH", str(tmp_path))  # neither Redis nor etcd
    parts = ("floors", "ycsb", "linearizable", "scans", "commands", *(LONG_PARTS if long else ()))
    shown = run("bench.py", *parts, "--quick", "--json", str(tmp_path / "bench.json"))
    found = json.loads((tmp_path / "bench.json").read_text())
    names_the_missing_sides(found, shown)
    has_linearizable_buckets(found["linearizable"], shown)
    has_scans(found["scans"], shown)
    has_commands(found["commands"], shown)
    becomes_a_table_and_plots(found, tmp_path)
    if long:
        has_arrays_and_tables(found["values"], shown)
        has_queues(found["queue"], shown)
        has_ray_data(found["data"], shown)


def names_the_missing_sides(found: dict[str, Any], shown: str) -> None:
    assert "apt install redis-server" in found["skipped"]["Redis"]
    assert found["skipped"]["Redis"] in shown
    rows = {row["name"]: row for row in found["floors"]["rows"]}
    assert {"get_actor", "at_once_actor", "tail", "frozen", "slow", "overload"} == set(rows)
    assert rows["get_actor"]["ratio"]["median"] > 0
    assert rows["at_once_actor"]["ratio"]["median"] > 0
    assert rows["frozen"]["amiss"] == 0
    assert rows["overload"]["outcomes"]["ok"] > 0
    assert found["floors"]["beside"]["get_many, 1,000 a call"]["raykv"]["median"] > 0
    assert found["floors"]["beside"]["put_many, 1,000 a call"]["raykv"]["median"] > 0


def has_linearizable_buckets(found: dict[str, Any], shown: str) -> None:
    rows = {row["name"]: row for row in found["rows"]}
    assert {"add", "get", "add_actor", "add_keys", "update", "slowest"} <= set(rows)
    assert rows["update"]["amiss"] == 0
    assert [gap["name"] for gap in found["gaps"]] == ["killed", "frozen", "moved"]
    assert all(gap["amiss"] == 0 < gap["gap_s"]["median"] for gap in found["gaps"])
    assert all(row["what"] in shown for row in (*found["rows"], *found["gaps"]))


def has_scans(found: dict[str, Any], shown: str) -> None:
    assert found["records"] == 2_000
    assert len(found["rows"]) == 7
    assert all(min(row.get("per_s", 1), row.get("p50_ms", 1)) > 0 for row in found["rows"])
    assert all(row["what"] in shown for row in found["rows"])
    assert found["ycsb_e"]["raykv"]["median"] > 0


def becomes_a_table_and_plots(found: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- figures of scripts/bench: begin -->\nold\n<!-- figures of scripts/bench: end -->\nafter\n"
    )
    run("bench.py", "--from", str(tmp_path / "bench.json"), "--readme", str(page), "--plots", str(tmp_path / "plots"))
    text = page.read_text()
    assert text.startswith("before\n<!--")
    assert text.endswith("-->\nafter\n")
    assert "old" not in text
    assert [line[:4] for line in text.splitlines() if line.startswith("| ") and line[3] == " "] == [
        f"| {w} " for w in "ABCDEF"
    ]
    assert all(figures["raykv"]["ops_per_s"]["median"] > 0 for figures in found["ycsb"]["workloads"].values())
    assert (tmp_path / "plots" / "ycsb.svg").read_text().startswith("<svg")


def test_a_window_in_which_nothing_was_done_is_longer_the_next_time() -> None:
    """On a busy machine; else a rate of nothing is what another one is divided by."""
    tried: list[float] = []

    def measure(duration_s: float) -> int:
        tried.append(duration_s)
        return len(tried) - 1

    assert longer_until(measure, lambda found: found > 1, 0.5) == 2
    assert tried == [0.5, 1.0, 2.0]
    with pytest.raises(RuntimeError, match="too busy to measure"):
        longer_until(measure, lambda found: found < 0, 0.5)


def test_a_percentile_of_next_to_nothing_keeps_no_bound() -> None:
    assert [p99_ms(took) for took in ([], [0.1], [0.1, 0.1])] == [math.inf, math.inf, pytest.approx(100)]
    assert [times(6.0, 2.0), times(math.inf, 2.0), times(6.0, math.inf)] == [3.0, math.inf, math.inf]
    assert p99_ms([0.001] * 200 + [1.0]) == pytest.approx(1.0)


def test_engines_are_measured_in_turn_and_held_against_rocksdb(tmp_path: Path) -> None:
    pytest.importorskip("rocksdict", reason="RocksDB is measured where pip install 'raykv[bench]' was run")
    shown = run("bench.py", "engine", "--quick", "--json", str(tmp_path / "bench.json"))
    found = json.loads((tmp_path / "bench.json").read_text())["engine"]
    assert found["records"] == 2_000
    kinds = {
        "load_synced",
        "load_unsynced",
        "cold_get",
        "absent",
        "hot_get",
        "full_scan",
        "size_on_disk",
        "peak_memory",
    }
    for name in {"raykv", "RocksDB", "LMDB", "SQLite", "raykv, one process", "raykv, zstd"} - set(found["skipped"]):
        assert set(found["sides"][name]) == kinds
        assert all(figures["median"] > 0 for figures in found["sides"][name].values())
    rows = [row for row in found["rows"] if row["side"] == "raykv"]
    assert {row["name"] for row in rows} == kinds
    assert all(row["ratio"]["median"] > 0 and row["verdict"] in ("aim", "floor", "missed") for row in rows)
    assert all(f"{row['floor']:g}" in shown for row in rows)


def test_engines_that_are_not_installed_are_left_out_with_a_word() -> None:
    blocked = "import importlib.util as u, sys, json; real = u.find_spec; u.find_spec = lambda n: None if n in "
    blocked += "('rocksdict', 'lmdb', 'zstandard') else real(n); from benchmarks import engine; "
    blocked += "print(json.dumps(engine.measure(1, quick=True, report=lambda _: None)))"
    done = subprocess.run([sys.executable, "-c", blocked], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(found["sides"]) == {"raykv", "SQLite", "raykv, one process"}
    assert "pip install 'raykv[bench]'" in found["skipped"]["RocksDB"]
    assert all(row["ratio"] is None for row in found["rows"])


def test_the_fuzzer_runs_and_shows_an_input_again(tmp_path: Path) -> None:
    assert "all held" in run("fuzz.py", "frame", "identity", "--inputs", "2000", "--plain")
    (tmp_path / "input").write_bytes(b"any")
    assert "by name" in run("fuzz.py", "manifest", "--input", str(tmp_path / "input"))


@pytest.mark.ray
def test_the_benchmark_compares_this_tree_with_another(tmp_path: Path) -> None:
    shown = run("bench.py", "--against", str(SCRIPTS.parent), "--quick", "--json", str(tmp_path / "against.json"))
    rows = json.loads((tmp_path / "against.json").read_text())
    assert {"get", "put", "get_many", "put_many"} < {row["name"] for row in rows}
    for row in rows:
        assert row["name"] in shown
        assert row["client"]["theirs_us"] > 0 < row["nodes"]["ours_us"]


def has_commands(found: dict[str, Any], shown: str) -> None:
    assert {"raykv get", "raykv status"} <= {row["what"] for row in found["rows"]}
    assert all(
        row["what"] in shown and row["straight"]["median"] > 0 < row["by Ray"]["median"] for row in found["rows"]
    )


def has_arrays_and_tables(found: dict[str, Any], shown: str) -> None:
    assert {"1,000 floats", "100 x 100 float32"} <= {row["what"] for row in found["codec"]}
    for row in found["codec"]:
        assert row["what"] in shown
        assert row["encode"]["ratio"]["median"] > 0 < row["decode"]["ratio"]["median"]
        assert 0 < row["raykv_bytes"] < row["pickle_bytes"] + 500
    for row in found["stored"]:
        assert row["put"]["raykv_us"]["median"] > 0 < row["get"]["pickle_us"]["median"]
    assert [row["pair_bytes"] for row in found["pairs"]] == [1_000, 10_240, 102_400, 1_048_576]
    assert all(row["put"]["p50_ms"] > 0 < row["node_mib"]["after"] for row in found["pairs"])


def has_queues(found: dict[str, Any], shown: str) -> None:
    assert found["killed"]["missing"] == 0
    assert all(row["what"] in shown for row in found["rows"])


def has_ray_data(found: dict[str, Any], shown: str) -> None:
    assert found["records"] == found["killed"]["written"] == 4000
    assert [row["target"] for row in found["rows"]] == [0.7, 0.7, 3.0]
    assert all(row["ratio"]["median"] > 0 for row in found["rows"])
    assert "equal, each exactly once" in shown


@pytest.mark.ray
def test_answers_to_clients_while_processes_are_killed_are_consistent() -> None:
    shown = run("consistency.py", "--operations", "4000", "--seed", "3")
    figures = json.loads(shown[shown.index("{\n") : shown.rindex("}") + 1])
    assert figures["reported"] == 0
    assert figures["kills"] > 0
    assert figures["outcomes"]["put ok"] > 200
    assert max(map(int, figures["values_shown_by_a_read"])) > 1, "siblings were seen"


@pytest.mark.ray
def test_with_one_copy_a_read_and_a_write_the_checker_reports() -> None:
    shown = run("consistency.py", "--operations", "12000", "--seed", "3", "--weak")
    figures = json.loads(shown[shown.index("{\n") : shown.rindex("}") + 1])
    assert figures["reported"] > 0


@pytest.mark.ray
def test_linearizable_buckets_are_so_while_leaders_and_holders_are_killed(tmp_path: Path) -> None:
    short = ("--operations", "1200", "--every", "2", "--adds", "20", "--acquisitions", "10")
    written = tmp_path / "history.jsonl"
    run("linearizable_rounds.py", *short, "--history", str(written), "--json", str(tmp_path / "rounds.json"))
    figures = json.loads((tmp_path / "rounds.json").read_text())
    assert all(figures[part]["violations"] == [] for part in ("history", "tasks", "lock"))
    assert figures["history"]["lost"] == 0
    assert sum(figures["history"]["faults"].values()) > 0
    assert figures["history"]["outcomes"]["update ok"] > 10
    assert figures["tasks"]["counted"] == 8 * 20
    assert figures["lock"]["writes"]["ok"] > 10
    first = json.loads(written.read_text().splitlines()[0])
    assert {"client", "kind", "key", "invoked_s", "returned_s", "outcome", "version"} <= set(first)


def tenancy(holder: str, token: int, acquired_s: float, held_s: float) -> Tenancy:
    return Tenancy(holder, 1, token, acquired_s - 0.1, acquired_s, held_s, True)


def write(holder: str, token: int, began_s: float, version: int, outcome: str = "ok") -> ChangeOp:
    return ChangeOp(
        holder, "put", "lf1", began_s, began_s + 0.1, outcome, given=f"{token}@{holder}", fence=token,
        got=None if outcome == "ok" else "2@b", version=version.to_bytes(24),
    )  # fmt: skip


def test_what_must_not_happen_to_a_lock_is_reported() -> None:
    first, second = tenancy("a", 1, 1.0, 2.0), tenancy("b", 2, 3.0, 4.0)
    calls = [write("a", 1, 1.1, 1), write("b", 2, 3.1, 2), write("a", 1, 5.0, 2, "fenced")]
    assert violations(Told([first, second], calls)) == []
    (told,) = violations(Told([first, tenancy("b", 1, 3.0, 4.0)], []))
    assert "token 1 was held by a and by b" in told
    (told,) = violations(Told([first._replace(held_s=3.2), second], []))
    assert "b acquired token 2" in told
    assert "a still held token 1" in told
    late = [*calls[:2], write("a", 1, 5.0, 3)]
    told = "; ".join(violations(Told([first, second], late)))
    assert "a write under token 1 stands after one under 2" in told
    assert "not linearizable" in told


def test_journals_are_read_up_to_where_their_writer_was_killed(tmp_path: Path) -> None:
    made = write("a", 7, 1.1, 1)
    begun = made._replace(returned_s=math.inf, outcome="unknown", version=None)
    lines = [
        {"what": "acquired", "holder": "a", "token": 7, "asked_s": 0.5, "at_s": 1.0, "pid": 4711},
        {"what": "call", "number": 1, "call": as_words(begun)},
        {"what": "call", "number": 1, "call": as_words(made)},
        {"what": "held", "token": 7, "at_s": 1.5},
        {"what": "call", "number": 2, "call": as_words(begun)},
    ]
    (tmp_path / "a").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"what": "rel')
    told = read(str(tmp_path))
    assert told.tenancies == [Tenancy("a", 4711, 7, 0.5, 1.0, 1.5, False)]
    assert told.calls == [made, begun]
    assert present_holder(str(tmp_path)) == told.tenancies[0]


def test_a_gap_in_service_is_a_time_in_which_a_change_waits_and_none_is_answered() -> None:
    made = [(0.0, 1.0), (1.0, 1.5), (2.0, 4.5), (2.5, 4.0), (8.0, 9.0), (8.5, 8.6)]
    own = Answers(write("a", 1, 0.0, 1)._replace(invoked_s=began_s, returned_s=at_s) for began_s, at_s in made)
    assert own.longest_gap_s(1.2, 1.4) == 0.5
    assert own.longest_gap_s(1.6, 3.0) == 2.0
    assert own.longest_gap_s(5.0, 7.0) == 0.0
    assert own.longest_gap_s(5.0, 9.0) == pytest.approx(0.6)
    assert Answers([]).longest_gap_s(0.0, 1.0) == 0.0


@pytest.mark.simulation
def test_hours_with_a_node_down_and_hours_of_deletes(tmp_path: Path) -> None:
    words = ["--outage-hours", "0.2", "--delete-hours", "1", "--json", str(tmp_path / "times.json")]
    run("long_times.py", *words)
    figures = json.loads((tmp_path / "times.json").read_text())
    assert figures["outage"]["copies_equal"]
    assert figures["outage"]["hints_left"] == 0 < figures["outage"]["most_hints"]
    assert figures["deletes"]["came_back"] == figures["deletes"]["dead_and_not_gone"] == 0
    assert figures["deletes"]["purged"] > 0


def test_gossip_is_measured(tmp_path: Path) -> None:
    run("gossip.py", "--nodes", "3,5", "--hours", "0.02", "--json", str(tmp_path / "gossip.json"))
    figures = json.loads((tmp_path / "gossip.json").read_text())
    assert all(row["missed"] == row["false_verdicts"] == 0 for row in figures["detection"])


@pytest.mark.ray
def test_growing_and_shrinking_under_load_loses_and_fails_nothing(tmp_path: Path) -> None:
    short = ("--records", "2000", "--partitions", "16", "--steady", "1")
    run("elastic.py", *short, "--json", str(tmp_path / "elastic.json"))  # it ends with 1 if anything is amiss
    figures = json.loads((tmp_path / "elastic.json").read_text())
    assert figures["acknowledged"] > 0
    assert figures["3 to 5"]["copies_moved"] > 10


@pytest.mark.ray
def test_a_host_that_is_lost_is_replaced_under_load() -> None:
    shown = run("hosts.py", "--replace-after", "3", "--short")
    figures = json.loads(shown[shown.index("{\n") : shown.rindex("}") + 1])
    assert figures["load"]["acknowledged"] > 0
    assert "h1" not in {host for host, _ in figures["replaced"]["nodes"].values()}


def test_the_costs_of_many_nodes_are_worked_out(tmp_path: Path) -> None:
    words = ["--nodes", "12", "--partitions", "64,256", "--gb-per-node", "1", "--bytes-per-s", "1e6"]
    shown = run("scale.py", *words, "--json", str(tmp_path / "scale.json"))
    figures = json.loads((tmp_path / "scale.json").read_text())
    coarse, fine = figures["rows"]
    assert coarse["warning"] in shown
    assert fine["warning"] is None
    for row in (coarse, fine):
        assert all(moved["copies"] == moved["least"] > 0 for moved in row["moved"].values())
        for spread in row["spread"].values():
            assert 0.5 < spread["least"] <= 1 <= spread["most"] < 1.5
        rebuild = row["rebuild"]
        assert (rebuild["partitions"], rebuild["helpers"], rebuild["takers"]) == (row["partitions"] // 4, 11, 11)
        assert rebuild["alone_s"] == 1000
        assert rebuild["ideal_s"] == pytest.approx(1000 / 11)
        assert rebuild["ideal_s"] <= rebuild["at_once_s"] <= rebuild["in_waves_s"] < rebuild["alone_s"]
        assert rebuild["at_once_s"] == pytest.approx(1000 * rebuild["most_fetched"] / rebuild["partitions"])
        assert 1.5 * row["state"]["bytes"] < row["state"]["moving_bytes"] < 3 * row["state"]["bytes"]
    assert fine["rebuild"]["waves"] > coarse["rebuild"]["waves"]
    assert fine["state"]["bytes"] > coarse["state"]["bytes"] > figures["gossip_bytes"] > 100


@pytest.mark.ray
def test_attacks_restart_no_node_and_fail_nobodys_operation() -> None:
    """How long operations take meanwhile is no matter here: this machine may be busy."""
    shown = run("attack.py", "--seconds", "1", "--rounds", "1", "--untimed")
    assert shown.count("restarted 0  failed 0") == len(shown.splitlines()) == 8


def test_amplification_of_each_policy_over_some_days(tmp_path: Path) -> None:
    target = tmp_path / "amplification.json"
    words = ("--days", "14", "--idle", "1", "--keys", "1500", "--memtable", "32", "--json", str(target))
    shown = run("amplification.py", *words)
    figures = json.loads(target.read_text())["policies"]
    assert all(name in shown for name in figures)
    unbounded, tiered, leveled = (
        figures[name] for name in ("tiered, no bound on garbage", "tiered (default)", "leveled, ratio 10")
    )
    assert tiered["space_most"] <= 1.6 < unbounded["space_most"], "1.5, and one memtable"
    assert leveled["space_mean"] < tiered["space_mean"]
    assert leveled["runs_mean"] < tiered["runs_mean"] < unbounded["runs_mean"]
    assert unbounded["write_amplification"] < tiered["write_amplification"] < leveled["write_amplification"]


def test_amplification_refuses_what_cannot_be() -> None:
    done = run_python(SCRIPTS / "amplification.py", "--days", "2", "--idle", "2")
    assert done.returncode == 2
    assert "--idle" in done.stderr
