"""Directions from normals to known defects, one a class and level, learned by cross-fitting.

At the peaks of their maps, known defects are told from normals by a shrunk linear discriminant;
feature vectors by a logistic regression, see `defect_odds`. The direction that judges a sample has
seen neither it nor the others of its fold.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from ..scoring.defect_terms import DefectTerm
from .covariance import shrink
from .defect_odds import MOST_NORMALS, learn_odds
from .left_out_maps import LeftOutMaps

FEWEST_DEFECTS = 3  # of a class: each is judged by what the others teach
_N_FOLDS = 10
_SHRINKAGE = 0.8  # of the covariance of the normals' peaks
_FROM = 1.5  # standard deviations of normals, from which a direction counts
_HALF_WEIGHT = 20  # so many defects teach a direction that counts half of the likelihood


class Correction(NamedTuple):
    """What known defects add to the evidence.

    Attributes
    ----------
    terms : list of DefectTerm
        One a level, learned from all samples.
    of_normals, of_defects : list of Tensor of shape (n_rows, n_positions)
        One a level, see `JudgedSamples`; by directions that have not seen the sample.
    """

    terms: list
    of_normals: list
    of_defects: list


def learn_correction(model, normals, defects, marked=None):
    """Learn the directions of all levels and of the classes with enough defects.

    Parameters
    ----------
    model : ScoringModel
        Calibrated.
    normals, defects : JudgedSamples
    marked : list of Tensor of shape (n_rows, n_positions), bool, or None
        Where the defects of each row may lie, by level; None = anywhere.

    Returns
    -------
    Correction
    """
    folds, others = (_folds(normals), _folds(defects)), _not_calibrating(normals)
    if model.levels[0].has_one_position:
        found = _learn_vectors(model, normals, defects, folds, others)
        return Correction(*([part] for part in found))
    places, parts = (normals.peak_places(model), defects.peak_places(model, marked)), []
    for index, level in enumerate(model.levels):
        # Where all normals calibrate, the model was fitted to them.
        moved = None if len(others) else LeftOutMaps(level, normals.samples, index)
        vectors = [
            group.vectors(model, index, found[index], how)
            for group, found, how in zip((normals, defects), places, (moved, None), strict=True)
        ]
        parts.append(_learn_level(model, index, (normals, defects), folds, vectors, moved))
    return Correction(*map(list, zip(*parts, strict=True)))


def _not_calibrating(normals):
    """Return the rows of the fit of which no sample of the same part is among JudgedSamples."""
    samples = normals.samples
    parts, judged = map(samples.independent_numbers, (samples.rows, normals.rows))
    return samples.rows[~np.isin(parts, judged)]


def _folds(judged):
    """Divide JudgedSamples of each class evenly into folds; the samples of a part stay together."""
    folds, generator = np.zeros(len(judged.codes), dtype=np.int64), np.random.RandomState(0)
    first = np.unique(judged.sample_of_row, return_index=True)[1]
    parts = judged.samples.independent_numbers(judged.rows[first])
    for code in np.unique(judged.codes):
        rows = np.flatnonzero(judged.codes == code)
        names, place = np.unique(parts[rows], return_inverse=True)
        of_parts = np.empty(len(names), dtype=np.int64)
        of_parts[generator.permutation(len(names))] = np.arange(len(names)) % _N_FOLDS
        folds[rows] = of_parts[place]
    return folds


def _learn_level(model, index, judged, folds, vectors, moved):
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
        # From here on by row: a picture in tiles has several.
        of_class, of_fold = (
            [values[group.sample_of_row] for values, group in zip(kinds, judged, strict=True)]
            for kinds in (of_class, folds)
        )
        products, mean, deviation = _products(
            model, index, judged, of_class, of_fold, matrix, moved
        )
        factors = torch.where(deviation > 0, weights / deviation, torch.zeros_like(weights))
        directions[code] = (matrix[:, -1] * factors[-1]).to(directions)
        start = mean + _FROM * deviation
        offsets[code] = -start[-1] * factors[-1]
        for own, group, chosen, fold, found in zip(
            values, judged, of_class, of_fold, products, strict=True
        ):
            fold = torch.from_numpy(fold[chosen & group.is_own])
            found = (found - start[fold, None]) * factors[fold, None]
            own[chosen[group.is_own]] = found.clamp_min(0)
    normals, defects = (
        group.gathered(own).to(directions.device) for group, own in zip(judged, values, strict=True)
    )
    return DefectTerm(directions, offsets), normals, defects


def _learn_vectors(model, normals, defects, folds, others):
    """Return the DefectTerm of feature vectors, and what it says of normals and of defects.

    `others` are rows of normals that do not calibrate: they teach.
    """
    groups = normals, defects
    units = model.likelihood_scale[0] * model.peak_scale[0] * model.score_scale
    directions, offsets = torch.zeros_like(model.levels[0].mixture.means), torch.zeros_like(units)
    values = [torch.zeros(len(group.codes), 1, dtype=torch.float64) for group in groups]
    for code in range(model.n_classes):
        chosen = [group.codes == code for group in groups]
        if chosen[1].sum() < FEWEST_DEFECTS or not chosen[0].any():
            continue
        sides = [
            (_vectors(group, model, group.rows[own]), fold[own])
            for group, own, fold in zip(groups, chosen, folds, strict=True)
        ]
        teachers = others[normals.samples.codes[others] == code]
        step = max(1, math.ceil(len(teachers) / MOST_NORMALS))
        odds = learn_odds(
            _vectors(normals, model, teachers[::step]),
            *sides,
            unit=float(units[code]),
            shrinkage=model.levels[0].start.shrinkage if model.n_classes == 1 else None,
        )
        directions[code, : len(odds.direction)] = odds.direction.to(directions)
        offsets[code] = odds.offset
        for own, places, found in zip(
            values, chosen, (odds.of_normals, odds.of_defects), strict=True
        ):
            own[torch.from_numpy(places), 0] = found
    return DefectTerm(directions, offsets), *(own.to(directions.device) for own in values)


def _vectors(group, model, rows):
    """Return the latent vectors of JudgedSamples in some rows, Tensor (n, n_axes), float64.

    Without the length of what the axes leave out: it is 0 where the model was fitted to a vector.
    """
    places = rows[:, None], np.zeros((len(rows), 1), dtype=np.int64)
    vectors = group.vectors(model, 0, places)[:, 0].double()
    return vectors[:, :-1] if model.levels[0].start.has_rest else vectors


def _directions(level, code, normals, defects):
    """Learn the directions of a class, each without a fold, and the last of all.

    `normals` and `defects` are vectors (n, n_peaks, n_axes) and their folds (n,). Returns a matrix
    (n_axes, n_folds + 1), and the weight of each direction beside the likelihood.
    """
    origin, whitener = level.first_center(code)
    (normals, normal_folds), (defects, defect_folds) = (
        ((vectors.double() - origin) @ whitener, folds) for vectors, folds in (normals, defects)
    )
    step = math.ceil(len(normals) / MOST_NORMALS)
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


def _products(model, index, judged, of_class, folds, matrix, moved):
    """Multiply all vectors of a class with the direction of the fold of each row.

    Returns the products of the normals and of the defects of this process, Tensors (n,
    n_positions); and the mean and standard deviation, (n_folds + 1,), of those of all normals with
    each direction, at the positions inside.
    """
    results, sums = [], torch.zeros(3, matrix.shape[1], dtype=torch.float64)
    for group, chosen, fold in zip(judged, of_class, folds, strict=True):
        fold = torch.from_numpy(fold[chosen & group.is_own])
        parts, first = [torch.zeros(0, math.prod(model.levels[index].map_shape))], 0
        for rows, products in group.products(
            model, index, chosen, matrix, moved if group is judged[0] else None
        ):
            products = products.cpu()
            if group is judged[0]:
                inside = group.samples.cache.read_inside(index, rows)
                flat = products.flatten(0, 1) if inside is None else products[inside]
                flat = flat.double()
                counted = torch.full_like(flat[0], len(flat))
                sums += torch.stack((counted, flat.sum(0), flat.square().sum(0)))
            own = fold[first : first + len(products), None, None].expand(-1, products.shape[1], 1)
            parts.append(products.gather(2, own)[..., 0])
            first += len(products)
        results.append(torch.cat(parts).double())
    count, total, squares = judged[0].samples.total(sums)
    mean = total / count
    return results, mean, (squares / count - mean.square()).clamp_min(0).sqrt()
