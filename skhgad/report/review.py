"""A page on which people decide: is this picture good, or a defect."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ..display.heat_maps import HeatScale, overlay
from ..images.source import ImageSource
from ..scoring.thresholds import offset_of
from .data_uris import jpeg_uri, reduced
from .template import filled_template
from .verdicts import verdict_record

MARK = "<!doctype html><!-- review of skhgad -->"  # tells such a page from others
_SIDE = 320  # pixels, the longest


class Question(NamedTuple):
    """A picture to decide on; the URIs are of the picture and of its heat map."""

    record: dict
    picture_uri: str
    map_uri: str


def order_to_ask(scores, thresholds, n):
    """Return which pictures to ask about, and in which order.

    Those nearest the threshold and the most surprising ones, in turn.

    Parameters
    ----------
    scores, thresholds : array-like of shape (n_images,)
    n : int
        At most.

    Returns
    -------
    list of int
    """
    scores, thresholds = np.asarray(scores), np.asarray(thresholds)
    nearest = np.argsort(np.abs(scores - thresholds), kind="stable").tolist()
    lowest = np.argsort(scores - thresholds, kind="stable").tolist()
    both = (index for pair in zip(nearest, lowest, strict=True) for index in pair)
    return list(dict.fromkeys(both))[:n]


def ask(finding, detector):
    """Return the Question about a Finding with map and explanation."""
    pixels = ImageSource([finding.path], value_range=detector.model_.value_range).read(0)
    scale = HeatScale.of(detector, finding.class_label)
    heat = overlay(pixels, scale.heat(finding.anomaly_map))
    return Question(verdict_record(finding, detector), _uri(pixels), _uri(heat))


def thresholds_of(detector, findings):
    """Return the threshold of each Finding."""
    return [offset_of(detector, finding.class_label) for finding in findings]


def render_review(questions, *, source, model, products, n_images):
    """Return the page, a str; `products` are the classes of the model, as text."""
    return MARK + filled_template(
        "review.html",
        ["page.css", "review.css"],
        "review.js",
        questions=questions,
        source=source,
        model=model,
        products=products,
        n_images=n_images,
    )


def _uri(pixels):
    return jpeg_uri(reduced(pixels, _SIDE, Image.Resampling.BICUBIC), quality=85)
