"""Step 2, continued: training the network as in section 3.1 of the paper (batch 128, rate 0.001, 60 epochs)."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .checks import boolean, integer, one_of, real
from .data import ImageSet, as_image_set, check_sets, scale
from .devices import float64_device
from .files import DamagedFileError, read_tensors, write_tensors
from .forward import evaluating, on_device, run_network
from .model import freeze, trainable
from .progress import Progress, progress_bar
from .small_maps import fast_convolutions

# Of torch.optim; SGD has a momentum of 0.9, and AdamW takes weight decay off the weights, not into the gradient.
OPTIMIZERS = {"adam": (torch.optim.Adam, {}), "adamw": (torch.optim.AdamW, {}),
              "sgd": (torch.optim.SGD, {"momentum": 0.9}), "plain_sgd": (torch.optim.SGD, {})}
SCHEDULES = ("constant", "linear")
PRECISIONS = ("auto", "float32", "bfloat16")


def train(model: nn.Module, train_set: Any, test_set: Any = None, epochs: int = 60, batch_size: int = 128,
          learning_rate: float = 0.001, optimizer: str = "adam", schedule: str = "constant", augment: bool = False,
          seed: int = 0, device: str | torch.device = "auto", state: str | Path | None = None,
          progress: Progress = True, weight_decay: float = 0.0, precision: str = "auto") -> nn.Module:
    """Train `model` on `train_set`, freeze it and return it; `model.history` lists loss and accuracy of each epoch.

    optimizer: "adam", "adamw", "sgd" (momentum 0.9) or "plain_sgd" (without). weight_decay: of the optimizer, from 0.
    schedule: "constant" learning rate, or "linear", down to zero, which makes short trainings end well. augment: random
    shift by up to an eighth and horizontal flip.
    state: a file to save the training state to after each epoch, and to go on from where it exists: on the same
    machine an interrupted training ends with the same weights as an uninterrupted one. `seed` decides the order of
    the images, their augmentation and the network's own random numbers (dropout), epoch by epoch. precision: of the
    forward pass, "float32" or "bfloat16" (autocast; weights and the loss stay float32), which is 1.4 times as fast on a
    CPU that multiplies bfloat16 itself and slower on others; "auto" is bfloat16 on CUDA, else float32.
    progress: whether to show a bar, or a function of (epochs done, epochs in all).

    Parameters with requires_grad=False are not trained, and layers that have no others run in evaluation mode, so that
    their batch statistics stay as well; but a network that `freeze` froze, as this function does in the end, is
    trained on where it was trained before. A network with more outputs than there are classes learns not to use them.

    history: epoch, train_loss and train_accuracy (running, over the epoch), test_loss and test_accuracy (if there
    is a test_set), seconds. Raises ValueError if the state was saved with other settings or images, if everything is
    frozen, or if there are more classes than outputs.
    """
    train_set = as_image_set(train_set)
    test_set = None if test_set is None else as_image_set(test_set)
    settings = {
        "epochs": integer("epochs", epochs, 1), "batch_size": integer("batch_size", batch_size, 2),
        "learning_rate": real("learning_rate", learning_rate),
        "optimizer": one_of("optimizer", optimizer, tuple(OPTIMIZERS)),
        "schedule": one_of("schedule", schedule, SCHEDULES),
        "augment": boolean("augment", augment), "seed": integer("seed", seed, 0),
        "training images": train_set.fingerprint()[:12]}
    if weight_decay != 0:  # a state without it was saved when there was none
        settings["weight_decay"] = real("weight_decay", weight_decay)
    if len(train_set) < 2:
        raise ValueError("training needs at least two images, for batch normalisation.")
    if augment and len(train_set.shape) != 3:
        raise ValueError(f"augment=True shifts and flips images (channels, height, width); these inputs have shape "
                         f"{train_set.shape}. Pass augment=False.")
    if test_set is not None:
        check_sets(train_set, test_set)
    net, device = on_device(model, device)
    names = set(trainable(net))
    params = {name: param for name, param in net.named_parameters() if name in names}
    for name, param in net.named_parameters():
        param.requires_grad_(name in names)
    if frozen := sorted(name for name, _ in net.named_parameters() if name not in names):
        settings["frozen"] = frozen
    settings["device"] = device.type
    one_of("precision", precision, PRECISIONS)
    auto = "bfloat16" if device.type == "cuda" else "float32"
    half = (auto if precision == "auto" else precision) == "bfloat16"
    if precision not in ("auto", auto):
        settings["precision"] = precision
    kind, options = OPTIMIZERS[optimizer]
    optim = kind(params.values(), lr=learning_rate, weight_decay=weight_decay, fused=True, **options)
    history = _restore(state, net, params, optim, settings) if state is not None and Path(state).exists() else []

    images, labels = train_set.images.to(device), torch.from_numpy(train_set.labels).to(device)
    bar = progress_bar(progress, epochs, len(history), desc="training", unit="epoch")
    for epoch in range(len(history) + 1, epochs + 1):
        start = time.perf_counter()
        done = ((epoch - 1) / epochs, epoch / epochs) if schedule == "linear" else (0.0, 0.0)
        rates = [learning_rate * (1 - share) for share in done]  # at the beginning and at the end of the epoch
        row = {"epoch": epoch, **_epoch(net, optim, images, labels, batch_size, rates, augment, seed, epoch, half)}
        if test_set is not None:
            row |= evaluate(net, test_set, device=device)
        row["seconds"] = round(time.perf_counter() - start, 2)
        if not np.isfinite(row["train_loss"]):
            raise FloatingPointError(f"the training loss became {row['train_loss']} in epoch {epoch}; "
                                     f"lower the learning rate (it is {learning_rate}).")
        history.append(row)
        if state is not None:
            _save(state, net, params, optim, history, settings)
        bar.set_postfix({k: f"{v:.3f}" for k, v in row.items() if k.endswith("accuracy")}, refresh=False)
        bar.update()
    bar.close()
    if net is not model:
        model.load_state_dict(net.state_dict())
    model.history = history  # type: ignore[assignment]
    return freeze(model)


def evaluate(model: nn.Module, data: Any, batch_size: int = 256, device: str | torch.device = "auto",
             ) -> dict[str, float]:
    """{"test_loss", "test_accuracy"}: mean cross-entropy (nats) and share of right predictions on `data`.

    Raises ValueError if a label is beyond the network's outputs.
    """
    integer("batch_size", batch_size, 1)
    model, device = on_device(model, device)
    part: ImageSet = as_image_set(data)
    loss = right = 0.0
    with evaluating(model), torch.inference_mode():
        for images, labels in zip(part.images.split(batch_size), torch.from_numpy(part.labels).split(batch_size),
                                  strict=True):
            logits, labels = run_network(model, scale(images.to(device)), device).float(), labels.to(device)
            _check_outputs(logits, int(part.labels.max()))
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += (logits.argmax(1) == labels).sum().item()
    return {"test_loss": loss / len(part), "test_accuracy": right / len(part)}


def _check_outputs(logits, label):
    if label >= logits.shape[1]:
        raise ValueError(f"labels run up to {label}, but the network has {logits.shape[1]} outputs, for the classes 0 "
                         f"to {logits.shape[1] - 1}; pass a network with one output for each class.")


def _epoch(net, optim, images, labels, batch_size, rates, augment, seed, epoch, half):
    chance = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    generator = torch.Generator().manual_seed(chance)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    if len(order) % batch_size == 1:  # batch normalisation cannot train on a batch of one
        order = order[:-1]
    total = torch.zeros(2, dtype=torch.float64, device=float64_device(images.device))
    most = int(labels.max())
    first, last = rates
    net.train()
    for module in net.modules():  # what was frozen on purpose keeps its batch statistics, too
        own = list(module.parameters(recurse=False))
        if own and not any(param.requires_grad for param in own):
            module.eval()
    with torch.random.fork_rng([images.device] if images.is_cuda else []), fast_convolutions(net):
        torch.default_generator.manual_seed(chance)
        if images.is_cuda:
            torch.cuda.manual_seed(chance)
        batches = order.split(batch_size)
        for index, rate in zip(batches, np.linspace(first, last, len(batches), endpoint=False).tolist(), strict=True):
            for group in optim.param_groups:
                group["lr"] = rate
            batch, target = scale(images[index]), labels[index]
            if augment:
                batch = _augment(batch, generator)
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=half):
                logits = run_network(net, batch, batch.device)
            _check_outputs(logits, most)
            loss = F.cross_entropy(logits.float(), target)
            optim.zero_grad(set_to_none=True)
            loss.backward()
            optim.step()
            with torch.no_grad():
                total[0] += (loss * len(index)).to(total.device)
                total[1] += (logits.argmax(1) == target).sum().to(total.device)
    loss, right = (total / len(order)).tolist()
    return {"train_loss": loss, "train_accuracy": right}


def _augment(batch, generator):
    """Each image shifted by up to an eighth of its side (zeros come in) and flipped with probability a half."""
    n, _, height, width = batch.shape
    pad = max(1, height // 8)
    padded = F.pad(batch, (pad, pad, pad, pad))
    shifts = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator).to(batch.device)
    flip = (torch.rand(n, 1, generator=generator) < 0.5).to(batch.device)
    rows = shifts[0] + torch.arange(height, device=batch.device)
    columns = torch.arange(width, device=batch.device).expand(n, -1)
    columns = shifts[1] + torch.where(flip, columns.flip(1), columns)
    at = torch.arange(n, device=batch.device)[:, None, None]
    return padded[at, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _save(path, net, params, optim, history, settings):
    tensors = {f"model.{k}": v for k, v in net.state_dict().items()}
    for name, param in params.items():
        for key, value in optim.state[param].items():
            tensors[f"optimizer.{name}.{key}"] = value
    write_tensors(path, tensors, {"history": json.dumps(history), "settings": json.dumps(settings)})


def _restore(path, net, params, optim, settings):
    try:
        tensors, metadata = read_tensors(path)
    except DamagedFileError:
        print(f"the training state {path} is damaged: the training starts over", flush=True)
        return []
    saved = {"device": settings["device"], **json.loads(metadata.get("settings", "{}"))}  # once not recorded
    history = json.loads(metadata.get("history", "[]"))
    # More epochs may be added to a training with a constant learning rate.
    free = {"epochs"} if settings["schedule"] == "constant" else set()
    differ = [f"{k} {saved.get(k)} then, {settings.get(k)} now" for k in settings | saved
              if k not in free and saved.get(k) != settings.get(k)]
    if differ or len(history) > settings["epochs"]:
        raise ValueError(f"{path} holds a training with other settings "
                         f"({'; '.join(differ) or f'{len(history)} epochs are done'}); "
                         "train with those, or delete the file to start again.")
    try:
        net.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise ValueError(f"{path} is of another network ({str(error).splitlines()[-1].strip()}); "
                         "delete it to start again.") from None
    for name, param in params.items():
        prefix = f"optimizer.{name}."
        for key in [k for k in tensors if k.startswith(prefix)]:
            value = tensors[key].to(param.device)
            if value.shape == param.shape:  # in the parameter's memory layout, so that nothing rounds differently
                value = torch.empty_like(param, requires_grad=False).copy_(value)
            optim.state[param][key[len(prefix):]] = value
    return history
