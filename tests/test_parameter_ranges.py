"""Every parameter has a range, and one image a budget."""

import math

import numpy as np
import pytest

from skhgad import HGADDetector, budget, parameters
from skhgad.parameters import PARAMETER_GROUPS, check_parameters, checked_names

NAMES = {name for names in PARAMETER_GROUPS.values() for name in names}
HUGE = (10**400, 2**63, 1e300, math.inf, -math.inf, math.nan, -1e300)
NUMBERS = {**parameters._NUMBERS, **{n: v[1:] for n, v in parameters._NUMBERS_OR_WORD.items()}}


def refusal(name, value):
    """Return the message with which `check_parameters` refuses a value, or ""."""
    try:
        check_parameters({**HGADDetector().get_params(deep=False), name: value})
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def test_every_parameter_is_checked():
    assert checked_names() == NAMES


def test_every_number_has_two_bounds():
    for name, (_, low, high, _) in NUMBERS.items():
        assert math.isfinite(low) and math.isfinite(high), name
    for name, (_, low, high, _, most) in parameters._SEQUENCES.items():
        assert math.isfinite(low) and math.isfinite(high) and most < 100, name


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_parameter_takes_a_huge_number(name):
    for value in HUGE:
        assert name in refusal(name, value)
        if name in ("image_size", "image_scales", "betas", "out_indices"):
            assert name in refusal(name, (0.5, value))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_size", 8192, "image_size=.* makes 96,935,026 pixels .* at most 16,777,216"),
        ("image_size", (67108864, 1), "image_size == 67108864, must be <= 16384"),
        ("image_size", (1, 67108864), "image_size"),
        ("image_scales", (100,), "image_scales == 100, must be <= 8"),
        ("image_scales", (1.0,) * 50, "image_scales may have 16 entries, has 50"),
        ("image_scales", (8.0,) * 16, "image_scales=.* pixels of one image"),
        ("blur_sigma", 1e5, "blur_sigma == 100000.0, must be <= 64"),
        ("clamp", 1e300, "clamp"),
        ("tile_size", 16384, "tile_size=.* has more than 16,777,216 pixels"),
        ("unknown_rate", 1e-320, "unknown_rate must be at least 1e-09"),
        ("n_jobs", 2000, "n_jobs == 2000, must be <= 512"),
        ("device", "meta", "device='meta' cannot be used here"),
        ("value_range", ("0", "1"), "value_range must be None or two numbers"),
        ("value_range", (0, 1e300), "value_range must be finite"),
    ],
)
def test_what_would_take_all_memory_is_refused_by_name(name, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        check_parameters({**HGADDetector().get_params(deep=False), name: value})


@pytest.mark.parametrize(
    ("size", "scales"), [(2048, "auto"), (2048, (0.5, 1.0, 1.5)), ((1024, 8192), "auto")]
)
def test_large_images_pass(size, scales):
    given = {"image_size": size, "image_scales": scales}
    check_parameters({**HGADDetector().get_params(deep=False), **given})
    check_parameters(HGADDetector.paper().get_params(deep=False))


def test_large_images_come_in_smaller_batches():
    assert budget.images_per_batch((384, 384), (2 / 3, 1), [(640, 24, 24)]) == 32
    assert budget.images_per_batch((2048, 2048), (2 / 3, 1), [(640, 128, 128)]) == 2
    assert budget.images_per_batch((64, 64), (1,), [(640, 256, 256)]) == 1


def test_levels_have_a_budget():
    budget.check_levels([(640, 128, 128)] * 4, (512, 512), 0.5)
    with pytest.raises(ValueError, match=r"features of one image.*67,108,864 are allowed"):
        budget.check_levels([(640, 512, 512)], (512, 512), 0.5)
    with pytest.raises(ValueError, match="max_features or hidden_ratio"):
        budget.check_levels([(640, 128, 128)], (512, 512), 8.0)
    with pytest.raises(ValueError, match=r"17 levels of one anomaly map.*16,777,216 are allowed"):
        budget.check_levels([(1, 1, 1)] * 17, (1024, 1024), 0.5)


def test_a_fit_has_the_budget_of_levels(monkeypatch):
    from backbones import two_levels

    monkeypatch.setattr(budget, "MOST_NUMBERS", 100)
    images = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="the features of one image"):
        HGADDetector(two_levels(), image_size=32).fit(images)


def test_labels_that_name_every_sample_are_refused():
    X = np.zeros((10_001, 1))
    with pytest.raises(ValueError, match="y names 10,001 classes, at most 10,000 are allowed"):
        HGADDetector().fit(X, np.arange(10_001))


@pytest.mark.parametrize(
    "name, value", [("mixed_precision", np.array([0, 0])), ("random_state", (None, None))]
)
def test_several_values_in_place_of_one_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        check_parameters({**HGADDetector().get_params(), name: value})
