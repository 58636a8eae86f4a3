"""Certificates: the false-alarm rate that the threshold of each class does not exceed."""

import copy
import math

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.exceptions import NotFittedError

from skhgad import ClassCertificate, HGADDetector
from skhgad.scoring.certificate import bound_text, certificate_text, false_alarm_bound


def normals(n, seed, n_classes=2):
    """Classes of `n` vectors each that lie 9 apart on different axes, and their labels."""
    rng = np.random.default_rng(seed)
    centers = 9 * np.eye(4)[:n_classes]
    X = rng.normal(size=(n_classes * n, 4)) + np.repeat(centers, n, axis=0)
    return X, np.repeat(["bolt", "nut", "pin"][:n_classes], n)


@pytest.fixture(scope="module")
def fitted():
    X, y = normals(60, seed=0)
    return HGADDetector(n_components=1, random_state=0).fit(X[:100], y[:100])  # 60 bolts, 40 nuts


@pytest.fixture
def detector(fitted):
    return copy.copy(fitted)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("n_flagged", "n_normals"), [(0, 1), (0, 19), (3, 19), (18, 19), (5, 900)])
def test_so_few_flagged_normals_are_as_rare_as_the_confidence_says(
    n_flagged, n_normals, confidence
):
    bound = false_alarm_bound(n_flagged, n_normals, confidence)
    assert binom.cdf(n_flagged, n_normals, bound) == pytest.approx(1 - confidence, rel=1e-6)


def test_known_bounds():
    assert false_alarm_bound(0, 19, 0.95) == pytest.approx(1 - 0.05 ** (1 / 19))  # 14.6 %
    assert false_alarm_bound(0, 58, 0.95) > 0.05 > false_alarm_bound(0, 59, 0.95)
    assert false_alarm_bound(0, 0, 0.95) == false_alarm_bound(7, 7, 0.95) == 1.0


