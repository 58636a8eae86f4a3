"""Images as scikit-learn input: checked, read lazily, decoded and resized in parallel.

Files, PIL images and arrays all end as the same RGB pixels, so that a picture scores the same
however it was handed over. Whatever would have to be guessed (16-bit ranges, real transparency,
which frame of an animation) is refused, with the name of the image and the remedy.
"""

import io
import os
import re
import stat
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from PIL import Image, ImageOps

__all__ = ["ImageBatch", "ImageSource", "iter_batches"]

_ORIENTATION = 0x0112  # EXIF tag
_BITS_PER_SAMPLE = 258  # TIFF tag
# Raw modes such as "RGB;16B" carry a byte order; "BGR;16" is a 5-6-5 bit picture and does not.
_DEEP_RAW_MODE = re.compile(r";(12|16|32)[BLN]")
# PIL loads a lazily opened image on first use, which two threads must not do at once.
_SHARED_IMAGE_LOCK = threading.Lock()


class ImageBatch(NamedTuple):
    """One batch of decoded and resized images.

    Attributes
    ----------
    indices : ndarray of shape (b,), dtype int64
        Positions of the images in their source.
    pixels : ndarray of shape (b, 3, h, w), dtype float32
        RGB in [0, 1], C-contiguous, owned by the caller.
    sizes : list of b tuples (H, W)
        Height and width in pixels before resizing, after EXIF rotation.
    """

    indices: np.ndarray
    pixels: np.ndarray
    sizes: list


class ImageSource:
    """A validated, lazy and picklable sequence of images.

    Building one decodes nothing: paths are checked to exist and arrays to have a usable shape
    and dtype; everything else is checked when an image is read.

    Parameters
    ----------
    images : ndarray of shape (n, height, width) or (n, height, width, channels), or sequence
        An array of grey (channels absent or 1) or RGB (channels 3) images; or a list, tuple,
        1-D array or Series of file paths, PIL images and single image arrays of shape (h, w),
        (h, w, 1) or (h, w, 3), whose sizes and kinds may differ.
    value_range : tuple (low, high), default=None
        The pixel values that mean black and white. Scales every image that is not 8-bit to
        ``(x - low) / (high - low)``, clipped to [0, 1]. 8-bit pixels always mean 0..255 and are
        left alone. Without it, integers of more than 8 bits and files of floats are refused,
        and float arrays must lie in [0, 1].

    Raises
    ------
    TypeError
        An element is no image; boolean, complex or other unsuitable dtype.
    ValueError
        Empty input, channels first, an alpha channel, an empty file, a folder, a missing
        ``value_range``.
    FileNotFoundError
        A path does not exist.

    Notes
    -----
    Pillow reduces some 16-bit colour files to 8 bits. PNG, TIFF, PPM and SGI files are caught
    and refused; Pillow leaves no trace of it for JPEG 2000 and AVIF, nor for a PNG, PPM or SGI
    file handed over as an already loaded PIL image.

    Examples
    --------
    >>> import numpy as np
    >>> source = ImageSource([np.zeros((4, 6)), np.full((2, 2, 3), 255, dtype=np.uint8)])
    >>> len(source), source.name(1), int(source.read(1).max())
    (2, 'X[1]', 255)
    """

    def __init__(self, images, *, value_range=None):
        self.value_range = _check_value_range(value_range)
        if not isinstance(images, (list, tuple)):
            images = _as_array(images, "X")
            if images.ndim == 1:
                images = images.tolist()
        if isinstance(images, np.ndarray):
            _check_array(images, "X", self.value_range, stack=True)
            self._items = images
            return
        if len(images) == 0:
            raise ValueError("X is empty; pass at least one image.")
        self._items = [os.fspath(x) if isinstance(x, os.PathLike) else x for x in images]
        missing = [i for i, item in enumerate(self._items) if not self._check_item(i, item)]
        if missing:
            raise FileNotFoundError(
                f"{self.name(missing[0])} does not exist ({len(missing)} of {len(self._items)} "
                f"images are missing). Relative paths start from {os.getcwd()!r}."
            )

    def __len__(self):
        """Return the number of images."""
        return len(self._items)

    def __repr__(self):
        """Return the number of images and their value range."""
        return f"ImageSource(n_images={len(self)}, value_range={self.value_range})"

    def name(self, i):
        """Return how messages call image `i`: "X[3]" or "X[3] (path/to/file.png)"."""
        item = self._items[i]
        path = item if isinstance(item, str) else getattr(item, "filename", "")
        return f"X[{i}] ({path})" if path else f"X[{i}]"

    def read(self, i):
        """Decode image `i`.

        Returns
        -------
        ndarray of shape (height, width, 3)
            RGB; uint8, or float32 in [0, 1]. A fresh array, never a view of the input.

        Raises
        ------
        ValueError
            The image is unreadable, animated, really transparent, larger than
            `PIL.Image.MAX_IMAGE_PIXELS`, or holds NaN, infinity or values out of range.
        FileNotFoundError
            The file has vanished since the source was built.
        """
        item, name = self._items[i], self.name(i)
        if isinstance(item, str):
            return _read_file(item, name, self.value_range)
        if isinstance(item, Image.Image):
            return _decode(item, name, self.value_range, lock=_SHARED_IMAGE_LOCK)
        return _array_to_rgb(_as_array(item, name), name, self.value_range)

    def _check_item(self, i, item):
        """Check what needs no decoding; return whether the item exists."""
        name = f"X[{i}]"
        if isinstance(item, str):
            return _check_path(item, f"{name} ({item})")
        if isinstance(item, Image.Image):
            if 0 in item.size:
                raise ValueError(f"{name} is an empty PIL image, {item.size[0]} x {item.size[1]}.")
            _check_mode(item.mode, self.name(i), self.value_range)
        elif hasattr(item, "__array__") and not isinstance(item, np.generic):
            array = _as_array(item, name)
            _check_array(array, name, self.value_range, stack=False)
            self._items[i] = array
        else:
            raise TypeError(
                f"{name} is {item!r:.80} ({type(item).__name__}), not an image; each element must "
                "be a file path (str or Path), a PIL image, or an array of shape (h, w), (h, w, 1) "
                "or (h, w, 3). Remove it or replace it."
            )
        return True


