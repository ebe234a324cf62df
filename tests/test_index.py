"""Step 4, embeddings that are held: what an index costs, and what can be saved of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import haversine_distances

from ebe_utils.devices import float64_device
from ebe_utils.files import forget_pages
from ebe_utils.search import Index, kneighbors, searcher
from ebe_utils.search.brute_force import BruteForce
from ebe_utils.search.index import bytes_of_bounds


def rows_near_a_subspace(seed, n, d):
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    turn = fixed.normal(size=(40, d)) * np.exp(-np.arange(40) / 10)[:, None]
    return (rng.normal(size=(n, 40)) @ turn + 0.05 * rng.normal(size=(n, d))).astype(np.float32)


def brute(train, queries, k, metric):
    found = BruteForce(torch.from_numpy(queries), k, metric)
    found.add(torch.from_numpy(train))
    return found.result()


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_saved_state_and_embeddings_on_disk_answer_as_before(metric, tmp_path):
    train, queries = rows_near_a_subspace(0, 3000, 500), rows_near_a_subspace(1, 40, 500)
    np.save(tmp_path / "rows.npy", train)
    on_disk = np.load(tmp_path / "rows.npy", mmap_mode="r")
    index = Index(on_disk, metric)
    state = index.state()
    assert sum(v.nbytes for v in state.values()) < 0.3 * train.nbytes
    np.savez(tmp_path / "state.npz", **state)
    with np.load(tmp_path / "state.npz") as file:
        again = Index.from_state(np.load(tmp_path / "rows.npy", mmap_mode="r"), dict(file), metric)
    expected = brute(train, queries, 12, metric)
    assert_same(index.kneighbors(queries, 12), expected)
    assert_same(again.kneighbors(queries, 12), expected)
    assert_same(again.kneighbors(queries[3:4], 12), [part[3:4] for part in expected])
    assert_same(Index.from_state(train, again.state(), metric).kneighbors(queries, 12), expected)


def test_a_state_of_other_embeddings_is_refused():
    train = rows_near_a_subspace(0, 2000, 300)
    state = Index(train).state()
    with pytest.raises(ValueError, match="other embeddings, of shape .2000, 300.; these have shape .2000, 300."):
        Index.from_state(rows_near_a_subspace(1, 2000, 300), state)
    with pytest.raises(ValueError, match="these have shape .1999, 300."):
        Index.from_state(train[1:], state)
    with pytest.raises(ValueError, match="for cosine distances, not for metric='euclidean'"):
        Index.from_state(train, state, "euclidean")
    with pytest.raises(ValueError, match="has no order, fine; pass what Index.state"):
        Index.from_state(train, {name: v for name, v in state.items() if name not in ("order", "fine")})
    with pytest.raises(ValueError, match="no state to save"):
        Index(train[:50]).state()


MEASURE = """
import sys
from pathlib import Path
import numpy as np
from ebe_utils.search import Index

