"""Step 3: embeddings are the outputs of a layer, taken in one pass that leaves the network as it was."""

import copy
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from ebe_utils import conv_layers, embed, layer_neighbors
from ebe_utils.embeddings import embed_batches, feature_maps, iter_embeddings
from ebe_utils.model import predict_logits

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images(small):
    return small[1].images[:9]


def test_first_layer_by_hand(trained, images):
    pixels = (images / 255 - trained.mean) / trained.std
    with torch.inference_mode():
        expected = F.conv2d(pixels, trained.conv1.weight, stride=2, padding=3)
    found = embed(trained, images, 1)
    assert found.shape == (9, 64 * 14 * 14) and found.dtype == np.float32
    np.testing.assert_allclose(found.reshape(9, 64, 14, 14), expected, rtol=1e-3, atol=1e-4)


def test_every_layer_equals_torchvisions_feature_extractor(trained, images):
    names = conv_layers(trained)
    extractor = create_feature_extractor(trained, {name: name for name in names.values()}).eval()
    with torch.inference_mode():
        expected = extractor(images / 255)
    found = embed(trained, images, batch_size=4)
    assert list(found) == list(range(1, 21))
    for layer, name in names.items():
        np.testing.assert_allclose(found[layer], expected[name].flatten(1), rtol=1e-3, atol=1e-3, err_msg=name)


def test_dimensions_run_over_channels_rows_and_columns(trained, images):
    maps = feature_maps(trained, images, 6)
    assert maps.shape == (9, 128, 4, 4)
    np.testing.assert_array_equal(embed(trained, images, 6)[:, 37 * 16 + 2 * 4 + 3], maps[:, 37, 2, 3])


