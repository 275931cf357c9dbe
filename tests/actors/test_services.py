"""The processes that keep nothing are restarted; tests/cli/test_restart_command.py does it to a store in use."""

from __future__ import annotations

import pytest

from raykv.actors.services import restart_services
from raykv.errors import StoreNotFound


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_of_a_store_that_does_not_run_nothing_is_restarted() -> None:
    with pytest.raises(StoreNotFound):
        restart_services("nowhere", 1.0)
