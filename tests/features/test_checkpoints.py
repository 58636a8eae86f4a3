"""Weights of backbones: every tensor is filled, or the error says which are not."""

import argparse
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from skhgad.features.backbones import create_backbone
from skhgad.features.checkpoints import embedded_state_dict, read_checkpoint

SIZE = (64, 64)


@pytest.fixture(scope="module")
def resnet():
    """State dict of a whole classifier with random weights."""
    torch.manual_seed(1)
    model = timm.create_model("resnet18", pretrained=False)
    # Normalisations start as ones and zeros: give them values that show whether they were loaded.
    return {name: torch.rand_like(t) + 2 if t.is_floating_point() else t
            for name, t in model.state_dict().items()}  # fmt: skip


def assert_filled(backbone, state):
    for name, tensor in backbone.state_dict().items():
        torch.testing.assert_close(tensor, state[name], msg=name)


WRAPPINGS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
    "Lightning": lambda state: {"state_dict": {f"model.{k}": t for k, t in state.items()}},
    "DataParallel": lambda state: {f"module.{k}": t for k, t in state.items()},
    "compiled": lambda state: {"model": {f"module._orig_mod.{k}": t for k, t in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_usual_wrappings_are_read(wrapping, resnet, tmp_path):
    torch.save(WRAPPINGS[wrapping](resnet), tmp_path / "weights.pth")
    assert_filled(create_backbone("resnet18", tmp_path / "weights.pth", (2, 3), SIZE), resnet)


def test_safetensors_are_read(resnet, tmp_path):
    save_file(resnet, tmp_path / "weights.safetensors")
    path = str(tmp_path / "weights.safetensors")
    assert_filled(create_backbone("resnet18", path, (2, 3), SIZE), resnet)


def test_a_classifier_of_other_classes_and_missing_counters_do_no_harm(resnet, tmp_path):
    state = {name: t for name, t in resnet.items() if not name.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "weights.pth")
    backbone = create_backbone("resnet18", tmp_path / "weights.pth", (2,), SIZE)
    torch.testing.assert_close(backbone.layer2[1].bn2.bias, resnet["layer2.1.bn2.bias"])


BACKBONES = ("resnet18", "tf_efficientnet_lite0")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_of_nothing_are_counted_and_named(backbone, tmp_path):
    torch.save({"something": torch.zeros(3)}, tmp_path / "weights.pth")
    first = {"resnet18": "conv1.weight", "tf_efficientnet_lite0": "conv_stem.weight"}[backbone]
    with pytest.raises(
        ValueError, match=rf"weights\.pth.*\d+ of the \d+ tensors .* missing: {first}, .* and \d+"
    ):
        create_backbone(backbone, tmp_path / "weights.pth", (2, 3), SIZE)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_of_another_architecture_are_an_error(backbone, tmp_path):
    other = timm.create_model("mobilenetv3_small_050", pretrained=False)
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="does not fit the backbone.* are missing"):
        create_backbone(backbone, tmp_path / "weights.pth", (2, 3), SIZE)


@pytest.mark.parametrize(
    "backbone, other, block",
    [
        ("resnet18", "resnet34", r"8 blocks more .*: layer1\.2, layer2\.2, layer2\.3 and 5 more"),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite1", r"\d+ blocks more .*: blocks\.1\.2, "),
    ],
)
def test_weights_of_a_deeper_model_are_an_error(backbone, other, block, tmp_path):
    state = timm.create_model(other, pretrained=False).state_dict()  # fills the backbone
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"weights\.pth.* does not fit .*{block}"):
        create_backbone(backbone, tmp_path / "weights.pth", (2, 3), SIZE)


def test_a_head_of_several_layers_does_no_harm(resnet, tmp_path):
    state = {name: t for name, t in resnet.items() if not name.startswith("fc.")}
    state |= {"fc.0.weight": torch.zeros(7, 512), "fc.2.weight": torch.zeros(7, 7)}
    torch.save(state, tmp_path / "weights.pth")
    create_backbone("resnet18", tmp_path / "weights.pth", (2,), SIZE)


def test_one_tensor_that_is_missing_and_one_of_another_shape_are_named(resnet, tmp_path):
    state = {k: t for k, t in resnet.items() if k != "layer2.0.bn1.running_mean"}
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 5, 5)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError) as raised:
        create_backbone("resnet18", tmp_path / "weights.pth", (2, 3), SIZE)
    message = str(raised.value)
    assert re.search(
        r"1 of the \d+ tensors it needs are missing: layer2.0.bn1.running_mean;", message
    )
    assert "layer1.0.conv1.weight is (64, 64, 5, 5), needed is (64, 64, 3, 3)" in message


def test_the_embedded_backbone_names_a_missing_tensor_and_another_shape(tmp_path):
    state = embedded_state_dict()
    del state["blocks.3.1.conv_dw.weight"]
    state["conv_stem.weight"] = torch.zeros(32, 1, 3, 3)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError) as raised:
        create_backbone("tf_efficientnet_lite0", tmp_path / "weights.pth", "auto", SIZE)
    message = str(raised.value)
    assert "missing: blocks.3.1.conv_dw.weight" in message
    assert "conv_stem.weight is (32, 1, 3, 3), needed is (32, 3, 3, 3)" in message


def test_the_embedded_weights_go_through_the_same_check(monkeypatch):
    state = embedded_state_dict()
    del state["bn1.weight"]
    monkeypatch.setattr("skhgad.features.backbones.embedded_state_dict", lambda: state)
    with pytest.raises(ValueError, match=r"embedded file of weights.*missing: bn1\.weight"):
        create_backbone("tf_efficientnet_lite0", "auto", (2, 3, 4), SIZE)


def test_renamed_tensors_of_a_transformer_count_as_filled(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    # The position embedding is resized from 14 x 14 to 4 x 4 patches.
    backbone = create_backbone("vit_tiny_patch16_224", tmp_path / "weights.pth", (2, 3), SIZE)
    assert [tuple(m.shape) for m in backbone(torch.zeros(1, 3, *SIZE))] == [(1, 192, 4, 4)] * 2


def test_tensors_that_a_transformer_lacks_are_counted_and_named(resnet, tmp_path):
    torch.save(resnet, tmp_path / "weights.pth")
    name = "vit_small_patch14_reg4_dinov2"  # timm has weights without a classifier: it is strict
    with pytest.raises(ValueError, match=r"\d+ of the \d+ tensors .* missing: cls_token, reg_tok"):
        create_backbone(name, tmp_path / "weights.pth", (2,), (56, 56))


def test_an_empty_file_is_no_checkpoint(tmp_path):
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ValueError, match="holds no plain tensors, or is damaged"):
        read_checkpoint(tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [{}, {"a": 1}, [torch.zeros(2)]])
def test_a_file_without_tensors_is_an_error(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="holds no state dict of tensors"):
        read_checkpoint(tmp_path / "weights.pth")
