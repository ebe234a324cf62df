"""Command line: `ebe run --dataset mnist --profile paper --seed 1`, or `python -m ebe_utils run ...`.

`ebe explore RUN` writes the page on which one explores a run's neighbours. As make passes them on, `DATASET=mnist`
means `--dataset mnist`.
"""

import argparse
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from typing import Any

from ..checks import did_you_mean
from ..data import DataError
from ..explorer_maps import PROJECTIONS
from .exploring import PAGE, explore_run
from .notebooks import EXPERIMENT, run_notebooks, summary
from .parameters import Parameters
from .run import Run
from .step import RunError

# Modules of the extra "notebooks" without which no notebook runs.
EXTRA = ("papermill", "nbconvert", "ipykernel", "latex2mathml", "filelock", "matplotlib", "seaborn", "ipywidgets")


def parser(prog: str = "ebe") -> argparse.ArgumentParser:
    """The parser; an option for each field of `Parameters`."""
    main = argparse.ArgumentParser(prog=prog, allow_abbrev=False, description=str(__doc__).splitlines()[0])
    commands = main.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the notebooks in order with these parameters", allow_abbrev=False)
    run.add_argument("--only", nargs="+", default=EXPERIMENT, metavar="NN",
                     help="the notebooks to run (06 07, say), or all; by default the paper's experiment, 00 to 05")
    for field in fields(Parameters):
        run.add_argument(f"--{field.name.replace('_', '-')}", dest=field.name, default=field.default,
                         type=_reader(field), metavar=field.name.upper(),
                         help=f"{field.metadata['help'].replace('%', '%%')} (default: {field.default!r})")
    explore = commands.add_parser("explore", help="write a page on which one explores the neighbours of a run",
                                  allow_abbrev=False)
    explore.add_argument("name", metavar="RUN", help="name of the run's folder, which needs a finished sweep")
    for option, default, kind, text in (
            ("sweep", "", str, "step of the run that holds the neighbours; empty takes the run's own"),
            ("images", 200, int, "test images on the page"),
            ("layer", "", _layer, "layer that the page begins with; empty takes 14, or one in the middle"),
            ("k", 10, int, "examples per explanation that the page begins with"),
            ("k_max", 0, int, "largest k on the page; 0 takes that of the sweep"),
            ("projection", "pca", str, f"of the maps: {', '.join(PROJECTIONS)}"),
            ("output", "", str, f"file to write; empty takes {PAGE} in the run's folder")):
        explore.add_argument(f"--{option.replace('_', '-')}", default=default, type=kind, metavar=option.upper(),
                             help=f"{text} (default: {default!r})")
    return main


def _layer(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _reader(field: Field) -> Callable[[str], Any]:
    """Reads one option's text as the type of its field; what cannot be read is left for `Parameters` to reject."""
    def read(text: str) -> Any:
        if field.type is bool:
            return {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)
        for kind in (int, float) if field.type is float else (int,) if field.type is not str else ():
            try:
                return kind(text)
            except ValueError:
                pass
        return text
    return read


def from_make(text: str) -> list[str]:
    """The words of make's MAKEOVERRIDES: blanks and backslashes in a value are escaped there, dollars doubled.

    PYTHON=, which names the interpreter, is left out.
    """
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.quotes, lexer.commenters = " \t", True, "", ""
    return [word for word in (word.replace("$$", "$") for word in lexer) if not word.startswith("PYTHON=")]


def words(argv: Sequence[str] | None) -> list[str]:
    """The words of a command line (by default sys.argv's): NAME=value is --name=value, `--make TEXT` is `from_make`."""
    given = list(sys.argv[1:] if argv is None else argv)
    if "--make" in given[:-1]:
        at = given.index("--make")
        given[at:at + 2] = from_make(given[at + 1])
    return [re.sub(r"^([A-Z_]+)=", lambda m: f"--{m[1].lower().replace('_', '-')}=", word) for word in given]


def read(argv: Sequence[str] | None, main: argparse.ArgumentParser) -> tuple[argparse.Namespace, str | None]:
    """(options, message): what a parser makes of the words, or what is wrong with them."""
    options, unknown = main.parse_known_args(words(argv))
    if not unknown:
        return options, None
    known = [f"--{name.replace('_', '-')}" for name in vars(options) if name not in ("command", "name")]
    word = unknown[0].split("=")[0]
    return options, (f"error: there is no option {word!r}.{did_you_mean(word, known)} "
                     f"`{main.prog} {options.command} --help` lists them all.")


def reported(work: Callable[[], object]) -> int:
    """Call work(); the exit code is 0, 1 (something in the run failed), 2 (something was asked for wrongly) or
    130 (interrupted)."""
    try:
        work()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from where it was", file=sys.stderr)
        return 130
    except (ValueError, TypeError, RunError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunError | OSError) else 2
    return 0


def missing() -> list[str]:
    """Modules of the extra "notebooks" that are not installed."""
    return [name for name in EXTRA if importlib.util.find_spec(name) is None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, see `reported`."""
    options, wrong = read(argv, parser())
    if wrong:
        print(wrong, file=sys.stderr)
        return 2
    if options.command == "explore":
        given = {name: value for name, value in vars(options).items() if name not in ("command", "name")}
        given |= {"layer": None if options.layer == "" else options.layer, "k_max": options.k_max or None}
        return reported(lambda: print(explore_run(Run.open(options.name), **given)))
    if lacking := missing():
        print(f"error: notebooks cannot be run without {', '.join(lacking)}; install them with\n"
              "  pip install 'ebe-utils[notebooks]'", file=sys.stderr)
        return 1

    def work() -> None:
        given = {f.name: getattr(options, f.name) for f in fields(Parameters)}
        only = " ".join(options.only).split()  # ONLY="06 07" comes as one word
        run = run_notebooks(Parameters.of(**given), only)
        if {*EXPERIMENT} <= {*only} or "all" in only:
            print("\n" + summary(run))

    return reported(work)
