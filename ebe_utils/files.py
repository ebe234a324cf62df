"""Files: tensors and text, written under a temporary name and renamed when they are whole and on the disk."""

import contextlib
import errno
import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_SUM, _KIND = "checksum", "checksum of"  # metadata keys; the second so that a damage to the first is noticed
_EVERYTHING = "tensors and other metadata, SHA-256"


class DamagedFileError(ValueError):
    """A file that cannot be read, or whose contents are not what was written."""


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, with a checksum of tensors and metadata among its metadata.

    Raises OSError where it cannot be written: the disk is full, say. A file that was there before stays as it was.
    """
    tensors = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
    metadata = {key: value for key, value in metadata.items() if key != _SUM} | {_KIND: _EVERYTHING}
    with _replacing(Path(path)) as part:
        try:
            save_file(tensors, part, metadata | {_SUM: _checksum(tensors, metadata)})
        except SafetensorError as error:  # its kind for a full disk, too
            raise OSError(f"{path} cannot be written ({error})") from None


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file.

    Raises FileNotFoundError if it is missing, `DamagedFileError` if it cannot be read or does not have the checksum
    that `write_tensors` gave it. A file without a checksum is taken as it is.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}; train the network first.") from None
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}); delete it and train again.") from None
    expected = metadata.pop(_SUM, None)
    if (expected is not None or _KIND in metadata) and expected != _checksum(tensors, metadata):
        raise DamagedFileError(f"{path} is damaged (its contents do not have the checksum written with them); "
                               "delete it and train again.")
    metadata.pop(_KIND, None)
    return tensors, metadata


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with _replacing(Path(path)) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place at the end of the with block, once it is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the list of files of a folder, is on the disk and not only in memory."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except OSError:  # Windows does not open folders
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that do not know it
            raise
    finally:
        os.close(opened)


def tidy(folder: Path) -> None:
    """Delete the temporary files in a folder that processes which have since ended left unfinished."""
    for part in folder.glob(".*.part"):
        number = part.name.split(".")[-2]
        if number.isdigit() and int(number) != os.getpid() and not psutil.pid_exists(int(number)):
            part.unlink(missing_ok=True)


def text_checksum(values: Mapping[str, Any]) -> str:
    """SHA-256 of what goes into a JSON file, its keys in order; of the values as they are read again."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256(file: Path) -> str:
    """SHA-256 of a file's contents, as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def forget_pages(rows: Any) -> None:
    """Give back the memory of a file's pages that were read, which the file keeps; rows: a memmap, or a view of one."""
    while isinstance(rows, np.ndarray):
        if isinstance(rows, np.memmap) and isinstance(rows.base, mmap.mmap):
            if rows.mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
                rows.base.madvise(mmap.MADV_DONTNEED)
            return
        rows = rows.base
