"""`add_class`: new products for a fitted detector."""

import copy
import pickle

import numpy as np
import pytest
import torch
from backbones import two_levels
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.scoring.calibration import threshold

_AXES = {"bolt": 0, "nut": 1, "clip": 2, "pin": 3}


def vectors(names, n=60, seed=0):
    """Normal samples of products that lie 8 apart, each with spreads of its own, and labels."""
    rng = np.random.default_rng(seed)
    X = [
        8 * np.eye(6)[_AXES[name]]
        + rng.normal(0, 1, (n, 6)) * np.roll([2, 1, 1, 1, 1, 0.5], _AXES[name])
        for name in names
    ]
    return np.concatenate(X), np.repeat(names, n)


def plates(names, n=25, seed=0):
    """Noisy plates, 48 x 48, uint8 RGB, of one colour a product, and labels."""
    colours = {"bolt": (90, 90, 90), "nut": (150, 120, 90), "clip": (70, 130, 160)}
    rng = np.random.default_rng(seed)
    images = [colours[name] + rng.normal(0, 8, (n, 48, 48, 3)) for name in names]
    return np.clip(np.concatenate(images), 0, 255).astype(np.uint8), np.repeat(names, n)


def fit_vectors(**parameters):
    parameters = {"max_iter": 1, "n_blocks": 2, "random_state": 0, **parameters}
    return HGADDetector(**parameters).fit(*vectors(["bolt", "nut"]))


def fit_images(**parameters):
    parameters = {
        "out_indices": (0, 1), "image_size": 48, "max_iter": 1, "n_blocks": 1,
        "random_state": 0, **parameters,
    }  # fmt: skip
    return HGADDetector(two_levels(), **parameters).fit(*plates(["bolt", "nut"]))


@pytest.fixture(scope="module")
def fitted():
    return fit_vectors()


@pytest.fixture(scope="module")
def fitted_images():
    return fit_images()


def extended(detector, make, names=("clip",)):
    return copy.deepcopy(detector).add_class(*make(list(names), seed=5))


@pytest.mark.parametrize("criterion", ["likelihood", "likelihood_entropy", "entropy"])
@pytest.mark.parametrize("normalization", ["standardized", "exponential"])
@pytest.mark.once
def test_known_classes_score_exactly_as_before(criterion, normalization):
    detector = fit_vectors(criterion=criterion, map_normalization=normalization)
    X, labels = vectors(["bolt", "nut"], seed=1)
    before = detector.score_samples(X, class_labels=labels)
    # "clip" sorts between the known classes, "pin" behind them
    detector.add_class(*vectors(["pin", "clip"], seed=5))
    assert detector.classes_.tolist() == ["bolt", "clip", "nut", "pin"]
    np.testing.assert_array_equal(detector.score_samples(X, class_labels=labels), before)


def test_known_products_keep_scores_and_maps_exactly(fitted_images):
    X, labels = plates(["bolt", "nut"], seed=1)
    detector = extended(fitted_images, plates)
    before, after = (
        d.inspect(X, class_labels=labels, maps=True) for d in (fitted_images, detector)
    )
    np.testing.assert_array_equal(after.score, before.score)
    np.testing.assert_array_equal(after.p_value, before.p_value)
    np.testing.assert_array_equal(after.maps, before.maps)


def test_a_new_class_is_recognized_and_its_defects_are_found(fitted):
    detector = extended(fitted, vectors)
    X, labels = vectors(["bolt", "nut", "clip"], n=100, seed=2)
    assert np.mean(fitted.predict(X[labels == "clip"]) == -1) > 0.95
    assert np.mean(detector.predict_class(X) == labels) > 0.98
    own = X[labels == "clip"]
    assert np.mean(detector.predict(own) == -1) < 0.25
    assert np.mean(detector.predict(own + [0, 0, 0, 6, 0, 0]) == -1) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("n_new", [1, 2])
