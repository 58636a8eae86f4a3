"""The detector on feature vectors whose classes take several centers, kernels or wide tables."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.stats import ortho_group
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV

from skhgad import HGADDetector

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*held out:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*held-out:UserWarning"),
]


def two_blobs(n, n_features, seed=0):
    """Unit Gaussians at 0 and 6 in every feature, in turn."""
    X = np.random.default_rng(seed).normal(0, 1, (n, n_features))
    X[::2] += 6
    return X


def ring(n, seed=0):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    circle = 5 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    return circle + rng.normal(0, 0.2, (n, 3))


def auroc(detector, normal, anomalies):
    labels = np.repeat([0, 1], [len(normal), len(anomalies)])
    return roc_auc_score(labels, -detector.score_samples(np.concatenate([normal, anomalies])))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "n_draws"), [(30, 5), (300, 1)])
@pytest.mark.parametrize("n_features", [2, 8, 64])
def test_between_two_far_blobs_lie_anomalies(n, n_draws, n_features):
    values, anomalies = [], np.full((20, n_features), 3.0)
    for seed in range(n_draws):
        detector = HGADDetector(random_state=0).fit(two_blobs(n, n_features, seed))
        assert detector.n_components_[0, 0] >= 2
        values.append(auroc(detector, two_blobs(400, n_features, seed + 100), anomalies))
    assert np.mean(values) >= 0.99


@pytest.mark.once
def test_a_grid_search_finds_that_one_center_is_too_few():
    normal, anomalies = two_blobs(80, 8), np.full((20, 8), 3.0)
    X, y = np.concatenate([normal, anomalies]), np.repeat([1, -1], [80, 20])
    order = np.random.default_rng(0).permutation(100)
    search = GridSearchCV(
        HGADDetector(random_state=0), {"n_components": [1, 2, 4]}, scoring="roc_auc", cv=3
    ).fit(X[order], y[order])
    assert search.best_params_["n_components"] >= 2
    scores = search.cv_results_["mean_test_score"]
    assert scores[1] >= 0.99
    assert scores[0] < 0.9


def three_classes(n=100):
    """A ring (kernels), two blobs (two centers) and one Gaussian; vectors and labels."""
    rng = np.random.default_rng(3)
    blobs = np.array([40.0, 0, 0]) + rng.normal(0, 1, (n, 3))
    blobs[::2] += 12
    plain = np.array([0, 40.0, 0]) + rng.normal(0, 1, (n, 3))
    return np.concatenate([ring(n), blobs, plain]), np.repeat(["a ring", "blobs", "plain"], n)


@pytest.fixture(scope="module")
def mixed():
    """A detector whose classes have kernels, several Gaussians and one Gaussian."""
    X, y = three_classes()
    detector = HGADDetector(random_state=0).fit(X, y)
    fresh = np.concatenate([X[::9], np.random.default_rng(5).normal(15, 20, (60, 3))])
    return detector, fresh


def test_n_components_tells_what_was_chosen(mixed):
    detector, _ = mixed
    assert detector.n_components_.shape == (1, 3)
    assert detector.n_components_.dtype == np.int64
    ring_centers, blob_centers, plain_centers = detector.n_components_[0]
    assert ring_centers == 100  # kernels: as many as vectors
    assert blob_centers == 2
    assert plain_centers == 1
    two = HGADDetector(n_components=2, random_state=0).fit(*three_classes())
    assert two.n_components_.tolist() == [[2, 2, 2]]


def test_the_order_of_rows_changes_nothing():
    X, y = three_classes(60)
    order = np.random.default_rng(0).permutation(len(X))
    first, second = (
        HGADDetector(validation_fraction=0, random_state=0).fit(*data)
        for data in ((X, y), (X[order], y[order]))
    )
    assert first.n_components_.tolist() == second.n_components_.tolist()
    fresh = np.random.default_rng(5).normal(15, 20, (60, 3))
    np.testing.assert_allclose(
        first.score_samples(fresh), second.score_samples(fresh), rtol=1e-8, atol=1e-8
    )


def test_copies_of_a_detector_score_the_same(mixed, tmp_path):
    detector, fresh = mixed
    expected = detector.score_samples(fresh)
    detector.save(tmp_path / "model")
    for copy in (HGADDetector.load(tmp_path / "model"), pickle.loads(pickle.dumps(detector))):
        np.testing.assert_allclose(copy.score_samples(fresh), expected, rtol=0, atol=1e-8)
        assert copy.n_components_.tolist() == detector.n_components_.tolist()


def test_onnx_scores_the_same(mixed, tmp_path):
    detector, fresh = mixed
    detector.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for given in (fresh, fresh[:1]):
        score, class_index = session.run(None, {"features": given})
        np.testing.assert_allclose(score, detector.score_samples(given), rtol=1e-8, atol=1e-8)
        assert detector.classes_[class_index].tolist() == detector.predict_class(given).tolist()


@pytest.mark.parametrize("new", [["plain"], ["a ring", "blobs"]])
@pytest.mark.once
def test_new_classes_take_mixtures_and_leave_the_known_ones_alone(mixed, new):
    X, y = three_classes()
    is_new = np.isin(y, new)
    detector = HGADDetector(random_state=0).fit(X[~is_new], y[~is_new])
    known, labels = X[~is_new][::7], y[~is_new][::7]
    before = detector.score_samples(known, class_labels=labels)
    detector.add_class(X[is_new], y[is_new])
    np.testing.assert_array_equal(detector.score_samples(known, class_labels=labels), before)
    of_ring, *others = detector.n_components_[0].tolist()
    assert of_ring >= 8 and others == mixed[0].n_components_[0, 1:].tolist()
    assert (detector.predict_class(X) == y).mean() > 0.98
    middle, rim = np.array([[0.0, 0, 0]]), ring(100, seed=1)
    assert auroc(detector, rim, np.repeat(middle, 5, 0)) == 1


def frayed_ring(n, rng):
    """Rows along a ring, fewer and fewer outside of it."""
    angle, radius = rng.uniform(0, 2 * np.pi, n), 5 + rng.exponential(size=n)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def exponential(n, rng):
    return rng.exponential(size=(n, 2))


@pytest.mark.parametrize("drawn", [frayed_ring, exponential])
def test_kernels_of_several_widths_and_powers_are_stored_exported_and_updated(drawn, tmp_path):
    rng = np.random.default_rng(0)
    X, new = drawn(160, rng), drawn(40, rng)
    fresh = np.concatenate([drawn(25, rng), rng.uniform(-8, 8, (25, 2))])
    detector = HGADDetector(random_state=0).fit(X)

    def is_special(detector):
        (level,) = detector.model_.model.levels
        if drawn is exponential:
            return (level.start.powers.exponents < 1).all()
        return len(level.densities.whiteners) > 2 and level.start.powers is None

    assert is_special(detector)
    expected = detector.score_samples(fresh)
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.score_samples(fresh), expected, rtol=0, atol=1e-8)
    detector.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(
        session.run(None, {"features": fresh})[0], expected, rtol=1e-8, atol=1e-8
    )
    loaded.update(new)
    whole = HGADDetector(random_state=0).fit(np.concatenate([X, new]))
    assert is_special(loaded)
    found = np.corrcoef(loaded.score_samples(fresh), whole.score_samples(fresh))[0, 1]
    assert found > 0.99


def test_blobs_of_one_class_keep_their_own_spreads_and_shapes():
    rng = np.random.default_rng(0)
    spreads, places = np.array([0.1, 0.5, 2.0]), np.array([[0, 0], [6, 0], [0, 10.0]])

    def blobs(n):
        return places[np.arange(n) % 3] + spreads[np.arange(n) % 3, None] * rng.normal(size=(n, 2))

    angles = rng.uniform(0, 2 * np.pi, 200)
    rims = np.stack([np.cos(angles), np.sin(angles)], 1) * 6 * np.resize(spreads[:2], 200)[:, None]
    anomalies = np.resize(places[:2], (200, 2)) + rims
    detector = HGADDetector(random_state=0).fit(blobs(300))
    assert auroc(detector, blobs(600), anomalies) >= 0.995


def wide_table(n, n_features, seed=0, mix_seed=0):
    """Vectors of 5 strong directions and weak noise in all."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(mix_seed).normal(0, 1, (5, n_features))
    return rng.normal(0, 1, (n, 5)) @ directions + rng.normal(0, 0.1, (n, n_features))


