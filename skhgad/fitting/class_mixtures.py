"""The mixture of each class of feature vectors: found in latent space, its size chosen."""

import torch

from ..model.class_densities import ClassDensities
from .covariance import shrink, whitening_matrix
from .mixture_choice import choose_mixture
from .gaussian_mixture import fit_mixture

_BACKGROUND_SHRINKAGE = 0.1
_MOST_VECTORS = 20_000  # of a class; more change nothing but the time
_MOST_BACKGROUND_VECTORS = 20_000


@torch.no_grad()
def fit_class_mixtures(level, samples, n_components, seed):
    """Return the ClassDensities of a level of feature vectors.

    Parameters
    ----------
    level : LevelModel
        Its start and flow lead to the latent space.
    samples : LevelSamples
        Raw features.
    n_components : int or "auto"
        Centers of each class; "auto": see `choose_mixture`.
    seed : int
        Of k-means and of the order in which vectors are drawn.
    """
    x, codes = samples.vectors()
    z = torch.cat([level.latent(part[:, None])[0][:, 0] for part in x.split(1 << 16)]).double()
    by_class = [_drawn(z[codes == code], _MOST_VECTORS, seed) for code in range(samples.n_classes)]
    present = [vectors for vectors in by_class if len(vectors)]
    residuals = torch.cat([vectors - vectors.mean(0) for vectors in present])
    mixtures = [_fit(vectors, n_components, seed) for vectors in by_class]
    locations = torch.stack(
        [vectors.mean(0) if len(vectors) else z.new_zeros(z.shape[1]) for vectors in by_class]
    )
    covariances = [_mean_covariance(mixture, residuals) for mixture in mixtures]
    root = whitening_matrix(sum(covariances) / len(covariances))
    background = None
    if samples.n_classes > 1:  # of a single class, the background is the class
        everything = _drawn(z, _MOST_BACKGROUND_VECTORS, seed)
        covariance = torch.cov(everything.T, correction=0).reshape(z.shape[1], -1)
        background = everything.mean(0), whitening_matrix(shrink(covariance, _BACKGROUND_SHRINKAGE))
    return ClassDensities.of(
        [
            (m.centers, m.log_weights, torch.stack([whitening_matrix(c) for c in m.covariances]))
            for m in mixtures
        ],
        locations,
        root @ root.T,
        background,
    )


def _fit(vectors, n_components, seed):
    if n_components == "auto":
        return choose_mixture(vectors, seed)
    return fit_mixture(vectors, n_components, torch.Generator().manual_seed(seed))


def _mean_covariance(mixture, residuals):
    """Covariance of a class around its mean, for telling classes apart."""
    if len(mixture.centers) == 1:
        return mixture.covariances[0]
    weights = mixture.log_weights.exp()
    moved = mixture.centers - weights @ mixture.centers
    between = moved.T @ (weights[:, None] * moved)
    within = mixture.covariances[0]
    if len(mixture.covariances) > 1:
        within = torch.einsum("m,mij->ij", weights, mixture.covariances)
    return within + between


def _drawn(vectors, most, seed):
    """Return at most so many vectors, in an order that does not depend on the order given."""
    direction = torch.linspace(1, 2, vectors.shape[1], dtype=vectors.dtype)
    vectors = vectors[(vectors @ direction).argsort(stable=True)]
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))
    return vectors[order[:most]]
