"""The explorers that the site embeds: what each shows is kept in data/reference/explorers/; the site draws the page.

Neighbours of a few test images are searched anew among all training images, so that a run needs its network and its
data, but no sweep of all its test images.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..explorer import Explorer, explore
from ..files import write_text
from ..layer_neighbors import layer_neighbors
from ..study.figures import STRIP_LAYERS
from ..study.run import Run
from .publishing import REFERENCE

FOLDER = REFERENCE / "explorers"
SEARCHED = 60  # the first test images
MOST = 950_000  # bytes of a page
LAYERS = tuple(layer for layer in STRIP_LAYERS if layer != 2)  # of a large data set; of a small one, all
SMALL = 5000  # training images: the same ones are near again and again, so that pictures of all of them fit


def keep_explorer(name: str, folder: Path = FOLDER, max_bytes: int = MOST) -> Path:
    """Write what the explorer of a run shows to folder/DATASET.json; returns its path.

    Of a small data set it has 60 test images, all layers and up to 20 examples, of a large one 16, ten and 10: so many
    that the page has room for a picture of nearly every example. RunError for a run without a trained network.
    """
    run = Run.open(name)
    train_set, test_set = run.load_data()
    model, parameters, small = run.load_model(train_set), run.parameters, len(train_set) < SMALL
    shown = test_set.subset(range(min(SEARCHED, len(test_set))))
    search: dict[str, Any] = {"pooling": parameters.pooling, "device": parameters.device}
    found = layer_neighbors(model, train_set, shown, "all" if small else LAYERS, k=20 if small else 10, pixels=small,
                            metric=parameters.metric, progress=False, **search)
    page = explore(found, train_set, shown, model, k=10, images=SEARCHED if small else 16, max_bytes=max_bytes,
                   title=f"Which training examples vote? {parameters.dataset}", **search)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{parameters.dataset}.json"
    write_text(path, json.dumps({"title": page.title, "payload": page.payload}) + "\n")
    return path


def kept_explorer(path: Path) -> Explorer:
    """The explorer that `keep_explorer` wrote to a file."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Explorer(found["payload"], found["title"])


def write_pages(folder: Path, kept: Path = FOLDER) -> None:
    """The pages of all explorers that are kept, as folder/DATASET.html."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(kept.glob("*.json")):
        kept_explorer(path).save(folder / f"{path.stem}.html")


def keep_explorers(names: list[str], progress: Callable[[str], object] = print) -> None:
    """`keep_explorer` for each of some runs, with a line for each page."""
    for name in names:
        path = keep_explorer(name)
        progress(f"{path}  ({path.stat().st_size / 1e6:.2f} MB)")
