"""HGADDetector on parts of pictures: regions of interest and padded pictures."""

import copy
import pickle

import numpy as np
import pytest
from backbones import RandomFilters
from PIL import Image
from sklearn import set_config
from sklearn.model_selection import cross_val_score
from small_pictures import SIDE
from small_pictures import fine_products as products

from skhgad import HGADDetector

MASK = np.zeros((SIDE, SIDE), dtype=bool)
MASK[4:28, 10:30] = True


class Stages(RandomFilters):
    """Maps of strides 2, 4 and 8, which make two levels."""

    def __init__(self, **options):
        super().__init__((8, 2), (12, 2), (12, 2), **options)


def with_blob(images, row, column):
    damaged = images.copy()
    damaged[:, row - 4 : row + 4, column - 4 : column + 4] = (250, 20, 20)
    return damaged


def noise_outside(images, mask, seed=7):
    changed = images.copy()
    changed[:, ~mask] = np.random.default_rng(seed).integers(0, 256, changed[:, ~mask].shape)
    return changed


def small(**parameters):
    return HGADDetector(
        **{"backbone": Stages(), "image_size": SIDE, "random_state": 0, "n_blocks": 1} | parameters
    )


@pytest.fixture(scope="module")
def normals():
    return products(60)


@pytest.fixture(scope="module")
def fresh():
    return products(10, seed=1)


@pytest.fixture(scope="module")
def fitted(normals, one_thread):
    return small().fit(*normals, roi=MASK)


KINDS = {
    "closed form": {},
    "trained": {"max_iter": 1, "n_components": 2, "validation_fraction": 0.2},
    "published maps": {"map_normalization": "exponential", "contamination": 0.05},
    "single class": {"validation_fraction": 0.2},
}


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_outside_change_nothing(normals, fresh, kind):
    X, y = normals[0][:30], normals[1][:30]
    if kind == "single class":
        X, y = X[::2], None
    by_clean, by_noise = (
        small(**KINDS[kind]).fit(pixels, y, roi=MASK) for pixels in (X, noise_outside(X, MASK))
    )
    images = fresh[0]
    expected = by_clean.inspect(images, maps=True)
    for detector, pixels in ((by_clean, noise_outside(images, MASK)), (by_noise, images)):
        found = detector.inspect(pixels, maps=True)
        for values, same in zip(found, expected, strict=True):
            np.testing.assert_array_equal(values, same)
        assert detector.explain(pixels) == by_clean.explain(images)
        for parts, same in zip(
            detector.level_maps(pixels), by_clean.level_maps(images), strict=True
        ):
            np.testing.assert_array_equal(parts, same)
    assert by_clean.offset_ == by_noise.offset_
    unmasked = small(**KINDS[kind]).fit(X, y)
    assert not np.array_equal(
        unmasked.score_samples(images), unmasked.score_samples(noise_outside(images, MASK))
    )


def test_defects_are_seen_inside_alone(fitted, fresh):
    images, labels = fresh
    assert (fitted.predict(with_blob(images, 16, 20)) == -1).all()
    outside = with_blob(images, 16, 5)
    np.testing.assert_array_equal(fitted.score_samples(outside), fitted.score_samples(images))
    assert (fitted.predict(images) == 1).all()
    np.testing.assert_array_equal(fitted.predict_class(outside), labels)
    damaged = with_blob(images, 24, 26)  # near the border of the region
    for explanation, image_map in zip(
        fitted.explain(damaged), fitted.anomaly_maps(damaged), strict=True
    ):
        row, column = explanation.peak_position
        assert MASK[row, column] and abs(row - 24) <= 5 and abs(column - 26) <= 5
        assert explanation.regions
        for region in explanation.regions:
            top, left, bottom, right = region.box
            assert not (region.mask & ~MASK[top:bottom, left:right]).any()
        assert (image_map[~MASK] == min(image_map[MASK].min(), 0)).all() and np.isfinite(
            image_map
        ).all()


def test_the_peak_of_the_map_is_the_score(fitted, fresh):
    peaks = fitted.anomaly_maps(with_blob(fresh[0], 16, 20)).max((1, 2))
    scores = fitted.score_samples(with_blob(fresh[0], 16, 20))
    np.testing.assert_allclose(peaks, -scores, rtol=0.1, atol=0.3)
    parts = fitted.level_maps(fresh[0])
    np.testing.assert_allclose(
        -parts.combined().max((1, 2)), fitted.score_samples(fresh[0]), rtol=1e-4
    )


