"""Which feature vectors a model keeps, and what the distance to the nearest of them counts."""

import numpy as np
import torch

from ..model.nearest import LEAST_NOVELTY, NearestNormals
from .class_mixtures import drawn_rows
from .class_scales import median_and_excess
from .nearest_normals import N_AXES, main_axes

_WEIGHT = 0.3  # of the distance in the score, in units of the mean excess of both
_LEAST_EXCESS = 0.1  # of logarithms; less is found where most vectors have copies
_MOST_FEATURES = 128  # of more, the nearest vector is hardly nearer than the others
_MOST_VECTORS = 10_000  # of all classes; a score takes time for each
_MOST_LEFT_OUT = 200  # samples; of more, one hardly changes the scale
_BORROWED_VECTORS = 20  # weight of the known classes in the usual distance of a new one
_LEAST_OF_USUAL = 0.01  # of a new class, as a share of that of the known ones
_SHARE_OF_COPIES = 0.1  # of the vectors, from which on a new one may well be a copy, too
_STEPS = 32  # of rounding, that a usual distance has at least
_LEAST_SPREAD = 1e-9  # of a feature, as a share of its size; less is rounding


@torch.no_grad()
def keep_vectors(level, samples, parameters, choices=None):
    """Let a level of feature vectors keep all of them, where there are not too many.

    The density of a class knows how its vectors vary. What classes share, such as a covariance, can
    hide a vector that is like none of them; the distance to the nearest normal vector of any class
    shows it. It is measured between features after their powers, each in units of how it varies
    inside the classes, along at most 32 axes, see `main_axes`; and in units of what is usual
    between the vectors of the class, see `_usual_distances`.

    Parameters
    ----------
    level : LevelModel
        Its start is fitted. `nearest` is set, None where no vectors are kept.
    samples : LevelSamples
    parameters : dict
        Of the estimator. A class of more than ``bank_size`` vectors has enough of them for its
        density, and nothing is kept; nor where anomalies are among the vectors, because others like
        these would lie near them.
    choices : VectorChoices, default=None
        Of a fit to more samples, from which axes and units are taken. None = they are measured.
    """
    known = None if choices is None else choices.nearest
    if known is None and (choices is not None or not _are_kept(samples, parameters)):
        return
    (x, codes), parts = samples.vectors(), samples.parts()
    order = torch.from_numpy(samples.rows().argsort())  # whichever process had which
    x, codes, parts = x[order], codes[order], None if parts is None else parts[order]
    moved = level.moved(x)
    axes = _axes_of(moved, codes) if known is None else known.axes[0].to(x)
    along, is_own = moved @ axes, [codes == code for code in range(samples.n_classes)]
    vectors = [along[own] for own in is_own]
    if known is not None:
        weights = known.weights.to(x)
        level.nearest = NearestNormals.of(axes, vectors, weights, is_centered=True)
        level.nearest.has_copies.copy_(known.has_copies)
        return
    of_parts = [None if parts is None else parts[own] for own in is_own]
    distances = list(map(_distances_inside, vectors, of_parts))
    usual = _usual_distances(distances)
    if usual is None:
        return
    level.nearest = NearestNormals.of(axes, vectors, 1 / usual, is_centered=True)
    rounding = level.nearest.scales * axes.shape[1] ** 0.5
    weights = level.nearest.weights.minimum(1 / (_STEPS * rounding))
    level.nearest.weights = weights
    relative = torch.cat([own * weight for own, weight in zip(distances, weights, strict=True)])
    are_copies = (relative < LEAST_NOVELTY).double().mean() >= _SHARE_OF_COPIES
    level.nearest.has_copies.copy_(are_copies)


def _are_kept(samples, parameters):
    """Whether the vectors of LevelSamples are kept; see `keep_vectors`."""
    if (
        samples.n_features > _MOST_FEATURES
        or parameters["contamination"] != "auto"
        or parameters["map_normalization"] != "standardized"
        or len(samples.rows()) > _MOST_VECTORS
    ):
        return False
    counts = torch.bincount(samples.vectors()[1], minlength=1)
    return int(counts.max()) <= parameters["bank_size"]


def keep_new_classes(level, samples, order, bank_size, seed):
    """Return the NearestNormals of a level of feature vectors with those of new classes.

    The usual distance of a new class is drawn to that of the known ones. Parameters as in
    `extended_model`; `samples` are LevelSamples, of each class of which `bank_size` vectors are
    kept at most.
    """
    known = level.nearest
    (x, codes), parts = samples.vectors(), samples.parts()
    axes = known.axes[0]
    along = level.moved(x) @ axes
    common = known.weights.log().median()
    vectors, weights = [], []
    for code in range(samples.n_classes):
        rows = _drawn(along, torch.nonzero(codes == code)[:, 0], bank_size, seed)
        vectors.append(along[rows])
        own = _distances_inside(vectors[-1], None if parts is None else parts[rows])
        share = len(own) / (len(own) + _BORROWED_VECTORS)
        usual = own.median().clamp_min(_LEAST_OF_USUAL / common.exp()) if len(own) else None
        weights.append(common if usual is None else (1 - share) * common - share * usual.log())
    new = NearestNormals.of(axes, vectors, torch.stack(weights).exp(), is_centered=True)
    return known.joined(new, order, shares_axes=True)


