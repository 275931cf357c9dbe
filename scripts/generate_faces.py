"""Write the blocking face of the client from the awaitable one: ``FACES`` says which module from which.

    scripts/generate_faces            write the files
    scripts/generate_faces --check    exit with 1 if one is out of step

The habit of httpx and urllib3 (unasync): the source is read as tokens; ``async`` and ``await`` fall away, and the names
that differ are replaced, in code as well as in docstrings and comments. ruff then sorts the imports and formats the result.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "raykv" / "client"
FACES = {
    CLIENT / "aio.py": CLIENT / "store.py",
    CLIENT / "aio_primitives.py": CLIENT / "primitives.py",
    CLIENT / "aio_queue.py": CLIENT / "task_queue.py",
}
"""Source -> target."""

NAMES = {
    "AsyncBucket": "Bucket",
    "AsyncStore": "Store",
    "AsyncIterator": "Iterator",
    "AwaitableBucket": "BlockingBucket",
    "AwaitableStore": "BlockingStore",
    "AsyncCounter": "Counter",
    "AsyncLock": "Lock",
    "AsyncSplit": "Split",
    "AwaitableLock": "BlockingLock",
    "AsyncQueue": "Queue",
    "AwaitableQueue": "BlockingQueue",
    "aio_queue": "task_queue",
    "awaiting_queue": "blocking_queue",
    "aio_primitives": "primitives",
    "awaiting": "blocking",
    "run_async": "run",
}
DROPPED = {"async", "await"}

HEADERS = {
    "store.py": '''"""The blocking face: ``Store`` and ``Bucket``. ``.aio`` has the same operations, awaitable.

GENERATED from raykv/client/aio.py by scripts/generate_faces: change that file and run the script, never this one.

A handle is cheap: it holds the store's name, the bucket's policy, and a link. It can be passed to Ray tasks and actors
and pickled; it travels as its name and finds the coordinator again where it arrives. In a process that was forked it goes
on with pairs, by what its parent knew; Ray does not work there, nor do commands to the store.
"""''',
    "primitives.py": '''"""The blocking face of counters and locks: ``Counter`` and ``Lock``.

GENERATED from raykv/client/aio_primitives.py by scripts/generate_faces: change that file and run the script, never this one.
"""''',
    "task_queue.py": '''"""The blocking face of queues: ``Queue``.

GENERATED from raykv/client/aio_queue.py by scripts/generate_faces: change that file and run the script, never this one.
"""''',
}

_WORDS = re.compile(r"\b(?:async (?=for\b|with\b)|await )|\bstore\.aio\b|\b(?:" + "|".join(NAMES) + r")\b")


def blocking(source: str, header: str) -> str:
    """Return the blocking form of an awaitable module, under this docstring, not formatted yet."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    pieces, done, before_code = [], 0, True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        first = starts[token.start[0] - 1] + token.start[1]
        end = starts[token.end[0] - 1] + token.end[1]
        if token.type == tokenize.STRING and before_code:
            text = header
        elif token.type == tokenize.NAME and token.string in DROPPED:
            text, end = "", end + 1  # and the space behind it
        elif token.type == tokenize.NAME:
            text = NAMES.get(token.string, token.string)
        elif token.type in {tokenize.STRING, tokenize.COMMENT}:
            assert not re.match("[a-zA-Z]*[fF]", token.string), "names inside f-strings are not seen by every Python"
            text = _WORDS.sub(_plain, token.string)
        else:
            continue
        before_code = False
        pieces += [source[done:first], text]
        done = end
    return "".join([*pieces, source[done:]])


def _plain(found: re.Match[str]) -> str:
    word = found.group()
    return "store" if word == "store.aio" else NAMES.get(word, "")


def formatted(code: str, target: Path) -> str:
    """Return the code with sorted imports, formatted, by the settings of this repository."""
    for options in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *options, "--stdin-filename", str(target), "-"]
        done = subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            raise SystemExit(f"ruff refuses the generated code: {done.stderr or done.stdout}")
        code = done.stdout
    return code


def generated(source: Path, target: Path) -> str:
    """Return what the target should hold."""
    return formatted(blocking(source.read_text(encoding="utf-8"), HEADERS[target.name]), target)


def main(arguments: list[str]) -> int:
    """Write the targets, or compare them."""
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    stale = 0
    for source, target in FACES.items():
        wanted = generated(source, target)
        if arguments:
            in_step = target.read_text(encoding="utf-8") == wanted
            stale += not in_step
            print(
                f"{target.relative_to(ROOT)} is {'in step' if in_step else 'out of step: run scripts/generate_faces'}"
            )
        else:
            target.write_text(wanted, encoding="utf-8")
            print(f"wrote {target.relative_to(ROOT)}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
