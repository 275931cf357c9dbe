"""What is done to the leaders of some keys: their processes are killed and frozen, and their partitions move."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import raykv
from leaders import leaders

if TYPE_CHECKING:
    from collections.abc import Sequence

FROZEN_S = (1.0, 4.0)
KINDS = ("killed", "frozen", "moved")
POLL_S = 0.2


class Event(NamedTuple):
    """A leader's process was killed or frozen, or a node joined and left again."""

    kind: str
    at_s: float
    node_id: str
    keys: tuple[str, ...]
    """The keys that the node led, or, where partitions moved, all."""
    over_s: float


class Trouble(threading.Thread):
    """Every few seconds, while all nodes are up, does one of some kinds of harm, in turn."""

    def __init__(
        self, store: raykv.Store, keys: Sequence[str], every_s: float, seed: int, kinds: Sequence[str] = KINDS[:2]
    ) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._keys = keys
        self._every_s = every_s
        self._kinds = kinds
        self._random = random.Random(seed)
        self._over = threading.Event()
        self.events: list[Event] = []
        self.postponed = 0
        """How often it was time, and not all nodes were up."""

    def run(self) -> None:
        """Go on until ``end``."""
        while not self._over.wait(self._every_s):
            with contextlib.suppress(raykv.RaykvError):
                kind = self._kinds[len(self.events) % len(self._kinds)]
                if (victim := self._victim()) is None:
                    self.postponed += 1
                    continue
                pid, node_id, keys = victim
                at_s = time.monotonic()
                self.events.append(Event(kind, at_s, node_id, keys, at_s + self._every_s))
                if kind == "moved":
                    self.events[-1] = self.events[-1]._replace(keys=tuple(self._keys))
                    self._store.remove_node(self._store.add_node())
                    self.events[-1] = self.events[-1]._replace(over_s=time.monotonic())
                else:
                    harm(pid, kind, self._random.uniform(*FROZEN_S), self._over)

    def _victim(self) -> tuple[int, str, tuple[str, ...]] | None:
        """Return the process of a leader, its node, and the keys that it leads; None if not all nodes are up."""
        nodes = self._store.status(timeout=3)["nodes"]
        if any(node["state"] != "up" or node["storage"] is None for node in nodes):
            return None
        led = leaders(self._store, self._keys)
        if not led:
            return None
        node_id = led[self._random.choice(sorted(led))]
        pid = next((node["pid"] for node in nodes if node["node_id"] == node_id), None)
        if pid is None:
            return None
        return int(pid), node_id, tuple(key for key, leader in led.items() if leader == node_id)

    def end(self) -> None:
        """Stop; a process that is frozen goes on."""
        self._over.set()
        if self.ident is not None:
            self.join(120)


def harm(pid: int, kind: str, frozen_s: float, over: threading.Event) -> None:
    """Kill a process, or freeze it for a while."""
    with contextlib.suppress(ProcessLookupError):
        if kind == "killed":
            os.kill(pid, signal.SIGKILL)
            return
        os.kill(pid, signal.SIGSTOP)
        try:
            over.wait(frozen_s)
        finally:
            os.kill(pid, signal.SIGCONT)


def until_all_up(store: raykv.Store, timeout_s: float = 90.0) -> None:
    """Wait until all nodes are up and lack nothing. Raises ``TimeoutError``."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        with contextlib.suppress(raykv.RaykvError):
            nodes = store.status(timeout=3)["nodes"]
            if all(node["state"] == "up" and node["storage"] and node["storage"]["complete"] for node in nodes):
                return
        time.sleep(POLL_S)
    raise TimeoutError(f"not all nodes are up again after {timeout_s:g} s")
