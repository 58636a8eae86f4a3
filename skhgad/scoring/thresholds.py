"""Thresholds of scores: one for all product classes, and classes with one of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..text import printable
from ..validation import check_known_label
from .calibration import promised_threshold

if TYPE_CHECKING:
    from .fitted import FittedModel


def class_thresholds(fitted: FittedModel, rates: Mapping[Any, float]) -> dict[str | int, float]:
    """Find the threshold of each class that keeps a false-alarm rate in this class.

    Parameters
    ----------
    fitted : FittedModel
    rates : mapping of label to float in (0, 1)

    Returns
    -------
    dict of label to float

    Raises
    ------
    ValueError, TypeError
        If there is no class, an unknown one, one without calibration samples, or a rate that is
        not between 0 and 1.

    Warns
    -----
    UserWarning
        If a class has too few calibration samples to promise its rate.
    """
    if not rates:
        raise ValueError(
            "false_alarm_rate is an empty mapping: give a rate for at least one class."
        )
    found = {}
    for label, rate in rates.items():
        label = check_known_label(label, fitted.classes, "false_alarm_rate")
        scores = class_scores(fitted, label)
        if not len(scores):
            raise ValueError(
                f"false_alarm_rate of class {label!r}: it has no calibration samples of its own, "
                "so no threshold can keep a rate. Leave it to the common rate, or fit with more of "
                "its samples."
            )
        found[label] = promised_threshold(scores, rate, label)
    return found


def class_scores(fitted: FittedModel, label: Any) -> NDArray[np.float64]:
    """Return the scores of the calibration samples of which a class is inferred."""
    calibration = fitted.calibration
    scores: NDArray[np.float64] = calibration.scores[fitted.classes[calibration.inferred] == label]
    return scores


def offsets_by_code(
    offset: float, class_offsets: Mapping[Any, float], classes: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the threshold of each class of `classes`: its own or the common one, `offset`.

    Users may set them: ValueError is raised if one is no number. With -inf nothing is flagged.
    """
    labels = classes.tolist()
    found = np.array([class_offsets.get(label, offset) for label in labels], dtype=np.float64)
    for label, value in zip(labels, found.tolist(), strict=True):
        if math.isnan(value):
            name = f"class_offsets_[{label!r}]" if label in class_offsets else "offset_"
            raise ValueError(f"{name} is {value}: set a number, or call set_threshold.")
    return found


def offset_of(detector: Any, label: Any = None) -> float:
    """Return the threshold of a class of a fitted detector, which may be given as text.

    It is the common threshold for None and for what is no class, such as "unknown".
    """
    own = {str(name): offset for name, offset in detector.class_offsets_.items()}
    return float(own.get(str(label), detector.offset_))


def thresholds_text(offset: float, class_offsets: Mapping[Any, float]) -> str:
    """Write the thresholds of a fitted detector, such as "-1.23 (bolt: -3.2)"."""
    own = ", ".join(f"{printable(label)}: {value:.4g}" for label, value in class_offsets.items())
    return f"{offset:.4g}" + (f" ({own})" if own else "")
