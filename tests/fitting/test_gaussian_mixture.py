"""Gaussian mixtures: against scikit-learn, against scipy, against the truth."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as ReferenceMixture

from skhgad.fitting.gaussian_mixture import GaussianMixture, fit_mixture, fit_modes, maximize

pytestmark = pytest.mark.usefixtures("one_thread")


def overlapping(n=300, n_features=3, seed=0):
    """Vectors of two Gaussians that overlap, and starting responsibilities."""
    rng = np.random.default_rng(seed)
    wide = rng.normal(0, 1, (n, n_features)) @ rng.normal(0, 1, (n_features, n_features))
    x = np.concatenate([wide, rng.normal(3, 0.7, (n // 2, n_features))])
    first = np.repeat([0.8, 0.3], [n, n // 2])
    return torch.from_numpy(x), torch.from_numpy(np.stack([first, 1 - first], 1))


def reference(x, responsibilities, covariance_type):
    """Fit scikit-learn's mixture from the parameters that the responsibilities give."""
    x, weights = x.numpy(), responsibilities.numpy()
    sizes = weights.sum(0)
    means = weights.T @ x / sizes[:, None]
    scatters = np.stack(
        [(w[:, None] * (x - mean)).T @ (x - mean) for w, mean in zip(weights.T, means, strict=True)]
    )
    if covariance_type == "tied":
        precisions = np.linalg.inv(scatters.sum(0) / len(x))
    else:
        precisions = np.linalg.inv(scatters / sizes[:, None, None])
    return ReferenceMixture(
        len(sizes), covariance_type=covariance_type, reg_covar=0, tol=1e-13, max_iter=2000,
        means_init=means, weights_init=sizes / len(x), precisions_init=precisions,
    ).fit(x)  # fmt: skip


@pytest.mark.parametrize(("shared", "covariance_type"), [(False, "full"), (True, "tied")])
def test_without_prior_it_is_the_mixture_of_scikit_learn(shared, covariance_type):
    x, responsibilities = overlapping()
    expected = reference(x, responsibilities, covariance_type)
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    found, _ = maximize(x, responsibilities, identity, 0, 2000, 1e-13, shared=shared)
    covariances = expected.covariances_.reshape(-1, 3, 3)
    np.testing.assert_allclose(found.centers, expected.means_, atol=1e-6)
    np.testing.assert_allclose(found.log_weights.exp(), expected.weights_, atol=1e-6)
    np.testing.assert_allclose(found.covariances, covariances, atol=1e-6)


@pytest.mark.parametrize("pseudo_count", [0, 20.0, 1e4])
@pytest.mark.parametrize("shared", [False, True])
def test_the_objective_never_falls(pseudo_count, shared):
    x, responsibilities = overlapping(n_features=4, seed=1)
    prior = torch.diag(torch.tensor([0.1, 0.5, 2.0, 3.0], dtype=x.dtype))
    mixture, objectives = maximize(
        x, responsibilities, prior, pseudo_count, 60, -torch.inf, shared=shared
    )
    assert len(objectives) == 60
    assert len(mixture.covariances) == (1 if shared else 2)
    steps = np.diff(objectives)
    assert steps.min() >= -1e-12
    assert steps.sum() > 1e-4


def test_many_pseudo_samples_leave_the_prior_alone():
    x, responsibilities = overlapping()
    prior = torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=x.dtype))
    alone, _ = maximize(x, responsibilities, prior, 1e9)
    torch.testing.assert_close(alone.covariances, prior.expand(2, 3, 3), rtol=0, atol=1e-4)


class Hierarchy:
    """Classes of several Gaussians each; centers lie at least 10 apart."""

    def __init__(self, n_features, n_classes=5, n_centers=3, seed=0):
        rng = np.random.default_rng(seed)
        n = n_classes * n_centers
        places = rng.permutation(6**2)[:n]  # on a grid in the first two features
        centers = rng.normal(0, 1, (n, n_features))
        centers[:, :2] += 12 * np.stack(np.divmod(places, 6), 1)
        factors = rng.normal(0, 0.5, (n, n_features, n_features)) / np.sqrt(n_features)
        covariances = factors @ factors.transpose(0, 2, 1) + 0.5 * np.eye(n_features)
        weights = rng.uniform(1, 2, (n_classes, n_centers))
        weights /= weights.sum(1, keepdims=True)
        self.classes = list(
            zip(
                weights,
                centers.reshape(n_classes, n_centers, -1),
                covariances.reshape(n_classes, n_centers, n_features, n_features),
                strict=True,
            )
        )

    def draw(self, code, n, seed):
        """Vectors (n, n_features) of a class, and the center of each."""
        weights, centers, covariances = self.classes[code]
        rng = np.random.default_rng([code, seed])
        names = rng.choice(len(weights), n, p=weights)
        noise = rng.normal(0, 1, (n, centers.shape[1]))
        factors = np.linalg.cholesky(covariances)
        return centers[names] + np.einsum("nij,nj->ni", factors[names], noise), names