def test_a_mask_of_everything_is_no_mask(normals, fresh):
    plain = small().fit(*normals)
    masked = small().fit(*normals, roi=np.ones((SIDE, SIDE)))
    np.testing.assert_allclose(
        masked.score_samples(fresh[0]), plain.score_samples(fresh[0]), atol=1e-4
    )
    np.testing.assert_allclose(
        masked.anomaly_maps(fresh[0]), plain.anomaly_maps(fresh[0]), atol=1e-4
    )


def test_positions_outside_are_in_no_moment(normals):
    """The closed form is that of the vectors inside, written out."""
    X, _ = normals
    detector = small(validation_fraction=0.0, whitening_shrinkage=0.0, n_components=1)
    detector.fit(X, roi=MASK)
    reader = detector.feature_reader()
    views, _ = detector.model_.seen(reader, _source(X, detector))
    vectors = [[], []]
    for features, inside in reader.view_batches(views):
        for level, (x, chosen) in enumerate(zip(features, inside, strict=True)):
            vectors[level].append(x[chosen].double())
    for level, parts in zip(detector.model_.model.levels, vectors, strict=True):
        x = np.concatenate(parts)
        np.testing.assert_allclose(level.start.mean, x.mean(0), rtol=1e-4, atol=1e-5)
        started = (x - x.mean(0)) @ level.start.matrix.double().numpy()
        np.testing.assert_allclose(np.cov(started.T), np.eye(x.shape[1]), atol=0.02)


def _source(X, detector):
    from skhgad.validation import check_scored_X

    return check_scored_X(X, detector, takes_images=True)


def test_masks_of_products(normals, fresh):
    masks = {"stripes": MASK, "checks": MASK.T}
    detector = small().fit(*normals, roi=masks)
    images, labels = fresh
    np.testing.assert_array_equal(detector.predict_class(images), labels)
    for label, mask in masks.items():
        own = images[labels == label]
        changed = noise_outside(own, mask)
        for given in (None, label):
            expected = detector.inspect(own, class_labels=given)
            for values, same in zip(
                detector.inspect(changed, class_labels=given), expected, strict=True
            ):
                np.testing.assert_array_equal(values, same)
        inferred, given = (detector.score_samples(own, class_labels=c) for c in (None, label))
        np.testing.assert_array_equal(inferred, given)
    other = small().fit(*normals, roi={"stripes": MASK})
    stripes, checks = images[::2], images[1::2]
    assert np.array_equal(
        other.score_samples(noise_outside(stripes, MASK)), other.score_samples(stripes)
    )
    assert (other.predict(with_blob(checks, 16, 5)) == -1).all()


def test_a_mask_for_each_picture(normals, fresh):
    X, y = normals
    rois = [MASK if i % 3 else None for i in range(len(X))]
    detector = small().fit(X, y, roi=rois)
    assert detector.model_.roi is None  # nothing to remember
    images, _ = fresh
    own = [MASK, MASK.T] * 4 + [None, MASK]
    scores = detector.score_samples(images, roi=own)
    alone = [detector.score_samples(images[i : i + 1], roi=own[i : i + 1])[0] for i in range(10)]
    np.testing.assert_allclose(alone, scores, atol=1e-4)
    assert (detector.predict(with_blob(images, 16, 5), roi=[MASK] * 10) == 1).all()
    assert (detector.predict(with_blob(images, 16, 5)) == -1).all()


def test_a_region_at_scoring_replaces_the_remembered_one(fitted, fresh):
    everything = np.ones((SIDE, SIDE), dtype=bool)
    assert (fitted.predict(with_blob(fresh[0], 16, 5), roi=everything) == -1).all()
    np.testing.assert_array_equal(
        fitted.score_samples(fresh[0], roi=MASK), fitted.score_samples(fresh[0])
    )


