"""The diagrams show what is so: the order of a block's steps, a p-value by hand, NNK's weights by another solver."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ebe_utils import conv_layers, resnet18_for
from ebe_utils.study.diagrams import (
    HONEST,
    NEAR,
    PARTS,
    block_figure,
    block_steps,
    conformal_figure,
    nnk_figure,
    validation_figure,
)


@pytest.fixture(scope="module")
def network(small):
    return resnet18_for(small[0]).eval()


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("block", [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)])
def test_a_block_is_drawn_in_the_order_in_which_it_is_computed(block, network):
    called, module = [], network.get_submodule(block)
    hooks = [part.register_forward_hook(lambda *_, name=name: called.append(name)) for name, part in
             module.named_modules() if name and not list(part.children())]
    network(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    steps = block_steps(network, block)
    assert [step for step in steps["step"] if step != "add"] == called
    numbers = {name: number for number, name in conv_layers(network).items()}
    taps = {f"{block}.{row.step}": row.layer for row in steps.itertuples() if row.layer}
    assert taps == {name: number for name, number in numbers.items() if name.startswith(f"{block}.")}
    assert steps["step"].iloc[-2:].tolist() == ["add", "relu"]  # the sum comes after both convolutions


def test_layer_15_is_before_the_sum(network):
    figure, steps = block_figure(network)
    order = steps["layer"].tolist()
    assert order.index(14) < order.index(15) < steps["kind"].tolist().index("add")
    said = texts(figure)
    assert said.index("layer 14") < said.index("layer 15") < said.index("+")
    assert "embedding of layer 15\nlayer3.1.conv2" in said and "the input itself" in said


def test_a_block_that_halves_the_size_has_a_convolution_on_its_way_past(network):
    figure, steps = block_figure(network, "layer3.0")
    assert steps[steps["path"] == "skip"]["layer"].tolist() == [13, 0]
    assert any(text.startswith("layer 13") for text in texts(figure))


@pytest.mark.parametrize("block", ["layer9.0", "", "conv1", "layer3", "layer3.1.conv1"])
def test_what_is_no_block_is_refused(block, network):
    with pytest.raises(ValueError, match="a ResNet18 has layer1.0 to layer4.1"):
        block_steps(network, block)


def test_the_p_value_by_hand():
    figure, data = conformal_figure([3, 0, 0, 1, 2, 2, 5, 0, 1], 2)
    assert data["no better"].sum() == 4  # 2, 2, 3, 5
    assert figure.axes[0].get_title() == "p = (1 + 4) / (1 + 9) = 0.500"
    assert conformal_figure([0, 0, 1], 9)[0].axes[0].get_title().endswith("= 0.250")


def test_the_weights_of_the_drawing_by_another_solver():
    _, data = nnk_figure()
    vectors = np.column_stack([np.array(NEAR), np.ones(len(NEAR))])
    vectors = np.vstack([[0, 0, 1], vectors / np.linalg.norm(vectors, axis=1, keepdims=True)])
    kernel = (1 + vectors @ vectors.T) / 2
    found = minimize(lambda w: w @ kernel[1:, 1:] @ w / 2 - w @ kernel[1:, 0], np.full(len(NEAR), 0.1), method="SLSQP",
                     bounds=[(0, None)] * len(NEAR), options={"ftol": 1e-15, "maxiter": 1000}).x
    np.testing.assert_allclose(data["weight"], found / found.sum(), atol=1e-3)
    assert 2 <= (data["weight"] > 1e-9).sum() < len(NEAR)


def test_an_example_straight_behind_another_gets_no_weight_and_the_nearer_does():
    _, data = nnk_figure([(0.2, 0.0), (0.4, 0.0), (-0.3, 0.1)])
    assert (data["weight"] > 1e-9).tolist() == [True, False, True]


def test_in_an_honest_validation_test_images_are_seen_once():
    figure, data = validation_figure()
    seen = data[data["sees"]].groupby("part", sort=False)["step"].apply(list)
    assert seen["test images"] == ["report the chosen one"]
    assert "train the network" not in seen["validation images"] and texts(figure).count("sees") == data["sees"].sum()
    assert {*data["step"]} == {*HONEST} and {*data["part"]} == {*PARTS}
    with pytest.raises(ValueError, match="step 'look' sees all; the parts are training"):
        validation_figure({"look": ["all"]})
