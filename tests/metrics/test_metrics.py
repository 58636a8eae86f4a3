"""Metrics against scikit-learn, against a slow AUPRO, and in the cases that have no figure."""

import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skhgad.metrics import (
    PixelMetrics,
    histograms,
    image_metrics,
    miss_rates,
    per_pixel,
    pixel_metrics,
    unified_roc_auc,
)
from skhgad.validation import check_anomaly_labels

FIGURES = ("auroc", "ap", "f1_max", "aupro")


def slow_f1_max(anomaly, anomaly_scores):
    return max(f1_score(anomaly, anomaly_scores >= t) for t in np.unique(anomaly_scores))


def slow_regions(mask):
    """8-connected regions by flood fill, as lists of (row, column)."""
    left = {tuple(p) for p in np.argwhere(mask)}
    regions = []
    while left:
        todo, region = [left.pop()], []
        while todo:
            row, column = todo.pop()
            region.append((row, column))
            for i in (-1, 0, 1):
                for j in (-1, 0, 1):
                    if (row + i, column + j) in left:
                        left.remove((row + i, column + j))
                        todo.append((row + i, column + j))
        regions.append(region)
    return regions


def slow_aupro(masks, maps, limit):
    """Threshold by threshold and region by region, integrated step by step up to `limit`."""
    regions = [(m, r) for mask, m in zip(masks, maps, strict=True) for r in slow_regions(mask)]
    normal = np.concatenate([m[mask == 0] for mask, m in zip(masks, maps, strict=True)])
    x0 = y0 = area = 0.0
    for threshold in np.unique(np.concatenate([np.ravel(m) for m in maps]))[::-1]:
        x1 = np.mean(normal >= threshold)
        y1 = np.mean([np.mean([m[p] >= threshold for p in r]) for m, r in regions])
        if x1 > x0:
            x = min(x1, limit)
            area += (x - x0) * (y0 + y0 + (y1 - y0) * (x - x0) / (x1 - x0)) / 2
        x0, y0 = x1, y1
        if x0 >= limit:
            break
    return area / limit


def small_maps(seed, n_maps=4, decimals=None):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(n_maps, 12, 13))
    masks = np.zeros(maps.shape, dtype=bool)
    masks[1:, 2:4, 3:9] = True
    masks[1:, 4, 9] = True  # touches the block by its corner only: the same region
    masks[2:, 8:11, 1:3] = True
    maps += 1.5 * masks
    return masks, maps if decimals is None else maps.round(decimals)


# --- images


def test_image_metrics_are_sklearns_per_class_mean_and_pooled():
    rng = np.random.default_rng(0)
    labels = np.repeat(["cap", "lid", "nut"], 40)
    y = np.where(rng.random(120) < 0.3, -1, 1)
    scores = rng.normal(size=120).round(1) + 2 * y + np.repeat([0, 5, -3], 40)
    offset = 0.4
    figures = image_metrics(y, scores, labels, offset=offset)
    parts = {name: labels == name for name in ("cap", "lid", "nut")}
    assert list(figures.per_class) == list(parts)
    for got, inside in [(figures.per_class[n], p) for n, p in parts.items()] + [
        (figures.pooled, np.full(120, True))
    ]:
        bad, s = y[inside] == -1, scores[inside]
        assert got.auroc == pytest.approx(roc_auc_score(bad, -s))
        assert got.ap == pytest.approx(average_precision_score(bad, -s))
        assert got.f1_max == pytest.approx(slow_f1_max(bad, -s))
        assert got.false_alarm_rate == pytest.approx(np.mean(s[~bad] < offset))
        assert got.miss_rate == pytest.approx(np.mean(s[bad] >= offset))
    for key in figures.pooled:
        mean = np.mean([figures.per_class[n][key] for n in parts])
        assert figures.mean[key] == pytest.approx(mean)
    assert abs(figures.mean.auroc - figures.pooled.auroc) > 0.05  # classes lie apart


def test_image_metrics_without_offset_has_no_rates_and_one_class_by_default():
    figures = image_metrics([1, -1, 1], [3, 1, 2])
    assert set(figures.pooled) == {"auroc", "ap", "f1_max"}
    assert figures.per_class == {"all": figures.pooled}
    assert figures.pooled.auroc == 1.0