def test_a_saved_detector_remembers_its_regions(fitted, normals, fresh, tmp_path):
    by_product = small().fit(*normals, roi={"stripes": MASK})
    for name, detector in {"one": fitted, "products": by_product}.items():
        detector.save(tmp_path / name)
        loaded = HGADDetector.load(tmp_path / name, backbone=Stages())
        for copied in (loaded, pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
            np.testing.assert_array_equal(
                copied.score_samples(fresh[0]), detector.score_samples(fresh[0])
            )
            assert copied.model_.roi.of_class == detector.model_.roi.of_class


def test_a_new_class_takes_the_region_of_all_or_its_own(fitted, normals, fresh):
    new = np.roll(normals[0][:30], 3, axis=2) // 2
    same = copy.deepcopy(fitted).add_class(new, "dark")
    assert same.model_.roi.is_common
    np.testing.assert_array_equal(
        same.score_samples(noise_outside(new, MASK)), same.score_samples(new)
    )
    own = copy.deepcopy(fitted).add_class(noise_outside(new, MASK.T), "dark", roi=MASK.T)
    masks = dict(zip(own.classes_, own.model_.roi.regions([0, 1, 2]), strict=True))
    assert all(np.array_equal(masks[c].item, MASK) for c in ("checks", "stripes"))
    np.testing.assert_array_equal(masks["dark"].item, MASK.T)
    assert (own.predict_class(new) == "dark").all()
    np.testing.assert_array_equal(
        own.score_samples(fresh[0], class_labels=fresh[1]),
        fitted.score_samples(fresh[0], class_labels=fresh[1]),
    )


def test_latent_vectors_say_which_lie_inside(fitted, fresh):
    found = fitted.latents(fresh[0])
    assert [i.shape for i in found.inside] == [v.shape[:2] for v in found.vectors]
    changed = fitted.latents(noise_outside(fresh[0], MASK))
    for values, same in zip(found.vectors, changed.vectors, strict=True):
        np.testing.assert_array_equal(values, same)


def test_features_are_remembered_of_what_is_inside(normals, fresh, tmp_path):
    detector = small(memory=tmp_path).fit(*normals, roi=MASK)
    first = detector.score_samples(fresh[0])
    n_files = len(list(tmp_path.rglob("*.safetensors")))
    np.testing.assert_array_equal(detector.score_samples(noise_outside(fresh[0], MASK)), first)
    assert len(list(tmp_path.rglob("*.safetensors"))) == n_files
    detector.score_samples(fresh[0], roi=MASK.T)
    assert len(list(tmp_path.rglob("*.safetensors"))) == n_files + len(fresh[0])


def test_discovered_classes_see_the_region_alone(normals):
    X, _ = normals
    detector = small(n_classes=2).fit(noise_outside(X, MASK), roi=MASK)
    clean = small(n_classes=2).fit(X, roi=MASK)
    found = detector.predict_class(X)
    np.testing.assert_array_equal(found, clean.predict_class(X))


def test_pictures_of_any_size_have_masks_of_their_size(tmp_path):
    pixels, _ = products(24, shape=(60, 50))
    rng = np.random.default_rng(0)
    paths, masks = [], []
    for i, image in enumerate(pixels):
        height, width = 40 + rng.integers(0, 20), 30 + rng.integers(0, 20)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image[:height, :width]).save(paths[-1])
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[: height // 2] = 255
        masks.append(tmp_path / f"{i}_mask.png")
        Image.fromarray(mask).save(masks[-1])
    detector = small().fit(paths, roi=masks)
    for found, path in zip(detector.inspect(paths, roi=masks, maps=True).maps, paths, strict=True):
        assert found.shape == Image.open(path).size[::-1]
    masks[3] = masks[4]
    with pytest.raises(
        ValueError, match=r"roi\[3\] \(.*4_mask.png\) has .* but X\[3\] \(.*3.png\)"
    ):
        detector.score_samples(paths, roi=masks)


def test_vectors_have_no_region():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    with pytest.raises(ValueError, match="roi needs images; feature vectors have no pixels"):
        HGADDetector().fit(X, roi=np.ones((2, 2)))
    detector = HGADDetector().fit(X)
    with pytest.raises(ValueError, match="roi needs images"):
        detector.predict(X, roi=np.ones((2, 2)))


def test_a_failed_fit_leaves_the_detector_as_it_was(fitted, normals, fresh):
    detector = copy.deepcopy(fitted)
    with pytest.raises(ValueError, match="roi is empty"):
        detector.fit(*normals, roi=np.zeros((SIDE, SIDE)))
    np.testing.assert_array_equal(detector.score_samples(fresh[0]), fitted.score_samples(fresh[0]))


def test_masks_are_routed_as_metadata(normals):
    X, _ = normals
    X, masks = X[:20], np.stack([MASK] * 20)
    set_config(enable_metadata_routing=True)
    try:
        detector = small().set_fit_request(roi=True).set_score_request(roi=True)
        clean, noisy = (
            cross_val_score(detector, pixels, cv=2, params={"roi": masks}, error_score="raise")
            for pixels in (X, noise_outside(X, MASK))
        )
    finally:
        set_config(enable_metadata_routing=False)
    np.testing.assert_array_equal(clean, noisy)


def test_padding_keeps_proportions_and_has_no_anomaly(fresh):
    X, y = products(60, shape=(32, 20))
    images, labels = products(10, seed=1, shape=(32, 20))
    detector = small(resize="pad").fit(X, y)
    assert (detector.predict(images) == 1).all()
    np.testing.assert_array_equal(detector.predict_class(images), labels)
    damaged = with_blob(images, 20, 14)
    maps = detector.anomaly_maps(damaged)
    assert maps.shape == (10, 32, 20)
    peaks = np.array([np.unravel_index(m.argmax(), m.shape) for m in maps])
    assert np.abs(peaks - (20, 14)).max() <= 5
    np.testing.assert_allclose(
        maps.max((1, 2)), -detector.score_samples(damaged), rtol=0.1, atol=0.3
    )
    # The border is that of a region of interest in a picture that is wider.
    wide = np.zeros((70, 32, 32, 3), dtype=np.uint8)
    wide[:, :, 6:26] = np.concatenate([X, images])
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, 6:26] = True
    masked = small().fit(wide[:60], y, roi=mask)
    np.testing.assert_allclose(
        masked.score_samples(wide[60:]), detector.score_samples(images), atol=1e-4
    )


