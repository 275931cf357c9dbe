"""What commands at the shell take, from their start to their end: straight to a coordinator, and by way of Ray.

The same commands, in turn, on the same store. By way of Ray they find no file that tells them where a coordinator listens.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import ray

import raykv

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.stage import Stage

NAME = "commands"
TARGET_S = 0.7
COMMANDS = {
    "raykv get": ["get", "key:7", "--store", NAME],
    "raykv put": ["put", "key:8", "value", "--store", NAME],
    "raykv scan": ["scan", "--prefix", "key:1", "--store", NAME],
    "raykv add": ["add", "hits", "--store", NAME],
    "raykv status": ["status", "--store", NAME],
    "raykv list": ["list"],
    "raykv explain": ["explain", "key:7", "--store", NAME],
}
QUICK = ("raykv get", "raykv status")
OPEN_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 300.0
_PROGRAM = """
import sys
from raykv.cli.main import cli
code = cli.main(sys.argv[1:], standalone_mode=False)
sys.exit(code or 100 * ("ray" in sys.modules))
"""
_BY_RAY = 100


def measure(stage: Stage) -> dict[str, Any]:
    """Return the figures of the part ``commands``."""
    store = stage.store(name=NAME)
    store.put_many({f"key:{number}": {"number": number} for number in range(100)})
    known = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "token"}
    sides = {"straight": known, "by Ray": known | {"XDG_CACHE_HOME": stage.directory()}}
    until_s = time.monotonic() + OPEN_TIMEOUT_S
    while _run(COMMANDS["raykv get"], sides["straight"]) == _BY_RAY:
        if time.monotonic() > until_s:
            raise RuntimeError("no command reached the coordinator without Ray; the store's logs say why")
        time.sleep(0.2)
    commands = {what: COMMANDS[what] for what in (QUICK if stage.quick else COMMANDS)}
    taken: dict[str, dict[str, list[float]]] = {what: {side: [] for side in sides} for what in commands}
    fell_back = dict.fromkeys(commands, 0)
    """How often the coordinator did not answer in time, on a busy machine, and Ray was joined after all."""
    for turn in range(stage.rounds):
        for what, arguments in commands.items():
            stage.report(f"commands: round {turn + 1} of {stage.rounds}, {what}")
            for side in list(sides)[:: 1 if turn % 2 else -1]:
                began_s = time.perf_counter()
                code = _run(arguments, sides[side])
                taken[what][side].append(time.perf_counter() - began_s)
                fell_back[what] += side == "straight" and code == _BY_RAY
                if code not in {0, _BY_RAY} or (side == "by Ray" and code != _BY_RAY):
                    raise RuntimeError(f"{what}, {side}, ended with exit code {code}")
    raykv.shutdown(NAME)
    rows = [
        {"what": what, "fell_back": fell_back[what], **{side: spread_s(some) for side, some in seen.items()}}
        for what, seen in taken.items()
    ]
    return {"rows": rows, "target_s": TARGET_S}


def spread_s(some: list[float]) -> dict[str, float]:
    """Return median, least and most, in seconds."""
    return {"median": statistics.median(some), "min": min(some), "max": max(some)}


def _run(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run a command; return 0 if it succeeded without Ray, ``_BY_RAY`` if with it, else another number."""
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        env=environment, stdout=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S, check=False,
    ).returncode  # fmt: skip
