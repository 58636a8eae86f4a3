"""The mixture of each class of feature vectors: found in latent space, its size chosen."""

import torch

from ..model.class_densities import ClassDensities
from ..model.short_numbers import rounded_whitener_of_vectors
from .covariance import residuals_within, shrink, whitening_matrix
from .gaussian_mixture import fit_mixture
from .gaussian_shrinkage import has_heavy_tails, inflation_of
from .mixture_choice import ClassVectors, choose_mixture, fit_gaussian
from .modes import find_modes, numbered
from .ties import tie_covariances

BACKGROUND_SHRINKAGE = 0.1
_MOST_VECTORS = 20_000  # of a class; more change nothing but the time


@torch.no_grad()
def fit_class_mixtures(level, samples, n_components, seed, *, are_new=False, pseudo_counts=None):
    """Return the ClassDensities of a level of feature vectors.

    Parameters
    ----------
    level : LevelModel
        Its start and flow lead to the latent space.
    samples : LevelSamples
        Raw features.
    n_components : int, "auto" or list
        Centers of each class; "auto": see `choose_mixture`. A list names a candidate for each
        class.
    seed : int
        Of k-means and of the order in which vectors are drawn.
    are_new : bool, default=False
        Whether the level was fitted to other classes.
    pseudo_counts : list of float, default=None
        What the prior counts as in each class that has one Gaussian; None = it is chosen.
    """
    x, codes = samples.vectors()
    z = latent_vectors(level, x)
    modes = find_modes(level.start.powered(x), codes, samples.n_classes, seed)
    by_class = [
        drawn_rows(z, torch.nonzero(codes == code)[:, 0], seed) for code in range(samples.n_classes)
    ]
    heavy_tails = _has_heavy_tails(z, codes, modes)
    n_merged = level.start.n_merged
    named = isinstance(n_components, list)
    asked = n_components if named else [n_components] * samples.n_classes
    priors = [None] * samples.n_classes if pseudo_counts is None else pseudo_counts
    vectors = [
        ClassVectors(
            z[rows], modes[rows], seed, heavy_tails, n_merged, *tie_covariances(level, x[rows]),
            pseudo_count=prior,
        )
        for rows, prior in zip(by_class, priors, strict=True)
    ]  # fmt: skip
    mixtures = [fit_class(own, size, named) for own, size in zip(vectors, asked, strict=True)]
    counts = torch.bincount(codes, minlength=samples.n_classes).double().tolist()
    locations = torch.stack(
        [own.z.mean(0) if len(own) else z.new_zeros(z.shape[1]) for own in vectors]
    )
    covariances = [_covariance_within(mixture) for mixture in mixtures]
    root = whitening_matrix(sum(covariances) / len(covariances))
    background = None
    # The background of a single class is the class. With fewer rows than features, a background
    # says nothing of what lies outside of the rows.
    if samples.n_classes > 1 and not level.start.has_rest:
        everything = z[drawn_rows(z, torch.arange(len(z)), seed)]
        covariance = torch.cov(everything.T, correction=0).reshape(z.shape[1], -1)
        background = everything.mean(0), whitening_matrix(shrink(covariance, BACKGROUND_SHRINKAGE))
    is_short = are_new or samples.n_classes > 1
    return ClassDensities.of(
        [_frozen(mixture, is_short) for mixture in mixtures],
        locations.to(level.mixture.means),
        root @ root.T,
        background,
        evidence=(counts, [m.shrinkage(n) for m, n in zip(mixtures, counts, strict=True)]),
        n_merged=n_merged,
    )


def _frozen(mixture, is_short):
    """Freeze the mixture of a class; `is_short`: large whiteners in one or two bytes a number."""
    centers, log_weights, whiteners, names = mixture.frozen()
    if is_short:
        whiteners = torch.stack([rounded_whitener_of_vectors(one) for one in whiteners])
    return centers, log_weights, whiteners, names


def latent_vectors(level, x):
    """Return where a level puts raw feature vectors (n, n_features); float64, on the CPU."""
    mean = level.start.mean
    blocks = x.to(mean.dtype).split(1 << 16)
    z = [level.latent(block[:, None].to(mean.device))[0][:, 0] for block in blocks]
    return torch.cat(z).double().cpu()


def fit_class(vectors, n_components, named=False):
    """Fit the mixture of one class.

    `vectors` are ClassVectors; `n_components` is the number of centers, "auto" or, where it is
    `named`, the name of a candidate.
    """
    if n_components == "auto" or named:
        return choose_mixture(vectors, n_components if named else None)
    if n_components == 1 or not len(vectors):
        return fit_gaussian(vectors.z, vectors.heavy_tails, vectors.n_merged, vectors.pseudo_count)
    generator = torch.Generator().manual_seed(vectors.seed)
    return fit_mixture(vectors.z, n_components, generator, ties=vectors.ties)


def has_heavy_tailed_class(z, modes):
    """Whether the vectors (n, n_features) of one class have tails too heavy for a Gaussian."""
    return _has_heavy_tails(z, torch.zeros(len(z), dtype=torch.int64), modes)


def _has_heavy_tails(z, codes, modes):
    codes = numbered(codes, modes)
    step = -(-len(z) // _MOST_VECTORS)
    residuals = residuals_within(z, codes)[::step]
    if not residuals.any():
        return False
    return has_heavy_tails(residuals, inflation_of(codes[::step]), 1.0, 0.01 * len(residuals))


def _covariance_within(mixture):
    """Covariance around the centers, for telling classes apart."""
    if len(mixture.covariances) == 1:
        return mixture.covariances[0]
    weights = mixture.log_weights.exp()
    if mixture.names is not None:
        weights = torch.bincount(mixture.names, weights, len(mixture.covariances))
    return torch.einsum("m,mij->ij", weights, mixture.covariances)


def drawn_rows(z, rows, seed):
    """Draw at most 20,000 of the rows, in an order that does not depend on the order given."""
    direction = torch.linspace(1, 2, z.shape[1], dtype=z.dtype)
    rows = rows[(z[rows] @ direction).argsort(stable=True)]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed % (1 << 31)))
    return rows[order[:_MOST_VECTORS]]
