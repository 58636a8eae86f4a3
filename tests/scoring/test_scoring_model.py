"""Class inference, the background and the frozen constants of the maps."""

import numpy as np
import pytest
import torch
from mixtures import log_density_within
from scipy.stats import linregress, median_abs_deviation

from skhgad.fitting.class_covariances import fit_class_covariances
from skhgad.fitting.map_constants import _slope_within, fit_normalizers
from skhgad.fitting.samples import LevelSamples
from skhgad.model.flow import ConditionalFlow, identity_start
from skhgad.model.level import LevelModel
from skhgad.model.mixture import HierarchicalMixture, class_means
from skhgad.scoring.scoring_model import Evidence, ScoringModel


def make_images(n_images, map_shape, n_features=4, n_classes=3, seed=0):
    """Classes far apart, whose positions share a nuisance direction of varying strength."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n_images) % n_classes
    means = 6 * np.random.default_rng(99).normal(size=(n_classes, n_features))
    noise = rng.normal(size=(n_images, map_shape[0] * map_shape[1], n_features))
    noise[..., 0] += 4 * rng.standard_t(3, size=noise.shape[:2])
    return torch.from_numpy(means[codes][:, None] + noise), torch.from_numpy(codes)


def make_model(map_shapes, n_features=4, n_classes=3, criterion="likelihood"):
    generator = torch.Generator().manual_seed(0)
    levels = []
    for shape in map_shapes:
        mixture = HierarchicalMixture(
            class_means(n_classes, n_features, 5.0), 2, generator=generator
        )
        flow = ConditionalFlow(n_features, n_blocks=1, identity_start=True, generator=generator)
        levels.append(LevelModel(identity_start(n_features), flow, mixture, shape))
    return ScoringModel(levels, (8, 8), criterion, "standardized", 4.0).double().eval()


def fit_covariance(level, *blocks):
    """Fit the class covariances of a level on blocks (x, codes)."""
    n_classes, n_features = level.mixture.means.shape
    fit_class_covariances(level, LevelSamples(lambda: blocks, n_classes, n_features))


def fitted_model(map_shapes=((9, 7), (4, 4)), n_images=60, **options):
    model = make_model(map_shapes, **options)
    features, codes = [], None
    for level, shape in zip(model.levels, map_shapes, strict=True):
        x, codes = make_images(n_images, shape)
        fit_covariance(level, (x, codes))
        features.append(x)
    return model, features, codes


@torch.no_grad()
def test_class_is_the_one_of_highest_likelihood():
    model, features, codes = fitted_model()
    evidence = model.evidence(features)
    assert torch.equal(evidence.codes, codes)
    for level, x in zip(model.levels, features, strict=True):
        z, log_det = level.latent(x)
        every = (log_density_within(level, z) + log_det[..., None]).sum(1)
        assert torch.equal(every.argmax(1), codes)
        found = level.class_log_likelihood(z)
        each = level.densities.class_discriminants(z).sum(1)  # of the positions, not of their mean
        torch.testing.assert_close(found, each)


@torch.no_grad()
def test_class_is_inferred_from_where_its_vectors_are_not_its_centers():
    """Training may leave centers idle, far from every vector."""
    model = make_model([(4, 4)])
    (level,) = model.levels
    generator = torch.Generator().manual_seed(1)
    level.mixture.offsets += 20.0 * torch.randn(level.mixture.offsets.shape, generator=generator)
    x, codes = make_images(60, (4, 4))
    fit_covariance(level, (x[:25], codes[:25]), (x[25:], codes[25:]))
    z, _ = level.latent(x)
    for k in range(3):
        own = z[codes == k].flatten(0, 1).mean(0)
        torch.testing.assert_close(level.densities.locations[k], own)
    assert torch.equal(model.evidence([x]).codes, codes)


@torch.no_grad()
def test_an_anomaly_of_a_tight_class_is_not_taken_for_the_widest():
    """Own covariances would: 9 standard deviations off a tight class, 4 off the wide one."""
    rng = np.random.default_rng(0)
    codes = torch.arange(400) % 2
    x = torch.from_numpy(rng.normal(size=(400, 1, 4))) * (0.3 + 2.7 * codes[:, None, None])
    x[..., 0] += 20.0 * codes[:, None]
    model = make_model([(1, 1)], n_classes=2)
    (level,) = model.levels
    fit_covariance(level, (x, codes))
    odd = torch.zeros(1, 1, 4, dtype=torch.float64)
    odd[..., 1] = 2.7
    assert model.evidence([odd]).codes == 0
    z, _ = level.latent(odd + torch.tensor([7.0, 0, 0, 0]))
    assert log_density_within(level, z).argmax() == 1
    assert level.class_log_likelihood(z).argmax() == 0


@torch.no_grad()
def test_evidence_does_not_depend_on_companions():
    model, features, _ = fitted_model()
    together = model.evidence(features)
    for row in (0, 7):
        alone = model.evidence([x[row : row + 1] for x in features])
        assert alone.codes == together.codes[row]
        for name in ("likelihoods", "backgrounds", "entropies"):
            for one, every in zip(getattr(alone, name), getattr(together, name), strict=True):
                assert (one is None) == (every is None) == (name == "entropies")
                if one is None:  # likelihood is the only criterion
                    continue
                torch.testing.assert_close(one[0], every[row], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weight", [0.5, 1.0])
@torch.no_grad()
def test_background_is_taken_off_by_the_slope_inside_the_classes(weight):
    model, features, codes = fitted_model()
    fit_normalizers(model, [model.evidence(features, codes)], weight)
    evidence = model.evidence(features, codes)
    for index in range(2):
        own, background = evidence.likelihoods[index], evidence.backgrounds[index]
        own, background = own.numpy().copy(), background.numpy().copy()
        for k in range(3):
            for values in (own, background):
                median = np.median(values[codes == k])
                reach = 3 * median_abs_deviation(values[codes == k], axis=None, scale=1 / 1.4826)
                clipped = np.clip(values[codes == k], median - reach, median + reach)
                values[codes == k] = clipped - clipped.mean()
        slope = linregress(background.flatten(), own.flatten()).slope
        assert slope > 0.1
        n = own.size
        slope = (n * slope + 50) / (n + 50)  # 50 vectors speak for a slope of 1
        assert float(model.background_slope[index]) == pytest.approx(weight * slope, rel=1e-6)


def related(n, slope, seed=0):
    """Class likelihoods that follow the background's with a slope, three classes."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 3
    background = rng.normal(size=(n, 1)) + 10 * codes[:, None]
    values = slope * background - 50 * codes[:, None] + 0.1 * rng.normal(size=(n, 1))
    return torch.from_numpy(values), torch.from_numpy(background), torch.from_numpy(codes)


