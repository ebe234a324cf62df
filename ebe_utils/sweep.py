"""The layer sweep in one call: accuracy and agreement of every layer and every k (section 3.3)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from .checks import integer, one_of
from .data import as_image_set
from .embeddings import Layers
from .layer_neighbors import layer_neighbors
from .network_examples import CHOICES, TARGETS
from .network_sweep import for_network, with_features
from .nnk import with_nnk
from .search.engines import check_k
from .streams import embedding_neighbors, input_neighbors, is_stream
from .tables import sweep_table
from .votes import Weights, check_weights


def layer_sweep(model: nn.Module | None, train_set: Any, test_set: Any, layers: Layers = "all",
                ks: int | Iterable[int] = range(1, 51), metric: str = "cosine", weights: Weights = "uniform",
                pooling: str = "none", target: str = "labels", candidates: int = 200, choice: str = "influence",
                **options: Any) -> pd.DataFrame:
    """Accuracy and agreement of EBE for every layer and k: a `sweep_table`.

    train_set, test_set: images with labels, see `layer_neighbors`; inputs of any other kind (`ebe_utils.inputs`): torch
    data sets, loaders, dicts, streams, whose embeddings of all layers are held at once (`ebe_utils.streams`); or, where
    model is None, ({layer: embeddings (n, d)}, labels). ks: numbers of examples; a single one may be given as it is.
    weights: see `ebe_utils.votes`; with "nnk" the embeddings of images are made twice, and weights for each k of ks.
    target, candidates, choice: "labels", the nearest examples; or "network", of the candidates nearest those that
    explain the network's own answer, see `network_sweep.for_network`. options: of `layer_neighbors`, or of
    `streams.input_neighbors`.
    """
    if isinstance(ks, int | np.integer):
        ks = [ks]
    if isinstance(ks, str) or not isinstance(ks, Iterable):
        raise TypeError(f"ks={ks!r} is a {type(ks).__name__}; pass the numbers of examples to try, range(1, 51) for "
                        "example.")
    ks = list(ks)
    if not ks:
        raise ValueError("ks is empty; pass the numbers of examples to try, range(1, 51) for example.")
    check_weights("weights", weights, metric)
    own = one_of("target", target, TARGETS) == "network" and bool(one_of("choice", choice, CHOICES))
    reach = max(candidates, *ks) if own else max(ks)  # how many neighbours are searched
    if model is None or is_stream(train_set) or is_stream(test_set):
        for k in ks:
            integer("k", k, 1)
        if own and (model is None or weights == "nnk" or choice == "influence"):
            raise ValueError("of data sets, loaders and streams, target='network' chooses by what the network says of "
                             "each example; pass a network, choice='answers' and weights other than 'nnk'. An "
                             "EBEClassifier takes the other settings for them, too.")
        nnk = ks if weights == "nnk" else ()
        if model is None:
            (train, train_labels), (test, test_labels) = train_set, test_set
            found = embedding_neighbors(train, train_labels, test, test_labels, max(ks), metric, nnk=nnk, **options)
        else:
            found = input_neighbors(model, train_set, test_set, layers, reach, metric, pooling, nnk=nnk, **options)
            found = for_network(found, reach, max(ks), choice) if own else found
        return sweep_table(found, ks, weights)
    train_set, test_set = as_image_set(train_set), as_image_set(test_set)
    for k in ks:
        check_k(k, len(train_set))
    check_k(reach, len(train_set))
    found = layer_neighbors(model, train_set, test_set, layers, reach, metric, pooling, **options)
    again = {name: options[name] for name in ("memory_budget", "batch_size", "device") if name in options}
    if own:
        if choice == "influence":
            passes = {name: given for name, given in again.items() if name != "memory_budget"}
            found = with_features(found, model, train_set, test_set, **passes)
        found = for_network(found, reach, max(ks), choice)
    if weights == "nnk":
        found = with_nnk(found, model, train_set, test_set, ks, pooling, **again)
    return sweep_table(found, ks, weights)
