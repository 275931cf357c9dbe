"""Where read tasks go, and what importing needs. What they read is in ``test_on_ray``."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import pytest

from raykv.data import reading
from raykv.portable.columns import laid_out

NODES = [
    {"NodeID": "aa", "Alive": True, "NodeManagerAddress": "10.0.0.1", "Labels": {}},
    {"NodeID": "ab", "Alive": True, "NodeManagerAddress": "10.0.0.1", "Labels": {}},
    {"NodeID": "bb", "Alive": True, "NodeManagerAddress": "10.0.0.2", "Labels": {"raykv-host": "left"}},
    {"NodeID": "ca", "Alive": False, "NodeManagerAddress": "10.0.0.3", "Labels": {}},
]


class SplitOn:
    def __init__(self, *hosts: str) -> None:
        self.hosts = [*hosts]

    def items(self, after: Any = None) -> Any:
        return ((f"k{number:03d}", {"n": number}) for number in range(0 if after is None else int(after[1:]) + 1, 25))


def test_a_task_goes_where_a_copy_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    splits: Any = [SplitOn("10.0.0.3", "left"), SplitOn("10.0.0.1", "left"), SplitOn("left"), SplitOn("10.0.0.9")]
    monkeypatch.setattr(reading.ray, "nodes", lambda: NODES)
    found = {tuple(nodes): some for nodes, some in reading.by_host(splits)}
    assert found == {("bb",): [splits[0], splits[2]], ("aa", "ab"): [splits[1]], (): [splits[3]]}
    monkeypatch.setattr(reading.ray, "nodes", lambda: NODES[:2])
    assert reading.by_host(splits) == [([], splits)], "with one host there is nothing to choose"


def test_a_host_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reading.placed([]) == {}
    one, other = "a1" * 28, "b2" * 28
    wanted = reading.placed([one, other])
    assert wanted["label_selector"] == {"ray.io/node-id": f"in({one},{other})"}
    assert wanted["fallback_strategy"]
    monkeypatch.setattr(reading.ray.data, "read_datasource", lambda datasource, ray_remote_args=None: None)
    strategy = reading.placed([one, other])["ray_remote_args"]["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == (one, True)


def test_a_task_that_is_run_again_gives_out_the_same_blocks() -> None:
    layout = laid_out(["k"], [{"n": 1}])
    datasource = reading.BucketDatasource("b", [[SplitOn("h")]], layout, pair_bytes=reading.BLOCK_BYTES // 10)  # type: ignore[list-item]
    (task,) = datasource.get_read_tasks(200)
    first, again = [*task()], [*task()]
    assert [block.num_rows for block in first] == [10, 10, 5]
    assert all(one.equals(other) for one, other in itertools.zip_longest(first, again))
    (limited,) = datasource.get_read_tasks(200, per_task_row_limit=12)
    assert sum(block.num_rows for block in limited()) == 12
    assert datasource.get_name() == "Raykv(b)"


@pytest.mark.parametrize(
    ("splits", "tasks", "sizes"), [(7, 3, [2, 2, 3]), (4, 4, [1] * 4), (3, 9, [1] * 3), (5, 1, [5])]
)
def test_splits_are_dealt_out_evenly(splits: int, tasks: int, sizes: list[int]) -> None:
    every: Any = [*range(splits)]
    dealt = reading.dealt_out(every, tasks)
    assert [len(some) for some in dealt] == sizes
    assert [split for some in dealt for split in some] == every


@pytest.mark.parametrize("lacking", ["pyarrow", "pandas", "ray.data"])
def test_without_ray_data_the_error_names_the_extra(lacking: str) -> None:
    code = f"import sys, raykv; sys.modules[{lacking!r}] = None; import raykv.data"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr.splitlines()[-1].startswith("ImportError: raykv.data works with Ray Data")
    assert "pip install 'raykv[data]'" in done.stderr


def test_importing_raykv_imports_nothing_of_it() -> None:
    code = (
        "import sys, raykv; print(*{'pyarrow', 'pandas', 'numpy', 'raykv.data', 'raykv.portable'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "\n"
