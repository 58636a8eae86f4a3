"""Class means, distances and the two densities of the mixture, against scipy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from mixtures import log_density_within
from scipy import special, stats
from scipy.spatial.distance import cdist, pdist

from skhgad.fitting.class_covariances import mixtures_around
from skhgad.model.class_densities import ClassDensities
from skhgad.model.mixture import HierarchicalMixture, class_means, entropy, squared_distances


def frozen(mixture, shifts, whiteners, locations, shared_precision, background=None):
    """Freeze the centers of a prior, moved by `shifts`, with a whitener for each class."""
    mixtures = mixtures_around(mixture, shifts, whiteners)
    locations = locations.to(mixture.means)
    return ClassDensities.of(mixtures, locations, shared_precision, background)


# (K, d, M): also one class, fewer features than classes, one feature, one center
SIZES = [(3, 4, 2), (1, 3, 4), (5, 2, 3), (4, 1, 2), (2, 5, 1), (1, 1, 1)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_mixture(n_classes, n_features, n_components, seed=0):
    """Mixture in float64 with every parameter off its start."""
    generator = seeded(seed)
    mixture = HierarchicalMixture(
        class_means(n_classes, n_features, 5.0), n_components, generator=generator
    )
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return mixture.double()


def make_z(n_images, n_positions, n_features):
    return 3 * torch.randn(n_images, n_positions, n_features, generator=seeded(9)).double()


def numpy_parts(mixture):
    """Means, centers and log-weights, put together from the parameters by hand."""
    means = mixture.means.detach().numpy()
    offsets = mixture.offsets.detach().numpy()
    centers = np.stack(
        [np.vstack([mean, mean + own]) for mean, own in zip(means, offsets, strict=True)]
    )
    log_weights = np.log(special.softmax(mixture.center_logits.detach().numpy(), axis=1))
    return means, centers, log_weights


def scipy_log_density(z, centers, log_weights, covariance):
    """Log-density of one class's Gaussian mixture at the rows of z."""
    densities = [
        weight + stats.multivariate_normal(center, covariance).logpdf(z).reshape(len(z))
        for center, weight in zip(centers, log_weights, strict=True)
    ]
    return special.logsumexp(densities, axis=0)


def make_covariances(n_classes, n_features):
    """Shifts, covariances and inverse square roots of the latter that are not symmetric."""
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(n_classes, n_features, n_features)) + 2 * np.eye(n_features)
    covariances = roots @ roots.transpose(0, 2, 1)
    whiteners = np.linalg.inv(roots).transpose(0, 2, 1)  # W.T C W = I
    return rng.normal(size=(n_classes, n_features)), covariances, whiteners


# ---------------------------------------------------------------- where the means start


@pytest.mark.parametrize("separation", [5.0, 0.3])
@pytest.mark.parametrize(
    "n_classes, n_features", [(2, 2), (2, 7), (3, 10), (15, 16), (15, 15), (40, 160), (4, 320)]
)
def test_means_are_equally_far_apart(n_classes, n_features, separation):
    means = class_means(n_classes, n_features, separation)
    assert means.shape == (n_classes, n_features)
    np.testing.assert_allclose(pdist(means.double().numpy()), separation, rtol=1e-6)


@pytest.mark.parametrize("n_classes, n_features, repeats", [(2, 7, 3), (3, 3, 1), (15, 512, 34)])
def test_means_are_the_published_tiled_identity(n_classes, n_features, repeats):
    expected = np.zeros((n_classes, n_features))
    for k in range(n_classes):
        expected[k, k : repeats * n_classes : n_classes] = 5 / np.sqrt(2 * repeats)
    np.testing.assert_allclose(class_means(n_classes, n_features, 5.0), expected, rtol=1e-6)


@pytest.mark.parametrize("separation", [5.0, 0.3])
@pytest.mark.parametrize(
    "n_classes, n_features", [(2, 1), (7, 1), (3, 2), (40, 3), (16, 15), (300, 2)]
)
def test_too_few_features_keep_the_smallest_distance(n_classes, n_features, separation):
    means = class_means(n_classes, n_features, separation)
    assert means.shape == (n_classes, n_features)
    assert pdist(means.double().numpy()).min() == pytest.approx(separation, rel=1e-4)
    assert torch.equal(means, class_means(n_classes, n_features, separation))


def test_means_on_a_line_are_evenly_spaced_around_zero():
    np.testing.assert_allclose(class_means(4, 1, 5.0), [[-7.5], [-2.5], [2.5], [7.5]])


@pytest.mark.parametrize("n_features", [1, 5])
def test_one_class_starts_at_the_origin(n_features):
    assert torch.equal(class_means(1, n_features, 5.0), torch.zeros(1, n_features))


# ---------------------------------------------------------------- distances

finite = st.floats(-1e3, 1e3, allow_subnormal=False)


