"""The blur of anomaly maps."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from skhgad.scoring.maps import gaussian_blur


@pytest.mark.parametrize("shape", [(12, 9), (1, 7), (30, 2)])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 40.0])
def test_blur_is_that_of_scipy_however_wide_it_is(shape, sigma):
    maps = np.random.default_rng(0).normal(size=(2, *shape))
    blurred = gaussian_blur(torch.from_numpy(maps), sigma).numpy()
    radius = int(np.ceil(4 * sigma))
    for one, expected in zip(blurred, maps, strict=True):
        expected = gaussian_filter(expected, sigma, mode="nearest", radius=radius)
        np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-12)


def test_a_blur_beyond_the_map_takes_no_more_memory_than_the_map(monkeypatch):
    padded = []
    pad = torch.nn.functional.pad
    monkeypatch.setattr(
        "skhgad.scoring.maps.F.pad", lambda x, *a, **k: padded.append(pad(x, *a, **k)) or padded[-1]
    )
    gaussian_blur(torch.zeros(1, 4, 6), 1e6 / 4)
    assert max(maps.numel() for maps in padded) <= 3 * 4 * 6
