"""The rules of the house: who may import whom, and what no file may be called."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "raykv"
RIG = ROOT / "scripts"
"""Where ``simulation`` lies, which is tested like a part of the package."""
BASE = {"errors", "config", "ports", "records"}
PLAIN = ("ring", "versions", "storage", "membership")
FLOOR = BASE | {*PLAIN, "protocol"}
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "ports": set(),
    "viz": set(),
    "metrics": set(),
    "dashboard": BASE | {"metrics", "viz"},
    "records": {"errors", "config", "ports"},
    **dict.fromkeys(PLAIN, BASE),
    "protocol": BASE | {"versions"},
    "cluster": FLOOR,
    "coordinator": FLOOR | {"cluster"},
    "replica": FLOOR | {"cluster"},
    "repair": FLOOR | {"cluster", "replica"},
    "node": FLOOR | {"cluster", "replica", "repair"},
    "supervision": FLOOR | {"cluster", "node"},
    "client": BASE
    | {"protocol", "ring", "versions", "viz", "raykv"},  # raykv: a pickled handle calls raykv.connect on arrival
    "system": BASE,
    "transport": BASE | {"protocol", "cluster", "coordinator", "system"},
    "sim": FLOOR | {"cluster", "coordinator", "node", "supervision", "client", "raykv"},
    "actors": FLOOR
    | {"cluster", "coordinator", "repair", "node", "supervision", "client", "system", "transport", "metrics"},
    "portable": BASE | {"client"},
    "data": BASE | {"client", "portable", "actors"},
    "cli": BASE
    | {"raykv", "protocol", "actors", "client", "storage", "system", "viz", "metrics", "dashboard", "portable"},
    "__main__": {"cli"},
    "__init__": BASE | {"client", "actors", "supervision", "versions", "coordinator"},
}
MAY_IMPORT_RAY = {"actors", "cli", "dashboard", "data"}
IMPURE = {"asyncio", "time", "socket", "threading", "os", "subprocess", "datetime", "multiprocessing", "concurrent"}
IMPURE_CALLS = {"open", "hash", "input", "eval", "exec"}


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(PACKAGE.rglob("*.py"))
SYNCHRONOUS = [path for path in SOURCES if layer(path) in {*PLAIN, "records"}]
ROOMS = ("protocol", "cluster", "coordinator", "replica", "repair", "node", "supervision")
CORE = [path for path in SOURCES if layer(path) in {*PLAIN, "records", *ROOMS}]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def typing_only(path: Path) -> frozenset[ast.AST]:
    """Return what stands under ``if TYPE_CHECKING``."""
    return frozenset(
        inner
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    )


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """Return (module, whether only for the type checker)."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in typing_only(path)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names = [f"raykv.{alias.name}" for alias in node.names] if module == "raykv" else [module]
            found += [(name, node in typing_only(path)) for name in names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_layer_imports_only_what_lies_below_it(path: Path) -> None:
    own = layer(path)
    for module, _ in imports(path):
        if module.split(".")[0] == "raykv":
            target = module.split(".")[1] if "." in module else "raykv"
            target = target if (PACKAGE / target).is_dir() or (PACKAGE / f"{target}.py").exists() else "raykv"
            assert target in ALLOWED[own] | {own}, f"{own} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_ray_is_imported_by_the_real_world_only(path: Path) -> None:
    modules = {module.split(".")[0] for module, _ in imports(path)}
    if layer(path) not in MAY_IMPORT_RAY:
        assert "ray" not in modules


@pytest.mark.parametrize("path", SYNCHRONOUS, ids=name_of)
def test_plain_code_has_no_clock_no_thread_no_file_and_no_global_randomness(path: Path) -> None:
    modules = {module.split(".")[0] for module, for_types in imports(path) if not for_types}
    assert not modules & (IMPURE | {"random", "secrets", "uuid"})
    assert not any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(tree_of(path)))


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_reaches_the_world_through_the_ports_only(path: Path) -> None:
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    assert not {call.func.id for call in calls if isinstance(call.func, ast.Name)} & IMPURE_CALLS
    forbidden = {"asyncio.sleep", "asyncio.wait_for", "asyncio.timeout", "asyncio.open_connection", "asyncio.to_thread"}
    assert not {ast.unparse(call.func) for call in calls} & forbidden
    modules = {module.split(".")[0] for module, for_types in imports(path) if not for_types}
    assert not modules & (IMPURE - {"asyncio"} | {"random", "secrets", "uuid", "pickle", "cloudpickle"})


