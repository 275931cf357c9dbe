"""Rounds of a random fault on real Ray under load; after each, every acknowledged write is verified.

Without --hosts: one Ray, a store of three nodes. A round is one of these, at a random moment while clients write and read:

  kill         a storage process is killed
  freeze       a storage process is stopped (SIGSTOP) until another runs in its place; then it goes on, if it still exists
  blink        a storage process is stopped for 0.2 to 3 s, and then goes on
  wipe         a storage process is killed, and its directory removed while it is dead
  corrupt      a storage process is killed, and a bit of one of its tables flipped while it is dead; then all is read
  coordinator  the coordinator is killed
  supervisor   the supervisor is killed
  two          two storage processes are killed at once
  three        all three storage processes are killed at once
  all          storage processes, coordinator and supervisor are killed at once

Each client owns its keys and writes unique values, so its own reads are checked too while all this goes on. A round
ends when all nodes are up and complete, no hint waits, and what was acknowledged was read back. A second node is thus
never without its data. Faults come in shuffled order, each as often as the others; --faults names those that are
wanted.

With --hosts: four Rays on this machine, which count as four hosts; a storage node on each of three. Four clients put and
get (W=2, R=2) while a storage process is killed, frozen until it is replaced, frozen for a second, a host is lost and comes
back, and all of a host's processes are frozen for a while. It is measured what clients notice. The demand: no failed
operation, none above 1 s, and none slow (3 times the healthy p99, at most 0.25 s) from 2 s after the fault on, before
another process is started in place of the lost one: that alone slows a small machine down. For comparison it is measured
what a process and a host that just start do to a healthy store.

Ends with 1 if anything was lost, with --hosts also if the demand was not met.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

import raykv
from kill_rounds import GONE, Writer, successor_of, verify
from raykv.actors.naming import COORDINATOR, SUPERVISOR, find_actor, node_directory
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "fault-rounds"
WRITERS = 3
WELL_TIMEOUT_S = 90.0
SCAN_TIMEOUT_S = 2.0
OBJECT_STORE_BYTES = 80 * 1024 * 1024
RAY_OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class Client(Writer):
    """A writer that also reads: of its own keys, each holds at any time what was acknowledged last."""

    read_share = 0.3

    def __init__(self, store: raykv.Store, number: int, seed: int) -> None:
        super().__init__(store, number, seed)
        self.wrong: list[str] = []

    def step(self) -> None:
        """Do one operation."""
        if self.random.random() < self.read_share:
            self.read(self.key())
        else:
            super().step()

    def read(self, key: str) -> None:
        """Read a key and check what it holds."""
        self.operations += 1
        try:
            found = self.store.get(key, default=GONE, timeout=self.timeout_s)
        except raykv.RaykvError:
            self.failed += 1
            return
        allowed = self.may_hold.get(key, {GONE})
        if found not in allowed:
            self.wrong.append(f"{key} was read as {found!r:.40}, may hold {sorted(value[:20] for value in allowed)}")


# ---- processes ----


def ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for its parent to take note."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True).stdout
    return not state.strip() or state.startswith("Z")


def parent(pid: int) -> int:
    """Return the id of the process's parent."""
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], check=True, capture_output=True).stdout)


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill(*pids: int) -> None:
    """Kill all of them, then wait until they are dead."""
    for pid in pids:
        send(pid, signal.SIGKILL)
    while not all(ended(pid) for pid in pids):
        time.sleep(0.01)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for a while."""
    send(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        send(pid, signal.SIGCONT)


def pid_of(peer: str) -> int:
    """Return the process id of the coordinator or the supervisor, once Ray has started it again if it ended."""
    until_s = time.monotonic() + 20
    while True:
        try:
            return int(ray.get(find_actor(NAME, peer).pid.remote(), timeout=20))
        except (ray.exceptions.RayError, ValueError):  # clients do without the coordinator, and are well sooner
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)


# ---- waiting ----


def trouble_in(status: dict[str, Any] | None, known: dict[str, int]) -> list[str]:
    """Return what is not yet well again, in words. ``known``: the runs that must have been replaced."""
    if status is None:
        return ["there is no status"]
    found = []
    for node in status["nodes"]:
        node_id, storage = node["node_id"], node["storage"]
        if node["state"] != "up":
            found.append(f"{node_id} is {node['state']}: {node['cause']}")
        elif node["incarnation"] <= known.get(node_id, 0):
            found.append(f"{node_id} was not replaced")
        elif storage is None:
            found.append(f"{node_id} does not answer")
        elif not storage["complete"] or storage["damage"]:
            found.append(f"{node_id} is not complete: {storage['damage'] or 'incomplete'}")
        elif storage["hints"]:
            found.append(f"{node_id} keeps hints: {storage['hints']}")
    return found


class Sight:
    """Looks at the status, and notes whether damage was seen."""

    def __init__(self, store: raykv.Store) -> None:
        self.store = store
        self.damage_seen = False
        self.status: dict[str, Any] | None = None

    def look(self) -> dict[str, Any] | None:
        """Return the status; None if there is none in time."""
        try:
            self.status = self.store.status(timeout=3)
        except raykv.RaykvError:
            return None
        for node in self.status["nodes"]:
            self.damage_seen |= bool(node["storage"] and node["storage"]["damage"])
        return self.status

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes."""
        while (status := self.look()) is None:
            time.sleep(0.05)
        nodes: list[dict[str, Any]] = status["nodes"]
        return nodes

    def until_well(self, known: dict[str, int]) -> float:
        """Wait until all nodes are up and complete and no hint waits; return the time."""
        deadline_s = time.monotonic() + WELL_TIMEOUT_S
        while trouble := trouble_in(self.look(), known):
            if time.monotonic() > deadline_s:
                print(json.dumps(self.status, indent=1, default=str))
                raise SystemExit(f"not well again within {WELL_TIMEOUT_S:g} s: {'; '.join(trouble)}")
            time.sleep(0.05)
        return time.monotonic()

    def until_replaced(self, known: dict[str, int]) -> None:
        """Wait until these nodes have a new process that is up."""
        deadline_s = time.monotonic() + WELL_TIMEOUT_S
        while any(
            node["state"] != "up" or node["incarnation"] <= known.get(node["node_id"], 0) for node in self.nodes()
        ):
            if time.monotonic() > deadline_s:
                print(json.dumps(self.status, indent=1, default=str))
                raise SystemExit(f"nodes {', '.join(known)} were not replaced within {WELL_TIMEOUT_S:g} s")
            time.sleep(0.05)


