"""Forked children of processes that had joined Ray know it; those of others may join Ray themselves."""

from __future__ import annotations

import multiprocessing

import pytest
import ray

from raykv.actors.forks import forked_from_ray, require_ray_to_work
from raykv.errors import StoreUnavailable


def in_a_child(joined: bool) -> tuple[bool, str]:
    """Return what a child knows whose parent has, or has not, joined Ray."""
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)

    def child() -> None:
        try:
            require_ray_to_work()
        except StoreUnavailable as error:
            tell.send((forked_from_ray(), str(error)))
        else:
            tell.send((forked_from_ray(), ""))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "is_initialized", lambda: joined)
        process = context.Process(target=child)
        process.start()
    assert told.poll(60)
    process.join(60)
    knows, why = told.recv()
    return knows, why


def test_a_child_knows_whether_its_parent_had_joined_ray() -> None:
    assert in_a_child(joined=False) == (False, "")
    knows, why = in_a_child(joined=True)
    assert knows
    assert "was forked from one that had joined Ray" in why
    assert not forked_from_ray()
    require_ray_to_work()
