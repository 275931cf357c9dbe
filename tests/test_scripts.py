"""The long runs of scripts/, in their short form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ray_starts import run_python

SCRIPTS = Path(__file__).parent.parent / "scripts"


def run(script: str, *words: str) -> str:
    done = run_python(SCRIPTS / script, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
def test_rounds_of_kill_and_verify_lose_nothing() -> None:
    shown = run("kill_rounds.py", "--rounds", "8", "--seed", "3")
    figures = json.loads(shown[shown.index("{\n") : shown.rindex("}") + 1])
    assert figures["rounds"] == 8
    assert figures["lost"] == 0
    assert figures["acknowledged"] > 100


@pytest.mark.ray
def test_rounds_of_faults_lose_nothing(tmp_path: Path) -> None:
    kinds = "kill,freeze,wipe,corrupt,supervisor,all"
    run("fault_rounds.py", "--rounds", "6", "--seed", "3", "--faults", kinds, "--json", str(tmp_path / "faults.json"))
    figures = json.loads((tmp_path / "faults.json").read_text())
    assert {name: row["rounds"] for name, row in figures["faults"].items()} == dict.fromkeys(kinds.split(","), 1)
    assert figures["lost"] == 0
    assert figures["acknowledged"] > 100


@pytest.mark.ray
@pytest.mark.parametrize("how", [(), ("--way", "alarm", "--threads", "2"), ("--way", "thread", "--switch-us", "50")])
def test_after_an_interrupted_call_the_next_one_works(how: tuple[str, ...]) -> None:
    calls = "get,put,modify,get_many,put_many,scan,status,anew"
    shown = run("interrupts.py", "--rounds", "40", "--calls", calls, *how)
    rows = [json.loads(line) for line in shown.splitlines()]
    assert [(row["call"], row["rounds"]) for row in rows] == [(name, 40) for name in calls.split(",")]


@pytest.mark.ray
def test_the_benchmark_runs_and_says_who_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # neither Redis nor etcd
    shown = run("bench.py", "floors", "--quick", "--json", str(tmp_path / "bench.json"))
    found = json.loads((tmp_path / "bench.json").read_text())
    assert "apt install redis-server" in found["skipped"]["Redis"]
    assert found["skipped"]["Redis"] in shown
    rows = {row["name"]: row for row in found["floors"]["rows"]}
    assert {"get_actor", "at_once_actor", "tail", "frozen", "slow", "overload"} == set(rows)
    assert rows["get_actor"]["ratio"]["median"] > 0
    assert rows["at_once_actor"]["ratio"]["median"] > 1
    assert rows["frozen"]["amiss"] == 0
    assert rows["overload"]["outcomes"]["ok"] > 100
    assert found["floors"]["beside"]["get_many, 1,000 a call"]["raykv"]["median"] > 15_000 / 5
    assert found["floors"]["beside"]["put_many, 1,000 a call"]["raykv"]["median"] > 8_000 / 5


@pytest.mark.ray
def test_the_benchmark_compares_this_tree_with_another(tmp_path: Path) -> None:
    shown = run("bench.py", "--against", str(SCRIPTS.parent), "--quick", "--json", str(tmp_path / "against.json"))
    rows = json.loads((tmp_path / "against.json").read_text())
    assert {"get", "put", "get_many", "put_many"} < {row["name"] for row in rows}
    for row in rows:
        assert row["name"] in shown
        assert row["client"]["theirs_us"] > 0 < row["nodes"]["ours_us"]


@pytest.mark.ray
def test_figures_of_the_benchmark_become_a_table_and_plots(tmp_path: Path) -> None:
    run("bench.py", "ycsb", "--quick", "--json", str(tmp_path / "ycsb.json"))
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- figures of scripts/bench: begin -->\nold\n<!-- figures of scripts/bench: end -->\nafter\n"
    )
    run("bench.py", "--from", str(tmp_path / "ycsb.json"), "--readme", str(page), "--plots", str(tmp_path / "plots"))
    text = page.read_text()
    assert text.startswith("before\n<!--")
    assert text.endswith("-->\nafter\n")
    assert "old" not in text
    found = json.loads((tmp_path / "ycsb.json").read_text())
    assert [line[:4] for line in text.splitlines() if line.startswith("| ") and line[3] == " "] == [
        f"| {w} " for w in "ABCDEF"
    ]
    assert all(figures["raykv"]["ops_per_s"]["median"] > 0 for figures in found["ycsb"]["workloads"].values())
    assert (tmp_path / "plots" / "ycsb.svg").read_text().startswith("<svg")
    if shutil.which("redis-server"):
        assert all(figures["ratio"]["median"] > 0 for figures in found["ycsb"]["workloads"].values())


@pytest.mark.ray
def test_answers_to_clients_while_processes_are_killed_are_consistent() -> None:
    shown = run("consistency.py", "--operations", "12000", "--seed", "3")
    figures = json.loads(shown[shown.index("{\n") : shown.rindex("}") + 1])
    assert figures["reported"] == 0
    assert figures["kills"] > 0
    assert figures["outcomes"]["put ok"] > 500
    assert max(map(int, figures["values_shown_by_a_read"])) > 1, "siblings were seen"


@pytest.mark.ray
def test_with_one_copy_a_read_and_a_write_the_checker_reports() -> None:
    shown = run("consistency.py", "--operations", "12000", "--seed", "3", "--weak")
    figures = json.loads(shown[shown.index("{\n") : shown.rindex("}") + 1])
    assert figures["reported"] > 0


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
    short = ("--records", "20000", "--partitions", "32", "--steady", "3")
    run("elastic.py", *short, "--json", str(tmp_path / "elastic.json"))  # it ends with 1 if anything is amiss
    figures = json.loads((tmp_path / "elastic.json").read_text())
    assert figures["acknowledged"] > 100
    assert figures["3 to 5"]["copies_moved"] > 20


@pytest.mark.ray
def test_a_host_that_is_lost_is_replaced_under_load() -> None:
    shown = run("hosts.py", "--replace-after", "3", "--short")
    figures = json.loads(shown[shown.index("{\n") : shown.rindex("}") + 1])
    assert figures["load"]["acknowledged"] > 100
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
    shown = run("attack.py", "--seconds", "2", "--rounds", "1", "--untimed")
    assert shown.count("restarted 0  failed 0") == len(shown.splitlines()) == 8
