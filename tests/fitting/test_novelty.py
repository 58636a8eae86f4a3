"""Feature vectors that a model keeps, and what the distance to the nearest of them counts."""

import copy

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from skhgad import HGADDetector
from skhgad.storage.detector_state import pack, unpack


def classes(rng, means, n, spread):
    """Draw n vectors of each class; `spread` (n_features,) is shared."""
    noise = rng.normal(size=(len(means), n, means.shape[1])) * spread
    return (means[:, None] + noise).reshape(-1, means.shape[1])


def kept(detector):
    return detector.model_.model.levels[0].nearest


def novelty_of(detector, X):
    """What the novelty adds to the anomaly scores, from the evidence."""
    model = detector.model_.model
    x = model.levels[0].start.mean.new_tensor(np.asarray(X))[:, None]
    return model.novelty_term(model.evidence([x])).numpy()


def auroc(detector, normal, anomalies):
    scores = -detector.score_samples(np.concatenate((normal, anomalies)))
    return roc_auc_score(np.repeat([0, 1], [len(normal), len(anomalies)]), scores)


def test_it_is_the_logarithm_of_the_distance_to_the_nearest_row():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4)) * [1, 10, 0.1, 3] + [0, 100, 0, -5]
    detector = HGADDetector(random_state=0).fit(X)
    assert detector.model_.model.levels[0].start.powers is None
    new, spread = rng.normal(size=(50, 4)) * [1, 10, 0.1, 3] + [0, 100, 0, -5], X.std(0)
    search = NearestNeighbors(n_neighbors=1).fit(X / spread)
    usual = np.median(search.kneighbors()[0])
    expected = np.log(search.kneighbors(new / spread)[0][:, 0] / usual + 0.05)
    found = novelty_of(detector, new)
    weight = float(detector.model_.model.novelty_weight)
    assert weight > 0
    location = float(detector.model_.model.novelty_location)
    np.testing.assert_allclose(found, weight * (expected - location), atol=0.02 * weight)


def clusters(rng, centers, n):
    """Draw n vectors of each class, each of one of its `centers` (n_classes, n_centers, d)."""
    chosen = rng.integers(0, centers.shape[1], size=(len(centers), n))
    vectors = np.take_along_axis(centers, chosen[..., None], axis=1)
    return (vectors + 0.4 * rng.normal(size=vectors.shape)).reshape(-1, centers.shape[2])


def test_an_unknown_class_is_found_that_densities_of_few_rows_hide():
    """Twenty rows of twelve features are too few to find five clusters in them."""
    with_rows, without = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(9, 5, 12))
        X, y = clusters(rng, centers[:6], 20), np.repeat(np.arange(6), 20)
        normal, odd = clusters(rng, centers[:6], 30), clusters(rng, centers[6:], 60)
        for bank_size, found in ((3000, with_rows), (0, without)):
            detector = HGADDetector(bank_size=bank_size, random_state=0).fit(X, y)
            found.append(auroc(detector, normal, odd))
    assert np.mean(with_rows) > np.mean(without) + 0.02, (with_rows, without)


def test_rows_of_the_fit_do_not_look_more_usual_because_they_are_kept():
    rng = np.random.default_rng(0)
    X, fresh = rng.normal(size=(2, 300, 5))
    detector = HGADDetector(random_state=0).fit(X)
    seen, new = novelty_of(detector, X), novelty_of(detector, fresh)
    assert abs(np.median(seen) - np.median(new)) < 0.3 * new.std()
    # They would, if each were compared with itself.
    assert np.median(new) > 5 * np.log(0.05) * float(detector.model_.model.novelty_weight) / 6


def test_where_rows_repeat_a_new_copy_is_well_known():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, size=(120, 4)).astype(float)
    detector = HGADDetector(random_state=0).fit(X)
    assert bool(kept(detector).has_copies)
    single = [row for row in np.unique(X, axis=0) if (X == row).all(1).sum() == 1]
    assert (novelty_of(detector, single) < novelty_of(detector, np.array(single) + 0.4)).all()
    smooth = HGADDetector(random_state=0).fit(rng.normal(size=(120, 4)))
    assert not bool(kept(smooth).has_copies)


@pytest.mark.parametrize(
    "parameters, shape",
    [
        ({"bank_size": 0}, (100, 5)),
        ({"bank_size": 99}, (100, 5)),
        ({"contamination": 0.05}, (100, 5)),
        ({"map_normalization": "exponential"}, (100, 5)),
        ({}, (200, 129)),
        ({}, (10_001, 2)),
    ],
)
def test_tables_that_are_not_kept(parameters, shape):
    X = np.random.default_rng(0).normal(size=shape)
    detector = HGADDetector(n_components=1, random_state=0, **parameters).fit(X)
    assert kept(detector) is None and float(detector.model_.model.novelty_weight) == 0
    assert detector.model_.calibration.peaks.shape[1] <= 2


