"""Values that many vectors share."""

import numpy as np
import pytest
import torch

from skhgad import HGADDetector
from skhgad.fitting import class_mixtures
from skhgad.fitting.gaussian_mixture import fit_mixture, maximize
from skhgad.fitting.ties import gap_variances, tie_covariances, tie_variances
from skhgad.model.flow import LinearStart

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_tie_is_as_wide_as_the_way_to_as_many_others():
    rng = np.random.default_rng(0)
    whole = np.repeat(np.arange(10.0), 20)  # 20 of each: the next value
    binary = np.repeat([0.0, 1.0], [150, 50])  # 150 have no 150 others: the farthest
    zeros = np.concatenate([np.zeros(100), np.arange(1, 101)])  # the 100th value beyond
    x = np.column_stack([rng.normal(size=200), np.full(200, 3.0), whole, binary, zeros])
    expected = [0, 0, 1 / 12, min(1 / 12, binary.var()), min(100**2 / 2 / 12, zeros.var())]
    found = tie_variances(torch.from_numpy(rng.permutation(x)))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


class Level:
    """A start without a flow."""

    def __init__(self, matrix):
        self.start = LinearStart(torch.zeros(len(matrix)), matrix)

    def latent(self, x):
        return self.start(x)


def test_ties_move_to_the_latent_space_with_the_vectors():
    matrix = torch.tensor([[2.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    x = torch.arange(10, dtype=torch.float64).repeat_interleave(4)[:, None] * torch.ones(1, 2)
    variances = tie_variances(x)
    assert variances.min() > 0
    expected = matrix.T @ torch.diag(variances) @ matrix
    torch.testing.assert_close(tie_covariances(Level(matrix), x)[0], expected)
    expected = matrix.T @ torch.diag(gap_variances(x)) @ matrix
    torch.testing.assert_close(tie_covariances(Level(matrix), x)[1], expected)
    distinct = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert not any(found.any() for found in tie_covariances(Level(matrix), distinct))


def test_a_gap_is_that_to_the_next_value():
    rng = np.random.default_rng(0)
    whole = np.repeat(np.arange(10.0), 20)
    zeros = np.concatenate([np.zeros(100), np.arange(1, 101)])  # the others are there once
    x = np.column_stack([rng.normal(size=200), np.full(200, 3.0), whole, zeros])
    found = gap_variances(torch.from_numpy(rng.permutation(x)))
    np.testing.assert_allclose(found, [0, 0, 1 / 12, 100 / 200 / 12], rtol=1e-12)


def test_rounded_vectors_of_one_gaussian_are_one_gaussian(monkeypatch):
    """Kernels stand on the values that rounding leaves, and win likelihood there."""
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(6, 6))
    x = np.round(rng.normal(size=(190, 6)) @ mixing / 3)

    def chosen():
        return HGADDetector(random_state=0).fit(x).model_.n_components.item()

    assert chosen() == 1
    monkeypatch.setattr(
        class_mixtures, "tie_covariances", lambda *given: (tie_covariances(*given)[0], None)
    )
    assert chosen() == 152  # kernels: a center at each of four fifths


def test_centers_do_not_stand_on_equal_values():
    rng = np.random.default_rng(0)
    binary = rng.integers(0, 2, 200)
    z = torch.from_numpy(np.column_stack([rng.normal(0, 0.1, 200) + binary, binary]))
    ties = torch.diag(tie_variances(z))
    ties[0, 0] = 0
    narrow, wide = (
        fit_mixture(z, 2, torch.Generator().manual_seed(0), ties=given).covariances[:, 1, 1]
        for given in (None, ties)
    )
    assert narrow.max() < 0.02
    assert wide.min() >= 0.9 * float(ties[1, 1]) > 0.05


def test_the_objective_never_falls_with_ties():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.integers(0, 3, (150, 3)).astype(float))
    shares = torch.from_numpy(rng.dirichlet([1, 1], 150))
    prior = torch.eye(3, dtype=z.dtype)
    ties = torch.diag(tie_variances(z))
    _, objectives = maximize(z, shares, prior, 0.5, 40, -torch.inf, ties=ties)
    assert np.diff(objectives).min() >= -1e-12
