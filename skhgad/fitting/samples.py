"""Labelled samples whose features are in a cache, visited in blocks."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .feature_cache import FeatureCache
from .parts import Parts

_BLOCK_BYTES = 16 << 20  # of features read at once; some ten times that is used


@dataclass(frozen=True)
class LevelSamples:
    """Labelled samples of one level.

    `blocks` iterates over x (n, n_positions, n_features) and codes (n,) of this process. `total`
    sums a value over the processes, `gather` joins their lists. `own_rows` (n,) are the rows of the
    feature cache that the blocks of this process hold, in order.
    """

    blocks: Callable
    n_classes: int
    n_features: int
    total: Callable = lambda value: value
    gather: Callable = lambda items: items
    own_rows: np.ndarray | None = None
    part_numbers: np.ndarray | None = None  # by row of the feature cache

    def vectors(self):
        """Return all vectors of all processes, float64 (n, n_features), and codes (n,).

        Of samples of one position: feature vectors.
        """
        parts = self.gather([(x[:, 0].double(), codes) for x, codes in self.blocks()])
        if not parts:
            return torch.empty(0, self.n_features, dtype=torch.float64), torch.empty(0).long()
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def rows(self):
        """Return the rows (n,) of the feature cache that `vectors` come from, in their order."""
        return np.concatenate(self.gather([self.own_rows]))

    def parts(self):
        """Return the part of each of `vectors`, int64 (n,); None where each is its own."""
        return (
            None if self.part_numbers is None else torch.from_numpy(self.part_numbers[self.rows()])
        )


@dataclass(frozen=True)
class LabelledSamples:
    """Some samples of a feature cache and their classes.

    `rows` are those to visit, in order, by their number in the cache. `codes` holds the class of
    every cached sample. Where the cache holds views of pictures, `pictures` is a Pictures, and a
    sample below is a view unless a method says otherwise. `parts`, Parts of every cached sample,
    tells which are of one part; None = each is its own.
    """

    cache: FeatureCache
    rows: np.ndarray
    codes: np.ndarray
    n_classes: int
    pictures: Any = None
    parts: Any = None

    def __len__(self):
        return len(self.rows)

    def by_row(self, values):
        """Give what holds for each picture, in the last axis, to each of its views."""
        return values if self.pictures is None else values[..., self.pictures.samples]

    def of_pictures(self, values):
        """Return of what holds for each view one value a picture."""
        return values if self.pictures is None else values[self.pictures.first_rows()]

    def numbers_of(self, rows):
        """Return the numbers of the samples in rows, or of the pictures whose views they are."""
        return rows if self.pictures is None else self.pictures.samples[rows]

    def independent_numbers(self, rows):
        """Return the numbers of the parts of the samples in rows, or else as `numbers_of`."""
        return self.numbers_of(rows) if self.parts is None else self.parts.numbers[rows]

    def judged(self, rows):
        """Return those of the rows that calibrate: of each part, one sample."""
        return rows if self.parts is None else rows[self.parts.judged[rows]]

    def parts_of_pictures(self):
        """Return the Parts of the samples of the cache, or of the pictures; None as in `parts`."""
        if self.parts is None:
            return None
        return Parts(*map(self.of_pictures, (self.parts.numbers, self.parts.judged)))

    def all_judged(self):
        """Return the same samples, which all calibrate."""
        if self.parts is None:
            return self
        return replace(self, parts=replace(self.parts, judged=np.ones_like(self.parts.judged)))

    def chosen(self, rows):
        """Return other samples of the same cache."""
        return replace(self, rows=rows)

    def kept(self, is_kept):
        """Return all samples of the cache, or pictures, that a mask chooses, numbered from 0."""
        rows = np.flatnonzero(self.by_row(is_kept))
        return replace(
            self,
            cache=self.cache.of_rows(rows),
            rows=np.arange(len(rows)),
            codes=self.codes[rows],
            pictures=None if self.pictures is None else self.pictures.kept(is_kept),
            parts=None if self.parts is None else self.parts.of(rows),
        )

    def blocks(self, levels=None, device="cpu"):
        """Read the samples in blocks of bounded memory; each process reads its own.

        Yields a list of Tensors (n, n_positions, n_features), one for each of `levels` (None =
        all), and int64 codes (n,), on `device`.
        """
        for _, features, codes in self.numbered_blocks(levels, device):
            yield features, codes

    def numbered_blocks(self, levels=None, device="cpu"):
        """Read the samples as `blocks` does; yields their rows (n,), an ndarray, in front."""
        cache = self.cache
        levels = list(range(cache.n_levels) if levels is None else levels)
        rows = cache.processes.own(self.rows)
        sample = sum(math.prod(cache.shapes[level]) for level in levels) * cache.dtype.itemsize
        step = max(1, _BLOCK_BYTES // sample)
        for first in range(0, len(rows), step):
            block = rows[first : first + step]
            features = [cache.read(level, block).to(device) for level in levels]
            yield block, features, torch.from_numpy(self.codes[block]).to(device)

    def level(self, index):
        """Return the LevelSamples of one level."""
        samples = self.chosen(self._with_inside(index))

        def blocks():
            for (x,), codes in samples.blocks([index]):
                yield x, codes

        n_features = self.cache.shapes[index][-1]
        return LevelSamples(
            blocks,
            self.n_classes,
            n_features,
            self.total,
            self.cache.processes.gather,
            self.cache.processes.own(samples.rows),
            None if self.parts is None else self.parts.numbers,
        )

    def _with_inside(self, index):
        """Return the rows whose map has a position inside; those of other processes stay."""
        cache = self.cache
        if cache.inside is None:
            return self.rows
        own = cache.processes.own(self.rows)
        nothing = own[~cache.read_inside(index, own).any(1).numpy()]
        return np.setdiff1d(self.rows, nothing)

    def total(self, value):
        """Sum a value over the processes that share the samples."""
        return self.cache.processes.total(value)

    def first_of_each_class(self, n_samples):
        """Return the first so many samples of each class."""
        rows = self.rows
        rows = [rows[self.codes[rows] == code][:n_samples] for code in np.unique(self.codes[rows])]
        return self.chosen(np.sort(np.concatenate(rows)))