def iter_batches(source, *, size, batch_size, n_jobs=None, indices=None):
    """Decode, resize and batch images, a bounded number ahead of the caller.

    Threads work on the next images while the caller uses the present ones; at most two groups
    of max(`batch_size`, about 2 * `n_jobs`) images are held. With one job nothing is read ahead.
    Resizing is Pillow's antialiased bilinear filter; an image of the right size is not touched.

    Parameters
    ----------
    source : ImageSource
        The images.
    size : tuple (h, w)
        Height and width in pixels of every image of the batches.
    batch_size : int
        Images per batch; the last batch may be smaller.
    n_jobs : int, default=None
        Number of joblib threads; None means 1 unless in a `joblib.parallel_config` context.
    indices : array-like of int or mask, default=None
        Positions to read, in this order, as NumPy indexes; None means all.

    Returns
    -------
    generator of ImageBatch
        Batches in the order of `indices`. Closing it early stops the pending work.

    Raises
    ------
    ValueError, FileNotFoundError
        As `ImageSource.read` does; the error names the image, and is raised when its batch is due.

    Examples
    --------
    >>> import numpy as np
    >>> source = ImageSource(np.zeros((3, 8, 8), dtype=np.uint8))
    >>> [batch.pixels.shape for batch in iter_batches(source, size=(4, 4), batch_size=2)]
    [(2, 3, 4, 4), (1, 3, 4, 4)]
    """
    size = tuple(size)
    if len(size) != 2 or not all(isinstance(n, Integral) and n > 0 for n in (*size, batch_size)):
        raise ValueError(
            "size must be two positive integers (height, width) and batch_size one, got "
            f"size={size} and batch_size={batch_size!r}."
        )
    positions = np.arange(len(source), dtype=np.int64)
    positions = positions if indices is None else np.atleast_1d(positions[indices])
    return _generate_batches(source, size, int(batch_size), n_jobs, positions)


