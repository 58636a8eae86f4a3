"""Peers at several image scales: calibrated by class on left-out normals, then summed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_benchmarks import features_of

from benchmarks import _scales
from benchmarks._features import Features
from benchmarks.peers import Mahalanobis, scores_and_maps

pytestmark = pytest.mark.usefixtures("one_thread")
CODES = np.repeat([0, 1], 15)


@pytest.fixture
def bench():
    """Two classes at two scales of two levels; the units of the scales differ by far."""
    rng = np.random.default_rng(0)
    parts = []
    for n in (30, 30):
        levels = [
            (1 + 4 * CODES[:, None, None, None]) * rng.normal(size=(n, 2 * side, 2 * side, 3))
            for side in (2, 1, 3, 2)
        ]
        parts.append(levels)
    train, test = (
        features_of(*(level.astype(np.float32) for level in levels), map_size=(6, 6))
        for levels in parts
    )
    two = [
        Features(f.cache, f.shapes, f.map_size, 0.0, f.device, n_scales=2) for f in (train, test)
    ]
    part = SimpleNamespace(
        class_train=CODES, class_test=CODES, classes=np.arange(2), is_images=True,
        codes=lambda labels: labels,
    )  # fmt: skip

    def record(seed, scores, maps, **more):
        return {"seed": seed, "scores": scores, "maps": maps, **more}

    return SimpleNamespace(part=part, train=two[0], test=two[1], record=record)


def test_a_scale_has_its_own_levels(bench):
    first, second = (bench.train.of_scale(index) for index in range(2))
    assert [shape[1] for shape in first.shapes + second.shapes] == [4, 2, 6, 4]
    (_, levels), *_ = second.blocks(np.arange(3))
    np.testing.assert_array_equal(levels[0], bench.train.cache.read(2, np.arange(3)))


def test_scores_are_sums_of_calibrated_peaks_and_maps_have_them(bench):
    found = _scales.run_scales_summed(bench, "mahalanobis", 0)
    np.testing.assert_allclose(-found["maps"].amax((1, 2)), found["scores"], rtol=1e-4, atol=1e-4)
    expected = np.zeros(30)
    for code in range(2):
        rows = np.flatnonzero(CODES == code)
        for index in range(2):
            train, test = (f.of_scale(index) for f in (bench.train, bench.test))
            held_out = _scales._left_out_peaks("mahalanobis", True, train, rows, 0)
            peer = Mahalanobis().fit(train, rows, 0)
            peaks = -scores_and_maps(peer, test, rows)[0]
            expected[rows] += (peaks - np.median(held_out)) / held_out.std()
        # Another measure of spread, and one scale for both classes: the order stays much the same.
        assert np.corrcoef(expected[rows], -found["scores"][rows])[0, 1] > 0.9
    medians = [np.median(found["scores"][CODES == code]) for code in range(2)]
    assert abs(medians[0] - medians[1]) < 1.5


def test_normals_are_judged_by_peers_without_them(bench, monkeypatch):
    seen = []

    class Noted(Mahalanobis):
        def fit(self, features, rows, seed):
            seen.append(set(rows.tolist()))
            return super().fit(features, rows, seed)

        def maps(self, features, rows):
            assert not seen[-1] & set(rows.tolist())
            return super().maps(features, rows)

    monkeypatch.setattr(_scales, "make_peer", lambda *_: Noted())
    rows = np.arange(15)
    peaks = _scales._left_out_peaks("mahalanobis", True, bench.train.of_scale(0), rows, 0)
    assert len(seen) == 5 and np.isfinite(peaks).all()


def test_about_one_in_twenty_normals_is_flagged(bench):
    found = _scales.run_scales_summed(bench, "mahalanobis", 0)
    assert (found["scores"] < found["offset"]).mean() < 0.25  # of 30; 0.05 is meant


def test_one_scale_is_calibrated_by_class(bench):
    bench.train, bench.test = (f.of_scale(0) for f in (bench.train, bench.test))
    scores = _scales.run_scales_summed(bench, "mahalanobis", 0)["scores"]
    plain = np.empty(30)
    for code in range(2):
        rows = np.flatnonzero(CODES == code)
        peer = Mahalanobis().fit(bench.train, rows, 0)
        plain[rows] = scores_and_maps(peer, bench.test, rows)[0]
        np.testing.assert_array_equal(scores[rows].argsort(), plain[rows].argsort())
    assert isinstance(bench.train.device, torch.device)
