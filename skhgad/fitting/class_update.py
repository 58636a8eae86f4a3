"""More vectors of a class that a level knows, counted in by sums: no old vector is needed."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from .class_mixtures import drawn_rows, fit_classes, has_heavy_tailed_class, latent_vectors
from .covariance import gaussian_shrinkage, shrink, unshrink, whitening_matrix
from .gaussian_mixture import GaussianMixture
from .gaussian_mixture import whitener as triangular_whitener
from .gaussian_shrinkage import inflation_of, likeliest_pseudo_count
from .kernels import MOST_KERNELS, fit_kernels
from .map_shrinkage import strengthened
from .mixture_choice import KERNELS, ClassVectors, fit_named, is_kernels, name_of
from .modes import find_modes
from .ties import tie_covariances

# If the prior has this share of a covariance, or more, the scatter cannot be recovered from it.
_PRIOR_ALONE = 0.999
ROUNDING = 1e-10  # mean variance in latent space that rounding alone can cause
_STEPS = 3  # of expectation-maximisation, in which the vectors seen before keep their centers


def root_for(without):
    """Return what gives the inverse root of a covariance.

    For a model without a fold, which only judges, it is the triangular one, which is faster.
    """
    return whitening_matrix if without is None else triangular_whitener


@dataclass(frozen=True)
class _Mode:
    """What centers with one covariance have of a class, and the moments of new residuals.

    `counts` (n_folds,), `sums` (n_folds, d) and `seconds` (n_folds, d, d) are those of each fold.
    """

    centers: torch.Tensor
    log_weights: torch.Tensor
    covariance: torch.Tensor  # as it is, shrunk
    n_vectors: float
    counts: torch.Tensor
    sums: torch.Tensor
    seconds: torch.Tensor

    @classmethod
    def of(cls, centers, log_weights, covariance, n_vectors, n_folds):
        """Return a mode without new vectors."""
        d = centers.shape[1]
        moments = [torch.zeros(n_folds, *shape).double() for shape in ((), (d,), (d, d))]
        return cls(centers, log_weights, covariance, n_vectors, *moments)

    def add(self, fold, residuals):
        """Count residuals (n, d) of a fold in."""
        self.counts[fold] += len(residuals)
        self.sums[fold] += residuals.sum(0, dtype=torch.float64).cpu()
        self.seconds[fold] += (residuals.T @ residuals).cpu()

    def counted(self, seen, shrinkage):
        """Return centers, covariance before it is shrunk, and number of vectors.

        Of the old vectors and those new ones that are `seen`.
        """
        n = self.n_vectors + float(self.counts[seen].sum())
        if not n:
            return self.centers, self.covariance, n
        # Where only the prior was left, the old vectors have it as their covariance.
        is_prior = shrinkage > _PRIOR_ALONE
        old = self.covariance if is_prior else unshrink(self.covariance, shrinkage)
        shift = self.sums[seen].sum(0) / n
        scatter = self.n_vectors * old + self.seconds[seen].sum(0)
        return self.centers + shift, scatter / n - torch.outer(shift, shift), n


@dataclass(frozen=True)
class MapClass:
    """A class of maps, around whose centers residuals are summed.

    It has one Gaussian, centers with one covariance, or modes with a covariance each. A new sample
    belongs to the nearest; of a class that joins, to that which was found.
    The scatter of all vectors is that of the old ones, which follows from the shrunk covariance,
    and that of the new ones, around their common mean. This is exact. `totals` are sums of the new
    vectors of each fold.
    """

    code: int
    modes: list
    location: torch.Tensor
    n_vectors: float
    shrinkage: float
    totals: torch.Tensor
    strength: float  # see MapShrinkage
    frame: object = None  # a NewClassFrame, of a class that joined an untrained level

    @classmethod
    @torch.no_grad()
    def of(cls, level, samples, index, code, folds, frame=None, found=None):
        """Sum the new vectors of a class on one level, which is not changed.

        `samples` are the LabelledSamples of this class alone, `index` the number of the level.
        `folds`, an int ndarray, holds the fold of every cached sample. Of views of pictures, the
        positions inside count. `found`, of a class that joins with one center, tells the mode of
        every cached sample, an int ndarray from 0.
        """
        densities = level.densities
        parts = [part.cpu() for part in densities.mixture_of(code)]
        n_vectors, n_folds = float(densities.n_vectors[code]), 1 + int(folds.max())
        n_modes = len(parts[2])
        groups = [slice(None)] if n_modes == 1 else [slice(m, m + 1) for m in range(n_modes)]
        modes = [
            _Mode.of(
                parts[0][own], parts[1][own], covariance,
                n_vectors * float(parts[1][own].exp().sum()), n_folds,
            )
            for own, covariance in zip(groups, parts[2], strict=True)
        ]  # fmt: skip
        if found is not None:  # all are around the one center that the class has for now
            n_found = 1 + int(found[samples.rows].max())
            modes = [_Mode.of(*parts[:2], parts[2][0], 0.0, n_folds) for _ in range(n_found)]
        totals = torch.zeros(n_folds, parts[0].shape[1]).double()
        for rows, (x,), codes in samples.numbered_blocks([index], level.start.mean.device):
            block, inside = folds[rows], samples.cache.read_inside(index, rows)
            z = level.latent(x)[0]
            if found is None:
                own, residuals = _residuals(level, z, codes, modes)
            else:
                own, residuals = found[rows], _residuals(level, z, codes, modes[:1])[1]
            for number, fold in sorted(set(zip(own.tolist(), block.tolist(), strict=True))):
                places = torch.from_numpy((own == number) & (block == fold))[:, None]
                places = places.expand(z.shape[:2])
                places = (places if inside is None else places & inside).to(z.device)
                modes[number].add(fold, residuals[places])
                totals[fold] += z[places].sum(0, dtype=torch.float64).cpu()
        return cls(
            code, modes, densities.locations[code].double().cpu(), n_vectors,
            float(densities.shrinkages[code]), totals, float(densities.strength), frame,
        )  # fmt: skip

    def seen(self, without):
        """Return which folds count, a bool Tensor: all, or all but one."""
        return torch.arange(len(self.totals)) != (-1 if without is None else without)

    def new_moments(self, seen):
        """Return count, sum and second moments of the new residuals, of all modes together."""
        parts = [(mode.counts, mode.sums, mode.seconds) for mode in self.modes]
        return [sum(values[seen].sum(0) for values in kind) for kind in zip(*parts, strict=True)]

    def write(self, densities, without=None):
        """Set the class in densities, from the old vectors and the new ones not in a fold."""
        seen = self.seen(without)
        if not any(mode.counts[seen].any() for mode in self.modes):
            return
        modes = [mode for mode in self.modes if mode.n_vectors or mode.counts[seen].any()]
        found = [mode.counted(seen, self.shrinkage) for mode in modes]
        centers, covariances, counts = zip(*found, strict=True)
        n = sum(counts)
        mean = sum(own * count for own, count in zip(covariances, counts, strict=True)) / n
        if mean.trace() <= ROUNDING * len(mean):
            covariances, shrinkage = [mode.covariance for mode in modes], 1.0
        elif self.frame is None:
            shrinkage = strengthened(gaussian_shrinkage(mean, n / len(found)), self.strength)
            covariances = [shrink(covariance, shrinkage) for covariance in covariances]
        else:
            covariances, shrinkage = self.frame.shrunk(covariances, mean, n), 0.0
        log_weights = [
            mode.log_weights - mode.log_weights.logsumexp(0) + math.log(count / n)
            for mode, count in zip(modes, counts, strict=True)
        ]
        whiteners = torch.stack([root_for(without)(covariance) for covariance in covariances])
        location = (self.n_vectors * self.location + self.totals[seen].sum(0)) / n
        densities.set_class(
            self.code, (torch.cat(centers), torch.cat(log_weights), whiteners), location,
            n_vectors=n, shrinkage=shrinkage, is_fine=self.frame is None,
        )  # fmt: skip


def _residuals(level, z, codes, modes):
    """Return the mode (n,) of each sample, and the residuals from its center."""
    code = int(codes[0])
    if len(modes) == 1:
        shift = modes[0].centers[0] - level.mixture.centers()[code, 0].double().cpu()
        moved = z - shift.to(z)
        return np.zeros(len(z), dtype=np.int64), moved - level.mixture.expected_center(moved, codes)
    nearest = level.densities.distances_to_centers(z.mean(1), code).argmin(1)
    centers = torch.cat([mode.centers for mode in modes]).to(z)
    return nearest.cpu().numpy(), z - centers[nearest][:, None]


class VectorClass:
    """The mixture of a class of feature vectors, and the new vectors.

    Where the model keeps the old vectors, the mixture is chosen and fitted anew to all. Else
    kernels, which hold their vectors, are fitted anew; and of a few Gaussians, each new vector is
    shared out among the centers by their posterior, while the old ones keep their shares.

    Parameters
    ----------
    level : LevelModel
    x : Tensor of shape (n_new, n_features), float64
        The new vectors.
    old : Tensor of shape (n_old, n_features), float64, or None
        Those that the model keeps.
    code : int
    folds : Tensor of shape (n_new,), int64
    n_components : int, "auto" or "few"
        Of the fit.
    seed : int
    parts : Tensor of shape (n_old + n_new,), int64, or None
        The part of each old vector, if there are any, and each new one; None = each is its own.
    """

    @torch.no_grad()
    def __init__(self, level, x, old, code, folds, n_components, seed, parts=None):
        densities = level.densities
        self.code, self.folds, self.n_merged = code, folds, level.start.n_merged
        self.z = latent_vectors(level, x)
        self.n_vectors = float(densities.n_vectors[code])
        self.location = densities.locations[code].double().cpu()
        if old is not None:
            old_z = latent_vectors(level, old)
            self.n_vectors, self.location = float(len(old)), old_z.mean(0)
            self.mixture = _Refit(
                level, torch.cat((old, x)), torch.cat((old_z, self.z)), n_components, seed, parts
            )
        else:
            found = (values.cpu() for values in densities.mixture_of(code))
            mixture = GaussianMixture(*found, n_merged=self.n_merged)
            if is_kernels(len(mixture.centers), self.n_vectors):
                self.mixture = _Kernels(mixture, self.z, self.n_vectors, seed, parts)
            else:
                shrinkage = float(densities.shrinkages[code])
                self.mixture = _Counts(mixture, self.z, self.n_vectors, shrinkage)

    def write(self, densities, without=None):
        """Set the class in densities, from the old vectors and the new ones not in a fold."""
        left_out = self.folds == (-1 if without is None else without)
        z, mixture = self.z[~left_out], self.mixture.fit(left_out)
        n = self.n_vectors + len(z)
        densities.set_class(
            self.code, mixture.frozen(), (self.n_vectors * self.location + z.sum(0)) / n,
            n_vectors=n, shrinkage=mixture.shrinkage(n), n_merged=self.n_merged,
        )  # fmt: skip


class _Refit:
    """The mixture of all vectors of a class, the new ones last."""

    def __init__(self, level, x, z, n_components, seed, parts=None):
        in_one = torch.zeros(len(x), dtype=torch.int64)
        modes = find_modes(level.start.powered(x), in_one, 1, seed, parts)
        self.rows = drawn_rows(z, torch.arange(len(z)), seed)
        self.n_all = len(z)
        self.vectors = ClassVectors(
            z[self.rows], modes[self.rows], seed, has_heavy_tailed_class(z, modes, parts),
            level.start.n_merged, *tie_covariances(level, x[self.rows], z[self.rows]),
            parts=None if parts is None else parts[self.rows],
        )  # fmt: skip
        (self.whole,) = fit_classes([self.vectors], n_components)
        self.name = name_of(self.whole, len(self.rows))

    def fit(self, left_out):
        """Fit without some of the new vectors; kernels keep their shape."""
        if not left_out.any():
            return self.whole
        n_old = self.n_all - len(left_out)
        kept = torch.cat((torch.ones(n_old, dtype=torch.bool), ~left_out))[self.rows]
        if self.name == KERNELS:
            return self.whole.without(~kept[: len(self.whole.centers)])
        return fit_named(self.vectors.at(kept), self.name)


class _Kernels:
    """Kernels at the vectors of before and at new ones; where they are too many, at a draw."""

    def __init__(self, mixture, z, n_vectors, seed, parts=None):
        generator = torch.Generator().manual_seed(seed)
        everything = torch.cat((mixture.centers, z))
        numbers = torch.cat((torch.full((len(mixture.centers),), -1), torch.arange(len(z))))
        order = torch.randperm(len(everything), generator=generator)
        if len(order) > MOST_KERNELS:  # as many of each as their share of all vectors ever seen
            n_new = round(MOST_KERNELS * len(z) / (n_vectors + len(z)))
            is_new = numbers[order] >= 0
            order = torch.cat((order[is_new][:n_new], order[~is_new][: MOST_KERNELS - n_new]))
            order = order[torch.randperm(len(order), generator=generator)]
        if parts is not None:  # old vectors count as parts of their own
            n_old = len(mixture.centers)
            parts = torch.cat((-1 - torch.arange(n_old), parts))[order]
        self.whole, self.numbers = fit_kernels(everything[order], parts=parts), numbers[order]

    def fit(self, left_out):
        """Return the kernels without those at some of the new vectors; they keep their shape."""
        return self.whole.without((self.numbers >= 0) & left_out[self.numbers])


class _Counts:
    """A few Gaussians in which new vectors are counted in."""

    def __init__(self, mixture, z, n_vectors, shrinkage):
        self.mixture, self.z = mixture, z
        self.n_vectors, self.shrinkage = n_vectors, shrinkage

    def fit(self, left_out):
        """Count in all but some of the new vectors."""
        return _counted_in(self.mixture, self.z[~left_out], self.n_vectors, self.shrinkage)


def _counted_in(mixture, z, n_vectors, shrinkage):
    """Count new vectors in by expectation-maximisation; the old ones keep their shares.

    A covariance is (scatter + nu prior) / (n + nu). So n + nu times the covariance is added to the
    new scatter, and old scatter and prior need not be told apart. Where the covariance was the
    prior alone, nu is chosen by the new vectors.
    """
    if not len(z):
        pseudo = math.inf if shrinkage >= 1 else n_vectors * shrinkage / (1 - shrinkage)
        return replace(mixture, pseudo_count=pseudo)
    extra = 0.0
    if shrinkage > _PRIOR_ALONE:
        pseudo, extra = 0.0, _pseudo_count(mixture, z)
    else:
        pseudo = n_vectors * shrinkage / (1 - shrinkage)
    current = mixture
    for _ in range(1 if len(mixture.centers) == 1 else _STEPS):
        shares = current.posterior(z)
        current = _maximization(mixture, n_vectors, pseudo, z, shares)
    if math.isinf(extra):
        return replace(current, covariances=mixture.covariances, pseudo_count=extra)
    if extra:
        identity = torch.eye(z.shape[1], dtype=z.dtype)
        n = n_vectors + len(z)
        covariances = (n * current.covariances + extra * identity) / (n + extra)
        current = replace(current, covariances=covariances)
    return replace(current, pseudo_count=pseudo + extra)


def _pseudo_count(mixture, z):
    """Choose how many pseudo-samples the identity counts as, by new vectors left out."""
    if len(mixture.centers) > 1 or len(z) < 2 or not (z != z[0]).any():
        return 0.0 if len(mixture.centers) > 1 else math.inf
    inflation = inflation_of(torch.zeros(len(z), dtype=torch.int64))
    n_features = z.shape[1] + mixture.n_merged
    return likeliest_pseudo_count(z - z.mean(0), inflation, 1.0, n_features, n_features=n_features)


def _maximization(mixture, n_vectors, pseudo, z, shares):
    """Join old centers, of fixed counts, with the new vectors' shares (n, n_centers) in them."""
    old_counts = n_vectors * mixture.log_weights.exp()
    counts = old_counts + shares.sum(0)
    sums = old_counts[:, None] * mixture.centers + shares.T @ z
    centers = sums / counts[:, None].clamp_min(1e-10)
    scatters = []
    for m, center in enumerate(centers):
        residuals = (z - center) * shares[:, m : m + 1].sqrt()
        moved = mixture.centers[m] - center
        scatters.append(residuals.T @ residuals + old_counts[m] * torch.outer(moved, moved))
    old_weights, n_new = old_counts + pseudo, shares.sum(0)
    if len(mixture.covariances) == 1:
        scatters, n_new = [sum(scatters)], n_new.sum(0, keepdim=True)
        old_weights = old_counts.sum(0, keepdim=True) + pseudo
    covariances = [
        (weight * covariance + scatter) / (weight + n)
        for weight, covariance, scatter, n in zip(
            old_weights, mixture.covariances, scatters, n_new, strict=True
        )
    ]
    log_weights = (counts / counts.sum()).log()
    return GaussianMixture(centers, log_weights, torch.stack(covariances), mixture.n_merged)