def test_miss_rates_by_hand():
    # bolt: normals 1 to 20. At 5 % one may be flagged, below 2; at 10 % two, below 3.
    # nut: normals 10, 20, ... 100. One may be flagged at 10 %, below 20; none at 5 %.
    bolts, nuts = [*range(1, 21), 0, 1, 2, 3, 30], [*range(10, 101, 10), 19, 20, 21, 25]
    y = [1] * 20 + [-1] * 5 + [1] * 10 + [-1] * 4
    names = ["bolt"] * 25 + ["nut"] * 14
    found = miss_rates(y, bolts + nuts, names)
    nan = np.nan
    np.testing.assert_equal(found.per_class["bolt"], {0.01: nan, 0.05: 3 / 5, 0.1: 2 / 5})
    np.testing.assert_equal(found.per_class["nut"], {0.01: nan, 0.05: nan, 0.1: 3 / 4})
    np.testing.assert_equal(found.mean, {0.01: nan, 0.05: nan, 0.1: (2 / 5 + 3 / 4) / 2})
    # Pooled, 30 normals: one may be flagged at 5 %, below 2; three at 10 %, below 4.
    np.testing.assert_equal(found.pooled, {0.01: nan, 0.05: 7 / 9, 0.1: 5 / 9})


def test_miss_rates_lie_on_the_roc_curve():
    rng = np.random.default_rng(0)
    y = np.repeat([1, -1], [500, 300])
    scores = rng.normal(size=800).round(1) - (y == -1)  # rounded: many ties
    rates = (0.002, 0.01, 0.2, 0.7)
    fpr, tpr, _ = roc_curve(y == -1, -scores, drop_intermediate=False)
    expected = {rate: 1 - tpr[fpr <= rate].max() for rate in rates}
    assert miss_rates(y, scores, false_alarm_rates=rates).pooled == pytest.approx(expected)