def _generate_batches(source, size, batch_size, n_jobs, indices):
    stop = threading.Event()

    def load(index):
        # An error travels as a value: joblib then neither wraps it nor warns about the others.
        if stop.is_set():
            return None
        try:
            pixels = source.read(index)
            return _resize(pixels, size), pixels.shape[:2]
        except Exception as error:
            return error

    # joblib's generator starts a new task when one ends, not when a result is used, so a slow
    # caller would pile up images. One call per chunk keeps the bound.
    n_threads = effective_n_jobs(n_jobs)
    n_ahead = 2 * n_threads if n_threads > 1 else 1
    chunk = batch_size * -(-max(n_ahead, batch_size) // batch_size)
    # sharedmem rather than prefer="threads", which the backend of a parallel_config overrides:
    # `load` must not go to other processes.
    threads = Parallel(n_jobs, require="sharedmem", return_as="generator", pre_dispatch="all")
    with threads as parallel:
        pending = parallel(delayed(load)(i) for i in indices[:chunk].tolist())
        try:
            for start in range(0, len(indices), chunk):
                loaded = list(pending)
                ahead = indices[start + chunk : start + 2 * chunk].tolist()
                pending = parallel(delayed(load)(i) for i in ahead)
                for first in range(0, len(loaded), batch_size):
                    batch = loaded[first : first + batch_size]
                    at = indices[start + first : start + first + len(batch)].copy()
                    yield ImageBatch(at, *_collate(batch, size))
        finally:
            # Emptied rather than dropped, because joblib warns about unused results.
            stop.set()
            for _ in pending:
                pass


def _collate(batch, size):
    pixels = np.empty((len(batch), 3, *size), dtype=np.float32)
    for row, image in zip(pixels, batch, strict=True):
        if isinstance(image, Exception):
            raise image
        row[...] = image[0]
    return pixels, [image[1] for image in batch]


def _resize(pixels, size):
    """Return float32 (3, h, w) in [0, 1], resized by Pillow's antialiased bilinear filter."""
    is_uint8 = pixels.dtype == np.uint8
    if pixels.shape[:2] != size:
        planes = [pixels] if is_uint8 else [pixels[..., channel] for channel in range(3)]
        resized = [np.asarray(_filter(Image.fromarray(plane), size)) for plane in planes]
        pixels = resized[0] if is_uint8 else np.stack(resized, axis=2)
    pixels = np.moveaxis(pixels, 2, 0)
    return pixels.astype(np.float32) / np.float32(255) if is_uint8 else pixels


def _filter(image, size):
    # Across, then down: since Pillow 13 the order of a single call depends on the sizes, and 8-bit
    # pixels are rounded in between.
    for step in ((size[1], image.height), size[::-1]):
        image = image.resize(step, Image.Resampling.BILINEAR)
    return image


def _check_value_range(value_range):
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
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"value_range must be finite with low < high, got {value_range!r}.")
    return float(low), float(high)


def _as_array(images, name):
    try:
        masked = np.ma.is_masked(images)
        array = np.asarray(images)
    except Exception as error:
        raise TypeError(
            f"{name} is a {type(images).__name__} that NumPy cannot turn into an array ({error}); "
            "pass a NumPy array, a list of paths, or a list of PIL images."
        ) from error
    if masked:
        raise ValueError(f"{name} has masked pixels; fill them, e.g. with {name}.filled(0).")
    return array


def _check_array(array, name, value_range, *, stack):
    """Check dtype and shape of one image, or of a stack of them."""
    shape, kind = array.shape, array.dtype.kind
    image = shape[1:] if stack else shape
    wanted = (
        "(n, h, w), (n, h, w, 1) or (n, h, w, 3)" if stack else "(h, w), (h, w, 1) or (h, w, 3)"
    )
    if kind == "b":
        raise TypeError(f"{name} is boolean; pass {name}.astype(np.uint8) * 255.")
    if kind not in "iuf":
        raise TypeError(
            f"{name} has dtype {array.dtype}; images must be uint8, floats in [0, 1], or, with "
            "value_range=(low, high), any integers or floats."
        )
    if len(image) not in (2, 3) or 0 in shape:
        raise ValueError(f"{name} has shape {shape}; expected {wanted}, and no axis empty.")
    if stack and len(image) == 2 and image[-1] in (3, 4):
        raise ValueError(
            f"{name} has shape {shape}, like one colour image without its batch axis; pass "
            f"{name}[None], or {name}[..., None] for grey images {image[-1]} pixels wide."
        )
    if len(image) == 3 and image[-1] not in (1, 3):
        if image[0] in (1, 3, 4) and image[-1] != 4:
            axes = "(0, 2, 3, 1)" if stack else "(1, 2, 0)"
            remedy = f"the channels seem to come first; pass {name}.transpose{axes}"
        elif image[-1] == 4:
            remedy = f"an alpha channel is not used; composite it, or pass {name}[..., :3]"
        else:
            remedy = f"{image[-1]} channels are neither grey nor RGB"
        raise ValueError(f"{name} has shape {shape}; expected {wanted}: {remedy}.")
    if kind in "iu" and array.dtype != np.uint8:
        _require_value_range(f"{name} has dtype {array.dtype}", value_range)


def _require_value_range(found, value_range):
    if value_range is None:
        raise ValueError(
            f"{found}, so its black and white levels are unknown; pass value_range=(low, high), "
            "e.g. (0, 4095) for a 12-bit camera or (0, 65535) for the full 16-bit range."
        )


def _array_to_rgb(array, name, value_range):
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8:
        array = _to_unit_range(array, name, value_range)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return np.array(array, order="C")


