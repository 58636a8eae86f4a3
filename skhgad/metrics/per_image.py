"""Figures per image, and the scorer for model selection."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.utils import Bunch

from ..validation import check_anomaly_labels, check_groups, check_rate, check_score_values

__all__ = ["image_metrics", "miss_rates", "summarize", "unified_roc_auc", "warn_undefined"]


def image_metrics(
    y: ArrayLike,
    scores: ArrayLike,
    class_labels: ArrayLike | None = None,
    *,
    offset: ArrayLike | None = None,
) -> Bunch:
    """Return figures per image: AUROC, AP, F1-max, and error rates at the detector's threshold.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        +1 for normal and -1 for anomaly, or class labels with -1 (or "-1") for anomalies.
    scores : array-like of shape (n_samples,)
        `score_samples`: higher = more normal.
    class_labels : array-like of shape (n_samples,), default=None
        The product class of every sample, also of anomalies; None is one class, "all".
    offset : float or array-like of shape (n_samples,), default=None
        The detector's `offset_`: a sample is flagged where ``scores < offset``.

    Returns
    -------
    figures : Bunch
        `per_class` (dict from class to Bunch), `mean` (over classes) and `pooled` (one threshold
        for all). Each has the floats `auroc`, `ap`, `f1_max` and, given `offset`,
        `false_alarm_rate` (share of normals flagged) and `miss_rate` (of anomalies not flagged).

    Raises
    ------
    ValueError
        If lengths differ, a score is not finite, or a class label is -1.

    Warns
    -----
    UserWarning
        If a class lacks normals or anomalies.

    Examples
    --------
    >>> from skhgad.metrics import image_metrics
    >>> figures = image_metrics(
    ...     y=[1, 1, -1, 1, 1, -1], scores=[9, 8, 5, 4, 3, 1],
    ...     class_labels=["lid"] * 3 + ["cap"] * 3, offset=6,
    ... )
    >>> figures.mean.auroc, figures.pooled.auroc, figures.pooled.false_alarm_rate
    (1.0, 0.75, 0.5)
    """
    is_anomaly = check_anomaly_labels(y)
    scores = check_score_values(scores, len(is_anomaly))
    labels = check_groups(class_labels, len(is_anomaly))
    offsets = None if offset is None else _check_offset(offset, scores.shape)
    per_class = {}
    for label, inside in _members(labels):
        per_class[label] = _image_figures(
            is_anomaly[inside],
            scores[inside],
            None if offsets is None else offsets[inside],
            name=f"class {label!r}",
        )
    pooled = _image_figures(is_anomaly, scores, offsets, name="pooled")
    return summarize(per_class, pooled)


def _members(labels: list[Any]) -> Iterator[tuple[Any, NDArray[np.bool_]]]:
    """Yield each class and which samples belong to it."""
    for label in sorted(set(labels), key=str):
        yield label, np.array([other == label for other in labels])


def _check_offset(offset: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the offset of each sample."""
    offsets = np.asarray(offset, dtype=np.float64)
    if offsets.ndim and offsets.shape != shape or np.isnan(offsets).any():
        raise ValueError(f"offset must be a number, or {shape[0]} numbers, got {offsets!r}.")
    return np.broadcast_to(offsets, shape)


def _image_figures(
    is_anomaly: NDArray[np.bool_],
    scores: NDArray[np.float64],
    offset: NDArray[np.float64] | None,
    name: str,
) -> dict[str, float]:
    """Return the figures of `name`, a class or all of them."""
    figures = dict.fromkeys(("auroc", "ap", "f1_max"), np.nan)
    if is_anomaly.any() and not is_anomaly.all():
        precision, recall, _ = precision_recall_curve(is_anomaly, -scores)
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
        figures["auroc"] = float(roc_auc_score(is_anomaly, -scores))
        figures["ap"] = float(average_precision_score(is_anomaly, -scores))
        figures["f1_max"] = float(f1.max())
    if offset is not None:
        flagged = scores < offset
        normals, anomalies = flagged[~is_anomaly], flagged[is_anomaly]
        figures["false_alarm_rate"] = float(normals.mean()) if len(normals) else np.nan
        figures["miss_rate"] = float(1 - anomalies.mean()) if len(anomalies) else np.nan
    undefined = [key for key, value in figures.items() if np.isnan(value)]
    if undefined:
        kind = "normal sample" if is_anomaly.all() else "anomaly (y = -1)"
        warn_undefined(name, f"no {kind} among {len(is_anomaly)} samples", undefined)
    return figures


