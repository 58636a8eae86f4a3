"""The closed form of maps: one Gaussian a class and level, for all samples and for all but a fold.

Every matrix of a model follows from counts, sums and second moments of raw features. They are
gathered for each class and fold, so that leaving a fold out costs no second look at the others.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from ..devices import device_of_float64
from ..model.class_densities import ClassDensities
from ..model.flow import LinearStart
from ..model.level import empty_level
from ..model.mixture import log_likelihood
from ..parameters import asks_for_training
from .class_mixtures import BACKGROUND_SHRINKAGE
from .covariance import (
    gaussian_shrinkage,
    gaussian_shrinkage_of,
    is_rounding,
    shrink,
    whitening_matrix,
)
from .nearest_normals import keep_nearest_normals
from .start import MAP_SHRINKAGE

_FIRST_IMAGES = 16  # of each class; around their mean, moments are exact in float32
_KEPT_BYTES = 1 << 29  # of second moments; more are gathered a second time


class LeftOut(NamedTuple):
    """How models without a fold judge the samples of this fold, on one level.

    Attributes
    ----------
    rows : ndarray of shape (n_samples,)
        The samples of this process that are in a fold, sorted by class, then fold.
    likelihoods, backgrounds : Tensor of shape (n_samples, n_positions)
        As in `Evidence`, under the class given. `backgrounds` is None with a single class.
    class_likelihoods : Tensor of shape (n_samples, n_classes)
        As from `LevelModel.class_log_likelihood`.
    judge : FoldModels
        For likelihoods under other classes than those given.
    """

    rows: np.ndarray
    likelihoods: torch.Tensor
    backgrounds: torch.Tensor | None
    class_likelihoods: torch.Tensor
    judge: Any

    def part(self, places):
        """Return what it says of some of the samples."""
        values = (None if values is None else values[places] for values in self[:-1])
        return LeftOut(*values, self.judge)


def has_closed_form(parameters, shapes):
    """Whether all levels are maps that have one Gaussian a class and are not trained."""
    return (
        not asks_for_training(parameters)
        and all(height * width > 1 for _, height, width in shapes)
        and parameters["n_components"] in ("auto", 1)
        and parameters["start"] == "whitened"
        and parameters["whitening_shrinkage"] != "ledoit_wolf"
        and parameters["class_covariance"]
    )


@torch.no_grad()
def fit_map_level(parameters, shape, samples, index, folds, device="cpu", synthetic=None):
    """Fit one level in closed form, on a device that knows float64, else on the CPU.

    Parameters
    ----------
    parameters : dict
        Of the estimator.
    shape : tuple (n_features, height, width)
    samples : LabelledSamples
    index : int
        Of the level.
    folds : ndarray of shape (n_samples,), int
        Fold of each of the samples, from 0; -1 for one that is in none.
    device : torch.device, default="cpu"
    synthetic : Synthetic, default=None
        Other samples that the models without a fold judge. None = there are none.

    Returns
    -------
    level : LevelModel
        Fitted to all samples; on the CPU, as is the rest.
    left_out, of_synthetic : LeftOut or None
        None without folds, or without synthetic anomalies.
    """
    device = device_of_float64(device)
    features = _Features(samples, index, folds, device)
    others = []
    if synthetic is not None:
        others = [_Features(synthetic.samples, index, synthetic.groups, device, features.n_folds)]
    moments = features.moments()
    shrinkage = parameters["whitening_shrinkage"]
    shrinkage = MAP_SHRINKAGE if shrinkage == "auto" else shrinkage
    own = _ScoringFrame(moments, shrinkage)
    frames = [_JudgingFrame(moments, fold, shrinkage) for fold in range(features.n_folds)]
    whiteners, evidence = [], []
    judged = [(part, []) for part in (features, *others)]
    for code in range(samples.n_classes):
        of_class = features.moments_of_class(code)
        covariance, shrinkage = own.add_class(of_class)
        whiteners.append(whitening_matrix(covariance).cpu())
        evidence.append((float(of_class.counts.sum()), shrinkage))
        for fold, frame in enumerate(frames):
            gaussian = frame.add_class(code, of_class)
            for part, found in judged:
                found += part.judged(code, fold, frame, gaussian)
    level = _level(parameters, shape, own, whiteners, tuple(zip(*evidence, strict=True)))
    kept = None
    if parameters["bank_size"]:
        kept = keep_nearest_normals(level.to(features.device), own.overall, features, parameters)
    left_out = [None, None]
    if frames:
        for place, (part, found) in enumerate(judged):
            left_out[place] = part.left_out(frames, found, kept)
    return level.cpu(), *left_out


class _Moments(NamedTuple):
    """Counts, sums and second moments of vectors around origins, of each group of samples.

    Of one class: shapes (n_groups,), (n_groups, d) and (n_groups, d, d). Of all classes the first
    two have one more axis in front, the classes, and the third is summed over them.
    """

    counts: torch.Tensor
    sums: torch.Tensor
    seconds: torch.Tensor
    second: torch.Tensor  # of all groups
    origins: torch.Tensor | None = None
    size: float = 0.0  # sum of all squares of the vectors themselves

    def seen(self, without):
        """Return counts, sums and second moments of all groups but one; None = of all."""
        counts, sums = self.counts.sum(-1), self.sums.sum(-2)
        if without is None:
            return counts, sums, self.second
        return (
            counts - self.counts[..., without],
            sums - self.sums[..., without, :],
            self.second - self.seconds[without],
        )


class _Features:
    """The raw features of one level, read by class and by group: the folds, and what is in none."""

    def __init__(self, samples, index, folds, device, n_folds=None):
        self.samples, self.index, self.device, self.folds = samples, index, device, folds
        self.n_positions, self.n_features = samples.cache.shapes[index]
        self.n_folds = int(folds.max(initial=-1)) + 1 if n_folds is None else n_folds
        groups = np.where(folds < 0, self.n_folds, folds)
        codes = samples.codes[samples.rows]
        self.rows = [
            [samples.rows[(codes == code) & (groups == group)] for group in range(self.n_folds + 1)]
            for code in range(samples.n_classes)
        ]
        self.origins = torch.stack([self._first_mean(np.concatenate(rows)) for rows in self.rows])
        kept = samples.n_classes * (self.n_folds + 1) * self.n_features**2 * 8
        self._kept = {} if kept <= _KEPT_BYTES else None

    def moments(self):
        """Return the moments of all classes."""
        counts, sums, seconds, size = [], [], 0, 0.0
        for code in range(len(self.rows)):
            found = self._gather(code)
            if self._kept is not None:
                self._kept[code] = found
            counts.append(found.counts)
            sums.append(found.sums)
            seconds = seconds + found.seconds
            size += found.size
        second = seconds.sum(0)
        return _Moments(torch.stack(counts), torch.stack(sums), seconds, second, self.origins, size)

    def moments_of_class(self, code):
        """Return the moments of one class."""
        return self._gather(code) if self._kept is None else self._kept[code]

    def blocks_of(self, code):
        """Yield (numbers, folds, x, which positions lie inside) of the samples of one class.

        Of views, the numbers are those of their pictures.
        """
        for group, rows in enumerate(self.rows[code]):
            for part, x, inside in self.blocks(rows):
                yield self.samples.numbers_of(part), np.full(len(part), group), x, inside

    def gather(self, items):
        """Join the lists of all processes."""
        return self.samples.cache.processes.gather(items)

    def judged(self, code, fold, frame, own):
        """Judge one class's samples of a fold by a model without them, of which `own` is the class.

        The kept normals do not count yet.

        Returns a list of (rows, their fold, likelihoods, backgrounds, mean vectors, numbers of
        positions), one a block.
        """
        found = []
        for rows, x, inside in self.blocks(self.rows[code][fold]):
            likelihoods = own.log_likelihood(x)
            backgrounds = likelihoods  # of a single class, which has none, they are not read
            if frame.background is not None:
                backgrounds = frame.background.log_likelihood(x)
            folds = np.full(len(rows), fold)
            if inside is None:
                vectors = x.double().mean(1)
                counts = torch.full((len(x), 1), self.n_positions, device=x.device)
            else:
                counts = inside.sum(1, keepdim=True)
                vectors = (x.double() * inside[..., None]).sum(1) / counts.clamp_min(1)
            found.append((rows, folds, likelihoods.cpu(), backgrounds.cpu(), vectors, counts))
        return found

    def left_out(self, frames, judged, kept=None):
        """Join what `judged` returned, in the order of classes, then folds, to a LeftOut.

        `kept`, the NormalsOfFolds of the level, is evidence beside the Gaussians.
        """
        judge = FoldModels(self, frames, kept)
        if not judged:  # another process has all
            empty = torch.empty(0, self.n_positions)
            return LeftOut(np.empty(0, int), empty, empty, torch.empty(0, len(self.rows)), judge)
        rows, folds, likelihoods, backgrounds, vectors, counts = zip(*judged, strict=True)
        rows, folds, vectors = np.concatenate(rows), np.concatenate(folds), torch.cat(vectors)
        counts = torch.cat(counts)
        class_likelihoods = vectors.new_empty(len(rows), len(self.rows))
        for fold, frame in enumerate(frames):
            chosen = torch.from_numpy(folds == fold).to(vectors.device)
            class_likelihoods[chosen] = frame.discriminants(vectors[chosen]) * counts[chosen]
        likelihoods = torch.cat(likelihoods)
        if kept is not None:
            penalties = [
                kept.penalty(x, code, fold)
                for code, groups in enumerate(self.rows)
                for fold, own in enumerate(groups[: self.n_folds])
                for _, x, _ in self.blocks(own)
            ]
            likelihoods = likelihoods - torch.cat(penalties).cpu()
        has_background = frames[0].background is not None
        return LeftOut(
            rows,
            likelihoods,
            torch.cat(backgrounds) if has_background else None,
            class_likelihoods.cpu(),
            judge,
        )

    def _gather(self, code):
        n_groups, d = self.n_folds + 1, self.n_features
        counts = self._zeros(n_groups)
        sums, seconds = self._zeros(n_groups, d), self._zeros(n_groups, d, d)
        size = self._zeros()
        origin = self.origins[code]
        for group, rows in enumerate(self.rows[code]):
            for _, x, inside in self.blocks(rows):
                x = x.flatten(0, 1) if inside is None else x[inside]
                residuals = x - origin.to(x)
                counts[group] += len(x)
                sums[group] += residuals.sum(0, dtype=torch.float64)
                seconds[group] += residuals.T @ residuals
                size += x.square().sum(dtype=torch.float64)
        counts, sums, seconds, size = map(self._total, (counts, sums, seconds, size))
        return _Moments(counts, sums, seconds, seconds.sum(0), None, size)

    def _first_mean(self, rows):
        total, count = self._zeros(self.n_features), 0
        for _, x, inside in self.blocks(rows[:_FIRST_IMAGES]):
            if inside is None:
                total += x.sum((0, 1), dtype=torch.float64)
                count += len(x) * self.n_positions
            else:
                total += x[inside].sum(0, dtype=torch.float64)
                count += int(inside.sum())
        total, count = self._total(total), self.samples.total(count)
        # Subtracted from float32, it must be a float32 number.
        return (total / max(1, count)).float().double()

    def blocks(self, rows):
        """Yield (rows, x, which positions lie inside) of the samples `rows` of this process."""
        samples = self.samples.chosen(rows)
        for part, (x,), _ in samples.numbered_blocks([self.index], self.device):
            inside = samples.cache.read_inside(self.index, part)
            yield part, x, None if inside is None else inside.to(self.device)

    def _zeros(self, *shape):
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def _total(self, value):
        """Sum over the processes, which exchange values on the CPU."""
        return self.samples.total(value.cpu()).to(self.device)


class FoldModels:
    """Models of a level without a fold, which judge samples of this fold under any class.

    Parameters
    ----------
    features : _Features
    frames : list of _JudgingFrame
        Of each fold.
    kept : NormalsOfFolds or None
    """

    def __init__(self, features, frames, kept):
        self.features, self.frames, self.kept = features, frames, kept

    @torch.no_grad()
    def __call__(self, rows, codes):
        """Return the likelihoods (n, n_positions) of samples of this process, as in `LeftOut`.

        `rows` and `codes` are ndarrays (n,). All processes must call at the same time.
        """
        features, folds = self.features, self.features.folds[rows]
        pairs = sorted(set(features.gather(list(zip(codes.tolist(), folds.tolist(), strict=True)))))
        found = torch.empty(len(rows), features.n_positions)
        for code, fold in pairs:
            own = self.frames[fold].of_class(code, features.moments_of_class(code))
            places = np.flatnonzero((codes == code) & (folds == fold))
            likelihoods = [
                own.log_likelihood(x) - self.penalty(x, code, fold)
                for _, x, _ in features.blocks(rows[places])
            ]
            if likelihoods:
                found[places] = torch.cat(likelihoods).cpu()
        return found

    def penalty(self, x, code, fold):
        """Return what the kept normals take off the likelihoods; 0 where none are kept."""
        return 0 if self.kept is None else self.kept.penalty(x, code, fold)


class _Gaussian:
    """A Gaussian of raw vectors."""

    def __init__(self, mean, covariance):
        self._mean, self._root = mean.float(), _Root(covariance)

    def log_likelihood(self, x):
        """Log-likelihood of x (n, n_positions, n_features) per dimension; float32."""
        distances = self._root.whitened(x - self._mean).square().sum(-1)
        return log_likelihood(-0.5 * distances, self._root.log_det, x.shape[-1])


class _Root:
    r"""The square root :math:`D^{-1} L` of a covariance, by its Cholesky factor.

    D brings features to unit variance before: that of one may be far from that of another.
    `log_det` is that of the inverse root, float32.
    """

    def __init__(self, covariance):
        scale = covariance.diagonal().rsqrt()
        scaled = scale[:, None] * covariance * scale
        factor, info = torch.linalg.cholesky_ex(scaled)
        if info:
            factor = torch.linalg.cholesky(_raised(scaled))
        self._parts = scale, factor
        self._single = scale.float(), factor.float()
        self.log_det = (scale.log().sum() - factor.diagonal().log().sum()).float()

    def whitened(self, x):
        """Return vectors x (..., n_features), float32 or float64, of unit covariance."""
        scale, factor = self._single if x.dtype == torch.float32 else self._parts
        flat = (x * scale).flatten(0, -2)
        return torch.linalg.solve_triangular(factor, flat.T, upper=False).T.reshape(x.shape)


def _raised(covariance):
    """Return a covariance with its eigenvalues raised as `whitening_matrix` raises them."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(1e-10 * values[-1])) @ vectors.T


