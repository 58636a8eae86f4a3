"""Verdicts: everything the detector says of samples, in one pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..regions import find_regions
from .calibration import is_unknown
from .frames import full_maps
from .maps import resize

if TYPE_CHECKING:
    from .fitted import FittedModel
    from .scores import ScoredBatch

Verdicts = tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]

UNKNOWN = {"U": "unknown", "i": -1}  # by kind of the class labels


class Inspection(NamedTuple):
    """What a detector says of samples.

    Attributes
    ----------
    class_label : ndarray of shape (n_samples,)
        Product class inferred, as from `predict_class`, or given.
    score : ndarray of shape (n_samples,), float64
        As from `score_samples`.
    p_value : ndarray of shape (n_samples,), float64
        As from `p_values`.
    is_anomaly : ndarray of shape (n_samples,), bool
        Whether the score is below `offset_`, or the class's own threshold in `class_offsets_`.
    maps : list of ndarray of shape (height, width), float32, or None
        Anomaly maps, each of its own image's size; None where not asked for.
    threshold : ndarray of shape (n_samples,), float64
        The score below which each sample is an anomaly.
    """

    class_label: NDArray[Any]
    score: NDArray[np.float64]
    p_value: NDArray[np.float64]
    is_anomaly: NDArray[np.bool_]
    maps: list[NDArray[np.float32]] | None
    threshold: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return all but the maps as plain Python values, ready for JSON.

        Returns
        -------
        dict
            "samples": a list with a dict for each sample, in order:

            - "class_label": str or int;
            - "score", "threshold", "p_value": float, always finite;
            - "is_anomaly": bool, the verdict, whether the score is below the threshold;
            - "regions": list of dict, the connected parts of the map above the threshold, the
              largest peak first, each with "box" [top, left, bottom, right], "area", "peak" and
              "peak_position" [row, column] in pixels of the image; None without ``maps=True``.

        See Also
        --------
        skhgad.regions.find_regions : The regions, with their masks.
        """
        names = ("class_label", "score", "threshold", "p_value", "is_anomaly")
        columns = [getattr(self, name).tolist() for name in names]
        maps = [None] * len(self.score) if self.maps is None else self.maps
        regions = map(_regions, maps, self.threshold)
        rows = zip(*columns, regions, strict=True)
        return {"samples": [dict(zip((*names, "regions"), row, strict=True)) for row in rows]}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return `to_dict` as JSON text, without NaN.

        Parameters
        ----------
        indent : int, default=None
            Spaces by which each level is indented; None = one line.

        Returns
        -------
        str
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)


def _regions(
    anomaly_map: NDArray[np.float32] | None, threshold: float
) -> list[dict[str, Any]] | None:
    if anomaly_map is None:
        return None
    # Where the evidence overflows, the position is an anomaly, as for the score.
    finite = np.nan_to_num(anomaly_map, nan=float(np.finfo(np.float32).max))
    return [region.to_dict() for region in find_regions(finite, -float(threshold))]


