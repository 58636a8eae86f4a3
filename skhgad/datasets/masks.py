"""Defect masks, read and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps

__all__ = ["IMAGE_ENDINGS", "check_mask", "load_mask", "mask_files", "mask_values", "verify_mask"]

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def load_mask(path: str | os.PathLike[str], size: Sequence[int] | None = None) -> NDArray[np.bool_]:
    """Read a mask: True where a pixel is marked as defect.

    Every value but zero marks a defect (VisA numbers its defect types). In JPEG files, values from
    128 do, because compression leaves noise around zero. An alpha channel is ignored and an EXIF
    rotation applied.

    Parameters
    ----------
    path : str or Path
        The mask file; or a folder of masks of one image, of which any may mark a pixel (MVTec LOCO
        AD).
    size : tuple (height, width), default=None
        Size to return, by nearest neighbour; None keeps the file's.

    Returns
    -------
    mask : ndarray of bool, shape (height, width)
        The mask.

    Raises
    ------
    ValueError
        If a file cannot be read, is larger than `PIL.Image.MAX_IMAGE_PIXELS`, or differs in size
        from others of its folder; the message names it.

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
    mask = _load_union(Path(path)) if os.path.isdir(path) else mask_values(path) != 0
    if size is not None and tuple(size) != mask.shape:
        height, width = size
        marked = Image.fromarray(mask.astype(np.uint8))
        mask = np.asarray(marked.resize((width, height), Image.Resampling.NEAREST)) != 0
    return mask


def mask_values(path: str | os.PathLike[str]) -> NDArray[np.generic]:
    """Return the values of a mask file, of shape (height, width), noise of JPEG files removed."""
    with _errors_naming(f"mask {path} cannot be read"):
        with _opened(path) as image:
            return values_of_image(image)


def values_of_image(image: Image.Image) -> NDArray[np.generic]:
    """Do what `mask_values` does for a PIL image."""
    is_lossy = image.format in ("JPEG", "MPO")
    turned = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA"):
        return _values_of_palette(turned)
    values = np.asarray(turned)
    if values.ndim == 3:
        has_alpha = image.mode in ("LA", "RGBA")
        values = (values[..., :-1] if has_alpha else values).max(axis=-1)
    return values >= 128 if is_lossy else values


def _values_of_palette(image: Image.Image) -> NDArray[np.generic]:
    """Return the largest channel of each colour, because an index 0 may stand for white.

    The index itself where colours do not tell a background, which is black: none is black, or all
    are.
    """
    colours = np.asarray(image.convert("RGB")).max(axis=-1)
    indices = np.asarray(image if image.mode == "P" else image.getchannel(0))
    is_black = colours == 0
    if is_black.all() or (not is_black.any() and indices.min() != indices.max()):
        return indices
    return colours


def mask_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the masks in a folder of one image's masks, sorted; ValueError if there is none."""
    files = [file for file in Path(folder).iterdir() if file.suffix.lower() in IMAGE_ENDINGS]
    if not files:
        raise ValueError(f"mask {folder} cannot be read: the folder holds no image.")
    return sorted(files)


def _load_union(folder: Path) -> NDArray[np.bool_]:
    """Return where any mask of a folder marks a pixel."""
    first, *others = mask_files(folder)
    union: NDArray[np.bool_] = mask_values(first) != 0
    for file in others:
        mask = mask_values(file) != 0
        if mask.shape != union.shape:
            raise ValueError(
                f"mask {file} has (height, width) {mask.shape}, {first} of the same image has "
                f"{union.shape}."
            )
        union = union | mask
    return union


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
    """Raise ValueError unless an image and its mask have the same displayed size.

    An image that cannot be read has none: who reads it hears why.
    """
    mask_size = _displayed_size(mask)
    try:
        image_size = _displayed_size(image)
    except ValueError:
        return
    if image_size != mask_size:
        raise ValueError(
            f"mask {mask} has (height, width) {mask_size}, its image {image} has {image_size}. "
            "Mend the mask, or pass verify=False to take it as it is."
        )


def _displayed_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) after EXIF rotation, from the file's header alone."""
    with _errors_naming(f"{path} cannot be read as an image"):
        with _opened(path) as image:
            width, height = image.size
            # These formats have EXIF in front. For a PNG, Pillow would decode the whole file.
            orientation = 1
            if image.format in {"JPEG", "MPO", "TIFF"}:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    swaps_sides = orientation > 4
    return (width, height) if swaps_sides else (height, width)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image; raise ValueError if it has more pixels than Pillow's limit."""
    advice = "Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file."
    try:
        image = Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{str(error).rstrip('.')}. {advice}") from error
    with image:
        n_pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
        # Up to twice its limit, Pillow only warns.
        if limit is not None and n_pixels > limit:
            raise ValueError(f"it has {n_pixels} pixels, the limit is {limit}. {advice}")
        yield image


@contextmanager
def _errors_naming(problem: str) -> Iterator[None]:
    """Begin errors with `problem`, which names the file; Pillow's plugins raise nearly any type."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{problem}: {error}") from error
