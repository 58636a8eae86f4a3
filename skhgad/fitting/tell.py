"""Say in words what a fit decided, for ``verbose=1``."""

import numpy as np

from ..scoring.known_anomalies import known_anomalies_text
from ..text import printable

_MOST = 20  # classes that are named


def decisions_text(
    parameters, codes, classes, spared, n_passes, n_centers, known=None, *, keeps_flow=True
):
    """Return what a fit decided, a line each.

    Parameters
    ----------
    parameters : dict
        Of the detector.
    codes : ndarray of shape (n_samples,)
        Class of each normal sample.
    classes : ndarray of shape (n_classes,)
    spared : ndarray of shape (n_groups, n_samples), bool
        The groups that a model did not see.
    n_passes : int
        Of training.
    n_centers : ndarray of shape (n_levels, n_classes)
    known : list of KnownAnomalies, default=None
    keeps_flow : bool, default=True
        Whether a flow that was trained scores.

    Returns
    -------
    str
    """
    sizes = np.bincount(codes, minlength=len(classes))
    lines = [
        f"{len(codes)} normal samples of {_count(len(classes), 'class', 'classes')}: "
        f"{_each(classes, sizes)}",
        _training(parameters["max_iter"], n_passes, keeps_flow),
        _centers(n_centers, classes, sizes),
        _held_out(spared, codes, classes),
    ]
    if known is not None:
        lines += known_anomalies_text(known).split("\n")
    return "\n".join(f"skhgad: {line}" for line in lines)


def _training(max_iter, n_passes, keeps_flow):
    if n_passes:
        text = f"the flow is trained for {_count(n_passes, 'pass', 'passes')}"
        if keeps_flow:
            return text
        return f"{text} and dropped: it makes held-out normals no likelier than the closed form"
    if max_iter == "auto":
        return (
            "no flow is trained: with max_iter='auto' start and mixture are fitted in closed form, "
            "which was at least as accurate"
        )
    return "no flow is trained, because max_iter is 0: the fit is in closed form"


def _centers(n_centers, classes, sizes):
    most = n_centers.max(axis=0)
    if (most == 1).all():
        return "each class is one Gaussian in each level"
    kinds = [
        "kernels" if n >= size > 1 and n > 16 else str(n)
        for n, size in zip(most, sizes, strict=True)
    ]
    return f"centers of the classes: {_each(classes, kinds)}"


def _held_out(spared, codes, classes):
    judged = spared.any(axis=0)
    if not judged.any():
        return "no sample is held out: training samples calibrate, which promises nothing"
    counts = np.bincount(codes[judged], minlength=len(classes))
    if len(spared) > 1:
        return (
            f"{_count(len(spared), 'model', 'models')}, each fitted without one part of the "
            f"samples, judge these for the calibration: {_each(classes, counts)}"
        )
    return f"held out of the training, for the calibration: {_each(classes, counts)}"


def _each(classes, values):
    """Write a value for each class, such as "bolt 12, nut 30"."""
    texts = [f"{printable(k)} {value}" for k, value in zip(classes, values, strict=True)]
    more = f" and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return ", ".join(texts[:_MOST]) + more


def _count(n, one, many):
    return f"1 {one}" if n == 1 else f"{n} {many}"
