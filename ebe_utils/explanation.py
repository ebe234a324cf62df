"""What an explanation holds, and how it shows itself as text and as HTML."""

import base64
import html
import io
from dataclasses import dataclass, field

import numpy as np

from .data import scale


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why one image is classified as it is: the training images whose votes have weight, nearest first.

    indices, labels, weights, distances: (k,), or fewer where some of the k nearest have weight 0; proba: (classes,),
    equal to weights @ one_hot(labels); prediction and network_prediction: class indices of EBE and of the network;
    agreement: whether the two are the same.
    """

    indices: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    distances: np.ndarray
    proba: np.ndarray
    prediction: int
    network_prediction: int
    classes: tuple
    layer: int | str
    layer_name: str
    metric: str
    image: object = field(default=None)
    examples: object = field(default=None)

    @property
    def agreement(self):
        return self.prediction == self.network_prediction

    def __repr__(self):
        return f"Explanation(layer={self.layer!r}, k={len(self.indices)}, metric={self.metric!r})"

    def _summary(self):
        both = "the same" if self.agreement else "another class"
        return (f"EBE predicts {self.classes[self.prediction]} ({self.proba[self.prediction]:.0%} of the weight), "
                f"the network {self.classes[self.network_prediction]}: {both}.")

    def _rows(self):
        for rank, (i, label, weight, distance) in enumerate(
                zip(self.indices, self.labels, self.weights, self.distances, strict=True), start=1):
            yield rank, str(int(i)), self.classes[label], f"{weight:.3f}", f"{distance:.4f}"

    def __str__(self):
        width = max(5, *(len(c) for c in self.classes))
        lines = [f"{'rank':>4}  {'index':>6}  {'class':<{width}}  {'weight':>6}  {self.metric + ' distance':>18}"]
        lines += [f"{r:>4}  {i:>6}  {c:<{width}}  {w:>6}  {d:>18}" for r, i, c, w, d in self._rows()]
        return "\n".join([f"Layer {self.layer} ({self.layer_name}). {self._summary()}", *lines])

    def _repr_html_(self):
        """The table with its images; cells of class "measured" depend on the trained network."""
        head = "".join(f"<th>{h}</th>" for h in ("rank", "example", "index", "class", "weight",
                                                 f"{html.escape(self.metric)} distance"))
        rows = []
        for (rank, *cells), image in zip(self._rows(), self.examples, strict=True):
            values = "".join(f'<td class="measured">{html.escape(c)}</td>' for c in cells)
            rows.append(f'<tr><td>{rank}</td><td>{_picture(image)}</td>{values}</tr>')
        return (f"<p>Layer {html.escape(str(self.layer))} ({html.escape(self.layer_name)}). "
                f'<span class="measured">{html.escape(self._summary())}</span></p>'
                f"<p>The image explained: {_picture(self.image)}</p>"
                f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")


def _picture(image, side=56):
    """An <img> of one (C, H, W) image, or its shape if it is no grey or colour image."""
    from PIL import Image

    pixels = scale(image).float().numpy()
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        return f"an input of shape {tuple(pixels.shape)}"
    pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (f'<img class="measured" width="{side}" style="image-rendering:pixelated" alt="training or test image" '
            f'src="data:image/png;base64,{data}">')
