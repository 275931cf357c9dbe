"""Names of actors, and that nobody is asked for them where Ray is not connected."""

from __future__ import annotations

import pytest
import ray

from raykv.actors.naming import SUPERVISOR, actor_name, find_actor


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
