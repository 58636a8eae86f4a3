"""A warning where samples given one after the other look like repeats of the same parts."""

import warnings

import numpy as np
import pytest
from test_groups import image_detector, parts_of_pictures, parts_of_vectors

from skhgad import HGADDetector
from skhgad.fitting import repeats
from skhgad.fitting.repeats import find_repeats

_TEXT = "as if parts were repeated"


def found(X, codes=None):
    return find_repeats(X, np.zeros(len(X), dtype=np.int64) if codes is None else codes)


@pytest.mark.parametrize(("n_parts", "n_each"), [(50, 2), (40, 5), (20, 10), (20, 16)])
def test_repeats_are_found(n_parts, n_each):
    X, groups = parts_of_vectors(n_parts, n_each, within=0.1)
    (one,) = found(X)
    assert (one.code, one.n_samples) == (0, len(X))
    assert one.share > 0.5 > 3 * one.chance
    order = np.random.default_rng(0).permutation(len(X))
    assert not found(X[order])
    assert not found(parts_of_vectors(len(X), 1)[0])


def test_of_a_large_class_the_first_samples_tell(monkeypatch):
    monkeypatch.setattr(repeats, "_MOST_COMPARED", 100)
    X, _ = parts_of_vectors(50, 4, within=0.1)
    (one,) = found(X)
    assert (one.n_samples, one.chance) == (200, 2 * one.width / 99)


def test_the_class_is_named():
    X, _ = parts_of_vectors(30, 4, within=0.1)
    others, _ = parts_of_vectors(120, 1, seed=1)
    both = np.stack((others, X), 1).reshape(-1, 6)  # one of each in turn
    with pytest.warns(UserWarning, match="of 120 normals of class 'nut' [0-9]+ %") as caught:
        HGADDetector(random_state=0).fit(both, ["bolt", "nut"] * 120)
    (text,) = [str(one.message) for one in caught if _TEXT in str(one.message)]
    assert "bolt" not in text
    assert "Say which samples belong together with fit(..., groups=)" in text


def test_a_class_that_is_added_is_named():
    X, groups = parts_of_vectors(30, 4, within=0.1)
    detector = HGADDetector(random_state=0).fit(parts_of_vectors(60, 1)[0], ["nut"] * 60)
    with pytest.warns(UserWarning, match=r"class 'bolt' [0-9]+ % .*add_class\(\.\.\., groups=\)"):
        detector.add_class(X + 9, "bolt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.add_class(X + 18, "lid", groups=groups)


@pytest.mark.parametrize("n_classes", [1, 2])  # all vectors fitted anew, and new ones counted in
def test_an_update_is_warned_of(n_classes):
    X, groups = parts_of_vectors(30, 4, within=0.1)
    known, _ = parts_of_vectors(60 * n_classes, 1, seed=1)
    y = ["bolt", "nut"][-n_classes:] * 60
    detector = HGADDetector(random_state=0).fit(known, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.update(X, "nut", groups=groups)
        detector.update(parts_of_vectors(60, 1, seed=2)[0], "nut")
    with pytest.warns(UserWarning, match=r"120 normals of class 'nut' .*update\(\.\.\., groups=\)"):
        detector.update(X + 1e-3, "nut")


def test_an_update_of_pictures_is_warned_of():
    detector = image_detector(validation_fraction=0.5).fit(parts_of_pictures(40, 1, seed=1)[0])
    with pytest.warns(UserWarning, match="of 45 normals of class 0 [0-9]+ %"):
        detector.update(parts_of_pictures(15, 3)[0])


def test_with_groups_nobody_is_warned():
    X, groups = parts_of_vectors(30, 4, within=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HGADDetector(random_state=0).fit(X, groups=groups)


def test_pictures():
    X, _ = parts_of_pictures(15, 3)
    with pytest.warns(UserWarning, match="of 45 normals of class 0 [0-9]+ %"):
        image_detector(validation_fraction=0.5).fit(X)


@pytest.mark.parametrize("n", [6, 10, 30, 300])
@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_independent_samples_are_not_found(n, n_features):
    rng = np.random.default_rng(n * n_features)
    for _ in range(20):
        X = rng.normal(size=(n, n_features))
        assert not found(X)
        assert not found(np.round(X))
        order = np.lexsort(X.T)
        assert not found(X[order])  # sorted by a feature
        assert not found(np.round(X)[order])
        assert not found(np.repeat(X, 2, axis=0))  # equal samples


@pytest.mark.parametrize("X", [np.zeros((30, 3)), np.zeros((1, 2)), np.arange(60.0)[:, None]])
def test_nothing_to_compare(X):
    assert found(X) == []
