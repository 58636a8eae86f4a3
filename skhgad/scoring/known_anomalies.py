"""What known anomalies of a class gave at fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..text import printable


class KnownAnomalies(NamedTuple):
    """Whether the known anomalies of a class correct its scores, and why.

    Attributes
    ----------
    class_label : str or int
    n_anomalies : int
        Known anomalies of which this class is inferred.
    gain : float
        What the correction adds to the AUROC of the class, between normals and known anomalies that
        it has not seen: the mean over the anomalies. nan where too few are known.
    standard_error : float
        Of the gain; nan likewise.
    is_kept : bool
        Whether the scores of this class are corrected.
    """

    class_label: str | int
    n_anomalies: int
    gain: float
    standard_error: float
    is_kept: bool


def known_anomalies_text(found: Iterable[KnownAnomalies]) -> str:
    """Say in one sentence a class what its known anomalies gave."""
    return "\n".join(map(_sentence, found))


def _sentence(found: KnownAnomalies) -> str:
    name, n = printable(str(found.class_label)), found.n_anomalies
    start = f"{name}: {n} known anomal{'y' if n == 1 else 'ies'}, "
    if found.gain != found.gain:
        return start + "too few to learn from"
    gain = f"{found.gain:+.3f} of AUROC (standard error {found.standard_error:.3f})"
    verdict = "kept" if found.is_kept else "not kept"
    return start + f"a correction gives {gain} on those it has not seen: {verdict}"
