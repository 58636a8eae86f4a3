"""`fit` names columns with marks of missing values and running numbers, and no measurements."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.impute import KNNImputer
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from skhgad import HGADDetector
from skhgad.fitting.odd_columns import marks_of_missing, running_numbers


def related(n, seed=0):
    """Vectors of five features that depend on each other."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)) @ np.random.default_rng(99).normal(size=(5, 5)) + 30


def with_gaps(X, value=-999, share=0.1):
    return np.where(np.random.default_rng(1).random(X.shape) < share, value, X)


@pytest.mark.parametrize("value", [-999, -9999, 99.99, -32768, 65535, -1e9])
def test_marks_far_from_all_other_values_are_found(value):
    X = related(300)
    X[:9, 1] = value
    assert marks_of_missing(X) == [(1, value, 9)]
    X[2:9, 1] = 30
    assert marks_of_missing(X) == []  # two


def test_measurements_are_no_marks():
    rng = np.random.default_rng(0)
    X = np.stack(
        [
            rng.poisson(0.3, 300),
            np.where(rng.random(300) < 0.5, 0, 100 + rng.normal(size=300)),  # on and off
            np.where(rng.random(300) < 0.2, 1000, 0),  # two values
            np.clip(rng.normal(size=300), -1, 1),  # saturated
            np.where(rng.random(300) < 0.1, 99, rng.uniform(0, 100, 300)),  # within the others
            np.full(300, -999),
        ],
        axis=1,
    ).astype(float)
    assert marks_of_missing(X) == []
    for load in (load_breast_cancer, load_digits, load_iris, load_wine):
        X = load().data.astype(float)
        assert marks_of_missing(X) == [] and running_numbers(X) == []


def test_running_numbers_and_times_are_found_and_sorted_measurements_not():
    n = 200
    days = np.arange(n) * 60.0 + np.arange(n) // 50 * 36000  # a minute each, and nights between
    sorted_ones = np.sort(np.random.default_rng(0).uniform(size=(n, 2)), axis=0)
    X = np.column_stack((related(n), np.arange(n), -2.5 * np.arange(n), days, sorted_ones))
    assert running_numbers(X) == [5, 6, 7]
    X[7, 5] = 3
    assert running_numbers(X[::-1]) == [6, 7]
    assert running_numbers(X[:19]) == []


def test_fit_and_add_class_name_them_and_the_mend_works():
    X, fresh = with_gaps(related(400)), related(400, 1)
    broken = with_gaps(np.random.default_rng(2).permuted(fresh, axis=0))
    fresh, labels = with_gaps(fresh), np.repeat([0, 1], 400)

    def auroc(detector):
        return roc_auc_score(labels, -detector.score_samples(np.concatenate((fresh, broken))))

    with pytest.warns(UserWarning, match=r"feature 0 is -999 in \d+ of 400 rows.*KNNImputer\(\)"):
        plain = HGADDetector(random_state=0).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled = make_pipeline(KNNImputer(missing_values=-999), HGADDetector(random_state=0)).fit(X)
    assert auroc(filled) > 0.75 > 0.65 > auroc(plain)
    with pytest.warns(UserWarning, match="marks of missing values"):
        HGADDetector(random_state=0).fit(related(60)).add_class(X + 0, 1)


@pytest.mark.parametrize("named", [False, True])
def test_running_numbers_are_named(named):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(np.column_stack((related(50), np.arange(50))), columns=list("abcdef"))
    with pytest.warns(UserWarning, match="'f' of X rises" if named else "feature 5 of X rises"):
        HGADDetector(random_state=0).fit(X if named else X.to_numpy())
