"""What a user brings along: networks and data that are not ours, in the forms in which they come."""

import copy
import pickle
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
import torchvision
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision import datasets, transforms

from ebe_utils import EBEClassifier, embed, layer_sweep, resnet18_for, select, train
from ebe_utils.batches import Stacked
from ebe_utils.embeddings import feature_maps
from ebe_utils.forward import predict_logits
from ebe_utils.layers import default_layer
from ebe_utils.search import Index

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def same_votes(ebe, X, embeddings, queries, y):
    """The classifier's shares of votes are scikit-learn's on the same embeddings."""
    knn = KNeighborsClassifier(ebe.k, metric="cosine", algorithm="brute").fit(np.asarray(embeddings, float), y)
    np.testing.assert_allclose(ebe.predict_proba(X), knn.predict_proba(np.asarray(queries, float)), atol=1e-12)


# --- networks ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos():
    """12 images of three classes at 64 by 64, float from 0 to 1."""
    rng = np.random.default_rng(0)
    return rng.random((12, 3, 64, 64), np.float32), np.arange(12) % 3


VISION = {
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=3), "layer3.5.conv2", "none"),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=3), "features.9", "avg"),
    "vit": (lambda: torchvision.models.VisionTransformer(64, 16, 3, 2, 24, 48, num_classes=3),
            "encoder.layers.encoder_layer_1", "first"),
    "swin": (lambda: torchvision.models.SwinTransformer([4, 4], 12, [2, 2, 2], [2, 2, 2], [4, 4], num_classes=3),
             "features.3", "avg")}


@pytest.mark.parametrize("name", VISION)
def test_networks_of_torchvision(name, photos):
    make, layer, pooling = VISION[name]
    model, (images, labels) = seeded(make), photos
    ebe = EBEClassifier(model, layer, 3, pooling=pooling).fit(images, labels)
    kept = {}
    handle = model.get_submodule(layer).register_forward_hook(lambda m, a, out: kept.update(out=out))
    with torch.no_grad():
        logits = model(torch.from_numpy(images))
    handle.remove()
    out = kept["out"]
    pooled = {"none": lambda: out.flatten(1), "first": lambda: out[:, 0],
              "avg": lambda: out.mean((1, 2)) if name == "swin" else out.mean((2, 3))}[pooling]().numpy()
    same_votes(ebe, images[:4], pooled, pooled[:4], labels)
    e = ebe.explain(images[0])
    assert e.indices[0] == 0 and e.network_prediction == int(logits[0].argmax())
    np.testing.assert_allclose(e.network_proba, logits[0].softmax(0), atol=1e-5)
    assert EBEClassifier(model, k=2).fit(images, labels).layer_ == default_layer(model)


def test_a_transformer_of_the_transformers_package():
    """Batches are dicts, as a tokenizer gives them; the network returns an object with `.logits`."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                                     intermediate_size=32, max_position_embeddings=12, num_labels=2)
    model = seeded(lambda: transformers.BertForSequenceClassification(config))
    rng = np.random.default_rng(0)
    batch = {"input_ids": torch.from_numpy(rng.integers(1, 50, (20, 10))),
             "attention_mask": torch.ones(20, 10, dtype=torch.int64)}
    y = np.array(["no", "yes"])[np.arange(20) % 2]
    ebe = EBEClassifier(model, "bert.encoder.layer.2", 5, pooling="first").fit(batch, y)
    with torch.no_grad():
        out = model(**batch, output_hidden_states=True)
    hidden = out.hidden_states[-1][:, 0].numpy()
    same_votes(ebe, batch, hidden, hidden, y)
    assert set(ebe.predict(batch)) <= {"no", "yes"} and ebe.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(ebe.network_predict(batch), out.logits.argmax(1))
    e = ebe.explain({name: value[:1] for name, value in batch.items()})
    assert e.indices[0] == 0 and e.examples["input_ids"].shape == (5, 10)
    loader = DataLoader([{"input_ids": ids, "attention_mask": torch.ones(10, dtype=torch.int64), "labels": i % 2}
                         for i, ids in enumerate(batch["input_ids"])], batch_size=8)
    again = EBEClassifier(model, "bert.encoder.layer.2", 5, pooling="first").fit(loader)
    np.testing.assert_array_equal(again.kneighbors(batch)[1], ebe.kneighbors(batch)[1])


@pytest.fixture(scope="module")
def cancer():
    """(network, X, y): a small MLP, trained, on scikit-learn's breast cancer data."""
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X).astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        optim = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(60):
            optim.zero_grad()
            nn.functional.cross_entropy(net(torch.from_numpy(X)), torch.from_numpy(y)).backward()
            optim.step()
    return net.eval(), X, y


