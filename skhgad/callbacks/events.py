"""What callbacks are told of a fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..parameters import callback_methods
from .pass_info import PassInfo

if TYPE_CHECKING:
    from ..scoring.certificate import ClassCertificate
    from ..scoring.known_anomalies import KnownAnomalies


class FitInfo(NamedTuple):
    """What a callback is told at the end of a fit.

    Attributes
    ----------
    n_normals : dict of label to int
        Normal samples of each class, in the order of `classes_`.
    n_held_out : dict of label to int
        Of these, those judged by a model that did not see them: the calibration samples.
    n_anomalies : int
        Samples labelled -1.
    n_components : ndarray of shape (n_levels, n_classes), int64
        Centers of each class in each level.
    n_passes : int
        Of training; 0 = the closed form.
    keeps_flow : bool
        Whether a trained flow scores. False where none was trained, or it was dropped.
    threshold : float
        `offset_`: a sample that scores lower is an anomaly.
    certificate : list of ClassCertificate
        For each class, the false-alarm rate that the threshold does not exceed with 95 %
        confidence.
    known_anomalies : list of KnownAnomalies, or None
        `known_anomalies_`: what the samples labelled -1 gave.
    seconds : float
        From the call of `fit` to its end, without the time of callbacks that are told of the end.
    """

    n_normals: Mapping[str | int, int]
    n_held_out: Mapping[str | int, int]
    n_anomalies: int
    n_components: NDArray[np.int64]
    n_passes: int
    keeps_flow: bool
    threshold: float
    certificate: list[ClassCertificate]
    known_anomalies: list[KnownAnomalies] | None
    seconds: float


class Callback:
    """Base class of callbacks: override the methods that should do something.

    `HGADDetector` takes any object that has one of these methods, derived from this class or not.
    """

    def on_fit_start(self, detector: Any) -> None:
        """Do something before features are computed.

        Parameters
        ----------
        detector : HGADDetector
            Not fitted yet, or still as the fit before left it. Parameters and data are valid; a
            fit that refuses them tells nobody.
        """

    def on_pass_end(self, info: PassInfo) -> None:
        """Do something after each pass of the training. A fit in closed form has none.

        Parameters
        ----------
        info : PassInfo
        """

    def on_fit_end(self, detector: Any, info: FitInfo) -> None:
        """Do something with the fitted detector.

        Parameters
        ----------
        detector : HGADDetector
            Fitted. It may be saved and may score.
        info : FitInfo
        """

    def on_fit_error(self, error: BaseException) -> None:
        """Do something when a fit ends without `on_fit_end`, such as closing files.

        An exception in here becomes a warning, because `fit` raises `error`.

        Parameters
        ----------
        error : BaseException
            What `fit` raises, KeyboardInterrupt among others.
        """


class _OfFunction(Callback):
    """Calls a function with each PassInfo, and with the FitInfo."""

    def __init__(self, function: Callable[[PassInfo | FitInfo], Any]) -> None:
        self.function = function

    def on_pass_end(self, info: PassInfo) -> None:
        self.function(info)

    def on_fit_end(self, detector: Any, info: FitInfo) -> None:
        self.function(info)


def as_callbacks(callbacks: Any) -> list[Any]:
    """Return the value of the parameter `callbacks` as a list of objects with methods."""
    if callbacks is None:
        return []
    several = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return [one if callback_methods(one) else _OfFunction(one) for one in several]
