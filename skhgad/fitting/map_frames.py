"""The covariances of the modes of all classes, as a model of some of the samples knows them."""

from functools import cached_property

import torch

from ..model.class_densities import log_density_of_nearest
from ..model.mixture import log_likelihood
from .class_mixtures import BACKGROUND_SHRINKAGE
from .covariance import (
    gaussian_shrinkage,
    gaussian_shrinkage_of,
    is_rounding,
    shrink,
    whitening_matrix,
)


class Gaussian:
    """A Gaussian of raw vectors."""

    def __init__(self, mean, covariance):
        self._mean, self._root = mean.float(), Root(covariance)

    def log_likelihood(self, x):
        """Log-likelihood of x (n, n_positions, n_features) per dimension; float32."""
        distances = self._root.whitened(x - self._mean).square().sum(-1)
        return log_likelihood(-0.5 * distances, self._root.log_det, x.shape[-1])


class ModesOfClass:
    """The density of a class of maps, see `ClassDensities.log_density_in_modes`.

    Parameters
    ----------
    means : Tensor of shape (n_modes, n_features)
    covariances : list of Tensor
    counts : Tensor of shape (n_modes,)
        Vectors of each mode.
    shared : Root
        Of the covariance that all classes share. None where there is one mode.
    """

    def __init__(self, means, covariances, counts, shared=None):
        self._means, self._shared = means, shared
        self._log_weights = (counts / counts.sum()).log().float()
        self._gaussians = [Gaussian(*pair) for pair in zip(means, covariances, strict=True)]

    def log_likelihood(self, x, places=slice(None)):
        """Log-likelihood of x (n, n_positions, n_features) per dimension; float32.

        At `places` alone; all positions tell the modes.
        """
        if len(self._gaussians) == 1:
            return self._gaussians[0].log_likelihood(x[:, places])
        centers = self._shared.whitened(self._means - self._means[0])
        samples = self._shared.whitened(x.double().mean(1) - self._means[0])
        d = x.shape[2]

        def log_density(part, number):
            return self._gaussians[number].log_likelihood(part) * d + self._log_weights[number]

        distances = torch.cdist(samples, centers)
        return log_density_of_nearest(x[:, places], distances, log_density) / d


