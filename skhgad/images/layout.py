"""How pictures are cut before the backbone sees them: whole, padded or in tiles; cells and grids.

Everything here is arithmetic on pixels of the original picture. Each axis is treated on its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout", "cell_edges", "grid_size", "padded", "stitching", "tiled", "whole"]

_OVERLAP = 4  # neighbouring tiles share at least this part of a side: one in 4


@dataclass(frozen=True)
class Layout:
    """Where the tiles of a picture lie.

    Attributes
    ----------
    size : tuple (height, width)
        Of the picture, in pixels.
    box : tuple (top, left, height, width)
        What all tiles together cover, in pixels of the picture. It may reach beyond the picture.
    tile : tuple (height, width)
        Of every tile, in pixels of the picture.
    tops, lefts : tuple of int
        Offsets of the rows and columns of tiles from the top and left of the box. Tiles are
        numbered row by row.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    tile: tuple[int, int]
    tops: tuple[int, ...] = (0,)
    lefts: tuple[int, ...] = (0,)

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """Top and left of every tile, in pixels of the picture."""
        return [
            (self.box[0] + top, self.box[1] + left) for top, left in product(self.tops, self.lefts)
        ]

    @property
    def is_whole(self) -> bool:
        """Whether there is one tile, which is the picture."""
        return self.box == (0, 0, *self.size) and self.tile == self.size

    @property
    def axes(self) -> tuple[tuple[int, int, int, int, tuple[int, ...]], ...]:
        """Of rows and columns: side of the picture, start and side of the box, tile, offsets."""
        (height, width), (top, left, box_height, box_width) = self.size, self.box
        return (
            (height, top, box_height, self.tile[0], self.tops),
            (width, left, box_width, self.tile[1], self.lefts),
        )


def whole(size: tuple[int, int]) -> Layout:
    """Return the layout of a picture that is seen as it is."""
    return Layout(size, (0, 0, *size), size)


