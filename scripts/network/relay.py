"""Carries Ethernet frames between zones: late, not at all, and counted. A process of its own.

Each zone's bridge has a TAP device, of which the relay is the far end. A frame goes to every other zone: whose it is, each
zone's bridge knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import multiprocessing
import os
import selectors
import struct
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

FRAME_BYTES = 65_600
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
UNICAST = 0
ANSWER_TIMEOUT_S = 30.0


def open_tap(name: str) -> int:
    """Make a TAP device, which lasts as long as the descriptor. Raises ``OSError``."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


class Relay:
    """The handle of a relay's process."""

    def __init__(self, taps: dict[str, int]) -> None:
        """``taps``: zone -> descriptor."""
        self._connection, far = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")  # the descriptors go with it
        self._process = context.Process(target=_run, args=(taps, far), daemon=True)
        self._process.start()

    def delay(self, one_way_s: float) -> None:
        """Let each frame take so long."""
        self._ask("delay", one_way_s)

    def cut(self, *zones: str) -> None:
        """Lose what comes from and goes to these zones, and carry everything else."""
        self._ask("cut", frozenset(zones))

    def carried_bytes(self) -> int:
        """Return how many bytes of frames with one receiver were carried so far."""
        carried: int = self._ask("carried", None)
        return carried

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join(ANSWER_TIMEOUT_S)

    def _ask(self, what: str, given: Any) -> Any:
        self._connection.send((what, given))
        if not self._connection.poll(ANSWER_TIMEOUT_S):
            raise TimeoutError("the relay does not answer")
        return self._connection.recv()


class _Carrier:
    """The state of a relay."""

    def __init__(self, taps: dict[str, int]) -> None:
        self._taps = taps
        self._delay_s = 0.0
        self._cut: frozenset[str] = frozenset()
        self._carried_bytes = 0
        self._late: list[tuple[float, int, str, bytes]] = []
        self._numbers = itertools.count()

    def answer(self, what: str, given: Any) -> Any:
        if what == "delay":
            self._delay_s = given
        elif what == "cut":
            self._cut = given
        return self._carried_bytes

    def take(self, zone: str) -> None:
        """Read what a zone sends, all there is."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = os.read(self._taps[zone], FRAME_BYTES)
                if zone not in self._cut:
                    self._send_on(zone, frame)

    def _send_on(self, zone: str, frame: bytes) -> None:
        if frame[0] & 1 == UNICAST:
            self._carried_bytes += len(frame)
        for other in self._taps:
            if other == zone or other in self._cut:
                continue
            if self._delay_s:
                heapq.heappush(self._late, (time.monotonic() + self._delay_s, next(self._numbers), other, frame))
            else:
                self._write(other, frame)

    def due(self) -> float | None:
        """Send what is due; return the seconds until the next frame is, None if none waits."""
        while self._late and (left_s := self._late[0][0] - time.monotonic()) <= 0:
            _, _, zone, frame = heapq.heappop(self._late)
            if zone not in self._cut:
                self._write(zone, frame)
        return max(0.0, left_s) if self._late else None

    def _write(self, zone: str, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # its queue is full, or it is down: a network loses frames
            os.write(self._taps[zone], frame)


def _run(taps: dict[str, int], commands: Connection) -> None:
    carrier = _Carrier(taps)
    with selectors.DefaultSelector() as selector:
        for zone, tap in taps.items():
            selector.register(tap, selectors.EVENT_READ, zone)
        selector.register(commands, selectors.EVENT_READ, None)
        while True:
            for key, _ in selector.select(carrier.due()):
                if key.data is not None:
                    carrier.take(key.data)
                    continue
                try:
                    commands.send(carrier.answer(*commands.recv()))
                except (EOFError, BrokenPipeError):
                    return


__all__: Sequence[str] = ["Relay", "open_tap"]
