"""What is wrong with a store, or soon will be, and what to do about it: findings from its status, its ring and its hosts.

Pure: ``raykv.actors.examination`` looks at the hosts, ``raykv doctor`` shows what is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Severity: TypeAlias = Literal["critical", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "note")

MOST_RUNS = 30
FEW_DESCRIPTORS = 1024
LEAST_FREE_SHARE = 0.1
LEAST_FREE_BYTES = 1 << 30
CLOCK_SLACK_S = 0.5
"""Beyond the uncertainty of the measurement. Last-writer-wins orders by these clocks, and grace times go by them."""
SLOW_MS = 500.0
HOT_SHARE = 0.5
"""Of a node's operations, in one partition of many."""
MANY_RESTARTS = 3
MANY_SEALED = 3
LEAST_FILES_SHARE = 0.01
SERIOUS = frozenset({"QuorumNotMet", "Overloaded", "StoreUnavailable", "WriteOutcomeUnknown", "CorruptData"})
"""Errors that are the store's doing rather than the caller's."""
BUSY_OPS_PER_S = 100.0


class HostReport(NamedTuple):
    """What a host says of itself."""

    host: str
    raykv: str
    """Versions, as of its workers."""
    ray: str
    python: str
    clock_ahead_s: float
    """Of the host's wall clock against that of the asker."""
    clock_error_s: float
    """How uncertain that is."""
    descriptors: int
    """How many files a process may have open at most."""
    disk_free_bytes: int
    disk_bytes: int
    leftovers: dict[str, str]
    """Directories of stores at the default place -> the store's name."""
    world_writable: bool = False
    """Whether others than the owner may write into the store's directory."""
    files_free_share: float = 1.0
    """Of the files that the disk may hold."""
    in_memory: bool = False
    """Whether the store's directory lies on a file system that is lost with the machine's power."""
    aside: Sequence[str] = ()
    """Directories of nodes that have left, below the store's."""


class Finding(NamedTuple):
    """Something to know: how bad, about what, what it is, and what to do."""

    severity: Severity
    subject: str
    what: str
    do: str


