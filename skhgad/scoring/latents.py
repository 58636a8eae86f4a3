"""Latent vectors of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..images.views import ViewSource
from .frames import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..features.reader import FeatureReader
    from .fitted import FittedModel


class Latents(NamedTuple):
    """Where the flow puts samples.

    Attributes
    ----------
    vectors : list of ndarray of shape (n_samples, n_positions, n_features)
        One a level of features, ordered by image scale, then stage; float32 for images, float64
        for feature vectors, which have one level of one position. Positions go row by row.
    map_shapes : list of tuple (height, width)
        Of the positions of each level: ``vectors[i].reshape(n_samples, height, width, -1)``.
    class_label : ndarray of shape (n_samples,)
        Class inferred, or given.
    inside : list of ndarray of shape (n_samples, n_positions), bool, or None
        Which positions lie inside the region of interest, or inside the picture where it is padded;
        the others repeat vectors from inside. None: all.
    """

    vectors: list[NDArray[Any]]
    map_shapes: list[tuple[int, int]]
    class_label: NDArray[Any]
    inside: list[NDArray[np.bool_]] | None = None


def latent_batches(
    fitted: FittedModel,
    reader: FeatureReader,
    X: Any,
    codes: NDArray[np.int64] | None = None,
    roi: Any = None,
) -> Iterator[tuple[list[torch.Tensor], NDArray[np.int64]]]:
    """Map samples to the latent spaces, batch by batch.

    Parameters
    ----------
    fitted : FittedModel
    reader : FeatureReader
    X : ndarray or ImageSource
        From `check_scored_X`.
    codes : ndarray of shape (n_samples,), int64, default=None
        Class of each sample; None = inferred, as for scores.
    roi : default=None
        As in `HGADDetector.score_samples`.

    Yields
    ------
    vectors : list of Tensor of shape (n, n_positions, n_features)
        One a level.
    codes : ndarray of shape (n,), int64

    Raises
    ------
    ValueError
        If the detector sees pictures in tiles.
    """
    for vectors, batch_codes, _ in _framed_latents(fitted, reader, X, codes, roi):
        yield vectors, batch_codes


@torch.inference_mode()
def _framed_latents(
    fitted: FittedModel,
    reader: FeatureReader,
    X: Any,
    codes: NDArray[np.int64] | None,
    roi: Any,
) -> Iterator[tuple[list[torch.Tensor], NDArray[np.int64], list[torch.Tensor] | None]]:
    """Yield the same, and which positions lie inside: bool Tensors, one a level, or None."""
    model, n_seen = fitted.on(reader.device), 0
    X, codes = fitted.seen(reader, X, codes, roi)
    for features, inside in _features(reader, X):
        vectors = [level.latent(x)[0] for level, x in zip(model.levels, features, strict=True)]
        if codes is None:
            frame = None if inside is None else Frame(inside, inside[0])
            batch_codes = model.infer_codes(vectors, frame).cpu().numpy()
        else:
            batch_codes = codes[n_seen : n_seen + len(vectors[0])]
        n_seen += len(batch_codes)
        yield vectors, batch_codes, inside


def _features(
    reader: FeatureReader, X: Any
) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor] | None]]:
    if not isinstance(X, ViewSource):
        for features, _ in reader.batches(X):
            yield features, None
        return
    if X.is_tiled:
        raise ValueError(
            "latent vectors of pictures in tiles are not returned, because tiles overlap: cut the "
            "pictures yourself and fit without tile_size, or use level_maps."
        )
    yield from reader.view_batches(X)


def all_latents(
    fitted: FittedModel,
    reader: FeatureReader,
    X: Any,
    codes: NDArray[np.int64] | None = None,
    roi: Any = None,
) -> Latents:
    """Return the latent vectors of all samples; parameters as of `latent_batches`.

    Each batch is written into the result, so that there is one copy of the vectors.
    """
    arrays: list[NDArray[Any]] = []
    found = np.empty(len(X), dtype=np.int64)
    n_seen, insides = 0, []
    for vectors, batch_codes, inside in _framed_latents(fitted, reader, X, codes, roi):
        if inside is not None:
            insides.append([level.cpu().numpy() for level in inside])
        values = [level.cpu().numpy() for level in vectors]
        if not arrays:
            arrays = [np.empty((len(X), *level.shape[1:]), level.dtype) for level in values]
        rows = slice(n_seen, n_seen + len(batch_codes))
        n_seen = rows.stop
        for array, level in zip(arrays, values, strict=True):
            array[rows] = level
        found[rows] = batch_codes
    shapes = [tuple(level.map_shape) for level in fitted.model.levels]
    every = [np.concatenate(level) for level in zip(*insides, strict=True)] if insides else None
    return Latents(arrays, shapes, fitted.classes[found], every)