def test_a_wide_table_scores_the_same_in_any_rotation():
    X, fresh = wide_table(30, 200), wide_table(40, 200, seed=1)
    fresh[::2] += np.random.default_rng(2).normal(0, 0.3, (20, 200))
    rotation = ortho_group.rvs(200, random_state=0)
    # The length of what no axis holds is a difference of squares: training rows have 1e-5 for 0.
    # One model: whether a tenth model of 27 rows finds modes may hang on rounding.
    plain, rotated = (
        HGADDetector(validation_fraction=0.2, random_state=0).fit(x) for x in (X, X @ rotation)
    )
    scores = plain.score_samples(fresh)
    np.testing.assert_allclose(rotated.score_samples(fresh @ rotation), scores, rtol=1e-3)
    # What lies in no direction of the training rows counts, too.
    assert scores[::2].max() < scores[1::2].min()


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_a_wide_table_scores_the_same_in_any_unit(scale):
    X, fresh = wide_table(30, 200), wide_table(40, 200, seed=1)
    scores = [
        HGADDetector(validation_fraction=0.2, random_state=0).fit(s * X).score_samples(s * fresh)
        for s in (1, scale)
    ]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_file_of_a_very_wide_table_is_small(tmp_path, dtype):
    """It has the rows, of two bytes a value at most, and no axes beside them."""
    X, fresh = (wide_table(n, 5000, seed=n).astype(dtype) for n in (30, 10))
    detector = HGADDetector(random_state=0).fit(X)
    detector.save(tmp_path / "model")
    files = [path for path in Path(tmp_path / "model").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2 * X.size + 150_000
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(fresh), detector.score_samples(fresh))
    np.testing.assert_array_equal(loaded.model_.kept.x, detector.model_.kept.x)
    np.testing.assert_allclose(loaded.model_.kept.x, X, atol=1e-3)


