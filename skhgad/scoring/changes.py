"""What a change of a fitted detector did to each class: a table of before and after."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..text import printable
from .certificate import CONFIDENCE, certify
from .thresholds import class_scores, offsets_by_code

if TYPE_CHECKING:
    from .fitted import FittedModel


class ClassChange(NamedTuple):
    """The calibration of one class before and after `update` or `forget`.

    Where the class was not yet or is no longer there, the number of normals is 0 and all else nan.

    Attributes
    ----------
    class_label : str or int
    n_normals_before, n_normals_after : int
        Calibration samples of which this class is inferred, as in `ClassCertificate`.
    rate_before, rate_after : float
        Share of them that the threshold flags.
    bound_before, bound_after : float
        The false-alarm rate that the threshold does not exceed, with 95 % confidence.
    offset_before, offset_after : float
        The threshold of the class.
    mean_score_before, mean_score_after : float
        Of these normals.
    """

    class_label: str | int
    n_normals_before: int
    n_normals_after: int
    rate_before: float
    rate_after: float
    bound_before: float
    bound_after: float
    offset_before: float
    offset_after: float
    mean_score_before: float
    mean_score_after: float


class ClassState(NamedTuple):
    """What `ClassChange` compares, of one class at one time."""

    n_normals: int = 0
    rate: float = math.nan
    bound: float = math.nan
    offset: float = math.nan
    mean_score: float = math.nan


def class_states(
    fitted: FittedModel, offset: float, class_offsets: dict[Any, float]
) -> dict[Any, ClassState]:
    """Return the ClassState of each class of a fitted model, by label."""
    offsets = offsets_by_code(offset, class_offsets, fitted.classes)
    states = {}
    for found, own in zip(certify(fitted, offsets, CONFIDENCE), offsets, strict=True):
        scores = class_scores(fitted, found.class_label)
        mean = float(np.mean(scores)) if len(scores) else math.nan
        states[found.class_label] = ClassState(
            found.n_normals, found.rate, found.bound, float(own), mean
        )
    return states


def class_changes(before: dict[Any, ClassState], after: dict[Any, ClassState]) -> list[ClassChange]:
    """Compare two results of `class_states`, class by class, in sorted order."""
    changes = []
    for label in sorted({**before, **after}):
        old, new = before.get(label, ClassState()), after.get(label, ClassState())
        parts = {f"{name}_before": value for name, value in old._asdict().items()}
        parts |= {f"{name}_after": value for name, value in new._asdict().items()}
        changes.append(ClassChange(label, **parts))
    return changes


def changes_text(changes: list[ClassChange]) -> str:
    """Write changes as a table for a terminal."""
    rows = [("class", "normals", "flagged", "at most", "threshold", "mean score")]
    for c in changes:
        rows.append(
            (
                printable(c.class_label),
                _pair(c.n_normals_before, c.n_normals_after, "d"),
                _pair(c.rate_before, c.rate_after, ".1%"),
                _pair(c.bound_before, c.bound_after, ".1%"),
                _pair(c.offset_before, c.offset_after, ".3f"),
                _pair(c.mean_score_before, c.mean_score_after, ".3f"),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _pair(before: float, after: float, form: str) -> str:
    texts = ("-" if math.isnan(value) else format(value, form) for value in (before, after))
    return " -> ".join(texts)
