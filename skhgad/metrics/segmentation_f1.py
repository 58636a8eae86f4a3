"""The pixel F1 of MVTec AD 2, at a threshold that validation normals set."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from ..validation import check_map, marks_anomaly
from .per_image import summarize, warn_undefined
from .per_pixel import check_map_and_mask

__all__ = ["SegF1Metrics"]

_FIGURES = ("f1", "precision", "recall")


class SegF1Metrics:
    """Pixel F1 at the mean plus three standard deviations of validation normals.

    The threshold of a class is the mean plus `n_std` standard deviations of all pixels of the
    anomaly maps of its validation normals; no anomaly is needed to set it. A pixel is found where
    its score is above. F1 is of all pixels of the class together. Sums are kept, no map.

    Parameters
    ----------
    n_std : float, default=3.0
        Standard deviations above the mean.

    See Also
    --------
    PixelMetrics : `f1_max`, at the best threshold for the test data.

    References
    ----------
    .. [1] Heckler-Kram, Neudeck, Scheler, König and Steger, "The MVTec AD 2 Dataset: Advanced
       Scenarios for Unsupervised Anomaly Detection", arXiv:2503.21622, 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad.metrics import SegF1Metrics
    >>> pixels = SegF1Metrics().update_validation(np.array([[0.0, 2.0], [0.0, 2.0]]))
    >>> mask, anomaly_map = np.array([[1, 1, 0, 0]]), np.array([[9, 3, 5, 1]])
    >>> pixels.update(mask, anomaly_map).compute().pooled.f1  # above 4: one right, one wrong
    0.5
    >>> pixels.thresholds
    {'all': 4.0}
    """

    def __init__(self, *, n_std: float = 3.0) -> None:
        if not np.isfinite(n_std):
            raise ValueError(f"n_std must be a finite number, got {n_std!r}.")
        self.n_std = float(n_std)
        self._moments: dict[str | int, _Moments] = {}
        self._counts: dict[str | int, _Counts] = {}

    @property
    def thresholds(self) -> dict[str | int, float]:
        """Threshold of each class with validation maps."""
        return {label: moments.above(self.n_std) for label, moments in self._moments.items()}

    @property
    def pooled_threshold(self) -> float:
        """Threshold of all classes together, from all their validation pixels."""
        return _total(self._moments.values()).above(self.n_std)

    def update_validation(
        self, anomaly_map: ArrayLike, class_label: str | int = "all"
    ) -> SegF1Metrics:
        """Add the map of a validation normal; all of them come before the test maps.

        Parameters
        ----------
        anomaly_map : array of shape (height, width)
            Higher = more anomalous.
        class_label : str or int, default="all"
            The product class.

        Returns
        -------
        self : SegF1Metrics
            This object.

        Raises
        ------
        ValueError
            If the map is not finite, or a test map was added before.
        """
        if marks_anomaly(class_label):
            raise ValueError("class_label is -1: validation images are normal, give their class.")
        if self._counts:
            raise ValueError("update_validation comes after update: add validation maps first.")
        scores = check_map(anomaly_map, f"class {class_label!r}")
        added = [_Moments.of(scores)]
        if class_label in self._moments:
            added.append(self._moments[class_label])
        self._moments[class_label] = _total(added)
        return self

    def update(
        self,
        mask: ArrayLike | os.PathLike[str] | None,
        anomaly_map: ArrayLike,
        class_label: str | int = "all",
        *,
        y: str | int | None = None,
    ) -> SegF1Metrics:
        """Add one test map.

        Parameters
        ----------
        mask, anomaly_map, class_label, y
            As in `PixelMetrics.update`.

        Returns
        -------
        self : SegF1Metrics
            This object.

        Raises
        ------
        ValueError
            As in `PixelMetrics.update`; also if the class has no validation map.
        """
        if class_label not in self._moments and not marks_anomaly(class_label):
            raise ValueError(f"class {class_label!r} has no validation map: no threshold.")
        scores, defect = check_map_and_mask(mask, anomaly_map, class_label, y)
        counts = self._counts.setdefault(class_label, _Counts())
        if defect is None:
            counts.n_unmasked += 1
            return self
        own, pooled = self._moments[class_label].above(self.n_std), self.pooled_threshold
        counts.own += _confusion(scores > own, defect)
        counts.pooled += _confusion(scores > pooled, defect)
        return self

    def compute(self) -> Bunch:
        """Return the figures of all maps so far; more may follow.

        Returns
        -------
        figures : Bunch
            `per_class` (dict from class to Bunch), `mean` (over classes) and `pooled` (one
            threshold for all). Each has the floats `f1`, `precision` and `recall`.

        Raises
        ------
        ValueError
            If no test map was added.

        Warns
        -----
        UserWarning
            If a class has an anomaly without a mask, or no anomalous pixel; its figures are nan.
        """
        if not self._counts:
            raise ValueError("no test map was added: call update first.")
        per_class = {
            label: _figures(counts.own, counts.n_unmasked, f"class {label!r}")
            for label, counts in sorted(self._counts.items(), key=lambda item: str(item[0]))
        }
        counts = self._counts.values()
        total = np.sum([c.pooled for c in counts], axis=0)
        pooled = _figures(total, sum(c.n_unmasked for c in counts), "pooled")
        return summarize(per_class, pooled)


class _Moments(NamedTuple):
    """Number, mean and sum of squared deviations of pixels."""

    n: int
    mean: float
    squares: float

    @classmethod
    def of(cls, scores: NDArray[np.floating]) -> _Moments:
        values = scores.astype(np.float64).ravel()
        mean = float(values.mean())
        return cls(len(values), mean, float(np.sum((values - mean) ** 2)))

    def above(self, n_std: float) -> float:
        """Return the mean plus `n_std` standard deviations."""
        return self.mean + n_std * float(np.sqrt(self.squares / self.n))


def _total(parts: Iterable[_Moments]) -> _Moments:
    """Return the moments of all pixels together (Chan, Golub and LeVeque, 1983)."""
    n, means, squares = (np.array(column) for column in zip(*parts, strict=True))
    mean = float(np.average(means, weights=n))
    return _Moments(int(n.sum()), mean, float(squares.sum() + np.sum(n * (means - mean) ** 2)))


class _Counts:
    """Test pixels of a class: right, wrong and missed ones at its own and the pooled threshold."""

    def __init__(self) -> None:
        self.own, self.pooled = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
        self.n_unmasked = 0


def _confusion(found: NDArray[np.bool_], defect: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the numbers of true positives, false positives and false negatives."""
    n_true = np.count_nonzero(found & defect)
    return np.array([n_true, np.count_nonzero(found) - n_true, np.count_nonzero(defect) - n_true])


def _figures(counts: NDArray[np.int64], n_unmasked: int, name: str) -> dict[str, float]:
    true, false, missed = counts.tolist()
    reason = None
    if n_unmasked:
        reason = f"{n_unmasked} maps belong to anomalies without a mask"
    elif not true + missed:
        reason = "no anomalous pixel"
    if reason:
        warn_undefined(name, reason, _FIGURES)
        return dict.fromkeys(_FIGURES, np.nan)
    return {
        "f1": 2 * true / (2 * true + false + missed),
        "precision": true / (true + false) if true + false else 0.0,
        "recall": true / (true + missed),
    }
