"""The layer sweep in one call: accuracy and agreement of every layer and every k (section 3.3)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from .data import as_image_set
from .embeddings import Layers
from .layer_neighbors import layer_neighbors
from .nnk import with_nnk
from .search.engines import check_k
from .tables import sweep_table
from .votes import Weights, check_weights


def layer_sweep(model: nn.Module, train_set: Any, test_set: Any, layers: Layers = "all",
                ks: int | Iterable[int] = range(1, 51), metric: str = "cosine", weights: Weights = "uniform",
                pooling: str = "none", **options: Any) -> pd.DataFrame:
    """Accuracy and agreement of EBE for every layer and k: `sweep_table` of `layer_neighbors`, which see.

    ks: numbers of examples; a single one may be given as it is. weights: see `ebe_utils.votes`; with "nnk" the
    embeddings are made twice, and weights for each k of ks. options: of `layer_neighbors`.
    """
    train_set, test_set = as_image_set(train_set), as_image_set(test_set)
    if isinstance(ks, int | np.integer):
        ks = [ks]
    if isinstance(ks, str) or not isinstance(ks, Iterable):
        raise TypeError(f"ks={ks!r} is a {type(ks).__name__}; pass the numbers of examples to try, range(1, 51) for "
                        "example.")
    ks = list(ks)
    if not ks:
        raise ValueError("ks is empty; pass the numbers of examples to try, range(1, 51) for example.")
    for k in ks:
        check_k(k, len(train_set))
    check_weights("weights", weights, metric)
    found = layer_neighbors(model, train_set, test_set, layers, max(ks), metric, pooling, **options)
    if weights == "nnk":
        again = {name: options[name] for name in ("memory_budget", "batch_size", "device") if name in options}
        found = with_nnk(found, model, train_set, test_set, ks, pooling, **again)
    return sweep_table(found, ks, weights)