def test_average_pooling_is_the_mean_over_positions(trained, images):
    found = embed(trained, images, [6, "fc"], pooling="avg")
    np.testing.assert_allclose(found[6], feature_maps(trained, images, 6).mean((2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["fc"], embed(trained, images, "fc"))


def test_batch_size_changes_rounding_only(trained, images):
    whole, ones = (embed(trained, images, [1, 14, 20], batch_size=size) for size in (100, 1))
    for layer in whole:
        np.testing.assert_allclose(whole[layer], ones[layer], rtol=1e-3, atol=1e-3)


def test_layers_by_number_name_and_list(trained, images):
    by_number = embed(trained, images, 14)
    np.testing.assert_array_equal(embed(trained, images, "layer3.1.conv1"), by_number)
    np.testing.assert_array_equal(embed(trained, images, np.int64(14)), by_number)
    both = embed(trained, images, ["fc", 14])
    assert list(both) == ["fc", 14] and both["fc"].shape == (9, 10)
    np.testing.assert_array_equal(both[14], by_number)


def test_images_as_bytes_or_as_floats(trained, images):
    expected = embed(trained, images, 20)
    for same in (images.numpy(), images / 255, (images / 255).double().numpy()):
        np.testing.assert_allclose(embed(trained, same, 20), expected, rtol=1e-3, atol=1e-4)


def test_one_pass_for_all_layers(trained, images):
    seen = []
    handle = trained.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        rows = [rows for rows, _, _ in iter_embeddings(trained, images, "all", batch_size=4)]
    finally:
        handle.remove()
    assert seen == [4, 4, 1] and rows == [slice(0, 4), slice(4, 8), slice(8, 9)]


def test_logits_are_the_networks_output(trained, images):
    with torch.inference_mode():
        expected = trained(images / 255)
    for _, _, logits in iter_embeddings(trained, images, [14]):
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_in_place_operations_do_not_reach_what_was_kept(tiny_net, stripes):
    """The batch norm's output is overwritten by the ReLU that follows."""
    images = stripes[1].images
    with torch.inference_mode():
        expected = tiny_net.norm(tiny_net.conv1(images / 255)).flatten(1)
    _, batch, _ = next(iter_embeddings(tiny_net, images, ["norm", "relu"], batch_size=len(images)))
    for found in (embed(tiny_net, images, ["norm", "relu"]), {layer: rows.numpy() for layer, rows in batch.items()}):
        np.testing.assert_allclose(found["norm"], expected, rtol=1e-5, atol=1e-5)
        assert (found["norm"] < 0).any()
        np.testing.assert_array_equal(found["relu"], found["norm"].clip(0))


def test_the_network_is_left_as_it_was(tiny_net, stripes):
    tiny_net.train()
    tiny_net.norm.eval()
    tiny_net.conv2.requires_grad_(False)
    before, modes = copy.deepcopy(tiny_net.state_dict()), [m.training for m in tiny_net.modules()]
    embed(tiny_net, stripes[1].images)
    feature_maps(tiny_net, stripes[1].images, 1)
    with pytest.raises(ValueError, match="no module"):
        embed(tiny_net, stripes[1].images, ["conv1", "conv9"])
    with pytest.raises(ValueError, match="does not take this input"):
        embed(tiny_net, stripes[1].images[:, :, :2, :2])  # too small for the second convolution
    next(iter_embeddings(tiny_net, stripes[1].images, batch_size=4))
    assert [m.training for m in tiny_net.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in tiny_net.state_dict().items())
    assert [p.requires_grad for p in tiny_net.conv2.parameters()] == [False] * 2
    assert tiny_net.conv1.weight.requires_grad and tiny_net.conv1.weight.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_net.modules())


def test_evaluation_mode_is_used(tiny_net, stripes):
    """A batch norm in training mode would mix the images of a batch."""
    alone = embed(tiny_net.train(), stripes[1].images[:1], "norm")
    np.testing.assert_allclose(embed(tiny_net, stripes[1].images, "norm")[:1], alone, rtol=1e-4, atol=1e-5)


def test_the_network_may_be_used_between_two_batches(tiny_net, stripes):
    found = []
    for _, batch, _ in iter_embeddings(tiny_net, stripes[1].images, [1], batch_size=8):
        found.append(batch[1].numpy())
        with torch.no_grad():
            tiny_net(torch.zeros(1, 1, 8, 8))
    np.testing.assert_allclose(np.concatenate(found), embed(tiny_net, stripes[1].images, 1), rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    """Uses one layer twice, one never, and one that returns two tensors."""

    def __init__(self):
        super().__init__()
        self.shared, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(self.shared(self.shared(x.flatten(1)))[:, None])[0][:, 0]


@pytest.mark.parametrize("layer, words", [("shared", "runs 2 times"), ("unused", "runs 0 times"),
                                          ("lstm", "outputs a tuple, not one tensor")])
def test_layers_without_one_output_per_image_are_refused(layer, words):
    net = Twice()
    with pytest.raises(ValueError, match=f"layer '{layer}' {words}"):
        embed(net, torch.rand(3, 4), layer)
    assert not any(m._forward_hooks for m in net.modules())


def test_any_network_with_named_layers():
    net = nn.Sequential(OrderedDict(hidden=nn.Linear(3, 4), act=nn.Tanh(), head=nn.Linear(4, 2)))
    x = torch.rand(5, 3)
    np.testing.assert_allclose(embed(net, x, "act"), torch.tanh(net.hidden(x)).detach(), rtol=1e-5)


@pytest.mark.parametrize("options, error, words", [
    ({"pooling": "average"}, ValueError, "Did you mean 'avg'"), ({"batch_size": 0}, ValueError, "of at least 1"),
    ({"batch_size": 2.0}, TypeError, "is a float"), ({"layers": []}, ValueError, "layers is empty"),
    ({"layers": [1, 3]}, ValueError, "from 1 to 2"), ({"device": "gpu"}, ValueError, "cannot be used here"),
    ({"examples": np.zeros((0, 1, 8, 8))}, ValueError, "are empty"),
    ({"examples": np.full((2, 1, 8, 8), np.nan)}, ValueError, "NaN"),
    ({"examples": [["a"]]}, TypeError, "dtype <U1")])
def test_what_embed_refuses(tiny_net, options, error, words):
    with pytest.raises(error, match=words):
        embed(**{"model": tiny_net, "examples": torch.rand(2, 1, 8, 8)} | options)


# --- batches of any kind of input ----------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    """A network with two inputs, the second one optional: by position or by keyword."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, shift=None):
        hidden = self.hidden(x)
        return {"logits": self.head(hidden if shift is None else hidden + shift), "hidden": hidden}


def test_batches_may_be_tensors_tuples_or_dicts():
    net, x, shift = TwoInputs(), torch.rand(5, 3), torch.rand(5, 4)
    with torch.no_grad():
        hidden, plain, shifted = net(x)["hidden"], net(x)["logits"], net(x, shift)["logits"]
    for batches, expected in (([x[:3], x[3:]], plain), ([(x[:3], shift[:3]), [x[3:], shift[3:]]], shifted),
                              ([{"x": x[:3], "shift": shift[:3]}, {"x": x[3:], "shift": shift[3:]}], shifted)):
        found = list(embed_batches(net, iter(batches), ["hidden"]))
        assert [len(logits) for _, logits in found] == [3, 2]
        torch.testing.assert_close(torch.cat([logits for _, logits in found]), expected)
        torch.testing.assert_close(torch.cat([batch["hidden"] for batch, _ in found]), hidden)
        assert all(batch["hidden"].dtype == logits.dtype == torch.float32 for batch, logits in found)
    into = {"hidden": torch.zeros(5, 4)}
    for _ in embed_batches(net, iter([x[:3], x[3:]]), ["hidden"], into=into):
        pass
    torch.testing.assert_close(into["hidden"], hidden)


def test_a_batch_without_a_tensor_is_refused():
    with pytest.raises(TypeError, match="a dict without a tensor"):
        next(embed_batches(TwoInputs(), [{"x": "text"}], ["hidden"]))
    with pytest.raises(ValueError, match="unexpected keyword argument 'y'"):
        next(embed_batches(TwoInputs(), [{"y": torch.rand(2, 3)}], ["hidden"]))


# --- pooling: which axis holds the channels ------------------------------------------------------------------------


def captured(net, x, name):
    """What torch itself hands to a hook on a module."""
    found = []
    handle = net.get_submodule(name).register_forward_hook(lambda module, args, out: found.append(out.clone()))
    with torch.inference_mode():
        net.eval()(x)
    handle.remove()
    return found[0]


@pytest.fixture(scope="module")
def models():
    """torchvision's networks, small and untrained, by name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=3)
        nn.init.normal_(vit.heads.head.weight)
        return {"vit": vit, "swin": torchvision.models.swin_t(num_classes=3),
                "resnet": torchvision.models.resnet18(num_classes=3),
                "convnext": torchvision.models.convnext_tiny(num_classes=3),
                "inception": torchvision.models.googlenet(num_classes=3, init_weights=False, aux_logits=False),
                "densenet": torchvision.models.densenet121(num_classes=3)}


@pytest.mark.parametrize("net, layer, positions", [
    ("vit", "encoder.layers.encoder_layer_1", [1]), ("vit", "encoder.layers.encoder_layer_0.mlp.0", [1]),
    ("vit", "encoder.layers.encoder_layer_0.mlp.1", [1]), ("vit", "encoder.ln", [1]), ("vit", "encoder", [1]),
    ("vit", "conv_proj", [2, 3]), ("swin", "features.0", [1, 2]), ("swin", "features.1.0", [1, 2]),
    ("swin", "features.0.0", [2, 3]), ("swin", "features.7.1.mlp", [1, 2]), ("swin", "norm", [1, 2]),
    ("resnet", "layer3", [2, 3]), ("resnet", "layer1.0.conv1", [2, 3]), ("resnet", "bn1", [2, 3]),
    ("resnet", "relu", [2, 3]), ("resnet", "avgpool", [2, 3]), ("convnext", "features.1.0", [2, 3]),
    ("convnext", "features.2", [2, 3]), ("convnext", "features.1.0.block.2", [1, 2]),
    ("convnext", "features.0.1", [2, 3]), ("inception", "inception3a", [2, 3]),
    ("densenet", "features.denseblock1", [2, 3]), ("densenet", "features.relu0", [2, 3])])
def test_averages_run_over_positions_whatever_the_network(models, net, layer, positions):
    if (net, layer) == ("resnet", "relu"):  # which runs twice in ResNet's blocks, but once here
        model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 32, 1), relu=nn.ReLU(), flat=nn.AdaptiveAvgPool2d(1),
                                          out=nn.Flatten()))
    else:
        model = models[net]
    x = torch.rand(2, 3, 32 if net == "vit" else 64, 32 if net == "vit" else 64)
    out = captured(model, x, layer)
    found = embed(model, x, layer, pooling="avg")
    np.testing.assert_allclose(found, out.mean(positions), rtol=1e-4, atol=1e-5)
    assert found.shape[1] == out.shape[({1, 2, 3} - set(positions)).pop() if out.ndim == 4 else 2]


def test_averages_of_sequences():
    """(n, channels, length) of a convolution, (n, tokens, channels) of a transformer."""
    x = torch.rand(5, 3, 20)
    conv = nn.Sequential(OrderedDict(conv=nn.Conv1d(3, 7, 3), norm=nn.BatchNorm1d(7), relu=nn.ReLU(),
                                     pool=nn.AdaptiveMaxPool1d(1), flat=nn.Flatten(), head=nn.Linear(7, 2))).eval()
    for layer in ("conv", "norm", "relu", "pool"):
        np.testing.assert_allclose(embed(conv, x, layer, pooling="avg"), captured(conv, x, layer).mean(2), rtol=1e-5)
    text = Text()
    tokens = torch.randint(0, 20, (5, 6))
    for layer in ("words", "block", "block.linear1", "block.norm2"):
        out = captured(text, tokens, layer)
        np.testing.assert_allclose(embed(text, tokens, layer, pooling="avg"), out.mean(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(embed(text, tokens, layer, pooling="first"), out[:, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(embed(text, tokens, "head", pooling="first"), embed(text, tokens, "head"), rtol=1e-5)


class Text(nn.Module):
    """Words, one transformer layer and a head, with the batch first or second."""

    def __init__(self, batch_first=True):
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, dropout=0)
        self.odd, self.head, self.batch_first = Odd(), nn.Linear(8, 2), batch_first

    def forward(self, tokens):
        x = self.words(tokens)
        x = self.block(x) if self.batch_first else self.block(x.transpose(0, 1)).transpose(0, 1)
        self.odd(x)
        return self.head(x.mean(1))


class Odd(nn.Module):
    """Returns a shape that no layer around it accounts for."""

    def forward(self, x):
        return x.reshape(len(x), 4, -1)


def test_poolings_that_cannot_be_known_are_refused(models):
    text, tokens, image = Text(), torch.randint(0, 20, (5, 6)), torch.rand(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"'odd' outputs shape \(n, 4, 12\), and which axis .*'avg-channels-first'"):
        embed(text, tokens, "odd", pooling="avg")
    out = captured(text, tokens, "odd")
    for pooling, axis in (("avg-channels-first", 2), ("avg-channels-last", 1)):
        np.testing.assert_allclose(embed(text, tokens, "odd", pooling=pooling), out.mean(axis), rtol=1e-5)
    for layer in ("layer1", "conv1"):
        with pytest.raises(ValueError, match=rf"'{layer}' outputs shape .* not a sequence of tokens"):
            embed(models["resnet"], image, layer, pooling="first")
    with pytest.raises(ValueError, match="not a sequence of tokens"):
        embed(nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten()), torch.rand(2, 3, 8), "0", pooling="first")


def test_explicit_axes_overrule_what_is_known(models):
    image = torch.rand(2, 3, 64, 64)
    out = captured(models["resnet"], image, "layer1")
    np.testing.assert_allclose(embed(models["resnet"], image, "layer1", pooling="avg-channels-last"),
                               out.mean([1, 2]), rtol=1e-4, atol=1e-6)


def test_outputs_whose_rows_are_no_images_are_refused(models):
    text = Text(batch_first=False)
    with pytest.raises(ValueError, match="'block' outputs 6 rows for a batch of 5 .*batch_first=True"):
        embed(text, torch.randint(0, 20, (5, 6)), "block")


def test_blocks_that_return_one_tensor_in_a_tuple_are_taken():
    """As Hugging Face's blocks do, and attention without its weights."""
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=self.training)[0][:, 0])

    net, x = Block().eval(), torch.rand(3, 5, 8)
    expected = net.attention(x, x, x, need_weights=False)[0]
    np.testing.assert_allclose(embed(net, x, "attention", pooling="avg"), expected.detach().mean(1), rtol=1e-4,
                               atol=1e-6)


