"""What Ray's own libraries leave to a store: each problem with what one would do without raykv, and what that loses.

``serve_sessions``, ``serve_rate_limit`` (Ray Serve), ``tune_trials`` (Ray Tune), ``feature_store``, ``checkpoint_index``.
Each file runs by itself on a laptop, ``python scripts/examples/checkpoint_index.py``, on a store that ``alone`` starts and
removes; what is to be copied stands above its ``demo``.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from typing import TYPE_CHECKING

import raykv

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET = {"RAY_LOG_TO_DRIVER": "0", "RAY_LOG_TO_DRIVER_EVENT_LEVEL": "FATAL"}
"""What keeps the logs of all processes in Ray's files; read when Ray is imported."""


def alone(demo: Callable[[raykv.Store, str], None], needs: str = "") -> int:
    """Run a demo on a store and a directory of its own, and remove both; return the exit code.

    ``needs``: the library of Ray that has to be installed, "serve"; if it is not: 2, and a line that says what to do.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        importlib.import_module(f"ray.{needs}" if needs else "ray")
    except ImportError:
        print(f"this example needs Ray {needs.capitalize()}: pip install 'ray[{needs}]'", file=sys.stderr)
        return 2
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(files := os.path.join(folder, "files"))
        store = raykv.start("example", path=os.path.join(folder, "store"))
        try:
            demo(store, files)
        finally:
            raykv.shutdown("example")
    return 0
