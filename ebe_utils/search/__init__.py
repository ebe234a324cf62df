"""Search: the k nearest training embeddings, exactly."""

from .engines import ENGINES, METRICS, check_engine, check_k, check_metric, searcher
from .index import Index, kneighbors

__all__ = ["ENGINES", "METRICS", "Index", "check_engine", "check_k", "check_metric", "kneighbors", "searcher"]
