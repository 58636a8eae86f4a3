"""Which normal vectors of a class a level keeps, and what the distance to them weighs."""

import math
from typing import NamedTuple

import torch

from ..model.level import LevelModel
from ..model.nearest import NearestNormals, distances_to_nearest
from .many_classes import type_of_vectors, vectors_of_a_class

N_AXES = 32  # of the raw features, along which vectors are compared
_N_CANDIDATES = 40_000  # vectors of a class, from which those that are kept are chosen
_N_WEIGHED = 10_000  # of these, what tells how much a distance weighs
_GOLDEN_RATIO = 0.6180339887498949  # its multiples, modulo 1, fill an interval evenly
_LEAST_SPREAD = 1e-6  # of distances, as a share of the vectors' length; less is rounding


class Candidates(NamedTuple):
    """Vectors of one class that a level may keep.

    Attributes
    ----------
    vectors : Tensor of shape (n, n_axes)
    likelihoods, backgrounds : Tensor of shape (n,)
        Log-likelihoods under the Gaussian of the class and the background, as from
        `LevelModel.evidence`; without a background, the first twice.
    samples, groups : Tensor of shape (n,), int64
        The sample that each vector is of, and the fold of this sample.
    """

    vectors: torch.Tensor
    likelihoods: torch.Tensor
    backgrounds: torch.Tensor
    samples: torch.Tensor
    groups: torch.Tensor

    @classmethod
    def of(cls, level, axes, code, blocks, n_samples, bank_size, gather):
        """Draw vectors of the samples of a class, as many of each.

        They are 40,000 in all, or `bank_size` if that is more.

        Positions are evenly spaced in the map, each sample's between those of others. They do not
        depend on the features, so rounding does not change the choice.

        `blocks` yields (numbers, groups, x, inside) of samples of this process: ndarrays of the
        numbers of the samples, or of the pictures whose views they are, and of their folds; raw
        features (n, n_positions, n_features); and which positions count, None = all. `n_samples`
        counts those of all processes, whose lists `gather` joins.
        """
        size = max(bank_size, _N_CANDIDATES)
        n_each = math.ceil(size / max(1, n_samples))
        parts = []
        for numbers, groups, x, inside in blocks:
            z, log_det = level.latent(x)
            moved, rows, places = z @ axes, [], []
            for row, number in enumerate(numbers.tolist()):
                counting = torch.arange(x.shape[1], device=x.device)
                counting = counting if inside is None else counting[inside[row]]
                chosen = evenly_spaced(len(counting), n_each, number * _GOLDEN_RATIO % 1)
                places.append(counting[chosen.to(x.device)])
                rows.append(torch.full_like(places[-1], row))
            rows, places = torch.cat(rows), torch.cat(places)
            likelihoods, backgrounds, _ = level.evidence(
                z[rows, places][None], log_det[rows, places][None],
                torch.tensor([code], device=x.device), with_entropy=False,
            )  # fmt: skip
            backgrounds = likelihoods if backgrounds is None else backgrounds
            numbers, groups = (torch.from_numpy(v).to(x.device)[rows] for v in (numbers, groups))
            parts.append((moved[rows, places], likelihoods[0], backgrounds[0], numbers, groups))
        parts = gather(parts)
        if not parts:
            none, no_number = axes.new_zeros(0), torch.zeros(0, dtype=torch.int64)
            return cls(axes.new_zeros(0, axes.shape[1]), none, none, no_number, no_number)
        found = cls(*(torch.cat(part).to(axes.device) for part in zip(*parts, strict=True)))
        # In an order that does not depend on which process had which view of a picture.
        order = found.vectors[:, 0].argsort()
        order = order[found.samples[order].argsort(stable=True)]
        order = order[evenly_spaced(len(order), size).to(order.device)]
        return cls(*(values[order] for values in found))

    def without(self, group):
        """Return the vectors of all groups but one; None = of all."""
        return self.vectors if group is None else self.vectors[self.groups != group]

    def coreset(self, size):
        """Return `size` vectors so that few are far from all of them; all if there are no more.

        Each fold gives its share, chosen without the others: what the others keep then tells how
        far a new normal vector lies, as it does of the vectors of the fold.
        """
        if len(self.vectors) <= size:
            return self
        ends = self.groups.unique(return_counts=True)[1].cumsum(0) * size // len(self.vectors)
        shares = ends.diff(prepend=ends.new_zeros(1))
        chosen = far_apart(self.vectors, self.groups, int(shares.max()))
        is_share = torch.arange(chosen.shape[1], device=ends.device) < shares[:, None]
        return Candidates(*(values[chosen[is_share]] for values in self))

    def weight(self, background_weight, kept):
        """Return how much log-likelihood one unit of distance to `kept`, Candidates too, weighs.

        So much that the distances of normals vary as their log-likelihoods do, both without the
        share `background_weight` of what the background predicts of them. Each distance is that to
        the nearest kept vector of another sample; 10,000 tell it.
        """
        if not len(self.vectors) or (self.samples == self.samples[0]).all():
            return 0.0

        some = evenly_spaced(len(self.vectors), _N_WEIGHED).to(self.vectors.device)
        some = Candidates(*(values[some] for values in self))

        def of_same_sample(rows):
            return some.samples[rows, None] == kept.samples

        distances = distances_to_nearest(some.vectors, kept.vectors, of_same_sample)
        spread = some._spread(distances, background_weight)
        length = some.vectors.double().square().sum(1).mean().sqrt()
        if not spread > _LEAST_SPREAD * length:
            return 0.0
        return float(some._spread(some.likelihoods, background_weight) / spread)

    def _spread(self, values, background_weight):
        """Return the standard deviation of what the background leaves of some values, float64."""
        values = values.double() - values.double().mean()
        if torch.equal(self.backgrounds, self.likelihoods):  # there is none
            return values.square().mean().sqrt()
        background = self.backgrounds.double() - self.backgrounds.double().mean()
        slope = (values * background).mean() / background.square().mean().clamp_min(1e-300)
        return (values - background_weight * slope * background).square().mean().sqrt()


