"""The picture of the latent space."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..validation import check_anomaly_labels
from .drawing import class_styles, drawing_library, drawn_name, new_axes
from .latent_points import class_gaussianity, latent_centers, latent_points

_MOST_CENTERS = 64  # of a class, drawn


class LatentSpaceDisplay:
    """Latent vectors, class means and centers, in their two leading principal components.

    Create it by `from_estimator`.

    Parameters
    ----------
    points : ndarray of shape (n_points, 2)
    class_labels : ndarray of shape (n_points,)
    is_anomaly : ndarray of shape (n_points,), bool, or None
    classes : ndarray of shape (n_classes,)
    means : ndarray of shape (n_classes, 2)
        Of the classes.
    centers : list of ndarray of shape (n_centers, 2)
        Of the density of each class; none where it has a single one, or more than 64: kernels.
    explained_variance_ratio : ndarray of shape (2,)
    gaussianity : dict, default=None
        From class to :class:`~skhgad.metrics.Gaussianity` of its normal samples, or None. The
        legend shows the standardised statistics.

    Attributes
    ----------
    ax_, figure_, legend_ : Axes, Figure, Legend
    points_ : dict of class to PathCollection
    means_, centers_ : PathCollection
    """

    def __init__(
        self, *, points, class_labels, is_anomaly, classes, means, centers,
        explained_variance_ratio, gaussianity=None,
    ):  # fmt: skip
        self.points = points
        self.class_labels = class_labels
        self.is_anomaly = is_anomaly
        self.classes = classes
        self.means = means
        self.centers = centers
        self.explained_variance_ratio = explained_variance_ratio
        self.gaussianity = gaussianity

    @classmethod
    def from_estimator(
        cls,
        detector,
        X,
        y=None,
        *,
        class_labels=None,
        level=-1,
        n_positions=None,
        random_state=0,
        roi=None,
        ax=None,
        **kwargs,
    ):
        """Map samples to the latent space of one level and draw them; return the display.

        How Gaussian each class is, is told by :func:`~skhgad.metrics.mardia` in the legend and in
        the attribute `gaussianity`: normal samples are whitened as the model claims, each vector by
        a center drawn from its posterior, at 16 random positions of each image. Positions of an
        image depend on each other, so that the standardised statistics of images are too large:
        compare classes and models by them. Use samples that were not fitted on.

        Parameters
        ----------
        detector : HGADDetector
            Fitted.
        X : array-like or images
        y : array-like of shape (n_samples,), default=None
            -1 (or "-1") marks an anomaly, drawn hollow.
        class_labels : array-like of shape (n_samples,), str or int, default=None
            None = inferred.
        level : int, default=-1
            The last is the coarsest.
        n_positions : int, default=None
            Random positions to show of every image; None = the mean over all.
        random_state : int, RandomState or None, default=0
            Of that choice.
        roi : default=None
            Region of interest of images, as in `HGADDetector.score_samples`.
        ax, **kwargs
            As in `plot`.
        """
        drawing_library(cls.__name__)
        from sklearn.decomposition import PCA  # here, because it imports half of scikit-learn

        check_is_fitted(detector)
        latent = latent_points(detector, X, class_labels, level, n_positions, random_state, roi)
        means, centers = latent_centers(detector, level)
        # A kernel is at every training vector: too many to draw.
        centers = [c if 1 < len(c) <= _MOST_CENTERS else c[:0] for c in centers]
        everything = np.concatenate([latent.vectors, means, *centers])
        plane = PCA(min(2, means.shape[1]), random_state=0).fit(everything)
        is_anomaly = None
        if y is not None:
            is_anomaly, n_samples = check_anomaly_labels(y), latent.samples[-1] + 1
            if len(is_anomaly) != n_samples:
                raise ValueError(f"y has {len(is_anomaly)} labels, X {n_samples} samples.")
        gaussianity = class_gaussianity(latent, detector.classes_, is_anomaly)
        display = cls(
            points=_two_columns(plane.transform(latent.vectors)),
            class_labels=detector.classes_[latent.codes],
            is_anomaly=None if is_anomaly is None else is_anomaly[latent.samples],
            classes=detector.classes_,
            means=_two_columns(plane.transform(means)),
            centers=[
                _two_columns(plane.transform(c)) if len(c) else np.empty((0, 2)) for c in centers
            ],
            explained_variance_ratio=_two_columns(plane.explained_variance_ratio_[None])[0],
            gaussianity=gaussianity,
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None):
        """Draw on `ax`, None = new Axes; return the display."""
        from matplotlib.colors import to_rgba
        from matplotlib.patheffects import withStroke

        if ax is None:
            ax = new_axes(type(self).__name__, (7.5, max(5, 1 + 0.25 * len(self.classes))))
        self.ax_, self.figure_, self.points_ = ax, ax.figure, {}
        styles = class_styles(len(self.classes))
        for label, style in zip(self.classes.tolist(), styles, strict=True):
            members = self.class_labels == label
            faces = np.tile(to_rgba(style["color"], 0.5), (members.sum(), 1))
            if self.is_anomaly is not None:
                faces[self.is_anomaly[members], 3] = 0
            self.points_[label] = ax.scatter(
                *self.points[members].T, s=22, marker=style["marker"], facecolors=faces,
                edgecolors=style["color"], linewidths=0.8, label=drawn_name(label),
            )  # fmt: skip
        colors = [style["color"] for style in styles]
        self.centers_ = ax.scatter(
            *np.concatenate(self.centers).T, s=55, marker="+", linewidths=1.5, zorder=3,
            color=np.repeat(colors, [len(c) for c in self.centers]).tolist(),
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
        self.means_ = ax.scatter(
            *self.means.T, s=120, marker="*", color=colors, edgecolors="black", zorder=4
        )
        for axis, share, name in zip(
            (ax.xaxis, ax.yaxis), self.explained_variance_ratio, ("first", "second"), strict=True
        ):
            axis.set_label_text(f"{name} principal component ({100 * share:.0f} % of variance)")
        self.legend_ = self._legend(ax)
        return self

    def _legend(self, ax):
        from matplotlib.lines import Line2D

        grey = {"linestyle": "none", "color": "0.4"}
        handles = [Line2D([], [], marker="*", markersize=12, markeredgecolor="black", **grey)]
        labels = ["class mean"]
        if any(map(len, self.centers)):
            handles.append(Line2D([], [], marker="+", markersize=8, **grey))
            labels.append("center")
        if self.is_anomaly is not None:
            handles.append(Line2D([], [], marker="o", markerfacecolor="none", **grey))
            labels.append("anomaly (hollow)")
        for (label, _), style in zip(
            self.points_.items(), class_styles(len(self.classes)), strict=True
        ):
            handles.append(Line2D([], [], linestyle="none", **style))
            labels.append(f"{drawn_name(label)}{self._statistics(label)}")
        title = "z: skewness, kurtosis" if any((self.gaussianity or {}).values()) else None
        return ax.legend(
            handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False,
            borderaxespad=0, ncols=1 + len(labels) // 25, title=title, title_fontsize="small",
        )  # fmt: skip

    def _statistics(self, label):
        """Return what the legend says of how Gaussian a class is."""
        found = (self.gaussianity or {}).get(label)
        return "" if found is None else f" (z {found.skewness_z:.1f}, {found.kurtosis_z:.1f})"


def _two_columns(values):
    """Append zeros to a single column: a latent space may have one dimension."""
    return np.pad(values, ((0, 0), (0, 2 - values.shape[1])))
