"""The parts of anomaly maps: one of each level's likelihood, one of the entropy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .maps import resize

if TYPE_CHECKING:
    from .fitted import FittedModel
    from .scores import ScoredBatch


class LevelMaps(NamedTuple):
    """What each level and each term adds to the anomaly maps of samples.

    The parts are on the grid on which the detector adds them, a quarter of `image_size` a side,
    and (1, 1) for feature vectors. ``combined()`` is the anomaly map on that grid.

    Attributes
    ----------
    likelihood : ndarray of shape (n_samples, n_levels, height, width), or None
        How unlikely each position is under the class, by level; None with
        ``criterion="entropy"``. Levels are ordered as in `image_scales`, then by stage, the finest
        first.
    entropy : ndarray of shape (n_samples, height, width), or None
        How undecided the class posterior is; None with ``criterion="likelihood"``.
    lift : ndarray of shape (n_samples, height, width), or None
        What raises the peak of the sum of the others to the sum of their own peaks, which may lie
        apart; see `skhgad.scoring.maps.added`. Of vectors, what the distance to the nearest row
        of the fit adds, see ``bank_size``. None if `is_product`.
    location, scale : ndarray of shape (n_samples,)
        Constants of the class of each sample, which put the scores of all classes on one scale.
    is_product : bool
        Whether the terms are multiplied, as with ``map_normalization="exponential"``, not added.
    class_label : ndarray of shape (n_samples,)
        Class inferred, or given.
    """

    likelihood: NDArray[np.floating] | None
    entropy: NDArray[np.floating] | None
    lift: NDArray[np.floating] | None
    location: NDArray[np.floating]
    scale: NDArray[np.floating]
    is_product: bool
    class_label: NDArray[Any]

    def combined(self) -> NDArray[np.floating]:
        """Return the anomaly maps on the grid, ndarray of shape (n_samples, height, width).

        (likelihood summed over levels + entropy + lift - location) / scale; or likelihood times
        entropy in place of the sum, if `is_product`. `HGADDetector.anomaly_maps` are these maps,
        resized bilinearly; `HGADDetector.score_samples` is minus their maximum.
        """
        terms = [] if self.likelihood is None else [self.likelihood.sum(1)]
        terms += [term for term in (self.entropy, self.lift) if term is not None]
        raw = np.prod(terms, axis=0) if self.is_product else np.sum(terms, axis=0)
        return (raw - self.location[:, None, None]) / self.scale[:, None, None]

    def resized(self, size: tuple[int, int]) -> LevelMaps:
        """Return the parts resized bilinearly to (height, width), to lay them over images.

        Sums of resized parts are the resized sum. With `is_product` they are not quite, because
        the product of resized factors is another.
        """

        def resized(maps: NDArray[np.floating]) -> NDArray[np.floating]:
            flat = torch.from_numpy(maps).flatten(0, -3)
            return resize(flat, size).numpy().reshape(*maps.shape[:-2], *size)

        return self._replace(
            likelihood=None if self.likelihood is None else resized(self.likelihood),
            entropy=None if self.entropy is None else resized(self.entropy),
            lift=None if self.lift is None else resized(self.lift),
        )


@torch.inference_mode()
def level_maps(fitted: FittedModel, batches: Iterable[ScoredBatch]) -> LevelMaps:
    """Return the LevelMaps of all samples, from their scored batches."""
    model = fitted.model
    parts: list[tuple[Any, ...]] = []
    for batch in batches:
        terms, codes = model.terms(batch.evidence), batch.evidence.codes
        likelihood = None if terms.likelihood is None else terms.likelihood.transpose(0, 1)
        constants = model.score_location[codes], model.score_scale[codes]
        lift = terms.lift()
        if batch.evidence.novelty is not None:
            novelty = model.novelty_term(batch.evidence) * constants[1]
            lift = lift + novelty[:, None, None]
        values = (likelihood, terms.entropy, lift, *constants)
        parts.append(tuple(None if v is None else v.cpu().numpy() for v in values) + (batch.codes,))
    grids = {values[0].shape[-2:] for values in parts if values[0] is not None}
    if len(grids) > 1:
        raise ValueError(
            f"level_maps of images in tiles have the grids {sorted(grids)}, because the images "
            "differ in size: pass those of one size at a time."
        )
    columns: list[Any] = [
        None if values[0] is None else np.concatenate(values) for values in zip(*parts, strict=True)
    ]
    likelihood, entropy, lift, location, scale, codes = columns
    is_product = model.normalization == "exponential"
    labels = fitted.classes[codes]
    return LevelMaps(likelihood, entropy, lift, location, scale, is_product, labels)
