"""Logs that an operator can read: one line per change of state, nothing per operation.

Ray shows a worker's output in the terminal that started it: an ordinary restart of a node would appear in the user's
program. Actors therefore write to files among Ray's own, in its session's folder, where ``ray logs`` and Ray's dashboard
show them. The files are bounded.
"""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler

import ray

MOST_BYTES, FORMER_FILES = 8 * 1024 * 1024, 2


class _Handler(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: a full disk is reported elsewhere."""


def log_to_a_file(name: str) -> None:
    """Send raykv's lines to ``raykv-<name>.log`` in the session's folder of Ray. For actors, whose process is raykv's."""
    logger = logging.getLogger("raykv")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if logger.handlers:
        return
    handler: logging.Handler
    try:
        context = ray.get_runtime_context()
        folder = os.path.join(context.get_temp_dir(), context.get_session_name(), "logs")
        plain = "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in name)
        handler = _Handler(
            os.path.join(folder, f"raykv-{plain}.log"), maxBytes=MOST_BYTES, backupCount=FORMER_FILES, delay=True
        )
    except (OSError, RuntimeError, AttributeError):  # no such folder; silence is better than the user's terminal
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
