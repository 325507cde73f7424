"""The notebooks run as they are shipped, their claims hold, and they are shipped without outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BAR = re.compile(r"\s*|.*\d+%\|.*")


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def puzzling(text: str) -> list[str]:
    """Lines on stderr that are neither progress bars nor known."""
    lines = re.split(r"[\r\n]", text)
    return [line for line in lines if not BAR.fullmatch(line)]


def heard(notebook: nbformat.NotebookNode) -> list[str]:
    """What cells wrote to stderr and a reader would wonder about."""
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", [])]
    texts = [
        each.text for each in outputs if each.output_type == "stream" and each.name == "stderr"
    ]
    return puzzling("".join(texts))


def test_what_is_puzzling():
    assert puzzling("\rLoading weights:  50%|█▌  | 1/2 [00:00<?]\n\n") == []
    assert puzzling("a.py:3: UserWarning: odd\n") == ["a.py:3: UserWarning: odd"]
    assert puzzling("Token indices sequence length is longer") != []


def test_all_five_are_there_and_listed():
    names = ["1_look", "2_trace_causes", "3_measure", "4_intervene", "5_bring_your_own_model"]
    assert [path.stem for path in NOTEBOOKS] == names
    listed = re.findall(r"\]\(([\w.]+\.ipynb)\)", (ROOT / "notebooks" / "README.md").read_text())
    assert listed == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_shipped_small_and_clean(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert len(notebook.cells) < 25
    assert (
        list(notebook.metadata) == ["kernelspec"] and notebook.metadata.kernelspec.name == "python3"
    )
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z]+(-[a-z]+)+", one) for one in ids)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert all(not cell.metadata for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_numbers_are_asserted(path):
    """A text that states a number is followed by code, and that code asserts something."""
    cells = read(path).cells
    stated = [
        place
        for place, cell in enumerate(cells)
        if cell.cell_type == "markdown" and _states(cell.source)
    ]
    assert (
        sum("assert " in cell.source for cell in cells if cell.cell_type == "code")
        > len(stated) / 2
        > 0
    )
    for place in stated:
        coming = [cell for cell in cells[place + 1 : place + 3] if cell.cell_type == "code"]
        assert any("assert " in cell.source for cell in coming), cells[place].id


def _states(text: str) -> bool:
    """Whether a number of a finding stands in the text: a decimal, a percentage, a comparison."""
    return bool(re.search(r"\d %|\b0\.\d|(?:more|less|fewer|above|below|over|than) [+-]?\d", text))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    """In a kernel of its own, in an empty folder, with this repository's code."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = read(path)
    work = tmp_path / "work"
    work.mkdir()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(work)}}).execute()
    assert heard(notebook) == []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    shown = [each for cell in code for each in cell.outputs if "data" in each]
    assert any("application/vnd.plotly.v1+json" in each.data for each in shown)