def test_known_classes_are_told_from_their_anomalies_as_well_as_before(fitted, n_new):
    """Class inferred: some of their samples are now compared with the new classes, too."""
    detector = extended(fitted, vectors, ["clip", "pin"][:n_new])
    normal, labels = vectors(["bolt", "nut"], n=300, seed=3)
    anomalous = normal + np.random.default_rng(4).normal(0, 1.5, normal.shape)
    X, truth = np.concatenate([normal, anomalous]), np.repeat([1, 0], len(normal))
    before, after = fitted.score_samples(X), detector.score_samples(X)
    for name in ("bolt", "nut"):
        own = np.tile(labels == name, 2)
        known = roc_auc_score(truth[own], before[own])
        assert 0.6 < known < 0.95  # neither hopeless nor without an error to make
        assert roc_auc_score(truth[own], after[own]) == pytest.approx(known, abs=0.01)


def test_a_new_product_is_recognized_and_its_defects_are_found(fitted_images):
    detector = extended(fitted_images, plates)
    X, labels = plates(["bolt", "nut", "clip"], seed=2)
    assert np.mean(detector.predict_class(X) == labels) > 0.98
    own = X[labels == "clip"]
    damaged = own.copy()
    damaged[:, 20:30, 8:18] = 255
    truth = np.repeat([1, 0], len(own))
    assert roc_auc_score(truth, detector.score_samples(np.concatenate([own, damaged]))) > 0.99
    assert np.mean(detector.predict(own) == -1) < 0.3
    for explanation in detector.explain(damaged, class_labels="clip"):
        assert explanation.class_label == "clip"
        assert 18 <= explanation.peak_position[0] < 32
        assert 6 <= explanation.peak_position[1] < 20


@pytest.mark.parametrize("make", [vectors, plates])
@pytest.mark.once
def test_saved_and_pickled_models_are_extended_alike(make, fitted, fitted_images, tmp_path):
    first = fitted if make is vectors else fitted_images
    backbone = {} if make is vectors else {"backbone": two_levels()}
    first.save(tmp_path / "first")
    X, _ = make(["bolt", "nut", "clip"], seed=3)
    expected = extended(first, make)
    scores = expected.score_samples(X)
    loaded = HGADDetector.load(tmp_path / "first", **backbone)
    for other in (loaded, pickle.loads(pickle.dumps(first))):
        np.testing.assert_allclose(extended(other, make).score_samples(X), scores, rtol=1e-6)
    expected.save(tmp_path / "second")
    again = HGADDetector.load(tmp_path / "second", **backbone)
    np.testing.assert_array_equal(again.score_samples(X), scores)
    np.testing.assert_array_equal(again.p_values(X), expected.p_values(X))
    assert again.classes_.tolist() == ["bolt", "clip", "nut"]
    assert again.offset_ == expected.offset_
    assert pickle.loads(pickle.dumps(again)).predict_class(X[-1:]).tolist() == ["clip"]


@pytest.mark.once
def test_classes_are_added_one_after_the_other_and_to_a_single_class(tmp_path):
    detector = HGADDetector(max_iter=0, random_state=0, criterion="likelihood_entropy")
    detector.fit(*vectors(["nut"]))
    for name in ("bolt", "clip"):
        detector.add_class(vectors([name], seed=4)[0], name)
    X, labels = vectors(["bolt", "clip", "nut"], seed=5)
    assert np.mean(detector.predict_class(X) == labels) > 0.95
    detector.save(tmp_path / "model")
    again = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))


@pytest.mark.once
def test_the_threshold_that_fit_chose_is_derived_anew_and_another_one_stays(fitted):
    detector = extended(fitted, vectors)
    scores = np.sort(detector.model_.calibration.scores)
    assert detector.offset_ == threshold(scores)
    assert detector.offset_ == pytest.approx(scores[int(0.05 * (len(scores) + 1)) - 1], rel=1e-3)
    own = copy.deepcopy(fitted)
    own.offset_ = -3.5
    assert extended(own, vectors).offset_ == -3.5
    share = fit_vectors(contamination=0.1)
    assert extended(share, vectors).offset_ == share.offset_


