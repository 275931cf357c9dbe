"""This user's directories, where the platform keeps them: for data, and for what can be made again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Callable


def data_directory() -> str:
    """Return raykv's directory for this user's data. Raises ``FileNotFoundError`` if the user has no home directory."""
    return _absolute(platformdirs.user_data_dir)


def cache_directory() -> str:
    """Return raykv's directory for what can be made again. Raises as ``data_directory`` does."""
    return _absolute(platformdirs.user_cache_dir)


def _absolute(directory: Callable[..., str]) -> str:
    try:
        found = directory("raykv", appauthor=False)
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from error
    if not os.path.isabs(found):  # an earlier platformdirs leaves the "~" there
        raise FileNotFoundError(f"could not determine the home directory for {found!r}")
    return found