class Judge:
    """Turns scored batches into verdicts.

    Parameters
    ----------
    fitted : FittedModel
    offsets : ndarray of shape (n_classes,)
        Threshold of each class: samples that score lower are anomalies.
    unknown_rate : float or None
        See `HGADDetector`.
    """

    def __init__(
        self,
        fitted: FittedModel,
        offsets: NDArray[np.float64],
        unknown_rate: float | None = None,
    ) -> None:
        self.fitted = fitted
        self.offsets = offsets
        self.unknown_rate = unknown_rate

    def judge(
        self,
        batches: Iterable[ScoredBatch],
        details_of: Callable[[ScoredBatch], list[Any]] | None = None,
        *,
        given: bool = False,
    ) -> tuple[Verdicts, list[Any]]:
        """Judge all samples.

        Parameters
        ----------
        batches : iterable of ScoredBatch
        details_of : callable, default=None
            Takes a ScoredBatch and returns a list: what to keep of each sample.
        given : bool, default=False
            Whether the classes were given, not inferred.

        Returns
        -------
        verdicts : tuple of ndarray of shape (n_samples,)
            The first four fields of `Inspection`.
        details : list
        """
        parts: list[tuple[Any, Any, Any]] = []
        details: list[Any] = []
        for batch in batches:
            parts.append((batch.codes, batch.scores, batch.typicality))
            if details_of is not None:
                details += details_of(batch)
        codes, scores = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        typicality = None if given else np.concatenate([part[2] for part in parts])
        return (
            self.class_labels(codes, typicality),
            scores,
            self.fitted.calibration.p_values(scores, codes, given=given),
            scores < self.thresholds(codes),
        ), details

    def inspect(
        self, batches: Iterable[ScoredBatch], *, maps: bool = False, given: bool = False
    ) -> Inspection:
        """Return the Inspection of all samples; parameters as in `judge`."""

        def details_of(batch: ScoredBatch) -> list[Any]:
            found = image_maps(batch) if maps else [None] * len(batch.codes)
            return list(zip(self.thresholds(batch.codes), found, strict=True))

        verdicts, details = self.judge(batches, details_of, given=given)
        thresholds, found = map(list, zip(*details, strict=True))
        return Inspection(*verdicts, found if maps else None, np.array(thresholds))

    def thresholds(self, codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the score below which each sample is an anomaly, by the codes of their classes."""
        return self.offsets[codes]

    def class_labels(
        self, codes: NDArray[np.int64], typicality: NDArray[np.float64] | None
    ) -> NDArray[Any]:
        """Name the classes; "unknown" or -1 where `unknown_rate` and the typicality say so.

        Raises
        ------
        ValueError
            If `unknown_rate` is set and a class is called "unknown".
        """
        classes = self.fitted.classes
        labels: NDArray[Any] = classes[codes]
        if self.unknown_rate is None or typicality is None:
            return labels
        unknown: Any = UNKNOWN[labels.dtype.kind]
        if unknown in classes.tolist():
            raise ValueError(
                f"a product class is called {unknown!r}, the answer of unknown_rate where a "
                "sample fits no class: rename the class, or leave unknown_rate=None."
            )
        fits_none = is_unknown(typicality, codes, self.fitted.calibration, self.unknown_rate)
        return np.where(fits_none, unknown, labels)


def image_maps(batch: ScoredBatch) -> Iterator[NDArray[np.float32]]:
    """Yield the anomaly maps of a batch, each of its own image's size: ndarray, float32."""
    return (image_map(batch, row) for row in range(len(batch.sizes)))


def image_map(
    batch: ScoredBatch, row: int, size: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Anomaly map of one image of a batch, of the image's size, or of another."""
    grid, own = batch.maps[row].float().cpu(), batch.sizes[row]
    size = own if size is None else size
    if batch.pictures is None or batch.evidence.frame is None:
        found: NDArray[np.float32] = resize(grid[None], size)[0].numpy()
        return found
    layout, mask_of = batch.pictures[row]
    large = full_maps(grid, batch.evidence.frame.grid[row].cpu(), layout, mask_of())
    found = resize(large[None], size)[0].numpy()
    return found


def stacked_maps(batches: Iterable[ScoredBatch], size: tuple[int, int]) -> NDArray[np.float32]:
    """Anomaly maps of all batches as one array.

    Parameters
    ----------
    batches : iterable of ScoredBatch
    size : tuple (height, width)
        Of the maps, where the images differ in size.

    Returns
    -------
    ndarray of shape (n_samples, height, width), float32
        Of the images' size where they have one in common.
    """
    # The grids are small beside the maps.
    kept = [_without_evidence(batch) for batch in batches]
    sizes = {own for batch in kept for own in batch.sizes}
    if len(sizes) == 1:
        (size,) = sizes
    maps = np.empty((sum(len(batch.sizes) for batch in kept), *size), dtype=np.float32)
    rows = iter(maps)
    for batch in kept:
        for row in range(len(batch.sizes)):
            next(rows)[...] = image_map(batch, row, size)
    return maps


def _without_evidence(batch: ScoredBatch) -> ScoredBatch:
    """Keep what maps are made of; of the evidence, what lies inside."""
    frame = batch.evidence.frame
    kept = None if frame is None else frame._replace(inside=[], grid=frame.grid.cpu())
    evidence = batch.evidence._replace(
        likelihoods=[], backgrounds=[], entropies=[], defects=None, frame=kept
    )
    return batch._replace(maps=batch.maps.float().cpu(), evidence=evidence)
