"""What each level counts in the score of a class: more where known defects stand out more."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from .class_scales import class_scales, common_scales

_N_FOLDS = 10
_PENALTY = 0.2  # of the squared distances of the weights from 1, beside the losses of the defects
_BOUNDS = 0.1, 4.0


class LevelWeights:
    """Chooses what the levels of some classes count, while their normals calibrate a model.

    The score of a sample is the sum of the peaks of its levels, each in units of the peaks of
    normals. A level in which known defects stand out more than in others gets a larger weight. The
    weights that judge a sample have seen neither it nor the others of its fold.

    Parameters
    ----------
    model : ScoringModel
        With a DefectTerm a level, whose weights are set.
    defects : JudgedSamples
    added : list of Tensor of shape (n_rows, n_positions)
        What the terms add to the evidence of the defects; see `Correction`.
    chosen : ndarray of shape (n_classes,), bool
        Classes that get weights. Each has defects.

    Attributes
    ----------
    scores : ndarray of shape (n_defects,)
        Normality scores of the defects of these classes; of others nan.
    """

    def __init__(self, model, defects, added, chosen):
        self.model, self.defects, self.added, self.chosen = model, defects, added, chosen
        self.scores = np.full(len(defects.codes), np.nan)

    def __call__(self, peaks, codes):
        """Set the weights by the peaks (n, n_terms) of normals and their classes (n,).

        Returns
        -------
        factors : ndarray of shape (n_terms, n_classes)
            See `fit_class_scales`.
        own_factors : ndarray of shape (n_terms, n)
            Of each normal, by the others; see `left_out_scores`.
        """
        model, terms = self.model, self.model.term_weights
        known, common = self.defects.peaks(model, self.added), common_scales(peaks, codes, terms)
        factors, own_factors = np.ones((len(terms), model.n_classes)), np.ones(peaks.T.shape)
        for code in np.flatnonzero(self.chosen):
            places = [np.flatnonzero(values == code) for values in (codes, self.defects.codes)]
            found = [values[own] for values, own in zip((peaks, known), places, strict=True)]
            scales = class_scales(found[0], terms, common)
            in_units = [(v - scales.peak_location.T) / scales.peak_scale.T for v in found]
            folds = [_folds(values @ terms) for values in in_units]
            levels = [values[:, :-1] for values in in_units]
            factors[:-1, code] = best_weights(*levels)
            for fold in range(_N_FOLDS):
                is_seen = [own != fold for own in folds]
                if all(seen.all() for seen in is_seen):
                    continue
                weights = np.ones(len(terms))
                weights[:-1] = best_weights(*(v[s] for v, s in zip(levels, is_seen, strict=True)))
                normals, defects = (own[~seen] for own, seen in zip(places, is_seen, strict=True))
                own_factors[:, normals] = weights[:, None]
                scales = class_scales(found[0], terms, common, weights)
                self.scores[defects] = -scales.scores(known[defects], 0 * defects, terms)
        for term, weights in zip(model.defect_terms, factors, strict=False):
            term.level_weights.copy_(term.level_weights.new_tensor(weights))
        return factors, own_factors


def best_weights(normals, defects):
    """Return the weights (n_levels,) by which defects have larger sums than normals.

    Each defect has the mean of log(1 + exp(-difference)) over the normals as its loss. Few defects
    move the weights little from 1.

    Parameters
    ----------
    normals, defects : ndarray of shape (n_normals, n_levels) and (n_defects, n_levels)
        Peaks in units of those of normals.
    """
    n_levels = normals.shape[1]
    if n_levels == 1 or not len(normals):
        return np.ones(n_levels)
    apart = defects[:, None] - normals

    def loss(weights):
        differences = apart @ weights
        slopes = -expit(-differences)[..., None] * apart
        value = np.logaddexp(0, -differences).mean(1).sum()
        away = weights - 1
        return (
            value + _PENALTY * (away @ away),
            slopes.mean(1).sum(0) + 2 * _PENALTY * away,
        )

    return minimize(loss, np.ones(n_levels), jac=True, bounds=[_BOUNDS] * n_levels).x


def _folds(scores):
    """Divide samples evenly into folds that are alike in their scores, whatever their order."""
    return scores.argsort().argsort() % min(_N_FOLDS, max(1, len(scores)))
