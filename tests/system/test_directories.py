"""This user's directories: absolute, or an error that says what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from raykv.system import directories

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def no_home(*_: object, **__: object) -> str:
    raise RuntimeError("could not determine the home directory for '~'")


def tilde(*_: object, **__: object) -> str:
    return "~/.local/share/raykv"


def test_they_are_below_what_the_user_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    data, cache = directories.data_directory(), directories.cache_directory()
    assert data != cache
    for found in (data, cache):
        assert found.startswith(f"{tmp_path}/")
        assert found.endswith("/raykv")


@pytest.mark.parametrize("found", [no_home, tilde])
@pytest.mark.parametrize("of", [directories.data_directory, directories.cache_directory])
def test_without_a_home_directory_there_is_none(
    of: Callable[[], str], found: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("user_data_dir", "user_cache_dir"):
        monkeypatch.setattr(directories.platformdirs, name, found)
    with pytest.raises(FileNotFoundError, match="home directory"):
        of()
