"""The hybrid logical clock (Kulkarni et al. 2014, "Logical Physical Clocks", section 3).

A hybrid time is one 64-bit integer: 48 bits of wall-clock milliseconds, 16 bits of counter. The clock stays close to the
wall clock, does not go back with it, and exceeds every time that it has observed; a write that has seen another is thus
stamped above it even where clocks disagree (P7).

A clock that runs ahead would drag all others with it for ever. Times further ahead of the local wall clock than
``MAX_CLOCK_SKEW_MS`` are therefore refused, not adopted. The local wall clock is adopted unchecked, since nothing here
could check it. Once it has been set right, what it gave out while it was wrong is forgotten: no node would take a stamp
above that. P7 does not need the memory, which a restart loses too: where such a time is stored, each write that has to
exceed it is shown it (by "newer" from a replica, the causality of a first round, the context or the session), observes
it, and is refused alone.
"""

from __future__ import annotations

from raykv.config import MAX_CLOCK_SKEW_MS

_COUNTER_BITS = 16


class ClockTooFarAhead(Exception):
    """A hybrid time lies further ahead of this host's wall clock than the bound on skew."""


def time_from_ms(wall_ms: int) -> int:
    """Return the least hybrid time of that millisecond."""
    return wall_ms << _COUNTER_BITS


def time_to_ms(time: int) -> int:
    """Return the wall-clock milliseconds in a hybrid time."""
    return time >> _COUNTER_BITS


def check_not_ahead(time: int, now_ms: int) -> None:
    """Raise ``ClockTooFarAhead`` if ``time`` is more than the allowed skew ahead of ``now_ms``."""
    if time_to_ms(time) > now_ms + MAX_CLOCK_SKEW_MS:
        raise ClockTooFarAhead(
            f"a write's time is {(time_to_ms(time) - now_ms) / 1000:.1f} s ahead of this host's clock; "
            f"{MAX_CLOCK_SKEW_MS // 1000} s are allowed: check the clocks of the hosts"
        )


class HybridClock:
    """Generates strictly increasing hybrid times. It holds no clock: the caller passes its wall-clock time."""

    def __init__(self) -> None:
        self._last = 0

    def next(self, now_ms: int) -> int:
        """Return a time not below ``now_ms``, above all returned and observed ones that are not too far ahead of it."""
        self._come_back(now_ms)
        self._last = max(self._last + 1, time_from_ms(now_ms))
        return self._last

    def observe(self, time: int, now_ms: int) -> None:
        """Exceed ``time`` from now on. Raises ``ClockTooFarAhead``."""
        check_not_ahead(time, now_ms)
        self._come_back(now_ms)  # before: what is observed now must not be forgotten with the rest
        self._last = max(self._last, time)

    def _come_back(self, now_ms: int) -> None:
        """Return to the present if the wall clock was far ahead and was set right since.

        *Schedule: a coordinator stamps one write while its clock is two hours ahead. The nodes refuse it, the clock is set
        right, and for two hours they refuse everything that the coordinator stamps.*
        """
        if time_to_ms(self._last) > now_ms + MAX_CLOCK_SKEW_MS:
            self._last = time_from_ms(now_ms)
