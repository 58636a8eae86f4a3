"""AU-sPRO against a plain formula, threshold by threshold, and cases worked by hand."""

import tracemalloc

import numpy as np
import pytest
from trees import loco_tree

from skhgad.datasets import load_mvtec_loco_ad
from skhgad.metrics import PixelMetrics, SproMetrics, per_pixel


def slow_au_spro(images, limit):
    """Of (regions, map) pairs: all thresholds, region by region, integrated up to `limit`."""
    normal = np.concatenate(
        [
            m[~np.any([r for r, _ in regions], axis=0)] if regions else m.ravel()
            for regions, m in images
        ]
    )
    x0 = y0 = area = 0.0
    for threshold in np.unique(np.concatenate([m.ravel() for _, m in images]))[::-1]:
        x1 = np.mean(normal >= threshold)
        y1 = np.mean(
            [min(np.sum(m[r] >= threshold) / s, 1) for regions, m in images for r, s in regions]
        )
        if x1 > x0:
            x = min(x1, limit)
            area += (x - x0) * (y0 + y0 + (y1 - y0) * (x - x0) / (x1 - x0)) / 2
        x0, y0 = x1, y1
        if x0 >= limit:
            break
    return area / limit


def images(seed, n=6, decimals=1, shape=(12, 13)):
    """Maps with normal images first; the others have two regions that overlap."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(n):
        anomaly_map, regions = rng.normal(size=shape), []
        if index >= n // 3:
            large, apart = np.zeros((2, *shape), dtype=bool)
            large[2:8, 2 : 6 + index % 3] = True
            apart[6:9, 5:9] = apart[11, 12] = True  # two pieces, and shared with the other
            anomaly_map[large | apart] += 1
            regions = [(large, 7), (apart, int(apart.sum()))]
        found.append((regions, anomaly_map.round(decimals)))
    return found


def add(metrics, found, label="all", kind="anomaly"):
    for regions, anomaly_map in found:
        metrics.update(regions or None, anomaly_map, label, y=1, kind=kind)
    return metrics


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("decimals", [0, 1, 8])  # many ties, some, none
def test_au_spro_is_the_slow_one(limit, decimals):
    found = images(0, decimals=decimals)
    got = add(SproMetrics(max_fpr=limit), found).compute()
    assert got.pooled.au_spro == pytest.approx(slow_au_spro(found, limit))
    assert got.per_class["all"] == got.mean == got.pooled


def test_by_hand():
    # Scores of the region: 5, 3, 1, 1; of the 8 normal pixels: 4, 2 and six zeros.
    mask = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    anomaly_map = np.array([[5, 3, 1, 1], [4, 2, 0, 0], [0, 0, 0, 0]])
    # So one pixel of the region is found up to a false-positive rate of 1/8, two up to 2/8.
    for saturation, one, two in ((4, 1 / 4, 2 / 4), (2, 1 / 2, 1), (1, 1, 1)):
        for limit, expected in ((1 / 8, one), (2 / 8, (one + two) / 2)):
            metrics = SproMetrics(max_fpr=limit).update([(mask, saturation)], anomaly_map)
            assert metrics.compute().mean.au_spro == pytest.approx(expected)


def test_saturation_at_the_area_of_connected_regions_is_aupro():
    rng = np.random.default_rng(1)
    spro, pro = SproMetrics(max_fpr=0.3), PixelMetrics(max_fpr=0.3)
    for _ in range(3):
        anomaly_map, parts = rng.normal(size=(9, 9)), np.zeros((2, 9, 9), dtype=bool)
        parts[0, :3, :3] = parts[1, 5:, 6:] = True
        spro.update([(part, int(part.sum())) for part in parts], anomaly_map)
        pro.update(parts.any(axis=0), anomaly_map)
    assert spro.compute().pooled.au_spro == pytest.approx(pro.compute().pooled.aupro)


def test_kinds_are_beside_the_normal_images_and_averaged():
    found, other, limit = images(2), images(3), 0.3
    metrics = add(SproMetrics(max_fpr=limit), found, kind="logical")
    got = add(metrics, other[2:], kind="structural").compute().per_class["all"]
    expected = {
        "logical": slow_au_spro(found, limit),
        "structural": slow_au_spro(found[:2] + other[2:], limit),
    }
    assert got.of_kind == pytest.approx(expected)
    assert got.au_spro == pytest.approx(np.mean(list(expected.values())))


def test_classes_mean_and_pooled():
    cap, lid = images(4), [(regions, 5 + m) for regions, m in images(5)]
    got = add(add(SproMetrics(max_fpr=0.3), cap, "cap"), lid, "lid").compute()
    slow = {"cap": slow_au_spro(cap, 0.3), "lid": slow_au_spro(lid, 0.3)}
    assert {k: f.au_spro for k, f in got.per_class.items()} == pytest.approx(slow)
    assert got.mean.au_spro == pytest.approx(np.mean(list(slow.values())))
    assert got.mean.of_kind["anomaly"] == got.mean.au_spro
    assert got.pooled.au_spro == pytest.approx(slow_au_spro(cap + lid, 0.3))
    assert abs(got.pooled.au_spro - got.mean.au_spro) > 0.05


def test_memory_is_bounded_and_the_figure_close(monkeypatch):
    monkeypatch.setattr(per_pixel, "_PENDING_PER_CLASS", 2**13)
    found = images(6, n=60, decimals=8, shape=(64, 64))

    def peak(n_rounds):
        metrics = SproMetrics(512, max_fpr=0.3)
        tracemalloc.start()
        for _ in range(n_rounds):
            add(metrics, found)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high, metrics.compute().pooled.au_spro

    (low, figure), (high, again) = peak(1), peak(4)
    assert high < 1.5 * low
    exact = add(SproMetrics(2**20, max_fpr=0.3), found).compute().pooled.au_spro
    assert [figure, again] == pytest.approx([exact, exact], abs=5e-3)


def test_masks_of_mvtec_loco_ad(tmp_path):
    data = load_mvtec_loco_ad(loco_tree(tmp_path), classes=["pushpins"], split="test")
    metrics = SproMetrics(max_fpr=0.3)
    anomaly_map = np.zeros((6, 8))
    anomaly_map[0, :3] = 2.0  # three of the eight pixels: enough where a pushpin is missing
    for mask, label, y, kind in zip(data.mask, data.class_label, data.y, data.defect, strict=True):
        metrics.update(mask, anomaly_map, label, y=y, kind=kind)
    # At score 2: three false positives of the good image's 48 normal pixels. Logical images have 35
    # and 40 normal pixels, and two of three defects are found. Structural ones have 42 each, all
    # three pixels are false, and no defect is found. At score 0 all is found.
    expected = {
        "logical_anomalies": area_of_two_lines(3 / (48 + 35 + 40), 2 / 3, 0.3),
        "structural_anomalies": area_of_two_lines(9 / (48 + 42 + 42), 0, 0.3),
    }
    assert metrics.compute().per_class["pushpins"].of_kind == pytest.approx(expected)


def area_of_two_lines(x, y, limit):
    """Area up to `limit` under the lines (0, 0), (x, y), (1, 1), as a share of `limit`."""
    end = y + (1 - y) * (limit - x) / (1 - x)
    return (x * y / 2 + (limit - x) * (y + end) / 2) / limit


@pytest.mark.parametrize(
    "regions, options, message",
    [
        (None, {}, r"regions \(class 'all'\) is None: give y"),
        (None, {"y": -1}, "is None, but y is -1"),
        ([], {}, "are empty: pass None"),
        ([(np.ones((2, 3)), 1)], {}, r"shape \(2, 3\), its anomaly_map \(2, 2\): resize the map"),
        ([(np.zeros((2, 2)), 1)], {}, "has no pixel"),
        ([(np.ones((2, 2)), 5)], {}, "from 1 to the region's 4 pixels, got 5"),
        ([(np.ones((2, 2)), 0.5)], {}, "must be an int"),
        ([(np.ones((2, 2)), 1)], {"kind": "good"}, "that of normal images"),
        ([(np.ones((2, 2)), 1)], {"class_label": -1}, "class_label is -1"),
    ],
)
def test_bad_regions_are_named(regions, options, message):
    with pytest.raises(ValueError, match=message):
        SproMetrics().update(regions, np.zeros((2, 2)), **options)


def test_no_region_or_no_normal_pixel_is_nan_and_named():
    with pytest.warns(UserWarning, match="(class 'all'|pooled): no region"):
        found = SproMetrics().update(None, np.zeros((2, 2)), y=1).compute()
    assert np.isnan(found.mean.au_spro) and found.mean.of_kind == {}
    with pytest.warns(UserWarning, match="no normal pixel"):
        found = SproMetrics().update([(np.ones((2, 2)), 1)], np.zeros((2, 2))).compute()
    assert np.isnan(found.pooled.au_spro)
    with pytest.raises(ValueError, match="no map was added"):
        SproMetrics().compute()
    with pytest.raises(ValueError, match="max_fpr"):
        SproMetrics(max_fpr=0)
