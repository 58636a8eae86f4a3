"""Directions from normals to known defects, one a class and level, learned by cross-fitting.

At the peaks of their maps, known defects are told from normals by a shrunk linear discriminant. The
direction that judges a sample has seen neither it nor the others of its fold.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..scoring.defect_terms import DefectTerm
from ..scoring.scoring_model import Evidence
from .covariance import shrink
from .samples import LabelledSamples

FEWEST_DEFECTS = 3  # of a class: each is judged by what the others teach
_N_FOLDS = 10
_N_PEAKS = 3  # positions of an image that a direction is learned from
_MOST_NORMALS = 2000  # of a class that a direction is learned from
_SHRINKAGE = 0.8  # of the covariance of the normals' peaks
_FROM = 1.5  # standard deviations of normals, from which a direction counts
# Learned from so many defects, a direction counts half as much as the likelihood.
_HALF_WEIGHT = 5


class Correction(NamedTuple):
    """What known defects add to the evidence.

    Attributes
    ----------
    terms : list of DefectTerm
        One a level, learned from all samples.
    of_normals, of_defects : list of Tensor of shape (n_samples, n_positions)
        One a level, in the order of rows; by directions that have not seen the sample.
    """

    terms: list
    of_normals: list
    of_defects: list


@dataclass(frozen=True)
class JudgedSamples:
    """Samples in the order of rows, and what a model without them says of them."""

    samples: LabelledSamples
    evidence: Evidence

    @property
    def rows(self):
        """Number of each sample in the cache."""
        return self.evidence.rows.cpu().numpy()

    @property
    def codes(self):
        """Class of each sample."""
        return self.evidence.codes.cpu().numpy()

    @property
    def is_own(self):
        """Which samples this process holds."""
        processes = self.samples.cache.processes
        return self.rows % processes.size == processes.rank

    def gathered(self, values):
        """Join ndarrays of values of the samples that each process holds to a Tensor of all."""
        return torch.from_numpy(self.samples.cache.processes.gather_rows(values, self.rows))

    def vectors(self, model, index, positions):
        """Return the latent vectors at positions (n, n_peaks): Tensor (n, n_peaks, n_axes)."""
        level, first = model.levels[index], 0
        positions = positions[torch.from_numpy(self.is_own).to(positions.device)]
        parts = [level.mixture.means.new_zeros(0, positions.shape[1], level.n_axes).cpu()]
        for x in self._blocks(model, index, slice(None)):
            places = positions[first : first + len(x), :, None].to(x.device)
            if level.is_linear:  # each vector by itself
                z = level.start(x.gather(1, places.expand(-1, -1, x.shape[2])))[0]
            else:
                z = level.latent(x)[0].gather(1, places.expand(-1, -1, level.n_axes))
            parts.append(z.cpu())
            first += len(x)
        return self.gathered(torch.cat(parts).numpy())

    def products(self, model, index, chosen, matrix):
        """Yield the products of latent vectors with a matrix (n_axes, m), of this process.

        Of chosen samples; Tensors (n, n_positions, m).
        """
        level = model.levels[index]
        for x in self._blocks(model, index, chosen):
            if level.is_linear:
                yield level.start.products(x, matrix.to(x))
            else:
                yield level.latent(x)[0] @ matrix.to(x)

    def _blocks(self, model, index, chosen):
        for (x,), _ in self.samples.chosen(self.rows[chosen]).blocks(
            [index], model.score_scale.device
        ):
            yield x


def learn_correction(model, normals, defects, marked=None):
    """Learn the directions of all levels and of the classes with enough defects.

    Parameters
    ----------
    model : ScoringModel
        Calibrated.
    normals, defects : JudgedSamples
    marked : list of Tensor of shape (n_defects, n_positions), bool, or None
        Where the defects of each sample may lie, by level; None = anywhere.

    Returns
    -------
    Correction
    """
    folds = _folds(normals.codes), _folds(defects.codes)
    normal_maps, defect_maps = (
        model.standardized_ratios(judged.evidence) for judged in (normals, defects)
    )
    parts = []
    for index, level in enumerate(model.levels):
        allowed = None if marked is None else marked[index]
        vectors = (
            normals.vectors(model, index, peaks(normal_maps[index], level.map_shape)),
            defects.vectors(model, index, peaks(defect_maps[index], level.map_shape, allowed)),
        )
        parts.append(_learn_level(model, index, (normals, defects), folds, vectors))
    return Correction(*map(list, zip(*parts, strict=True)))


def peaks(maps, map_shape, allowed=None):
    """Return the highest local maxima of each map, as positions: Tensor (n, n_peaks).

    Among the positions that are `allowed`. A map with fewer maxima repeats its highest.
    """
    if allowed is not None:
        maps = torch.where(allowed.to(maps.device), maps, torch.full_like(maps, -torch.inf))
    grid = maps.unflatten(1, (1, *map_shape))
    is_peak = (grid == F.max_pool2d(grid, 3, stride=1, padding=1)).flatten(1)
    maxima = torch.where(is_peak, maps, torch.full_like(maps, -torch.inf))
    highest = maxima.topk(min(_N_PEAKS, maps.shape[1]))
    return torch.where(highest.values.isneginf(), highest.indices[:, :1], highest.indices)


def _folds(codes):
    """Divide the samples of each class evenly into folds."""
    folds, generator = np.zeros(len(codes), dtype=np.int64), np.random.RandomState(0)
    for code in np.unique(codes):
        rows = generator.permutation(np.flatnonzero(codes == code))
        folds[rows] = np.arange(len(rows)) % min(_N_FOLDS, len(rows))
    return folds


def _learn_level(model, index, judged, folds, vectors):
    """Return the DefectTerm of a level, and what it says of normals and of defects."""
    level = model.levels[index]
    directions, offsets = torch.zeros_like(level.mixture.means), model.score_location.clone()
    offsets.zero_()
    shape = math.prod(level.map_shape)
    values = [
        np.zeros((group.is_own.sum(), shape), directions.cpu().numpy().dtype) for group in judged
    ]
    for code in range(model.n_classes):
        of_class = [group.codes == code for group in judged]
        if of_class[1].sum() < FEWEST_DEFECTS or not of_class[0].any():
            continue
        parts = [
            (found[torch.from_numpy(chosen)], fold[chosen])
            for found, chosen, fold in zip(vectors, of_class, folds, strict=True)
        ]
        matrix, weights = _directions(level, code, *parts)
        weights = weights * model.likelihood_scale[index, code].double().cpu()
        products, mean, deviation = _products(model, index, judged, of_class, folds, matrix)
        factors = torch.where(deviation > 0, weights / deviation, torch.zeros_like(weights))
        directions[code] = (matrix[:, -1] * factors[-1]).to(directions)
        start = mean + _FROM * deviation
        offsets[code] = -start[-1] * factors[-1]
        for own, group, chosen, fold, found in zip(
            values, judged, of_class, folds, products, strict=True
        ):
            fold = torch.from_numpy(fold[chosen & group.is_own])
            found = (found - start[fold, None]) * factors[fold, None]
            own[chosen[group.is_own]] = found.clamp_min(0)
    normals, defects = (
        group.gathered(own).to(directions.device) for group, own in zip(judged, values, strict=True)
    )
    return DefectTerm(directions, offsets), normals, defects


def _directions(level, code, normals, defects):
    """Learn the directions of a class, each without a fold, and the last of all.

    `normals` and `defects` are vectors (n, n_peaks, n_axes) and their folds (n,). Returns a matrix
    (n_axes, n_folds + 1), and the weight of each direction beside the likelihood.
    """
    origin, whitener = level.first_center(code)
    (normals, normal_folds), (defects, defect_folds) = (
        ((vectors.double() - origin) @ whitener, folds) for vectors, folds in (normals, defects)
    )
    step = math.ceil(len(normals) / _MOST_NORMALS)
    normals, normal_folds = normals[::step], normal_folds[::step]
    columns, weights = [], []
    for fold in (*range(_N_FOLDS), -1):
        seen = torch.from_numpy(defect_folds != fold)
        direction = _discriminant(defects[seen], normals[torch.from_numpy(normal_folds != fold)])
        columns.append(whitener @ direction)
        weights.append(seen.sum() / (seen.sum() + _HALF_WEIGHT))
    return torch.stack(columns, 1), torch.stack(weights).double()


def _discriminant(defects, normals):
    """Return the shrunk linear discriminant between vectors (n, n_peaks, n_axes), of length 1."""
    if not len(normals):
        return defects.new_zeros(defects.shape[2])
    defects, normals = defects.flatten(0, 1), normals.flatten(0, 1)
    gap, rest = defects.mean(0) - normals.mean(0), normals - normals.mean(0)
    covariance = shrink(rest.T @ rest / len(rest), _SHRINKAGE)
    direction = torch.linalg.solve(covariance, gap)
    return direction / direction.norm().clamp_min(1e-30)


def _products(model, index, judged, of_class, folds, matrix):
    """Multiply all vectors of a class with the direction of the fold of each sample.

    Returns the products of the normals and of the defects of this process, Tensors (n,
    n_positions); and the mean and standard deviation, (n_folds + 1,), of those of all normals with
    each direction.
    """
    results, sums = [], torch.zeros(3, matrix.shape[1], dtype=torch.float64)
    for group, chosen, fold in zip(judged, of_class, folds, strict=True):
        fold = torch.from_numpy(fold[chosen & group.is_own])
        parts, first = [torch.zeros(0, math.prod(model.levels[index].map_shape))], 0
        for products in group.products(model, index, chosen, matrix):
            products = products.cpu()
            if group is judged[0]:
                flat = products.flatten(0, 1).double()
                counted = torch.full_like(flat[0], len(flat))
                sums += torch.stack((counted, flat.sum(0), flat.square().sum(0)))
            own = fold[first : first + len(products), None, None].expand(-1, products.shape[1], 1)
            parts.append(products.gather(2, own)[..., 0])
            first += len(products)
        results.append(torch.cat(parts).double())
    count, total, squares = judged[0].samples.total(sums)
    mean = total / count
    return results, mean, (squares / count - mean.square()).clamp_min(0).sqrt()
