"""Names of actors and places; nobody is asked for them where Ray is not connected."""

from __future__ import annotations

import pytest
import ray

from raykv.actors import naming
from raykv.actors.naming import SUPERVISOR, actor_name, default_path, find_actor
from raykv.errors import InvalidOption


def test_where_ray_is_not_connected_it_is_not_started(monkeypatch):
    """A client's background work goes on for a moment after ``ray.shutdown()``."""
    asked = []
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: asked.append(name))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match="not connected"):
        find_actor("shop", SUPERVISOR)
    assert not asked
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    find_actor("shop", SUPERVISOR)
    assert asked == [actor_name("shop", SUPERVISOR)] == ["shop/supervisor"]


def test_without_a_home_directory_a_path_has_to_be_given(monkeypatch):
    def none():
        raise FileNotFoundError("could not determine the home directory")

    monkeypatch.setattr(naming, "data_directory", none)
    with pytest.raises(InvalidOption, match="a path has to be given here: could not determine the home directory"):
        default_path("shop")
