"""Samples and what a model that has not seen them says of them, position by position."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

from ..scoring.frames import as_tiles, as_whole
from ..scoring.scores import finite, score_evidence
from .samples import LabelledSamples

_N_PEAKS = 3  # positions of an image that are looked at


@dataclass(frozen=True)
class JudgedSamples:
    """Samples in the order of their rows, and their evidence.

    A *row* is a cached sample or, where the cache holds views of pictures, a cached view. Then a
    picture is a sample; one in tiles has several rows.

    Attributes
    ----------
    samples : LabelledSamples
    blocks : list of Evidence
        With `rows`; no sample twice. Every process has all of them.
    """

    samples: LabelledSamples
    blocks: list

    @cached_property
    def rows(self):
        """Rows of all samples, sorted, ndarray (n_rows,)."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *map(rows_of, self.blocks)]))

    @cached_property
    def sample_of_row(self):
        """Number of the sample of each row, from 0."""
        pictures = self.samples.pictures
        names = self.rows if pictures is None else pictures.samples[self.rows]
        return np.unique(names, return_inverse=True)[1]

    @cached_property
    def codes(self):
        """Class of each sample, ndarray (n_samples,)."""
        codes = np.zeros(len(np.unique(self.sample_of_row)), dtype=np.int64)
        for block in self.blocks:
            codes[self._numbers(block)] = block.codes.cpu().numpy()
        return codes

    @property
    def is_own(self):
        """Which rows this process holds."""
        processes = self.samples.cache.processes
        return processes.owner(self.rows) == processes.rank

    def gathered(self, values):
        """Join ndarrays of values of the rows that each process holds to a Tensor of all."""
        return torch.from_numpy(self.samples.cache.processes.gather_rows(values, self.rows))

    def scores(self, model, added=None):
        """Score each sample: ndarray (n_samples,).

        `added`, a Tensor (n_rows, n_positions) a level, is what known defects add; None = nothing.
        """
        scores = np.empty(len(self.codes))
        for block in self._corrected(model, added):
            scores[self._numbers(block)] = score_evidence(model, block).scores
        return scores

    def peaks(self, model, added):
        """Return the peaks of the terms of each sample: ndarray (n_samples, n_columns).

        As from `ScoringModel.peaks`; `added` as in `scores`.
        """
        found = np.empty((len(self.codes), model.n_columns))
        for block in self._corrected(model, added):
            found[self._numbers(block)] = -finite(-model.peaks(block))
        return found

    def _corrected(self, model, added):
        """Yield the blocks with what known defects add; see `scores`."""
        for block in self.blocks:
            if added is not None:
                places = torch.from_numpy(self._places(block))
                found = [values[places.to(values.device)] for values in added]
                block = with_defects(model, block, found, self.samples.pictures)
            yield block

    def peak_places(self, model, marked=None):
        """Find where the maps of the levels are highest, see `peaks`.

        Parameters
        ----------
        model : ScoringModel
            Calibrated.
        marked : list of Tensor of shape (n_rows, n_positions), bool, or None
            Where peaks may lie, by level; None = anywhere. What lies outside has none.

        Returns
        -------
        list of pairs of ndarray of shape (n_samples, n_peaks), int
            Rows and positions, a pair a level.
        """
        found = [
            np.zeros((2, len(self.codes), min(_N_PEAKS, math.prod(level.map_shape))), np.int64)
            for level in model.levels
        ]
        pictures = self.samples.pictures
        for block in self.blocks:
            numbers, rows, n = self._numbers(block), rows_of(block), len(block.codes)
            ratios = model.standardized_ratios(block)
            for index, (level, maps) in enumerate(zip(model.levels, ratios, strict=True)):
                allowed = None if block.frame is None else block.frame.inside[index]
                maps, allowed = (
                    v if v is None else _by_row(v, block, pictures, level.map_shape)
                    for v in (maps, allowed)
                )
                if marked is not None:
                    own = marked[index][torch.from_numpy(self._places(block))].to(maps.device)
                    allowed = own if allowed is None else allowed & own
                allowed = None if allowed is None else allowed.reshape(n, -1)
                places = peaks(maps.reshape(n, -1), level.map_shape, allowed).cpu().numpy()
                own_rows = np.take_along_axis(rows.reshape(n, -1), places // maps.shape[1], 1)
                found[index][:, numbers] = own_rows, places % maps.shape[1]
        return found

    def vectors(self, model, index, places, moved=None):
        """Return the latent vectors of a level at some places: Tensor (n, n_peaks, n_axes).

        `places` are rows and positions, two ndarrays (n, n_peaks). `moved(rows, z)`, such as
        LeftOutMaps, returns what replaces the latent maps z of rows; None = they stay.
        """
        level = model.levels[index]
        rows, positions = (np.ravel(part) for part in places)
        vectors = level.mixture.means.new_zeros(len(rows), level.n_axes).cpu()
        device = model.score_scale.device
        chosen = self.samples.chosen(np.unique(rows))
        for part, (x,), _ in chosen.numbered_blocks([index], device):
            entries = np.flatnonzero(np.isin(rows, part))
            of_block = torch.from_numpy(np.searchsorted(part, rows[entries])).to(device)
            of_map = torch.from_numpy(positions[entries]).to(device)
            if moved is not None:
                z = moved(part, level.latent(x)[0])[of_block, of_map]
            elif level.is_linear:  # each vector by itself
                z = level.start(x[of_block, of_map][:, None])[0][:, 0]
            else:
                z = level.latent(x)[0][of_block, of_map]
            vectors[torch.from_numpy(entries)] = z.cpu()
        return self.samples.total(vectors).unflatten(0, np.shape(places[0]))

    def products(self, model, index, chosen, matrix, moved=None):
        """Yield the products of latent vectors with a matrix (n_axes, m), of this process.

        Of the rows that `chosen`, a bool ndarray or a slice, names. Yields these rows, an ndarray
        (n,), and a Tensor (n, n_positions, m). `moved` as in `vectors`.
        """
        level = model.levels[index]
        for rows, (x,), _ in self.samples.chosen(self.rows[chosen]).numbered_blocks(
            [index], model.score_scale.device
        ):
            if moved is not None:
                yield rows, moved(rows, level.latent(x)[0]) @ matrix.to(x)
            elif level.is_linear:
                yield rows, level.start.products(x, matrix.to(x))
            else:
                yield rows, level.latent(x)[0] @ matrix.to(x)

    def _places(self, block):
        """Return where the rows of a block stand among all."""
        return np.searchsorted(self.rows, rows_of(block))

    def _numbers(self, block):
        """Return the numbers of the samples of a block."""
        return self.sample_of_row[self._places(block)].reshape(len(block.codes), -1)[:, 0]


def rows_of(evidence):
    """Return the rows of Evidence, an ndarray of int."""
    return evidence.rows.cpu().numpy()


def peaks(maps, map_shape, allowed=None):
    """Return the highest local maxima of each map, as positions: Tensor (n, n_peaks).

    Among the positions that are `allowed`. A map with fewer maxima repeats its highest. Maps may
    hold the positions of several tiles of the `map_shape` one after the other.
    """
    if allowed is not None:
        maps = torch.where(allowed.to(maps.device), maps, torch.full_like(maps, -torch.inf))
    grid = maps.reshape(-1, 1, *map_shape)
    is_peak = (grid == F.max_pool2d(grid, 3, stride=1, padding=1)).reshape(maps.shape)
    maxima = torch.where(is_peak, maps, torch.full_like(maps, -torch.inf))
    highest = maxima.topk(min(_N_PEAKS, math.prod(map_shape)))
    return torch.where(highest.values.isneginf(), highest.indices[:, :1], highest.indices)


def with_defects(model, evidence, added, pictures):
    """Return Evidence with what known defects add, Tensors (n_rows, n_positions), one a level."""
    if evidence.frame is not None and evidence.frame.layout is not None:
        tiles, layout = _tiles(evidence, pictures), evidence.frame.layout
        added = [
            as_whole(values, tiles, layout, level.map_shape)
            for values, level in zip(added, model.levels, strict=True)
        ]
    return evidence._replace(defects=added)


def _by_row(values, evidence, pictures, map_shape):
    """Turn values (n, ...) of samples into those of their rows (n_rows, n_positions)."""
    if evidence.frame is None or evidence.frame.layout is None:
        return values
    return as_tiles(values, evidence.frame.layout, map_shape)[_tiles(evidence, pictures)]


def _tiles(evidence, pictures):
    return pictures.views.tile_of[pictures.rows[rows_of(evidence)]]
