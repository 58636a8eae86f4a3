"""Levels count more where known anomalies stand out more."""

import copy

import numpy as np
import pytest
import torch
from backbones import two_levels
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.fitting import known_defects
from skhgad.fitting.class_scales import class_scales, common_scales, left_out_scores
from skhgad.fitting.known_gain import Gain
from skhgad.fitting.level_weights import best_weights
from skhgad.storage.detector_state import pack, unpack

pytestmark = pytest.mark.usefixtures("one_thread")


def peaks_of(seed, n, shift):
    """Peaks of two levels in units of those of normals, in which defects lie higher by a shift."""
    return np.random.default_rng(seed).exponential(1, (n, 2)) + np.array(shift)


def test_weights_have_the_smallest_loss():
    normals, defects = peaks_of(0, 60, (0, 0)), peaks_of(1, 8, (2, 0.2))

    def loss(weights):
        pairs = [np.log1p(np.exp((n - d) @ weights)) for d in defects for n in normals]
        return sum(pairs) / len(normals) + 0.2 * ((weights - 1) ** 2).sum()

    expected = minimize(loss, np.ones(2), method="Nelder-Mead", options={"xatol": 1e-6}).x
    found = best_weights(normals, defects, np.ones(2))
    np.testing.assert_allclose(found, expected / expected.mean(), atol=1e-3)
    assert expected[0] > expected[1] + 0.3


def test_few_defects_and_a_single_level_move_little():
    normals, defects = peaks_of(0, 60, (0, 0)), peaks_of(1, 20, (2, 0))
    before = np.array([0.8, 1.2])
    far, near = (np.abs(best_weights(normals, defects[:n], before) - before).max() for n in (20, 1))
    assert near < 0.7 * far
    assert best_weights(normals[:, :1], defects[:, :1], before[:1]).tolist() == [0.8]
    for some in ((normals[:0], defects), (normals, defects[:0])):
        assert best_weights(*some, before).tolist() == [0.8, 1.2]


