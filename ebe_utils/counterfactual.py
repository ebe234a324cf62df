"""A counterfactual found by moving the image: the nearest input that the network sees otherwise (Wachter et al. 2017).

No training image is asked, so nothing keeps the result among meaningful images. Its own nearest examples say whether it
is one: see notebook 10.
"""

from dataclasses import dataclass
from itertools import product

import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import functional as F

from .checks import integer, real
from .data import as_tensor, scale
from .forward import evaluating, on_device


@dataclass(frozen=True)
class Moved:
    """An image (C, H, W), from 0 to 1, moved until the network says something else.

    reached: whether it does. probability: of the class aimed at. distance: mean absolute change of a pixel. weight:
    the weight of the class against the distance at which the class was reached. steps: of gradient descent, in all.
    """

    image: torch.Tensor
    reached: bool
    probability: float
    distance: float
    weight: float
    steps: int


def moved_image(model: nn.Module, image: ArrayLike | torch.Tensor, target: int, steps: int = 60, rate: float = 0.02,
                weights: int = 10, device: str | torch.device = "auto") -> Moved:
    """The image nearest to `image` that the network takes for class `target`, by gradient descent.

    Minimised is weight * (1 - p(target))² + mean |x' - x|, Wachter's loss, with Adam at `rate`, pixels kept from 0 to
    1. The weight begins at 0.01 and is tripled until the class is reached, at most `weights` times, `steps` each; of
    the images at that weight the nearest that reaches it is returned. Where the network is so sure that the square has
    no gradient, no weight reaches the class; then all begins anew with -log p(target) in place of the square. image:
    (C, H, W), uint8 or 0 to 1. Raises ValueError for a target that is no output.
    """
    integer("steps", steps, 1)
    model, device = on_device(model, device)
    start = scale(as_tensor(image))[None].to(device)
    with evaluating(model), torch.enable_grad():
        with torch.inference_mode():
            outputs = model(start).shape[1]
        integer("target", target, 0, outputs - 1, ", an output of the network")
        real("rate", rate)
        schedule = [0.01 * 3**i for i in range(integer("weights", weights, 1))]
        done = 0
        best: tuple[float, torch.Tensor, float] | None = None
        for far, weight in product((lambda log_p: (1 - log_p.exp()) ** 2, torch.neg), schedule):
            if weight == schedule[0]:
                x = start.clone().requires_grad_(True)
                optimizer = torch.optim.Adam([x], rate)
            for _ in range(steps):
                log_p = F.log_softmax(model(x), 1)[0]
                distance = (x - start).abs().mean()
                if int(log_p.argmax()) == target and (best is None or distance.item() < best[0]):
                    best = distance.item(), x.detach().clone(), log_p[target].exp().item()
                loss = weight * far(log_p[target]) + distance
                optimizer.zero_grad()
                loss.backward(inputs=[x])
                optimizer.step()
                with torch.no_grad():
                    x.clamp_(0, 1)
                done += 1
            if best is not None:
                break
        if best is None:
            with torch.inference_mode():
                p = F.softmax(model(x), 1)[0]
            return Moved(x.detach()[0].cpu(), False, p[target].item(), (x - start).abs().mean().item(), weight, done)
    return Moved(best[1][0].cpu(), True, best[2], best[0], weight, done)
