"""Step 2, continued: training the network as in section 3.1 of the paper (batch 128, rate 0.001, 60 epochs)."""

import contextlib
import json
import time
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .checks import boolean, integer, one_of, real
from .data import as_image_set
from .model import evaluating, freeze, on_device, read_tensors, scale, write_tensors

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "linear")


def train(model, train_set, test_set=None, epochs=60, batch_size=128, learning_rate=0.001, optimizer="adam",
          schedule="constant", augment=False, seed=0, device="auto", state=None, progress=True):
    """Train `model` on `train_set`, freeze it and return it; `model.history` lists what each epoch reached.

    optimizer: "adam", or "sgd" (momentum 0.9). schedule: "constant" learning rate, or "linear", down to zero, which
    makes short trainings end well. augment: random shift by up to an eighth and horizontal flip.
    state: a file to save the training state to after each epoch, and to go on from where it exists: on the same
    machine an interrupted training ends with the same weights as an uninterrupted one. `seed` decides the order of
    the images, their augmentation and the network's own chance (dropout), epoch by epoch. On CUDA the forward pass is
    bfloat16 (autocast).

    history: epoch, train_loss and train_accuracy (running, over the epoch), test_loss and test_accuracy (if there
    is a test_set), seconds. Raises ValueError if the state was saved with other settings or images.
    """
    train_set = as_image_set(train_set)
    test_set = None if test_set is None else as_image_set(test_set)
    settings = {
        "epochs": integer("epochs", epochs, 1), "batch_size": integer("batch_size", batch_size, 2),
        "learning_rate": real("learning_rate", learning_rate), "optimizer": one_of("optimizer", optimizer, OPTIMIZERS),
        "schedule": one_of("schedule", schedule, SCHEDULES),
        "augment": boolean("augment", augment), "seed": integer("seed", seed, 0),
        "training images": train_set.fingerprint()[:12]}
    if len(train_set) < 2:
        raise ValueError("training needs at least two images, for batch normalisation.")
    net, device = on_device(model, device)
    net.requires_grad_(True)
    params = dict(net.named_parameters())
    optim = (torch.optim.Adam(params.values(), lr=learning_rate, fused=True) if optimizer == "adam"
             else torch.optim.SGD(params.values(), lr=learning_rate, momentum=0.9, fused=True))
    history = _restore(state, net, optim, settings) if state is not None and Path(state).exists() else []

    images, labels = train_set.images.to(device), torch.from_numpy(train_set.labels).to(device)
    bar = _bar(epochs, len(history), progress)
    for epoch in range(len(history) + 1, epochs + 1):
        start = time.perf_counter()
        rates = ((epoch - 1) / epochs, epoch / epochs) if schedule == "linear" else (0, 0)
        rates = [learning_rate * (1 - r) for r in rates]  # at the beginning and at the end of the epoch
        row = {"epoch": epoch, **_epoch(net, optim, images, labels, batch_size, rates, augment, seed, epoch)}
        if test_set is not None:
            row |= evaluate(net, test_set, device=device)
        row["seconds"] = round(time.perf_counter() - start, 2)
        if not np.isfinite(row["train_loss"]):
            raise FloatingPointError(f"the training loss became {row['train_loss']} in epoch {epoch}; "
                                     f"lower the learning rate (it is {learning_rate}).")
        history.append(row)
        if state is not None:
            _save(state, net, optim, history, settings)
        bar.set_postfix({k: f"{v:.3f}" for k, v in row.items() if k.endswith("accuracy")}, refresh=False)
        bar.update()
    bar.close()
    if net is not model:
        model.load_state_dict(net.state_dict())
    model.history = history
    return freeze(model)


def evaluate(model, data, batch_size=256, device="auto"):
    """{"test_loss", "test_accuracy"}: mean cross-entropy (nats) and share of right predictions on `data`."""
    model, device = on_device(model, device)
    data = as_image_set(data)
    loss = right = 0.0
    with evaluating(model), torch.inference_mode():
        for images, labels in zip(data.images.split(batch_size), torch.from_numpy(data.labels).split(batch_size),
                                  strict=True):
            logits, labels = model(scale(images.to(device))).float(), labels.to(device)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += (logits.argmax(1) == labels).sum().item()
    return {"test_loss": loss / len(data), "test_accuracy": right / len(data)}


def _bar(epochs, done, progress):
    from tqdm.auto import tqdm

    return tqdm(total=epochs, initial=done, desc="training", unit="epoch", disable=not progress)


def _epoch(net, optim, images, labels, batch_size, rates, augment, seed, epoch):
    chance = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    generator = torch.Generator().manual_seed(chance)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    if len(order) % batch_size == 1:  # batch normalisation cannot train on a batch of one
        order = order[:-1]
    total = torch.zeros(2, dtype=torch.float64, device=images.device if images.device.type != "mps" else "cpu")
    net.train()
    with torch.random.fork_rng([images.device] if images.is_cuda else []), _fast_convolutions(net):
        torch.default_generator.manual_seed(chance)
        if images.is_cuda:
            torch.cuda.manual_seed(chance)
        batches = order.split(batch_size)
        for index, rate in zip(batches, np.linspace(*rates, len(batches), endpoint=False).tolist(), strict=True):
            for group in optim.param_groups:
                group["lr"] = rate
            batch, target = scale(images[index]), labels[index]
            if augment:
                batch = _augment(batch, generator)
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.device.type == "cuda"):
                logits = net(batch)
            loss = F.cross_entropy(logits.float(), target)
            optim.zero_grad(set_to_none=True)
            loss.backward()
            optim.step()
            with torch.no_grad():
                total[0] += loss * len(index)
                total[1] += (logits.argmax(1) == target).sum()
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