OPERATIONS = (
    "judgements", "rounds", "steps", "write_fanout", "reads", "writes", "scans", "in_flight", "fast_path", "changes",
)  # fmt: skip


@pytest.mark.parametrize("name", [*(f"coordinator/{stem}" for stem in OPERATIONS), "cluster/fanout", "cluster/health"])
def test_an_operation_has_no_loop(name: str) -> None:
    """Actions out, events in: so a blocking caller, an event loop and the simulation run the same lines."""
    path = PACKAGE / f"{name}.py"
    assert "asyncio" not in {module for module, _ in imports(path)}
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree_of(path)))


def test_actors_and_simulation_never_meet() -> None:
    for path in SOURCES:
        targets = {module for module, _ in imports(path)}
        if layer(path) == "actors":
            assert not any(target.startswith("raykv.sim") for target in targets)
        if layer(path) == "sim":
            assert not any(target.startswith("raykv.actors") for target in targets)


def test_a_stored_byte_never_runs() -> None:
    unpickling = [name_of(path) for path in SOURCES if "pickle.loads" in path.read_text()]
    assert unpickling == ["raykv/client/codecs.py"]


def test_a_function_has_a_home_by_meaning() -> None:
    names = {path.stem for path in SOURCES}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_where_a_key_lies_is_asked_with_its_bucket(path: Path) -> None:
    """Only ``raykv.ring`` hashes a whole key: elsewhere that forgets the group, and looks in the wrong place."""
    if layer(path) == "ring":
        return
    imports = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports if (node.module or "").startswith("raykv.ring") for alias in node.names}
    assert not names & {"partition_of_key", "partitions_of_keys", "token"}


def test_importing_raykv_does_not_import_ray_nor_what_would_make_it_take_twice_as_long() -> None:
    late = {"asyncio", "crc32c", "ray", "numpy", "pandas", "pyarrow"}
    code = f"import sys, raykv; print(*sorted({late} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


def test_tests_mirror_the_package() -> None:
    """A test file stands where the file that it tests stands."""
    strays = []
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        relative = test.relative_to(ROOT / "tests")
        if len(relative.parts) > 1 and not any((home / relative.parts[0]).is_dir() for home in (PACKAGE, RIG)):
            strays.append(str(relative))
    assert strays == []


def run_time_imports(path: Path, modules: set[str]) -> set[str]:
    """Return the modules among ``modules`` that a file imports, when it is imported itself or later in a function."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if node in typing_only(path):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (named & modules) or {node.module or ""}
    return found & modules


@cache
def import_graph(base: Path, package: str) -> dict[str, set[str]]:
    """Return module -> the modules of the same package that it imports at run time."""
    files = {
        ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (base / package).rglob("*.py")
    }
    return {name: run_time_imports(path, set(files)) for name, path in files.items()}


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return all modules that importing ``start`` may import, ``start`` only if it is on a circle."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize(("base", "package"), [(ROOT, "raykv"), (RIG, "simulation")], ids=["raykv", "simulation"])
def test_no_module_imports_itself_in_a_circle(base: Path, package: str) -> None:
    without = {"raykv"}  # a pickled handle calls raykv.connect on arrival, by its public name
    graph = {name: imported - without for name, imported in import_graph(base, package).items()}
    assert sorted(name for name in graph if name in reached(graph, name)) == []


def test_the_wheel_has_of_the_simulation_what_users_get_and_no_more() -> None:
    graph = import_graph(ROOT, "raykv")
    sim = {name for name in graph if name.startswith("raykv.sim")}
    assert sim <= reached(graph, "raykv.sim") | {"raykv.sim"}
