"""The one form in which commands and the service write what is said of an image, for JSON."""

from ..scoring.thresholds import offset_of
from .findings import Unreadable

FIELDS = (
    "path", "class", "score", "threshold", "p_value", "verdict", "reason", "area", "regions",
    "peak", "peak_position", "level", "term", "error",
)  # fmt: skip


def verdict_record(finding, detector):
    """Return what is known of an image as a dict for JSON, with the keys `FIELDS`.

    Parameters
    ----------
    finding : Finding with an explanation, or Unreadable
    detector : HGADDetector

    Returns
    -------
    dict
        "class": the product. "verdict": "anomaly", "normal" or "error". "reason": one sentence.
        "area": the share of the image above the threshold. "regions": the connected parts above it,
        as `Region.to_dict` gives them. Of an image that cannot be read, "error" says why, and all
        but "path" and "verdict" are None.
    """
    record = dict.fromkeys(FIELDS)
    if isinstance(finding, Unreadable):
        return {**record, "path": finding.path, "verdict": "error", "error": finding.error}
    explanation = finding.explanation
    threshold = offset_of(detector, explanation.class_label)
    record.update(
        {
            "path": finding.path,
            "class": explanation.class_label,
            "score": explanation.score,
            "threshold": threshold,
            "p_value": explanation.p_value,
            "verdict": finding.verdict,
            "reason": reason(explanation, threshold),
            "area": explanation.area,
            "regions": [region.to_dict() for region in explanation.regions],
            "peak": explanation.peak,
            "peak_position": list(explanation.peak_position),
            "level": explanation.level,
            "term": explanation.term,
        }
    )
    return record


def reason(explanation, threshold):
    """Say in one sentence why an image has its verdict."""
    side = "below" if explanation.is_anomaly else "not below"
    return (
        f"The score {explanation.score:.4g} is {side} the threshold {threshold:.4g}; the image "
        f"{cause(explanation)}, and {_regions_text(explanation)}."
    )


def cause(explanation):
    """Continue a sentence about an image: where it is most unusual, and why."""
    if explanation.term == "blank":
        return "is blank: it has far less contrast than any normal of this product"
    row, column = explanation.peak_position
    return f"is most unusual at row {row}, column {column}, where {_evidence(explanation)}"


def _evidence(explanation):
    if explanation.term == "entropy":
        return "it is unclear which product this is"
    if explanation.term == "known anomalies":
        return (
            f"features of level {explanation.level} are like those of known anomalies of this "
            "product"
        )
    return f"features of level {explanation.level} are unlikely for this product"


def _regions_text(explanation):
    regions = explanation.regions
    if not regions:
        return "no region lies above the threshold"
    noun = "1 region lies" if len(regions) == 1 else f"{len(regions)} regions lie"
    return f"{noun} above the threshold ({explanation.area:.1%} of the image)"
