"""Known anomalies in fit beside regions of interest, padding and tiles."""

import copy

import numpy as np
import pytest
import torch
from backbones import two_levels
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.fitting.judged_samples import JudgedSamples, peaks
from skhgad.fitting.known_masks import marked_positions, marked_views
from skhgad.images import ImageSource
from skhgad.images.layout import tiled
from skhgad.images.views import ViewSource
from skhgad.scoring.frames import as_mosaic, as_tiles, as_whole

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.once]
LEFT = np.zeros((32, 32), dtype=bool)
LEFT[:, :16] = True


def pictures(n, seed, *, spot=False, size=(32, 32), columns=None):
    """Noise; with a spot that is a little brighter at a random place, and its mask."""
    rng = np.random.default_rng(seed)
    images = rng.normal(120, 15, (n, *size, 3))
    masks = np.zeros((n, *size), dtype=bool)
    first, last = (0, size[1] - 8) if columns is None else columns
    for image, mask in zip(images, masks, strict=True):
        row, column = rng.integers(0, size[0] - 7), rng.integers(first, last + 1)
        mask[row : row + 8, column : column + 8] = spot
        image[mask] += 20
    return np.clip(images, 0, 255).astype(np.uint8), masks


def fitted(known, masks=None, *, n=40, size=(32, 32), y=None, roi=None, **parameters):
    """Fit on normals and known anomalies; `masks` are those of the latter."""
    X = np.concatenate([pictures(n, 0, size=size)[0], known])
    y = np.repeat([0, -1], [n, len(known)]) if y is None else y
    if masks is not None:
        masks = [None] * n + list(masks)
    detector = HGADDetector(
        two_levels(), out_indices=(0, 1), image_size=32, random_state=0, **parameters
    )
    return detector.fit(X, y, masks=masks, roi=roi)


def auroc(detector, **where):
    X = np.concatenate([pictures(60, 2, **where)[0], pictures(60, 3, spot=True, **where)[0]])
    return roc_auc_score(np.repeat([1, 0], 60), detector.score_samples(X))


# ---------------------------------------------------------------- frames that change nothing


@pytest.fixture(scope="module")
def known():
    return pictures(12, 1, spot=True)


@pytest.fixture(scope="module", params=["masks", "no masks"])
def plain(request, known):
    masks = known[1] if request.param == "masks" else None
    return masks, fitted(known[0], masks)


@pytest.mark.parametrize(
    ("parameters", "roi"),
    [({}, np.ones_like(LEFT)), ({"resize": "pad"}, None), ({"tile_size": 32}, None)],
    ids=["region", "pad", "tiles"],
)
def test_a_trivial_frame_gives_what_a_plain_fit_gives(plain, known, parameters, roi):
    masks, expected = plain
    detector = fitted(known[0], masks, roi=roi, **parameters)
    (verdict,), (same,) = detector.known_anomalies_, expected.known_anomalies_
    assert verdict.is_kept == same.is_kept and verdict.n_anomalies == same.n_anomalies
    np.testing.assert_allclose(verdict[2:4], same[2:4], atol=1e-4)
    X = pictures(10, 3, spot=True)[0]
    for name in ("score_samples", "anomaly_maps"):
        found, wanted = (getattr(d, name)(X) for d in (detector, expected))
        np.testing.assert_allclose(found, wanted, atol=2e-3)
    np.testing.assert_allclose(detector.offset_, expected.offset_, atol=1e-3)


# ---------------------------------------------------------------- regions


@pytest.fixture(scope="module")
def inside():
    """Known defects in the left half, which alone counts."""
    return pictures(30, 1, spot=True, columns=(0, 8))


@pytest.fixture(scope="module")
def in_region(inside):
    return fitted(*inside, roi=LEFT)


def test_known_defects_inside_a_region_help(in_region, inside):
    ignoring = fitted(*inside, roi=LEFT, known_anomalies="ignore")
    assert in_region.known_anomalies_[0].is_kept
    where = {"columns": (0, 8)}
    assert auroc(in_region, **where) > auroc(ignoring, **where) + 0.01


