"""Network namespaces as hosts: what they reach of each other, with a zone cut off and a delay between zones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from network import hosts

SCRIPTS = Path(hosts.__file__).parents[1]
PROGRAM = """
    import json, subprocess, sys, time
    from network.hosts import Network, alone

    alone()
    network = Network({"a1": "a", "a2": "a", "b1": "b", "c1": "c"})
    knock = "import socket, sys; s = socket.socket(); s.settimeout({}); sys.exit(s.connect_ex((sys.argv[1], 9)) != 111)"

    def reaches(source, target, timeout_s=60.0):
        began_s = time.monotonic()
        there = network.hosts[target].address
        command = network.hosts[source].command(sys.executable, "-S", "-c", knock.format(timeout_s), there)
        refused = subprocess.run(command, timeout=120).returncode == 0
        return refused, time.monotonic() - began_s

    found = {"in a zone": reaches("a1", "a2")[0], "carried in it": network.relay.carried_bytes()}
    found["between zones"] = reaches("a1", "b1")[0]
    found["carried between"] = network.relay.carried_bytes()
    network.relay.delay(0.4)
    found["delayed"] = reaches("a1", "c1")
    network.relay.delay(0.0)
    network.relay.cut("b")
    found["cut off"] = reaches("a1", "b1", 1.0)[0]
    found["the others"] = reaches("a2", "c1")[0]
    network.relay.cut()
    found["joined again"] = reaches("a1", "b1")[0]
    found["holders"] = [host.holder.pid for host in network.hosts.values()]
    print(json.dumps(found), flush=True)
    if sys.argv[1:] == ["end"]:
        network.end()
"""


@pytest.mark.parametrize("how", ["end", "die"])
def test_zones_are_joined_delayed_and_cut_and_leave_nothing(tmp_path: Path, how: str) -> None:
    if why := hosts.lacking():
        pytest.skip(f"no networks here: {why}")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    environment.pop(hosts.ALONE, None)
    ran = subprocess.run(
        [sys.executable, program, how], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    refused, taken_s = found.pop("delayed")
    assert refused
    assert taken_s > 0.8, "there and back"
    assert found.pop("carried between") > 0
    for holder in found.pop("holders"):
        subprocess.run(["timeout", "60", "tail", f"--pid={holder}", "-f", os.devnull], check=True)  # it ends by itself
    assert found == {
        "in a zone": True, "carried in it": 0, "between zones": True, "cut off": False, "the others": True,
        "joined again": True,
    }  # fmt: skip


def test_what_is_lacking_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.sys, "platform", "darwin")
    assert hosts.lacking() == "it needs Linux"
    monkeypatch.setattr(hosts.sys, "platform", "linux")
    monkeypatch.setattr(hosts.os, "geteuid", lambda: 1000)
    assert hosts.lacking().startswith("it needs root")
    monkeypatch.setattr(hosts.os, "geteuid", lambda: 0)
    monkeypatch.setattr(hosts.shutil, "which", lambda name: None if name == "ip" else name)
    assert hosts.lacking() == "it needs ip: install util-linux and iproute2"
