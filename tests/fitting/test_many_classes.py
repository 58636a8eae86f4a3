"""Models of many classes: fewer features where pictures are few, and shorter kept vectors."""

import copy

import numpy as np
import pytest
import torch
from backbones import RandomFilters

from skhgad import HGADDetector
from skhgad.fitting import many_classes
from skhgad.fitting.many_classes import (
    type_of_vectors,
    vectors_of_a_class,
    with_fewer_features,
)


@pytest.mark.parametrize(
    ("n_pictures", "n_classes", "most", "expected"),
    [
        (960, 4, 640, 640),
        (20 * 60, 60, 640, 632),  # the root of 24e6 / 60
        (20 * 500, 500, 640, 219),
        (40 * 500, 500, 640, 219),
        (60 * 500, 500, 640, 300),  # five a picture
        (240 * 500, 500, 640, 640),
        (5 * 5000, 5000, 640, 192),
        (20 * 500, 500, 100, 100),
        (20 * 500, 500, None, None),
    ],
)
def test_many_classes_of_few_pictures_have_fewer_features(n_pictures, n_classes, most, expected):
    parameters = {"max_features": most, "other": 1}
    found = with_fewer_features(parameters, n_pictures, n_classes)
    assert found == {"max_features": expected, "other": 1} and parameters["max_features"] == most


def test_kept_vectors_have_one_byte_where_classes_are_many():
    assert type_of_vectors(3000, 83) == torch.int16
    assert type_of_vectors(3000, 84) == type_of_vectors(800, 313) == torch.int8


def test_many_classes_share_the_kept_vectors_of_a_level():
    assert [vectors_of_a_class(3000, n) for n in (1, 166, 167, 500)] == [3000, 3000, 2994, 1000]
    assert vectors_of_a_class(0, 500) == 0 and vectors_of_a_class(3000, 10**6) == 1


def pictures(n, kind, seed):
    """Return n noisy pictures of a product, uint8 (n, 32, 32, 3)."""
    base = np.random.default_rng(kind).integers(60, 200, (1, 32, 32, 3))
    noise = np.random.default_rng(seed).normal(0, 12, (n, 32, 32, 3))
    return (base + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted():
    """Three classes, which are taken for many."""
    X = np.concatenate([pictures(10, kind, kind) for kind in range(3)])
    limits = {"_MATRIX_BYTES": 600, "_FEATURES_OF_A_PICTURE": 1, "_LEAST_FEATURES": 4}
    limits["_MOST_VECTORS"] = 3 * 50
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(many_classes, name, value)
        detector = HGADDetector(RandomFilters((12, 4), (16, 2)), image_size=32, random_state=0)
        return detector.fit(X, np.repeat(["a", "b", "c"], 10))


def test_such_a_model_is_saved_changed_and_scores(fitted, tmp_path):
    X = np.concatenate([pictures(6, 0, 50), pictures(6, 1, 51)])
    X[::2, 8:16, 8:16] = 255
    (level,) = fitted.model_.model.levels
    assert level.n_features == 20 and level.nearest.vectors.dtype == torch.int8
    assert level.nearest.counts.tolist() == [50, 50, 50]
    scores = fitted.score_samples(X)
    assert scores[::2].max() < scores[1::2].min()
    fitted.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=RandomFilters((12, 4), (16, 2)))
    np.testing.assert_array_equal(loaded.score_samples(X), scores)
    loaded.add_class(pictures(10, 3, 3), "d").update(pictures(5, 3, 4), "d")
    np.testing.assert_array_equal(loaded.score_samples(X), scores)
    more = np.concatenate([pictures(6, 3, 60), pictures(6, 4, 61)])
    scores = loaded.score_samples(more)
    assert scores[6:].max() < scores[:6].min()
    (level,) = loaded.model_.model.levels
    assert level.nearest.vectors.dtype == torch.int8 and level.nearest.counts[3] > 0


def test_an_update_shares_them_too_and_drops_none(fitted, monkeypatch):
    def counts(most):
        monkeypatch.setattr(many_classes, "_MOST_VECTORS", most)
        updated = copy.deepcopy(fitted).update(pictures(10, 0, 9), "a")
        return updated.model_.model.levels[0].nearest.counts.tolist()

    assert counts(3 * 50) == counts(3 * 20) == [50, 50, 50]
    assert counts(3 * 60) == [60, 50, 50]