def diagnosis(
    status: Mapping[str, Any],
    ring: Mapping[str, Any],
    hosts: Sequence[HostReport] = (),
    silent: Mapping[str, str] | None = None,
    *,
    own: Mapping[str, str] | None = None,
    running: Sequence[str] = (),
    security: Mapping[str, bool] | None = None,
    machines: Mapping[str, Sequence[str]] | None = None,
) -> list[Finding]:
    """Return what there is to say of a store, the worst first.

    ``silent``: host -> why it did not report. ``own``: "raykv", "ray", "python" -> the asker's versions. ``running``: the
    stores that run. ``security``: "token", "tls" -> whether Ray uses it. ``machines``: host, as its label says -> the
    addresses of its machines. O(partitions + nodes + hosts).
    """
    found = [
        *_nodes(status),
        *_partitions(status, ring),
        *_labels(status, ring, machines or {}),
        *_load(status),
        *_errors(status),
        *_moves(status),
        *_hosts(hosts, silent or {}, own or {}),
        *_leftovers(hosts, running),
        *_security(security),
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _nodes(status: Mapping[str, Any]) -> Iterator[Finding]:
    for node in status["nodes"]:
        name, storage = f"node {node['node_id']}", node["storage"]
        if node["state"] != "up":
            yield Finding(
                "critical" if node["state"] == "down" else "warning",
                name,
                f"it is {node['state']}" + (f": {node['cause']}" if node["cause"] else ""),
                "it is restarted by itself; if its host is gone for good: raykv replace-node " + node["node_id"],
            )
        elif storage is None:
            yield Finding("warning", name, "it does not answer", "look again; if it stays so, the supervisor ends it")
        if node["restarts"] >= MANY_RESTARTS:
            yield Finding(
                "warning", name, f"it was restarted {node['restarts']} times",
                "its log says why each time: raykv status --json names the host, Ray's session directory has the logs",
            )  # fmt: skip
        if storage is not None:
            yield from _storage(name, storage)


def _storage(name: str, storage: Mapping[str, Any]) -> Iterator[Finding]:
    disk = storage["disk"]
    if disk["full"]:
        yield Finding("critical", name, disk["full"], "make room on that disk, or add nodes elsewhere: raykv add-node")
    elif disk["free_bytes"] < LEAST_FREE_BYTES:
        yield Finding(
            "warning", name, f"{disk['free_bytes'] >> 20} MiB are free at {disk['path']}",
            "make room, or add nodes on other disks: raykv add-node",
        )  # fmt: skip
    if disk["failing"]:
        yield Finding("critical", name, disk["failing"], "look at the disk; the other copies serve meanwhile")
    if not storage["complete"]:
        yield Finding(
            "warning", name, "it lacks data that it acknowledged, and answers no reads of it",
            "its peers restore it by themselves, if enough owners are up; status shows when it is complete",
        )  # fmt: skip
    if storage["damage"]:
        yield Finding(
            "warning", name, f"{len(storage['damage'])} corrupt places, such as {storage['damage'][0]}",
            "they are restored from the other copies; check the disk: it has returned other bytes than were written",
        )  # fmt: skip
    if storage.get("runs", 0) > MOST_RUNS:
        yield Finding(
            "warning", name, f"{storage['runs']} sorted runs wait to be merged, and reads look into each",
            "write less for a while, or give compaction a larger share (NodeConfig.compaction_share)",
        )  # fmt: skip
    if storage.get("sealed_memtables", 0) >= MANY_SEALED:
        yield Finding(
            "warning", name, f"{storage['sealed_memtables']} memtables wait to be written to tables",
            "its disk is slower than its clients write: write less for a while, or add nodes: raykv add-node",
        )  # fmt: skip
    if (debt_bytes := storage.get("compaction_debt_bytes", 0)) > disk["free_bytes"]:
        yield Finding(
            "critical", name,
            f"{debt_bytes >> 20} MiB of tables are due to be merged, and only {disk['free_bytes'] >> 20} MiB are free",
            "make room: nothing that was overwritten or deleted is freed before they are merged",
        )  # fmt: skip
    if waiting := sum(storage.get("hints", {}).values()):
        targets = ", ".join(storage["hints"])
        yield Finding(
            "note", name, f"it keeps {waiting} hints for {targets}",
            "they are delivered when these answer again; nothing to do",
        )  # fmt: skip


def _partitions(status: Mapping[str, Any], ring: Mapping[str, Any]) -> Iterator[Finding]:
    up = {
        node["node_id"]
        for node in status["nodes"]
        if node["state"] == "up" and (node["storage"] or {}).get("complete", False)
    }
    ids = [member["node_id"] for member in ring["members"]]
    copies = ring["copies"]
    short = [sum(ids[index] in up for index in owners) for owners in ring["table"]]
    lost = sum(alive <= copies // 2 for alive in short)
    some = sum(copies // 2 < alive < copies for alive in short)
    if lost:
        yield Finding(
            "critical", "partitions", f"{lost} of {len(short)} have no majority of owners that answer: quorums fail there",
            "bring their nodes back; reads and writes with r=1, w=1 go on where one owner is left",
        )  # fmt: skip
    if some:
        yield Finding(
            "warning", "partitions", f"{some} of {len(short)} have fewer than {copies} owners that answer",
            "nothing is lost; it mends itself once the nodes are back or replaced",
        )  # fmt: skip
    if len({member["host"] for member in ring["members"]}) < copies:
        yield Finding(
            "note", "copies", f"{copies} copies lie on fewer hosts: the loss of one may take a majority along",
            "run nodes on as many hosts as there are copies, or name hosts by labels (raykv-host, raykv-zone)",
        )  # fmt: skip


def _labels(
    status: Mapping[str, Any], ring: Mapping[str, Any], machines: Mapping[str, Sequence[str]]
) -> Iterator[Finding]:
    zones = {member["node_id"]: member["zone"] for member in ring["members"]}
    without = [node_id for node_id, zone in zones.items() if not zone]
    if without and len(without) < len(zones):
        yield Finding(
            "warning", "labels", f"nodes {', '.join(without)} have no zone, and others have",
            "start Ray there with the label raykv-zone too: copies are spread over zones as far as they are known",
        )  # fmt: skip
    elif not without and len({*zones.values()}) < ring["copies"]:
        yield Finding(
            "note", "labels", f"the nodes lie in {len({*zones.values()})} zones, fewer than the {ring['copies']} copies",
            "the loss of one may take a majority along: add nodes in others (raykv add-node --zone NAME)",
        )  # fmt: skip
    for host, there in machines.items():
        if len({*there}) > 1:
            yield Finding(
                "warning", "labels", f"machines {', '.join(sorted({*there}))} are all labelled raykv-host={host}",
                "give each machine a label of its own: for raykv they are one host with one disk",
            )  # fmt: skip
    for node in status["nodes"]:
        if machines and node["host"] not in machines and node["state"] == "up":
            yield Finding(
                "warning", "labels",
                f"node {node['node_id']} belongs to host {node['host']}, which no machine is called now",
                "start Ray there with the label raykv-host that it had: the node is looked for there after a restart",
            )  # fmt: skip


def _errors(status: Mapping[str, Any]) -> Iterator[Finding]:
    counters = (status.get("clients") or {}).get("counters", {})
    failed = {name.removeprefix("errors."): count for name, count in counters.items() if name.startswith("errors.")}
    lost = {name: count for name, count in failed.items() if name in SERIOUS}
    if lost:
        said = ", ".join(f"{count} {name}" for name, count in sorted(lost.items(), key=lambda each: -each[1]))
        yield Finding(
            "note", "clients", f"operations of theirs have failed since the supervisor's start: {said}",
            "raykv metrics shows whether it goes on (raykv_client_errors_total); raykv dashboard, what happened meanwhile",
        )  # fmt: skip


def _load(status: Mapping[str, Any]) -> Iterator[Finding]:
    partitions = status["config"]["partitions"]
    for node in status["nodes"]:
        load = (node["storage"] or {}).get("load") or {}
        name = f"node {node['node_id']}"
        if load.get("p99_ms", 0.0) > SLOW_MS:
            yield Finding(
                "warning", name, f"one answer in a hundred takes {load['p99_ms']:.0f} ms or longer",
                "is the host overloaded, or its disk slow? raykv explain KEY shows where the time goes",
            )  # fmt: skip
        rate, hot = load.get("ops_per_s", 0.0), load.get("partitions") or ()
        if partitions > 1 and rate > BUSY_OPS_PER_S and hot and hot[0][1] > HOT_SHARE * rate:
            keys = ", ".join(f"{key['key']!r} of bucket {key['bucket']!r}" for key in load.get("keys", ())[:2])
            yield Finding(
                "warning", name, f"partition {hot[0][0]} takes {hot[0][1] / rate:.0%} of its operations; hot keys: {keys}",
                "a ring cannot spread one key: divide it into several, or cache it where it is read",
            )  # fmt: skip


def _moves(status: Mapping[str, Any]) -> Iterator[Finding]:
    moving = status.get("rebalancing")
    if moving is None:
        return
    left = moving["partitions_left"]
    if moving["paused"]:
        yield Finding(
            "warning", "rebalancing", f"it is paused with {left} partitions to move", "raykv rebalance resume"
        )
    elif moving["waits_for"]:
        yield Finding(
            "warning", "rebalancing", f"{left} partitions wait: {moving['waits_for']}", "it goes on once that is there"
        )
    else:
        yield Finding("note", "rebalancing", f"{left} partitions are still to move", "nothing to do")


def _hosts(hosts: Sequence[HostReport], silent: Mapping[str, str], own: Mapping[str, str]) -> Iterator[Finding]:
    for host, why in silent.items():
        yield Finding("warning", f"host {host}", f"it {why}", "is it up, and is raykv installed there?")
    for report in hosts:
        name = f"host {report.host}"
        for package in ("raykv", "ray", "python"):
            theirs, ours = getattr(report, package), own.get(package, "")
            if ours and theirs != ours:
                yield Finding(
                    "warning", name, f"it has {package} {theirs}, this machine {ours}",
                    "run one version everywhere: values that were pickled by one may not load in another",
                )  # fmt: skip
        if abs(report.clock_ahead_s) > CLOCK_SLACK_S + report.clock_error_s:
            direction = "ahead of" if report.clock_ahead_s > 0 else "behind"
            yield Finding(
                "warning", name, f"its clock is {abs(report.clock_ahead_s):.1f} s {direction} this machine's",
                "synchronise the clocks (chrony, ntpd): last-writer-wins and expiry times go by them",
            )  # fmt: skip
        if report.descriptors < FEW_DESCRIPTORS:
            yield Finding(
                "warning", name, f"a process may open {report.descriptors} files only",
                f"raise the limit (ulimit -n) to {FEW_DESCRIPTORS} or more before 'ray start'",
            )  # fmt: skip
        if report.disk_bytes and report.disk_free_bytes < LEAST_FREE_SHARE * report.disk_bytes:
            yield Finding(
                "warning", name, f"its disk is {1 - report.disk_free_bytes / report.disk_bytes:.0%} full",
                "make room: compaction needs as much as it merges",
            )  # fmt: skip
        if report.files_free_share < LEAST_FILES_SHARE:
            yield Finding(
                "warning", name, f"its disk has room for {report.files_free_share:.1%} of its number of files only",
                "remove small files there (df -i): no new table can be created once none is left",
            )  # fmt: skip
        if report.in_memory:
            yield Finding(
                "warning", name, "the store's directory lies in memory (tmpfs): all of it is lost when the machine stops",
                "put it on a disk: raykv start --path DIRECTORY",
            )  # fmt: skip
        if report.aside:
            yield Finding(
                "note", name, f"nodes that have left have their data there still: {', '.join(report.aside[:3])}",
                "delete these directories once all else is well: others hold what was in them",
            )  # fmt: skip
        if report.world_writable:
            yield Finding(
                "warning", name, "others than its owner may write into the store's directory",
                "chmod 700 it: whoever may write there may replace what is stored",
            )  # fmt: skip


def _leftovers(hosts: Sequence[HostReport], running: Sequence[str]) -> Iterator[Finding]:
    for report in hosts:
        for path, store in report.leftovers.items():
            if store not in running:
                yield Finding(
                    "note", f"host {report.host}", f"{path} has the data of store {store!r}, which does not run",
                    f"raykv start --store {store} opens it again; raykv.destroy({store!r}) deletes it",
                )  # fmt: skip


def _security(security: Mapping[str, bool] | None) -> Iterator[Finding]:
    if security is None:
        return
    if not security.get("token"):
        yield Finding(
            "note", "security", "Ray's token authentication is off: whoever reaches its ports may run code, and read all",
            "RAY_AUTH_MODE=token on all machines, or keep the ports behind a firewall",
        )  # fmt: skip
    if not security.get("tls"):
        yield Finding(
            "note", "security", "Ray's TLS is off: what travels between hosts is not encrypted",
            "RAY_USE_TLS=1 with its three certificate variables, where the network is not trusted",
        )  # fmt: skip
