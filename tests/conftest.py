"""Shared by all tests: small data sets, small networks, and a folder of their own for the runs."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from pathlib import Path

# Here and in the notebooks' kernels: on small networks a second thread saves no time, and where another program is
# busy, threads that wait for each other take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import matplotlib
import numpy as np
import pytest
import torch
from nbval.plugin import IPyNbFile
from recorded import RecordedKernel, wait_for
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors
from torch import nn

EXECUTE = IPyNbFile.setup
# Started by one process, awaited by all: pytest-xdist runs the tests in several.
SEQUENCE = """
cd "$1" && "$2" -u -m ebe_utils run --only all > "$3/sequence.txt" 2>&1
echo $? > "$3/sequence.part" && mv "$3/sequence.part" "$3/sequence.code"
"""


def pytest_configure(config):
    """Runs go to a temporary folder, or to EBE_TEST_RUNS, which is kept."""
    matplotlib.use("agg")
    IPyNbFile.setup = _recorded
    config.temporary_runs = None
    if hasattr(config, "workerinput"):  # of pytest-xdist: the folder is that of the process that started this one
        return
    kept = os.environ.get("EBE_TEST_RUNS")
    if not kept:
        config.temporary_runs = tempfile.mkdtemp(prefix="ebe-runs-")
    os.environ["EBE_RUNS_DIR"] = kept or config.temporary_runs


def _waits(item):
    """0: a test by itself; 1: it needs some notebooks of the sequence; 2: a cell of a notebook; 3: it looks at all that
    the sequence left."""
    if item.nodeid.split("::")[0].endswith(".ipynb"):
        return 2
    names = getattr(item, "fixturenames", ())
    return 3 if "sequence" in names else int("notebook_done" in names)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """What waits for the sequence comes last, file by file."""
    latest = {}
    for item in items:
        file = item.nodeid.split("::")[0]
        latest[file] = max(latest.get(file, 0), _waits(item))
    items.sort(key=lambda item: latest[item.nodeid.split("::")[0]])


def pytest_collection_finish(session):
    """Start the sequence of all notebooks, where a test asks for it: it runs beside the tests before that one."""
    asked = any(_waits(item) in (1, 3) for item in session.items)
    if asked and not session.config.option.collectonly and os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":
        runs = Path(os.environ["EBE_RUNS_DIR"])
        runs.mkdir(parents=True, exist_ok=True)
        (runs / "sequence.code").unlink(missing_ok=True)
        started = subprocess.Popen(["sh", "-c", SEQUENCE, "sh", Path(__file__).parents[1], sys.executable, runs],
                                   start_new_session=True)
        (runs / "sequence.pid").write_text(str(started.pid))


def _recorded(collector):
    """`IPyNbFile.setup` where the sequence runs: wait for its notebook, and compare with what it has recorded."""
    runs = Path(os.environ["EBE_RUNS_DIR"])
    if not (runs / "sequence.pid").exists() or collector.path.parent != Path(__file__).parents[1] / "notebooks":
        return EXECUTE(collector)
    wait_for(collector.path.stem, runs)
    from ebe_utils.study.run import Run

    collector.kernel = RecordedKernel(Run.open().path / "notebooks" / collector.path.name)
    collector.setup_sanitize_files()
    return None


def _end_of_sequence():
    """Wait for the sequence; returns its exit code and what it printed."""
    runs = Path(os.environ["EBE_RUNS_DIR"])
    while not (runs / "sequence.code").exists():
        time.sleep(0.2)
    return int((runs / "sequence.code").read_text()), (runs / "sequence.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def sequence():
    """What `python -m ebe_utils run --only all` printed; what it left is in EBE_RUNS_DIR."""
    code, text = _end_of_sequence()
    assert code == 0, text
    return text


@pytest.fixture(scope="session")
def notebook_done():
    """A function that waits until the sequence has been through a notebook; what it left is in EBE_RUNS_DIR."""
    return lambda name: wait_for(name, Path(os.environ["EBE_RUNS_DIR"]))


def pytest_unconfigure(config):
    if hasattr(config, "workerinput"):
        return
    runs = Path(os.environ["EBE_RUNS_DIR"])
    if (runs / "sequence.pid").exists() and not (runs / "sequence.code").exists():  # the tests have ended before it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int((runs / "sequence.pid").read_text()), signal.SIGTERM)
    (runs / "sequence.pid").unlink(missing_ok=True)
    if config.temporary_runs:
        shutil.rmtree(config.temporary_runs, ignore_errors=True)


@contextlib.contextmanager
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread():
    """torch on one thread, for small networks no slower, and not held up by what else the machine does."""
    with _one_thread():
        yield


def _new_net(channels=1, classes=3, seed=0):
    """Two convolutions, a batch norm before an in-place ReLU, a linear head: for images of at least 5 by 5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(OrderedDict(
            conv1=nn.Conv2d(channels, 4, 3, padding=1, bias=False), norm=nn.BatchNorm2d(4), relu=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(4, 6, 3, stride=2), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(),
            head=nn.Linear(6, classes)))
        net.norm.running_mean.normal_(0, 0.3)
        net.norm.running_var.uniform_(0.5, 2)
    return net


