"""The networks that the judges look at, and all methods that explain them, as quanda calls them."""

import argparse
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.models import ResNet

from ..data import ImageSet, scale
from ..embeddings import embed
from ..layers import conv_layers, layer_name
from ..model import resnet18_for
from ..quanda_adapter import EBEExplainer
from ..training import train

K = 10
TRAK_OPTIONS = {"proj_dim": 512, "batch_size": 250, "lambda_reg": 1e-3}

Named = dict[str, tuple[type, dict[str, Any]]]


def middle_layer(model: nn.Module) -> int:
    """Layer 14 of a ResNet18, the last convolution of the small network."""
    return 14 if isinstance(model, ResNet) else max(conv_layers(model))


def ebe_settings(model: nn.Module) -> dict[str, dict[str, Any]]:
    """{method: settings of `EBEClassifier`} of EBE: for the labels, and for the network's answer by either choice."""
    layer = middle_layer(model)
    answer = {f"EBE, layer {layer}, {choice}": {"layer": layer, "target": "network", "choice": choice}
              for choice in ("influence", "answers")}
    return {f"EBE, layer {layer}": {"layer": layer}, **answer, "EBE, pooled features": {"layer": "avgpool"},
            "EBE, logits": {"layer": "fc"}}


def explainers(model: nn.Module, candidates: int, folder: Path, signed: bool = False) -> Named:
    """{method: (class, arguments)} of all that are judged.

    Both networks name their pooled features avgpool and their last layer fc. Of the small one, TRAK can hold
    the gradients of all layers. signed: EBE's attributions to a class once more, counting the votes against it.
    """
    from quanda.explainers import RandomExplainer
    from quanda.explainers.wrappers import TRAK, CaptumSimilarity, CaptumTracInCPFast, RepresenterPoints

    def cached(name):
        return {"model_id": name, "cache_dir": str(folder / name), "load_from_disk": False}

    small, layer = not isinstance(model, ResNet), middle_layer(model)
    ebe = {name: settings | {"candidates": candidates} for name, settings in ebe_settings(model).items()}
    if signed:
        ebe |= {f"{name}, signed": options | {"signed": True} for name, options in ebe.items()}
    found: Named = {name: (EBEExplainer, {"k": K} | options) for name, options in ebe.items()}
    return found | {
        f"Captum similarity, layer {layer}": (CaptumSimilarity, cached("similarity") | {
            "layers": layer_name(model, layer), "batch_size": 250}),
        "TracIn, last layer": (CaptumTracInCPFast, {"final_fc_layer": "fc", "batch_size": 250}),
        "representer points": (RepresenterPoints, cached("representer") | {
            "features_layer": "avgpool", "classifier_layer": "fc", "epoch": 100, "show_progress": False,
            "batch_size": 250, "features_postprocess": _flat}),
        "TRAK, last layer": (LastLayerTRAK, cached("trak") | TRAK_OPTIONS),
        **({"TRAK, all layers": (TRAK, cached("whole") | TRAK_OPTIONS)} if small and signed else {}),
        "random": (RandomExplainer, {"seed": 27})}


def _flat(features):
    return features.flatten(1)


class LastLayerTRAK:
    """quanda's TRAK by the gradients of the last layer alone, on features that are computed once.

    TRAK's own `grad_wrt` first makes every image's gradient of all layers: 45 MB an image in a ResNet18.
    """

    def __init__(self, model: nn.Module, train_dataset: TensorDataset, checkpoints: Any = None, **options: Any):
        from quanda.explainers.wrappers import TRAK

        self.model = model
        images, labels = train_dataset.tensors
        data = TensorDataset(torch.from_numpy(embed(model, images, "avgpool")), labels)
        self.head = TRAK(model.get_submodule("fc"), data, **options)

    def explain(self, test_data: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(n, n_train), as quanda's explainers give it."""
        return self.head.explain(torch.from_numpy(embed(self.model, test_data, "avgpool")), targets)

    def self_influence(self, batch_size: int = 32) -> torch.Tensor:
        """(n_train,), as quanda's explainers give it."""
        return self.head.self_influence(batch_size=batch_size)


class Judged:
    """A trained network, the images as quanda takes them, and the methods that explain it."""

    def __init__(self, model: nn.Module, train_set: ImageSet, options: argparse.Namespace, folder: Path,
                 signed: bool = False):
        # Captum's cosine refuses channels-last maps, and gradients need parameters that are not frozen.
        self.model = model.to(memory_format=torch.contiguous_format).requires_grad_(True).eval()
        self.images, self.labels = scale(train_set.images), torch.from_numpy(train_set.labels)
        self.data = TensorDataset(self.images, self.labels)
        self.file = folder / "network.pt"
        folder.mkdir(parents=True)
        torch.save(model.state_dict(), self.file)
        self.methods = explainers(model, options.candidates, folder, signed)
        self.folder = folder

    def made(self) -> Iterator[tuple[str, Any]]:
        """(name, explainer), one after another."""
        for name, (kind, options) in self.methods.items():
            yield name, kind(self.model, train_dataset=self.data, checkpoints=[str(self.file)], **options)


def scores_of(explainer: Any, images: torch.Tensor, targets: torch.Tensor, batch: int = 100) -> torch.Tensor:
    """(n, n_train) float32, in batches."""
    parts = [explainer.explain(images[at:at + batch], targets[at:at + batch]).detach().float()
             for at in range(0, len(images), batch)]
    return torch.cat(parts)


def trained_network(train_set: ImageSet, options: argparse.Namespace, seed: int, small: bool | None = None
                    ) -> nn.Module:
    """A ResNet18 or the small network, trained; by default the one that the options name."""
    if options.network == "small" if small is None else small:
        return train(small_network(train_set, seed), train_set, epochs=options.small_epochs, batch_size=50,
                     learning_rate=0.01, schedule="linear", seed=seed, progress=False)
    return train(resnet18_for(train_set, seed=seed), train_set, epochs=options.epochs, batch_size=100,
                 schedule="linear", seed=seed, progress=False)


def small_network(train_set: ImageSet, seed: int) -> nn.Sequential:
    """Two convolutions, pooled features, a last layer; about 10,000 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(OrderedDict(
            conv1=nn.Conv2d(train_set.images.shape[1], 16, 5, 2, 2), relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, 2, 1), relu2=nn.ReLU(), avgpool=nn.AdaptiveAvgPool2d(3), flat=nn.Flatten(),
            fc=nn.Linear(288, len(train_set.classes))))
