"""The mixture of each class of feature vectors: found in latent space, its size chosen."""

import torch

from ..model.class_densities import ClassDensities
from ..model.short_numbers import rounded_whitener_of_vectors
from .covariance import residuals_within, shrink, whitening_matrix
from .gaussian_mixture import fit_mixture
from .gaussian_shrinkage import (
    has_heavy_tails,
    inflation_of,
    likeliest_pseudo_count,
    share_of_prior,
)
from .mixture_choice import (
    AUTO,
    FEW,
    ClassVectors,
    choose_mixtures,
    fit_gaussian_to,
    fit_named,
)
from .modes import find_modes, numbered
from .parts import first_of_parts
from .ties import tie_covariances

BACKGROUND_SHRINKAGE = 0.1
_MOST_VECTORS = 20_000  # of a class; more change nothing but the time


@torch.no_grad()
def fit_class_mixtures(level, samples, n_components, seed, *, are_new=False, choices=None):
    """Return the ClassDensities of a level of feature vectors.

    Parameters
    ----------
    level : LevelModel
        Its start and flow lead to the latent space.
    samples : LevelSamples
        Raw features.
    n_components : int, "auto" or "few"
        Centers of each class; "auto" and "few": see `choose_mixtures`.
    seed : int
        Of k-means and of the order in which vectors are drawn.
    are_new : bool, default=False
        Whether the level was fitted to other classes.
    choices : VectorChoices, default=None
        Of a fit to more samples, from which a class takes its candidate and the strength of its
        prior. None = they are chosen.
    """
    (x, codes), parts = samples.vectors(), samples.parts()
    z = latent_vectors(level, x)
    if choices is None:
        modes = find_modes(level.start.powered(x), codes, samples.n_classes, seed, parts)
        heavy_tails = has_heavy_tails_within(z, codes, modes, parts)
        priors, sizes = [None] * samples.n_classes, [None] * samples.n_classes
    else:
        modes, heavy_tails = choices.modes_of(samples), choices.heavy_tails
        priors, sizes = choices.pseudo_counts, choices.sizes
    by_class = [
        drawn_rows(z, torch.nonzero(codes == code)[:, 0], seed) for code in range(samples.n_classes)
    ]
    n_merged = level.start.n_merged
    names = None if choices is None else choices.names
    vectors = [
        ClassVectors(
            z[rows], modes[rows], seed, heavy_tails, n_merged,
            *tie_covariances(level, x[rows], z[rows]), pseudo_count=prior,
            parts=None if parts is None else parts[rows], n_of_class=n,
        )
        for rows, prior, n in zip(by_class, priors, sizes, strict=True)
    ]  # fmt: skip
    if names is not None:
        mixtures = [fit_named(own, name) for own, name in zip(vectors, names, strict=True)]
    else:
        mixtures = fit_classes(vectors, n_components)
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
        everything, of_parts = drawn_of_all(z, seed, parts)
        shrinkage = None if choices is None else choices.background_shrinkage
        if shrinkage is None:
            shrinkage = background_shrinkage(everything, of_parts, heavy_tails)
        covariance = torch.cov(everything.T, correction=0).reshape(z.shape[1], -1)
        background = everything.mean(0), whitening_matrix(shrink(covariance, shrinkage))
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


def drawn_of_all(z, seed, parts=None):
    """Return those latent vectors that the background is fitted to, of all classes; their parts."""
    rows = drawn_rows(z, torch.arange(len(z)), seed)
    return z[rows], None if parts is None else parts[rows]


def background_shrinkage(z, parts, heavy_tails):
    """Choose the shrinkage of the background, the Gaussian of the vectors from `drawn_of_all`.

    It is that under which each vector is most likely, given all the others, but at least 0.1: the
    others of its class explain it better than they explain a vector of no class. Where tails are
    heavy, the likelihood is that of a t distribution.
    """
    residuals = z - z.mean(0)
    scale = float(residuals.square().mean())
    if not scale > 0:
        return BACKGROUND_SHRINKAGE
    inflation = inflation_of(torch.zeros(len(z), dtype=torch.int64), parts)
    pseudo = likeliest_pseudo_count(
        residuals, inflation, scale, z.shape[1], parts=parts, heavy_tails=heavy_tails
    )
    return max(share_of_prior(pseudo, len(z)), BACKGROUND_SHRINKAGE)


def latent_vectors(level, x):
    """Return where a level puts raw feature vectors (n, n_features); float64, on the CPU."""
    mean = level.start.mean
    blocks = x.to(mean.dtype).split(1 << 16)
    z = [level.latent(block[:, None].to(mean.device))[0][:, 0] for block in blocks]
    return torch.cat(z).double().cpu()


def fit_classes(classes, n_components):
    """Return a GaussianMixture for each of the ClassVectors of a list.

    `n_components` is that of `fit_class_mixtures`.
    """
    if n_components in (AUTO, FEW):
        return choose_mixtures(classes, n_components)
    return [
        fit_gaussian_to(vectors)
        if n_components == 1 or not len(vectors)
        else fit_mixture(
            vectors.z, n_components, torch.Generator().manual_seed(vectors.seed), ties=vectors.ties
        )
        for vectors in classes
    ]


def has_heavy_tailed_class(z, modes, parts=None):
    """Whether the vectors (n, n_features) of one class have tails too heavy for a Gaussian."""
    return has_heavy_tails_within(z, torch.zeros(len(z), dtype=torch.int64), modes, parts)


def has_heavy_tails_within(z, codes, modes, parts=None):
    """Whether the vectors (n, n_features) of classes have tails too heavy for a Gaussian.

    They are taken around the means of the modes of all classes together. Of each of the `parts`
    (n,), if any, the first tells.
    """
    if parts is not None:
        rows = torch.from_numpy(first_of_parts(parts.numpy()))
        return has_heavy_tails_within(z[rows], codes[rows], modes[rows])
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
