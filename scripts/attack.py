"""Attack a store of three nodes while another process uses it, and count what that costs the other process.

The attacker is one process that knows the secret of every node, the worst case. Rounds with and without the attack take
turns; a table shows restarted nodes, failed operations of the other process, and the median of its p99 beside that
without. Exit code 1 if a node was restarted, an operation failed, or p99 is more than three times what it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import typing
from typing import TYPE_CHECKING, Any

import msgspec
import ray

import raykv
from raykv.actors.naming import find_actor
from raykv.config import MAX_BATCH_ITEMS
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.limits import MAX_LOOKED_AT
from raykv.records.record import pack_body, stamp
from raykv.transport import Endpoint, wire
from raykv.transport.sockets import open_socket
from raykv.versions import time_from_ms
from rounds.percentiles import p99_ms, times

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

STORE = "attack"
IDLE = 2000
ALLOWED_RATIO = 3.0
LEFT_OUT = {f.Stop}
"""Stopping a node is legitimate: that is the secret's purpose."""


# ---- the attacker ----


def friend(endpoint: Endpoint, secret: bytes | None = None) -> socket.socket:
    """Return a connection that has shaken hands. Raises ``OSError``, ``WireError``."""
    connection = open_socket(endpoint, 2.0)
    connection.settimeout(2.0)
    handshake = wire.ClientHandshake(endpoint.secret, b"n" * wire.NONCE_BYTES)
    connection.sendall(handshake.hello())
    proof = b""
    while not handshake.done:
        data = connection.recv(4096)
        if not data:
            raise ConnectionResetError("hung up on")
        proof += handshake.feed(data)
    connection.sendall(proof if secret is None else secret)
    return connection


