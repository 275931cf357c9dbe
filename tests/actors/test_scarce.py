"""A process that has run out of file descriptors or threads: an error that says so while it lasts, and then all is well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import threading
import time

import pytest

from raykv.errors import RaykvError

WAIT_S = 10.0


@pytest.fixture
def client(real_nodes):
    with real_nodes.opened() as made:
        yield made


@pytest.fixture
def another(client, real_nodes):
    """A handle that was not used yet."""
    made = real_nodes.Client(client.link._fork_state, client.operations.config)
    made.timeout_s = 1.0
    yield made
    made.link.close()


@contextlib.contextmanager
def no_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 400), hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connected_client_goes_on(client):
    for _ in range(20):
        client.get("key3")
    with no_descriptors():
        assert client.get("key3") == 3
        client.put("own", 1)
    assert client.get("own") == 1


@pytest.mark.parametrize("call", ["get", "put", "get_many", "put_many"])
def test_without_a_connection_the_error_says_why_and_it_works_afterwards(another, call):
    calls = {
        "get": lambda: another.get("key3"),
        "put": lambda: another.put("own", 1),
        "get_many": lambda: another.get_many(["key3", "key4"]),
        "put_many": lambda: another.put_many({"own": 1}),
    }
    with no_descriptors():
        for _ in range(2):
            began_s, used_s = time.monotonic(), time.process_time()
            with pytest.raises(RaykvError, match="out of file descriptors") as caught:
                calls[call]()
            assert type(caught.value).__module__ == "raykv.errors"
            assert time.monotonic() - began_s < WAIT_S
            assert time.process_time() - used_s < 0.5, "it does not spin"
    deadline_s = time.monotonic() + WAIT_S
    while True:  # a connection is not tried again at once
        with contextlib.suppress(RaykvError):
            if calls[call]() is not None:
                break
        assert time.monotonic() < deadline_s
    assert another.get("key3") == 3


def test_awaiting_it_is_reported_too(another):
    async def go():
        with no_descriptors(), pytest.raises(RaykvError, match="out of file descriptors"):
            await another.aget("key3")
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(RaykvError):
                return await another.aget("key3")
        return None

    assert asyncio.run(go()) == 3


def test_without_threads(another, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RaykvError, match="no more threads"):
            another.get("key3")
    assert another.get("key3") == 3