def test_a_table_with_one_feature_more_than_rows_is_saved(tmp_path):
    """The axes that the rows span and the length of the rest are as many as the features."""
    X = wide_table(20, 21)
    detector = HGADDetector(random_state=0).fit(X)
    detector.save(tmp_path / "model")
    stored = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(stored.score_samples(X), detector.score_samples(X))


def test_a_wide_table_has_no_singular_values_computed_in_all_its_width(monkeypatch):
    widths, svd = [], torch.linalg.svd

    def counting(matrix, **options):
        widths.append(max(matrix.shape))
        return svd(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", counting)
    HGADDetector(random_state=0, validation_fraction=0.2).fit(wide_table(60, 2000))
    assert 2000 not in widths


@pytest.mark.parametrize(
    ("n_rows", "spread"), [(200, 0), (200, 2), (80, 2)], ids=["alone", "factors", "few, factors"]
)
def test_a_wide_table_of_several_classes_keeps_its_promise(n_rows, spread):
    """What lies outside of the rows of the fit is the same for models without a tenth of them.

    These take the prior of the whole fit: of few rows, they would choose another.
    """
    codes = np.arange(300) % 4
    fixed = np.random.default_rng(0)
    classes, factors = fixed.normal(size=(4, 800)), spread * fixed.normal(size=(8, 800))

    def rows(n, seed):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(n, 800)) + rng.normal(size=(n, 8)) @ factors
        return noise + classes[codes[:n]]

    detector = HGADDetector(random_state=0).fit(rows(n_rows, 1), codes[:n_rows].astype(str))
    fresh = rows(300, 2)
    assert (detector.predict(fresh) == -1).mean() < 0.1
    assert (detector.predict_class(fresh) == codes.astype(str)).mean() > 0.95
    fresh[:, :100] += np.random.default_rng(3).normal(size=(300, 100)) * 2
    assert (detector.predict(fresh) == -1).mean() > 0.9
    level = detector.model_.model.levels[0]
    latent, _ = level.start(torch.from_numpy(rows(n_rows, 1)))
    # The class means lie on the axes, too; the rows but for rounding. Fresh ones have about 25.
    assert latent[:, -1].abs().max() < 1e-2


