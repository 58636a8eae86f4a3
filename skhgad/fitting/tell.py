"""What a fit decided: for callbacks, and in words for ``verbose=1``."""

from dataclasses import dataclass

import numpy as np

from ..scoring.known_anomalies import known_anomalies_text
from ..text import printable

_MOST = 20  # classes that are named


@dataclass(frozen=True)
class Decisions:
    """What a fit decided.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
    codes : ndarray of shape (n_samples,)
        Class of each normal sample.
    spared : ndarray of shape (n_groups, n_samples), bool
        The groups that a model did not see.
    n_anomalies : int
        Samples labelled -1.
    n_unclean : int
        Samples that were given as normal and left out, see `fitting.unclean`.
    n_passes : int
        Of training.
    keeps_flow : bool
        Whether a flow that was trained scores.
    """

    classes: np.ndarray
    codes: np.ndarray
    spared: np.ndarray
    n_anomalies: int
    n_unclean: int
    n_passes: int
    keeps_flow: bool

    @property
    def n_normals(self):
        """Normal samples of each class, ndarray of int."""
        return np.bincount(self.codes, minlength=len(self.classes))

    @property
    def n_held_out(self):
        """Of these, those that a model did not see, ndarray of int."""
        return np.bincount(self.codes[self.spared.any(axis=0)], minlength=len(self.classes))

    def info(self):
        """Return the fields of `FitInfo` that are known before the detector is fitted, as dict."""
        labels = self.classes.tolist()
        return {
            "n_normals": dict(zip(labels, self.n_normals.tolist(), strict=True)),
            "n_held_out": dict(zip(labels, self.n_held_out.tolist(), strict=True)),
            "n_anomalies": self.n_anomalies,
            "n_passes": self.n_passes,
            "keeps_flow": self.keeps_flow,
        }

    def text(self, max_iter, model, known=None):
        """Return the decisions in words, a line each.

        Parameters
        ----------
        max_iter : int or "auto"
            Of the detector.
        model : FittedModel
        known : list of KnownAnomalies, default=None

        Returns
        -------
        str
        """
        sizes = self.n_normals
        lines = [
            f"{len(self.codes)} normal samples of "
            f"{_count(len(sizes), 'class', 'classes')}: {_each(self.classes, sizes)}",
            _training(max_iter, self.n_passes, self.keeps_flow),
            _centers(model.n_components, self.classes, sizes),
            self._held_out(),
            *_levels(model.level_weights, self.classes),
        ]
        if self.n_unclean:
            lines.append(
                f"{_count(self.n_unclean, 'sample', 'samples')} that look most anomalous take no "
                "part in the fit, because contamination is a number"
            )
        if known is not None:
            lines += known_anomalies_text(known).split("\n")
        return "\n".join(f"skhgad: {line}" for line in lines)

    def _held_out(self):
        if not self.spared.any():
            return "no sample is held out: training samples calibrate, which promises nothing"
        counts = _each(self.classes, self.n_held_out)
        if len(self.spared) > 1:
            return (
                f"{len(self.spared)} models, each fitted without one part of the samples, judge "
                f"these for the calibration: {counts}"
            )
        return f"held out of the training, for the calibration: {counts}"


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


def _levels(weights, classes):
    """Say what the levels count, in a list of one line, or of none where they count alike."""
    is_weighed = (weights != 1).any(axis=0)
    if not is_weighed.any():
        return []
    texts = [" / ".join(f"{weight:.1f}" for weight in own) for own in weights.T[is_weighed]]
    return [f"weights of the levels in a score: {_each(classes[is_weighed], texts)}"]


def _each(classes, values):
    """Write a value for each class, such as "bolt 12, nut 30"."""
    texts = [f"{printable(k)} {value}" for k, value in zip(classes, values, strict=True)]
    more = f" and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return ", ".join(texts[:_MOST]) + more


def _count(n, one, many):
    return f"1 {one}" if n == 1 else f"{n} {many}"
