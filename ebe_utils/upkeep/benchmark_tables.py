"""The benchmark's tables: seconds, ratios, memory, and whether the ways agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .benchmark_stages import STAGES

SAID = {"choice": "directions found and chosen", "projection": "all rows projected and sorted",
        "products": "the coarse bound", "picking": "candidates picked, the fine bound",
        "first": "rows that begin the lists", "distances": "exact distances, in float64"}
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


# --- as the results page shows them ---------------------------------------------------------------------------------


def benchmark_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """{name of its place: table} of the benchmarks kept in `folder`, one for each data set."""
    tables = {}
    for file in sorted(folder.glob("*/table.csv")):
        name, table = file.parent.name, pd.read_csv(file)
        tables[f"benchmark {name}"] = benchmark_table(table)
        layers, about = pd.read_csv(file.parent / "layers.csv"), json.loads((file.parent / "about.json").read_text())
        if STAGES[0] in layers:
            tables[f"stages {name}"] = stages_table(table, layers, about)
        if (explanations := file.parent / "explanations.csv").exists():
            tables[f"explanations {name}"] = pd.read_csv(explanations).round(2).astype(object).fillna("")
    return tables


def benchmark_table(table: pd.DataFrame) -> pd.DataFrame:
    """What is shown of a benchmark's table.csv: seconds of each way, beside the forward pass, and peak memory."""
    def number(value: float, digits: int) -> str:
        return "" if pd.isna(value) else f"{value:,.{digits}f}"

    default = r"^ours, (engine shortlist|bounded search)$"  # the former and the present name of the default engine
    ways = table["way"].str.replace(default, "**this package**", regex=True).str.replace("ours", "this package")
    return pd.DataFrame({
        "way": ways, "seconds": [number(value, 0) for value in table["seconds"]],
        "× forward pass": [number(value, 1 if 1 < value < 10 else 0) for value in table["x forward"]],
        "peak GiB": [number(value, 1) for value in table["peak GiB"]],
        "measured on (queries)": [number(value, 0) for value in table["queries"]],
        "votes that differ": table["other votes"].fillna("") if "other votes" in table else ""})


def stages_table(table: pd.DataFrame, layers: pd.DataFrame, about: dict[str, Any]) -> pd.DataFrame:
    """Where the bounded search spends its time: seconds, share and rate of each stage.

    table, layers, about: as the benchmark keeps them. Rates are of what a stage has to do at least: 2·n·d·R operations
    for the projection of n rows, 2·n·m·(r + 2) for the products, 4·d bytes for the rows of each exact distance.
    """
    ours, limit = (layers[layers["way"] == way] for way in ("engine=bounded", "limit"))
    seconds = table.set_index("way")["seconds"]
    m, n = about["test images"], about["training images"]
    whole, forward = seconds[ROWS["engine=bounded"]], seconds[ROWS["forward"]]
    peak = 2 * m * n * (limit["dimension"] / limit["seconds"]).max() / 1e9
    spent = ours[list(STAGES)].sum()
    work = {"projection": (2 * (n + m) * ours["dimension"] * ours["directions"]).sum() / 1e9,
            "products": (2 * n * m * (ours["coarse"] + 2)).sum() / 1e9,
            "distances": (4 * n * m * ours["exact"] * ours["dimension"]).sum() / 1e9}
    rates = {stage: f"{work[stage] / spent[stage]:,.0f} {unit}" for stage, unit in (
        ("projection", f"of {peak:,.0f} GFLOP/s"), ("products", f"of {peak:,.0f} GFLOP/s"), ("distances", "GB/s"))}
    rows = {"the bare forward pass": forward, "embeddings kept, and all else": whole - forward - ours["seconds"].sum(),
            **{SAID[stage]: spent[stage] for stage in STAGES}, "the whole sweep": whole}
    return pd.DataFrame({"stage": [*rows], "seconds": [f"{value:.1f}" for value in rows.values()],
                         "%": [f"{100 * value / whole:.0f}" for value in rows.values()],
                         "rate": ["", "", *[rates.get(stage, "") for stage in STAGES], ""]})
