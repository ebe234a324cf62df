"""Step 2, the network: ResNet18, its layers by number, and the checkpoint."""

from collections import OrderedDict, namedtuple
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.special import expit, softmax
from torch import nn

from ebe_utils import ImageSet, conv_layers, embed, layer_table, load_model, resnet18_for, save_model
from ebe_utils.data import as_batch, scale
from ebe_utils.devices import float64_device
from ebe_utils.files import read_tensors, write_tensors
from ebe_utils.layers import layer_name, layer_names
from ebe_utils.model import device_of, evaluating, on_device, predict_logits

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def colour():
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (12, 3, 32, 32)).astype(np.uint8), np.arange(12) % 10, tuple("abcdefghij"))


# --- the network ---------------------------------------------------------------------------------------------------


def test_resnet18_is_torchvisions_on_standardised_images(colour):
    net = resnet18_for(colour, seed=3)
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    theirs.load_state_dict({k: v for k, v in net.state_dict().items() if k not in ("mean", "std")})
    pixels = colour.images.numpy() / 255
    mean, std = (getattr(pixels, what)((0, 2, 3), keepdims=True)[0] for what in ("mean", "std"))
    np.testing.assert_allclose(net.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(net.std, std, rtol=1e-5)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy((pixels - mean) / std).float())
        np.testing.assert_allclose(net(scale(colour.images)), expected, rtol=1e-3, atol=1e-4)


