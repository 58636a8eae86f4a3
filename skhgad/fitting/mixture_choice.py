"""How many centers a class takes: from one Gaussian to a kernel at every vector."""

import math

import torch

from .gaussian_mixture import GaussianMixture, equal_log_weights, fit_mixture
from .gaussian_shrinkage import (
    describes_tails,
    inflation_of,
    ledoit_wolf_pseudo_count,
    likeliest_pseudo_count,
    robust,
    robust_mean,
    shrunk_covariance,
)
from .kernels import MOST_KERNELS, ROWS_PER_FEATURE, fit_kernels

KERNELS = "kernels"
_SIZES = (2, 4, 8, 16)
_VECTORS_PER_CENTER = 10
_FEWEST_VECTORS = 8  # with fewer there is nothing to choose by
_MOST_VECTORS = 2000  # that take part in the choice
_STANDARD_ERRORS = 2.0  # by which a mixture must be better than one Gaussian
_NATS_PER_FEATURE = 0.1  # by which few centers must be better than kernels
_STEPS = 20


def fit_gaussian(z):
    """Fit one Gaussian to vectors (n, n_features).

    Its covariance is shrunk to the identity, which is that of all classes together. How far is
    chosen by the likelihood of vectors left out. Where the vectors have far heavier tails than a
    Gaussian, the likelihood would trust directions that normal samples leave too often: the
    shrinkage of Ledoit and Wolf is taken there.
    """
    n, n_features = z.shape
    identity = torch.eye(n_features, dtype=z.dtype)
    if not n:
        return GaussianMixture(z.new_zeros(1, n_features), equal_log_weights(1), identity[None])
    mean = z.mean(0)
    residuals = z - mean
    if not residuals.any():
        return GaussianMixture(mean[None], equal_log_weights(1), identity[None])
    inflation = inflation_of(torch.zeros(n, dtype=torch.int64))
    pseudo = likeliest_pseudo_count(residuals, inflation, 1.0, n_features)
    if not describes_tails(residuals, inflation, 1.0, pseudo):
        pseudo, scale = ledoit_wolf_pseudo_count(residuals)
        identity = scale * identity
    covariance = shrunk_covariance(residuals.T @ residuals, n, pseudo, identity)
    return GaussianMixture(mean[None], equal_log_weights(1), covariance[None])


def choose_mixture(z, seed):
    """Choose and fit the mixture of a class by the likelihood of vectors left out.

    The candidates are one Gaussian, 2 to 16 Gaussians and kernels. One Gaussian stays unless
    another is better by two standard errors. A few Gaussians are chosen before kernels only if they
    are better by 0.1 nats per feature: features of few values let narrow Gaussians win likelihood
    that says nothing of anomalies.

    Parameters
    ----------
    z : Tensor of shape (n, n_features), float64
        Vectors of the class in latent space, in random order.
    seed : int

    Returns
    -------
    GaussianMixture
    """
    fits = candidates(z, seed)
    name = 1 if len(fits) == 1 else chosen_name(left_out_likelihoods(fits, z), z.shape[1])
    return fits[name](z[:MOST_KERNELS] if name == KERNELS else z)


def candidates(z, seed):
    """Return {name: fit} of what can be fitted to so many vectors; 1 is always there."""
    n, n_features = z.shape
    fits = {1: fit_gaussian}
    if n < _FEWEST_VECTORS or not (z != z[0]).any():
        return fits
    sizes = _SIZES if n >= ROWS_PER_FEATURE * n_features else _SIZES[:1]
    for size in sizes:
        if n >= size * _VECTORS_PER_CENTER:
            fits[size] = lambda z, size=size: fit_mixture(
                z, size, torch.Generator().manual_seed(seed), n_steps=_STEPS
            )
    if n >= ROWS_PER_FEATURE * n_features:
        fits[KERNELS] = fit_kernels
    return fits


def left_out_likelihoods(fits, z):
    """Log-likelihoods (n_judged,) of vectors that a fit did not see, by candidate."""
    z = z[:_MOST_VECTORS]
    n_folds = 5 if len(z) < 200 else 3
    fold = torch.arange(len(z)) % n_folds
    folds = range(n_folds if len(z) < 500 else 1)
    return {
        name: torch.cat([fit(z[fold != f]).log_density(z[fold == f]) for f in folds])
        for name, fit in fits.items()
    }


def chosen_name(likelihoods, n_features):
    """Choose among candidates by their left-out log-likelihoods; see `choose_mixture`."""
    mixtures = {name: values for name, values in likelihoods.items() if name != 1}
    best = max(mixtures, key=lambda name: robust_mean(mixtures[name]))
    gain = robust(mixtures[best]) - robust(likelihoods[1])
    if gain.mean() <= _STANDARD_ERRORS * gain.std() / math.sqrt(len(gain)):
        return 1
    if KERNELS in mixtures:
        ahead = robust_mean(mixtures[best]) - robust_mean(mixtures[KERNELS])
        if ahead <= _NATS_PER_FEATURE * n_features:
            return KERNELS
    return best