def test_rows_that_are_all_alike_are_not_kept():
    detector = HGADDetector(random_state=0).fit(np.ones((30, 3)))
    assert kept(detector) is None
    assert detector.predict([[1, 1, 1], [1, 1, 2]]).tolist() == [1, -1]


@pytest.fixture(scope="module")
def products():
    rng = np.random.default_rng(0)
    means, spread = 3 * rng.normal(size=(5, 6)), np.linspace(0.3, 2, 6)
    return lambda code, n, seed: classes(
        np.random.default_rng(seed), means[code : code + 1], n, spread
    )


@pytest.fixture(scope="module")
def of_three(products):
    X = np.concatenate([products(code, 40, code) for code in range(3)])
    return HGADDetector(random_state=0).fit(X, np.repeat(["a", "c", "d"], 40))


def test_more_normals_and_new_classes_join_the_rows(of_three, products):
    detector = copy.deepcopy(of_three).update(products(0, 25, 10), "a")
    assert kept(detector).counts.tolist() == [65, 40, 40]
    detector.add_class(products(3, 30, 11), "b")
    assert detector.classes_.tolist() == ["a", "b", "c", "d"]
    assert kept(detector).counts.tolist() == [65, 30, 40, 40]
    assert kept(detector).axes.shape == (1, 6, 6)
    for code in (0, 3):  # fresh normals are as well known as those of the fit
        fresh = novelty_of(detector, products(code, 300, 12))
        usual = novelty_of(detector, products(1, 300, 13))
        assert abs(np.median(fresh) - np.median(usual)) < usual.std()
    assert np.median(novelty_of(detector, products(4, 100, 14))) > 1.5 * usual.std()
    fresh = np.concatenate([products(code, 200, 15) for code in range(4)])
    assert (detector.predict(fresh) == -1).mean() < 0.12
    detector.forget("a")
    assert kept(detector).counts.tolist() == [30, 40, 40]


def test_the_model_before_does_not_change_with_new_classes(of_three, products):
    before = of_three.score_samples(products(0, 20, 20))
    rows = kept(of_three).vectors.clone()
    copy.deepcopy(of_three).add_class(products(3, 30, 11), "b")
    np.testing.assert_array_equal(of_three.score_samples(products(0, 20, 20)), before)
    assert (kept(of_three).vectors == rows).all()


def test_an_explanation_names_it():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(9, 5, 12))
    X, y = clusters(rng, centers[:6], 20), np.repeat(np.arange(6), 20)
    detector, odd = HGADDetector(random_state=0).fit(X, y), clusters(rng, centers[6:], 60)
    found = detector.explain(odd)
    terms, scores = np.array([one.term for one in found]), np.array([one.score for one in found])
    novelty = novelty_of(detector, odd)
    assert set(terms) == {"likelihood", "novelty"}
    np.testing.assert_array_equal(terms == "novelty", novelty > -scores - novelty)
    assert all(one.level == 0 for one in found)


def test_a_far_class_is_kept_as_exactly_as_a_near_one():
    rng = np.random.default_rng(0)
    X = np.concatenate((rng.normal(size=(60, 3)), 1e6 + rng.normal(size=(60, 3))))
    detector = HGADDetector(random_state=0).fit(X, np.repeat(["near", "far"], 60))
    fresh = np.concatenate((rng.normal(size=(300, 3)), 1e6 + rng.normal(size=(300, 3))))
    found = novelty_of(detector, fresh).reshape(2, 300)
    assert abs(np.median(found[0]) - np.median(found[1])) < 0.5 * found.std()
    assert found[1].std() > 0.5 * found[0].std()


def test_a_model_of_before_rows_were_kept_is_loaded(of_three, products):
    tensors, description = pack(of_three)
    lacking = ("nearest", "novelty")
    older = {name: t for name, t in tensors.items() if not any(part in name for part in lacking)}
    assert 0 < len(older) < len(tensors)
    peaks = older["calibration.peaks"]
    older["calibration.peaks"] = peaks[:, :-1].clone()
    detector = unpack(HGADDetector, older, description, None)
    assert kept(detector) is None
    X = np.concatenate([products(code, 50, 30) for code in range(3)])
    scores = detector.score_samples(X)
    np.testing.assert_allclose(scores, of_three.score_samples(X) + novelty_of(of_three, X))
    detector.add_class(products(3, 30, 11), "b").update(products(0, 10, 31), "a")


def test_a_saved_model_scores_the_same(of_three, products, tmp_path):
    of_three.save(tmp_path / "model")
    X = products(4, 50, 30)
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(X), of_three.score_samples(X))
    wide = np.random.default_rng(0).normal(size=(25, 60))  # fewer rows than features
    detector = HGADDetector(random_state=0).fit(wide)
    detector.save(tmp_path / "wide")
    assert kept(detector).axes.shape == (1, 60, 32)
    loaded = HGADDetector.load(tmp_path / "wide")
    np.testing.assert_allclose(loaded.score_samples(wide), detector.score_samples(wide), rtol=1e-9)
