"""Reports of many processes become one sum, in bounded memory, and nothing counts twice."""

from __future__ import annotations

from raykv.supervision import client_counters
from raykv.supervision.client_counters import MAX_NAMES, MAX_RUNS, SILENT_S, ClientCounters


def sums(clients, now_s):
    figures = clients.figures(now_s)
    return figures["processes"], figures["counters"]


def test_the_latest_report_of_each_process_counts():
    clients = ClientCounters()
    clients.report(1, {"hedges": 3}, 0.0)
    clients.report(2, {"hedges": 1, "hints": 2}, 1.0)
    clients.report(1, {"hedges": 5}, 2.0)
    assert sums(clients, 2.0) == (2, {"hedges": 6, "hints": 2})


def test_a_process_that_ended_stays_in_the_sum():
    clients = ClientCounters()
    clients.report(1, {"hedges": 3}, 0.0, {"get": [5, 1]})
    clients.report(2, {"hedges": 4}, SILENT_S, {"get": [7, 0, 2], "staleness": [9, 1]})
    for later_s in (1, 2):
        assert sums(clients, SILENT_S + later_s) == (1, {"hedges": 7})
        figures = clients.figures(SILENT_S + later_s)
        (gets,) = figures["latencies"]
        assert gets["kind"] == "get"
        assert (gets["sum_s"], sum(count for _, count in gets["counts"])) == (12e-6, 3)
        assert sum(count for _, count in figures["staleness"]["counts"]) == 1


def test_a_process_that_was_silent_and_reports_again_counts_once():
    clients = ClientCounters()
    clients.report(7, {"gets": 1000}, 0.0, {"get": [9000, 1000]})
    assert sums(clients, SILENT_S + 1) == (0, {"gets": 1000})
    clients.report(7, {"gets": 1001}, SILENT_S + 2, {"get": [9009, 1000, 1]})
    assert sums(clients, SILENT_S + 3) == (1, {"gets": 1001})
    (gets,) = clients.figures(SILENT_S + 3)["latencies"]
    assert (gets["sum_s"], sum(count for _, count in gets["counts"])) == (9009e-6, 1001)


def test_one_whose_report_was_forgotten_counts_on_from_its_next_one():
    clients = ClientCounters()
    clients.report(0, {"gets": 1000}, 0.0, {"get": [9000, 1000]})
    for run in range(1, MAX_RUNS + 1):
        clients.report(run, {"gets": 1}, 1.0)
    for total in (1000, 1005, 1007):
        clients.report(0, {"gets": total}, 2.0, {"get": [9000 + total, total]})
    assert sums(clients, 2.0) == (MAX_RUNS, {"gets": 1000 + MAX_RUNS + 7})
    (gets,) = clients.figures(2.0)["latencies"]
    assert (gets["sum_s"], sum(count for _, count in gets["counts"])) == (9007e-6, 1007)


def test_a_report_that_a_later_one_has_overtaken_takes_nothing_back():
    clients = ClientCounters()
    clients.report(1, {"gets": 9, "puts": 1}, 0.0, {"get": [50, 5, 4]})
    clients.report(1, {"gets": 7}, 0.0, {"get": [40, 5]})
    assert sums(clients, 0.0) == (1, {"gets": 9, "puts": 1})
    clients.report(1, {"gets": 10, "puts": 1}, 0.0, {"get": [60, 5, 5]})
    assert sums(clients, 0.0) == (1, {"gets": 10, "puts": 1})
    assert clients.figures(0.0)["latencies"][0]["sum_s"] == 60e-6


def test_the_numbers_of_those_forgotten_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(client_counters, "MAX_FORGOTTEN", 10)
    clients = ClientCounters()
    for run in range(MAX_RUNS + 50):
        clients.report(run, {"hedges": 1}, 0.0)
    assert [*clients._forgotten] == [*range(40, 50)]


def test_a_thousand_processes_more_take_no_more_room():
    clients = ClientCounters()
    for run in range(MAX_RUNS + 1000):
        clients.report(run, {"hedges": 1}, float(run) / 100)
    assert len(clients._runs) == MAX_RUNS
    assert clients.figures(0.0)["counters"] == {"hedges": MAX_RUNS + 1000}


def test_names_that_clients_make_up_do_not_pile_up():
    clients = ClientCounters()
    for run in range(40):
        clients.report(run, {f"c{run}.{at}": 1 for at in range(20)}, 0.0, {f"h{run}.{at}": [1, 1] for at in range(16)})
    figures = clients.figures(0.0)
    assert len(figures["counters"]) == len(figures["latencies"]) == MAX_NAMES
