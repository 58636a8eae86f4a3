"""What several test modules share: a fixture, and `benchmarks`, which is not installed."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pictures import SIDE, draw


def _load_benchmarks():
    """Make `import benchmarks` work.

    By its path: a repository root on sys.path would also replace the installed skhgad.
    """
    folder = Path(__file__).parents[1] / "benchmarks"
    spec = importlib.util.spec_from_file_location(
        "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["benchmarks"])


_load_benchmarks()


@pytest.fixture(scope="module")
def one_thread():
    """Keep torch to one thread: for work this small more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_detector():
    """A detector of two drawn products, 12 small pictures each."""
    from skhgad import HGADDetector

    rng = np.random.default_rng(0)
    labels = ["checker", "stripe"] * 12
    images = [draw(rng, label) for label in labels]
    return HGADDetector(image_size=SIDE, image_scales=(1,), random_state=0).fit(images, labels)


@pytest.fixture(scope="session")
def small_model(small_detector, tmp_path_factory):
    """The folder of that detector."""
    folder = tmp_path_factory.mktemp("models") / "model"
    small_detector.save(folder)
    return folder
