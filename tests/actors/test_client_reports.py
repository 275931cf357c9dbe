"""What a client's process reports of its own: whatever links it has had, its counters only grow. Without Ray."""

from __future__ import annotations

import asyncio
import multiprocessing
from typing import TYPE_CHECKING

import pytest

from raykv.actors import embedded_coordinator as e
from raykv.supervision.client_counters import ClientCounters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.protocol import frames as f

PLACE = ("nowhere", "founded by nobody")


@pytest.fixture(autouse=True)
def _counts_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(e, "_metrics", {})
    yield
    e._links.clear()


def report_of(link: e.DirectLink) -> f.GetClusterUpdate:
    """Return what a seat of a link reports."""

    async def story() -> f.GetClusterUpdate:
        seat = e.EmbeddedCoordinator("nowhere", link._metrics)
        try:
            return seat._coordinator.routing._question()
        finally:
            await seat.close()

    return asyncio.run(story())


def counted(handle: e.DirectHandle, amount: int) -> f.GetClusterUpdate:
    handle.count("gets", amount)
    return report_of(handle._link)


def gets(clients: ClientCounters, *reports: f.GetClusterUpdate) -> tuple[int, int]:
    for report in reports:
        clients.report(report.run, report.counters, 0.0, report.histograms)
    figures = clients.figures(0.0)
    return figures["processes"], figures["counters"]["gets"]


def test_links_of_one_process_one_after_the_other_count_on() -> None:
    clients = ClientCounters()
    for total, amount in ((1000, 1000), (1003, 3)):
        handle = e.DirectHandle(*PLACE)
        assert gets(clients, counted(handle, amount)) == (1, total)
        handle.close()


def test_links_to_stores_that_one_supervisor_takes_for_one_are_told_apart() -> None:
    clients = ClientCounters()
    one, other = (e.DirectHandle("nowhere", founder) for founder in ("one", "another"))
    assert gets(clients, counted(one, 1000), counted(other, 3)) == (2, 1003)
    one.close()
    other.close()


def test_counters_of_stores_long_left_are_forgotten_and_begin_anew() -> None:
    for number in range(e.MAX_COUNTED + 20):
        e.DirectHandle(f"nowhere {number}", "nobody").close()
    assert len(e._metrics) == e.MAX_COUNTED
    clients = ClientCounters()
    assert gets(clients, counted(e.DirectHandle("nowhere 0", "nobody"), 1)) == (1, 1)


def test_a_call_that_interrupts_another_counts_with_it() -> None:
    clients = ClientCounters()
    link = e.DirectLink("nowhere")
    beside = link._beside()
    link.count("gets", 1000)
    beside.count("gets", 3)
    assert gets(clients, report_of(link), report_of(beside)) == (1, 1003)
    link.close()


def test_a_forked_child_reports_only_what_it_has_counted_itself() -> None:
    clients = ClientCounters()
    handle = e.DirectHandle(*PLACE)
    gets(clients, counted(handle, 1000))
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)

    def child() -> None:
        handle.count("gets", 3)
        tell.send((handle._link._metrics.run, handle._link._metrics.counted()))

    process = context.Process(target=child)
    process.start()
    assert told.poll(10)
    run, counters = told.recv()
    process.join(10)
    clients.report(run, counters, 0.0)
    assert clients.figures(0.0)["counters"] == {"gets": 1003}
    handle.close()
