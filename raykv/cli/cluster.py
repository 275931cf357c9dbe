"""Find the Ray cluster for a command, or start one on this machine."""

from __future__ import annotations

import logging
import os
import sys

import click

from raykv.errors import StoreNotFound

OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""The object store of a Ray started here: raykv does not use it, and the default, a third of the memory, is wasteful."""
RAY_PORT = 6379
HEAD_TIMEOUT_S = 120.0
_SILENCE = "RAY_DEDUP_LOGS_SKIP_REGEX"


def import_ray_quietly() -> None:
    """Import Ray such that it prints nothing into this process's stdout.

    The driver's listener prints the cluster's messages there ("A worker died...") whatever ``log_to_driver`` says, between
    lines meant for a program. Ray reads this setting on import, and only in this process.
    """
    ours = "ray" not in sys.modules and _SILENCE not in os.environ
    if ours:
        os.environ[_SILENCE] = ".*"
    try:
        import ray  # noqa: F401
    finally:
        if ours:
            del os.environ[_SILENCE]


def is_joined() -> bool:
    """Return whether Ray is initialised in this process; that is its cluster then."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def join_ray() -> None:
    """Join the Ray of this process, or of ``RAY_ADDRESS``, or of this machine.

    Raises ``StoreNotFound`` if there is none, ``StoreUnavailable`` if it cannot be reached.
    """
    if not _joined():
        raise StoreNotFound("no store is running: no Ray cluster runs on this machine; 'raykv start' starts both")


def join_or_start_ray() -> bool:
    """Join the Ray that ``join_ray`` finds, else start one that stays. True if one was started.

    Raises ``StoreUnavailable`` if the requested cluster cannot be reached: none is started in its place.
    """
    if _joined():
        return False
    if os.environ.get("RAY_ADDRESS"):
        raise click.ClickException(
            f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} asks for a Ray that ends with its process, and this one ends at once; "
            "unset RAY_ADDRESS, and 'raykv start' starts a Ray that stays"
        )
    _start_head()
    if not _joined():
        raise click.ClickException("Ray was started with 'ray start --head', but cannot be reached")
    return True


def path_of(store: str) -> str:
    """Return the data directory of a running store."""
    import ray

    from raykv.actors.naming import SUPERVISOR, find_actor

    return str(ray.get(find_actor(store, SUPERVISOR).path.remote(), timeout=10))


def _joined() -> bool:
    import_ray_quietly()
    from raykv.actors.ray_cluster import join_ray as join

    return join(log_to_driver=False, logging_level=logging.ERROR)


def _start_head() -> None:
    """Run ``ray start --head`` with small resources, and with a token. Raises ``ClickException``.

    Ray listens on all addresses of this machine, and without a token anyone who reaches it can run code.
    """
    import subprocess  # late: few commands start a head
    import tempfile

    environment = _with_token()
    command = [
        os.path.join(os.path.dirname(sys.executable), "ray"), "start", "--head", "--include-dashboard=false",
        "--disable-usage-stats", f"--object-store-memory={OBJECT_STORE_BYTES}",
    ]  # fmt: skip
    if not _port_is_free(RAY_PORT):
        command.append("--port=0")
    with tempfile.TemporaryFile() as output:  # not a pipe: Ray's processes stay, and would keep it open
        try:
            # A session of its own: Ctrl-C at this terminal must not reach the cluster.
            code = subprocess.run(  # noqa: S603 - the program beside this Python, with fixed arguments
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env=environment, timeout=HEAD_TIMEOUT_S, check=False,
            ).returncode  # fmt: skip
        except FileNotFoundError:
            raise click.ClickException(f"there is no program {command[0]}; is Ray installed?") from None
        except subprocess.TimeoutExpired:
            raise click.ClickException(f"'ray start --head' did not end within {HEAD_TIMEOUT_S:g} s") from None
        if code:
            output.seek(0)
            said = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
            raise click.ClickException(f"'ray start --head' failed: {said[-1] if said else f'exit code {code}'}")


def _with_token() -> dict[str, str]:
    """Return the environment of a head that requires a token, which this user then has. Raises ``ClickException``."""
    from raykv.actors.authentication import MODE, make_token

    mode = os.environ.get(MODE, "token")
    if mode.lower() != "token":
        raise click.ClickException(
            f"no Ray is started with {MODE}={mode}: anyone who reaches this machine could run code on it; unset it, or "
            "run 'ray start --head' yourself"
        )
    try:
        make_token()
    except (ImportError, OSError) as error:
        raise click.ClickException(f"no Ray is started, for no token can be made: {error}") from None
    return {**os.environ, MODE: "token"}


def _port_is_free(port: int) -> bool:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
