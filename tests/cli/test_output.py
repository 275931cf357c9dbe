from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from raykv.cli import output
from raykv.client.faces import Pickled, Unread


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ada", "Ada"),
        ("Zürich 東京", "Zürich 東京"),
        ("\x1b[2J", "\\u001b[2J"),
        ("\x9b2J", "\\u009b2J"),
        ("a\tb\nc\rd\0", "a\\u0009b\\u000ac\\u000dd\\u0000"),
        ("\u202eevil", "\\u202eevil"),  # would turn the line around
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert output.escaped(text) == shown
    assert output.shown(text) == shown
    assert output.shown_key(text) == shown


@pytest.mark.parametrize(
    ("value", "shown", "as_json"),
    [
        (None, "null", None),
        (True, "true", True),
        (12, "12", 12),
        (1.5, "1.5", 1.5),
        (float("inf"), '{"$float": "inf"}', {"$float": "inf"}),
        (b"\x1b\x00", "b'\\x1b\\x00'", {"$bytes": "GwA="}),
        (Pickled(17), "<pickled, 17 bytes>", {"$pickled": 17}),
        (Unread("numpy", 17), "<numpy, 17 bytes>", {"$numpy": 17}),
        ([1, "é\x1b"], '[1, "é\\u001b"]', [1, "é\x1b"]),
        ({"a": {"k": b"\xff"}}, '{"a": {"k": {"$bytes": "/w=="}}}', {"a": {"k": {"$bytes": "/w=="}}}),
        ({1: "a", "1": "b"}, '{"$dict": [[1, "a"], ["1", "b"]]}', {"$dict": [[1, "a"], ["1", "b"]]}),
        ({"a": {b"k": 1, "b'k'": 2}}, '{"a": {"$dict": [[{"$bytes": "aw=="}, 1], ["b\'k\'", 2]]}}',
         {"a": {"$dict": [[{"$bytes": "aw=="}, 1], ["b'k'", 2]]}}),
        ({None: 1, "null": 2, 0.5: 3}, '{"$dict": [[null, 1], ["null", 2], [0.5, 3]]}',
         {"$dict": [[None, 1], ["null", 2], [0.5, 3]]}),
        ({"$dict": [[1, "a"]]}, '{"$dict": [["$dict", [[1, "a"]]]]}', {"$dict": [["$dict", [[1, "a"]]]]}),
        ({"$ref": "x"}, '{"$ref": "x"}', {"$ref": "x"}),
    ],
)  # fmt: skip
def test_values_for_people_and_for_programs(value: Any, shown: str, as_json: Any) -> None:
    assert output.shown(value) == shown
    text = output.as_json(value)
    assert text.isascii()
    assert json.loads(text) == as_json


def test_what_is_shown_of_one_dict_is_never_that_of_another() -> None:
    """Values as msgpack has them, nested in each other: no two that differ are one in JSON."""
    scalars: list[Any] = [None, 1, 1.5, "1", "null", "b'k'", b"k", "$bytes", "aw=="]
    dicts: list[Any] = [{name: item} for name in scalars for item in scalars]
    dicts += [{"$dict": [[1, "1"]]}, {"$bytes": "aw=="}, {"$float": "nan"}, {"a": float("nan")}, {1: 1, "1": 1}]
    for values in (dicts, [[each] for each in dicts], [{"a": each} for each in dicts]):
        assert len({output.as_json(each) for each in values}) == len({repr(each) for each in values})
    names = {1: 1, "1": 2, b"k": 3, "b'k'": 4}
    assert len(json.loads(output.as_json(names))["$dict"]) == len(names)


def test_json_never_carries_a_control_character() -> None:
    assert output.as_json({"\x9bk": "\x1b[2J\u202e"}).isprintable()


@pytest.mark.parametrize(("tty", "shown"), [(True, "a\n\t\\u001b[1m"), (False, "a\n\t\x1b[1m")])
def test_a_single_text_is_exact_save_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tty: bool, shown: str) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty, raising=False)
    assert output.shown_alone("a\n\t\x1b[1m") == shown


def test_a_message_is_one_line() -> None:
    assert output.one_line("a\n  b\x1b[0m\r\nc") == "a b\\u001b[0m c"
