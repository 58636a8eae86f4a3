"""Defect masks, read and checked."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps

__all__ = ["check_mask", "load_mask", "verify_mask"]


def load_mask(path: str | os.PathLike[str], size: Sequence[int] | None = None) -> NDArray[np.bool_]:
    """Read a mask: True where a pixel is marked as defect.

    Every value but zero marks a defect (VisA numbers its defect types). In JPEG files, values from
    128 do, because compression leaves noise around zero. An alpha channel is ignored and an EXIF
    rotation applied.

    Parameters
    ----------
    path : str or Path
        The mask file.
    size : tuple (height, width), default=None
        Size to return, by nearest neighbour; None keeps the file's.

    Returns
    -------
    mask : ndarray of bool, shape (height, width)
        The mask.

    Raises
    ------
    ValueError
        If the file cannot be read; the message names it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skhgad.datasets import load_mask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "000_mask.png")
    ...     Image.new("L", (4, 2), color=3).save(path)
    ...     load_mask(path, size=(1, 2))
    array([[ True,  True]])
    """
    try:
        with Image.open(path) as image:
            is_lossy = image.format in ("JPEG", "MPO")
            values = np.asarray(ImageOps.exif_transpose(image))
            has_alpha = image.mode in ("LA", "PA", "RGBA")
    except OSError as error:
        raise ValueError(f"mask {path} cannot be read: {error}") from error
    if values.ndim == 3:
        values = (values[..., :-1] if has_alpha else values).max(axis=-1)
    mask = values >= 128 if is_lossy else values != 0
    if size is not None and tuple(size) != mask.shape:
        height, width = size
        marked = Image.fromarray(mask.astype(np.uint8))
        mask = np.asarray(marked.resize((width, height), Image.Resampling.NEAREST)) != 0
    return mask


def check_mask(
    mask: ArrayLike | os.PathLike[str] | None, shape: tuple[int, int], where: str
) -> NDArray[np.bool_]:
    """Return a mask as a bool array of `shape`: an array, a path, or None for no defect.

    `shape` is that of the anomaly map, `where` names the mask in errors.
    """
    if isinstance(mask, str | os.PathLike):
        return load_mask(mask, size=shape)
    values = np.zeros(shape, dtype=bool) if mask is None else np.asarray(mask)
    if values.shape != shape:
        raise ValueError(
            f"mask ({where}) has shape {values.shape}, its anomaly_map {shape}: resize the "
            "mask by nearest neighbour, or pass its path."
        )
    if values.dtype.kind not in "biu" and not np.isin(values, (0, 1)).all():
        raise ValueError(f"mask ({where}) must be bool, integers, or floats 0 and 1.")
    marked: NDArray[np.bool_] = values != 0
    return marked


def verify_mask(image: str | os.PathLike[str], mask: str | os.PathLike[str]) -> None:
    """Raise ValueError unless an image and its mask have the same displayed size."""
    image_size, mask_size = _displayed_size(image), _displayed_size(mask)
    if image_size != mask_size:
        raise ValueError(
            f"mask {mask} has (height, width) {mask_size}, its image {image} has {image_size}. "
            "Mend the mask, or pass verify=False to take it as it is."
        )


def _displayed_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) after EXIF rotation, from the file's header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # These formats have EXIF in front. For a PNG, Pillow would decode the whole file.
            orientation = 1
            if image.format in {"JPEG", "MPO", "TIFF"}:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    swaps_sides = orientation > 4
    return (width, height) if swaps_sides else (height, width)
