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
from ..study.recipes import DEFAULT, RECIPES
from ..study.run import Run
from ..study.shortcuts import SHORTCUTS
from ..study.step import notebook_of
from .audits import SHARES, keep_audit
from .candidates import keep_candidates
from .committed import REFERENCE, keep_domain_run, keep_results, update_results
from .conditions import GRID_EPOCHS, N_TRAIN, keep_recipe, keep_shortcuts, keep_snapshots
from .course import write_course
from .drawing import draw
from .explorers import keep_explorers
from .frontiers import keep_frontier
from .hubs import keep_hubness
from .publishing import publish
from .removing import keep_removals
from .similarities import keep_similarities
from .trial import LONG, SHORT, Sizes, report

_RUN, _TRAINED = ("RUN", "name of a run's folder"), ("RUN", "name of a run's folder with a trained network")
# {command: (what it does, what it takes the names of, how many)}
COMMANDS: dict[str, tuple[str, tuple[str, str] | None, str]] = {
    "publish": ("run the notebooks with the defaults and commit-ready outputs", None, ""),
    "draw": ("draw docs/architecture.svg anew", None, ""),
    "keep": ("copy the tables of finished runs to data/reference and to docs/results.md", _RUN, "+"),
    "reference": ("do all runs of data/reference again, and keep their tables", ("RUN", "only these"), "*"),
    "frontier": ("compare choices of examples on a run's network, and keep the table", _TRAINED, "+"),
    "candidates": ("judge all settings that could be chosen, on a run's test images", _TRAINED, "+"),
    "hubness": ("compare distances with fewer hubs on a run's network", _TRAINED, "+"),
    "audits": ("train on wrong labels, and audit the training set",
               ("DATASET", "mnist, fashion_mnist, cifar10"), "+"),
    "removals": ("train small networks again without the examples of an image",
                 ("DATASET", "mnist, fashion_mnist, cifar10"), "+"),
    "snapshots": ("train with snapshots, sweep each, and keep the tables",
                  ("RUN", "as of a run's folder: fashion_mnist-paper-seed1"), "+"),
    "recipes": ("judge the claims by other recipes on parts of data sets",
                ("DATASET", "mnist, fashion_mnist, cifar10"), "+"),
    "shortcuts": ("train networks with other shortcuts, and see how their layers lie",
                  ("DATASET", "mnist, fashion_mnist, cifar10"), "+"),
    "course": ("write build/course: notebooks for students, solutions, slides", None, ""),
    "explorers": ("keep what the explorers that the site embeds show", _TRAINED, "+"),
    "similarities": ("keep the maps that notebook 11 shows of CIFAR-10", _TRAINED, "+"),
    "results": ("write the tables of docs/results.md anew", None, ""),
    "trial": ("kill, damage and starve a small run, and write docs/trial.md", None, "")}


def parser() -> argparse.ArgumentParser:
    """The parser of the commands."""
    main = argparse.ArgumentParser(prog="python -m ebe_utils.upkeep", allow_abbrev=False,
                                   description=str(__doc__).splitlines()[0])
    commands = main.add_subparsers(dest="command", required=True)
    made = {}
    for name, (text, names, many) in COMMANDS.items():
        made[name] = commands.add_parser(name, help=text, allow_abbrev=False)
        if names:
            made[name].add_argument("names", nargs=many, metavar=names[0], help=names[1])
    made["frontier"].add_argument("--refits", type=int, default=25,
                                  help="mistakes whose last layer is refitted (%(default)s)")
    for name in ("recipes", "shortcuts"):
        made[name].add_argument("--seeds", type=int, default=1, help="seeds of each (%(default)s)")
    for word, number in (("images", N_TRAIN), ("epochs", GRID_EPOCHS)):
        made["shortcuts"].add_argument(f"--{word}", type=int, default=number, help="of each training (%(default)s)")
    made["recipes"].add_argument("--recipe", action="append", choices=tuple(RECIPES),
                                 help="only this one; may be given again")
    made["audits"].add_argument("--share", action="append", type=float,
                                help="of labels that are made wrong; may be given again (default: 0.05 and 0.1)")
    tried = made["trial"]
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
                     "candidates": lambda: [keep_candidates(name) for name in options.names],
                     "similarities": lambda: [keep_similarities(name) for name in options.names],
                     "hubness": lambda: [keep_hubness(name) for name in options.names],
                     "audits": lambda: [keep_audit(name, share) for share in options.share or SHARES
                                        for name in options.names],
                     "removals": lambda: [keep_removals(name) for name in options.names],
                     "recipes": lambda: _recipes(options), "shortcuts": lambda: _shortcuts(options),
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


def _shortcuts(options: argparse.Namespace) -> None:
    for seed in range(options.seeds):
        for shortcuts, optimizer in [(DEFAULT, "sgd"), *((kind, "adam") for kind in SHORTCUTS)]:
            for dataset in options.names:
                keep_shortcuts(dataset, shortcuts, seed, optimizer, n_train=options.images, epochs=options.epochs)


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
