"""What ``raykv.start`` is given is checked before Ray is asked for anything."""

from __future__ import annotations

import importlib
import os
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import raykv
import raykv.sim
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return the plan that a start with these options would found a store by."""
    from raykv.actors import lifecycle

    class Planned(Exception):
        pass

    def found_or_join(plan: Any, *_: Any, **__: Any) -> None:
        raise Planned(plan)

    monkeypatch.setattr(lifecycle, "found_or_join", found_or_join)

    def plan(**options: Any) -> Any:
        with pytest.raises(Planned) as caught:
            raykv.start("planned", **options)
        return caught.value.args[0]

    return plan


def test_numbers_of_any_kind_become_plain_ones(planned: Callable[..., Any]) -> None:
    two = np.int64(2)
    plan = planned(
        nodes=two, n=two, partitions=np.int32(64), coordinators=two, replace_after=np.float32(60), weights=np.ones(2)
    )
    assert (plan.nodes, plan.store.copies, plan.store.partitions, plan.weights) == (2, 2, 64, (1.0, 1.0))
    numbers = (plan.nodes, plan.store.copies, plan.store.partitions, plan.store.replace_after_s, *plan.weights)
    assert {type(number) for number in numbers} <= {int, float}


def test_weights_and_zones_are_whatever_can_be_gone_over(planned: Callable[..., Any]) -> None:
    plan = planned(nodes=2, weights=(weight for weight in (1, 2)), zones=iter(np.array(["a", "b"])))
    assert (plan.weights, plan.zones) == ((1.0, 2.0), ("a", "b"))


@pytest.mark.parametrize("wrong", [{"weights": 5}, {"zones": 5}, {"zones": "ab"}, {"weights": ""}, {"weights": [1]},
                                   {"weights": "abc"}, {"weights": None}, {"weights": [1, True, 2]}])  # fmt: skip
def test_what_is_no_list_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        raykv.start("planned", nodes=3, **wrong)


def test_what_no_text_can_hold_is_refused_as_well() -> None:
    with pytest.raises(InvalidOption, match="nothing was deleted: an enormous int is not the name"):
        raykv.destroy("planned", confirm=10**5000)  # type: ignore[arg-type]


def test_settings_of_nodes_are_a_node_config_or_none(planned: Callable[..., Any]) -> None:
    planned(config=None)
    planned(config=raykv.NodeConfig())
    for wrong in ({}, {"blok_bytes": 4096}, "x", 0, False, raykv.NodeConfig, [raykv.NodeConfig()]):
        refused: list[Callable[..., Any]] = [
            lambda wrong=wrong: raykv.start("planned", config=wrong),
            lambda wrong=wrong: raykv.restore("/nowhere", "again", config=wrong),
            lambda wrong=wrong: raykv.sim.start(node=wrong),
        ]
        for each in refused:
            with pytest.raises(InvalidOption, match=r"must be a raykv\.NodeConfig, or None for the defaults; got "):
                each()


@pytest.mark.parametrize("what", ["weights", "zones"])
@pytest.mark.parametrize("error", [TypeError("own"), ValueError("own"), KeyboardInterrupt()])
def test_what_they_raise_is_the_callers_own(what: str, error: BaseException) -> None:
    class Raising:
        def __iter__(self) -> Iterator[Any]:
            raise error

    def late() -> Iterator[Any]:
        yield from ()
        raise error

    for given in (Raising(), late()):
        with pytest.raises(type(error)) as caught:
            raykv.start("planned", nodes=3, **{what: given})
        assert caught.value is error


@pytest.mark.parametrize("path", ["/tmp/\udcff", "data/\udcff"])
def test_a_path_that_is_not_utf_8_is_refused(path: str) -> None:
    with pytest.raises(InvalidOption, match="path must be valid in UTF-8"):
        raykv.start("planned", path=path)
    with pytest.raises(InvalidOption, match="path must be valid in UTF-8"):
        raykv.restore("/tmp", "planned", path=path)


def test_a_relative_path_below_one_that_is_not_utf_8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be sent to the nodes as an absolute one."""
    monkeypatch.setattr(os, "getcwd", lambda: "/tmp/\udcff")
    with pytest.raises(InvalidOption, match="path must be valid in UTF-8"):
        raykv.start("planned", path="data")


def test_no_package_takes_the_name_of_what_users_call() -> None:
    for found in pkgutil.iter_modules(raykv.__path__):
        importlib.import_module(f"raykv.{found.name}")
    assert [name for name in raykv.__all__ if isinstance(getattr(raykv, name), ModuleType)] == []
