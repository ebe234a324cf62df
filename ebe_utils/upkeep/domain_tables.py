"""What docs/results.md shows of all domains side by side, of pretrained networks, and of many embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..study.results import faithfulness, groups
from ..study.run import Run
from .publishing import CHECKOUT, REFERENCE

FIGURES = CHECKOUT / "figures"
K = 10  # examples of a vote where no other number is said
NEARLY = 0.01  # one point of accuracy: what fewer examples may lose


def _folders(root: Path, figures: Path) -> dict[str, tuple[str, Sequence[Path]]]:
    """{data: (domain, folders with the tables of each seed)} of the notebooks with data of their own."""
    return {"docstrings": ("text", [figures / "text"]), "trec": ("text", sorted(root.glob("text/text-trec-*/text"))),
            "gunpoint": ("time series", [figures / "series"]),
            "digits, pretrained network": ("transfer", [figures / "transfer"]),
            "cifar10, pretrained network": ("transfer", sorted(root.glob("transfer/transfer-cifar10-*/transfer")))}


def _others(folder: Path) -> dict[str, float]:
    """{predictor without examples of the network: accuracy} that a domain's notebook measured."""
    found: dict[str, float] = {}
    if (folder / "baseline.csv").exists():
        table = pd.read_csv(folder / "baseline.csv").set_index("name")["accuracy"]
        found |= {str(name): table[name] for name in table.index if "layer" not in str(name) and name != "network"}
    elif (folder / "against.csv").exists():
        table = pd.read_csv(folder / "against.csv").set_index("name")["accuracy"]
        found |= {name: table[name] for name in ("tuned head", "from scratch")}
    else:
        table = pd.read_csv(folder / "summary.csv").set_index("explanation")["accuracy"]
        found |= {str(name): table[name] for name in table.index if "TF-IDF" in str(name)}
    return found


def _line(domain: str, data: str, sweeps: Sequence[pd.DataFrame], others: Mapping[str, float]) -> list[Any]:
    """One row of `domains_table` from the sweeps of all seeds."""
    mean = pd.concat(sweeps)
    mean = mean[mean["layer"].astype(str) != "0"] if domain == "images" else mean
    mean = mean.assign(layer=mean["layer"].astype(str)).groupby(["layer", "k"]).mean(numeric_only=True)
    at = mean.xs(K, level="k")
    best = at["accuracy"].idxmax()
    by_k = mean.loc[best]["accuracy"]
    few = int((by_k >= by_k.max() - NEARLY).idxmax())
    network, said = at["network_accuracy"].iloc[0], at.loc[best]
    ahead = {"the network": network, **others}
    loses = [f"{name} ({100 * value:.1f})" for name, value in ahead.items() if value > said["accuracy"] + NEARLY]
    wrong = f"{100 * said['where wrong']:.0f}" if "where wrong" in at and pd.notna(said["where wrong"]) else ""
    return [domain, data, len(sweeps), f"{100 * network:.1f}", best, f"{100 * said['accuracy']:.1f}",
            f"{100 * said['agreement']:.1f}", wrong, few, ", ".join(loses) or "none"]


def domains_table(root: Path = REFERENCE, figures: Path = FIGURES) -> pd.DataFrame:
    """A row for each domain and data set: the layer whose vote of ten is most accurate, and who is more accurate.

    Means over the seeds that are kept. "examples": the fewest at that layer that lose at most a point of its best
    accuracy. "more accurate": predictors that lead by more than a point.
    """
    rows = []
    for runs in groups(Run.kept(root).values()).values():
        same = [run for run in runs if run.parameters.profile == "paper"]
        if same and same[0].parameters.sweep_step == "sweep":
            sweeps = [pd.read_csv(run.file("sweep", "sweep.csv")) for run in same]
            row = _line("images", same[0].parameters.dataset, sweeps, {})
            on_mistakes = [faithfulness(run, int(row[4]), K)["on mistakes"] for run in same]
            rows.append([*row[:7], f"{100 * sum(on_mistakes) / len(same):.0f}", *row[8:]])
    for data, (domain, folders) in _folders(root, figures).items():
        if folders:
            sweeps = [pd.read_csv(folder / "sweep.csv") for folder in folders]
            others = pd.DataFrame([_others(folder) for folder in folders]).mean().to_dict()
            rows.append(_line(domain, data, sweeps, {str(name): value for name, value in others.items()}))
    return pd.DataFrame(rows, columns=["domain", "data", "seeds", "network", "best layer", "accuracy", "agreement",
                                       "on mistakes", "examples", "more accurate by over a point"])


def transfer_table(root: Path = REFERENCE, figures: Path = FIGURES) -> pd.DataFrame:
    """Notebook 14: three networks, each explained at several of its layers, in per cent; means over the seeds."""
    rows = []
    for data, (domain, folders) in _folders(root, figures).items():
        if domain != "transfer" or not folders:
            continue
        every = pd.concat([pd.read_csv(folder / "summary.csv") for folder in folders])
        mean = every.groupby(["network", "explanation"], sort=False).mean(numeric_only=True).reset_index()
        for _, line in mean.iterrows():
            shown = [f"{100 * line[name]:.1f}" for name in ("its accuracy", "accuracy", "agreement", "where wrong")]
            rows.append([data.split(",")[0], len(folders), line["network"], line["explanation"], *shown])
    return pd.DataFrame(rows, columns=["data", "seeds", "network", "examples at", "network's accuracy", "accuracy",
                                       "agreement", "on mistakes"])


def labels_table(root: Path = REFERENCE, figures: Path = FIGURES) -> pd.DataFrame:
    """Notebook 14: accuracy (agreement with the probe) by number of labelled images, in per cent; means over seeds."""
    rows = []
    for data, (domain, folders) in _folders(root, figures).items():
        if domain == "transfer" and folders:
            every = pd.concat([pd.read_csv(folder / "curve.csv") for folder in folders])
            mean = every.groupby(["labelled", "predictor"], sort=False).mean().reset_index()
            for n, part in mean.groupby("labelled"):
                rows.append({"data": data.split(",")[0], "labelled images": f"{n:,}", **{
                    line["predictor"].replace("layer 46", "deep layer").replace("layer 40", "deep layer"):
                    _shares(line["accuracy"], line["agreement"]) for _, line in part.iterrows()}})
    return pd.DataFrame(rows)


def _shares(accuracy: float, agreement: float) -> str:
    """In per cent, with the agreement, where there is one, in brackets."""
    return f"{100 * accuracy:.1f}" + ("" if pd.isna(agreement) else f" ({100 * agreement:.0f})")


def growth_table(table: pd.DataFrame) -> pd.DataFrame:
    """data/reference/growth/growth.csv as the results page shows it: processor seconds and GiB."""
    names = {"index": "make and save the index", "ask": "load it and ask", "parts": "in parts: make, save, ask",
             "stream": "one pass, no index", "flat": "FAISS flat", "ivf": "FAISS IVF, 8 bits"}

    def number(value: float, digits: int) -> str:
        return "" if pd.isna(value) else f"{value:,.{digits}f}"

    def column(name: str, digits: int = 1) -> list[str]:
        return [number(value, digits) for value in table[name]]

    return pd.DataFrame({
        "embeddings": [f"{n:,}" for n in table["embeddings"]], "way": [names[way] for way in table["way"]],
        "make (s)": column("build"), "save (s)": column("save"), "load (s)": column("load"),
        "100 queries (s)": column("search"), "held (GiB)": column("held"), "forecast (GiB)": column("forecast"),
        "with pages of files (GiB)": column("with pages"), "recall": column("recall", 3)})
