"""Figures for unified anomaly detection: per class, mean over classes, and pooled.

Pooled means one threshold for all products, which is how a unified detector runs on a line; the
mean over classes gives every product a threshold of its own.

Conventions: a sample is an anomaly where `y` is -1 (or "-1"); any other label, +1 or a class name,
is normal. `scores` are `score_samples`, higher = more normal; maps are `anomaly_maps`, higher =
more anomalous. The anomaly is the positive class of AP and F1. A figure that its data cannot give
(one kind of label only, no mask) is nan, and so are the means over it; a warning names the class.
"""

import itertools
import numbers
import warnings

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.utils import Bunch

from .histograms import ClassPixels, check_map, check_mask, merge, pixel_figures

__all__ = ["PixelMetrics", "image_metrics", "pixel_metrics", "unified_roc_auc"]

_PENDING_PER_CLASS, _PENDING = 2**21, 2**23  # pixels kept raw until counted: 32 MiB of float32
_PIXEL_FIGURES = ("auroc", "ap", "f1_max", "aupro")


def _check_y(y):
    """Return a bool array, True where `y` marks an anomaly."""
    y = np.asarray(y)
    if y.ndim != 1 or not y.size:
        raise ValueError(f"y must be labels of shape (n_samples,), n_samples > 0, got {y!r:.80}.")
    if y.dtype == bool:
        raise TypeError("y is boolean: use +1 for normal and -1 for anomaly.")
    if y.dtype.kind == "f" and not np.all(y == np.floor(y)):
        index = int(np.flatnonzero(y != np.floor(y))[0])
        raise ValueError(f"y[{index}] = {y[index]} is neither a label nor +1/-1.")
    if y.dtype.kind in "iuf":
        return y == -1
    return np.array([label == -1 or str(label) == "-1" for label in y.tolist()])


def _check_scores(scores, n_samples):
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (n_samples,):
        raise ValueError(f"scores must have shape ({n_samples},) as y, got {scores.shape}.")
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"scores[{index}] is {scores[index]}: every score must be finite.")
    return scores


def _check_class_labels(class_labels, n_samples):
    if class_labels is None:
        return ["all"] * n_samples
    labels = np.asarray(class_labels)
    if labels.shape != (n_samples,):
        raise ValueError(f"class_labels must have shape ({n_samples},), got {labels.shape}.")
    labels = labels.tolist()
    for index, label in enumerate(labels):
        if label == -1 or str(label) == "-1":
            raise ValueError(
                f"class_labels[{index}] is {label!r}: give the anomaly's product class, -1 in y."
            )
    return labels


def _warn_nan(name, lack, figures):
    warnings.warn(f"{name}: {lack}; {', '.join(figures)} nan.", UserWarning, stacklevel=3)


def _summarize(per_class, pooled):
    """Return the nested Bunch; the mean is nan if one class is, so that it never means fewer."""
    mean = {key: float(np.mean([f[key] for f in per_class.values()])) for key in pooled}
    bunches = {name: Bunch(**figures) for name, figures in per_class.items()}
    return Bunch(per_class=bunches, mean=Bunch(**mean), pooled=Bunch(**pooled))


def _image_figures(anomaly, scores, offset, name):
    figures = dict.fromkeys(("auroc", "ap", "f1_max"), np.nan)
    if anomaly.any() and not anomaly.all():
        precision, recall, _ = precision_recall_curve(anomaly, -scores)
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
        figures["auroc"] = float(roc_auc_score(anomaly, -scores))
        figures["ap"] = float(average_precision_score(anomaly, -scores))
        figures["f1_max"] = float(f1.max())
    if offset is not None:
        flagged = scores < offset
        figures["false_alarm_rate"] = np.nan if anomaly.all() else float(flagged[~anomaly].mean())
        figures["miss_rate"] = float(1 - flagged[anomaly].mean()) if anomaly.any() else np.nan
    lacking = [key for key, value in figures.items() if np.isnan(value)]
    if lacking:
        kind = "normal sample" if anomaly.all() else "anomaly (y = -1)"
        _warn_nan(name, f"no {kind} among {len(anomaly)} samples", lacking)
    return figures


