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

from ..storage.files import whole_file
from ..validation import check_rate
from .martingale import Martingale
from .ranks import OnlineRanks

FORMAT = "skhgad-drift"
VERSION = 1
ALL = "all products"
_LARGEST_REFERENCE = 20_000  # scores of a product
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
        How the scores have changed. Lower: less normal, as by noise or another light. Higher:
        smoother than normal, as by blur.
    evidence : float
        At that moment, at least ``1 / false_alarm_probability``.
    """

    n_seen: int
    product: str | int
    direction: str
    evidence: float


class DriftMonitor:
    """Tells from a stream of samples whether their scores still are those of normal samples.

    Each score is ranked among the calibration scores of its product and all earlier scores of the
    stream. Without drift the ranks are independent and uniform. A conformal test martingale bets
    against that, for each product and for all together; what it wins is the evidence of drift.

    Parameters
    ----------
    detector : HGADDetector
        Fitted.
    false_alarm_probability : float in (0, 1), default=0.01
        Of ever raising an alarm over the whole stream, however long, without drift.
    defect_rate : float in [0, 1), default=0.03
        Share of defects in the stream that is no drift. The promise holds with so many.
    burn_in : int, default=0
        The first samples of each product only join those that later ones are compared with. For a
        line whose pictures differ a little from those of the fit from the first day.
    classes_given : bool, default=False
        Whether the products of all samples will be given, not inferred.
    random_state : int, default=0
        Puts equal scores in random order.

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
        random_state: int = 0,
    ) -> None:
        check_is_fitted(detector)
        check_rate(false_alarm_probability, "false_alarm_probability")
        if defect_rate != 0:
            check_rate(defect_rate, "defect_rate")
        if burn_in < 0:
            raise ValueError(f"burn_in must be at least 0, got {burn_in!r}.")
        if ALL in detector.classes_.tolist():
            raise ValueError(f"a product is called {ALL!r}, as the monitor calls them together.")
        self.detector = detector
        self.false_alarm_probability = false_alarm_probability
        self.defect_rate = defect_rate
        self.burn_in = burn_in
        self.classes_given = classes_given
        self.random_state = random_state
        self._generator = np.random.default_rng(random_state)
        self._ranks = {
            label: OnlineRanks(scores, max(_LARGEST_REFERENCE, 2 * len(scores)))
            for label, scores in _references(detector.model_, classes_given).items()
        }
        self._burnt = dict.fromkeys(self._ranks, 0)
        self._martingales = {label: Martingale(defect_rate) for label in self._places()}
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
        """
        if (class_labels is not None) != self.classes_given:
            raise ValueError(
                f"class_labels are {'missing' if self.classes_given else 'given'}, but the monitor "
                f"was made with classes_given={self.classes_given}."
            )
        found = self.detector.inspect(X, class_labels=class_labels)
        return self.update_scores(found.score, found.class_label)

    def update_scores(self, scores: ArrayLike, class_labels: ArrayLike) -> DriftMonitor:
        """Take scores that the detector gave already as the next ones of the stream.

        Parameters
        ----------
        scores : array-like of shape (n_samples,)
            As from `score_samples`.
        class_labels : array-like of shape (n_samples,)
            The products, inferred, or given with ``classes_given=True``. What is none of
            `classes_`, such as "unknown", is counted in `n_unknown_`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a score is not finite, or there is another number of labels. Nothing is taken then.
        """
        values = np.asarray(scores, dtype=np.float64)
        labels = np.asarray(class_labels)
        if values.ndim != 1 or labels.shape != values.shape:
            raise ValueError(
                f"scores and class_labels must be of one length, got shapes {values.shape} and "
                f"{labels.shape}."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"scores[{np.flatnonzero(~np.isfinite(values))[0]}] is not finite.")
        for score, label in zip(values.tolist(), labels.tolist(), strict=True):
            self._take(score, label)
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
        return {label: martingale.capital for label, martingale in self._martingales.items()}

    @property
    def history_(self) -> NDArray[np.float64]:
        """The evidence over time."""
        return np.array(self._history, dtype=np.float64).reshape(-1, 2)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole state as plain values, ready for JSON."""
        labels = list(self._ranks)
        return {
            "format": FORMAT,
            "version": VERSION,
            "detector": fingerprint(self.detector),
            "parameters": {name: getattr(self, name) for name in _PARAMETERS},
            "generator": self._generator.bit_generator.state,
            "references": [self._ranks[label].scores for label in labels],
            "burnt": [self._burnt[label] for label in labels],
            "martingales": [
                {"stakes": own.stakes.tolist(), "n_seen": own.n_seen}
                for own in self._martingales.values()
            ],
            "history": self._history,
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
                f"the state has version {state.get('version')!r}, this skhgad reads {VERSION}."
            )
        if state.get("detector") != fingerprint(detector):
            raise ValueError(
                "the state is that of a monitor of another detector, whose scores are not "
                "comparable: begin with a new monitor."
            )
        try:
            monitor = cls(detector, **state["parameters"])
            monitor._restore(state)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the state is damaged: {error}.") from error
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
        except ValueError as error:
            raise ValueError(f"{str(path)!r} cannot be used: {error}") from error

    def _places(self) -> list[str | int]:
        labels = list(self._ranks)
        return labels if len(labels) == 1 else [*labels, ALL]

    def _take(self, score: float, label: Any) -> None:
        self.n_seen_ += 1
        ranks = self._ranks.get(label)
        if ranks is None:
            self.n_unknown_ += 1
        elif self._burnt[label] < self.burn_in:
            self._burnt[label] += 1
            ranks.add(score, self._generator)
        else:
            p_value = ranks.p_value(score, self._generator)
            for place in (label, ALL) if ALL in self._martingales else (label,):
                self._martingales[place].update(p_value)
        evidence = self.evidence_
        if self.alarm_ is None and evidence >= 1 / self.false_alarm_probability:
            capitals = self.product_evidence_
            product = max(capitals, key=lambda place: capitals[place])
            direction = self._martingales[product].direction
            self.alarm_ = Alarm(self.n_seen_, product, direction, evidence)
        self._note(evidence)

    def _note(self, evidence: float) -> None:
        if self.n_seen_ % self._every:
            return
        self._history.append([self.n_seen_, math.log10(evidence)])
        if len(self._history) > _LONGEST_HISTORY:
            self._every *= 2
            self._history = [point for point in self._history if not point[0] % self._every]

    def _restore(self, state: dict[str, Any]) -> None:
        for ranks, scores in zip(self._ranks.values(), state["references"], strict=True):
            ranks.scores = sorted(map(float, scores))
        self._burnt = dict(zip(self._ranks, state["burnt"], strict=True))
        for own, saved in zip(self._martingales.values(), state["martingales"], strict=True):
            own.restore(saved["stakes"], saved["n_seen"])
        self._generator.bit_generator.state = state["generator"]
        self._history, self._every = state["history"], state["every"]
        self.n_seen_, self.n_unknown_ = state["n_seen"], state["n_unknown"]
        self.alarm_ = None if state["alarm"] is None else Alarm(*state["alarm"])


_PARAMETERS = (
    "false_alarm_probability",
    "defect_rate",
    "burn_in",
    "classes_given",
    "random_state",
)


def fingerprint(detector: Any) -> str:
    """Return a hash of the calibration and the classes of a fitted detector."""
    calibration, classes = detector.model_.calibration, detector.classes_.tolist()
    digest = hashlib.sha256(json.dumps(classes).encode())
    for values in calibration:
        digest.update(np.ascontiguousarray(values).tobytes())
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
