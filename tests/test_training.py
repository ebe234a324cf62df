"""Step 2, continued: the training loop, going on after an interruption, and the fast convolutions."""

import copy
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn
from torch.nn import functional as F

from ebe_utils import ImageSet, resnet18_for, train
from ebe_utils.data import scale
from ebe_utils.model import predict_logits
from ebe_utils.small_maps import _SmallMaps, fast_convolutions
from ebe_utils.training import _augment, _save, evaluate

pytestmark = pytest.mark.usefixtures("one_thread")


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def quick(net, *data, **options):
    return train(net, *data, **{"epochs": 3, "batch_size": 16, "progress": False} | options)


# --- what a training does ------------------------------------------------------------------------------------------


def test_training_learns(stripes, new_net):
    net = quick(new_net(), *stripes, epochs=15, learning_rate=0.02)
    assert [row["epoch"] for row in net.history] == list(range(1, 16))
    assert net.history[-1]["train_loss"] < net.history[0]["train_loss"] / 2
    assert net.history[-1]["train_accuracy"] > 0.9 and net.history[-1]["test_accuracy"] > 0.9


@pytest.mark.parametrize("optimizer, torchs", [("sgd", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
                                               ("plain_sgd", lambda p: torch.optim.SGD(p, lr=0.05)),
                                               ("adamw", lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.3)),
                                               ("adam", lambda p: torch.optim.Adam(p, lr=0.05))])
def test_every_batch_is_one_step_of_torchs_optimizer(stripes, optimizer, torchs, new_net):
    """Two epochs with all images in one batch."""
    data, net = stripes[0], new_net()
    expected = copy.deepcopy(net).train()
    step = torchs(expected.parameters())
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(expected(data.images / 255), torch.from_numpy(data.labels))
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(loss.item())
    quick(net, data, epochs=2, batch_size=48, learning_rate=0.05, optimizer=optimizer,
          weight_decay=0.3 if optimizer == "adamw" else 0)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert [row["train_loss"] for row in net.history] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("schedule, rates", [("constant", [0.04] * 4), ("linear", [0.04, 0.03, 0.02, 0.01])])
def test_schedule_of_the_learning_rate(stripes, new_net, schedule, rates, monkeypatch):
    """Two epochs of two batches: four steps."""
    seen, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: seen.append(self.param_groups[0]["lr"]) or step(self))
    quick(new_net(), stripes[0], epochs=2, batch_size=24, learning_rate=0.04, optimizer="sgd", schedule=schedule)
    assert seen == pytest.approx(rates)


def test_history_tells_loss_and_accuracy_on_the_test_set(trained, small):
    logits, labels = predict_logits(trained, small[1].images), small[1].labels
    found = evaluate(trained, small[1], batch_size=7)
    assert found["test_accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    shares = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    assert found["test_loss"] == pytest.approx(log_loss(labels, shares, labels=range(10)), rel=1e-4)
    assert set(trained.history[0]) == {"epoch", "train_loss", "train_accuracy", "seconds"}


def test_the_trained_network_is_frozen(trained):
    assert not trained.training and not any(p.requires_grad for p in trained.parameters())


def test_a_frozen_network_can_be_trained_on(stripes, new_net):
    net = quick(new_net(), stripes[0], epochs=1)
    before = copy.deepcopy(net)
    assert not same_weights(quick(net, stripes[0], epochs=1), before)


def test_seed_decides_the_weights_and_leaves_the_global_generators_alone(stripes, new_net):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (quick(new_net(), stripes[0], augment=True, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert same_weights(first, again) and not same_weights(first, other)


def test_the_order_of_the_images_differs_from_epoch_to_epoch(stripes, new_net):
    """Batches of two thirds and one third: the same order twice would repeat the first epoch's batches."""
    seen = []
    net = new_net()
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].sum((1, 2, 3)).tolist()))
    quick(net, stripes[0], epochs=2, batch_size=48)
    assert sorted(seen[0]) == sorted(seen[1]) and seen[0] != seen[1]