def image_metrics(y, scores, class_labels=None, *, offset=None):
    """Figures per image: AUROC, AP and F1-max, and the error rates at the detector's threshold.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        +1 for normal and -1 for anomaly, or class labels with -1 (or "-1") for anomalies.
    scores : array-like of shape (n_samples,)
        `score_samples`: higher = more normal.
    class_labels : array-like of shape (n_samples,), default=None
        The product class of every sample, anomalies included; None is one class, "all".
    offset : float or array-like of shape (n_samples,), default=None
        The detector's `offset_`: a sample is flagged where ``scores < offset``.

    Returns
    -------
    figures : Bunch
        `per_class` (dict from class to Bunch), `mean` (over classes) and `pooled` (one threshold
        for all), each with floats `auroc`, `ap`, `f1_max` and, given `offset`,
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
    anomaly = _check_y(y)
    scores = _check_scores(scores, len(anomaly))
    labels = _check_class_labels(class_labels, len(anomaly))
    if offset is not None:
        offset = np.asarray(offset, dtype=np.float64)
        if offset.ndim and offset.shape != scores.shape or np.isnan(offset).any():
            raise ValueError(f"offset must be a number, or {len(scores)} numbers, got {offset!r}.")
        offset = np.broadcast_to(offset, scores.shape)
    per_class = {}
    for name in sorted(set(labels), key=str):
        inside = np.array([label == name for label in labels])
        part = None if offset is None else offset[inside]
        per_class[name] = _image_figures(anomaly[inside], scores[inside], part, f"class {name!r}")
    return _summarize(per_class, _image_figures(anomaly, scores, offset, "pooled"))


def unified_roc_auc(estimator, X, y):
    """Scorer: AUROC of "not -1" over all classes pooled, for ``scoring=`` of a model search.

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
        1 is perfect, 0.5 chance; nan with a warning where `y` has only normals or only anomalies.
        Give a shuffled or stratified `cv`, since folds of a sorted y hold one kind only.

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
    anomaly = _check_y(y)
    for method in ("decision_function", "score_samples"):
        if hasattr(estimator, method):
            scores = _check_scores(getattr(estimator, method)(X), len(anomaly))
            break
    else:
        raise TypeError(f"{estimator!r} has neither decision_function nor score_samples.")
    if anomaly.all() or not anomaly.any():
        kind = "anomalies" if anomaly.all() else "normals"
        _warn_nan("unified_roc_auc", f"y holds {kind} only, {len(anomaly)} of them", ["score"])
        return float("nan")
    return float(roc_auc_score(~anomaly, scores))


class PixelMetrics:
    """Pixel figures of any number of anomaly maps, one map at a time, in bounded memory.

    No map is kept, but a histogram of about `n_bins` quantiles per class. Figures are exact while
    a class has no more different scores than that, and within 1e-3 beyond, with the default.

    Parameters
    ----------
    n_bins : int, default=16384
        Resolution. A class keeps one summary of at most ``64 * n_bins`` bytes per doubling of its
        pixels beyond two million.
    max_fpr : float, default=0.3
        AUPRO is integrated to this false-positive rate, and divided by it.

    See Also
    --------
    pixel_metrics : The same for sequences of masks and maps.

    References
    ----------
    .. [1] Bergmann, Fauser, Sattlegger and Steger, "MVTec AD - A Comprehensive Real-World Dataset
       for Unsupervised Anomaly Detection", CVPR 2019 (per-region overlap, 30 % limit).

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad.metrics import PixelMetrics
    >>> anomaly_map = np.array([[0.1, 0.2], [0.3, 0.9]])
    >>> pixels = PixelMetrics()
    >>> pixels.update(anomaly_map > 0.5, anomaly_map, "lid").compute().pooled.aupro
    1.0
    """

    def __init__(self, n_bins=2**14, *, max_fpr=0.3):
        if not isinstance(n_bins, numbers.Integral) or n_bins < 2:
            raise ValueError(f"n_bins must be an int of at least 2, got {n_bins!r}.")
        if not 0 < max_fpr <= 1:
            raise ValueError(f"max_fpr must be in (0, 1], got {max_fpr!r}.")
        self.n_bins = int(n_bins)
        self.max_fpr = float(max_fpr)
        self._classes = {}

    def update(self, mask, anomaly_map, class_label="all", *, y=None):
        """Add one map.

        Parameters
        ----------
        mask : array of shape (height, width), str, Path or None
            Nonzero where a pixel is defect (bool or integers); a path is read and resized to the
            map by nearest neighbour. None needs `y`: a normal image has no defect pixel (+1), an
            anomaly whose mask is unknown (-1) makes the figures of its class and the pooled ones
            nan, since its pixels are neither.
        anomaly_map : array of shape (height, width)
            Higher = more anomalous.
        class_label : str or int, default="all"
            The product class.
        y : int or str, default=None
            -1 or "-1" for an anomaly, any other label for normal; used where `mask` is None.

        Returns
        -------
        self : PixelMetrics
            This object.

        Raises
        ------
        ValueError
            If shapes differ, the map is not finite, or `mask` is None without `y`.
        """
        where = f"class {class_label!r}"
        if class_label == -1 or str(class_label) == "-1":
            raise ValueError("class_label is -1: give the anomaly's product class.")
        scores = check_map(anomaly_map, where)
        if mask is None and y is None:
            raise ValueError(f"mask ({where}) is None: give y, +1 if the image is normal, else -1.")
        unknown = mask is None and _check_y([y])[0]
        mask = check_mask(mask, scores.shape, where)
        state = self._classes.setdefault(class_label, ClassPixels(self.n_bins))
        state.n_maps += 1
        if unknown:
            state.n_unmasked += 1
            return self
        state.add(scores, mask)
        if state.n_waiting >= _PENDING_PER_CLASS:
            state.flush()
        elif sum(s.n_waiting for s in self._classes.values()) >= _PENDING:
            max(self._classes.values(), key=lambda s: s.n_waiting).flush()
        return self

    def compute(self):
        """Return the figures of all maps so far; more may be added afterwards.

        Returns
        -------
        figures : Bunch
            `per_class` (dict from class to Bunch), `mean` (over classes) and `pooled` (one
            threshold for all), each with floats `auroc`, `ap`, `f1_max` and `aupro`.

        Raises
        ------
        ValueError
            If no map was added.

        Warns
        -----
        UserWarning
            If a class has an anomaly without mask, or only one kind of pixels.
        """
        if not self._classes:
            raise ValueError("no map was added: call update first.")
        per_class, histograms = {}, []
        for name in sorted(self._classes, key=str):
            state = self._classes[name]
            state.flush()
            histogram = state.stream.total()
            histograms.append(histogram)
            per_class[name] = self._figures(histogram, [state], f"class {name!r}")
        pooled = self._figures(merge(histograms), self._classes.values(), "pooled")
        return _summarize(per_class, pooled)

    def _figures(self, histogram, states, name):
        n_maps = sum(state.n_maps for state in states)
        n_unmasked = sum(state.n_unmasked for state in states)
        n_normal, n_anomalous, _ = histogram.weights.sum(axis=1)
        lack = None
        if n_unmasked:
            lack = f"{n_unmasked} of {n_maps} maps belong to anomalies without a mask"
        elif not n_normal or not n_anomalous:
            lack = f"no {'anomalous' if n_normal else 'normal'} pixel in {n_maps} maps"
        if lack:
            _warn_nan(name, lack, _PIXEL_FIGURES)
            return dict.fromkeys(_PIXEL_FIGURES, np.nan)
        return pixel_figures(histogram, self.max_fpr)