def test_a_table_and_an_mlp_through_scikit_learns_tools(cancer):
    net, X, y = cancer
    ebe = EBEClassifier(net, k=5)
    fitted = ebe.fit(X[:400], y[:400])
    assert fitted.layer_ == default_layer(net) == "3"
    hidden = net[:4](torch.from_numpy(X)).detach().numpy()
    same_votes(fitted, X[400:], hidden[:400], hidden[400:], y[:400])
    assert fitted.score(X[400:], y[400:]) > 0.9
    copy = clone(fitted)
    assert copy.model is net and not hasattr(copy, "classes_")
    scores = cross_val_score(EBEClassifier(net, layer="1", k=5), X, y, cv=3)
    knn = cross_val_score(KNeighborsClassifier(5, metric="cosine", algorithm="brute"),
                          net[:2](torch.from_numpy(X)).detach().numpy(), y, cv=3)
    np.testing.assert_allclose(scores, knn)
    search = GridSearchCV(EBEClassifier(net, layer="1"), {"k": [1, 5], "weights": ["uniform", "distance"]}, cv=3)
    assert search.fit(X, y).best_score_ >= scores.mean() - 1e-12


@pytest.mark.parametrize("copied", [lambda e, path: pickle.loads(pickle.dumps(e)),
                                    lambda e, path: (joblib.dump(e, path / "e"), joblib.load(path / "e"))[1]])
def test_a_fitted_classifier_survives_pickle_and_joblib(cancer, copied, tmp_path):
    net, X, y = cancer
    ebe = EBEClassifier(net, "1", 5, weights="distance").fit(X[:300], y[:300])
    again = copied(ebe, tmp_path)
    np.testing.assert_array_equal(again.predict_proba(X[300:]), ebe.predict_proba(X[300:]))
    np.testing.assert_array_equal(again.kneighbors(X[300:])[1], ebe.kneighbors(X[300:])[1])


def test_series_and_a_conv1d_network():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 2, 40)).astype(np.float32), np.arange(30) % 3
    net = seeded(lambda: nn.Sequential(nn.Conv1d(2, 4, 5), nn.ReLU(), nn.Conv1d(4, 6, 3, 2), nn.AdaptiveAvgPool1d(1),
                                       nn.Flatten(), nn.Linear(6, 3)))
    for pooling in ("none", "avg"):
        ebe = EBEClassifier(net, 2, 4, pooling=pooling, describe=lambda x: f"a series of {x.shape[-1]} steps").fit(X, y)
        out = net[:3](torch.from_numpy(X)).detach()
        rows = (out.flatten(1) if pooling == "none" else out.mean(2)).numpy()
        same_votes(ebe, X, rows, rows, y)
    assert "a series of 40 steps" in ebe.explain(X[0])._repr_html_()
    assert layer_sweep(net, (X, y), (X, y), ks=[1, 3], pixels=False, progress=False)["accuracy"].between(0, 1).all()


class TwoInputs(nn.Module):
    """A network of two inputs that returns a dict."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, a, b):
        both = torch.relu(self.left(a) + self.right(b))
        return {"logits": self.head(both), "hidden": both}


def test_several_inputs_and_outputs():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.standard_normal((20, d)).astype(np.float32)) for d in (3, 2))
    y, net = np.arange(20) % 2, seeded(TwoInputs)
    ebe = EBEClassifier(net, "head", 3).fit((a, b), y)
    rows = net(a, b)["logits"].detach().numpy()
    same_votes(ebe, (a, b), rows, rows, y)
    np.testing.assert_array_equal(ebe.network_predict((a, b)), rows.argmax(1))
    again = EBEClassifier(net, "head", 3).fit(TensorDataset(a, b, torch.from_numpy(y)))
    np.testing.assert_array_equal(again.kneighbors((a, b))[1], ebe.kneighbors((a, b))[1])


# --- data --------------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    """Examples that come once, one at a time."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __iter__(self):
        return iter(zip(self.X, self.y, strict=True))


