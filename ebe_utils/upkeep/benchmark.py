"""How long the layer sweep takes beside what one would write instead: `make bench`.

Every way runs in a process of its own, which gives its peak memory, on the embeddings of the same trained network.
Those that would take hours search for a part of the queries, and their search is scaled up to all. Ratios hold between
the rows of one table, measured in one run on one machine.
"""

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..files import write_text
from ..study.cli import words
from ..study.provenance import processor, versions
from .benchmark_explanations import EXPLAINERS, explanations_table, measure
from .benchmark_tables import ROWS, layer_table, table, worse
from .benchmark_ways import WAYS, Bench, K


def run_ways(options: argparse.Namespace, ways: Iterable[str], folder: Path, more: Sequence[str] = (),
             ) -> dict[str, dict[str, Any]]:
    """Measure each way in a process of its own; {row: its results}."""
    for way in ways:
        command = [sys.executable, "-m", "ebe_utils.upkeep.benchmark", *options.given, "--folder", str(folder),
                   "--way", way]
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        if done.returncode:
            print(f"{way}: failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr, flush=True)
        else:
            print(f"{way}: measured", file=sys.stderr, flush=True)
    return {row: json.loads((folder / f"{row}.json").read_text()) for row in ROWS if (folder / f"{row}.json").exists()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the tables; returns 1 if a ratio is worse than --against allows, else 0."""
    parser = argparse.ArgumentParser(prog="python -m ebe_utils.upkeep.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion_mnist, cifar10 (default: digits)")
    parser.add_argument("--train", type=int, default=0, help="training images (default: all)")
    parser.add_argument("--test", type=int, default=0, help="test images (default: all)")
    parser.add_argument("--stem", default="imagenet")
    parser.add_argument("--epochs", type=int, default=3, help="of the network that embeds (default: 3)")
    parser.add_argument("--layers", type=int, nargs="+", help="layers to search (default: all 20)")
    parser.add_argument("--queries", type=int, default=500, help="queries of the ways that are scaled (default: 500)")
    parser.add_argument("--memory", type=float, help="memory budget of ours, in GiB")
    parser.add_argument("--growth", type=int, default=0, help="queries of the growth curve (default: 0, no curve)")
    parser.add_argument("--explain", type=int, nargs="+", default=[], help="layers to measure one explanation at")
    parser.add_argument("--explainers", nargs="+", choices=tuple(EXPLAINERS), default=[
        name for name in EXPLAINERS if name in ("ours", "network") or importlib.util.find_spec(name)],
        help="what is measured there (default: all that are installed)")
    parser.add_argument("--save", help="folder to write the tables to, as CSV")
    parser.add_argument("--against", help="folder of an earlier --save; fail if ours got slower by more than a third, "
                        "beside the forward pass or FAISS (a folder without tables is no comparison)")
    there = [w for w in WAYS if importlib.util.find_spec({"faiss-flat": "faiss", "engine=faiss": "faiss",
                                                          "captum": "captum"}.get(w, "torch"))]
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=there, help="(default: all that are installed)")
    for hidden in ("--folder", "--way", "--network", "--explained"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    argv = [part for word in words(argv) for part in _split(word)]
    options = parser.parse_args(argv)
    if options.explained:
        way, layer = options.explained.split(":")
        write_text(Path(options.folder) / f"{way}-{layer}.json", json.dumps(measure(options, way, int(layer))))
        return 0
    if options.way:
        Bench(options).measure(options.way)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        options.folder, options.given, folder = temporary, argv, Path(temporary)
        bench = Bench(options)
        options.n_train, options.n_test = len(bench.train), len(bench.test)
        results = run_ways(options, options.ways, folder)
        tables = {"table": table(results, folder, options.n_test), "layers": layer_table(results, bench.dimensions)}
        if options.explain:
            tables["explanations"] = explanations_table(run_explainers(options, folder))
        if options.growth:
            tables["growth"] = growth(options, folder, folder / "model.safetensors")
    for found in tables.values():
        print(found.to_string(index=False, float_format=lambda v: f"{v:.3g}", na_rep=""), "\n")
    wrong = _compared(options, tables["table"]) if options.against else []
    if options.save:
        Path(options.save).mkdir(parents=True, exist_ok=True)
        for name, found in tables.items():
            write_text(Path(options.save) / f"{name}.csv", found.to_csv(index=False, float_format="%.5g"))
        write_text(Path(options.save) / "about.json", json.dumps(about(options, bench.layers), indent=1) + "\n")
    for line in wrong:
        print(line, file=sys.stderr)
    return min(1, len(wrong))


def run_explainers(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """`measure` of each explainer at each layer, in a process of its own."""
    rows = []
    for layer in options.explain:
        for way in options.explainers:
            done = subprocess.run([sys.executable, "-m", "ebe_utils.upkeep.benchmark", *options.given, "--folder",
                                   str(folder), "--explained", f"{way}:{layer}"], capture_output=True, text=True)
            if done.returncode:
                print(f"{way}, layer {layer}: failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            else:
                print(f"{way}, layer {layer}: measured", file=sys.stderr, flush=True)
                rows.append(json.loads((folder / f"{way}-{layer}.json").read_text()))
    return rows


def _split(word):
    """WAYS="a b" comes as one word, --ways=a b."""
    name, given, value = word.partition("=")
    many = ("--ways", "--layers", "--explain", "--explainers")
    return [name, *value.split()] if given and name in many else [word]


def _compared(options, found):
    """What got worse since the tables in the folder --against; ValueError if those are of another benchmark."""
    folder = Path(options.against)
    if not (folder / "table.csv").exists():
        print(f"nothing to compare with: there is no {folder / 'table.csv'}", file=sys.stderr)
        return []
    then, now = json.loads((folder / "about.json").read_text()), about(options, [])
    if differ := [key for key in ("dataset", "training images", "test images", "stem") if then[key] != now[key]]:
        raise ValueError(f"{folder} holds another benchmark: {differ[0]} {then[differ[0]]!r}, here {now[differ[0]]!r}.")
    return worse(found, pd.read_csv(folder / "table.csv"))


def growth(options: argparse.Namespace, folder: Path, network: Path) -> pd.DataFrame:
    """Tidy: seconds and peak memory while the number of training images doubles four times."""
    rows = []
    for times in (16, 8, 4, 2, 1):
        n = options.n_train // times
        here = folder / f"growth-{n}"
        here.mkdir()
        more = ["--train", str(n), "--test", str(min(options.growth, options.n_test)), "--network", str(network)]
        found = run_ways(options, [way for way in ("limits", "faiss-flat", "engine=bounded") if way in options.ways],
                         here, more)
        rows += [{"way": row, "training images": n, "seconds": r["seconds"], "GiB": r["GiB"]}
                 for row, r in found.items()]
    return pd.DataFrame(rows)


def about(options: argparse.Namespace, layers: list[int]) -> dict[str, Any]:
    """What was measured, and on what."""
    return {"dataset": options.dataset, "training images": options.n_train, "test images": options.n_test,
            "layers": layers, "stem": options.stem, "epochs of the network": options.epochs, "k": K,
            "growth queries": options.growth, "processor": processor(),
            "threads": torch.get_num_threads(), "python": platform.python_version(), "versions": versions()}


if __name__ == "__main__":
    sys.exit(main())
