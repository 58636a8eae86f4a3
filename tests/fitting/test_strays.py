"""Defects among unlabelled normal samples: they make no class, and the fit does without them."""

import numpy as np
import pytest
import torch
from backbones import two_levels
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from small_pictures import fine_products

from skhgad import HGADDetector
from skhgad.fitting.feature_cache import FeatureCache
from skhgad.fitting.processes import Processes
from skhgad.fitting.strays import far_from_class, in_small_class, is_scattered

LEFT_OUT = "normal samples take no part in the fit"


def products(n_each=60, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(3), n_each)
    centers = 9 * np.eye(3, n_features)
    return centers[y] + rng.normal(size=(len(y), n_features)), y


def defects(kind, n, seed=1):
    rng = np.random.default_rng(seed)
    if kind == "scattered":
        return 40 * rng.normal(size=(n, 6))
    return np.full(6, {"near group": -6.0, "far group": 60.0}[kind]) + 0.7 * rng.normal(size=(n, 6))


@pytest.mark.once
@pytest.mark.parametrize(
    ("kind", "share"), [("scattered", 0.05), ("near group", 0.05), ("far group", 0.02)]
)
def test_defects_among_the_normals_do_not_hide_others(kind, share):
    normal, y = products()
    n = round(share * len(normal))
    X = np.concatenate((defects(kind, n), normal))
    with pytest.warns(UserWarning, match=rf"^{n} of {len(X)} {LEFT_OUT}.*: X\[0\], X\[1\]"):
        detector = HGADDetector(n_classes="discover", random_state=0).fit(X)
    assert len(detector.classes_) == 3
    assert adjusted_rand_score(y, detector.predict_class(normal)) == 1
    fresh = np.concatenate((products(seed=2)[0], defects(kind, 40, seed=3)))
    is_defect = np.arange(len(fresh)) >= len(normal)
    assert roc_auc_score(~is_defect, detector.score_samples(fresh)) > 0.99
    assert (detector.predict(fresh[is_defect]) == -1).mean() > 0.95
    assert (detector.predict(fresh[~is_defect]) == -1).mean() < 0.15


@pytest.mark.once
def test_what_is_left_out_changes_nothing_else():
    normal, _ = products(20)
    with pytest.warns(UserWarning, match=LEFT_OUT):
        detector = HGADDetector(n_classes=3, random_state=0).fit(
            np.concatenate((normal, defects("scattered", 2)))
        )
    alone = HGADDetector(n_classes=3, random_state=0).fit(normal)
    np.testing.assert_allclose(detector.score_samples(normal), alone.score_samples(normal))
    assert detector.offset_ == pytest.approx(alone.offset_)
    detector.update(normal[:20] + 0.01, [detector.predict_class(normal[:1])[0]] * 20)  # kept alike


@pytest.mark.once
def test_a_group_of_a_tenth_is_a_class_and_named():
    normal, _ = products()
    X = np.concatenate((normal, defects("near group", 20)))
    with pytest.warns(
        UserWarning, match=r"class 3 has 20 of 200 samples, X\[180\], X\[181\], .*: much"
    ):
        detector = HGADDetector(n_classes="discover", random_state=0).fit(X)
    assert len(detector.classes_) == 4


@pytest.mark.once
@pytest.mark.parametrize("tile_size", [None, 20])
def test_pictures_seen_in_parts_are_left_out_whole(tile_size):
    pictures, _ = fine_products(42)
    pictures[[3, 30]] = 255
    region = np.arange(32) * np.ones((32, 1)) < 24

    def fitted(pictures):
        return HGADDetector(
            two_levels(), out_indices=(0, 1), image_size=32, n_classes=2, max_iter=0,
            n_components=1, tile_size=tile_size, random_state=0,
        ).fit(pictures, roi=region)  # fmt: skip

    with pytest.warns(UserWarning, match=rf"^2 of 42 {LEFT_OUT}.*: X\[3\], X\[30\]\."):
        detector = fitted(pictures)
    alone = fitted(np.delete(pictures, [3, 30], axis=0))
    np.testing.assert_allclose(
        detector.score_samples(pictures), alone.score_samples(pictures), rtol=1e-5
    )
    assert detector.offset_ == pytest.approx(alone.offset_, rel=1e-5)


@pytest.mark.parametrize("n_features", [1, 3, 20])
def test_classes_without_defects_are_whole(n_features):
    rng = np.random.default_rng(0)
    one = np.zeros(300, dtype=int)
    along = rng.uniform(size=(300, 1)) * np.ones(n_features)
    for points in (rng.uniform(size=(300, n_features)), along, np.round(3 * along)):
        assert not far_from_class(points, one).any()
        assert not is_scattered(points).any()
    normal = rng.normal(size=(300, n_features))
    assert far_from_class(normal, one).mean() <= 0.01
    for few in (normal[:5], normal[:1]):
        assert not far_from_class(few, one[: len(few)]).any() and not is_scattered(few).any()
    assert not far_from_class(np.ones((50, n_features)), one[:50]).any()


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_one_defect_near_a_class_are_left_out(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(306, 8))
    direction = rng.normal(size=8)
    points[:6] = 5 * direction / np.linalg.norm(direction) + 0.1 * rng.normal(size=(6, 8))
    found = far_from_class(points, np.zeros(306, dtype=int))
    assert found[:6].all() and not found[6:].any()
    points[:6] = points[6] + 0.1 * rng.normal(size=(6, 8))  # copies of a usual sample
    assert not far_from_class(points, np.zeros(306, dtype=int)).any()


def test_points_of_unlike_dense_classes_are_not_scattered():
    rng = np.random.default_rng(0)
    points = np.concatenate([10.0**k * (5 + rng.normal(size=(40, 4))) for k in range(3)])
    assert is_scattered(points).mean() < 0.03
    assert is_scattered(np.concatenate((points, [[3e4] * 4])))[-1]


def test_only_classes_small_in_both_ways_are_left_out():
    def left_out(*sizes):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        return np.unique(labels[in_small_class(labels, np.ones(len(labels), bool))]).tolist()

    assert left_out(100, 100, 100, 20) == [3]
    assert left_out(100, 100, 100, 26) == []
    assert left_out(100, 15) == []
    assert left_out(8) == []


@pytest.mark.parametrize("size", [1, 2, 3])
def test_some_rows_of_a_cache_are_read_by_the_processes_that_hold_them(size):
    x = np.arange(11.0)[:, None, None]
    kept = np.array([1, 2, 5, 8, 9])
    seen = []
    for rank in range(size):
        processes = Processes(rank, size)
        cache = FeatureCache(len(x), [(1, 1)], np.float64, 1 << 20, processes, has_inside=True)
        own = processes.own(np.arange(len(x)))
        cache.write(0, [torch.from_numpy(x[own])], [torch.from_numpy(x[own, :, 0] > 4)])
        some = cache.of_rows(kept).of_rows(np.array([0, 1, 3, 4]))
        assert len(some) == 4
        assert some.processes.everyone is processes
        rows = some.processes.own(np.arange(4))
        values = some.read(0, rows)[:, 0, 0].numpy()
        np.testing.assert_array_equal(some.read_inside(0, rows)[:, 0], values > 4)
        seen += list(zip(rows.tolist(), values.tolist(), strict=True))
    assert sorted(seen) == [(0, 1.0), (1, 2.0), (2, 8.0), (3, 9.0)]
