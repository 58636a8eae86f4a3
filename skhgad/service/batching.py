"""One thread that scores what many requests wait for, as many images at a time as there are."""

import os
import queue
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple

from ..images.picture_error import PictureError
from ..monitor import DriftMonitor
from ..report.findings import Finding
from ..report.verdicts import verdict_record
from ..validation import label_of_text

_LARGEST_BATCH = 32
_IDLE = 1.0  # seconds between two looks at the model's folder
_SAVE_EVERY = 30.0  # seconds between two writes of the drift's state


class Verdict(NamedTuple):
    """The answer to one image: its record, and its anomaly map if asked for, with its scale."""

    record: dict
    anomaly_map: object
    detector: object


class _Waiting(NamedTuple):
    name: str
    pixels: object
    product: object
    wants_map: bool
    future: Future


class Overloaded(Exception):
    """Too many images wait."""


class Batcher:
    """Scores images in a thread of its own, in the order in which they came.

    Parameters
    ----------
    model : HeldModel
    max_waiting : int
        Images that may wait; more raise `Overloaded`.
    figures : Figures
        Counts what is done.
    drift : dict
        Parameters of `DriftMonitor`.
    drift_state : path, default=None
        File in which the state of the monitor lives on.

    Attributes
    ----------
    monitor : DriftMonitor
        Of the images whose product was inferred.
    """

    def __init__(self, model, max_waiting, figures, *, drift, drift_state=None, warn=print):
        self.model = model
        self.figures = figures
        self._drift = drift
        self._drift_state = drift_state
        self._saved = time.monotonic()
        self._warn = warn
        self._queue = queue.Queue(max_waiting)
        self._ended = threading.Event()
        self.monitor = self._first_monitor()
        self._thread = threading.Thread(target=self._run, name="skhgad-scoring", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self):
        """Images that wait."""
        return self._queue.qsize()

    @property
    def is_alive(self):
        """Whether the thread works."""
        return self._thread.is_alive() and not self._ended.is_set()

    def submit(self, images, product=None, *, wants_maps=False):
        """Let images be scored; return a Future of a Verdict for each.

        `images` is a list of (name, pixels), pixels as `ImageSource.read` gives them. `product` is
        the class of all, as text; None = inferred. A Future raises PictureError if its image cannot
        be judged, such as one of another size than the region of interest, or of a product that
        the model does not know.
        """
        futures = []
        for name, pixels in images:
            waiting = _Waiting(name, pixels, product, wants_maps, Future())
            try:
                self._queue.put_nowait(waiting)
            except queue.Full:
                for future in futures:
                    future.cancel()
                raise Overloaded from None
            futures.append(waiting.future)
        return futures

    def end(self):
        """Score what waits, write the state of the drift and end the thread."""
        self._ended.set()
        self._thread.join()
        self._save(now=True)

    def _run(self):
        while True:
            batch = self._next_batch()
            if not batch:
                if self._ended.is_set():
                    return
                self._refresh()
                continue
            self._refresh()
            for given in (False, True):
                chosen = [one for one in batch if (one.product is not None) == given]
                if chosen:
                    self._score(chosen, given)
            self._save()

    def _next_batch(self):
        """Wait for an image; return it and those that wait behind it."""
        batch = []
        with suppress(queue.Empty):
            batch.append(self._queue.get(timeout=0.05 if self._ended.is_set() else _IDLE))
            while len(batch) < _LARGEST_BATCH:
                batch.append(self._queue.get_nowait())
        # From here on nobody can cancel them.
        return [one for one in batch if one.future.set_running_or_notify_cancel()]

    def _score(self, batch, given):
        start, detector = time.perf_counter(), self.model.detector
        try:
            images = detector.model_.observed([one.pixels for one in batch])
            explanations = detector.explain(
                images,
                class_labels=[self._label(one, detector) for one in batch] if given else None,
                maps=any(one.wants_map for one in batch),
            )
            verdicts = [
                self._verdict(one, found, detector)
                for one, found in zip(batch, explanations, strict=True)
            ]
            if not given:
                self.monitor.update_scores(
                    [found.score for found in explanations],
                    [found.class_label for found in explanations],
                    images.appearance,
                )
        except Exception as error:  # the thread must live on
            if len(batch) > 1:  # whose fault is it?
                for one in batch:
                    self._score([one], given)
                return
            if isinstance(error, PictureError):
                error = PictureError(str(error).replace("X[0]", batch[0].name))
            batch[0].future.set_exception(error)
            return
        self.figures.scored(verdicts, time.perf_counter() - start)
        for one, verdict in zip(batch, verdicts, strict=True):
            one.future.set_result(verdict)

    @staticmethod
    def _label(one, detector):
        """Return the class that is written as the product was when its request came.

        The model of that time knew it; one that was read since then may not.
        """
        try:
            return label_of_text(one.product, detector.classes_, "product")
        except ValueError as error:
            raise PictureError(str(error)) from None

    @staticmethod
    def _verdict(one, found, detector):
        finding = Finding(one.name, *found[:4], found.anomaly_map, found)
        return Verdict(verdict_record(finding, detector), found.anomaly_map, detector)

    def _refresh(self):
        if self.model.refresh():
            self.figures.n_reloads += 1
            self.monitor = DriftMonitor(self.model.detector, **self._drift)

    def _first_monitor(self):
        if self._drift_state is not None:
            try:
                monitor = DriftMonitor.load(self._drift_state, self.model.detector)
                for name in ("false_alarm_probability", "burn_in"):
                    setattr(monitor, name, self._drift.get(name, getattr(monitor, name)))
                return monitor
            except FileNotFoundError:
                pass
            except ValueError as error:
                kept = f"{self._drift_state}.unusable"
                os.replace(self._drift_state, kept)
                self._warn(f"{error} It is now {kept!r}, and drift is watched from now on.")
        return DriftMonitor(self.model.detector, **self._drift)

    def _save(self, *, now=False):
        if self._drift_state is None:
            return
        if now or time.monotonic() - self._saved > _SAVE_EVERY:
            self._saved = time.monotonic()
            try:
                self.monitor.save(self._drift_state)
            except OSError as error:
                self._warn(f"the state of the drift cannot be written: {error}")
