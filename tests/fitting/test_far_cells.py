"""One bad cell of a table spoils nothing, and is named."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from skhgad import HGADDetector
from skhgad.fitting.far_cells import far_cells


def table(n=300, n_features=5):
    return np.random.default_rng(0).normal(size=(n, n_features))


def auroc(X):
    """AUROC of anomalies at 8 standard deviations, of a detector that is fitted to X."""
    rng = np.random.default_rng(1)
    fresh = rng.normal(size=(200, 5))
    odd = rng.normal(size=(100, 5))
    odd[np.arange(100), rng.integers(5, size=100)] += 8.0
    detector = HGADDetector(random_state=0, validation_fraction="cross").fit(X)
    scores = detector.score_samples(np.concatenate([fresh, odd]))
    return detector, roc_auc_score(np.repeat([0, 1], [200, 100]), -scores)


@pytest.mark.parametrize("value", [-9999.0, 1e30, -1.7e308])
def test_one_bad_cell_costs_no_accuracy_and_is_named(value):
    X = table()
    X[17, 3] = value
    with pytest.warns(UserWarning, match=r"X\[17, 3\] = .* more than 50 times as far"):
        detector, found = auroc(X)
    assert found > 0.999
    # The row still calibrates: as the least normal of all 300.
    scores = detector.model_.calibration.scores
    assert len(scores) == 300 and np.isfinite(detector.offset_)
    assert scores.min() == detector.score_samples(X[[17]])[0] < np.sort(scores)[1]
    assert detector.predict(X[[17]]) == [-1]


def test_classes_of_seven_rows_are_enough():
    X, y = table(28), np.repeat(list("abcd"), 7)
    X[9, 3] = -9999
    with pytest.warns(UserWarning, match=r"X\[9, 3\] = -9999"):
        detector = HGADDetector(random_state=0).fit(X, y)
    odd = detector.score_samples(table(10) + [0, 0, 0, 8, 0])
    assert odd.max() < np.quantile(detector.score_samples(table(100)), 0.05)


def test_several_classes_and_named_features():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(table(), columns=list("abcde"))
    X.loc[4, "c"] = 1e6
    with pytest.warns(UserWarning, match=r"X\[4, 'c'\] = 1e\+06"):
        detector = HGADDetector(random_state=0, validation_fraction="cross").fit(
            X, ["p", "q"] * 150
        )
    calibration = detector.model_.calibration
    assert calibration.codes[np.argmin(calibration.scores)] == 0


def test_classes_that_are_discovered():
    X = np.concatenate([table(100), table(100) + 20])
    X[3, 0] = 1e9
    with pytest.warns(UserWarning, match=r"X\[3, 0\]"):
        detector = HGADDetector(n_classes=2, random_state=0, validation_fraction=0.2).fit(X)
    assert sorted(np.bincount(detector.predict_class(X[4:])).tolist()) == [96, 100]
    # A row in 200 is no row of the fifth that calibrates.
    assert len(detector.model_.calibration.scores) == 40


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(size=(400, 6)),
        lambda rng: rng.standard_t(3, size=(400, 6)),
        lambda rng: rng.lognormal(sigma=1.5, size=(400, 6)),
        lambda rng: rng.poisson(0.02, size=(400, 6)) * 1e4,  # rare, half of the values equal
        lambda rng: rng.integers(0, 2, size=(400, 6)).astype(float),
        lambda rng: np.ones((400, 6)),
        lambda rng: np.concatenate([rng.normal(size=(390, 6)), rng.normal(size=(10, 6)) * 1e6]),
    ],
)
def test_heavy_tails_and_rare_values_are_left_alone(draw):
    for seed in range(20):
        X = draw(np.random.default_rng(seed))
        assert far_cells(X, np.zeros(len(X), np.int64)) == []


def test_known_anomalies_and_small_classes_are_left_alone():
    X = table()
    X[0, 0], X[299, 1] = 1e9, 1e9
    codes = np.zeros(300, np.int64)
    codes[0], codes[294:] = -1, 1
    assert far_cells(X, codes) == []


def test_a_table_whose_squares_are_zero_is_refused():
    with pytest.raises(ValueError, match="all values of X lie within .*e-310 of 0"):
        HGADDetector(random_state=0).fit(table() * 1e-310)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scale in (1e-140, 1e140):
            detector = HGADDetector(random_state=0).fit(table() * scale)
            assert detector.score_samples([[10 * scale] * 5]) < detector.offset_


@pytest.mark.parametrize("scale", [1e160, 1e200, 1e300])
def test_values_whose_squares_are_infinite_are_refused(scale):
    X = pytest.importorskip("pandas").DataFrame(table(), columns=list("abcde"))
    X["c"] *= scale
    message = r"^X has -?[\d.]+e\+\d+ in 'c', and float64 cannot hold its square.*MaxAbsScaler"
    with pytest.raises(ValueError, match=message):
        HGADDetector(random_state=0).fit(X)
    detector = HGADDetector(random_state=0, n_components=1).fit(table(), ["a"] * 300)
    before = detector.score_samples(table())
    for change, label in ((detector.update, "a"), (detector.add_class, "b")):
        with pytest.raises(ValueError, match=r"\+\d+ in feature 2, and float64"):
            change(X.to_numpy()[:60], [label] * 60)
    np.testing.assert_array_equal(detector.score_samples(table()), before)
    scaled = make_pipeline(MaxAbsScaler(), HGADDetector(random_state=0)).fit(X)
    assert scaled.predict(X).mean() > 0.8
