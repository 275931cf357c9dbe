"""What every link of a real process has in common. Importing it does not import Ray."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raykv.client.driver import Beside, Link, Repeated
    from raykv.protocol import frames as f


class ThisProcess:
    """The common part of every ``client.driver.Link`` in a real process: time, randomness and Ray's pickler."""

    def monotonic_s(self) -> float:
        """See ``client.driver.Link``."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """See ``client.driver.Link``."""
        return time.time_ns() // 1_000_000

    def took(self, request: f.CoordinatorRequest, requests: int, began_s: float) -> None:
        """See ``client.driver.Link``. A link to a coordinator actor reports nothing."""

    def count(self, name: str, amount: int) -> None:
        """See ``client.driver.Link``. As ``took``."""

    def pause(self, delay_s: float) -> None:
        """See ``client.driver.Link``."""
        time.sleep(delay_s)

    async def sleep(self, delay_s: float) -> None:
        """See ``client.driver.Link``."""
        import asyncio  # late: a command that blocks does without

        await asyncio.sleep(delay_s)

    def random_bytes(self, count: int) -> bytes:
        """See ``client.driver.Link``."""
        return os.urandom(count)

    def pickled(self, value: Any) -> bytes:
        """See ``client.driver.Link``."""
        from raykv.actors.pickling import pickled  # late: it is Ray's pickler

        return pickled(value)

    def place(self) -> str:
        """See ``client.driver.Link``."""
        return f"{socket.gethostname()} pid {os.getpid()}"

    def beside(self: Link, repeated: Repeated, delay_s: float, user: object) -> Beside:
        """See ``client.driver.Link``: a thread."""
        from raykv.client.renewals import ThreadRenewals

        return ThreadRenewals(repeated, self, delay_s, user)

    def lacks(self) -> str:
        """See ``client.driver.Link``: file descriptors."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                whose = "this process" if error.errno == errno.EMFILE else "this machine"
                return f"{whose} is out of file descriptors ({errno.errorcode[error.errno]}); close some, or raise the limit"
        return ""