@st.composite
def points_and_centers(draw):
    shape = draw(array_shapes(min_dims=1, max_dims=3, max_side=5))
    n_centers = draw(st.integers(1, 4))
    z = draw(arrays(np.float64, shape, elements=finite))
    centers = draw(arrays(np.float64, (n_centers, shape[-1]), elements=finite))
    if draw(st.booleans()):
        centers[0] = z.reshape(-1, shape[-1])[0]  # a distance of zero
    return z, centers


@settings(max_examples=60, deadline=None)
@given(points_and_centers())
def test_squared_distances_equal_direct_differences(drawn):
    z, centers = drawn
    expected = np.square(z[..., None, :] - centers).sum(-1)
    found = squared_distances(torch.from_numpy(z), torch.from_numpy(centers)).numpy()
    assert found.shape == expected.shape
    assert (found >= 0).all()
    size = np.square(z).sum() + np.square(centers).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14 * size)


def test_squared_distances_are_never_negative_in_single_precision():
    z = 100 * torch.randn(200, 30, generator=seeded())
    found = squared_distances(z, z)
    assert found.min() >= 0
    # far from the diagonal, where nothing cancels, they are exact to rounding
    expected = cdist(z.double().numpy(), z.double().numpy(), "sqeuclidean")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=0.5)


# ---------------------------------------------------------------- start and parts


def test_mixture_starts_as_published():
    """Equal priors and weights, centers around the mean spread by N(0, scale^2 I)."""
    means = class_means(4, 50, 5.0)
    mixture = HierarchicalMixture(means, 10, offset_scale=0.5, generator=seeded())
    assert torch.equal(mixture.means, means)
    np.testing.assert_allclose(mixture.log_prior().detach(), np.log(np.full(4, 1 / 4)), rtol=1e-6)
    assert not mixture.center_logits.detach().any()
    assert mixture.offsets.shape == (4, 9, 50)
    offsets = mixture.offsets.detach().numpy().ravel()
    assert stats.kstest(offsets, stats.norm(0, 0.5).cdf).pvalue > 1e-3


def test_generator_decides_the_offsets():
    def offsets(seed):
        return HierarchicalMixture(torch.zeros(2, 3), 4, generator=seeded(seed)).offsets

    assert torch.equal(offsets(1), offsets(1)) and not torch.equal(offsets(1), offsets(2))


@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES)
def test_parts_follow_the_formulas(n_classes, n_features, n_components):
    mixture = make_mixture(n_classes, n_features, n_components)
    means, centers, _ = numpy_parts(mixture)
    z = make_z(2, 3, n_features)
    np.testing.assert_allclose(mixture.centers().detach(), centers)
    logits = -0.5 * cdist(z.reshape(6, -1).numpy(), means, "sqeuclidean").reshape(2, 3, -1)
    np.testing.assert_allclose(mixture.class_logits(z).detach(), logits, atol=1e-10)
    prior = special.softmax(mixture.prior_logits.detach().numpy())
    np.testing.assert_allclose(mixture.log_prior().detach().exp(), prior)


def test_centers_carry_no_gradient_to_the_means():
    mixture = make_mixture(3, 4, 2)
    mixture.centers().square().sum().backward()
    assert mixture.means.grad is None
    assert (mixture.offsets.grad != 0).all()


# ---------------------------------------------------------------- density within classes


@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES)
@torch.no_grad()
def test_density_within_is_scipys_mixture(n_classes, n_features, n_components):
    mixture = make_mixture(n_classes, n_features, n_components)
    _, centers, log_weights = numpy_parts(mixture)
    z = make_z(2, 3, n_features)
    found = log_density_within(mixture, z).numpy() - n_features / 2 * np.log(2 * np.pi)
    assert found.shape == (2, 3, n_classes)
    for k in range(n_classes):
        expected = scipy_log_density(
            z.reshape(6, -1).numpy(), centers[k], log_weights[k], np.eye(n_features)
        )
        np.testing.assert_allclose(found[..., k].ravel(), expected, rtol=1e-10)


@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES)
@torch.no_grad()
def test_density_within_has_the_covariance_of_each_class(n_classes, n_features, n_components):
    mixture = make_mixture(n_classes, n_features, n_components)
    _, centers, log_weights = numpy_parts(mixture)
    shifts, covariances, whiteners = make_covariances(n_classes, n_features)
    densities = frozen(
        mixture,
        torch.from_numpy(shifts),
        torch.from_numpy(whiteners),
        torch.zeros(n_classes, n_features),
        torch.eye(n_features),
    )
    z = make_z(2, 3, n_features)
    found = log_density_within(densities, z).numpy() - n_features / 2 * np.log(2 * np.pi)
    for k in range(n_classes):
        expected = scipy_log_density(
            z.reshape(6, -1).numpy(), centers[k] + shifts[k], log_weights[k], covariances[k]
        )
        np.testing.assert_allclose(found[..., k].ravel(), expected, rtol=1e-9)


