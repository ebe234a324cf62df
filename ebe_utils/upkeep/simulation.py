"""Embeddings that look like a real layer's, as many as wanted: for measurements at sizes that no data set here has."""

from pathlib import Path

import numpy as np
import pandas as pd

from .publishing import REFERENCE

FOLDER = REFERENCE / "growth"  # spectrum.csv: mean, variance and variance between classes
CLASSES, BLOCK = 1000, 8192


class Simulation:
    """Embeddings of `CLASSES` classes with the mean, variances and share between classes of a real layer.

    Along each principal direction a class has a normal centre, and its members are normal around that: the real layer's
    variances, between classes and within, without what is not normal about it. The directions are the axes: a rotation
    changes no distance.
    """

    def __init__(self, spectrum: pd.DataFrame, seed: int = 0) -> None:
        self.seed, self.dimension = seed, len(spectrum)
        self.mean = spectrum["mean"].to_numpy(np.float32)
        self.within = np.sqrt((spectrum["variance"] - spectrum["between"]).clip(0)).to_numpy(np.float32)
        centers = np.random.default_rng([seed, 0]).standard_normal((CLASSES, self.dimension), np.float32)
        self.centers = self.mean + centers * np.sqrt(spectrum["between"].to_numpy(np.float32))

    def block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """((BLOCK, d) float32 embeddings, (BLOCK,) classes) of the block of that number; number -1 is for queries."""
        rng = np.random.default_rng([self.seed, number + 2])
        labels = rng.integers(0, CLASSES, BLOCK)
        rows = rng.standard_normal((BLOCK, self.dimension), np.float32)
        rows *= self.within
        rows += self.centers[labels]
        return rows, labels

    def write(self, path: Path, n: int) -> None:
        """The first n embeddings as plain float32 in `path`, their classes in `path`.labels.npy."""
        labels = []
        with path.open("wb") as file:
            for number in range(-(-n // BLOCK)):
                rows, of_it = self.block(number)
                rows[:n - number * BLOCK].tofile(file)
                labels.append(of_it)
        np.save(f"{path}.labels.npy", np.concatenate(labels)[:n])
