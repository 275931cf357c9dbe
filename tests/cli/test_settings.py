from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from raykv.cli.settings import merged, read_file
from raykv.config import NodeConfig
from raykv.errors import InvalidOption, RaykvError

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults() -> None:
    arguments = merged({"nodes": None}, {}).arguments()
    assert arguments == {
        "nodes": 3, "path": None, "n": None, "zones": None, "weights": "auto", "durability": None, "partitions": None,
        "replace_after": 600.0, "coordinators": 1, "config": NodeConfig(),
    }  # fmt: skip


def test_arguments_go_before_the_file_and_the_file_before_defaults() -> None:
    file = {"store": {"nodes": 5, "durability": "always", "weights": [1, 2, 3, 4]}, "node": {"block_cache_bytes": 0}}
    settings = merged({"nodes": 4, "durability": None}, file)
    assert (settings.nodes, settings.durability, settings.partitions) == (4, "always", None)
    assert settings.weights == [1.0, 2.0, 3.0, 4.0]
    assert settings.node == NodeConfig(block_cache_bytes=0)


@pytest.mark.parametrize(
    ("given", "file", "said"),
    [
        ({}, {"stroe": {}}, "no section named 'stroe'"),  # codespell:ignore stroe
        ({}, {"store": 3}, r"\[store\]"),
        ({}, {"store": {"nods": 3}}, "no setting in .store. named 'nods'"),
        ({}, {"store": {"node": {}}}, "named 'node'"),
        ({}, {"node": {"blok_bytes": 1}}, "no setting in .node. named 'blok_bytes'"),
        ({}, {"node": {"block_bytes": 1}}, "block_bytes"),
        ({}, {"node": {"block_bytes": "big"}}, "block_bytes"),
        ({}, {"store": {"nodes": "3"}}, "nodes"),
        ({}, {"store": {"nodes": 3.5}}, "nodes"),
        ({}, {"store": {"zones": "a"}}, "zones"),
        ({}, {"store": {"weights": 2}}, "weights"),
        ({}, {"store": {"durability": "never"}}, "durability"),
        ({"nodes": 0}, {}, "nodes"),
        ({"coordinators": 0}, {}, "coordinators"),
        ({"n": 0}, {}, "n "),
        ({"n": 4}, {}, "n=4 copies"),
        ({"partitions": 100}, {}, "power of two"),
        ({"path": ""}, {}, "path"),
        ({"path": "a\0b"}, {}, "path"),
        ({"zones": ["a b"]}, {}, "zone"),
        ({"weights": [1.0]}, {}, "weight"),
        ({"weights": [1.0, 1.0, -1.0]}, {}, "weight"),
        ({"weights": [1.0, 1.0, float("nan")]}, {}, "weight"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], file: dict[str, Any], said: str) -> None:
    with pytest.raises(RaykvError, match=said):
        merged(given, file)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "raykv.toml"
    path.write_text("[store]\nnodes = 5\n[node]\nmemtable_bytes = 1048576\n")
    assert read_file(str(path)) == {"store": {"nodes": 5}, "node": {"memtable_bytes": 1048576}}


@pytest.mark.parametrize("content", [b"nodes = ", b"\xff\xfe", b"#" * (1024 * 1024 + 1)])
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "raykv.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidOption, match=str(path)):
        read_file(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(InvalidOption, match=str(path)):
            read_file(str(path))