@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES)
@torch.no_grad()
def test_discriminants_are_log_densities_of_one_shared_covariance(
    n_classes, n_features, n_components
):
    mixture = make_mixture(n_classes, n_features, n_components)
    shifts, covariances, whiteners = make_covariances(n_classes, n_features)
    shared = covariances.mean(0)
    locations = np.random.default_rng(1).normal(size=shifts.shape)
    arrays = shifts, whiteners, locations, np.linalg.inv(shared)
    densities = frozen(mixture, *map(torch.from_numpy, arrays))
    z = make_z(2, 3, n_features)
    found = densities.class_discriminants(z).numpy().reshape(6, -1)
    expected = np.stack(
        [
            stats.multivariate_normal(location, shared).logpdf(z.reshape(6, -1).numpy())
            for location in locations
        ],
        axis=1,
    ).reshape(6, -1)
    # up to a constant of each vector
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-8)


@torch.no_grad()
def test_discriminants_of_unit_covariances_are_the_logits_of_the_class_posterior():
    mixture, z = make_mixture(3, 4, 2), make_z(2, 3, 4)
    found = mixture.class_discriminants(z).softmax(-1)
    torch.testing.assert_close(found, mixture.class_logits(z).softmax(-1))


@torch.no_grad()
def test_unit_whiteners_change_nothing():
    mixture, z = make_mixture(3, 4, 2), make_z(2, 3, 4)
    before = log_density_within(mixture, z)
    densities = frozen(
        mixture,
        torch.zeros(3, 4),
        torch.eye(4).repeat(3, 1, 1),
        torch.zeros(3, 4),
        torch.eye(4),
    )
    assert densities.whiteners.dtype == torch.float64
    torch.testing.assert_close(log_density_within(densities, z), before, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_density_with_covariances_is_exact_far_from_the_origin():
    mixture = make_mixture(2, 3, 2)
    mixture.means += 1e6
    _, centers, log_weights = numpy_parts(mixture)
    densities = frozen(
        mixture,
        torch.zeros(2, 3),
        torch.eye(3).repeat(2, 1, 1),
        torch.zeros(2, 3),
        torch.eye(3),
    )
    z = make_z(1, 5, 3) + 1e6
    found = log_density_within(densities, z)[0, :, 0].numpy() - 1.5 * np.log(2 * np.pi)
    expected = scipy_log_density(z[0].numpy(), centers[0], log_weights[0], np.eye(3))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES)
@torch.no_grad()
def test_density_within_class_is_the_own_column(n_classes, n_features, n_components):
    mixture = make_mixture(n_classes, n_features, n_components)
    z = make_z(7, 3, n_features)
    codes = torch.arange(7) * 3 % n_classes
    own = mixture.log_density_within_class(z, codes)
    assert own.shape == (7, 3)
    every = log_density_within(mixture, z)
    for image, code in enumerate(codes.tolist()):
        torch.testing.assert_close(own[image], every[image, :, code], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES)
@torch.no_grad()
def test_expected_center_is_the_posterior_mean(n_classes, n_features, n_components):
    mixture = make_mixture(n_classes, n_features, n_components)
    _, centers, log_weights = numpy_parts(mixture)
    z = make_z(7, 3, n_features)
    codes = torch.arange(7) * 3 % n_classes
    found = mixture.expected_center(z, codes)
    for image, code in enumerate(codes.tolist()):
        own = z[image].numpy()
        posterior = special.softmax(
            log_weights[code] - 0.5 * cdist(own, centers[code], "sqeuclidean"), axis=1
        )
        np.testing.assert_allclose(found[image], posterior @ centers[code], rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- entropy


@pytest.mark.parametrize("n_classes", [1, 2, 15])
def test_entropy_is_scipys(n_classes):
    logits = 3 * np.random.default_rng(0).normal(size=(4, 5, n_classes))
    expected = stats.entropy(special.softmax(logits, axis=-1), axis=-1)
    np.testing.assert_allclose(entropy(torch.from_numpy(logits)), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_of_certain_and_of_equal_classes(dtype):
    logits = torch.tensor([[0.0, -1e30, -1e6], [-1e30, -1e30, -1e30]], dtype=dtype)
    logits.requires_grad_(True)
    values = entropy(logits)
    np.testing.assert_allclose(values.detach(), [0, np.log(3)], rtol=1e-6)
    values.sum().backward()
    assert logits.grad.isfinite().all()


@torch.no_grad()
def test_background_is_one_gaussian():
    mixture, z = make_mixture(3, 4, 2), make_z(2, 3, 4)
    mean, covariances, whiteners = make_covariances(1, 4)
    identity, zero = torch.eye(4), torch.zeros(3, 4)
    densities = frozen(
        mixture,
        zero,
        identity.repeat(3, 1, 1),
        zero,
        identity,
        (torch.from_numpy(mean[0]), torch.from_numpy(whiteners[0])),
    )
    codes = torch.zeros(len(z), dtype=torch.int64)
    found = densities.log_density_background(z, codes).numpy() - 2 * np.log(2 * np.pi)
    expected = stats.multivariate_normal(mean[0], covariances[0]).logpdf(z.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-10)
