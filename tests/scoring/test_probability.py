"""Scores between 0 and 1, with 0.5 at the threshold."""

import copy

import numpy as np
import pytest

from skhgad import HGADDetector
from skhgad.scoring.probability import anomaly_probability, lower_spread


def products(n, seed=0):
    rng = np.random.default_rng(seed)
    X = np.concatenate([rng.normal(0, 1, (n, 4)), rng.normal(8, 3, (n, 4))])
    return X, np.repeat(["bolt", "nut"], n)


@pytest.fixture(scope="module")
def fitted():
    return HGADDetector(max_iter=0, random_state=0).fit(*products(400))


@pytest.fixture(scope="module")
def samples():
    """Normal samples, and others farther and farther from both classes."""
    X, _ = products(200, seed=1)
    return np.concatenate([X, X[:50] + np.linspace(0, 60, 50)[:, None]])


def test_it_falls_as_the_score_rises_and_stays_between_0_and_1(fitted, samples):
    scores, found = fitted.score_samples(samples), fitted.anomaly_probability(samples)
    assert found.shape == scores.shape and found.dtype == np.float64
    assert 0 <= found.min() < 0.02
    assert 0.999 < found.max() <= 1
    order = np.argsort(scores)
    assert (np.diff(found[order]) <= 0).all()
    assert np.unique(found[found < 0.999]).size > 300  # no steps, as p-values have


def test_more_than_a_half_is_what_predict_flags(fitted, samples):
    found = fitted.anomaly_probability(samples)
    np.testing.assert_array_equal(found > 0.5, fitted.predict(samples) == -1)


def test_the_threshold_is_a_half(fitted, samples):
    moved = copy.copy(fitted)
    moved.offset_ = fitted.score_samples(samples)[7]
    assert moved.anomaly_probability(samples)[7] == 0.5


def test_a_class_with_a_threshold_of_its_own_has_a_half_there(fitted, samples):
    moved, classes = copy.copy(fitted), fitted.predict_class(samples)
    bolt, nut = (np.flatnonzero(classes == name)[0] for name in ("bolt", "nut"))
    moved.class_offsets_ = {"nut": fitted.score_samples(samples)[nut]}
    found, before = moved.anomaly_probability(samples), fitted.anomaly_probability(samples)
    assert found[nut] == 0.5 != before[nut]
    np.testing.assert_array_equal(found[classes == "bolt"], before[classes == "bolt"])
    np.testing.assert_array_equal(found > 0.5, moved.predict(samples) == -1)
    given = moved.anomaly_probability(samples[[bolt]], class_labels=["nut"])
    decision = moved.decision_function(samples[[bolt]], class_labels=["nut"])
    unit = lower_spread(fitted.model_.calibration.scores)
    np.testing.assert_allclose(given, 1 / (1 + np.exp(decision / unit)))


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_it_follows_set_threshold(fitted, samples, rate):
    moved = copy.copy(fitted).set_threshold(false_alarm_rate=rate)
    found = moved.anomaly_probability(samples)
    np.testing.assert_array_equal(found > 0.5, moved.predict(samples) == -1)
    before = fitted.anomaly_probability(samples)
    finite = before < 0.999
    assert ((found > before) == (rate > 0.05))[finite].all()


def test_the_unit_is_that_of_the_held_out_normals(fitted, samples):
    unit = np.subtract(*np.quantile(fitted.model_.calibration.scores, (0.5, 0.25)))
    odds = fitted.anomaly_probability(samples[:100])
    expected = 1 / (1 + np.exp((fitted.score_samples(samples[:100]) - fitted.offset_) / unit))
    np.testing.assert_allclose(odds, expected, rtol=1e-12)


def test_normal_samples_of_every_class_get_small_values(fitted):
    X, labels = products(500, seed=2)
    medians = [np.median(fitted.anomaly_probability(X[labels == k])) for k in ("bolt", "nut")]
    assert max(medians) < 0.1


def test_a_loaded_detector_says_the_same(fitted, samples, tmp_path):
    moved = copy.copy(fitted).set_threshold(false_alarm_rate=0.2)
    moved.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.anomaly_probability(samples), moved.anomaly_probability(samples)
    )


def test_a_given_class_counts(fitted):
    wrong, right = (
        fitted.anomaly_probability([[0.0] * 4], class_labels=k) for k in ("nut", "bolt")
    )
    assert wrong > right


def test_extreme_scores_and_calibrations_stay_finite():
    lowest = np.finfo(np.float64).min / 2
    with np.errstate(all="raise"):
        found = anomaly_probability(np.array([lowest, 0.0, 1e6]), np.array([0.0, -0.1]))
    assert found.tolist() == [1.0, 0.5, 0.0]
    assert lower_spread(np.array([3.0, 3.0])) == 1.0 == lower_spread(np.array([3.0]))
    assert lower_spread(np.array([0.0, 1.0, -4.0])) == 2.0
