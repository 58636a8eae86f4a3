"""How many centers a class takes: from one Gaussian to a kernel at every vector."""

import math
from dataclasses import dataclass, replace

import torch

from .gaussian_mixture import (
    GaussianMixture,
    equal_log_weights,
    fit_mixture,
    fit_modes,
    log_determinants,
    whiteners,
)
from .gaussian_shrinkage import (
    inflation_of,
    is_clearly_better,
    lasting_relations,
    ledoit_wolf_pseudo_count,
    likeliest_pseudo_count,
    robust,
    robust_mean,
    share_of_prior,
    shrunk_covariance,
    varying_axes,
)
from .kernels import MOST_KERNELS, ROWS_PER_FEATURE, fit_kernels
from .parts import first_of_parts
from .student import likeliest_student

KERNELS, MODES = "kernels", "modes"
# Choices of the candidates that take part; FEW is for vectors among which anomalies are expected.
AUTO, FEW = "auto", "few"
_MOST_OF_FEW = 4  # centers
_SIZES = (2, 3, 4, 6, 8, 12, 16)
_VECTORS_PER_CENTER = 10
_VECTORS_PER_FEATURE = 0.5  # of a center
_FEWEST_VECTORS = 8  # with fewer there is nothing to choose by
_FEWEST_PARTS = 5  # likewise
_MOST_VECTORS = 2000  # that take part in the choice
_FEW = 50  # of which hardly any can be spared
_FEWEST_TOGETHER = 3  # classes that can tell what none of them can alone
_CLEAR_TOGETHER = 3.0  # standard errors; many candidates are tried
_STEPS = 20
_OF_RELATIONS = 1.0  # vectors of the prior, where nothing varies


@dataclass(frozen=True)
class ClassVectors:
    """The vectors of one class, and all that the choice and fit of its mixture depend on.

    Attributes
    ----------
    z : Tensor of shape (n, n_features), float64
        In latent space, in random order.
    modes : Tensor of shape (n,), int64
        From `find_modes`.
    seed : int
        Of k-means.
    heavy_tails : bool
        See `fit_gaussian`.
    n_merged : int
        See `GaussianMixture`.
    ties, gaps : Tensor of shape (n_features, n_features), or None
        From `tie_covariances`: what a Gaussian is widened by, and what a vector stands for where it
        judges one. None: 0.
    pseudo_count : float or None
        See `fit_gaussian`.
    parts : Tensor of shape (n,), int64, or None
        The part of each vector; None = each is its own.
    n_of_class : int or None
        How many vectors the class has, where these are some of them. None: these are all.
    """

    z: torch.Tensor
    modes: torch.Tensor
    seed: int
    heavy_tails: bool = False
    n_merged: int = 0
    ties: torch.Tensor | None = None
    gaps: torch.Tensor | None = None
    pseudo_count: float | None = None
    parts: torch.Tensor | None = None
    n_of_class: int | None = None

    def __len__(self):
        return len(self.z)

    def at(self, rows):
        """Return some of the vectors."""
        parts = None if self.parts is None else self.parts[rows]
        n = self.n_of_class or len(self)
        return replace(self, z=self.z[rows], modes=self.modes[rows], parts=parts, n_of_class=n)

    def along(self, axes):
        """Return the vectors along orthonormal axes, the columns of (n_features, n_axes)."""
        ties, gaps = (
            None if found is None else axes.T @ found @ axes for found in (self.ties, self.gaps)
        )
        return replace(self, z=self.z @ axes, ties=ties, gaps=gaps)


def fit_gaussian_to(vectors):
    """Fit one Gaussian to ClassVectors."""
    return fit_gaussian(
        vectors.z, vectors.heavy_tails, vectors.n_merged, vectors.pseudo_count, vectors.parts,
        vectors.n_of_class,
    )  # fmt: skip


