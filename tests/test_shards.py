"""Embeddings in parts, on several processes of which one dies, and in somebody else's database."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from ebe_utils import layer_neighbors, sweep_table
from ebe_utils.search import Index
from ebe_utils.search.engines import searcher
from ebe_utils.shards import ask_shards, save_shards
from ebe_utils.vector_database import VectorDatabase, open_database, search_database


@pytest.fixture(scope="module")
def embeddings():
    """(rows, labels as texts, queries); the rows have copies of each other, in different parts."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((900, 12)) @ rng.standard_normal((12, 40))).astype(np.float32)
    rows[700:730] = rows[:30]
    return rows, np.array(["cat", "dog", "emu"])[np.arange(900) % 3], rows[::90] + np.float32(0.01)


@pytest.fixture(scope="module")
def folder(embeddings, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    assert len(save_shards(*embeddings[:2], path / "parts", 400, metric="euclidean")) == 3
    return path / "parts"


def test_parts_answer_as_the_whole(embeddings, folder):
    rows, labels, queries = embeddings
    for k in (1, 7, 150):  # the last part has 100 rows
        distances, indices, said = ask_shards(folder, queries, k)
        expected = Index(rows, "euclidean").kneighbors(queries, k)
        np.testing.assert_array_equal(distances, expected[0])
        np.testing.assert_array_equal(indices, expected[1])
        np.testing.assert_array_equal(said, labels[indices])


def test_an_interrupted_division_goes_on_and_another_is_refused(embeddings, tmp_path):
    rows, labels, queries = embeddings
    parts = save_shards(rows, labels, tmp_path, 300)
    before = (parts[0] / "classifier.json").stat().st_mtime_ns
    for file in parts[1].iterdir():
        file.unlink()
    parts[1].rmdir()
    with pytest.raises(ValueError, match="no part that begins with row 300 .*part-000000000600"):
        ask_shards(tmp_path, queries)
    assert save_shards(rows, labels, tmp_path, 300) == parts
    assert (parts[0] / "classifier.json").stat().st_mtime_ns == before
    np.testing.assert_array_equal(ask_shards(tmp_path, queries, 5)[1], Index(rows).kneighbors(queries, 5)[1])
    with pytest.raises(ValueError, match="another division"):
        save_shards(rows, labels, tmp_path, 500)


@pytest.mark.parametrize("ask, error, words", [
    (lambda path, q: ask_shards(path / "nowhere", q), FileNotFoundError, "no parts"),
    (lambda path, q: ask_shards(path, q, 901), ValueError, "there are 900 rows"),
    (lambda path, q: ask_shards(path, q[:, :5]), ValueError, "dimension"),
    (lambda path, q: save_shards(q, [1], path, 3), ValueError, "1 labels do not match 10 embeddings")])
def test_what_cannot_be_answered_is_refused(embeddings, folder, ask, error, words):
    with pytest.raises(error, match=words):
        ask(folder, embeddings[2])


def test_a_cluster_that_loses_a_worker_answers_from_the_saved_parts(embeddings, losing_a_worker, tmp_path):
    rows, labels, queries = embeddings
    save_shards(rows, labels, tmp_path / "many", 40, metric="euclidean")
    distances, indices, _ = losing_a_worker(lambda: ask_shards(tmp_path / "many", queries, 20))
    expected = Index(rows, "euclidean").kneighbors(queries, 20)
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(indices, expected[1])


# --- a vector database in the place of the search --------------------------------------------------------------------


@pytest.fixture
def usearch():
    return pytest.importorskip("usearch", reason="usearch, of the extra test, is not installed")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_database_finds_nearly_all_and_measures_how_many(metric, embeddings, usearch, tmp_path):
    rows, _, queries = embeddings
    engine = partial(VectorDatabase, path=tmp_path / "graph", checked=10)
    found = searcher(torch.from_numpy(queries), 8, metric, engine, len(rows))
    for part in torch.from_numpy(rows).split(250):
        found.add(part)
    distances, indices = found.result()
    truth_far, truth = Index(rows, metric).kneighbors(queries, 8)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(truth, indices, strict=True)])
    assert found.notes()["recall"] == pytest.approx(recall) and recall > 0.9
    for row, far, right, true_far in zip(indices, distances, truth, truth_far, strict=True):  # query by query
        same = np.isin(row, right)
        expected = dict(zip(right.tolist(), true_far, strict=True))
        np.testing.assert_allclose(far[same], [expected[j] for j in row[same].tolist()], rtol=1e-6, atol=1e-9)
    again = search_database(open_database(tmp_path / "graph"), queries, 8, metric)
    np.testing.assert_array_equal(again[1], indices)


def test_a_walk_that_looks_at_little_finds_less_and_always_the_same(usearch):
    rng = np.random.default_rng(1)
    rows, queries = (rng.standard_normal((n, 64)).astype(np.float32) for n in (3000, 40))  # no direction stands out
    recall, indices = [], []
    for breadth in (1, 400, 1):
        found = VectorDatabase(torch.from_numpy(queries), 10, breadth=breadth, checked=40)
        found.add(torch.from_numpy(rows))
        indices.append(found.result()[1])
        recall.append(found.notes()["recall"])
    np.testing.assert_array_equal(indices[0], indices[2])
    assert recall[0] < recall[1] - 0.02 and recall[1] > 0.97


def test_a_sweep_takes_it_as_its_engine(trained, small, usearch):
    found = layer_neighbors(trained, *small, [14, 20], 5, engine=VectorDatabase, pixels=False, progress=False)
    exact = layer_neighbors(trained, *small, [14, 20], 5, pixels=False, progress=False)
    table, expected = sweep_table(found, [5]), sweep_table(exact, [5])
    assert (table["recall"] > 0.9).all()
    np.testing.assert_allclose(table["accuracy"], expected["accuracy"], atol=0.05)
    with pytest.raises(ValueError, match="metric='manhattan'"):
        layer_neighbors(trained, *small, [20], 5, "manhattan", engine=VectorDatabase, progress=False)


def test_without_the_package_the_error_says_what_to_install(tmp_path):
    code = ("import sys, torch\nsys.modules['usearch'] = None\nfrom ebe_utils.vector_database import VectorDatabase\n"
            "try:\n    VectorDatabase(torch.ones(2, 3), 1)\nexcept ImportError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs the package usearch" in done.stdout


def test_a_file_that_is_not_there(usearch, tmp_path):
    with pytest.raises(FileNotFoundError, match="no graph in"):
        open_database(tmp_path / "none")