def mean_excess(values):
    """Of values above their median; an excess counts as 16 times the middle one at most."""
    above = sorted((v for v in values - np.median(values) if v > 0), reverse=True)
    return np.minimum(above, 16 * above[(len(above) - 1) // 2]).mean()


def test_left_out_scores_take_the_factors_of_each_sample():
    rng = np.random.default_rng(0)
    peaks, codes = rng.exponential(1, (12, 2)), np.zeros(12, dtype=int)
    factors = np.repeat(rng.uniform(0.5, 2, (2, 3)), 4, axis=1)
    found = left_out_scores(peaks, codes, np.ones(2), factors=factors)
    for i in range(12):
        others = np.delete(peaks, i, axis=0)
        medians = np.median(others, axis=0)
        excesses = [mean_excess(part) for part in others.T]
        sums = ((others - medians) / excesses) @ factors[:, i]
        own = ((peaks[i] - medians) / excesses) @ factors[:, i]
        assert found[i] == pytest.approx((own - np.median(sums)) / mean_excess(sums))


# ---------------------------------------------------------------- of a detector


BOARD = (-1.0) ** np.add.outer(range(8), range(8))[..., None]


def pictures(n, seed, *, has_board=False, base=120):
    """Noise of 32 pixels; with a faint chess board, which half the size does not show."""
    rng = np.random.default_rng(seed)
    images = rng.normal(base, 15, (n, 32, 32, 3))
    for image, (row, column) in zip(images, rng.integers(0, 16, (n, 2)), strict=True):
        image[row : row + 8, column : column + 8] += 30 * BOARD * has_board
    return np.clip(images, 0, 255).astype(np.uint8)


def fit(**parameters):
    X = [pictures(40, 0), 255 - pictures(40, 1), pictures(12, 2, has_board=True)]
    y = np.repeat(["bright", "dark", "-1"], [40, 40, 12])
    detector = HGADDetector(
        two_levels(),
        out_indices=(0,),
        image_size=32,
        image_scales=(1.0, 0.5),
        random_state=0,
        **parameters,
    )
    return detector.fit(np.concatenate(X), y)


@pytest.fixture(scope="module")
def corrected():
    return fit()


def test_a_level_in_which_known_anomalies_stand_out_counts_more(corrected):
    weights = corrected.model_.model.level_weights  # the last row is the entropy's
    assert weights[0, 0] > 2 * weights[1, 0]
    assert weights[:, 1].tolist() == [1, 1, 1]  # of "dark" no anomaly is known
    X = np.concatenate([pictures(100, 5), pictures(100, 6, has_board=True)])
    labels = np.repeat([1, 0], 100)
    before = roc_auc_score(labels, fit(known_anomalies="ignore").score_samples(X))
    assert roc_auc_score(labels, corrected.score_samples(X)) > before + 0.03


def test_thresholds_hold_for_fresh_normals(corrected):
    flagged = corrected.predict(pictures(300, 7), class_labels=["bright"] * 300) == -1
    assert flagged.mean() < 0.1  # of 40 calibrating normals; 0.05 is meant


def test_without_common_scales_all_levels_count_alike(monkeypatch):
    def kept(*pairs):
        return Gain(12, 0.1, 0.01, True)

    monkeypatch.setattr(known_defects, "measured_gain", kept)
    model = fit(class_calibration=False).model_.model
    assert model.defect_terms[0].directions[0].any()
    assert (model.level_weights == 1).all()


def test_a_new_class_has_weights_of_one_and_borrows_no_others(corrected):
    model, calibration = corrected.model_.model, corrected.model_.calibration
    with pytest.warns(UserWarning, match="fewer than 5"):  # none calibrates
        more = copy.deepcopy(corrected).add_class(pictures(3, 8, base=60), "coal")
    code = more.classes_.tolist().index("coal")
    assert (more.model_.model.level_weights[:, code] == 1).all()
    common = common_scales(calibration.peaks, calibration.codes, model.term_weights)
    found = more.model_.model.peak_scale[:2, code]
    np.testing.assert_allclose(found, common.peak_scale[:2, 0], rtol=1e-5)
    old = [more.classes_.tolist().index(name) for name in corrected.classes_]
    np.testing.assert_array_equal(more.model_.model.level_weights[:, old], model.level_weights)


def test_an_update_keeps_the_weights(corrected):
    model = copy.deepcopy(corrected).update(pictures(20, 9), "bright").model_
    np.testing.assert_array_equal(model.model.level_weights, corrected.model_.model.level_weights)
    weights, calibration = model.model.term_weights, model.calibration
    common = common_scales(calibration.peaks, calibration.codes, weights)
    own = class_scales(calibration.peaks[calibration.codes == 0], weights, common)
    expected = own.peak_scale[:2, 0] / model.model.level_weights[:2, 0]
    np.testing.assert_allclose(model.model.peak_scale[:2, 0], expected, rtol=1e-5)


def test_weights_are_stored_and_checked(corrected):
    def unpacked(change):
        tensors, description = pack(corrected)
        change(tensors)
        return unpack(HGADDetector, tensors, description, two_levels())

    name, X = "model.level_weights", pictures(4, 5)
    found = unpacked(lambda tensors: None)
    np.testing.assert_array_equal(found.score_samples(X), corrected.score_samples(X))
    weights = corrected.model_.model.level_weights
    np.testing.assert_array_equal(found.model_.model.level_weights, weights)
    for harm, kind in (
        (torch.zeros(3, 2), ValueError),
        (torch.full((3, 2), torch.nan), ValueError),
        (torch.ones(2, 2), RuntimeError),
    ):
        with pytest.raises(kind, match="level_weights"):
            unpacked(lambda tensors, harm=harm: tensors.__setitem__(name, harm))


def test_weights_of_older_versions_are_read(corrected):
    """They were part of what known defects add; models of version 7 had none."""
    tensors, description = pack(corrected)
    weights = tensors.pop("model.level_weights")
    del description["parameters"]["synthetic_anomalies"]
    for index in range(2):
        tensors[f"model.defect_terms.{index}.level_weights"] = weights[index]
    found = unpack(HGADDetector, dict(tensors), description, two_levels())
    np.testing.assert_array_equal(found.model_.model.level_weights, weights)
    assert found.synthetic_anomalies == "none"
    for index in range(2):
        del tensors[f"model.defect_terms.{index}.level_weights"]
    found = unpack(HGADDetector, tensors, description, two_levels())
    assert (found.model_.model.level_weights == 1).all()
