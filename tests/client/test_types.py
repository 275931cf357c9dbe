"""Users' programs pass mypy --strict, and wrong ones do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import raykv

SNIPPETS = Path(__file__).parent / "typed" / "snippets.py"


def check(path: Path, cache: Path) -> str:
    """Return what mypy finds in a user's file: by its own strictness, not by this repository's settings."""
    command = [
        sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--cache-dir", str(cache),
        "--follow-imports=silent", str(path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not done.stderr
    return done.stdout


def test_what_users_write_is_typed_and_what_is_wrong_is_found(tmp_path: Path) -> None:
    assert check(SNIPPETS, tmp_path / "cache") == ""
    source = SNIPPETS.read_text()
    assert source.count("# type: ignore[") > 20, "an ignore that is not needed is an error, so these must all be errors"


def test_type_arguments_may_be_left_out_where_they_are_evaluated_too() -> None:
    for kind in (raykv.Bucket, raykv.AsyncBucket):
        assert kind[str] == kind[str, Any]
        assert kind[str, int].__args__ == (str, int)


def test_what_signatures_name_is_exported() -> None:
    assert {*raykv.__all__} >= {
        "Store", "Bucket", "AsyncStore", "AsyncBucket", "Status", "NodeStatus", "RingView", "RepairReport", "ScalingView",
        "ScalingLimits", "RebalanceAction", "Key", "Level", "Codec", "Versioning", "Resolver", "Context", "Versions",
        "WriteResult",
    }  # fmt: skip
    for name in raykv.__all__:
        assert hasattr(raykv, name)
