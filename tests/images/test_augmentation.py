"""Harmless changes that a fit makes to its pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from skhgad.images import ImageSource
from skhgad.images.augmentation import MILD, SLIGHT, AugmentedSource, augmented, check_augmentation

SHAPES = [(1, 1), (1, 9), (5, 3), (40, 64)]


def noise(shape, seed=0, dtype=np.uint8):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return pixels if dtype == np.uint8 else pixels.astype(np.float32) / np.float32(255)


def smooth(seed, size=64):
    """A picture of slow waves in three colours, from 70 to 180."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    waves = [
        np.sin(rows * rng.uniform(0.1, 0.2) + rng.uniform(0, 6)) + np.sin(columns * 0.15 + k)
        for k in range(3)
    ]
    return np.rint(125 + 27 * np.stack(waves, axis=2)).astype(np.uint8)


def blob(seed=0, size=101):
    """A small bright spot in the middle, of a brightness that tells the pictures apart."""
    rows, columns = np.mgrid[:size, :size] - size // 2
    spot = (120 + seed) * np.exp(-(rows**2 + columns**2) / 18)
    return np.repeat(np.rint(10 + spot)[..., None], 3, axis=2).astype(np.uint8)


def place_of(pixels):
    """Return row and column of the center of what is brighter than 20."""
    weight = np.maximum(pixels[..., 0].astype(float) - 20, 0)
    rows, columns = np.indices(weight.shape)
    return np.array([(rows * weight).sum(), (columns * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("n_channels", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shape_and_dtype_stay(size, n_channels, dtype):
    pixels = noise((*size, n_channels), dtype=dtype)
    before = pixels.copy()
    found = augmented(pixels, MILD)
    assert found.shape == pixels.shape and found.dtype == dtype
    assert 0 <= found.min() and found.max() <= (255 if dtype == np.uint8 else 1)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("amounts", [{"shift": 0.25, "rotation": 45}, {"blur": 0.05, "noise": 0.5}])
def test_small_pictures_take_the_largest_changes(amounts):
    for size in SHAPES:
        assert augmented(noise((*size, 3)), amounts).shape == (*size, 3)


@pytest.mark.parametrize("name", MILD)
def test_bytes_and_floats_change_alike(name):
    for seed in range(4):
        pixels = smooth(seed)
        as_bytes = augmented(pixels, {name: MILD[name]})
        as_floats = augmented(pixels.astype(np.float32) / np.float32(255), {name: MILD[name]})
        np.testing.assert_allclose(as_floats * 255, as_bytes, atol=0.501)


def test_moving_makes_bytes_no_darker():
    """Pillow rounds interpolated bytes down."""
    means = [
        augmented(pixels, {"shift": 0.05, "rotation": 3}).mean() - pixels.mean()
        for pixels in (noise((64, 64, 3), seed) for seed in range(20))
    ]
    assert abs(np.mean(means)) < 0.2


def test_a_picture_changes_in_the_same_way_whenever_and_wherever_it_is_read():
    pictures = [noise((20, 30, 3), seed) for seed in range(4)]
    source = AugmentedSource(ImageSource(pictures), MILD)
    first = [source.read(i) for i in range(4)]
    turned = AugmentedSource(ImageSource(pictures[::-1]), MILD)
    for i in (2, 0, 3, 1):
        np.testing.assert_array_equal(source.read(i), first[i])
        np.testing.assert_array_equal(turned.read(3 - i), first[i])
    assert len(source) == 4 and source.size(1) == (20, 30) and source.name(2) == "X[2]"


def test_amounts_of_nothing_leave_pixels_as_they_are():
    zero = dict.fromkeys(("shift", "rotation", "brightness", "blur", "noise"), 0.0)
    for seed in range(4):
        for dtype in (np.uint8, np.float32):
            for n_channels in (1, 3, 4):
                pixels = noise((9, 12, n_channels), seed, dtype)
                np.testing.assert_array_equal(augmented(pixels, {}), pixels)
                np.testing.assert_array_equal(augmented(pixels, zero), pixels)


def test_one_change_does_not_depend_on_which_others_are_asked_for():
    pixels = blob()
    alone = place_of(augmented(pixels, {"shift": 0.1}))
    others = augmented(pixels, {"shift": 0.1, "brightness": 0.2, "blur": 0.02})
    np.testing.assert_allclose(place_of(others), alone, atol=0.3)


def test_a_shift_moves_in_every_direction_and_not_too_far():
    steps = [
        place_of(augmented(blob(seed), {"shift": 0.1})) - place_of(blob(seed)) for seed in range(40)
    ]
    steps = np.array(steps)
    assert np.abs(steps).max() < 10.2 and (np.abs(steps).max(0) > 6).all()
    assert {tuple(signs) for signs in np.sign(steps)} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}


def test_a_shift_goes_with_each_side():
    pixels = np.concatenate([blob(), blob() * 0 + 10], axis=1)  # twice as wide as high
    steps = []
    for seed in range(30):
        pixels[0, 0] = seed
        steps.append(place_of(augmented(pixels, {"shift": 0.1})) - place_of(pixels))
    down, across = np.abs(steps).max(0)
    assert 7 < down < 10.3 and 14 < across < 20.5


def test_a_rotation_turns_around_the_middle():
    angles = []
    for seed in range(30):
        pixels = np.zeros((101, 101, 3), dtype=np.uint8)
        pixels[48:53, 78:83] = 255 - seed  # 30 pixels to the right of the middle
        row, column = place_of(augmented(pixels, {"rotation": 20})) - 50
        assert np.hypot(row, column) == pytest.approx(30, abs=0.5)
        angles.append(np.degrees(np.arctan2(row, column)))
    assert -20.5 < min(angles) < -12 and 12 < max(angles) < 20.5


def test_brightness_is_one_factor_for_all_pixels():
    factors = []
    for seed in range(40):
        pixels = smooth(seed)
        ratio = augmented(pixels, {"brightness": 0.3}) / pixels
        assert np.ptp(ratio) < 0.02  # of rounding
        factors.append(ratio.mean())
    assert 0.69 < min(factors) < 0.8 and 1.2 < max(factors) < 1.31


def test_noise_differs_from_pixel_to_pixel_and_is_not_too_strong():
    deviations = []
    for seed in range(40):
        pixels = smooth(seed).astype(np.float32) / np.float32(255)
        change = augmented(pixels, {"noise": 0.02}) - pixels
        assert abs(change.mean()) < 2e-3
        assert abs(np.corrcoef(change[..., 0].ravel(), change[..., 1].ravel())[0, 1]) < 0.1
        deviations.append(change.std())
    assert min(deviations) < 0.005 and 0.015 < max(deviations) < 0.0205


def test_a_grey_picture_stays_grey():
    for seed in range(8):
        pixels = np.repeat(noise((30, 30, 1), seed), 3, axis=2)
        found = augmented(pixels, MILD)
        assert (found == found[..., :1]).all() and (found != pixels).any()
        np.testing.assert_array_equal(found[..., :1], augmented(pixels[..., :1], MILD))


def test_one_of_two_pictures_is_blurred():
    changes = []
    for seed in range(40):
        pixels = noise((64, 64, 3), seed)
        found = augmented(pixels, {"blur": 0.03})
        changes.append((found != pixels).any())
        if changes[-1]:
            assert found.std() < pixels.std()
            assert found.mean() == pytest.approx(pixels.mean(), abs=0.2)
    assert 10 < sum(changes) < 30


def test_one_of_two_pictures_is_compressed_and_none_below_the_quality():
    changes = []
    for seed in range(40):
        pixels = smooth(seed)
        found = augmented(pixels, {"jpeg_quality": 10})
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=10)
        worst = np.abs(np.asarray(Image.open(file)) - pixels.astype(float)).mean()
        loss = np.abs(found - pixels.astype(float)).mean()
        assert loss <= 1.1 * worst
        changes.append(loss > 0)
    assert 10 < sum(changes) < 30


def test_what_comes_in_at_an_edge_is_mirrored():
    pixels = smooth(0)
    for seed in range(20):
        pixels[0, 0] = 70 + seed
        found = augmented(pixels, {"shift": 0.25, "rotation": 45})
        assert found.min() >= 60 and found.max() <= 190


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("mild", MILD),
        ("slight", SLIGHT),
        ({}, {}),
        ({"shift": np.float32(0.25), "rotation": 3}, {"shift": 0.25, "rotation": 3.0}),
        ({"jpeg_quality": np.int64(100), "noise": 0}, {"jpeg_quality": 100.0, "noise": 0.0}),
    ],
)
def test_what_a_value_asks_for(value, expected):
    found = check_augmentation(value)
    assert found == expected
    assert found is None or {type(amount) for amount in found.values()} <= {float}


