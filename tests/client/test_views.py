"""The text of status and ring."""

from __future__ import annotations

from typing import Any

from raykv.client.views import Status


def status(**more: Any) -> Status:
    config = {"copies": 3, "partitions": 16, "durability": "group"}
    return Status({"name": "s", "config": config, "buckets": ["default"], "nodes": [], "rebalancing": None} | more)


def test_what_is_under_way_is_shown() -> None:
    quiet = repr(status())
    assert len(quiet.splitlines()) == 1
    moving = {"partitions_left": 7, "paused": False, "waits_for": "", "step": "being taken over"}
    scaling = {"would": "add 1 node", "why": "80% <used>", "failed": ""}
    busy = status(rebalancing=moving, autoscaling=scaling)
    assert repr(busy).splitlines()[1:3] == [
        "7 partitions are to move (being taken over)", "autoscaling would add 1 node: 80% <used>",
    ]  # fmt: skip
    assert "80% &lt;used&gt;" in busy._repr_html_()
    assert "(held)" in repr(status(rebalancing=moving | {"paused": True}))
    assert "(n4 is away)" in repr(status(rebalancing=moving | {"waits_for": "n4 is away"}))
