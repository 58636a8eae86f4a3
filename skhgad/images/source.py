"""The images a user passes, checked before anything is decoded."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .decoding import (
    Pixels,
    array_to_rgb,
    check_mode,
    decode_image,
    image_size,
    read_file,
    require_value_range,
)

__all__ = ["ImageSource"]

LARGEST_VALUE = 1e30  # of `value_range`
# Two threads must not load one lazily opened PIL image at once.
_SHARED_IMAGE_LOCK = threading.Lock()


class ImageSource:
    """A validated, lazy and picklable sequence of images.

    The constructor checks that paths exist and that arrays have a usable shape and dtype. It
    decodes nothing; everything else is checked when an image is read.

    Parameters
    ----------
    images : ndarray of shape (n, height, width) or (n, height, width, channels), or sequence
        An array of grey (channels absent or 1) or RGB (channels 3) images; or a list, tuple,
        1-D array or Series of file paths, PIL images and single image arrays of shape (h, w),
        (h, w, 1) or (h, w, 3), whose sizes and kinds may differ.
    value_range : tuple (low, high), default=None
        The pixel values of black and white. Images that are not 8-bit are scaled to
        ``(x - low) / (high - low)`` and clipped to [0, 1]; 8-bit images stay as they are. Without
        it, deeper integers and files of floats are refused, and float arrays must lie in [0, 1].
    n_channels : int, default=3
        Any other number takes arrays whose last axis is so long, and neither files nor PIL images;
        with 1 also arrays (h, w).

    Raises
    ------
    TypeError
        If an element is no image, or has a boolean, complex or other unsuitable dtype.
    ValueError
        If the input or a file is empty, channels come first or include alpha, a path is a folder,
        or a ``value_range`` is missing.
    FileNotFoundError
        If a path does not exist.

    Notes
    -----
    Pillow reduces some 16-bit colour files to 8 bits. Such PNG, TIFF, PPM and SGI files are
    refused. It goes unnoticed in JPEG 2000 and AVIF files, and in PIL images already loaded from
    a PNG, PPM or SGI file.

    Examples
    --------
    >>> import numpy as np
    >>> source = ImageSource([np.zeros((4, 6)), np.full((2, 2, 3), 255, dtype=np.uint8)])
    >>> len(source), source.name(1), int(source.read(1).max())
    (2, 'X[1]', 255)
    """

    _items: NDArray[Any] | list[Any]

    def __init__(
        self,
        images: ArrayLike | Sequence[str | os.PathLike[str] | Image.Image | ArrayLike],
        *,
        value_range: tuple[float, float] | None = None,
        n_channels: int = 3,
    ) -> None:
        self.value_range = check_value_range(value_range)
        self.n_channels = n_channels
        items: Any = images
        if not isinstance(items, (list, tuple)):
            items = _as_array(items, "X")
            if items.ndim == 1:
                items = items.tolist()
        if isinstance(items, np.ndarray):
            _check_array(items, "X", self.value_range, stack=True, n_channels=n_channels)
            self._items = items
            return
        if len(items) == 0:
            raise ValueError("X is empty; pass at least one image.")
        self._items = [os.fspath(x) if isinstance(x, os.PathLike) else x for x in items]
        missing = [i for i, item in enumerate(self._items) if not self._check_item(i, item)]
        if missing:
            raise FileNotFoundError(
                f"{self.name(missing[0])} does not exist ({len(missing)} of {len(self._items)} "
                f"images are missing). Relative paths start from {os.getcwd()!r}."
            )

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"ImageSource(n_images={len(self)}, value_range={self.value_range})"

    def name(self, i: int) -> str:
        """Return image `i`'s name in messages: "X[3]" or "X[3] (path/to/file.png)"."""
        item = self._items[i]
        path = item if isinstance(item, str) else getattr(item, "filename", "")
        return f"X[{i}] ({path})" if path else f"X[{i}]"

    def read(self, i: int) -> Pixels:
        """Decode image `i`.

        Returns
        -------
        ndarray of shape (height, width, 3)
            RGB; uint8, or float32 in [0, 1]. A new array, never a view of the input.

        Raises
        ------
        ValueError
            If the image is unreadable, animated, partly transparent, larger than
            `PIL.Image.MAX_IMAGE_PIXELS` (files), longer than 16,777,216 pixels a side, or holds
            NaN, infinity or values out of range.
        FileNotFoundError
            If the file was removed after the source was built.
        """
        item, name = self._items[i], self.name(i)
        if isinstance(item, str):
            return read_file(item, name, self.value_range)
        if isinstance(item, Image.Image):
            return decode_image(item, name, self.value_range, lock=_SHARED_IMAGE_LOCK)
        return array_to_rgb(_as_array(item, name), name, self.value_range, self.n_channels)

    def size(self, i: int) -> tuple[int, int]:
        """Return height and width of image `i`, after EXIF rotation; files are not decoded.

        Raises as `read` where that takes reading the image.
        """
        item = self._items[i]
        if not isinstance(item, (str, Image.Image)):
            height, width = np.shape(item)[:2]
            return height, width
        size = image_size(item)
        if size is None:
            height, width = self.read(i).shape[:2]
            return height, width
        return size

    def _check_item(self, i: int, item: Any) -> bool:
        """Check an element without decoding it; return False for a missing file."""
        name = f"X[{i}]"
        if self.n_channels != 3 and isinstance(item, (str, Image.Image)):
            raise ValueError(
                f"{self.name(i)} is read as RGB, but this backbone takes {self.n_channels} "
                f"channels: pass arrays (h, w, {self.n_channels})."
            )
        if isinstance(item, str):
            return _check_path(item, f"{name} ({item})")
        if isinstance(item, Image.Image):
            if 0 in item.size:
                raise ValueError(f"{name} is an empty PIL image, {item.size[0]} x {item.size[1]}.")
            check_mode(item.mode, self.name(i), self.value_range)
        elif hasattr(item, "__array__") and not isinstance(item, np.generic):
            array = _as_array(item, name)
            _check_array(array, name, self.value_range, stack=False, n_channels=self.n_channels)
            self._items[i] = array
        else:
            raise TypeError(
                f"{name} is {item!r:.80} ({type(item).__name__}), not an image; each element must "
                "be a file path (str or Path), a PIL image, or an array of shape (h, w), (h, w, 1) "
                "or (h, w, 3). Remove it or replace it."
            )
        return True


