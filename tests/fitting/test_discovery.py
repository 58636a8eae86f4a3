"""Discovery: products are told apart, counted, and one product stays one."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, make_blobs
from sklearn.metrics import adjusted_rand_score

from skhgad.fitting import discovery
from skhgad.fitting.discovery import (
    cluster,
    count_clusters,
    discover_classes,
    embed,
    level_means,
    ward_cuts,
)
from skhgad.fitting.feature_cache import FeatureCache
from skhgad.fitting.samples import LabelledSamples


def samples_of(*levels):
    """Unlabelled samples of arrays (n, n_positions, n_features), one a level."""
    n = len(levels[0])
    cache = FeatureCache(n, [x.shape[1:] for x in levels], np.float64, 1 << 30)
    cache.write(0, [torch.from_numpy(x) for x in levels])
    return LabelledSamples(cache, np.arange(n), np.zeros(n, dtype=np.int64), 1)


def discover(X, n_classes, seed=0):
    """Classes of the vectors X."""
    return discover_classes(samples_of(X[:, None]), n_classes, np.random.RandomState(seed))


def products(n_classes, n_each, n_features=16, seed=0):
    """Vectors of well separated products of unlike sizes and spreads, and their labels."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(n_each // 2, 2 * n_each, n_classes)
    centers = 12 * rng.normal(size=(n_classes, n_features)) / np.sqrt(n_features)
    y = np.repeat(np.arange(n_classes), sizes)
    spread = rng.uniform(0.3, 1, n_classes)[y, None]
    return centers[y] + spread * rng.normal(size=(len(y), n_features)), y


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 3, 7, 15, 30])
def test_finds_the_number_and_the_classes(n_classes):
    X, y = products(n_classes, 30)
    found = discover(X, "discover")
    assert found.max() + 1 == n_classes
    assert adjusted_rand_score(y, found) > 0.98


@pytest.mark.parametrize("kind", ["normal", "uniform", "student", "lognormal", "line"])
def test_one_product_is_one_class(kind):
    rng = np.random.default_rng(0)
    X = {
        "normal": rng.normal(size=(200, 20)),
        "uniform": rng.uniform(size=(200, 4)),
        "student": rng.standard_t(3, size=(200, 10)),
        "lognormal": rng.lognormal(size=(200, 20)),
        "line": rng.uniform(size=(200, 1)) * np.ones(8) + 0.01 * rng.normal(size=(200, 8)),
    }[kind]
    found = discover(X, "discover")
    assert found.max() == 0
    assert (found < 0).mean() <= (0.01 if kind in ("student", "lognormal") else 0)


def test_halves_of_a_small_class_are_no_classes():
    X, y = load_iris(return_X_y=True)
    for seed in range(3):  # without `separation`: 3, 4 and 3 classes
        rows = np.random.default_rng(seed).permutation(np.flatnonzero(y < 2))[:50]
        assert discover(X[rows], "discover").max() + 1 == 2


@pytest.mark.parametrize("n_classes", [3, "discover"])
def test_strays_are_no_classes(n_classes):
    X, y = products(3, 60)
    rng = np.random.default_rng(1)
    strays = 40 * rng.normal(size=(6, X.shape[1]))
    found = discover(np.concatenate((strays, X)), n_classes)
    assert found.max() + 1 == 3
    assert adjusted_rand_score(y, found[6:]) == 1


def test_scale_and_shift_of_the_features_do_not_matter():
    X, _ = products(5, 30)
    expected = discover(X, "discover")
    np.testing.assert_array_equal(discover(1e-6 * X - 3, "discover"), expected)
    np.testing.assert_array_equal(discover(1e9 * X + 1e9, "discover"), expected)


def test_classes_are_numbered_in_the_order_of_their_first_sample():
    X, y = make_blobs([4] * 6, 3, center_box=(-50, 50), shuffle=True, random_state=0)
    found = discover(X, 6)
    assert adjusted_rand_score(y, found) == 1
    _, first = np.unique(found, return_index=True)
    assert (np.diff(first) > 0).all()


def test_few_samples_are_one_class_unless_a_number_is_given():
    X = np.repeat([[0.0], [9.0]], 4, axis=0)
    assert not discover(X, "discover").any()
    assert discover(X, 2).tolist() == [0] * 4 + [1] * 4
    assert discover(X[:1], "discover").tolist() == [0]
    assert not discover(np.ones((50, 3)), "discover").any()


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_a_given_number_is_kept_where_distances_tie(n_classes):
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert discover(corners, n_classes).max() + 1 == n_classes


def test_fewer_distinct_samples_than_classes_are_refused():
    X = np.repeat([[0.0, 1.0], [2.0, 3.0]], 5, axis=0)
    with pytest.raises(ValueError, match="n_classes=3, but X has only 2 distinct normal samples"):
        discover(X, 3)


def test_levels_count_alike_whatever_their_scale():
    rng = np.random.default_rng(0)
    y = np.arange(80) % 4
    coarse = (y // 2)[:, None, None] * 8.0 + rng.normal(size=(80, 4, 6))
    fine = 1e-4 * ((y % 2)[:, None, None] * 8.0 + rng.normal(size=(80, 9, 3)))
    embedding = embed(level_means(samples_of(coarse, fine)))
    assert embedding.shape == (80, 9)
    np.testing.assert_allclose(embedding.mean(0), 0, atol=1e-9)
    variances = embedding.var(0)
    assert variances[:6].mean() == pytest.approx(1) == variances[6:].mean()
    found = discover_classes(samples_of(coarse, fine), "discover", np.random.RandomState(0))
    assert adjusted_rand_score(y, found) == 1


def test_past_the_size_of_a_tree_the_rest_joins_the_nearest_class(monkeypatch):
    X, y = products(4, 100)
    monkeypatch.setattr(discovery, "_MOST_POINTS", 120)
    assert adjusted_rand_score(y, discover(X, "discover")) == 1


def test_cuts_are_of_every_number_and_of_enough_points():
    X, _ = products(6, 20)
    cuts = ward_cuts(X, 9, 5)
    assert [len(np.unique(labels)) for labels in cuts] == list(range(1, 10))
    assert all(np.bincount(labels).min() >= 5 for labels in cuts)


def test_the_count_follows_the_random_state_only():
    X, _ = products(8, 15, n_features=4, seed=3)
    counts = [count_clusters(X, np.random.RandomState(1)) for _ in range(2)]
    assert counts[0] == counts[1]
    np.testing.assert_array_equal(cluster(X, 5), cluster(X, 5))