@pytest.mark.parametrize("n_others", [0, 100])
def test_the_threshold_may_come_from_the_same_scores(n_others):
    """Uniform scores, so that a threshold is its own false-alarm rate.

    The threshold is an order statistic of the scores of the class, or of these and others.
    """
    rng, n_draws, exceeded = np.random.default_rng(0), 2000, 0
    for _ in range(n_draws):
        scores = rng.random(50)
        everything = np.concatenate([scores, rng.random(n_others) * 2])
        threshold = np.sort(everything)[len(everything) // 20]
        bound = false_alarm_bound(int(np.sum(scores < threshold)), len(scores), 0.95)
        exceeded += threshold > bound
    noise = 3 * np.sqrt(0.05 * 0.95 / n_draws)
    assert exceeded / n_draws < 0.05 + noise
    if not n_others:  # an order statistic of the class: exact, so no less either
        assert exceeded / n_draws > 0.05 - noise


@pytest.mark.once
def test_detectors_exceed_their_bounds_rarely():
    fresh, labels = normals(4000, seed=99, n_classes=3)
    exceeded, rates = [], []
    for seed in range(4):
        detector = HGADDetector(n_components=1, random_state=0).fit(*normals(40, seed, 3))
        flagged = detector.predict(fresh) == -1
        for found in detector.certificate():
            rates.append(flagged[labels == found.class_label].mean())
            exceeded.append(rates[-1] > found.bound)
            assert found.n_normals == 40 and found.bound < 0.25
    assert np.sum(exceeded) <= 3  # 0.6 expected of 12
    assert np.mean(rates) > 0.01  # the bounds have something to hold


def test_each_class_counts_its_own_normals(detector):
    bolt, nut = detector.certificate()
    assert isinstance(bolt, ClassCertificate)
    assert [bolt.class_label, nut.class_label] == detector.classes_.tolist() == ["bolt", "nut"]
    assert (bolt.n_normals, nut.n_normals) == (60, 40)
    calibration = detector.model_.calibration
    for code, found in enumerate((bolt, nut)):
        scores = calibration.scores[calibration.inferred == code]
        assert found.n_flagged == np.sum(scores < detector.offset_)
        assert found.rate == found.n_flagged / found.n_normals < found.bound
        assert found.bound == false_alarm_bound(found.n_flagged, found.n_normals, 0.95)
    assert bolt.n_flagged + nut.n_flagged == 5 - 1  # the threshold is the 5th lowest of 100


def test_more_confidence_takes_a_wider_bound(detector):
    bounds = [detector.certificate(c)[0].bound for c in (0.5, 0.95, 0.99)]
    assert bounds == sorted(bounds) and bounds[0] < bounds[-1]
    assert detector.certificate() == detector.certificate(confidence=0.95)


def test_a_threshold_of_its_own_counts(detector):
    bolt, nut = detector.certificate()
    detector.set_threshold(false_alarm_rate={"nut": 0.3})
    found_bolt, found_nut = detector.certificate()
    assert found_bolt == bolt
    assert found_nut.n_flagged == math.floor(0.3 * 41) - 1 and found_nut.bound > nut.bound
    detector.class_offsets_ = {"nut": math.inf}
    assert detector.certificate()[1] == ("nut", 40, 40, 1.0, 1.0)
    detector.offset_ = -math.inf
    assert detector.certificate()[0][1:4] == (60, 0, 0.0)


def test_the_class_is_the_one_inferred(detector):
    calibration = detector.model_.calibration
    inferred = calibration.inferred.copy()
    inferred[np.flatnonzero(inferred == 0)[:3]] = 1  # three bolts are taken for nuts
    detector.model_ = copy.copy(detector.model_)
    detector.model_.calibration = calibration._replace(inferred=inferred)
    assert [found.n_normals for found in detector.certificate()] == [57, 43]


def test_a_loaded_detector_says_the_same(detector, tmp_path):
    detector.set_threshold(false_alarm_rate={"bolt": 0.2}).save(tmp_path / "model")
    assert HGADDetector.load(tmp_path / "model").certificate(0.9) == detector.certificate(0.9)


def test_classes_may_be_numbers():
    X, _ = normals(20, seed=0)
    detector = HGADDetector(n_components=1, random_state=0).fit(X, np.repeat([7, 3], 20))
    found = detector.certificate()
    assert [certificate.class_label for certificate in found] == [3, 7]
    assert all(type(certificate.class_label) is int for certificate in found)


@pytest.mark.filterwarnings("ignore:fewer than 5 normal samples")
@pytest.mark.filterwarnings("ignore:too few held-out normals")
@pytest.mark.parametrize("fraction", ["auto", "cross", 0.5])
def test_a_class_that_calibrates_nothing_has_no_bound(fraction):
    X, y = normals(30, seed=0, n_classes=3)
    detector = HGADDetector(n_components=1, random_state=0, validation_fraction=fraction)
    bolt, nut, pin = detector.fit(X[:64], y[:64]).certificate()
    assert bolt.n_normals == nut.n_normals == (15 if fraction == 0.5 else 30)
    assert (pin.n_normals, pin.n_flagged, pin.bound) == (0, 0, 1.0) and math.isnan(pin.rate)


@pytest.mark.filterwarnings("ignore:fewer than 5 normal samples")
@pytest.mark.filterwarnings("ignore:too few held-out normals")
@pytest.mark.parametrize(("n", "fraction"), [(40, 0), (40, 0.0), (4, "auto"), (4, "cross")])
def test_training_samples_certify_nothing(n, fraction):
    detector = HGADDetector(n_components=1, random_state=0, validation_fraction=fraction)
    detector.fit(*normals(n, seed=0))
    assert len(detector.model_.calibration.scores) == 2 * n  # which the model was fitted to
    assert [found.bound for found in detector.certificate()] == [1.0, 1.0]
    assert [found.n_normals for found in detector.certificate()] == [0, 0]


@pytest.mark.filterwarnings("ignore:too few held-out normals")
def test_the_smallest_classes_that_are_cross_fitted_certify_a_little():
    detector = HGADDetector(n_components=1, random_state=0).fit(*normals(5, seed=0))
    assert [found.n_normals for found in detector.certificate()] == [5, 5]


@pytest.mark.filterwarnings("ignore:too few held-out normals")
def test_fewer_held_out_normals_than_cross_fitting_leaves_certify_a_little():
    detector = HGADDetector(n_components=1, random_state=0, validation_fraction=0.2)
    before = detector.fit(*normals(20, seed=0)).certificate()
    assert [found.n_normals for found in before] == [4, 4]
    # "auto" holds out as many where there are passes.
    parameters = {**detector.model_.parameters, "validation_fraction": "auto", "max_iter": 1}
    detector.model_.parameters = parameters
    assert detector.certificate() == before


@pytest.mark.parametrize("confidence", [0, 1, -0.1, 95, math.nan])
def test_a_confidence_outside_0_and_1_is_refused(detector, confidence):
    with pytest.raises(ValueError, match="confidence must lie strictly between 0 and 1, got"):
        detector.certificate(confidence)


@pytest.mark.parametrize("confidence", ["0.95", None, True])
def test_a_confidence_that_is_no_number_is_refused(detector, confidence):
    with pytest.raises(TypeError, match="confidence must be a number between 0 and 1"):
        detector.certificate(confidence)


def test_it_takes_a_fit():
    with pytest.raises(NotFittedError):
        HGADDetector().certificate()


def test_the_text_says_what_is_not_known():
    bolt = ClassCertificate("bo\tlt", 19, 0, 0.0, 1 - 0.05 ** (1 / 19))
    nut = ClassCertificate("nut", 0, 0, math.nan, 1.0)
    assert bound_text(bolt) == "at most 14.6 %" and bound_text(nut) == "not known"
    assert certificate_text([bolt, nut], 0.95).splitlines() == [
        "false alarms among normal samples, with 95 % confidence:",
        "  bo\\tlt: at most 14.6 % (0 of 19 calibrating normals flagged)",
        "  nut: not known (0 of 0 calibrating normals flagged)",
    ]
