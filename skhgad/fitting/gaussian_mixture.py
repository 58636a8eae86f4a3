"""Gaussian mixtures of latent vectors, fitted by expectation-maximisation."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from ..model.mixture import squared_distances
from .covariance import residuals_within
from .gaussian_shrinkage import inflation_of, likeliest_pseudo_count

_BLOCK_ENTRIES = 1 << 22  # of a matrix of distances, vectors by centers
_MOST_STEPS = 100
_TOLERANCE = 1e-4  # nats per vector: smaller steps end the iteration
_PSEUDO_PER_FEATURE = 3.0
_PRIOR_ALONE = 1e6  # pseudo-samples for each vector that leave nothing but the prior


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of Gaussians, all tensors float64.

    `centers` has shape (n_components, n_features), `log_weights` (n_components,), `covariances`
    (n_components, n_features, n_features), or one for all components: (1, n_features, n_features).
    `n_merged` is the number of directions beyond one that the last axis stands for; see
    `LinearStart`. The prior counts as `pseudo_count` vectors in every covariance.
    """

    centers: torch.Tensor
    log_weights: torch.Tensor
    covariances: torch.Tensor
    n_merged: int = 0
    pseudo_count: float = 0.0

    def shrinkage(self, n_vectors):
        """Share of the prior among so many vectors and its own; 1 where there are none."""
        if math.isinf(self.pseudo_count) or not n_vectors:
            return 1.0
        return self.pseudo_count / (n_vectors + self.pseudo_count)

    def log_density(self, z):
        r"""Log-density of vectors (n, n_features), up to :math:`-\frac{d}{2}\ln 2\pi`."""
        step = max(1, _BLOCK_ENTRIES // len(self.centers))
        whiteners = [whitener(covariance) for covariance in self.covariances]
        return torch.cat(
            [self.joint_log_density(part, whiteners).logsumexp(1) for part in z.split(step)]
        )

    def joint_log_density(self, z, whiteners):
        """Log of weight times density of each component, (n, n_components)."""
        densities = component_log_densities(z, self.centers, whiteners)
        merged = torch.stack([w[-1, -1].log() for w in whiteners])
        return self.log_weights + densities + self.n_merged * merged


def whitener(covariance):
    """Return L^-T of the Cholesky factor L: rows times it have the identity as covariance.

    Where rounding leaves no factor, as of clusters that are tight and far apart, eigenvalues below
    1e-10 of the largest are raised to that, as `whitening_matrix` does.
    """
    factor, failed_at = torch.linalg.cholesky_ex(covariance)
    if failed_at:
        factor = torch.linalg.cholesky(_regular(covariance))
    identity = torch.eye(len(factor), dtype=factor.dtype)
    return torch.linalg.solve_triangular(factor, identity, upper=False).T


def _regular(covariance):
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(1e-10 * values[-1])) @ vectors.T


def component_log_densities(z, centers, whiteners):
    """Log-densities (n, n_components) of vectors under each component.

    `whiteners` holds one for each component, or one for all.
    """
    log_dets = torch.stack([w.diagonal().log().sum() for w in whiteners])
    if len(whiteners) == 1:
        return log_dets - 0.5 * squared_distances(z @ whiteners[0], centers @ whiteners[0])
    distances = [
        ((z - center) @ w).square().sum(1) for center, w in zip(centers, whiteners, strict=True)
    ]
    return log_dets - 0.5 * torch.stack(distances, 1)


def fit_mixture(z, n_components, generator, *, n_steps=_MOST_STEPS):
    """Fit a mixture to vectors (n, n_features), starting from k-means.

    Each center has a covariance of its own. It borrows from the covariance that the clusters of
    k-means have in common, which borrows from the identity: see `maximize` and `pooled_within`.
    With fewer distinct vectors than `n_components`, there are as many centers as those.
    """
    from sklearn.cluster import KMeans  # scoring does without

    n_components = min(n_components, len(torch.unique(z, dim=0)))
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    labels = KMeans(n_components, n_init=1, max_iter=50, random_state=seed).fit_predict(z.numpy())
    labels = torch.from_numpy(labels.astype(np.int64))
    prior = pooled_within(z, labels, z.shape[1])
    responsibilities = nn.functional.one_hot(labels, n_components).to(z)
    return maximize(z, responsibilities, prior, _PSEUDO_PER_FEATURE * z.shape[1], n_steps)[0]


