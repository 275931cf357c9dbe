"""A link to a coordinator: what it does when its handle is no longer good. No Ray runs here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raykv.actors import link
from raykv.actors.link import CoordinatorLink
from raykv.ports import PeerAbsent
from raykv.protocol import frames as f

REQUEST = f.GetInfo("status", 1.0)


class Handles:
    """Ray's handles of one coordinator, of one session after the other; those of a former one raise what Ray raises."""

    def __init__(self) -> None:
        self.session = 1
        self.looked_up: list[tuple[int, str]] = []

    def find(self, store: str, peer: str) -> Any:
        session = self.session
        self.looked_up.append((session, f"{store}/{peer}"))

        def remote(frame: bytes) -> int:
            assert f.coordinator_requests.decode(frame) == REQUEST
            if session != self.session:
                raise Exception("Can't find actor: it might be from a different cluster")  # noqa: TRY002 - Ray's own
            return session

        return SimpleNamespace(serve=SimpleNamespace(remote=remote))


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> Handles:
    made = Handles()
    monkeypatch.setattr(link.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(link, "pool_of", lambda store: ["coordinator"])
    monkeypatch.setattr(link, "find_actor", made.find)
    return made


def test_after_another_session_has_begun_the_coordinator_is_looked_up_again(handles: Handles) -> None:
    """*Schedule: ``ray.shutdown()`` and ``ray.init()`` in one process; the handle is of the former session.*"""
    one = CoordinatorLink("shop")
    assert one.submit([REQUEST]) == [1]
    handles.session = 2
    (failed,) = one.submit([REQUEST])
    assert isinstance(failed, PeerAbsent), "nothing was sent: it may be tried again"
    assert one.submit([REQUEST]) == [2]
    assert handles.looked_up == [(1, "shop/coordinator"), (2, "shop/coordinator")]


def test_where_ray_was_shut_down_nothing_is_called(handles: Handles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call would start another Ray."""
    one = CoordinatorLink("shop")
    assert one.submit([REQUEST]) == [1]
    handles.session = 2
    monkeypatch.setattr(link.ray, "is_initialized", lambda: False)
    (failed,) = one.submit([REQUEST])
    assert isinstance(failed, PeerAbsent)
    assert "not connected" in str(failed)


class Forgetful(CoordinatorLink):
    """Its handle is forgotten right after each look at it, as by a call in another thread that fails just then."""

    _held: Any = None

    @property
    def _handle(self) -> Any:
        handle, self._held = self._held, None
        return handle

    @_handle.setter
    def _handle(self, handle: Any) -> None:
        self._held = handle


def test_a_handle_that_another_thread_forgets_meanwhile_is_still_called(handles: Handles) -> None:
    one = Forgetful("shop")
    assert [one.submit([REQUEST]), one.submit([REQUEST])] == [[1], [1]]
    assert handles.looked_up == [(1, "shop/coordinator")]


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
    class Link(CoordinatorLink):
        _handle, _peer = Fleeting(), Fleeting()

    monkeypatch.setattr(link, "find_actor", lambda store, peer: {"one": HANDLE}[peer])
    monkeypatch.setattr(link, "pool_of", lambda store: ["one"])
    monkeypatch.setattr(link.ray, "is_initialized", lambda: True)
    lost = Link("nowhere")
    monkeypatch.setattr(Link, "_handle", Fleeting(handle))
    monkeypatch.setattr(Link, "_peer", Fleeting(peer))
    request = f.OpenBucket("b", {}, 1.0)
    assert lost.submit([request]) == [f.coordinator_requests.encode(request)]