def test_the_same_examples_in_all_forms(tiny_net, stripes):
    train, test = stripes
    expected = EBEClassifier(tiny_net, 2, 5).fit(train)
    pixels, y = train.images.float() / 255, torch.from_numpy(train.labels)
    names = np.array(train.classes)[train.labels]
    items = [(x, int(label)) for x, label in zip(pixels, y, strict=True)]
    forms = {"arrays": (pixels.numpy(), train.labels), "data set": (TensorDataset(pixels, y), None),
             "loader": (DataLoader(TensorDataset(pixels, y), 7), None), "list": (items_dataset(items), None),
             "stream": (DataLoader(Stream(pixels, y), 5), None), "texts": (pixels, names),
             "iterator": (iter(DataLoader(TensorDataset(pixels, y), 9)), None)}
    for name, (data, labels) in forms.items():
        ebe = EBEClassifier(tiny_net, 2, 5).fit(data, labels)
        np.testing.assert_array_equal(ebe.kneighbors(test.images.float() / 255)[1], expected.kneighbors(test.images)[1],
                                      err_msg=name)
        np.testing.assert_array_equal(ebe.labels_, train.labels, err_msg=name)
        e = ebe.explain(test.images[:1].float() / 255)
        if name in ("stream", "iterator"):
            assert e.examples is None and "not at hand" in e._repr_html_()
        else:
            torch.testing.assert_close(torch.stack(list(e.examples)), pixels[torch.from_numpy(e.indices)])
    assert ebe.predict(test.images.float() / 255).dtype.kind == "i"
    texts = EBEClassifier(tiny_net, 2, 5).fit(pixels, names)
    assert texts.classes_.tolist() == ["left", "middle", "right"] and texts.predict(pixels[:1])[0] in texts.classes_


def items_dataset(items):
    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return len(items)

        def __getitem__(self, i):
            return items[i]
    return Items()


