"""Two versions of raykv in one cluster: what the format of frames promises, by frames that were and nodes that will be.

``golden/frames-0.1.0.txt`` has a frame of each message as version 0.1.0 wrote it; a later version adds a file of its own
(``python tests/protocol/test_versions.py``) and reads all of them. The newer version is a copy of this tree with what a
release may change: fields at the ends of messages, and a request that this version does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import raykv
from raykv.config import VERSION
from raykv.errors import CorruptData
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[2]
KINDS: dict[str, f.FrameType[Any]] = {
    "coordinator-request": f.coordinator_requests, "coordinator-answer": f.coordinator_answers,
    "supervisor-request": f.supervisor_requests, "supervisor-answer": f.supervisor_answers,
    "handed-answer": f.handed_answers, "node-request": f.node_requests, "node-answer": f.node_answers,
}  # fmt: skip
FRAMES = [
    (path.stem, *line.split())
    for path in sorted(GOLDEN.glob("frames-*.txt"))
    for line in path.read_text().splitlines()
    if not line.startswith("#")
]
WAIT_S = 60.0
NEWER = "99.0.0"


# ---- frames ----


def begins(now: Any, then: Any) -> bool:
    """Whether a message says what it said, and perhaps more at the ends."""
    if isinstance(then, list):
        return (
            isinstance(now, list)
            and len(now) >= len(then)
            and all(begins(*pair) for pair in zip(now, then, strict=False))
        )
    return type(now) is type(then) and now == then


def plain(frame: bytes) -> Any:
    return msgspec.msgpack.decode(frame[1:])


@pytest.mark.parametrize(("of", "kind", "golden"), FRAMES, ids=lambda value: value[:24])
def test_a_frame_of_an_earlier_version_says_what_it_said(of: str, kind: str, golden: str) -> None:
    frame = bytes.fromhex(golden)
    now = KINDS[kind].encode(KINDS[kind].decode(frame))
    assert begins(plain(now), plain(frame)), f"{of}: {plain(frame)} became {plain(now)}"


@pytest.mark.parametrize(("of", "kind", "golden"), FRAMES, ids=lambda value: value[:24])
def test_a_frame_of_a_later_version_is_read_without_what_it_has_more(of: str, kind: str, golden: str) -> None:
    frame = bytes.fromhex(golden)
    known = KINDS[kind].decode(frame)
    later = frame[:1] + msgspec.msgpack.encode([*plain(frame), {"more": [1, b"2"]}, 3])
    assert KINDS[kind].decode(later) == known, of


def test_the_present_version_has_frames_of_all_its_messages() -> None:
    held = {(kind, golden) for of, kind, golden in FRAMES if of == "frames-0.1.0"}
    assert len(held) > 60
    names = {(kind, _name(plain(bytes.fromhex(golden)))) for kind, golden in held}
    assert len(names) == len(held), "one frame of each"


def test_a_message_grows_by_fields_with_defaults_alone() -> None:
    """What this version requires of a message the oldest frame of it has."""
    for of, kind, golden in FRAMES:
        frame = bytes.fromhex(golden)
        body = plain(frame)
        inner = body[2] if kind == "node-request" else body[2] if kind == "node-answer" else body
        message = getattr(f, inner[0], None)
        if message is not None:
            required = [field.name for field in msgspec.structs.fields(message) if field.required]
            assert len(inner) - 1 >= len(required), f"{of}: {inner[0]} needs {required}"


def _name(body: list[Any]) -> str:
    return str(body[2][0]) if body[0] in {"NodeRequest", "NodeAnswer"} else str(body[0])


@pytest.mark.parametrize("kind", KINDS)
def test_another_version_of_the_format_is_refused_by_its_number(kind: str) -> None:
    golden = next(golden for _, of, golden in FRAMES if of == kind)
    other = bytes([f.FRAME_VERSION + 1]) + bytes.fromhex(golden)[1:]
    with pytest.raises(CorruptData, match=rf"format version 2; this raykv \({VERSION}\) speaks 1: .*cannot run in one"):
        KINDS[kind].decode(other)


@pytest.mark.parametrize(
    ("kind", "body", "what"),
    [
        ("node-request", ["NodeRequest", 0, ["Foresee", 1]], "node request 'Foresee'"),
        ("supervisor-request", ["Foresee", 1], "supervisor request 'Foresee'"),
        ("coordinator-request", ["Foresee", 1], "coordinator request 'Foresee'"),
    ],
)
def test_a_request_that_is_not_known_is_named(kind: str, body: list[Any], what: str) -> None:
    with pytest.raises(CorruptData, match=f"knows no {what}: its sender is of another version") as caught:
        KINDS[kind].decode(b"\x01" + msgspec.msgpack.encode(body))
    assert caught.value.details == {"unknown": "Foresee"}


@pytest.mark.parametrize("body", [["NodeRequest", 0, ["Read", "x"]], ["NodeRequest"], [], 7, ["NodeRequest", 0, [7]]])
def test_what_is_no_request_at_all_is_none_of_another_version(body: Any) -> None:
    with pytest.raises(CorruptData) as caught:
        f.node_requests.decode(b"\x01" + msgspec.msgpack.encode(body))
    assert caught.value.details == {}


# ---- nodes of two versions ----

NODES, REQUESTS, NODE = "protocol/nodes.py", "protocol/requests.py", "node/node.py"
ROW = "n.Foresee, answers=(n.Pong,), senders=('node',), frame_bytes=SMALL_FRAME_BYTES, concerns=_NOTHING, misfit=None"
CHANGES = (
    ("config.py", '"""Of raykv, as', f'VERSION = "{NEWER}"\n"""Of raykv, as'),
    (NODES, "    with_stats: bool = False\n", '    with_stats: bool = False\n    why: str = "newer"\n'),
    (NODES, "ballot: tuple[int, int] = (0, 0)\n", "ballot: tuple[int, int] = (0, 0)\n    more: int = 7\n"),
    (NODES, "    stored: bool = False\n", "    stored: bool = False\n    zone: str = 'a'\n"),
    (NODES, "    epoch: int = 0\n", "    epoch: int = 0\n    trace: bytes = b'newer'\n"),
    (NODES, "class Stop(Message", "class Foresee(Message, frozen=True):\n    far: int\n\n\nclass Stop(Message"),
    (NODES, "    | Stop\n", "    | Stop\n    | Foresee\n"),
    (REQUESTS, "    n.Stop: _background(\n", f"    n.Foresee: _background({ROW}),\n    n.Stop: _background(\n"),
    (NODE, "handled(f.Ping, self._pong),\n",
     "handled(f.Ping, self._pong),\n                handled(f.Foresee, lambda _: self._pong(f.Ping())),\n"),
)  # fmt: skip
"""What the newer version has: a longer Ping, Pong, Write and NodeRequest, and a request of its own."""


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the newer version, to be put on the path of a process."""
    where = tmp_path_factory.mktemp("newer")
    shutil.copytree(ROOT / "raykv", where / "raykv", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in CHANGES:
        path = where / "raykv" / name
        source = path.read_text()
        assert source.count(old) >= 1, (name, old)
        path.write_text(source.replace(old, new, 1))
    return where


class Child:
    """A node in a process of its own, of a version of its own."""

    def __init__(self, packages: Path, node_id: str, path: Path) -> None:
        support = str(ROOT / "tests" / "support")
        environment = os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{support}"}
        self.process = subprocess.Popen(
            [sys.executable, f"{support}/version_nodes.py", node_id, str(path)],
            env=environment, cwd=path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the process ended: {self.process.wait(WAIT_S)}"
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, *order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            return self.process.wait(WAIT_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(WAIT_S)
            self.process.stdout.close()


@pytest.fixture
def child(newer: Path, tmp_path: Path) -> Iterator[Child]:
    for name in ("n1", "n2", "n3"):
        (tmp_path / name).mkdir()
    found = Child(newer, "n3", tmp_path / "n3")
    yield found
    with contextlib.suppress(AssertionError, BrokenPipeError, ValueError):
        found.end()


def test_nodes_of_two_versions_are_one_cluster(child: Child, tmp_path: Path) -> None:
    from version_nodes import Node, read, written

    assert child.said["version"] == NEWER != raykv.__version__
    assert not child.said["file"].startswith(str(ROOT))

    async def story() -> None:
        older = {name: Node(name, str(tmp_path / name)) for name in ("n1", "n2")}
        endpoints = {name: await node.begin() for name, node in older.items()} | {"n3": read(child.said["endpoint"])}
        runs = {name: node.node.incarnation for name, node in older.items()} | {"n3": child.said["run"]}

        async def ask(*order: Any) -> dict[str, Any]:
            return await asyncio.get_running_loop().run_in_executor(None, child.ask, *order)

        for node in older.values():
            await node.meet(endpoints, runs)
        await ask("meet", {name: written(endpoint) for name, endpoint in endpoints.items()}, runs)
        count = 8
        expected = [number for _ in range(3) for number in range(count)]
        # Each version coordinates, and reads what the other has written from all three copies.
        assert [*(await older["n1"].use("older", count)).values()] == expected
        assert [*(await ask("use", "newer", count))["found"].values()] == expected
        assert [*(await older["n2"].read("newer", count)).values()] == expected
        assert [*(await ask("read", "older", count))["found"].values()] == expected
        # Fields that one of them does not know.
        pong = await older["n1"].ask("n3", f.Ping(with_stats=True))
        assert isinstance(pong, f.Pong)
        assert pong.stats is not None
        assert pong.stats["raykv"] == NEWER
        assert (await ask("ask", "n1", "Ping", True))["kind"] == "Pong"
        # A request that one of them does not know: refused, by name, with nothing done.
        assert (await ask("ask", "n3", "Foresee", 3))["kind"] == "Pong"
        refused = await ask("ask", "n1", "Foresee", 3)
        assert (refused["kind"], refused["reason"]) == ("NodeRefused", "unknown")
        assert f"this raykv ({VERSION}) knows no node request 'Foresee'" in refused["message"]
        assert [*(await older["n1"].use("after", 2)).values()] == [0, 1] * 3, "it goes on"
        for node in older.values():
            assert node.failed == []
            await node.end()

    asyncio.run(asyncio.wait_for(story(), 2 * WAIT_S))
    assert child.end() == 0


def write_golden() -> None:
    """Write down the frames of the present version: before it is released, and never again."""
    from tests.protocol.test_frames import CASES

    names = {id(kind): name for name, kind in KINDS.items()}
    lines = [f"{names[id(kind)]} {golden}" for kind, _, golden in CASES]
    seen: dict[tuple[str, str], str] = {}
    for line in lines:
        kind, golden = line.split()
        seen.setdefault((kind, _name(plain(bytes.fromhex(golden)))), line)
    text = f"# A frame of each message, as raykv {VERSION} wrote it: conversation, bytes in hex.\n"
    (GOLDEN / f"frames-{VERSION}.txt").write_text(text + "\n".join(seen.values()) + "\n")


if __name__ == "__main__":
    write_golden()
