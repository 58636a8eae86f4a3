"""A model card: what a fitted detector is, in Markdown, for people who take it over."""

import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from ..parameters import parameters_now
from ..scoring.certificate import CONFIDENCE, bound_text, certify
from ..scoring.thresholds import offset_of, offsets_by_code
from ..text import markdown_cell, markdown_table
from ..version import installed_version

CARD_MARK = "<!-- model card of skhgad -->"
_PACKAGES = ("torch", "timm", "scikit-learn", "numpy", "Pillow")
_LONGEST_VALUE = 80  # characters
_LIMITS = """\
- It compares with the normal samples of the fit. Other light, another camera or a new lot may be
  flagged, or hide defects: watch for drift (`skhgad.monitor.DriftMonitor`).
- A defect that its features do not show is not found, however plain it is to people. Measure it
  on labelled samples of the line: `skhgad evaluate`.
- The threshold is chosen for false alarms, by normal samples alone. It promises nothing about the
  share of defects that is found.
- The bounds of false alarms hold for each product by itself, and for normal samples like those of
  the fit."""


def model_card(detector):
    """Return the card of a fitted detector as a callable that takes the hash of the model file.

    Parameters
    ----------
    detector : HGADDetector

    Returns
    -------
    callable
        Returns the Markdown text, a str.
    """
    sections = [
        ("Products", _products(detector)),
        ("False alarms", _certificate(detector)),
        ("Settings that differ from the defaults", _settings(detector)),
        ("Limits", _LIMITS),
        ("Versions", _versions()),
        ("Licences", _licences(detector)),
    ]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
    about = _about(detector)

    def card(sha256):
        head = f"{CARD_MARK}\n# Anomaly detector\n\n{about}\n\nHash of the model: `{sha256}`."
        return f"{head}\n\n{body}\n"

    return card


def _about(detector):
    fitted = detector.model_
    kind = "feature vectors"
    if fitted.takes_images:
        height, width = fitted.image_size
        kind = f"images, resized to {height} x {width} pixels"
    n_products = len(fitted.classes)
    products = "1 product" if n_products == 1 else f"{n_products} products"
    return (
        f"`skhgad.HGADDetector`, version {installed_version()}, for {kind}, of {products}. "
        f"A sample is an anomaly if its score is below the threshold, {detector.offset_:.6g} where "
        "the table below names no other."
    )


def _products(detector):
    calibration, classes = detector.model_.calibration, detector.classes_.tolist()
    counts = np.bincount(calibration.codes, minlength=len(classes)).tolist()
    rows = [
        [markdown_cell(label), str(count), f"{offset_of(detector, label):.6g}"]
        for label, count in zip(classes, counts, strict=True)
    ]
    return markdown_table(["product", "calibrating normal samples", "threshold"], rows)


def _certificate(detector):
    offsets = offsets_by_code(detector.offset_, detector.class_offsets_, detector.classes_)
    rows = [
        [
            markdown_cell(found.class_label),
            str(found.n_normals),
            str(found.n_flagged),
            bound_text(found),
        ]
        for found in certify(detector.model_, offsets, CONFIDENCE)
    ]
    bound = f"false alarms, with {100 * CONFIDENCE:g} % confidence"
    return markdown_table(["product", "normals taken for it", "of these flagged", bound], rows)


def _settings(detector):
    defaults = type(detector)().get_params(deep=False)
    rows = []
    for name, value in parameters_now(detector).items():
        text = repr(value)
        if text != repr(defaults.get(name)):
            short = text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
            rows.append([f"`{name}`", markdown_cell(short)])
    return markdown_table(["parameter", "value"], rows) if rows else "None."


def _versions():
    rows = [["Python", platform.python_version()], ["skhgad", installed_version()]]
    for name in _PACKAGES:
        try:
            rows.append([name, version(name)])
        except PackageNotFoundError:
            continue
    return markdown_table(["package", "version"], rows)


def _licences(detector):
    parameters = detector.model_.parameters
    backbone, weights = parameters["backbone"], parameters["weights"]
    code = "skhgad: BSD-3-Clause."
    if not detector.model_.takes_images:
        return code
    name = markdown_cell(backbone) if isinstance(backbone, str) else None
    if name is None:
        own = "The backbone is a module of the user's, and so are its terms."
    elif weights is None:
        own = f"The weights of the backbone {name} are random numbers."
    elif weights != "auto":
        own = f"The weights of the backbone {name} come from a file of the user's, as its terms do."
    elif backbone == "tf_efficientnet_lite0":
        own = f"The weights of the backbone {name}: Apache-2.0."
    else:
        own = (
            f"The weights of the backbone {name} come from timm's hub; its page says their "
            f"licence: https://huggingface.co/timm/{name}."
        )
    return (
        f"{code} {own} The model also holds statistics of the samples of the fit, whose terms are "
        "not known here."
    )
