"""The small model, by short names."""

import numpy as np
import pytest


@pytest.fixture
def detector(small_detector):
    return small_detector


@pytest.fixture(scope="session")
def model(small_model):
    return small_model


@pytest.fixture
def rng():
    return np.random.default_rng(1)
