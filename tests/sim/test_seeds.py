"""A test for each of many seeds, as pytest runs it for those who use raykv."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import raykv.sim

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """Run pytest on a user's test file, in a process and a directory of its own."""

    def run(source, *options, **environment):
        path = tmp_path / "test_mine.py"
        path.write_text("import pytest, raykv, raykv.sim\n" + textwrap.dedent(source))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *options, path.name]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RAYKV_"))}
        paths = f"{REPOSITORY}{os.pathsep}{inherited.get('PYTHONPATH', '')}"
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env=inherited | {"PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environment,
        )  # fmt: skip
        return done.stdout + done.stderr

    return run


def test_each_seed_is_a_test_with_a_world_of_its_own(run):
    out = run(
        """
        seen = {}

        @raykv.sim.seeds(3, faults=True, nodes=4)
        def test_world(world, seed, tmp_path):
            assert world.replay == f"raykv.sim.start(seed={seed}, nodes=4, faults=True)"
            assert tmp_path.exists() and len(world.nodes) == 4
            seen[seed] = world
            world.sleep(1)

        @raykv.sim.seeds([7, -9])
        def test_seed_alone(seed):
            with raykv.sim.start(seed) as world:
                world.store["k"] = seed

        class TestMine:
            @pytest.mark.parametrize("number", [1, 2])
            @raykv.sim.seeds(range(5, 7))
            def test_method(self, world, number):
                world.store["k"] = number

            @raykv.sim.seeds(2)
            async def test_awaiting(self, world):
                await world.store.aio.put("k", 1)
                assert await world.store.aio.get("k") == 1

        def test_all_of_them():
            assert sorted(seen) == [0, 1, 2]
            for world in seen.values():
                with pytest.raises(raykv.StoreClosed, match="has ended"):
                    world.store.get("k")
        """,
        "-v",
    )
    assert "12 passed" in out
    for name in ("test_world[seed2]", "test_seed_alone[seed-9]", "test_method[seed6-1]", "test_awaiting[seed1]"):
        assert name in out


FAILING = """
    @raykv.sim.seeds(10, faults=True)
    def test_mine(world, seed):
        world.sleep(2)
        {0}

    @raykv.sim.seeds(4, nodes=4)
    async def test_awaiting(world):
        {0}
"""


@pytest.mark.parametrize(
    "failure",
    ["assert world.replay.count('seed=3') == 0", "if 'seed=3' in world.replay: pytest.fail('by hand')",
     "if 'seed=3' in world.replay: raise ExceptionGroup('some', [KeyError(1)])"],
)  # fmt: skip
def test_what_fails_says_how_it_runs_again_and_does(run, failure):
    out = run(FAILING.format(failure))
    assert "2 failed, 12 passed" in out
    assert re.search(
        r"after 2\.\d+ s in a simulated world .* the same again: raykv\.sim\.start\(seed=3, faults=True\)", out
    )
    assert "the same again: raykv.sim.start(seed=3, nodes=4)" in out
    found = re.search(r'or: RAYKV_SEEDS=(\d+) python -m pytest "test_mine\.py::(test_mine)"', out)
    assert found
    again = run(FAILING.format(failure), "-k", f"{found[2]} and not awaiting", RAYKV_SEEDS=found[1])
    assert "1 failed" in again
    assert "passed" not in again
    assert "the same again: raykv.sim.start(seed=3, faults=True)" in again


def test_a_world_of_a_fixture_says_it_too(run):
    out = run(
        """
        @pytest.fixture(params=[4, 5])
        def world(request):
            with raykv.sim.start(request.param, coordinators=2) as world:
                yield world

        def test_mine(world):
            assert world.replay.count("seed=5") == 0
        """
    )
    assert "1 failed, 1 passed" in out
    assert f"raykv.sim.start(seed=5, coordinators=2)  # raykv {raykv.__version__}" in out
    assert "raykv.sim.start(seed=4" not in out


SEEING = "@raykv.sim.seeds(2)\ndef test_mine(seed): print('ran', seed)\n"


def test_the_environment_names_other_seeds(run):
    out = run(SEEING, "-s", RAYKV_SEEDS="100-102, 7,-5")
    assert re.findall(r"ran (-?\d+)", out) == ["100", "101", "102", "7", "-5"]
    assert "RAYKV_SEEDS is" in run(SEEING, RAYKV_SEEDS="seven")


@pytest.mark.parametrize("wrong", ["seven", "7-", "9-3", "0-99999999", "1;2", "--7"])
def test_seeds_that_the_environment_does_not_name_well(wrong, monkeypatch):
    monkeypatch.setenv("RAYKV_SEEDS", wrong)
    with pytest.raises(raykv.InvalidOption, match=r"RAYKV_SEEDS is|the number of seeds must be"):
        raykv.sim.seeds(2)


async def without_its_world(seed):
    raise AssertionError("nobody would hear of it")


def in_parts(world):
    yield world


async def in_awaited_parts(world):
    yield world


@pytest.mark.parametrize(
    ("decorate", "words"),
    [
        (lambda: raykv.sim.seeds(0), "seeds must be a whole number"),
        (lambda: raykv.sim.seeds("ab"), "a seed must be a whole number"),
        (lambda: raykv.sim.seeds(3, fault=True), "no option fault"),
        (lambda: raykv.sim.seeds(3)(lambda: None), "neither world nor seed"),
        (lambda: raykv.sim.seeds(3, nodes=5)(lambda seed: None), "takes no world"),
        (lambda: raykv.sim.seeds(3)(type("Tests", (), {})), "decorates a test function"),
        (lambda: raykv.sim.seeds(3)(without_its_world), "is async and takes no world"),
        (lambda: raykv.sim.seeds(3)(in_parts), "is a generator"),
        (lambda: raykv.sim.seeds(3)(in_awaited_parts), "is a generator"),
    ],
)
def test_bad_input(decorate, words):
    with pytest.raises(raykv.InvalidOption, match=words):
        decorate()


def test_pytest_is_not_imported_before_it_is_used():
    code = "import sys, raykv.sim; raykv.sim.start(seed=1).close(); sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
