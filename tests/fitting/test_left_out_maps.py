"""Latent maps of samples that a model was fitted to lie as far out as fresh ones once moved."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.fitting import defect_directions
from skhgad.fitting.left_out_maps import LeftOutMaps

pytestmark = pytest.mark.usefixtures("one_thread")


def fitted_to(maps, inside=None):
    """Return LeftOutMaps of maps (n, n_positions, n_axes) of one class, and its whitener."""
    n, vectors = len(maps), maps.flatten(0, 1)
    center = vectors.mean(0)
    values, axes = torch.linalg.eigh(torch.cov(vectors.T, correction=0))
    whitener = axes / values.sqrt() @ axes.T
    level = SimpleNamespace(
        n_centers=torch.ones(1, dtype=torch.int64),
        densities=SimpleNamespace(n_vectors=torch.tensor([float(len(vectors))])),
        first_center=lambda code: (center, whitener),
    )
    samples = SimpleNamespace(
        codes=np.zeros(n, dtype=np.int64),
        rows=np.arange(n),
        cache=SimpleNamespace(read_inside=lambda index, rows: inside),
    )
    return LeftOutMaps(level, samples, 0), center, whitener


@pytest.mark.parametrize(
    ("n", "n_positions", "n_axes"), [(24, 6, 30), (14, 40, 8)], ids=["wide", "fine"]
)
def test_moved_maps_lie_as_far_out_as_fresh_ones(n, n_positions, n_axes):
    rng = np.random.default_rng(0)

    def maps(n):  # all vectors of a map have much in common
        own = rng.normal(size=(n, n_positions, n_axes)) + 2 * rng.normal(size=(n, 1, n_axes))
        return torch.from_numpy(own)

    seen, fresh = maps(n), maps(2000)
    moved, center, whitener = fitted_to(seen)
    size = [
        ((z - center) @ whitener).square().sum(-1).mean()
        for z in (seen, moved(np.arange(n), seen), fresh)
    ]
    assert size[0] < 0.75 * size[2]
    assert 0.8 * size[2] < size[1] < 1.3 * size[2]


def test_positions_outside_stay_and_take_no_part():
    maps = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 6, 5)))
    inside = torch.ones(8, 6, dtype=torch.bool)
    inside[:, 4:] = False
    moved = fitted_to(maps, inside)[0](np.arange(8), maps)
    assert torch.equal(moved[:, 4:], maps[:, 4:])
    assert (moved[:, :4] != maps[:, :4]).all()


@pytest.mark.parametrize(("fraction", "is_moved"), [("cross", True), (0.5, False)])
def test_maps_that_the_model_has_seen_are_moved_and_no_others(monkeypatch, fraction, is_moved):
    levels = []

    class Spy(LeftOutMaps):
        def __call__(self, rows, z):
            levels.append(self.index)
            assert (self.samples.codes[rows] == 0).all()
            return super().__call__(rows, z)

    monkeypatch.setattr(defect_directions, "LeftOutMaps", Spy)
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (30, 32, 32, 3)).astype(np.uint8)
    detector = HGADDetector(
        two_levels(),
        out_indices=(0, 1),
        image_size=32,
        random_state=0,
        validation_fraction=fraction,
    )
    detector.fit(X, np.repeat([1, -1], [24, 6]))
    n_levels = len(detector.model_.model.levels)
    assert set(levels) == set(range(n_levels) if is_moved else ())