def test_p_values_of_a_new_class_come_from_its_own_held_out_samples(fitted):
    detector = extended(fitted, vectors)
    smallest = detector.p_values([[99.0] * 6], class_labels="clip")
    assert smallest == pytest.approx(1 / 61)  # all are judged, by models without them
    codes, counts = np.unique(detector.model_.calibration.codes, return_counts=True)
    assert (codes.tolist(), counts.tolist()) == ([0, 1, 2], [12, 60, 12])


def test_a_class_too_small_to_hold_samples_out_borrows_the_scale(fitted):
    detector = copy.deepcopy(fitted)
    X, _ = vectors(["clip"], n=4, seed=5)
    with pytest.warns(UserWarning, match="fewer than 5 normal samples.*other classes' held-out"):
        detector.add_class(X, "clip")
    fresh, _ = vectors(["clip"], n=50, seed=6)
    assert np.isfinite(detector.score_samples(fresh)).all()
    assert np.mean(detector.predict_class(fresh) == "clip") > 0.9


def test_without_a_validation_fraction_training_samples_calibrate():
    detector = fit_vectors(validation_fraction=0)
    detector = extended(detector, vectors)
    assert (detector.model_.calibration.codes == 1).sum() == 60


@pytest.mark.slow
def test_known_anomalies_are_left_out(fitted):
    X, labels = vectors(["clip"], seed=5)
    spoilt = np.concatenate([X, np.full((5, 6), 40.0)])
    marked = copy.deepcopy(fitted).add_class(spoilt, [*labels, *["-1"] * 5])
    fresh, _ = vectors(["clip"], seed=6)
    expected = copy.deepcopy(fitted).add_class(X, labels).score_samples(fresh)
    np.testing.assert_allclose(marked.score_samples(fresh), expected)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ("nut", r"knows: \['nut'\]. More normals of these are for update"),
        (["bolt", "clip"] * 5, r"knows: \['bolt'\]"),
        (3, "of another type"),
        (["clip"] * 9, "9 labels but X has 10 samples"),
        (None, "add_class needs y"),
        ("-1", "known anomalies"),
    ],
)
def test_labels_that_cannot_be_added_are_named(fitted, y, message):
    with pytest.raises(ValueError, match=message):
        copy.deepcopy(fitted).add_class(np.zeros((10, 6)), y)


def test_unit_covariances_cannot_be_extended():
    detector = fit_vectors(class_covariance=False, max_iter=0)
    with pytest.raises(ValueError, match="class_covariance=True"):
        detector.add_class(*vectors(["clip"]))


def test_an_unfitted_detector_or_another_kind_of_data_is_refused(fitted):
    with pytest.raises(NotFittedError):
        HGADDetector().add_class([[0.0]], "clip")
    with pytest.raises(ValueError, match="4 features"):
        copy.deepcopy(fitted).add_class(np.zeros((10, 4)), "clip")
    with pytest.raises(ValueError, match="fitted on feature vectors"):
        copy.deepcopy(fitted).add_class(np.zeros((10, 8, 8)), "clip")


