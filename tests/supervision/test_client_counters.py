"""Reports of many processes become one sum, in bounded memory, and nothing counts twice."""

from __future__ import annotations

from raykv.supervision.client_counters import MAX_RUNS, SILENT_S, ClientCounters


def test_the_latest_report_of_each_process_counts():
    clients = ClientCounters()
    clients.report(1, {"hedges": 3}, 0.0)
    clients.report(2, {"hedges": 1, "hints": 2}, 1.0)
    clients.report(1, {"hedges": 5}, 2.0)
    assert clients.figures(2.0) == {"processes": 2, "counters": {"hedges": 6, "hints": 2}}


def test_a_process_that_ended_stays_in_the_sum():
    clients = ClientCounters()
    clients.report(1, {"hedges": 3}, 0.0)
    clients.report(2, {"hedges": 4}, SILENT_S)
    assert clients.figures(SILENT_S + 1) == {"processes": 1, "counters": {"hedges": 7}}
    assert clients.figures(SILENT_S + 2) == {"processes": 1, "counters": {"hedges": 7}}


def test_a_thousand_processes_more_take_no_more_room():
    clients = ClientCounters()
    for run in range(MAX_RUNS + 1000):
        clients.report(run, {"hedges": 1}, float(run) / 100)
    assert len(clients._runs) == MAX_RUNS
    assert clients.figures(0.0)["counters"] == {"hedges": MAX_RUNS + 1000}