def test_a_last_batch_of_one_image_is_left_out():
    """Batch normalisation of single values cannot train on it."""
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    data = ImageSet(np.random.default_rng(0).random((9, 4)), np.arange(9) % 2)
    assert len(quick(net, data, batch_size=4).history) == 3


def test_progress_is_shown(stripes, capsys, new_net):
    quick(new_net(), stripes[0], progress=True)
    assert "3/3" in capsys.readouterr().err


def test_progress_calls_a_function(stripes, capsys, new_net):
    seen = []
    quick(new_net(), stripes[0], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)] and not capsys.readouterr().err
    with pytest.raises(TypeError, match="progress='yes' is a str"):
        quick(new_net(), stripes[0], progress="yes")


# --- what is trained -----------------------------------------------------------------------------------------------


def changed(before, after):
    return {name for name, tensor in after.state_dict().items() if not torch.equal(before.state_dict()[name], tensor)}


def test_layers_that_are_frozen_on_purpose_stay_as_they_are(stripes, new_net):
    """Weights and, since a layer without trainable parameters runs in evaluation mode, batch statistics."""
    net = new_net()
    for part in (net.conv1, net.norm):
        part.requires_grad_(False)
    before = copy.deepcopy(net)
    head = {"conv2.weight", "conv2.bias", "head.weight", "head.bias"}
    assert changed(before, quick(net, stripes[0])) == head
    again = copy.deepcopy(net)
    assert changed(again, quick(net, stripes[0], seed=1)) == head, "frozen by train, and trained on where it was"
    net.conv1.requires_grad_(True)
    again = copy.deepcopy(net)
    assert changed(again, quick(net, stripes[0], seed=2)) == {"conv1.weight"}


def test_a_network_that_is_frozen_as_a_whole_is_refused(stripes, new_net):
    with pytest.raises(ValueError, match="every parameter of the network is frozen"):
        quick(new_net().requires_grad_(False), stripes[0])
    with pytest.raises(ValueError, match="or it has none"):
        quick(nn.Flatten(), stripes[0])


def test_a_partly_frozen_training_goes_on_from_its_state(stripes, tmp_path, monkeypatch, new_net):
    def net(seed=0):
        net = new_net()
        net.conv1.requires_grad_(False)
        return net

    expected, state = quick(net(), stripes[0]), tmp_path / "state"
    interrupt_after_first_epoch(monkeypatch, lambda: quick(net(), stripes[0], state=state))
    with pytest.raises(ValueError, match=r"frozen \['conv1.weight'\] then, None now"):
        quick(new_net(), stripes[0], state=state)
    assert same_weights(quick(net(), stripes[0], state=state), expected)


def test_a_single_logit_is_trained_as_a_logistic_regression(stripes):
    """cross-entropy of the pair (0, z) is the binary cross-entropy of z."""
    data = ImageSet(stripes[0].images[stripes[0].labels < 2], stripes[0].labels[stripes[0].labels < 2])
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    expected = copy.deepcopy(net)
    step = torch.optim.SGD(expected.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        loss = F.binary_cross_entropy_with_logits(expected(data.images / 255)[:, 0],
                                                  torch.from_numpy(data.labels).float())
        step.zero_grad()
        loss.backward()
        step.step()
    quick(net, data, epochs=2, batch_size=len(data), learning_rate=0.05, optimizer="sgd")
    torch.testing.assert_close(net[1].weight, expected[1].weight, rtol=1e-4, atol=1e-6, check_stride=False)
    quick(net, data, epochs=20, learning_rate=0.05)
    assert evaluate(net, data)["test_accuracy"] > 0.9


class Auxiliary(nn.Module):
    """Returns (logits, auxiliary logits) under names while it is trained, as torchvision's Inception does."""

    def __init__(self):
        super().__init__()
        self.flat, self.head, self.auxiliary = nn.Flatten(), nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, x):
        x = self.flat(x)
        if not self.training:
            return self.head(x)
        return namedtuple("Outputs", ["logits", "auxiliary"])(self.head(x), self.auxiliary(x))


