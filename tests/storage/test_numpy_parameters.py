"""Parameters that are NumPy scalars are fitted, saved and exported as Python's own."""

import numpy as np
import pytest
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.parameters import PARAMETER_GROUPS, SETTABLE_AFTER_FIT

# In place of defaults that are words or None.
OTHERS = {
    "out_indices": (0, 1), "image_size": (32, 32), "value_range": (0, 255), "max_features": 12,
    "n_classes": 2, "max_iter": 1, "batch_size": 4, "learning_rate": 1e-3,
    "whitening_shrinkage": 0.125, "contamination": 0.125, "unknown_rate": 0.25,
    "cache_budget": 1 << 24, "n_jobs": 1, "random_state": 3, "n_blocks": 1, "n_components": 2,
    "position_channels": 8,
}  # fmt: skip
PARAMETERS = HGADDetector().get_params(deep=False)
NUMBERS = [
    name
    for group in PARAMETER_GROUPS.values()
    for name in group
    if not isinstance(OTHERS.get(name, PARAMETERS[name]), str | bool | None)
]


def as_numpy(value):
    if isinstance(value, tuple):
        return tuple(map(as_numpy, value))
    return np.int64(value) if isinstance(value, int) else np.float32(value)


def plain(value):
    return tuple(map(plain, value)) if isinstance(value, tuple) else np.asarray(value).item()


def images():
    return np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), dtype=np.uint8)


def fit(**parameters):
    settings = {"image_size": 32, "max_iter": 0, "n_blocks": 0, "n_components": 2, "device": "cpu"}
    return HGADDetector(two_levels(), **settings | parameters).fit(images(), ["a", "b"] * 12)


def check_saved(detector, folder):
    detector.save(folder)
    loaded = HGADDetector.load(folder, backbone=two_levels())
    np.testing.assert_array_equal(loaded.score_samples(images()), detector.score_samples(images()))
    return loaded.get_params(deep=False)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_numpy_number_is_saved_as_a_plain_one(name, tmp_path):
    value = as_numpy(OTHERS.get(name, PARAMETERS[name]))
    parameters = {name: value}
    if name == "n_classes":
        parameters["max_iter"] = 0
    detector = fit(**parameters)
    saved = check_saved(detector, tmp_path / "model")
    if name == "n_jobs":  # belongs to the machine, not to the model
        assert saved["n_jobs"] is None
        return
    for found in (saved, detector.model_.parameters):
        if name in found:
            check_plain(found[name], value)
    assert name in saved and (name in detector.model_.parameters) != (name in SETTABLE_AFTER_FIT)


def check_plain(found, value):
    assert found == plain(value)
    for entry in found if isinstance(found, tuple) else (found,):
        assert type(entry) in (int, float)


@pytest.mark.parametrize("value_range", [np.array([0, 255]), [np.uint8(0), np.float32(255)]])
def test_a_range_of_pixels_may_be_an_array_or_a_list(value_range, tmp_path):
    detector = fit(value_range=value_range)
    assert detector.model_.value_range == (0, 255)
    assert check_saved(detector, tmp_path / "model")["value_range"] == (0, 255)


def test_a_switch_may_be_a_bool_of_numpy(tmp_path):
    switches = ("class_covariance", "class_calibration", "fuse_stages", "mixed_precision")
    saved = check_saved(fit(**dict.fromkeys(switches, np.False_)), tmp_path / "model")
    assert all(saved[name] is False for name in switches)


def test_whole_numbers_are_decay_rates_too():
    fit(betas=(0, 0.99), max_iter=1)


def test_what_is_set_after_the_fit_is_saved_as_a_plain_number(tmp_path):
    detector = fit().set_params(unknown_rate=np.float32(0.25), n_jobs=np.int64(1))
    saved = check_saved(detector, tmp_path / "model")
    check_plain(saved["unknown_rate"], 0.25)
    assert saved["n_jobs"] is None


def test_a_threshold_of_numpy_is_saved(tmp_path):
    detector = fit()
    detector.offset_ = np.float32(-2)
    check_saved(detector, tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    assert type(loaded.offset_) is float and loaded.offset_ == -2


def test_all_of_them_together_are_exported(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    parameters = {name: as_numpy(OTHERS.get(name, PARAMETERS[name])) for name in NUMBERS}
    detector = fit(**parameters)
    check_saved(detector, tmp_path / "model")
    detector.to_onnx(tmp_path / "model.onnx")
    session = runtime.InferenceSession(
        str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (scores,) = session.run(["score"], {"image": images().astype(np.float32)})
    np.testing.assert_allclose(scores, detector.score_samples(images()), rtol=1e-3, atol=1e-3)
