"""The wheel: built, installed in a clean environment with its declared dependencies, and used."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE_INSTALL_LIMIT_BYTES = 30_000_000
PINS = ROOT / "requirements.txt"
PATIENCE_S = 600.0
"""For each step: other parts of the checks run beside it."""

SCRIPT = """
    import pathlib, sys, raykv, ray
    assert pathlib.Path(raykv.__file__).is_relative_to(sys.prefix), raykv.__file__
    ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=False,
             log_to_driver=False, logging_level="ERROR")
    store = raykv.start("wheel", path=sys.argv[1])
    store.put("k", {"v": (1, 2)})
    assert store.get("k") == {"v": (1, 2)}
    raykv.shutdown("wheel")
    assert raykv.start("wheel", path=sys.argv[1]).get("k") == {"v": (1, 2)}
    raykv.shutdown("wheel")
"""


def installed_bytes(site: Path) -> int:
    return sum(file.stat().st_size for file in site.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


@pytest.mark.wheel
def test_the_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=PATIENCE_S)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "raykv/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "notebooks/", "simulation/"))]

    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=PATIENCE_S)
    python = environment / "bin" / "python"

    def install(*what: str) -> int:
        words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(PINS), *what]
        subprocess.run([python, *words], check=True, timeout=PATIENCE_S)
        (site,) = (environment / "lib").glob("python*/site-packages")
        return installed_bytes(site)

    before = install("ray")
    beyond_ray = install(str(wheel)) - before
    assert beyond_ray <= BASE_INSTALL_LIMIT_BYTES, f"{beyond_ray / 1e6:.1f} MB beyond Ray"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    script = [python, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "data")]
    subprocess.run(script, check=True, timeout=PATIENCE_S, cwd=tmp_path, env=clean)
    shown = subprocess.run(
        [environment / "bin" / "raykv", "--help"], check=True, capture_output=True, timeout=PATIENCE_S
    )
    assert b"status" in shown.stdout
