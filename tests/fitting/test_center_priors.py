"""What the centers of a mixture borrow: against a plain loop that leaves each vector out."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, ortho_group

from skhgad.fitting.center_priors import (
    PSEUDO_PER_FEATURE,
    left_out_likelihoods,
    likeliest_priors,
)
from skhgad.fitting.gaussian_mixture import fit_mixture, whitener
from skhgad.fitting.kernels import fit_kernels
from skhgad.fitting.mixture_choice import ClassVectors, choose_mixtures

pytestmark = pytest.mark.usefixtures("one_thread")


def blobs(n, factors, apart=8.0, seed=0):
    """Vectors of Gaussians, x = noise @ factor, and the Gaussian of each, in random order."""
    rng = np.random.default_rng(seed)
    k, d = len(factors), len(factors[0])
    names = rng.permutation(np.arange(n) % k)
    centers = apart * np.eye(max(k, d))[:k, :d] * np.arange(1, k + 1)[:, None]
    noise = rng.normal(size=(n, d))
    return centers[names] + np.einsum("ni,nij->nj", noise, np.stack(factors)[names]), names


def test_left_out_likelihoods_are_those_of_a_plain_loop():
    x, names = blobs(40, [np.eye(3), 0.3 * np.eye(3)], apart=1.0)
    rng = np.random.default_rng(1)
    shares = np.where(names[:, None] == np.arange(2), 0.9, 0.1) + rng.uniform(-0.1, 0.1, (40, 1))
    shares[:, 1] = 1 - shares[:, 0]
    common = np.diag([0.5, 1.0, 2.0])
    z = torch.from_numpy(x)
    found, scales = left_out_likelihoods(
        z, torch.from_numpy(shares), whitener(torch.from_numpy(common)), torch.zeros(3, 3).double()
    )
    pseudo_count = 3 * PSEUDO_PER_FEATURE[3]
    for i in (0, 1, 7):
        kept = np.arange(40) != i
        parts = []
        for m in range(2):
            r, others = shares[kept, m], x[kept]
            center = r @ others / r.sum()
            scatter = (r[:, None] * (others - center)).T @ (others - center)
            covariance = (scatter + pseudo_count * float(scales[m]) * common) / (
                r.sum() + pseudo_count
            )
            parts.append(np.log(r.sum()) + multivariate_normal(center, covariance).logpdf(x[i]))
        constant = 1.5 * np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(common)[1]
        assert float(found[i, 3]) == pytest.approx(logsumexp(parts) + constant, abs=1e-8)


def test_a_prior_has_the_spread_of_its_center():
    x, names = blobs(90, [0.1 * np.eye(8), np.eye(8), 4 * np.eye(8)])
    shares = torch.nn.functional.one_hot(torch.from_numpy(names)).double()
    eye = torch.eye(8, dtype=torch.float64)
    scales, _ = likeliest_priors(torch.from_numpy(x), shares, eye, 0 * eye)
    np.testing.assert_allclose(scales, [0.01, 1, 16], rtol=0.5)


def test_centers_borrow_a_shape_only_where_they_share_one():
    scales = np.diag([0.1, 0.3, 1.0, 3.0])
    turns = [ortho_group.rvs(4, random_state=seed) for seed in range(3)]
    pseudo_counts = []
    for factors in ([scales] * 3, [scales @ turn for turn in turns]):
        x, names = blobs(120, factors, apart=30.0)
        shares = torch.nn.functional.one_hot(torch.from_numpy(names)).double()
        residuals = x - np.stack([x[names == k].mean(0) for k in range(3)])[names]
        common = torch.from_numpy(np.cov(residuals.T))
        pseudo_counts.append(
            likeliest_priors(torch.from_numpy(x), shares, whitener(common), 0 * common)[1]
        )
    assert pseudo_counts[0] >= 10 * pseudo_counts[1]


@pytest.mark.parametrize("n_features", [2, 8])
def test_blobs_of_unequal_spread_keep_their_own(n_features):
    factors = [spread * np.eye(n_features) for spread in (0.1, 0.5, 2.0)]
    x, names = blobs(240, factors, apart=6.0)
    z = torch.from_numpy(x / x.std(0))
    (mixture,) = choose_mixtures([ClassVectors(z, torch.zeros(240).long(), seed=0)])
    assert 3 <= len(mixture.centers) <= 8
    rng = np.random.default_rng(2)
    moves = rng.normal(size=(100, n_features))
    moves *= 0.5 * np.sqrt(n_features) / np.linalg.norm(moves, axis=1, keepdims=True)
    anomalies = torch.from_numpy((x[names == 0].mean(0) + moves) / x.std(0))
    low = mixture.log_density(z).quantile(0.05)
    assert (mixture.log_density(anomalies) < low).double().mean() > 0.95


def test_rotated_blobs_of_few_vectors_keep_their_own_shapes():
    scales = np.diag(np.geomspace(0.1, 2, 5))
    factors = [scales @ ortho_group.rvs(5, random_state=seed) for seed in range(3)]
    x, _ = blobs(80, factors, apart=4.0)
    fresh, names = blobs(600, factors, apart=4.0, seed=1)
    centers = np.stack([fresh[names == k].mean(0) for k in range(3)])
    truth = logsumexp(
        [
            multivariate_normal(c, f.T @ f).logpdf(fresh)
            for c, f in zip(centers, factors, strict=True)
        ],
        axis=0,
    ) - np.log(3)
    z = torch.from_numpy(x)
    mixture = fit_mixture(z, 3, torch.Generator().manual_seed(0), n_steps=20)
    found = mixture.log_density(torch.from_numpy(fresh)) - 2.5 * np.log(2 * np.pi)
    assert found.mean() > truth.mean() - 1.0
    kernels = fit_kernels(z).log_density(torch.from_numpy(fresh)) - 2.5 * np.log(2 * np.pi)
    assert found.mean() > kernels.mean() + 0.5