def test_embeddings_logits_and_maps_of_all_forms(tiny_net, stripes):
    """What a layer and the network output do not depend on the form in which the images come."""
    images, y = stripes[1].images.float() / 255, torch.from_numpy(stripes[1].labels)
    with torch.inference_mode():
        expected = tiny_net(images).numpy()
    maps = []
    tiny_net.conv2.register_forward_hook(lambda module, args, out: maps.append(out.detach().clone()))
    with torch.inference_mode():
        tiny_net(images)
    tiny_net.conv2._forward_hooks.clear()
    forms = [stripes[1], images, images.numpy(), (images, y), TensorDataset(images, y), TensorDataset(images),
             DataLoader(TensorDataset(images, y), 7), DataLoader(Stream(images, y), 5),
             iter(DataLoader(TensorDataset(images, y), 9))]
    for make in forms[:-1]:
        np.testing.assert_allclose(predict_logits(tiny_net, make, batch_size=6), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(embed(tiny_net, make, "conv2", batch_size=6), maps[0].flatten(1), rtol=1e-4,
                                   atol=1e-5)
        np.testing.assert_allclose(feature_maps(tiny_net, make, "conv2"), maps[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embed(tiny_net, forms[-1], [2])[2], maps[0].flatten(1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no batches.*read once only"):
        embed(tiny_net, forms[-1], [2])


def test_a_network_with_several_inputs_is_embedded_from_a_dict_or_a_data_set():
    """Also where the inputs have names, and where only a data set knows their number."""
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 3)

        def forward(self, a, b):
            return self.head(torch.cat([a, b], 1))

    net, rng = seeded(Two), np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.random((9, 4), np.float32)) for _ in range(2))
    expected = net(a, b).detach().numpy()
    for given in ({"a": a, "b": b}, TensorDataset(a, b, torch.zeros(9, dtype=torch.int64))):
        np.testing.assert_allclose(predict_logits(net, given, 4), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(embed(net, given, "head", batch_size=4), expected, rtol=1e-5, atol=1e-6)


def test_batches_that_do_not_add_up_are_refused():
    """A data set that announces more or fewer examples than it has would leave rows of no example."""
    for n, sizes in ((5, (3, 3)), (5, (3,)), (None, ())):
        rows = Stacked(n)
        with pytest.raises(ValueError, match="batches hold"):
            for size in sizes:
                rows.add(np.ones((size, 2)))
            rows.whole()


def test_a_folder_of_images_with_transforms(tiny_net, stripes, tmp_path):
    from PIL import Image

    train, test = stripes
    for i, (image, label) in enumerate(train):
        folder = tmp_path / train.classes[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{i:03d}.png")
    change = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
    data = datasets.ImageFolder(tmp_path, change)
    ebe = EBEClassifier(tiny_net, 2, 5).fit(data)
    assert ebe.class_names_ == ("left", "middle", "right")
    expected = EBEClassifier(tiny_net, 2, 5).fit(train)
    np.testing.assert_array_equal(ebe.predict(test.images.float() / 255), expected.predict(test.images))
    with pytest.raises(TypeError, match="PIL images.*ToTensor"):
        EBEClassifier(tiny_net, 2, 5).fit(datasets.ImageFolder(tmp_path))


def test_a_loader_that_shuffles_is_refused(tiny_net, stripes):
    data = TensorDataset(stripes[0].images.float() / 255, torch.from_numpy(stripes[0].labels))
    with pytest.raises(ValueError, match="RandomSampler.*shuffle=False"):
        EBEClassifier(tiny_net, 2, 5).fit(DataLoader(data, 8, shuffle=True))


def test_integers_where_pixels_were_scaled_are_refused_in_a_loader_too(tiny_net, stripes):
    train, test = stripes
    ebe = EBEClassifier(tiny_net, 2, 5).fit(train)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ebe.predict(DataLoader(TensorDataset(test.images.float()), 8))


@pytest.mark.parametrize("data, y, error, words", [
    (np.zeros((4, 1, 8, 8), np.uint8), None, ValueError, "no labels"),
    (nn.Linear(2, 2), None, TypeError, "a network was passed"),
    (np.zeros((4, 1, 8, 8), np.uint8), [0, 1], ValueError, "labels of shape"),
    (np.zeros((4, 1, 8, 8), np.float32), [0.5, 1, 0, 1], TypeError, "integer class indices"),
    ({"a": np.zeros((4, 2)), "b": np.zeros((3, 2))}, [0, 1, 0, 1], ValueError, "3, 4 rows"),
    (iter([]), None, ValueError, "no batches"),
    (object(), None, TypeError, "holds no examples")])
def test_what_is_no_training_set(tiny_net, data, y, error, words):
    with pytest.raises(error, match=words):
        EBEClassifier(tiny_net, 2, 1).fit(data, y)


# --- embeddings that someone has ---------------------------------------------------------------------------------


def test_from_embeddings_is_the_classifier_on_the_same_embeddings(cancer):
    net, X, y = cancer
    rows = net[:2](torch.from_numpy(X)).detach().numpy()
    ebe = EBEClassifier(net, "1", 5).fit(X[:300], y[:300])
    ours = EBEClassifier.from_embeddings(rows[:300], y[:300], k=5)
    np.testing.assert_array_equal(ours.kneighbors(rows[300:])[1], ebe.kneighbors(X[300:])[1])
    np.testing.assert_array_equal(ours.predict(rows[300:]), ebe.predict(X[300:]))
    e = ours.explain(rows[300])
    assert e.network_prediction is None and e.agreement is None and e.examples is None and "not at hand" in \
        e._repr_html_()
    shown = EBEClassifier.from_embeddings(rows[:300], y[:300], examples=X[:300], k=5).explain(rows[300])
    np.testing.assert_array_equal(shown.examples, X[shown.indices])
    with pytest.raises(ValueError, match="299 examples do not match"):
        EBEClassifier.from_embeddings(rows[:300], y[:299], examples=X[:299])
    with pytest.raises(ValueError, match="have no labels; pass them as y"):
        EBEClassifier.from_embeddings(rows[:300], None)


# --- after fit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change, words", [
    ({"layer": 1}, "layer is 1.*fitted with layer=2.*fit again"), ({"metric": "euclidean"}, "metric is 'euclidean'"),
    ({"pooling": "avg"}, "pooling is 'avg'")])
def test_what_needs_another_fit_is_refused(tiny_net, stripes, change, words):
    train, test = stripes
    ebe = EBEClassifier(tiny_net, 2, 5).fit(train)
    ebe.set_params(**change)
    for method in ("explain", "predict", "predict_proba", "kneighbors", "network_predict", "attributions"):
        with pytest.raises(ValueError, match=words):
            getattr(ebe, method)(test.images[:1])


def test_k_and_weights_may_change_after_fit(tiny_net, stripes):
    train, test = stripes
    ebe = EBEClassifier(tiny_net, 2, 5).fit(train).set_params(k=3, weights="distance")
    expected = EBEClassifier(tiny_net, 2, 3, weights="distance").fit(train)
    np.testing.assert_array_equal(ebe.predict_proba(test.images), expected.predict_proba(test.images))
    ebe.set_params(weights="nnk")
    assert (ebe.attributions(test.images).sum(1) - 1 < 1e-9).all()


@pytest.mark.parametrize("how", ["in place", "data", "load", "replaced"])
def test_a_network_that_changed_after_fit_is_noticed(new_net, stripes, how):
    train, test = stripes
    net = new_net().eval()
    ebe = EBEClassifier(net, 2, 5).fit(train)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ebe.predict(test.images)
    with torch.no_grad():
        if how == "in place":
            net.conv1.weight[0, 0, 1, 1] += 0.1
        elif how == "data":
            net.conv1.weight.data.mul_(1.01)
        elif how == "load":
            net.load_state_dict(new_net(seed=1).state_dict())
        else:
            net.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
    with pytest.raises(ValueError, match="weights have changed.*fit again"):
        ebe.explain(test.images[0])
    if how != "replaced":
        net.load_state_dict(before)
        ebe.explain(test.images[0])


def test_a_network_with_other_outputs_than_there_are_classes(stripes):
    train, test = stripes
    net = seeded(lambda: nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 4, 3), flat=nn.Flatten(), head=nn.Linear(144, 9))))
    with pytest.warns(UserWarning, match="9 outputs and the labels 3 classes"):
        ebe = EBEClassifier(net, 1, 5).fit(train)
    e = ebe.explain(test.images[0])
    assert e.agreement is None and e.total_variation is None and "cannot be compared" in str(e)
    assert len(e.network_proba) == 9 and e.proba.shape == (3,)


