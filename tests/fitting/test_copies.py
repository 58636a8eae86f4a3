"""Copies of samples: one part together, and left out of an update."""

import warnings

import numpy as np
import pytest
from test_groups import image_detector, parts_of_pictures

from skhgad import HGADDetector
from skhgad.fitting.copies import copies_of_pictures, copies_of_vectors

_TEXT = "are copies of others"


def oversampled(rng, n, n_more, d=6):
    """Return n vectors, more drawn from them again, in any order."""
    X = rng.normal(size=(n, d))
    X = np.concatenate((X, X[rng.integers(n, size=n_more)]))
    return X[rng.permutation(len(X))]


def found(X, codes=None):
    numbers = copies_of_vectors(X, np.zeros(len(X), dtype=np.int64) if codes is None else codes)
    return len(X) if numbers is None else len(np.unique(numbers))


@pytest.mark.parametrize("d", [1, 2, 6])
def test_copies_of_vectors_are_found(d):
    rng = np.random.default_rng(d)
    X = rng.normal(size=(60, d))
    assert found(X) == 60
    assert found(np.tile(X, (5, 1))) == found(np.concatenate((X, X[:10]))) == 60
    assert found(np.round(oversampled(rng, 1000, 500, d + 3), 2)) == 1000
    assert found(np.concatenate((X, X[:2]))) == 62  # too few to do harm
    with_zeros = X.copy()
    with_zeros[:, 0] = 0.0
    if d > 1:
        assert found(np.concatenate((with_zeros, with_zeros * [-1.0] + 0))) == 120
        assert found(np.concatenate((with_zeros, with_zeros * ([-1.0] + [1.0] * (d - 1))))) == 60


def test_rows_of_few_values_are_no_copies():
    rng = np.random.default_rng(0)
    categories = np.hstack([np.eye(k)[rng.integers(k, size=500)] for k in (3, 4)])
    for X in (
        categories, rng.poisson(3, (500, 3)), rng.integers(0, 10, (1000, 4)),
        rng.integers(0, 60, (1000, 2)), np.zeros((50, 3)),
    ):  # fmt: skip
        assert len(np.unique(X, axis=0)) < len(X)
        assert found(X.astype(np.float64)) == len(X)


def test_copies_belong_to_one_class():
    X = np.random.default_rng(0).normal(size=(40, 3))
    both = np.concatenate((X, X))
    codes = np.repeat([0, 1], 40)
    assert found(both, codes) == 80
    assert found(both, np.repeat([0, -1], 40)) == 80  # known anomalies
    assert found(np.concatenate((both, X)), np.append(codes, np.repeat(1, 40))) == 80
    unread = np.full((4, 3), np.nan)
    assert copies_of_pictures(unread, np.zeros(4, dtype=np.int64)) is None


@pytest.mark.parametrize("n_classes", [1, 2])
def test_a_threshold_holds_where_samples_were_drawn_again(n_classes):
    rng = np.random.default_rng(1)
    X = np.concatenate([oversampled(rng, 60, 180) + 9 * k for k in range(n_classes)])
    y = np.repeat(["bolt", "nut"][:n_classes], 240)
    with pytest.warns(
        UserWarning, match=f"180 of 240 normals of class 'bolt' {_TEXT}, as X"
    ) as told:
        detector = HGADDetector(random_state=0).fit(X, y)
    assert any("groups=range(len(X))" in str(one.message) for one in told)
    fresh = np.concatenate([rng.normal(size=(1000, 6)) + 9 * k for k in range(n_classes)])
    assert np.mean(detector.predict(fresh) < 0) < 0.12  # before: 0.6 and more
    assert {one.n_normals for one in detector.certificate()} == {60}


def test_independent_samples_that_are_equal_are_told_by_groups():
    X = np.tile(np.random.default_rng(0).normal(size=(40, 3)), (2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = HGADDetector(random_state=0).fit(X, groups=range(80))
    assert detector.certificate()[0].n_normals == 80


def test_copies_of_pictures_are_one_part():
    X, _ = parts_of_pictures(20, 1)
    twice = np.concatenate((X, X))
    with pytest.warns(UserWarning, match=f"20 of 40 normals of class 0 {_TEXT}, as .*20.* is of"):
        detector = image_detector().fit(twice)
    assert detector.certificate()[0].n_normals == 20
    with pytest.warns(UserWarning, match=f"class 'lid' {_TEXT}"):
        detector = image_detector().fit(X, ["nut"] * 20).add_class(twice, "lid")
    assert sum(one.n_normals for one in detector.certificate()) == 40


def test_copies_in_a_class_that_is_added_are_one_part():
    rng = np.random.default_rng(0)
    detector = HGADDetector(random_state=0).fit(rng.normal(size=(60, 6)), ["bolt"] * 60)
    with pytest.warns(UserWarning, match=f"class 'nut' {_TEXT}"):
        detector.add_class(oversampled(rng, 60, 180) + 9, "nut")
    assert detector.certificate()[1].n_normals == 60
    fresh = rng.normal(size=(1000, 6)) + 9
    assert np.mean(detector.predict(fresh, class_labels="nut") < 0) < 0.12


@pytest.mark.parametrize("n_classes", [1, 2])
def test_an_update_leaves_known_vectors_out(n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60 * n_classes, 6))
    y = ["bolt", "nut"][:n_classes] * 60
    detector = HGADDetector(random_state=0).fit(X, y)
    table, new = X[::n_classes], rng.normal(size=(20, 6))
    with pytest.warns(UserWarning, match=r"60 of 80 samples, such as X\[0\], are left out"):
        detector.update(np.concatenate((table, new)), "bolt")
    other = HGADDetector(random_state=0).fit(X, y).update(new, "bolt")
    np.testing.assert_array_equal(detector.score_samples(X), other.score_samples(X))
    with (
        pytest.warns(UserWarning, match="are left out"),
        pytest.raises(ValueError, match="new normal samples: the model knows all"),
    ):
        detector.update(table, "bolt")
