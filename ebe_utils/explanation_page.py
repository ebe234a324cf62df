"""An explanation as a page of its own, for people who have to answer for a decision: one HTML file, pictures inside.

No scripts and nothing from a network; a content policy in the page forbids both. All text is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from .duplicates import in_order
from .example_html import example_html, one_by_one
from .page_style import STYLE
from .search.rows import metric_name

if TYPE_CHECKING:
    from .contrast import Contrast
    from .explanation import Explanation

_WIDTH = 84  # of a picture, in CSS pixels


def page(e: Explanation, contrast: Contrast, note: str = "") -> str:
    """The HTML of an `Explanation`, which needs its evidence; contrast: its `Contrast`; note: a text for the top."""
    parts = [_answer(e, note), _warnings(e), _examples(e), _contrast(e, contrast), _doubt(e), _contest(e),
             _provenance(e)]
    title = _title(e)
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
            "style-src 'unsafe-inline'\">"
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
            + "\n".join(part for part in parts if part) + "\n</main></body></html>\n")


def _title(e):
    """About the network's answer, where there is one: that is what was decided by."""
    return f"Why {e.classes[e.prediction if e.agreement is None else e.network_prediction]}?"


def _name(e, label):
    return f"<b>{html.escape(e.classes[label])}</b>"


def _percent(share):
    """A share in per cent; what is not quite none or all is never called so."""
    if 0 < share < 0.005:
        return "less than 1\u00a0%"
    return "more than 99\u00a0%" if 0.995 <= share < 1 else f"{share:.0%}".replace("%", "\u00a0%")


def _small(value, digits):
    """A number that is at least 0, in so many digits after the point; a small one is not called 0."""
    least = 10.0**-digits
    return f"less than {least:.{digits}f}" if 0 < value < least / 2 else f"{value:.{digits}f}"


def _count(n, one, many=None):
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _section(title, *parts):
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>"


def _table(rows: Iterable[tuple[str, Any]]):
    """rows: what (as it is) and its value (escaped here)."""
    cells = "".join(f"<tr><th>{what}</th><td>{html.escape(str(value))}</td></tr>" for what, value in rows)
    return f"<table>{cells}</table>"


def _card(e, example, lines, kind="", alt="training image"):
    said = "".join(f"<span>{line}</span>" for line in lines if line)
    shown = example_html(example, e.describe, _WIDTH, alt)
    return f'<figure class="{kind}">{shown}<figcaption>{said}</figcaption></figure>'


def _answer(e, note):
    said = [f"<p>The examples say {_name(e, e.prediction)}, with {_percent(e.proba[e.prediction])} of their votes.</p>"]
    if e.network_prediction is None:
        said.append("<p>No network was asked: these are neighbours of an embedding.</p>")
    elif not e.comparable:
        said.append(f"<p>The network's output number {e.network_prediction} is its largest. Its classes are not those "
                    "of the labels, so the two cannot be compared.</p>")
    else:
        sure = "" if e.network_proba is None else f", with a probability of {_percent(e.network_proba.max())}"
        said.insert(0, f"<p>The network says {_name(e, e.network_prediction)}{sure}.</p>")
        said.append("<p>Both agree: the examples explain the network's own answer.</p>" if e.agreement else
                    "<p>They disagree: the examples explain another answer than the network's.</p>")
    if e.total_variation is not None:
        said.append(f"<p>Over all classes, {_percent(e.total_variation)} of the network's probability would have to "
                    "move to another class to match the votes (total variation).</p>")
    head = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return (f"<header><h1>{html.escape(_title(e))}</h1>{head}<div class=answer>"
            f"{_card(e, e.image, ['the input explained'], 'input', 'the input explained')}"
            f"<div>{''.join(said)}</div></div></header>")


def _warnings(e):
    found = []
    if e.agreement is False:
        found.append("The network and the examples disagree. Do not take the examples as the network's reason.")
    if e.doubt is not None and e.doubt.none_near:
        found.append("None of the training examples is near this input. It may be of a kind that the network has never "
                     "seen; do not rely on the answer.")
    if e.doubt is not None and (kept := len(e.doubt.prediction_set())) != 1:
        found.append(("More than one class is possible" if kept else "No class fits its examples as well as usual")
                     + "; see <em>How sure?</em>")
    if e.contest.relabelling is not None and len(e.contest.relabelling) == 1 and len(e.indices) > 1:
        found.append("The answer of the examples stands on a single one: were it of another class, they would say "
                     f"{_name(e, e.contest.relabelling.becomes)}.")
    return "".join(f'<p class="warning" role="alert">{text}</p>' for text in found)


