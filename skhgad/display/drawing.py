"""Drawing that the displays share: axes, styles of classes, lanes of points, ticks, outlines."""

import numpy as np

# Okabe and Ito's palette for the colour-blind, with brown for yellow, which is faint on white.
# There are 8 colours and 7 markers, so that 56 classes have different pairs.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C564B")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GOLDEN_RATIO = 0.6180339887498949


def drawing_library(caller):
    """Import matplotlib; if it is missing, say that `caller` needs it and how to install it."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            f'{caller} needs matplotlib. Install it with: pip install "skhgad[display]"'
        ) from error
    return matplotlib


def new_axes(caller, size, n_rows=1, n_columns=1):
    """Create a figure of `size` inches; return its Axes, an array where there are several."""
    drawing_library(caller)
    from matplotlib import pyplot

    return pyplot.subplots(n_rows, n_columns, figsize=size, layout="compressed")[1]


def class_styles(n_classes):
    """Return a dict with `color` and `marker` for each class; up to 56 of them differ."""
    return [
        {"color": _COLORS[i % len(_COLORS)], "marker": _MARKERS[i % len(_MARKERS)]}
        for i in range(n_classes)
    ]


def draw_lane(ax, values, rows, width, style, label):
    """Draw values as points in their rows, spread over `width` so that they overlap less.

    The spread is a fixed sequence, not random: a picture drawn twice is the same.
    """
    spread = (np.arange(len(values)) * _GOLDEN_RATIO % 1 - 0.5) * width
    return ax.scatter(
        values, rows + spread, s=13, alpha=0.6, linewidths=0, label=label, zorder=2,
        color=style["color"], marker=style["marker"],
    )  # fmt: skip


def symlog_ticks(linear, largest):
    """Return ticks of a symmetric logarithmic axis: three in its linear part, round ones beyond.

    Parameters
    ----------
    linear : float
        The axis is linear from minus this value to this value.
    largest : float
        Largest absolute value.

    Returns
    -------
    list of float
        Ascending.

    Examples
    --------
    >>> symlog_ticks(4.63, 300)
    [-100.0, -20.0, -5.0, 0.0, 5.0, 20.0, 100.0]
    """
    end = float(f"{linear:.0e}")
    decade = int(np.floor(np.log10(end)))
    series = [m * 10.0**k for k in range(decade, decade + 20) for m in (1, 2, 5)]
    positive, largest = [end], max(largest, 2 * end)
    n_decades = np.log10(largest / end)
    # The distance of ticks is a factor of at least 2, and at least a third of the decades shown.
    for tick in series:
        if positive[-1] * max(2.0, 10 ** (n_decades / 3)) <= tick <= largest:
            positive.append(tick)
    return [*(-tick for tick in reversed(positive)), 0.0, *positive]


def draw_outlines(places, anomaly_map, threshold, mask):
    """Draw the threshold's outline in all axes, the mask's in the last, and a legend.

    Parameters
    ----------
    places : list of Axes
    anomaly_map : ndarray of shape (height, width)
    threshold : float or None
    mask : ndarray of shape (height, width), bool, or None

    Returns
    -------
    contours, mask_contours : list of QuadContourSet
        Empty where there is nothing to outline.
    """
    contours, mask_contours, entries = [], [], []
    if threshold is not None and anomaly_map.min() < threshold < anomaly_map.max():
        contours = [_outline(ax, anomaly_map, threshold, "white", "solid") for ax in places]
        entries.append(_legend_entry("threshold", "white", "solid"))
    if mask is not None and mask.any() and not mask.all():
        mask_contours.append(_outline(places[-1], mask.astype(float), 0.5, "#56B4E9", "dashed"))
        entries.append(_legend_entry("true defect", "#56B4E9", "dashed"))
    if entries:
        places[-1].legend(
            handles=entries, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False
        )
    return contours, mask_contours


def _outline(ax, values, level, color, linestyle):
    """Draw a contour on a wider black one, so that it shows on any image."""
    ax.contour(values, levels=[level], colors="black", linewidths=3, alpha=0.7)
    return ax.contour(values, levels=[level], colors=color, linestyles=linestyle, linewidths=1.4)


def _legend_entry(label, color, linestyle):
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3, foreground="black")]
    return Line2D([], [], color=color, linestyle=linestyle, path_effects=halo, label=label)
