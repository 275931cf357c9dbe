"""``raykv inspect``: what it prints, and how it ends."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from raykv.cli.inspect_command import LISTED, kind_of, shown_key
from raykv.cli.main import cli
from raykv.config import NodeConfig
from raykv.records.keys import HINTS, encode_key, storage_prefix
from raykv.storage import Engine, NodeDirectory
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from pathlib import Path


def inspect(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["inspect", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def newest(_stored: bytes | None, incoming: bytes) -> bytes:
    return incoming


def storage_key(key: str | bytes, partition: int = 7, bucket: int = 1) -> bytes:
    return storage_prefix(partition, bucket) + encode_key(key)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The directory of a node that was stopped: tables, a log with odd keys, a register."""
    fs, path = OsFileSystem(), str(tmp_path / "n1")
    directory = NodeDirectory.open(
        fs,
        path,
        store_id="shop",
        node_id="n1",
        random=random.Random(1),
        complete_if_new=True,
        note=b'{"pid": 7}\x1b[2J',
    )
    config = NodeConfig(memtable_bytes=4096, max_unflushed_bytes=1 << 20, table_bytes=16384, block_bytes=256)
    engine = Engine.open(fs, f"{path}/data", config, newest, owner=directory.owner)
    directory.note_data(engine.begin_run(1))

    def settle() -> None:
        while (sync := engine.next_sync()) is not None:
            sync.run()
            engine.finish_sync(sync)
        while (job := engine.next_job()) is not None:
            job.run()
            engine.finish(job)

    for number in range(400):
        engine.update(storage_key(f"user:{number:04}"), b"\x01" + b"%05d" % number * 8)
        if number % 20 == 0:
            settle()
    engine.compact_fully()
    settle()
    engine.update(storage_key("bell\x07\x1b[31m\u202e"), b"\x01" + b"\x80\x05c__builtin__\neval\n(V1/0\ntR.")
    engine.update(storage_key(b"\x00\xff"), b"\x02x")
    engine.update(HINTS + b"n2", b"hint")
    engine.erase(storage_key("user:0001"))
    settle()
    directory.save_register(b"state")
    engine.close()
    directory.mark_clean(engine.mark())
    directory.close()
    return tmp_path / "n1"


def one(node: Path, suffix: str) -> Path:
    return min((node / "data").glob(suffix))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_node(node: Path) -> None:
    text = inspect(node).stdout
    assert "node           n1 of store shop" in text
    assert "stopped cleanly" in text
    assert "sorted runs, newest first: 1, in " in text
    assert "7/1/user:0000" in text
    assert "ended cleanly" in text
    assert text.endswith("ok: every checksum holds\n")
    assert "\x1b" not in text
    assert '{"pid": 7}\\x1b[2J' in text


def test_parts_by_themselves(node: Path) -> None:
    assert "block" in inspect(one(node, "*.sst")).stdout
    assert "owner" not in inspect(node / "data" / "manifest").stdout
    assert "of shop/n1" in inspect(node / "data" / "manifest").stdout
    assert inspect(node / "data").stdout.count("\n\n") >= 3
    assert "directory id" in inspect(node / "identity").stdout
    assert "register" in inspect(node / "register").stdout


def test_a_log_with_its_keys_escaped_and_no_value_decoded(node: Path) -> None:
    text = inspect(one(node, "*.wal")).stdout
    assert "7/1/bell\\u0007\\u001b[31m\\u202e" in text
    assert "7/1/b'\\x00\\xff'" in text
    assert "-/hint/b'n2'" in text
    assert "erased" in text
    assert "eval" not in text
    assert {"\x07", "\x1b", "\u202e"}.isdisjoint(text)


def test_output_is_bounded_unless_all_is_wanted(node: Path) -> None:
    table = one(node, "*.sst")
    short, everything = inspect(table).stdout, inspect("--all", table).stdout
    assert "more (--all)" in short
    assert short.count("\n") < LISTED + 15 < everything.count("\n")
    assert "more (--all)" not in everything


def test_json(node: Path) -> None:
    found = json.loads(inspect("--json", node).stdout)
    assert (found["kind"], found["ok"], found["findings"]) == ("node", True, [])
    assert found["identity"]["node_id"] == "n1"
    (run,) = found["data"]["runs"]
    assert run["tables"][0]["smallest"] == {"partition": 7, "bucket": 1, "key": "user:0000"}
    assert found["data"]["manifest"]["manifest"]["generation"] > 1
    table = json.loads(inspect("--json", one(node, "*.sst")).stdout)
    assert len(table["listed"]) == LISTED
    log = json.loads(inspect("--json", one(node, "*.wal")).stdout)
    assert log["records"][0]["kind"] == "lww"
    assert isinstance(log["records"][0]["record"], int)
    assert log["records"][1]["key"]["key"] == {"$bytes": "AP8="}
    assert log["records"][2]["key"] == {"raw": {"$bytes": "//9obg=="}} or "raw" in log["records"][2]["key"]


def test_damage_ends_with_1_and_is_named(node: Path) -> None:
    table = one(node, "*.sst")
    flip(table, 100)
    result = inspect(node, code=1)
    assert "1 finding:" in result.stdout
    assert f"data/{table.name} at " in result.stdout
    assert "(keys 7/1/user:" in result.stdout
    assert not json.loads(inspect("--json", table, code=1).stdout)["ok"]
    flip(table, 100)
    inspect(node)
    flip(node / "data" / "manifest", 30)
    assert "checksum" in inspect(node, code=1).stdout


def test_what_is_no_part_of_a_store(node: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path, said in (
        (tmp_path / "notes.txt", "no file of a store"), (tmp_path, "name one of them: n1"),
        (node / "lock", "no file of a store"),
    ):  # fmt: skip
        result = inspect(path, code=2)
        assert said in result.stderr
        assert result.stdout == ""
    assert "No such file" in inspect(tmp_path / "nothing", code=1).stderr
    (tmp_path / "link.sst").symlink_to(one(node, "*.sst"))
    assert "symbolic link" in inspect(tmp_path / "link.sst", code=1).stderr


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (storage_key("a"), "7/1/a"), (storage_key("x" * 100), "7/1/" + "x" * 45 + "..."), (b"", "b''"),
        (storage_prefix(7, 1) + b"\x02\xff", "b'\\x00\\x07\\x00\\x00\\x00\\x01\\x02\\xff'"), (b"\xff\xff!", "-/private/b''"),
    ],
)  # fmt: skip
def test_shown_keys(key: bytes, expected: str) -> None:
    assert shown_key(key) == expected


@pytest.mark.parametrize(
    ("key", "record", "expected"),
    [
        (b"k", b"", "erased"), (b"k", b"\x01", "lww"), (b"k", b"\x7f", "unknown"), (HINTS, b"\x01", "private"),
    ],
)  # fmt: skip
def test_kinds(key: bytes, record: bytes, expected: str) -> None:
    assert kind_of(key, record) == expected