class _Frame:
    """What a model of all groups of the samples but one knows of raw vectors.

    `without` is the number of the group, None = all are seen. Attributes are the `means` of the
    classes and their `center`; the covariances `within` the classes, shrunk as a `prior`, and
    `overall`, all classes together, with its mean `overall_mean`.
    """

    def __init__(self, moments, without, shrinkage):
        self.without, self.size = without, moments.size
        counts, sums, second = moments.seen(without)
        n, origins = counts.sum(), moments.origins
        self.means = origins + sums / counts[:, None]
        self.center = self.means.mean(0)
        weighted = sums / counts.sqrt()[:, None]
        within = (second - weighted.T @ weighted) / n
        if is_rounding(n * within.trace(), n, moments.size, torch.float32):
            within = torch.zeros_like(within)
        self.within, self.prior = within, shrink(within, shrinkage)
        self.overall, self.overall_mean = within, self.center
        if self.has_background:
            apart = origins - self.center
            cross = sums.T @ apart
            second = second + cross + cross.T + (counts[:, None] * apart).T @ apart
            shift = (sums + counts[:, None] * apart).sum(0) / n
            self.overall = second / n - torch.outer(shift, shift)
            self.overall_mean = self.center + shift

    @property
    def has_background(self):
        """Whether there are several classes, and one Gaussian over all of them."""
        return len(self.means) > 1

    def covariance_of_class(self, moments):
        """Return the covariance of a class, and its number of vectors.

        A class whose vectors are all the same has no spread. It is given as None.
        """
        n, total, second = moments.seen(self.without)
        scatter = torch.addr(second, total, total, alpha=-1 / float(n))
        is_rounded = is_rounding(scatter.trace(), n, self.size, torch.float32)
        return (None if is_rounded else scatter.div_(n)), n


