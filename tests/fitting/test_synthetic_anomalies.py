"""Levels count more where defects that are painted into normal pictures stand out more."""

import numpy as np
import pytest
from backbones import two_levels
from torch import nn
from torch.nn import functional as F

from skhgad import HGADDetector
from skhgad.fitting import recipe as recipes
from skhgad.fitting.synthetic_anomalies import some_of_each_class, weights_by_height

pytestmark = pytest.mark.usefixtures("one_thread")


class FineAndCoarse(nn.Module):
    """Contrast of 4 pixels a side, which defects change, and brightness of 16, which varies."""

    def forward(self, x):
        return [F.avg_pool2d((x - x.roll(1, dims=2)).abs(), 4), F.avg_pool2d(x, 16)]


def pictures(n, seed, base=100):
    """Pictures with a fine texture, brighter in some places than in others."""
    rng = np.random.default_rng(seed)
    uneven = rng.normal(0, 12, (n, 2, 2, 3)).repeat(16, axis=1).repeat(16, axis=2)
    texture = rng.normal(0, 20, (n, 32, 32, 1))
    return (base + uneven + texture).clip(0, 255).astype(np.uint8)


def fit(n=96, backbone=None, **parameters):
    X = np.concatenate([pictures(n, 0), pictures(20, 1, base=180)])
    y = ["dark"] * n + ["bright"] * 20
    given = {"image_size": 32, "fuse_stages": False, "device": "cpu", "random_state": 0}
    return HGADDetector(backbone or FineAndCoarse(), **{**given, **parameters}).fit(X, y)


@pytest.fixture(scope="module")
def weighed():
    return fit()


def weights_of(detector, label):
    """Weights of the two levels."""
    code = detector.classes_.tolist().index(label)
    return detector.model_.model.level_weights[:-1, code].tolist()


def test_the_level_that_sees_them_counts_more(weighed):
    fine, coarse = weights_of(weighed, "dark")
    assert fine > 1.2 * coarse and fine + coarse == pytest.approx(2)
    assert weights_of(weighed, "bright") == [1, 1]  # 20 normals are too few
    assert weighed.model_.model.level_weights[-1].tolist() == [1, 1]  # the entropy's


def test_a_fit_tells_the_weights(weighed, capsys):
    fine, coarse = weighed.model_.level_weights[:, weighed.classes_.tolist().index("dark")]
    fit(verbose=1)
    line = f"skhgad: weights of the levels in a score: dark {fine:.1f} / {coarse:.1f}\n"
    assert line in capsys.readouterr().out
    fit(verbose=1, synthetic_anomalies="none")
    assert "weights of the levels" not in capsys.readouterr().out


def test_scores_are_the_weighted_sums_of_the_levels(weighed):
    """Of the peaks, each in units of the peaks of normals."""
    model, X = weighed.model_.model, pictures(6, 5)
    plain = fit(synthetic_anomalies="none").model_.model
    code = weighed.classes_.tolist().index("dark")
    ratio = plain.peak_scale[:-1, code] / model.peak_scale[:-1, code]
    np.testing.assert_allclose(ratio, model.level_weights[:-1, code], rtol=1e-5)
    assert (weighed.score_samples(X) != fit(synthetic_anomalies="none").score_samples(X)).all()


def test_thresholds_hold_for_fresh_normals(weighed):
    flagged = weighed.predict(pictures(400, 7), class_labels=["dark"] * 400) == -1
    assert 0.005 < flagged.mean() < 0.12  # of 96 calibrating normals; 0.05 is meant


@pytest.mark.parametrize(
    "parameters",
    [
        {"synthetic_anomalies": "none"},
        {"n": 47},
        {"tile_size": 32},
        {"class_calibration": False},
        {"validation_fraction": 0},
        {"criterion": "entropy", "max_iter": 1},
        {"out_indices": (0,)},
    ],
    ids=str,
)
def test_where_all_levels_count_alike(parameters):
    assert (fit(**parameters).model_.model.level_weights == 1).all()


def test_models_without_a_fold_judge_the_anomalies_in_its_pictures(monkeypatch):
    """From moments in one pass, and by fitting a model anew for each fold."""
    found = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(recipes.Recipe, "_leaves_folds_out", lambda self: False)
        detector = fit(backbone=two_levels(), bank_size=0)
        found.append(weights_of(detector, "dark"))
    np.testing.assert_allclose(*found, rtol=1e-3)
    assert found[0] != [1, 1]


def test_one_group_held_out_judges_those_in_its_pictures():
    found = weights_of(fit(n=200, validation_fraction=0.2), "dark")
    assert found[0] > 1.1 * found[1]


@pytest.mark.parametrize("parameters", [{"resize": "pad"}, {"roi": True}], ids=str)
def test_views_of_pictures(parameters):
    roi, X = None, pictures(96, 0)
    if parameters.pop("roi", False):
        roi = np.zeros((32, 32), dtype=bool)
        roi[4:28, 4:28] = True
    detector = HGADDetector(
        FineAndCoarse(), image_size=32, fuse_stages=False, random_state=0, **parameters
    ).fit(X, roi=roi)
    fine, coarse = weights_of(detector, detector.classes_[0])
    assert fine > 1.1 * coarse


def test_an_added_class_gets_weights_as_by_a_fit_of_all(weighed):
    few = HGADDetector(
        FineAndCoarse(), image_size=32, fuse_stages=False, device="cpu", random_state=0
    ).fit(pictures(20, 1, base=180), ["bright"] * 20)
    few.add_class(pictures(96, 0), "dark")
    np.testing.assert_allclose(weights_of(few, "dark"), weights_of(weighed, "dark"), atol=0.3)
    assert weights_of(few, "dark")[0] > 1.2 * weights_of(few, "dark")[1]
    assert weights_of(few, "bright") == [1, 1]


def test_weights_are_as_high_as_the_peaks():
    peaks = np.array([[4.0, 2.0, -1.0]] * 8)
    np.testing.assert_allclose(weights_by_height(peaks), np.array([4, 2, 0.4]) / 6.4 * 3)
    glaring = np.array([[1e6, 0.0], [0.0, 10.0]])
    np.testing.assert_allclose(weights_by_height(glaring), [1, 1])
    assert weights_by_height(-peaks[:, :2]).tolist() == [1, 1]


def test_few_pictures_of_each_class_that_a_model_left_out_get_a_defect():
    codes = np.repeat([0, 1, 2], [47, 80, 400])
    is_spared = np.ones(527, dtype=bool)
    is_spared[100:127] = False  # of class 1
    chosen = some_of_each_class(codes, is_spared, seed=0)
    assert np.bincount(codes[chosen]).tolist() == [0, 10, 24]
    assert is_spared[chosen].all() and (np.diff(chosen) > 0).all()


def test_a_painted_picture_that_looks_like_another_product_is_judged_by_its_normals():
    # Two products of one look: the class of half of the painted pictures is inferred otherwise.
    X = np.concatenate([pictures(96, 0), pictures(96, 1)])
    given = {"image_size": 32, "fuse_stages": False, "device": "cpu", "random_state": 0}
    detector = HGADDetector(FineAndCoarse(), **given).fit(X, ["this"] * 96 + ["that"] * 96)
    for label in ("this", "that"):
        fine, coarse = weights_of(detector, label)
        assert fine > 1.2 * coarse
