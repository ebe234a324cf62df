"""Example-based explanations of deep networks (EBE-DNN, arXiv:2502.19768).

One module per step: data -> model, training -> embeddings -> neighbors -> attribution -> sweep -> claims, figures;
runs keeps what the steps leave behind, pipeline runs the notebooks, reference keeps results that are committed. Beyond
the paper, and on top of these: evaluation, selection, methods (other people's), similarity.
"""

from .attribution import EBEClassifier, Explanation, one_hot
from .data import ImageSet, load_dataset
from .embeddings import embed
from .model import conv_layers, layer_table, load_model, resnet18, save_model
from .neighbors import kneighbors
from .selection import select
from .sweep import layer_neighbors, layer_sweep, sweep_table
from .training import train

__version__ = "0.1.0"
__all__ = ["EBEClassifier", "Explanation", "ImageSet", "conv_layers", "embed", "kneighbors", "layer_neighbors",
           "layer_sweep", "layer_table", "load_dataset", "load_model", "one_hot", "resnet18", "save_model",
           "select", "sweep_table", "train"]
