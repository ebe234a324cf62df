"""Results that are committed: tables of finished runs in data/reference/, their figures, and docs/results.md."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from ..files import write_text
from ..paths import runs_root
from ..study import results
from ..study.cases import all_cases, score_recipes, verdicts_in_three_parts, when_claims_hold
from ..study.conditions import (
    kept_recipes,
    kept_shortcuts,
    kept_snapshots,
    layer_15_table,
    recipes_table,
    steadiness,
)
from ..study.figures import accuracy_figure, save_figure, style
from ..study.judge_tables import circularity_table, judges_table, kept_judges, selection_table
from ..study.removals import kept_removals, removals_table
from ..study.run import Run
from ..study.shortcuts import blocks_table, shortcuts_table
from ..study.step import RunError, changed_output, notebook_of, read_manifest
from .audits import audits_table
from .benchmark_tables import benchmark_tables
from .candidates import candidates_table, profiles_table
from .domain_tables import domains_table, growth_table, labels_table, transfer_table
from .frontiers import draw_frontier, frontier_table
from .hubs import hubness_table
from .publishing import CHECKOUT, REFERENCE

RESULTS = CHECKOUT / "docs" / "results.md"
# What is kept of steps that not every run has been through.
ALSO = {**{step: ["summary.csv"] for step in results.SCORED}, "choosing": ["choices.csv", "optimism.csv", "ways.csv"]}


def keep_results(run: Run, root: str | Path = REFERENCE, figures: str | Path = CHECKOUT / "figures") -> Path:
    """Copy what is small of a run to `root`/name: parameters, and of each step the tables and the manifest.

    Needed are the steps of notebooks 01, 04, 05 and 07; those of 08, 09, 17 and 18 are kept where they are done. The
    manifest lists, as outputs, what was kept, and under "not_kept" the rest (weights, neighbours, pictures), by hash.
    The figures go to `figures`/group: pictures of images from the lowest seed that is kept, accuracies drawn anew over
    all of its seeds. Returns the folder of the tables. RunError if the run is not there, but only what is kept of it.
    """
    if run.committed:
        raise RunError(f"there is no run {run.name} on this machine, only what is kept of it, in {run.path}; do it "
                       f"again with\n  {run.command()}")
    target, part = Path(root) / run.name, Path(root) / f".{run.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    also = [step for step in ALSO if (run.path / step / "manifest.json").exists()]
    for step in ("train", run.parameters.sweep_step, "figures", "taps", *also):
        manifest = run.manifest(step)
        kept = {name: digest for name, digest in manifest["outputs"].items()
                if name.endswith(".csv") and name in ALSO.get(step, [name])}
        manifest["not_kept"] = {n: digest for n, digest in manifest["outputs"].items() if n not in kept}
        manifest["outputs"] = kept
        (part / step).mkdir(parents=True)
        for name in kept:
            shutil.copyfile(run.file(step, name), part / step / name)
        write_text(part / step / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    shutil.copyfile(run.path / "parameters.json", part / "parameters.json")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    group, folder = run.parameters.group, Path(figures) / run.parameters.group
    same = results.groups(Run.kept(root).values())[group]
    if run.name == same[0].name:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run.path / "figures", folder, ignore=shutil.ignore_patterns("*.json", "examples.csv", ".*"))
    with plt.rc_context():
        style()
        for name, column in ((next(folder.glob("figure*_accuracy.csv")).stem, "accuracy"), ("agreement", "agreement")):
            figure, data = accuracy_figure(results.seeds_table(same), column=column, title=results.title(same))
            save_figure(folder, name, figure, data)
            plt.close(figure)
    return target


def keep_domain_run(name: str, root: str | Path = REFERENCE) -> Path:
    """Copy the tables of the run of a notebook with data of its own to `root`/word/name: "text/text-trec-seed0", say.

    Of its last step and of the training, with their manifests, as `keep_results` does. RunError if it is not there.
    """
    word = name.split("-")[0]
    folder, target = runs_root() / name, Path(root) / word / name
    steps = (f"{word}-train", word)
    manifests: dict[str, Any] = {step: read_manifest(folder / step / "manifest.json") for step in steps}
    for step, manifest in manifests.items():
        if manifest is None or changed_output(folder / step, manifest):
            raise RunError(f"there is no whole step {step!r} in {folder}; run {notebook_of(word)} with that data set "
                           "and seed first.")
    shutil.rmtree(target, ignore_errors=True)
    for step, manifest in manifests.items():
        (target / step).mkdir(parents=True)
        kept = {file: digest for file, digest in manifest["outputs"].items() if file.endswith(".csv")}
        manifest["not_kept"] = {file: digest for file, digest in manifest["outputs"].items() if file not in kept}
        manifest["outputs"] = kept
        for file in kept:
            shutil.copyfile(folder / step / file, target / step / file)
        write_text(target / step / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return target


def _reported(runs, step, name, figures=CHECKOUT / "figures"):
    """{name: table} of one step: the default run's as it is published, and of the kept runs that have been there."""
    found = {"digits-quick-seed0": figures / step / name}
    found |= {run.name: run.file(step, name) for run in runs if (run.path / step).exists()}
    return {run: pd.read_csv(file) for run, file in found.items()}


