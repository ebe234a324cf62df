"""Search: the k nearest training embeddings, exactly."""

from .engines import ENGINES, METRICS, check_engine, check_k, searcher
from .index import Index, kneighbors

__all__ = ["ENGINES", "METRICS", "Index", "check_engine", "check_k", "kneighbors", "searcher"]
