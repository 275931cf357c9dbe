"""The command queue, against a simulated store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import raykv.sim
from raykv.cli import reading
from raykv.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with raykv.sim.start(seed=5) as world:
        link = world._cluster.link(world._client())
        monkeypatch.setattr(reading, "link_to", lambda _: link)
        yield world


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["queue", "mails", *args])
    assert result.exit_code == code, result.output
    return result


def test_a_job_from_its_put_to_its_ack(world: Any) -> None:
    job_id = run("put", "to Ada").stdout.strip()
    assert run("peek").stdout == f"{job_id}\tto Ada\n"
    job, value = run("claim", "--lease", "60").stdout.strip().split("\t")
    assert (job.split("@")[0], value) == (job_id, "to Ada")
    assert run("claim").stdout == ""
    assert json.loads(run("stats", "--json").stdout)["claimed"] == 1
    run("renew", job)
    run("ack", job)
    assert "some of the 1 jobs were not held any more" in run("ack", job, code=1).stderr
    assert "done         1\n" in run("stats").stdout


def test_dead_letters(world: Any) -> None:
    run("put", "--json-value", '{"to": "Ada"}')
    world.store.queue("mails").put((1, 2))
    for _ in range(2):
        for line in (
            run("claim", "--max-deliveries", "2", "--count", "1").stdout.splitlines()
            + run("claim", "--count", "5", "--max-deliveries", "2").stdout.splitlines()
        ):
            run("nack", line.split("\t")[0], "--max-deliveries", "2")
    dead = [json.loads(line) for line in run("dead", "--count", "10", "--json").stdout.splitlines()]
    assert {"to": "Ada"} in [each["value"] for each in dead]
    assert any("pickled" in str(each["value"]) for each in dead), "nothing is unpickled for a look"
    assert run("requeue", dead[0]["job"]).stdout == "1\n"
    assert json.loads(run("remove", "--json").stdout) == {"remove": 1}


@pytest.mark.parametrize(
    "args", [("put",), ("claim", "3"), ("ack",), ("ack", "x"), ("unknown",), ("put", "--json-value", "{")]
)
def test_wrong_usage_is_refused(world: Any, args: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, ["queue", "mails", *args])
    assert result.exit_code != 0
    assert world.store.buckets() == ["default"]


def test_a_mistyped_name_makes_no_queue(world: Any) -> None:
    for action in ("stats", "peek", "dead", "requeue", "remove"):
        assert "no queue 'mails'; it has: none" in run(action, code=1).stderr
    assert CliRunner().invoke(cli, ["queue"]).stdout == "the store has no queue\n"
    assert "raykv.queues" not in world.store.buckets()
    world.store.queue("letters").put(1)
    for action, *words in (["stats"], ["ack", "0.1.0@0:ab"], ["nack", "0.1.0@0:ab"], ["renew", "0.1.0@0:ab"]):
        assert "it has: letters." in run(action, *words, code=1).stderr
    assert [each["queue"] for each in json.loads(CliRunner().invoke(cli, ["queue", "--json"]).stdout)] == ["letters"]
    assert run("claim").stdout == "", "a consumer may come before the first job"


def test_the_queues_are_listed(world: Any) -> None:
    names = ["a", "a:0", "a:b", "a/b", "50%", "é\n"]
    for number, name in enumerate(names):
        queue = world.store.queue(name, **({"shards": 1} if number % 2 else {}))
        queue.put_many(range(number))
        queue.put(0, once="one")
    listed = json.loads(CliRunner().invoke(cli, ["queue", "--json"]).stdout)
    assert {each["queue"]: each["put"] for each in listed} == {name: i + 1 for i, name in enumerate(names)}
    lines = CliRunner().invoke(cli, ["queue"]).stdout.splitlines()
    assert lines[0].split()[:3] == ["queue", "waiting", "delayed"]
    assert len(lines) == 1 + len(names), "a name is one line, whatever is in it"
    assert CliRunner().invoke(cli, ["queue", "a"]).stdout == CliRunner().invoke(cli, ["queue", "a", "stats"]).stdout


def test_a_queue_that_cannot_be_read_is_listed_with_the_others(world: Any) -> None:
    world.store.queue("good").put(1)
    raw = world.store.bucket("raykv.queues")
    raw.put("bad:0/s", b"?")
    raw.put("half:3/b", b"?")
    raw.put("stray", b"?")
    listed = {each["queue"]: each for each in json.loads(CliRunner().invoke(cli, ["queue", "--json"]).stdout)}
    assert listed.keys() == {"good", "bad"}, "one without settings is no queue, and is not made one"
    assert listed["good"]["waiting"] == 1
    assert "unreadable" in listed["bad"]["error"]
    shown = CliRunner().invoke(cli, ["queue"])
    assert shown.exit_code == 0
    assert "unreadable" in shown.stderr
