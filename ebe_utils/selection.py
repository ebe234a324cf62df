"""Choosing layer, k, metric and votes from the training images alone.

The paper leaves the choice of the layer, metrics and weighted votes to future work (section 4). `select` looks at
candidates on training images that it holds out; no function here takes a test set.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from .checks import integer, one_of, real
from .data import as_image_set
from .embeddings import Layers
from .explainer import EBEClassifier
from .label_errors import leave_one_out
from .layer_neighbors import LayerNeighbors, layer_neighbors
from .layers import layer_names
from .metrics import log_loss
from .network_examples import CHOICES, TARGETS
from .network_sweep import for_network, with_features
from .nnk import with_nnk
from .search.engines import check_k
from .search.rows import METRICS
from .statistics import proportion_error
from .tables import KS
from .votes import WEIGHTS, Weights, named_weights, vote_shares

CRITERIA = ("accuracy", "log_loss", "agreement")
RULES = ("best", "one-error")
ESTIMATES = ("held-out", "leave-one-out")


@dataclass(frozen=True)
class Selection:
    """What `select` chose: layer, k, metric, weights (a name), and on what evidence.

    score: on held-out training images, the accuracy, or minus the mean log loss, or the agreement with the network;
    error: standard error of that, for accuracy and agreement `proportion_error`, which is not 0 for a score of 1.
    settings: keyword arguments for `EBEClassifier`. table: every candidate, one row each: layer, k, metric, weights,
    accuracy, agreement, log_loss, score, error. Two selections are equal if all but their tables are.
    """

    layer: int | str
    k: int
    metric: str
    weights: str
    score: float
    error: float
    settings: dict[str, Any] = field(repr=False, hash=False)
    table: pd.DataFrame = field(repr=False, compare=False)

    def classifier(self, model: nn.Module, train_set: Any, **options: Any) -> EBEClassifier:
        """An `EBEClassifier` with these settings, fitted to all of `train_set`. options: batch_size, device."""
        return EBEClassifier(model, **self.settings, **options).fit(train_set)


def holdout_split(train_set: Any, share: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(positions kept, positions held out) in `train_set`, each sorted; every class is divided alike.

    share: of the images that are held out, above 0 and below 1. The same for the same labels, share and seed.
    """
    labels = as_image_set(train_set).labels
    held = round(_share(share, "below 1") * len(labels))
    if not 0 < held < len(labels):
        raise ValueError(f"share={share} holds out {held} of {len(labels)} images; choose another share, or pass "
                         "more images.")
    order = np.lexsort((np.random.default_rng(integer("seed", seed, 0)).random(len(labels)), labels))  # by class
    held = np.sort(order[((np.arange(held) + 0.5) * len(labels) / held).astype(int)])  # evenly spread over the classes
    return np.setdiff1d(np.arange(len(labels)), held), held


def training_neighbors(model: nn.Module, train_set: Any, layers: Layers = "all", k: int = 50, metric: str = "cosine",
                       pooling: str = "none", estimate: str = "held-out", share: float = 0.2, seed: int = 0,
                       **options: Any) -> LayerNeighbors:
    """The k nearest training images of training images, at every layer: a `LayerNeighbors`, from one sweep.

    estimate: "held-out", those of `holdout_split` among the images kept; or "leave-one-out", the same images (all for
    share 1) among all the others. options: of `layer_neighbors`. Raises ValueError for bad parameters, before any work.
    """
    train_set = as_image_set(train_set)
    options = {"pixels": False, "progress": False} | options
    searched, held = _parts(train_set, estimate, share, seed)
    asked = train_set.subset(held)
    if estimate == "held-out":
        return layer_neighbors(model, searched, asked, layers, k, metric, pooling, **options)
    check_k(k, len(train_set) - 1)
    found = layer_neighbors(model, searched, asked, layers, k + 1, metric, pooling, **options)
    others = {}
    for layer, indices in found.indices.items():
        others[layer] = [leave_one_out(indices, held, rows) for rows in (indices, found.distances[layer])]
    return replace(found, indices={at: pair[0] for at, pair in others.items()},
                   distances={at: pair[1] for at, pair in others.items()})


