"""Images decoded and resized by threads, a bounded number ahead of the caller."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .decoding import Pixels
from .source import ImageSource
from .views import ViewSource

__all__ = ["ImageBatch", "iter_batches", "resize", "unit_range"]

# Of one image: its pixels, resized or as they were read, and size before; or an error.
_Loaded: TypeAlias = "tuple[Pixels, tuple[int, int]] | Exception"


class ImageBatch(NamedTuple):
    """One batch of decoded and resized images.

    Attributes
    ----------
    indices : ndarray of shape (b,), dtype int64
        Positions of the images in their source.
    pixels : ndarray of shape (b, channels, h, w), dtype float32
        RGB in [0, 1], or as many channels as the source has; C-contiguous, owned by the caller.
        With `keep_bytes`, uint8 of shape (b, h, w, channels) where all images are of this size.
    sizes : list of b tuples (H, W)
        Height and width in pixels before resizing, after EXIF rotation.
    """

    indices: NDArray[np.int64]
    pixels: Pixels
    sizes: list[tuple[int, int]]


def iter_batches(
    source: ImageSource | ViewSource,
    *,
    size: Sequence[int],
    batch_size: int,
    n_jobs: int | None = None,
    indices: ArrayLike | None = None,
    keep_bytes: bool = False,
) -> Generator[ImageBatch, None, None]:
    """Decode, resize and batch images.

    Threads read ahead while the caller uses the present images; one job reads nothing ahead. At
    most two groups of max(`batch_size`, about 2 * `n_jobs`) images are held. Resizing is Pillow's
    antialiased bilinear filter on float pixels; an image of the right size stays as it is. Between
    its two steps, across and down, it holds no more pixels than
    ``(height * width * h * w) ** 0.5`` a channel.

    Parameters
    ----------
    source : ImageSource or ViewSource
        The images, or views of them.
    size : tuple (h, w)
        Height and width in pixels of every image of the batches.
    batch_size : int
        Images per batch; the last batch may be smaller.
    n_jobs : int, default=None
        Number of joblib threads; None means 1 unless in a `joblib.parallel_config` context.
    indices : array-like of int or mask, default=None
        Positions to read, in this order, as NumPy indexes; None means all.
    keep_bytes : bool, default=False
        Whether a batch of uint8 images that all have the right size is given as it is: a quarter
        of the bytes to move.

    Returns
    -------
    generator of ImageBatch
        Batches in the order of `indices`. Closing it early stops the pending work.

    Raises
    ------
    ValueError, FileNotFoundError
        As in `ImageSource.read`, raised when the image's batch is due.

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
    if indices is not None:
        # Not np.asarray(indices): an empty list would become floats.
        positions = np.atleast_1d(positions[cast(Any, indices)])
    return _generate_batches(source, size, int(batch_size), n_jobs, positions, keep_bytes)


def _generate_batches(
    source: ImageSource | ViewSource,
    size: tuple[int, int],
    batch_size: int,
    n_jobs: int | None,
    positions: NDArray[np.int64],
    keep_bytes: bool,
) -> Generator[ImageBatch, None, None]:
    stop = threading.Event()

    def load(position: int) -> _Loaded:
        if stop.is_set():
            return RuntimeError("the caller wants no more images")
        try:
            pixels = source.read(position)
            stays = keep_bytes and pixels.dtype == np.uint8 and pixels.shape[:2] == size
            return pixels if stays else resize(pixels, size), pixels.shape[:2]
        except Exception as error:
            # Returned: joblib would wrap a raised one and warn about the other images.
            return error

    # joblib starts a task when another ends, not when a result is used, so images would pile up
    # behind a slow caller. One call of joblib per chunk bounds their number.
    chunk = _chunk_size(batch_size, effective_n_jobs(n_jobs))
    # `load` must stay in this process. A parallel_config's backend overrides prefer="threads".
    threads = Parallel(n_jobs, require="sharedmem", return_as="generator", pre_dispatch="all")
    with threads as parallel:
        pending = parallel(delayed(load)(i) for i in positions[:chunk].tolist())
        try:
            for start in range(0, len(positions), chunk):
                loaded = list(pending)
                ahead = positions[start + chunk : start + 2 * chunk].tolist()
                pending = parallel(delayed(load)(i) for i in ahead)
                for first in range(0, len(loaded), batch_size):
                    images = loaded[first : first + batch_size]
                    at = positions[start + first : start + first + len(images)].copy()
                    yield ImageBatch(at, *_collate(images, size))
        finally:
            stop.set()
            # joblib warns about results that nobody takes.
            for _ in pending:
                pass


def _chunk_size(batch_size: int, n_threads: int) -> int:
    """Return the images per call: whole batches, at least two images per thread."""
    n_ahead = 2 * n_threads if n_threads > 1 else 1
    n_batches = -(-max(n_ahead, batch_size) // batch_size)
    return batch_size * n_batches


def _collate(images: list[_Loaded], size: tuple[int, int]) -> tuple[Pixels, list[tuple[int, int]]]:
    parts: list[Pixels] = []
    sizes: list[tuple[int, int]] = []
    for image in images:
        if isinstance(image, Exception):
            raise image
        parts.append(image[0])
        sizes.append(image[1])
    if all(part.dtype == np.uint8 for part in parts):
        return cast(Pixels, np.stack(parts)), sizes
    parts = [resize(part, size) if part.dtype == np.uint8 else part for part in parts]
    batch = np.empty((len(parts), *parts[0].shape), dtype=np.float32)
    for row, part in zip(batch, parts, strict=True):
        row[...] = part
    return batch, sizes


def resize(pixels: Pixels, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return pixels of shape (H, W, channels) as float32 of shape (channels, h, w) in [0, 1].

    All pixels are resized as floats, so that 8-bit images and floats of the same values become the
    same pixels.
    """
    if pixels.shape[:2] == size:
        resized: NDArray[np.float32] = unit_range(np.moveaxis(pixels, 2, 0))
        return resized
    steps = _resizing_steps(pixels.shape[:2], size)
    resized = np.empty((pixels.shape[2], *size), dtype=np.float32)
    for channel, plane in enumerate(resized):
        # Pillow has no RGB images of floats.
        image = Image.fromarray(np.ascontiguousarray(unit_range(pixels[..., channel])))
        for step in steps:
            image = image.resize(step, Image.Resampling.BILINEAR)
        plane[...] = np.asarray(image)
    return resized


def unit_range(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return pixels as float32 in [0, 1]; 255 is white where they are uint8."""
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32)
        pixels /= np.float32(255)
    return pixels


def _resizing_steps(
    before: tuple[int, int], after: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (width, height) after each of two steps, one across and one down.

    The smaller image comes in between. A thin image of millions of rows would otherwise first
    become as wide as `after`.
    """
    (height, width), (new_height, new_width) = before, after
    across, down = (new_width, height), (width, new_height)
    first = across if new_width * height <= width * new_height else down
    return first, (new_width, new_height)