def test_an_error_half_way_leaves_the_detector_as_it_was(fitted, monkeypatch):
    detector = copy.deepcopy(fitted)
    X, _ = vectors(["bolt", "nut"], seed=1)
    before = detector.score_samples(X), detector.p_values(X), detector.offset_
    state = dict(vars(detector))

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("skhgad.fitting.add_class.calibrate_new_classes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detector.add_class(*vectors(["clip"]))
    assert vars(detector) == state
    assert detector.classes_.tolist() == ["bolt", "nut"]
    after = detector.score_samples(X), detector.p_values(X), detector.offset_
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", [vectors, plates])
def test_the_new_model_shares_no_memory_with_the_old(make, fitted, fitted_images):
    """Both are changed in place later, by `update` or when they move to a device."""
    old = fitted if make is vectors else fitted_images
    before = {name: values.clone() for name, values in old.model_.model.state_dict().items()}
    new = copy.copy(old).add_class(*make(["clip"], n=20, seed=1))
    found = [
        {values.data_ptr() for values in one.model_.model.state_dict().values() if values.numel()}
        for one in (old, new)
    ]
    assert len(found[0]) > 10 and not found[0] & found[1]
    after = old.model_.model.state_dict()
    assert all(torch.equal(values, after[name]) for name, values in before.items())


def raw_covariances(level):
    """Covariances of class 1 and of its background, in the space of raw features."""
    densities, matrix = level.densities, torch.linalg.inv(level.start.matrix.double())
    whitener = densities.background_whitener
    if len(densities.own_background_whiteners):
        whitener = densities.own_background_whiteners[0]
    background = torch.linalg.inv((whitener @ whitener.T).double())
    return [matrix.T @ found @ matrix for found in (densities.mixture_of(1)[2][0], background)]


def raw_axes(level, code):
    """The three widest axes along which kept vectors of a class are compared, (n_features, 3)."""
    return level.start.matrix @ level.nearest.axes_of_class(code)[:, :3]


@pytest.mark.once
def test_a_new_product_scores_nearly_as_in_a_fit_on_everything():
    """In closed form: its covariance is shrunk, and its background is, as if it had been there."""
    X, labels = plates(["bolt", "nut", "clip"])
    is_new = labels == "clip"
    parameters = {"out_indices": (0, 1), "image_size": 48, "random_state": 0}
    detector = HGADDetector(two_levels(), **parameters).fit(X[~is_new], labels[~is_new])
    known = copy.deepcopy(detector)
    detector.add_class(X[is_new], "clip")
    whole = HGADDetector(two_levels(), **parameters).fit(X, labels)
    pairs = zip(detector.model_.model.levels, whole.model_.model.levels, strict=True)
    for level, of_whole in pairs:
        for found, expected in zip(raw_covariances(level), raw_covariances(of_whole), strict=True):
            gap = torch.linalg.norm(found - expected) / torch.linalg.norm(expected)
            assert gap < 0.05
        own, old, expected = raw_axes(level, 1), raw_axes(level, 0), raw_axes(of_whole, 1)
        assert (own - expected).norm() < 0.2 * (old - expected).norm()
    fresh, names = plates(["bolt", "nut", "clip"], n=20, seed=3)
    fresh[::2, 20:23, 8:11] += 40
    scores = [d.score_samples(fresh[names == "clip"]) for d in (detector, whole)]
    assert np.corrcoef(*scores)[0, 1] > 0.98
    others = names != "clip"
    np.testing.assert_array_equal(
        detector.score_samples(fresh[others], class_labels=names[others]),
        known.score_samples(fresh[others], class_labels=names[others]),
    )


@pytest.mark.once
def test_own_backgrounds_are_saved_and_forgotten(tmp_path):
    fitted = fit_images(max_iter=0)
    detector = extended(fitted, plates)
    densities = detector.model_.model.levels[0].densities
    assert densities.own_backgrounds.tolist() == [0, 1, 0]
    detector.save(tmp_path / "model")
    X, _ = plates(["bolt", "nut", "clip"], n=5, seed=3)
    again = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))
    without = again.forget("clip").model_.model.levels[0].densities
    assert without.own_backgrounds.tolist() == [0, 0] and not len(without.own_background_log_dets)


def test_a_cell_that_is_no_measurement_takes_no_part(tmp_path):
    detector = HGADDetector(random_state=0).fit(*vectors(["bolt", "nut"]))
    X, y = vectors(["clip"])
    X[3, 4] = -9999
    with pytest.warns(UserWarning, match=r"X\[3, 4\] = -9999: .*take no part"):
        detector.add_class(X, y)
    fresh, _ = vectors(["clip"], 300, seed=1)
    assert (detector.predict(fresh + [0, 0, 0, 0, 9, 0]) == -1).mean() > 0.9
    assert (detector.predict(fresh) == -1).mean() < 0.1
    calibration = detector.model_.calibration
    assert (calibration.codes == 1).sum() == 60  # bolt, clip, nut
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    assert (loaded.model_.kept.codes == 1).sum() == 60
