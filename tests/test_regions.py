"""Regions of drawn maps, their descriptions, and groups of made features."""

import numpy as np
import pytest
from torch import nn

from skhgad import HGADDetector
from skhgad.regions import (
    Region,
    describe_regions,
    embed_regions,
    find_regions,
    group_defects,
)


def drawn_map():
    """A map with a square, a diagonal line and a single pixel in the corner."""
    anomaly_map = np.zeros((12, 20), dtype=np.float32)
    anomaly_map[1:4, 2:5] = 3
    anomaly_map[2, 3] = 5
    anomaly_map[np.arange(5, 10), np.arange(8, 13)] = 4
    anomaly_map[11, 19] = 9
    return anomaly_map


def test_regions_are_what_was_drawn_highest_peak_first():
    pixel, square, line = find_regions(drawn_map(), 2)
    expected = [
        (pixel, (11, 19, 12, 20), 1, 9, (11, 19)),
        (square, (1, 2, 4, 5), 9, 5, (2, 3)),
        (line, (5, 8, 10, 13), 5, 4, (5, 8)),
    ]
    for region, box, area, peak, position in expected:
        assert (region.box, region.area, region.peak) == (box, area, peak)
        assert region.peak_position == position and region.map_size == (12, 20)
    np.testing.assert_array_equal(line.mask, np.eye(5, dtype=bool))  # corners touch: one region


def test_the_threshold_itself_is_normal():
    assert [region.peak for region in find_regions(drawn_map(), 5)] == [9]
    assert find_regions(drawn_map(), 9) == []


def test_a_region_inside_the_box_of_another_keeps_its_own_pixels():
    anomaly_map = np.zeros((9, 9))
    anomaly_map[[0, 8], :] = anomaly_map[:, [0, 8]] = 2
    anomaly_map[4, 4] = 7
    dot, frame = find_regions(anomaly_map, 1)
    assert (dot.peak, dot.area) == (7, 1)
    assert (frame.peak, frame.area, frame.box) == (2, 32, (0, 0, 9, 9))
    assert not frame.mask[4, 4]


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 1), 1), ((4, 4), 1), ((1, 9), 9), ((6, 2), 3)]
)
def test_elongation_of_rectangles_is_length_over_width(shape, expected):
    (region,) = find_regions(np.pad(np.ones(shape), 2), 0.5)
    assert region.elongation == pytest.approx(expected)


def test_elongation_does_not_depend_on_direction():
    (region,) = find_regions(np.eye(30) + np.eye(30, k=1), 0.5)
    assert region.elongation > 15


@pytest.mark.parametrize(
    ("anomaly_map", "threshold", "message"),
    [
        (np.zeros((2, 3, 3)), 1, "must be numbers of shape"),
        ([[0.0, np.nan]], 1, "nan at row 0, column 1"),
        (np.zeros((3, 3)), np.nan, "threshold must be a finite number, got nan"),
        (np.zeros((3, 3)), "high", "threshold must be a finite number, got 'high'"),
    ],
)
def test_what_is_no_map_is_refused(anomaly_map, threshold, message):
    with pytest.raises(ValueError, match=message):
        find_regions(anomaly_map, threshold)


def test_descriptions_weigh_cells_by_the_pixels_they_hold():
    rng = np.random.default_rng(0)
    anomaly_map = rng.normal(size=(12, 20)) + 4 * (rng.random((12, 20)) < 0.1)
    features = rng.normal(size=(3, 5, 7))
    regions = find_regions(anomaly_map, 1.5)
    enlarged = features.repeat(4, axis=0).repeat(4, axis=1)
    for region, found in zip(regions, describe_regions(features, regions), strict=True):
        top, left, bottom, right = region.box
        expected = enlarged[top:bottom, left:right][region.mask].mean(0)
        np.testing.assert_allclose(found, expected)


def test_descriptions_on_a_grid_that_does_not_divide_the_map():
    anomaly_map = np.zeros((3, 10))
    anomaly_map[1, 2:5] = 1  # centers at 0.25, 0.35 and 0.45 of the width: cells 0, 1 and 1 of 3
    regions = find_regions(anomaly_map, 0.5)
    np.testing.assert_allclose(describe_regions([[[0.0], [3.0], [9.0]]], regions), [[2.0]])
    with pytest.raises(ValueError, match="must be of shape"):
        describe_regions(np.zeros((9, 4)), regions)


class Brightness(nn.Module):
    """Two maps: the image, and its means over 8 x 8 pixels."""

    def forward(self, x):
        return [x, nn.functional.avg_pool2d(x, 8)]


