"""HGADDetector on large pictures in tiles."""

import numpy as np
import pytest
from backbones import RandomFilters
from small_pictures import fine_products

from skhgad import HGADDetector
from skhgad.scoring import views as scored_views
from skhgad.validation import check_scored_X

SIZE = (72, 88)


class Stages(RandomFilters):
    """Maps of strides 2, 4 and 8, which make two levels; counts the images that it sees."""

    most, seen = 0, 0

    def __init__(self):
        super().__init__((8, 2), (12, 2), (12, 2))

    def forward(self, x):
        Stages.most, Stages.seen = max(Stages.most, len(x)), Stages.seen + len(x)
        return super().forward(x)


def products(n, seed=0, size=SIZE):
    return fine_products(n, seed, size)


def with_spots(images, places):
    damaged = images.copy()
    for image, (row, column) in zip(damaged, places, strict=True):
        image[row - 2 : row + 3, column - 2 : column + 3] = (250, 20, 20)
    return damaged


def small(**parameters):
    return HGADDetector(
        **{"backbone": Stages(), "image_size": 32, "tile_size": 32, "random_state": 0} | parameters
    )


PLACES = [(10, 12), (28, 30), (29, 31), (60, 80), (66, 5), (2, 85), (36, 44), (50, 26)]


@pytest.fixture(scope="module")
def fitted(one_thread):
    return small().fit(*products(40))


@pytest.fixture(scope="module")
def fresh():
    return products(8, seed=1)


def test_small_defects_are_found_with_tiles_where_they_are(fitted, fresh):
    images, labels = fresh
    damaged = with_spots(images, PLACES)
    assert (fitted.predict(damaged) == -1).all()
    assert (fitted.predict(images) == 1).mean() >= 0.8
    np.testing.assert_array_equal(fitted.predict_class(damaged), labels)
    maps = fitted.anomaly_maps(damaged)
    assert maps.shape == (8, *SIZE) and np.isfinite(maps).all()
    for explanation, place in zip(fitted.explain(damaged), PLACES, strict=True):
        assert np.abs(np.subtract(explanation.peak_position, place)).max() <= 5
    np.testing.assert_allclose(
        maps.max((1, 2)), -fitted.score_samples(damaged), rtol=0.15, atol=0.3
    )


