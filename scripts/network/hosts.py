"""Network namespaces as hosts: each has an address and sees nothing but the bridge of its zone.

All of it is in a network namespace of this process's own, so nothing is left on the machine when the processes end.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

from network.relay import Relay, open_tap

ALONE = "RAYKV_ZONES_ALONE"
"""In the environment of a process that has a network namespace of its own."""
PREFIX = "10.77.0"
WAIT_S = 30.0
CLONE_NEWNET = 0x40000000
NEEDED = ("ip", "unshare", "nsenter", "setpriv")


class Host(NamedTuple):
    """A host: a process that holds its namespace."""

    name: str
    zone: str
    address: str
    holder: subprocess.Popen[bytes]

    def command(self, *words: str) -> list[str]:
        """Return a command as it is run on the host; it is told to end when the thread that starts it does."""
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "setpriv", "--pdeathsig", "TERM", *words]


def lacking() -> str:
    """Return what keeps this machine from having such hosts; empty if nothing does."""
    if not sys.platform.startswith("linux"):
        return "it needs Linux"
    if os.geteuid():
        return "it needs root, for network namespaces"
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return f"it needs {', '.join(missing)}: install util-linux and iproute2"
    trial = "ip link add trial type bridge && ip tuntap add tap-trial mode tap"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", trial], capture_output=True, text=True, timeout=60, check=False
    )
    return f"it may not make networks here: {done.stderr.strip()[:200]}" if done.returncode else ""


def alone() -> None:
    """Begin this program again in a network namespace of its own, unless it has one."""
    if ALONE not in os.environ:
        os.environ[ALONE] = "1"
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # what listens asks for it
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    _run("ip", "link", "set", "lo", "up")


class Network:
    """Hosts by name, and the relay between their zones. ``end`` ends all of it."""

    def __init__(self, zones: dict[str, str]) -> None:
        """``zones``: host -> its zone."""
        self.hosts: dict[str, Host] = {}
        taps = {zone: self._bridge(zone) for zone in dict.fromkeys(zones.values())}
        for number, (name, zone) in enumerate(zones.items(), start=1):
            self.hosts[name] = self._host(name, zone, number)
        self.relay = Relay(taps)
        for tap in taps.values():
            os.close(tap)

    @staticmethod
    def _bridge(zone: str) -> int:
        tap = open_tap(f"tap-{zone}")
        _run("ip", "link", "add", f"br-{zone}", "type", "bridge")
        for device in (f"tap-{zone}", f"br-{zone}"):
            _run("ip", "link", "set", device, "up")
        _run("ip", "link", "set", f"tap-{zone}", "master", f"br-{zone}")
        return tap

    @staticmethod
    def _host(name: str, zone: str, number: int) -> Host:
        holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)  # it ends with this process
        host = Host(name, zone, f"{PREFIX}.{number}", holder)
        own, until_s = os.readlink("/proc/self/ns/net"), time.monotonic() + WAIT_S
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            if time.monotonic() > until_s:
                raise TimeoutError(f"host {name} has no network of its own")
            time.sleep(0.01)
        _run("ip", "link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        _run("ip", "link", "set", f"v-{name}", "master", f"br-{zone}", "up")
        for words in (("addr", "add", f"{host.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _run(*host.command("ip", *words))
        _run(*host.command("ip", "link", "set", "lo", "up"))
        return host

    def enter(self, name: str) -> None:
        """Let this thread, and what it starts, be on a host."""
        with open(f"/proc/{self.hosts[name].holder.pid}/ns/net") as there:
            if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot enter the host's network")

    def end(self) -> None:
        """End the hosts and the relay."""
        self.relay.end()
        for host in self.hosts.values():
            host.holder.kill()
            host.holder.wait(WAIT_S)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