def resident(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

what, path = sys.argv[1:]
small = np.random.default_rng(0).normal(size=(2000, 400)).astype(np.float32)
Index.from_state(small, Index(small).state()).kneighbors(small[:1], 5)  # the kernels and libraries that any index needs
before = resident("VmRSS")
rows = np.load(path, mmap_mode=None if what == "held" else "r")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
if what == "restored":
    Index.from_state(rows, dict(np.load(path + ".npz"))).kneighbors(np.array(rows[:1]), 5)
else:
    index = Index(rows)
    if what == "disk":
        np.savez(path + ".npz", **index.state())
print((resident("VmRSS") - before) / rows.nbytes, (resident("VmHWM") - before) / rows.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_index_takes_little_memory_beside_its_embeddings(tmp_path):
    """Measured, in a process of its own: held and peak, as shares of 160 MB of embeddings."""
    path = str(tmp_path / "rows.npy")
    np.save(path, rows_near_a_subspace(0, 40_000, 1000))

    def measured(what):
        done = subprocess.run([sys.executable, "-c", MEASURE, what, path], capture_output=True, text=True, check=True)
        return map(float, done.stdout.split())

    held, peak = measured("held")
    assert 1 < held <= 1.3 and peak <= 1.6
    held, peak = measured("disk")
    assert held < 0.7 and peak < 0.8
    held, peak = measured("restored")
    assert held < 0.5 and peak < 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_that_were_read_are_given_back_whatever_view_they_were_read_through(tmp_path):
    """The file stays the only place that holds them: the memory that /proc counts for it is none."""
    rows = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(5000, 200))
    rows[:] = 1
    rows.flush()
    mapped = np.memmap(tmp_path / "rows", np.float32, "r", shape=(5000, 200))
    del rows

    def resident():
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        return sum(int(next(line for line in lines if line.startswith("Rss:")).split()[1]) for line in lines
                   if line.endswith(str(tmp_path / "rows")))

    for view in (mapped, mapped[10:], np.asarray(mapped), np.asarray(mapped[10:])[:, :3]):
        assert np.asarray(mapped).sum() == 1e6 and resident() > 3000
        forget_pages(view)
        assert resident() == 0
    forget_pages(np.ones((3, 3)))


def test_what_bounds_take_is_known_before(monkeypatch):
    train = rows_near_a_subspace(0, 6000, 400)
    needed = bytes_of_bounds(*train.shape)
    process = type("Process", (), {"memory_info": lambda self: type("Info", (), {"rss": 0})})
    monkeypatch.setattr("ebe_utils.search.index.psutil.Process", process)
    monkeypatch.setattr("ebe_utils.search.index.BLOCK", 2**16)
    assert Index(train, memory_budget=(needed + 1) / 2**30).basis is not None
    assert Index(train, memory_budget=(needed - 1) / 2**30).basis is None
    assert bytes_of_bounds(10, 4) == 0  # brute force
    held = sum(part.nbytes for part in Index(train).state().values())
    assert held < needed


def test_a_memory_budget_is_kept_or_refused(monkeypatch):
    train, queries = rows_near_a_subspace(0, 3000, 500), rows_near_a_subspace(1, 3, 500)
    process = type("Process", (), {"memory_info": lambda self: type("Info", (), {"rss": 2**30})})
    monkeypatch.setattr("ebe_utils.search.index.psutil.Process", process)
    monkeypatch.setattr("ebe_utils.search.index.BLOCK", 2**16)
    roomy, tight = Index(train, memory_budget=1.1), Index(train, memory_budget=1.01)
    assert roomy.basis is not None and tight.basis is None
    assert_same(roomy.kneighbors(queries, 7), tight.kneighbors(queries, 7))
    with pytest.raises(ValueError, match=r"1.00 GiB is too small for an index of 3,000 embeddings of 500 dimensions: "
                                         r"the least is 1.00 GiB, with 1.00 that the process has"):
        Index(train, memory_budget=1.001)
    with pytest.raises(TypeError, match="memory_budget"):
        Index(train, memory_budget="1 GiB")


def test_devices():
    train, queries = rows_near_a_subspace(0, 2000, 300), rows_near_a_subspace(1, 3, 300)
    expected = brute(train, queries, 5, "cosine")
    assert_same(Index(train, "cosine", "cpu").kneighbors(queries, 5), expected)
    for call in (lambda: Index(train, "cosine", "meta"), lambda: searcher(torch.empty(3, 300, device="meta"), 5)):
        with pytest.raises(ValueError, match="device='meta' holds no values"):
            call()
    with pytest.raises(ValueError, match="cannot be used here"):
        Index(train, device="nowhere")
    assert float64_device(torch.device("mps")) == torch.device("cpu")  # which has no float64
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_index_on_another_device_finds_the_same(metric, monkeypatch):
    """What other devices do, done here: torch's own operations in place of the kernels, and rows that are moved."""
    train, queries = rows_near_a_subspace(0, 2000, 301), rows_near_a_subspace(1, 30, 301)
    train[[5, 900, 1900]] = train[7]
    queries[0], queries[1], train[33] = train[7], 0, 0
    expected = brute(train, queries, 40, metric)
    from ebe_utils.search import brute_force
    monkeypatch.setattr(brute_force, "_pairs_here", brute_force._pairs_elsewhere)
    monkeypatch.setattr(brute_force, "BLOCK", 10_000)
    distances, indices = brute(train, queries, 40, metric)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(distances, expected[0], rtol=1.3e-7)
    assert indices[0, :4].tolist() == [5, 7, 900, 1900] and (distances[0, :4] == 0).all()


def test_float64_work_of_a_device_without_it_is_done_on_the_cpu(monkeypatch):
    moved = []
    monkeypatch.setattr("ebe_utils.search.brute_force.float64_device",
                        lambda device: moved.append(device) or torch.device("cpu"))
    search = searcher(torch.randn(3, 8, dtype=torch.float16), 2)
    search.add(torch.randn(9, 8, dtype=torch.bfloat16))
    assert moved and search.result()[1].shape == (3, 2)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_metric_may_be_a_function(engine):
    """Distances on the sphere, against scikit-learn's own search by that metric."""
    rng = np.random.default_rng(0)
    train, queries = (rng.uniform(-1.5, 1.5, (n, 2)).astype(np.float32) for n in (200, 12))
    expected = haversine_distances(queries.astype(float), train.astype(float)).argsort(1)[:, :9]
    np.testing.assert_array_equal(kneighbors(train, queries, 9, haversine_distances)[1], expected)
    search = searcher(torch.from_numpy(queries), 9, haversine_distances, engine, 200)
    for rows in torch.from_numpy(train).split(70):
        search.add(rows)
    np.testing.assert_array_equal(search.result()[1], expected)
    of_two_vectors = lambda a, b: pairwise_distances(a, b, lambda x, y: np.abs(x - y).max())  # noqa: E731
    np.testing.assert_array_equal(kneighbors(train, queries, 9, of_two_vectors)[1],
                                  pairwise_distances(queries, train, "chebyshev").argsort(1, kind="stable")[:, :9])


@pytest.mark.parametrize("metric, words", [
    (lambda a, b: 1.0, r"array of shape \(\); it takes arrays .m, d. and .n, d."),
    (lambda a, b: haversine_distances(b, a), "must return their finite distances, here .3, 20."),
    (lambda a, b: np.full((3, 20), np.nan), "returned NaN, infinity or")])
def test_a_function_that_returns_something_else_is_refused(metric, words):
    rows = np.random.default_rng(0).uniform(size=(20, 2))
    with pytest.raises(ValueError, match=words):
        kneighbors(rows, rows[:3], 2, metric)


class Scripted:
    """An engine that returns what it is given."""

    answer = np.zeros((2, 3)), np.tile([0, 1, 2], (2, 1))

    def __init__(self, queries, k, metric, n_train):
        self.given = tuple(queries.shape), k, metric, n_train

    def add(self, rows):
        pass

    def result(self):
        return self.answer

    def notes(self):
        return {"given": self.given}


def test_an_engine_may_be_an_object_of_ones_own(monkeypatch):
    search = searcher(torch.randn(2, 4), 3, "cosine", Scripted, 5)
    search.add(torch.randn(5, 4))
    distances, indices = search.result()
    assert distances.dtype == np.float32 and indices.dtype == np.int64 and indices.tolist() == [[0, 1, 2]] * 2
    assert search.notes() == {"given": ((2, 4), 3, "cosine", 5)}
    with pytest.raises(ValueError, match="3 dimensions|have 4 dimensions"):
        search.add(torch.randn(5, 3))
    for answer, words in (
            ((np.zeros((2, 3)), np.array([[0, 1, 2], [4, 3, -1]])), "fewer than 3 neighbours for query 1: index -1"),
            ((np.zeros((2, 3)), np.full((2, 3), np.iinfo(np.int64).max)), "index 9223372036854775807"),
            ((np.array([[0, 1, np.inf]] * 2), Scripted.answer[1]), "distance inf"),
            ((np.zeros((2, 2)), np.zeros((2, 2), int)), r"both must be \(2, 3\)")):
        monkeypatch.setattr(Scripted, "answer", answer)
        with pytest.raises(ValueError, match=words):
            search.result()


@pytest.mark.parametrize("engine, metric, words", [
    ("boundd", "cosine", "Did you mean 'bounded'"), ("faiss", "cosine", "choose one of auto, bounded, torch"),
    (3, "cosine", "engine=3 is unknown"), ("bounded", "manhattan", "for metric='manhattan' choose 'auto' or 'torch'"),
    ("auto", "cosin", "Did you mean 'cosine'")])
def test_what_the_search_refuses(engine, metric, words):
    with pytest.raises(ValueError, match=words):
        searcher(torch.randn(2, 4), 1, metric, engine)


@pytest.mark.parametrize("k, error", [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_a_search_for_no_neighbours_is_refused(k, error):
    with pytest.raises(error, match="k="):
        searcher(torch.randn(2, 4), k)
