"""Resolvers: the value that a reader gets when there are siblings.

A resolver belongs to a handle and runs in its client. It is ``"newest"`` (by hybrid time, ties broken by operation id,
the same everywhere) or a Python function that takes the list of values, newest first, and returns one. It runs only for
two or more values. ``get`` returns its result; the next write with the context stores it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

from raykv.config import shown
from raykv.errors import InvalidOption

Resolver: TypeAlias = Literal["newest"] | Callable[[list[Any]], Any]


def check_resolver(resolver: object) -> Resolver:
    """Return ``resolver`` if it is one. Raises ``InvalidOption``."""
    if is_newest(resolver) or callable(resolver):
        return cast("Resolver", resolver)
    raise InvalidOption(f"a resolver must be 'newest' or a function of the list of values; got {shown(resolver)}")


def is_newest(resolver: object) -> bool:
    """Return whether it takes the newest value and merges nothing."""
    return isinstance(resolver, str) and resolver == "newest"


def resolve(resolver: Resolver, values: list[Any]) -> Any:
    """Return the one value for these (at least one). The resolver's own errors pass through."""
    assert values, "there is nothing to resolve"
    if len(values) == 1 or isinstance(resolver, str):
        return values[0]
    return resolver(values)
