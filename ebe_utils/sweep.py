"""The layer sweep in one call: accuracy and agreement of every layer and every k (section 3.3)."""

from .data import as_image_set
from .layer_neighbors import layer_neighbors
from .nnk import with_nnk
from .search.engines import check_k
from .tables import sweep_table
from .votes import check_weights


def layer_sweep(model, train_set, test_set, layers="all", ks=range(1, 51), metric="cosine", weights="uniform",
                pooling="none", **options):
    """Accuracy and agreement of EBE for every layer and k: `sweep_table` of `layer_neighbors`, which see.

    weights: see `ebe_utils.votes`. With "nnk" the embeddings are made twice, and weights for each k of ks.
    """
    ks = list(ks)
    if not ks:
        raise ValueError("ks is empty; pass the numbers of examples to try, range(1, 51) for example.")
    for k in ks:
        check_k(k, len(as_image_set(train_set)))
    check_weights("weights", weights, metric)
    found = layer_neighbors(model, train_set, test_set, layers, max(ks), metric, pooling, **options)
    if weights == "nnk":
        again = {name: options[name] for name in ("memory_budget", "batch_size", "device") if name in options}
        found = with_nnk(found, model, train_set, test_set, ks, pooling, **again)
    return sweep_table(found, ks, weights)