def test_seed_decides_the_weights_and_leaves_the_global_generator_alone(small):
    state = torch.get_rng_state()
    first, again, other = (resnet18_for(small[0], seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["layer3.1.conv1.weight"], other["layer3.1.conv1.weight"])


def test_new_network_fits_its_data_set(small, colour):
    grey, rgb = resnet18_for(small[0]), resnet18_for(colour, "cifar")
    assert (grey.conv1.in_channels, grey.fc.out_features, grey.training) == (1, 10, False)
    assert (rgb.conv1.in_channels, rgb.conv1.kernel_size, rgb.conv1.stride) == (3, (3, 3), (1, 1))
    assert isinstance(rgb.maxpool, nn.Identity)


def test_constant_images_give_finite_outputs():
    data = ImageSet(np.full((4, 1, 28, 28), 9, np.uint8), [0, 1, 0, 1])
    assert np.isfinite(predict_logits(resnet18_for(data), data.images)).all()


def test_resnet18_needs_images():
    with pytest.raises(ValueError, match=r"shape \(7,\)"):
        resnet18_for(ImageSet(np.zeros((2, 7)), [0, 1]))


def test_predicted_logits_do_not_depend_on_the_batch_size(trained, small):
    images = small[1].images[:20]
    with torch.inference_mode():
        expected = trained(images / 255)
    np.testing.assert_allclose(predict_logits(trained, images, batch_size=7), expected, rtol=1e-4, atol=1e-4)


# --- layers by number ----------------------------------------------------------------------------------------------


def test_layers_are_numbered_as_in_the_paper(trained):
    expected = [name for name, module in torchvision.models.resnet18().named_modules() if isinstance(module, nn.Conv2d)]
    layers = conv_layers(trained)
    assert list(layers) == list(range(1, 21)) and list(layers.values()) == expected
    assert [i for i, name in layers.items() if "downsample" in name] == [8, 13, 18]
    assert (layers[1], layers[14], layers[15], layers[20]) == (
        "conv1", "layer3.1.conv1", "layer3.1.conv2", "layer4.1.conv2")


@pytest.mark.parametrize("shape, stem, total", [((1, 28, 28), "imagenet", 43_008), ((3, 32, 32), "imagenet", 50_688),
                                                ((3, 32, 32), "cifar", 614_400)])
def test_dimensions_of_all_layers(shape, stem, total):
    data = ImageSet(np.zeros((2, *shape), np.uint8), [0, 1])
    net = resnet18_for(data, stem)
    table = layer_table(net, shape, n_images=1000)
    assert table["dimension"].sum() == total
    assert {i: e.shape[1] for i, e in embed(net, data.images).items()} == table["dimension"].to_dict()
    assert table.loc[1, "MiB"] == round(table.loc[1, "dimension"] * 4000 / 1024 / 1024, 1)


def test_layer_table_tells_kernels_strides_and_outputs(trained):
    table = layer_table(trained, (1, 28, 28))
    assert table.loc[1].tolist() == ["conv1", "7×7", 2, "64×14×14", 12544]
    assert table.loc[13].tolist() == ["layer3.0.downsample.0", "1×1", 2, "256×2×2", 1024]
    assert not any(module._forward_hooks for module in trained.modules())


@pytest.mark.parametrize("layer, error, words", [
    (0, ValueError, "from 1 to 20"), (21, ValueError, "from 1 to 20"), (-1, ValueError, "from 1 to 20"),
    (14.0, TypeError, "is a float"), (True, TypeError, "is a bool"), (None, TypeError, "is a NoneType"),
    ("layer3.1.cnv1", ValueError, "Did you mean 'layer3.1.conv1'"), ("", ValueError, "is no module"),
    ("14", ValueError, "is no module")])
def test_layers_that_are_not_there(trained, layer, error, words):
    with pytest.raises(error, match=words):
        layer_name(trained, layer)


def test_layers_are_found_by_number_and_by_name(trained):
    assert layer_names(trained, [14, "avgpool"]) == {14: "layer3.1.conv1", "avgpool": "avgpool"}
    assert layer_names(trained, 3) == {3: "layer1.0.conv2"} and len(layer_names(trained)) == 20


@pytest.mark.parametrize("layers", [1, "all", [1]])
def test_a_network_without_convolutions_has_layers_by_name_only(layers):
    net = nn.Sequential(OrderedDict(hidden=nn.Linear(3, 4), head=nn.Linear(4, 2)))
    assert conv_layers(net) == {} and layer_name(net, "hidden") == "hidden"
    with pytest.raises(ValueError, match="no convolutions.*hidden, head"):
        layer_names(net, layers)


def test_no_layers():
    with pytest.raises(ValueError, match="layers is empty"):
        layer_names(nn.Conv2d(1, 1, 1), [])


# --- images and devices --------------------------------------------------------------------------------------------


def test_only_uint8_is_scaled():
    assert scale(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert scale(torch.tensor([2.5])).item() == 2.5


def test_single_images_become_a_batch():
    like = (torch.uint8, (1, 4, 4))
    batch, single = as_batch(np.zeros((1, 4, 4), np.uint8), like)
    assert batch.shape == (1, 1, 4, 4) and single
    batch, single = as_batch(np.zeros((5, 1, 4, 4), np.float32), like)
    assert batch.shape == (5, 1, 4, 4) and not single


def test_evaluation_mode_ends_with_the_block(tiny_net):
    tiny_net.train()
    tiny_net.norm.eval()
    with pytest.raises(KeyError), evaluating(tiny_net) as net:
        assert not any(module.training for module in net.modules())
        raise KeyError
    assert tiny_net.training and tiny_net.conv1.training and not tiny_net.norm.training


def test_device(tiny_net):
    assert device_of(tiny_net) == torch.device("cpu") == device_of(nn.Flatten())
    assert on_device(tiny_net, "cpu") == (tiny_net, torch.device("cpu"))
    for device in ("gpu", "cuda:99", 1.5):
        with pytest.raises(ValueError, match="cannot be used here.*pass 'auto'"):
            on_device(tiny_net, device)


def test_float64_is_added_up_on_the_cpu_where_a_device_has_none():
    assert float64_device("mps") == torch.device("cpu") == float64_device("mps:0")
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert float64_device("cpu") == torch.device("cpu")


def test_overlapping_blocks_put_modes_back_when_the_last_one_ends(tiny_net):
    """As two threads overlap: the first one to end must not switch the other's network to training mode."""
    tiny_net.train()
    tiny_net.norm.eval()
    first, second = evaluating(tiny_net), evaluating(nn.Sequential(tiny_net.conv1, tiny_net.norm))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not tiny_net.conv1.training and tiny_net.conv2.training
    second.__exit__(None, None, None)
    assert tiny_net.training and tiny_net.conv1.training and not tiny_net.norm.training


@pytest.mark.parametrize("model, error, words", [
    ("resnet18", TypeError, "the network is a str; pass a torch.nn.Module"),
    (lambda x: x, TypeError, "the network is a function"), (None, TypeError, "the network is a NoneType"),
    (nn.Linear(4, 2, device="meta"), ValueError, "have no values.*load its weights")])
def test_what_is_no_network(model, error, words):
    with pytest.raises(error, match=words):
        predict_logits(model, torch.zeros(2, 4))
    with pytest.raises(error, match=words):
        embed(model, torch.zeros(2, 4), 1 if error is TypeError else "")


# --- outputs and inputs of other networks --------------------------------------------------------------------------


class Returns(nn.Module):
    """A network that returns what `make` makes of (n, classes) logits."""

    def __init__(self, make, classes=3):
        super().__init__()
        self.head, self.make = nn.Linear(4, classes), make

    def forward(self, x):
        return self.make(self.head(x))


Named = namedtuple("Named", ["logits", "auxiliary"])


@pytest.mark.parametrize("make", [
    lambda z: z, lambda z: (z,), lambda z: [z, None], lambda z: {"logits": z, "hidden": z[:, :2]},
    lambda z: {"scores": z}, lambda z: Named(z, z * 2), lambda z: SimpleNamespace(logits=z, loss=None),
    lambda z: OrderedDict(loss=None, out=z)])
def test_logits_are_found_in_what_a_network_returns(make):
    net, x = Returns(make), torch.rand(5, 4)
    np.testing.assert_allclose(predict_logits(net, x), net.head(x).detach(), rtol=1e-6)


@pytest.mark.parametrize("make, words", [
    (lambda z: (z, z), "returns a tuple, in which the logits cannot be found; wrap it"),
    (lambda z: {"a": z, "b": z}, "returns a dict"), (lambda z: "cat", "returns a str"),
    (lambda z: None, "returns a NoneType"), (lambda z: Named("cat", z), "returns a Named"),
    (lambda z: z[:, :, None, None], r"shape \(5, 3, 1, 1\), not logits"), (lambda z: z.argmax(1), "int64 of shape"),
    (lambda z: z[:3], "returns 3 rows for a batch of 5 inputs"), (lambda z: z.mean(), r"of shape \(\)")])
def test_outputs_without_logits_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        predict_logits(Returns(make), torch.rand(5, 4))


@pytest.mark.parametrize("make", [lambda z: z, lambda z: z[:, 0]])
def test_a_single_logit_becomes_a_pair(make):
    """Class 1 where the logit is positive, and the softmax of the pair is the sigmoid."""
    net, x = Returns(make, classes=1), torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    z = net.head(x)[:, 0].detach().numpy()
    found = predict_logits(net, x)
    np.testing.assert_array_equal(found.argmax(1), z > 0)
    assert 0 < (z > 0).sum() < 40
    np.testing.assert_allclose(softmax(found, 1)[:, 1], expit(z), rtol=1e-5)


def test_a_final_sigmoid_is_undone():
    head, x = nn.Linear(4, 1), torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    found = predict_logits(nn.Sequential(head, nn.Sigmoid()), x)
    np.testing.assert_allclose(found, predict_logits(head, x), rtol=1e-4, atol=1e-5)
    assert 0 < found.argmax(1).sum() < 40
    with torch.no_grad():
        head.weight.mul_(1e4)  # probabilities that are rounded to 0 and 1
    assert np.isfinite(predict_logits(nn.Sequential(head, nn.Sigmoid()), x)).all()


@pytest.mark.parametrize("dtype, rtol", [(torch.bfloat16, 0.05), (torch.float16, 0.01), (torch.float64, 1e-5)])
def test_inputs_are_cast_to_the_networks_dtype(tiny_net, stripes, dtype, rtol):
    expected = predict_logits(tiny_net, stripes[1].images)
    found = predict_logits(tiny_net.to(dtype), stripes[1].images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)
    embeddings = embed(tiny_net, stripes[1].images, [1, "norm"], pooling="avg")
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in embeddings.values())


def test_token_numbers_stay_integers():
    net = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2)).double()
    assert predict_logits(net, torch.tensor([[0, 3, 9], [1, 1, 1]])).shape == (2, 2)
    with pytest.raises(ValueError, match="does not take this input.*out of range"):
        predict_logits(net, torch.tensor([[0, 3, 10]]))