@pytest.fixture(scope="module")
def detector(one_thread):
    images = np.random.default_rng(0).integers(100, 140, (12, 32, 32, 3), dtype=np.uint8)
    parameters = {"out_indices": (0, 1), "image_size": 32, "fuse_stages": False, "n_blocks": 1}
    return HGADDetector(
        Brightness(), **parameters, feature_power=1.0, max_iter=0, random_state=0
    ).fit(images)


def test_embeddings_are_the_backbone_s_features_under_each_region(detector):
    images = np.random.default_rng(1).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    anomaly_map = np.zeros((64, 64))
    anomaly_map[16:32, 32:48] = 2
    anomaly_map[60, 0] = 1
    corner = np.zeros((64, 64))
    corner[:16, :16] = 1
    regions = [find_regions(anomaly_map, 0.5), [], find_regions(corner, 0.5)]
    found = embed_regions(detector, images, regions)
    pooled = images.reshape(3, 4, 16, 4, 16, 3).mean((2, 4)) / 255
    normal = detector.model_.extractor
    expected = np.stack([pooled[0, 1, 2], pooled[0, 3, 0], pooled[2, 0, 0]])
    expected = (expected - normal.mean.numpy().ravel()) / normal.std.numpy().ravel()
    np.testing.assert_allclose(found, expected, atol=0.03)  # the image was resized to 32 x 32
    assert embed_regions(detector, images, [[], [], []], level=0).shape == (0, 3)


def test_embed_regions_says_what_is_wrong(detector):
    images = np.zeros((2, 32, 32), dtype=np.uint8)
    with pytest.raises(ValueError, match="regions has lists for 1 images, X has 2"):
        embed_regions(detector, images, [[]])
    with pytest.raises(ValueError, match="level=2: the detector has the levels 0 to 1"):
        embed_regions(detector, images, [[], []], level=2)
    vectors = HGADDetector(max_iter=0).fit(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(ValueError, match="embed_regions needs images"):
        embed_regions(vectors, images, [[], []])


def blobs(n_groups, rng, *, n_each=12, n_features=40):
    """Features of well separated groups, in shuffled order, and their groups."""
    centers = rng.normal(0, 3, (n_groups, n_features))
    truth = rng.permutation(np.repeat(np.arange(n_groups), n_each))
    return centers[truth] + rng.normal(size=(len(truth), n_features)), truth


def same_partition(labels, truth):
    return len(set(zip(labels.tolist(), truth.tolist(), strict=True))) == len(set(truth.tolist()))


@pytest.mark.parametrize("n_groups", [2, 3, 6])
def test_groups_and_their_number_are_found(n_groups):
    features, truth = blobs(n_groups, np.random.default_rng(n_groups))
    labels = group_defects(features)
    assert same_partition(labels, truth) and len(set(labels.tolist())) == n_groups
    _, first = np.unique(labels, return_index=True)
    assert (np.diff(first) > 0).all()  # numbered as they appear
    np.testing.assert_array_equal(group_defects(features, n_groups), labels)


def test_the_unit_of_a_feature_does_not_matter():
    features, truth = blobs(3, np.random.default_rng(0))
    noise = np.random.default_rng(1).normal(size=(len(features), 1))
    scaled = np.hstack([features, 1e6 * noise, np.full_like(noise, 0.1)])
    assert same_partition(group_defects(scaled), truth)


def test_shape_separates_what_features_cannot():
    rng = np.random.default_rng(0)
    truth = np.arange(30) % 2

    def region(length):
        mask = np.ones((2, length), dtype=bool)
        return Region((0, 0, 2, length), 2 * length, 1.0, (0, 0), (64, 64), mask)

    regions = [region(int(rng.integers(2, 4) + 40 * kind)) for kind in truth]
    features = np.full((30, 1), 0.1)
    assert same_partition(group_defects(features, 2, regions=regions), truth)
    assert set(group_defects(features).tolist()) == {0}


def test_few_regions():
    assert group_defects(np.zeros((0, 4))).tolist() == []
    assert group_defects([[1.0, 2.0]]).tolist() == [0]
    assert group_defects([[1.0], [9.0]]).tolist() == [0, 0]
    assert group_defects([[1.0], [9.0]], 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_groups": 9}, "n_groups=9, but there are only 4 regions"),
        ({"n_groups": "some"}, "n_groups must be an int of at least 1 or 'auto', got 'some'"),
        ({"max_groups": 1}, "max_groups must be an int of at least 2"),
        ({"regions": []}, "regions has 0 items, features 4 rows"),
    ],
)
def test_wrong_arguments_of_group_defects(arguments, message):
    with pytest.raises(ValueError, match=message):
        group_defects(np.arange(8.0).reshape(4, 2), **arguments)