class _ScoringFrame(_Frame):
    """The frame of the model that scores, in whose latent space the prior is the identity."""

    def __init__(self, moments, shrinkage):
        super().__init__(moments, None, shrinkage)
        self.root = whitening_matrix(self.prior)
        self.shared = torch.zeros_like(self.prior)

    def latent(self, covariance):
        """Return a covariance of raw vectors in the latent space."""
        return self.root @ covariance @ self.root

    def add_class(self, moments):
        """Return the shrunk covariance of a class in the latent space, and its shrinkage.

        The covariance that all classes share is summed.
        """
        covariance, n = self.covariance_of_class(moments)
        if covariance is None:  # it takes the spread of all classes
            within = self.latent(self.within)
            covariance, shrinkage = shrink(within, gaussian_shrinkage(within, n)), 1.0
        else:
            covariance = self.latent(covariance)
            shrinkage = gaussian_shrinkage(covariance, n)
            covariance = shrink(covariance, shrinkage)
        self.shared += covariance / len(self.means)
        return covariance, shrinkage

    def latent_means(self):
        """Return the means of the classes in the latent space."""
        return (self.means - self.center) @ self.root

    def precision(self):
        """Return the inverse of the covariance that all classes share."""
        root = whitening_matrix(self.shared)
        return root @ root

    def background(self):
        """Return mean and whitening matrix of the background in the latent space, or None."""
        if not self.has_background:
            return None
        covariance = shrink(self.latent(self.overall), BACKGROUND_SHRINKAGE)
        return (self.overall_mean - self.center) @ self.root, whitening_matrix(covariance)


