"""Faster training of convolutions of small maps on CPUs, where oneDNN is slow; only rounding differs."""

import contextlib
import types
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


@contextlib.contextmanager
def fast_convolutions(net: nn.Module) -> Iterator[None]:
    """Let the convolutions of `net` train faster on the CPU where oneDNN is slow; only rounding differs.

    Those are what ResNet18 has on small images in its last layers: maps of one to four positions, on which most taps
    of a kernel meet nothing but padding (eight of nine on a map of one position). The forward method of each `Conv2d`
    is replaced for the time of a with block.
    """
    convs = [m for m in net.modules() if type(m) is nn.Conv2d and m.groups == 1 and m.dilation == (1, 1)
             and m.padding_mode == "zeros" and not isinstance(m.padding, str) and m.bias is None
             and m.weight.device.type == "cpu"]
    for conv in convs:
        conv.forward = types.MethodType(_conv_forward, conv)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for conv in convs:
            del conv.forward


def _conv_forward(self, x):
    size = [(size + 2 * pad - kernel) // stride + 1 for size, pad, kernel, stride in
            zip(x.shape[2:], self.padding, self.kernel_size, self.stride, strict=True)]
    if size[0] * size[1] <= 4 or self.kernel_size == (1, 1):
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            x, weight = (part.to(torch.get_autocast_dtype("cpu")) for part in (x, weight))
        with torch.autocast("cpu", enabled=False):
            return _SmallMaps.apply(x, weight, self.stride, self.padding)
    return F.conv2d(x, self.weight, None, self.stride, self.padding)


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
