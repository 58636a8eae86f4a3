"""Pictures with fewer pixels than those of the fit are named, where the model sees less of them."""

import warnings

import numpy as np
import pytest
from backbones import two_levels

from skhgad import HGADDetector


def pictures(side, n=30, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8) for _ in range(n)]


def fitted(X, y=None, **parameters):
    parameters = {"image_size": 32, "out_indices": (0, 1), "random_state": 0, **parameters}
    return HGADDetector(two_levels(), **parameters).fit(X, y)


@pytest.fixture(scope="module")
def detector():
    """Of "large" pictures and of "small" ones, which are enlarged at fit, too."""
    return fitted(pictures(64) + pictures(20), ["large"] * 30 + ["small"] * 30)


def warned(detector, X, **given):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.score_samples(X, **given)
    found = [one for one in caught if "fewer pixels" in str(one.message)]
    assert all(one.filename == __file__ for one in found)  # they point at the call
    return [str(one.message) for one in found]


def test_pictures_with_fewer_pixels_are_named(detector):
    X = pictures(64, 2) + pictures(14, 1)
    (text,) = warned(detector, X, class_labels=["large"] * 3)
    assert "1 of 3" in text and "X[2] (14 x 22 beside 64 x 72)" in text
    with pytest.warns(UserWarning, match="fewer pixels"):
        detector.predict(X, class_labels=["large"] * 3)


def test_what_the_model_would_not_see_is_no_loss(detector):
    assert warned(detector, pictures(25, 2), class_labels=["large"] * 2) == []  # 32 count
    assert warned(detector, pictures(300, 2), class_labels=["large"] * 2) == []
    assert warned(detector, pictures(20, 2), class_labels=["small"] * 2) == []
    assert len(warned(detector, pictures(12, 2), class_labels=["small"] * 2)) == 1
    narrow = [picture[:20] for picture in pictures(64, 2)]  # another shape, not fewer pixels
    assert warned(detector, narrow, class_labels=["large"] * 2) == []


def test_sizes_live_as_long_as_the_classes(detector, tmp_path):
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    assert loaded.model_.least_sides.tolist() == [[64, 72], [20, 28]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded.update(pictures(40, 20, 1), "large")
        assert loaded.model_.least_sides.tolist() == [[40, 48], [20, 28]]
        loaded.add_class(pictures(50, 30, 2), "a new one")
    assert loaded.model_.least_sides.tolist() == [[50, 58], [40, 48], [20, 28]]
    loaded.forget("large")
    assert loaded.model_.least_sides.tolist() == [[50, 58], [20, 28]]


def test_tiles_are_never_enlarged():
    detector = fitted(pictures(64), tile_size=32)
    assert warned(detector, pictures(33, 2)) == []


def test_sizes_of_a_file_that_do_not_fit_are_refused(detector):
    from skhgad.storage.detector_state import pack, unpack

    tensors, description = pack(detector)
    unpack(HGADDetector, tensors, description, two_levels())
    known = tensors.pop("sizes.least_sides")
    assert unpack(HGADDetector, tensors, description, two_levels()).model_.least_sides is None
    for other in (known[:1], known.double(), known[:, :1], -known):
        with pytest.raises(ValueError, match="least_sides"):
            unpack(HGADDetector, {**tensors, "sizes.least_sides": other}, description, two_levels())
