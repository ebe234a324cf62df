"""Concepts that a program draws, and whether a class of a network depends on them: TCAV (Kim et al. 2018), by Captum.

A concept is a set of images that have it. At a layer, a linear classifier separates them from random images; its normal
is the concept's direction, and the TCAV score of a class is the share of its images whose output rises along it. Any
set has some score: only a difference from the scores of random sets means something, over several of them.
"""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import ttest_ind_from_stats
from torch import nn
from torch.utils.data import DataLoader

from .checks import integer, one_of
from .layers import layer_name

CONCEPTS = ("stripes", "bright", "round")


def concept_images(name: str, n: int, shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """n images (n, C, H, W), from 0 to 1, that have a concept and little else, drawn by `seed`.

    name: "stripes" (parallel, of any direction and width), "bright" (an even bright tone, with weak noise) or "round"
    (a ring of any size and place). shape: (C, H, W).
    """
    one_of("name", name, CONCEPTS)
    rng, (c, h, w) = np.random.default_rng([seed, CONCEPTS.index(name)]), shape
    y, x = np.mgrid[:h, :w] / max(h, w) - 0.5
    images = np.empty((integer("n", n, 1), c, h, w), np.float32)
    for image in images:
        if name == "stripes":
            angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(2, 5), rng.uniform(0, 2 * np.pi)
            tone = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase) > 0
        elif name == "bright":
            tone = np.full((h, w), rng.uniform(0.7, 0.95))
        else:
            (a, b), radius, thick = rng.uniform(-0.12, 0.12, 2), rng.uniform(0.18, 0.36), rng.uniform(0.03, 0.08)
            tone = np.abs(np.hypot(x - a, y - b) - radius) < thick
        image[:] = np.clip(tone + rng.normal(0, 0.05, (c, h, w)), 0, 1)
    return torch.from_numpy(images)


def tcav_scores(model: nn.Module, layer: int | str, images: torch.Tensor, target: int,
                concepts: Mapping[str, torch.Tensor], randoms: Sequence[torch.Tensor]) -> pd.DataFrame:
    """TCAV scores of a class, one row for each concept and random set: columns concept, against, score.

    images: (n, C, H, W) of the class `target`. Each concept is set against every set of `randoms`, and so is each of
    these against the next ("random"), which is the control. Raises ImportError without Captum, ValueError for fewer
    than three random sets.
    """
    if len(randoms) < 3:
        raise ValueError(f"there are {len(randoms)} random sets; a test over them needs at least three.")
    Concept, TCAV, classifier = _captum()
    name, numbers = layer_name(model, layer), {}
    made: list[Any] = []
    for number, (what, part) in enumerate([*concepts.items(), *((f"random {i}", part) for i, part in
                                                                enumerate(randoms))]):
        numbers[number] = what
        items: Any = part  # a tensor is a data set of its rows
        made.append(Concept(number, what, DataLoader(items, batch_size=len(part))))
    known, chance = made[:len(concepts)], made[len(concepts):]
    sets = [[one, other] for one in known for other in chance]
    sets += [[one, chance[(i + 1) % len(chance)]] for i, one in enumerate(chance)]
    with tempfile.TemporaryDirectory() as folder:
        found = TCAV(model, name, classifier=classifier, save_path=folder).interpret(images, sets, target)
    rows = []
    for pair, at in found.items():
        one, other = (numbers[int(part)] for part in pair.split("-"))
        rows.append({"concept": "random" if one.startswith("random") and one not in concepts else one, "against": other,
                     "score": float(at[name]["sign_count"][0])})
    return pd.DataFrame(rows)


def tcav_test(scores: pd.DataFrame) -> pd.DataFrame:
    """Whether a concept's scores differ from those of random sets: columns concept, score, sd, random, p, significant.

    Welch's t test, two-sided, at 5 % divided by the number of concepts (Bonferroni).
    """
    chance = scores.loc[scores["concept"] == "random", "score"]
    names = [name for name in dict.fromkeys(scores["concept"]) if name != "random"]
    rows = []
    for name in names:
        own = scores.loc[scores["concept"] == name, "score"]
        same = own.std() == chance.std() == 0
        p = float(own.mean() == chance.mean()) if same else float(ttest_ind_from_stats(
            own.mean(), own.std(), len(own), chance.mean(), chance.std(), len(chance), equal_var=False).pvalue)
        rows.append({"concept": name, "score": own.mean(), "sd": own.std(), "random": chance.mean(), "p": p,
                     "significant": p < 0.05 / len(names)})
    return pd.DataFrame(rows)


def _captum() -> tuple[Any, Any, Any]:
    """Captum's Concept and TCAV, and a classifier of concepts: scikit-learn's logistic regression, which is unique."""
    try:
        from captum.concept import TCAV, Classifier, Concept
    except ImportError:
        raise ImportError("TCAV needs Captum, which is not installed: pip install ebe-utils[methods], or "
                          "pip install captum") from None
    from sklearn.linear_model import LogisticRegression

    class Unique(Classifier):
        def __init__(self) -> None:
            self.fitted: Any = None

        def train_and_eval(self, dataloader: DataLoader, **_: Any) -> dict:
            values, labels = (torch.cat(part).reshape(sum(map(len, part)), -1).cpu().numpy()
                              for part in zip(*dataloader, strict=True))
            self.fitted = LogisticRegression(C=0.01, max_iter=1000).fit(values, labels[:, 0])
            return {"accs": torch.tensor(self.fitted.score(values, labels[:, 0]))}

        def weights(self) -> torch.Tensor:
            row = torch.from_numpy(self.fitted.coef_[0])
            return torch.stack([-row, row])  # of the first class against the second, and the other way round

        def classes(self) -> list[int]:
            return self.fitted.classes_.tolist()

    return Concept, TCAV, Unique()
