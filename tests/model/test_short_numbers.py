"""Numbers of one or two bytes: how far rounding moves them, and that it does so once."""

import pytest
import torch

from skhgad.model.class_densities import ClassDensities
from skhgad.model.short_numbers import ShortMatrix, rounded_whitener, short


def whitener(variances, seed=0):
    """Return a symmetric inverse square root of a covariance with these variances, float64."""
    d = len(variances)
    random = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    axes = torch.linalg.qr(random).Q
    return (axes * torch.as_tensor(variances).double().rsqrt()) @ axes.T


@pytest.mark.parametrize("kind", [torch.int8, torch.int16])
@pytest.mark.parametrize("size", [1e-20, 0.3, 1.0, 7.1e9])
def test_what_is_rounded_stays_as_it_is(kind, size):
    generator = torch.Generator().manual_seed(0)
    values = size * torch.randn(50, 40, generator=generator)
    numbers, scales = short(values, kind, dim=1)
    rounded = numbers * scales[:, None]
    assert float(((rounded - values).abs() / scales[:, None]).max()) <= 0.501
    again, same = short(rounded, kind, dim=1)
    assert torch.equal(again, numbers) and torch.equal(same, scales)
    matrix = ShortMatrix.of(values[:40] + values[:40].T, kind)
    assert matrix.entries.dtype == kind and len(matrix.entries) == 40 * 39 / 2
    assert torch.equal(ShortMatrix.of(matrix.matrix(), kind).matrix(), matrix.matrix())


def test_nothing_and_zeros_have_a_scale():
    for values in (torch.zeros(0, 3), torch.zeros(2, 3)):
        numbers, scale = short(values, torch.int16)
        assert numbers.shape == values.shape and not numbers.any() and float(scale) > 0


def kind_of(matrix):
    kinds = (torch.int8, torch.int16)
    exact = [k for k in kinds if torch.equal(ShortMatrix.of(matrix, k).matrix(), matrix)]
    return exact[0] if exact else None


def test_a_whitener_gets_as_many_bytes_as_its_covariance_needs():
    exact = whitener(torch.linspace(0.5, 2, 150))
    rounded = rounded_whitener(exact.float())
    assert kind_of(rounded) == torch.int8
    z = torch.linalg.solve(exact, torch.randn(150, 500, dtype=torch.float64)).T
    distances, before = ((z @ w).square().sum(1) for w in (rounded.double(), exact))
    assert 1e-4 < float((distances / before - 1).std()) < 1.5e-3
    assert kind_of(rounded_whitener(exact.float(), is_fine=True)) == torch.int16
    # One byte would make another variance of the largest, or say too little of few features.
    assert kind_of(rounded_whitener(exact[:5, :5].float())) == torch.int16
    wide = whitener([1e-2] * 149 + [1e3])
    rounded = rounded_whitener(wide.float())
    assert kind_of(rounded) == torch.int16
    variances = torch.linalg.eigvalsh(rounded.double()) ** -2
    assert float(variances.max()) == pytest.approx(1e3, rel=0.02)


def test_whiteners_of_tables_and_those_that_only_judge_are_not_rounded():
    exact = whitener(torch.linspace(0.1, 4, 10))
    assert rounded_whitener(exact) is exact
    triangular = torch.linalg.cholesky(exact @ exact).T.float()
    assert rounded_whitener(triangular) is triangular


def densities_of(matrix):
    d = len(matrix)
    mixture = torch.zeros(1, d), torch.zeros(1), matrix[None]
    return ClassDensities.of([mixture], torch.zeros(1, d), torch.eye(d)), mixture


def test_log_densities_are_those_of_the_rounded_whitener():
    exact = whitener(torch.linspace(0.5, 2, 150))
    densities, _ = densities_of(exact)
    rounded = densities.whiteners[0]
    assert kind_of(rounded) == torch.int8 and not torch.equal(rounded, exact.float())
    expected = torch.linalg.slogdet(rounded.double())[1]
    assert float(densities.log_dets[0]) == pytest.approx(float(expected), rel=1e-6)


def test_small_changes_of_a_class_add_up():
    """What one byte cannot show, a single new picture among many, is not lost."""
    densities, mixture = densities_of(whitener(torch.linspace(0.5, 2, 150)))
    assert kind_of(densities.whiteners[0]) == torch.int8
    first = densities.mixture_of(0)[2][0]
    direction = torch.full((150,), 150**-0.5, dtype=torch.float64)
    more = torch.outer(direction, direction)
    for _ in range(20):
        variances, axes = torch.linalg.eigh(densities.mixture_of(0)[2][0] + 0.01 * more)
        now = (axes * variances.rsqrt()) @ axes.T
        densities.set_class(
            0, (*mixture[:2], now[None]), torch.zeros(150), n_vectors=9.0, shrinkage=0.0
        )
    found = densities.mixture_of(0)[2][0] - first
    assert float((found * more).sum()) == pytest.approx(0.2, rel=0.02)
