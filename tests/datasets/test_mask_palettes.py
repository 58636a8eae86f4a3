"""Masks with a palette are read by their colours: an index 0 may stand for white."""

import numpy as np
import pytest
from PIL import Image

from skhgad.datasets import load_mask
from skhgad.images.roi import read_mask

INSIDE = np.zeros((6, 8), dtype=bool)
INSIDE[2:4, 3:7] = True


def with_palette(indices, colours):
    indices = np.asarray(indices, dtype=np.uint8)
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette(np.asarray(colours, dtype=np.uint8).ravel().tolist())
    return image


@pytest.mark.parametrize(
    ("indices", "colours"),
    [
        (~INSIDE, [(255, 255, 255), (0, 0, 0)]),  # as tools that shrink files may order them
        (INSIDE, [(0, 0, 0), (255, 255, 255)]),
        (INSIDE, [(0, 0, 0), (0, 0, 1)]),
        (2 * INSIDE, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]),  # classes of defects
        (INSIDE, [(9, 9, 9), (200, 0, 0)]),  # no colour is black: class numbers
        (INSIDE, [(0, 0, 0), (0, 0, 0)]),  # no colours at all
    ],
)
def test_a_palette_s_order_does_not_matter(indices, colours, tmp_path):
    image = with_palette(indices, colours)
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png"), INSIDE)
    np.testing.assert_array_equal(read_mask(image, "roi"), INSIDE)


def test_a_mask_of_one_colour_is_inside_unless_it_is_black():
    white = with_palette(np.zeros((2, 3)), [(255, 255, 255)])
    assert read_mask(white, "roi").all()
    with pytest.raises(ValueError, match="roi is empty"):
        read_mask(with_palette(np.zeros((2, 3)), [(0, 0, 0)]), "roi")


def test_any_value_but_0_is_inside_also_in_pil_images_of_floats():
    image = Image.fromarray(np.where(INSIDE, 0.2, 0).astype(np.float32))
    np.testing.assert_array_equal(read_mask(image, "roi"), INSIDE)
