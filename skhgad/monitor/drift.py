"""DriftMonitor: whether the samples of today score like those of the fit."""

from __future__ import annotations

import hashlib
import json
import math
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from ..images.appearance import STATISTICS
from ..storage.files import whole_file
from ..validation import check_rate, check_scored_X
from .martingale import DIRECTIONS
from .saved_values import restore_generator, saved_count, saved_number, saved_points
from .streams import StatisticStream

FORMAT = "skhgad-drift"
VERSION = 2
ALL = "all products"
SCORE = "score"
_LARGEST_REFERENCE = 20_000  # scores of a product
_LARGEST_OF_APPEARANCE = 5_000  # pictures of a product
_LONGEST_HISTORY = 20_000


class Alarm(NamedTuple):
    """When and where the evidence of drift became too large to be chance.

    Attributes
    ----------
    n_seen : int
        Samples that the monitor had seen.
    product : str or int
        The product whose evidence was largest; "all products" where theirs together was.
    direction : {"lower", "higher", "wider", "narrower"}
        How they have changed. Lower scores: less normal. Higher scores: smoother than normal.
    evidence : float
        At that moment, at least ``1 / false_alarm_probability``.
    statistic : {"score", "brightness", "contrast", "sharpness"}
        What has changed most: the scores, or how the pictures look.
    """

    n_seen: int
    product: str | int
    direction: str
    evidence: float
    statistic: str = SCORE

    @property
    def text(self) -> str:
        """In one sentence without a full stop: what has changed."""
        what = "the scores" if self.statistic == SCORE else f"the {self.statistic} of pictures"
        verb = "are" if self.statistic == SCORE else "is"
        changed = {
            "wider": "more often very low or very high",
            "narrower": "less often very low or very high",
        }.get(self.direction, self.direction)
        return f"{what} of {self.product} {verb} {changed} than at the fit"


