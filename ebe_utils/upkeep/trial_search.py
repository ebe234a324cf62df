"""The trial, adversarial searches: rows that break a careless search, against sums in extended precision."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from ..search import Index
from ..search.bounded import BoundedSearch, NearestLists, search
from ..search.brute_force import BruteForce
from ..search.on_device import DeviceSearch
from ..search.projection import Basis

METRICS = ("cosine", "euclidean")
KINDS = ("normal", "rank 1", "constant", "copies", "one ulp apart", "with zeros", "sorted by class", "far out",
         "integers", "one value")


def drawn(kind: str, rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Rows (n, d) of one kind, one of `KINDS`."""
    rows = rng.normal(size=(n, d))
    if kind == "rank 1":
        rows = rng.normal(size=(n, 1)) * rows[:1]
    elif kind == "constant":
        rows[:] = rows[0]
    elif kind == "copies":
        rows = rows[rng.integers(0, max(1, n // 5), n)]
    elif kind == "one ulp apart":
        rows = np.repeat(rows[:1], n, 0).astype(np.float32)
        some = rng.random(rows.shape) < 0.3
        rows[some] = np.nextafter(rows[some], np.float32(np.inf))
    elif kind == "with zeros":
        rows[rng.random(n) < 0.4] = 0
    elif kind == "sorted by class":
        rows += 30 * np.sort(rng.integers(0, 3, n))[:, None]
    elif kind == "far out":
        rows *= 10.0 ** rng.integers(-12, 12, (n, 1))
    elif kind == "integers":
        rows = rng.integers(-1, 2, (n, d)).astype(float)
    elif kind == "one value":
        rows = np.zeros((n, d))
        rows[np.arange(n), rng.integers(0, d, n)] = rng.choice([-1.0, 1.0, 2.0], n)
    return rows


def in_extended_precision(train: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """All distances (m, n) in np.longdouble, from the definitions."""
    train, queries = train.astype(np.longdouble), queries.astype(np.longdouble)
    if metric == "cosine":
        zero = ~np.logical_and.outer(np.any(queries, 1), np.any(train, 1))
        train, queries = (v / np.sqrt(np.where(v.any(1), (v**2).sum(1), np.longdouble(1)))[:, None]
                          for v in (train, queries))
    far = ((queries[:, None] - train[None]) ** 2).sum(2)
    return np.where(zero, np.longdouble(1), far / 2) if metric == "cosine" else np.sqrt(far)


def engines(train: np.ndarray, queries: np.ndarray, k: int, metric: str, shard: int, rank: int,
            ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(distances, indices) of the engines in shards, of the bounds with any directions, and of the index."""
    for engine in (BoundedSearch, BruteForce, DeviceSearch):
        found = engine(torch.from_numpy(queries), k, metric)
        for rows in torch.from_numpy(train).split(shard):
            found.add(rows)
        yield found.result()
    basis = Basis(train[:shard], metric, rank, queries)
    coarse = basis.rank // 2
    lists, here = NearestLists(len(queries), k), basis.project(queries).bounds(basis, coarse, False)
    for start in range(0, len(train), shard):
        search(basis, here, basis.project(train[start:start + shard]).bounds(basis, coarse, True), lists, start)
    most = min(k, len(train))
    yield lists.distances[:, :most], lists.indices[:, :most]
    yield Index(train, metric).kneighbors(queries, most)


def allowed(exact: np.ndarray, metric: str) -> np.ndarray:
    """By how much a distance may differ from the exact one, beyond the rounding to float32.

    Unit vectors in float64 are off by 2^-53 in each value. Where two rows nearly point the same way, their difference
    v is small, and half its square, the cosine distance, is off by about |v| times that.
    """
    if metric == "cosine":
        return 1e-26 + 4 * 2.0**-53 * np.sqrt(2 * exact.astype(float))
    return np.full(exact.shape, 3e-45)


def check_case(kind: str, metric: str, seed: int, n: int, d: int, k: int, exponent: int, shard: int, rank: int) -> None:
    """Every engine finds the nearest rows of extended precision, ties by position, and all find the same.

    Raises AssertionError where one does not.
    """
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", under="ignore"):
        both = np.asarray(drawn(kind, rng, n + 5, d) * 10.0**exponent, np.float32)
    most = np.float32(1e37 / np.sqrt(d))  # of float32, as the rows are: a limit of float64 would make them wider
    both = np.clip(both, -most, most)
    assert both.dtype == np.float32
    train, queries = both[5:], np.concatenate([both[:5], both[5:7]])
    exact = in_extended_precision(train, queries, metric)
    first: tuple[np.ndarray, np.ndarray] | None = None
    for distances, indices in engines(train, queries, k, metric, shard, rank):
        assert indices.shape == distances.shape == (len(queries), min(k, n))
        assert (indices >= 0).all() and (indices < n).all() and np.isfinite(distances).all()
        for wanted in (np.sort(exact, 1)[:, :min(k, n)], np.take_along_axis(exact, indices, 1)):
            off = abs(distances - wanted.astype(float))
            most = 1.3e-7 * wanted.astype(float) + allowed(wanted, metric)
            assert (off <= most).all(), f"a distance is off by {off.flat[(off - most).argmax()]:.3g}"
        assert all(len(set(row)) == len(row) for row in indices.tolist())
        for near, at in zip([*distances], [*indices], strict=True):
            assert (np.diff(near) >= 0).all() and (np.diff(at)[np.diff(near) == 0] > 0).all()
        first = first or (distances, indices)
        np.testing.assert_array_equal(distances, first[0])
        np.testing.assert_array_equal(indices, first[1])


def cases() -> Callable:
    """A decorator of hypothesis that draws the arguments of `check_case`."""
    from hypothesis import given  # of the extra "test"
    from hypothesis import strategies as st

    return given(st.sampled_from(KINDS), st.sampled_from(METRICS), st.integers(0, 2**32 - 1), st.integers(1, 90),
                 st.sampled_from([1, 2, 7, 40, 300]), st.integers(1, 12), st.integers(-43, 37),
                 st.sampled_from([1, 13, 90]), st.sampled_from([0, 1, 8, 40]))


def searched(times: int, start: int) -> list[tuple[str, str]]:
    """Cases of `check_case` drawn by hypothesis; [(kind of rows, "" or what went wrong)]. start: seed of the draws."""
    from hypothesis import HealthCheck, seed, settings  # of the extra "test"

    found = []

    @seed(start)
    @settings(max_examples=times, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @cases()
    def case(kind, metric, seed, n, d, k, exponent, shard, rank):
        rest = (metric, seed, n, d, k, exponent, shard, rank)
        try:
            check_case(kind, *rest)
            found.append((kind, ""))
        except (AssertionError, ValueError, ArithmeticError, LookupError) as error:
            words = str(error).strip() or type(error).__name__  # an assertion may have none
            found.append((kind, f"{(kind, *rest)}: {words.splitlines()[0]}"))

    case()
    return found
