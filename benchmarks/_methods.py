"""The methods of the accuracy benchmark: each fits, scores and records one run."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from skhgad import HGADDetector
from skhgad.validation import check_class_labels, check_scored_X

from ._data import Part
from ._features import Features
from ._figures import record_run
from ._paper_protocol import PaperProtocolDetector
from ._scales import run_scales_summed
from .peers import NearestNeighbours, make_peer, scores_and_maps

TITLES = {
    "hgad": "HGAD, class inferred",
    "hgad-given": "HGAD, class given",
    "hgad-unlabelled": "HGAD, no labels",
    "hgad-alone": "HGAD, one model a class",
    "nn": "PatchCore",
    "padim": "PaDiM",
    "mahalanobis": "Mahalanobis",
    "reconstruction": "reconstruction",
    "flow": "flow, one Gaussian",
    "iforest": "isolation forest",
    "lof": "local outlier factor",
    "ocsvm": "one-class SVM",
    "gmm": "Gaussian mixture",
}
ON_REQUEST = ("hgad-given", "hgad-unlabelled", "hgad-alone")
IMAGES_ONLY = ("padim", "reconstruction")
TABLES_ONLY = ("iforest", "lof", "ocsvm", "gmm")
FORMS = ("no labels", "class given")
# Peers that have a row of their own for calibrated scales. The others learn too long to be fitted
# once more for each fold and scale.
SUMMED = ("nn", "padim", "mahalanobis")
# One class, one center at its mean, unit covariance: an ordinary conditional flow.
SINGLE_GAUSSIAN = {
    "n_classes": "auto",
    "n_components": 1,
    "class_covariance": False,
    "lambda_intra": 0.0,
    "criterion": "likelihood",
}


@dataclass
class Bench:
    """What every run of a part has in common.

    Attributes
    ----------
    part : Part
    train, test : Features
        Of the part's samples; what fits HGADDetector alone needs none.
    parameters : dict
        Of HGADDetector; `memory` among them, no `random_state`.
    methods : sequence of str
        Keys of `TITLES`.
    protocols : sequence of {"honest", "paper"}
    pixel_size : int, (height, width) or None
        None = no pixel figures.
    every : int
        Passes between the evaluations of the paper protocol.
    """

    part: Part
    train: Features | None
    test: Features | None
    parameters: dict
    methods: tuple = ("hgad",)
    protocols: tuple = ("honest",)
    pixel_size: int | tuple | None = None
    every: int = 1

    def record(self, seed, scores, maps, **more):
        """Measure scores and maps of all test samples, see `record_run`."""
        return record_run(self.part, seed, scores, maps, pixel_size=self.pixel_size, **more)

    def fit_and_score(self, seed, *, labels=True, **changes):
        """Fit HGADDetector, with class labels or without, and measure it by the honest protocol.

        `labels` may be others than those of the part, an ndarray. `changes` are parameters that
        differ from the bench's.
        """
        detector = HGADDetector(**{**self.parameters, **changes}, random_state=seed)
        y = labels
        if isinstance(labels, bool):
            y = self.part.class_train if labels else None
        return self.score(detector, seed, _fit(detector, self.part.X_train, y))

    def fit_each_and_score(self, seed):
        """Fit HGADDetector to each class by itself, and measure each on its own test samples."""
        part, n_test = self.part, len(self.part.X_test)
        scores, offsets, seconds = np.empty(n_test), np.empty(n_test), np.zeros(2)
        maps = None
        for name in np.unique(part.class_test):
            train, test = part.rows_of(name)
            detector = HGADDetector(**self.parameters, random_state=seed)
            seconds[0] += _fit(detector, part.X_train[train])
            start = time.perf_counter()
            _, scores[test], grids = score_with_grids(detector, part.X_test[test])
            seconds[1] += time.perf_counter() - start
            offsets[test] = detector.offset_
            maps = torch.empty(n_test, *grids.shape[1:]) if maps is None else maps
            maps[test] = grids
        return self.record(
            seed, scores, maps, offset=offsets, fit_seconds=seconds[0], score_seconds=seconds[1]
        )

    def score(self, detector, seed, fit_seconds, class_labels=None):
        """Score the test samples with a fitted detector and measure that."""
        start = time.perf_counter()
        codes, scores, maps = score_with_grids(detector, self.part.X_test, class_labels)
        more = {"score_seconds": time.perf_counter() - start, "fit_seconds": fit_seconds}
        if class_labels is None and detector.classes_.dtype.kind == "U":
            more["class_found"] = float(np.mean(detector.classes_[codes] == self.part.class_test))
        if class_labels is None:
            normal = self.part.y == 1
            found = adjusted_rand_score(self.part.class_test[normal], codes[normal])
            more["rand_index"] = float(found)  # of classes as inferred, whatever they are called
        more["n_passes"] = detector.n_iter_
        more["n_classes"] = len(detector.classes_)
        return self.record(seed, scores, maps, offset=detector.offset_, **more)


def runs_of(key, bench, seeds):
    """Run a method.

    Parameters
    ----------
    key : str
        Of `TITLES`; "hgad" stands for "hgad-given" too, which is the same fit.
    bench : Bench
    seeds : int
        Repetitions with seeds 0, 1, ...; one where nothing is random.

    Yields
    ------
    protocol : str
    title : str
        Of the row.
    record : dict
        From `record_run`.
    """
    for seed in range(1 if is_deterministic(key, bench.part) else seeds):
        if key == "hgad":
            yield from run_hgad(bench, seed)
        elif key == "hgad-unlabelled":
            if "honest" in bench.protocols:
                n_classes = len(bench.part.classes)
                record = bench.fit_and_score(seed, labels=False, n_classes=n_classes)
                yield "honest", TITLES[key], record
        elif key == "hgad-alone":
            yield "honest", TITLES[key], bench.fit_each_and_score(seed)
        else:
            for form in FORMS if "honest" in bench.protocols else FORMS[1:]:
                record = run_peer(bench, key, form, seed)
                for protocol in bench.protocols:
                    if protocol == "honest" or form == "class given":
                        yield protocol, f"{TITLES[key]}, {form}", record
            if key in SUMMED and bench.part.is_images and "honest" in bench.protocols:
                record = run_scales_summed(bench, key, seed)
                yield "honest", f"{TITLES[key]}, class given, scales summed", record


def is_deterministic(key, part):
    """Whether a method gives the same result for every seed."""
    if key == "nn":
        return not part.is_images and len(part.X_train) <= NearestNeighbours().max_bank
    return key in ("mahalanobis", "lof", "ocsvm")


def applicable(part):
    """Keys of the methods that can run on a part."""
    absent = IMAGES_ONLY if not part.is_images else TABLES_ONLY
    return [key for key in TITLES if key not in absent]


def run_hgad(bench, seed):
    """Fit HGAD with labels; yield (protocol, row, record) for each protocol and form asked for."""
    paper = "paper" in bench.protocols
    kind = PaperProtocolDetector if paper else HGADDetector
    detector = kind(**bench.parameters, random_state=seed)
    if paper:
        codes = bench.part.codes(bench.part.class_test)
        detector.watch(bench.test, codes, bench.part.y, bench.every)
    fit_seconds = _fit(detector, bench.part.X_train, bench.part.class_train)
    if paper:
        fit_seconds -= detector.watch_seconds_
        best = detector.best_
        record = bench.record(
            seed,
            best["scores"],
            best["maps"],
            fit_seconds=fit_seconds,
            best_pass=best["n_pass"],
            n_passes=detector.n_iter_,
        )
        yield "paper", TITLES["hgad-given"], record
    if "honest" not in bench.protocols:
        return
    if "hgad" in bench.methods:
        yield "honest", TITLES["hgad"], bench.score(detector, seed, fit_seconds)
    if "hgad-given" in bench.methods:
        record = bench.score(detector, seed, fit_seconds, bench.part.class_test)
        yield "honest", TITLES["hgad-given"], record


def run_peer(bench, key, form, seed):
    """Fit and score a peer: one for all samples, or one a class for the samples of the class.

    Returns
    -------
    dict
        From `record_run`.
    """
    part = bench.part
    n_test = len(part.X_test)
    groups = [(np.arange(len(part.X_train)), np.arange(n_test))]
    if form == "class given":
        groups = [part.rows_of(name) for name in part.classes]
    n_classes = len(part.classes) if form == "no labels" else 1
    fit_and_score = _run_flow if key == "flow" else _run_feature_peer
    scores, maps = np.empty(n_test), torch.empty(n_test, *bench.test.map_size)
    offsets, seconds = np.empty(n_test), np.zeros(2)
    for train, test in groups:
        if len(test):
            scores[test], maps[test], offsets[test], spent = fit_and_score(
                bench, key, n_classes, train, test, seed
            )
            seconds += spent
    return bench.record(
        seed,
        scores,
        maps,
        offset=None if np.isnan(offsets).any() else offsets,
        fit_seconds=seconds[0],
        score_seconds=seconds[1],
    )


def _run_feature_peer(bench, key, n_classes, train, test, seed):
    """Fit and score a peer on features: scores, maps, no threshold, seconds."""
    start = time.perf_counter()
    peer = make_peer(key, bench.part.is_images, n_classes).fit(bench.train, train, seed)
    fitted = time.perf_counter()
    scores, maps = scores_and_maps(peer, bench.test, test)
    return scores, maps, np.nan, (fitted - start, time.perf_counter() - fitted)


def _run_flow(bench, key, n_classes, train, test, seed):
    """Fit and score the flow with one Gaussian: scores, maps, threshold, seconds."""
    detector = HGADDetector(**{**bench.parameters, **SINGLE_GAUSSIAN}, random_state=seed)
    fit_seconds = _fit(detector, bench.part.X_train[train])
    start = time.perf_counter()
    _, scores, maps = score_with_grids(detector, bench.part.X_test[test])
    return scores, maps, detector.offset_, (fit_seconds, time.perf_counter() - start)


def score_with_grids(detector, X, class_labels=None):
    """Score samples and keep their anomaly maps on the detector's grid.

    Returns
    -------
    codes : ndarray of shape (n_samples,), int64
    scores : ndarray of shape (n_samples,), float64
    grids : Tensor of shape (n_samples, height, width), float32
    """
    fitted = detector.model_
    X = check_scored_X(X, detector, takes_images=fitted.takes_images)
    given = None
    if class_labels is not None:
        given = check_class_labels(class_labels, detector.classes_, len(X))
    codes, scores, grids = [], [], []
    for batch in fitted.scored_batches(detector.feature_reader(), X, given):
        codes.append(batch.codes)
        scores.append(batch.scores)
        grids.append(batch.maps.float().cpu())
    return np.concatenate(codes), np.concatenate(scores), torch.cat(grids)


def _fit(detector, X, y=None):
    """Fit and return the seconds."""
    start = time.perf_counter()
    detector.fit(X, y)
    return time.perf_counter() - start
