"""Regions of interest as users give them."""

import numpy as np
import pytest
from PIL import Image

from skhgad.images import ImageSource
from skhgad.images.roi import ProductMasks, read_mask, regions_of_samples
from skhgad.images.views import ViewSource

CLASSES = np.array(["bolt", "nut"])
HALF = np.zeros((8, 10), dtype=bool)
HALF[:, :5] = True


def test_every_kind_of_mask_is_the_same(tmp_path):
    Image.fromarray(HALF.astype(np.uint8) * 255).save(tmp_path / "white.png")
    Image.fromarray(HALF.astype(np.uint8)).save(tmp_path / "one.png")
    kinds = [
        HALF, HALF.astype(int), HALF.astype(float), HALF.astype(np.uint8) * 255, HALF[..., None],
        HALF.tolist(), tmp_path / "white.png", str(tmp_path / "one.png"),
        Image.fromarray(HALF), Image.fromarray(HALF.astype(np.uint8) * 255),
    ]  # fmt: skip
    for kind in kinds:
        np.testing.assert_array_equal(read_mask(kind, "roi"), HALF)


@pytest.mark.parametrize(
    "mask, said",
    [
        (np.zeros((4, 4)), "roi is empty: no pixel of its 4 x 4"),
        (np.full((4, 4), 3), "roi holds 3"),
        (np.full((4, 4), np.nan), "roi holds nan"),
        (np.ones((4, 4, 3)), r"roi has shape \(4, 4, 3\)"),
        (np.ones(4), r"roi has shape \(4,\)"),
    ],
)
def test_what_is_no_mask_is_refused(mask, said):
    with pytest.raises(ValueError, match=said):
        read_mask(mask, "roi")


def test_one_mask_for_all_and_one_a_product():
    found = regions_of_samples(HALF, 3, CLASSES)
    assert isinstance(found, ProductMasks) and found.is_common and found.of_class == (0, 0)
    found = regions_of_samples({"nut": HALF}, 3, CLASSES)
    assert found.of_class == (-1, 0) and not found.is_common
    bolt, nut, anomaly = found.regions([0, 1, -1])
    assert bolt is None and anomaly is None and nut.name == "roi['nut']"
    assert regions_of_samples({"nut": HALF, "bolt": HALF.copy()}, 3, CLASSES).is_common


def test_one_mask_a_picture(tmp_path):
    Image.fromarray(HALF).save(tmp_path / "mask.png")
    found = regions_of_samples([HALF, None, tmp_path / "mask.png"], 3, CLASSES)
    assert found[1] is None
    assert found[2].name == f"roi[2] ({tmp_path / 'mask.png'})"
    np.testing.assert_array_equal(found[2].read((8, 10), "X[2]"), HALF)
    assert len(regions_of_samples(np.stack([HALF, HALF]), 2, CLASSES)) == 2


@pytest.mark.parametrize(
    "roi, error, said",
    [
        ([HALF], ValueError, "roi has 1 masks but X has 3 samples"),
        ({"bold": HALF}, ValueError, "roi has a mask for 'bold', which is no product class"),
        ({}, ValueError, "empty mapping"),
        (5, TypeError, "roi is a int"),
        ("nowhere.png", FileNotFoundError, r"roi \(nowhere.png\) does not exist"),
        ([None, "nowhere.png", None], FileNotFoundError, r"roi\[1\] \(nowhere.png\) does not"),
        ([None, np.zeros((2, 2)), None], ValueError, r"roi\[1\] is empty"),
        ({"nut": np.zeros((2, 2))}, ValueError, r"roi\['nut'\] is empty"),
    ],
)
def test_errors_name_what_is_wrong(roi, error, said):
    with pytest.raises(error, match=said):
        regions_of_samples(roi, 3, CLASSES)


def test_a_mask_of_another_size_names_the_picture():
    (region, _) = regions_of_samples([HALF, None], 2, CLASSES)
    with pytest.raises(ValueError, match=r"roi\[0\] has 8 x 10 .* but X\[0\] \(a.png\) has 4 x 5"):
        region.read((4, 5), "X[0] (a.png)")


def test_masks_by_product_need_products():
    with pytest.raises(ValueError, match="classes are yet to be discovered"):
        regions_of_samples({"nut": HALF}, 3, None)


