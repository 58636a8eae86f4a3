"""Modes of a class of pictures: when they are found, and that all that follows knows them."""

import numpy as np
import onnxruntime
import pytest
import torch
from backbones import two_levels
from sklearn.metrics import roc_auc_score
from small_pictures import draw

from skhgad import HGADDetector
from skhgad.fitting import add_class as extensions
from skhgad.fitting import recipe as recipes
from skhgad.fitting.map_shrinkage import MapShrinkage
from skhgad.fitting.new_map_classes import NewClassFrame
from skhgad.fitting.picture_modes import PictureModes
from skhgad.validation import check_scored_X

SIDE = 32
SMALL = dict(image_size=SIDE, image_scales=(1.0,), random_state=0)
BARE = dict(SMALL, backbone=two_levels(), bank_size=0)  # the Gaussians alone


def grey(n, *values, seed=0, side=SIDE):
    """Return noisy pictures of these grey values in turn."""
    values = np.resize(values, n)[:, None, None, None]
    noise = np.random.default_rng(seed).normal(0, 12, (n, side, side, 3))
    return (values + noise).clip(0, 255).astype(np.uint8)


def noise(n, seed=0):
    """Return pictures of noise, another product."""
    return np.random.default_rng(seed).integers(0, 255, (n, SIDE, SIDE, 3)).astype(np.uint8)


def test_a_picture_between_two_variants_is_strange():
    """One Gaussian of both takes it for a normal one."""
    fresh, odd = grey(60, 105, 135, seed=1), grey(60, 120, seed=2)
    y, areas = np.repeat([1, 0], 60), []
    for n_components in (1, "auto"):
        detector = HGADDetector(**BARE, n_components=n_components).fit(grey(60, 105, 135))
        scores = detector.score_samples(np.concatenate((fresh, odd)))
        areas.append(roc_auc_score(y, scores))
        assert (detector.predict(fresh) == -1).mean() < 0.15
    assert (detector.n_components_ == 2).all()
    assert areas[1] > 0.98 and areas[0] < 0.92, areas


@pytest.mark.parametrize("parameters", [{"n_components": 1}, {"max_iter": 1}])
def test_modes_are_found_only_where_they_are_asked_for(parameters):
    detector = HGADDetector(**BARE).set_params(**parameters).fit(grey(24, 60, 180))
    assert (detector.n_components_ == 1).all()


def test_pictures_that_look_alike_are_one_mode():
    rng = np.random.default_rng(0)
    images = np.stack([draw(rng, product) for product in ("stripe", "checker") for _ in range(30)])
    detector = HGADDetector(**BARE).fit(images, np.repeat(["a", "b"], 30))
    assert (detector.n_components_ == 1).all()


def test_modes_that_do_not_make_pictures_likelier_are_left(monkeypatch):
    def halves(samples, seed):
        return PictureModes(np.arange(len(samples.codes)) % 2, np.zeros(2, dtype=int))

    monkeypatch.setattr(recipes, "find_picture_modes", halves)
    images = np.random.default_rng(0).integers(0, 80, (40, SIDE, SIDE, 3)).astype(np.uint8)
    assert (HGADDetector(**BARE).fit(images).n_components_ == 1).all()
    images[::2, ::2] += 120  # and where they do, they stay
    assert (HGADDetector(**BARE).fit(images).n_components_ == 2).all()


