"""Products that a detector hardly ever flags, or flags far too often."""

import numpy as np

from ..scoring.calibration import FALSE_ALARM_RATE, threshold
from ..scoring.thresholds import class_scores

_FEW_FLAGGED = 0.1  # of the anomalies of a product
_MANY_FLAGGED = 3  # times the expected share of its normals
_FEWEST_FALSE_ALARMS = 2  # a single one says nothing


def expected_false_alarm_rate(detector):
    """Return the share of normal images that a detector should flag by its present threshold.

    It is what ``contamination="auto"`` promises; where `offset_` was chosen otherwise, what the
    calibration samples say of it.
    """
    fitted, offset = detector.model_, detector.offset_
    scores = fitted.calibration.scores
    if fitted.parameters["contamination"] == "auto" and offset == threshold(scores):
        return FALSE_ALARM_RATE
    return float((1 + np.sum(scores < offset)) / (1 + len(scores)))


def expected_own_rates(detector):
    """Return the same for the classes with a threshold of their own, a dict from str."""
    fitted, rates = detector.model_, {}
    for label, offset in detector.class_offsets_.items():
        scores = class_scores(fitted, label)
        rates[str(label)] = float((1 + np.sum(scores < offset)) / (1 + len(scores)))
    return rates


def product_warnings(is_anomaly, is_flagged, class_labels, expected_rate, own_rates=None):
    """Find the products with few anomalies flagged, or too many normals.

    Parameters
    ----------
    is_anomaly, is_flagged : ndarray of shape (n_images,), bool
    class_labels : ndarray of shape (n_images,)
    expected_rate : float
        Share of normal images that should be flagged.
    own_rates : dict of str to float, default=None
        The same for classes with a threshold of their own.

    Returns
    -------
    list of dict
        `class`; `kind`, "few anomalies flagged" or "many normals flagged"; `n_flagged` of
        `n_images` such images of the class; and `text`, a sentence about it and what to do.
    """
    found = []

    def add(name, kind, flagged, text):
        counts = {"n_flagged": int(flagged.sum()), "n_images": len(flagged)}
        shares = {**counts, "share": f"{100 * flagged.mean():.3g} %", "name": name}
        found.append({"class": name, "kind": kind, **counts, "text": text.format(**shares)})

    for label in np.unique(class_labels):
        inside, name = class_labels == label, str(label)
        anomalies, normals = is_flagged[inside & is_anomaly], is_flagged[inside & ~is_anomaly]
        if len(anomalies) and anomalies.mean() < _FEW_FLAGGED:
            add(name, "few anomalies flagged", anomalies, _FEW_TEXT)
        too_many = normals.sum() >= _FEWEST_FALSE_ALARMS
        expected = (own_rates or {}).get(name, expected_rate)
        if too_many and normals.mean() > _MANY_FLAGGED * expected:
            text = _MANY_TEXT.replace("{expected}", f"{100 * expected:.3g} %")
            add(name, "many normals flagged", normals, text)
    return found


_FEW_TEXT = (
    "{name}: {n_flagged} of {n_images} anomalies are flagged ({share}). If it misses few "
    "at 5 or 10 % false alarms, choose such a rate: --false-alarm-rate, or set_threshold. If it "
    "misses many there, too, these defects look normal to it: fit on larger images (image_size)."
)
_MANY_TEXT = (
    "{name}: {n_flagged} of {n_images} normal images are flagged ({share}), where about {expected} "
    "were expected. Fit the model on more normal images of this product, taken like these: light, "
    "camera, position."
)