def pixel_metrics(masks, maps, class_labels=None, *, y=None, n_bins=2**14, max_fpr=0.3):
    """Figures per pixel: AUROC, AP, F1-max and AUPRO, one map in memory at a time.

    Parameters
    ----------
    masks : iterable of n masks
        Arrays, paths or None, as in `PixelMetrics.update`.
    maps : iterable of n arrays of shape (height, width)
        `anomaly_maps`: higher = more anomalous. Sizes may differ; a generator is read once.
    class_labels : array-like of shape (n,), default=None
        The product class of every map, anomalies included; None is one class, "all".
    y : array-like of shape (n,), default=None
        As in `image_metrics`; needed where a mask is None.
    n_bins, max_fpr
        As in `PixelMetrics`.

    Returns
    -------
    figures : Bunch
        As of `PixelMetrics.compute`.

    Raises
    ------
    ValueError
        If the numbers of masks, maps and labels differ, or as in `PixelMetrics.update`.

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad.metrics import pixel_metrics
    >>> maps = np.array([[[0.1, 0.2], [0.3, 0.4]], [[0.6, 0.7], [0.8, 0.9]]])
    >>> masks = [maps[0] > 0.3, maps[1] > 0.8]
    >>> figures = pixel_metrics(masks, maps, ["lid", "cap"])
    >>> figures.mean.auroc, round(figures.pooled.auroc, 3)
    (1.0, 0.75)
    """
    pixels = PixelMetrics(n_bins, max_fpr=max_fpr)
    given = {"masks": masks, "maps": maps}
    if class_labels is not None:
        given["class_labels"] = np.asarray(class_labels).tolist()
    if y is not None:
        given["y"] = np.asarray(y).tolist()
    absent = object()
    for index, items in enumerate(itertools.zip_longest(*given.values(), fillvalue=absent)):
        short = [name for name, item in zip(given, items, strict=True) if item is absent]
        if short:
            raise ValueError(
                f"{' and '.join(short)} ended after {index} items, the others did not."
            )
        row = dict(zip(given, items, strict=True))
        label = row.get("class_labels", "all")
        try:
            pixels.update(row["masks"], row["maps"], label, y=row.get("y"))
        except ValueError as error:
            raise ValueError(f"item {index} of masks and maps: {error}") from error
    return pixels.compute()
