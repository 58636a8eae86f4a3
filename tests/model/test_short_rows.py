"""Rows of few bits come back exactly, and the axes made of rows depend on the rows alone."""

import numpy as np
import pytest
import torch

from skhgad.model.short_rows import ShortRows, _units, axes_of_rows, rounded, rounding_units

WIDTHS = {8: 0, 12: 4, 16: 7}  # of `low`, for 7 features


def whole_numbers(n_bits, n=40, seed=0):
    """Rows of 7 features with numbers from 0 to the largest of so many bits."""
    numbers = np.random.default_rng(seed).integers(0, 2**n_bits, (n, 7))
    numbers[0], numbers[-1] = 0, 2**n_bits - 1
    return torch.from_numpy(numbers.astype(np.float64))


@pytest.mark.parametrize("n_bits", WIDTHS)
@pytest.mark.parametrize("unit", [2.0**-1000, 0.125, 1.0, 2.0**900])
def test_rows_come_back_exactly_from_as_few_bits_as_hold_them(n_bits, unit):
    rows = whole_numbers(n_bits) * unit
    rows[:, 1] -= 100 * unit
    rows[:, 2] = 0.1  # the same in all rows
    found = ShortRows.of(rows)
    found.check()
    assert torch.equal(found.rows(), rows)
    assert found.high.dtype == torch.int8 and found.low.shape == (40, WIDTHS[n_bits])


def test_rows_of_more_bits_are_not_held():
    assert ShortRows.of(whole_numbers(17)) is None
    assert ShortRows.of(torch.randn(40, 7, dtype=torch.float64)) is None
    late = whole_numbers(8)
    late[30, 3] += 1 / 3
    assert ShortRows.of(late) is None
    assert ShortRows.of(torch.empty(0, 7, dtype=torch.float64)) is None


def rows_of_factors(n=40, d=600, n_factors=3, spread=1e4):
    """Whole numbers: noise of about 9 bits in units of 1/8 and, far stronger, common factors."""
    rng = np.random.default_rng(0)
    rows = spread * rng.normal(size=(n, n_factors)) @ rng.normal(size=(n_factors, d))
    rows[:, 5] = 0  # a feature of noise alone
    return torch.from_numpy(((rows + 10 * rng.normal(size=(n, d))) * 8).round() / 8)


def test_factors_predict_most_of_rows_that_have_some():
    rows = rows_of_factors()
    rows[:, 6] = 0.1
    found = ShortRows.of(rows)
    found.check()
    assert found.low.shape[1] == 300 and found.factors.shape == (40, 4)
    assert torch.equal(found.rows(), rows)
    n_bytes = sum(part.nbytes for part in found)
    assert n_bytes < 0.55 * 4 * rows.numel()  # half of float32, and what factors take
    alone = found._replace(factors=None, loadings=None).rows()
    assert (alone - rows).abs().max() > 1000


def test_factors_are_held_apart_where_16_bits_would_do_without():
    rows = rows_of_factors(spread=100)
    alone = ShortRows.of(rows[:, :1].repeat(1, 7)).low.shape[1]
    found = ShortRows.of(rows)
    assert alone == WIDTHS[16] and found.low.shape[1] == 300 and found.factors is not None
    assert torch.equal(found.rows(), rows)


def test_factors_are_not_looked_for_where_they_save_nothing():
    assert ShortRows.of(rows_of_factors(spread=1).T.contiguous()).factors is None
    assert ShortRows.of(rows_of_factors(spread=1e3).T.contiguous()) is None  # more rows
    assert ShortRows.of(rows_of_factors(n=4)) is None  # as many factors as rows
    assert ShortRows.of(rows_of_factors(n_factors=30)) is None  # nearly as many


@pytest.mark.parametrize(
    "changes",
    [
        {"factors": None},
        {"loadings": None},
        {"factors": lambda values: values[1:]},
        {"factors": lambda values: values[:, 1:]},
        {"factors": lambda values: values.double()},
        {"factors": lambda values: values[:, 0]},
        {"loadings": lambda values: values[:, 1:]},
        {"loadings": lambda values: values[None]},
        {"loadings": lambda values: values.long()},
    ],
)
def test_factors_of_a_file_that_do_not_fit_are_refused(changes):
    short = ShortRows.of(rows_of_factors())
    parts = {name: change and change(getattr(short, name)) for name, change in changes.items()}
    with pytest.raises(ValueError, match="short rows have factors of"):
        short._replace(**parts).check()


@pytest.mark.parametrize("n_bits", WIDTHS)
def test_rounded_rows_need_no_more_bits(n_bits):
    rows = torch.randn(200, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = rows * torch.logspace(-100, 100, 7, dtype=torch.float64)
    rows[:, 3] = 0.1
    units = rounding_units(rows, n_bits)
    found = rounded(rows, units)
    assert ShortRows.of(found).low.shape[1] <= WIDTHS[n_bits]
    assert (found != rows).any(0).tolist() == [True, True, True, False, True, True, True]
    extent, varies = rows.amax(0) - rows.amin(0), torch.arange(7) != 3
    assert (units < 2 * extent / (2**n_bits - 2))[varies].all()


def test_units_are_exact():
    exponents = torch.arange(-1022, 1024)
    assert _units(exponents).tolist() == [2.0**exponent for exponent in exponents.tolist()]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("low", lambda values: values[:, :2]),
        ("low", lambda values: values[1:]),
        ("low", lambda values: values.to(torch.int8)),
        ("high", lambda values: values.long()),
        ("exponents", lambda values: values[1:]),
        ("exponents", lambda values: values.float()),
        ("exponents", lambda values: values + 3000),
        ("exponents", lambda values: values - 3000),
        ("lows", lambda values: values.float()),
        ("lows", lambda values: values[None]),
    ],
)
def test_parts_of_a_file_that_do_not_fit_are_refused(part, change):
    short = ShortRows.of(whole_numbers(12))
    with pytest.raises(ValueError, match="short rows have"):
        short._replace(**{part: change(getattr(short, part))}).check()


def test_rows_without_weight_take_no_part_in_the_axes():
    generator = torch.Generator().manual_seed(0)
    rows, weights = (
        torch.randn(*shape, generator=generator).double() for shape in [(5, 9), (5, 3)]
    )
    mean = rows.mean(0)
    axes = axes_of_rows(rows, mean, weights)
    np.testing.assert_allclose(axes, (rows - mean).T @ weights, rtol=1e-6)
    more = torch.cat((rows[:2], torch.full((1, 9), torch.inf), rows[2:]))
    more_weights = torch.cat((weights[:2], torch.zeros(1, 3).double(), weights[2:]))
    assert torch.equal(axes_of_rows(more, mean, more_weights), axes)