@pytest.mark.parametrize("images, words", [
    (torch.rand(5, 8, 8), r"takes \(n, 1, height, width\): add the axis of one channel, inputs\[:, None\]"),
    (torch.rand(5, 8, 8, 1), r"put the channels first, inputs.permute\(0, 3, 1, 2\)"),
    (torch.rand(5, 3, 8, 8), r"shape \(\d, 3, 8, 8\)\): .*first convolution takes \(n, 1, height, width\)"),
    (torch.rand(1, 8, 8), "add the axis"), (torch.rand(5, 64), r"shape \(\d, 64\)")])
def test_inputs_that_do_not_fit_say_what_to_change(tiny_net, images, words):
    for call in (predict_logits, lambda net, x: embed(net, x, 1)):
        with pytest.raises(ValueError, match=words):
            call(tiny_net, images)


def test_pixel_statistics_of_large_images_are_taken_in_pieces(monkeypatch):
    """A piece has at most 2**24 numbers, so that memory does not grow with the size of the images."""
    data = ImageSet(np.random.default_rng(0).integers(0, 256, (30, 3, 600, 500)).astype(np.uint8), np.arange(30) % 2)
    seen, plain = [], scale
    monkeypatch.setattr("ebe_utils.model.scale", lambda part: seen.append(part.numel()) or plain(part))
    net = resnet18_for(data)
    assert max(seen) <= 2**24 and sum(seen) == data.images.numel()
    np.testing.assert_allclose(net.mean[:, 0, 0], data.images.numpy().mean((0, 2, 3)) / 255, rtol=1e-5)


