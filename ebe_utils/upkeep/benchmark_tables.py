"""The benchmark's tables: seconds, ratios, memory, and whether the ways agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROWS = {"forward": "the bare forward pass", "limit": "and the products of brute force",
        "paper": "the paper's procedure: for each layer a pass, for each k a scikit-learn classifier",
        "sklearn": "for each layer a pass and one scikit-learn search",
        "faiss-flat": "FAISS IndexFlatIP, all embeddings held", "captum": "Captum SimilarityInfluence",
        "engine=faiss": "ours, with FAISS for its search", "engine=torch": "ours, engine torch (float64)",
        "engine=bounded": "ours, bounded search"}


def table(results: dict[str, dict[str, Any]], folder: Path, n_test: int) -> pd.DataFrame:
    """A DataFrame with a row for each way: seconds, ratios, memory, and agreement with the others."""
    def ratio(row):
        return [r["seconds"] / results[row]["seconds"] if row in results else float("nan") for r in results.values()]

    found = pd.DataFrame({"way": [ROWS[row] for row in results], "seconds": [r["seconds"] for r in results.values()]})
    found["x forward"], found["x brute force"], found["x ours"] = map(ratio, ("forward", "limit", "engine=bounded"))
    found["peak GiB"] = [r["GiB"] for r in results.values()]
    found["queries"] = [r["searched"] or n_test for r in results.values()]
    agreement = pd.DataFrame([_agreement(folder, row) for row in results])
    return pd.concat([found, agreement], axis=1)


def _agreement(folder, row):
    """How one row's votes differ from the paper's procedure, and its neighbours from the bounded search's."""
    def load(name):
        file = folder / f"{name}.npz"
        return np.load(file) if file.exists() else {"rows": ()}

    def pairs(what, other):
        _, here, there = np.intersect1d(mine["rows"], other["rows"], return_indices=True)
        keys = [key for key in mine if key.startswith(what) and key in other]
        return [(mine[key][here], other[key][there]) for key in keys] if len(here) else []

    mine, out = load(row), {}
    if both := pairs("votes", load("paper")):
        out["other votes"] = _share(both)
    if both := pairs("indices", load("engine=bounded")):
        out["other neighbours"] = _share(both)
    if both := pairs("distances", load("engine=bounded")):
        out["distances differ by"] = max(np.abs(a.astype(float) - b).max() for a, b in both)
    return out


def _share(pairs):
    return f"{sum((a != b).sum() for a, b in pairs):,} of {sum(a.size for a, _ in pairs):,}"


def layer_table(results: dict[str, dict[str, Any]], dimensions: dict[int, int]) -> pd.DataFrame:
    """Tidy: seconds of search of each way at each layer, without the pass over the images, and what ours says of it."""
    rows = [{"way": row, "layer": layer, "dimension": dimensions[int(layer)], "seconds": seconds,
             **result.get("notes", {}).get(layer, {})}
            for row, result in results.items() for layer, seconds in result["layer_seconds"].items()]
    return pd.DataFrame(rows)


def worse(found: pd.DataFrame, before: pd.DataFrame, factor: float = 4 / 3) -> list[str]:
    """A line for each ratio of ours, to the forward pass and to FAISS, that is `factor` times that of an earlier table.

    found, before: as `table` makes them. Ratios that one of them does not have are left out.
    """
    lines = []
    for row in ("forward", "faiss-flat"):
        now, then = (_ours_to(row, one) for one in (found, before))
        if now > factor * then:
            lines.append(f"ours takes {now:.2f} times {ROWS[row]}, and took {then:.2f}: more than {factor:.2f} times "
                         "as much as before.")
    return lines


def _ours_to(row, found):
    seconds = found.set_index("way")["seconds"]
    try:
        return seconds[ROWS["engine=bounded"]] / seconds[ROWS[row]]
    except KeyError:
        return float("nan")