def miss_rates(
    y: ArrayLike,
    scores: ArrayLike,
    class_labels: ArrayLike | None = None,
    *,
    false_alarm_rates: Sequence[float] = (0.01, 0.05, 0.1),
) -> Bunch:
    """Return the share of anomalies that are missed at given shares of false alarms.

    The threshold of each rate is the highest one that flags at most this share of the normal
    samples given. Those of `per_class` are of each class alone, whatever the detector's own is.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        +1 for normal and -1 for anomaly, or class labels with -1 (or "-1") for anomalies.
    scores : array-like of shape (n_samples,)
        `score_samples`: higher = more normal.
    class_labels : array-like of shape (n_samples,), default=None
        The product class of every sample, also of anomalies; None is one class, "all".
    false_alarm_rates : sequence of float in (0, 1), default=(0.01, 0.05, 0.1)

    Returns
    -------
    misses : Bunch
        `per_class` (dict from class to dict), `mean` (over classes) and `pooled` (one threshold
        for all). Each dict has the share of missed anomalies, a float, by false-alarm rate. It is
        nan, without a warning, if there are no anomalies or fewer than ``1 / rate`` normals, of
        which none may be flagged.

    Raises
    ------
    ValueError, TypeError
        If lengths differ, a score is not finite, a class label is -1, or a rate is not between 0
        and 1.

    Examples
    --------
    >>> from skhgad.metrics import miss_rates
    >>> normal, anomalous = range(10, 20), [9, 10, 11, 12]
    >>> misses = miss_rates([1] * 10 + [-1] * 4, [*normal, *anomalous])
    >>> misses.pooled  # one of ten normals may be flagged: scores below 11 are
    {0.01: nan, 0.05: nan, 0.1: 0.5}
    """
    is_anomaly = check_anomaly_labels(y)
    scores = check_score_values(scores, len(is_anomaly))
    labels = check_groups(class_labels, len(is_anomaly))
    for rate in false_alarm_rates:
        check_rate(rate, "false_alarm_rates")
    per_class = {
        label: _misses(is_anomaly[inside], scores[inside], false_alarm_rates)
        for label, inside in _members(labels)
    }
    mean = {
        rate: float(np.mean([misses[rate] for misses in per_class.values()]))
        for rate in false_alarm_rates
    }
    pooled = _misses(is_anomaly, scores, false_alarm_rates)
    return Bunch(per_class=per_class, mean=mean, pooled=pooled)


def _misses(
    is_anomaly: NDArray[np.bool_], scores: NDArray[np.float64], rates: Sequence[float]
) -> dict[float, float]:
    normals, anomalies = np.sort(scores[~is_anomaly]), scores[is_anomaly]
    misses = {}
    for rate in rates:
        n_flagged = int(rate * len(normals) + 1e-9)  # at most
        misses[rate] = np.nan
        if n_flagged and len(anomalies):
            misses[rate] = float(np.mean(anomalies >= normals[n_flagged]))
    return misses


def summarize(per_class: Mapping[Any, Mapping[str, float]], pooled: Mapping[str, float]) -> Bunch:
    """Return a Bunch of `per_class`, `mean` and `pooled`; a class's nan makes the mean nan."""
    mean = {key: float(np.mean([f[key] for f in per_class.values()])) for key in pooled}
    bunches = {label: Bunch(**figures) for label, figures in per_class.items()}
    return Bunch(per_class=bunches, mean=Bunch(**mean), pooled=Bunch(**pooled))


def warn_undefined(name: str, reason: str, figures: Sequence[str]) -> None:
    """Warn that some figures of `name` are nan, and why."""
    warnings.warn(f"{name}: {reason}; {', '.join(figures)} nan.", UserWarning, stacklevel=3)


def unified_roc_auc(estimator: Any, X: Any, y: ArrayLike) -> float:
    """Return the AUROC over all classes pooled: a scorer for ``scoring=`` of a model search.

    Parameters
    ----------
    estimator : fitted detector
        Anything with `decision_function` or `score_samples`, higher = more normal.
    X : array-like
        What the detector takes.
    y : array-like of shape (n_samples,)
        Class labels with -1 (or "-1") for anomalies, or +1 and -1.

    Returns
    -------
    score : float
        1 is perfect, 0.5 chance; nan with a warning if `y` has only normals or only anomalies. Use
        a shuffled or stratified `cv`: folds of a sorted y hold one kind only.

    Raises
    ------
    TypeError
        If the estimator has neither method.
    ValueError
        If it does not return one finite score per sample.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV, StratifiedKFold
    >>> from sklearn.neighbors import LocalOutlierFactor
    >>> from skhgad.metrics import unified_roc_auc
    >>> X = np.r_[np.arange(40), 100, -100].reshape(-1, 1)
    >>> y = np.r_[["lid"] * 20, ["cap"] * 20, ["-1"] * 2]
    >>> search = GridSearchCV(
    ...     LocalOutlierFactor(novelty=True), {"n_neighbors": [2, 4]},
    ...     scoring=unified_roc_auc, cv=StratifiedKFold(2),
    ... )
    >>> float(search.fit(X, y).best_score_)
    1.0
    """
    is_anomaly = check_anomaly_labels(y)
    for method in ("decision_function", "score_samples"):
        if hasattr(estimator, method):
            scores = check_score_values(getattr(estimator, method)(X), len(is_anomaly))
            break
    else:
        raise TypeError(f"{estimator!r} has neither decision_function nor score_samples.")
    if is_anomaly.all() or not is_anomaly.any():
        kind = "anomalies" if is_anomaly.all() else "normals"
        warn_undefined(
            "unified_roc_auc", f"y holds {kind} only, {len(is_anomaly)} of them", ["score"]
        )
        return float("nan")
    return float(roc_auc_score(~is_anomaly, scores))