class _JudgingFrame(_Frame):
    r"""The frame of a model that judges the samples of the group that it has not seen.

    Its likelihoods are those of a `_ScoringFrame`, in a tenth of the time, because there is no
    latent space. In that space a covariance :math:`R^\top S R` is shrunk towards m I. For raw
    vectors that is (1 - s) S + s m C, with the prior :math:`C = (R R^\top)^{-1}`. The trace and the
    norm that tell m and s are those of :math:`C^{-1} S`.
    """

    def __init__(self, moments, without, shrinkage):
        super().__init__(moments, without, shrinkage)
        factor, info = torch.linalg.cholesky_ex(self.prior)
        pivots = factor.diagonal()
        if info or not pivots.min() >= 1e-5 * pivots.max():
            self.prior = _raised(self.prior)
            factor = torch.linalg.cholesky(self.prior)
        self.metric = torch.cholesky_inverse(factor)
        self.shared, self.background = torch.zeros_like(self.prior), None
        if self.has_background:
            covariance = self._shrunk(self.overall, lambda _: BACKGROUND_SHRINKAGE)
            self.background = _Gaussian(self.overall_mean, covariance)

    def add_class(self, code, moments):
        """Return the Gaussian of a class; the covariance that all classes share is summed."""
        covariance = self._covariance(moments)
        self.shared.add_(covariance, alpha=1 / len(self.means))
        return _Gaussian(self.means[code], covariance)

    def of_class(self, code, moments):
        """Return the Gaussian of a class."""
        return _Gaussian(self.means[code], self._covariance(moments))

    def discriminants(self, x):
        """Return what `ClassDensities.class_discriminants` gives for raw vectors (n, d)."""
        shared = _Root(self.shared)
        means = shared.whitened(self.means - self.center)
        return shared.whitened(x - self.center) @ means.T - 0.5 * means.square().sum(1)

    def _covariance(self, moments):
        covariance, n = self.covariance_of_class(moments)
        covariance = self.within if covariance is None else covariance

        def shrinkage(variance):
            product = self.metric @ covariance
            spread = (product * product.T).sum() / variance.square()
            return gaussian_shrinkage_of(spread, n, len(covariance))

        return self._shrunk(covariance, shrinkage)

    def _shrunk(self, covariance, shrinkage):
        """Shrink a covariance towards the prior, by what `shrinkage` says of its mean variance."""
        variance = (self.metric * covariance).sum() / len(covariance)
        if not variance > 0:
            return self.prior
        share = shrinkage(variance)
        return torch.lerp(covariance, variance * self.prior, share)


def _level(parameters, shape, frame, whiteners, evidence):
    n_features, *map_shape = shape
    level = empty_level(parameters, n_features, tuple(map_shape), len(whiteners), n_blocks=0)
    level.start = LinearStart(frame.center.cpu(), frame.root.cpu()).float()
    latent_means = frame.latent_means().cpu()
    means = latent_means.to(level.mixture.means)
    level.mixture.means.data.copy_(means)
    level.mixture.offsets.data.zero_()
    background = frame.background()
    if background is not None:
        background = tuple(part.cpu() for part in background)
    no_weight = torch.zeros(1)
    mixtures = [
        (mean[None], no_weight, whitener[None])
        for mean, whitener in zip(latent_means, whiteners, strict=True)
    ]
    level.densities = ClassDensities.of(
        mixtures, means, frame.precision().cpu(), background, evidence=evidence
    )
    return level