def _to_unit_range(array, name, value_range):
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(k) for k in np.argwhere(~finite)[0])
        raise ValueError(
            f"{name} holds {array[where]} at {where}, one of {np.sum(~finite)} NaN or infinite "
            "pixel values; replace them before passing the image."
        )
    if value_range is not None:
        low, high = value_range
        # In float64, because float32 cannot hold every 32-bit integer.
        return np.clip((array.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)
    if array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"{name} has floats from {array.min():.6g} to {array.max():.6g}; without value_range "
            "they must lie in [0, 1]. Divide by the white level, clip, or pass "
            "value_range=(low, high)."
        )
    return array.astype(np.float32)


def _check_path(path, name):
    """Return False for a missing file; raise for anything else that is no regular file."""
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
            f"{name} is a folder, not an image; pass the paths of its files "
            "(skhgad.datasets.load_folder lists them)."
        )
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{name} is not a regular file; pass the path of an image file.")
    if status.st_size == 0:
        raise ValueError(f"{name} is an empty file (0 bytes); restore it or leave it out of X.")
    return True


@contextmanager
def _decoding(name):
    """Turn whatever Pillow raises (its plugins raise nearly everything) into a named error."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} no longer exists.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(_too_large(name, str(error))) from error
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"{name} cannot be read as an image ({type(error).__name__}: {error}); it may be "
            "truncated, protected, or no image at all. Replace it or leave it out of X."
        ) from error


def _too_large(name, found):
    return (
        f"{name} is too large: {found.rstrip('.')}. Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS "
        "if you trust the file."
    )


class _File(io.BufferedReader):
    """A file that is never asked for more bytes than it holds.

    Python sets memory aside for what is asked for, and Pillow asks for what the file declares.
    """

    def read(self, size=-1):
        """Read `size` bytes, or what is left."""
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def _read_file(path, name, value_range):
    with ExitStack() as opened:
        with _decoding(name):
            image = opened.enter_context(Image.open(opened.enter_context(_File(io.FileIO(path)))))
        n_pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
        # Pillow itself only warns up to twice its limit.
        if limit is not None and n_pixels > limit:
            raise ValueError(_too_large(name, f"{n_pixels} pixels, the limit is {limit}"))
        return _decode(image, name, value_range)


def _decode(image, name, value_range, lock=None):
    """Return the pixels of an open PIL image, as `ImageSource.read` promises them."""
    if image.format == "EPS":
        raise ValueError(
            f"{name} is an EPS drawing, for which Pillow would run Ghostscript; convert it to PNG."
        )
    with lock or nullcontext():
        with _decoding(name):
            n_frames, reduced = getattr(image, "n_frames", 1), _is_reduced(image)
        if n_frames > 1:
            raise ValueError(
                f"{name} has {n_frames} frames or pages; save the one to use as a file of its own, "
                "or pass it as an array."
            )
        if reduced:  # refused before loading, which would remove the trace of it
            raise ValueError(
                f"{name} stores more than 8 bits per channel, which Pillow reduces; load it with "
                "another reader as a uint16 array and pass value_range=(low, high)."
            )
        with _decoding(name):
            image.load()
            turned = image.getexif().get(_ORIENTATION, 1) != 1
    _check_mode(image.mode, name, value_range)
    with _decoding(name):
        if turned:
            image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):
            pixels = np.asarray(image)
            see_through = image.info.get("transparency")
            opaque = see_through is None or not np.any(pixels == see_through)
        else:
            opaque = True
            if image.has_transparency_data:
                image = image.convert("RGBA")
                opaque = image.getchannel("A").getextrema()[0] == 255
            pixels = np.asarray(image.convert("RGB"))
    if not opaque:
        raise ValueError(
            f"{name} is partly transparent, and what shows through is unknown; composite it onto "
            'a background, or drop the alpha channel with PIL: image.convert("RGB").'
        )
    return _array_to_rgb(pixels, name, value_range)


def _check_mode(mode, name, value_range):
    if mode == "F" or mode.startswith("I"):
        depth = {"F": "32-bit float", "I": "32-bit integer"}.get(mode, "16-bit integer")
        _require_value_range(f"{name} has {depth} pixels (PIL mode {mode})", value_range)


def _is_reduced(image):
    """Tell whether Pillow changes the samples of this file: fewer bits, or another white level."""
    keeps_depth = image.mode == "F" or image.mode.startswith("I")
    tile = next(iter(getattr(image, "tile", [])), None)
    args = tile[3] if tile else None
    if image.format == "PPM" and isinstance(args, tuple) and args[1] > 255:
        return not (keeps_depth and args[1] == 65535)
    if keeps_depth:
        return False
    raw_mode = args if isinstance(args, str) else str(args[0]) if args else ""
    deep = _DEEP_RAW_MODE.search(raw_mode) or (tile and tile[0] == "SGI16")
    return bool(deep) or max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))) > 8
