"""Powers of skewed features against their formula, their gradient and their inverse."""

import numpy as np
import torch

from skhgad.model.feature_powers import FeaturePowers
from skhgad.model.flow import LinearStart


def powers():
    """Logarithm, power of the mirrored feature, and a feature that stays."""
    columns = [(1, 2, 3, 0.1, 0), (-1, -5, 0.5, 0.3, 0.25), (1, 0, 1, 1, 1)]
    return FeaturePowers(*torch.tensor(columns, dtype=torch.float64).T)


def values():
    """On both sides of each origin."""
    return torch.from_numpy(np.random.default_rng(0).normal([3, 5, 0], 3, (50, 3)))


def test_powers_are_those_of_the_formula():
    x = values().numpy()
    u = (x[:, 0] - 2) / 3
    logarithm = np.where(u > 0, np.log(np.maximum(u, 0) + 0.1), np.log(0.1) + u / 0.1)
    u = (5 - x[:, 1]) / 0.5
    least = (0.3**0.25 - 1) / 0.25
    power = ((np.maximum(u, 0) + 0.3) ** 0.25 - 1) / 0.25
    power = np.where(u > 0, power, least + 0.3**-0.75 * u)
    assert (x[:, 0] < 2).any() and (x[:, 1] > 5).any()
    expected = np.stack([3 * logarithm, -0.5 * power, x[:, 2]], 1)
    np.testing.assert_allclose(powers()(values()).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_log_slopes_are_those_of_the_gradient():
    x = values().requires_grad_()
    (gradient,) = torch.autograd.grad(powers()(x).sum(), x)
    torch.testing.assert_close(powers().log_slopes(x.detach()), gradient.log())


def test_the_inverse_leads_back():
    torch.testing.assert_close(powers().inverse(powers()(values())), values())


def test_a_start_with_powers_leads_back_and_multiplies_what_it_maps():
    matrix = torch.tensor([[1.0, 2, 0], [0, 1, 3], [1, 0, 1]]).double()
    start, x = LinearStart(torch.ones(3), matrix, powers=powers()), values()
    z, _ = start(x)
    torch.testing.assert_close(start.inverse(z), x)
    torch.testing.assert_close(start.products(x, matrix), z @ matrix)