def test_labels_in_another_order_than_the_outputs_are_noticed(cancer):
    net, X, y = cancer
    with pytest.warns(UserWarning, match="order of the classes"):
        EBEClassifier(net, "1", 5).fit(X, np.array(["malignant", "benign"])[y])
    right = EBEClassifier(net, "1", 5).fit(X, np.array(["malignant", "benign"])[y], classes=["malignant", "benign"])
    assert (right.network_predict(X) == y).mean() > 0.9 and right.class_names_ == ("malignant", "benign")


# --- explanations ------------------------------------------------------------------------------------------------


def test_a_batch_is_explained_as_each_of_its_images(tiny_net, stripes):
    train, test = stripes
    ebe = EBEClassifier(tiny_net, 2, 5, weights="distance").fit(train)
    many = ebe.explain_batch(test.images)
    assert len(many) == len(test) and len(many[2:4]) == 2
    for i, e in enumerate(many):
        one = ebe.explain(test.images[i])
        np.testing.assert_array_equal(one.indices, e.indices)
        np.testing.assert_allclose(one.proba, e.proba)
        assert (one.prediction, one.network_prediction, one.agreement) == (
            e.prediction, e.network_prediction, e.agreement) == (
            many.prediction[i], many.network_prediction[i], many.agreement[i])
    np.testing.assert_allclose(many.proba, ebe.predict_proba(test.images))
    table = many.to_frame()
    assert len(table) == 5 * len(test) and list(table) == ["rank", "index", "class", "weight", "distance", "input"]
    np.testing.assert_allclose(table.groupby("input")["weight"].sum(), 1)
    with pytest.raises(IndexError):
        many[len(test)]


