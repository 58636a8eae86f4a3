"""New classes of images for a level that was fitted in closed form: as `map_closed_form` fits them.

Start and background of the level stay, because other classes rest on them. Each new class is shrunk
in the latent space, and compared with the background, that a fit on everything would have.
"""

import numpy as np
import torch

from ..devices import device_of_float64
from .class_mixtures import BACKGROUND_SHRINKAGE
from .class_update import ROUNDING, MapClass, root_for
from .covariance import gaussian_shrinkage_of, shrink, unshrink
from .map_modes import features_in_modes
from .map_moments import some_folds
from .map_shrinkage import shrinkage_of, unchosen_shrinkage
from .nearest_normals import NearestOfClass, axes_in, main_axes
from .picture_modes import find_picture_modes


def takes_new_maps(model):
    """Whether all levels of a ScoringModel are maps of untrained flows with one center a class."""
    return all(
        not level.has_one_position
        and not len(level.flow.blocks.hidden_weight)
        and level.mixture.n_components == 1
        for level in model.levels
    )


class NewMapClasses:
    """New classes of one level, from sums of their vectors in each fold.

    Parameters
    ----------
    known : LevelModel
        Before.
    level : LevelModel
        With the new classes, near their means; nothing else is read of them.
    samples : dict of code to LabelledSamples
        Of one class each.
    index : int
        Of the level.
    folds : ndarray of int
        Fold of each cached sample.
    shrinkage : MapShrinkage
        Of the level.
    parameters : dict
        Of the estimator.
    modes : dict of code to ndarray
        Mode of each cached sample, from 0, of a class of several modes.
    """

    def __init__(self, known, level, samples, index, folds, shrinkage, parameters, modes):
        self.level, self.codes = level, sorted(samples)
        self.background = _background_of(known.densities)
        level.densities.n_vectors[self.codes] = 0
        frame = NewClassFrame(known, shrinkage)
        self.n_known = frame.n_vectors
        self.classes = [
            MapClass.of(level, samples[code], index, code, folds, frame, modes.get(code))
            for code in self.codes
        ]
        self.nearest = []
        if level.nearest is not None:
            self.write()  # likelihoods tell what the distances weigh
            axes = axes_in(level, main_axes(self._raw_covariance()))
            level.nearest.set_axes(self.codes, axes)
            self.nearest = [
                NearestOfClass.of(level, samples[code], index, code, folds, parameters)
                for code in self.codes
            ]

    def write(self, without=None):
        """Set the classes in the level, from all new vectors or all but those of a fold."""
        densities = self.level.densities
        for new in self.classes:
            new.write(densities, without)
        for new in self.nearest:
            new.write(self.level.nearest, without)
        if densities.has_background:
            mean, covariance = self._overall(without)
            whitener = root_for(without)(shrink(covariance, BACKGROUND_SHRINKAGE))
            densities.set_own_background(self.codes, mean, whitener)

    def _raw_covariance(self):
        """Return the covariance of the raw features of all vectors, old and new, together."""
        inverse = torch.linalg.inv(self.level.start.matrix.double().cpu())
        return inverse.T @ self._overall()[1] @ inverse

    def _overall(self, without=None):
        """Return mean and covariance of all vectors, old and new, together."""
        mean, covariance = self.background
        n = self.n_known
        for new in self.classes:
            seen = new.seen(without)
            n_new, total, second = new.new_moments(seen)
            if not n_new:
                continue
            shift = total / n_new
            own = second / n_new - torch.outer(shift, shift)
            apart = new.totals[seen].sum(0) / n_new - mean
            share = n_new / (n + n_new)
            covariance = (1 - share) * covariance + share * own
            covariance = covariance + share * (1 - share) * torch.outer(apart, apart)
            mean, n = mean + share * apart, n + n_new
        return mean, covariance


def _background_of(densities):
    """Return mean and covariance of the known classes together, as before they were shrunk."""
    if not densities.has_background:  # a single class
        return densities.locations[0].double().cpu(), densities.mixture_of(0)[2][0].cpu()
    whitener = densities.background_whitener.double().cpu()
    covariance = torch.linalg.inv(whitener @ whitener.T)
    mean = densities.background_mean.double().cpu()
    return mean, unshrink(covariance, BACKGROUND_SHRINKAGE)


