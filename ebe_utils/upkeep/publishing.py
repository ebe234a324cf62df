"""The committed notebooks: executed copies without what papermill adds."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import write_text
from ..paths import runs_root
from ..study.domains import DOMAINS
from ..study.notebooks import notebook_paths
from ..study.pages import without_widgets
from ..study.results import SCORED
from ..study.run import Run

CHECKOUT = Path(__file__).resolve().parents[2]
REFERENCE = CHECKOUT / "data" / "reference"  # results that are committed
# Metadata of a cell that are committed; alt is what a figure shows, in words, for the HTML copies, mystnb for the site.
KEPT = ("tags", "alt", "mystnb")


def publish(run: Run, folder: Path = CHECKOUT / "notebooks", figures: Path = CHECKOUT / "figures") -> None:
    """Put a run's executed notebooks and figures where they are committed, without what papermill adds."""
    for path in notebook_paths(run.path / "notebooks"):
        write_text(Path(folder) / path.name, clean(json.loads(path.read_text(encoding="utf-8"))))
    steps = [(run.path / step, run.parameters.dataset if step == "figures" else step.split("-")[0]) for step in
             ("figures", "claims", *SCORED, "choosing", "choosing-gains", "choosing-explanations", "methods",
              "similarity", "conditions", "reason")]
    steps += [(runs_root() / f"{word}-{dataset}-seed0" / word, word) for word, dataset in DOMAINS.items()]
    for step, target in steps:
        shutil.copytree(step, Path(figures) / target, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("manifest.json", "*.npz", ".*"))


def keep_table(table: pd.DataFrame, folder: Path, name: str) -> Path:
    """Write folder/name.csv, a table that is committed; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    write_text(path, table.to_csv(index=False, float_format="%.6g"))
    return path


def clean(notebook: dict[str, Any]) -> str:
    """The text of an executed notebook as it is committed: no injected cell, no metadata but `KEPT`, no widgets."""
    cells = [c for c in notebook["cells"] if "injected-parameters" not in c["metadata"].get("tags", ())]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02d}"
        cell["metadata"] = {name: cell["metadata"][name] for name in KEPT if cell["metadata"].get(name)}
        if cell["cell_type"] == "code":
            cell["outputs"] = without_widgets(cell["outputs"])
    notebook["cells"] = cells
    notebook["metadata"] = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                            "language_info": {"name": "python"}}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
