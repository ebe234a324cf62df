"""Search: the k nearest training embeddings, exactly."""

from .engines import ENGINES, SearchEngine, check_engine, check_k, searcher
from .index import Index, kneighbors
from .rows import METRICS, check_metric

__all__ = ["ENGINES", "METRICS", "Index", "SearchEngine", "check_engine", "check_k", "check_metric", "kneighbors",
           "searcher"]