def test_miss_rates_of_bad_rates_and_without_anomalies():
    with pytest.raises(ValueError, match="false_alarm_rates must lie strictly between"):
        miss_rates([1, -1], [2, 1], false_alarm_rates=[5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(miss_rates([1] * 100, range(100)).pooled[0.01])


def test_offset_may_differ_per_sample():
    figures = image_metrics([1, 1, -1, -1], [1, 5, 1, 5], offset=[2, 4, 2, 6])
    assert figures.pooled.false_alarm_rate == 0.5
    assert figures.pooled.miss_rate == 0.0


def test_a_score_at_the_offset_is_not_flagged():
    figures = image_metrics([1, 1, -1, -1], [2, 3, 2, 1], offset=2)
    assert (figures.pooled.false_alarm_rate, figures.pooled.miss_rate) == (0.0, 0.5)


@pytest.mark.parametrize(
    "y",
    [
        [1, -1, 1, -1],
        ["lid", "-1", "cap", "-1"],
        ["lid", -1, "cap", -1],
        np.array(["lid", -1, "cap", -1], dtype=object),
        np.array([3.0, -1.0, 0.0, -1.0]),
        [7, -1, 8, -1],
    ],
)
def test_every_spelling_of_an_anomaly(y):
    assert image_metrics(y, [2, 1, 4, 3]).pooled.auroc == 0.75
    assert check_anomaly_labels(y).tolist() == [False, True, False, True]


@pytest.mark.parametrize("kind, lost", [(1, ("auroc", "miss_rate")), (-1, ("auroc", "ap"))])
def test_class_with_one_kind_of_label_is_nan_and_named(kind, lost):
    y = [1, -1, kind, kind]
    with pytest.warns(UserWarning, match="class 'lid': no (normal|anomaly)") as record:
        figures = image_metrics(y, [2, 1, 1, 1], ["cap", "cap", "lid", "lid"], offset=1.5)
    assert len(record) == 1
    assert all(np.isnan(figures.per_class["lid"][key]) for key in lost)
    known = "false_alarm_rate" if kind == 1 else "miss_rate"
    assert figures.per_class["lid"][known] == (1.0 if kind == 1 else 0.0)
    assert np.isnan(figures.mean.auroc)
    assert figures.per_class["cap"].auroc == 1.0
    assert np.isfinite(figures.pooled.auroc)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (([1, -1], [1.0]), ValueError, r"scores must have shape \(2,\)"),
        (([1, -1], [1.0, np.nan]), ValueError, r"scores\[1\] is nan"),
        (([1, -1], [1, 2], ["lid"]), ValueError, r"class_labels must have shape \(2,\)"),
        (([1, -1], [1, 2], ["lid", "-1"]), ValueError, r"class_labels\[1\] is '-1'"),
        (([1, -1], [1, 2], ["lid", None]), ValueError, r"class_labels\[1\] is None"),
        (([1, 0.5], [1, 2]), ValueError, r"y\[1\] = 0.5"),
        ((["lid", None], [1, 2]), ValueError, r"y\[1\] is None: give every sample a label"),
        ((["lid", np.nan], [1, 2]), ValueError, r"y\[1\] is nan"),
        (([True, False], [1, 2]), TypeError, "y is boolean"),
        (([], []), ValueError, "y must be labels"),
        ((None, [1.0]), ValueError, "y must be labels"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        image_metrics(*arguments)


def test_bad_offset_is_named():
    with pytest.raises(ValueError, match="offset must be a number, or 2 numbers"):
        image_metrics([1, -1], [1, 2], offset=[1, 2, 3])
    with pytest.raises(ValueError, match="offset"):
        image_metrics([1, -1], [1, 2], offset=np.nan)


# --- scorer


def search_data(as_int):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3))
    X[60:] += 2.5
    y = np.array(["lid"] * 30 + ["cap"] * 30 + ["-1"] * 30)
    return X, (np.where(y == "-1", -1, 1 + (y == "cap")) if as_int else y)


class Distance(OutlierMixin, BaseEstimator):
    """Scores by `score_samples` alone; `sign` = -1 makes it wrong on purpose."""

    def __init__(self, sign=1):
        self.sign = sign

    def fit(self, X, y=None):
        self.center_ = X[np.asarray(y).astype(str) != "-1"].mean(axis=0)
        return self

    def score_samples(self, X):
        return -self.sign * np.linalg.norm(X - self.center_, axis=1)


@pytest.mark.parametrize("as_int", [False, True])
@pytest.mark.parametrize("routing", [False, True])
def test_scorer_chooses_the_better_model_in_grid_search(as_int, routing):
    X, y = search_data(as_int)
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(Distance(), {"sign": [-1, 1]}, scoring=unified_roc_auc, cv=cv)
        search.fit(X, y)
        # scikit-learn 1.6.0 fails on params=None where routing is on.
        scores = cross_val_score(Distance(), X, y, scoring=unified_roc_auc, cv=cv, params={})
    assert search.best_params_ == {"sign": 1}
    expected = []
    for train, test in cv.split(X, y):
        model = Distance().fit(X[train], y[train])
        normal = y[test].astype(str) != "-1"
        expected.append(roc_auc_score(normal, model.score_samples(X[test])))
    np.testing.assert_allclose(scores, expected)
    assert search.best_score_ == pytest.approx(np.mean(expected))
    assert search.best_score_ > 0.9 > 0.1 > min(search.cv_results_["mean_test_score"])


@pytest.mark.slow
def test_scorer_in_parallel_pickled_and_on_a_pipeline():
    X, y = search_data(False)
    model = make_pipeline(StandardScaler(), IsolationForest(n_estimators=5, random_state=0))
    cv = StratifiedKFold(2, shuffle=True, random_state=0)
    serial = cross_val_score(model, X, y, scoring=unified_roc_auc, cv=cv)
    parallel = cross_val_score(model, X, y, scoring=unified_roc_auc, cv=cv, n_jobs=2)
    np.testing.assert_array_equal(serial, parallel)
    again = pickle.loads(pickle.dumps(unified_roc_auc))
    fitted = model.fit(X)
    assert again(fitted, X, y) == roc_auc_score(y != "-1", fitted.decision_function(X))


@pytest.mark.parametrize("label, kind", [("lid", "normals"), ("-1", "anomalies")])
def test_scorer_of_one_kind_is_nan_with_a_warning(label, kind):
    X, _ = search_data(False)
    model = Distance().fit(X, np.ones(len(X)))
    with pytest.warns(UserWarning, match=f"y holds {kind} only, 4 of them"):
        assert np.isnan(unified_roc_auc(model, X[:4], [label] * 4))


def test_scorer_needs_scores():
    with pytest.raises(TypeError, match=r"StandardScaler\(\) has neither"):
        unified_roc_auc(StandardScaler(), np.zeros((2, 1)), [1, -1])


# --- pixels


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("decimals", [None, 0])
def test_aupro_is_the_slow_one(limit, decimals):
    masks, maps = small_maps(1, decimals=decimals)
    figures = pixel_metrics(masks, maps, max_fpr=limit)
    assert figures.pooled.aupro == pytest.approx(slow_aupro(masks, maps, limit), abs=1e-12)


def test_aupro_where_the_curve_stands_upright_at_the_limit():
    # false-positive rate 0.5 is reached before the defect's last pixel: that pixel must not count
    anomaly_map, mask = np.array([[4.0, 3.0, 2.0, 1.0]]), np.array([[1, 0, 1, 0]])
    assert pixel_metrics([mask], [anomaly_map], max_fpr=0.5).pooled.aupro == pytest.approx(
        slow_aupro([mask], [anomaly_map], 0.5)
    )
    assert slow_aupro([mask], [anomaly_map], 0.5) == pytest.approx(0.5)


def test_small_regions_weigh_as_much_as_large_ones_in_aupro():
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, :10], mask[15, 15] = True, True
    anomaly_map = np.where(mask, 1.0, 0.0)
    anomaly_map[15, 15] = -1.0  # the one-pixel region is missed: half of the regions
    figures = pixel_metrics([mask], [anomaly_map]).pooled
    assert figures.aupro == pytest.approx(slow_aupro([mask], [anomaly_map], 0.3))
    assert figures.aupro < 0.5 + 1e-9
    assert figures.auroc > 0.98


