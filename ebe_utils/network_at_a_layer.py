"""The part of the estimator that runs the network: inputs to embeddings at one layer, in one pass.

The network computes on one device, where it is moved once, and must be the one that was fitted: what has changed since
is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .batches import Stacked
from .embeddings import embed_batches
from .fingerprint import NetworkWatch
from .forward import on_device, softmax
from .inputs import Inputs, as_inputs, as_queries
from .layers import INPUT_OF
from .network_examples import check_last_layer
from .search.rows import as_rows

FITTED = ("layer", "metric", "pooling")  # parameters that a fit uses up: changing them needs another


class NetworkAtALayer:
    """What `EBEClassifier` asks of its network; the attributes are those of the estimator."""

    model: Any
    layer_: Any
    pooling: str
    target: str
    choice: str
    batch_size: int
    device: str
    _watch: NetworkWatch
    _signature: Any
    _moved: tuple[Any, torch.device] | None = None
    _last: str | None = None  # the network's last layer, where its input is kept

    @property
    def _needs_features(self):
        return self.target == "network" and self.choice != "answers"

    def _embed(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(embeddings (n, d), logits (n, outputs), what goes into the last layer, if wanted) from one pass."""
        model, device = self._network()
        rows, said, features = Stacked(inputs.n), Stacked(inputs.n), Stacked(inputs.n)
        last = [] if self._last is None else [INPUT_OF + self._last]
        layers = [self.layer_, *(name for name in last if name != self.layer_)]
        for found, logits in embed_batches(model, inputs.batches(self.batch_size), layers, self.pooling, device):
            rows.add(found[self.layer_].cpu().numpy())
            said.add(logits.float().cpu().numpy())
            for name in last:
                check_last_layer(model.get_submodule(self._last), found[name], logits)
                features.add(found[name].cpu().numpy())
        return rows.whole(), said.whole(), features.whole() if last else None

    def _network(self) -> tuple[Any, torch.device]:
        """(the network where it computes, that device): it is moved there once, not at each call."""
        if self.model is None:
            return None, torch.device("cpu")
        if self._moved is None:
            self._moved = on_device(self.model, self.device)
        return self._moved

    def _check_unchanged(self):
        check_is_fitted(self, "_index")
        for name in FITTED:
            now, then = getattr(self, name), getattr(self, f"{name}_")
            if now != then and not (name == "layer" and (now is None or self.model is None)):
                raise ValueError(f"{name} is {now!r}, but this classifier was fitted with {name}={then!r}; call fit "
                                 f"again, or set {name} back.")
        if self.model is not None and self._watch.changed(self.model):
            raise ValueError("the network's weights have changed since the training examples were embedded; call fit "
                             "again.")

    def _query(self, data):
        """(embeddings, the network's probabilities or None, inputs, what goes into its last layer or None)."""
        self._check_unchanged()
        if self.model is None:
            data = data if isinstance(data, torch.Tensor) else np.asarray(data)
            single = data.ndim == 1
            rows = as_rows(data[None] if single else data, "the queries")
            return rows, None, as_inputs(rows), None
        inputs, _ = as_queries(data, self._signature)
        embeddings, logits, features = self._embed(inputs)
        return embeddings, softmax(logits), inputs, features

    def __getstate__(self) -> dict:
        state: dict = super().__getstate__()  # type: ignore[assignment]
        return state | {"_moved": None}  # a copy of the network, made again where it is needed
