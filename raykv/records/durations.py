"""Histograms of durations as processes count and report them: small, cheap to count into, and added up by others.

A histogram is a list of numbers: the sum in seconds (in microseconds, once it is sent), then the count of each step. A step
ends at twice the end of the one before: at a power of two in seconds, which ``frexp`` finds at a third of the cost of a
search among bounds. A client counts each of its operations.
"""

from __future__ import annotations

from math import frexp
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_S = 1e-9
"""Added to each duration: ``frexp`` of zero would be that of a second."""
ORIGIN = 30
"""Where durations below a second are; in the one before, those below half a second."""
LENGTH = ORIGIN + 22
"""The sum and all steps; the last one ends after twelve days, and has what took longer too."""
_FIRST, _LAST = ORIGIN - 14, ORIGIN + 6
"""The steps whose ends are shown: 61 us and 64 s."""


def new_histogram() -> list[float]:
    """Return an empty histogram."""
    return [0] * LENGTH


def count_into(histogram: list[float], taken_s: float) -> None:
    """Count one duration. O(1)."""
    histogram[0] += taken_s
    try:
        histogram[frexp(taken_s + LEAST_S)[1] + ORIGIN] += 1
    except IndexError:
        histogram[-1] += 1


def sendable(histogram: Sequence[float]) -> list[int]:
    """Return a histogram to be sent: its sum in microseconds, and without the empty steps at its end."""
    counts = [round(histogram[0] * 1e6), *map(int, histogram[1:])]
    while counts and not counts[-1]:
        counts.pop()
    return counts


def added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return what was sent of two, as one."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return [*map(sum, zip(longer, shorter, strict=False)), *longer[len(shorter) :]]


def shown_histogram(sent: Sequence[int]) -> dict[str, Any]:
    """Return what was sent as plain data: ``counts`` (pairs of a bound in seconds and a count), ``beyond``, ``sum_s``.

    A duration counts once, for the first bound above it; ``beyond`` is the count of those above all bounds.
    """
    counts = [[2.0 ** (step - ORIGIN), sum(sent[step : step + 1])] for step in range(_FIRST, _LAST + 1)]
    counts[0][1] = sum(sent[1 : _FIRST + 1])
    return {"counts": counts, "beyond": sum(sent[_LAST + 1 :]), "sum_s": sum(sent[:1]) / 1e6}
