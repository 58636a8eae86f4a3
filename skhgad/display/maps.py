"""The picture of an anomaly map."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..datasets.masks import check_mask
from ..devices import usual_torch
from ..images.source import ImageSource
from ..images.views import ViewSource
from ..scoring.inspection import image_map
from ..scoring.known_share import known_share
from ..validation import check_map
from .drawing import draw_outlines, drawing_library, new_axes
from .heat_maps import HeatScale, heat_colors, luminance

_TOP_HEAT = 0.85  # the colour bar reaches this heat
_LARGER_PART = 0.5  # of the height of the map
_TICK_DISTANCE = 0.09  # in heat, at least


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
        True defect, drawn dashed.
    typical : float, default=None
        Anomaly score up to which there is no colour. None: 0, or, if the threshold is not above 0,
        the map's minimum.
    roi : ndarray of shape (height, width), bool, default=None
        Region of interest, drawn dotted.
    tiles : list of tuple (top, left, height, width), default=None
        Tiles in which the image was seen, drawn as thin lines in the first Axes.
    like_known : ndarray of shape (height, width), bool, default=None
        Where the map is high because the image is like known anomalies, drawn dash-dotted.

    Attributes
    ----------
    axes_ : ndarray of Axes
        Image, heat map and outlines; or the one Axes given.
    figure_, heat_map_, colorbar_ : Figure, AxesImage, Colorbar
    contours_, mask_contours_ : list of QuadContourSet
        Empty if the map does not cross the threshold, or without a mask.

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

    def __init__(
        self,
        *,
        image,
        anomaly_map,
        threshold=None,
        mask=None,
        typical=None,
        roi=None,
        tiles=None,
        like_known=None,
    ):
        self.image = image
        self.anomaly_map = anomaly_map
        self.threshold = threshold
        self.mask = mask
        self.typical = typical
        self.roi = roi
        self.tiles = tiles
        self.like_known = like_known

    @classmethod
    def from_estimator(
        cls, detector, X, *, class_labels=None, mask=None, roi=None, ax=None, **kwargs
    ):
        """Compute the anomaly map of one image and draw it; return the display.

        Parameters
        ----------
        detector : HGADDetector
            Fitted on images.
        X : images
            Exactly one: ``[path]``, or ``images[i : i + 1]``.
        class_labels : array-like of shape (1,), str or int, default=None
            None = inferred.
        mask : path or array-like of shape (height, width), default=None
            True defect.
        roi : default=None
            Region of interest, as in `HGADDetector.score_samples`; its outline is drawn, and the
            tiles of a detector that has some. If known anomalies correct the class, an outline
            shows where they are the larger part of what lies above the threshold.
        ax, **kwargs
            As in `plot`.
        """
        drawing_library(cls.__name__)
        check_is_fitted(detector)
        fitted = detector.model_
        source = ImageSource(X, value_range=fitted.value_range, n_channels=fitted.n_channels)
        if len(source) != 1:
            raise ValueError(f"X holds {len(source)} images; pass one, e.g. X[:1] or [path].")
        found = detector.inspect(X, class_labels=class_labels, maps=True, roi=roi)
        (anomaly_map,), (label,) = found.maps, found.class_label.tolist()
        typical, threshold = HeatScale.of(detector, label)
        region, tiles = parts_seen(detector, source, label, roi)
        like_known = _like_known(detector, source, label, roi)
        if like_known is not None:
            like_known &= anomaly_map > threshold
        return cls.from_predictions(
            source.read(0),
            anomaly_map,
            threshold=threshold,
            mask=mask,
            typical=typical,
            roi=region,
            tiles=tiles,
            like_known=like_known,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        image,
        anomaly_map,
        *,
        threshold=None,
        mask=None,
        typical=None,
        roi=None,
        tiles=None,
        like_known=None,
        ax=None,
        **kwargs,
    ):
        """Draw an anomaly map that is computed already; return the display.

        Parameters
        ----------
        image : path, PIL image or array of shape (height, width[, 3])
            8-bit, or float in [0, 1].
        anomaly_map : array-like of shape (height, width)
        threshold, typical, roi, tiles, like_known
            As of the class.
        mask, ax, **kwargs
            As in `from_estimator`.
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
        if roi is not None:
            roi = check_mask(roi, anomaly_map.shape, "roi of the image")
        if like_known is not None:
            like_known = check_mask(like_known, anomaly_map.shape, "like_known of the image")
        display = cls(
            image=pixels,
            anomaly_map=anomaly_map,
            threshold=threshold,
            mask=mask,
            typical=typical,
            roi=roi,
            tiles=tiles,
            like_known=like_known,
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, *, cmap=None, vmin=None, vmax=None):
        """Draw; return the display.

        Parameters
        ----------
        ax : Axes or array of three Axes, default=None
            One takes everything laid over the image; three take image, heat map and outlines;
            None = three in a new figure.
        cmap : str or Colormap, default=None
            None: the heat colours of ``python -m skhgad score --maps`` over the grey image, alike
            in all pictures of a detector: blue below the threshold, yellow from there on, red far
            above. Without a threshold, None means "inferno". It and any other colour map is spread
            evenly from `vmin` to `vmax`.
        vmin, vmax : float, default=None
            Scores at the ends of the colour bar. None: from `typical` (for heat colours) or the
            map's minimum to its maximum, and at least as far above the threshold as below.
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
        else:
            plain, heated, outlined = self.axes_
            for axes in (plain, outlined):
                _show(axes, self.image)
            plain.set_title("image")
            heated.set_title("anomaly map")
            outlined.set_title(self._verdict())
        if cmap is None and self.threshold is not None:
            self._draw_heat(heated, vmin, vmax)
        else:
            self._draw_map(heated, cmap or "inferno", vmin, vmax, overlaid)
        self.contours_, self.mask_contours_ = draw_outlines(
            [outlined] if overlaid else [heated, outlined],
            self.anomaly_map,
            self.threshold,
            self.mask,
            self.roi,
            self.like_known,
        )
        if self.tiles:
            _draw_tiles(self.axes_[0], self.tiles)
        for axes in self.axes_:
            axes.set(xticks=[], yticks=[])
        return self

    def _draw_heat(self, axes, vmin, vmax):
        from matplotlib.colors import FuncNorm, ListedColormap

        scale = self._heat_scale()
        vmin = scale.typical if vmin is None else vmin
        if vmax is None:
            vmax = max(float(self.anomaly_map.max()), float(scale.score(_TOP_HEAT)))
        colors = heat_colors(np.linspace(*scale.heat([vmin, vmax]), 1024))
        colors[..., :3] /= 255
        _show(axes, luminance(self.image) / 255)
        self.heat_map_ = axes.imshow(
            self.anomaly_map,
            cmap=ListedColormap(colors),
            norm=FuncNorm((scale.heat, scale.score), vmin, vmax),
        )
        self._draw_colorbar(axes, vmin, vmax)
        ticks = _heat_ticks(scale, vmin, vmax)
        self.colorbar_.set_ticks(ticks, labels=[_round(tick, scale) for tick in ticks])
        self.colorbar_.minorticks_off()
        self.colorbar_.ax.set_facecolor("0.5")  # the colours are transparent

    def _draw_map(self, axes, cmap, vmin, vmax, overlaid):
        """Draw the grey image below the map if nothing else shows it."""
        vmin = float(self.anomaly_map.min()) if vmin is None else vmin
        if vmax is None:
            vmax = float(self.anomaly_map.max())
            if self.threshold is not None:
                vmax = max(vmax, 2 * self.threshold - vmin)
        if overlaid:
            _show(axes, luminance(self.image) / 255)
        self.heat_map_ = axes.imshow(
            self.anomaly_map, cmap=cmap, vmin=vmin, vmax=vmax, alpha=0.55 if overlaid else None
        )
        self._draw_colorbar(axes, vmin, vmax)

    def _draw_colorbar(self, axes, vmin, vmax):
        self.colorbar_ = self.figure_.colorbar(self.heat_map_, ax=axes, shrink=0.9)
        self.colorbar_.set_label("anomaly score")
        if self.threshold is not None and vmin < self.threshold < vmax:
            self.colorbar_.ax.axhline(self.threshold, color="white", linewidth=3)
            self.colorbar_.ax.axhline(self.threshold, color="black", linewidth=1)

    def _heat_scale(self):
        typical = self.typical
        if typical is None:
            typical = 0.0 if self.threshold > 0 else float(self.anomaly_map.min())
        if typical >= self.threshold:
            typical = self.threshold - 1.0
        return HeatScale(typical, self.threshold)

    def _verdict(self):
        if self.threshold is None:
            return "image"
        above = self.anomaly_map > self.threshold
        if above.all():
            return "all above threshold"
        return "above threshold" if above.any() else "below threshold"


@usual_torch()
def parts_seen(detector, source, label, roi):
    """Return region of interest and tiles of one image, each None where there is none.

    `label` is the class that was inferred or given, `roi` as in `HGADDetector.score_samples`.
    """
    fitted = detector.model_
    codes = np.flatnonzero(fitted.classes == label)
    codes = codes if len(codes) else None  # of an image of no known class
    seen, _ = fitted.seen(detector.feature_reader(), source, codes, roi)
    if not isinstance(seen, ViewSource):
        return None, None
    layout = seen.layout(0)
    tiles = [(*corner, *layout.tile) for corner in layout.corners] if seen.is_tiled else None
    return seen.mask(0), tiles


@usual_torch()
def _like_known(detector, source, label, roi):
    """Return where known anomalies are the larger part of the map of one image, or None."""
    fitted = detector.model_
    codes = np.flatnonzero(fitted.classes == label)
    if not len(fitted.model.defect_terms) or not len(codes):
        return None
    (batch,) = fitted.scored_batches(detector.feature_reader(), source, codes, roi)
    share = known_share(fitted.model, batch)
    if share is None:
        return None
    return image_map(batch._replace(maps=share), 0) > _LARGER_PART


def _draw_tiles(axes, tiles):
    from matplotlib.collections import PolyCollection

    corners = [
        [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
        for top, left, height, width in tiles
    ]
    outlines = PolyCollection(
        np.array(corners) - 0.5, facecolors="none", edgecolors="#56B4E9", linewidths=0.5
    )
    axes.add_collection(outlines, autolim=False)


def _heat_ticks(scale, vmin, vmax):
    """Return the lower end, the threshold, and round scores above."""
    ticks = [vmin]
    if vmin < scale.threshold < vmax:
        ticks.append(scale.threshold)
    exponent = int(np.floor(np.log10(vmax))) if vmax > 0 else 0
    for number in (m * 10.0**k for k in range(exponent - 8, exponent + 1) for m in (1, 2, 5)):
        if ticks[-1] < number <= vmax:
            if scale.heat(number) - scale.heat(ticks[-1]) >= _TICK_DISTANCE:
                ticks.append(number)
    return ticks


def _round(score, scale):
    span = scale.threshold - scale.typical
    decimals = max(0, 1 - int(np.floor(np.log10(span))))
    return f"{round(float(score), decimals) + 0.0:g}"


def _show(axes, image):
    axes.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