def evenly_spaced(n_all, n, offset=0.5):
    """Return n places among n_all, evenly spaced; all if there are no more.

    `offset`, from 0 to 1, moves them by this share of their distance.
    """
    if n_all <= n:
        return torch.arange(n_all)
    return ((torch.arange(n, dtype=torch.float64) + offset) * n_all / n).long().clamp_max(n_all - 1)


def far_apart(vectors, groups, n):
    """Return the numbers (n_groups, n) of n vectors of each group, far from each other.

    Greedy k-center: each next vector is the farthest of its group from those chosen. Rare normal
    vectors are then among them, and a new one like these is not far from all that are kept. Of a
    group of less than n, the last numbers mean nothing.

    Parameters
    ----------
    vectors : Tensor of shape (n_vectors, n_axes)
    groups : Tensor of shape (n_vectors,)
    n : int
    """
    order, counts = groups.argsort(stable=True), groups.unique(return_counts=True)[1]
    places = torch.arange(int(counts.max()), device=vectors.device)
    is_filled = places < counts[:, None]
    members = order[(counts.cumsum(0) - counts)[:, None] + places.where(is_filled, 0)]
    vectors = (vectors - vectors.mean(0))[members]
    doubled, squares = (-2 * vectors.mT).contiguous(), vectors.square().sum(-1)
    nearest = torch.where(is_filled, torch.inf, -torch.inf)
    every = torch.arange(len(counts), device=vectors.device)
    chosen = torch.zeros(len(counts), n, dtype=torch.int64, device=vectors.device)
    for place in range(1, n):
        newest = every, chosen[:, place - 1]
        distances = torch.baddbmm(squares[:, None], vectors[newest][:, None], doubled)[:, 0]
        nearest = nearest.minimum(distances.add_(squares[newest][:, None]))
        nearest[newest] = -torch.inf  # not again, even among copies
        chosen[:, place] = nearest.argmax(1)
    return members.gather(1, chosen)


def main_axes(covariance, n_axes=N_AXES):
    """Return the directions in which a covariance is largest, (n_features, n_axes)."""
    vectors = torch.linalg.eigh(covariance)[1].flip(1)[:, :n_axes]
    largest = vectors.abs().argmax(0)
    return vectors * vectors[largest, torch.arange(vectors.shape[1])].sign()


def axes_in(level, axes):
    """Return axes of raw vectors in the latent space of an untrained level, (n_latent, n_axes)."""
    return torch.linalg.solve(level.start.matrix.to(axes), axes).to(level.start.matrix)


