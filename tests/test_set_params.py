"""What `set_params` changes after a fit: nothing but the parameters that say how to run."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from backbones import two_levels
from PIL import Image

from skhgad import HGADDetector
from skhgad.command_line.score import write_map
from skhgad.parameters import PARAMETER_GROUPS, SETTABLE_AFTER_FIT
from skhgad.report.findings import Unreadable, inspect_files

# All parameters of a fit that a model's scores, file or description depend on, set to other values.
_OTHER_IMAGES = {
    "backbone": "resnet18", "weights": None, "out_indices": (0,), "image_size": 16,
    "image_scales": (1.0, 0.5), "resize": "pad", "tile_size": 16,
    "value_range": (0, 65535), "pool_size": 3, "fuse_stages": False,
    "feature_power": 1.0, "max_features": 1, "start": "published", "n_blocks": 3,
    "hidden_ratio": 2.0, "clamp": 0.5, "position_channels": 8, "n_components": 4,
    "class_covariance": False, "background_weight": 0.0, "criterion": "entropy",
    "entropy_weight": 2.0, "map_normalization": "exponential", "blur_sigma": 9.0,
    "class_calibration": False,
    "validation_fraction": 0.0, "contamination": 0.4, "random_state": 5, "max_iter": 7,
    "mixed_precision": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(60, 200, (40, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def fitted(images):
    detector = HGADDetector(
        two_levels(), out_indices=(0, 1), image_size=32, max_iter=1, n_blocks=1, random_state=0
    )
    return detector.fit(images[:30], ["a", "b"] * 15)


@pytest.fixture
def changed(fitted):
    return copy.deepcopy(fitted).set_params(**_OTHER_IMAGES)


def test_scores_and_maps_stay(fitted, changed, images):
    np.testing.assert_array_equal(changed.score_samples(images), fitted.score_samples(images))
    np.testing.assert_array_equal(changed.predict(images), fitted.predict(images))
    uneven = [images[0], images[1, :20, :28]]  # whose maps have the size of the fit
    assert changed.anomaly_maps(uneven).shape == (2, 32, 32)


def test_the_saved_model_is_that_in_memory(fitted, changed, images, tmp_path):
    changed.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    np.testing.assert_array_equal(loaded.score_samples(images), fitted.score_samples(images))
    assert loaded.predict(images).tolist() == fitted.predict(images).tolist()
    expected, found = fitted.get_params(deep=False), loaded.get_params(deep=False)
    assert [name for name in expected if expected[name] != found[name]] == ["backbone"]


def test_a_pickled_one_remembers_its_fit(changed, images, tmp_path):
    pickle.loads(pickle.dumps(changed)).save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    np.testing.assert_array_equal(loaded.score_samples(images), changed.score_samples(images))
    assert loaded.blur_sigma == 1.0


def test_a_model_with_a_module_still_asks_for_it(changed, tmp_path):
    """Even when `backbone` has become a name, whose weights would not fit."""
    changed.save(tmp_path / "model")
    with pytest.raises(ValueError, match="fitted with a module as its backbone"):
        HGADDetector.load(tmp_path / "model")


def test_a_vector_detector_keeps_its_parameters(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 3))
    detector = HGADDetector(max_iter=1, n_blocks=1, random_state=0).fit(X)
    expected = detector.score_samples(X)
    detector.set_params(criterion="entropy", n_blocks=2, n_components=3, class_covariance=False)
    np.testing.assert_array_equal(detector.score_samples(X), expected)
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(X), expected)
    assert (loaded.criterion, loaded.n_blocks) == ("auto", 1)


def test_a_new_class_is_added_with_the_parameters_of_the_fit(fitted, changed, images):
    new = images[:12] // 2
    expected = copy.deepcopy(fitted).add_class(new, "c")
    found = changed.add_class(new, "c")
    assert found.offset_ == expected.offset_
    np.testing.assert_array_equal(found.score_samples(images), expected.score_samples(images))


def test_commands_read_files_as_the_fit_did(images, tmp_path):
    """16-bit files are read with the `value_range` of the fit; a broken one is told from them."""
    deep = images[..., 0].astype(np.uint16) * 256
    detector = HGADDetector(
        two_levels(), out_indices=(0, 1), image_size=32, max_iter=0, n_blocks=1, random_state=0,
        value_range=(0, 65535),
    ).fit(deep[:30]).set_params(value_range=None)  # fmt: skip
    good, broken = str(tmp_path / "good.png"), str(tmp_path / "broken.png")
    Image.fromarray(deep[0]).save(good)
    Path(broken).write_bytes(Path(good).read_bytes()[:100])
    found, unreadable = inspect_files(detector, [good, broken], maps=True, skip_unreadable=True)
    assert found.score == pytest.approx(detector.score_samples(deep[:1])[0])
    assert isinstance(unreadable, Unreadable) and unreadable.path == broken
    write_map(tmp_path / "map.png", found, detector)
    assert Image.open(tmp_path / "map.png").size == (32, 32)


def test_the_next_fit_takes_them(fitted, images):
    detector = copy.deepcopy(fitted).set_params(blur_sigma=3.0).fit(images[:30])
    assert detector.model_.model.blur_sigma == 3.0
    assert detector.model_.parameters["blur_sigma"] == 3.0


def test_how_to_run_may_change_and_is_saved(fitted, images, tmp_path):
    detector = copy.deepcopy(fitted).set_params(unknown_rate=0.5, n_jobs=2, cache_budget=1 << 20)
    assert "unknown" in detector.predict_class(images)
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    assert (loaded.unknown_rate, loaded.n_jobs, loaded.cache_budget) == (0.5, None, 1 << 20)


@pytest.mark.parametrize(
    "name, value", [("unknown_rate", 7), ("cache_budget", -1), ("verbose", -1), ("verbose", "x")]
)
def test_what_could_not_be_loaded_is_not_saved_over_a_model(fitted, tmp_path, name, value):
    fitted.save(tmp_path)
    with pytest.raises((ValueError, TypeError), match=name):
        copy.deepcopy(fitted).set_params(**{name: value}).save(tmp_path)
    HGADDetector.load(tmp_path, backbone=two_levels())


def test_a_threshold_of_an_unknown_class_is_not_saved(fitted, tmp_path):
    changed = copy.deepcopy(fitted)
    changed.class_offsets_["none"] = 0.5
    with pytest.raises(ValueError, match="none"):
        changed.save(tmp_path)


def test_the_docstring_names_what_may_be_set():
    names = {name for group in PARAMETER_GROUPS.values() for name in group}
    assert set(SETTABLE_AFTER_FIT) < names
    text = HGADDetector.__doc__.split("A fitted detector scores", 1)[1].split("Parameters\n")[0]
    assert all(f"`{name}`" in text for name in SETTABLE_AFTER_FIT)
    assert text.count("`") == 2 * len(SETTABLE_AFTER_FIT) + 2  # and `set_params`