@pytest.fixture(scope="session")
def new_net():
    return _new_net


@pytest.fixture
def tiny_net():
    return _new_net().eval()


@pytest.fixture(scope="session")
def stripes():
    """(train, test): 8 by 8 images of 3 classes, each brighter in other columns; easy to learn."""
    from ebe_utils import ImageSet

    rng = np.random.default_rng(7)

    def draw(n):
        labels = np.arange(n) % 3
        images = rng.integers(0, 120, (n, 1, 8, 8))
        for i, label in enumerate(labels):
            images[i, :, :, 2 * label:2 * label + 3] += 120
        return ImageSet(images.astype(np.uint8), labels, ("left", "middle", "right"), "stripes")

    return draw(48), draw(21)


@pytest.fixture(scope="session")
def digits():
    from ebe_utils import load_dataset

    return load_dataset("digits")


@pytest.fixture(scope="session")
def small():
    """200 training and 60 test digits."""
    from ebe_utils import load_dataset

    return load_dataset("digits", n_train=200, n_test=60)


@pytest.fixture(scope="session")
def trained(small):
    """A ResNet18 trained for two epochs on 200 digits."""
    from ebe_utils import resnet18_for, train

    with _one_thread():
        return train(resnet18_for(small[0]), small[0], epochs=2, batch_size=50, progress=False)


@pytest.fixture
def points():
    """Training points on a line, and a network whose layer "flat" hands them on unchanged.

    The network says class 1 for everything.
    """
    from ebe_utils import ImageSet

    net = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(2, 3)))
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([0., 1., 0.]))
    at = torch.tensor([[0., 0.], [1., 0.], [3., 0.], [6., 0.], [10., 0.]])
    return net.eval(), ImageSet(at, np.array([2, 1, 0, 0, 2]), ("a", "b", "<c>"), "points")


@pytest.fixture(scope="session")
def same_neighbors():
    """A check of neighbours against scikit-learn in float64; they may differ only where distances are nearly equal."""
    def check(indices, train, queries, metric, rtol=1e-6):
        train, queries = np.asarray(train, np.float64), np.asarray(queries, np.float64)
        k = indices.shape[1]
        oracle = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(train)
        exact, expected = oracle.kneighbors(queries)
        mine = np.take_along_axis(pairwise_distances(queries, train, metric), indices.astype(int), 1)
        differ = indices != expected
        np.testing.assert_allclose(mine[differ], exact[differ], rtol=rtol, atol=1e-14)
        assert all(len(set(row)) == k for row in indices.tolist()), "a training image appears twice in one row"
        return differ.mean()

    return check


@pytest.fixture
def losing_a_worker(tmp_path, monkeypatch):
    """Do a thing with joblib on a Dask cluster of two processes, one of which is killed while there is work.

    losing_a_worker(thing, after=0.0): what `thing()` returns; after: seconds of work before the kill.
    """
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # which the cluster sets, and leaves behind

    def done(thing, after=0.0):
        killed = []

        def kill(client, process):
            while not any(client.processing().values()):
                time.sleep(0.002)
            time.sleep(after)
            os.kill(process, signal.SIGKILL)
            killed.append(any(client.processing().values()))

        with (distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
              distributed.Client(cluster) as client):
            before = client.run(os.getpid)
            thread = threading.Thread(target=kill, args=(client, next(iter(before.values()))))
            thread.start()
            with joblib.parallel_config("dask"):
                found = thing()
            thread.join()
            assert killed == [True], "a worker died while there was work"
        return found

    return done
