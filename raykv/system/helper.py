"""A helper process behind the ``Helper`` port: it is started when it is first needed, and ends with this one.

Messages go through its standard input and output, each behind its length. The helper ends as soon as its input does, so
it outlives this process by no more than the message that it is at. For that long it also holds this process's locks,
which are passed on to it: nobody else opens the directory while it may still write there (P6).
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING

from raykv.ports import HelperLost
from raykv.system.files import lock_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 1 << 30
NICENESS = 5
"""The helper gives way to the processes that answer."""


class HelperProcess:
    """See ``ports.Helper``. ``module`` is run by this process's interpreter, and calls ``serve``."""

    def __init__(self, module: str) -> None:
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
                write_message(self._process.stdin, message)
                answer = read_message(self._process.stdout)
            except (OSError, EOFError, ValueError) as error:
                self._lost = str(error) or type(error).__name__
                self._end()
                raise HelperLost(self._lost) from None
            return answer

    def close(self) -> None:
        """End the process. Idempotent."""
        with self._turn:
            self._lost = self._lost or "closed"
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return subprocess.Popen(  # noqa: S603 - this interpreter, and a module of raykv
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
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


def serve(handle: Callable[[bytes], bytes]) -> None:
    """Answer messages until the input ends: the helper's main loop. ``print`` goes to the error output meanwhile."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    while True:
        try:
            message = read_message(source)
        except EOFError:
            return
        write_message(target, handle(message))


def write_message(target: IO[bytes], message: bytes) -> None:
    """Write a message and its length. ``ValueError`` if it is too long."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(message)} bytes")
    target.write(_LENGTH.pack(len(message)))
    target.write(message)
    target.flush()


def read_message(source: IO[bytes]) -> bytes:
    """Read a message. ``EOFError`` at the end of the input, ``ValueError`` for an impossible length."""
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {length} bytes")
    return _exactly(source, length)


def _exactly(source: IO[bytes], length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise EOFError("the process has ended")
    return data
