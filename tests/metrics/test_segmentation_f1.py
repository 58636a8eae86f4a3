"""Pixel F1 at the threshold of validation normals, against scikit-learn and by hand."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score, precision_score, recall_score

from skhgad.metrics import SegF1Metrics


def maps(seed, n, shift=0.0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, 20, 20), dtype=bool)
    masks[n // 2 :, 3:9, 4:8] = True
    return masks, rng.normal(shift, 1, masks.shape) + 4 * masks


def test_f1_is_sklearns_at_mean_plus_three_deviations():
    metrics, validation, test = SegF1Metrics(), {}, {}
    for seed, (name, shift) in enumerate([("cap", 0.0), ("lid", 5.0)]):
        validation[name] = maps(10 + seed, 4, shift)[1][:2]  # normal
        test[name] = maps(20 + seed, 6, shift)
    for name, normals in validation.items():
        for anomaly_map in normals:
            metrics.update_validation(anomaly_map, name)
    for name, (masks, anomaly_maps) in test.items():
        for mask, anomaly_map in zip(masks, anomaly_maps, strict=True):
            metrics.update(mask, anomaly_map, name)
    found = metrics.compute()
    pooled = np.concatenate(list(validation.values()))
    cases = [(found.per_class[n], validation[n], test[n], metrics.thresholds[n]) for n in test]
    both = tuple(np.concatenate(parts) for parts in zip(*test.values(), strict=True))
    cases.append((found.pooled, pooled, both, metrics.pooled_threshold))
    for figures, normals, (masks, anomaly_maps), threshold in cases:
        assert threshold == pytest.approx(normals.mean() + 3 * normals.std())
        truth, marked = masks.ravel(), anomaly_maps.ravel() > threshold
        for key, score in (
            ("f1", f1_score),
            ("precision", precision_score),
            ("recall", recall_score),
        ):
            assert figures[key] == pytest.approx(score(truth, marked)), key
    assert found.mean.f1 == pytest.approx(np.mean([f.f1 for f in found.per_class.values()]))
    assert found.mean.f1 - found.pooled.f1 > 0.1  # one threshold does not serve both


def test_by_hand_and_a_score_at_the_threshold_is_not_marked():
    metrics = SegF1Metrics(n_std=1)  # mean 1, deviation 1: above 2
    metrics.update_validation([[0.0, 2.0]]).update_validation([[0.0, 2.0], [2.0, 0.0]])
    assert metrics.thresholds == {"all": 2.0} and metrics.pooled_threshold == 2.0
    found = metrics.update([[1, 1, 1, 0]], [[3.0, 2.5, 2.0, 9.0]]).compute().pooled
    assert found == {"f1": 2 * 2 / (2 * 2 + 1 + 1), "precision": 2 / 3, "recall": 2 / 3}


def test_large_offsets_do_not_cost_precision():
    values = 1e8 + np.array([[0.0, 1.0], [2.0, 3.0]])
    metrics = SegF1Metrics()
    for row in values:
        metrics.update_validation(row[None])
    assert metrics.thresholds["all"] - 1e8 == pytest.approx(1.5 + 3 * values.std(), abs=1e-6)


def test_nothing_marked_is_zero(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(path)
    metrics = SegF1Metrics().update_validation(np.ones((2, 2)))
    metrics.update(None, np.zeros((2, 2)), y=1)
    found = metrics.update(path, np.zeros((2, 2))).compute().mean  # the mask is resized
    assert found == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


@pytest.mark.parametrize(
    "mask, y, message",
    [(None, 1, "no anomalous pixel"), (None, -1, "1 maps belong to anomalies without a mask")],
)
def test_undefined_figures_are_nan_and_named(mask, y, message):
    metrics = SegF1Metrics().update_validation(np.ones((2, 2)), "lid")
    with pytest.warns(UserWarning, match=f"(class 'lid'|pooled): {message}"):
        found = metrics.update(mask, np.ones((2, 2)), "lid", y=y).compute()
    assert np.isnan(found.per_class["lid"].f1) and np.isnan(found.pooled.f1)


def test_wrong_use_is_named():
    metrics = SegF1Metrics()
    with pytest.raises(ValueError, match="class 'lid' has no validation map"):
        metrics.update(np.ones((2, 2)), np.ones((2, 2)), "lid")
    with pytest.raises(ValueError, match="no test map was added"):
        metrics.update_validation(np.ones((2, 2)), "lid").compute()
    with pytest.raises(ValueError, match="class_label is -1"):
        metrics.update_validation(np.ones((2, 2)), "-1")
    with pytest.raises(ValueError, match="is None: give y"):
        metrics.update(None, np.ones((2, 2)), "lid")
    with pytest.raises(ValueError, match="is nan at row 0"):
        metrics.update_validation(np.full((2, 2), np.nan), "lid")
    metrics.update(np.ones((2, 2)), np.ones((2, 2)), "lid")
    with pytest.raises(ValueError, match="comes after update"):
        metrics.update_validation(np.ones((2, 2)), "lid")
    with pytest.raises(ValueError, match="n_std must be"):
        SegF1Metrics(n_std=np.inf)
