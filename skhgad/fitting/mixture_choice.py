"""How many centers a class takes: from one Gaussian to a kernel at every vector."""

import math

import torch

from .gaussian_mixture import GaussianMixture, equal_log_weights, fit_mixture, fit_modes
from .gaussian_shrinkage import (
    SMALLEST_SCATTER,
    inflation_of,
    is_clearly_better,
    ledoit_wolf_pseudo_count,
    likeliest_pseudo_count,
    principal_axes,
    robust_mean,
    shrunk_covariance,
)
from .kernels import MOST_KERNELS, ROWS_PER_FEATURE, fit_kernels

KERNELS, MODES = "kernels", "modes"
_SIZES = (2, 4, 8, 16)
_VECTORS_PER_CENTER = 10
_FEWEST_VECTORS = 8  # with fewer there is nothing to choose by
_MOST_VECTORS = 2000  # that take part in the choice
_NATS_PER_FEATURE = 0.1  # by which few centers must be better than kernels
_STEPS = 20


def fit_gaussian(z, heavy_tails=False, n_merged=0):
    """Fit one Gaussian to vectors (n, n_features).

    Its covariance is shrunk to the identity, which is that of all classes together. How far is
    chosen by the likelihood of vectors left out; with `heavy_tails`, as Ledoit and Wolf do.
    """
    n, n_axes = z.shape
    covariance = torch.eye(n_axes, dtype=z.dtype)
    mean = z.mean(0) if n else z.new_zeros(n_axes)
    residuals, pseudo = z - mean, math.inf
    if residuals.any():
        n_features, prior = n_axes + n_merged, covariance
        if heavy_tails:
            pseudo, scale = ledoit_wolf_pseudo_count(residuals, n_features)
            prior = scale * prior
        else:
            pseudo = likeliest_pseudo_count(
                residuals, inflation_of(torch.zeros(n, dtype=torch.int64)), 1.0, n_features,
                n_features=n_features,
            )  # fmt: skip
        covariance = shrunk_covariance(residuals.T @ residuals, n, pseudo, prior)
    return GaussianMixture(mean[None], equal_log_weights(1), covariance[None], n_merged, pseudo)


def choose_mixture(z, modes, seed, heavy_tails=False, n_merged=0, name=None):
    """Choose and fit the mixture of a class by the likelihood of vectors left out.

    The candidates are one Gaussian; the modes, with one covariance; 2 to 16 Gaussians with
    covariances of their own; and kernels. One Gaussian stays unless another is better by two
    standard errors. Then the modes stay unless another is. A few Gaussians are chosen before
    kernels only if they are better by 0.1 nats per feature: features of few values let narrow
    Gaussians win likelihood that says nothing of anomalies.

    Parameters
    ----------
    z : Tensor of shape (n, n_features), float64
        Vectors of the class in latent space, in random order.
    modes : Tensor of shape (n,), int64
        From `find_modes`.
    seed : int
    heavy_tails : bool
        See `fit_gaussian`.
    n_merged : int
        See `GaussianMixture`.
    name : int or str, default=None
        The candidate to take, chosen before on more vectors of the class.

    Returns
    -------
    GaussianMixture
    """
    fits = candidates(z, modes, seed, heavy_tails, n_merged)
    if name is None:
        name = _likeliest(z, modes, seed, heavy_tails, n_merged) if len(fits) > 1 else 1
    if name not in fits:
        name = 1
    rows = slice(MOST_KERNELS if name == KERNELS else None)
    return fits[name](torch.arange(len(z))[rows])


def _likeliest(z, modes, seed, heavy_tails, n_merged):
    """Choose among candidates on the axes in which the vectors vary.

    In the others, as of constant features and sums of others, a density is as high as its
    covariance is shrunk little, which says nothing of the candidates.
    """
    if not n_merged:
        scatter, axes = principal_axes(z - z.mean(0))
        varies = scatter > SMALLEST_SCATTER * scatter.max()
        z = z if varies.all() else z @ axes[:, varies]
    fits = candidates(z, modes, seed, heavy_tails, n_merged)
    return chosen_name(left_out_likelihoods(fits, z), z.shape[1])


def names_of(densities, n_vectors):
    """Tell which candidate became the mixture of each class.

    Parameters
    ----------
    densities : ClassDensities
    n_vectors : sequence of int
        How many of each class the densities were fitted to.

    Returns
    -------
    list of int or str
    """
    names, first = [], 0
    for n_centers, n in zip(densities.center_counts.tolist(), n_vectors, strict=True):
        whiteners = densities.center_whiteners[first : first + n_centers]
        first += n_centers
        name = n_centers
        if n_centers > 1 and len(whiteners.unique()) == 1:
            name = KERNELS if n_centers >= min(n, MOST_KERNELS) else MODES
        names.append(name)
    return names


def name_of(mixture, n_vectors):
    """Tell which candidate a GaussianMixture of so many vectors is; see `names_of`."""
    n_centers = len(mixture.centers)
    if n_centers == 1 or len(mixture.covariances) > 1:
        return n_centers
    return KERNELS if n_centers >= min(n_vectors, MOST_KERNELS) else MODES


def candidates(z, modes, seed, heavy_tails, n_merged):
    """Return {name: fit} of what can be fitted to so many vectors; 1 is always there.

    fit(rows) takes the numbers of the vectors to fit to and returns a GaussianMixture.
    """
    n, n_features = z.shape
    fits = {1: lambda rows: fit_gaussian(z[rows], heavy_tails, n_merged)}
    if n < _FEWEST_VECTORS or not (z != z[0]).any():
        return fits
    if modes.any():
        fits[MODES] = lambda rows: fit_modes(z[rows], modes[rows], n_merged)
    if n < ROWS_PER_FEATURE * n_features or n_merged:
        return fits
    for size in _SIZES:
        if n >= size * _VECTORS_PER_CENTER:
            fits[size] = lambda rows, size=size: fit_mixture(
                z[rows], size, torch.Generator().manual_seed(seed), n_steps=_STEPS
            )
    fits[KERNELS] = lambda rows: fit_kernels(z[rows])
    return fits


def left_out_likelihoods(fits, z):
    """Log-likelihoods (n_judged,) of vectors that a fit did not see, by candidate."""
    rows = torch.arange(min(len(z), _MOST_VECTORS))
    n_folds = 3
    folds = range(n_folds if len(rows) < 500 else 1)
    return {
        name: torch.cat(
            [
                fit(rows[rows % n_folds != fold]).log_density(z[rows[rows % n_folds == fold]])
                for fold in folds
            ]
        )
        for name, fit in fits.items()
    }


def chosen_name(likelihoods, n_features):
    """Choose among candidates by their left-out log-likelihoods; see `choose_mixture`."""
    simple = 1
    if MODES in likelihoods and is_clearly_better(likelihoods[MODES], likelihoods[1]):
        simple = MODES
    mixtures = {name: values for name, values in likelihoods.items() if name not in (1, MODES)}
    if not mixtures:
        return simple
    best = max(mixtures, key=lambda name: robust_mean(mixtures[name]))
    if not is_clearly_better(mixtures[best], likelihoods[simple]):
        return simple
    ahead = robust_mean(mixtures[best]) - robust_mean(mixtures[KERNELS])
    return best if ahead > _NATS_PER_FEATURE * n_features else KERNELS