class NormalsOfFolds(NamedTuple):
    """The vectors that a level keeps, of which those of a fold can be left out.

    `axes` (n_features, n_axes) are those of raw vectors. `candidates` holds the Candidates of each
    class.
    """

    level: LevelModel
    axes: torch.Tensor
    candidates: list

    @torch.no_grad()
    def penalty(self, x, code, fold):
        """Return what is taken off the log-likelihoods of raw features x under a class.

        A Tensor (n, n_positions); by a model that has not seen the samples of a fold.
        """
        moved = (x - self.level.start.mean) @ self.axes
        distances = distances_to_nearest(moved, self.candidates[code].without(fold))
        return self.level.nearest.weights[code] * distances


@torch.no_grad()
def keep_nearest_normals(level, covariance, features, parameters):
    """Let a level that was fitted in closed form keep normal vectors.

    Parameters
    ----------
    level : LevelModel
    covariance : Tensor of shape (n_features, n_features)
        Of the raw vectors of all classes together.
    features : object
        With `rows`, `blocks_of` and `gather`; see `map_closed_form`.
    parameters : dict
        Of the estimator.

    Returns
    -------
    NormalsOfFolds
    """
    raw_axes, weight = main_axes(covariance), parameters["background_weight"]
    axes = axes_in(level, raw_axes)
    n_classes, bank_size = len(level.mixture.means), parameters["bank_size"]
    size = vectors_of_a_class(bank_size, n_classes)
    found, weights = [], []
    for code in range(n_classes):
        n_samples, blocks = sum(map(len, features.rows[code])), features.blocks_of(code)
        candidates = Candidates.of(level, axes, code, blocks, n_samples, size, features.gather)
        found.append(candidates.coreset(size))
        weights.append(candidates.weight(weight, found[-1]))
    vectors = [kept.vectors for kept in found]
    level.nearest = NearestNormals.of(axes, vectors, weights, type_of_vectors(bank_size, n_classes))
    return NormalsOfFolds(level, raw_axes.to(axes), found)


class NearestOfClass:
    """The kept vectors of one class of a level, and new ones that may join them.

    Parameters
    ----------
    nearest : NearestNormals
        As it was before.
    code : int
    candidates : Candidates
        Of the new samples.
    share : float
        Of the new samples among all of the class.
    parameters : dict
        Of the estimator.
    """

    def __init__(self, nearest, code, candidates, share, parameters):
        self.old, self.code = nearest.vectors_of(code), code
        most = vectors_of_a_class(parameters["bank_size"], len(nearest.counts))
        self.size = max(most, len(self.old))  # more were kept where classes were fewer
        self.candidates = candidates.coreset(math.ceil(self.size * share))
        self.weight = None
        n_kept = len(self.old) + len(self.candidates.vectors)
        if len(self.old) and n_kept > self.size:  # the first of them stay, and are to be far apart
            in_one = torch.zeros(len(self.old), device=self.old.device)
            self.old = self.old[far_apart(self.old, in_one, len(self.old))[0]]
        if not len(self.old):
            self.weight = candidates.weight(parameters["background_weight"], self.candidates)

    @classmethod
    @torch.no_grad()
    def of(cls, level, samples, index, code, folds, parameters):
        """Choose vectors of the samples of this class alone; parameters as of `MapClass.of`."""
        n_old = float(level.densities.n_vectors[code]) / math.prod(level.map_shape)
        if not level.nearest.counts[code]:
            n_old = 0

        def blocks():
            device = level.start.mean.device
            for rows, (x,), _ in samples.numbered_blocks([index], device):
                inside = samples.cache.read_inside(index, rows)
                yield (
                    samples.independent_numbers(rows),
                    folds[rows],
                    x,
                    None if inside is None else inside.to(device),
                )

        n_samples = len(samples.rows) + n_old
        candidates = Candidates.of(
            level, level.nearest.axes_of_class(code), code, blocks(), n_samples,
            parameters["bank_size"], samples.cache.processes.gather,
        )  # fmt: skip
        share = len(samples.rows) / max(1, n_samples)
        return cls(level.nearest, code, candidates, share, parameters)

    def write(self, nearest, without=None):
        """Set the vectors of the class, from the old ones and the new ones not in a fold."""
        new = self.candidates.without(without).to(self.old)
        old = self.old[: max(0, self.size - len(new))]
        nearest.set_class(self.code, torch.cat((old, new)), self.weight)
