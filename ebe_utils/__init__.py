"""Example-based explanations of deep networks (EBE-DNN, arXiv:2502.19768).

One module per step: data -> model, training -> embeddings -> search -> votes -> explainer, explanation -> sweep.
Beyond the paper, and on top of these: metrics, faithfulness, selection, methods (other people's), similarity.
`ebe_utils.study` is what the notebooks and the command line run on; the library never imports from it.
"""

from .data import ImageSet
from .datasets import load_dataset
from .embeddings import embed
from .explainer import EBEClassifier
from .explanation import Explanation
from .layer_neighbors import layer_neighbors
from .layers import conv_layers, layer_table
from .model import load_model, resnet18_for, save_model
from .search import kneighbors
from .selection import select
from .sweep import layer_sweep
from .tables import sweep_table
from .training import train
from .votes import one_hot

__version__ = "0.1.0"
__all__ = ["EBEClassifier", "Explanation", "ImageSet", "conv_layers", "embed", "kneighbors", "layer_neighbors",
           "layer_sweep", "layer_table", "load_dataset", "load_model", "one_hot", "resnet18_for", "save_model",
           "select", "sweep_table", "train"]
