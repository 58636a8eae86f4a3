"""Pictures with a defect painted in."""

import numpy as np
import pytest

from skhgad.images.source import ImageSource
from skhgad.images.synthetic import SyntheticAnomalies, with_defect


def pictures(n=12, size=(60, 80)):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, *size, 3), dtype=np.uint8)


def changed(before, after):
    return (np.asarray(before, float) != np.asarray(after, float)).any(axis=-1)


def test_a_part_of_each_picture_changes_and_the_pictures_themselves_do_not():
    images = pictures()
    kept = images.copy()
    source = SyntheticAnomalies(ImageSource(images), seed=0)
    for i, image in enumerate(images):
        found = source.read(i)
        assert found.dtype == np.uint8 and found.shape == image.shape
        assert 0 < changed(image, found).mean() < 0.25
    np.testing.assert_array_equal(images, kept)


def test_the_defect_depends_on_the_seed_and_the_number_alone():
    images = np.repeat(pictures(1), 3, axis=0)
    first, again, other = (SyntheticAnomalies(ImageSource(images), seed) for seed in (0, 0, 1))
    assert (first.read(2) == again.read(2)).all()
    assert (first.read(2) != first.read(1)).any() and (first.read(2) != other.read(2)).any()


def test_bytes_and_floats_get_the_same_defect():
    for seed in range(6):
        image = pictures(1)[0]
        as_bytes = with_defect(image, np.random.default_rng(seed))
        as_floats = with_defect(image.astype(np.float32) / 255, np.random.default_rng(seed))
        assert as_floats.dtype == np.float32 and as_floats.min() >= 0 and as_floats.max() <= 1
        np.testing.assert_allclose(as_floats * 255, as_bytes, atol=0.51)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (8, 8), (300, 5)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_pictures_of_any_shape(size, channels):
    for seed in range(5):
        image = np.full((*size, channels), 128, dtype=np.uint8)
        assert with_defect(image, np.random.default_rng(seed)).shape == image.shape


def test_the_center_lies_in_the_region():
    image = pictures(1, (100, 100))[0]
    inside = np.zeros((100, 100), dtype=bool)
    inside[5:9, 80:95] = True
    for seed in range(10):
        rows, columns = np.nonzero(
            changed(image, with_defect(image, np.random.default_rng(seed), inside))
        )
        assert rows.min() < 9 and columns.max() >= 80  # the rest of a defect may lie beyond


def test_all_three_kinds_appear():
    """A moved spot repeats pixels of the picture, a scratch is of one shade, a blur is smooth."""
    image = pictures(1, (100, 100))[0]
    steepness = []
    for seed in range(40):
        found = with_defect(image, np.random.default_rng(seed))
        rows, columns = np.nonzero(changed(image, found))
        part = found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        steepness.append(np.abs(np.diff(part.astype(float), axis=0)).mean())
    assert min(steepness) < 40 and max(steepness) > 80