def test_the_score_is_the_sum_of_the_peaks_over_all_tiles(fitted, fresh):
    parts = fitted.level_maps(with_spots(fresh[0], PLACES))
    assert parts.likelihood.shape[2:] == (18, 22)  # a quarter of the pixels of a tile
    peaks = parts.likelihood.max((2, 3)).sum(1)
    scores = fitted.score_samples(with_spots(fresh[0], PLACES))
    np.testing.assert_allclose(
        -scores, (peaks - parts.location) / parts.scale, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(parts.combined().max((1, 2)), -scores, rtol=1e-4, atol=1e-4)


def test_a_tile_of_the_size_of_the_picture_is_no_tile():
    X, y = products(40, size=(32, 32))
    fresh, _ = products(6, seed=1, size=(32, 32))
    plain, tiled = (small(tile_size=tile).fit(X, y) for tile in (None, 32))
    np.testing.assert_allclose(tiled.score_samples(fresh), plain.score_samples(fresh), atol=1e-4)
    np.testing.assert_allclose(tiled.anomaly_maps(fresh), plain.anomaly_maps(fresh), atol=1e-4)
    np.testing.assert_allclose(tiled.offset_, plain.offset_, atol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize(
    "parameters",
    [
        {"max_iter": 1, "validation_fraction": 0.2},
        {"n_components": 2, "validation_fraction": 0.2},
        {"map_normalization": "exponential", "contamination": 0.05},
        {"cache_budget": 0},
    ],
)
def test_every_kind_of_fit_takes_tiles(fresh, parameters):
    detector = small(n_blocks=1, **parameters).fit(*products(30))
    damaged = with_spots(fresh[0], PLACES)
    assert detector.score_samples(damaged).mean() < detector.score_samples(fresh[0]).min()
    np.testing.assert_array_equal(detector.predict_class(fresh[0]), fresh[1])


def test_folds_leave_out_pictures(monkeypatch):
    """No model judges a tile of a picture of which it has seen another."""
    from skhgad.fitting import map_closed_form

    seen = []
    fit = map_closed_form.fit_map_level

    def noted(parameters, shape, samples, index, folds, *rest):
        seen.append([set(folds[samples.pictures.samples == i]) for i in range(12)])
        return fit(parameters, shape, samples, index, folds, *rest)

    monkeypatch.setattr("skhgad.fitting.recipe.fit_map_level", noted)
    detector = small().fit(products(12)[0])
    assert len(seen) == 2 and all(len(of_picture) == 1 for of_picture in seen[0])
    assert len({fold for folds in seen[0] for fold in folds}) == 10
    assert len(detector.model_.calibration.scores) == 12  # pictures


def test_calibration_is_that_of_fresh_pictures():
    """The scores that calibrate are of the same kind as those of pictures that no fit has seen."""
    detector = small().fit(products(60)[0])
    fresh = detector.score_samples(products(40, seed=3)[0])
    calibrating = detector.model_.calibration.scores
    assert abs(np.median(fresh) - np.median(calibrating)) < np.std(calibrating)
    assert np.mean(detector.p_values(products(40, seed=3)[0]) < 0.2) < 0.45


def test_a_region_of_tiles(fresh):
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:30, 4:40] = True
    X, y = products(30)
    detector = small().fit(X, y, roi=mask)
    noisy = fresh[0].copy()
    noisy[:, ~mask] = np.random.default_rng(0).integers(0, 256, noisy[:, ~mask].shape)
    for values, same in zip(
        detector.inspect(noisy, maps=True), detector.inspect(fresh[0], maps=True), strict=True
    ):
        np.testing.assert_array_equal(values, same)
    Stages.seen = 0
    detector.score_samples(fresh[0][:1])
    some = Stages.seen
    Stages.seen = 0
    detector.score_samples(fresh[0][:1], roi=np.ones(SIZE))
    assert some < Stages.seen == 12  # tiles outside are not computed
    inside, outside = [(20, 20)] * 8, [(66, 80)] * 8
    assert (detector.predict(with_spots(fresh[0], inside)) == -1).all()
    np.testing.assert_array_equal(
        detector.score_samples(with_spots(fresh[0], outside)), detector.score_samples(fresh[0])
    )


def test_pictures_of_any_size_and_smaller_than_a_tile(fitted):
    sizes = [(72, 88), (32, 90), (40, 24), (20, 20), (100, 33)]
    images = [products(1, seed=i, size=size)[0][0] for i, size in enumerate(sizes)]
    found = fitted.inspect(images, maps=True)
    assert [m.shape for m in found.maps] == sizes
    alone = [fitted.score_samples([image])[0] for image in images]
    np.testing.assert_allclose(found.score, alone, atol=1e-4)
    damaged = [with_spots(image[None], [(12, 12)])[0] for image in images]
    assert (fitted.score_samples(damaged) < found.score).all()
    with pytest.raises(ValueError, match="differ in size: pass those of one size at a time"):
        fitted.level_maps(images)
    assert fitted.anomaly_maps(images).shape == (5, 32, 32)


def test_a_few_tiles_are_held_at_a_time(fresh, monkeypatch):
    large, _ = products(2, seed=5, size=(200, 260))
    detector = small().fit(*products(30))
    expected = detector.score_samples(large)
    Stages.most = 0
    monkeypatch.setattr(scored_views, "_HELD_BYTES", 1000)  # the others wait on disk
    np.testing.assert_array_equal(detector.score_samples(large), expected)
    assert 1 < Stages.most <= 32


def test_tiles_decode_a_picture_once(fitted, fresh, monkeypatch):
    from skhgad.images import ImageSource

    read, numbers = ImageSource.read, []
    monkeypatch.setattr(ImageSource, "read", lambda s, i: numbers.append(i) or read(s, i))
    fitted.score_samples(fresh[0])
    assert numbers == list(range(8))


def test_a_saved_detector_keeps_its_tiles(fitted, fresh, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=Stages())
    assert loaded.tile_size == 32
    np.testing.assert_array_equal(loaded.score_samples(fresh[0]), fitted.score_samples(fresh[0]))
    loaded.set_params(tile_size=None)  # of the next fit
    np.testing.assert_array_equal(loaded.score_samples(fresh[0]), fitted.score_samples(fresh[0]))


def test_a_new_class_in_tiles(fresh):
    detector = small().fit(*products(30))
    new = 255 - products(16, seed=4)[0]
    detector.add_class(new, "negative")
    assert (detector.predict_class(new) == "negative").mean() > 0.8
    np.testing.assert_array_equal(detector.predict_class(fresh[0]), fresh[1])


def test_the_profile_is_that_of_the_whole_picture():
    """What all pictures have at one place is normal there, and not elsewhere."""
    places = [(36, 20)] * 40
    X = with_spots(products(40)[0], places)
    detector = small().fit(X)
    images = products(6, seed=1)[0]
    usual = detector.score_samples(with_spots(images, places[:6]))
    elsewhere = detector.score_samples(with_spots(images, [(36, 66)] * 6))
    assert usual.mean() > elsewhere.mean()
    profile = detector.model_.model.likelihood_profile(0)[:, 0]
    row, column = divmod(int(profile.argmin()), 8)
    assert (row, column) == (4, 1)  # 36 of 72 and 20 of 88, on 8 x 8


def test_what_tiles_do_not_have(fitted, fresh):
    with pytest.raises(ValueError, match="latent vectors of pictures in tiles"):
        fitted.latents(fresh[0])
    for value, said in (
        (4, "tile_size == 4, must be >= 8"),
        ((32,), "tile_size must be None, an int or"),
        (True, "tile_size must be a number"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            small(tile_size=value).fit(fresh[0])
    with pytest.raises(ValueError, match=r"tile_size=\(32, 64\) has others than image_size"):
        small(tile_size=(32, 64), resize="pad").fit(fresh[0])
    small(tile_size=32, resize="pad").fit(fresh[0])


def test_views_of_a_detector(fitted, fresh):
    X = check_scored_X(fresh[0], fitted, takes_images=True)
    seen, codes = fitted.model_.seen(fitted.feature_reader(), X)
    assert codes is None and seen.is_tiled and len(seen) == 8 * 12
