"""Keys and pairs as callers hand them in: what is a mistake in the call, and what is the caller's own error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from raykv.client.given import CallersStop, called, pairs_of, several_keys, without_doubles
from raykv.errors import InvalidKey, InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator


class Sequenced:
    """Can be gone over by its indexes only."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


PAIRS = [("a", 1), ["b", 2], Sequenced("c", 3), np.array(["e", "5"])]


def test_pairs_are_whatever_falls_in_two() -> None:
    expected = {"a": 1, "b": 2, "c": 3, "d": 4, "e": "5"}
    assert pairs_of([*PAIRS, iter(["d", 4])]) == expected
    assert pairs_of(Sequenced(("a", 1), ("a", 2))) == {"a": 2}
    assert pairs_of(pair for pair in [("a", 1)]) == {"a": 1}
    assert pairs_of({"a": 1}) == {"a": 1}
    assert pairs_of([]) == {}


NO_PAIRS = [None, 5, object(), "ab", b"ab", ["ab"], [b"ab"], [("a",)], [("a", 1, 2)], [5], [None], [np.arange(3)]]


@pytest.mark.parametrize("items", NO_PAIRS, ids=lambda items: type(items).__name__)
def test_what_is_no_pairs_is_a_mistake_in_the_call(items: Any) -> None:
    with pytest.raises(InvalidOption, match="put_many takes a mapping or"):
        pairs_of(items)


@pytest.mark.parametrize("keys", [None, 5, object(), "ab", b"ab"], ids=lambda keys: type(keys).__name__)
def test_what_is_no_several_keys_is_a_mistake_in_the_call(keys: Any) -> None:
    with pytest.raises(InvalidKey, match="keys must be an iterable of keys"):
        several_keys(keys)


def test_a_key_that_cannot_be_hashed_is_no_key() -> None:
    for unhashable in (["a"], {"a": 1}, bytearray(b"a")):
        with pytest.raises(InvalidKey):
            pairs_of([(unhashable, 1)])
        with pytest.raises(InvalidKey):
            without_doubles(["a", unhashable])


def test_an_error_in_code_written_in_c_is_the_callers_too() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        pairs_of(zip(["a", "b"], map(int, ["1", "two"]), strict=True))
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match="argument 2 is longer"):
        pairs_of(zip(["a"], [1, 2], strict=True))


def test_a_stop_is_carried_and_nothing_else() -> None:
    def stops() -> Iterator[Any]:
        return next(iter(()))

    with pytest.raises(CallersStop) as caught:
        called(stops)
    assert type(caught.value.error) is StopIteration
    assert called(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        called(divmod, 7, 0)
