"""Brightness, contrast and sharpness of pictures, and the source that notes them."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from small_pictures import draw

from skhgad.images import ImageSource
from skhgad.images.appearance import STATISTICS, ObservedSource, appearance_of
from skhgad.images.roi import ProductMasks


@pytest.fixture
def picture():
    """Pixels of a drawn picture."""
    return draw(np.random.default_rng(0), "checker")


def test_the_statistics_are_what_they_are_called(picture):
    grey = picture.mean(2) / 255
    brightness, contrast, sharpness = appearance_of(picture)
    assert (brightness, contrast) == pytest.approx((grey.mean(), grey.std()))
    assert appearance_of((picture / 255).astype(np.float32)) == pytest.approx(
        [brightness, contrast, sharpness], rel=1e-5
    )
    brighter = appearance_of((picture * 1.1 / 255).astype(np.float32))
    assert brighter == pytest.approx([1.1 * brightness, 1.1 * contrast, sharpness], rel=1e-5)
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)))
    assert appearance_of(blurred)[2] < 0.7 * sharpness
    assert appearance_of(np.full((1, 5, 3), 7, dtype=np.uint8)).tolist() == [7 / 255, 0, 0]


def test_sharpness_is_the_ratio_of_second_and_first_differences():
    """Along a row 0, 1, 0, 1 ... the second difference is twice the first; along a ramp it is 0."""
    columns = np.arange(40) % 2
    rows = np.repeat(columns[None], 40, 0).astype(np.float32)[..., None]
    # At both edges a pixel has one neighbour.
    assert appearance_of(rows)[2] == pytest.approx(1.0)
    ramp = np.repeat(np.linspace(0, 1, 40, dtype=np.float32)[None], 40, 0)[..., None]
    assert appearance_of(ramp)[2] < 0.05


def test_a_large_picture_is_sampled(picture):
    large = np.kron(picture, np.ones((30, 30, 1), dtype=np.uint8))  # 960 x 960
    assert appearance_of(large)[:2] == pytest.approx(appearance_of(picture)[:2], rel=0.02)


def test_the_source_notes_what_it_reads_and_keeps_to_the_region(picture):
    pictures = [picture, picture.copy()]
    pictures[1][:, 16:] = 255  # outside the region
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, :15] = True
    masks = ProductMasks((mask,), (0,), ("mask",))
    source = ObservedSource(ImageSource(pictures), masks)
    assert np.isnan(source.appearance).all() and source.appearance.shape == (2, len(STATISTICS))
    assert np.array_equal(source.read(1), pictures[1]) and np.isnan(source.appearance[0]).all()
    source.read(0)
    assert np.array_equal(source.appearance[0], source.appearance[1])
    whole = ObservedSource(ImageSource(pictures))
    whole.read(1)
    assert whole.appearance[1, 0] > source.appearance[1, 0] + 0.1
    # Products without a common pixel: the whole picture.
    apart = ObservedSource(ImageSource(pictures), ProductMasks((mask, ~mask), (0, 1), ("a", "b")))
    apart.read(1)
    assert np.array_equal(apart.appearance[1], whole.appearance[1])
