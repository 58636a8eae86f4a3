"""A model that cannot give finite scores is refused when it is loaded."""

import numpy as np
import pytest
import torch
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.storage.detector_state import pack, unpack
from skhgad.storage.short_tensors import _NARROWED


@pytest.fixture(scope="module")
def packed():
    X = np.random.default_rng(0).normal(size=(24, 3))
    # Nothing is left out, so the flow stays.
    detector = HGADDetector(
        max_iter=1, n_blocks=1, n_components=2, validation_fraction=0, random_state=0
    )
    return pack(detector.fit(X, ["a", "b"] * 12))


def load(packed, change, backbone=None):
    """Load the model with changed tensors."""
    tensors, description = packed
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    return unpack(HGADDetector, tensors, description, backbone)


def test_every_tensor_of_numbers_must_be_finite(packed):
    for name, tensor in packed[0].items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        for value in (torch.nan, torch.inf):
            with pytest.raises(ValueError, match="nan|finite"):
                load(packed, lambda t, n=name, v=value: t[n].view(-1)[:1].fill_(v))


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_every_scale_must_be_positive(packed, value):
    names = [name for name in packed[0] if name.endswith("_scale") and "raw" not in name]
    assert len(names) == 4
    for name in names:
        with pytest.raises(ValueError, match="must be positive"):
            load(packed, lambda t, n=name: t[n].fill_(value))


def test_every_tensor_keeps_its_type(packed):
    for name, tensor in packed[0].items():
        other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
        if name in _NARROWED:  # these may be float32
            other = torch.float16
        with pytest.raises(ValueError, match="type|whole numbers"):
            load(packed, lambda t, n=name, d=other: t.update({n: t[n].to(d)}))


@pytest.mark.parametrize("name", ["densities.whiteners", "flow.blocks.mix", "flow.blocks.offset"])
def test_finite_numbers_that_overflow_are_refused(packed, name):
    def change(tensors):
        tensors[f"model.levels.0.{name}"].fill_(1e300)

    with pytest.raises(ValueError, match="gives no finite scores"):
        load(packed, change)


@pytest.mark.parametrize("name", ["start.matrix", "densities.whiteners"])
def test_matrices_without_an_inverse_are_refused(packed, name):
    # Scores need no inverse, the shares of an explanation do.
    with pytest.raises(ValueError, match="no inverse"):
        load(packed, lambda tensors: tensors[f"model.levels.0.{name}"][..., 0].zero_())


def test_a_floor_of_the_background_may_be_missing(packed):
    loaded = load(packed, lambda t: t["model.background_floor"].fill_(-torch.inf))
    assert np.isfinite(loaded.score_samples(np.zeros((2, 3)))).all()


@pytest.mark.parametrize(
    "change",
    [
        {"n_iter": -1}, {"n_iter": "1"}, {"n_iter": True}, {"history": {}}, {"history": [{}, 1]},
        {"history": [{"loss": "0"}]}, {"history": [{"loss": 1.0}, {"other": 1.0}]},
        {"images": 1}, {"images": None}, {"images": True}, {"n_features_in": True},
        {"n_features_in": None}, {"n_features_in": 3.0}, {"feature_names_in": ["a", "b"]},
        {"feature_names_in": "abc"}, {"feature_names_in": [1, 2, 3]}, {"offset": 1.7e308},
    ],
)  # fmt: skip
def test_attributes_of_other_kinds_are_refused(packed, change):
    tensors, description = packed
    description = description | {"fitted": description["fitted"] | change}
    with pytest.raises(ValueError):
        unpack(HGADDetector, tensors, description, None)


@pytest.mark.parametrize("device", ["meta", "cuda:0", None, 0])
def test_a_file_does_not_choose_a_device(packed, device):
    tensors, description = packed
    description = description | {"parameters": description["parameters"] | {"device": device}}
    with pytest.raises(ValueError, match="device is"):
        unpack(HGADDetector, tensors, description, None)


@pytest.fixture(scope="module")
def packed_images():
    """A model that keeps normal vectors, whose backbone is a module."""
    X = np.random.default_rng(0).integers(90, 160, (16, 16, 16, 3), dtype=np.uint8)
    detector = HGADDetector(two_levels(), out_indices=(0, 1), image_size=16, random_state=0)
    return pack(detector.fit(X, ["bolt", "nut"] * 8))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("counts", lambda values: values + 10**6, "names vectors that there are not"),
        ("counts", lambda values: values - 10**6, "names vectors that there are not"),
        ("counts", lambda values: values.float(), "whole numbers|type"),
        ("weights", lambda values: -1 - values, "has a negative value"),
        ("weights", lambda values: values[:1], "has shape"),
        ("scales", lambda values: -values, "has a negative value"),
        ("scales", lambda values: values * torch.nan, "nan|finite"),
        ("vectors", lambda values: values.float(), "is of type"),
        ("vectors", lambda values: values[..., :3].contiguous(), "has shape"),
        ("axes", lambda values: values[:, :5].contiguous(), "has shape"),
        ("axes_of", lambda values: values + 1, "names axes that there are not"),
        ("axes", None, "nearest|missing"),
    ],
)
def test_kept_normals_that_no_fit_gives_are_refused(packed_images, name, change, message):
    def damage(tensors):
        key = f"model.levels.0.nearest.{name}"
        if change is None:
            del tensors[key]
        else:
            tensors[key] = change(tensors[key])

    with pytest.raises(ValueError, match=message):
        load(packed_images, damage, two_levels())