# ---- the faults ----


@dataclass
class Scene:
    """Where a fault happens. A fault returns the nodes that must have a new process afterwards."""

    sight: Sight
    path: str
    chance: random.Random
    nodes: list[dict[str, Any]]
    services: dict[str, int]
    """The process ids of coordinator and supervisor."""
    notes: list[str] = field(default_factory=list)

    def victims(self, count: int) -> list[dict[str, Any]]:
        """Choose nodes."""
        return self.chance.sample(self.nodes, count)


def runs(nodes: list[dict[str, Any]]) -> dict[str, int]:
    """Return the incarnation of each node."""
    return {node["node_id"]: node["incarnation"] for node in nodes}


def kill_some(count: int, *services: str) -> Callable[[Scene], dict[str, int]]:
    """Return the fault that kills this many storage processes, and these services."""

    def fault(scene: Scene) -> dict[str, int]:
        victims = scene.victims(count)
        kill(*(node["pid"] for node in victims), *(scene.services[peer] for peer in services))
        return runs(victims)

    return fault


def freeze(scene: Scene) -> dict[str, int]:
    """Stop a storage process until another runs in its place."""
    (victim,) = scene.victims(1)
    with frozen(victim["pid"]):
        scene.sight.until_replaced(runs([victim]))
        if not ended(victim["pid"]):
            scene.notes.append("the frozen process lived on")
    return runs([victim])


