"""Samples that y gives to one class, and that look like normal samples of another."""

from typing import NamedTuple

import numpy as np

from ..scoring.calibration import conformal_p_values
from .calibrate import numbers_judged

_RARE = 0.05  # p-value under the class given, at most
_USUAL = 0.15  # p-value under the other class, at least
_FAR = 4  # times as far below the median score of its class as a tenth of the others
_MOST = 0.1  # of a class: more are no slips
_ALIKE = 0.03  # of two classes: where more could be of the other one, none is called wrong


class WrongName(NamedTuple):
    """A sample, by its number, the code of its class and that of the class it looks like."""

    number: int
    code: int
    looks_like: int


def find_wrong_names(samples, evidence, calibration):
    """Find samples whose class seems to be named wrongly.

    Models that have not seen such a sample take it for one of another class. Among samples that are
    inferred rightly, it is far from usual for its own class and usual for the other one. A sample
    between two classes that look alike is unusual for both, or nearly usual for both.

    Parameters
    ----------
    samples : LabelledSamples
        All of the fit.
    evidence : list of pairs of Evidence
        Of those that calibrate.
    calibration : Calibration
        By this evidence.

    Returns
    -------
    list of WrongName
        None where a tenth of a class is found, or the two classes look alike.
    """
    codes, inferred = calibration.codes, calibration.inferred
    is_right = inferred == codes
    right = calibration.given_scores[is_right], codes[is_right]
    others = np.flatnonzero(~is_right)
    others = others[np.isin(inferred[others], right[1]) & np.isin(codes[others], right[1])]
    usual = conformal_p_values(calibration.scores[others], inferred[others], *right)
    others = others[usual >= _USUAL]
    given_scores = calibration.given_scores[others]
    is_unusual = conformal_p_values(given_scores, codes[others], *right) <= _RARE
    is_unusual &= _is_far(given_scores, codes[others], *right)
    counts = np.bincount(codes, minlength=samples.n_classes)

    def between(chosen):
        found = np.zeros((samples.n_classes, samples.n_classes))
        np.add.at(found, (codes[chosen], inferred[chosen]), 1)
        return found

    alike, wrong = between(others[~is_unusual]), between(others[is_unusual])
    is_told = alike + alike.T <= _ALIKE * (counts + counts[:, None])
    is_told &= wrong.sum(1, keepdims=True) <= _MOST * counts[:, None]
    found = others[is_unusual & is_told[codes[others], inferred[others]]]
    numbers = numbers_judged(samples, evidence)
    return sorted(
        WrongName(numbers[place], int(codes[place]), int(inferred[place]))
        for place in found.tolist()
    )


def _is_far(scores, codes, right_scores, right_codes):
    """Whether scores are far below those of their class: of neighbours, few are."""
    found = np.empty(len(scores), dtype=bool)
    for code in np.unique(codes):
        low, middle = np.percentile(right_scores[right_codes == code], [10, 50])
        found[codes == code] = middle - scores[codes == code] >= _FAR * (middle - low)
    return found
