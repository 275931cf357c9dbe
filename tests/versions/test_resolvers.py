"""Resolvers: which value a reader gets, and whose fault it is if none."""

from __future__ import annotations

from typing import Any

import pytest

from raykv.errors import InvalidOption
from raykv.versions.resolvers import check_resolver, resolve


class Longest:
    def __call__(self, values: list[str]) -> str:
        return max(values, key=len)


def never(values: list[Any]) -> Any:
    raise AssertionError(f"it is not to be asked about {values}")


@pytest.mark.parametrize("resolver", ["newest", max, sum, lambda values: values[0], Longest(), Longest])
def test_newest_and_anything_that_can_be_called_is_a_resolver(resolver: object) -> None:
    assert check_resolver(resolver) is resolver


@pytest.mark.parametrize("resolver", [None, "oldest", "Newest", "", b"newest", 7, ["newest"], {}, True], ids=repr)
def test_nothing_else_is_a_resolver(resolver: object) -> None:
    with pytest.raises(InvalidOption, match="newest") as caught:
        check_resolver(resolver)
    assert repr(resolver) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_the_newest_is_the_first() -> None:
    assert resolve("newest", [3, 9, 1]) == 3
    assert resolve("newest", [3]) == 3
    assert resolve("newest", [None, 1]) is None, "any value can be the newest"


def test_a_function_is_given_all_values_the_newest_first_and_its_answer_stands() -> None:
    asked = []

    def merged(values: list[set[str]]) -> set[str]:
        asked.append(values)
        return set().union(*values)

    assert resolve(merged, [{"milk"}, {"bread"}, {"milk", "eggs"}]) == {"milk", "bread", "eggs"}
    assert asked == [[{"milk"}, {"bread"}, {"milk", "eggs"}]]
    assert resolve(Longest(), ["a", "abc", "ab"]) == "abc"
    assert resolve(lambda _: None, [1, 2]) is None, "what it returns need not be one of them"


def test_it_is_asked_only_where_there_is_a_choice() -> None:
    assert resolve(never, ["alone"]) == "alone"
    assert resolve(never, [None]) is None


@pytest.mark.parametrize("error", [KeyError("own"), InvalidOption("own"), StopIteration("own"), KeyboardInterrupt()])
def test_what_a_resolver_raises_is_the_callers_own(error: BaseException) -> None:
    def broken(values: list[int]) -> int:
        raise error

    with pytest.raises(type(error)) as caught:
        resolve(broken, [1, 2])
    assert caught.value is error


def test_a_resolver_is_never_compared() -> None:
    class Incomparable:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        def __call__(self, values: list[int]) -> int:
            return sum(values)

    assert resolve(check_resolver(Incomparable()), [1, 2]) == 3


def test_there_is_nothing_to_resolve_of_nothing() -> None:
    with pytest.raises(AssertionError):
        resolve("newest", [])
