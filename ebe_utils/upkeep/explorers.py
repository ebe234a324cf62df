"""The explorers that the site embeds: one page for each of some runs, in docs/_static/explorers/.

Neighbours of a few test images are searched anew among all training images, so that a run needs its network and its
data, but no sweep of all its test images.
"""

from collections.abc import Callable
from pathlib import Path

from ..explorer import explore
from ..layer_neighbors import layer_neighbors
from ..study.run import Run
from .publishing import CHECKOUT

FOLDER = CHECKOUT / "docs" / "_static" / "explorers"
IMAGES = 60  # the first test images: not chosen, so that mistakes are as frequent among them as elsewhere
K_MAX = 20
MOST = 950_000  # bytes of a page


def keep_explorer(name: str, folder: Path = FOLDER, images: int = IMAGES, k_max: int = K_MAX,
                  max_bytes: int = MOST) -> Path:
    """Write the explorer of a run's first test images at all layers to folder/DATASET.html; returns its path.

    Raises RunError for a run without a trained network, ValueError where the page has no room for the images.
    """
    run = Run.open(name)
    train_set, test_set = run.load_data()
    model, parameters = run.load_model(train_set), run.parameters
    shown = test_set.subset(range(min(images, len(test_set))))
    search: dict[str, str] = {"pooling": parameters.pooling, "device": parameters.device}
    found = layer_neighbors(model, train_set, shown, k=k_max, metric=parameters.metric, progress=False, **search)
    page = explore(found, train_set, shown, model, k=min(parameters.k, k_max), max_bytes=max_bytes, **search,
                   title=f"Which training examples vote? {parameters.dataset}, test images 1 to {len(shown)}")
    folder.mkdir(parents=True, exist_ok=True)
    return page.save(folder / f"{parameters.dataset}.html")


def keep_explorers(names: list[str], progress: Callable[[str], object] = print) -> None:
    """`keep_explorer` for each of some runs, with a line for each page."""
    for name in names:
        path = keep_explorer(name)
        progress(f"{path}  ({path.stat().st_size / 1e6:.2f} MB)")
