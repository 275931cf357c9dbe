"""The report of a repair: what it sums up, and that it never hides a partition that failed."""

from __future__ import annotations

import pytest

from raykv.client.repairs import RepairReport
from raykv.errors import StoreUnavailable

DONE = {"compared": 5, "fetched": 1, "sent": 0, "bytes": 2048, "purged": 0}


def report_of(failed):
    report = RepairReport.begin(8)
    report.add([DONE] * (8 - failed))
    report.add([{"partition": at, "failed": "n2 is down"} for at in range(failed)])
    return report


def test_a_whole_repair_says_so():
    report = report_of(0)
    assert "compared 40 records in 8 partitions; 8 partitions differed: 8 records fetched" in repr(report)
    assert "failed" not in repr(report)
    assert report.checked() is report


@pytest.mark.parametrize("failed", [1, 8])
def test_partitions_that_failed_are_named_wherever_the_report_is_shown(failed):
    report = report_of(failed)
    assert f"; {failed} of 8 partitions failed" in repr(report)
    assert f"records in {8 - failed} partitions" in repr(report)
    assert "partition 0: n2 is down" in report._repr_html_()
    with pytest.raises(StoreUnavailable, match=f"{failed} of 8 partitions could not be compared"):
        report.checked()