def check_value_range(value_range: Any) -> tuple[float, float] | None:
    """Return the pixel values of black and white as two floats, or None.

    Raises TypeError or ValueError unless they are None, or two finite numbers, the lower first.
    """
    if value_range is None:
        return None
    try:
        low, high = value_range
    except (TypeError, ValueError):
        low = high = None
    if not (isinstance(low, Real) and isinstance(high, Real)):
        raise TypeError(
            f"value_range must be None or two numbers (low, high), got {value_range!r}."
        )
    black, white = float(low), float(high)
    if not (abs(black) <= LARGEST_VALUE and abs(white) <= LARGEST_VALUE and black < white):
        raise ValueError(f"value_range must be finite with low < high, got {value_range!r:.80}.")
    return black, white


def _as_array(images: Any, name: str) -> NDArray[Any]:
    try:
        is_masked = np.ma.is_masked(images)
        array = np.asarray(images)
    except Exception as error:
        raise TypeError(
            f"{name} is a {type(images).__name__} that NumPy cannot turn into an array ({error}); "
            "pass a NumPy array, a list of paths, or a list of PIL images."
        ) from error
    if is_masked:
        raise ValueError(f"{name} has masked pixels; fill them, e.g. with {name}.filled(0).")
    return array


def _check_array(
    array: NDArray[Any],
    name: str,
    value_range: tuple[float, float] | None,
    *,
    stack: bool,
    n_channels: int = 3,
) -> None:
    kind = array.dtype.kind
    if kind == "b":
        raise TypeError(f"{name} is boolean; pass {name}.astype(np.uint8) * 255.")
    if kind not in "iuf":
        raise TypeError(
            f"{name} has dtype {array.dtype}; images must be uint8, floats in [0, 1], or, with "
            "value_range=(low, high), any integers or floats."
        )
    if n_channels == 3:
        _check_shape(array.shape, name, stack=stack)
    else:
        _check_channels(array.shape, name, n_channels, stack=stack)
    if kind in "iu" and array.dtype != np.uint8:
        require_value_range(f"{name} has dtype {array.dtype}", value_range)


def _check_channels(shape: tuple[int, ...], name: str, n_channels: int, *, stack: bool) -> None:
    """Check the shape of pictures of another number of channels than three."""
    image = shape[1:] if stack else shape
    fits = len(image) == 3 and image[-1] == n_channels
    if n_channels == 1 and len(image) == 2:
        fits = True
    if not fits or 0 in shape:
        expected = f"({'n, ' if stack else ''}h, w, {n_channels})"
        raise ValueError(
            f"{name} has shape {shape}; expected {expected}, because the mean in the backbone's "
            f"pretrained_cfg has {n_channels} values, and no axis empty."
        )


def _check_shape(shape: tuple[int, ...], name: str, *, stack: bool) -> None:
    image = shape[1:] if stack else shape
    expected = (
        "(n, h, w), (n, h, w, 1) or (n, h, w, 3)" if stack else "(h, w), (h, w, 1) or (h, w, 3)"
    )
    if len(image) not in (2, 3) or 0 in shape:
        raise ValueError(f"{name} has shape {shape}; expected {expected}, and no axis empty.")
    if stack and len(image) == 2 and image[-1] in (3, 4):
        raise ValueError(
            f"{name} has shape {shape}, like one colour image without its batch axis; pass "
            f"{name}[None], or {name}[..., None] for grey images {image[-1]} pixels wide."
        )
    if len(image) == 3 and image[-1] not in (1, 3):
        remedy = _channel_remedy(image, name, stack=stack)
        raise ValueError(f"{name} has shape {shape}; expected {expected}: {remedy}.")


def _channel_remedy(image: tuple[int, ...], name: str, *, stack: bool) -> str:
    """Return what to do about a last axis that is neither grey nor RGB."""
    if image[0] in (1, 3, 4) and image[-1] != 4:
        axes = "(0, 2, 3, 1)" if stack else "(1, 2, 0)"
        return f"the channels seem to come first; pass {name}.transpose{axes}"
    if image[-1] == 4:
        return f"an alpha channel is not used; composite it, or pass {name}[..., :3]"
    return f"{image[-1]} channels are neither grey nor RGB"


def _check_path(path: str, name: str) -> bool:
    """Return whether the path exists; raise ValueError unless it is a file with content."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} is not accessible: {error}. Correct the path or rights."
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(
            f"{name} is a folder, not an image; pass the paths of its files, as in "
            f"skhgad.datasets.load_folder({path!r}).images."
        )
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{name} is not a regular file; pass the path of an image file.")
    if status.st_size == 0:
        raise ValueError(f"{name} is an empty file (0 bytes); restore it or leave it out of X.")
    return True
