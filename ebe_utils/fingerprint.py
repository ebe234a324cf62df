"""Which network is it? A fingerprint of its weights, and a cheap watch that notices when they change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch

_SAMPLED = 16  # entries of each tensor that the watch reads


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and buffers that decide what the network says, by name; not how many batches it has seen."""
    yield from ((name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()
                if isinstance(tensor, torch.Tensor) and not name.endswith("num_batches_tracked"))


def network_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of the network's parameters and buffers with their names, shapes and types, as a hexadecimal text."""
    digest = hashlib.sha256()
    for name, tensor in _tensors(model):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        data = tensor.detach().cpu().contiguous()
        digest.update(data.reshape(-1).view(torch.uint8).numpy().data if data.numel() else b"")
    return digest.hexdigest()


class NetworkWatch:
    """Notices that a network has changed since it was fitted, without reading all of its weights each time.

    fingerprint: of the network when the watch was set.
    """

    def __init__(self, model: torch.nn.Module, fingerprint: str | None = None):
        self.fingerprint = fingerprint or network_fingerprint(model)
        self._seen = self._glance(model) if fingerprint is None else None

    def changed(self, model: torch.nn.Module) -> bool:
        """Whether the weights are others than when the watch was set."""
        glance = self._glance(model)
        if glance == self._seen:
            return False
        if network_fingerprint(model) != self.fingerprint:
            return True
        self._seen = glance  # the same weights at another place, or written again
        return False

    @staticmethod
    def _glance(model):
        """Of every tensor its place, how often it was written, and a few entries (`.data` is written uncounted)."""
        found = []
        for name, tensor in _tensors(model):
            version = 0 if tensor.is_inference() else tensor._version
            flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach()[..., :1].reshape(-1)
            some = flat[::max(1, len(flat) // _SAMPLED)][:_SAMPLED]
            found.append((name, tensor.data_ptr(), version, tuple(some.tolist())))
        return found

    def __getstate__(self):
        return {"fingerprint": self.fingerprint, "_seen": None}  # in another process the tensors lie elsewhere
