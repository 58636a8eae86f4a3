"""What the displays compute and draw, on detectors of a second."""

import sys

import matplotlib
import numpy as np
import pytest
from backbones import two_levels
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from sklearn.exceptions import NotFittedError

from skhgad import HGADDetector
from skhgad.display import (
    AnomalyMapDisplay,
    LatentSpaceDisplay,
    ScoreDistributionDisplay,
    TrainingCurveDisplay,
)
from skhgad.display.heat_maps import HeatScale, overlay, write_heat_map
from skhgad.images import ImageSource
from skhgad.scoring.defect_terms import DefectTerm
from skhgad.scoring.known_share import known_share

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")


def vectors(n, rng):
    """Three classes of vectors; the last is one whose name is long."""
    labels = np.array(["bolt", "nut", "a washer of stainless steel"])[np.arange(n) % 3]
    return 8 * np.eye(3, 6)[np.arange(n) % 3] + rng.normal(size=(n, 6)), labels


@pytest.fixture(scope="module")
def fitted():
    X, y = vectors(90, np.random.default_rng(0))
    return HGADDetector(max_iter=3, n_blocks=1, n_components=4, random_state=0).fit(X, y)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(90, 130, (14, 48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def image_detector(images):
    return HGADDetector(image_size=64, max_iter=1, n_blocks=1, random_state=0).fit(images)


def damaged(images):
    """One image with a bright block, and the block's mask."""
    image, mask = images[:1].copy(), np.zeros((48, 64), dtype=bool)
    mask[10:26, 30:50] = True
    image[0][mask] = 255
    return image, mask


# anomaly maps


def test_map_display_shows_the_detector_s_map(images, image_detector, monkeypatch):
    X, mask = damaged(images)
    (expected,) = image_detector.anomaly_maps(X)
    monkeypatch.setattr(image_detector, "offset_", -float(np.median(expected)))
    display = AnomalyMapDisplay.from_estimator(image_detector, X, mask=mask)
    np.testing.assert_array_equal(display.heat_map_.get_array(), expected)
    np.testing.assert_array_equal(display.axes_[0].images[0].get_array(), X[0])
    np.testing.assert_array_equal(display.axes_[2].images[0].get_array(), X[0])
    assert display.threshold == -image_detector.offset_
    assert [contour.levels.tolist() for contour in display.contours_] == [[display.threshold]] * 2
    scale = HeatScale.of(image_detector)
    assert (display.typical, display.threshold) == scale
    assert display.heat_map_.get_clim()[0] == scale.typical
    assert display.colorbar_.ax.get_ylabel() == "anomaly score"
    outline = np.concatenate(display.mask_contours_[0].allsegs[0])
    assert outline.min(0).tolist() == [29.5, 9.5] and outline.max(0).tolist() == [49.5, 25.5]
    names = [text.get_text() for text in display.axes_[2].get_legend().get_texts()]
    assert names == ["threshold", "true defect"]
    assert [axes.get_title() for axes in display.axes_] == [
        "image", "anomaly map", "above threshold",
    ]  # fmt: skip


@pytest.mark.once
def test_region_and_tiles_are_drawn(images):
    roi = np.zeros((48, 64), dtype=bool)
    roi[8:40, 10:50] = True
    detector = HGADDetector.fast(image_size=64, tile_size=32, random_state=0).fit(images, roi=roi)
    display = AnomalyMapDisplay.from_estimator(detector, images[:1])
    np.testing.assert_array_equal(display.roi, roi)
    assert len(display.tiles) == 6 and (0, 0, 32, 32) in display.tiles
    labels = [text.get_text() for text in display.axes_[-1].get_legend().get_texts()]
    assert "region of interest" in labels
    assert len(display.axes_[0].collections[0].get_paths()) == 6
    plain = AnomalyMapDisplay.from_estimator(detector, images[:1], roi=np.ones((48, 64)))
    assert plain.roi.all()


def test_what_is_like_known_anomalies_is_outlined():
    rng = np.random.default_rng(0)
    X = rng.integers(90, 130, (20, 32, 48, 3), dtype=np.uint8)
    parameters = {"out_indices": (0, 1), "image_size": 32, "tile_size": 32, "random_state": 0}
    detector = HGADDetector(two_levels(), **parameters).fit(X)
    damaged = X[:1].copy()
    damaged[0, 8:20, 8:20] = 200
    plain = AnomalyMapDisplay.from_estimator(detector, damaged)
    assert plain.like_known is None
    model = detector.model_.model
    for level in model.levels:  # as known anomalies would
        direction = level.mixture.means.new_zeros(1, level.n_axes)
        z = level.latent(detector_features(detector, damaged, level))[0]
        direction[0] = 3 * z.flatten(0, 1)[z.norm(dim=2).argmax()]
        most = (z @ direction[0]).max()
        model.defect_terms.append(DefectTerm(direction, -0.7 * most[None]))
    display = AnomalyMapDisplay.from_estimator(detector, damaged)
    inside = display.like_known
    assert inside.any() and (display.anomaly_map[inside] > display.threshold).all()
    assert inside[8:20, 8:20].sum() > 0.5 * inside.sum()
    assert "like known anomalies" in legend_of(display)
    assert "like known anomalies" not in legend_of(plain)
    (batch,) = detector.model_.scored_batches(
        detector.feature_reader(), ImageSource(damaged), np.zeros(1, dtype=int)
    )
    share = known_share(model, batch)
    assert 0 <= share.min() and 0.5 < share.max() <= 1


def detector_features(detector, X, level):
    """Features of the first tile."""
    fitted, reader = detector.model_, detector.feature_reader()
    seen, _ = fitted.seen(reader, ImageSource(X))
    features, _ = next(iter(reader.view_batches(seen)))
    return features[list(fitted.model.levels).index(level)][:1]


def legend_of(display):
    return [text.get_text() for text in display.axes_[-1].get_legend().get_texts()]


def test_a_normal_image_does_not_glow():
    anomaly_map = np.random.default_rng(0).uniform(0, 1, (8, 8))
    grey = np.full((8, 8), 0.5)
    for typical, threshold in ((None, 4), (1.0, 4), (None, -5), (2.0, 2.0)):
        display = AnomalyMapDisplay.from_predictions(
            grey, anomaly_map, threshold=threshold, typical=typical
        )
        display.figure_.canvas.draw()
        low, high = display.heat_map_.get_clim()
        assert low < threshold < high  # the colour bar shows the threshold
        red, _, blue = colors(display).T
        if threshold == -5:
            assert (red > blue).all() and display.axes_[2].get_title() == "all above threshold"
        else:
            assert (red <= blue).all() and display.axes_[2].get_title() == "below threshold"
        assert display.contours_ == [] and display.mask_contours_ == []
    display = AnomalyMapDisplay.from_predictions(grey, anomaly_map, threshold=4, typical=1.0)
    assert np.abs(colors(display) - 128).max() <= 1  # no score is above a typical one
    display = AnomalyMapDisplay.from_predictions(grey, anomaly_map, threshold=4, cmap="inferno")
    low, high = display.heat_map_.get_clim()
    assert low == anomaly_map.min() and high == pytest.approx(8 - low)  # 4 is in the middle
    assert display.heat_map_.get_cmap().name == "inferno"
    for threshold in (None, 2):
        display = AnomalyMapDisplay.from_predictions(
            grey, anomaly_map, threshold=threshold, vmin=-1, vmax=3
        )
        display.figure_.canvas.draw()
        assert display.heat_map_.get_clim() == (-1, 3)


def colors(display):
    """What the heat map's axes show, (height, width, 3) from 0 to 255."""
    image, heat = display.heat_map_.axes.images
    color = heat.to_rgba(heat.get_array())
    opacity = color[..., 3:]
    return 255 * (
        (1 - opacity) * image.to_rgba(image.get_array())[..., :3] + opacity * color[..., :3]
    )


@pytest.mark.parametrize("n_axes", [1, 3])
def test_displays_and_files_have_the_same_colours(images, n_axes, tmp_path):
    scale = HeatScale(typical=0.5, threshold=3.0)
    scores = np.concatenate([np.linspace(-2, 6, 1536), np.geomspace(6, 3000, 1536)])
    anomaly_map = scores.reshape(48, 64).astype(np.float32)
    figure, ax = plt.subplots(1, n_axes)
    display = AnomalyMapDisplay.from_predictions(
        images[0], anomaly_map, threshold=scale.threshold, typical=scale.typical, ax=ax
    )
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    write_heat_map(tmp_path / "map.png", str(tmp_path / "image.png"), anomaly_map, scale)
    with Image.open(tmp_path / "map.png") as picture:
        expected = np.asarray(picture, dtype=float)
    difference = np.abs(colors(display) - expected).max(-1)
    at_threshold = np.abs(scale.heat(anomaly_map) - 0.5) < 1e-3  # where the colour changes at once
    assert difference[~at_threshold].max() <= 2 and at_threshold.mean() < 0.01
    display.figure_.canvas.draw()
    ticks = [tick.get_text() for tick in display.colorbar_.ax.get_yticklabels()]
    assert ticks[:2] == ["0.5", "3"] and ticks[-1] == "2000"
    boxes = [tick.get_window_extent() for tick in display.colorbar_.ax.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in zip(boxes[:-1], boxes[1:], strict=True))


# Machado, Oliveira and Fernandes 2009: what the colour-blind see, of linear red, green and blue.
COLOR_BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", COLOR_BLINDNESS)
@pytest.mark.parametrize("grey", [50, 128, 205])
def test_colours_differ_for_the_colour_blind(grey, kind):
    color = pytest.importorskip("skimage.color")
    heat = np.array([[0.0, 0.2, 0.3, 0.4, 0.499, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]])
    shown = overlay(np.full(heat.shape, grey, dtype=np.uint8), heat) / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(COLOR_BLINDNESS[kind]), 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = color.rgb2lab(seen)[0]
    difference = color.deltaE_ciede2000(lab[:, None], lab[None])
    assert difference[1:5, 5:].min() > 19  # below and above the threshold
    assert difference[0, 5:].min() > 11  # no heat, and above the threshold


def test_one_axes_takes_an_overlay(images):
    figure, ax = plt.subplots()
    display = AnomalyMapDisplay.from_predictions(images[0], np.zeros((48, 64)), ax=ax)
    assert display.axes_.tolist() == [ax] and display.figure_ is figure
    assert len(ax.images) == 2 and ax.images[1].get_alpha() < 1
    np.testing.assert_allclose(ax.images[0].get_array(), images[0] @ [0.299, 0.587, 0.114] / 255)
    figure, axes = plt.subplots(1, 3)
    assert display.plot(axes).axes_.tolist() == axes.tolist()
    with pytest.raises(ValueError, match="ax must be one Axes or three, got 2"):
        display.plot(axes[:2])


def test_files_and_their_masks_are_read(tmp_path, images):
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[5:9, 5:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    display = AnomalyMapDisplay.from_predictions(
        tmp_path / "image.png", np.zeros((48, 64)), mask=tmp_path / "mask.png"
    )
    np.testing.assert_array_equal(display.image, images[0])
    assert display.mask.sum() == 16


def test_map_display_says_what_does_not_fit(images, image_detector, fitted):
    with pytest.raises(ValueError, match="X holds 2 images; pass one"):
        AnomalyMapDisplay.from_estimator(image_detector, images[:2])
    with pytest.raises(ValueError, match=r"size \(48, 64\), its anomaly_map of \(4, 4\)"):
        AnomalyMapDisplay.from_predictions(images[0], np.zeros((4, 4)))
    with pytest.raises(ValueError, match="mask .* has shape"):
        AnomalyMapDisplay.from_predictions(images[0], np.zeros((48, 64)), mask=np.ones((4, 4)))
    with pytest.raises(ValueError, match="needs images"):
        AnomalyMapDisplay.from_estimator(fitted, images[:1])


# scores


def drawn(points):
    """Scores at which points stand, and the rows to which they belong."""
    places = points.get_offsets()
    return places[:, 0].tolist(), np.rint(places[:, 1]).astype(int).tolist()


def test_every_score_stands_in_the_row_of_its_class(fitted):
    X, labels = vectors(60, np.random.default_rng(1))
    y = np.where(np.arange(60) % 4 == 0, -1, 1)
    X[y == -1] += 5
    display = ScoreDistributionDisplay.from_estimator(fitted, X, y, class_labels=labels)
    scores = fitted.score_samples(X, class_labels=labels)
    classes = [text.get_text() for text in display.ax_.get_yticklabels()]
    assert classes == sorted(set(labels.tolist()))
    for name, kind in (("normal", 1), ("anomaly", -1)):
        found, rows = drawn(display.points_[name])
        assert found == scores[y == kind].tolist()
        assert [classes[row] for row in rows] == labels[y == kind].tolist()
    assert display.threshold_line_.get_xdata()[0] == fitted.offset_
    low, high = display.ax_.get_xlim()
    assert low < scores.min() and high > scores.max()
    bottom, top = display.ax_.get_ylim()
    assert bottom > top  # the first class above


def test_classes_are_inferred_and_kinds_unknown(fitted):
    X, labels = vectors(30, np.random.default_rng(2))
    display = ScoreDistributionDisplay.from_estimator(fitted, X)
    assert list(display.points_) == ["sample"]
    classes = [text.get_text() for text in display.ax_.get_yticklabels()]
    assert [classes[row] for row in drawn(display.points_["sample"])[1]] == labels.tolist()


@pytest.mark.parametrize(
    ("scores", "offset"),
    [([0.0], None), ([0.0, 0.0], 0.0), ([3.0, 9.0], -3.0), ([-1e6, 2.0], 40.0), ([1e-9], -1e-9)],
)
def test_any_scores_can_be_drawn(scores, offset):
    for xscale in ("symlog", "linear"):
        display = ScoreDistributionDisplay.from_predictions(
            None, scores, offset=offset, xscale=xscale
        )
        display.figure_.canvas.draw()
        low, high = display.ax_.get_xlim()
        assert low < min(scores) and high > max(scores)
        assert offset is None or low < offset < high
    with pytest.raises(ValueError, match="xscale must be 'symlog' or 'linear', got 'log'"):
        ScoreDistributionDisplay.from_predictions(None, scores, xscale="log")


def test_score_display_says_what_does_not_fit():
    with pytest.raises(ValueError, match="scores must have shape"):
        ScoreDistributionDisplay.from_predictions([1, -1], [0.0])
    with pytest.raises(ValueError, match=r"scores\[1\] is nan"):
        ScoreDistributionDisplay.from_predictions(None, [0.0, np.nan])
    with pytest.raises(ValueError, match="class_labels must have shape"):
        ScoreDistributionDisplay.from_predictions(None, [0.0], ["a", "b"])


# latent space


def test_latent_display_puts_classes_at_their_means(fitted):
    X, labels = vectors(60, np.random.default_rng(3))
    display = LatentSpaceDisplay.from_estimator(fitted, X)
    assert display.points.shape == (60, 2)
    assert [centers.shape for centers in display.centers] == [(4, 2)] * 3
    assert display.class_labels.tolist() == labels.tolist()
    means = display.means
    nearest = np.linalg.norm(display.points[:, None] - means, axis=2).argmin(1)
    assert (fitted.classes_[nearest] == labels).mean() > 0.9
    np.testing.assert_array_equal(display.means_.get_offsets(), means)
    np.testing.assert_array_equal(display.centers_.get_offsets(), np.concatenate(display.centers))
    for label in fitted.classes_:
        places = display.points_[label].get_offsets()
        np.testing.assert_array_equal(places, display.points[labels == label])
    names = [text.get_text() for text in display.legend_.get_texts()]
    assert [name.partition(" (z ")[0] for name in names] == [
        "class mean", "center", *fitted.classes_,
    ]  # fmt: skip
    for label, name in zip(fitted.classes_.tolist(), names[2:], strict=True):
        found = display.gaussianity[label]
        assert name.endswith(f" (z {found.skewness_z:.1f}, {found.kurtosis_z:.1f})")


def test_anomalies_are_hollow(fitted):
    X, labels = vectors(12, np.random.default_rng(4))
    y = np.where(np.arange(12) < 6, -1, 1)
    display = LatentSpaceDisplay.from_estimator(fitted, X, y, class_labels=labels)
    faces = display.points_["bolt"].get_facecolors()
    assert faces[:, 3].tolist() == [0, 0, 0.5, 0.5]
    assert "anomaly (hollow)" in [text.get_text() for text in display.legend_.get_texts()]


def skewed_and_heavy(n, rng):
    """Three classes of 4 features: Gaussian, skewed (exponential), heavy-tailed (Student's t)."""
    kinds = np.stack(
        [rng.normal(size=(n, 4)), rng.exponential(size=(n, 4)), rng.standard_t(4, (n, 4))]
    )
    X = kinds + 30 * np.eye(3, 4)[:, None]
    return X.reshape(-1, 4), np.repeat(["gaussian", "skewed", "heavy"], n)


def test_a_skewed_and_a_heavy_tailed_class_are_told_from_a_gaussian_one():
    detector = HGADDetector(n_components=1, random_state=0)
    detector.fit(*skewed_and_heavy(200, np.random.default_rng(0)))
    X, labels = skewed_and_heavy(200, np.random.default_rng(1))
    found = LatentSpaceDisplay.from_estimator(detector, X).gaussianity
    assert abs(found["gaussian"].skewness_z) < 3 and abs(found["gaussian"].kurtosis_z) < 3
    assert found["skewed"].skewness_z > 10
    assert found["heavy"].kurtosis_z > 10 and found["heavy"].kurtosis_ratio > 1.2
    assert found["skewed"].n_vectors == 200


def test_anomalies_say_nothing_of_how_gaussian_a_class_is():
    rng = np.random.default_rng(0)
    detector = HGADDetector(n_components=1, random_state=0).fit(rng.normal(size=(200, 3)))
    X = np.concatenate([rng.normal(size=(200, 3)), 30 * rng.normal(size=(20, 3))])
    y = np.repeat([1, -1], [200, 20])
    told, untold = (LatentSpaceDisplay.from_estimator(detector, X, y_) for y_ in (y, None))
    assert abs(told.gaussianity[0].kurtosis_z) < 3 < untold.gaussianity[0].kurtosis_z
    assert told.gaussianity[0].n_vectors == 200


def test_the_centers_of_a_mixture_are_no_contradiction():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 2)) + np.array([[0, 0], [3, 0]])[np.arange(800) % 2]
    detector = HGADDetector(n_components=2, random_state=0).fit(X[:400])
    found = LatentSpaceDisplay.from_estimator(detector, X[400:]).gaussianity[0]
    # Of vectors given to their nearest center, the boundary would cut the tails off.
    assert abs(found.skewness_z) < 3 and abs(found.kurtosis_z) < 3


def test_few_vectors_are_not_judged(fitted):
    X, _ = vectors(12, np.random.default_rng(4))
    display = LatentSpaceDisplay.from_estimator(fitted, X)
    assert set(display.gaussianity.values()) == {None}
    assert "bolt" in [text.get_text() for text in display.legend_.get_texts()]


def test_as_many_labels_as_samples(fitted):
    X, _ = vectors(12, np.random.default_rng(4))
    with pytest.raises(ValueError, match="y has 14 labels, X 12 samples"):
        LatentSpaceDisplay.from_estimator(fitted, X, [1] * 14)


def test_latent_positions_of_images(images, image_detector):
    whole = LatentSpaceDisplay.from_estimator(image_detector, images[:5])
    assert whole.points.shape == (5, 2)
    display = LatentSpaceDisplay.from_estimator(image_detector, images[:5], n_positions=3, level=0)
    assert display.points.shape == (15, 2)
    judged = [found for found in display.gaussianity.values() if found is not None]
    assert judged and sum(found.n_vectors for found in judged) <= 5 * 16
    again = LatentSpaceDisplay.from_estimator(image_detector, images[:5], n_positions=3, level=0)
    np.testing.assert_array_equal(display.points, again.points)
    with pytest.raises(ValueError, match="level=7: the detector has the levels 0 to 3"):
        LatentSpaceDisplay.from_estimator(image_detector, images[:5], level=7)
    with pytest.raises(ValueError, match="X holds feature vectors, but .* fitted on images"):
        LatentSpaceDisplay.from_estimator(image_detector, np.zeros((3, 5)))


def test_latent_space_of_one_feature_and_one_center():
    X = np.random.default_rng(0).normal(size=(20, 1))
    detector = HGADDetector(max_iter=1, n_blocks=1, n_components=1, random_state=0).fit(X)
    display = LatentSpaceDisplay.from_estimator(detector, X)
    assert (display.points[:, 1] == 0).all() and len(display.centers_.get_offsets()) == 0
    display.figure_.canvas.draw()


def test_fifteen_classes_look_different():
    rng = np.random.default_rng(0)
    labels = np.array([f"product {i:02}" for i in range(15)]).repeat(6)
    X = rng.normal(0, 9, (15, 5)).repeat(6, axis=0) + rng.normal(size=(90, 5))
    detector = HGADDetector(max_iter=1, n_blocks=1, random_state=0).fit(X, labels)
    display = LatentSpaceDisplay.from_estimator(detector, X)
    looks = {
        (to_hex(points.get_edgecolors()[0]), points.get_paths()[0].vertices.tobytes())
        for points in display.points_.values()
    }
    assert len(looks) == 15
    display.figure_.canvas.draw()
    boxes = [text.get_window_extent() for text in display.legend_.get_texts()]
    assert not any(one.overlaps(other) for one, other in zip(boxes[:-1], boxes[1:], strict=True))
    legend = display.legend_.get_window_extent()
    assert legend.y0 >= 0 and legend.x1 <= display.figure_.bbox.x1


# training


def test_curves_are_the_history(fitted):
    display = TrainingCurveDisplay.from_estimator(fitted)
    assert len(display.axes_) == 6 and list(display.lines_)[0] == "loss"
    for term, line in display.lines_.items():
        assert line.get_xdata().tolist() == [1, 2, 3]
        np.testing.assert_array_equal(line.get_ydata(), [r[term] for r in fitted.history_])
    _, ax = plt.subplots()
    display.plot(ax, terms=["loss", "entropy"], yscale="log")
    assert [line.get_label() for line in ax.lines] == ["loss", "posterior entropy"]
    assert ax.get_legend() is not None
    display.plot(terms=["learning_rate"], yscale="log")
    assert display.axes_[0].get_yscale() == "log"
    assert display.plot(terms=["loss"]).axes_.shape == (1,)


def test_training_display_says_what_is_missing(fitted):
    X, y = vectors(30, np.random.default_rng(0))
    untrained = HGADDetector(max_iter=0).fit(X, y)
    with pytest.raises(ValueError, match="set max_iter to a number"):
        TrainingCurveDisplay.from_estimator(untrained)
    with pytest.raises(ValueError, match="terms must be of .*'loss'"):
        TrainingCurveDisplay.from_estimator(fitted, terms=["loss", "accuracy"])
    with pytest.raises(ValueError, match="yscale must be 'linear' or 'log'"):
        TrainingCurveDisplay.from_estimator(fitted, yscale="sqrt")


# all


@pytest.mark.parametrize(
    "display",
    [AnomalyMapDisplay, LatentSpaceDisplay, ScoreDistributionDisplay],
)
def test_an_unfitted_detector_is_refused(display, images):
    with pytest.raises(NotFittedError):
        display.from_estimator(HGADDetector(), images[:1])
    with pytest.raises(NotFittedError):
        TrainingCurveDisplay.from_estimator(HGADDetector())


def test_without_matplotlib_the_way_to_get_it_is_named(monkeypatch, fitted):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'TrainingCurveDisplay needs .* "\.\[display\]"'):
        TrainingCurveDisplay.from_estimator(fitted)


def test_classes_with_a_threshold_of_their_own_have_a_line_of_their_own(fitted):
    display = ScoreDistributionDisplay.from_predictions(
        None, [0.0, 1.0, 2.0], ["a", "b", "c"], offset=-1, class_offsets={"b": -3}
    )
    x, y = display.threshold_line_.get_data()
    assert np.nan_to_num(x, nan=9).tolist() == [-1, -1, 9, -3, -3, 9, -1, -1, 9]
    assert np.nan_to_num(y, nan=9).tolist() == [-0.5, 0.5, 9, 0.5, 1.5, 9, 1.5, 2.5, 9]
    (label,) = fitted.classes_[:1]
    fitted.class_offsets_ = {label: -7.0}
    try:
        assert HeatScale.of(fitted, label).threshold == 7
        assert HeatScale.of(fitted).threshold == -fitted.offset_
    finally:
        fitted.class_offsets_ = {}
