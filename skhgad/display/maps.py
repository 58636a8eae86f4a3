"""The picture of one image's anomaly map."""

import numpy as np

from ..datasets.masks import check_mask
from ..images.source import ImageSource
from ..validation import check_map
from .drawing import draw_outlines, drawing_library, light_grey, new_axes


class AnomalyMapDisplay:
    """Where one image is anomalous: the image, its heat map, and the outlines over the image.

    Create it by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    image : ndarray of shape (height, width) or (height, width, 3)
        uint8, or float in [0, 1].
    anomaly_map : ndarray of shape (height, width)
        Higher = more anomalous.
    threshold : float, default=None
        Anomaly score from which an image is flagged, ``-offset_``; drawn as a contour.
    mask : ndarray of shape (height, width), bool, default=None
        True defect, drawn as a dashed outline.

    Attributes
    ----------
    axes_ : ndarray of Axes
        Of the image, the heat map and the outlines; or the one Axes given.
    figure_ : Figure
    heat_map_ : AxesImage
    colorbar_ : Colorbar
    contours_ : list of QuadContourSet
        Of the threshold, where the map crosses it.
    mask_contours_ : list of QuadContourSet

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad.display import AnomalyMapDisplay
    >>> anomaly_map = np.zeros((8, 8))
    >>> anomaly_map[2:4, 2:4] = 7
    >>> display = AnomalyMapDisplay.from_predictions(
    ...     np.full((8, 8), 128, dtype=np.uint8), anomaly_map, threshold=3
    ... )
    >>> [ax.get_title() for ax in display.axes_]
    ['image', 'anomaly map', 'above threshold']
    """

    def __init__(self, *, image, anomaly_map, threshold=None, mask=None):
        self.image = image
        self.anomaly_map = anomaly_map
        self.threshold = threshold
        self.mask = mask

    @classmethod
    def from_estimator(cls, detector, X, *, class_labels=None, mask=None, ax=None, **kwargs):
        """Compute the anomaly map of one image and draw it.

        Parameters
        ----------
        detector : HGADDetector
            Fitted on images.
        X : images
            Exactly one, as the detector takes them: ``[path]``, or ``images[i : i + 1]``.
        class_labels : array-like of shape (1,), str or int, default=None
            Product class, where known.
        mask : path or array-like of shape (height, width), default=None
            The true defect.
        ax : Axes or array of three Axes, default=None
        **kwargs
            For `plot`.

        Returns
        -------
        AnomalyMapDisplay
        """
        drawing_library(cls.__name__)
        source = ImageSource(X, value_range=detector.value_range)
        if len(source) != 1:
            raise ValueError(f"X holds {len(source)} images; pass one, e.g. X[:1] or [path].")
        (anomaly_map,) = detector.anomaly_maps(X, class_labels=class_labels)
        return cls.from_predictions(
            source.read(0), anomaly_map, threshold=-detector.offset_, mask=mask, ax=ax, **kwargs
        )

    @classmethod
    def from_predictions(cls, image, anomaly_map, *, threshold=None, mask=None, ax=None, **kwargs):
        """Draw an anomaly map that is at hand.

        Parameters
        ----------
        image : path, PIL image or array of shape (height, width[, 3])
            8-bit, or float in [0, 1].
        anomaly_map : array-like of shape (height, width)
        threshold, mask, ax, **kwargs
            As in `from_estimator` and `plot`.

        Returns
        -------
        AnomalyMapDisplay
        """
        drawing_library(cls.__name__)
        pixels = ImageSource([image]).read(0)
        anomaly_map = check_map(anomaly_map, "of the image")
        if pixels.shape[:2] != anomaly_map.shape:
            raise ValueError(
                f"the image is of size {pixels.shape[:2]}, its anomaly_map of {anomaly_map.shape}."
            )
        if mask is not None:
            mask = check_mask(mask, anomaly_map.shape, "of the image")
        display = cls(image=pixels, anomaly_map=anomaly_map, threshold=threshold, mask=mask)
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, *, cmap="inferno", vmin=None, vmax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes or array of three Axes, default=None
            One takes everything laid over the image; three take image, heat map and outlines;
            None = three in a new figure.
        cmap : str or Colormap, default="inferno"
        vmin, vmax : float, default=None
            Ends of the colours, in units of the score. None: from the map's minimum to its
            maximum, or as far above the threshold as the minimum is below, if that is more, so
            that a normal image does not glow.

        Returns
        -------
        self
        """
        if ax is None:
            width = 2.9 * self.anomaly_map.shape[1] / self.anomaly_map.shape[0]
            ax = new_axes(type(self).__name__, (3 * min(max(width, 1.5), 6) + 1.2, 3.5), 1, 3)
        self.axes_ = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(self.axes_) not in (1, 3):
            raise ValueError(f"ax must be one Axes or three, got {len(self.axes_)}.")
        self.figure_ = self.axes_[0].figure
        overlaid = len(self.axes_) == 1
        if overlaid:
            (heated,) = (outlined,) = self.axes_
            _show(heated, light_grey(self.image))
        else:
            plain, heated, outlined = self.axes_
            for axes in (plain, outlined):
                _show(axes, self.image)
            plain.set_title("image")
            heated.set_title("anomaly map")
            outlined.set_title(self._finding())
        vmin, vmax = self._limits(vmin, vmax)
        self.heat_map_ = heated.imshow(
            self.anomaly_map, cmap=cmap, vmin=vmin, vmax=vmax, alpha=0.55 if overlaid else None
        )
        self.colorbar_ = self.figure_.colorbar(self.heat_map_, ax=heated, shrink=0.9)
        self.colorbar_.set_label("anomaly score")
        if self.threshold is not None and vmin < self.threshold < vmax:
            self.colorbar_.ax.axhline(self.threshold, color="white", linewidth=3)
            self.colorbar_.ax.axhline(self.threshold, color="black", linewidth=1)
        self.contours_, self.mask_contours_ = draw_outlines(
            [outlined] if overlaid else [heated, outlined],
            self.anomaly_map,
            self.threshold,
            self.mask,
        )
        for axes in self.axes_:
            axes.set(xticks=[], yticks=[])
        return self

    def _limits(self, vmin, vmax):
        """Fill in the ends of the colours."""
        vmin = float(self.anomaly_map.min()) if vmin is None else vmin
        if vmax is None:
            vmax = float(self.anomaly_map.max())
            if self.threshold is not None:
                vmax = max(vmax, 2 * self.threshold - vmin)
        return vmin, vmax

    def _finding(self):
        """Title of the outlines."""
        if self.threshold is None:
            return "image"
        above = self.anomaly_map > self.threshold
        if above.all():
            return "all above threshold"
        return "above threshold" if above.any() else "below threshold"


def _show(axes, image):
    axes.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