class Root:
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
    modes and their `center`; the covariances `within` the modes, shrunk as a `prior`, and
    `overall`, all classes together, with its mean `overall_mean`. `modes` are the PictureModes,
    `shrinkage` is a MapShrinkage.
    """

    def __init__(self, moments, modes, without, shrinkage):
        self.modes, self.without, self.size = modes, without, moments.size
        self.shrinkage = shrinkage
        counts, sums, second = moments.seen(without)
        n, origins, counts = counts.sum(), moments.origins, counts.clamp_min(1)
        self.means, self.counts = origins + sums / counts[:, None], counts
        self.center = self.means.mean(0)
        weighted = sums / counts.sqrt()[:, None]
        within = (second - weighted.T @ weighted) / n
        if is_rounding(n * within.trace(), n, moments.size, torch.float32):
            within = torch.zeros_like(within)
        self.within, self.prior = within, shrink(within, shrinkage.raw)
        self.overall, self.overall_mean = within, self.center
        if self.has_background:
            apart = origins - self.center
            cross = sums.T @ apart
            second = second + cross + cross.T + (counts[:, None] * apart).T @ apart
            shift = (sums + counts[:, None] * apart).sum(0) / n
            self.overall = second / n - torch.outer(shift, shift)
            self.overall_mean = self.center + shift
        self.shared = torch.zeros_like(self.prior)

    @property
    def has_background(self):
        """Whether there are several classes, and one Gaussian over all of them."""
        return self.modes.n_classes > 1

    def covariances_of_class(self, moments):
        """Return the covariances of the modes of a class, their mean, and the vectors of a mode.

        A mode whose vectors are all the same has no spread. It is given as None.
        """
        counts, found = [], []
        for own in moments:
            n, total, second = own.seen(self.without)
            scatter = torch.addr(second, total, total, alpha=-1 / max(1.0, float(n)))
            is_rounded = is_rounding(scatter.trace(), n, self.size, torch.float32)
            counts.append(n)
            found.append(None if is_rounded else scatter.div_(n))
        if len(found) == 1:
            return found, found[0], counts[0]
        spread = [n * own for n, own in zip(counts, found, strict=True) if own is not None]
        n = sum(counts)
        return found, sum(spread) / n if spread else None, n / len(counts)


class ScoringFrame(_Frame):
    """The frame of the model that scores, in whose latent space the prior is the identity."""

    def __init__(self, moments, modes, shrinkage):
        super().__init__(moments, modes, None, shrinkage)
        self.root = whitening_matrix(self.prior)

    def latent(self, covariance):
        """Return a covariance of raw vectors in the latent space."""
        return self.root @ covariance @ self.root

    def add_class(self, moments):
        """Return the shrunk covariances of the modes of a class in the latent space.

        And their shrinkage, which is one for all. The covariance that all classes share is summed.
        """
        covariances, mean, n = self.covariances_of_class(moments)
        within = self.latent(self.within if mean is None else mean)
        shrinkage, found = self.shrinkage.of_class(gaussian_shrinkage(within, n)), []
        for covariance in covariances:  # one without spread takes that of all classes
            own = self.latent(self.within if covariance is None else covariance)
            found.append(shrink(own, shrinkage))
            self.shared += found[-1] / len(self.means)
        return found, 1.0 if mean is None else shrinkage

    def latent_means(self):
        """Return the means of the modes in the latent space."""
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


class JudgingFrame(_Frame):
    r"""The frame of a model that judges the samples of the group that it has not seen.

    Its likelihoods are those of a `ScoringFrame`, in a tenth of the time, because there is no
    latent space. In that space a covariance :math:`R^\top S R` is shrunk towards m I. For raw
    vectors that is (1 - s) S + s m C, with the prior :math:`C = (R R^\top)^{-1}`. The trace and the
    norm that tell m and s are those of :math:`C^{-1} S`.
    """

    def __init__(self, moments, modes, without, shrinkage):
        super().__init__(moments, modes, without, shrinkage)
        factor, info = torch.linalg.cholesky_ex(self.prior)
        pivots = factor.diagonal()
        if info or not pivots.min() >= 1e-5 * pivots.max():
            self.prior = _raised(self.prior)
            factor = torch.linalg.cholesky(self.prior)
        self.metric = torch.cholesky_inverse(factor)

    @cached_property
    def background(self):
        """The Gaussian of all classes together; None with a single class."""
        if not self.has_background:
            return None
        return Gaussian(self.overall_mean, self._shrunk(self.overall, BACKGROUND_SHRINKAGE))

    def add_class(self, moments):
        """Return `covariances`; the covariance that all classes share is summed."""
        covariances = self.covariances(moments)
        for covariance in covariances:
            self.shared.add_(covariance, alpha=1 / len(self.means))
        return covariances

    def covariances(self, moments):
        """Return the shrunk covariances of the modes of a class, a list."""
        covariances, mean, n = self.covariances_of_class(moments)
        share = self.shrinkage.of_class(self._share(self.within if mean is None else mean, n))
        return [self._shrunk(self.within if own is None else own, share) for own in covariances]

    def _share(self, covariance, n):
        """Return the share of the prior that Ledoit and Wolf give a covariance of n vectors."""
        variance = self._variance(covariance)
        if not variance > 0:
            return 1.0
        product = self.metric @ covariance
        spread = (product * product.T).sum() / variance.square()
        return gaussian_shrinkage_of(spread, n, len(covariance))

    def density(self, code, covariances):
        """Return the ModesOfClass of a class; with several, all classes must have been added."""
        shared = self._shared_root if len(covariances) > 1 else None
        own = self.modes.of_class(code)
        return ModesOfClass(self.means[own], covariances, self.counts[own], shared)

    def gaussian(self, moments, origin):
        """Return the Gaussian of all modes of a class together, from their joined Moments."""
        n, total, _ = moments.seen(self.without)
        (covariance,) = self.covariances([moments])
        return Gaussian(origin + total / n, covariance)

    def gaussians(self, moments, origin, shrinkages):
        """Return what `gaussian` gives with each of some MapShrinkages in place of the own one.

        The share of Ledoit and Wolf is that of this frame, which saves time.
        """
        n, total, _ = moments.seen(self.without)
        _, covariance, _ = self.covariances_of_class([moments])
        covariance = self.within if covariance is None else covariance
        mean, share, found = origin + total / n.clamp_min(1), self._share(covariance, n), []
        for shrinkage in shrinkages:
            prior = shrink(self.within, shrinkage.raw)
            own = self._shrunk(covariance, shrinkage.of_class(share), prior)
            found.append(Gaussian(mean, own))
        return found

    def discriminants(self, x):
        """Return what `ClassDensities.class_discriminants` gives for raw vectors (n, d)."""
        shared = self._shared_root
        means = shared.whitened(self.means - self.center)
        found = shared.whitened(x - self.center) @ means.T - 0.5 * means.square().sum(1)
        return self.modes.largest_of_classes(found)

    @cached_property
    def _shared_root(self):
        """Root of the covariance that all classes share, once all have been added."""
        return Root(self.shared)

    def _variance(self, covariance):
        return (self.metric * covariance).sum() / len(covariance)

    def _shrunk(self, covariance, share, prior=None):
        """Return a covariance of which the prior, of the same mean variance, has this share."""
        prior, variance = self.prior if prior is None else prior, self._variance(covariance)
        if not variance > 0:
            return prior
        return torch.lerp(covariance, variance * prior, share)
