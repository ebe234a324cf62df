"""Maps of a layer's embedding in two dimensions, for the explorer.

Principal components are found on a sample of the training inputs, and everything else is projected onto them. With
"tsne" the first 50 of them are arranged by scikit-learn's t-SNE. Each layer's map is turned, and mirrored where need
be, to fit the map of the layer before, so that what moves between two layers is what the network moves.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import nn

from .checks import one_of
from .data import scale
from .embeddings import iter_embeddings
from .passes import PIXELS

PROJECTIONS = ("pca", "tsne", "none")
_COMPONENTS = 50  # that t-SNE starts from
_FLOATS = 2**26  # held at a time: a quarter of a GiB
Rows = Mapping[Any, np.ndarray]  # {layer: (rows, dimension)}


class Projection:
    """Principal components of a sample of one layer's embeddings.

    metric: with "cosine" the embeddings are scaled to length 1 first, since their lengths do not count there.
    `explained`: the share of the sample's variance that the first two components have.
    """

    def __init__(self, sample: np.ndarray, metric: str, components: int, seed: int) -> None:
        self.metric = metric
        rows = self._scaled(sample)
        most = min(components, *rows.shape)
        with np.errstate(invalid="ignore"):  # no variance to share where all rows are the same
            self._pca = PCA(most, svd_solver="randomized", random_state=seed).fit(rows)
        shares = np.nan_to_num(self._pca.explained_variance_ratio_)
        self.explained = float(shares[:2].sum())

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.float32)
        if self.metric != "cosine":
            return rows
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(n, components) of rows (n, dimension); at least two columns."""
        found = self._pca.transform(self._scaled(rows))
        return np.pad(found, ((0, 0), (0, max(0, 2 - found.shape[1]))))


def arranged(points: np.ndarray, projection: str, seed: int) -> np.ndarray:
    """(n, 2): the first two components, or t-SNE's arrangement of all of them."""
    if projection == "pca" or len(points) < 5:
        return points[:, :2]
    return TSNE(init="pca", perplexity=min(30, (len(points) - 1) / 4), random_state=seed).fit_transform(points)


def aligned(points: np.ndarray, before: np.ndarray | None, common: int) -> np.ndarray:
    """Points (n, 2) centred and scaled, then turned or mirrored so that the first `common` lie as those of `before`."""
    centre = points[:common].mean(0)
    spread = np.sqrt(np.square(points[:common] - centre).sum(1).mean())
    points = (points - centre) / (spread or 1)
    if before is None:
        return points
    return points @ orthogonal_procrustes(points[:common], before[:common])[0]


def network_rows(model: nn.Module, images: ArrayLike | torch.Tensor, layers: list, dimensions: Mapping, pooling: str,
                 device: str | torch.device) -> Iterator[tuple[slice, Rows]]:
    """(slice, {layer: embeddings}) of one batch of images after another; layer 0 is the images themselves."""
    wanted = [layer for layer in layers if layer != PIXELS]
    images = torch.as_tensor(images)
    size = int(np.clip(_FLOATS // max(1, sum(dimensions[layer] for layer in layers)), 1, 256))
    for part, found, _ in iter_embeddings(model, images, wanted, pooling, size, device):
        rows = {layer: values.float().cpu().numpy() for layer, values in found.items()}
        yield part, rows | ({PIXELS: scale(images[part]).float().flatten(1).numpy()} if PIXELS in layers else {})


def sample_size(dimensions: Mapping, most: int = 500) -> int:
    """How many training inputs a projection is fitted on: `most`, or what memory holds at all layers."""
    return int(np.clip(_FLOATS // max(1, sum(dimensions.values())), 50, most))


def check_projection(projection: str) -> str:
    """`projection` if it is one of `PROJECTIONS`; ValueError otherwise."""
    return one_of("projection", projection, PROJECTIONS)


def layer_maps(rows: Any, points: Mapping[Any, np.ndarray], sample: np.ndarray, common: int, metric: str,
               projection: str = "pca", seed: int = 0) -> dict[Any, tuple[np.ndarray, float]]:
    """{layer: (places (n, 2) float64, share of variance)} of the inputs `points[layer]` (n,) at every layer.

    rows: function of positions (m,) that yields (slice, {layer: embeddings}) for one batch of them after another.
    sample: positions that the components are fitted on. common: how many inputs, the first of each layer's points,
    are the same at all layers: by them the maps are aligned.
    """
    held: dict[Any, list] = {layer: [] for layer in points}
    for _, found in rows(sample):
        for layer in points:
            held[layer].append(found[layer])
    components = 2 if projection == "pca" else _COMPONENTS
    fitted = {layer: Projection(np.concatenate(held.pop(layer)), metric, components, seed) for layer in points}
    everything = np.unique(np.concatenate(list(points.values())))
    reduced: dict[Any, dict[int, np.ndarray]] = {layer: {} for layer in points}
    wanted = {layer: np.isin(everything, at) for layer, at in points.items()}
    for part, found in rows(everything):
        for layer in points:
            here = wanted[layer][part]
            if here.any():
                reduced[layer] |= dict(zip(everything[part][here].tolist(), fitted[layer](found[layer][here]),
                                           strict=True))
    maps, before = {}, None
    for layer, at in points.items():
        flat = arranged(np.stack([reduced[layer][one] for one in at.tolist()]).astype(float), projection, seed)
        before = aligned(flat, before, common)
        maps[layer] = (before, fitted[layer].explained)
    return maps
