"""What notebooks print: tables that mark measured values, and checks that pass or fail.

Numbers that come out of a training differ in their last digits from processor to processor, so nbval cannot compare
them. They stand in elements of class "measured", which the comparison leaves out, while a `check` line compares
them with a bound.
"""

import html
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd


def check(what: str, value: Any, at_least: float | None = None, at_most: float | None = None, hint: str = "") -> None:
    """Print a line "PASS what value ≥ bound", or raise AssertionError with the same line and FAIL.

    Without a bound, value is a truth and is not printed. hint: what a reader who fails an exercise should think of;
    it stands below the line that says FAIL.
    """
    if at_least is None and at_most is None:
        ok, line = bool(value), what
    else:
        ok = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        bounds = [f"{sign} {bound:g}" for sign, bound in (("≥", at_least), ("≤", at_most)) if bound is not None]
        line = " ".join([f"{what} {value:.4f}", *bounds])
    if not ok:
        raise AssertionError(f"FAIL {line}" + (f"\nHint: {hint}" if hint else ""))
    print(f"PASS {line}")


def show_table(table: pd.DataFrame, measured: Collection[str] = (), digits: int = 3) -> None:
    """Show a DataFrame in a notebook; floats with `digits` digits, the columns `measured` marked as such."""
    from IPython.display import HTML, display

    def cell(column: str) -> Callable[[object], str]:
        def text(value: object) -> str:
            value = f"{value:.{digits}f}" if isinstance(value, float | np.floating) else html.escape(str(value))
            return f'<span class="measured">{value}</span>' if column in measured else value
        return text

    text = table.to_html(index=False, escape=False, border=0, justify="left",
                         formatters={c: cell(c) for c in table.columns})
    display(HTML(text.replace("<td>", '<td style="text-align:left">')))
