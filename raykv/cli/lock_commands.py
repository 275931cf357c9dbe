"""The commands that count and lock: add, lock. See ``raykv.client.counters`` and ``raykv.client.locks``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Self

import click

from raykv.cli import output, reading
from raykv.cli.options import (
    ABOVE_ZERO,
    FROM_ZERO,
    bucket_option_of,
    checked,
    examples,
    json_option,
    key_argument,
    store_option,
    timeout_option,
)
from raykv.client.counters import COUNTERS
from raykv.client.driver import run
from raykv.client.handle import Session, checked_name
from raykv.client.locks import DEFAULT_LEASE_S, DEFAULT_WAIT_S, check_lease, check_wait
from raykv.client.primitives import Lock
from raykv.protocol.changes import ADD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

FENCE = "RAYKV_FENCE"
"""The environment variable that has the fencing token."""
LOOK_S = 0.1
END_S = 5.0
"""How long a command may take to end after SIGTERM, before SIGKILL."""
NOT_EXECUTABLE, NOT_FOUND, BY_SIGNAL = 126, 127, 128
"""Exit codes, as of a shell."""


@click.command(epilog=examples("raykv add hits", "raykv add hits 5", "raykv add stock:pears --bucket shop -- -1"))
@key_argument
@click.argument("amount", type=int, default=1)
@bucket_option_of(COUNTERS)
@store_option
@timeout_option
@json_option
def add(key: str, amount: int, bucket: str, store: str, timeout: float, as_json: bool) -> None:
    """Add AMOUNT (1 if left out) to the integer under KEY, atomically; print the sum.

    By default KEY is the name of a counter: store.counter(KEY) in Python. A bucket that does not exist is created,
    linearizable. Before a negative AMOUNT write '--'.
    """
    link = reading.link_to(store)
    if bucket == COUNTERS:
        operations = run(Session(store, link, "coordinator").own_bucket(COUNTERS, timeout), link)
    else:
        operations = reading.open_bucket(link, store, bucket, timeout, create=True, versioning="linearizable")
    value = run(operations.count(key, ADD, amount, timeout=timeout), link)
    click.echo(output.as_json({"key": key, "value": value}) if as_json else str(value))


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "raykv lock nightly -- ./report.sh",
        "raykv lock leader --lease 5 --timeout 600 -- python -m service",
        "raykv lock till -- sh -c 'raykv put till open --bucket shop --fence $RAYKV_FENCE'",
    ),
)
@click.argument("name", callback=checked(checked_name))
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--lease", metavar="SECONDS", type=ABOVE_ZERO, default=DEFAULT_LEASE_S, show_default=True, callback=checked(check_lease),
    help="How long it stays this command's after the last sign of life.",
)  # fmt: skip
@click.option(
    "--timeout", metavar="SECONDS", type=FROM_ZERO, default=DEFAULT_WAIT_S, show_default=True, callback=checked(check_wait),
    help="How long to wait for another holder; 0: ask once.",
)  # fmt: skip
@store_option
@json_option
@click.pass_context
def lock(
    context: click.Context,
    name: str,
    command: tuple[str, ...],
    lease: float,
    timeout: float,
    store: str,
    as_json: bool,
) -> None:
    """Run COMMAND while holding the lock NAME: one holder at a time in all of the store's cluster.

    Options stand before '--'. COMMAND finds its fencing token in RAYKV_FENCE, for 'raykv put --fence'. If the lock is lost,
    COMMAND gets SIGTERM, and SIGKILL 5 s later; as when this command is asked to end, by SIGTERM or Ctrl-C. A second signal
    hastens that. The lock is free once COMMAND has ended, and not before.

    Exit code: COMMAND's own (128 and the signal if one ended it); 127 if there is no such command; 1 if the lock was not
    acquired, or was lost; 130 for Ctrl-C.
    """
    link = reading.link_by_ray(store)
    held = Lock(Session(store, link, "coordinator"), name, lease, timeout)
    try:
        with _Signals() as signals, held:
            lost, code = _run(command, held, signals)
    except _Terminated as ended:
        context.exit(BY_SIGNAL + ended.signal)
    finally:
        link.close()
    if as_json:
        click.echo(output.as_json({"name": name, "token": held.token, "lost": lost, "exit_code": code}))
    if lost:
        raise click.ClickException(f"lock {name!r} was lost, and {command[0]!r} was ended")
    context.exit(code)


def _run(command: tuple[str, ...], held: Lock, signals: _Signals) -> tuple[bool, int]:
    """Run a command while the lock is held; return whether it was lost meanwhile, and the exit code.

    The command has ended when this returns or raises, whatever signals come: only then may the lock be free.
    """
    with signals.noted():
        try:
            child = subprocess.Popen(command, env=os.environ | {FENCE: str(held.token)})  # noqa: S603 - the user's own
        except FileNotFoundError:
            click.echo(f"raykv: there is no command {output.one_line(repr(command[0]))}", err=True)
            return False, NOT_FOUND
        except OSError as error:
            click.echo(f"raykv: {output.one_line(repr(command[0]))} cannot be run: {error.strerror}", err=True)
            return False, NOT_EXECUTABLE
        while (code := _waited(child, LOOK_S)) is None:
            if signals.came or held.lost:
                lost = not signals.came
                return lost, _end(child, signals)
        return False, code


def _end(child: subprocess.Popen[Any], signals: _Signals) -> int:
    """End a command; return its exit code. A further signal cuts the patience with it short."""
    steps = [child.terminate, child.kill]
    if signals.came[:1] == [signal.SIGINT]:
        steps.insert(0, lambda: None)  # the terminal has sent it to the child too, which may have something to finish
    for step in steps:
        step()
        until_s, came = time.monotonic() + END_S, len(signals.came)
        while time.monotonic() < until_s and len(signals.came) == came:
            if (code := _waited(child, LOOK_S)) is not None:
                return code
    return _exit_code(child.wait())


def _waited(child: subprocess.Popen[Any], timeout_s: float) -> int | None:
    """Wait for a command; return its exit code, None if it still runs."""
    try:
        return _exit_code(child.wait(timeout_s))
    except subprocess.TimeoutExpired:
        return None


def _exit_code(code: int) -> int:
    return code if code >= 0 else BY_SIGNAL - code


class _Terminated(BaseException):
    """This process is asked to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


class _Signals:
    """Ctrl-C, SIGTERM and SIGHUP, but for those that this process was started to ignore, as under nohup."""

    def __init__(self) -> None:
        self.came: list[int] = []
        """Those that were noted, in their order."""
        self._noting = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Raise ``KeyboardInterrupt`` or ``_Terminated`` from here on."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if (former := signal.getsignal(number)) != signal.SIG_IGN:
                self._former[number] = former
                signal.signal(number, self._take)
        return self

    def __exit__(self, *error: object) -> None:
        """Handle them as before."""
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note them instead, and raise the first one at the end."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False
            if self.came:
                self._raise(self.came[0])

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._noting:
            self.came.append(number)
        else:
            self._raise(number)

    @staticmethod
    def _raise(number: int) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else _Terminated(number)


COMMANDS = (add, lock)
