"""Lets the autoscaling policy follow simulated days (a sine with a burst of half an hour) and reports how well it did."""

from __future__ import annotations

import argparse
import statistics
import sys

from raykv.config import ScalingConfig
from simulation.autoscaling import day


def main() -> int:
    """Return 1 if a day was less than 95 % in the band, or the policy turned round too soon."""
    parser = argparse.ArgumentParser(prog="scripts/autoscale_day", description=__doc__)
    parser.add_argument("--days", type=int, default=20, help="how many, each with a seed of its own (default 20)")
    arguments = parser.parse_args()
    limits = ScalingConfig(ops_per_s=1000.0, most=20)
    days = [day(seed, limits) for seed in range(arguments.days)]
    shares = [each.inside for each in days]
    turned = sum(each.turned_too_soon(limits.cool_down_s) for each in days)
    band = f"in the band of {limits.low:.0%} to {limits.high:.0%}"
    print(f"{band}: {statistics.median(shares):.1%} of a day, least {min(shares):.1%}")
    print(f"changes a day: {statistics.median(len(d.changes) for d in days):g}; turned within the cool-down: {turned}")
    return 1 if min(shares) < 0.95 or turned else 0


if __name__ == "__main__":
    sys.exit(main())
