"""Files of wide tables hold rows and no axes; what is read is what was saved."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from skhgad import HGADDetector
from skhgad.storage.detector_state import pack, unpack
from skhgad.storage.model_folder import load_state, save_state

AXES, WEIGHTS = (f"model.levels.0.start.{name}" for name in ("matrix", "row_weights"))
N_FEATURES = 700


def table(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, N_FEATURES))


@pytest.fixture(scope="module")
def detector():
    """120 rows of two classes, one with a cell that is no measurement, and an anomaly.

    The axes are those of four fifths of the rows: the others are held out.
    """
    X, y = table(241), np.repeat(["bolt", "nut"], [120, 121]).astype(object)
    X[5, 3], y[240] = 1e9, -1
    with pytest.warns(UserWarning, match="1e\\+09"):
        return HGADDetector(random_state=0).fit(X, y)


def check_saved(detector, tmp_path):
    """Save and load; return the tensors of the file."""
    tensors, _ = pack(detector)
    detector.save(tmp_path / "model")
    loaded, fresh = HGADDetector.load(tmp_path / "model"), table(20, 1)
    np.testing.assert_array_equal(loaded.score_samples(fresh), detector.score_samples(fresh))
    for name, values in detector.model_.kept._asdict().items():
        np.testing.assert_array_equal(getattr(loaded.model_.kept, name), values)
    again, _ = pack(loaded)
    assert again.keys() == tensors.keys()
    return tensors


def test_a_fit_is_saved_without_axes(detector, tmp_path):
    tensors = check_saved(detector, tmp_path)
    assert AXES not in tensors and tensors[WEIGHTS].shape[0] == 240
    assert tensors["kept.x"].shape == (1, N_FEATURES)  # the row with the far cell
    assert tensors["kept.x.high"].shape == (239, N_FEATURES)


def test_strong_factors_are_stored_beside_the_rest(tmp_path):
    rng = np.random.default_rng(0)
    factors = 200 * rng.normal(size=(120, 3)) @ rng.normal(size=(3, N_FEATURES))
    detector = HGADDetector(random_state=0).fit(factors + table(120))
    tensors = check_saved(detector, tmp_path)
    assert tensors["kept.x.factors"].shape == (120, 4) and "kept.x.high" in tensors
    del tensors["kept.x.loadings"]
    with pytest.raises(ValueError, match="short rows have factors of"):
        unpack(HGADDetector, tensors, pack(detector)[1], None)


def test_rows_that_come_later_are_kept_beside_them(detector, tmp_path):
    detector = copy.deepcopy(detector)
    detector.add_class(table(12, 3) + 5, "a clip")
    tensors = check_saved(detector, tmp_path)
    assert AXES not in tensors and len(tensors["kept.x"]) == 13
    detector.update(table(10, 2), "nut")  # fits all of them anew
    assert len(check_saved(detector, tmp_path)["kept.x"]) == 1


def test_a_class_that_is_forgotten_leaves_no_rows_behind(detector, tmp_path):
    detector = copy.deepcopy(detector)
    detector.forget("bolt")
    tensors = check_saved(detector, tmp_path)
    assert AXES in tensors and WEIGHTS not in tensors
    assert len(tensors["kept.x"]) + len(tensors["kept.x.high"]) == 120


def test_an_update_that_fits_anew_is_saved_without_axes(tmp_path):
    detector = HGADDetector(validation_fraction=0.2, random_state=0).fit(table(110))
    assert detector.model_.model.levels[0].start.n_axes == 88  # 22 of 110 are held out
    detector.update(table(20, 2))
    tensors = check_saved(detector, tmp_path)
    assert AXES not in tensors and tensors["kept.x.high"].shape == (130, N_FEATURES)


def test_models_of_format_version_10_are_read(detector, tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("skhgad.storage.detector_state.without_axes", lambda tensors: tensors)
        older.setattr("skhgad.storage.model_folder.VERSION", 10)
        tensors, description = pack(detector)
        del tensors[WEIGHTS]
        save_state(tmp_path / "old", tensors, description)
    assert load_state(tmp_path / "old")[1]["version"] == 10
    loaded, fresh = HGADDetector.load(tmp_path / "old"), table(20, 1)
    np.testing.assert_array_equal(loaded.score_samples(fresh), detector.score_samples(fresh))
    assert AXES in check_saved(loaded, tmp_path)


def test_maps_of_one_position_keep_their_axes(tmp_path):
    """They are wide tables of the images, of which no rows are kept."""
    backbone = nn.Sequential(nn.Conv2d(3, 30, 1), nn.AdaptiveAvgPool2d(1))
    X = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    detector = HGADDetector(backbone, image_size=16, fuse_stages=False, random_state=0).fit(X)
    assert detector.model_.model.levels[0].start.has_rest
    tensors, _ = pack(detector)
    assert AXES in tensors and WEIGHTS not in tensors
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=backbone)
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("kept.x", lambda values: torch.empty(0, 10**12)),
        ("kept.x", lambda values: values[:, :-1]),
        ("kept.x", lambda values: values.long()),
        ("kept.x.places", lambda values: values * 0),
        ("kept.x.places", lambda values: values + 2),
        ("kept.x.places", lambda values: values - 1),
        ("kept.x.places", lambda values: values[1:]),
        ("kept.x.places", lambda values: values.double()),
        ("kept.x.high", lambda values: values[:, 1:]),
        ("kept.x.high", None),
        ("kept.x.low", lambda values: values[:, :9]),
        ("kept.x.lows", lambda values: values * torch.nan),
        ("kept.x.exponents", lambda values: values * 0 + 1023),
        (WEIGHTS, lambda values: values[0]),
        (WEIGHTS, lambda values: values[:, :0]),
        (WEIGHTS, lambda values: values[:, :-1]),
        (WEIGHTS, lambda values: values.repeat(3, 1)),
        (WEIGHTS, lambda values: values.repeat(1, 3)),
        (WEIGHTS, lambda values: values.float()),
        (WEIGHTS, lambda values: values * torch.inf),
        (WEIGHTS, None),
        (AXES, lambda values: torch.zeros(N_FEATURES, 190)),
        ("model.levels.0.start.mean", lambda values: torch.zeros(10**3, 1, 1).double()),
        ("model.levels.0.start.mean", lambda values: values[:1]),
    ],
)
def test_rows_and_weights_that_do_not_fit_are_refused(detector, name, change):
    tensors, description = pack(detector)
    values = tensors.pop(name, None)
    if change is not None:
        tensors[name] = change(values)
    with pytest.raises((ValueError, LookupError, RuntimeError)):
        unpack(HGADDetector, tensors, description, None)