# --- state -------------------------------------------------------------------------------------------------------


def _save(path, net, optim, history, settings):
    tensors = {f"model.{k}": v for k, v in net.state_dict().items()}
    for name, param in net.named_parameters():
        for key, value in optim.state[param].items():
            tensors[f"optimizer.{name}.{key}"] = value
    write_tensors(path, tensors, {"history": json.dumps(history), "settings": json.dumps(settings)})


def _restore(path, net, optim, settings):
    tensors, metadata = read_tensors(path)
    saved = json.loads(metadata.get("settings", "{}"))
    history = json.loads(metadata.get("history", "[]"))
    # More epochs may be added to a training with a constant learning rate.
    free = {"epochs"} if settings["schedule"] == "constant" else set()
    differ = [f"{k} {saved.get(k)} then, {v} now" for k, v in settings.items() if k not in free and saved.get(k) != v]
    if differ or len(history) > settings["epochs"]:
        raise ValueError(f"{path} holds a training with other settings "
                         f"({'; '.join(differ) or f'{len(history)} epochs are done'}); "
                         "train with those, or delete the file to start again.")
    try:
        net.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise ValueError(f"{path} is of another network ({str(error).splitlines()[-1].strip()}); "
                         "delete it to start again.") from None
    for name, param in net.named_parameters():
        prefix = f"optimizer.{name}."
        for key in [k for k in tensors if k.startswith(prefix)]:
            value = tensors[key].to(param.device)
            if value.shape == param.shape:  # in the parameter's memory layout, so that nothing rounds differently
                value = torch.empty_like(param, requires_grad=False).copy_(value)
            optim.state[param][key[len(prefix):]] = value
    return history


# --- faster convolutions of small maps on CPUs ------------------------------------------------------------------


@contextlib.contextmanager
def _fast_convolutions(net):
    """Let the convolutions of `net` train faster on the CPU where oneDNN is slow; only rounding differs.

    Those are what ResNet18 has on small images at its two ends: maps of one to four positions, on which most taps of
    a kernel meet nothing but padding (eight of nine on a map of one position), and weight gradients for one to three
    channels. Without this an epoch takes two to three times as long. The forward method of each `Conv2d` is replaced
    for the time of a with block.
    """
    convs = [m for m in net.modules() if type(m) is nn.Conv2d and m.groups == 1 and m.dilation == (1, 1)
             and m.padding_mode == "zeros" and not isinstance(m.padding, str) and m.bias is None
             and m.weight.device.type == "cpu"]
    for conv in convs:
        conv.forward = types.MethodType(_conv_forward, conv)
    try:
        yield
    finally:
        for conv in convs:
            del conv.forward


def _conv_forward(self, x):
    size = [(size + 2 * pad - kernel) // stride + 1 for size, pad, kernel, stride in
            zip(x.shape[2:], self.padding, self.kernel_size, self.stride, strict=True)]
    if x.shape[1] <= 3:
        return _FewChannels.apply(x, self.weight, self.stride, self.padding)
    if size[0] * size[1] <= 4 or self.kernel_size == (1, 1):
        return _SmallMaps.apply(x, self.weight, self.stride, self.padding)
    return F.conv2d(x, self.weight, None, self.stride, self.padding)


class _FewChannels(torch.autograd.Function):
    """A convolution whose weight gradient is one matrix product, of the outputs' gradients and the patches."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx, grad):
        (x, weight), (stride, padding) = ctx.saved_tensors, ctx.how
        grad_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, stride, padding) if ctx.needs_input_grad[0] else None
        out, channels, kh, kw = weight.shape
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])).permute(0, 2, 3, 1)  # (n, H, W, channels)
        patches = x.unfold(1, kh, stride[0]).unfold(2, kw, stride[1])  # (n, h, w, channels, kh, kw)
        patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, kh * kw * channels)
        grad_w = grad.transpose(0, 1).reshape(out, -1) @ patches
        return grad_x, grad_w.view(out, kh, kw, channels).permute(0, 3, 1, 2), None, None


class _SmallMaps(torch.autograd.Function):
    """A convolution as a sum of matrix products, one for each tap of the kernel that meets the map."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        maps = [_taps(*along) for along in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)]
        ctx.taps = [(np.s_[:, :, r, c], np.s_[:, rows_in, columns_in], np.s_[:, rows_out, columns_out])
                    for r, rows_in, rows_out in maps[0][1] for c, columns_in, columns_out in maps[1][1]]
        x = x.permute(0, 2, 3, 1)  # channels last: (n, H, W, channels)
        y = x.new_zeros(len(x), maps[0][0], maps[1][0], len(weight))
        for tap, inputs, outputs in ctx.taps:
            y[outputs] += x[inputs] @ weight[tap].T
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        x, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
        grad_x, grad_w = torch.zeros_like(x, memory_format=torch.contiguous_format), torch.zeros_like(weight)
        for tap, inputs, outputs in ctx.taps:
            share = grad[outputs].flatten(0, 2)
            grad_w[tap] = share.T @ x[inputs].flatten(0, 2)
            grad_x[inputs] += (share @ weight[tap]).view(grad_x[inputs].shape)
        return grad_x.permute(0, 3, 1, 2), grad_w, None, None


def _taps(size, kernel, stride, pad):
    """The output's size, and for each tap that meets the map: its number, the positions it reads, and it adds to."""
    n, found = (size + 2 * pad - kernel) // stride + 1, []
    for tap in range(kernel):
        first, last = max(0, -((tap - pad) // stride)), min(n - 1, (size - 1 + pad - tap) // stride)
        if first <= last:
            start = first * stride + tap - pad
            found.append((tap, slice(start, start + (last - first) * stride + 1, stride), slice(first, last + 1)))
    return n, found