def filled(kind: Any, size_bytes: int) -> Any:
    """Return a value of a type, with lists and texts as large as this many bytes allow."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is bytes:
        return b"k" * size_bytes
    if kind is str:
        return "k" * size_bytes
    if kind in {int, float, bool}:
        return kind(1)
    if origin is list:
        return [small(arguments[0], number) for number in range(max(1, size_bytes // weight(arguments[0])))]
    if origin is dict:
        return {f"n{number}": small(arguments[1], number) for number in range(max(1, size_bytes // 16))}
    if origin is tuple:
        return tuple(filled(each, size_bytes // len(arguments)) for each in arguments)
    return filled(arguments[0], size_bytes) if arguments else None  # the first of a union


def small(kind: Any, number: int) -> Any:
    """Return a value of a type that costs little."""
    if kind is bytes:
        return b"\x02k%07d" % number
    if kind is str:
        return f"n{number}"
    if kind in {int, float, bool}:
        return kind(number % 256)
    arguments = typing.get_args(kind)
    return [] if typing.get_origin(kind) is list else tuple(small(each, number) for each in arguments)


def weight(kind: Any) -> int:
    """Return about how many bytes a small value has."""
    return len(msgspec.msgpack.encode(small(kind, 1)))  # as frames are encoded


def frames(size_bytes: int) -> dict[str, bytes]:
    """Return frames of about that size, one for each field of each kind of request that can be so large."""
    made = {}
    for kind in typing.get_args(f.NodeRequestBody):
        if kind in LEFT_OUT:
            continue
        hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if name in kind.__struct_fields__}
        for large in [name for name, hint in hints.items() if hint not in {int, float, bool}]:
            fields = {name: filled(hint, size_bytes if name == large else 1) for name, hint in hints.items()}
            made[f"{kind.__name__}.{large}"] = f.node_requests.encode(f.NodeRequest(0, kind(**fields)))
    return made


def legal_frames() -> dict[str, bytes]:
    """Return the dearest requests that a node takes, of each kind that clients and peers send in numbers."""
    keys = [encode_key(f"load:{number}") for number in range(MAX_BATCH_ITEMS)]
    record = stamp(pack_body(bytes(16), b"v" * 100), time_from_ms(round(time.time() * 1000)))
    leaves = [*range(MAX_LOOKED_AT)]
    bodies: list[f.NodeRequestBody] = [
        f.Read(1, keys),
        f.ReserveDots(1, keys, [bytes(16)] * len(keys)),
        f.Write(1, [(b"\x02attack:%d" % number, record) for number in range(len(keys))]),
        f.Scan(1, b"", b"\x03", 10_000, False, False, [*range(256)]),
        f.Scan(1, b"", b"\x03", 1, True, True, [*range(256)]),
        f.Tree(7, [1], 5, 0, [0]),
        f.Leaves(7, [1], 5, leaves),
        f.Fetch(1, keys[:MAX_LOOKED_AT]),
        f.Ping(with_stats=True),
    ]
    return {
        f"{type(body).__name__} {at}": f.node_requests.encode(f.NodeRequest(0, body)) for at, body in enumerate(bodies)
    }


def idle(endpoints: list[Endpoint], until_s: float) -> None:
    """Open 2,000 connections, and leave them."""
    held = []
    for number in range(IDLE):
        with contextlib.suppress(OSError, wire.WireError):
            held.append(friend(endpoints[number % len(endpoints)]))
    time.sleep(max(0.0, until_s - time.monotonic()))


def unread(endpoints: list[Endpoint], until_s: float) -> None:
    """Ask for much, and never read an answer."""
    ask = f.node_requests.encode(f.NodeRequest(0, f.Ping(with_stats=True)))
    asks = b"".join(wire.head(number, wire.REQUEST, ask) + ask for number in range(2000))
    held: list[socket.socket] = []
    while time.monotonic() < until_s:
        for endpoint in endpoints:
            with contextlib.suppress(OSError, wire.WireError):
                held.append(friend(endpoint))
                held[-1].settimeout(0.05)
                held[-1].sendall(asks)
        del held[:-60]
        time.sleep(0.05)


def loris(endpoints: list[Endpoint], until_s: float) -> None:
    """Begin handshakes, and do not end them."""
    held: list[socket.socket] = []
    while time.monotonic() < until_s:
        for endpoint in endpoints:
            with contextlib.suppress(OSError):
                held.append(open_socket(endpoint, 1.0))
                held[-1].sendall(b"ray")
        del held[:-600]
        time.sleep(0.001)


def proofs(endpoints: list[Endpoint], until_s: float) -> None:
    """Prove the wrong thing, again and again."""
    while time.monotonic() < until_s:
        for endpoint in endpoints:
            with contextlib.suppress(OSError, wire.WireError):
                friend(endpoint, b"x" * 32).close()


def flood(endpoints: list[Endpoint], until_s: float) -> None:
    """Connect and hang up as fast as it goes."""
    while time.monotonic() < until_s:
        for endpoint in endpoints:
            with contextlib.suppress(OSError):
                open_socket(endpoint, 1.0).close()


def asking(make: Callable[[], dict[str, bytes]]) -> Callable[[list[Endpoint], float], None]:
    """Return what sends these frames in turn, one at a time to each node."""

    def attack(endpoints: list[Endpoint], until_s: float) -> None:
        asked = [*make().values()]
        turn = 0
        while time.monotonic() < until_s:
            for endpoint in endpoints:
                with contextlib.suppress(OSError, wire.WireError), friend(endpoint) as connection:
                    frame = asked[turn % len(asked)]
                    connection.sendall(wire.head(1, wire.REQUEST, frame) + frame)
                    connection.recv(1 << 16)
            turn += 1

    return attack


KINDS: dict[str, Callable[[list[Endpoint], float], None]] = {
    "idle": idle, "unread": unread, "loris": loris, "proofs": proofs, "flood": flood,
    "frames-1m": asking(lambda: frames(1 << 20)), "frames-4m": asking(lambda: frames(4 << 20)),
    "legal": asking(legal_frames),
}  # fmt: skip


def be_the_attacker(kind: str, seconds: float) -> None:
    """Attack where standard input says."""
    os.nice(19)  # as if it had a machine of its own, as far as that goes
    listed = json.load(sys.stdin)
    KINDS[kind](
        [Endpoint(host, port, bytes.fromhex(secret)) for host, port, secret in listed], time.monotonic() + seconds
    )


# ---- the other process ----


class Load:
    """Uses the store, in a process of its own."""

    def run(self, seconds: float) -> tuple[list[float], int]:
        """Return how long each operation took, in seconds, and how many failed."""
        store = raykv.connect(STORE)
        took_s: list[float] = []
        failed = 0
        until_s = time.monotonic() + seconds
        while (began_s := time.monotonic()) < until_s:
            key = f"load:{len(took_s) % 500}"
            try:
                store.put(key, "v" * 100) if len(took_s) % 4 == 0 else store.get(key)
            except raykv.RaykvError:
                failed += 1
            took_s.append(time.monotonic() - began_s)
            time.sleep(0.001)
        return took_s, failed


def measure(store: raykv.Store, kinds: list[str], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Return the figures of each kind."""
    load = ray.remote(Load).options(num_cpus=0).remote()
    ray.get(load.run.remote(1.0))
    found = []
    for kind in kinds:
        before = {node["node_id"]: node["incarnation"] for node in store.status(timeout=30)["nodes"]}
        quiet, attacked, failed = [], [], 0
        for _ in range(rounds):
            quiet.append(p99_ms(ray.get(load.run.remote(seconds))[0]))
            endpoints = [
                ray.get(find_actor(STORE, f"node/{node_id}").stream.remote(ray.util.get_node_ip_address()))
                for node_id in before
            ]
            endpoints_json = json.dumps([(host, port, secret.hex()) for host, port, secret in endpoints])
            attacker = subprocess.Popen(
                [sys.executable, __file__, "--attacker", kind, "--seconds", str(seconds + 1)],
                stdin=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert attacker.stdin is not None
            attacker.stdin.write(endpoints_json)
            attacker.stdin.close()
            time.sleep(1)  # until it has imported what it needs
            took_s, failures = ray.get(load.run.remote(seconds))
            attacked.append(p99_ms(took_s))
            failed += failures
            attacker.kill()
            attacker.wait()
        after = {node["node_id"]: node["incarnation"] for node in store.status(timeout=30)["nodes"]}
        restarted = sum(after.get(node_id) != incarnation for node_id, incarnation in before.items())
        with_ms, without_ms = statistics.median(attacked), statistics.median(quiet)
        figures = {
            "kind": kind, "restarted": restarted, "failed": failed, "p99_ms": round(with_ms, 2),
            "p99_ms_without": round(without_ms, 2), "ratio": round(times(with_ms, without_ms), 2),
        }  # fmt: skip
        print("  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)
        found.append(figures)
    return found


def main() -> int:
    """Return 1 if a bound is broken."""
    parser = argparse.ArgumentParser(prog="scripts/attack", description=__doc__)
    parser.add_argument("--kind", action="append", choices=[*KINDS], help="which attack; repeat it (default: all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="with and without, in turns (default 3)")
    parser.add_argument("--untimed", action="store_true", help="p99 is shown, and no bound")
    parser.add_argument("--attacker", choices=[*KINDS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attacker:
        be_the_attacker(arguments.attacker, arguments.seconds)
        return 0
    ray.init(
        address="local", num_cpus=2, object_store_memory=150 * 1024 * 1024, include_dashboard=False,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="raykv-attack-") as path:
        store = raykv.start(STORE, path=path)
        found = measure(store, arguments.kind or [*KINDS], arguments.seconds, arguments.rounds)
        raykv.shutdown(STORE)
    broken = [
        each
        for each in found
        if each["restarted"] or each["failed"] or (each["ratio"] > ALLOWED_RATIO and not arguments.untimed)
    ]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
