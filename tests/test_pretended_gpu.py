"""The whole life of a detector on a GPU, pretended: no tensors of two devices ever meet.

What a real one gives is in `benchmarks.gpu`.
"""

import numpy as np
import pytest
import torch
from backbones import two_levels
from pretend_gpu import PretendGPU

from skhgad import HGADDetector

# Which tensors meet is the same on every Python.
pytestmark = pytest.mark.once

SIDE = 32
COLOURS = {"bolt": (90, 90, 90), "nut": (150, 120, 90), "pin": (70, 130, 160)}
MIDDLE = np.zeros((SIDE, SIDE), dtype=bool)
MIDDLE[4:28, 4:28] = True


def plates(names, n, seed=0):
    rng = np.random.default_rng(seed)
    images = [COLOURS[name] + rng.normal(0, 8, (n, SIDE, SIDE, 3)) for name in names]
    return np.clip(np.concatenate(images), 0, 255).astype(np.uint8), np.repeat(names, n)


def vectors(names, n, seed=0):
    rng = np.random.default_rng(seed)
    X = [rng.normal(sum(COLOURS[name]) / 10, 1, (n, 4)) for name in names]
    return np.concatenate(X), np.repeat(names, n)


def on_gpu(**parameters):
    return HGADDetector(**{"device": "cuda", "random_state": 0, **parameters})


def of_images(**parameters):
    small = dict(backbone=two_levels(), image_size=SIDE, image_scales=(1,), mixed_precision=False)
    return on_gpu(**small, **parameters)


def live(detector, draw, folder, *, n=24, roi=None, backbone=None):
    """Fit, score, change, save and load; scores of the CPU are those of the GPU."""
    X, labels = draw(["bolt", "nut"], n)
    with PretendGPU():
        detector.fit(X, labels, roi=roi)
        assert detector.model_.model.score_scale.device.type == "cuda"
        detector.inspect(X[:3], maps=backbone is not None)
        detector.p_values(X[:3])
        if detector.tile_size is None:
            detector.latents(X[:3])
        detector.explain(X[:1])
        detector.add_class(*draw(["pin"], n, seed=1))
        detector.update(*draw(["bolt"], 8, seed=2))
        detector.forget("nut")
        scores = detector.score_samples(X)
        detector.save(folder / "model")
    loaded = HGADDetector.load(folder / "model", backbone=backbone).set_params(device="cpu")
    np.testing.assert_allclose(loaded.score_samples(X), scores, rtol=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"max_iter": 1, "n_blocks": 1}, {"n_components": 2, "criterion": "likelihood_entropy"}],
    ids=str,
)
def test_vectors(parameters, tmp_path):
    live(on_gpu(**parameters), vectors, tmp_path, n=16)


def test_one_class_of_skewed_features():
    X = np.exp(np.random.default_rng(0).normal(size=(200, 4)))
    with PretendGPU():
        detector = on_gpu().fit(X)
        scores = detector.score_samples(X)
    assert detector.model_.model.levels[0].start.powers is not None
    expected = on_gpu(device="cpu").fit(X).score_samples(X)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [
        {}, {"max_iter": 1, "n_blocks": 1}, {"tile_size": 24}, {"criterion": "likelihood_entropy"},
    ],
    ids=str,
)  # fmt: skip
def test_images(parameters, tmp_path):
    live(of_images(**parameters), plates, tmp_path, backbone=two_levels())


def test_images_in_a_region(tmp_path):
    live(of_images(), plates, tmp_path, roi=MIDDLE, backbone=two_levels())


@pytest.mark.parametrize("parameters", [{}, {"tile_size": 24}], ids=str)
def test_known_anomalies(parameters):
    X, labels = plates(["bolt", "nut"], 24)
    scratched = X[:8].copy()
    scratched[:, 8:16, 8:16] = 255
    marked = np.zeros((SIDE, SIDE), dtype=bool)
    marked[8:16, 8:16] = True
    masks = [None] * len(X) + [marked] * len(scratched)
    X, labels = np.concatenate([X, scratched]), np.append(labels, ["-1"] * len(scratched))
    with PretendGPU():
        detector = of_images(**parameters).fit(X, labels, masks=masks)
        scores = detector.score_samples(X)
    assert detector.known_anomalies_ is not None
    assert scores[-8:].max() < scores[:-8].min()


def test_classes_to_discover():
    X, labels = vectors(["bolt", "nut"], 40)
    with PretendGPU():
        codes = on_gpu(n_classes=2).fit(X).predict_class(X)
    assert len(np.unique(codes)) == 2


def test_scores_are_those_of_the_cpu(tmp_path):
    """As many pictures as take several batches, remembered and not."""
    X, labels = plates(["bolt", "nut"], 40)
    expected = of_images(device="cpu").fit(X, labels).score_samples(X)
    for memory in (None, tmp_path, tmp_path):
        with PretendGPU():
            found = of_images(memory=memory).fit(X, labels).score_samples(X)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_pretended_gpu_refuses_what_a_gpu_refuses():
    with PretendGPU():
        there, here = torch.zeros(3, device="cuda"), torch.zeros(3)
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: there.index_add_(0, torch.arange(3), there),
            lambda: here[there > 0],
            lambda: torch.nn.Linear(3, 3)(there),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        moved = torch.nn.Linear(3, 3).to(there)
        assert moved(there + 1 + there.cpu().sum()).device.type == "cuda"
        assert there.to("cpu").device.type == (here * 2).device.type == "cpu"
