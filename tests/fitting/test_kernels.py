"""Kernel densities against the plain formula, and how their kernels are chosen."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from skhgad.fitting.kernels import ROWS_PER_FEATURE, fit_kernels

pytestmark = pytest.mark.usefixtures("one_thread")


def ring(n=200, seed=0):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    return 3 * np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(0, 0.2, (n, 2))


def tight_and_wide(n=200, seed=0):
    """Two blobs in turn, of standard deviations 0.1 and 2."""
    rng = np.random.default_rng(seed)
    tight = np.arange(n)[:, None] % 2 == 0
    return np.where(tight, 0.1, 2) * rng.normal(size=(n, 2)) + np.where(tight, 0, 5)


def plain_log_density(x, vectors, covariance, *, left_out=False):
    """Log-density but for the constant of 2 pi, vector by vector; `left_out`: x are the vectors.

    `covariance` is one for all kernels, or (n, n_features, n_features).
    """
    covariances = np.broadcast_to(covariance, (len(vectors), *covariance.shape[-2:]))
    moved = x[:, None] - vectors
    exponents = -0.5 * np.einsum("nmi,mij,nmj->nm", moved, np.linalg.inv(covariances), moved)
    exponents -= 0.5 * np.linalg.slogdet(covariances)[1]
    if left_out:
        np.fill_diagonal(exponents, -np.inf)
    return logsumexp(exponents, axis=1) - np.log(len(vectors) - left_out)


def covariances_of(mixture):
    """Covariance of each kernel."""
    names = torch.zeros(len(mixture.centers)).long() if mixture.names is None else mixture.names
    return mixture.covariances[names].numpy()


@pytest.mark.parametrize("vectors", [ring(60), tight_and_wide()], ids=["one width", "widths"])
def test_there_is_a_kernel_of_one_shape_at_every_vector(vectors):
    mixture = fit_kernels(torch.from_numpy(vectors))
    np.testing.assert_array_equal(mixture.centers, vectors)
    covariances = covariances_of(mixture)
    scaled = covariances / np.linalg.det(covariances)[:, None, None] ** 0.5
    np.testing.assert_allclose(scaled, scaled[:1].repeat(len(vectors), 0), rtol=1e-9)
    x = np.random.default_rng(1).normal(0, 3, (40, 2))
    expected = plain_log_density(x, vectors, covariances)
    np.testing.assert_allclose(mixture.log_density(torch.from_numpy(x)), expected, rtol=1e-9)


def test_kernels_are_wider_where_vectors_are_rare():
    vectors = tight_and_wide()
    mixture = fit_kernels(torch.from_numpy(vectors))
    widths = np.linalg.det(covariances_of(mixture)) ** 0.25
    assert np.median(widths[1::2]) > 5 * np.median(widths[::2])
    assert len(mixture.covariances) <= 12
    alike = [
        plain_log_density(vectors, vectors, h**2 * np.eye(2), left_out=True).mean()
        for h in np.geomspace(0.05, 2, 20)
    ]
    chosen = plain_log_density(vectors, vectors, covariances_of(mixture), left_out=True)
    assert chosen.mean() > max(alike) + 0.3


def test_values_that_many_vectors_share_give_no_narrow_kernels():
    vectors = torch.from_numpy(tight_and_wide())
    ties = 4 * torch.eye(2, dtype=vectors.dtype)
    assert fit_kernels(vectors).names is not None
    assert fit_kernels(vectors, ties).names is None


@pytest.mark.parametrize("n_features", [2, 10, 100])
def test_the_bandwidth_makes_vectors_left_out_most_likely(n_features):
    vectors = np.random.default_rng(0).normal(0, 1, (120, n_features))
    if n_features == 2:
        vectors = ring(120)
    covariance = covariances_of(fit_kernels(torch.from_numpy(vectors)))
    half, chosen, double = (
        plain_log_density(vectors, vectors, factor**2 * covariance, left_out=True).mean()
        for factor in (0.5, 1, 2)
    )
    assert chosen > half + 0.05
    assert chosen > double + 0.05


def correlated(n):
    covariance = np.full((4, 4), 0.95) + 0.05 * np.eye(4)
    return np.random.default_rng(0).multivariate_normal(np.zeros(4), covariance, n)


@pytest.mark.parametrize("n", [100, 300])
def test_kernels_take_a_shape_from_correlated_vectors(n):
    vectors = correlated(n)
    mixture = fit_kernels(torch.from_numpy(vectors))
    values, axes = np.linalg.eigh(mixture.covariances[0].numpy())
    assert values[-1] > 1.5 * values[-2]  # widest along the diagonal, as the vectors are
    assert abs(axes[:, -1].sum() / 2) > 0.95
    round_ones = [
        plain_log_density(vectors, vectors, h**2 * np.eye(4), left_out=True).mean()
        for h in np.linspace(0.1, 0.6, 26)
    ]
    covariances = covariances_of(mixture)
    chosen = plain_log_density(vectors, vectors, covariances, left_out=True).mean()
    assert chosen > max(round_ones) + 0.03


def test_kernels_are_round_where_few_vectors_tell_no_shape():
    vectors = np.random.default_rng(0).multivariate_normal(
        np.zeros(20), 0.95 + 0.05 * np.eye(20), ROWS_PER_FEATURE * 20 - 1
    )
    covariance = fit_kernels(torch.from_numpy(vectors)).covariances[0]
    assert covariance.equal(covariance[0, 0] * torch.eye(20, dtype=covariance.dtype))


def test_equal_features_keep_kernels_regular():
    vectors = torch.from_numpy(ring(60))[:, [0, 0, 1]]
    mixture = fit_kernels(torch.cat((vectors, torch.ones(60, 1, dtype=torch.float64)), 1))
    assert mixture.log_density(mixture.centers).isfinite().all()


def test_copies_of_a_vector_do_not_narrow_its_kernel():
    vectors = torch.from_numpy(ring(100))
    once, twice = fit_kernels(vectors), fit_kernels(vectors.repeat_interleave(2, 0))
    assert len(twice.centers) == 200
    torch.testing.assert_close(twice.covariances, once.covariances)


@pytest.mark.parametrize("distance", [1, 1e12])
@pytest.mark.parametrize("n_places", [1, 2, 4])
def test_vectors_in_a_few_places_have_regular_kernels(n_places, distance):
    rng = np.random.default_rng(0)
    places = torch.from_numpy(distance * rng.normal(size=(4, 3)))
    exact = places[torch.arange(120) % n_places]
    rounded = exact + torch.from_numpy(1e-13 * rng.normal(size=exact.shape))
    for vectors in (exact, rounded):
        mixture = fit_kernels(vectors)
        assert mixture.log_density(vectors).isfinite().all()
        assert torch.linalg.eigvalsh(mixture.covariances[0]).min() > 0


def test_vectors_may_be_fewer_than_features_that_hardly_vary():
    z = torch.zeros(30, 40, dtype=torch.float64)
    z[:, :2] = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    assert fit_kernels(z).log_density(z).isfinite().all()