# --- checkpoint ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path, trained, small):
    save_model(tmp_path / "model.safetensors", trained, small[0])
    return tmp_path / "model.safetensors"


def test_checkpoint_brings_back_the_network_frozen(checkpoint, trained, small):
    net = load_model(checkpoint, resnet18_for(small[0], seed=9), small[0])
    np.testing.assert_array_equal(predict_logits(net, small[1].images), predict_logits(trained, small[1].images))
    assert torch.equal(net.mean, trained.mean) and not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert [f.name for f in checkpoint.parent.iterdir()] == ["model.safetensors"]


def test_checkpoint_of_something_else_is_refused(checkpoint, small, colour, tiny_net):
    train = small[0]
    for net, data, words in (
            (resnet18_for(train, "cifar"), train, "stem imagenet, but this is cifar"),
            (resnet18_for(train), replace(train, name="mnist"), "dataset digits, but this is mnist"),
            (resnet18_for(train), replace(train, classes=tuple("abcdefghij")), "classes"),
            (resnet18_for(colour), replace(colour, name="digits"), "image_shape 1×28×28, but this is 3×32×32"),
            (tiny_net, train, "architecture ResNet18, but this is Sequential")):
        with pytest.raises(ValueError, match=words):
            load_model(checkpoint, net, data)


def test_checkpoint_with_other_tensors_is_refused(checkpoint, small):
    tensors = {name: value.clone() for name, value in load_file(checkpoint).items()}  # the file is mapped, and written
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    for change in ({"fc.weight": torch.zeros(3, 512)}, {"extra": torch.zeros(1)}):
        write_tensors(checkpoint, tensors | change, metadata)
        with pytest.raises(ValueError, match=f"other tensors.*{next(iter(change))}"):
            load_model(checkpoint, resnet18_for(small[0]), small[0])
    del tensors["conv1.weight"]
    write_tensors(checkpoint, tensors, metadata)
    with pytest.raises(ValueError, match="other tensors.*conv1.weight"):
        load_model(checkpoint, resnet18_for(small[0]), small[0])


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: b"garbage" * 99, lambda raw: raw[:len(raw) // 2],
                                    lambda raw: raw[:-1]])
def test_damaged_checkpoint(checkpoint, small, damage):
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(ValueError, match="model.safetensors is damaged.*train again"):
        load_model(checkpoint, resnet18_for(small[0]), small[0])


def test_missing_checkpoint(tmp_path, small):
    with pytest.raises(FileNotFoundError, match="train the network first"):
        load_model(tmp_path / "model.safetensors", resnet18_for(small[0]), small[0])


def test_a_second_write_replaces_the_first(tmp_path):
    for value in (1., 2.):
        write_tensors(tmp_path / "x", {"a": torch.tensor(value)}, {"value": str(value)})
    tensors, metadata = read_tensors(tmp_path / "x")
    assert tensors["a"] == 2 and metadata == {"value": "2.0"} and len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_keeps_the_old_file_and_leaves_no_half_one(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, {"what": "old"})

    def fail(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("ebe_utils.files.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        write_tensors(path, {"a": torch.zeros(2)}, {"what": "new"})
    tensors, metadata = read_tensors(path)
    assert tensors["a"].tolist() == [1, 1] and metadata == {"what": "old"}
    assert list(tmp_path.iterdir()) == [path]
