"""How many descriptors a process has, and what sockets leave of them."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from raykv.system.descriptors import ENOUGH, MOST_KEPT, ceiling_of_sockets, limit


@pytest.mark.parametrize(("limit", "ceiling"), [(256, 128), (1024, 512), (20_000, 20_000 - MOST_KEPT)])
def test_some_are_kept_for_files(limit: int, ceiling: int) -> None:
    assert ceiling_of_sockets(limit) == ceiling


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource; from raykv.system.descriptors import raise_limit, limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300)); assert limit() == 100\n"
        "assert raise_limit() == limit() == 300; assert raise_limit() == 300"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_there_is_no_limit_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert limit() == ENOUGH
