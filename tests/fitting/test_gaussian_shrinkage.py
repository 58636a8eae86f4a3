"""Shrinkage chosen by left-out likelihood, against the plain computation."""

import math

import pytest
import torch

from skhgad.fitting.gaussian_shrinkage import (
    has_heavy_tails,
    inflation_of,
    left_out_distances,
    left_out_log_likelihoods,
    likeliest_pseudo_count,
    principal_axes,
    shrunk_covariance,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def around_class_means(x, codes):
    """Residuals of vectors (n, n_features) around the mean of their class."""
    return torch.stack([row - x[codes == code].mean(0) for row, code in zip(x, codes, strict=True)])


def plain_left_out(x, codes, pseudo, scale):
    """Squared distances and log-determinants, each with means and covariance of the others."""
    distances, log_dets = [], []
    prior = scale * torch.eye(x.shape[1], dtype=x.dtype)
    for i in range(len(x)):
        others = torch.arange(len(x)) != i
        residuals = around_class_means(x[others], codes[others])
        covariance = shrunk_covariance(residuals.T @ residuals, len(residuals), pseudo, prior)
        moved = x[i] - x[others][codes[others] == codes[i]].mean(0)
        distances.append(moved @ torch.linalg.solve(covariance, moved))
        log_dets.append(torch.linalg.slogdet(covariance)[1])
    return torch.stack(distances), torch.stack(log_dets)


@pytest.mark.parametrize("pseudo", [0.3, 10.0, math.inf])
@pytest.mark.parametrize("n_features", [4, 40])  # fewer and more than vectors
@pytest.mark.parametrize("n_classes", [1, 3])
def test_samples_left_out_are_judged_by_the_others_alone(pseudo, n_features, n_classes):
    x = normal(24, n_features) * torch.linspace(0.2, 3, n_features, dtype=torch.float64)
    codes = torch.arange(24) ** 2 % 7 % n_classes  # classes of unequal sizes
    x += 5 * codes[:, None]
    residuals, inflation = around_class_means(x, codes), inflation_of(codes)
    expected_distances, expected_log_dets = plain_left_out(x, codes, pseudo, 1.7)

    scatter, axes = principal_axes(residuals)
    distances, log_dets = left_out_distances(
        residuals @ axes, scatter, len(x), n_features, inflation, pseudo, 1.7
    )
    torch.testing.assert_close(distances, expected_distances, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_dets, expected_log_dets, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        left_out_log_likelihoods(residuals, inflation, pseudo, 1.7),
        -0.5 * (expected_distances + expected_log_dets),
        rtol=1e-9,
        atol=1e-9,
    )


def test_features_without_spread_count_where_the_number_of_features_is_given():
    x, codes = normal(12, 5), torch.zeros(12, dtype=torch.int64)
    padded = torch.cat((x, torch.zeros(12, 15, dtype=torch.float64)), 1)
    expected = -0.5 * sum(plain_left_out(padded, codes, 2.0, 0.8))
    found = left_out_log_likelihoods(
        around_class_means(x, codes), inflation_of(codes), 2.0, 0.8, n_features=20
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def related(n, seed=0):
    """Vectors of 5 features, two of which are sums of the others but for noise of 0.01."""
    x = normal(n, 3, seed=seed)
    sums = torch.stack((x[:, 0] + x[:, 1], x[:, 1] + x[:, 2]), 1)
    return torch.cat((x, sums + 0.01 * normal(n, 2, seed=seed + 1000)), 1)


def chosen(x):
    codes = torch.zeros(len(x), dtype=torch.int64)
    residuals = around_class_means(x, codes)
    scale = float(residuals.square().mean())
    return likeliest_pseudo_count(residuals, inflation_of(codes), scale, x.shape[1])


@pytest.mark.parametrize("seed", range(3))
def test_relations_between_features_are_shrunk_little(seed):
    # 300 samples of variance 1e-4 against nu samples of the mean variance, about 1.4
    assert chosen(related(300, seed)) <= 0.02


def test_few_rows_of_white_noise_take_the_prior_alone():
    counts = [chosen(normal(20, 300, seed=seed)) for seed in range(10)]
    assert sum(map(math.isinf, counts)) >= 5
    assert min(counts) >= 10 * 20  # the others leave the rows hardly any weight


def heavy(x):
    codes = torch.zeros(len(x), dtype=torch.int64)
    residuals = around_class_means(x, codes)
    return has_heavy_tails(residuals, inflation_of(codes), 1.0, 0.01 * len(x))


@pytest.mark.parametrize(("n", "n_features"), [(300, 5), (300, 60), (40, 200)])
def test_gaussians_have_no_heavy_tails(n, n_features):
    assert not heavy(normal(n, n_features))
    assert not heavy(normal(n, n_features) * torch.logspace(-2, 1, n_features))


@pytest.mark.parametrize(("n", "n_features"), [(300, 20), (300, 60), (1000, 20), (300, 400)])
def test_a_random_scale_for_each_row_has_heavy_tails(n, n_features):
    degrees = 1.5
    torch.manual_seed(0)
    chi2 = torch.distributions.Chi2(degrees).sample((n, 1)).double()
    assert heavy(normal(n, n_features) * (degrees / chi2).sqrt())


def test_shrunk_covariance():
    scatter, prior = torch.diag(torch.tensor([10.0, 20.0])), 3 * torch.eye(2)
    expected = torch.diag(torch.tensor([22 / 14, 32 / 14]))
    torch.testing.assert_close(shrunk_covariance(scatter, 10, 4, prior), expected)
    assert shrunk_covariance(scatter, 10, math.inf, prior).equal(prior)