class VectorsOfClass:
    """The kept vectors of one class of a table, and new ones that join them.

    Parameters
    ----------
    level : LevelModel
    code : int
    x : Tensor of shape (n_new, n_features), float64
    folds : Tensor of shape (n_new,), int64
    bank_size : int
        So many vectors are kept at most.
    seed : int
    """

    @torch.no_grad()
    def __init__(self, level, code, x, folds, bank_size, seed):
        nearest = level.nearest
        self.old, self.code, self.folds = nearest.vectors_of(code), code, folds
        self.new = level.moved(x.to(self.old.device)) @ nearest.axes[0]
        self.size, self.seed = max(bank_size, len(self.old)), seed

    def write(self, nearest, without=None):
        """Set the vectors of the class, from the old ones and the new ones not in a fold."""
        is_seen = self.folds != (-1 if without is None else without)
        vectors = torch.cat((self.old, self.new[is_seen.to(self.new.device)]))
        rows = _drawn(vectors, torch.arange(len(vectors)), self.size, self.seed)
        nearest.set_class(self.code, vectors[rows])


def _drawn(vectors, rows, size, seed):
    """Draw `size` rows at most; all stay in their order, if there are no more."""
    return rows if len(rows) <= size else drawn_rows(vectors, rows, seed)[:size].sort().values


def _axes_of(x, codes):
    """Return the axes (n_features, n_axes) along which vectors are compared.

    Features count in units of their standard deviation inside the classes. Where there are more
    than 32, the axes are those of the largest variance, of all vectors together.
    """
    residuals = x.clone()
    for code in codes.unique():
        residuals[codes == code] -= x[codes == code].mean(0)
    spread = residuals.square().mean(0).sqrt()
    spread = torch.where(spread > _LEAST_SPREAD * x.abs().amax(0), spread, torch.inf)
    scaled = x / spread
    if x.shape[1] <= N_AXES:
        return torch.diag(1 / spread)
    return main_axes(torch.cov(scaled.T, correction=0)) / spread[:, None]


def _distances_inside(vectors, parts=None):
    """Return the distance of each vector of a class to the nearest other, (n,).

    Parameters
    ----------
    vectors : Tensor of shape (n, n_axes)
    parts : Tensor of shape (n,), default=None
        Part of each; only vectors of other parts count. None = each is its own.
    """
    numbers = torch.arange(len(vectors)) if parts is None else parts
    if len(numbers.unique()) < 2:
        return vectors.new_zeros(0)
    found = []
    for rows in torch.arange(len(vectors)).split(1000):
        apart = torch.cdist(vectors[rows], vectors)
        apart[numbers[rows][:, None] == numbers] = torch.inf
        found.append(apart.amin(1))
    return torch.cat(found)


def _usual_distances(distances):
    """Return a usual distance to the nearest other vector for each class, Tensor (n_classes,).

    The median of the class and that of all vectors, in logarithms, each as far as classes differ:
    the share of their variance that lies between classes counts for the class. None where no two
    different vectors are known.

    `distances` holds a Tensor a class, as from `_distances_inside`.
    """
    every = torch.cat(distances)
    median = every.median() if len(every) else every.new_zeros(())
    least = (every - median).clamp_min(0).mean() if len(every) else median
    if not least > 0:
        return None
    logs = [own.clamp_min(least).log() for own in distances]
    common = torch.cat(logs).median()
    counts = common.new_tensor([len(own) for own in logs])
    medians = torch.stack([own.median() if len(own) else common for own in logs])
    between = (counts * (medians - common).square()).sum()
    inside = sum((own - m).square().sum() for own, m in zip(logs, medians, strict=True))
    share = between / (between + inside)
    return (common + share * (medians - common)).exp()


def fit_novelty(model, evidence):
    """Freeze the constants of `ScoringModel.novelty_term`, from Evidence of left-out normals.

    The location is the median of all, the scale their mean excess above it, as those of the other
    terms; and the distance counts 0.3 of these.

    Parameters
    ----------
    model : ScoringModel
    evidence : list of Evidence

    Returns
    -------
    ndarray of shape (n,), or None
        The terms of these normals, each by the constants of all others; of many normals, by those
        of all. None where no vectors are kept.
    """
    if any(block.novelty is None for block in evidence):
        return None
    values = torch.cat([block.novelty for block in evidence]).double().cpu().numpy()
    location, weight = _constants(values)
    model.novelty_location.fill_(location)
    model.novelty_weight.fill_(weight)
    terms = (values - location) * weight
    if 1 < len(values) <= _MOST_LEFT_OUT:
        for row, value in enumerate(values):
            location, weight = _constants(np.delete(values, row))
            terms[row] = (value - location) * weight
    return terms


def _constants(values):
    """Return location and weight of logarithms of distances (n,)."""
    location, excess = median_and_excess(values)
    return location, _WEIGHT / max(excess, _LEAST_EXCESS)
