"""Command line: `python -m ebe_utils run --dataset mnist --profile paper --seed 1`.

As make passes them on, `DATASET=mnist` means `--dataset mnist`.
"""

import argparse
import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path

from .checks import did_you_mean
from .data import DataError
from .pipeline import EXPERIMENT, publish, run_notebooks, summary
from .reference import keep_results, update_readme
from .runs import REFERENCE, Parameters, Run, RunError, notebook_of


def parser():
    """The parser; an option for each field of `Parameters`, its comment the help text."""
    main = argparse.ArgumentParser(prog="python -m ebe_utils", allow_abbrev=False, description=__doc__.splitlines()[0])
    commands = main.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the notebooks in order with these parameters", allow_abbrev=False)
    publish = commands.add_parser("publish", help="run the notebooks with the defaults and commit-ready outputs",
                                  allow_abbrev=False)
    keep = commands.add_parser("keep", help="copy the tables of finished runs to data/reference and to the README",
                               allow_abbrev=False)
    keep.add_argument("names", nargs="+", metavar="RUN", help="name of a run's folder")
    again = commands.add_parser("reference", help="do all runs of data/reference again, and keep their tables",
                                allow_abbrev=False)
    again.add_argument("names", nargs="*", metavar="RUN", help="only these")
    run.add_argument("--only", nargs="+", default=EXPERIMENT, metavar="NN",
                     help="the notebooks to run (06 07, say), or all; by default the paper's experiment, 00 to 05")
    comments = dict(re.findall(r"^    (\w+): .*#\s(.*)$", inspect.getsource(Parameters), re.MULTILINE))
    for field in fields(Parameters):
        run.add_argument(f"--{field.name.replace('_', '-')}", dest=field.name, default=field.default,
                         type=_reader(field), metavar=field.name.upper(),
                         help=f"{comments[field.name].replace('%', '%%')} (default: {field.default!r})")
    publish.set_defaults(only=["all"])
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


def main(argv=None):
    """Run a command; the exit code is 0, 1 (something in the run failed) or 2 (something was asked for wrongly)."""
    argv = [re.sub(r"^([A-Z_]+)=", lambda m: f"--{m[1].lower().replace('_', '-')}=", word)
            for word in (sys.argv[1:] if argv is None else argv)]
    options, unknown = parser().parse_known_args(argv)
    if unknown:
        known = [f"--{f.name.replace('_', '-')}" for f in fields(Parameters)]
        word = unknown[0].split("=")[0]
        print(f"error: there is no option {word!r}.{did_you_mean(word, known)} "
              f"`python -m ebe_utils {options.command} --help` lists them all.", file=sys.stderr)
        return 2
    given = {f.name: getattr(options, f.name) for f in fields(Parameters) if hasattr(options, f.name)}
    try:
        if options.command in ("keep", "reference"):
            return _keep(options)
        only = " ".join(options.only).split()  # ONLY="06 07" comes as one word
        run = run_notebooks(Parameters.of(**given), only)
        if options.command == "publish":
            publish(run)
            update_readme()
        if {*EXPERIMENT} <= {*only} or "all" in only:
            print("\n" + summary(run))
    except (ValueError, TypeError, RunError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunError | OSError) else 2
    return 0


def _keep(options):
    known = Run.kept(REFERENCE)
    for name in options.names or known:
        if options.command == "reference":
            if name not in known:
                raise ValueError(f"there is no run {name!r} in {REFERENCE}; there are {', '.join(known) or 'none'}.")
            steps = [file.parent.name for file in known[name].path.glob("*/manifest.json")]
            run_notebooks(known[name].parameters, sorted({Path(notebook_of(step)).stem for step in steps}))
        print("kept:", keep_results(Run.open(name)))
    update_readme()
    return 0


if __name__ == "__main__":
    sys.exit(main())
