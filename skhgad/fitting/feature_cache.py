"""Extracted features during fit, in memory or in a file."""

import copy
import math
import os
import tempfile
from contextlib import contextmanager

import numpy as np
import torch

from .processes import ALONE, OfSome

_HALF_MAX = 65504.0
_PIECE = 1 << 20  # bytes written at a time


def default_budget():
    """Half of the free memory in bytes; 2 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 2 << 30


class FeatureCache:
    """The features of a training set, one array a level; use it as a context manager.

    Each process holds its own samples, in memory up to `budget` bytes; None = `default_budget`.
    Past it all levels go to memory-mapped float16 files in the folder for temporary files. They
    have no name, so that the system frees them however the process ends, killed or not.
    Each channel is then stored relative to its mean and spread in the first block, because half
    precision has three digits. `shapes` holds (n_positions, n_features) of each level. `dtype` is
    float32 for images, float64 for vectors. `sizes`, an ndarray (n_own_samples, 2), is for the
    heights and widths before resizing. Views of pictures also have `inside`, a bool ndarray
    (n_own_samples, n_positions) a level.
    """

    def __init__(
        self, n_samples, shapes, dtype=np.float32, budget=None, processes=ALONE, *, has_inside=False
    ):
        self.shapes = list(shapes)
        self.dtype = np.dtype(dtype)
        self.processes = processes
        self._n_samples = n_samples
        self._numbers = np.arange(n_samples)
        n_own = len(processes.own(np.arange(n_samples)))
        self.sizes = np.zeros((n_own, 2), dtype=np.int64)
        self.inside = None
        if has_inside:
            self.inside = [np.ones((n_own, shape[0]), dtype=bool) for shape in self.shapes]
        held = [(n_own, *shape) for shape in self.shapes]
        needed = sum(map(math.prod, held)) * self.dtype.itemsize
        if budget is None:
            budget = default_budget() // processes.n_local
        self.spilled = needed > budget
        if self.spilled:
            self._arrays = self._spill(held)
        else:
            self._arrays = [np.empty(shape, dtype) for shape in held]
        self._shift = [None] * len(shapes)
        self._scale = [None] * len(shapes)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._arrays = []

    def __len__(self):
        """Return the number of samples of all processes."""
        return self._n_samples

    @property
    def n_levels(self):
        """Number of levels."""
        return len(self.shapes)

    def of_rows(self, rows):
        """Return the same cache with some of its samples, numbered from 0 again; for reading."""
        other = copy.copy(self)
        other.processes = OfSome(self.processes, rows)
        other._n_samples, other._numbers = len(rows), self._numbers[rows]
        return other

    def write(self, start, levels, inside=None):
        """Store samples of this process after its first `start`.

        Each level is a Tensor (n, n_positions, n_features); `inside` holds a bool Tensor (n,
        n_positions) a level.
        """
        if inside is not None:
            for kept, chosen in zip(self.inside, inside, strict=True):
                kept[start : start + len(chosen)] = chosen.cpu().numpy()
        for index, (array, block) in enumerate(zip(self._arrays, levels, strict=True)):
            array[start : start + len(block)] = self._pack(index, block.cpu().numpy())

    def read(self, level, rows):
        """Return samples of one level, a Tensor (n, n_positions, n_features).

        `rows` names samples of this process by their number among all.
        """
        block = self._arrays[level][self._places(rows)]
        if self.spilled:
            block = block.astype(self.dtype) * self._scale[level] + self._shift[level]
        return torch.from_numpy(np.ascontiguousarray(block))

    def read_inside(self, level, rows):
        """Return which positions lie inside, a bool Tensor (n, n_positions); None where all do.

        `rows` as in `read`.
        """
        if self.inside is None:
            return None
        return torch.from_numpy(self.inside[level][self._places(rows)])

    def _places(self, rows):
        return self._numbers[rows] // self.processes.size

    @staticmethod
    def _spill(shapes):
        arrays = []
        for shape in shapes:
            # The map holds the file when this handle is closed.
            with tempfile.TemporaryFile(prefix="skhgad-features-") as file:
                _reserve(file, 2 * math.prod(shape))
                arrays.append(np.memmap(file, np.float16, "r+", shape=shape))
        return arrays

    def _pack(self, level, block):
        if not self.spilled:
            return block
        if self._shift[level] is None:
            self._shift[level] = block.mean(axis=(0, 1), dtype=np.float64).astype(self.dtype)
            spread = block.std(axis=(0, 1), dtype=np.float64).astype(self.dtype)
            self._scale[level] = np.where(spread > 0, spread, 1).astype(self.dtype)
        packed = (block - self._shift[level]) / self._scale[level]
        return np.clip(packed, -_HALF_MAX, _HALF_MAX).astype(np.float16)


@contextmanager
def cached_features(reader, X, rows, budget, processes=ALONE):
    """Enter a FeatureCache that holds the features of the samples `rows` of X.

    X is from `check_X`, or a ViewSource, whose samples are views.

    The cache numbers them from 0. Each process extracts and holds its own.
    """
    with processes.agree():
        cache = FeatureCache(
            len(rows),
            [(height * width, n_features) for n_features, height, width in reader.level_shapes(X)],
            reader.dtype,
            None if budget == "auto" else budget,
            processes,
            has_inside=hasattr(X, "picture_of"),
        )
    with cache:
        with processes.agree():
            n_written, quiet = 0, not processes.is_first
            own_rows = rows[processes.own(np.arange(len(rows)))]
            if hasattr(X, "picture_of"):
                for features, inside in reader.view_batches(X, own_rows, quiet=quiet):
                    _check_finite(features, X, own_rows[n_written:])
                    cache.write(n_written, features, inside)
                    n_written += len(features[0])
                shapes = [X.tile_shape(row) for row in own_rows.tolist()]
                cache.sizes[:] = np.reshape(shapes, (-1, 2))
            else:
                for features, sizes in reader.batches(X, own_rows, quiet=quiet):
                    if reader.extractor is not None:
                        _check_finite(features, X, own_rows[n_written:])
                    cache.write(n_written, features)
                    cache.sizes[n_written : n_written + len(sizes)] = sizes
                    n_written += len(sizes)
        yield cache


def _check_finite(features, images, rows):
    """Raise ValueError if a backbone gave NaN or infinite features of an image.

    `features` holds a Tensor (n, n_positions, n_features) a level, of the first n of `rows`.
    """
    for level in features:
        is_finite = torch.isfinite(level).flatten(1).all(1)
        if not is_finite.all():
            row = int(rows[int((~is_finite).nonzero()[0])])
            raise ValueError(
                f"backbone: its features of {images.name(row)} are NaN or infinite. Look for such "
                "values in its weights; on a GPU, mixed_precision=False lets it compute in float32."
            )


def _reserve(file, n_bytes):
    """Fill a new file with zeros whose bytes the disk has set aside.

    Writing to a memory map on a full disk would kill the process.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            for start in range(0, n_bytes, _PIECE):
                file.write(bytes(min(_PIECE, n_bytes - start)))
            file.flush()
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}: {n_bytes / 2**30:.3g} GiB of features do not fit. Free the disk, "
            "let TMPDIR name another, or raise cache_budget to hold more in memory",
            tempfile.gettempdir(),
        ) from error
