"""Reports of many processes become one sum, in bounded memory, and nothing counts twice."""

from __future__ import annotations

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
