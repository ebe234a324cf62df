"""quanda's metrics on EBE and on other people's methods, on the same networks: `python -m ebe_utils.upkeep.judges`.

It runs in an environment of its own with quanda; `docs/guide.md` has the commands. Networks: four a seed (as it is;
classes merged into two; some labels wrong; a shortcut), and many small ones on random halves of the training images for
the linear datamodelling score. --save writes scores.csv, see `judge_tables`, and about.json.
"""

import argparse
import json
import logging
import platform
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..datasets import load_dataset
from ..files import write_text
from ..study.judge_tables import judges_table, summary
from .judge_measures import MARKED, MEASURES, WRONG
from .judged import K

PACKAGES = ("quanda", "captum", "traker", "torch", "numpy")
INSTALL = "pip install quanda==0.5.0 omegaconf 'pyarrow<22' scikit-learn numba joblib threadpoolctl"


def versions() -> dict[str, str]:
    """{package: version} of the judges; ImportError says how to install them where quanda is missing."""
    try:
        return {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as error:
        raise ImportError(f"the judges need {error.name}, which is not installed; make an environment of Python 3.11 "
                          f"or 3.12 for them: {INSTALL}") from None


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and save the scores."""
    parser = argparse.ArgumentParser(prog="python -m ebe_utils.upkeep.judges", description=str(__doc__).splitlines()[0])
    parser.add_argument("--dataset", default="fashion_mnist", help="(default: fashion_mnist)")
    parser.add_argument("--network", default="small", choices=("small", "resnet18"),
                        help="small has two convolutions (default: small; resnet18 takes ten times as long)")
    parser.add_argument("--train", type=int, default=2000, help="training images (default: 2,000)")
    parser.add_argument("--test", type=int, default=300, help="images explained (default: 300)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--epochs", type=int, default=3, help="of the ResNet18 (default: 3)")
    parser.add_argument("--candidates", type=int, default=50, help="of target='network' (default: 50)")
    parser.add_argument("--randomised", type=int, default=100, help="images for randomisation (default: 100)")
    parser.add_argument("--subsets", type=int, default=40, help="small networks of the LDS (default: 40)")
    parser.add_argument("--small", type=int, default=1000, help="training images of the LDS (default: 1,000)")
    parser.add_argument("--small-epochs", type=int, default=15, help="of the small networks (default: 15)")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES), help="(default: all)")
    parser.add_argument("--save", help="folder to write scores.csv and about.json to")
    options = parser.parse_args(argv)
    about = {**vars(options), "k": K, "wrong labels": WRONG, "marked of class 0": MARKED, "python":
             platform.python_version(), "versions": versions()}
    del about["save"]
    options.load = lambda seed: load_dataset(options.dataset, None, options.train, options.test, seed)
    values: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, on what they will change
        logging.disable(logging.INFO)
        for seed in options.seeds:
            for name in options.measures:
                start = time.perf_counter()
                for measure, method, found in MEASURES[name](options, seed, Path(folder) / f"{name}-{seed}"):
                    values[measure, method].append(found)
                print(f"seed {seed}, {name}: {time.perf_counter() - start:.0f} s", flush=True)
                if options.save:  # as it goes, so that an interruption loses little
                    done = options.seeds[:options.seeds.index(seed) + 1]
                    keep(Path(options.save), summary(values), about | {"seeds": done})
    print(judges_table(summary(values)).to_string(index=False))


def keep(folder: Path, scores: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write scores.csv and about.json; rows of other measures that are there already, with the same settings, stay."""
    folder.mkdir(parents=True, exist_ok=True)
    file, notes = folder / "scores.csv", folder / "about.json"
    if file.exists():
        before = json.loads(notes.read_text(encoding="utf-8"))
        others = [name for name in before["measures"] if name not in about["measures"]]
        if others and any(before[key] != value for key, value in about.items() if key not in ("measures", "seeds")):
            raise ValueError(f"{folder} holds measures made with other settings; pass the same, or another folder.")
        old = pd.read_csv(file)
        scores = pd.concat([old[~old["measure"].isin(scores["measure"])], scores]) if others else scores
        about = about | {"measures": [*others, *about["measures"]]}
    write_text(file, scores.to_csv(index=False, float_format="%.4f"))
    write_text(notes, json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
