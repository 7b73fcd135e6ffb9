"""The newcomer's notebook runs from its first cell to its last, and shows what it says it does."""

import json
import pathlib

import matplotlib
import matplotlib.pyplot as plt
import pytest

pytestmark = pytest.mark.slow

NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch):
    """With less training, which is what takes time."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) <= 10
    names: dict = {}
    for source in code:
        quick = source.replace('"train.epochs": 20', '"train.epochs": 1').replace("[:12]", "[:4]")
        exec(compile(quick, "quickstart", "exec"), names)
    result = names["result"]
    assert result.imputations.shape == (4, 8, 28, 28, 1)
    assert all(chains is not None and chains.z.shape[0] == 4 for chains in result.chains)
    assert len(plt.get_fignums()) == 2
    plt.close("all")
