"""The picture of the training."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..fitting.training import TERMS
from .drawing import class_styles, drawing_library, new_axes

_COLOR = "#0072B2"
_TITLES = {
    "loss": "loss",
    "learning_rate": "learning rate",
    "inter_class": "inter-class loss",
    "mutual_information": "mutual information (maximised)",
    "entropy": "posterior entropy",
    "intra_class": "intra-class loss",
    "likelihood_margin": "likelihood margin",
}


class TrainingCurveDisplay:
    """The loss and its terms over the passes of a fit; create it by `from_estimator`.

    Parameters
    ----------
    history : list of dict
        As ``detector.history_``.

    Attributes
    ----------
    axes_ : ndarray of Axes
    figure_ : Figure
    lines_ : dict of str to Line2D
    """

    def __init__(self, *, history):
        self.history = history

    @classmethod
    def from_estimator(cls, detector, *, ax=None, **kwargs):
        """Draw the history of a detector; return the display.

        Parameters
        ----------
        detector : HGADDetector
            Fitted, with at least one pass.
        ax, **kwargs
            As in `plot`.
        """
        drawing_library(cls.__name__)
        check_is_fitted(detector)
        return cls(history=detector.history_).plot(ax, **kwargs)

    def plot(self, ax=None, *, terms=("loss", *TERMS), yscale="linear"):
        """Draw; return the display.

        Parameters
        ----------
        ax : Axes or array of Axes, default=None
            One takes all terms; several take one each, in order. None = new axes for each term,
            because their magnitudes differ.
        terms : sequence of str
            Keys of the history. The axes of a term never computed stay empty.
        yscale : {"linear", "log"}, default="linear"
            "log" is symmetric about zero for a term that has negative values.
        """
        if not self.history:
            raise ValueError(
                "there is no curve, because the detector was fitted in closed form, without a pass "
                "of training: set max_iter to a number of passes."
            )
        unknown = [term for term in terms if term not in self.history[0]]
        if unknown or not len(terms):
            raise ValueError(f"terms must be of {list(self.history[0])}, got {list(terms)}.")
        if yscale not in ("linear", "log"):
            raise ValueError(f"yscale must be 'linear' or 'log', got {yscale!r}.")
        if ax is None:
            n_columns = min(3, len(terms))
            n_rows = -(-len(terms) // n_columns)
            ax = new_axes(type(self).__name__, (3.2 * n_columns, 2.4 * n_rows), n_rows, n_columns)
            for spare in np.ravel(ax)[len(terms) :]:
                spare.remove()
            ax = np.ravel(ax)[: len(terms)]
        self.axes_ = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(self.axes_) not in (1, len(terms)):
            raise ValueError(f"ax must be one Axes or {len(terms)}, got {len(self.axes_)}.")
        self.figure_, self.lines_ = self.axes_[0].figure, {}
        passes = np.arange(1, len(self.history) + 1)
        together = len(self.axes_) < len(terms)
        styles = class_styles(len(terms))
        for index, (term, style) in enumerate(zip(terms, styles, strict=True)):
            axes = self.axes_[0 if together else index]
            values = np.array([record[term] for record in self.history])
            title = _TITLES.get(term, term)
            line_style = style if together else {"color": _COLOR, "marker": "o"}
            (self.lines_[term],) = axes.plot(
                passes, values, markersize=4, linewidth=1.5, label=title, **line_style
            )
            if not together:
                axes.set_title(title, fontsize="medium")
        for axes in self.axes_:
            _finish_curve(axes, yscale)
        if together and len(terms) > 1:
            self.axes_[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        return self


def _finish_curve(axes, yscale):
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("pass")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(alpha=0.3)
    if yscale == "log":
        values = np.concatenate([line.get_ydata() for line in axes.lines])
        finite = values[np.isfinite(values)]
        if len(finite) and (finite > 0).all():
            axes.set_yscale("log")
        elif finite.any():
            axes.set_yscale("symlog", linthresh=np.abs(finite).max() / 10)