@pytest.mark.parametrize("weights", ["nnk", lambda distances: (distances <= np.median(distances, 1)[:, None]) * 1.0])
def test_examples_without_weight_do_not_disturb_the_others(tiny_net, stripes, weights):
    """Weights that are partly zero stay with their examples, in a batch and alone."""
    ebe = EBEClassifier(tiny_net, 2, 9, weights=weights).fit(stripes[0])
    found = ebe.explain_batch(stripes[1].images)
    assert (found.weights == 0).any()
    np.testing.assert_allclose(found.weights.sum(1), 1)
    rows = found.attributions.toarray()
    np.testing.assert_allclose(np.take_along_axis(rows, found.indices, 1), found.weights)
    for i in range(len(found)):
        for e in (found[i], ebe.explain(stripes[1].images[i])):
            np.testing.assert_allclose(e.weights.sum(), 1)
            np.testing.assert_allclose(rows[i, e.indices], e.weights, rtol=1e-4)
            np.testing.assert_allclose(e.proba, found.proba[i], rtol=1e-4, atol=1e-9)


def test_total_variation_by_hand(points):
    net, train = points
    e = EBEClassifier(net, "flat", 1, metric="euclidean").fit(train).explain(np.float32([0, 0]))
    softmax = np.exp([0, 1, 0]) / np.exp([0, 1, 0]).sum()
    assert e.total_variation == pytest.approx(np.abs(np.array([0, 0, 1]) - softmax).sum() / 2)


def test_the_network_is_moved_once_and_the_index_is_where_it_computes(tiny_net, stripes, monkeypatch):
    """What happens with a CUDA card, shown with one that is made up: a copy of the network on the CPU."""
    train, test = stripes
    moved, indexes = [], []

    def to_the_card(model, device):
        moved.append(device)
        return copy.deepcopy(model), torch.device("cpu")

    def index(rows, metric, device, memory_budget):
        indexes.append(device)
        return Index(rows, metric, device, memory_budget)

    monkeypatch.setattr("ebe_utils.network_at_a_layer.on_device", to_the_card)
    monkeypatch.setattr("ebe_utils.explainer.Index", index)
    ebe = EBEClassifier(tiny_net, 2, 5, device="cuda").fit(train)
    for _ in range(3):
        ebe.explain(test.images[0])
    assert moved == ["cuda"] and indexes == [torch.device("cpu")]
    pickle.loads(pickle.dumps(ebe)).explain(test.images[0])
    assert moved == ["cuda", "cuda"]


# --- sweeps ------------------------------------------------------------------------------------------------------


def test_a_sweep_of_a_data_set_is_that_of_its_images(tiny_net, stripes):
    train, test = stripes
    expected = layer_sweep(tiny_net, train, test, [1, 2], [1, 5], pixels=False, progress=False)
    sets = [TensorDataset(part.images.float() / 255, torch.from_numpy(part.labels)) for part in stripes]
    names = [(part.images.float() / 255, np.array(part.classes)[part.labels]) for part in stripes]
    for both in (sets, [DataLoader(data, 10) for data in sets], [iter(DataLoader(data, 10)) for data in sets], names):
        found = layer_sweep(tiny_net, *both, [1, 2], [1, 5])
        assert found[["layer", "name", "dimension", "k"]].equals(expected[["layer", "name", "dimension", "k"]])
        np.testing.assert_allclose(found[["accuracy", "agreement", "network_accuracy"]],
                                   expected[["accuracy", "agreement", "network_accuracy"]])
    nnk = layer_sweep(tiny_net, *sets, [1, 2], [5], weights="nnk")
    np.testing.assert_allclose(nnk["accuracy"], layer_sweep(tiny_net, train, test, [1, 2], [5], weights="nnk",
                                                            pixels=False, progress=False)["accuracy"])