def test_networks_with_named_outputs_are_trained_on_their_logits(stripes):
    net = Auxiliary()
    before = copy.deepcopy(net)
    assert changed(before, quick(net, stripes[0])) == {"head.weight", "head.bias"}


def test_labels_beyond_the_outputs_are_refused(stripes, new_net):
    with pytest.raises(ValueError, match="labels run up to 2, but the network has 2 outputs"):
        quick(new_net(classes=2), stripes[0])
    with pytest.raises(ValueError, match="labels run up to 2, but the network has 2 outputs"):
        evaluate(new_net(classes=2), stripes[0])


def test_training_and_test_images_of_different_kinds_are_refused(stripes, new_net):
    bytes_as_floats = (stripes[1].images * 0.9, stripes[1].labels)
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        quick(new_net(), stripes[0], bytes_as_floats)


def test_augmentation_needs_images(new_net):
    data = ImageSet(np.random.default_rng(0).random((8, 4)), np.arange(8) % 2)
    with pytest.raises(ValueError, match=r"augment=True.*shape \(4,\)"):
        quick(nn.Linear(4, 2), data, augment=True)


# --- augmentation --------------------------------------------------------------------------------------------------


def test_augmented_images_are_shifted_and_flipped():
    """Every one is among all shifts by up to an eighth, flipped or not, of its own image."""
    images = torch.rand(40, 2, 16, 9, generator=torch.Generator().manual_seed(0))
    found = _augment(images, torch.Generator().manual_seed(1))
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    padded, seen = F.pad(images, (2, 2, 2, 2)), []
    for i in range(40):
        matches = [(y, x, flip) for y in range(5) for x in range(5) for flip in (False, True)
                   if torch.equal(found[i].flip(-1) if flip else found[i], padded[i, :, y:y + 16, x:x + 9])]
        assert len(matches) == 1
        seen += matches
    ys, xs, flips = (set(values) for values in zip(*seen, strict=True))
    assert ys == xs == set(range(5)) and 8 < sum(flip for *_, flip in seen) < 32 and flips == {False, True}


def test_augmentation_takes_part_in_the_training(stripes, new_net):
    plain, moved = (quick(new_net(), stripes[0], epochs=1, augment=augment) for augment in (False, True))
    assert not same_weights(plain, moved)


# --- going on after an interruption --------------------------------------------------------------------------------


def interrupt_after_first_epoch(monkeypatch, run):
    save = _save

    def stop(*args):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ebe_utils.training._save", stop)
        with pytest.raises(KeyboardInterrupt):
            run()


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def test_interrupted_resnet_ends_with_the_same_weights(small, tmp_path, monkeypatch):
    data = small[0].subset(np.arange(64))
    options = {"epochs": 2, "batch_size": 32, "augment": True, "test_set": small[1]}
    expected = quick(resnet18_for(data), data, **options)
    state = tmp_path / "state"
    interrupt_after_first_epoch(monkeypatch, lambda: quick(resnet18_for(data), data, state=state, **options))
    found = quick(resnet18_for(data, seed=5), data, state=state, **options)
    assert same_weights(found, expected)
    assert without_seconds(found.history) == without_seconds(expected.history) and len(found.history) == 2


def test_interrupted_sgd_ends_with_the_same_weights(stripes, tmp_path, monkeypatch, new_net):
    options = {"optimizer": "sgd", "learning_rate": 0.01, "schedule": "linear"}
    expected, state = quick(new_net(), stripes[0], **options), tmp_path / "state"
    interrupt_after_first_epoch(monkeypatch, lambda: quick(new_net(), stripes[0], state=state, **options))
    assert same_weights(quick(new_net(seed=5), stripes[0], state=state, **options), expected)


def test_dropout_hangs_on_the_seed_and_is_taken_up_again(stripes, tmp_path, monkeypatch):
    def net():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))

    expected = quick(net(), stripes[0])
    torch.manual_seed(11)
    before, state = torch.get_rng_state(), tmp_path / "state"
    start = net()
    torch.set_rng_state(before)
    interrupt_after_first_epoch(monkeypatch, lambda: quick(start, stripes[0], state=state))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert same_weights(quick(net(), stripes[0], state=state), expected)
    assert not same_weights(quick(net(), stripes[0], seed=1), expected)