def _parts(train_set, estimate, share, seed):
    """(images that are searched, positions of those that are explained) of an estimate."""
    if one_of("estimate", estimate, ESTIMATES) == "held-out":
        kept, held = holdout_split(train_set, share, seed)
        return train_set.subset(kept), held
    every = _share(share, "at most 1") == 1
    return train_set, np.arange(len(train_set)) if every else holdout_split(train_set, share, seed)[1]


def select(model: nn.Module, train_set: Any, layers: Layers = "all", ks: Iterable[int] = KS,
           metrics: str | Iterable[str] = ("cosine", "euclidean"),
           weights: str | Iterable[str] | dict[str, Weights] = WEIGHTS, pooling: str = "none",
           criterion: str = "accuracy", rule: str = "best", estimate: str = "held-out", share: float = 0.2,
           seed: int = 0, target: str = "labels", candidates: int = 200, choice: str = "influence",
           **options: Any) -> Selection:
    """Choose layer, k, metric and weights on held-out training images: a `Selection`. One sweep for each metric.

    ks, metrics: lists of what to choose from. weights: names, or {name: weights}, see `ebe_utils.votes`; "nnk" goes
    with cosine distance and the largest k only. criterion: "accuracy"; "log_loss" (`metrics.log_loss`), which depends
    on how sure a vote is and so differs between candidates that are right equally often, but prefers cautious votes; or
    "agreement" with the network, by which to choose an explanation (accuracy chooses a predictor). rule: "best" score,
    or "one-error", the fewest examples within one standard error of it (Breiman et al. 1984); of equals the one with
    fewer examples, then the one listed first. estimate, share, seed: see `training_neighbors`. target,
    candidates, choice: see `EBEClassifier`. options: of `layer_neighbors`.

    The network has seen the held-out images if it was trained on `train_set`, and places them better than new ones: all
    scores are optimistic, and where they reach 1 they no longer distinguish candidates (notebook 09). To choose without
    that, pass a network that was trained without them, on `train_set.subset(holdout_split(train_set, share, seed)[0])`,
    and the same train_set, share and seed. Raises ValueError or TypeError for bad parameters, before any work.
    """
    one_of("criterion", criterion, CRITERIA)
    one_of("rule", rule, RULES)
    own = one_of("target", target, TARGETS) == "network" and bool(one_of("choice", choice, CHOICES))
    if options.get("pixels"):
        raise ValueError("pixels=True: select chooses a layer of the network, and an EBEClassifier cannot be built on "
                         "raw pixels; leave it out, and look at them with layer_neighbors or layer_sweep.")
    train_set, weights = as_image_set(train_set), named_weights(weights)
    metrics = [metrics] if isinstance(metrics, str) else _listed("metrics", metrics, "['cosine']")
    metrics = [one_of("metrics", metric, METRICS) for metric in metrics]
    ks = [check_k(k, len(train_set) - 1) for k in _listed("ks", ks, "[1, 5, 10]")]
    if "cosine" not in metrics and all(how == "nnk" for how in weights.values()):
        raise ValueError("there is nothing to choose from: weights 'nnk' go with cosine distance only; add 'cosine' to "
                         "metrics, or other weights.")
    reach = check_k(max(candidates, *ks), len(train_set) - 1) if own else max(ks)  # how many neighbours are searched
    names, rows = list(layer_names(model, layers)), []
    searched, held = _parts(train_set, estimate, share, seed)
    again = {name: options[name] for name in ("memory_budget", "batch_size", "device") if name in options}
    for metric in metrics:
        found = training_neighbors(model, train_set, names, reach, metric, pooling, estimate, share, seed, **options)
        if own:
            if choice == "influence":
                passes = {name: given for name, given in again.items() if name != "memory_budget"}
                found = with_features(found, model, searched, train_set.subset(held), **passes)
            found = for_network(found, reach, max(ks), choice)
        voting = candidate_votes(found, model, searched, train_set.subset(held), ks, weights, pooling, **again)
        rows += [row | _score(votes, row["k"], found, criterion) for row, votes in voting]
    table = pd.DataFrame(rows)
    layer, k, metric, name, score, error = choose(table, rule)[["layer", "k", "metric", "weights", "score", "error"]]
    layer = layer if isinstance(layer, str) else int(layer)
    settings = {"layer": layer, "k": int(k), "metric": metric, "weights": weights[name], "pooling": pooling}
    settings |= {"target": target, "candidates": candidates, "choice": choice} if own else {}
    return Selection(layer, int(k), metric, name, float(score), float(error), settings, table)


