"""The notebook does what it shows, from two pictures to a localized query."""

import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "demo.ipynb"


def read_notebook():
    nbformat = pytest.importorskip("nbformat", reason="notebooks are of the extra 'test'")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_whole_and_holds_no_output():
    pytest.importorskip("nbformat").validate(notebook := read_notebook())
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 8
    for cell in cells:
        assert not cell.outputs
        compile(cell.source, cell.id, "exec")


@pytest.mark.slow
def test_the_notebook_localizes_its_query(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    notebook = read_notebook()
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    (inliers,) = re.findall(r"matches, (\d+) inliers", text)
    assert int(inliers) > 50
    assert "registered_images=8" in text
    millimetres, degrees = re.findall(r"([\d.]+) mm and ([\d.]+) degrees off", text)[0]
    assert float(millimetres) < 50
    assert float(degrees) < 0.5
    shown = {kind for output in outputs for kind in output.get("data", ())}
    assert "image/png" in shown  # the matches, and the query beside the model
    assert "application/vnd.plotly.v1+json" in shown or "text/html" in shown