def fit_gaussian(z, heavy_tails=False, n_merged=0, pseudo_count=None, parts=None, n_of_class=None):
    """Fit one Gaussian to vectors (n, n_features).

    Its covariance is shrunk to the identity, which is that of all classes together. How far is
    chosen by the likelihood of vectors left out, with `heavy_tails` that of a t distribution. Or
    `pseudo_count` says how many vectors the identity counts as. Along `lasting_relations` it counts
    as one vector at most. For `parts` and `n_of_class` see `ClassVectors`.

    With `heavy_tails` and fewer vectors in the class than features, a t distribution cannot tell
    tails from a wrong covariance. There the formula of Ledoit and Wolf says how far the covariance
    is shrunk, and the identity is scaled to the mean variance of the class.
    """
    n, n_axes = z.shape
    covariance = torch.eye(n_axes, dtype=z.dtype)
    mean = z.mean(0) if n else z.new_zeros(n_axes)
    residuals, pseudo = z - mean, math.inf
    if residuals.any():
        n_features, prior = n_axes + n_merged, covariance
        if heavy_tails and (n_of_class or n) < n_features:
            pseudo, scale = ledoit_wolf_pseudo_count(residuals, n_features)
            prior = scale * prior
        elif pseudo_count is None:
            pseudo = likeliest_pseudo_count(
                residuals, inflation_of(torch.zeros(n, dtype=torch.int64), parts), 1.0, n_features,
                n_features=n_features, parts=parts, heavy_tails=heavy_tails,
            )  # fmt: skip
        if pseudo_count is not None:
            pseudo = pseudo_count
        covariance = shrunk_covariance(residuals.T @ residuals, n, pseudo, prior)
        if not n_merged and parts is None:
            lasting = lasting_relations(residuals)
            alone = share_of_prior(min(pseudo, _OF_RELATIONS), n)
            excess = (share_of_prior(pseudo, n) - alone) * float(prior[0, 0])
            covariance = covariance - excess * lasting @ lasting.T
    return GaussianMixture(mean[None], equal_log_weights(1), covariance[None], n_merged, pseudo)


def choose_mixtures(classes, kind=AUTO):
    """Choose and fit the mixtures of classes by the likelihood of vectors left out.

    The candidates are one Gaussian; the modes, with one covariance; 2 to 16 Gaussians with
    covariances of their own; and kernels. One Gaussian stays unless another is better by two
    standard errors. Then the modes stay unless another is. Else the likeliest is taken.

    Classes of few vectors can tell together what none of them can alone. Where the mean class is
    better off with one candidate by three standard errors, the classes that would keep one Gaussian
    or the modes take this candidate, if it is likelier for themselves.

    Parameters
    ----------
    classes : list of ClassVectors
    kind : {"auto", "few"}, default="auto"
        "few" = without kernels and without more than 4 Gaussians.

    Returns
    -------
    list of GaussianMixture
    """
    likelihoods = []
    for vectors in classes:
        names = candidates(vectors)
        if kind == FEW:
            names = [one for one in names if one in (MODES, *range(1, _MOST_OF_FEW + 1))]
        likelihoods.append(_likelihoods(names, vectors) if len(names) > 1 else None)
    names = chosen_together(likelihoods)
    return [_fit_candidate(name, vectors) for name, vectors in zip(names, classes, strict=True)]


def fit_named(vectors, name):
    """Fit a candidate that was chosen before on more vectors of the class; see `choose_mixtures`.

    One Gaussian where it cannot be fitted to these.
    """
    return _fit_candidate(name if _can_be(name, vectors) else 1, vectors)


def _can_be(name, vectors):
    """Whether a candidate, chosen on other vectors of the class, can be fitted to these."""
    if name == 1:
        return True
    can_be = vectors.modes.any() if name == MODES else not vectors.n_merged
    return bool(can_be) and _can_differ(vectors.z)


def _has_few_parts(vectors):
    return vectors.parts is not None and len(vectors.parts.unique()) < _FEWEST_PARTS


def _can_differ(z):
    """Whether vectors are enough, and not all the same, to tell candidates apart."""
    return len(z) >= _FEWEST_VECTORS and bool((z != z[0]).any())