def test_pixels_of_known_anomalies_outside_change_nothing(in_region, inside):
    known, masks = inside
    noisy = known.copy()
    noisy[:, ~LEFT] = np.random.default_rng(0).integers(0, 256, noisy[:, ~LEFT].shape)
    X = pictures(6, 3, spot=True)[0]
    again = fitted(noisy, masks, roi=LEFT)
    np.testing.assert_array_equal(again.score_samples(X), in_region.score_samples(X))
    wider = masks | np.roll(masks, 16, axis=2)  # marks outside, too
    again = fitted(noisy, wider, roi=LEFT)
    np.testing.assert_array_equal(again.score_samples(X), in_region.score_samples(X))


def test_known_defects_outside_are_not_used_and_named(in_region, inside):
    known, masks = inside
    outside, marked = pictures(5, 6, spot=True, columns=(18, 24))
    with pytest.warns(UserWarning, match=r"X\[70\], X\[71\].*mark nothing inside the region"):
        detector = fitted(
            np.concatenate([known, outside]), np.concatenate([masks, marked]), roi=LEFT
        )
    assert detector.known_anomalies_[0].n_anomalies == 30
    X = pictures(6, 3, spot=True)[0]
    np.testing.assert_array_equal(detector.score_samples(X), in_region.score_samples(X))
    with pytest.warns(UserWarning, match="mark nothing inside"):
        detector = fitted(outside, marked, roi=LEFT)
    assert detector.known_anomalies_[0].n_anomalies == 0
    assert not len(detector.model_.model.defect_terms)


def test_each_known_anomaly_may_have_its_own_region(in_region, inside):
    detector = fitted(*inside, roi=[LEFT] * 70)
    X = pictures(6, 3, spot=True)[0]
    np.testing.assert_allclose(
        detector.score_samples(X, roi=LEFT), in_region.score_samples(X), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"roi\[45\] has 8 x 8 pixels .* X\[45\] has 32 x 32"):
        fitted(*inside, roi=[LEFT] * 45 + [np.ones((8, 8))] + [LEFT] * 24)


def two_products(known, roi, **parameters):
    """Dark and bright normals in turn, and known anomalies of the dark ones."""
    X = pictures(60, 0)[0]
    X[1::2] = 255 - X[1::2] // 2
    y = [*["dark", "bright"] * 30, *["-1"] * len(known)]
    detector = HGADDetector(
        two_levels(), out_indices=(0, 1), image_size=32, random_state=0, **parameters
    )
    return detector.fit(np.concatenate([X, known]), y, roi=roi)


def test_known_anomalies_have_the_region_of_the_product_they_are_taken_for():
    known = pictures(12, 1, spot=True, columns=(0, 8))[0]
    rows = LEFT.T | (np.arange(32)[:, None] >= 28)
    masks = {"dark": LEFT, "bright": rows}
    noisy = known.copy()
    noisy[:, ~LEFT] = np.random.default_rng(0).integers(0, 256, noisy[:, ~LEFT].shape)
    detectors = [two_products(pixels, masks) for pixels in (known, noisy)]
    for detector in detectors:
        counts = {v.class_label: v.n_anomalies for v in detector.known_anomalies_}
        assert counts == {"bright": 0, "dark": 12}
    X = pictures(6, 3, spot=True)[0]
    a, b = (detector.score_samples(X) for detector in detectors)
    np.testing.assert_array_equal(a, b)


def test_without_a_common_part_nothing_can_be_inferred(monkeypatch):
    monkeypatch.setattr("skhgad.fitting.fit.cached_features", None)  # before the work
    known, masks = pictures(3, 1, spot=True)[0], {"dark": LEFT, "bright": ~LEFT}
    with pytest.raises(ValueError, match=r"class of X\[60\] cannot be .* known_anomalies='ignore'"):
        two_products(known, masks)
    with pytest.raises(TypeError, match="NoneType"):
        two_products(known, masks, known_anomalies="ignore")