def test_pixel_figures_are_sklearns_per_class_mean_and_pooled():
    masks, maps = small_maps(2, n_maps=6, decimals=1)
    maps[3:] += 2.0
    labels = np.repeat(["cap", "lid"], 3)
    masks[4] = masks[3]
    figures = pixel_metrics(masks, maps, labels)
    for got, inside in [
        (figures.per_class["cap"], labels == "cap"),
        (figures.per_class["lid"], labels == "lid"),
        (figures.pooled, labels != ""),
    ]:
        bad, s = masks[inside].ravel(), maps[inside].ravel()
        assert got.auroc == pytest.approx(roc_auc_score(bad, s))
        assert got.ap == pytest.approx(average_precision_score(bad, s))
        assert got.f1_max == pytest.approx(slow_f1_max(bad, s))
        assert got.aupro == pytest.approx(slow_aupro(masks[inside], maps[inside], 0.3))
    for key in FIGURES:
        mean = (figures.per_class["cap"][key] + figures.per_class["lid"][key]) / 2
        assert figures.mean[key] == pytest.approx(mean)


HARD = {
    "narrow": lambda rng, z, bad: (1000 + 0.003 * (z + 2 * bad)).astype(np.float32),
    "narrower than float32": lambda rng, z, bad: 1000 + 1e-7 * (z + 2 * bad),
    "heavy tails": lambda rng, z, bad: np.exp(6 * z + 8 * bad).astype(np.float32),
    "drifting": lambda rng, z, bad: z + 2 * bad + np.linspace(-5, 5, len(z))[:, None, None],
    "ascending": lambda rng, z, bad: np.sort(z + 2 * bad, axis=None).reshape(z.shape),
    "negative and zero": lambda rng, z, bad: np.minimum(z + 2 * bad, 0).astype(np.float32),
    "few values": lambda rng, z, bad: np.clip(np.round(2 * z + 3 * bad), -3, 9).astype(np.int64),
    "constant": lambda rng, z, bad: np.full(z.shape, 7.0, dtype=np.float32),
}


