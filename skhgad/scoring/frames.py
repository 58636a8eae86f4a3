"""Which positions of a picture count, and how those of its tiles become one map."""

from functools import lru_cache
from typing import NamedTuple

import torch

from ..images.layout import Layout, between, mosaic_shape, relative_middles, stitching
from .maps import gaussian_blur, resize

LEAST_WEIGHT = 0.02  # of positions inside, for a cell of the grid to have a value of its own


class Frame(NamedTuple):
    """What lies inside, in a batch of pictures.

    Attributes
    ----------
    inside : list of bool Tensor of shape (n, n_positions)
        Of each level; of tiles, all their positions, see `as_mosaic`.
    grid : bool Tensor of shape (n, height, width)
        Of the grid on which levels are added.
    layout : Layout or None
        Of a single picture in tiles; None: each picture is one map.
    """

    inside: list
    grid: torch.Tensor
    layout: Layout | None = None

    @property
    def is_stitched(self):
        """Whether the map of a picture is made of several tiles."""
        return self.layout is not None and len(self.layout.corners) > 1

    def to(self, device):
        """Return the same on a device."""
        return Frame([level.to(device) for level in self.inside], self.grid.to(device), self.layout)


def as_mosaic(values, layout, map_shape):
    """Lay the positions of all tiles of a picture side by side.

    Parameters
    ----------
    values : Tensor of shape (n_tiles, n_positions)
    layout : Layout
    map_shape : tuple (height, width)
        Of one tile.

    Returns
    -------
    Tensor of shape (1, n_tiles * n_positions)
        Row by row of the whole picture. What tiles share is there more than once.
    """
    tiles = values.reshape(len(layout.tops), len(layout.lefts), *map_shape)
    return tiles.permute(0, 2, 1, 3).reshape(1, -1)


def as_tiles(mosaic, layout, map_shape):
    """Cut what `as_mosaic` returned into tiles again, Tensor (n_tiles, n_positions)."""
    height, width = map_shape
    tiles = mosaic.reshape(len(layout.tops), height, len(layout.lefts), width)
    return tiles.permute(0, 2, 1, 3).reshape(-1, height * width)


def as_whole(values, tiles, layout, map_shape):
    """Lay some of the tiles of a picture side by side as `as_mosaic` does; the others hold 0.

    `values` (n, n_positions) are those of the `tiles`, an int ndarray (n,).
    """
    every = values.new_zeros(len(layout.corners), values.shape[1])
    every[torch.from_numpy(tiles).to(values.device)] = values
    return as_mosaic(every, layout, map_shape)


def on_grid(values, index, map_shape, size, frame):
    """Bring the positions (n, n_positions) of the level `index` to the grid, Tensor (n, *size).

    Positions outside have no weight. Cells of the grid that no position inside is near get the mean
    of those inside. `size` is that of the grid of one tile.
    """
    inside = frame.inside[index]
    weights = inside.to(values)
    kept = torch.where(inside, values, values.new_zeros(()))
    if frame.layout is None:
        total, weight = (resize(v.unflatten(1, map_shape), size) for v in (kept, weights))
    else:
        rows, columns = _stitching(
            frame.layout, tuple(map_shape), tuple(frame.grid.shape[1:]), values.dtype, values.device
        )
        shape = mosaic_shape(frame.layout, map_shape)
        total, weight = (rows @ v.unflatten(1, shape) @ columns.T for v in (kept, weights))
    mean = kept.sum(1) / weights.sum(1).clamp_min(1)
    has_value = weight > LEAST_WEIGHT
    return torch.where(has_value, total / weight.clamp_min(LEAST_WEIGHT), mean[:, None, None])


def blurred(maps, sigma, inside):
    """Blur maps (n, height, width) inside; outside they take the lowest value that they have."""
    weights = inside.to(maps)
    kept = torch.where(inside, maps, maps.new_zeros(()))
    weight = gaussian_blur(weights, sigma).clamp_min(torch.finfo(maps.dtype).tiny)
    return filled(gaussian_blur(kept, sigma) / weight, inside)


def filled(maps, inside):
    """Give all of a map (n, height, width) that is outside the lowest value that it has inside."""
    lowest = maps.masked_fill(~inside, torch.inf).amin((1, 2), keepdim=True)
    return torch.where(inside, maps, lowest)


def median_inside(values, inside):
    """Return the median (n,) of the values (n, n_positions) inside."""
    return torch.stack([row[chosen].median() for row, chosen in zip(values, inside, strict=True)])


def profile_at(profile, codes, map_shape, frame):
    """Return the profile (n_positions, n_classes) of each picture at its positions.

    That of tiles is laid over the whole picture and interpolated.
    """
    if frame is None or frame.layout is None:
        return profile.T[codes]
    rows, columns = profile_weights(frame.layout, tuple(map_shape), profile.dtype, profile.device)
    maps = profile.T[codes].unflatten(1, map_shape)
    return (rows @ maps @ columns.T).flatten(1)


@lru_cache(maxsize=16)
def profile_weights(layout, map_shape, dtype, device):
    """Return how the positions of all tiles lie on a map of the whole picture.

    Two Tensors, (n_tiles_down * height, height) and (n_tiles_across * width, width), weights of
    bilinear interpolation.
    """
    middles = relative_middles(layout, map_shape)
    return tuple(
        torch.from_numpy(between(middle * n - 0.5, n)).to(device, dtype)
        for middle, n in zip(middles, map_shape, strict=True)
    )


@lru_cache(maxsize=16)
def _stitching(layout, map_shape, size, dtype, device):
    matrices = stitching(layout, map_shape, size)
    return tuple(torch.from_numpy(matrix).to(device, dtype) for matrix in matrices)


def full_maps(grid, inside, layout, mask):
    """Bring one map from its grid to the picture, Tensor (height, width).

    Parameters
    ----------
    grid : Tensor of shape (height, width)
    inside : bool Tensor of shape (height, width)
    layout : Layout
    mask : bool ndarray of the size of the picture, or None
        Its region of interest. Outside, the map has the lowest value that it has inside, or 0 if
        that is lower, so that no part outside is an anomaly where all of the inside is.
    """
    top, left, *box = layout.box
    lowest = grid[inside].min()
    weights = inside.to(grid)
    kept = torch.where(inside, grid, grid.new_zeros(()))
    height, width = layout.size
    window = slice(-top, -top + height), slice(-left, -left + width)
    if bool(inside.all()):
        large = resize(grid[None], box)[0][window]
    else:
        total, weight = (resize(v[None], box)[0][window] for v in (kept, weights))
        large = torch.where(weight > LEAST_WEIGHT, total / weight.clamp_min(LEAST_WEIGHT), lowest)
    if mask is not None:
        chosen = torch.from_numpy(mask)
        large = torch.where(chosen, large, large[chosen].min().clamp_max(0))
    return large
