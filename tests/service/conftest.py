"""A small model of two drawn products, which the tests of this folder share."""

import numpy as np
import pytest
from small_pictures import SIDE, draw

from skhgad import HGADDetector


@pytest.fixture(scope="session")
def detector():
    rng = np.random.default_rng(0)
    labels = ["checker", "stripe"] * 12
    images = [draw(rng, label) for label in labels]
    return HGADDetector(image_size=SIDE, image_scales=(1,), random_state=0).fit(images, labels)


@pytest.fixture(scope="session")
def model(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    detector.save(folder)
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(1)
