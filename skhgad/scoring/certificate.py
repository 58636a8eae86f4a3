"""What the calibration samples prove of the false alarms of a threshold, class by class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from ..text import printable
from ..validation import check_rate
from .thresholds import class_scores

if TYPE_CHECKING:
    from .fitted import FittedModel

CONFIDENCE = 0.95  # what the command line and the report ask for
_FEWEST_CROSS_FITTED = 5  # samples of a class, as in `fitting.folds`
_NONE = ("auto", 0)  # of `max_iter`: no passes of training


class ClassCertificate(NamedTuple):
    """How often a threshold flags the normal samples of a class.

    Attributes
    ----------
    class_label : str or int
    n_normals : int
        Calibration samples of which this class is inferred.
    n_flagged : int
        Those of them whose score is below the threshold of the class.
    rate : float
        ``n_flagged / n_normals``, the false-alarm rate observed; nan without any normals.
    bound : float in (0, 1]
        The false-alarm rate that the threshold does not exceed, with the confidence asked for.
    """

    class_label: str | int
    n_normals: int
    n_flagged: int
    rate: float
    bound: float


def certify(
    fitted: FittedModel, offsets: NDArray[np.float64], confidence: float
) -> list[ClassCertificate]:
    """Certify the threshold of each class.

    Parameters
    ----------
    fitted : FittedModel
    offsets : ndarray of shape (n_classes,)
        The threshold of each class.
    confidence : float in (0, 1)

    Returns
    -------
    list of ClassCertificate, in the order of the classes

    Raises
    ------
    ValueError, TypeError
        If the confidence does not lie strictly between 0 and 1.
    """
    check_rate(confidence, "confidence")
    certificates = []
    for label, offset in zip(fitted.classes.tolist(), offsets, strict=True):
        scores = _unseen_scores(fitted, label)
        n_normals, n_flagged = len(scores), int(np.sum(scores < offset))
        rate = n_flagged / n_normals if n_normals else math.nan
        bound = false_alarm_bound(n_flagged, n_normals, confidence)
        certificates.append(ClassCertificate(label, n_normals, n_flagged, rate, bound))
    return certificates


def false_alarm_bound(n_flagged: int, n_normals: int, confidence: float) -> float:
    """Return the upper Clopper-Pearson bound of a false-alarm rate.

    It is the rate at which, of `n_normals` fresh normals, at most `n_flagged` are flagged with the
    probability ``1 - confidence``. If the threshold is one of their scores, it is also the quantile
    of the rate at that order statistic, a Beta distribution. It is 1 if all are flagged or there
    are none.
    """
    if n_flagged == n_normals:
        return 1.0
    return float(betaincinv(n_flagged + 1, n_normals - n_flagged, confidence))


def bound_text(certificate: ClassCertificate) -> str:
    """Write the bound, such as "at most 14.6 %"; "not known" without calibration samples."""
    if not certificate.n_normals:
        return "not known"
    return f"at most {100 * certificate.bound:.3g} %"


def certificate_text(certificates: list[ClassCertificate], confidence: float) -> str:
    """Write certificates for a terminal: a heading, then one line a class."""
    lines = [f"false alarms among normal samples, with {100 * confidence:g} % confidence:"]
    for found in certificates:
        counts = f"{found.n_flagged} of {found.n_normals} calibrating normals flagged"
        lines.append(f"  {printable(found.class_label)}: {bound_text(found)} ({counts})")
    return "\n".join(lines)


def _unseen_scores(fitted: FittedModel, label: Any) -> NDArray[np.float64]:
    """Return `class_scores`, but none where the model was fitted to the samples of this class.

    It was with ``validation_fraction=0``, and wherever a class is too small to be cross-fitted.
    """
    parameters: dict[str, Any] = fitted.parameters
    fraction, is_closed_form = parameters["validation_fraction"], parameters["max_iter"] in _NONE
    is_cross_fitted = fraction == "cross" or (fraction == "auto" and is_closed_form)
    fewest = _FEWEST_CROSS_FITTED if is_cross_fitted else 1
    n_own = np.sum(fitted.classes[fitted.calibration.codes] == label)
    scores = class_scores(fitted, label)
    return scores[:0] if fraction == 0 or n_own < fewest else scores
