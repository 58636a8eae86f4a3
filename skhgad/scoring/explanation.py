"""Why the detector says what it says of a sample: where, how much, and by which evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..regions import Region, find_regions
from .inspection import Judge, image_maps

if TYPE_CHECKING:
    from .likeliest_values import LikeliestValues
    from .scores import ScoredBatch
    from .scoring_model import ScoringModel


class Explanation(NamedTuple):
    """What a detector says of one sample, and why.

    Attributes
    ----------
    class_label : str or int
        As in `Inspection`, as are the three that follow.
    score : float
    p_value : float
    is_anomaly : bool
    peak : float or None
        Largest value of the anomaly map at the image's own size; None for vectors.
    peak_position : tuple (row, column) of int, or None
        Where in the image that is, in pixels.
    area : float or None
        Share of the image above the pixel threshold.
    regions : list of Region
        The connected parts above it, in pixels of the image, the largest peak first; empty for
        vectors. An image that is barely flagged may have none, see `find_regions`.
    level : int or None
        Level of features whose likelihood contributes most to the score; None with
        ``criterion="entropy"`` and of a blank picture. Levels are counted from 0, by image scale,
        then stage.
    term : {"likelihood", "entropy", "novelty", "known anomalies", "blank"}
        Which contributes more to the score: that the sample is unlikely under its class, or that
        it lies between classes. "known anomalies" in place of "likelihood" where more than half of
        what the level has at its peak is likeness to the known anomalies of the class. Where terms
        are multiplied (``map_normalization="exponential"``), the factor that is the larger share of
        its maximum. "novelty": of a vector, that no normal vector that the model keeps lies near
        it, see ``bank_size``. "blank": the picture has less than a third of the contrast of any
        normal of its class.
    anomaly_map : ndarray of shape (height, width), float32, or None
        Of the image's own size; None where not asked for.
    contributions : dict of str or int to float, or None
        Of a vector: by how much the score would rise if this feature alone took its expected value,
        while all others stay. By name where the fit saw names, else by number, the largest first;
        of more than 64 features those 64 that would help most. They do not add up to anything: one
        broken sensor breaks its relations to all others, and each feature of a relation could mend
        it in part. None for images.
    expected_values : dict of str or int to float, or None
        The likeliest value of each of these features in the class of the sample, given the values
        of all others. The feature's own where no value that was tried raises the score, which then
        is 0 in `contributions`. None for images.
    """

    class_label: str | int
    score: float
    p_value: float
    is_anomaly: bool
    peak: float | None
    peak_position: tuple[int, int] | None
    area: float | None
    regions: list[Region]
    level: int | None
    term: str
    anomaly_map: NDArray[np.float32] | None = None
    contributions: dict[str | int, float] | None = None
    expected_values: dict[str | int, float] | None = None


class Location(NamedTuple):
    """Where one image is anomalous; the fields are those of `Explanation`."""

    peak: float
    peak_position: tuple[int, int]
    area: float
    regions: list[Region]


def explain(
    judge: Judge,
    batches: Iterable[ScoredBatch],
    threshold: float | None,
    *,
    given: bool = False,
    maps: bool = False,
) -> list[Explanation]:
    """Explain samples; see `HGADDetector.explain`.

    Parameters
    ----------
    judge : Judge
    batches : iterable of ScoredBatch
    threshold : float or None
        Pixels above it make regions; None = minus the threshold of the sample's class.
    given : bool, default=False
        Whether the classes were given, not inferred.
    maps : bool, default=False
        Whether to keep the anomaly maps.

    Returns
    -------
    list of Explanation
    """
    fitted = judge.fitted

    def details_of(batch: ScoredBatch) -> list[Any]:
        causes = _causes(fitted.model, batch)
        if batch.is_blank is not None:
            found = zip(causes, batch.is_blank, strict=True)
            causes = [(None, "blank") if is_blank else cause for cause, is_blank in found]
        if not fitted.takes_images:
            return [(None, None, None, [], *cause) for cause in causes]
        thresholds = (-judge.thresholds(batch.codes)).tolist()
        return [
            (
                *locate(found, own if threshold is None else threshold),
                *cause,
                found if maps else None,
            )
            for found, own, cause in zip(image_maps(batch), thresholds, causes, strict=True)
        ]

    verdicts, details = judge.judge(batches, details_of, given=given)
    columns = [values.tolist() for values in verdicts]
    return [Explanation(*row[:-1], *row[-1]) for row in zip(*columns, details, strict=True)]


def with_contributions(
    explanations: list[Explanation],
    likeliest: list[LikeliestValues],
    names: Sequence[str] | None,
) -> list[Explanation]:
    """Return the explanations of vectors with what `likeliest_values` found.

    `names` are those of the features; None = numbers.
    """
    result = []
    for explanation, found in zip(explanations, likeliest, strict=True):
        numbers = found.features.tolist()
        keys = numbers if names is None else [names[i] for i in numbers]
        result.append(
            explanation._replace(
                contributions=dict(zip(keys, found.rises.tolist(), strict=True)),
                expected_values=dict(zip(keys, found.values.tolist(), strict=True)),
            )
        )
    return result


def locate(anomaly_map: NDArray[np.float32], threshold: float) -> Location:
    """Find the peak of an anomaly map, and its regions above a threshold.

    Parameters
    ----------
    anomaly_map : ndarray of shape (height, width)
    threshold : float

    Returns
    -------
    Location
    """
    regions = find_regions(anomaly_map, threshold)
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    area = sum(region.area for region in regions) / anomaly_map.size
    return Location(float(anomaly_map[row, column]), (int(row), int(column)), area, regions)


def _causes(model: ScoringModel, batch: ScoredBatch) -> list[tuple[int | None, str]]:
    """Level and term whose own peaks contribute most to the score of each sample."""
    terms = model.terms(batch.evidence)
    entropy = None if terms.entropy is None else terms.entropy.amax((1, 2))
    if terms.likelihood is None:
        return [(None, "entropy")] * len(batch.codes)
    by_level = terms.level_peaks()
    strongest = by_level.sum(0) if terms.is_product else by_level.amax(0)
    levels, unlikely = by_level.argmax(0), ["likelihood"] * len(batch.codes)
    share = model.defect_share(batch.evidence)
    if share is not None:
        samples = torch.arange(len(levels), device=levels.device)
        chosen = terms.likelihood[levels, samples].flatten(1)
        peak = chosen.argmax(1, keepdim=True)
        known = share[levels, samples].flatten(1).gather(1, peak)[:, 0]
        height = _above_mean(model, batch, levels, chosen.gather(1, peak)[:, 0])
        is_known = (known > 0) & (known > 0.5 * height)
        unlikely = ["known anomalies" if known else "likelihood" for known in is_known.tolist()]
    if batch.evidence.novelty is not None:
        novelty = model.novelty_term(batch.evidence)
        is_novel = (novelty > -torch.from_numpy(batch.scores).to(novelty) - novelty).tolist()
        found = zip(unlikely, is_novel, strict=True)
        unlikely = ["novelty" if novel else term for term, novel in found]
    if entropy is None:
        return list(zip(levels.tolist(), unlikely, strict=True))
    is_unlikely = (strongest >= entropy).tolist()
    return [
        (level, term if is_stronger else "entropy")
        for level, term, is_stronger in zip(levels.tolist(), unlikely, is_unlikely, strict=True)
    ]


def _above_mean(model: ScoringModel, batch: ScoredBatch, levels: Any, peaks: Any) -> Any:
    """Heights of the peaks of levels above the mean of normal samples, in units of the terms."""
    codes = batch.evidence.codes
    return peaks + model.peak_location[levels, codes] / model.peak_scale[levels, codes]
