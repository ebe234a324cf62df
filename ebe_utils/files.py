"""Files: tensors and text, written under a temporary name and renamed when they are whole."""

import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


def write_tensors(path, tensors, metadata):
    """Write a safetensors file under a temporary name and rename it when it is whole."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part, metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path):
    """(tensors, metadata) of a safetensors file; ValueError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}; train the network first.") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and train again.") from None


def write_text(path, text):
    """Write a file under a temporary name and rename it when it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sha256(file):
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