def test_more_epochs_go_on_from_the_state(stripes, tmp_path, new_net):
    state = tmp_path / "state"
    quick(new_net(), stripes[0], epochs=1, state=state)
    seen = []
    net = new_net()
    net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    quick(net, stripes[0], state=state)
    assert sum(seen) == 2 * len(stripes[0]) and same_weights(net, quick(new_net(), stripes[0]))
    quick(net, stripes[0], state=state)
    assert sum(seen) == 2 * len(stripes[0]), "a finished training is not trained further"


@pytest.mark.parametrize("change", [{"batch_size": 8}, {"learning_rate": 0.01}, {"optimizer": "sgd"}, {"seed": 1},
                                    {"augment": True}, {"schedule": "linear"}, {"weight_decay": 0.1},
                                    {"precision": "bfloat16"}])
def test_state_of_other_settings_is_refused(stripes, tmp_path, change, new_net):
    quick(new_net(), stripes[0], state=tmp_path / "state")
    with pytest.raises(ValueError, match=f"other settings.*{next(iter(change))}.*then.*now.*delete the file"):
        quick(new_net(), stripes[0], state=tmp_path / "state", **change)


def test_state_of_something_else_is_refused(stripes, tmp_path, new_net):
    state = tmp_path / "state"
    quick(new_net(), stripes[0], state=state)
    for other in (stripes[0].subset(np.arange(47)), replace(stripes[0], labels=np.roll(stripes[0].labels, 1))):
        with pytest.raises(ValueError, match="training images .* then, .* now"):
            quick(new_net(), other, state=state)
    with pytest.raises(ValueError, match="3 epochs are done"):
        quick(new_net(), stripes[0], epochs=2, state=state)
    quick(new_net(), stripes[0], state=tmp_path / "linear", schedule="linear")
    with pytest.raises(ValueError, match="epochs 3 then, 4 now"):
        quick(new_net(), stripes[0], epochs=4, state=tmp_path / "linear", schedule="linear")
    with pytest.raises(ValueError, match="of another network"):
        quick(new_net(classes=4), stripes[0], state=state)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, error, words", [
    ({"learning_rate": float("nan")}, ValueError, "learning_rate=nan is out of range"),
    ({"learning_rate": float("inf")}, ValueError, "learning_rate=inf is out of range"),
    ({"learning_rate": 0}, ValueError, "greater than 0"), ({"learning_rate": -0.1}, ValueError, "greater than 0"),
    ({"learning_rate": "0.1"}, TypeError, "is a str"), ({"learning_rate": True}, TypeError, "is a bool"),
    ({"augment": "false"}, TypeError, "augment='false' is a str; pass True or False"),
    ({"epochs": 0}, ValueError, "of at least 1"), ({"epochs": 1.5}, TypeError, "is a float"),
    ({"batch_size": 1}, ValueError, "of at least 2"), ({"seed": -1}, ValueError, "of at least 0"),
    ({"schedule": "cosine"}, ValueError, "choose one of constant, linear"),
    ({"precision": "float16"}, ValueError, "choose one of auto, float32, bfloat16"),
    ({"optimizer": "adan"}, ValueError, "Did you mean 'adam'"), ({"device": "gpu"}, ValueError, "cannot be used")])
def test_settings_that_are_refused(stripes, options, error, words, new_net):
    with pytest.raises(error, match=words):
        quick(new_net(), stripes[0], **options)


def test_one_image_is_too_few(stripes, new_net):
    with pytest.raises(ValueError, match="at least two images"):
        quick(new_net(), stripes[0].subset([0]))


def test_a_training_that_diverges_is_stopped_and_not_saved(stripes, tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.Linear(50, 3))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        quick(net, stripes[0], learning_rate=1e20, optimizer="sgd", state=tmp_path / "state")
    assert not list(tmp_path.iterdir())


