"""The audit against planted label errors, on whole data sets: networks that were trained on the wrong labels.

One table for each, data/reference/audits/DATASET-SHARE-seedSEED.csv. cleanlab's own judgement of the same votes and
of the network's probabilities stands beside it, where cleanlab is installed: it is no dependency of the project.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from torch import nn

from ..audit import SUSPICIONS, audit
from ..data import ImageSet
from ..explainer import EBEClassifier
from ..label_errors import confident_errors, flip_labels, koh_liang_area
from ..model import load_model, predict_logits, resnet18_for, save_model
from ..study.parameters import Parameters
from ..study.run import Run
from ..training import train
from .publishing import REFERENCE, keep_table

FOLDER = REFERENCE / "audits"
LAYERS = (14, "avgpool")  # the paper's, and what the network's last layer reads
SHARES = (0.05, 0.1)  # of wrong labels


def keep_audit(dataset: str, share: float, seed: int = 0, profile: str = "fast", folder: Path = FOLDER) -> Path:
    """Train on a data set with a share of wrong labels, audit it, and write the table.

    Found again after an interruption: the training's state, and the trained network, in a run's folder of their own.
    """
    name = f"{dataset}-{share:g}-seed{seed}"
    run = Run.start(**vars(Parameters(dataset=dataset, profile=profile, seed=seed, run=f"audit-{name}")))
    train_set, test_set = run.load_data()
    labels, flipped = flip_labels(train_set.labels, share, len(train_set.classes), seed)
    wrong = replace(train_set, labels=labels)
    table = judge_audit(_trained(run, wrong), wrong, test_set, flipped)
    return keep_table(table.assign(dataset=dataset, share=share, seed=seed, profile=profile), folder, name)


def _trained(run: Run, wrong: ImageSet) -> nn.Module:
    model, file = resnet18_for(wrong, run.parameters.stem, run.parameters.seed), run.path / "model.safetensors"
    if not file.exists():
        state = run.path / ".state.safetensors"
        save_model(file, train(model, wrong, epochs=run.epochs(wrong), schedule=run.schedule, seed=run.parameters.seed,
                               state=state, progress=False), wrong)
        state.unlink(missing_ok=True)
    return load_model(file, model, wrong)


def judge_audit(model: nn.Module, wrong: ImageSet, test_set: ImageSet, flipped: np.ndarray, k: int = 10
                ) -> pd.DataFrame:
    """How well the planted errors are found: a row for each layer and each suspicion.

    wrong: the training set with the planted errors, flipped: (n,) which. area: under the ROC curve; koh_liang: under
    the curve of errors found against images checked; first: the share of planted errors among as many of the most
    suspicious images. Of the judgements that name images, which is errors counted by confident learning and
    cleanlab's `find_label_issues`: precision and recall. accuracy, memorised: of the network, the share of test images
    that it gets right, and of the planted labels that it repeats.
    """
    parts = []
    for layer in LAYERS:
        ebe = EBEClassifier(model, layer=layer, k=k).fit(wrong)
        found, probabilities = audit(ebe, test_set), ebe.network_proba_.astype(float)
        rows: list[dict[str, Any]] = []
        for by in SUSPICIONS:
            table = found.label_errors(by)
            scores = np.empty(len(wrong))
            scores[table["index"]] = table["suspicion"]
            rows.append({"by": by} | _order(scores, flipped))
        rows.append({"by": "confident learning, neighbors"}
                    | _named(confident_errors(found.shares, found.labels), flipped))
        for by, shares in (("neighbors", found.shares), ("network", probabilities)):
            rows += [{"by": f"cleanlab, {by}"} | row for row in _cleanlab(shares, found.labels, flipped)]
        parts.append(pd.DataFrame(rows).assign(
            layer=layer, hubness=found.hubness, orphans=len(found.orphans), duplicates=len(found.duplicates()),
            memorised=(probabilities.argmax(1) == found.labels)[flipped].mean()))
    right = predict_logits(model, test_set.images).argmax(1) == test_set.labels
    return pd.concat(parts, ignore_index=True).assign(accuracy=right.mean(), planted=int(flipped.sum()))


def audits_table(folder: Path = FOLDER) -> pd.DataFrame:
    """The kept tables as the results page shows them: a row for each data set, share, layer and suspicion.

    The network's own suspicions are the same at every layer, and stand there once. Empty without a kept table.
    """
    tables = [pd.read_csv(file, dtype={"layer": str}) for file in sorted(folder.glob("*.csv"))]
    if not tables:
        return pd.DataFrame()
    shown = pd.concat(tables, ignore_index=True)
    own = shown["by"].isin(["network", "cleanlab, network"])
    shown["layer"] = shown["layer"].mask(own, "–")
    shown = shown.drop_duplicates(["dataset", "share", "seed", "layer", "by"])
    shown["wrong labels (%)"] = (100 * shown["share"]).map("{:g}".format)
    shown = shown.rename(columns={"dataset": "data", "by": "suspected by"})
    shown["area"] = _filled(shown["area"], "{:.3f}")
    for column in ("first", "precision", "recall"):
        shown[column] = _filled(100 * shown[column], "{:.1f}")
    return shown[["data", "wrong labels (%)", "layer", "suspected by", "area", "first", "precision", "recall"]]


def _filled(values: pd.Series, pattern: str) -> pd.Series:
    return values.map(lambda value: "" if pd.isna(value) else pattern.format(value))


def _order(scores: np.ndarray, flipped: np.ndarray) -> dict[str, float]:
    first = np.lexsort((np.arange(len(scores)), -scores))[:flipped.sum()]
    return {"area": roc_auc_score(flipped, scores), "koh_liang": koh_liang_area(flipped, scores),
            "first": flipped[first].mean()}


def _named(named: np.ndarray, flipped: np.ndarray) -> dict[str, float]:
    return {"named": int(named.sum()), "precision": flipped[named].mean() if named.any() else np.nan,
            "recall": named[flipped].mean()}


def _cleanlab(shares: np.ndarray, labels: np.ndarray, flipped: np.ndarray) -> Iterator[dict[str, float]]:
    """cleanlab's order (self-confidence) and its choice, of (n, classes) probabilities."""
    if find_spec("cleanlab") is not None:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        yield (_order(-get_label_quality_scores(labels, shares), flipped)
               | _named(find_label_issues(labels, shares), flipped))
