"""Every notebook runs in a fresh kernel; the course is complete, its links lead somewhere, its files are clean."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CONTENTS = FOLDER / "00_contents.ipynb"
MOST_BYTES = 300_000


def name_of(path: Path) -> str:
    return path.name


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return found


def prose(path: Path) -> str:
    return "\n\n".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "markdown")


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_the_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    keep = os.environ.get("RAYKV_KEEP_NOTEBOOKS")  # a folder: where to leave the executed notebooks to be looked at
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    if keep:
        nbformat.write(notebook, Path(keep) / path.name)
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )
    assert re.search(r"(?<!\d)0 failed", text)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def test_the_contents_name_all_chapters_in_order_and_sections_that_are_there() -> None:
    rows = re.findall(r"^\| (.+) \| \[(\d\d) .+\]\((\w+\.ipynb)\) \| (.+) \|$", prose(CONTENTS), re.MULTILINE)
    chapters = list(dict.fromkeys(file for _, _, file, _ in rows))
    assert chapters == [path.name for path in NOTEBOOKS if path != CONTENTS]
    for heading, number, file, sections in rows:
        assert file.startswith(f"{number}_"), heading
        there = re.findall(r"^#+ (.+)$", prose(FOLDER / file), re.MULTILINE)
        assert sections == "all" or not set(sections.split("; ")) - {*there}, f"{file}: {sections} in {there}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_link_leads_to_a_chapter(path: Path) -> None:
    assert [name for name in re.findall(r"\]\(([^):]+)\)", prose(path)) if not (FOLDER / name).exists()] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_what_a_file_stores_is_what_a_reader_is_to_see(path: Path) -> None:
    """It has its pictures, all of one run, and says nothing of the machine or the time at which it was made."""
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any(kind.startswith("image/") for output in outputs for kind in output.get("data", {}))
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not [cell for cell in cells(path) if cell["metadata"]], "no times of execution"
    text = path.read_text()
    assert len(text) < MOST_BYTES
    stored = json.dumps(outputs, ensure_ascii=False)
    assert re.findall(r"(?<![\w.])/(?:home|root|work|Users|tmp|private|var)/[\w.-]+", text) == []
    assert re.findall(r"(?<![\w.,-])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])|\(raylet\)", stored) == []