def test_padding_changes_nothing_where_proportions_fit(normals, fresh):
    plain, padded = (small(resize=how).fit(*normals) for how in ("stretch", "pad"))
    np.testing.assert_allclose(
        padded.anomaly_maps(fresh[0]), plain.anomaly_maps(fresh[0]), atol=1e-4
    )


def test_a_thin_picture_is_not_padded_to_all_memory(tmp_path):
    detector = small(resize="pad").fit(products(12)[0])
    Image.new("L", (1, 100_000)).save(tmp_path / "thin.png")
    with pytest.raises(ValueError, match=r"thin.png\) has 100000 x 1 pixels .* seen in 100000 x"):
        detector.predict([tmp_path / "thin.png"])


def test_a_region_of_a_padded_picture():
    X, y = products(40, shape=(32, 20))
    mask = np.zeros((32, 20), dtype=bool)
    mask[6:28, 4:] = True
    detector = small(resize="pad").fit(X, y, roi=mask)
    np.testing.assert_array_equal(
        detector.anomaly_maps(noise_outside(X, mask)), detector.anomaly_maps(X)
    )
    assert (detector.predict(with_blob(X[:6], 16, 12)) == -1).all()


def test_a_backbone_of_five_channels(tmp_path):
    class Spectral(Stages):
        pretrained_cfg = {"mean": [0.5] * 5, "std": [0.2] * 5}

    rng = np.random.default_rng(0)
    X = rng.integers(90, 110, (40, SIDE, SIDE, 5), dtype=np.uint8)
    detector = small(backbone=Spectral(n_channels=5)).fit(X)
    fresh = X[:4].copy()
    fresh[:, 12:20, 12:20, 4] = 255  # in the fifth alone
    assert (detector.predict(fresh) == -1).all()
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=Spectral(n_channels=5))
    np.testing.assert_array_equal(loaded.score_samples(fresh), detector.score_samples(fresh))
    np.testing.assert_allclose(
        detector.score_samples(list(fresh / np.float32(255))),
        detector.score_samples(fresh),
        atol=1e-3,
    )
    with pytest.raises(ValueError, match=r"has shape \(4, 32, 32, 3\); expected \(n, h, w, 5\)"):
        detector.predict(fresh[..., :3])
    with pytest.raises(ValueError, match=r"X\[0\] is read as RGB, but this backbone takes 5"):
        detector.predict([Image.new("RGB", (8, 8))])
