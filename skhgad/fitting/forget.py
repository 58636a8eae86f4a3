"""A class leaves a fitted detector."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..scoring.appearances import same_regions
from ..scoring.calibration import Calibration, threshold_after
from ..validation import check_known_label

if TYPE_CHECKING:
    from ..scoring.fitted import FittedModel


def forget(detector: Any, labels: Any) -> dict[str, Any]:
    """Return the fitted attributes without some classes; see `HGADDetector.forget`.

    The detector itself does not change.
    """
    fitted: FittedModel = detector.model_
    codes = forgotten_codes(labels, fitted.classes)
    kept = np.setdiff1d(np.arange(len(fitted.classes)), codes)
    places = np.full(len(fitted.classes), -1)
    places[kept] = np.arange(len(kept))
    calibration = _calibration_of(fitted.calibration, kept, places)
    vectors = fitted.kept
    if vectors is not None:
        vectors = vectors.without(codes).recoded(places)
    model = fitted.model.without(torch.from_numpy(codes))
    classes = fitted.classes[kept]
    changed = replace(
        fitted,
        model=model,
        calibration=calibration,
        classes=classes,
        roi=None if fitted.roi is None else fitted.roi.of_classes(kept.tolist()),
        kept=vectors,
        least_sides=None if fitted.least_sides is None else fitted.least_sides[kept],
    )
    changed.appearances = None
    if fitted.appearances is not None and same_regions(fitted.roi, changed.roi):
        changed.appearances = fitted.appearances.without(codes).recoded(places)
    return {
        "model_": changed,
        "classes_": classes,
        "offset_": threshold_after(detector, calibration),
        "known_anomalies_": _verdicts_of(detector, classes),
        "class_offsets_": {
            label: offset
            for label, offset in detector.class_offsets_.items()
            if label in classes.tolist()
        },
    }


def _verdicts_of(detector: Any, classes: NDArray[Any]) -> list[Any] | None:
    """Return what known anomalies gave at fit, of the classes that stay."""
    verdicts = getattr(detector, "known_anomalies_", None)
    if verdicts is None:
        return None
    return [found for found in verdicts if found.class_label in classes.tolist()]


def forgotten_codes(labels: Any, classes: NDArray[Any]) -> NDArray[np.int64]:
    """Return the codes of one label or several, sorted; at least one class must stay."""
    if isinstance(labels, str) or np.ndim(labels) == 0:
        labels = [labels]
    known = [check_known_label(label, classes, "forget") for label in np.asarray(labels).tolist()]
    if not known:
        raise ValueError("forget needs the label of a class, or several.")
    codes = np.unique(np.searchsorted(classes, known))
    if len(codes) == len(classes):
        raise ValueError(
            f"forget names all classes of the detector, {classes.tolist()[:10]}: at least one must "
            "stay."
        )
    return codes


def _calibration_of(
    before: Calibration, kept: NDArray[np.int64], places: NDArray[np.int64]
) -> Calibration:
    """Return the calibration samples of the classes that stay.

    One that was taken for a class that leaves is now taken for its own.
    """
    rows = np.isin(before.codes, kept)
    found = Calibration(*(values[rows] for values in before))
    if not rows.any():
        raise ValueError(
            "forget would leave no calibration sample: the other classes have none of their own. "
            "Add normal samples to them by update first."
        )
    is_right = np.isin(found.inferred, kept)
    return found._replace(
        codes=places[found.codes],
        inferred=places[np.where(is_right, found.inferred, found.codes)],
        scores=np.where(is_right, found.scores, found.given_scores),
    )
