"""Modes: found where one Gaussian cannot describe a class, and nowhere else."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from skhgad.fitting.modes import find_modes

pytestmark = pytest.mark.usefixtures("one_thread")


def blobs(n, n_features, places, seed=0):
    """Vectors of unit Gaussians at the places in every feature, in random order, and their blob."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.arange(n) % len(places))
    x = rng.normal(0, 1, (n, n_features)) + np.array(places)[names][:, None]
    return torch.from_numpy(x), names


def modes_of(x):
    return find_modes(x, torch.zeros(len(x), dtype=torch.int64), 1, seed=0)


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("n_features", [2, 8, 64])
def test_two_far_blobs_are_two_modes(n, n_features):
    x, names = blobs(n, n_features, (0, 6))
    modes = modes_of(x)
    assert modes.unique().tolist() == [0, 1]
    assert adjusted_rand_score(names, modes) == 1


def test_four_far_blobs_are_four_modes():
    x, names = blobs(200, 6, (0, 9, 18, 27))
    assert adjusted_rand_score(names, modes_of(x)) == 1


@pytest.mark.parametrize("n", [5, 30, 300])
@pytest.mark.parametrize("n_features", [2, 8, 64])
@pytest.mark.parametrize("seed", range(3))
def test_one_blob_is_one_mode(n, n_features, seed):
    x, _ = blobs(n, n_features, (0,), seed)
    assert not modes_of(x).any()
    scales = torch.logspace(-3, 3, n_features, dtype=x.dtype)
    assert not modes_of(x.cumsum(1) * scales).any()  # correlated, of any spread


def test_modes_are_those_of_each_class():
    x, names = blobs(120, 3, (0, 8))
    one, _ = blobs(80, 3, (4,), seed=1)
    codes = torch.cat((torch.zeros(120, dtype=torch.int64), torch.ones(80, dtype=torch.int64)))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    modes = find_modes(torch.cat((x, one))[order], codes[order], 2, seed=0)
    assert adjusted_rand_score(names, modes[order.argsort()][:120]) == 1
    assert not modes[codes[order] == 1].any()


def test_constant_features_and_scale_change_nothing():
    x, names = blobs(60, 4, (0, 6))
    constant = torch.full((60, 3), 7.0, dtype=x.dtype)
    wide = torch.cat((constant, x * torch.tensor([1e-6, 1, 1e3, 1e-2])), 1)
    assert adjusted_rand_score(names, modes_of(wide)) == 1


def test_duplicates_do_no_harm():
    x, names = blobs(20, 4, (0, 6))
    repeated = x.repeat_interleave(5, 0)
    found = modes_of(repeated).reshape(20, 5)
    assert (found == found[:, :1]).all()
    assert not modes_of(torch.ones(50, 3, dtype=torch.float64)).any()
    two_points = torch.tensor([0.0, 1.0], dtype=x.dtype).repeat(25)[:, None].expand(50, 3)
    assert len(modes_of(two_points)) == 50


def test_there_are_no_more_modes_than_distinct_vectors():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5))).repeat(40, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(modes_of(x).unique()) <= 3
