"""Choosing layer, k, metric and votes from the training images alone, and other metrics to choose from.

The paper leaves the choice of the layer, metrics and weighted votes to future work (section 4). `select` looks at
candidates on training images that it holds out; no function here takes a test set.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import psutil

from .checks import integer, one_of, real
from .data import as_image_set
from .embeddings import embed
from .explainer import EBEClassifier
from .label_errors import leave_one_out
from .layer_neighbors import LayerNeighbors, layer_neighbors
from .layers import layer_names
from .metrics import log_loss
from .search.engines import check_k
from .search.rows import METRICS
from .tables import KS
from .votes import NNK, check_weights, is_nnk, nnk_weights, softmax_weights, vote_shares, vote_weights

CRITERIA = ("accuracy", "log_loss", "agreement")
RULES = ("best", "one-error")
ESTIMATES = ("held-out", "leave-one-out")
WEIGHTINGS = {"uniform": "uniform", "distance": "distance", "softmax": softmax_weights(), NNK: NNK}


@dataclass(frozen=True)
class Selection:
    """What `select` chose: layer, k, metric, weights (a name), and on what evidence.

    score: on held-out training images, the accuracy, or minus the mean log loss, or the agreement with the network;
    error: standard error of that, for accuracy and agreement with two right and two wrong answers added (Agresti &
    Coull 1998), since no number of images makes a score of 1 certain. table: every candidate, one row each: layer, k,
    metric, weights, accuracy, agreement, log_loss, score, error. settings: keyword arguments for `EBEClassifier`.
    """

    layer: int | str
    k: int
    metric: str
    weights: str
    score: float
    error: float
    settings: dict = field(repr=False)
    table: pd.DataFrame = field(repr=False, compare=False)

    def classifier(self, model, train_set, **options):
        """An `EBEClassifier` with these settings, fitted to all of `train_set`. options: batch_size, device."""
        return EBEClassifier(model, **self.settings, **options).fit(train_set)


def holdout_split(train_set, share=0.2, seed=0):
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


def training_neighbors(model, train_set, layers="all", k=50, metric="cosine", pooling="none", estimate="held-out",
                       share=0.2, seed=0, **options):
    """The k nearest training images of training images, at every layer: a `LayerNeighbors`, from one sweep.

    estimate: "held-out", those of `split` among the images kept; or "leave-one-out", the same images (all for share 1)
    among all the others. options: of `layer_neighbors`. Raises ValueError for bad parameters, before any work.
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
    return LayerNeighbors(found.names, {at: pair[0] for at, pair in others.items()},
                          {at: pair[1] for at, pair in others.items()}, found.train_labels, found.test_labels,
                          found.network, found.dimensions, metric, found.notes)


def _parts(train_set, estimate, share, seed):
    """(images that are searched, positions of those that are explained) of an estimate."""
    if one_of("estimate", estimate, ESTIMATES) == "held-out":
        kept, held = holdout_split(train_set, share, seed)
        return train_set.subset(kept), held
    every = _share(share, "at most 1") == 1
    return train_set, np.arange(len(train_set)) if every else holdout_split(train_set, share, seed)[1]