def padded(size: tuple[int, int], target: tuple[int, int]) -> Layout:
    """Return the layout of a picture with a border that gives it the proportions of `target`."""
    (height, width), (to_height, to_width) = size, target
    box_height = max(height, round(width * to_height / to_width))
    box_width = max(width, round(height * to_width / to_height))
    box = -((box_height - height) // 2), -((box_width - width) // 2), box_height, box_width
    return Layout(size, box, box[2:])


def tiled(size: tuple[int, int], tile: tuple[int, int]) -> Layout:
    """Return the layout of a picture in tiles that overlap by a quarter of a tile or more.

    The tiles of a row are spread evenly, the first and the last end with the picture. A picture
    that is smaller than a tile lies in its middle.
    """
    sides, starts, offsets = [], [], []
    for side, length in zip(size, tile, strict=True):
        covered = max(side, length)
        step = length - -(-length // _OVERLAP)
        n_tiles = 1 + (-(-(covered - length) // step) if covered > length else 0)
        sides.append(covered)
        starts.append(-((covered - side) // 2))
        offsets.append(
            tuple(np.linspace(0, covered - length, n_tiles).round().astype(int).tolist())
        )
    return Layout(size, (starts[0], starts[1], sides[0], sides[1]), tile, *offsets)


def grid_size(layout: Layout, of_tile: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the grid of a whole picture, where that of a tile is `of_tile`."""
    height, width = (
        max(n, round(box * n / tile))
        for n, (_, _, box, tile, _) in zip(of_tile, layout.axes, strict=True)
    )
    return height, width


def cell_edges(
    layout: Layout, n_cells: tuple[int, int]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the first and the last edge of the cells of all tiles, along rows and columns.

    Each tile has `n_cells` (down, across). In pixels of the picture; a list of two pairs of
    ndarray (n_tiles * n_cells,), as `mosaic` orders positions.
    """
    found = []
    for n, (_, start, _, tile, offsets) in zip(n_cells, layout.axes, strict=True):
        first = np.arange(n) * (tile / n)
        low = (start + np.array(offsets)[:, None] + first).ravel()
        found.append((low, low + tile / n))
    return found


@lru_cache(maxsize=64)
def stitching(
    layout: Layout, n_cells: tuple[int, int], n_grid: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrices that bring the cells of all tiles to the grid of the whole picture.

    ``rows @ values @ columns.T`` interpolates each tile bilinearly and lets neighbours fade into
    each other in the middle half of what they share. Near its border a tile sees less around a
    position than its neighbour does; there it has no weight.

    Returns
    -------
    tuple of ndarray (n_grid, n_tiles * n_cells)
        Of rows and columns; each row adds up to 1.
    """
    found = []
    for n, n_out, (_, _, box, tile, offsets) in zip(n_cells, n_grid, layout.axes, strict=True):
        middles = (np.arange(n_out) + 0.5) * (box / n_out)
        parts = []
        for index, offset in enumerate(offsets):
            local = middles - offset
            weight = np.where((local >= 0) & (local <= tile), 1.0, 0.0)
            if index:
                shared = offsets[index - 1] + tile - offset
                weight *= ((local - shared / 4) / (shared / 2)).clip(0, 1)
            if index + 1 < len(offsets):
                shared = offset + tile - offsets[index + 1]
                weight *= ((tile - local - shared / 4) / (shared / 2)).clip(0, 1)
            parts.append(weight[:, None] * between(local * (n / tile) - 0.5, n))
        matrix = np.concatenate(parts, axis=1)
        found.append(matrix / matrix.sum(axis=1, keepdims=True))
    return found[0], found[1]


def between(places: NDArray[np.floating[Any]], n_cells: int) -> NDArray[np.float64]:
    """Return weights of linear interpolation, ndarray (n_places, n_cells).

    The middle of cell i is the place i. A place before the first middle, or after the last, has the
    value of that cell.
    """
    places = places.clip(0, n_cells - 1)
    weights = 1 - np.abs(places[:, None] - np.arange(n_cells))
    return weights.clip(0, None)


def relative_middles(layout: Layout, n_cells: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Return the middles of all cells along rows and columns, from 0 to 1 inside the picture."""
    edges = cell_edges(layout, n_cells)
    sides = layout.size
    return [
        ((low + high) / 2 / side).clip(0, 1) for (low, high), side in zip(edges, sides, strict=True)
    ]


def shares(
    layout: Layout,
    edges: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
    mask: NDArray[np.bool_] | None,
) -> NDArray[np.float64]:
    """Return how much of each cell lies in the picture and its mask, ndarray (n_down, n_across).

    `edges` are those of `cell_edges`. `mask` has the size of the picture; None = all of it.
    """
    clipped = [
        [edge.clip(0, side) for edge in pair] for pair, side in zip(edges, layout.size, strict=True)
    ]
    lengths = [high - low for low, high in edges]
    areas = np.outer(lengths[0], lengths[1])
    if mask is None:
        inner = [high - low for low, high in clipped]
        return np.outer(inner[0], inner[1]) / areas
    # Sums of the mask over everything above and to the left of each corner of a pixel.
    sums = np.zeros(
        (mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64 if mask.size >= 2**31 else np.int32
    )
    np.cumsum(mask, axis=0, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    down = _at(sums, clipped[0][1]) - _at(sums, clipped[0][0])
    counted = _at(down.T, clipped[1][1]) - _at(down.T, clipped[1][0])
    result: NDArray[np.float64] = counted.T / areas
    return result


def _at(sums: NDArray[np.generic], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of running sums at fractional places."""
    below = np.floor(edges).astype(int).clip(0, len(sums) - 1)
    above = (below + 1).clip(0, len(sums) - 1)
    part = (edges - below)[:, None]
    return sums[below] * (1 - part) + sums[above] * part


def mosaic_shape(layout: Layout, n_cells: tuple[int, int]) -> tuple[int, int]:
    """Return how many cells all tiles of a picture have, down and across."""
    return len(layout.tops) * n_cells[0], len(layout.lefts) * n_cells[1]


def by_tile(mosaic: NDArray[np.bool_], layout: Layout) -> NDArray[np.bool_]:
    """Cut values of all cells (n_down, n_across) into those of each tile (n_tiles, n_cells)."""
    n_down, n_across = len(layout.tops), len(layout.lefts)
    height, width = mosaic.shape[0] // n_down, mosaic.shape[1] // n_across
    parts = mosaic.reshape(n_down, height, n_across, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(parts.reshape(n_down * n_across, height * width))


def n_tiles(layout: Layout) -> int:
    """Return the number of tiles."""
    return math.prod((len(layout.tops), len(layout.lefts)))