def blink(scene: Scene) -> dict[str, int]:
    """Stop a storage process for a while."""
    (victim,) = scene.victims(1)
    with frozen(victim["pid"]):
        time.sleep(scene.chance.uniform(0.2, 3.0))
    return {}


def wipe(scene: Scene) -> dict[str, int]:
    """Remove the directory of a storage process that was killed."""
    (victim,) = scene.victims(1)
    with frozen(scene.services[SUPERVISOR]):  # or it would start another one meanwhile
        kill(victim["pid"])
        shutil.rmtree(node_directory(scene.path, victim["node_id"]))
    return runs([victim])


def corrupt(scene: Scene) -> dict[str, int]:
    """Flip a bit in a block of a table of a storage process that was killed; then read everything of all three."""
    (victim,) = scene.victims(1)
    with frozen(scene.services[SUPERVISOR]):
        kill(victim["pid"])
        tables = sorted(Path(node_directory(scene.path, victim["node_id"])).rglob("*.sst"))
        if tables:
            flip_bit(scene.chance.choice(tables), scene.chance)
        else:
            scene.notes.append("there was no table")
    scene.sight.until_replaced(runs([victim]))
    reading = threading.Thread(target=read_all_copies, args=(scene.sight.store,), daemon=True)
    reading.start()
    while reading.is_alive():  # damage is mended within a second or two after it was seen
        scene.sight.look()
        time.sleep(0.02)
    scene.notes.append("damage was seen" if scene.sight.damage_seen else "no damage was seen")
    return runs([victim])


def flip_bit(table: Path, chance: random.Random) -> None:
    """Flip a bit in the first half of a table, where its blocks are: index, filter and footer come after them."""
    with table.open("r+b") as file:
        at = chance.randrange(12, max(13, table.stat().st_size // 2))
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))
        file.flush()
        os.fsync(file.fileno())


def read_all_copies(store: raykv.Store) -> None:
    """Read everything of all nodes, again until all of them show it."""
    deadline_s = time.monotonic() + WELL_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(raykv.RaykvError):
            for _ in store.scan(r="all", timeout=SCAN_TIMEOUT_S):
                pass
            return


FAULTS: dict[str, Callable[[Scene], dict[str, int]]] = {
    "kill": kill_some(1),
    "freeze": freeze,
    "blink": blink,
    "wipe": wipe,
    "corrupt": corrupt,
    "coordinator": kill_some(0, COORDINATOR),
    "supervisor": kill_some(0, SUPERVISOR),
    "two": kill_some(2),
    "three": kill_some(3),
    "all": kill_some(3, COORDINATOR, SUPERVISOR),
}


def deck(names: list[str], chance: random.Random) -> Iterator[str]:
    """Yield faults for ever, in shuffled order, each as often as the others."""
    while True:
        yield from chance.sample(names, len(names))


# ---- the rounds ----


def small_tables() -> raykv.NodeConfig:
    """Return settings with which little data makes tables."""
    return raykv.NodeConfig(memtable_bytes=128 * 1024, table_bytes=128 * 1024)


class Tally:
    """What came of the rounds, by fault."""

    def __init__(self) -> None:
        self.well_s: dict[str, list[float]] = defaultdict(list)
        self.counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.notes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.lost: list[str] = []

    def add(self, fault: str, well_s: float, clients: list[Client], lost: list[str], notes: list[str]) -> None:
        """Count a round."""
        self.well_s[fault].append(well_s)
        self.lost += [f"{fault}: {text}" for text in lost]
        counts = self.counts[fault]
        counts["lost"] += len(lost)
        for name in ("acknowledged", "unknown", "operations", "failed"):
            counts[name] += sum(getattr(client, name) for client in clients)
        for note in notes:
            self.notes[fault][note] += 1

    def total(self, name: str) -> int:
        """Return a count over all faults."""
        return sum(counts[name] for counts in self.counts.values())

    def line(self) -> str:
        """Return the totals as a line."""
        return (
            f"{self.total('acknowledged')} writes acknowledged, {self.total('unknown')} unknown, "
            f"{self.total('failed')} of {self.total('operations')} operations failed, {len(self.lost)} lost"
        )

    def figures(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "rounds": sum(map(len, self.well_s.values())),
            **{name: self.total(name) for name in ("acknowledged", "unknown", "operations", "failed")},
            "lost": len(self.lost),
            "what": self.lost[:20],
            "faults": {
                fault: {
                    "rounds": len(self.well_s[fault]),
                    "well_s_median": round(statistics.median(self.well_s[fault]), 2),
                    "well_s_max": round(max(self.well_s[fault]), 2),
                    **self.counts[fault],
                    **({"notes": dict(self.notes[fault])} if self.notes[fault] else {}),
                }
                for fault in FAULTS
                if fault in self.well_s
            },
        }


