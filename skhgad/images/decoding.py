"""Decode image files, PIL images and arrays to RGB pixels.

Errors start with `name`, such as "X[3] (path/to/file.png)".
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

__all__ = [
    "LONGEST_SIDE",
    "Pixels",
    "array_to_rgb",
    "check_mode",
    "decode_image",
    "image_size",
    "read_file",
]

# In pixels. Resizing takes a weight for every pixel along a side: 16 bytes.
LONGEST_SIDE = 1 << 24

# Shape (height, width, 3): uint8, or float32 in [0, 1].
Pixels: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"

# Raw modes such as "RGB;16B" end in a byte order. "BGR;16" has 5, 6 and 5 bits, and has none.
_DEEP_RAW_MODE = re.compile(r";(12|16|32)[BLN]")


def read_file(path: str, name: str, value_range: tuple[float, float] | None) -> Pixels:
    """Decode an image file, as `ImageSource.read` documents."""
    with ExitStack() as opened:
        with _errors_naming(name):
            file = opened.enter_context(_File(io.FileIO(path)))
            image = opened.enter_context(Image.open(file))
        n_pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
        # Up to twice its limit, Pillow only warns.
        if limit is not None and n_pixels > limit:
            raise ValueError(_too_large(name, f"{n_pixels} pixels, the limit is {limit}"))
        return decode_image(image, name, value_range)


def image_size(item: str | Image.Image) -> tuple[int, int] | None:
    """Return height and width after EXIF rotation, from a header; None where it cannot be read."""
    try:
        with ExitStack() as opened:
            image = item
            if isinstance(item, str):
                file = opened.enter_context(_File(io.FileIO(item)))
                image = opened.enter_context(Image.open(file))
            assert isinstance(image, Image.Image)
            width, height = image.size
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (width, height) if is_turned else (height, width)
    except Exception:  # reading it says what is wrong
        return None


class _File(io.BufferedReader):
    """A file that reads no more bytes than it holds.

    Pillow asks for what a file's header declares, and Python allocates that much memory, however
    small the file. Pillow's messages show this class's name.
    """

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def decode_image(
    image: Image.Image,
    name: str,
    value_range: tuple[float, float] | None,
    lock: AbstractContextManager[Any] | None = None,
) -> Pixels:
    """Decode a PIL image, as `ImageSource.read` documents, and hold `lock` while it is loaded."""
    _check_sides(image.size, name)
    if image.format == "EPS":
        raise ValueError(
            f"{name} is an EPS drawing, for which Pillow would run Ghostscript; convert it to PNG."
        )
    with lock or nullcontext():
        is_rotated = _load(image, name)
    check_mode(image.mode, name, value_range)
    with _errors_naming(name):
        if is_rotated:
            image = ImageOps.exif_transpose(image)
        pixels, is_opaque = _pixels_of(image)
    if not is_opaque:
        raise ValueError(
            f"{name} is partly transparent, and what shows through is unknown; composite it onto "
            'a background, or drop the alpha channel with PIL: image.convert("RGB").'
        )
    return array_to_rgb(pixels, name, value_range)


def _load(image: Image.Image, name: str) -> bool:
    """Check and load the pixels; return whether EXIF rotates them."""
    with _errors_naming(name):
        n_frames = getattr(image, "n_frames", 1)
        is_reduced = _is_reduced(image)  # before loading, which clears the raw mode
    # The first of an MPO, a JPEG of phones, is the picture; previews and gain maps follow.
    if n_frames > 1 and image.format != "MPO":
        raise ValueError(
            f"{name} has {n_frames} frames or pages; save the one to use as a file of its own, "
            "or pass it as an array."
        )
    if is_reduced:
        raise ValueError(
            f"{name} stores more than 8 bits per channel, which Pillow reduces; load it with "
            "another reader as a uint16 array and pass value_range=(low, high)."
        )
    with _errors_naming(name):
        image.load()
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)


def _is_deep(mode: str) -> bool:
    """Tell whether a PIL mode holds more than 8 bits: "F", "I", "I;16", ..."""
    return mode == "F" or mode.startswith("I")


def _is_reduced(image: Image.Image) -> bool:
    """Tell whether Pillow changes the samples: fewer bits, or another white level."""
    tile = next(iter(getattr(image, "tile", [])), None)
    decoder, args = (tile[0], tile[3]) if tile else (None, None)
    if image.format == "PPM" and isinstance(args, tuple) and args[1] > 255:
        white = args[1]
        return not (_is_deep(image.mode) and white == 65535)
    if _is_deep(image.mode):
        return False
    raw_mode = args if isinstance(args, str) else str(args[0]) if args else ""
    bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (8,))
    return bool(_DEEP_RAW_MODE.search(raw_mode)) or decoder == "SGI16" or max(bits) > 8


def _pixels_of(image: Image.Image) -> tuple[NDArray[Any], bool]:
    """Return the pixels, RGB or deep grey, and whether all are opaque."""
    if _is_deep(image.mode):
        pixels = np.asarray(image)
        transparent_level = image.info.get("transparency")
        return pixels, transparent_level is None or not np.any(pixels == transparent_level)
    is_opaque = True
    if image.has_transparency_data:
        image = image.convert("RGBA")
        is_opaque = image.getchannel("A").getextrema()[0] == 255
    return np.asarray(image.convert("RGB")), is_opaque


def array_to_rgb(
    array: NDArray[Any],
    name: str,
    value_range: tuple[float, float] | None,
    n_channels: int = 3,
) -> Pixels:
    """Return an array of shape (h, w), (h, w, 1) or (h, w, 3) as new RGB pixels.

    With another `n_channels`, an array (h, w, n_channels) keeps its channels.
    """
    _check_sides(array.shape[1::-1], name)
    if n_channels != 3:
        array = array if array.ndim == 3 else array[:, :, None]
        if array.dtype != np.uint8:
            array = _to_unit_range(array, name, value_range)
        return np.array(array, order="C")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8:
        array = _to_unit_range(array, name, value_range)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return np.array(array, order="C")


def _to_unit_range(
    array: NDArray[Any], name: str, value_range: tuple[float, float] | None
) -> NDArray[np.float32]:
    is_finite = np.isfinite(array)
    if not is_finite.all():
        where = tuple(int(k) for k in np.argwhere(~is_finite)[0])
        raise ValueError(
            f"{name} holds {array[where]} at {where}, one of {np.sum(~is_finite)} NaN or infinite "
            "pixel values; replace them before passing the image."
        )
    if value_range is not None:
        low, high = value_range
        # float32 cannot hold every 32-bit integer.
        return np.clip((array.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)
    if array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"{name} has floats from {array.min():.6g} to {array.max():.6g}; without value_range "
            "they must lie in [0, 1]. Divide by the white level, clip, or pass "
            "value_range=(low, high)."
        )
    return array.astype(np.float32)


def check_mode(mode: str, name: str, value_range: tuple[float, float] | None) -> None:
    """Raise ValueError if a PIL mode lacks the value range it needs."""
    if _is_deep(mode):
        depth = {"F": "32-bit float", "I": "32-bit integer"}.get(mode, "16-bit integer")
        require_value_range(f"{name} has {depth} pixels (PIL mode {mode})", value_range)


def require_value_range(subject: str, value_range: tuple[float, float] | None) -> None:
    """Raise ValueError if there is no value range; `subject` says what needs one."""
    if value_range is None:
        raise ValueError(
            f"{subject}, so its black and white levels are unknown; pass value_range=(low, high), "
            "e.g. (0, 4095) for a 12-bit camera or (0, 65535) for the full 16-bit range; on the "
            "command line, fit with --set 'value_range=(0, 65535)'."
        )


def _check_sides(sides: tuple[int, ...], name: str) -> None:
    """Raise ValueError if `sides`, (width, height), are too long to be resized."""
    if max(sides) > LONGEST_SIDE:
        raise ValueError(
            f"{name} is too long: {sides[0]} x {sides[1]} pixels (width x height), the limit is "
            f"{LONGEST_SIDE} a side. Cut it into several pictures."
        )


@contextmanager
def _errors_naming(name: str) -> Iterator[None]:
    """Name the image in errors of Pillow, whose plugins raise nearly any type."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} no longer exists.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(_too_large(name, str(error))) from error
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:  # its text holds an object of Python's
        raise ValueError(
            f"{name} cannot be read as an image: its format is not known. It may be truncated, "
            "protected, or no image at all. Replace it or leave it out of X."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{name} cannot be read as an image ({type(error).__name__}: {error}); it may be "
            "truncated, protected, or no image at all. Replace it or leave it out of X."
        ) from error


def _too_large(name: str, size: str) -> str:
    return (
        f"{name} is too large: {size.rstrip('.')}. Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS "
        "if you trust the file."
    )
