"""Texts with labels: questions of TREC, or docstrings of installed packages, which need no download."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from .checks import did_you_mean, integer
from .data import DataError
from .datasets import LARGEST_SEED
from .docstrings import LIBRARIES, read_docstrings
from .paths import data_root
from .values import as_labels

TEXT_SETS = ("docstrings", "trec")
PER_LIBRARY = 1000  # docstrings of each library, a fifth of them for testing
TREC_ADDRESS = "https://cogcomp.seas.upenn.edu/Data/QA/QC/"
_TREC = {"train_5500.label": "910a3e1fe6a65b45fb3a304f0bdb29b9",  # md5
         "TREC_10.label": "323a3554401d86e650717e2d2f942589"}
TREC_CLASSES = {"ABBR": "abbreviation", "DESC": "description", "ENTY": "entity", "HUM": "human", "LOC": "location",
                "NUM": "number"}


@dataclass(frozen=True, eq=False)
class TextSet:
    """Texts with their classes, and with finer classes that no network is trained on.

    texts: n of them; labels: (n,) int64, indices into `classes`; fine: (n,) int64, indices into `fine_classes`, or
    None. Raises ValueError for lengths that do not match, labels without a class and texts that are empty.
    """

    texts: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str = "texts"
    fine: np.ndarray | None = None
    fine_classes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        texts = tuple(self.texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"text {i} is {text!r}; pass texts that are not empty.")
        object.__setattr__(self, "texts", texts)
        for which, names in (("labels", "classes"), ("fine", "fine_classes")):
            given = getattr(self, which)
            if given is None and which == "fine":
                continue
            labels = as_labels(given, len(texts))
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(getattr(self, names)):
                raise ValueError(f"{which} run from {labels.min()} to {labels.max()}, but there are "
                                 f"{len(getattr(self, names))} {names}.")
            object.__setattr__(self, which, labels)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: ArrayLike) -> "TextSet":
        """The texts at `indices`, integers, in that order."""
        rows = np.asarray(indices)
        return TextSet([self.texts[i] for i in rows.tolist()], self.labels[rows], self.classes, self.name,
                       None if self.fine is None else self.fine[rows], self.fine_classes)

    def fingerprint(self) -> str:
        """SHA-256 of texts, labels and names of classes: what a run's manifest records as its input."""
        digest = hashlib.sha256(repr((self.texts, self.classes, self.fine_classes)).encode())
        for labels in (self.labels, self.fine):
            digest.update(b"" if labels is None else labels.tobytes())
        return digest.hexdigest()


def load_texts(name: str = "docstrings", root: str | Path | None = None, n_train: int | None = None,
               n_test: int | None = None, seed: int = 0) -> tuple[TextSet, TextSet]:
    """Load texts as (train_set, test_set), two `TextSet`s.

    name: "docstrings", which library a docstring comes from, `ebe_utils.docstrings`: 1,000 of each of six libraries, a
    fifth held out, both drawn by `seed`; fine classes are its sub-packages. Or "trec", what kind of answer a question
    asks for (Li and Roth 2002): 5,452 and 500 questions, 6 classes and 50 fine ones.
    root: where TREC's files are, or are downloaded to, in the folder TREC (default `data_root()`).
    n_train, n_test: keep a random part of that size, drawn by `seed`; None keeps all.

    Raises ValueError for an unknown name, `DataError` for files that are missing or damaged.
    """
    if name not in TEXT_SETS:
        raise ValueError(f"dataset={name!r} is unknown; choose one of {', '.join(TEXT_SETS)}."
                         f"{did_you_mean(name, TEXT_SETS)}")
    integer("seed", seed, 0, LARGEST_SEED)
    train, test = _docstrings(seed) if name == "docstrings" else _trec(Path(root) if root else data_root())
    rng = np.random.default_rng(seed)
    parts = []
    for part, size, what in ((train, n_train, "n_train"), (test, n_test, "n_test")):
        if size is not None:
            integer(what, size, 1, len(part), f" (there are {len(part)} texts)")
            part = part.subset(np.sort(rng.permutation(len(part))[:size]))
        parts.append(part)
    return parts[0], parts[1]


def _docstrings(seed: int) -> tuple[TextSet, TextSet]:
    found = read_docstrings()
    of = {library: [one for one in found if one.library == library] for library in LIBRARIES}
    n = min(PER_LIBRARY, *map(len, of.values()))
    fine = tuple(sorted({one.package for one in found}))
    rng = np.random.default_rng(seed)
    parts: tuple[list, list] = ([], [])
    for library in LIBRARIES:
        chosen = [of[library][i] for i in rng.permutation(len(of[library]))[:n]]
        for part, some in zip(parts, (chosen[n // 5:], chosen[:n // 5]), strict=True):
            part.extend(some)
    sets = [TextSet([one.text for one in part], np.array([LIBRARIES.index(one.library) for one in part]), LIBRARIES,
                    "docstrings", np.array([fine.index(one.package) for one in part]), fine) for part in parts]
    return sets[0], sets[1]


def _trec(root: Path) -> tuple[TextSet, TextSet]:
    from torchvision.datasets.utils import download_url

    folder, lines = root / "TREC", []
    for file, md5 in _TREC.items():
        if not (folder / file).is_file():
            try:
                download_url(TREC_ADDRESS + file, folder, file, md5)
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"trec is not on this machine and could not be downloaded ({error}). Put {' and '.join(_TREC)} "
                    f"from {TREC_ADDRESS} into {folder} (or set EBE_DATA_DIR to the folder that has TREC). The data "
                    "set 'docstrings' needs no download.") from None
        raw = (folder / file).read_bytes()
        if (found := hashlib.md5(raw).hexdigest()) != md5:
            raise DataError(f"{folder / file} is damaged or incomplete (md5 {found}, expected {md5}). Delete it and "
                            "run again to download it anew, or put the official file there.")
        lines.append([line.split(" ", 1) for line in raw.decode("latin-1").splitlines()])
    fine = tuple(sorted({label for label, _ in lines[0]}))
    codes = [*TREC_CLASSES]
    sets = [TextSet([text for _, text in part], np.array([codes.index(label.split(":")[0]) for label, _ in part]),
                    tuple(TREC_CLASSES.values()), "trec", np.array([fine.index(label) for label, _ in part]), fine)
            for part in lines]
    return sets[0], sets[1]
