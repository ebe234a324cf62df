"""Is it the network's reason? How far the vote is from the network, and what happens to both when either changes."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torchvision.models import ResNet

from .checks import integer
from .model import device_of


def fidelity(proba: np.ndarray, network_proba: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Of the vote to the network: agreement, also where the network is right and where it is wrong, and kl.

    proba, network_proba: (n, classes); truth: (n,). kl: mean KL(votes || network's softmax) in nats, 0 for equal
    distributions. A dict; NaN where there is no image to count.
    """
    said = network_proba.argmax(1)
    same, right = proba.argmax(1) == said, said == truth
    ratio = np.log(np.where(proba > 0, proba, 1)) - np.log(np.maximum(network_proba, 1e-12))
    parts = {"agreement": same, "where right": same[right], "where wrong": same[~right]}
    return {name: float(part.mean()) if len(part) else np.nan for name, part in parts.items()} | {
        "kl": float((proba * ratio).sum(1).mean())}


def reinitialised(model: nn.Module, stages: int, seed: int = 0) -> nn.Module:
    """A copy of the network whose last `stages` children with parameters are initialised anew, from the top down.

    For the model-randomisation check (Adebayo et al. 2018): what does not change with the network does not explain it.
    Parameters that the network itself holds, and no child (a class token), are those of the first stage.

    Every parameter is drawn anew by the rule that its network or module began with: torchvision's ResNets by theirs
    (He et al. 2015, by the number of outputs), other modules by their `reset_parameters`; running statistics of batch
    norm are reset. What no rule reaches (tokens, embeddings of positions, scales, parametrised weights) is drawn from
    the normal distribution with the mean and standard deviation of its own entries. Single numbers that no rule
    reaches (a temperature) stay: there is nothing that their distribution could be estimated from.
    """
    device, net = device_of(model), copy.deepcopy(model).cpu()  # on the CPU, whose generator the seed fixes
    parts = [child for child in net.children() if next(child.parameters(), None) is not None]
    stages = integer("stages", stages, 0, len(parts), ", the children of the network that have parameters")
    chance = int(np.random.SeedSequence([seed, stages]).generate_state(1)[0])  # not the weights that seed began with
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(chance)
        whole = stages == len(parts) > 0
        drawn = [p for part in parts[len(parts) - stages:] for p in part.parameters()]
        drawn += net.parameters(recurse=False) if whole else []
        trained = [p.clone() for p in drawn]
        for part in parts[len(parts) - stages:]:
            # The parts of a module before itself: attention sets the bias of its output layer otherwise than a layer.
            for module in [*part.modules()][::-1]:
                _reset(module, isinstance(net, ResNet))
        if whole:
            _reset(net)
        for now, before in zip(drawn, trained, strict=True):
            if torch.equal(now, before) and before.numel() > 1 and (before != before.flatten()[0]).any():
                now.normal_(before.mean().item(), before.std().item())
    return net.to(device).eval()


def _reset(module: nn.Module, resnet: bool = False) -> None:
    """Initialise the parameters that a module itself owns, if it says how."""
    if resnet and isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    else:
        for name in ("reset_parameters", "_reset_parameters"):  # the second one is attention's
            if hasattr(module, name):
                getattr(module, name)()


def removal_effects(probability: Callable[[np.ndarray], float], n_train: int, groups: Mapping[str, ArrayLike]
                    ) -> dict[str, float]:
    """{name: fall of the predicted class's probability when a group of training images is taken out}.

    probability: function of the indices of the training images that remain, which retrains and returns the
    probability of the class that the full training predicts; groups: {name: indices to remove}. Compare the
    attributed examples with as many random ones (the counterfactual test of Ilyas et al. 2022).
    """
    everything = np.arange(n_train)
    full = probability(everything)
    return {name: full - probability(np.setdiff1d(everything, out)) for name, out in groups.items()}