# --- the fast convolutions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, out, kernel, stride, padding", [
    ((2, 1, 28, 28), 5, (7, 7), (2, 2), (3, 3)), ((3, 3, 8, 6), 4, (3, 3), (1, 1), (1, 1)),
    ((4, 6, 2, 2), 5, (3, 3), (1, 1), (1, 1)), ((4, 6, 2, 2), 5, (3, 3), (2, 2), (1, 1)),
    ((4, 6, 4, 4), 5, (1, 1), (2, 2), (0, 0)), ((2, 2, 5, 9), 3, (2, 4), (1, 3), (0, 2)),
    ((3, 4, 1, 1), 2, (3, 3), (1, 1), (1, 1)), ((2, 3, 6, 6), 2, (3, 3), (2, 2), (0, 0))])
def test_fast_convolutions_equal_torchs(shape, out, kernel, stride, padding):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(out, shape[1], *kernel, dtype=torch.float64, generator=generator, requires_grad=True)
    expected, found = (conv(x, weight) for conv in (
        lambda x, w: F.conv2d(x, w, None, stride, padding), lambda x, w: _SmallMaps.apply(x, w, stride, padding)))
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    for mine, autograds in zip(torch.autograd.grad(found, (x, weight), upstream),
                               torch.autograd.grad(expected, (x, weight), upstream), strict=True):
        torch.testing.assert_close(mine, autograds, rtol=1e-10, atol=1e-10)


def test_fast_convolutions_pass_gradcheck():
    x, weight = (torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1),
                             requires_grad=True) for shape in ((2, 2, 3, 4), (3, 2, 2, 3)))
    assert torch.autograd.gradcheck(lambda x, w: _SmallMaps.apply(x, w, (1, 2), (1, 1)), (x, weight))


def test_fast_convolutions_in_bfloat16_are_as_near_as_torchs_own():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(8, 64, 2, 2, generator=generator)
    conv = nn.Conv2d(64, 32, 3, padding=1, bias=False)
    nn.init.normal_(conv.weight, generator=generator)

    def results():
        conv.zero_grad()
        out = conv(x)
        out.float().square().sum().backward()
        return out.detach(), conv.weight.grad.clone()

    exact = results()
    with torch.autocast("cpu", torch.bfloat16):
        torchs = results()
        with fast_convolutions(conv):
            ours = results()
    assert ours[0].dtype == torchs[0].dtype == torch.bfloat16 and ours[1].dtype == torch.float32
    for mine, theirs, right in zip(ours, torchs, exact, strict=True):
        assert not torch.equal(mine.float(), right)
        assert (mine - right).norm() < 2 * (theirs - right).norm() < 0.02 * right.norm()


def test_a_training_in_bfloat16_learns_as_well(stripes, new_net):
    exact, auto, half = (quick(new_net(), stripes[0], epochs=8, precision=precision)
                         for precision in ("float32", "auto", "bfloat16"))
    assert same_weights(exact, auto) and not same_weights(exact, half)
    assert all(value.dtype != torch.bfloat16 for value in half.state_dict().values())
    assert evaluate(half, stripes[1])["test_accuracy"] > evaluate(exact, stripes[1])["test_accuracy"] - 0.05


def test_fast_convolutions_of_the_whole_network(small, monkeypatch):
    net = resnet18_for(small[0]).double()
    batch, labels = scale(small[0].images[:8]).double(), torch.from_numpy(small[0].labels[:8])

    def gradients():
        net.zero_grad()
        F.cross_entropy(net(batch), labels).backward()
        return [p.grad.clone() for p in net.parameters()]

    expected, used, apply = gradients(), [], _SmallMaps.apply
    monkeypatch.setattr(_SmallMaps, "apply", lambda *args: used.append(tuple(args[1].shape)) or apply(*args))
    with fast_convolutions(net):
        assert "forward" in vars(net.conv1)
        found = gradients()
    assert not any("forward" in vars(module) for module in net.modules())
    assert (64, 1, 7, 7) not in used and (512, 512, 3, 3) in used
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
