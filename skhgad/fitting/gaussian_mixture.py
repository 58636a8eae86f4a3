"""Gaussian mixtures of latent vectors, fitted by expectation-maximisation."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from ..model.mixture import log_sum_exp, squared_distances
from .center_priors import likeliest_priors
from .covariance import residuals_within, whitening_matrix
from .gaussian_shrinkage import inflation_of, likeliest_pseudo_count, share_of_prior, varying_axes
from .kmeans import fit_kmeans

_BLOCK_ENTRIES = 1 << 22  # of a matrix of distances, vectors by centers
_GROUP_ENTRIES = 1 << 20  # of residuals, components by vectors by features
_STACK_ENTRIES = 1 << 16  # of matrices that are factorised in one call
_MOST_STEPS = 100
_TOLERANCE = 1e-4  # nats per vector: smaller steps end the iteration
_ROUNDS = 2  # in which the priors of the centers are chosen
_N_STARTS, _STARTING_STEPS = 3, 3
_STARTING_VECTORS = 1000
_PRIOR_ALONE = 1e6  # pseudo-samples for each vector that leave nothing but the prior


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of Gaussians, all tensors float64.

    `centers` has shape (n_components, n_features), `log_weights` (n_components,), `covariances`
    (n_components, n_features, n_features), or one for all components: (1, n_features, n_features).
    Else `names`, int64 of shape (n_components,), tells which covariance a component has.
    `n_merged` is the number of directions beyond one that the last axis stands for; see
    `LinearStart`. The prior counts as `pseudo_count` vectors in every covariance.
    """

    centers: torch.Tensor
    log_weights: torch.Tensor
    covariances: torch.Tensor
    n_merged: int = 0
    pseudo_count: float = 0.0
    names: torch.Tensor | None = None

    def shrinkage(self, n_vectors):
        """Share of the prior among so many vectors and its own; 1 where there are none."""
        return share_of_prior(self.pseudo_count, n_vectors) if n_vectors else 1.0

    def log_density(self, z):
        r"""Log-density of vectors (n, n_features), up to :math:`-\frac{d}{2}\ln 2\pi`."""
        step = max(1, _BLOCK_ENTRIES // len(self.centers))
        roots = whiteners(self.covariances)
        return torch.cat(
            [log_sum_exp(self.joint_log_density(part, roots)) for part in z.split(step)]
        )

    def joint_log_density(self, z, roots):
        """Log of weight times density of each component, (n, n_components).

        `roots` are the `whiteners` of its covariances.
        """
        if self.names is None:
            densities = component_log_densities(z, self.centers, roots)
        else:
            densities = z.new_empty(len(z), len(self.centers))
            for name, one in enumerate(roots):
                own = self.names == name
                densities[:, own] = component_log_densities(z, self.centers[own], one[None])
        if self.n_merged:
            densities = densities + self.n_merged * roots[:, -1, -1].log()
        return self.log_weights + densities

    def posterior(self, z):
        """Posterior probability (n, n_components) of each component at vectors (n, n_features)."""
        return self.joint_log_density(z, whiteners(self.covariances)).softmax(1)

    def without(self, left_out):
        """Return the mixture without some components, a bool Tensor, the others equally heavy."""
        names = None if self.names is None else self.names[~left_out]
        centers = self.centers[~left_out]
        return replace(
            self, centers=centers, log_weights=equal_log_weights(len(centers)), names=names
        )

    def frozen(self):
        """Return (centers, log_weights, whiteners, names), as `ClassDensities.of` takes them."""
        roots = torch.stack([whitening_matrix(covariance) for covariance in self.covariances])
        return self.centers, self.log_weights, roots, self.names


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


def whiteners(covariances):
    """Return the `whitener` of each covariance, (n, n_features, n_features)."""
    identity = torch.eye(covariances.shape[-1], dtype=covariances.dtype)
    found = []
    for stack in covariances.split(max(1, _STACK_ENTRIES // len(identity) ** 2)):
        factors, failed_at = torch.linalg.cholesky_ex(stack)
        if failed_at.any():
            found += [whitener(covariance)[None] for covariance in stack]
        else:
            found.append(torch.linalg.solve_triangular(factors, identity, upper=False).mT)
    return torch.cat(found)


def log_determinants(roots):
    """Log-determinant (n,) of each of the triangular `whiteners`."""
    return roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def component_log_densities(z, centers, roots):
    """Log-densities (n, n_components) of vectors under each component.

    `roots` (1 or n_components, n_features, n_features) are whiteners: one for each component, or
    one for all.
    """
    log_dets = log_determinants(roots)
    if len(roots) == 1:
        return log_dets - 0.5 * squared_distances(z @ roots[0], centers @ roots[0])
    distances = [
        ((z - centers[group, None]) @ roots[group]).square().sum(-1)
        for group in component_groups(len(centers), z)
    ]
    return log_dets - 0.5 * torch.cat(distances).T


def component_groups(n_components, z):
    """Slices of components whose residuals from vectors (n, n_features) fit in memory together."""
    step = max(1, _GROUP_ENTRIES // z.numel())
    return [slice(first, first + step) for first in range(0, n_components, step)]


def fit_mixture(z, n_components, generator, *, n_steps=_MOST_STEPS, ties=None):
    """Fit a mixture to vectors (n, n_features), in random order, starting from k-means.

    Each center has a covariance of its own. It borrows from the covariance that the clusters of
    k-means have in common, scaled to the spread of the center, which borrows from the identity: see
    `likeliest_priors` and `pooled_within`. k-means does not know of spreads: of several starts, the
    one from which the first vectors become most likely goes on. `ties` is of `tie_covariances`;
    None: 0. With fewer distinct vectors than `n_components`, there are as many centers as those.
    """
    n_components = min(n_components, len(torch.unique(z, dim=0)))
    seed = int(torch.randint(2**31 - 1 - _N_STARTS, (1,), generator=generator))
    ties = z.new_zeros(z.shape[1], z.shape[1]) if ties is None else ties
    n_steps, first = -(-n_steps // _ROUNDS), z[:_STARTING_VECTORS]
    starts = []
    for start in range(_N_STARTS):
        kmeans = fit_kmeans(first, n_components, seed + start)
        labels = torch.from_numpy(kmeans.labels_.astype(np.int64))
        shares = nn.functional.one_hot(labels).to(z)
        starts.append(_fit_round(first, shares, ties, _STARTING_STEPS))
    mixture = max(starts, key=lambda found: float(found.log_density(first).mean()))
    for _ in range(_ROUNDS):
        mixture = _fit_round(z, mixture.posterior(z), ties, n_steps)
    return mixture


def _fit_round(z, responsibilities, ties, n_steps):
    """Choose the priors of the centers, then alternate maximisation and expectation.

    Axes in which nothing varies take no part in the choice: a density is there as high as the prior
    counts little.
    """
    common = pooled_within(z, responsibilities.argmax(1), z.shape[1]) + ties
    axes = varying_axes(z)
    if 0 < axes.shape[1] < len(axes):
        along, of_common, of_ties = z @ axes, axes.T @ common @ axes, axes.T @ ties @ axes
        scales, pseudo_count = likeliest_priors(
            along, responsibilities, whitener(of_common), of_ties
        )
    else:
        scales, pseudo_count = likeliest_priors(z, responsibilities, whitener(common), ties)
    priors = scales[:, None, None] * common
    return maximize(z, responsibilities, priors, pseudo_count, n_steps, ties=ties)[0]


def fit_modes(z, modes, n_merged=0, ties=None, pseudo_count=None, parts=None):
    """Fit Gaussians of one covariance to vectors, starting from the modes (n,) of `find_modes`.

    The covariance is shrunk to the identity; how far is chosen by the likelihood of vectors left
    out, or `pseudo_count` says how many vectors the identity counts as. `ties` is of
    `tie_covariances`; None: 0.
    """
    modes = torch.unique(modes, return_inverse=True)[1]
    responsibilities = nn.functional.one_hot(modes).to(z)
    identity = torch.eye(z.shape[1], dtype=z.dtype)
    n_features = z.shape[1] + n_merged
    if pseudo_count is None:
        pseudo_count = likeliest_pseudo_count(
            residuals_within(z, modes), inflation_of(modes, parts), 1.0, n_features,
            n_features=n_features, parts=parts,
        )  # fmt: skip
    if math.isinf(pseudo_count):
        pseudo_count = _PRIOR_ALONE * len(z)
    mixture = maximize(z, responsibilities, identity, pseudo_count, shared=True, ties=ties)[0]
    return replace(mixture, n_merged=n_merged)


def maximize(
    z, responsibilities, prior, pseudo_count, n_steps=_MOST_STEPS, tolerance=_TOLERANCE, *,
    shared=False, ties=None,
):  # fmt: skip
    """Alternate maximisation and expectation from starting responsibilities (n, n_components).

    Every covariance takes `pseudo_count` samples of the covariance `prior`, which may be one for
    each component. The result is a posterior mode under an inverse-Wishart prior; 0 gives the
    maximum likelihood. `shared`: one covariance for all components. Each vector stands for a small
    Gaussian of the covariance `ties` around it, None: for itself.

    Returns the mixture and the objective after each step, in nats per vector: the mean
    log-likelihood plus the prior's share. It never falls.
    """
    objectives = []
    priors = prior if prior.ndim == 3 else prior[None]
    for _ in range(n_steps):
        mixture = _maximization(z, responsibilities, priors, pseudo_count, shared, ties)
        roots = whiteners(mixture.covariances)
        joint = mixture.joint_log_density(z, roots)
        if ties is not None:
            joint = joint - 0.5 * _traces(ties, roots)
        likelihood = log_sum_exp(joint)
        objectives.append(
            float(likelihood.mean() + pseudo_count * _prior_term(priors, roots) / len(z))
        )
        responsibilities = (joint - likelihood[:, None]).exp()
        if len(objectives) > 1 and objectives[-1] - objectives[-2] < tolerance:
            break
    return mixture, objectives


def _maximization(z, responsibilities, priors, pseudo_count, shared, ties):
    weights = responsibilities.sum(0).clamp_min(1e-10)
    centers = (responsibilities.T @ z) / weights[:, None]
    scatters = []
    for group in component_groups(len(centers), z):
        weighted = (z - centers[group, None]) * responsibilities.T[group, :, None].sqrt()
        scatters.append(weighted.mT @ weighted)
    scatters = torch.cat(scatters)
    if ties is not None:
        scatters = scatters + weights[:, None, None] * ties
    counts = weights[:, None, None]
    if shared:
        scatters, counts = scatters.sum(0, keepdim=True), counts.sum(0, keepdim=True)
    covariances = (scatters + pseudo_count * priors) / (counts + pseudo_count)
    log_weights = (weights / weights.sum()).log()
    return GaussianMixture(centers, log_weights, covariances, pseudo_count=pseudo_count)


def _prior_term(priors, roots):
    """Log-density of covariances under the inverse-Wishart prior of one pseudo-sample."""
    return (log_determinants(roots) - 0.5 * _traces(priors, roots)).sum()


def _traces(covariances, roots):
    """Trace of each covariance, or of one, after the whitening by each root."""
    return ((roots.mT @ covariances) * roots.mT).sum((1, 2))


def pooled_within(z, labels, shrinkage_samples):
    """Covariance inside clusters, with so many pseudo-samples of the identity."""
    residuals = residuals_within(z, labels)
    identity = torch.eye(z.shape[1], dtype=z.dtype)
    total = len(z) + shrinkage_samples
    return (residuals.T @ residuals + shrinkage_samples * identity) / total


def equal_log_weights(n):
    """Log-weights of n equal components."""
    return torch.full((n,), -math.log(n), dtype=torch.float64)