def update_results(path: Path = RESULTS, root: Path = REFERENCE) -> None:
    """Write the tables of the committed runs into docs/results.md, between the comments that name them, and one of
    them into the README.

    Raises ValueError if a page has no place for one of the tables.
    """
    tables = _tables(root)
    _fill(path, tables)
    if Path(path) == RESULTS:
        _fill(CHECKOUT / "README.md", {"domains": tables["domains"].drop(columns=["domain", "seeds"])})
        draw_frontier(results.kept_frontiers())


def _fill(path, tables):
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        text, places = filled(text, name, markdown(table))
        if places != 1:
            raise ValueError(f"{path} has {places} places for the table {name!r}; it needs one, between the lines "
                             f"<!-- {name} --> and <!-- end of {name} -->.")
    write_text(path, text)


def filled(text: str, name: str, table: str) -> tuple[str, int]:
    """(the page with a table between the comments that name it, in how many places)."""
    return re.subn(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", lambda m: m[1] + table + m[2], text,
                   flags=re.DOTALL)


def _tables(root: Path) -> dict[str, pd.DataFrame]:
    """{name: DataFrame} of all that docs/results.md shows."""
    runs = Run.kept(root).values()
    tables = {"results": results.results_table(runs), "agreement": results.agreement_table(runs),
              "verdicts": results.verdicts_table(runs), "taps": results.taps_table(runs),
              "evaluation": results.evaluation_table(
                  {"digits-quick-seed0": pd.concat([pd.read_csv(CHECKOUT / "figures" / step / "summary.csv")
                                                    for step in results.SCORED])} | results.scorecards(runs)),
              "choices": results.choices_table(_reported(runs, "choosing", "choices.csv"),
                                               _reported(runs, "choosing", "optimism.csv"))}
    if any((Path(root) / "text").glob("*/text")):
        tables["texts"] = texts_table(root)
    if any((Path(root) / "transfer").glob("*/transfer")):
        tables |= {"domains": domains_table(root), "transfer": transfer_table(root), "labelled": labels_table(root)}
    if (Path(root) / "growth" / "growth.csv").exists():
        tables["growth"] = growth_table(pd.read_csv(Path(root) / "growth" / "growth.csv"))
    tables |= benchmark_tables(Path(root) / "benchmark")
    if len(frontiers := results.kept_frontiers(root)):
        tables["frontier"] = frontier_table(frontiers)
    if len(fast := results.kept_frontiers(root, "frontier_fast")):
        tables["frontier of fast"] = frontier_table(fast)
    for name, of_kept in (("candidates", candidates_table), ("hubness", hubness_table), ("audits", audits_table)):
        if len(table := of_kept(Path(root) / name)):
            tables[name] = table
    if len(removed := kept_removals(root)):
        tables["removals"] = removals_table(removed)
    if len(table := profiles_table(Path(root))):
        tables["profiles"] = table
    if len(verdicts := kept_snapshots("verdicts", Path(root) / "snapshots")):
        recipes = kept_recipes("claims", Path(root) / "recipes")
        cases = all_cases(runs, verdicts, recipes)
        tables["when"], tables["verdicts in parts"] = when_claims_hold(cases), verdicts_in_three_parts(cases)
        tables["best recipes"] = score_recipes(recipes).head(5).round(2)
        tables["recipes"] = recipes_table(kept_recipes("layers", Path(root) / "recipes")).round(3)
        tables["layer 15"] = layer_15_table(kept_snapshots("geometry", Path(root) / "snapshots"))
        if len(shortcuts := kept_shortcuts(Path(root) / "shortcuts")):
            tables["shortcuts"], tables["blocks"] = shortcuts_table(shortcuts), blocks_table(shortcuts)
        steady = steadiness(kept_snapshots("layers", Path(root) / "snapshots"))
        tables["steady"] = steady.round(2)
    for name in sorted(file.parent.name for file in (Path(root) / "judges").glob("*/scores.csv")):
        scores = kept_judges(name, Path(root))
        tables[f"judges {name}"] = judges_table(scores)
        tables[f"selection {name}"] = selection_table(scores)
        tables[f"circularity {name}"] = circularity_table(scores)
    return tables


def texts_table(root: Path = REFERENCE, figures: Path = CHECKOUT / "figures") -> pd.DataFrame:
    """Notebook 12 on the docstrings (as published) and on TREC (mean over the seeds that are kept), in per cent."""
    groups = {"docstrings": [figures / "text"], "trec": sorted((Path(root) / "text").glob("text-trec-seed*/text"))}
    rows = []
    for name, folders in groups.items():
        mean = pd.concat([pd.read_csv(folder / "summary.csv") for folder in folders]).groupby("explanation").mean()
        fine = pd.concat([pd.read_csv(folder / "subclass.csv") for folder in folders]).groupby("nearest by").mean()
        for what, line in mean.iloc[:, :3].iterrows():
            same = fine["same fine class"].get(str(what).split(",")[0], float("nan"))
            same = float("nan") if "target" in str(what) or "regression" in str(what) else same
            shown = [f"{100 * value:.1f}" if pd.notna(value) else "" for value in (*line, same)]
            rows.append([name, len(folders), what, *shown])
    names = ["accuracy", "agreement", "on the network's mistakes", "nearest has the same fine class"]
    return pd.DataFrame(rows, columns=["data", "seeds", "predictor", *names])


def markdown(table: pd.DataFrame) -> str:
    """A DataFrame as a table in Markdown; numbers with their deviation are not broken into two lines."""
    rows = [list(table), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    for mark in ("±", "/"):
        text = text.replace(f" {mark} ", f"\N{NO-BREAK SPACE}{mark}\N{NO-BREAK SPACE}")
    return text
