"""Normals that train and calibrate: folds, left-out evidence, scales, and the rates they give."""

import numpy as np
import pytest
import torch
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.fitting import recipe as recipes
from skhgad.fitting.class_scales import fit_class_scales, left_out_scores
from skhgad.fitting.folds import N_FOLDS, enough_to_hold_out, spare
from skhgad.fitting.mixture_choice import names_of


def spared(codes, fraction, *, enough=95, seed=0):
    return spare(codes, fraction, enough=enough, random_state=np.random.RandomState(seed))


def test_every_sample_of_a_class_is_in_one_fold_and_each_fold_has_its_share():
    codes = np.repeat([0, 1, 2], [5, 4, 23])
    groups = spared(codes, "cross")
    assert groups.shape == (N_FOLDS, 32)
    assert groups.sum(axis=0).tolist() == [1] * 5 + [0] * 4 + [1] * 23
    assert groups[:, codes == 0].sum(axis=1).tolist() == [1] * 5 + [0] * (N_FOLDS - 5)
    assert set(groups[:, codes == 2].sum(axis=1)) == {2, 3}
    assert spared(np.zeros(4, dtype=int), "cross").shape == (0, 4)


@pytest.mark.parametrize(
    ("counts", "enough", "n_groups"),
    [([94, 94, 900], 95, N_FOLDS), ([4, 20, 95], 95, N_FOLDS), ([95, 10, 95], 95, 1), ([9], 0, 1)],
)
def test_auto_crosses_where_half_of_the_classes_have_few(counts, enough, n_groups):
    codes = np.repeat(np.arange(len(counts)), counts)
    groups = spared(codes, "auto", enough=enough)
    assert len(groups) == n_groups
    if n_groups == 1:
        shares = np.bincount(codes[groups[0]], minlength=len(counts)) / counts
        np.testing.assert_allclose(shares, 0.2, atol=0.03)


@pytest.mark.parametrize(
    ("counts", "options", "enough"),
    [
        ([9], {"is_trained": True}, 0),
        ([100, 100], {"is_trained": False}, 400),  # of images
        ([100, 100], {"is_trained": False, "n_features": 200, "is_plain": False}, 400),
        ([100, 0, 30, 100], {"is_trained": False, "n_features": 201, "is_plain": False}, 95),
        ([100], {"is_trained": False, "n_features": 201}, 400),
    ],
)
def test_what_is_enough_depends_on_the_cost_of_a_fold(counts, options, enough):
    codes = np.repeat(np.arange(len(counts)), counts)
    assert enough_to_hold_out(codes, **options) == enough