def test_slope_is_that_inside_the_classes():
    assert float(_slope_within(*related(30_000, 0.4))) == pytest.approx(0.4, rel=0.01)
    assert float(_slope_within(*related(30_000, -0.4))) == 0
    assert float(_slope_within(*related(30_000, 20.0))) == 3  # a steeper one magnifies noise
    constant = torch.ones(9, 1), torch.ones(9, 1), torch.arange(9) % 3
    assert float(_slope_within(*constant)) == 0


def test_anomalies_among_the_normals_do_not_settle_the_slope():
    values, background, codes = related(3000, 0.4)
    expected = float(_slope_within(values, background, codes))
    values[:150] -= 1000  # far from everything, and farther from the class
    background[:150] -= 100
    found = float(_slope_within(values, background, codes))
    assert abs(found - expected) < 0.15


def test_slope_of_a_few_vectors_is_near_one():
    assert float(_slope_within(*related(6, 8.0))) < 2


@torch.no_grad()
def test_no_weight_leaves_the_likelihood_alone():
    model, features, codes = fitted_model()
    fit_normalizers(model, [model.evidence(features, codes)])
    evidence = model.evidence(features, codes)
    assert model.background_slope.tolist() == [0, 0]
    for ratio, own in zip(model.likelihood_ratios(evidence), evidence.likelihoods, strict=True):
        assert torch.equal(ratio, own)