def run_rounds(rounds: int, seed: int, names: list[str]) -> dict[str, Any]:
    """Run the rounds; return the figures."""
    chance = random.Random(seed)
    tally, faults = Tally(), deck(names, chance)
    with tempfile.TemporaryDirectory(prefix="raykv-faults-") as path:
        store = raykv.start(NAME, path=path, config=small_tables())
        clients = [Client(store, number, seed * 1000 + number) for number in range(WRITERS)]
        for client in clients:  # so that there are tables from the beginning on
            for _ in range(20):
                client.write([client.key() for _ in range(20)], client.value())
        for turn in range(1, rounds + 1):
            fault = next(faults)
            well_s, lost, notes = one_round(Sight(store), path, fault, clients, chance)
            tally.add(fault, well_s, clients, lost, notes)
            if turn % 10 == 0 or turn == rounds or lost:
                print(f"round {turn} of {rounds}: {tally.line()}", flush=True)
            clients = [successor_of(client) for client in clients]
        raykv.shutdown(NAME)
    return {"seed": seed, **tally.figures()}


def one_round(
    sight: Sight, path: str, fault: str, clients: list[Client], chance: random.Random
) -> tuple[float, list[str], list[str]]:
    """Run one; return the seconds until all was well again, what was lost, and what is worth a note."""
    services = {peer: pid_of(peer) for peer in (COORDINATOR, SUPERVISOR)}
    scene = Scene(sight, path, chance, sight.nodes(), services)
    for client in clients:
        client.start()
    time.sleep(chance.uniform(0.05, 0.6))
    began_s = time.monotonic()
    replaced = FAULTS[fault](scene)
    time.sleep(chance.uniform(0.0, 0.6))
    for client in clients:
        client.stop_it.set()
    well_s = sight.until_well(replaced)
    for client in clients:
        client.join(30)
    if trouble_in(sight.look(), replaced):  # what was under way has left hints
        well_s = sight.until_well(replaced)
    lost = verify(sight.store, clients) + [text for client in clients for text in client.wrong]
    sight.until_well(replaced)  # also if the reading has come upon damage
    return well_s - began_s, lost, scene.notes


def table_of(figures: dict[str, Any]) -> str:
    """Return the figures of the rounds as a table."""
    lines = [
        f"{'fault':<13}{'rounds':>7}{'well again, s':>16}{'acked':>9}{'unknown':>9}{'operations':>12}{'failed':>8}"
        f"{'lost':>6}"
    ]
    for fault, row in figures["faults"].items():
        well = f"{row['well_s_median']:.1f} / {row['well_s_max']:.1f}"
        notes = "; ".join(f"{note}: {count}" for note, count in row.get("notes", {}).items())
        lines.append(
            f"{fault:<13}{row['rounds']:>7}{well:>16}{row['acknowledged']:>9}{row['unknown']:>9}"
            f"{row['operations']:>12}{row['failed']:>8}{row['lost']:>6}  {notes}".rstrip()
        )
    return "\n".join(["Healthy again: all up and complete, no hint waits; median / most", *lines])


# ---- several hosts ----