def _fit_candidate(name, vectors):
    """Fit a candidate to ClassVectors, however many they are; kernels to the first of them."""
    z, ties = vectors.z, vectors.ties
    if name == 1:
        return fit_gaussian_to(vectors)
    if name == MODES:
        return fit_modes(
            z, vectors.modes, vectors.n_merged, ties, vectors.pseudo_count, vectors.parts
        )
    if name == KERNELS:
        parts = None if vectors.parts is None else vectors.parts[:MOST_KERNELS]
        return fit_kernels(z[:MOST_KERNELS], ties, parts)
    generator = torch.Generator().manual_seed(vectors.seed)
    return fit_mixture(z, name, generator, n_steps=_STEPS, ties=ties)


def likelihoods_of_choice(vectors):
    """Left-out log-likelihoods of ClassVectors under what `choose_mixtures` chooses.

    Returns the numbers of the vectors that are judged, int64 (n_judged,), and the likelihoods.
    """
    likelihoods = _likelihoods(candidates(vectors), vectors)
    judged = torch.cat([left_out for _, left_out in _folds(vectors)])
    return judged, likelihoods[chosen_name(likelihoods)]


def _folds(vectors):
    """Return pairs of the vectors that are fitted to, and those that judge: of each part, one."""
    n, parts = len(vectors), vectors.parts
    rows = torch.arange(min(n, _MOST_VECTORS))
    if parts is not None:
        parts = torch.unique(parts[rows], return_inverse=True)[1]
        is_first = torch.zeros(len(rows), dtype=torch.bool)
        is_first[torch.from_numpy(first_of_parts(parts.numpy()))] = True
        n_parts = int(is_first.sum())
        n_folds = min(10 if n_parts < _FEW else 3, n_parts)
        folds = [parts % n_folds == fold for fold in range(n_folds)]
        return [(rows[~fold], rows[fold & is_first]) for fold in folds]
    n_folds = 10 if n < _FEW else 3
    folds = range(n_folds if len(rows) < 500 else 1)
    return [(rows[rows % n_folds != fold], rows[rows % n_folds == fold]) for fold in folds]


def _likelihoods(names, vectors):
    """Left-out log-likelihoods of the candidates, on the axes in which the vectors vary.

    In the others, as of constant features and sums of others, a density is as high as its
    covariance is shrunk little, which says nothing of the candidates.
    """
    if not vectors.n_merged:
        axes = varying_axes(vectors.z)
        if axes.shape[1] < len(axes):
            vectors = vectors.along(axes)
    return left_out_likelihoods(names, vectors)


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
        names.append(_name(n_centers, len(whiteners.unique()), n))
    return names


def name_of(mixture, n_vectors):
    """Tell which candidate a GaussianMixture of so many vectors is; see `names_of`."""
    return _name(len(mixture.centers), len(mixture.covariances), n_vectors)


def is_kernels(n_centers, n_vectors):
    """Tell whether a mixture of so many centers, fitted to so many vectors, is one of kernels."""
    return n_centers > 1 and n_centers >= min(n_vectors, MOST_KERNELS)


def _name(n_centers, n_covariances, n_vectors):
    if is_kernels(n_centers, n_vectors):
        return KERNELS
    return MODES if n_centers > 1 and n_covariances == 1 else n_centers


def candidates(vectors):
    """Names of what can be chosen for ClassVectors, in the order of their sizes; 1 is always there.

    Axes in which the vectors do not vary ask for no vectors.
    """
    names = [1]
    if not _can_differ(vectors.z) or _has_few_parts(vectors):
        return names
    if vectors.modes.any():
        names.append(MODES)
    if vectors.n_merged:
        return names
    n, n_axes = len(vectors), varying_axes(vectors.z).shape[1]
    if n < ROWS_PER_FEATURE * n_axes:
        return names
    needed = max(_VECTORS_PER_CENTER, _VECTORS_PER_FEATURE * n_axes)  # of each center
    return [*names, *(size for size in _SIZES if n >= size * needed), KERNELS]