@pytest.mark.parametrize("n_classes", [1, 2])
def test_left_out_evidence_is_that_of_models_fitted_without_the_samples(n_classes, monkeypatch):
    images = np.random.default_rng(0).integers(0, 80, (60, SIDE, SIDE, 3)).astype(np.uint8)
    images[:20, ::2] += 90
    images[40:, :, ::2] += 60
    y, found = np.repeat(["a", "b"], [40, 20]), []
    images, y = images[: 20 + 20 * n_classes], y[: 20 + 20 * n_classes]
    modes = PictureModes(np.arange(len(y)) // 20, np.array([0, 0, 1])[: n_classes + 1])
    monkeypatch.setattr(recipes, "find_picture_modes", lambda samples, seed: modes)
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(recipes.Recipe, "_leaves_folds_out", lambda self: False)
        detector = HGADDetector(**BARE).fit(images, y)
        assert (detector.n_components_[:, 0] == 2).all()
        calibration = detector.model_.calibration
        order = np.lexsort((calibration.given_scores, calibration.codes))
        found.append(
            [
                calibration.given_scores[order],
                np.sort(calibration.scores),
                np.sort(calibration.typicality),
                detector.score_samples(images),
            ]
        )
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_the_density_is_that_of_the_two_nearest_modes():
    """By a plain formula in float64."""
    detector = HGADDetector(**BARE).fit(grey(60, 60, 120, 200))
    densities = detector.model_.model.levels[0].densities
    assert densities.center_counts.tolist() == [3]
    centers, log_weights, covariances = (part.numpy() for part in densities.mixture_of(0))
    noise = np.random.default_rng(0).normal(size=(6, 5, centers.shape[1]))
    z = np.repeat(centers, 2, axis=0)[:, None] + noise
    expected = []
    for center, log_weight, covariance in zip(centers, log_weights, covariances, strict=True):
        apart = z - center
        distances = np.einsum("npi,ij,npj->np", apart, np.linalg.inv(covariance), apart)
        expected.append(log_weight - 0.5 * distances - 0.5 * np.linalg.slogdet(covariance)[1])
    apart = densities.distances_to_centers(torch.from_numpy(z.mean(1)).float(), 0).numpy()
    far = apart.argmax(1)
    expected = np.stack(expected)
    expected[far, np.arange(6)] = -np.inf
    assert len(set(far.tolist())) > 1
    found = densities.log_density_in_modes(torch.from_numpy(z).float(), 0)
    np.testing.assert_allclose(found, np.logaddexp.reduce(expected), rtol=1e-3)


def test_a_model_with_modes_is_saved_and_exported(tmp_path):
    fitted = HGADDetector(**SMALL | {"image_size": 64}).fit(grey(40, 60, 180, side=64))
    assert (fitted.n_components_ == 2).any()
    fresh = grey(8, 60, 100, 180, seed=2, side=64)
    scores = fitted.score_samples(fresh)
    fitted.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(fresh), scores)
    np.testing.assert_array_equal(loaded.n_components_, fitted.n_components_)
    fitted.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (name,) = [node.name for node in session.get_inputs()]
    exported = session.run(["score"], {name: fresh})[0]
    np.testing.assert_allclose(exported, scores, rtol=1e-3, atol=1e-3)


def test_update_counts_new_pictures_into_their_modes():
    """The Gaussian of each mode is that of old and new pictures together."""
    images = grey(80, 60, 180)
    given = {"validation_fraction": 0.0, "whitening_shrinkage": 0.1}
    detector = HGADDetector(**BARE, **given).fit(images[:50]).update(images[50:])
    level, reader = detector.model_.model.levels[0], detector.feature_reader()
    X = check_scored_X(images, detector, takes_images=True)
    z = torch.cat([level.latent(features[0])[0] for features, _ in reader.batches(X)]).double()
    centers, log_weights, covariances = level.densities.mixture_of(0)
    torch.testing.assert_close(log_weights.exp(), torch.tensor([0.5, 0.5]).double())
    for center, found in zip(centers, covariances, strict=True):
        own = min(z[::2], z[1::2], key=lambda half: (half.mean((0, 1)) - center).norm())
        vectors = own.flatten(0, 1)
        torch.testing.assert_close(center, vectors.mean(0), rtol=1e-3, atol=1e-4)
        expected, share = torch.cov(vectors.T, correction=0), float(level.densities.shrinkages[0])
        mean = expected.trace() / len(expected)
        expected = (1 - share) * expected + share * mean * torch.eye(len(expected))
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3 * float(mean))


def test_other_products_come_and_go_beside_modes():
    detector = HGADDetector(**BARE).fit(grey(40, 60, 180), np.full(40, "plate"))
    fresh = grey(10, 60, 180, seed=4)
    before = detector.score_samples(fresh)
    other = noise(20)
    detector.add_class(other, "noise")
    assert detector.n_components_.tolist() == [[1, 2]]
    assert detector.predict_class(other).tolist() == ["noise"] * 20
    np.testing.assert_allclose(detector.score_samples(fresh), before, rtol=1e-5)
    detector.forget("noise")
    np.testing.assert_allclose(detector.score_samples(fresh), before, rtol=1e-5)


