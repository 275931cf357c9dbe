"""Logs that an operator can read: one line per change of state, nothing per operation."""

from __future__ import annotations

import logging
import sys


def log_to_stderr() -> None:
    """Send raykv's lines to stderr, which Ray keeps in its session folder and shows to the driver."""
    root = logging.getLogger("raykv")
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
        root.propagate = False
    root.setLevel(logging.INFO)
