"""A link to a coordinator's actor while another thread finds that actor lost. Without Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raykv.actors import link as module
from raykv.protocol import frames as f


class Fleeting:
    """An attribute that another thread resets as soon as it was read once."""

    def __init__(self, value: Any = None) -> None:
        self._value = value

    def __get__(self, instance: object, owner: type) -> Any:
        value, self._value = self._value, None
        return value

    def __set__(self, instance: object, value: Any) -> None:
        self._value = value


HANDLE = SimpleNamespace(serve=SimpleNamespace(remote=lambda frame: frame))


@pytest.mark.parametrize(("handle", "peer"), [(HANDLE, None), (None, "one"), (None, None)])
def test_a_coordinator_that_another_thread_finds_lost_meanwhile_is_asked_all_the_same(
    monkeypatch: pytest.MonkeyPatch, handle: Any, peer: str | None
) -> None:
    class Link(module.CoordinatorLink):
        _handle, _peer = Fleeting(), Fleeting()

    monkeypatch.setattr(module, "find_actor", lambda store, peer: {"one": HANDLE}[peer])
    monkeypatch.setattr(module, "pool_of", lambda store: ["one"])
    monkeypatch.setattr(module.ray, "is_initialized", lambda: True)
    link = Link("nowhere")
    monkeypatch.setattr(Link, "_handle", Fleeting(handle))
    monkeypatch.setattr(Link, "_peer", Fleeting(peer))
    request = f.OpenBucket("b", {}, 1.0)
    assert link.submit([request]) == [f.coordinator_requests.encode(request)]
