"""Maps of why images of CIFAR-10 are similar, kept for notebook 11, where digits have too little to show."""

from pathlib import Path

import numpy as np
import torch

from ..embeddings import embed
from ..search import kneighbors
from ..similarity import Similarity, why_similar
from ..study.run import Run
from ..study.similarity_figures import write_similarities
from .publishing import REFERENCE

FOLDER = REFERENCE / "similarity"
LAYERS = (1, 5, 10)  # grids of 16, 8 and 4 squares a side on images of 32 by 32
OTHERS = 200  # random training images, above whose contributions the lead is


def keep_similarities(name: str, test_image: int | None = None, folder: Path = FOLDER) -> Path:
    """Write RUN.safetensors: for one test image and its nearest example at each of `LAYERS`, maps "plain" and "lead".

    test_image: its position; by default the first automobile of CIFAR-10, or the first image.
    """
    run = Run.open(name)
    train_set, test_set = run.load_data()
    model = run.load_model(train_set)
    if test_image is None:
        wanted = train_set.classes.index("automobile") if "automobile" in train_set.classes else test_set.labels[0]
        test_image = int(np.flatnonzero(test_set.labels == wanted)[0])
    image = test_set.images[test_image]
    picked = np.random.default_rng(0).choice(len(train_set), min(OTHERS, len(train_set)), replace=False)
    others = train_set.images[torch.from_numpy(picked)]
    found: dict[str, list[Similarity]] = {"plain": [], "lead": []}
    for layer in LAYERS:
        rows, query = embed(model, train_set.images, layer), embed(model, image[None], layer)
        near = kneighbors(rows, query, 1)[1][0, 0]
        for group, rest in (("plain", None), ("lead", others)):
            found[group].append(why_similar(model, image, train_set.images[near], layer, others=rest))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run.name}.safetensors"
    write_similarities(path, found, f"{run.name}, test image {test_image}")
    return path