HOST_LABEL = "raykv-host"
HOST_NAMES = ("host-a", "host-b", "host-c")
HEAD_NAME = "host-z"  # nodes are dealt out over the hosts in the order of their names, so this one gets none
SPARE_NAME = "host-y"
LOADS = 4
PAUSE_S = 0.005
CALM_S = 10.0
SETTLE_S = 3.0
HOST_AWAY_S = 12.0
UPDATE_EVERY_S = 0.03
SLOW_FACTOR = 3.0
SLOW_MOST_S = 0.25
"""An operation is slow above 3 times the healthy p99, on a busy machine too from here on."""
DEMAND = {"failed": 0, "slowest_s": 1.0, "routed_s": 2.0}


class Load(Client):
    """A client that works at a steady pace, one key at a time, and writes down how long each operation took."""

    timeout_s = 5.0
    read_share = 0.5

    def __init__(self, store: raykv.Store, number: int, seed: int) -> None:
        super().__init__(store, number, seed)
        self.times: list[tuple[float, float, str, bool]] = []
        """When it began and ended, what it was, whether it failed."""

    def step(self) -> None:
        """Do one operation and write it down."""
        failed, began_s, reads = self.failed, time.monotonic(), self.random.random() < self.read_share
        if reads:
            self.read(self.key())
        else:
            self.write([self.key()], self.value())
        self.times.append((began_s, time.monotonic(), "get" if reads else "put", self.failed > failed))
        time.sleep(PAUSE_S)


class Watch(threading.Thread):
    """Asks the supervisor all the time who is down: status() says the same, but waits for the nodes' figures."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.seen: list[tuple[float, dict[str, str], dict[str, int]]] = []
        """When somebody was seen down or up, and the runs."""

    def run(self) -> None:
        """Go on until ``ended``."""
        frame = f.supervisor_requests.encode(f.GetClusterUpdate())
        handle = find_actor(NAME, SUPERVISOR)
        while not self.ended.wait(UPDATE_EVERY_S):
            with contextlib.suppress(ray.exceptions.RayError):
                update = f.supervisor_answers.decode(ray.get(handle.serve.remote(frame), timeout=5))
                if isinstance(update, f.ClusterUpdate):
                    self.seen.append((time.monotonic(), update.down, update.incarnations))

    def down_at(self, node_id: str, since_s: float) -> float | None:
        """Return when the node was first seen down."""
        return next((at_s for at_s, down, _ in self.seen if at_s >= since_s and node_id in down), None)

    def back_at(self, node_id: str, run: int, since_s: float) -> float | None:
        """Return when the node was first seen up in a later run."""
        return next(
            (at_s for at_s, down, runs in self.seen if at_s >= since_s and node_id not in down and runs[node_id] > run),
            None,
        )


class Hosts:
    """A Ray cluster on one machine whose raylets count as hosts, and a store with a node on each but the first."""

    def __init__(self, path: str) -> None:
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        self._options = options
        self.cluster = Cluster(initialize_head=True, head_node_args=options | {"labels": {HOST_LABEL: HEAD_NAME}})
        self.raylets = {name: self._add(name) for name in HOST_NAMES}
        ray.init(address=self.cluster.address, **RAY_OPTIONS)
        self.store = raykv.start(NAME, path=path, config=small_tables())

    def _add(self, name: str) -> Any:
        return self.cluster.add_node(**self._options, labels={HOST_LABEL: name})

    @staticmethod
    def raylet_pid(node: Any) -> int:
        """Return the process id of a host's raylet."""
        return int(node.all_processes["raylet"][0].process.pid)

    def services_on(self) -> dict[str, str]:
        """Return on which hosts coordinator and supervisor run."""
        name_of = {self.raylet_pid(node): name for name, node in self.raylets.items()}
        return {peer: name_of.get(parent(pid_of(peer)), HEAD_NAME) for peer in (COORDINATOR, SUPERVISOR)}

    def lose(self, name: str) -> None:
        """Kill the host's raylet; its workers end when they notice."""
        self.cluster.remove_node(self.raylets.pop(name), allow_graceful=False)

    def processes_of(self, name: str) -> list[int]:
        """Return the ids of a host's processes, its raylet first."""
        raylet = self.raylet_pid(self.raylets[name])
        shown = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
        pairs = [tuple(map(int, line.split())) for line in shown.splitlines()]
        return [raylet, *(pid for pid, its_parent in pairs if its_parent == raylet)]

    def bring_back(self, name: str) -> None:
        """Start the host again."""
        self.raylets[name] = self._add(name)

    def end(self) -> None:
        """End everything."""
        raykv.shutdown(NAME)
        ray.shutdown()
        self.cluster.shutdown()


