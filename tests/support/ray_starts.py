"""Ray gives itself 30 seconds to start, whatever the machine has to do besides: then it is started once more."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

STARTS = 3
FREED_WITHIN_S = 60.0


def was_too_slow(words: str) -> bool:
    """Tell whether Ray says that it did not start in time."""
    return "The current node timed out during startup" in words


def still_reserved(processors: int) -> str:
    """Return what still holds processors of this Ray after a minute's patience; "" if nothing does."""
    import ray
    from ray.util import placement_group_table

    until_s = time.monotonic() + FREED_WITHIN_S
    while (free := ray.available_resources().get("CPU", 0.0)) < processors:
        if time.monotonic() > until_s:
            groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
            return f"{processors - free} of {processors} processors; placement groups: {groups}"
        time.sleep(0.1)
    return ""


def run_python(*words: str | Path, timeout_s: float = 900.0) -> subprocess.CompletedProcess[str]:
    """Run a program that starts a Ray of its own; once more if that was too slow."""
    for _ in range(STARTS):
        done = subprocess.run([sys.executable, *words], check=False, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode == 0 or not was_too_slow(done.stdout + done.stderr):
            break
    return done