@torch.no_grad()
def test_normal_maps_are_standardized_class_by_class():
    model, features, codes = fitted_model()
    halves = slice(None, 30), slice(30, None)
    found = [model.evidence([x[half] for x in features], codes[half]) for half in halves]
    fit_normalizers(model, found, 0.5)
    evidence = model.evidence(features, codes)
    for index, ratio in enumerate(model.likelihood_ratios(evidence)):
        for k in range(3):
            own = ratio[codes == k]
            profile = 20 / 40 * (own.mean(0) - own.mean())  # 20 samples, against 20
            torch.testing.assert_close(model.likelihood_profile(index)[:, k], profile)
            own = own - profile
            assert float(model.likelihood_location[index, k]) == pytest.approx(float(own.mean()))
            spread = float(own.std(correction=0))
            assert float(model.likelihood_scale[index, k]) == pytest.approx(spread)


@torch.no_grad()
def test_positions_are_compared_with_the_same_position_of_normals():
    model, _, codes = fitted_model()
    shapes = [level.map_shape for level in model.levels]
    unlikely = torch.zeros(shapes[0])
    unlikely[2, 5] = 100.0  # of class 1 alone, as of an edge that its images share

    def evidence_of(codes):
        likelihoods = [torch.randn(len(codes), h * w).double() for h, w in shapes]
        likelihoods[0] -= (codes == 1)[:, None] * unlikely.flatten()
        return Evidence(codes, likelihoods, [None, None], likelihoods)

    torch.manual_seed(0)
    fit_normalizers(model, [evidence_of(torch.arange(3).repeat(600))])
    fresh = evidence_of(codes)
    peaks = model.standardized_ratios(fresh)[0].amax(1)
    assert peaks[codes == 1].median() < 2 * peaks[codes == 0].median()
    without = evidence_of(torch.ones_like(codes))
    without.likelihoods[0] -= unlikely.flatten()  # twice as unlikely as normal
    anomalous = model.standardized_ratios(without)[0]
    assert anomalous.amax(1).min() > 3 * peaks[codes == 1].max()
    assert (anomalous.argmax(1) == unlikely.argmax()).all()


@torch.no_grad()
def test_few_normals_tell_little_of_positions():
    model, _, _ = fitted_model()
    height, width = model.levels[0].map_shape
    values = torch.randn(3, height * width, generator=torch.Generator().manual_seed(0)).double()
    codes = torch.tensor([0, 0, 2])
    likelihoods = [values, values[:, :16]]
    fit_normalizers(model, [Evidence(codes, likelihoods, [None, None], likelihoods)])
    profile = model.likelihood_profile(0)
    mean = values[:2].mean(0) - values[:2].mean()
    torch.testing.assert_close(profile[:, 0], 2 / 22 * mean)
    assert not profile[:, 1].any()  # no sample of the class
    wider = make_model([level.map_shape for level in model.levels], n_classes=4).levels
    profiles = model.extended(wider, torch.tensor([3, 0, 1, 2])).likelihood_profile(0)
    assert not profiles[:, 0].any()  # the new class, sorted before the others
    assert torch.equal(profiles[:, 1:], profile)


@torch.no_grad()
def test_background_excuses_no_more_than_for_the_strangest_normal_vector():
    model, features, codes = fitted_model()
    fit_normalizers(model, [model.evidence(features, codes)], 1.0)
    evidence = model.evidence(features, codes)
    for floor, background in zip(model.background_floor, evidence.backgrounds, strict=True):
        assert floor == background.min()
    scores = []
    for distance in (1e1, 1e2, 1e3, 1e6):
        maps, _ = model([x[:1] + distance for x in features])
        scores.append(float(maps.max()))
    assert np.all(np.diff(scores) > 0)
