"""The explorer: one page on which a reader picks a test image, a layer and k, and sees whose votes decide.

`explore` collects what the page needs from a search that was done before; `Explorer.save` writes it as one HTML file
that needs neither kernel nor network, and `Explorer.widget` shows it in Jupyter. The page itself is
`static/explorer.js`, an ES module to the contract of anywidget. It counts the votes by the rule of `ebe_utils.votes`.
"""

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import nn

from .explorer_payload import Source, payload_of
from .explorer_pictures import pictures
from .files import write_text
from .layer_neighbors import LayerNeighbors

_EXPORT = "export default { render };"


@dataclass(frozen=True, repr=False)
class Explorer:
    """A page to explore neighbours with. payload: all that it shows, as JSON can hold it; title: of the page."""

    payload: dict[str, Any]
    title: str

    def to_html(self) -> str:
        """The page as one text: pictures, neighbours, style and script are inside."""
        module = _static("explorer.js")
        if module.count(_EXPORT) != 1:
            raise ValueError("ebe_utils/static/explorer.js is damaged: its last line does not export the page; "
                             "install the package again.")
        parts = {"title": html.escape(self.title), "style": _static("explorer.css"),
                 "module": module.replace(_EXPORT, ""), "payload": json.dumps(self.payload).replace("<", "\\u003c")}
        return re.sub(r"\{(title|style|module|payload)\}", lambda found: parts[found[1]], _static("explorer.html"))

    def save(self, path: str | Path) -> Path:
        """Write the page to an HTML file, which opens in any browser; returns its path."""
        write_text(Path(path), self.to_html())
        return Path(path)

    def widget(self) -> Any:
        """The page as a Jupyter widget, whose traits image, layer, k and weights are what the reader has chosen.

        Raises ImportError where the package anywidget is not installed.
        """
        try:
            import anywidget
            import traitlets
        except ImportError as error:
            raise ImportError("a widget needs the package anywidget, which is not installed; install it with\n"
                              "  pip install 'ebe-utils[notebooks]'\nor write a page with save('explorer.html').",
                              name=error.name) from None
        start = self.payload["start"]

        class ExplorerWidget(anywidget.AnyWidget):
            _esm = _static("explorer.js")
            _css = _static("explorer.css")
            payload = traitlets.Dict().tag(sync=True)
            image = traitlets.Int(start["image"]).tag(sync=True)
            layer = traitlets.Any(start["layer"]).tag(sync=True)
            k = traitlets.Int(start["k"]).tag(sync=True)
            weights = traitlets.Unicode(start["weights"]).tag(sync=True)

            def __repr__(self):
                return about

        about = repr(self)
        return ExplorerWidget(payload=self.payload)

    def _repr_html_(self, height: int = 860) -> str:
        return (f'<iframe title="{html.escape(self.title)}" style="width:100%;height:{height}px;border:0" '
                f'srcdoc="{html.escape(self.to_html())}"></iframe>')

    def __repr__(self):
        shape = self.payload["neighbors"]["shape"]
        return f"Explorer of {shape[0]} test inputs at {shape[1]} layers, k up to {shape[2]}"


def _static(name: str) -> str:
    return (files("ebe_utils") / "static" / name).read_text(encoding="utf-8")


def explore(neighbors: LayerNeighbors, train_set: Any, test_set: Any, model: nn.Module | None = None,
            classes: Sequence[str] = (), network_proba: ArrayLike | None = None, embeddings: Mapping | None = None,
            images: int = 200, positions: Sequence[int] | None = None, layer: int | str | None = None, k: int = 10,
            k_max: int | None = None, pooling: str = "none", projection: str = "pca",
            describe: Callable[[Any], Any] | None = None, title: str = "Which training examples vote?", seed: int = 0,
            max_bytes: int = 5_000_000, device: str | torch.device = "auto") -> Explorer:
    """An `Explorer` of a search at several layers.

    neighbors: of `layer_neighbors`, or of the functions of `ebe_utils.streams`. train_set, test_set: the inputs that
    were searched, `ImageSet`s, arrays or lists of texts; with `describe`, which turns one of them into a text, anything
    that has a length and can be indexed. model: the network, for its softmax and the maps, where the inputs are arrays;
    otherwise network_proba, (n_test, outputs), and embeddings, {layer: (training (n_train, d), test (n_test, d))}, as
    far as they are at hand. classes: names, by default the training set's.

    images: how many test inputs to show. Of more than that, up to half are drawn from those that the network gets
    wrong or where the vote of `k` at `layer` (default: 14, or one in the middle) is not the network's answer, the rest
    from all others; or positions: which. k_max: the largest k on the page, by default as many as were searched.
    pooling: that of the search. projection: of the maps, "pca", "tsne" or "none". seed: of all that is drawn.
    max_bytes: of the page; where it is too little, the farthest examples have no picture.
    Raises ValueError or TypeError for parts that do not belong together, and where the page would be too large.
    """
    source = Source(neighbors, train_set, test_set, model, tuple(map(str, classes)), network_proba, embeddings, pooling,
                    device)
    payload, at, slots, ranks = payload_of(source, images, positions, layer, k, k_max, projection, seed)
    page = Explorer({**payload, "pictures": {}}, title)
    room = max_bytes - len(page.to_html().encode()) - 1000  # for the names of the parts
    found = pictures(source.inputs(test_set), at, source.inputs(train_set), slots, room, describe)
    # The examples come in the order of their best rank: up to that of the first one left out, all are shown.
    found["rank"] = int(ranks[found["count"]:][:1].min(initial=payload["k_max"] + 1)) - 1
    return Explorer({**payload, "pictures": found}, title)