def test_a_class_that_joins_has_the_modes_of_a_fit_on_everything():
    images, given = grey(60, 105, 135), BARE | {"validation_fraction": 0.0}
    known, labels = np.full(20, "noise"), np.repeat(["noise", "plate"], [20, 60])
    one = HGADDetector(**given).fit(noise(20), known).add_class(images, "plate")
    other = HGADDetector(**given).fit(np.concatenate((noise(20), images)), labels)
    for detector in (one, other):
        assert detector.n_components_.tolist() == [[1, 2]]
    (centers, weights, covariances), expected = (raw_mixture(detector) for detector in (one, other))
    nearest = torch.cdist(centers, expected[0]).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1]
    for found, of_whole in ((centers, expected[0]), (covariances, expected[2])):
        gap = torch.linalg.norm(found - of_whole[nearest]) / torch.linalg.norm(of_whole)
        assert gap < 0.02
    torch.testing.assert_close(weights, expected[1][nearest])


def raw_mixture(detector):
    """Mixture of class 1 in the space of raw features."""
    level = detector.model_.model.levels[0]
    matrix = torch.linalg.inv(level.start.matrix.double())
    centers, log_weights, covariances = level.densities.mixture_of(1)
    return centers @ matrix + level.start.mean, log_weights, matrix.T @ covariances @ matrix


def test_a_class_that_joins_with_modes_is_told_saved_updated_and_forgotten(tmp_path):
    fresh, odd = grey(60, 105, 135, seed=1), grey(60, 120, seed=2)
    both, y = np.concatenate((fresh, odd)), np.repeat([1, 0], 60)
    detector = HGADDetector(**BARE).fit(noise(20), np.full(20, "noise"))
    others = detector.score_samples(noise(10, seed=1))
    detector.add_class(grey(60, 105, 135), "plate")
    scores = detector.score_samples(both)
    assert roc_auc_score(y, scores) > 0.98
    assert detector.predict_class(fresh).tolist() == ["plate"] * 60
    assert (detector.p_values(fresh) < 0.1).mean() < 0.2
    assert (detector.p_values(odd) < 0.1).mean() > 0.9
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    np.testing.assert_array_equal(loaded.score_samples(both), scores)
    loaded.update(grey(40, 105, 135, seed=3), "plate")
    assert loaded.n_components_.tolist() == [[1, 2]]
    assert roc_auc_score(y, loaded.score_samples(both)) > 0.98
    loaded.forget("plate")
    np.testing.assert_array_equal(loaded.score_samples(noise(10, seed=1)), others)


@pytest.mark.parametrize("n_components, fraction, expected", [(1, "auto", 1), ("auto", 0.2, 2)])
def test_modes_of_a_class_that_joins_are_those_of_its_parameters(n_components, fraction, expected):
    given = {"n_components": n_components, "validation_fraction": fraction}
    detector = HGADDetector(**BARE, **given).fit(noise(20), np.full(20, "noise"))
    detector.add_class(grey(60, 60, 180), "plate")
    assert detector.n_components_.tolist() == [[1, expected]]


def test_a_mode_that_joins_may_lie_in_one_fold_or_have_no_spread(monkeypatch):
    images = grey(40, 60)
    images[20] = grey(1, 180)[0]
    modes = [{0: (np.arange(40) == 20).astype(int)}]
    monkeypatch.setattr(extensions, "modes_of_new_classes", lambda *arguments: modes)
    detector = HGADDetector(**BARE).fit(noise(20), np.full(20, "noise"))
    frame = NewClassFrame(detector.model_.model.levels[0], MapShrinkage(0.1))
    detector.add_class(images, "plate")
    assert detector.n_components_.tolist() == [[1, 2]]
    assert np.isfinite(detector.score_samples(images)).all()
    wide = torch.eye(len(frame.round_raw), dtype=torch.float64)
    for covariance in frame.shrunk([0 * wide, wide], wide / 2, 1000):
        assert torch.linalg.eigvalsh(covariance).min() > 1e-3


def test_the_class_of_a_picture_is_that_of_its_nearest_mode():
    """The mean of a product of two far variants lies at another product."""
    images = np.concatenate((grey(40, 60, 180), grey(20, 120, seed=1)))
    detector = HGADDetector(**BARE).fit(images, np.repeat(["a", "b"], [40, 20]))
    fresh = np.concatenate((grey(20, 60, 180, seed=2), grey(10, 120, seed=3)))
    assert detector.predict_class(fresh).tolist() == ["a"] * 20 + ["b"] * 10
