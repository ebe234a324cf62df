"""The bounded search for other devices, with its products taken on the CPU here: neighbours to the last bit.

On a CUDA device, where there is one, the same tests run there.
"""

import numpy as np
import pytest
import torch
from test_bounded_search import KINDS, METRICS, assert_same, brute, rows_of

from ebe_utils.search import on_device
from ebe_utils.search.bounded import BoundedSearch
from ebe_utils.search.engines import searcher
from ebe_utils.search.on_device import DeviceSearch, has_fast_float64

DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]


def found(train, queries, k, metric, device="cpu", shards=(500,)):
    search = DeviceSearch(torch.from_numpy(queries).to(device), k, metric, len(train))
    edges = [0, *[edge for edge in np.cumsum(shards) if edge < len(train)], len(train)]
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        search.add(torch.from_numpy(train[a:b]).to(device))
    return search


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_neighbors_as_brute_force(metric, kind, device):
    train, queries = rows_of(kind, 0, 1200, 300), rows_of(kind, 1, 150, 300)
    search = found(train, queries, 20, metric, device, (500, 500))
    assert_same(search.result(), brute(train, queries, 20, metric))
    assert 20 / 1200 <= search.notes()["exact"] < 0.6


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("what", ["equal", "zeros", "one ulp apart", "tiny", "denormal", "huge", "sorted", "few",
                                  "copies"])
def test_rows_that_are_hard_to_search(what, metric):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(300, 40))
    rows = {"equal": lambda: np.ones((300, 40)), "zeros": lambda: np.where(np.arange(300)[:, None] % 7, rows, 0),
            "one ulp apart": lambda: np.nextafter(np.float32(1), np.float32(2)) ** rng.integers(0, 2, (300, 40)),
            "tiny": lambda: rows * 1e-30, "denormal": lambda: rows * 1e-41, "huge": lambda: rows * 1e30,
            "sorted": lambda: np.sort(rows, 0),
            "few": lambda: rows[:15], "copies": lambda: rows[np.arange(300) % 11]}[what]().astype(np.float32)
    queries = np.concatenate([rows[:12], rng.normal(size=(12, 40)).astype(np.float32)])
    k = min(10, len(rows))
    search = found(rows, queries, k, metric, shards=(100, 7, 93))
    assert_same(search.result(), brute(rows, queries, k, metric))


@pytest.mark.parametrize("metric", METRICS)
def test_tiles_and_waiting_pairs_change_nothing(metric, monkeypatch):
    train, queries = rows_of("saturated", 0, 400, 64), rows_of("saturated", 1, 90, 64)
    expected = found(train, queries, 5, metric).result()
    monkeypatch.setattr(on_device, "_HELD", 400 * 17)
    monkeypatch.setattr(on_device, "_PAIRS", 11)
    assert_same(found(train, queries, 5, metric).result(), expected)
    assert_same(expected, brute(train, queries, 5, metric))


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_wrong_by_less_than_the_bound_allows(metric):
    """Of every pair, against float64: a score above the limit of its own distance is never missed."""
    train, queries = rows_of("saturated", 0, 300, 700), rows_of("saturated", 1, 40, 700)
    search = DeviceSearch(torch.from_numpy(queries), 299, metric, 300)
    search.add(torch.from_numpy(train[:299]))
    search.add(torch.from_numpy(train[299:]))
    block = search._block(search.basis.project(train).bounds(search.basis, 0, True), torch.from_numpy(train))
    scale = [bounds.scale[:, None] for bounds in (block.queries, block.train)]
    a, b = (rows.astype(float) * times - search.basis.center
            for rows, times in zip((queries, train), scale, strict=True))
    exact = a @ b.T - (b * b).sum(1) / 2
    off = abs(block._products(slice(0, 40)).double().numpy() - exact).max(1)
    reach = (block.queries.norm - 2 * block.limits(slice(0, 40)).astype(float))  # squares that are not ruled out
    length, radius = np.sqrt(block.queries.norm), block.train.radius
    allowed = block.slack * (length * radius + radius**2) + 4 * 2**-24 * (1 + length) * radius
    assert (off < allowed).all() and (reach > 0).all()


def test_an_error_beyond_the_bound_would_be_noticed(monkeypatch):
    """The comparison can fail: with scores that are off by more, neighbours are missed."""
    train, queries = rows_of("clusters", 0, 600, 50), rows_of("clusters", 1, 60, 50)
    products = on_device.DeviceBlock._products
    monkeypatch.setattr(on_device.DeviceBlock, "_products", lambda block, part: products(block, part) * (
        1 - 1e-3 * torch.rand(part.stop - part.start, len(block.train.rows))))
    at = found(train, queries, 10, "euclidean").result()[1]
    assert (at != brute(train, queries, 10, "euclidean")[1]).any()


def test_the_precision_of_products_is_raised_and_put_back():
    train, queries = rows_of("subspace", 0, 100, 30), rows_of("subspace", 1, 10, 30)
    seen = []
    products = on_device.DeviceBlock._products
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(on_device.DeviceBlock, "_products", lambda block, part: (
                seen.append(torch.get_float32_matmul_precision()), products(block, part))[1])
            found(train, queries, 3, "cosine").result()
        assert {*seen} == {"highest"} and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


class Elsewhere(torch.Tensor):
    """A tensor on the CPU that says that it is on another device."""

    device = torch.device("cuda")


@pytest.mark.parametrize(("fast", "kind"), [(False, "DeviceSearch"), (True, "BruteForce")])
def test_cards_with_fast_float64_search_by_brute_force(fast, kind, monkeypatch):
    monkeypatch.setattr("ebe_utils.search.engines.check_device", lambda device: device)
    monkeypatch.setattr("ebe_utils.search.engines.has_fast_float64", lambda device: fast)
    for name in ("DeviceSearch", "BruteForce"):
        monkeypatch.setattr(f"ebe_utils.search.engines.{name}", lambda *given, name=name: name)
    queries = torch.randn(30, 20).as_subclass(Elsewhere)
    assert searcher(queries, 3, n_train=10**9) == kind
    assert searcher(queries, 3, n_train=10) == "BruteForce"  # little work
    assert searcher(queries, 3, engine="bounded") == "DeviceSearch"


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((8, 6), False), ((9, 0), True)])
def test_which_cards_have_fast_float64(capability, fast, monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert has_fast_float64(torch.device("cuda")) == fast
    assert not has_fast_float64(torch.device("cpu"))


def test_on_the_cpu_the_search_is_that_of_the_cpu():
    assert type(searcher(torch.randn(30, 20), 3, engine="bounded")) is BoundedSearch