def test_a_sweep_of_embeddings_needs_no_network(cancer):
    net, X, y = cancer
    rows = {"first": net[:2](torch.from_numpy(X)).detach().numpy(), "second": net[:4](torch.from_numpy(X)
                                                                                   ).detach().numpy()}
    train, test = ({name: part(values) for name, values in rows.items()} for part in (lambda v: v[:400],
                                                                                      lambda v: v[400:]))
    found = layer_sweep(None, (train, y[:400]), (test, y[400:]), ks=[1, 5]).set_index(["layer", "k"])
    for (name, k), row in found.iterrows():
        knn = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train[name].astype(float), y[:400])
        assert row["accuracy"] == pytest.approx(knn.score(test[name].astype(float), y[400:]), abs=0.006)
        assert np.isnan(row[["agreement", "where wrong", "network_accuracy"]].to_numpy(float)).all()
    said = net(torch.from_numpy(X[400:])).argmax(1).numpy()
    known = layer_sweep(None, (train, y[:400]), (test, y[400:]), ks=[5], network=said)
    assert (known["network_accuracy"] == (said == y[400:]).mean()).all() and known["agreement"].notna().all()


@pytest.mark.parametrize("change, words", [
    (lambda train, test: ({"a": train}, {"b": test}), "training embeddings are of layers a.*of b"),
    (lambda train, test: ({"a": train[:3]}, {"a": test}), "3 training embeddings and there are 4 labels"),
    (lambda train, test: ({"a": train}, {"a": test[:, :1]}), "dimensions")])
def test_embeddings_that_do_not_belong_together(change, words):
    train, test = change(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[:2])
    with pytest.raises(ValueError, match=words):
        layer_sweep(None, (train, [0, 1, 0, 1]), (test, [0, 1]), ks=[1])


def test_a_sweep_of_a_stream_keeps_to_its_memory(tiny_net, stripes):
    sets = [TensorDataset(part.images.float() / 255, torch.from_numpy(part.labels)) for part in stripes]
    with pytest.raises(ValueError, match="take more than.*fewer layers"):
        layer_sweep(tiny_net, *sets, [1, 2], [1], memory_budget=1e-6)
    with pytest.raises(ValueError, match="needs labels"):
        layer_sweep(tiny_net, TensorDataset(sets[0].tensors[0]), sets[1], [1], [1])


# --- training and choosing -----------------------------------------------------------------------------------------


def test_training_and_choosing_take_data_sets_too(new_net, stripes):
    train_set, test_set = stripes
    data = TensorDataset(train_set.images.float() / 255, torch.from_numpy(train_set.labels))
    plain = train_set.images.float() / 255, train_set.labels
    nets = [train(new_net(), given, epochs=2, batch_size=16, progress=False)
            for given in (plain, data, DataLoader(data, 5, shuffle=True), DataLoader(Stream(*data.tensors), 7))]
    for net in nets[1:]:
        for mine, first in zip(net.state_dict().values(), nets[0].state_dict().values(), strict=True):
            torch.testing.assert_close(mine, first, rtol=0, atol=0)
    chosen = [select(nets[0], given, [1, 2], [1, 3], progress=False) for given in (plain, data)]
    assert chosen[0].table.equals(chosen[1].table) and chosen[0].layer == chosen[1].layer
    assert resnet18_for(data).fc.out_features == 3


def test_items_that_are_no_tensors_are_refused(tiny_net, tmp_path, stripes):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(stripes[0].images[0, 0].numpy()).save(tmp_path / name / "0.png")
    with pytest.raises(TypeError, match="ImageFolder are not .tensor of one shape.*ToTensor"):
        train(tiny_net, datasets.ImageFolder(tmp_path))


def test_one_classifier_serves_many_threads(tiny_net, stripes):
    train_set, test_set = stripes
    ebe = EBEClassifier(tiny_net, 2, 5).fit(train_set)
    expected = [str(ebe.explain(image)) for image in test_set.images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: str(ebe.explain(test_set.images[i % 21])), range(160)))
    assert found == [expected[i % 21] for i in range(160)]
