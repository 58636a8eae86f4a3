"""Kernel densities: a Gaussian at every vector, with one covariance for all of them."""

import math

import torch

from ..model.mixture import squared_distances
from .gaussian_mixture import GaussianMixture, equal_log_weights, whitener
from .gaussian_shrinkage import robust_mean

_BANDWIDTHS = torch.logspace(math.log10(0.05), math.log10(2.0), 14, dtype=torch.float64)
_FINE = torch.logspace(-0.15, 0.15, 7, dtype=torch.float64)
_PRIOR_SHARES = (0.1, 0.3, 0.6, 1.0)
_STEPS = 6
_SMALLEST_VARIANCE = 1e-6  # of a kernel's shape, where 1 is that of the class
ROWS_PER_FEATURE = 2  # with fewer, the shape of a kernel cannot be told
MOST_KERNELS = 4096
_MOST_JUDGED = 1000  # vectors whose left-out likelihood chooses the bandwidth


def fit_kernels(z):
    """Fit a kernel density to vectors (n, n_features), in latent space, n at least 2.

    1. The bandwidth h of round kernels, covariance h^2 I, is the one that makes vectors most likely
       under the kernels of all others.
    2. Leave-one-out expectation-maximisation gives the kernels a shape: each vector is explained by
       the other vectors' kernels, and the covariance becomes that of the weighted differences.
    3. How much of the round kernel stays is chosen by the likelihood of vectors that took no part
       in step 2.

    The others of a vector are those that differ from it: copies would explain each other by kernels
    of no width.

    Source: J. M. Leiva-Murillo, A. Artes-Rodriguez, "Algorithms for maximum-likelihood bandwidth
    selection in kernel density estimators", Pattern Recognition Letters 33, 2012.
    """
    n, n_features = z.shape
    identity = torch.eye(n_features, dtype=z.dtype)
    copies = torch.unique(z, dim=0, return_inverse=True)[1]
    if not copies.any():
        return GaussianMixture(z, equal_log_weights(n), identity[None])
    judged = min(n, _MOST_JUDGED)
    is_copy = copies[:judged, None] == copies
    bandwidth = _best_bandwidth(z, is_copy, identity, _BANDWIDTHS)
    covariance = bandwidth**2 * identity
    if n >= ROWS_PER_FEATURE * n_features and n >= 10:
        half = judged // 2
        learned = _shape(z, is_copy[:half], covariance)
        share = _best_share(z, is_copy, half, covariance, learned)
        if share < 1:
            covariance = _mixed(_shape(z, is_copy, covariance), covariance, share)
    covariance = covariance * _best_bandwidth(z, is_copy, covariance, _FINE) ** 2
    return GaussianMixture(z, equal_log_weights(n), covariance[None])


def _left_out(z, is_copy, covariance, bandwidths):
    """Log-likelihoods (n_judged, n_bandwidths) of the first vectors of z under all the others.

    `is_copy`, bool of shape (n_judged, n), tells which vectors equal the judged one; they and
    itself are no others.
    """
    w = whitener(covariance)
    distances = _distances(z, is_copy, w)
    log_det, n_features = w.diagonal().log().sum(), z.shape[1]
    n_others = (~is_copy).sum(1, keepdim=True)
    return torch.stack(
        [
            torch.logsumexp(-0.5 / h**2 * distances, 1) - n_features * math.log(h)
            for h in bandwidths.tolist()
        ],
        1,
    ) + (log_det - n_others.log())


def _distances(z, is_copy, w):
    whitened = z @ w
    distances = squared_distances(whitened[: len(is_copy)], whitened)
    return distances.masked_fill_(is_copy, torch.inf)


def _best_bandwidth(z, is_copy, covariance, bandwidths):
    likelihoods = robust_mean(_left_out(z, is_copy, covariance, bandwidths))
    return float(bandwidths[int(likelihoods.argmax())])


def _shape(z, is_copy, prior):
    """Covariance of the differences between vectors and the kernels that explain them."""
    covariance = prior
    for _ in range(_STEPS):
        # A little of the prior keeps the covariance regular where vectors have equal features.
        learned = _mixed(_differences(z, is_copy, whitener(covariance)), prior, _PRIOR_SHARES[0])
        if torch.linalg.cholesky_ex(learned).info:  # rounding, of clusters that are very far apart
            break
        covariance = learned
    return covariance


def _differences(z, is_copy, w):
    judged = z[: len(is_copy)]
    posterior = (-0.5 * _distances(z, is_copy, w)).softmax(1)
    cross = judged.T @ (posterior @ z)
    scatter = judged.T @ judged + z.T @ (posterior.sum(0)[:, None] * z) - cross - cross.T
    return scatter / len(judged)


def _mixed(learned, prior, share):
    """Mix a learned covariance with the prior, scaled to the same mean variance."""
    # Vectors that are equal but for rounding explain each other by kernels of no width.
    scale = (learned.trace() / prior.trace()).clamp_min(_SMALLEST_VARIANCE)
    return (1 - share) * learned + share * scale * prior


def _best_share(z, is_copy, half, prior, learned):
    scores = []
    for share in _PRIOR_SHARES:
        covariance = prior if share == 1 else _mixed(learned, prior, share)
        scores.append(robust_mean(_left_out(z, is_copy, covariance, _FINE)[half:]).max())
    return _PRIOR_SHARES[int(torch.stack(scores).argmax())]