@pytest.fixture(scope="module")
def plates():
    """Pictures of three products, one of them twice as bright in a corner."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, (36, 32, 32, 3)).astype(np.uint8)
    images[12:24, ::2] += 90
    images[24:, :, ::2] += 60
    return images, np.repeat(["a", "b", "c"], 12)


@pytest.mark.parametrize(("n_classes", "n_grey"), [(1, 0), (3, 0), (3, 12)])
def test_left_out_evidence_is_that_of_models_fitted_without_the_samples(
    plates, n_classes, n_grey, monkeypatch
):
    """From moments in one pass, and by fitting a model anew for each fold.

    Also where the pictures of a class are all grey, so that it has no spread.
    """
    images, y = plates
    images, y = images[: 12 * n_classes].copy(), y[: 12 * n_classes]
    images[:n_grey] = 90
    found = {}
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(recipes.Recipe, "_leaves_folds_out", lambda self: False)
        detector = HGADDetector(two_levels(), image_size=32, bank_size=0, random_state=0)
        detector.fit(images, y)
        calibration = detector.model_.calibration
        order = np.lexsort((calibration.given_scores, calibration.codes))
        found[at_once] = [
            calibration.given_scores[order],
            np.sort(calibration.scores),
            np.sort(calibration.typicality),
            detector.score_samples(images),
        ]
    for one, other in zip(found[True], found[False], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_grey_pictures_whose_features_lie_in_few_directions_calibrate():
    images = np.random.default_rng(0).integers(40, 120, (12, 1, 1, 1)).astype(np.uint8)
    images = images.repeat(32, 1).repeat(32, 2).repeat(3, 3)
    detector = HGADDetector(two_levels(), image_size=32, whitening_shrinkage=0.0, random_state=0)
    assert np.isfinite(detector.fit(images).model_.calibration.given_scores).all()


@pytest.mark.once
def test_products_that_look_the_same_keep_the_promise_of_the_threshold():
    """A picture taken for another product than its own is judged by models without it, too."""
    images = np.random.default_rng(0).normal(128, 20, (184, 64, 64, 3)).clip(0, 255)
    images, y = images.astype(np.uint8), [f"line {i % 7}" for i in range(84)]
    detector = HGADDetector(image_size=64, image_scales=(1.0,), random_state=0)
    calibration = detector.fit(images[:84], y).model_.calibration
    assert np.mean(calibration.inferred != calibration.codes) > 0.7
    assert np.mean(detector.predict(images[84:]) == -1) < 0.2


def test_the_closed_form_of_maps_is_what_visiting_all_latent_vectors_gives(plates, monkeypatch):
    images, y = plates
    fast = HGADDetector(two_levels(), image_size=32, random_state=0).fit(images, y)
    monkeypatch.setattr(recipes, "has_closed_form", lambda *args: False)
    slow = HGADDetector(two_levels(), image_size=32, random_state=0).fit(images, y)
    for one, other in zip(fast.model_.model.levels, slow.model_.model.levels, strict=True):
        torch.testing.assert_close(one.start.matrix, other.start.matrix, rtol=1e-3, atol=1e-3)
        ours, theirs = one.densities, other.densities
        torch.testing.assert_close(ours.locations, theirs.locations, rtol=1e-3, atol=1e-3)
        # Fourth moments are measured there, and those of a Gaussian here.
        torch.testing.assert_close(ours.whiteners, theirs.whiteners, rtol=0.1, atol=0.05)
        torch.testing.assert_close(
            ours.background_whitener, theirs.background_whitener, rtol=1e-3, atol=1e-3
        )


def test_normals_are_judged_by_models_that_did_not_see_them():
    """With more features than vectors, what a model has seen lies close to it."""
    X = np.random.default_rng(0).normal(size=(20, 60))
    crossed = HGADDetector(random_state=0).fit(X)
    seen = HGADDetector(random_state=0, validation_fraction=0).fit(X)
    fresh = np.random.default_rng(1).normal(size=(400, 60))
    assert np.mean(crossed.predict(fresh) == -1) < 0.12
    assert np.mean(seen.predict(fresh) == -1) > 0.3


def test_a_sample_does_not_help_to_measure_its_own_scale():
    rng = np.random.default_rng(0)
    peaks, codes = rng.gumbel(size=(12, 2)), np.zeros(12, dtype=int)
    weights = np.array([1.0, 0.5])
    found = left_out_scores(peaks, codes, weights)
    for row in range(12):
        others = np.arange(12) != row
        scales = fit_class_scales(peaks[others], codes[others], 1, weights)
        expected = scales.scores(peaks[[row]], codes[[row]], weights)
        assert found[row] == pytest.approx(expected[0])


def test_scales_are_medians_and_excesses_of_peaks_and_of_their_weighted_sum():
    peaks = np.array([[0.0, 10], [1, 10], [2, 10], [5, 10]])
    codes, weights = np.zeros(4, dtype=int), np.array([1.0, 2.0])
    scales = fit_class_scales(peaks, codes, 1, weights)
    assert scales.peak_location[:, 0].tolist() == [1.5, 10]
    assert scales.peak_scale[:, 0].tolist() == [2.0, 1]  # a term that never varies keeps its own
    expected = (peaks[:, 0] - 1.5) / 2
    above = expected[2:] - np.median(expected)
    assert scales.score_scale[0] == pytest.approx(above.mean())
    found = scales.scores(peaks, codes, weights)
    np.testing.assert_allclose(found, (expected - np.median(expected)) / above.mean())


@pytest.mark.parametrize(("n", "low", "high"), [(10, 0, 0.1), (20, 0.02, 0.08), (40, 0.03, 0.065)])
@pytest.mark.once
def test_the_default_threshold_keeps_its_rate_with_few_normals(n, low, high):
    """Four products of n vectors, mean over draws."""
    flagged = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        mixing = rng.normal(size=(4, 6, 6))

        def draw(n, rng=rng, mixing=mixing):
            X = [rng.normal(size=(n, 6)) @ mix + 8 * k for k, mix in enumerate(mixing)]
            return np.concatenate(X), np.repeat(["a", "b", "c", "d"], n)

        detector = HGADDetector(n_components=1, random_state=seed).fit(*draw(n))
        flagged.append(np.mean(detector.predict(draw(100)[0]) == -1))
    assert low <= np.mean(flagged) <= high


@pytest.mark.slow
def test_choices_are_told_from_the_densities():
    rng = np.random.default_rng(0)
    blobs = rng.normal(size=(90, 2)) * 0.1 + rng.integers(0, 2, (90, 1)) * 8
    ring = np.array(
        [[np.cos(t), np.sin(t)] for t in rng.permutation(np.linspace(0, 2 * np.pi, 300))]
    )
    X = np.concatenate([rng.normal(size=(60, 2)) + 40, blobs, ring * 9 - 60])
    y = np.repeat(["one", "two", "zring"], [60, 90, 300])
    densities = HGADDetector(random_state=0).fit(X, y).model_.model.levels[0].densities
    counts = densities.center_counts.tolist()
    names = names_of(densities, [60, 90, 300])
    assert names[0] == 1 == counts[0]
    assert names[1] == "modes" and counts[1] == 2 or names[1] == counts[1]
    assert names[2] == "kernels" and counts[2] == 300 or names[2] == counts[2] > 2


def test_one_held_out_vector_a_class_does_not_flag_half_of_fresh_normals():
    """A location that were the held-out vector itself would make each look perfectly usual."""
    rng = np.random.default_rng(0)
    centers, spreads = rng.normal(0, 30, (40, 6)), np.exp(rng.normal(0, 0.7, 40))

    def drawn(n):
        y = np.repeat(np.arange(40), n)
        return centers[y] + spreads[y, None] * rng.normal(size=(len(y), 6)), y

    detector = HGADDetector(validation_fraction=0.2, random_state=0).fit(*drawn(5))
    assert (detector.predict(drawn(50)[0]) < 0).mean() < 0.2  # 0.44 without
