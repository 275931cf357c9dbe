"""Which directories count as a node's."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from raykv.actors.launcher import RayLauncher
from raykv.actors.naming import node_directory
from raykv.actors.os_files import OsFileSystem
from raykv.config import NodeConfig, StoreConfig
from raykv.storage import NodeDirectory

if TYPE_CHECKING:
    from pathlib import Path


def test_a_directory_counts_once_it_says_whose_it_is(tmp_path: Path) -> None:
    """A first start may die after the directories were made: they hold nothing, and must be founded as new ones."""
    fs = OsFileSystem()
    launcher = RayLauncher("s", StoreConfig(name="t", copies=1), NodeConfig(), str(tmp_path), fs)
    assert asyncio.run(launcher.directories()) == []
    for node_id in ("n1", "n2", "n3"):
        fs.make_directories(node_directory(str(tmp_path), node_id))
    assert asyncio.run(launcher.directories()) == []
    path = node_directory(str(tmp_path), "n2")
    NodeDirectory.open(fs, path, store_id="s", node_id="n2", random=random.Random(1), complete_if_new=True).close()
    assert asyncio.run(launcher.directories()) == ["n2"]
    with open(f"{node_directory(str(tmp_path), 'n3')}/identity", "wb") as file:
        file.write(b"garbage")
    assert asyncio.run(launcher.directories()) == ["n2", "n3"], "a damaged one is somebody's: it is not founded anew"
