"""Finding the Ray cluster that this process is to join."""

from __future__ import annotations

import logging
import socket

import ray

PROBE_TIMEOUT_S = 5.0


def join_ray(*, log_to_driver: bool = True, logging_level: int = logging.WARNING) -> bool:
    """Join the Ray that is initialised here, or the one that runs on this machine. False if there is none."""
    if ray.is_initialized():
        return True
    address = _address()
    if address is None or not listens(address):
        return False
    try:
        ray.init(address=address, log_to_driver=log_to_driver, logging_level=logging_level)
    except ConnectionError:
        return False
    return True


def _address() -> str | None:
    """Return where Ray would look for its cluster ("auto" if it does not tell), None if it knows of none."""
    try:
        from ray._private.services import get_ray_address_from_environment
    except ImportError:
        return "auto"
    try:
        return str(get_ray_address_from_environment("auto", None))
    except ConnectionError:
        return None


def listens(address: str) -> bool:
    """Say whether anything listens there.

    Ray remembers the last cluster in a file. If that cluster has died, ``ray.init`` waits for it for a quarter of an
    hour, so it is asked only once somebody has picked up.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return True  # "auto" and the like: for Ray to judge
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False