class DriftMonitor:
    """Tells whether the samples of a stream still are like the normal samples of the fit.

    Each score is ranked among the calibration scores of its product and all earlier scores of the
    stream. Without drift the ranks are independent and uniform. A conformal test martingale bets
    against that, for each product and for all together; what it wins is the evidence of drift.

    Of pictures, `brightness`, `contrast` and `sharpness` are watched in the same way, because a
    detector may hardly feel a change of light that its backbone was trained to overlook.

    Parameters
    ----------
    detector : HGADDetector
        Fitted. After `fit`, `update`, `add_class` or `forget` its scores are others: that takes a
        new monitor. `set_threshold` changes nothing here.
    false_alarm_probability : float in (0, 1), default=0.01
        Of ever raising an alarm over the whole stream, however long, without drift.
    defect_rate : float in [0, 1), default=0.03
        Share of defects in the stream that is no drift. The promise holds with so many.
    burn_in : int, default=0
        The first samples of each product only join those that later ones are compared with. For a
        line whose pictures differ a little from those of the fit from the first day.
    classes_given : bool, default=False
        Whether the products of all samples will be given, not inferred.
    random_state : int or None, default=0
        Puts equal scores in random order. None: another order in each monitor.

    Attributes
    ----------
    evidence_ : float
        How many times its capital a fair player would have now, having bet on drift; 1 at the
        start. An alarm is raised at ``1 / false_alarm_probability``.
    alarm_ : Alarm or None
        The first alarm. It stays; make a new monitor when its cause is mended.
    product_evidence_ : dict of label to float
        The evidence of each product, and of "all products" where there are several.
    n_seen_ : int
        Samples so far.
    n_unknown_ : int
        Those of them that were taken for no product, see `unknown_rate` of the detector. They are
        compared with nothing.
    history_ : ndarray of shape (n_points, 2)
        Samples seen, and the decimal logarithm of the evidence then. At most 20,000 points: a
        longer stream keeps every second, then every fourth.

    Notes
    -----
    The promise: without drift, at most the share `false_alarm_probability` of all monitors ever
    raises an alarm. It needs scores that are exchangeable: samples in random order from one source,
    and calibration scores like them. Cross-fitted and held-out calibration scores are close to
    that; where fresh normals score a little differently, use `burn_in`. Defects may come beside
    them, with low scores, at `defect_rate`, but not in long runs.

    What it cannot see: a drift so slow that each picture looks like the ones just before it, and a
    drift that was there from the first picture, if there are few calibration samples.

    The evidence is a mixture over the beginnings and the kinds of drift. Beginning late costs
    little: after 5,000 pictures a plain drift takes some 14 pictures to find, at the start 10.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", chapter 8,
       second edition, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from skhgad import HGADDetector
    >>> from skhgad.monitor import DriftMonitor
    >>> rng = np.random.default_rng(0)
    >>> detector = HGADDetector(random_state=0).fit(rng.normal(size=(300, 4)))
    >>> monitor = DriftMonitor(detector).update(rng.normal(size=(500, 4)))
    >>> monitor.alarm_ is None
    True
    >>> monitor.update(rng.normal(size=(100, 4)) * 1.5).alarm_.direction
    'lower'
    """

    def __init__(
        self,
        detector: Any,
        *,
        false_alarm_probability: float = 0.01,
        defect_rate: float = 0.03,
        burn_in: int = 0,
        classes_given: bool = False,
        random_state: int | None = 0,
    ) -> None:
        check_is_fitted(detector)
        check_rate(false_alarm_probability, "false_alarm_probability")
        if defect_rate != 0:
            check_rate(defect_rate, "defect_rate")
        if isinstance(burn_in, bool) or not isinstance(burn_in, int | np.integer):
            raise TypeError(f"burn_in must be an int, got {burn_in!r}.")
        if burn_in < 0:
            raise ValueError(f"burn_in must be at least 0, got {burn_in!r}.")
        if random_state is not None and not isinstance(random_state, int | np.integer):
            raise TypeError(f"random_state must be an int or None, got {random_state!r}.")
        if random_state is not None and random_state < 0:
            raise ValueError(f"random_state must be at least 0, got {random_state!r}.")
        check_products(detector)
        self.detector = detector
        self._model = detector.model_  # with whose calibration scores all others are compared
        # NumPy's numbers are none of JSON's.
        self.false_alarm_probability = float(false_alarm_probability)
        self.defect_rate = float(defect_rate)
        self.burn_in = int(burn_in)
        self.classes_given = bool(classes_given)
        self.random_state = None if random_state is None else int(random_state)
        self._generator = np.random.default_rng(random_state)
        self._streams = {SCORE: self._stream(_references(detector.model_, classes_given))}
        if detector.model_.takes_images:
            for name, scores in _appearances(detector.model_).items():
                self._streams[name] = self._stream(scores, is_score=False)
        self._burnt = dict.fromkeys(detector.classes_.tolist(), 0)
        self._history: list[list[float]] = []
        self._every = 1  # samples between two points of the history
        self.n_seen_ = 0
        self.n_unknown_ = 0
        self.alarm_: Alarm | None = None

    def update(self, X: Any, *, class_labels: ArrayLike | None = None) -> DriftMonitor:
        """Score samples and take them as the next ones of the stream, in order.

        Parameters
        ----------
        X : array-like or images
        class_labels : array-like of shape (n_samples,), default=None
            The product of each sample; needed with ``classes_given=True``, else None.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `class_labels` are missing or not expected, or the detector was fitted, updated or
            extended since. Also as `HGADDetector.score_samples`. Nothing is taken then.
        """
        self._require_same_model()
        if (class_labels is not None) != self.classes_given:
            raise ValueError(
                f"class_labels are {'missing' if self.classes_given else 'given'}, but the monitor "
                f"was made with classes_given={self.classes_given}."
            )
        fitted = self.detector.model_
        X = check_scored_X(X, self.detector, takes_images=fitted.takes_images)
        X = fitted.observed(X) if fitted.takes_images else X
        found = self.detector.inspect(X, class_labels=class_labels)
        appearance = X.appearance if fitted.takes_images else None
        return self.update_scores(found.score, found.class_label, appearance)

    def update_scores(
        self, scores: ArrayLike, class_labels: ArrayLike, appearance: ArrayLike | None = None
    ) -> DriftMonitor:
        """Take scores that the detector gave already as the next ones of the stream.

        Parameters
        ----------
        scores : array-like of shape (n_samples,)
            As from `score_samples`.
        class_labels : array-like of shape (n_samples,)
            The products, inferred, or given with ``classes_given=True``. What is none of
            `classes_`, such as "unknown", is counted in `n_unknown_`.
        appearance : array-like of shape (n_samples, 3), default=None
            Brightness, contrast and sharpness of each picture, as
            `skhgad.images.appearance.appearance_of` measures them; without it, or where a row is
            NaN, the scores alone are watched.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a score is not finite, there is another number of labels, or the detector was
            fitted, updated or extended since. Nothing is taken then.
        """
        self._require_same_model()
        values = np.asarray(scores, dtype=np.float64)
        labels = np.asarray(class_labels)
        if values.ndim != 1 or labels.shape != values.shape:
            raise ValueError(
                f"scores and class_labels must be of one length, got shapes {values.shape} and "
                f"{labels.shape}."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"scores[{np.flatnonzero(~np.isfinite(values))[0]}] is not finite.")
        looks = self._checked(appearance, len(values))
        for score, label, look in zip(values.tolist(), labels.tolist(), looks, strict=True):
            self._take({SCORE: score, **look}, label)
        return self

    @property
    def evidence_(self) -> float:
        """The evidence of drift now."""
        capitals = self.product_evidence_
        total = capitals.pop(ALL, None)
        mean = sum(capitals.values()) / len(capitals)
        # Half on drift of all products at once, as of a camera, half on drift of one.
        return mean if total is None else (mean + total) / 2

    @property
    def product_evidence_(self) -> dict[str | int, float]:
        """The evidence of each product now."""
        # The mean of martingales is one: watching several statistics keeps the promise.
        streams = self._streams.values()
        return {
            place: sum(stream.martingales[place].capital for stream in streams) / len(streams)
            for place in self._places()
        }

    @property
    def statistic_evidence_(self) -> dict[str, dict[str | int, float]]:
        """The evidence of each statistic and product now: {"score": {label: float}, ...}."""
        return {
            name: {place: own.capital for place, own in stream.martingales.items()}
            for name, stream in self._streams.items()
        }

    @property
    def history_(self) -> NDArray[np.float64]:
        """The evidence over time."""
        return np.array(self._history, dtype=np.float64).reshape(-1, 2)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole state as plain values, ready for JSON.

        Raises ValueError if the detector was fitted, updated or extended since.
        """
        self._require_same_model()
        labels = list(self._burnt)
        return {
            "format": FORMAT,
            "version": VERSION,
            "detector": fingerprint(self.detector),
            "parameters": {name: getattr(self, name) for name in _PARAMETERS},
            "generator": self._generator.bit_generator.state,
            "burnt": [self._burnt[label] for label in labels],
            "streams": {name: stream.to_dict() for name, stream in self._streams.items()},
            "history": [list(point) for point in self._history],
            "every": self._every,
            "n_seen": self.n_seen_,
            "n_unknown": self.n_unknown_,
            "alarm": None if self.alarm_ is None else list(self.alarm_),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any], detector: Any) -> DriftMonitor:
        """Return the monitor whose `to_dict` is given; it goes on as if never interrupted.

        Raises
        ------
        ValueError
            If the state is none, or that of a monitor of another detector.
        """
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError("this is no state of a DriftMonitor.")
        if state.get("version") != VERSION:
            raise ValueError(
                f"the state has version {state.get('version')!r}, this skhgad reads {VERSION}: "
                "begin with a new monitor."
            )
        if state.get("detector") != fingerprint(detector):
            raise ValueError(
                "the state is that of a monitor of another detector, whose scores are not "
                "comparable: begin with a new monitor."
            )
        try:
            monitor = cls(detector, **state["parameters"])
            monitor._restore(state)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the state is damaged: {str(error).rstrip('.')}.") from error
        return monitor

    def save(self, path: str | PathLike[str]) -> None:
        """Write the state to a JSON file, whole or not at all."""
        with whole_file(path) as part:
            part.write_text(json.dumps(self.to_dict(), allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str], detector: Any) -> DriftMonitor:
        """Read a monitor that `save` wrote; `detector` is the one it watched.

        Raises
        ------
        FileNotFoundError
        ValueError
            If the file holds no state, or that of a monitor of another detector.
        """
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls.from_dict(state, detector)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} cannot be used: {str(error).rstrip('.')}.") from error

    def _require_same_model(self) -> None:
        if self.detector.model_ is not self._model:
            raise ValueError(
                "the detector has changed (fit, update, add_class or forget) since this monitor "
                "was made, and its scores are not comparable: begin with a new monitor."
            )

    def _places(self) -> list[str | int]:
        labels = self._model.classes.tolist()
        return labels if len(labels) == 1 else [*labels, ALL]

    def _stream(
        self, references: dict[str | int, list[float]], *, is_score: bool = True
    ) -> StatisticStream:
        limit = _LARGEST_REFERENCE if is_score else _LARGEST_OF_APPEARANCE
        defects = "low" if is_score else "anywhere"
        return StatisticStream(references, self._places(), limit, self.defect_rate, defects)

    def _checked(self, appearance: ArrayLike | None, n_samples: int) -> list[dict[str, float]]:
        """Return {statistic: value} of each sample; empty where it was not measured."""
        if appearance is None:
            return [{} for _ in range(n_samples)]
        values = np.asarray(appearance, dtype=np.float64)
        if values.shape != (n_samples, len(STATISTICS)):
            raise ValueError(
                f"appearance has shape {values.shape}; {(n_samples, len(STATISTICS))} is needed: "
                f"{', '.join(STATISTICS)} of each picture."
            )
        if not self.detector.model_.takes_images:
            raise ValueError("appearance is given, but this detector was fitted on vectors.")
        return [
            dict(zip(STATISTICS, row, strict=True)) if all(map(math.isfinite, row)) else {}
            for row in values.tolist()
        ]

    def _take(self, values: dict[str, float], label: Any) -> None:
        self.n_seen_ += 1
        if label not in self._burnt:
            self.n_unknown_ += 1
        elif self._burnt[label] < self.burn_in:
            self._burnt[label] += 1
            for name, value in values.items():
                self._streams[name].add(value, label, self._generator)
        else:
            for name, value in values.items():
                self._streams[name].bet(value, label, self._generator)
        evidence = self.evidence_
        if self.alarm_ is None and evidence >= 1 / self.false_alarm_probability:
            self.alarm_ = self._new_alarm(evidence)
        self._note(evidence)

    def _new_alarm(self, evidence: float) -> Alarm:
        by_product, by_statistic = self.product_evidence_, self.statistic_evidence_
        product = max(by_product, key=lambda place: by_product[place])
        statistic = max(by_statistic, key=lambda name: by_statistic[name][product])
        direction = self._streams[statistic].martingales[product].direction
        return Alarm(self.n_seen_, product, direction, evidence, statistic)

    def _note(self, evidence: float) -> None:
        if self.n_seen_ % self._every:
            return
        self._history.append([self.n_seen_, math.log10(evidence)])
        if len(self._history) > _LONGEST_HISTORY:
            self._every *= 2
            self._history = [point for point in self._history if not point[0] % self._every]

    def _restore(self, state: dict[str, Any]) -> None:
        if set(state["streams"]) != set(self._streams):
            raise KeyError("it has other statistics")
        for name, stream in self._streams.items():
            stream.restore(state["streams"][name])
        burnt = [saved_count(n, "burnt") for n in state["burnt"]]
        self._burnt = dict(zip(self._burnt, burnt, strict=True))
        restore_generator(self._generator, state["generator"])
        self._history = saved_points(state["history"])
        self._every = saved_count(state["every"], "every", least=1)
        self.n_seen_ = saved_count(state["n_seen"], "n_seen")
        self.n_unknown_ = saved_count(state["n_unknown"], "n_unknown")
        self.alarm_ = None if state["alarm"] is None else self._saved_alarm(*state["alarm"])

    def _saved_alarm(
        self, n_seen: Any, product: Any, direction: Any, evidence: Any, statistic: Any
    ) -> Alarm:
        if (
            product not in self._places()
            or direction not in DIRECTIONS
            or statistic not in self._streams
        ):
            raise ValueError(f"the alarm is {[product, direction, statistic]!r:.80}")
        evidence = saved_number(evidence, "the alarm's evidence")
        return Alarm(saved_count(n_seen, "n_seen"), product, direction, evidence, statistic)


_PARAMETERS = (
    "false_alarm_probability",
    "defect_rate",
    "burn_in",
    "classes_given",
    "random_state",
)


def check_products(detector: Any) -> None:
    """Raise ValueError if a product of a fitted detector has the name of all of them."""
    if ALL in detector.classes_.tolist():
        raise ValueError(f"a product is called {ALL!r}, as the monitor calls them together.")


def fingerprint(detector: Any) -> str:
    """Return a hash of the calibration, classes and regions of interest of a fitted detector."""
    calibration, classes = detector.model_.calibration, detector.classes_.tolist()
    digest = hashlib.sha256(json.dumps(classes).encode())
    for values in calibration:
        digest.update(np.ascontiguousarray(values).tobytes())
    roi = detector.model_.roi
    if roi is not None:
        digest.update(repr([roi.of_class, *(mask.shape for mask in roi.masks)]).encode())
        for mask in roi.masks:
            digest.update(mask.tobytes())
    return digest.hexdigest()[:16]


def _references(fitted: Any, classes_given: bool) -> dict[str | int, list[float]]:
    """Return {label: calibration scores of the product}."""
    calibration = fitted.calibration
    scores = calibration.given_scores if classes_given else calibration.scores
    codes = calibration.codes if classes_given else calibration.inferred
    finite = np.isfinite(scores)
    return {
        label: scores[finite & (codes == code)].tolist()
        for code, label in enumerate(fitted.classes.tolist())
    }


def _appearances(fitted: Any) -> dict[str, dict[str | int, list[float]]]:
    """Return {statistic: {label: values of the normal pictures}}; without values, empty lists."""
    kept = fitted.appearances
    return {
        name: {
            label: [] if kept is None else kept.x[kept.codes == code, column].tolist()
            for code, label in enumerate(fitted.classes.tolist())
        }
        for column, name in enumerate(STATISTICS)
    }
