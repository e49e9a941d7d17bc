"""The notebook, executed as a reader does, on what a demo leaves: nothing of it needs the network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from tests.demo import FinishedDemo

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "analysis.ipynb"


def printed(notebook: Any, kind: str) -> list[str]:
    """All outputs of a kind: `text/plain`, `image/png`, or what was printed (`stdout`)."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    if kind == "stdout":
        return [output.text for output in outputs if output.output_type == "stream"]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def test_it_is_shipped_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own packages
def test_every_cell_runs_on_the_demos_output(
    finished_demo: FinishedDemo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("scored", "pictures"):
        shutil.copytree(finished_demo.folder / "demo-output" / name, tmp_path / name)
    monkeypatch.setenv("CAPSIEVE_SCORED", str(tmp_path / "scored"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody there: images that the demo did not leave are gone
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # nobody's own start-up files
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    assert len(printed(notebook, "image/png")) == 6, "scores, best, worst, share kept, precision, borderline"
    scored, kept = pd.read_parquet(tmp_path / "scored"), pd.read_parquet(tmp_path / "filtered")
    matching = scored[scored.itm_score >= 0.5]
    said = "".join(printed(notebook, "stdout"))
    assert f"{len(matching)} of 34 rows match by BLIP's own decision" in said
    assert f"{len(kept)} of 34 rows kept" in said
    assert set(kept.url) == set(matching[matching.caption_tokens >= 5].url)
    rejected = pd.read_parquet(tmp_path / "filtered" / "_rejected")
    assert len(kept) + len(rejected) == len(scored)
    assert "failed_to_download" in "".join(printed(notebook, "text/plain"))
