"""The callbacks of a fit: who is told what, and what happens if one of them raises."""

import time
import warnings

from ..callbacks.events import FitInfo, as_callbacks
from ..scoring.certificate import CONFIDENCE
from .processes import ALONE


class Listeners:
    """The callbacks of one fit, a context manager around it.

    Each callback that was told of the start is told once of the end: `on_fit_end`, or
    `on_fit_error` where an exception leaves the context first. In a group of processes the first
    one tells its callbacks; all others must call the same methods, and raise where it raises.

    `fit_detector` sets `decisions`, which hold what `FitInfo` tells beside the fitted detector.
    """

    def __init__(self):
        self._started = time.perf_counter()
        self._processes = ALONE
        self.decisions = None
        self._open = []  # the callbacks that were told of the start and not yet of the end

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            for callback in self._open:
                _tell_of_error(callback, error)
        self._open = []

    def start(self, detector, processes):
        """Tell of the start, when parameters and data are known to be valid."""
        self._processes = processes
        with processes.agree():
            if processes.is_first:
                for callback in as_callbacks(detector.callbacks):
                    self._open.append(callback)
                    _tell(callback, "on_fit_start", detector)

    def before(self, on_pass=None):
        """Return a function of (PassInfo, levels) that tells of a pass and then calls `on_pass`."""

        def after_pass(info, levels):
            with self._processes.agree():
                for callback in self._open:
                    _tell(callback, "on_pass_end", info)
            if on_pass is not None:
                on_pass(info, levels)

        return after_pass

    def end(self, detector):
        """Tell of the end of the fit; `detector` is fitted."""
        with self._processes.agree():
            if self._open:
                info = self._fit_info(detector)
            while self._open:
                _tell(self._open[0], "on_fit_end", detector, info)
                del self._open[0]

    def _fit_info(self, detector):
        return FitInfo(
            n_components=detector.n_components_,
            threshold=float(detector.offset_),
            certificate=detector.certificate(CONFIDENCE),
            known_anomalies=detector.known_anomalies_,
            seconds=time.perf_counter() - self._started,
            **self.decisions.info(),
        )


def _tell(callback, method, *arguments):
    """Call a method of a callback, if it has this method."""
    found = getattr(callback, method, None)
    if found is not None:
        found(*arguments)


def _tell_of_error(callback, error):
    try:
        _tell(callback, "on_fit_error", error)
    except Exception as second:
        warnings.warn(
            f"on_fit_error of {type(callback).__name__} raised {type(second).__name__}: {second}",
            RuntimeWarning,
            stacklevel=4,
        )