def test_the_mild_changes_are_nobodys_to_change():
    check_augmentation("mild")["shift"] = 0.2
    assert check_augmentation("mild")["shift"] == 1 / 64


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            "strong",
            ValueError,
            "augmentation must be None, 'slight', 'mild' or a dict, got 'strong'",
        ),
        (True, TypeError, "augmentation must be None, 'slight', 'mild' or a dict, got True"),
        (0.1, TypeError, "augmentation must be None"),
        ([("shift", 0.1)], TypeError, "augmentation must be None"),
        ({"zoom": 1}, ValueError, r"augmentation\['zoom'\] is not known; the changes are shift"),
        ({1: 1}, ValueError, r"augmentation\[1\] is not known"),
        ({"shift": 0.26}, ValueError, r"augmentation\['shift'\] must lie in \[0, 0.25\], got 0.26"),
        ({"shift": -0.01}, ValueError, r"augmentation\['shift'\] must lie in"),
        ({"shift": float("nan")}, ValueError, r"augmentation\['shift'\] must lie in .* got nan"),
        ({"rotation": float("inf")}, ValueError, r"augmentation\['rotation'\] must lie in"),
        ({"brightness": 1}, ValueError, r"augmentation\['brightness'\] must lie in"),
        ({"blur": 1}, ValueError, r"augmentation\['blur'\] must lie in"),
        ({"noise": 3}, ValueError, r"augmentation\['noise'\] must lie in"),
        ({"jpeg_quality": 0}, ValueError, r"augmentation\['jpeg_quality'\] must lie in \[1, 100\]"),
        ({"shift": True}, TypeError, r"augmentation\['shift'\] must be a number, got True"),
        ({"shift": np.True_}, TypeError, r"augmentation\['shift'\] must be a number"),
        ({"shift": "0.1"}, TypeError, r"augmentation\['shift'\] must be a number, got '0.1'"),
        ({"shift": None}, TypeError, r"augmentation\['shift'\] must be a number"),
        ({"shift": np.complex64(0)}, TypeError, r"augmentation\['shift'\] must be a number"),
        ({"shift": np.array([0.1])}, TypeError, r"augmentation\['shift'\] must be a number"),
    ],
)
def test_a_wrong_value_is_refused_by_name(value, error, message):
    with pytest.raises(error, match=message):
        check_augmentation(value)


def test_slight_changes_are_no_larger_than_mild_ones():
    assert SLIGHT.keys() == MILD.keys() and SLIGHT != MILD
    assert SLIGHT["jpeg_quality"] >= MILD["jpeg_quality"]
    assert all(SLIGHT[name] <= MILD[name] for name in MILD if name != "jpeg_quality")