def test_what_all_masks_have_in_common():
    both = regions_of_samples({"bolt": HALF, "nut": np.eye(8, 10)}, 1, CLASSES)
    np.testing.assert_array_equal(
        both.common_part((8, 10), "X[0]").item, HALF & (np.eye(8, 10) > 0)
    )
    with pytest.raises(ValueError, match=r"X\[0\] has 3 x 3 .* have 8 x 10"):
        both.common_part((3, 3), "X[0]")
    apart = regions_of_samples({"bolt": HALF, "nut": ~HALF}, 1, CLASSES)
    with pytest.raises(ValueError, match=r"no pixel in common, so the class of X\[0\]"):
        apart.common_part((8, 10), "X[0]")


def source(images, regions=None, **how):
    how = {"size": (4, 4), "map_shapes": [(4, 4), (2, 2)], "colour": (0.5, 0.25, 0.1)} | how
    return ViewSource(ImageSource(images), regions=regions, **how)


def test_pixels_outside_are_replaced_before_the_resizing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)
    other = image.copy()
    other[~HALF] = 255 - other[~HALF]
    regions = regions_of_samples([HALF, HALF, HALF], 3, CLASSES)
    views = source([image, other, image.astype(np.float32) / np.float32(255)], regions)
    first, second, floats = (views.read(i) for i in range(3))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[HALF], image[HALF])
    assert (first[~HALF] == (128, 64, 26)).all()
    np.testing.assert_array_equal(floats, first.astype(np.float32) / np.float32(255))


def test_a_position_counts_from_half_of_its_cell():
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :3] = True  # half of the second of four columns, three quarters of the first of two
    fine, coarse = source(np.zeros((1, 8, 8)), regions_of_samples([mask], 1, CLASSES)).inside(0)
    assert fine.reshape(4, 4).all(0).tolist() == [True, True, False, False]
    assert coarse.reshape(2, 2).tolist() == [[True, False], [True, False]]
    mask[:, 2] = False
    mask[:, 7] = True  # less than half of its cells
    fine, _ = source(np.zeros((1, 8, 8)), regions_of_samples([mask], 1, CLASSES)).inside(0)
    assert fine.reshape(4, 4).any(0).tolist() == [True, False, False, True]


def test_a_narrow_region_counts_where_it_is_widest():
    mask = np.zeros((80, 80), dtype=bool)
    mask[33, 10:20] = True
    mask[34, 10:13] = True
    fine, coarse = source(np.zeros((1, 80, 80)), regions_of_samples([mask], 1, CLASSES)).inside(0)
    assert np.flatnonzero(fine).tolist() == [4] and np.flatnonzero(coarse).tolist() == [0]


def test_tiles_outside_are_no_views():
    mask = np.zeros((8, 20), dtype=bool)
    mask[:, 12:] = True
    images = np.zeros((2, 8, 20))
    views = source(images, regions_of_samples([mask, None], 2, CLASSES), tile_size=(8, 8))
    n_tiles = len(views.layout(0).corners)
    assert n_tiles == 3 and views.picture_of.tolist() == [0, 0, 1, 1, 1]
    assert views.tile_of.tolist() == [1, 2, 0, 1, 2]


def test_a_picture_smaller_than_a_tile_is_surrounded():
    image = np.full((2, 6, 3), 200, dtype=np.uint8)
    views = source([image], tile_size=(4, 6))
    pixels = views.read(0)
    assert pixels.shape == (4, 6, 3)
    assert (pixels[1:3] == 200).all() and (pixels[[0, 3]] == (128, 64, 26)).all()
    assert views.inside(0)[0].reshape(4, 4).all(1).tolist() == [False, True, True, False]


def test_sizes_are_read_from_headers(tmp_path):
    image = Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "plain.png")
    items = [tmp_path / "turned.jpg", tmp_path / "plain.png", image, np.zeros((3, 5))]
    images = ImageSource(items)
    assert [images.size(i) for i in range(4)] == [images.read(i).shape[:2] for i in range(4)]
    assert images.size(0) == (6, 4)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.png"):
        ImageSource([tmp_path / "broken.png"]).size(0)