class NewClassFrame:
    """The latent space that a level would have, had it been fitted to a new class, too.

    The covariance of the class is shrunk there, as `fit` does it. In the latent space as it is, a
    class far from the others is no Gaussian near the identity, and would hardly be shrunk.

    Parameters
    ----------
    level : LevelModel
        An untrained one, whose latent space whitens the classes it was fitted to.
    shrinkage : MapShrinkage
        Of the level.
    """

    def __init__(self, level, shrinkage):
        self.n_vectors = float(level.densities.n_vectors[level.mixture.generations == 0].sum())
        matrix = level.start.matrix.double().cpu()
        inverse = torch.linalg.inv(matrix)
        self.round_raw = matrix.T @ matrix  # what raw vectors of covariance I have here
        self.raw_metric = inverse @ inverse.T  # of which C has the raw variance tr(C @ raw_metric)
        self.shrinkage = shrinkage

    def shrunk(self, covariances, mean, n_vectors):
        r"""Return the covariances of the modes of a class of so many vectors, shrunk in that space.

        There, with :math:`L L^\top = F` the covariance of that space, one is :math:`L^{-1} C
        L^{-\top}`, shrunk towards m I: here, (1 - s) C + s m F. The trace that tells m is that of
        :math:`F^{-1} C`. F and s are those of the `mean` of the covariances. A mode without spread
        has F.
        """
        d = len(mean)
        raw_variance = (mean * self.raw_metric).sum() / d
        own = torch.lerp(mean, raw_variance * self.round_raw, self.shrinkage.raw)
        identity = torch.eye(d, dtype=torch.float64)
        frame = (self.n_vectors * identity + n_vectors * own) / (self.n_vectors + n_vectors)
        metric = torch.cholesky_inverse(torch.linalg.cholesky(frame))
        product = metric @ mean
        spread = (product * product.T).sum() / (product.trace() / d).square()
        share = gaussian_shrinkage_of(spread, n_vectors / len(covariances), d)
        share = self.shrinkage.of_class(share)

        def shrunk(covariance):
            variance = (metric * covariance).sum() / d
            if variance <= ROUNDING:
                return frame
            return torch.lerp(covariance, variance * frame, share)

        return [shrunk(covariance) for covariance in covariances]


def new_map_classes(known, model, samples, groups, parameters, modes):
    """Return the NewMapClasses of every level.

    Parameters
    ----------
    known, model : ScoringModel
        Before, and with the new classes near their means.
    samples : LabelledSamples
        Of the new classes, with codes of `model`.
    groups : ndarray of shape (n_samples,), int
        Fold of each cached sample, or a number above them for one in none.
    parameters : dict
        Of the estimator.
    modes : list of dict
        From `modes_of_new_classes`, with codes of `model`.
    """
    own = {
        code: samples.chosen(samples.rows[samples.codes[samples.rows] == code])
        for code in np.unique(samples.codes[samples.rows]).tolist()
    }
    return [
        NewMapClasses(
            known.levels[index], level, own, index, groups,
            shrinkage_of(known.levels[index].densities, parameters), parameters, found,
        )
        for index, (level, found) in enumerate(zip(model.levels, modes, strict=True))
    ]  # fmt: skip


def modes_of_new_classes(samples, parameters, seed, device):
    """Find the modes of new classes, as a fit to these alone finds them.

    Parameters
    ----------
    samples : LabelledSamples
        Their codes count the new classes from 0.
    parameters : dict
        Of the estimator.
    seed : int
    device : torch.device

    Returns
    -------
    list of dict
        Of each level: for a class of several modes, an ndarray (n_rows,) of int, from 0, that holds
        the mode of each cached sample of the class.
    """
    levels = [{} for _ in range(samples.cache.n_levels)]
    if parameters["n_components"] != "auto":
        return levels
    found = find_picture_modes(samples, seed)
    if not found.several:
        return levels
    folds, device = some_folds(samples), device_of_float64(device)
    for index, of_level in enumerate(levels):
        shrinkage = unchosen_shrinkage(parameters)
        modes = features_in_modes(samples, index, folds, device, found, shrinkage).modes
        for code in modes.several:
            of_level[code] = modes.of_rows - modes.of_class(code)[0]
    return levels
