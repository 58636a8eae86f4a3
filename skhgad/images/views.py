"""Pictures as the backbone sees them: only their region of interest, padded or in tiles."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decoding import Pixels
from .layout import Layout, by_tile, cell_edges, grid_size, n_tiles, padded, shares, tiled, whole
from .picture_error import PictureError
from .roi import Region
from .source import ImageSource

__all__ = ["ViewSource"]

INSIDE_SHARE = 0.5  # of a cell that must lie inside for its position to count
_MOST_PIXELS = 1 << 26  # of a view before it is resized; more only if its picture has a quarter
# Along a side. The memory that stitches them grows with the square of their number.
_MOST_TILES = 256
_REMEMBERED = 8  # masks of cells that are kept for the next picture


class ViewSource:
    """The views of pictures, in the order of the pictures: one each, or its tiles.

    A view is a rectangle of a picture that is resized to the backbone's size. What lies outside the
    region of interest, or outside the picture, has a constant colour there. It is put in before the
    resizing, so that no pixel outside changes anything.

    A position of a map counts as inside if at least half of its cell does. Where no cell of a
    picture is half inside, as in a narrow region, those with the largest share are.

    Parameters
    ----------
    images : ImageSource
    size : tuple (height, width)
        To which views are resized.
    map_shapes : sequence of tuple (height, width)
        Of the maps that the backbone makes of a view.
    colour : sequence of float
        What replaces pixels outside, in [0, 1], a value a channel.
    regions : sequence of Region or None, default=None
        Of each picture; None = the whole picture.
    resize : {"stretch", "pad"}, default="stretch"
    tile_size : tuple (height, width), default=None

    Attributes
    ----------
    picture_of, tile_of : ndarray of shape (n_views,), int
        Picture of each view, and which of its tiles. Tiles wholly outside are no views.
    """

    def __init__(
        self,
        images: ImageSource,
        *,
        size: tuple[int, int],
        map_shapes: Sequence[tuple[int, int]],
        colour: Sequence[float],
        regions: Sequence[Region | None] | None = None,
        resize: str = "stretch",
        tile_size: tuple[int, int] | None = None,
    ) -> None:
        self.images = images
        self.size = size
        self.map_shapes = [(height, width) for height, width in map_shapes]
        self.regions = regions
        self.is_padded = resize == "pad" and tile_size is None
        self.tile_size = tile_size
        # Of 8 bits, so that pictures of bytes and of floats get the same.
        self.colour = np.round(255 * np.asarray(colour, dtype=np.float64)).astype(np.uint8)
        self._layouts: dict[int, Layout] = {}
        self._inside: OrderedDict[Any, Any] = OrderedDict()
        self._decoded: tuple[int, Any] | None = None
        self._lock = threading.Lock()
        pictures = np.arange(len(images))
        if tile_size is None:
            self.picture_of, self.tile_of = pictures, np.zeros_like(pictures)
            return
        tiles = [self._visible_tiles(picture) for picture in pictures.tolist()]
        self.picture_of = pictures.repeat([len(found) for found in tiles])
        self.tile_of = np.concatenate(tiles)

    def __len__(self) -> int:
        return len(self.picture_of)

    @property
    def n_pictures(self) -> int:
        """Number of pictures."""
        return len(self.images)

    @property
    def is_tiled(self) -> bool:
        """Whether pictures are cut into tiles."""
        return self.tile_size is not None

    def name(self, view: int) -> str:
        """Return the name of the view's picture in messages."""
        return self.images.name(int(self.picture_of[view]))

    def tile_shape(self, view: int) -> tuple[int, int]:
        """Return height and width of a view before it is resized."""
        return self.layout(int(self.picture_of[view])).tile

    def layout(self, picture: int) -> Layout:
        """Return where the tiles of a picture lie."""
        if picture not in self._layouts:
            size = self.images.size(picture)
            if self.tile_size is not None:
                layout = tiled(size, self.tile_size)
            else:
                layout = padded(size, self.size) if self.is_padded else whole(size)
            _check_layout(layout, self.images.name(picture))
            self._layouts[picture] = layout
        return self._layouts[picture]

    def mask(self, picture: int) -> NDArray[np.bool_] | None:
        """Return the region of interest of a picture at its size, or None: all of it."""
        region = None if self.regions is None else self.regions[picture]
        if region is None:
            return None
        return region.read(self.images.size(picture), self.images.name(picture))

    def read(self, view: int) -> Pixels:
        """Decode a view: ndarray (height, width, channels), as from `ImageSource.read`."""
        picture = int(self.picture_of[view])
        pixels, mask = self._picture(picture)
        layout = self.layout(picture)
        if layout.is_whole and mask is None:
            return pixels
        colour: Any = self.colour
        if pixels.dtype != np.uint8:
            colour = colour.astype(np.float32) / np.float32(255)
        (top, left), (height, width) = layout.corners[self.tile_of[view]], layout.tile
        cut = np.empty((height, width, pixels.shape[2]), dtype=pixels.dtype)
        cut[...] = colour
        rows = slice(max(top, 0), min(top + height, pixels.shape[0]))
        columns = slice(max(left, 0), min(left + width, pixels.shape[1]))
        part = pixels[rows, columns]
        if mask is not None:
            part = np.where(mask[rows, columns, None], part, colour)
        cut[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
        return cut

    def inside(self, picture: int) -> list[NDArray[np.bool_]]:
        """Return which positions count, one bool array (n_tiles, n_positions) for each map."""
        layout = self.layout(picture)

        def find(mask: NDArray[np.bool_] | None) -> list[NDArray[np.bool_]]:
            return [
                by_tile(_counts(shares(layout, cell_edges(layout, shape), mask)), layout)
                for shape in self.map_shapes
            ]

        found: list[NDArray[np.bool_]] = self._remembered("inside", picture, find)
        return found

    def inside_of_views(self, views: Sequence[int]) -> list[NDArray[np.bool_]]:
        """Return which positions of some views count, bool (n_views, n_positions) for each map."""
        rows = []
        for view in views:
            levels = self.inside(int(self.picture_of[view]))
            rows.append([level[self.tile_of[view]] for level in levels])
        return [np.stack(level) for level in zip(*rows, strict=True)]

    def grid_inside(self, picture: int, of_tile: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which cells of the grid of a picture's anomaly map count, bool (height, width).

        `of_tile` is the size of the grid of one tile.
        """
        layout = self.layout(picture)
        _, _, height, width = layout.box
        one = Layout(layout.size, layout.box, (height, width))

        def find(mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
            return _counts(shares(one, cell_edges(one, grid_size(layout, of_tile)), mask))

        found: NDArray[np.bool_] = self._remembered(("grid", of_tile), picture, find)
        return found

    def _remembered(
        self, kind: Any, picture: int, find: Callable[[NDArray[np.bool_] | None], Any]
    ) -> Any:
        """Find what depends on a layout and a mask alone, once for pictures that share them."""
        region = None if self.regions is None else self.regions[picture]
        # The item is kept, so that its id stays its own.
        key = kind, self.layout(picture), None if region is None else id(region.item)
        with self._lock:
            if key in self._inside:
                self._inside.move_to_end(key)
                return self._inside[key][0]
        found = find(self.mask(picture))
        with self._lock:
            self._inside[key] = found, region
            while len(self._inside) > 3 * _REMEMBERED:
                self._inside.popitem(last=False)
        return found

    def _picture(self, picture: int) -> tuple[Pixels, NDArray[np.bool_] | None]:
        """Return pixels and mask of a picture; of a tiled one, decoded once for all its tiles."""
        if self.tile_size is None:
            return self.images.read(picture), self.mask(picture)
        with self._lock:
            decoded = self._decoded
            if decoded is not None and decoded[0] == picture:
                found: tuple[Pixels, NDArray[np.bool_] | None] = decoded[1]
                return found
            self._decoded = None  # frees the one before
            found = self.images.read(picture), self.mask(picture)
            self._decoded = picture, found
            return found

    def _visible_tiles(self, picture: int) -> NDArray[np.int64]:
        region = None if self.regions is None else self.regions[picture]
        if region is None:
            return np.arange(n_tiles(self.layout(picture)))
        visible = np.stack([level.any(axis=1) for level in self.inside(picture)])
        return np.flatnonzero(visible.any(axis=0))


def _check_layout(layout: Layout, name: str) -> None:
    """Raise PictureError if views of a picture take far more memory than the picture."""
    longest = max(len(layout.tops), len(layout.lefts))
    if longest > _MOST_TILES:
        raise PictureError(
            f"{name} has {layout.size[0]} x {layout.size[1]} pixels (height x width), which are "
            f"{longest} tiles along a side, the limit is {_MOST_TILES}: cut it into several "
            "pictures, or fit with a larger tile_size."
        )
    height, width = layout.tile
    if height * width > max(_MOST_PIXELS, 4 * layout.size[0] * layout.size[1]):
        raise PictureError(
            f"{name} has {layout.size[0]} x {layout.size[1]} pixels (height x width) and would be "
            f"seen in {height} x {width}: give smaller tiles, or resize='stretch'."
        )


def _counts(share: NDArray[np.float64]) -> NDArray[np.bool_]:
    # A hair below, because shares are sums of fractions.
    least = min(INSIDE_SHARE, float(share.max())) * (1 - 1e-9)
    counted: NDArray[np.bool_] = share >= least
    return counted
