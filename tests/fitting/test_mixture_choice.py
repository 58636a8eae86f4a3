"""How many centers a class takes."""

import numpy as np
import pytest
import torch

from skhgad.fitting.mixture_choice import (
    KERNELS,
    MODES,
    ClassVectors,
    candidates,
    choose_mixtures,
    chosen_name,
    fit_gaussian,
    fit_named,
    name_of,
)
from skhgad.fitting.modes import find_modes

pytestmark = pytest.mark.usefixtures("one_thread")


def gaussian(n, n_features, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (n, n_features)))


def two_blobs(n, n_features):
    x = gaussian(n, n_features)
    x[::2] += 6
    return x


def ring(n=300, seed=0):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    x = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(0, 0.1, (n, 2))
    return torch.from_numpy(x)


def chosen(z):
    modes = find_modes(z, torch.zeros(len(z), dtype=torch.int64), 1, seed=0)
    return choose_mixtures([ClassVectors(z, modes, seed=0)])[0]


def names_of_classes(xs):
    """Return what each of some classes chooses alone, and what they choose together."""
    classes = [ClassVectors(x, torch.zeros(len(x), dtype=torch.int64), seed=0) for x in xs]
    alone = [choose_mixtures([vectors])[0] for vectors in classes]
    return tuple(
        [name_of(mixture, len(x)) for mixture, x in zip(mixtures, xs, strict=True)]
        for mixtures in (alone, choose_mixtures(classes))
    )


def test_classes_tell_together_what_few_can_alone():
    alone, together = names_of_classes([ring(24, seed) for seed in range(8)])
    assert alone.count(1) >= 2, alone
    assert together == [KERNELS] * 8


def test_classes_of_one_gaussian_stay():
    for seed in range(3):
        xs = [gaussian(24, 2, 10 * seed + i) for i in range(8)]
        alone, together = names_of_classes(xs)
        assert together == alone
    # One class of another shape says nothing of the others.
    alone, together = names_of_classes([ring(100), *xs])
    assert together == alone
    assert together[0] == KERNELS


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 30, 300])
@pytest.mark.parametrize("n_features", [2, 8, 64])
def test_a_gaussian_takes_one_center(n, n_features):
    assert len(chosen(gaussian(n, n_features)).centers) == 1


def test_a_ring_takes_several_centers():
    z = ring()
    mixture = chosen(z)
    assert len(mixture.centers) >= 4
    middle = torch.zeros(1, 2, dtype=z.dtype)
    assert mixture.log_density(middle) < mixture.log_density(z).quantile(0.01) - 3
    assert fit_gaussian(z).log_density(middle) > fit_gaussian(z).log_density(z).median()


def test_constant_features_ask_for_no_vectors():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(12 * rng.normal(size=(6, 4))[rng.integers(0, 6, 120)])
    z += torch.from_numpy(rng.normal(size=(120, 4)))
    for n_constant in (0, 40, 80):
        wide = torch.nn.functional.pad(z, (0, n_constant))
        vectors = ClassVectors(wide, torch.zeros(120, dtype=torch.int64), seed=0)
        assert len(choose_mixtures([vectors])[0].centers) == 6, n_constant


def test_what_many_vectors_chose_is_fitted_to_fewer():
    z = two_blobs(80, 2)
    vectors = ClassVectors(z, torch.zeros(80, dtype=torch.int64), seed=0)
    assert 12 not in candidates(vectors)
    assert len(fit_named(vectors, 12).centers) == 12
    same = ClassVectors(torch.ones(80, 2).double(), vectors.modes, seed=0)
    assert len(fit_named(same, 12).centers) == len(fit_named(vectors, MODES).centers) == 1


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_a_ring_of_few_vectors_takes_several_centers(seed):
    assert len(chosen(ring(30, seed)).centers) > 1


@pytest.mark.parametrize(("n", "n_features"), [(30, 64), (30, 2), (300, 8)])
def test_two_blobs_take_a_center_each(n, n_features):
    z = two_blobs(n, n_features)
    mixture = chosen(z)
    assert len(mixture.centers) >= 2
    middle = torch.full((1, n_features), 3, dtype=z.dtype)
    assert mixture.log_density(middle) < mixture.log_density(z).min()


def test_few_vectors_or_copies_of_one_take_one_center():
    assert len(chosen(two_blobs(6, 2)).centers) == 1
    copies = chosen(torch.ones(50, 3, dtype=torch.float64))
    assert len(copies.centers) == 1
    assert copies.log_density(torch.zeros(1, 3, dtype=torch.float64)).isfinite()


def test_the_simplest_stays_unless_another_is_clearly_better():
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base = torch.zeros(200, dtype=torch.float64)
    unsure, sure = base + 0.05 + noise, base + 0.5 + noise
    assert chosen_name({1: base, MODES: unsure}) == 1
    assert chosen_name({1: base, MODES: sure}) == MODES
    assert chosen_name({1: base, 2: unsure, KERNELS: base - 1}) == 1
    assert chosen_name({1: base, MODES: sure, 2: sure + 0.01 * noise, KERNELS: base}) == MODES
    assert chosen_name({1: base, 4: sure, KERNELS: sure + 0.01}) == KERNELS
    assert chosen_name({1: base, 2: sure, 4: sure + 0.02, KERNELS: sure + 0.01}) == 4