def _examples(e):
    kinds = in_order(e.groups * len(e.classes) + e.labels)  # near-duplicates with one label
    first = np.unique(kinds, return_index=True)[1]
    shown = one_by_one(e.examples, len(e.indices))
    sides: dict[str, list[str]] = {"for": [], "against": []}
    for at in first:
        same = kinds == kinds[at]
        copies = f"and {_count(int(same.sum()) - 1, 'near-duplicate')}" if same.sum() > 1 else ""
        side = "for" if e.labels[at] == e.prediction else "against"
        other = e.indices[(e.groups == e.groups[at]) & (e.labels != e.labels[at])]
        lines = [f"{_name(e, e.labels[at])}", f"weight {_small(e.weights[same].sum(), 2)}", f"no. {e.indices[at]}",
                 copies, f"like no. {other[0]}, which has another label" if len(other) else ""]
        sides[side].append(_card(e, shown[at], lines, side))
    few = "" if len(first) == len(e.indices) else (
        f" They show {_count(e.groups.max() + 1, 'different thing')}: near-duplicates are shown once, with their joint "
        "weight.")
    said = (f"<p>The {_count(len(e.indices), 'training example')} whose votes make the answer, nearest first. Weights "
            f"add up to 1.{few}</p>")
    if sides["for"]:
        said += f"<h3>For {html.escape(e.classes[e.prediction])}</h3><div class=cards>{''.join(sides['for'])}</div>"
    said += (f"<h3>Against it</h3><div class=cards>{''.join(sides['against'])}</div>" if sides["against"] else
             "<p class=after>No example speaks against it.</p>")
    return _section("The examples", said)


def _contrast(e, contrast):
    columns = []
    for side in contrast.sides:
        network = "" if side.network_proba is None else f"network {_percent(side.network_proba)}, "
        cards = [_card(e, example, [f"distance {_small(distance, 4)}", f"no. {i}",
                                    f"and {_count(copies - 1, 'near-duplicate')}" if copies > 1 else ""])
                 for example, distance, i, copies in zip(one_by_one(side.examples, len(side.indices)), side.distances,
                                                         side.indices, side.copies, strict=True)]
        columns.append(f"<div class=side><h3>{html.escape(side.name)}</h3><p>{network}votes {_percent(side.share)}</p>"
                       f"<div class=cards>{''.join(cards) or '<p>There is no training example of it.</p>'}</div></div>")
    return _section("Why this and not that?", "<p>The nearest training examples of the most probable classes. If those "
                    "of another class look as much like the input, the call is close.</p>",
                    f"<div class=sides>{''.join(columns)}</div>")


def _doubt(e):
    doubt = e.doubt
    if doubt is None:
        return _section("How sure?", "<p>Not known: the classifier has not been calibrated on held-out examples "
                        "(<code>EBEClassifier.calibrate</code>).</p>")
    kept = [html.escape(e.classes[c]) for c in doubt.prediction_set()]
    listed = ", ".join(f"<b>{name}</b>" for name in kept)
    said = (f"With {_percent(doubt.coverage)} coverage, the class is {'one of ' if len(kept) > 1 else ''}{listed}."
            if kept else f"At {_percent(doubt.coverage)} coverage no class fits: none resembles its examples as "
            "held-out inputs do theirs.")
    said += (f" Sets made like this one hold the true class of {_percent(doubt.coverage)} of new inputs or more, if "
             "these are like the held-out ones.")
    rows = [("credibility: how well the best class fits", f"{doubt.credibility:.2f}"),
            ("confidence: how clearly the others are rejected", f"{doubt.confidence:.2f}"),
            ("share of held-out inputs as far from the training examples as this one, or farther",
             _percent(doubt.far_p)),
            ("held-out inputs", f"{doubt.held_out:,}")]
    if (network := doubt.network_set()) is not None:
        rows.insert(0, ("classes by the network's probabilities alone, at the same coverage",
                        ", ".join(e.classes[c] for c in network) or "none"))
    far = ("<b>None of the training examples is near.</b>" if doubt.none_near else
           "The nearest training examples are as near as usual." if doubt.far_p > 0.1 else
           "The nearest training examples are farther than usual.")
    return _section("How sure?", f"<p>{said}</p><p>{far}</p>", _table(rows))


def _contest(e):
    found, said = e.contest, []
    if found.relabelling is not None:
        said.append(f"If {_count(len(found.relabelled), 'of the examples', 'of the examples')} "
                    f"({_numbers(found.relabelled)}) had another label, the answer would be "
                    f"{_name(e, found.relabelling.becomes)}.")
    else:
        said.append(f"By other labels: {html.escape(found.relabelling_note)}")
    if found.removal is not None:
        said.append(f"If {_count(len(found.removed), 'training example')} ({_numbers(found.removed)}) had been absent, "
                    f"the answer would be {_name(e, found.removal.becomes)}.")
    else:
        said.append(f"By absent examples: {html.escape(found.removal_note)}")
    return _section("What would change it?", *(f"<p>{line}</p>" for line in said),
                    "<p>These are the fewest. The fewer they are, the easier the answer is to contest. They change "
                    "what the examples say, not what the network says.</p>")


def _numbers(indices, most=20):
    rest = f" and {len(indices) - most:,} more" if len(indices) > most else ""
    return "no. " + ", ".join(str(i) for i in indices[:most]) + rest


def _provenance(e):
    about = dict(e.evidence.provenance)
    network = about.pop("network")
    rows = [("network", "none" if network is None else network["type"]),
            *([] if network is None else [("its fingerprint (SHA-256 of the weights)", network["fingerprint"])]),
            ("layer", e.layer if str(e.layer) == e.layer_name else f"{e.layer} ({e.layer_name})"), ("metric", e.metric),
            *((html.escape(name), f"{value:,}" if isinstance(value, int) else metric_name(value))
              for name, value in about.items()
              if name != "candidates" or about["target"] == "network"),
            ("package", f"ebe-utils {_version()}")]
    return _section("Where this comes from", _table(rows))


def _version():
    try:
        return version("ebe-utils")
    except PackageNotFoundError:
        return "(not installed)"
