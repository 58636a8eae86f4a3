"""Masks of known defects: which pixels they mark, and which positions of feature maps."""

import os

import numpy as np
import torch

from ..datasets.masks import load_mask
from ..images.layout import by_tile, cell_edges, shares, whole


def check_masks(masks, codes, *, takes_images):
    """Return the masks of the known anomalies, a list of None or bool ndarrays (height, width).

    Parameters
    ----------
    masks : sequence of None, path or array-like of shape (height, width), or None
        One for each sample; None = there are none.
    codes : ndarray of shape (n_samples,), int
        -1 for a known anomaly, as from `check_y`.
    takes_images : bool
        Whether the samples are images.

    Returns
    -------
    list or None
        None where no known anomaly has a mask.

    Raises
    ------
    ValueError
        If their number is not that of the samples, the samples are vectors, a mask cannot be read
        or is none, marks nothing on a known anomaly, or something on a normal sample.
    TypeError
        If `masks` is a single path, or no sequence.
    """
    if masks is None:
        return None
    if isinstance(masks, str | os.PathLike) or not hasattr(masks, "__len__"):
        raise TypeError(
            f"masks must hold one mask for each sample, or None where there is none; got "
            f"{type(masks).__name__}."
        )
    masks = list(masks)
    if len(masks) != len(codes):
        raise ValueError(f"masks has {len(masks)} entries, X has {len(codes)} samples.")
    if not takes_images:
        raise ValueError("masks mark pixels of images, but X holds feature vectors: leave it out.")
    found = [_read(mask, i) for i, mask in enumerate(masks)]
    for i, (mask, code) in enumerate(zip(found, codes, strict=True)):
        if mask is None or mask.any() == (code < 0):
            continue
        name = f"masks[{i}]"
        if isinstance(masks[i], str | os.PathLike):
            name += f" ({os.fspath(masks[i])})"
        if code < 0:
            raise ValueError(
                f"{name} marks no pixel, but y[{i}] is a known anomaly: pass None where its "
                "defect is not marked."
            )
        raise ValueError(
            f"{name} marks pixels of a sample that y labels as normal: label it -1 if it is a "
            "known anomaly, else pass None."
        )
    found = [found[i] for i in np.flatnonzero(codes < 0)]
    return found if any(mask is not None for mask in found) else None


def check_mask_sizes(masks, rows, sizes):
    """Raise ValueError unless the masks have the (height, width) of their images, (n, 2).

    `rows` are the numbers of the samples in X.
    """
    for mask, row, size in zip(masks, rows, sizes, strict=True):
        if mask is not None and mask.shape != tuple(size):
            raise ValueError(
                f"masks[{row}] has (height, width) {mask.shape}, its image X[{row}] has "
                f"{tuple(map(int, size))}."
            )


def marked_positions(masks, shapes):
    """Return which positions of each level masks mark.

    A position is marked if a mask covers at least half as much of it as of the position that it
    covers most.

    Parameters
    ----------
    masks : list of None or ndarray of shape (height, width), bool
    shapes : list of tuples (n_features, height, width)

    Returns
    -------
    list of Tensor of shape (n_masks, n_positions), bool
        One a level; everywhere True without a mask.
    """
    return [
        torch.stack([_positions(mask, map_shape) for mask in masks]) for _, *map_shape in shapes
    ]


def _positions(mask, map_shape):
    if mask is None:
        return torch.ones(map_shape, dtype=torch.bool).flatten()
    return torch.from_numpy(_most_covered(mask, whole(mask.shape), tuple(map_shape))[0])


def marked_views(masks, views, rows):
    """Return which positions of each view masks mark, of some pictures of a ViewSource.

    What lies outside the region of a picture is not marked.

    Parameters
    ----------
    masks : list of None or ndarray of shape (height, width), bool
    views : ViewSource
    rows : ndarray of shape (n_masks,), int
        Numbers of the pictures.

    Returns
    -------
    list of None, or list of Tensor of shape (n_views, n_positions), bool
        One a picture: a Tensor a level, see `marked_positions`; or None where the mask marks
        nothing inside.
    """
    found = []
    for mask, row in zip(masks, rows.tolist(), strict=True):
        layout, inside, region = views.layout(row), views.inside(row), views.mask(row)
        if mask is not None:
            part = mask if region is None else mask & region
            inside = [
                _most_covered(part, layout, shape, chosen)
                for shape, chosen in zip(views.map_shapes, inside, strict=True)
            ]
        tiles = views.tile_of[views.picture_of == row]
        levels = [torch.from_numpy(chosen[tiles]) for chosen in inside]
        found.append(levels if all(level.any() for level in levels) else None)
    return found


def _most_covered(mask, layout, map_shape, inside=None):
    """Return which cells inside a mask covers most, bool (n_tiles, n_positions)."""
    covered = by_tile(shares(layout, cell_edges(layout, map_shape), mask), layout)
    if inside is not None:
        covered = np.where(inside, covered, 0)
    most = covered.max()
    # A little below half, because shares are rounded sums.
    return covered >= 0.5 * most * (1 - 1e-9) if most > 0 else np.zeros_like(covered, dtype=bool)


def _read(mask, i):
    """Return mask i as a bool ndarray, or None."""
    if mask is None:
        return None
    if isinstance(mask, str | os.PathLike):
        try:
            return load_mask(mask)
        except (OSError, ValueError) as error:
            raise ValueError(f"masks[{i}]: {error}") from error
    values = np.asarray(mask)
    is_number = values.dtype.kind in "biu" or (
        values.dtype.kind == "f" and np.isin(values, (0, 1)).all()
    )
    if values.ndim != 2 or not is_number:
        raise ValueError(
            f"masks[{i}] must be None, a path, or an array (height, width) of bool, integers, or "
            f"floats 0 and 1; got shape {values.shape} of {values.dtype}."
        )
    return values != 0
