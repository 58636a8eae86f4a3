"""Anomalies among the vectors to fit, of a share that the user names by `contamination`."""

import numpy as np
import pytest
from backbones import two_levels
from sklearn.metrics import roc_auc_score
from small_pictures import draw

from skhgad import HGADDetector
from skhgad.fitting.unclean import most_isolated

N = 180


def unclean(seed=0, n_anomalies=20):
    """Normals of two dimensions in a space of eight, then a group of anomalies off it."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(4, 8))
    normal = rng.normal(size=(N, 4)) @ mixing + 0.3 * rng.normal(size=(N, 8))
    anomalies = np.full(8, 4.0) * [1, -1, 1, -1, 1, -1, 1, -1] + rng.normal(size=(n_anomalies, 8))
    return np.concatenate([normal, anomalies]), np.repeat([1, -1], [N, n_anomalies])


def found(contamination, seed=0):
    X, y = unclean(seed)
    fresh, is_normal = unclean(seed + 1)
    detector = HGADDetector(contamination=contamination, random_state=0).fit(X)
    return roc_auc_score(y, detector.score_samples(X)), roc_auc_score(
        is_normal, detector.score_samples(fresh)
    )


def test_a_group_of_anomalies_does_not_become_normal():
    # Which few of the group stay in the fit depends on the trees of the forest.
    assert np.mean([found(0.1, seed) for seed in range(3)]) > 0.97
    assert max(found("auto")) < 0.97  # they would be part of the mixture


def test_the_share_is_that_of_all_training_samples():
    X, y = unclean()
    verdicts = HGADDetector(contamination=0.1, random_state=0).fit_predict(X)
    assert (verdicts == -1).sum() == 20
    assert (verdicts[y == -1] == -1).mean() > 0.8


def test_what_is_left_out_depends_on_no_order_and_no_unit():
    X, y = unclean()
    codes = (np.arange(len(X)) % 2).astype(np.int64)
    left_out = most_isolated(X, codes, 0.2, 0)
    assert [left_out[codes == code].sum() for code in (0, 1)] == [20, 20]
    assert left_out[y == -1].mean() > 0.9
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_array_equal(most_isolated(X[order], codes[order], 0.2, 0), left_out[order])
    moved = 1e60 * X + 1e66  # float32, which trees see, holds neither
    assert (most_isolated(moved, codes, 0.2, 0) == left_out).mean() > 0.97
    assert not most_isolated(X, codes, 0.0, 0).any()


def test_small_classes_keep_all_and_others_half():
    X = np.random.default_rng(0).normal(size=(11, 3))
    codes = np.repeat([0, 1], [4, 7])
    assert np.bincount(codes[most_isolated(X, codes, 0.5, 0)], minlength=2).tolist() == [0, 3]
    X, y, _ = pictures(7, 1)
    X, y = X[3:], y[3:]
    detector = of_pictures(contamination=0.5).fit(X, y)  # four stripes, which no model leaves out
    assert detector.model_.model.levels[0].densities.n_vectors.tolist() == [4 * 16, 4 * 16]


@pytest.mark.once
def test_p_values_promise_no_less_where_no_sample_is_an_anomaly():
    rng, shares = np.random.default_rng(3), []
    for _ in range(4):
        detector = HGADDetector(contamination=0.1, random_state=0).fit(rng.normal(size=(400, 4)))
        fresh = rng.normal(size=(2000, 4))
        shares.append(
            ((detector.p_values(fresh) <= 0.05).mean(), (detector.predict(fresh) < 0).mean())
        )
    p_values, flagged = np.mean(shares, axis=0)
    assert p_values < 0.065  # 0.2 of the samples took no part in the fit
    assert 0.08 < flagged < 0.14


@pytest.mark.once
def test_update_leaves_out_as_fit_does():
    X, _ = unclean()
    more = unclean(2, 0)[0]
    updated = HGADDetector(contamination=0.1, random_state=0).fit(X).update(more)
    whole = HGADDetector(contamination=0.1, random_state=0).fit(np.concatenate([X, more]))
    np.testing.assert_allclose(updated.score_samples(X), whole.score_samples(X))
    assert updated.offset_ == pytest.approx(whole.offset_)
    chosen = HGADDetector(contamination=0.1, random_state=0).fit(X)
    chosen.offset_ = offset = -1.25
    assert chosen.update(more).offset_ == offset


@pytest.mark.once
def test_update_of_one_of_two_classes_keeps_the_scale_of_its_scores():
    X, _ = unclean()
    both = np.concatenate([X, X + 50])
    y = np.repeat(["bolt", "nut"], len(X))
    parameters = {"contamination": 0.1, "validation_fraction": 0.2, "random_state": 0}
    detector = HGADDetector(**parameters).fit(both, y)
    fresh = unclean(1, 0)[0]
    before = detector.score_samples(fresh, class_labels="bolt")
    detector.update(unclean(2, 0)[0], "bolt")
    after = detector.score_samples(fresh, class_labels="bolt")
    spread = np.percentile(after, 90) - np.percentile(after, 10)
    assert spread == pytest.approx(np.percentile(before, 90) - np.percentile(before, 10), rel=0.25)
    anomalies = X[N:]
    assert detector.score_samples(anomalies, class_labels="bolt").max() < np.percentile(after, 5)


def test_centers_are_so_few_that_anomalies_have_none():
    rng = np.random.default_rng(0)
    turns = rng.uniform(0, 2 * np.pi, 400)
    ring = 5 * np.stack([np.cos(turns), np.sin(turns)], 1) + 0.2 * rng.normal(size=(400, 2))
    counts = [
        HGADDetector(contamination=share, random_state=0).fit(ring).n_components_.item()
        for share in ("auto", 0.01)
    ]
    assert counts[0] > 10
    assert counts[1] == 4


@pytest.mark.once
def test_asked_for_centers_stay_and_discovered_classes_lose_no_sample():
    X, _ = unclean()
    detector = HGADDetector(contamination=0.1, n_components=6, random_state=0).fit(X)
    assert detector.n_components_.tolist() == [[6]]
    products = np.concatenate([X[:N], X[:12] + 40])
    detector = HGADDetector(contamination=0.05, n_classes=2, random_state=0).fit(products)
    assert sorted(np.bincount(detector.predict_class(products)).tolist()) == [12, N]


def pictures(n, n_defects, seed=0):
    """Stripes and checks, n of each, of which the last have a defect."""
    rng = np.random.default_rng(seed)
    y = np.repeat(["stripe", "check"], n)
    is_defect = np.tile(np.arange(n) >= n - n_defects, 2)
    X = [draw(rng, product, defect=bad) for product, bad in zip(y, is_defect, strict=True)]
    return np.stack(X), y, is_defect


def of_pictures(**parameters):
    return HGADDetector(
        two_levels(), out_indices=(0, 1), image_size=32, random_state=0, **parameters
    )


@pytest.mark.parametrize(
    "parameters", [{}, {"resize": "pad"}, {"validation_fraction": 0.2}], ids=str
)
@pytest.mark.once
def test_pictures_with_defects_take_no_part_in_the_fit(parameters):
    X, y, is_defect = pictures(40, 4)
    detector = of_pictures(contamination=0.1, **parameters).fit(X, y)
    clean = of_pictures(**parameters).fit(X[~is_defect], y[~is_defect])
    unclean = of_pictures(**parameters).fit(X, y)
    assert (detector.predict(X) == -1).sum() == 8
    fresh = pictures(40, 20, seed=1)[0]
    gap = [d.score_samples(X[is_defect]).mean() for d in (clean, detector, unclean)]
    assert gap[0] < 3 * gap[2]
    assert gap[1] < 3 * gap[2]
    calibration = detector.model_.calibration
    n_calibrating = len(unclean.model_.calibration.codes)
    assert abs(len(calibration.codes) - n_calibrating) <= 2
    assert np.isfinite(calibration.scores).all()
    scores = detector.score_samples(fresh, class_labels=y)
    detector.update(pictures(20, 0, seed=2)[0][:20], "stripe")
    after = detector.score_samples(fresh, class_labels=y)
    np.testing.assert_array_equal(after[y == "check"], scores[y == "check"])
    ratio = np.ptp(after[y == "stripe"]) / np.ptp(scores[y == "stripe"])
    assert 0.5 < ratio < 2


def test_a_fit_says_how_many_samples_it_leaves_out(capsys):
    X, _ = unclean()
    HGADDetector(contamination=0.1, random_state=0, verbose=1).fit(X)
    assert "40 samples that look most anomalous take no part" in capsys.readouterr().out