# --- outputs that are not finite -----------------------------------------------------------------------------------


class Breaks(nn.Module):
    """Divides by what is zero for some inputs."""

    def __init__(self):
        super().__init__()
        self.flat, self.odd, self.head = nn.Flatten(), nn.Identity(), nn.Linear(4, 2)

    def forward(self, x):
        x = self.flat(x)
        self.odd(1 / x[:, :2])
        return self.head(x)


def test_a_layer_with_infinite_output_is_named_with_its_first_image():
    images = torch.rand(9, 4) + 0.5
    assert embed(Breaks(), images, "odd").shape == (9, 2)
    images[6, 1] = images[8, 0] = 0
    with pytest.raises(ValueError, match=r"layer 'odd' holds NaN or infinity \(first for input 6\)"):
        embed(Breaks(), images, ["flat", "odd"], batch_size=4)
    assert embed(Breaks(), images, "flat", batch_size=4).shape == (9, 4)


def test_a_network_with_broken_weights_is_named():
    net = Breaks()
    with torch.no_grad():
        net.head.bias[1] = float("nan")
    with pytest.raises(ValueError, match=r"network's own output holds NaN or infinity \(first for input 0\)"):
        embed(net, torch.rand(3, 4) + 1, "flat")


def test_large_outputs_whose_sum_overflows_are_finite():
    net = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(4, 2)))
    assert np.isfinite(embed(net, torch.full((3, 4), 2e38), "flat")).all()


