"""What callers set in torch for their own work changes no score."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from backbones import RandomFilters
from small_pictures import fine_products

from skhgad import HGADDetector
from skhgad.devices import usual_torch
from skhgad.display.latent_points import latent_points
from skhgad.regions import embed_regions, find_regions


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype  # it came back
    finally:
        torch.set_default_dtype(torch.float32)


BACKBONE = RandomFilters((8, 4))
SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "device": lambda: torch.device("meta"),  # as set_default_device
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def scores_of_vectors(folder):
    rng = np.random.default_rng(0)
    X, y = rng.normal([[0] * 4, [5] * 4] * 20, 1), ["bolt", "nut"] * 20
    detector = HGADDetector(n_components=1, max_iter=1, random_state=0).fit(X, y)
    detector.add_class(rng.normal(-5, 1, (20, 4)), "pin")
    detector.update(rng.normal(-5, 1, (5, 4)), "pin").forget("nut")
    detector.save(folder)
    detector = HGADDetector.load(folder)
    rises = [list(found.contributions.values()) for found in detector.explain(X[:4])]
    return [detector.score_samples(X), np.array(rises), detector.latents(X).vectors[0]]


def scores_of_images(folder):
    X, y = fine_products(16)
    parameters = {"image_size": 32, "out_indices": (0,), "fuse_stages": False}
    detector = HGADDetector(BACKBONE, random_state=0, **parameters).fit(X, y)
    detector.add_class(X[:8, ::-1] // 2, "dark")
    detector.save(folder)
    detector = HGADDetector.load(folder, backbone=BACKBONE)
    maps = detector.anomaly_maps(X[:3])
    embedded = embed_regions(detector, X[:3], [find_regions(m, float(np.median(m))) for m in maps])
    points = latent_points(detector, X[:3], None, 0, 2, 0)
    return [detector.score_samples(X), maps, embedded, points.vectors]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("scores", [scores_of_vectors, scores_of_images])
@pytest.mark.filterwarnings("ignore:too few held-out")
def test_settings_of_the_caller_change_nothing(name, scores, tmp_path):
    expected = scores(tmp_path / "expected")
    with SETTINGS[name]():
        found = scores(tmp_path / "found")
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_last_thread_brings_the_default_dtype_back():
    inside, may_leave = threading.Event(), threading.Event()

    def compute():
        with usual_torch():
            inside.set()
            may_leave.wait(10)

    with default_dtype(torch.float64):
        other = threading.Thread(target=compute)
        other.start()
        inside.wait(10)
        with usual_torch():
            pass
        assert torch.get_default_dtype() == torch.float32  # the other thread computes on
        may_leave.set()
        other.join()
