"""What own backbones may return."""

import warnings
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backbones import RandomFilters
from small_pictures import draw
from torch import nn

from skhgad import HGADDetector
from skhgad.features.module_outputs import as_map

LAYERS = (6, 4), (8, 2)


class Returning(RandomFilters):
    """Two maps, strides 4 and 8, in the form that `form` gives them."""

    def __init__(self, form):
        super().__init__(*LAYERS)
        self.form = form

    def forward(self, x):
        return self.form(super().forward(x))


def tokens(m, n_extra=0):
    patches = m.flatten(2).transpose(1, 2)
    return torch.cat([100 * torch.ones_like(patches[:, :n_extra]), patches], 1)


class ModelOutput(OrderedDict):
    """As in transformers: keys are attributes, too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


FORMS = {
    "list": lambda maps: maps,
    "tuple": tuple,
    "dict": lambda maps: {"fine": maps[0], "coarse": maps[1]},
    "tokens": lambda maps: [tokens(m) for m in maps],
    "class token": lambda maps: [tokens(m, 1) for m in maps],
    "registers": lambda maps: [tokens(m, 5) for m in maps],
    "feature_maps": lambda maps: SimpleNamespace(feature_maps=tuple(maps), hidden_states=None),
    "hidden_states": lambda maps: ModelOutput(
        last_hidden_state=maps[1], hidden_states=tuple(maps), pooler_output=maps[1].mean((2, 3))
    ),
    "keys": lambda maps: {"hidden_states": maps, "pooler_output": None},
}
LAST = {
    "tensor": lambda maps: maps[1],
    "last_hidden_state": lambda maps: ModelOutput(
        last_hidden_state=tokens(maps[1], 1), pooler_output=maps[1].mean((2, 3))
    ),
    "attribute": lambda maps: SimpleNamespace(last_hidden_state=maps[1]),
}


def images(n=8):
    return np.random.default_rng(0).integers(0, 255, (n, 96, 96, 3), dtype=np.uint8)


def fit(backbone, **parameters):
    settings = {"image_size": 96, "max_iter": 0, "n_blocks": 0, "random_state": 0}
    return HGADDetector(backbone, **settings | parameters).fit(images())


@pytest.fixture(scope="module")
def scores():
    """Scores of two maps, and of the second alone."""
    whole, last = fit(Returning(list)), fit(Returning(list), out_indices=(1,))
    assert whole.model_.extractor.levels == [(20, 12, 12)]
    assert last.model_.extractor.levels == [(8, 12, 12)]
    return whole.score_samples(images()), last.score_samples(images())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_two_maps_is_the_same(form, scores):
    detector = fit(Returning(FORMS[form]))
    np.testing.assert_allclose(detector.score_samples(images()), scores[0], rtol=1e-4)


@pytest.mark.parametrize("form", LAST)
def test_every_form_of_one_map_is_the_same(form, scores):
    detector = fit(Returning(LAST[form]))
    np.testing.assert_allclose(detector.score_samples(images()), scores[1], rtol=1e-4)


def test_out_indices_are_positions_in_the_list_of_maps(scores):
    detector = fit(Returning(FORMS["dict"]), out_indices=(-1,))
    np.testing.assert_allclose(detector.score_samples(images()), scores[1], rtol=1e-4)
    with pytest.raises(ValueError, match=r"out_indices=\(0, 2\).*returns 2 maps.*0 to 1"):
        fit(Returning(list), out_indices=(0, 2))


def test_a_module_is_saved_with_all_its_maps(tmp_path, scores):
    detector = fit(Returning(FORMS["class token"]))
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=Returning(FORMS["class token"]))
    assert loaded.out_indices == "auto"
    np.testing.assert_array_equal(loaded.score_samples(images()), detector.score_samples(images()))


def test_a_module_gets_normalised_float32_pixels():
    seen = []

    class Looking(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    black = np.zeros((6, 32, 32, 3), dtype=np.uint8)
    HGADDetector(Looking(), image_size=32, max_iter=0, n_blocks=0).fit(black)
    assert seen[-1].dtype == torch.float32 and seen[-1].shape[1:] == (3, 32, 32)
    expected = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[-1][0, :, 7, 9], expected)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda maps: maps[1].mean((2, 3)), r"shape \(1, 8\).*before the pooling"),
        (lambda maps: [], "empty list"),
        (lambda maps: {}, "empty dict"),
        (lambda maps: None, "returned None"),
        (lambda maps: [maps[0], "map"], "one item is of type str"),
        (lambda maps: maps[0][0], r"for 1 images it returned a tensor of shape \(6, 24, 24\)"),
        (lambda maps: tokens(maps[1])[:, :90], r"\(1, 90, 8\).*no grid of patches"),
        (
            lambda maps: maps[1].repeat(1, 4, 1, 1).permute(0, 2, 3, 1),
            r"\(1, 12, 12, 32\).*permute\(0, 3, 1, 2\)",
        ),
        (lambda maps: maps[::-1], r"from fine to coarse.*\(12, 12\), \(24, 24\)"),
    ],
)
def test_anything_else_is_refused_by_what_to_return(form, message):
    with pytest.raises(ValueError, match=message):
        fit(Returning(form))


@pytest.mark.parametrize(
    ("n_tokens", "size", "grid"),
    [
        (196, (224, 224), (14, 14)),
        (197, (224, 224), (14, 14)),
        (201, (224, 224), (14, 14)),  # DINOv2 with registers
        (257, (224, 224), (16, 16)),
        (1025, (256, 256), (32, 32)),
        (325, (256, 256), (18, 18)),  # patches of 14, the rest of the image is cut off
        (129, (128, 256), (8, 16)),
    ],
)
def test_tokens_are_laid_out_in_the_grid_of_the_image(n_tokens, size, grid):
    values = torch.arange(n_tokens).float()[None, :, None]
    found = as_map(values, torch.zeros(1, 3, *size))
    assert found.shape == (1, 1, *grid)
    n_extra = n_tokens - grid[0] * grid[1]
    assert torch.equal(found.flatten(), values[0, n_extra:, 0])


def test_a_module_may_shrink_one_side_more_than_the_other():
    bands = torch.zeros(1, 8, 24, 4)
    assert as_map(bands, torch.zeros(1, 3, 48, 48)) is bands


def test_tokens_of_two_grids_are_refused():
    with pytest.raises(ValueError, match=r"the grids \[\(2, 2\), \(3, 3\)\] have that many"):
        as_map(torch.zeros(1, 9, 4), torch.zeros(1, 3, 48, 48))


class SpoiledByWhite(RandomFilters):
    """Maps of white images hold a value that is no number."""

    def __init__(self, value):
        super().__init__(*LAYERS)
        self.value = value

    def forward(self, x):
        is_white = x.amax((1, 2, 3), keepdim=True) > 2
        return [m.where(~is_white, self.value) for m in super().forward(x)]


@pytest.mark.parametrize("value, tile_size", [(np.nan, None), (np.inf, 16)])
def test_features_that_are_no_numbers_are_an_error_that_names_the_image(value, tile_size):
    images = np.full((6, 32, 32, 3), 118, dtype=np.uint8)
    images[2] = 255
    detector = HGADDetector(SpoiledByWhite(value), image_size=32, tile_size=tile_size, n_jobs=1)
    with pytest.raises(ValueError, match=r"backbone: its features of X\[2\] are NaN or infinite"):
        detector.fit(images)


@pytest.mark.parametrize("kind", ["dropout", "batch statistics", "steady"])
def test_features_that_depend_on_chance_or_on_other_images_are_told(kind):
    class Unsteady(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(8)

        def forward(self, pixels):
            maps = self.pool(pixels)
            if kind == "dropout":
                return nn.functional.dropout(maps)  # whatever eval() says
            return maps - maps.mean(0) if kind == "batch statistics" else maps

    pictures = [draw(np.random.default_rng(i), "stripe") for i in range(5)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        HGADDetector(backbone=Unsteady(), image_size=32).fit(pictures)
    told = ["scores depend on chance" in str(warning.message) for warning in caught]
    assert any(told) == (kind != "steady")