def run_hosts(seed: int) -> dict[str, Any]:
    """Measure all phases; return the figures."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="raykv-hosts-") as path:
        hosts = Hosts(path)
        try:
            return Phases(hosts, chance).run()
        finally:
            hosts.end()


class Phases:
    """The phases of a run with several hosts."""

    def __init__(self, hosts: Hosts, chance: random.Random) -> None:
        self._hosts = hosts
        self._chance = chance
        self._sight = Sight(hosts.store)
        self._watch = Watch()
        self._loads: list[Load] = [Load(hosts.store, number, chance.randrange(2**32)) for number in range(LOADS)]
        self._slow_s = 0.0

    def run(self) -> dict[str, Any]:
        """Run them all."""
        self._watch.start()
        for load in self._loads:
            for _ in range(200):
                load.write([load.key()], load.value())
        self._sight.until_well({})
        figures: dict[str, Any] = {"services_on": self._hosts.services_on(), "calm": self._calm()}
        figures["starting"] = self._starting()
        print(
            f"coordinator on {figures['services_on'][COORDINATOR]}, supervisor on {figures['services_on'][SUPERVISOR]}"
        )
        print(f"healthy: {figures['calm']}", flush=True)
        print(f"healthy, while something else starts: {figures['starting']}", flush=True)
        figures["phases"] = {}
        for name, fault in PHASES.items():
            figures["phases"][name] = self._phase(fault)
            print(f"{name}: {figures['phases'][name]['notes'] or 'done'}", flush=True)
        self._watch.ended.set()
        rows = figures["phases"].values()
        figures["missed"] = [name for name, row in figures["phases"].items() if row["missed"]]
        figures["lost"] = sum(row["lost"] for row in rows)
        figures["what"] = [text for row in rows for text in row.pop("what")]
        return figures

    def _calm(self) -> dict[str, float]:
        """Measure how long operations take while nothing happens."""
        self._start()
        time.sleep(CALM_S)
        times = sorted(end_s - began_s for began_s, end_s, _, _ in self._stop()[0])
        p99_s = times[len(times) * 99 // 100]
        self._slow_s = min(SLOW_MOST_S, SLOW_FACTOR * p99_s)
        return {
            "operations": len(times), "median_s": round(times[len(times) // 2], 4), "p99_s": round(p99_s, 4),
            "slowest_s": round(times[-1], 3),
        }  # fmt: skip

    def _starting(self) -> dict[str, dict[str, float]]:
        """Measure it while a process of Ray, and a host, starts that has nothing to do with the store."""

        @ray.remote(num_cpus=0)
        class Another:
            def ready(self) -> bool:
                import raykv.actors.storage_node

                return bool(raykv)

        def process() -> None:
            ray.get(Another.remote().ready.remote())  # type: ignore[attr-defined]

        found = {}
        starts: dict[str, Callable[[], None]] = {"process": process, "host": lambda: self._hosts.bring_back(SPARE_NAME)}
        for name, start in starts.items():
            self._start()
            time.sleep(SETTLE_S)
            began_s = time.monotonic()
            start()
            ready_s = time.monotonic() - began_s
            time.sleep(SETTLE_S)
            taken = [end_s - start_s for start_s, end_s, _, _ in self._stop()[0] if end_s > began_s]
            slow = sum(taken_s > self._slow_s for taken_s in taken)
            found[name] = {"after_s": round(ready_s, 2), "slow": slow, "slowest_s": round(max(taken), 3)}
        self._hosts.lose(SPARE_NAME)
        return found

    def _start(self) -> None:
        for load in self._loads:
            load.start()

    def _stop(self) -> tuple[list[tuple[float, float, str, bool]], list[str]]:
        """Stop the clients; return what they have done, and what was lost."""
        for load in self._loads:
            load.stop_it.set()
        for load in self._loads:
            load.join(30)
        self._sight.until_well({})
        lost = verify(self._hosts.store, self._loads) + [text for load in self._loads for text in load.wrong]
        times = sorted(row for load in self._loads for row in load.times)
        self._loads = [successor_of(load) for load in self._loads]
        return times, lost

    def _phase(self, fault: Callable[[Phases, dict[str, Any]], dict[str, float]]) -> dict[str, Any]:
        """Let a fault happen under load and go by; return what was noticed of it."""
        away = set(self._hosts.services_on().values())
        victim = self._chance.choice([node for node in self._sight.nodes() if node["host"] not in away])
        self._start()
        time.sleep(SETTLE_S)
        began_s = time.monotonic()
        notes = fault(self, victim)
        self._sight.until_well({})
        time.sleep(SETTLE_S)
        times, lost = self._stop()
        return self._figures(victim, began_s, times, lost, notes)

    def _figures(
        self,
        victim: dict[str, Any],
        began_s: float,
        times: list[tuple[float, float, str, bool]],
        lost: list[str],
        notes: dict[str, float],
    ) -> dict[str, Any]:
        since = [row for row in times if row[1] >= began_s]
        slow = [row for row in since if row[1] - row[0] > self._slow_s]
        by_second: dict[int, float] = defaultdict(float)
        for start_s, end_s, _, _ in since:
            second = int(max(0.0, end_s - began_s))
            by_second[second] = max(by_second[second], round(end_s - start_s, 3))
        down_s = self._watch.down_at(victim["node_id"], began_s)
        back_s = self._watch.back_at(victim["node_id"], victim["incarnation"], began_s)
        replacing_s = began_s + notes["host_back"] if "host_back" in notes else down_s
        waiting = [
            end_s for start_s, end_s, _, _ in slow if replacing_s is None or start_s + self._slow_s < replacing_s
        ]
        row: dict[str, Any] = {
            "victim": f"{victim['node_id']} on {victim['host']}",
            "operations": len(since),
            "failed": sum(failed for _, _, _, failed in since),
            "slowest_s": round(max(end_s - start_s for start_s, end_s, _, _ in since), 3),
            "slow": len(slow),
            "routed_s": round(max(waiting, default=began_s) - began_s, 2),
            "calm_s": round(max((end_s for _, end_s, _, _ in slow), default=began_s) - began_s, 2),
            "down_s": None if down_s is None else round(down_s - began_s, 2),
            "back_s": None if back_s is None else round(back_s - began_s, 2),
            "slowest_by_second": dict(by_second),
            "slow_ones": [(round(b - began_s, 2), round(e - b, 3), kind) for b, e, kind, _ in slow],
            "lost": len(lost),
            "what": lost,
            "notes": notes,
            "began_at_s": round(began_s, 3),
        }
        missed = [name for name, most in DEMAND.items() if row[name] > most]
        return row | {"missed": missed}

    # ---- events; each returns the times to record, in seconds after the fault ----

    def kill(self, victim: dict[str, Any]) -> dict[str, float]:
        """Kill a storage process."""
        send(victim["pid"], signal.SIGKILL)
        self._sight.until_replaced(runs([victim]))
        return {}

    def freeze(self, victim: dict[str, Any]) -> dict[str, float]:
        """Stop a storage process until another runs in its place."""
        began_s = time.monotonic()
        with frozen(victim["pid"]):
            self._sight.until_replaced(runs([victim]))
            lives = not ended(victim["pid"])
        return {"lived_on_and_thawed": time.monotonic() - began_s} if lives else {}

    def thaw(self, victim: dict[str, Any]) -> dict[str, float]:
        """Stop a storage process for a moment that is too short for another to be started."""
        with frozen(victim["pid"]):
            time.sleep(1.0)
        time.sleep(SETTLE_S)
        return {"thawed": 1.0}

    def host(self, victim: dict[str, Any]) -> dict[str, float]:
        """Lose a host, and have it back some time later."""
        began_s = time.monotonic()
        self._hosts.lose(victim["host"])
        while not ended(victim["pid"]):
            time.sleep(0.02)
        process_s = time.monotonic() - began_s
        time.sleep(HOST_AWAY_S)
        back_s = time.monotonic() - began_s
        self._hosts.bring_back(victim["host"])
        self._sight.until_replaced(runs([victim]))
        return {"process_ended": process_s, "host_back": back_s}

    def pause(self, victim: dict[str, Any]) -> dict[str, float]:
        """Stop all processes of a host for a while, as a paused virtual machine or a cut network does."""
        began_s = time.monotonic()
        with contextlib.ExitStack() as stack:
            for pid in self._hosts.processes_of(victim["host"]):
                stack.enter_context(frozen(pid))
            time.sleep(HOST_AWAY_S)
        self._sight.until_replaced(runs([victim]))
        return {"host_back": HOST_AWAY_S, "node_up": time.monotonic() - began_s}


PHASES: dict[str, Callable[[Phases, dict[str, Any]], dict[str, float]]] = {
    "kill": Phases.kill,
    "freeze": Phases.freeze,
    "thaw": Phases.thaw,
    "host": Phases.host,
    "pause": Phases.pause,
}


def hosts_table(figures: dict[str, Any]) -> str:
    """Return the figures of the phases as a table."""
    lines = [
        "Seconds after the fault: routed around, seen down, replaced, calm again (no slow operation after that)",
        f"{'phase':<8}{'operations':>11}{'failed':>8}{'slowest':>9}{'slow':>6}{'routed':>8}{'down':>7}{'up':>7}{'calm':>7}"
        f"{'lost':>6}  demand",
    ]
    for phase, row in figures["phases"].items():
        times = "".join(
            f"{'-' if row[name] is None else format(row[name], '.2f'):>7}" for name in ("down_s", "back_s", "calm_s")
        )
        met = f"MISSED: {', '.join(row['missed'])}" if row["missed"] else "met"
        lines.append(
            f"{phase:<8}{row['operations']:>11}{row['failed']:>8}{row['slowest_s']:>9.2f}{row['slow']:>6}"
            f"{row['routed_s']:>8.2f}{times}{row['lost']:>6}  {met}"
        )
    return "\n".join(lines)


def main() -> int:
    """Return 1 if anything was lost, or if a demand was not met."""
    parser = argparse.ArgumentParser(
        prog="scripts/fault_rounds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=500, metavar="N", help="how many (500, about 40 minutes)")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="decides which fault when, not what it meets (1)"
    )
    parser.add_argument(
        "--faults", type=fault_names, default=list(FAULTS), metavar="F,F", help="only these (default: all)"
    )
    parser.add_argument("--hosts", action="store_true", help="several hosts, and what clients notice; see above")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    arguments = parser.parse_args()
    if arguments.hosts:
        figures = run_hosts(arguments.seed)
        print(hosts_table(figures))
    else:
        ray.init(
            address="local", num_cpus=2, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **RAY_OPTIONS
        )
        figures = run_rounds(arguments.rounds, arguments.seed, arguments.faults)
        print(table_of(figures))
    for text in figures["what"]:
        print(f"LOST: {text}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if figures["lost"] or figures.get("missed") else 0


def fault_names(text: str) -> list[str]:
    """Read names of faults."""
    names = text.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"there is no fault {unknown[0]!r}; there are {', '.join(FAULTS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