def log_density(x, weights, centers, covariances):
    """Log-density by scipy."""
    parts = [
        np.log(weight) + multivariate_normal(center, covariance).logpdf(x)
        for weight, center, covariance in zip(weights, centers, covariances, strict=True)
    ]
    return np.logaddexp.reduce(parts, axis=0)


@pytest.mark.parametrize(("n_features", "n"), [(2, 3000), (8, 12_000), (32, 1500)])
def test_mixtures_of_several_classes_are_found_again(n_features, n):
    hierarchy = Hierarchy(n_features)
    true_names, found_names = [], []
    for code, parts in enumerate(hierarchy.classes):
        x, names = hierarchy.draw(code, n, seed=0)
        mixture = fit_mixture(torch.from_numpy(x), 3, torch.Generator().manual_seed(0))
        found_parts = mixture.log_weights.exp().numpy(), mixture.centers, mixture.covariances
        fresh, fresh_names = hierarchy.draw(code, 4000, seed=1)
        by_center = [
            np.log(weight) + multivariate_normal(center, covariance).logpdf(fresh)
            for weight, center, covariance in zip(*found_parts, strict=True)
        ]
        true_names.append(3 * code + fresh_names)
        found_names.append(3 * code + np.argmax(by_center, axis=0))
        if n_features <= 8:
            lost = log_density(fresh, *parts) - log_density(fresh, *found_parts)
            assert abs(lost.mean()) < 0.02
    assert adjusted_rand_score(*map(np.concatenate, (true_names, found_names))) >= 0.98


@pytest.mark.parametrize("shared", [False, True])
def test_log_density_is_that_of_scipy(shared):
    weights, centers, covariances = Hierarchy(4).classes[0]
    covariances = covariances[:1] if shared else covariances
    mixture = GaussianMixture(*map(torch.from_numpy, (centers, np.log(weights), covariances)))
    x = np.random.default_rng(0).normal(centers.mean(0), 10, (50, 4))
    expected = log_density(x, weights, centers, np.broadcast_to(covariances, (3, 4, 4)))
    found = mixture.log_density(torch.from_numpy(x)) - 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_last_axis_counts_for_all_directions_merged_in_it():
    """Its value is the length of the vector in these directions, its variance that of each."""
    variances, rest, centers = [0.5, 2.0], 0.3, np.array([[0.0, 1.0], [2.0, -1.0]])
    x = np.random.default_rng(0).normal(0, 1, (20, 2 + 5))
    wide = np.diag(variances + [rest] * 5)
    padded = np.pad(centers, [(0, 0), (0, 5)])
    expected = log_density(x, [0.3, 0.7], padded, [wide, wide])
    merged = np.column_stack([x[:, :2], np.linalg.norm(x[:, 2:], axis=1)])
    mixture = GaussianMixture(
        torch.from_numpy(np.pad(centers, [(0, 0), (0, 1)])),
        torch.tensor([0.3, 0.7], dtype=torch.float64).log(),
        torch.diag(torch.tensor([*variances, rest], dtype=torch.float64))[None],
        n_merged=4,
    )
    found = mixture.log_density(torch.from_numpy(merged)) - 3.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_no_more_centers_than_distinct_vectors():
    x = torch.arange(3, dtype=torch.float64).repeat(5)[:, None].expand(15, 2)
    mixture = fit_mixture(x, 8, torch.Generator().manual_seed(0))
    assert len(mixture.centers) == 3
    assert mixture.log_density(x).isfinite().all()


def test_modes_have_one_covariance_and_keep_their_places():
    rng = np.random.default_rng(0)
    shape = np.array([[1.0, 0.9], [0.9, 1.0]])
    x = rng.multivariate_normal([0, 0], shape, 600)
    x[400:] += [20, 0]
    modes = torch.tensor([4] * 400 + [7] * 200)  # any numbers
    mixture = fit_modes(torch.from_numpy(x), modes)
    assert mixture.covariances.shape == (1, 2, 2)
    np.testing.assert_allclose(mixture.log_weights.exp(), [2 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(mixture.centers, [x[:400].mean(0), x[400:].mean(0)], atol=1e-6)
    np.testing.assert_allclose(mixture.covariances[0], shape, atol=0.15)
