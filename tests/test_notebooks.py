"""Every notebook runs from top to bottom in a fresh kernel."""

from __future__ import annotations

import os
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    keep = os.environ.get("RAYKV_KEEP_NOTEBOOKS")  # a folder: where to leave the executed notebooks to be looked at
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    if keep:
        nbformat.write(notebook, Path(keep) / path.name)
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )
    assert "0 failed" in text


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