def select(model, train_set, layers="all", ks=KS, metrics=("cosine", "euclidean"), weights=WEIGHTINGS, pooling="none",
           criterion="accuracy", rule="best", estimate="held-out", share=0.2, seed=0, **options):
    """Choose layer, k, metric and weights on held-out training images: a `Selection`. One sweep for each metric.

    weights: {name: what `EBEClassifier` takes}; "nnk" goes with cosine distance and the largest k only. criterion:
    "accuracy"; "log_loss" (`evaluation.log_loss`), which sees how sure a vote is and so tells candidates apart that are
    right equally often, but prefers cautious votes; or "agreement" with the network. rule: "best" score, or
    "one-error", the fewest examples within one standard error of it (Breiman et al. 1984); of equals the one with fewer
    examples, then the one listed first. estimate, share, seed: see `training_neighbors`.

    The network has seen the held-out images if it was trained on `train_set`, and places them better than new ones: all
    scores are optimistic, and where they reach 1 they no longer tell candidates apart (notebook 09). To choose without
    that, pass a network that was trained without them, on `train_set.subset(split(train_set, share, seed)[0])`, and
    the same train_set, share and seed. Raises ValueError for bad parameters, before any work.
    """
    one_of("criterion", criterion, CRITERIA)
    one_of("rule", rule, RULES)
    train_set, metrics = as_image_set(train_set), [one_of("metrics", metric, METRICS) for metric in metrics]
    ks = [check_k(k, len(train_set) - 1) for k in ks]
    for name, given in (("ks", ks), ("metrics", metrics), ("weights", weights)):
        if not given:
            raise ValueError(f"{name} is empty; pass at least one to choose from.")
    for name, how in weights.items():
        check_weights(f"weights[{name!r}]", how, "cosine")
    if "cosine" not in metrics and all(map(is_nnk, weights.values())):
        raise ValueError("there is nothing to choose from: weights 'nnk' go with cosine distance only; add 'cosine' to "
                         "metrics, or other weights.")
    names, rows = list(layer_names(model, layers)), []
    searched, held = _parts(train_set, estimate, share, seed)
    again = {name: options[name] for name in ("memory_budget", "batch_size", "device") if name in options}
    for metric in metrics:
        found = training_neighbors(model, train_set, names, max(ks), metric, pooling, estimate, share, seed, **options)
        voting = candidates(found, model, searched, train_set.subset(held), ks, weights, pooling, **again)
        rows += [row | _score(votes, row["k"], found, criterion) for row, votes in voting]
    table = pd.DataFrame(rows)
    layer, k, metric, name, score, error = choose(table, rule)[["layer", "k", "metric", "weights", "score", "error"]]
    layer = layer if isinstance(layer, str) else int(layer)
    settings = {"layer": layer, "k": int(k), "metric": metric, "weights": weights[name], "pooling": pooling}
    return Selection(layer, int(k), metric, name, float(score), float(error), settings, table)


def candidates(neighbors, model, train_set, test_set, ks, weights=WEIGHTINGS, pooling="none", memory_budget=None,
               **options):
    """Yield ({"layer", "k", "metric", "weights"}, votes (n_test, classes)) for each candidate of `select`.

    neighbors: the `LayerNeighbors` of test_set among train_set, with the largest k at least. NNK takes what it needs
    of the largest k, so it is one candidate for each layer, and there for cosine distance alone. It needs the
    embeddings again: they are made for as many layers at a time as fit into memory_budget (GiB that the process may
    take in all; default: what it has and half of what is free). options: of `embed`.
    """
    have = psutil.Process().memory_info().rss
    room = psutil.virtual_memory().available / 2 if memory_budget is None else memory_budget * 2**30 - have
    angles = neighbors.metric == "cosine" and any(is_nnk(how) for how in weights.values())
    rows, layers = len(train_set) + len(test_set), list(neighbors.names)
    for group in _in_groups(neighbors.dimensions, 4 * rows, room) if angles else [layers]:
        train, test = ({} if not angles else embed(model, part.images, group, pooling, **options)
                       for part in (train_set, test_set))
        for layer, k, (name, how) in itertools.product(group, ks, weights.items()):
            if is_nnk(how) and not (angles and k == max(ks)):
                continue
            near, distances = neighbors.indices[layer][:, :k], neighbors.distances[layer][:, :k]
            share = nnk_weights(train[layer], test[layer], near) if is_nnk(how) else vote_weights(distances, how)
            yield ({"layer": layer, "k": k, "metric": neighbors.metric, "weights": name},
                   vote_shares(near, neighbors.train_labels, share, len(train_set.classes)))
        del train, test  # before the next group takes their place


def _in_groups(dimensions, size, room):
    """Layers in order, in lists that fit into `room`, or of one layer; size: what a layer takes for one dimension."""
    groups, used = [], np.inf
    for layer, dimension in dimensions.items():
        used += size * dimension
        if used > room:
            groups.append([])
            used = size * dimension
        groups[-1].append(layer)
    return groups


def _score(votes, k, neighbors, criterion):
    """accuracy, agreement, log_loss, score and error of a candidate, see `Selection`."""
    n, losses = len(votes), log_loss(votes, k, neighbors.test_labels)
    found = {"accuracy": (votes.argmax(1) == neighbors.test_labels).mean(),
             "agreement": (votes.argmax(1) == neighbors.network).mean(), "log_loss": losses.mean()}
    if criterion == "log_loss":
        return found | {"score": -losses.mean(), "error": losses.std() / np.sqrt(n)}
    right = (n * found[criterion] + 2) / (n + 4)
    return found | {"score": found[criterion], "error": np.sqrt(right * (1 - right) / (n + 4))}


def choose(table, rule="best"):
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
