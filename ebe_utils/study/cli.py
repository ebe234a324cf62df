"""Command line: `ebe run --dataset mnist --profile paper --seed 1`, or `python -m ebe_utils run ...`.

As make passes them on, `DATASET=mnist` means `--dataset mnist`.
"""

import argparse
import inspect
import re
import sys
from dataclasses import fields

from ..checks import did_you_mean
from ..data import DataError
from .notebooks import EXPERIMENT, run_notebooks, summary
from .parameters import Parameters
from .step import RunError


def parser(prog="ebe"):
    """The parser; an option for each field of `Parameters`, its comment the help text."""
    main = argparse.ArgumentParser(prog=prog, allow_abbrev=False, description=__doc__.splitlines()[0])
    commands = main.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the notebooks in order with these parameters", allow_abbrev=False)
    run.add_argument("--only", nargs="+", default=EXPERIMENT, metavar="NN",
                     help="the notebooks to run (06 07, say), or all; by default the paper's experiment, 00 to 05")
    comments = dict(re.findall(r"^    (\w+): .*#\s(.*)$", inspect.getsource(Parameters), re.MULTILINE))
    for field in fields(Parameters):
        run.add_argument(f"--{field.name.replace('_', '-')}", dest=field.name, default=field.default,
                         type=_reader(field), metavar=field.name.upper(),
                         help=f"{comments[field.name].replace('%', '%%')} (default: {field.default!r})")
    return main


def _reader(field):
    """Reads one option's text as the type of its field; what cannot be read is left for `Parameters` to reject."""
    def read(text):
        if field.type is bool:
            return {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)
        for kind in (int, float) if field.type is float else (int,) if field.type is not str else ():
            try:
                return kind(text)
            except ValueError:
                pass
        return text
    return read


def read(argv, main):
    """(options, message): what a parser makes of the words, or what is wrong with them. NAME=value is --name=value."""
    argv = [re.sub(r"^([A-Z_]+)=", lambda m: f"--{m[1].lower().replace('_', '-')}=", word)
            for word in (sys.argv[1:] if argv is None else argv)]
    options, unknown = main.parse_known_args(argv)
    if not unknown:
        return options, None
    known = [f"--{f.name.replace('_', '-')}" for f in fields(Parameters)]
    word = unknown[0].split("=")[0]
    return options, (f"error: there is no option {word!r}.{did_you_mean(word, known)} "
                     f"`{main.prog} {options.command} --help` lists them all.")


def reported(work):
    """Call work(); the exit code is 0, 1 (something in the run failed) or 2 (something was asked for wrongly)."""
    try:
        work()
    except (ValueError, TypeError, RunError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunError | OSError) else 2
    return 0


def main(argv=None):
    """Run a command; returns the exit code, see `reported`."""
    options, wrong = read(argv, parser())
    if wrong:
        print(wrong, file=sys.stderr)
        return 2

    def work():
        given = {f.name: getattr(options, f.name) for f in fields(Parameters)}
        only = " ".join(options.only).split()  # ONLY="06 07" comes as one word
        run = run_notebooks(Parameters.of(**given), only)
        if {*EXPERIMENT} <= {*only} or "all" in only:
            print("\n" + summary(run))

    return reported(work)
