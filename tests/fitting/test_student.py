"""The t distribution that stands for one Gaussian."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t

from skhgad.fitting.mixture_choice import ClassVectors, choose_mixtures
from skhgad.fitting.student import likeliest_student

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("degrees", [3, 1000])
def test_it_finds_the_degrees_of_freedom(degrees):
    truth = multivariate_t(np.zeros(3), (degrees - 2) / degrees * np.eye(3), degrees, seed=0)
    x = truth.rvs(2000)
    found = likeliest_student(torch.from_numpy((x**2).sum(1)), 3) - 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found, truth.logpdf(x), atol=1e-9)


@pytest.mark.parametrize("n_features", [10, 20])
def test_heavy_tails_alone_take_no_kernels(n_features):
    for seed in range(2):
        x = multivariate_t(np.zeros(n_features), np.eye(n_features), 2, seed=seed).rvs(80)
        z = torch.from_numpy((x - x.mean(0)) / x.std(0))
        assert (
            len(choose_mixtures([ClassVectors(z, torch.zeros(80).long(), seed=0)])[0].centers) <= 2
        )
