"""The 99th percentile of what clients were told, also where a busy machine let them do next to nothing."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def p99_ms(took_s: Sequence[float]) -> float:
    """Return the 99th percentile, in milliseconds; infinite where fewer than two were answered: no bound holds then."""
    return statistics.quantiles(took_s, n=100)[98] * 1000 if len(took_s) >= 2 else math.inf


def times(during_ms: float, before_ms: float) -> float:
    """Return how many times as long it was; infinite where either was not measured."""
    return during_ms / before_ms if math.isfinite(before_ms) else math.inf
