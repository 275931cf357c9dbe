"""Errors: one tree, and every one survives pickling and travel as data."""

from __future__ import annotations

import copy
import pickle

import cloudpickle
import pytest

import raykv
from raykv import errors
from raykv.errors import (
    BatchError,
    CorruptData,
    QuorumNotMet,
    RaykvError,
    SiblingsFound,
    WriteOutcomeUnknown,
    from_data,
    to_data,
)

CLASSES = sorted(
    (cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, RaykvError)),
    key=lambda cls: cls.__name__,
)
PLAIN = [cls for cls in CLASSES if cls is not BatchError]
DETAILS = {"limit": 5, "have": ["n1", "n2"], "inner": {"a": None}, "name": "kept"}


def test_the_tree_is_the_one_that_was_promised() -> None:
    assert [cls.__name__ for cls in CLASSES] == [
        "BatchError", "BucketMismatch", "Conflict", "CorruptData", "Empty", "Full", "InvalidContext",
        "InvalidKey", "InvalidOption", "NotEnoughNodes",
        "Overloaded", "PairTooLarge", "QuorumNotMet", "RaykvError", "SiblingsFound", "StoreClosed", "StoreNotFound",
        "StoreUnavailable", "WriteOutcomeUnknown",
    ]  # fmt: skip
    assert all(getattr(raykv, cls.__name__) is cls for cls in CLASSES)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.InvalidKey, ValueError),
        (errors.PairTooLarge, ValueError),
        (errors.InvalidOption, ValueError),
        (errors.InvalidContext, ValueError),
        (errors.NotEnoughNodes, ValueError),
        (errors.QuorumNotMet, TimeoutError),
        (errors.WriteOutcomeUnknown, TimeoutError),
    ],
)
def test_what_python_code_catches_catches_them(cls: type[RaykvError], builtin: type[Exception]) -> None:
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("cls", PLAIN)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(cls: type[RaykvError], protocol: int) -> None:
    error = cls("what happened", **DETAILS)
    for back in (pickle.loads(pickle.dumps(error, protocol)), cloudpickle.loads(cloudpickle.dumps(error))):
        assert type(back) is cls
        assert str(back) == back.message == "what happened"
        assert back.details == DETAILS
    assert type(copy.deepcopy(error)) is cls


@pytest.mark.parametrize("cls", PLAIN)
def test_an_error_travels_as_data(cls: type[RaykvError]) -> None:
    error = cls("what happened", **DETAILS)
    name, message, details = to_data(error)
    assert (name, message, details) == (cls.__name__, "what happened", DETAILS)
    back = from_data(name, message, details)
    assert type(back) is cls
    assert (back.message, back.details) == ("what happened", DETAILS)


@pytest.mark.parametrize("name", ["", "ValueError", "BatchError", "object", "_rebuild"])
def test_an_unknown_class_becomes_the_root(name: str) -> None:
    assert type(from_data(name, "m", {})) is RaykvError


def test_an_unknown_outcome_names_the_write_and_the_nodes_that_answered() -> None:
    error = pickle.loads(pickle.dumps(WriteOutcomeUnknown("m", operation_id="ab" * 16, acks=["n1", "n3"])))
    assert error.operation_id == "ab" * 16
    assert error.acks == ("n1", "n3")
    bare = WriteOutcomeUnknown("m")
    assert (bare.operation_id, bare.acks) == ("", ())


def test_a_batch_error_keeps_results_and_errors() -> None:
    error = BatchError("1 of 2", {"a": 1, b"b": None}, {"c": QuorumNotMet("m", needed=2)})
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is BatchError
    assert str(back) == "1 of 2"
    assert back.results == {"a": 1, b"b": None}
    assert type(back.errors["c"]) is QuorumNotMet
    assert back.errors["c"].details == {"needed": 2}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_says_what_the_caller_may_do(cls: type[RaykvError]) -> None:
    assert cls.__doc__
    assert len(cls.__doc__) > 30


@pytest.mark.parametrize("cls", [errors.CorruptData, errors.SiblingsFound])
def test_an_error_about_one_key_says_which_wherever_it_goes(cls: type[CorruptData | SiblingsFound]) -> None:
    for key in ("a", b"a"):
        error = cls("m", key=key)
        travelled = from_data(*to_data(error))
        for each in (error, pickle.loads(pickle.dumps(error)), travelled):
            assert isinstance(each, CorruptData | SiblingsFound)
            assert each.key == key
    for nothing in ({}, {"key": 5}, {"key": None}):
        assert cls("m", **nothing).key is None