def test_broken_relations_between_features_are_anomalies():
    def related(n, seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(0, 1, (n, 3))
        sums = np.stack([x[:, 0] + x[:, 1], x[:, 1] + x[:, 2]], 1)
        return np.concatenate([x, sums + rng.normal(0, 0.01, (n, 2))], 1)

    detector = HGADDetector(random_state=0).fit(related(300, 0))
    anomalies = related(200, 1)
    anomalies[:, 3:] += 0.1 * np.random.default_rng(2).choice([-1, 1], (200, 2))
    assert auroc(detector, related(300, 3), anomalies) >= 0.99


@pytest.mark.parametrize("noise", [0, 1e-13, 1e-8])
@pytest.mark.parametrize(
    "distinct", [np.eye(2)[:, :1], np.eye(4), np.random.default_rng(0).normal(size=(3, 5))]
)
def test_rows_of_a_few_kinds_are_normal_and_others_are_not(distinct, noise):
    rng = np.random.default_rng(0)

    def rows(n):
        kinds = distinct[rng.permutation(np.arange(n) % len(distinct))]
        return kinds + noise * rng.normal(size=kinds.shape)

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # for which a user has no mend
        detector = HGADDetector(random_state=0).fit(rows(100))
    assert (detector.predict(rows(100)) == 1).mean() >= 0.9
    assert (detector.predict(distinct + 0.5) == -1).all()


def test_features_that_are_constant_or_sums_of_others_cost_nothing():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 150)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1) + rng.normal(0, 0.05, (150, 2))
    for added in (np.full(150, 7.0), circle.sum(1)):
        wider = np.column_stack([circle, added])
        detector = HGADDetector(validation_fraction=0.2, random_state=0).fit(wider)
        assert detector.n_components_ > 1
        assert detector.predict([[0, 0, added[0] if added.std() == 0 else 0]]) == -1


@pytest.mark.parametrize("n_features", [1, 2, 8])
def test_a_score_depends_on_no_other_row(n_features):
    constant = HGADDetector(random_state=0).fit(np.full((50, n_features), 0.1))
    row = np.full((1, n_features), 0.3)
    few, many = (constant.score_samples(np.repeat(row, n, 0)) for n in (3, 50))
    assert set(few) == set(many)
    assert len(set(few)) == 1


def test_a_score_of_kernels_depends_on_no_other_row(mixed):
    detector, fresh = mixed
    alone = np.concatenate([detector.score_samples(row[None]) for row in fresh[::5]])
    np.testing.assert_allclose(detector.score_samples(fresh)[::5], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("max_iter", [0, 2])
def test_wide_tables_of_several_classes_are_trained_and_extended(max_iter):
    X, y = np.concatenate([wide_table(30, 200), wide_table(30, 200, seed=1) + 5]), ["a", "b"]
    y = np.repeat(y, 30)
    detector = HGADDetector(max_iter=max_iter, random_state=0).fit(X, y)
    assert (detector.predict_class(X) == y).all()
    detector.add_class(wide_table(30, 200, seed=2) - 5, "c")
    assert (detector.predict_class(wide_table(10, 200, seed=3) - 5) == "c").all()
    assert (detector.predict_class(X) == y).all()
