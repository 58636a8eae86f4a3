"""The picture of the scores."""

import numpy as np

from ..validation import check_anomaly_labels, check_groups, check_score_values
from .drawing import draw_lane, drawing_library, drawn_name, new_axes, symlog_ticks

_NORMAL = {"color": "#0072B2", "marker": "o"}
_ANOMALY = {"color": "#D55E00", "marker": "^"}
_UNKNOWN = {"color": "#555555", "marker": "o"}


class ScoreDistributionDisplay:
    """Scores of normal samples and anomalies, class by class, with the threshold.

    Create it by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        Higher = more normal.
    is_anomaly : ndarray of shape (n_samples,), bool, or None
        None = not known.
    class_labels : ndarray of shape (n_samples,), str
    offset : float, default=None
        Threshold; lower scores are flagged.
    class_offsets : dict of str to float, default=None
        Classes with a threshold of their own.

    Attributes
    ----------
    ax_, figure_, legend_ : Axes, Figure, Legend
    points_ : dict of str to PathCollection
        Of "normal" and "anomaly", or "sample" if not known.
    threshold_line_ : Line2D or None
        Broken into one piece a class where some have a threshold of their own.
    """

    def __init__(self, *, scores, is_anomaly, class_labels, offset=None, class_offsets=None):
        self.scores = scores
        self.is_anomaly = is_anomaly
        self.class_labels = class_labels
        self.offset = offset
        self.class_offsets = class_offsets

    @classmethod
    def from_estimator(cls, detector, X, y=None, *, class_labels=None, ax=None, **kwargs):
        """Score samples and draw the scores; return the display.

        Parameters
        ----------
        detector : HGADDetector
            Fitted.
        X : array-like or images
        y : array-like of shape (n_samples,), default=None
            -1 (or "-1") marks an anomaly; anything else is normal. None = not known.
        class_labels : array-like of shape (n_samples,), str or int, default=None
            None = inferred.
        ax, **kwargs
            As in `plot`.
        """
        drawing_library(cls.__name__)
        inspection = detector.inspect(X, class_labels=class_labels)
        return cls.from_predictions(
            y,
            inspection.score,
            inspection.class_label,
            offset=detector.offset_,
            class_offsets=detector.class_offsets_,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls, y, scores, class_labels=None, *, offset=None, class_offsets=None, ax=None, **kwargs
    ):
        """Draw scores that are computed already; return the display.

        Parameters
        ----------
        y : array-like of shape (n_samples,) or None
        scores : array-like of shape (n_samples,)
        class_labels : array-like of shape (n_samples,), default=None
            None = one row, "all".
        offset : float, default=None
        class_offsets : dict of label to float, default=None
            Classes with a threshold of their own.
        ax, **kwargs
            As in `plot`.
        """
        drawing_library(cls.__name__)
        is_anomaly = None if y is None else check_anomaly_labels(y)
        scores = check_score_values(scores, len(scores) if y is None else len(is_anomaly))
        labels = np.array([str(k) for k in check_groups(class_labels, len(scores))])
        display = cls(
            scores=scores,
            is_anomaly=is_anomaly,
            class_labels=labels,
            offset=offset,
            class_offsets={str(label): own for label, own in (class_offsets or {}).items()},
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, *, xscale="symlog"):
        """Draw; return the display.

        Parameters
        ----------
        ax : Axes, default=None
        xscale : {"symlog", "linear"}, default="symlog"
            "symlog" is linear from zero to twice the threshold and logarithmic beyond, because
            defects reach a thousand times the threshold.
        """
        if xscale not in ("symlog", "linear"):
            raise ValueError(f"xscale must be 'symlog' or 'linear', got {xscale!r}.")
        classes = np.unique(self.class_labels)
        if ax is None:
            ax = new_axes(type(self).__name__, (7, 1.4 + 0.36 * len(classes)))
        self.ax_, self.figure_ = ax, ax.figure
        everything = np.ones(len(self.scores), dtype=bool)
        # By name: which samples, their style, the lane's shift and width.
        lanes = {"sample": (everything, _UNKNOWN, 0.0, 0.7)}
        if self.is_anomaly is not None:
            lanes = {
                "normal": (~self.is_anomaly, _NORMAL, -0.21, 0.36),
                "anomaly": (self.is_anomaly, _ANOMALY, 0.21, 0.36),
            }
        rows = np.searchsorted(classes, self.class_labels)
        self.points_ = {
            name: draw_lane(ax, self.scores[chosen], rows[chosen] + shift, width, style, name)
            for name, (chosen, style, shift, width) in lanes.items()
        }
        self.threshold_line_ = None
        if self.offset is not None:
            self.threshold_line_ = self._draw_threshold(ax, classes)
        for row in range(0, len(classes), 2):
            ax.axhspan(row - 0.5, row + 0.5, color="0.95", zorder=0)
        linear, largest = max(1.0, 2 * abs(self.offset or 0.0)), np.abs(self.scores).max()
        if xscale == "symlog":
            if largest > linear:
                ax.set_xscale("symlog", linthresh=linear, linscale=1.5)
                ticks = symlog_ticks(linear, largest)
                ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                ax.minorticks_off()
            ax.set_xlim(*_limits(self.scores, self.offset or 0.0, linear))
        ax.set_yticks(range(len(classes)), [drawn_name(name) for name in classes])
        ax.set_ylim(len(classes) - 0.5, -0.5)
        ax.set_xlabel("score (higher = more normal)")
        self.legend_ = ax.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False
        )
        return self

    def _draw_threshold(self, ax, classes):
        style = {"color": "black", "linewidth": 1, "linestyle": "--"}
        own = [(self.class_offsets or {}).get(name, self.offset) for name in classes]
        if set(own) <= {self.offset}:
            return ax.axvline(self.offset, label=f"threshold {self.offset:.3g}", **style)
        x = [value for offset in own for value in (offset, offset, np.nan)]
        y = [value for row in range(len(own)) for value in (row - 0.5, row + 0.5, np.nan)]
        return ax.plot(x, y, label="threshold of the class", **style)[0]


def _limits(scores, offset, linear):
    low, high = min(scores.min(), -linear), max(scores.max(), offset, 0.0)
    return min(1.25 * low, low - 0.1 * linear), max(1.25 * high, high + 0.15 * linear)