def fit_modes(z, modes, n_merged=0):
    """Fit Gaussians of one covariance to vectors, starting from the modes (n,) of `find_modes`.

    The covariance is shrunk to the identity; how far is chosen by the likelihood of vectors left
    out.
    """
    modes = torch.unique(modes, return_inverse=True)[1]
    responsibilities = nn.functional.one_hot(modes).to(z)
    identity = torch.eye(z.shape[1], dtype=z.dtype)
    n_features = z.shape[1] + n_merged
    pseudo_count = likeliest_pseudo_count(
        residuals_within(z, modes), inflation_of(modes), 1.0, n_features, n_features=n_features
    )
    if math.isinf(pseudo_count):
        pseudo_count = _PRIOR_ALONE * len(z)
    mixture, _ = maximize(z, responsibilities, identity, pseudo_count, shared=True)
    return replace(mixture, n_merged=n_merged)


def maximize(
    z, responsibilities, prior, pseudo_count, n_steps=_MOST_STEPS, tolerance=_TOLERANCE, *,
    shared=False,
):  # fmt: skip
    """Alternate maximisation and expectation from starting responsibilities (n, n_components).

    Every covariance takes `pseudo_count` samples of the covariance `prior`. The result is a
    posterior mode under an inverse-Wishart prior; 0 gives the maximum likelihood. `shared`: one
    covariance for all components.

    Returns the mixture and the objective after each step, in nats per vector: the mean
    log-likelihood plus the prior's share. It never falls.
    """
    objectives = []
    for _ in range(n_steps):
        mixture = _maximization(z, responsibilities, prior, pseudo_count, shared)
        whiteners = [whitener(covariance) for covariance in mixture.covariances]
        joint = mixture.joint_log_density(z, whiteners)
        likelihood = joint.logsumexp(1)
        objectives.append(
            float(likelihood.mean() + pseudo_count * _prior_term(prior, whiteners) / len(z))
        )
        responsibilities = (joint - likelihood[:, None]).exp()
        if len(objectives) > 1 and objectives[-1] - objectives[-2] < tolerance:
            break
    return mixture, objectives


def _maximization(z, responsibilities, prior, pseudo_count, shared):
    weights = responsibilities.sum(0).clamp_min(1e-10)
    centers = (responsibilities.T @ z) / weights[:, None]
    scatters = []
    for m, center in enumerate(centers):
        residuals = (z - center) * responsibilities[:, m : m + 1].sqrt()
        scatters.append(residuals.T @ residuals)
    counts = weights
    if shared:
        scatters, counts = [sum(scatters)], weights.sum(0, keepdim=True)
    covariances = [
        (scatter + pseudo_count * prior) / (count + pseudo_count)
        for scatter, count in zip(scatters, counts, strict=True)
    ]
    log_weights = (weights / weights.sum()).log()
    return GaussianMixture(
        centers, log_weights, torch.stack(covariances), pseudo_count=pseudo_count
    )


def _prior_term(prior, whiteners):
    """Log-density of covariances under the inverse-Wishart prior of one pseudo-sample."""
    terms = [w.diagonal().log().sum() - 0.5 * ((w.T @ prior) * w.T).sum() for w in whiteners]
    return torch.stack(terms).sum()


def pooled_within(z, labels, shrinkage_samples):
    """Covariance inside clusters, with so many pseudo-samples of the identity."""
    residuals = residuals_within(z, labels)
    identity = torch.eye(z.shape[1], dtype=z.dtype)
    total = len(z) + shrinkage_samples
    return (residuals.T @ residuals + shrinkage_samples * identity) / total


def equal_log_weights(n):
    """Log-weights of n equal components."""
    return torch.full((n,), -math.log(n), dtype=torch.float64)
