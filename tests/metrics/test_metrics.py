"""One registry: what is exported stands in it, and what stands in it is exported, shown and watched."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from raykv import sim
from raykv.metrics import METRICS, Sample, alert_rules, dashboard, exposition, samples
from raykv.metrics.exposition import cut
from raykv.metrics.registry import BY_NAME
from raykv.metrics.samples import HOT_KEY, MOST_HOT

LINE = re.compile(r'^(raykv_[a-z0-9_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\} (-?[0-9.e+-]+)$')


@pytest.fixture(scope="module")
def status():
    with sim.start(seed=2, nodes=3) as world:
        store = world.connect()
        groups = store.bucket("orders", group=":")
        for number in range(40):
            groups.put(f"user:{number}", "x" * 50)
        for number in range(200):
            store.put("hot", number)
            store.get("hot")
        direct = world.connect("direct")
        direct.get("hot")
        direct.queue("jobs").put_many(["a", "b", "c"])
        world.sleep(31)
        direct.get("hot")
        world.cut("n3", for_s=40)
        store.put_many({f"k{number}": number for number in range(50)}, timeout=10)
        world.sleep(12)
        store.get("hot")
        return store.status()


def test_names_follow_the_rules():
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.help.endswith(".")
        assert "store" not in metric.labels


def test_every_sample_has_a_metric_and_its_labels(status):
    found = samples(status)
    for sample in found:
        assert {*sample.labels} - {"le"} == {"store", *BY_NAME[sample.name].labels}, sample
        assert all(isinstance(value, str) for value in sample.labels.values())
    seen = {sample.name for sample in found}
    rare = {"client_errors_total", "tombstones", "hints_waiting", "node_events_total", "largest_group_bytes"}
    assert {*BY_NAME} - seen <= rare
    keys = [(sample.name, sample.suffix, tuple(sorted(sample.labels.items()))) for sample in found]
    assert len(keys) == len({*keys}), "each series once"


def test_the_text_is_prometheus_s(status):
    lines = exposition(samples(status)).splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len({*types}), "the samples of a metric stand together"
    for line in lines:
        assert line.startswith("# ") or LINE.match(line), line


def test_a_histogram_is_cumulative_and_ends_with_its_count(status):
    series = {}
    for sample in samples(status):
        if sample.name == "request_seconds":
            labels = tuple(value for label, value in sorted(sample.labels.items()) if label != "le")
            series.setdefault(labels, {})[sample.suffix + sample.labels.get("le", "")] = sample.value
    assert series
    assert any("Write" in labels for labels in series)
    for values in series.values():
        buckets = [value for name, value in values.items() if name.startswith("_bucket")]
        assert buckets == sorted(buckets)
        assert values["_bucket+Inf"] == values["_count"] == buckets[-1]
        assert values["_sum"] >= 0


def test_each_tombstone_counts_once_from_the_comparison_of_its_partition_on():
    with sim.start(seed=4, nodes=3) as world:
        store = world.connect()
        store.put_many({f"k{number}": number for number in range(20)})
        for number in range(7):
            store.delete(f"k{number}", w="all")
        store.repair()
        dead = [sample for sample in samples(store.status()) if sample.name == "tombstones"]
        assert {sample.labels["bucket"] for sample in dead} == {"default"}
        assert sum(sample.value for sample in dead) == 7


def test_large_pairs_and_what_clients_see_are_there(status):
    found = samples(status)
    values = {
        (s.name + s.suffix, *(v for label, v in sorted(s.labels.items()) if label != "store")): s.value for s in found
    }
    assert values["client_request_seconds_count", "get"] >= 1
    assert values["client_staleness_seconds_count",] == 0
    large = {sample.labels["bucket"] for sample in found if sample.name == "largest_pair_bytes"}
    assert large == {"orders"}, "they have fifty bytes more than the others"


def test_jobs_of_queues_are_counted(status):
    assert Sample("queue_jobs_total", {"store": "simulated", "event": "put"}, 3) in samples(status)


def test_a_node_that_does_not_answer_is_reported_and_no_more(status):
    nodes = [{**node, "state": "down", "storage": None} for node in status["nodes"]]
    found = samples({**status, "nodes": nodes})
    assert [sample.value for sample in found if sample.name == "node_up"] == [0, 0, 0]
    assert not any(sample.name == "records" for sample in found)


def test_keys_of_anybody_are_escaped_and_few(status):
    node = status["nodes"][0]
    keys = [{"bucket": 'b"\n\\', "key": f'k"{number}\n}}' + "x" * 500, "ops_per_s": number} for number in range(100)]
    storage = {**node["storage"], "load": {"ops_per_s": 1.0, "p99_ms": 1.0, "partitions": [], "keys": keys}}
    found = samples({**status, "nodes": [{**node, "storage": storage}]})
    hot = [sample for sample in found if sample.name == HOT_KEY]
    assert len(hot) == MOST_HOT
    assert max(sample.value for sample in hot) == 99
    for line in exposition(hot).splitlines():
        assert line.startswith("# ") or LINE.match(line), line
        assert len(line) < 500


def test_no_two_lines_are_of_one_series(status):
    """Whatever keys there are: alike in their first 200 characters, bytes that read as text, of buckets that are gone."""
    long, node = "x" * 300, status["nodes"][0]
    names = [
        "b'a'",
        "b'a'",
        long + "1",
        long + "2",
        long[:200],
        long[:199],
        cut(long + "1"),
        'a"',
        "a\\",
        "a\n",
        "a\\n",
    ]
    keys = [{"bucket": bucket, "key": name, "ops_per_s": 1.5, "bytes": 7} for bucket in "b?" for name in names[:9]]
    load = {"ops_per_s": 1.0, "p99_ms": 1.0, "partitions": [], "keys": keys}
    found = samples({**status, "nodes": [{**node, "storage": {**node["storage"], "load": load, "large": keys}}]})
    lines = [line.rpartition(" ")[0] for line in exposition(found).splitlines() if not line.startswith("#")]
    assert len(lines) == len({*lines})
    assert sum("hot_key" in line for line in lines) == 16
    assert Sample(HOT_KEY, {"store": "simulated", "node": node["node_id"], "bucket": "b", "key": "b'a'"}, 3.0) in found
    assert len({cut(name) for name in names}) == len({*names})
    assert all(len(cut(name)) <= 200 for name in names)
    assert cut("short") == "short"
    assert cut("\ud800" * 300) != cut("\ud800" * 301)


def test_clients_counters_are_events_and_errors(status):
    found = samples({**status, "clients": {"processes": 2, "counters": {"hedges": 5, "errors.QuorumNotMet": 3}}})
    assert Sample("client_events_total", {"store": "simulated", "event": "hedges"}, 5) in found
    assert Sample("client_errors_total", {"store": "simulated", "error": "QuorumNotMet"}, 3) in found


@pytest.mark.parametrize("prefix", ["", "ray_"])
def test_the_dashboard_shows_every_metric_with_a_panel(prefix):
    board = json.loads(json.dumps(dashboard(prefix)))
    panels = [panel for panel in board["panels"] if panel["type"] == "timeseries"]
    assert len(panels) == sum(bool(metric.panel) for metric in METRICS)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len(board["panels"]) == len({panel["id"] for panel in board["panels"]})
    for panel in panels:
        for target in panel["targets"]:
            names = re.findall(r"(?:ray_)?raykv_[a-z0-9_]+", target["expr"])
            assert names
            assert all(name.startswith(f"{prefix}raykv_") for name in names)
            ending = "_bucket_total" if prefix else "_bucket"  # Ray ends each counter so
            assert all(name.removeprefix(f"{prefix}raykv_").removesuffix(ending) in BY_NAME for name in names)


def test_the_alert_rules_are_yaml_over_known_metrics():
    (group,) = yaml.safe_load(alert_rules("ray_"))["groups"]
    assert len(group["rules"]) == sum(metric.alert is not None for metric in METRICS) > 5
    for rule in group["rules"]:
        (name,) = {*re.findall(r"ray_raykv_([a-z0-9_]+)", rule["expr"])}
        assert name in BY_NAME
        used = {*re.findall(r"\$labels\.([a-z]+)", rule["annotations"]["summary"])}
        assert used <= {"store", *BY_NAME[name].labels}
