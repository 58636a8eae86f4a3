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
        With a DefectTerm a level. Few defects change its `level_weights` little.
    defects : JudgedSamples
    added : list of Tensor of shape (n_rows, n_positions)
        What the terms add to the evidence of the defects; see `Correction`.
    chosen : ndarray of shape (n_classes,), bool
        Classes whose weights change. Each has defects.

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
        factors = model.level_weights.double().cpu().numpy()
        own_factors = factors[:, codes]
        for code in np.flatnonzero(self.chosen):
            normals, defects = (
                np.flatnonzero(values == code) for values in (codes, self.defects.codes)
            )
            scales = class_scales(peaks[normals], terms, common)
            levels = [scales.in_units(values) for values in (peaks[normals], known[defects])]
            before = factors[:, code].copy()
            factors[:, code] = _all_weights(*levels, before)
            for weights, judged in _cross_fitted(levels, terms, before):
                own_factors[:, normals[judged[0]]] = weights[:, None]
                of_fold = defects[judged[1]]
                scales = class_scales(peaks[normals], terms, common, weights)
                self.scores[of_fold] = -scales.scores(known[of_fold], 0 * of_fold, terms)
        model.level_weights.copy_(model.level_weights.new_tensor(factors))
        return factors, own_factors


def _cross_fitted(levels, terms, before):
    """Yield weights (n_terms,) of all folds but one, and two masks: what lies in that fold.

    `levels` are the peaks of normals and defects in units of those of normals.
    """
    folds = [_folds(values @ terms) for values in levels]
    for fold in range(_N_FOLDS):
        judged = [own == fold for own in folds]
        if any(found.any() for found in judged):
            seen = [values[~found] for values, found in zip(levels, judged, strict=True)]
            yield _all_weights(*seen, before), judged


def _all_weights(normals, defects, before):
    """Return the weights of the levels, and that of the entropy, which stays."""
    return np.append(best_weights(normals[:, :-1], defects[:, :-1], before[:-1]), before[-1])


def best_weights(normals, defects, before):
    """Return the weights (n_levels,) by which defects have larger sums than normals; mean 1.

    Each defect has the mean of log(1 + exp(-difference)) over the normals as its loss. Few
    defects move the weights little from those `before` (n_levels,).

    Parameters
    ----------
    normals, defects : ndarray of shape (n_normals, n_levels) and (n_defects, n_levels)
        Peaks in units of those of normals.
    """
    n_levels = normals.shape[1]
    if n_levels == 1 or not len(normals) or not len(defects):
        return before
    apart = defects[:, None] - normals

    def loss(weights):
        differences = apart @ weights
        slopes = -expit(-differences)[..., None] * apart
        value = np.logaddexp(0, -differences).mean(1).sum()
        away = weights - before
        return (
            value + _PENALTY * (away @ away),
            slopes.mean(1).sum(0) + 2 * _PENALTY * away,
        )

    found = minimize(loss, before, jac=True, bounds=[_BOUNDS] * n_levels).x
    return found / found.mean()


def _folds(scores):
    """Divide samples evenly into folds that are alike in their scores, whatever their order."""
    return scores.argsort().argsort() % min(_N_FOLDS, max(1, len(scores)))
