"""The densities of classes in words."""

import numpy as np
import pytest
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.report.densities import densities_of

pytestmark = pytest.mark.usefixtures("one_thread")


def fitted(**parameters):
    X = np.random.default_rng(0).integers(90, 160, (12, 16, 16, 3), dtype=np.uint8)
    detector = HGADDetector(
        two_levels(),
        out_indices=(0, 1),
        image_size=16,
        fuse_stages=False,
        random_state=0,
        **parameters,
    )
    return detector.fit(X, ["bolt", "nut"] * 6)


def test_one_gaussian_on_all_levels_is_said_once():
    detector = fitted()
    for level, shrinkage in zip(detector.model_.model.levels, (0.127, 0.5), strict=True):
        level.densities.shrinkages[:] = shrinkage
    (bolt, nut) = densities_of(detector)
    text = "one Gaussian and nearest normals"
    assert (bolt[:2], nut[:2]) == (("bolt", text), ("nut", text))
    assert bolt[2] == "0.13 to 0.50"
    assert densities_of(fitted(bank_size=0))[0][1] == "one Gaussian"


def test_levels_that_differ_are_told_apart():
    detector = fitted()
    detector.model_.model.levels[1].densities = (
        fitted(n_components=2).model_.model.levels[1].densities
    )
    first = "one Gaussian and nearest normals"
    second = "2 centers, one covariance and nearest normals"
    assert densities_of(detector)[0][1] == f"level 0: {first}; level 1: {second}"


def test_unit_covariances_have_no_shrinkage():
    found = densities_of(fitted(class_covariance=False, max_iter=1, validation_fraction=0.2))
    assert found[0] == ("bolt", "Gaussians of unit covariance at the centers of the training", "")


def test_vectors_may_have_many_centers():
    X = np.random.default_rng(0).normal(size=(40, 2))
    detector = HGADDetector(n_components=3, random_state=0).fit(X)
    assert densities_of(detector)[0][1] == "3 Gaussians and nearest normals"
    detector.set_params(bank_size=0).fit(X)
    assert densities_of(detector)[0][1] == "3 Gaussians"
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 6, (200, 1))  # a spiral that widens
    X = angles * np.hstack((np.cos(angles), np.sin(angles)))
    X += (0.02 + 0.1 * angles) * rng.normal(size=(200, 2))
    centers, widths = densities_of(HGADDetector(random_state=0).fit(X))[0][1].split(", ")
    assert centers == "200 centers"
    assert 2 <= int(widths.removesuffix(" widths and nearest normals")) <= 12