def candidate_votes(neighbors: LayerNeighbors, model: nn.Module, train_set: Any, test_set: Any, ks: Iterable[int],
                    weights: str | Iterable[str] | dict[str, Weights] = WEIGHTS, pooling: str = "none", **options: Any,
                    ) -> Iterator[tuple[dict, np.ndarray]]:
    """Yield ({"layer", "k", "metric", "weights"}, votes (n_test, classes)) for each candidate of `select`.

    neighbors: the `LayerNeighbors` of test_set among train_set, with the largest k at least. NNK takes what it needs
    of the largest k, so it is one candidate for each layer, and there for cosine distance alone. It needs the
    embeddings again: options are those of `with_nnk` (memory_budget, batch_size, device).
    """
    weights, ks, classes = named_weights(weights), list(ks), len(as_image_set(train_set).classes)
    angles = neighbors.metric == "cosine" and "nnk" in weights.values()
    if angles:
        neighbors = with_nnk(neighbors, model, train_set, test_set, [max(ks)], pooling, **options)
    for layer, k, (name, how) in itertools.product(neighbors.names, ks, weights.items()):
        if how != "nnk" or angles and k == max(ks):
            yield ({"layer": layer, "k": k, "metric": neighbors.metric, "weights": name},
                   vote_shares(neighbors.indices[layer][:, :k], neighbors.train_labels,
                               neighbors.weights(layer, k, how), classes))


def _score(votes, k, neighbors, criterion):
    """accuracy, agreement, log_loss, score and error of a candidate, see `Selection`."""
    losses = log_loss(votes, k, neighbors.test_labels)
    found = {"accuracy": (votes.argmax(1) == neighbors.test_labels).mean(),
             "agreement": (votes.argmax(1) == neighbors.network).mean(), "log_loss": losses.mean()}
    if criterion == "log_loss":
        return found | {"score": -losses.mean(), "error": losses.std() / np.sqrt(len(votes))}
    return found | {"score": found[criterion], "error": float(proportion_error(found[criterion], len(votes)))}


def _listed(name, given, example):
    """A list of what is given; TypeError if it is no collection, ValueError if it is empty."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name}={given!r} is a {type(given).__name__}; pass a list, {example} for example.")
    if not (given := list(given)):
        raise ValueError(f"{name} is empty; pass at least one to choose from.")
    return given


def choose(table: pd.DataFrame, rule: str = "best") -> pd.Series:
    """The row of a `Selection`'s table that a rule chooses, "best" or "one-error", see `select`."""
    best = table.loc[table["score"].idxmax()]
    within = table["score"] >= best["score"] - (best["error"] if one_of("rule", rule, RULES) == "one-error" else 0)
    order = ["k", "score"] if rule == "one-error" else ["score", "k"]
    return table[within].sort_values(order, ascending=[by == "k" for by in order], kind="stable").iloc[0]


def _share(share, bound):
    real("share", share)
    if share > 1 or (share == 1 and bound == "below 1"):
        raise ValueError(f"share={share} is out of range; pass the share of the images to hold out, above 0 and "
                         f"{bound}.")
    return share