@pytest.mark.parametrize("share", ["small", "tiny"])
@pytest.mark.parametrize("case", list(HARD))
def test_streamed_figures_agree_with_exact_ones_to_1e_3(case, share, monkeypatch):
    monkeypatch.setattr(per_pixel, "_PENDING_PER_CLASS", 30_000)
    rng = np.random.default_rng(3)
    n_maps, size = 24, 128
    masks = np.zeros((n_maps, size, size), dtype=bool)
    weights = np.ones(masks.shape)
    for mask, weight in zip(masks[1::2], weights[1::2], strict=True):
        for corner, side in ((40, 3), (100, 1)) if share == "tiny" else ((40, 20), (100, 3)):
            mask[corner : corner + side, corner : corner + side] = True
            weight[corner : corner + side, corner : corner + side] = 1 / side**2
    maps = HARD[case](rng, rng.normal(size=masks.shape), masks)
    pixels = PixelMetrics()
    for mask, anomaly_map in zip(masks, maps, strict=True):
        pixels.update(mask, anomaly_map)
    got = pixels.compute().pooled

    bad, s = masks.ravel(), maps.ravel()
    fpr, overlap, _ = roc_curve(
        bad, s, sample_weight=np.where(bad, weights.ravel(), 1), drop_intermediate=False
    )
    k = np.argmax(fpr >= 0.3)
    last = overlap[k - 1] + (overlap[k] - overlap[k - 1]) * (0.3 - fpr[k - 1]) / np.diff(fpr)[k - 1]
    x, y = np.append(fpr[:k], 0.3), np.append(overlap[:k], last)
    order = np.argsort(-s, kind="stable")
    final = np.append(np.diff(s[order]) != 0, True)
    true, found = np.cumsum(bad[order])[final], np.flatnonzero(final) + 1
    exact = {
        "auroc": roc_auc_score(bad, s),
        "ap": average_precision_score(bad, s),
        "f1_max": np.max(2 * true / (bad.sum() + found)),
        "aupro": np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / 0.3,
    }
    for key in FIGURES:
        assert got[key] == pytest.approx(exact[key], abs=1e-3), key
    summaries = pixels._classes["all"].stream._levels.values()
    assert max(len(h.values) for h in summaries) <= 2 * 2**14 + 1


@pytest.mark.parametrize("n_bins", [2, 3, 50, 1000])
def test_compress_bounds_size_and_keeps_mass_order_and_heavy_values(n_bins):
    rng = np.random.default_rng(n_bins)
    normal = np.append(rng.normal(size=5000), np.full(5000, 0.25))
    exact = histograms.count(normal, rng.normal(size=300) + 1, np.full(300, 0.1))
    small = histograms.compress(exact, n_bins)
    assert len(small.values) <= 2 * n_bins + 1 < len(exact.values)
    assert np.all(np.diff(small.values) > 0)
    np.testing.assert_allclose(small.weights.sum(axis=1), exact.weights.sum(axis=1))
    if n_bins >= 50:  # half of all normals tie at 0.25: no neighbour may join them
        np.testing.assert_array_equal(small.weights[:, small.values == 0.25][:, 0], [5000, 0, 0])
        where = np.searchsorted(exact.values, small.values)
        moved = np.cumsum(small.weights, axis=1) - np.cumsum(exact.weights, axis=1)[:, where]
        assert np.all(np.abs(moved).max(axis=1) < 2 * 4 / n_bins * exact.weights.sum(axis=1))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_maps(monkeypatch):
    monkeypatch.setattr(per_pixel, "_PENDING_PER_CLASS", 40_000)
    monkeypatch.setattr(per_pixel, "_PENDING", 80_000)

    def peak(n_maps):
        rng = np.random.default_rng(0)
        mask = np.zeros((128, 128), dtype=bool)
        mask[40:60, 40:60] = True
        tracemalloc.start()
        pixels = PixelMetrics(n_bins=1024)
        for index in range(n_maps):
            pixels.update(mask, rng.random((128, 128), dtype=np.float32), index % 3)
        pixels.compute()
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    peak(10)
    few, many = peak(60), peak(480)  # 480 maps are 31 MB
    assert many < 1.5 * few
    assert many < 12e6


