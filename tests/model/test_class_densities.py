"""Vectors whitened by centers drawn from their posterior."""

import numpy as np
import pytest
import torch

from skhgad.model.class_densities import ClassDensities
from skhgad.model.mixture import HierarchicalMixture, drawn_centers


def test_centers_are_drawn_as_often_as_their_posterior_says():
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(3000, 3)
    draws = torch.rand(3000, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn_centers(logits, draws), minlength=3) / 3000
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.04)
    edges = torch.tensor([0.0, 0.2, 0.9999999])
    assert drawn_centers(logits[:3], edges).tolist() == [0, 1, 2]


def gaussians(n, whiteners, centers, generator):
    """Vectors of two Gaussians in turn."""
    names = torch.arange(n) % 2
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    roots = torch.linalg.inv(whiteners)
    return (noise[:, None] @ roots[names])[:, 0] + centers[names]


@pytest.mark.parametrize("shared", [False, True])
def test_vectors_of_the_density_become_standard_gaussian(shared):
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[0.0, 0.0], [1.5, 1.0]], dtype=torch.float64)
    whiteners = torch.tensor([[[1.0, 0.3], [0.0, 2.0]], [[0.5, 0.0], [-0.2, 1.0]]]).double()
    if shared:
        whiteners = whiteners[:1].expand(2, 2, 2)
    log_weights = torch.full((2,), 0.5, dtype=torch.float64).log()
    stored = whiteners[:1] if shared else whiteners
    other = (centers[:1] + 9, torch.zeros(1).double(), torch.eye(2).double()[None])
    densities = ClassDensities.of(
        [other, (centers, log_weights, stored)], torch.zeros(2, 2).double(), torch.eye(2).double()
    )
    z = gaussians(20_000, whiteners, centers, generator)
    draws = torch.rand(len(z), generator=generator, dtype=torch.float64)
    found = densities.standardised(z, 1, draws)
    np.testing.assert_allclose(found.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(torch.cov(found.T), np.eye(2), atol=0.04)
    np.testing.assert_allclose((found**4).mean(0), 3, atol=0.2)


def test_without_densities_the_prior_is_what_the_model_claims():
    generator = torch.Generator().manual_seed(0)
    mixture = HierarchicalMixture(torch.zeros(1, 2), 2, offset_scale=0.0, generator=generator)
    mixture.offsets.data[0, 0] = torch.tensor([2.0, 0.0])
    z = torch.randn(20_000, 2, generator=generator)
    z[::2, 0] += 2
    draws = torch.rand(len(z), generator=generator)
    found = mixture.standardised(z, 0, draws).detach()
    np.testing.assert_allclose(found.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(torch.cov(found.T), np.eye(2), atol=0.04)