def left_out_likelihoods(names, vectors):
    """Log-likelihoods (n_judged,) of ClassVectors that a fit did not see, by candidate.

    A vector that is judged stands for a small Gaussian around it, of the covariance `gaps`; None:
    for itself. Its likelihood is the mean density there. At a value that many vectors share, a
    density is the higher the narrower it is, and says nothing of other values.

    Beside candidates that can follow heavy tails, one Gaussian is judged as the t distribution that
    ranks vectors as it does: where only the tails are heavy, those gain likelihood but find no more
    anomalies. After two numbers of centers in a row that were no better than fewer, larger ones are
    not tried.
    """
    folds = _folds(vectors)
    found, best, n_worse = {}, -math.inf, 0
    for name in names:
        is_size = name not in (1, MODES, KERNELS)
        if is_size and n_worse == 2:
            continue
        pairs = [
            (_widened(_fit_candidate(name, vectors.at(seen)), vectors.gaps), vectors.z[left_out])
            for seen, left_out in folds
        ]
        if name == 1 and KERNELS in names:
            found[name] = _as_student(pairs)
        else:
            found[name] = torch.cat([mixture.log_density(judged) for mixture, judged in pairs])
        if is_size:
            mean = float(robust_mean(found[name]))
            n_worse = 0 if mean > best else n_worse + 1
            best = max(best, mean)
    return found


def _widened(mixture, gaps):
    """Return a mixture whose densities are means around each place."""
    if gaps is None:
        return mixture
    return replace(mixture, covariances=mixture.covariances + gaps)


def _as_student(pairs):
    """Log-densities (n,) of vectors under t distributions in place of single Gaussians."""
    log_dets, distances = [], []
    for gaussian, judged in pairs:
        roots = whiteners(gaussian.covariances)
        log_dets.append(log_determinants(roots).expand(len(judged)))
        distances.append(((judged - gaussian.centers) @ roots[0]).square().sum(1))
    n_features = pairs[0][1].shape[1]
    return torch.cat(log_dets) + likeliest_student(torch.cat(distances), n_features)


def chosen_together(likelihoods):
    """Choose a candidate for each class by left-out log-likelihoods; see `choose_mixtures`.

    `likelihoods` holds those of `left_out_likelihoods` for each class; None: one Gaussian is the
    only candidate.
    """
    names = [1 if found is None else chosen_name(found) for found in likelihoods]
    common = _clear_together([found for found in likelihoods if found is not None])
    for i, found in enumerate(likelihoods):
        if found is None or common not in found or names[i] not in (1, MODES):
            continue
        if robust_mean(found[common]) > robust_mean(found[names[i]]):
            names[i] = common
    return names


def _clear_together(likelihoods):
    """Return the candidate that is clearly better than the simple ones in the mean class, or None.

    The standard error is that over the classes or that over all vectors, whichever is larger.
    """
    best, highest = None, 0.0
    if len(likelihoods) < _FEWEST_TOGETHER:
        return best
    simple = [robust(found[_simple_name(found)]) for found in likelihoods]
    for name in (*_SIZES, KERNELS):
        gains = [
            robust(found[name]) - own
            for found, own in zip(likelihoods, simple, strict=True)
            if name in found
        ]
        if len(gains) < _FEWEST_TOGETHER:
            continue
        means, every = torch.stack([gain.mean() for gain in gains]), torch.cat(gains)
        errors = [values.std() / math.sqrt(len(values)) for values in (means, every)]
        if means.mean() > max(highest, _CLEAR_TOGETHER * max(errors)):
            best, highest = name, float(means.mean())
    return best


def chosen_name(likelihoods):
    """Choose among the candidates of one class by their left-out log-likelihoods."""
    simple = _simple_name(likelihoods)
    others = [name for name in likelihoods if name not in (1, MODES)]
    if not others:
        return simple
    best = max(others, key=lambda name: robust_mean(likelihoods[name]))
    return best if is_clearly_better(likelihoods[best], likelihoods[simple]) else simple


def _simple_name(likelihoods):
    is_better = MODES in likelihoods and is_clearly_better(likelihoods[MODES], likelihoods[1])
    return MODES if is_better else 1