# --- several threads, several devices ------------------------------------------------------------------------------


def test_threads_share_a_network(tiny_net, stripes):
    """Hooks see the passes of all threads: eight of them, each with other images, find what one alone finds."""
    tiny_net.train()
    images = stripes[1].images
    expected = [embed(tiny_net, images[i:i + 2], [1, "norm"]) for i in range(8)]

    def ask(i):
        return [embed(tiny_net, images[i:i + 2], [1, "norm"]) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    for answers, alone in zip(found, expected, strict=True):
        for answer in answers:
            for layer in alone:
                np.testing.assert_allclose(answer[layer], alone[layer], rtol=1e-5, atol=1e-6)
    assert tiny_net.training and tiny_net.norm.training
    assert not any(module._forward_hooks for module in tiny_net.modules())


def test_a_network_is_moved_once_per_call(tiny_net, stripes, monkeypatch):
    """To another device a copy is moved, and a copy costs: one for each call, however often the network runs."""
    copies = []
    monkeypatch.setattr("ebe_utils.forward.device_of", lambda model: torch.device(
        "cpu" if hasattr(model, "moved") else "cuda"))

    def moved(model):
        copies.append(copy.deepcopy(model))
        copies[-1].moved = True
        return copies[-1]

    monkeypatch.setattr("ebe_utils.forward.copy", SimpleNamespace(deepcopy=moved))
    for call in (lambda: embed(tiny_net, stripes[1].images, device="cpu", batch_size=4),
                 lambda: predict_logits(tiny_net, stripes[1].images, batch_size=4, device="cpu"),
                 lambda: layer_neighbors(tiny_net, *stripes, [1, 2], 3, device="cpu", batch_size=4, progress=False,
                                         pixels=False, memory_budget=100)):
        copies.clear()
        call()
        assert len(copies) == 1
