"""Upkeep of the checkout: `python -m ebe_utils.upkeep COMMAND`; --help lists the commands."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from ..study.cli import read, reported
from ..study.domains import DOMAINS
from ..study.notebooks import run_notebooks
from ..study.parameters import Parameters
from ..study.recipes import RECIPES
from ..study.run import Run
from ..study.step import notebook_of
from .committed import REFERENCE, keep_domain_run, keep_results, update_results
from .conditions import keep_recipe, keep_snapshots
from .course import write_course
from .drawing import draw
from .explorers import keep_explorers
from .frontiers import keep_frontier
from .publishing import publish
from .trial import LONG, SHORT, Sizes, report


def parser() -> argparse.ArgumentParser:
    """The parser of the commands."""
    main = argparse.ArgumentParser(prog="python -m ebe_utils.upkeep", allow_abbrev=False,
                                   description=str(__doc__).splitlines()[0])
    commands = main.add_subparsers(dest="command", required=True)
    commands.add_parser("publish", help="run the notebooks with the defaults and commit-ready outputs",
                        allow_abbrev=False)
    commands.add_parser("draw", help="draw docs/architecture.svg anew", allow_abbrev=False)
    keep = commands.add_parser("keep", help="copy the tables of finished runs to data/reference and to docs/results.md",
                               allow_abbrev=False)
    keep.add_argument("names", nargs="+", metavar="RUN", help="name of a run's folder")
    again = commands.add_parser("reference", help="do all runs of data/reference again, and keep their tables",
                                allow_abbrev=False)
    again.add_argument("names", nargs="*", metavar="RUN", help="only these")
    reasons = commands.add_parser("frontier", help="compare choices of examples on a run's network, and keep the table",
                                  allow_abbrev=False)
    reasons.add_argument("names", nargs="+", metavar="RUN", help="name of a run's folder with a trained network")
    reasons.add_argument("--refits", type=int, default=25, help="mistakes whose last layer is refitted (%(default)s)")
    over = commands.add_parser("snapshots", help="train with snapshots, sweep each, and keep the tables",
                               allow_abbrev=False)
    over.add_argument("names", nargs="+", metavar="RUN", help="as of a run's folder: fashion_mnist-paper-seed1")
    grid = commands.add_parser("recipes", help="judge the claims by other recipes on parts of data sets",
                               allow_abbrev=False)
    grid.add_argument("names", nargs="+", metavar="DATASET", help="mnist, fashion_mnist, cifar10")
    grid.add_argument("--seeds", type=int, default=1, help="seeds of each (%(default)s)")
    grid.add_argument("--recipe", action="append", choices=tuple(RECIPES), help="only this one; may be given again")
    commands.add_parser("course", help="write build/course: notebooks for students, solutions, slides",
                        allow_abbrev=False)
    pages = commands.add_parser("explorers", help="write docs/_static/explorers, the pages that the site embeds",
                                allow_abbrev=False)
    pages.add_argument("names", nargs="+", metavar="RUN", help="name of a run's folder with a trained network")
    commands.add_parser("results", help="write the tables of docs/results.md anew", allow_abbrev=False)
    tried = commands.add_parser("trial", help="kill, damage and starve a small run, and write docs/trial.md",
                                allow_abbrev=False)
    tried.add_argument("--size", choices=("short", "long"), default="short", help="numbers of cases (default: short)")
    for one in fields(Sizes):
        tried.add_argument(f"--{one.name}", type=int, metavar="N", help="in place of that of the size")
    return main


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 (something failed) or 2 (something was asked for wrongly)."""
    options, wrong = read(argv, parser())
    if wrong:
        print(wrong, file=sys.stderr)
        return 2
    if options.command == "trial":
        given = {one.name: value for one in fields(Sizes) if (value := getattr(options, one.name)) is not None}
        return min(1, report(replace({"short": SHORT, "long": LONG}[options.size], **given)))
    return reported({"publish": _publish, "draw": draw, "course": write_course, "results": update_results,
                     "explorers": lambda: keep_explorers(options.names),
                     "snapshots": lambda: [keep_snapshots(name) for name in options.names],
                     "recipes": lambda: _recipes(options),
                     "frontier": lambda: [keep_frontier(name, options.refits) for name in options.names]}.get(
        options.command, lambda: _keep(options)))


def _publish() -> None:
    publish(run_notebooks(Parameters(), ["all"]))
    update_results()


def _recipes(options: argparse.Namespace) -> None:
    for seed in range(options.seeds):
        for recipe in options.recipe or RECIPES:
            for dataset in options.names:
                keep_recipe(dataset, recipe, seed)


def _keep(options: argparse.Namespace) -> None:
    known = Run.kept(REFERENCE)
    for name in " ".join(options.names).split() or known:  # RUNS="a b" comes as one word
        if options.command == "keep" and name.split("-")[0] in DOMAINS:
            print("kept:", keep_domain_run(name))
            continue
        if options.command == "reference" and name.startswith("snapshots/"):
            print("kept:", keep_snapshots(name.removeprefix("snapshots/")))
            continue
        if options.command == "reference":
            if name not in known:
                raise ValueError(f"there is no run {name!r} in {REFERENCE}; there are {', '.join(known) or 'none'}.")
            steps = [file.parent.name for file in known[name].path.glob("*/manifest.json")]
            run_notebooks(known[name].parameters, sorted({Path(notebook_of(step)).stem for step in steps}))
        print("kept:", keep_results(Run.open(name)))
    update_results()


if __name__ == "__main__":
    sys.exit(main())
