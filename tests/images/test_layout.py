"""Where tiles lie, what of them is inside, and how they become one map again."""

import numpy as np
import pytest

from skhgad.images import ImageSource
from skhgad.images.layout import (
    Layout,
    by_tile,
    cell_edges,
    grid_size,
    padded,
    shares,
    stitching,
    tiled,
    whole,
)
from skhgad.images.picture_error import PictureError
from skhgad.images.views import ViewSource


@pytest.mark.parametrize("size", [(100, 100), (101, 64), (37, 500), (64, 65), (20, 300), (64, 64)])
def test_tiles_cover_a_picture_and_overlap_by_a_quarter(size):
    layout = tiled(size, (64, 64))
    for side, (_, start, box, tile, offsets) in zip(size, layout.axes, strict=True):
        assert tile == 64 and box == max(side, 64)
        assert offsets[0] == 0 and offsets[-1] + tile == box  # nothing is cut off, nothing added
        assert start == -((box - side) // 2)  # a smaller picture lies in the middle
        assert all(b - a <= 48 for a, b in zip(offsets, offsets[1:], strict=False))


def test_a_small_defect_lies_whole_in_some_tile():
    layout = tiled((300, 400), (64, 64))
    for top in range(0, 288):
        for left in (0, 50, 199, 388):
            assert any(
                t <= top and top + 12 <= t + 64 and x <= left and left + 12 <= x + 64
                for t, x in layout.corners
            )


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (30, 64), (64, 64), (7, 100)])
def test_padding_keeps_the_proportions(size):
    layout = padded(size, (32, 64))
    _, _, height, width = layout.box
    assert abs(width / height - 2) <= 2 / height
    assert height >= size[0] and width >= size[1]
    assert height == size[0] or width == size[1]


def test_shares_are_the_part_of_a_cell_that_is_inside():
    rng = np.random.default_rng(0)
    mask = rng.random((30, 44)) < 0.6
    layout = tiled(mask.shape, (16, 20))
    found = by_tile(shares(layout, cell_edges(layout, (4, 5)), mask), layout)
    for tile, (top, left) in zip(found, layout.corners, strict=True):
        cells = mask[top : top + 16, left : left + 20].reshape(4, 4, 5, 4).mean((1, 3))
        np.testing.assert_allclose(tile, cells.ravel())
    outside = padded((10, 40), (40, 40))
    found = shares(outside, cell_edges(outside, (8, 8)), None)
    np.testing.assert_allclose(found, np.repeat([0, 0, 0, 1, 1, 0, 0, 0], 8).reshape(8, 8))


def test_cells_may_cut_pixels():
    mask = np.array([[True, False, False]])
    layout = whole((1, 3))
    np.testing.assert_allclose(shares(layout, cell_edges(layout, (1, 2)), mask), [[2 / 3, 0]])


def test_stitched_tiles_have_no_seams():
    layout = tiled((100, 180), (48, 64))
    size = grid_size(layout, (12, 16))
    assert size == (25, 45)
    rows, columns = stitching(layout, (6, 8), size)
    np.testing.assert_allclose(rows.sum(1), 1)
    np.testing.assert_allclose(columns.sum(1), 1)
    # A plane, seen through the tiles, is the same plane.
    (top, bottom), (left, right) = cell_edges(layout, (6, 8))
    plane = 3 * (top + bottom)[:, None] / 2 + (left + right)[None] / 2
    stitched = rows @ plane @ columns.T
    y, x = (np.arange(25) + 0.5) * 4, (np.arange(45) + 0.5) * 4
    np.testing.assert_allclose(stitched[2:-2, 2:-2], (3 * y[:, None] + x)[2:-2, 2:-2], rtol=1e-9)


def test_the_border_of_a_tile_that_a_neighbour_sees_better_has_no_weight():
    layout = tiled((64, 112), (64, 64))
    assert layout.lefts == (0, 48)
    _, columns = stitching(layout, (8, 8), (16, 112))
    from_first, from_second = columns[:, :8].sum(1), columns[:, 8:].sum(1)
    assert (from_first[:52] == 1).all() and (from_second[60:] == 1).all()
    assert (np.diff(from_first[51:61]) < 0).all()


def test_one_tile_is_the_picture():
    assert tiled((64, 48), (64, 48)) == Layout((64, 48), (0, 0, 64, 48), (64, 48))
    assert tiled((64, 48), (64, 48)).is_whole


def test_a_picture_of_very_many_tiles_is_refused():
    def views(length):
        images = ImageSource([np.zeros((length, 1), np.uint8)])
        how = {"size": (8, 8), "map_shapes": [(2, 2)], "colour": (0, 0, 0)}
        return ViewSource(images, tile_size=(8, 8), **how)

    with pytest.raises(PictureError, match="257 tiles along a side, the limit is 256"):
        views(6 * 256 + 8).layout(0)
    assert len(views(6 * 255 + 8).layout(0).tops) == 256
