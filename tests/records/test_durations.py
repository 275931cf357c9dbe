"""Counts of durations: what goes in comes out, within a step, and reports of several processes add up."""

from __future__ import annotations

import pytest

from raykv.records.durations import LENGTH, added, count_into, new_histogram, sendable, shown_histogram


@pytest.mark.parametrize("taken_s", [0.0, 1e-6, 61e-6, 62e-6, 2.0**-13, 0.0015, 0.5, 4.0, 63.9])
def test_a_duration_counts_once_for_the_first_bound_above_it(taken_s):
    histogram = new_histogram()
    count_into(histogram, taken_s)
    shown = shown_histogram(sendable(histogram))
    (at,) = [at for at, (_, count) in enumerate(shown["counts"]) if count]
    assert taken_s < shown["counts"][at][0]
    assert at == 0 or shown["counts"][at - 1][0] <= taken_s
    assert shown["beyond"] == 0
    assert shown["sum_s"] == pytest.approx(taken_s, abs=1e-6)


@pytest.mark.parametrize("taken_s", [64.0, 3600.0, 1e7])
def test_what_takes_very_long_counts_beyond(taken_s):
    histogram = new_histogram()
    count_into(histogram, taken_s)
    assert shown_histogram(sendable(histogram))["beyond"] == 1
    assert len(histogram) == LENGTH


def test_sent_histograms_add_up_in_any_order():
    one, other, both = new_histogram(), new_histogram(), new_histogram()
    for histogram, taken_s in ((one, 0.001), (one, 5.0), (other, 0.0001)):
        count_into(histogram, taken_s)
        count_into(both, taken_s)
    assert sendable(new_histogram()) == []
    assert added(sendable(one), sendable(other)) == added(sendable(other), sendable(one)) == sendable(both)
    assert added([], sendable(one)) == sendable(one)
    assert shown_histogram(()) == shown_histogram(sendable(new_histogram()))
