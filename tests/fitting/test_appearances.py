"""How the normal pictures looked: kept at fit, through files, updates, new classes and forget."""

import numpy as np
import pytest
from small_pictures import SIDE, draw

from skhgad import HGADDetector
from skhgad.images.appearance import appearance_of
from skhgad.scoring.appearances import MOST_KEPT, appearances_of, same_regions

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def rng():
    """Random numbers."""
    return np.random.default_rng(3)


def expected(pictures):
    return np.array([appearance_of(picture) for picture in pictures])


def of_class(detector, label):
    kept = detector.model_.appearances
    return kept.x[kept.codes == detector.classes_.tolist().index(label)]


def test_a_fit_keeps_them_and_files_and_changes_too(small_detector, small_model, rng):
    drawn = np.random.default_rng(0)
    pictures = [draw(drawn, label) for label in ["checker", "stripe"] * 12]
    assert of_class(small_detector, "checker") == pytest.approx(expected(pictures[::2]))
    assert of_class(small_detector, "stripe") == pytest.approx(expected(pictures[1::2]))
    loaded = HGADDetector.load(small_model)
    assert np.array_equal(of_class(loaded, "stripe"), of_class(small_detector, "stripe"))

    more = [draw(rng, "stripe") for _ in range(4)]
    loaded.update(more, "stripe")
    assert of_class(loaded, "stripe")[12:] == pytest.approx(expected(more))
    before = of_class(loaded, "stripe")
    new = [draw(rng, "checker")[:, ::-1] for _ in range(8)]
    loaded.add_class(new, "a first one")  # sorted before the others
    assert of_class(loaded, "a first one") == pytest.approx(expected(new))
    assert np.array_equal(of_class(loaded, "stripe"), before)
    loaded.forget("checker")
    assert len(loaded.model_.appearances.codes) == 16 + 8
    assert np.array_equal(of_class(loaded, "stripe"), before)


def test_known_anomalies_and_vectors_have_none(rng):
    pictures = [draw(rng, "stripe", defect=i == 0) for i in range(9)]
    detector = HGADDetector(image_size=SIDE, image_scales=(1,), random_state=0)
    detector.fit(pictures, [-1] + [0] * 8)
    assert detector.model_.appearances.x == pytest.approx(expected(pictures[1:]))
    assert HGADDetector().fit(rng.normal(size=(30, 2))).model_.appearances is None


def test_views_have_one_appearance_a_picture_in_its_region(rng):
    pictures = [draw(rng, "stripe") for _ in range(6)]
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:, :16] = True
    detector = HGADDetector(
        image_size=SIDE, image_scales=(1,), tile_size=(16, SIDE), random_state=0
    ).fit(pictures, ["box"] * 6, roi=mask)
    assert detector.model_.appearances.x == pytest.approx(
        np.array([appearance_of(picture, mask) for picture in pictures])
    )
    # With another region they are not comparable.
    other = {"lid": ~mask}
    detector.add_class([draw(rng, "checker") for _ in range(6)], "lid", roi=other)
    assert detector.model_.appearances is None


def test_of_large_classes_some_are_kept():
    x = np.arange(3.0 * (MOST_KEPT + 500)).reshape(-1, 3)
    x[1] = np.nan  # not read
    codes = np.zeros(len(x), dtype=np.int64)
    codes[-3:], codes[-1] = 1, -1
    kept = appearances_of(x, codes)
    assert np.bincount(kept.codes).tolist() == [MOST_KEPT, 2]
    assert np.isfinite(kept.x).all() and kept.x[-1].tolist() == x[-2].tolist()
    again = appearances_of(np.ones((1, 3)), np.array([1]), kept)
    assert np.bincount(again.codes).tolist() == [MOST_KEPT, 3]
    assert appearances_of(np.full((2, 3), np.nan), np.zeros(2, dtype=np.int64)) is None
    assert same_regions(None, None)