def test_compute_may_be_called_between_updates():
    masks, maps = small_maps(4)
    pixels = PixelMetrics()
    pixels.update(masks[1], maps[1]).compute()
    for mask, anomaly_map in zip(masks[2:], maps[2:], strict=True):
        pixels.update(mask, anomaly_map)
    assert pixels.compute() == pixel_metrics(masks[1:], maps[1:])


def test_masks_may_be_paths_and_maps_a_generator(tmp_path):
    masks, maps = small_maps(5, n_maps=3)
    paths = [None]
    for index in (1, 2):
        paths.append(tmp_path / f"{index}_mask.png")
        Image.fromarray(masks[index].astype(np.uint8) * 255).resize((26, 24), 0).save(paths[-1])
    got = pixel_metrics(paths, (m for m in maps), ["lid"] * 3, y=["lid", -1, "-1"])
    assert got == pixel_metrics(masks, maps, ["lid"] * 3)


def test_anomaly_without_mask_makes_its_class_and_the_pooled_figures_nan():
    masks, maps = small_maps(6)
    some = [masks[0], masks[1], masks[2], None]
    with pytest.warns(UserWarning) as record:
        figures = pixel_metrics(some, maps, ["cap", "cap", "lid", "lid"], y=[1, -1, -1, -1])
    told = [str(w.message) for w in record]
    assert told[0].startswith("class 'lid': 1 of 2 maps belong to anomalies without a mask")
    assert told[1].startswith("pooled: 1 of 4 maps")
    assert len(told) == 2
    assert all(np.isnan(figures.per_class["lid"][key]) for key in FIGURES)
    assert all(np.isnan(figures.pooled[key]) and np.isnan(figures.mean[key]) for key in FIGURES)
    assert np.isfinite(figures.per_class["cap"].aupro)


def test_class_of_unmasked_anomalies_only_is_nan():
    with pytest.warns(UserWarning, match="(class 'lid'|pooled): 1 of 1 maps"):
        figures = pixel_metrics([None], [np.ones((2, 2))], ["lid"], y=[-1])
    assert np.isnan(figures.pooled.auroc)


@pytest.mark.parametrize("marked, lack", [(0, "anomalous"), (1, "normal")])
def test_class_with_one_kind_of_pixels_is_nan_and_named(marked, lack):
    masks, maps = small_maps(7)
    masks[2:] = marked
    with pytest.warns(UserWarning, match=f"class 5: no {lack} pixel in 2 maps") as record:
        figures = pixel_metrics(masks, maps, [4, 4, 5, 5])
    assert len(record) == 1
    assert np.isnan(figures.per_class[5].aupro) and np.isnan(figures.mean.auroc)
    assert np.isfinite(figures.per_class[4].aupro) and np.isfinite(figures.pooled.aupro)


def test_normal_image_without_mask_has_no_defect_pixel():
    masks, maps = small_maps(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = pixel_metrics([None, *masks[1:]], maps, y=[1, -1, -1, -1])
    assert got == pixel_metrics(masks, maps)


MAP = np.arange(4.0).reshape(2, 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((None, MAP, "lid"), r"mask \(class 'lid'\) is None: give y"),
        ((MAP[:1], MAP), r"shape \(1, 2\), its anomaly_map \(2, 2\)"),
        ((MAP / 8, MAP), "must be bool, integers"),
        ((MAP, MAP[0]), r"of shape \(2,\)"),
        ((MAP, np.where(MAP == 1, np.inf, MAP)), "is inf at row 0, column 1"),
        ((MAP > 1, MAP, "-1"), "class_label is -1"),
    ],
)
def test_bad_map_or_mask_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelMetrics().update(*arguments)


def test_pixel_metrics_names_the_item_and_the_short_column():
    with pytest.raises(ValueError, match="item 1 of masks and maps: mask"):
        pixel_metrics([MAP > 1, None], [MAP, MAP])
    with pytest.raises(ValueError, match="class_labels ended after 1 items"):
        pixel_metrics([MAP > 1] * 2, [MAP, MAP], ["lid"])


@pytest.mark.parametrize("parameters", [{"n_bins": 1}, {"n_bins": 2.5}, {"max_fpr": 0}])
def test_bad_parameters_and_no_maps(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        PixelMetrics(**parameters)
    with pytest.raises(ValueError, match="no map was added"):
        PixelMetrics().compute()
