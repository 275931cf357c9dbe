"""A helper process behind the ``Helper`` port: it is started when it is first needed, and ends with this one.

Messages go through its standard input and output, each behind its length. The helper ends as soon as its input does, so
it outlives this process by no more than the message that it is at. For that long it also holds this process's locks,
which are passed on to it: nobody else opens the directory while it may still write there (P6).

A helper that does not answer for ``ANSWER_S`` is killed, as one that ends by itself is given up: whoever waits for it does
the work itself. One that stands still when its process dies is killed by the kernel (Linux), and lets go of the locks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING

from raykv.ports import HelperLost
from raykv.system.files import lock_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 1 << 30
NICENESS = 5
"""The helper gives way to the processes that answer."""
ANSWER_S = 120.0
"""How long an answer may take: a message asks for some milliseconds of work, and the helper may have to start first."""
_DIE_WITH_PARENT = 1
"""``prctl``'s PR_SET_PDEATHSIG."""


class HelperProcess:
    """See ``ports.Helper``. ``module`` is run by this process's interpreter, and calls ``serve``."""

    def __init__(self, module: str, answer_s: float = ANSWER_S) -> None:
        self.answer_s = answer_s
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._lost = ""
        self._turn = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process is not None else None

    def call(self, message: bytes) -> bytes:
        """See ``ports.Helper``. Starts the process first if there is none yet."""
        with self._turn:
            if self._lost:
                raise HelperLost(self._lost)
            try:
                if self._process is None:
                    self._process = self._start()
                assert self._process.stdin is not None
                assert self._process.stdout is not None
                answer = _exchange(self._process.stdin.fileno(), self._process.stdout.fileno(), message, self.answer_s)
            except (OSError, EOFError, ValueError) as error:
                self._lost = str(error) or type(error).__name__
                self._end()
                raise HelperLost(self._lost) from None
            return answer

    def close(self) -> None:
        """End the process, also while it is asked for something. Idempotent."""
        self._lost = self._lost or "closed"
        process = self._process
        if process is not None:
            process.kill()  # whoever waits for its answer hears of its end, and gives this thread its turn
        with self._turn:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return subprocess.Popen(  # noqa: S603 - this interpreter, and a module of raykv
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            pass_fds=lock_descriptors(),
            start_new_session=True,  # an interrupt at the terminal is not for it
        )

    def _end(self) -> None:
        """Kill it, and wait: once this returns it writes nothing any more."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _exchange(target: int, source: int, message: bytes, timeout_s: float) -> bytes:
    """Send a message and return the answer. ``OSError`` where the other end does not take or give anything in time."""
    until_s = time.monotonic() + timeout_s
    left = memoryview(_framed(message))
    while left:
        _wait_for(target, select.POLLOUT, until_s)
        left = left[os.write(target, left[: select.PIPE_BUF]) :]  # as much as cannot block
    return _received(source, _length(_received(source, _LENGTH.size, until_s)), until_s)


def _received(source: int, length: int, until_s: float) -> bytes:
    data = bytearray()
    while len(data) < length:
        _wait_for(source, select.POLLIN, until_s)
        part = os.read(source, length - len(data))
        if not part:
            raise EOFError("the process has ended")
        data += part
    return bytes(data)


def _wait_for(descriptor: int, event: int, until_s: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, until_s - time.monotonic()) * 1000):
        raise TimeoutError("it does not answer")


def _die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it has ended, even if this one stands still then."""
    with contextlib.suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def serve(handle: Callable[[bytes], bytes]) -> None:
    """Answer messages until the input ends: the helper's main loop. ``print`` goes to the error output meanwhile."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    _die_with_parent()
    while True:
        try:
            message = read_message(source)
        except EOFError:
            return
        write_message(target, handle(message))


def write_message(target: IO[bytes], message: bytes) -> None:
    """Write a message and its length. ``ValueError`` if it is too long."""
    target.write(_framed(message))
    target.flush()


def read_message(source: IO[bytes]) -> bytes:
    """Read a message. ``EOFError`` at the end of the input, ``ValueError`` for an impossible length."""
    return _exactly(source, _length(_exactly(source, _LENGTH.size)))


def _framed(message: bytes) -> bytes:
    return _LENGTH.pack(_checked(len(message))) + message


def _length(head: bytes) -> int:
    return _checked(_LENGTH.unpack(head)[0])


def _checked(length: int) -> int:
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {length} bytes")
    return length


def _exactly(source: IO[bytes], length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise EOFError("the process has ended")
    return data
