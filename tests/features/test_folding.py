"""Batch normalisation folded into convolutions."""

import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn

from skhgad.features.extractor import FeatureExtractor
from skhgad.features.folding import fold_batch_norm


def with_statistics(backbone):
    """Give every normalisation other statistics than those that change nothing."""
    generator = torch.Generator().manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data):
                values.normal_(generator=generator)
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 2, generator=generator)
    return backbone.eval()


def n_normalizations(backbone):
    return sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


@pytest.mark.parametrize(
    "name, n_left",
    [("tf_efficientnet_lite0", 0), ("resnet18", 0), ("densenet121", 62), ("convnext_atto", 0)],
)
def test_maps_stay_as_they_are(name, n_left):
    backbone = with_statistics(timm.create_model(name, features_only=True))
    before = copy.deepcopy(backbone.state_dict())
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    folded = fold_batch_norm(backbone, pixels)
    # DenseNet normalises before most of its convolutions.
    assert n_normalizations(folded) == n_left
    with torch.no_grad():
        for own, found in zip(backbone(pixels), folded(pixels), strict=True):
            torch.testing.assert_close(found, own, rtol=0, atol=1e-4 * float(own.abs().max()))
    after = backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "the original changed"


def test_a_backbone_whose_maps_are_nan_stays_as_it_is():
    """Its features are refused later, by a sentence."""
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    backbone[0].weight.data.fill_(torch.nan)
    backbone.forward = lambda x: [nn.Sequential.forward(backbone, x)]
    assert fold_batch_norm(backbone, torch.zeros(1, 3, 8, 8)) is backbone


class Branching(nn.Module):
    """Uses the convolution's output beside the normalised one, so that folding is wrong."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.normalization = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.convolution(x)
        return [x + self.normalization(x)]


def test_what_cannot_be_folded_is_left():
    backbone = with_statistics(Branching())
    assert fold_batch_norm(backbone, torch.ones(1, 3, 8, 8)) is backbone
    twice = with_statistics(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    twice.append(twice[1])
    assert fold_batch_norm(twice, torch.ones(1, 3, 8, 8)) is twice


def test_the_extractor_keeps_the_backbone_it_was_given():
    extractor = FeatureExtractor("resnet18", None, (1, 2), (64, 64), (1.0,), 1, True, 1.0)
    assert n_normalizations(extractor._folded[torch.device("cpu")]) == 0
    assert n_normalizations(extractor.backbone) > 0
    assert not any("_folded" in key for key in extractor.state_dict())
    assert not pickle.loads(pickle.dumps(extractor))._folded


def test_other_weights_are_folded_anew():
    parts = ((1, 2), (64, 64), (1.0,), 1, False, 1.0)
    extractor = FeatureExtractor("resnet18", None, *parts)
    state = {name: tensor * 1.5 for name, tensor in extractor.state_dict().items()}
    extractor.load_state_dict(state)
    fresh = pickle.loads(pickle.dumps(extractor))
    with torch.inference_mode():
        found, expected = (each(torch.ones(1, 3, 64, 64)) for each in (extractor, fresh))
    torch.testing.assert_close(found, expected)


def test_threads_that_score_at_once_fold_once(monkeypatch):
    extractor = FeatureExtractor("resnet18", None, (1, 2), (64, 64), (1.0,), 1, False, 1.0)
    expected = [level.clone() for level in extractor(torch.ones(1, 3, 64, 64))]
    extractor = pickle.loads(pickle.dumps(extractor))  # as loaded: not folded yet
    calls = []

    def slow_fold(backbone, pixels):
        calls.append(backbone)
        time.sleep(0.05)
        return fold_batch_norm(backbone, pixels)

    monkeypatch.setattr("skhgad.features.extractor.fold_batch_norm", slow_fold)

    @torch.inference_mode()
    def extract(_):
        return extractor(torch.ones(1, 3, 64, 64))

    with ThreadPoolExecutor(8) as threads:
        everything = list(threads.map(extract, range(8)))
    assert len(calls) == 1
    for levels in everything:
        for level, other in zip(levels, expected, strict=True):
            torch.testing.assert_close(level, other)


@pytest.mark.parametrize(
    "backbone, size, folded_at",
    [("resnet18", (640, 96), (128, 96)), ("levit_128s", (224, 224), (224, 224))],
)
def test_large_pictures_are_not_needed_to_fold(monkeypatch, backbone, size, folded_at):
    seen = []

    def fold(backbone, pixels):
        seen.append(tuple(pixels.shape[2:]))
        return fold_batch_norm(backbone, pixels)

    monkeypatch.setattr("skhgad.features.extractor.fold_batch_norm", fold)
    FeatureExtractor(backbone, None, (0, 1), size, (1.0,), 1, False, 1.0)
    # LeViT takes pictures of one size only.
    assert seen == [folded_at]