def test_an_exported_region_is_corrected(in_region, tmp_path):
    session = pytest.importorskip("onnxruntime").InferenceSession
    in_region.to_onnx(tmp_path / "model.onnx")
    X = pictures(6, 3, spot=True)[0]
    session = session(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    score, _, _ = session.run(None, {"image": X})
    np.testing.assert_allclose(score, in_region.score_samples(X), rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- padding and tiles

WIDE = (32, 48)


@pytest.fixture(scope="module", params=[{"resize": "pad"}, {"tile_size": 32}], ids=["pad", "tiles"])
def framed(request):
    known, masks = pictures(12, 1, spot=True, size=WIDE)
    return request.param, fitted(known, masks, size=WIDE, **request.param)


def test_known_defects_help_in_padded_pictures_and_tiles(framed):
    parameters, detector = framed
    known, masks = pictures(12, 1, spot=True, size=WIDE)
    ignoring = fitted(known, masks, size=WIDE, known_anomalies="ignore", **parameters)
    assert detector.known_anomalies_[0].is_kept
    assert auroc(detector, size=WIDE) > auroc(ignoring, size=WIDE) + 0.01


def test_the_maps_of_pictures_in_views_carry_the_correction(framed, tmp_path):
    _, detector = framed
    X = pictures(6, 3, spot=True, size=WIDE)[0]
    parts = detector.level_maps(X)
    scores = detector.score_samples(X)
    np.testing.assert_allclose(parts.combined().max((1, 2)), -scores, rtol=1e-4, atol=1e-4)
    without = copy.deepcopy(detector)
    del without.model_.model.defect_terms[:]
    lowered = without.score_samples(X) - scores
    assert (lowered > -1e-5).all() and lowered.max() > 0.05
    detector.save(tmp_path / "model")
    again = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    np.testing.assert_array_equal(again.score_samples(X), scores)
    given = detector.score_samples(X, class_labels=[0] * 6)
    np.testing.assert_allclose(given, scores, atol=1e-4)


def test_tiles_of_two_products_are_corrected_by_class():
    """Pictures that are taken for another product are judged by its term."""
    known = pictures(12, 1, spot=True, size=WIDE)[0]
    X = pictures(60, 0, size=WIDE)[0]
    X[1::2] += 2  # so alike that some are taken for the other
    y = [*["dark", "bright"] * 30, *["-1"] * 12]
    detector = HGADDetector(
        two_levels(), out_indices=(0, 1), image_size=32, tile_size=32, random_state=0
    ).fit(np.concatenate([X, known]), y)
    calibration = detector.model_.calibration
    assert (calibration.codes != calibration.inferred).any()
    assert sum(v.n_anomalies for v in detector.known_anomalies_) == 12
    assert np.isfinite(calibration.scores).all()


# ---------------------------------------------------------------- the parts


def test_tiles_go_into_a_mosaic_and_back():
    layout = tiled((20, 30), (16, 16))
    n = len(layout.corners)
    values = torch.arange(n * 6.0).reshape(n, 6)
    np.testing.assert_array_equal(
        as_tiles(as_mosaic(values, layout, (2, 3)), layout, (2, 3)), values
    )
    some = as_tiles(as_whole(values[[1, 3]], np.array([1, 3]), layout, (2, 3)), layout, (2, 3))
    np.testing.assert_array_equal(some[[1, 3]], values[[1, 3]])
    assert not some[[0, 2]].any()


def test_peaks_of_tiles_are_the_highest_of_all():
    maps = torch.zeros(1, 2 * 9)
    maps[0, [0, 4, 9 + 8]] = torch.tensor([2.0, 5.0, 4.0])  # 0 is beside 4
    assert peaks(maps, (3, 3))[0].tolist()[:2] == [4, 17]


def test_masks_mark_the_cells_of_tiles_that_lie_inside():
    X = np.zeros((2, 16, 24, 3), dtype=np.uint8)
    views = ViewSource(
        ImageSource(X), size=(16, 16), map_shapes=[(4, 4), (2, 2)], colour=(0, 0, 0),
        tile_size=(16, 16),
    )  # fmt: skip
    mask = np.zeros((16, 24), dtype=bool)
    mask[4:8, 8:12] = True  # in both tiles, which start at the columns 0 and 8
    (fine, coarse), everything = marked_views([mask, None], views, np.arange(2))
    assert fine.nonzero().tolist() == [[0, 6], [1, 4]]
    assert coarse.nonzero().tolist() == [[0, 1], [1, 0]]
    assert all(level.all() for level in everything)
    plain = marked_positions([mask[:, :16]], [(1, 4, 4)])[0]
    np.testing.assert_array_equal(plain[0], fine[0])


def test_samples_without_blocks_are_none():
    assert len(JudgedSamples(None, []).rows) == 0
