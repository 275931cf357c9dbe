"""Both faces come from one source: they are in step, and the examples in their docstrings do what they say."""

from __future__ import annotations

import ast
import doctest
import graphlib
import inspect
from typing import Any

import pytest

import generate_faces
import raykv
import raykv.sim
from raykv.client import primitives, store

BLOCKING = ((store, raykv.Bucket), (store, raykv.Store), (primitives, raykv.Counter), (primitives, raykv.Lock))


def public_methods(face: type) -> dict[str, Any]:
    return {name: value for name, value in vars(face).items() if inspect.isfunction(value) and not name.startswith("_")}


def test_the_blocking_face_is_what_its_source_makes_it() -> None:
    for source, target in generate_faces.FACES.items():
        written = target.read_text(encoding="utf-8")
        assert written == generate_faces.generated(source, target), f"run scripts/generate_faces; never edit {target}"
        assert f"GENERATED from raykv/client/{source.name} by scripts/generate_faces" in written
    assert generate_faces.main(["--check"]) == 0


def test_a_file_that_is_out_of_step_is_noticed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = generate_faces.CLIENT / "aio.py"
    stale = tmp_path / "store.py"
    stale.write_text(generate_faces.FACES[source].read_text(encoding="utf-8").replace("Count the keys.", "Count keys."))
    monkeypatch.setattr(generate_faces, "FACES", {source: stale})
    monkeypatch.setattr(generate_faces, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 120\n")
    assert generate_faces.main(["--check"]) == 1
    assert generate_faces.main([]) == 0
    assert generate_faces.main(["--check"]) == 0
    assert generate_faces.main(["--chekc"]) == 2


@pytest.mark.parametrize(
    ("awaitable", "blocking"),
    [
        ("async def count(self) -> int:\n    return await self.run_async(1)\n",
         "def count(self) -> int:\n    return self.run(1)\n"),
        ("async for pair in self.x:\n    pass\n", "for pair in self.x:\n    pass\n"),
        ("async with a as b:\n    pass\n", "with a as b:\n    pass\n"),
        ("x = [y async for y in z]  # what AsyncBucket awaits\n", "x = [y for y in z]  # what Bucket awaits\n"),
        ("def walk() -> AsyncIterator[int]: ...\n", "def walk() -> Iterator[int]: ...\n"),
        ("class AsyncStore(AwaitableStore, AsyncBucket[Any, Any]): ...\n",
         "class Store(BlockingStore, Bucket[Any, Any]): ...\n"),
        ('x = 1\n"""``async with store.aio``: await store.aio.get("é") of AsyncStore."""\n',
         'x = 1\n"""``with store``: store.get("é") of Store."""\n'),
    ],
)  # fmt: skip
def test_what_the_generator_makes_of_code(awaitable: str, blocking: str) -> None:
    assert generate_faces.blocking(f'"""Source."""\n{awaitable}', "header") == f"header\n{blocking}"


def test_names_inside_f_strings_are_refused() -> None:
    with pytest.raises(AssertionError):
        generate_faces.blocking('"""Source."""\nx = f"{await store.aio.get(1)}"\n', "")


@pytest.mark.parametrize(
    ("blocking", "awaitable"),
    [
        (raykv.Bucket, raykv.AsyncBucket),
        (raykv.Store, raykv.AsyncStore),
        (raykv.Counter, raykv.AsyncCounter),
        (raykv.Lock, raykv.AsyncLock),
    ],
)
def test_both_faces_have_every_method_with_its_docstring(blocking: type, awaitable: type) -> None:
    here, there = public_methods(blocking), public_methods(awaitable)
    assert [*here] == [*there], "the same, in the same order"
    assert len(here) > (10 if issubclass(blocking, raykv.Bucket) else 1)
    for name, method in here.items():
        text = method.__doc__
        assert text, f"{name} has no docstring"
        assert "await" not in text, name
        assert "aio" not in text, name
        assert text.splitlines()[0] == there[name].__doc__.splitlines()[0], name


def test_the_examples_in_the_docstrings_do_what_they_say() -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    with raykv.sim.start(seed=1) as world:
        world.store.put("user:1", {"name": "Ada"}, w="all")
        world.store.put("cart:1", ["book"])
        examples = [
            test for module, face in BLOCKING for test in finder.find(face, module=module, globs={"store": world.store})
        ]
        for test in examples:
            runner.run(test)
    assert runner.summarize().failed == 0
    assert runner.summarize().attempted > 10


def test_the_awaitable_examples_are_the_same_awaited() -> None:
    parser = doctest.DocTestParser()
    for _, face in BLOCKING:
        awaitable = public_methods(getattr(raykv, f"Async{face.__name__}"))
        for name, method in public_methods(face).items():
            here = parser.get_examples(method.__doc__)
            there = parser.get_examples(awaitable[name].__doc__)
            assert [each.want for each in here] == [each.want for each in there], name
            for each in there:
                compile(f"async def example(store):\n {each.source.strip()}".replace("\n", "\n "), name, "exec")


def test_the_modules_of_the_client_form_no_circle() -> None:
    """Not even inside functions or for the type checker alone."""
    folder = generate_faces.CLIENT
    imported = {
        path.stem: {
            found
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raykv.client")
            for found in (
                [alias.name for alias in node.names]
                if node.module == "raykv.client"
                else [str(node.module).removeprefix("raykv.client.")]
            )
        }
        for path in folder.glob("*.py")
    }
    assert imported["store"] >= {"blocking", "administration"}
    graphlib.TopologicalSorter(imported).prepare()
