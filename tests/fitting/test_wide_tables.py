"""Wide tables are rounded so little that scores stay, and not where rounding would be seen."""

import warnings

import numpy as np
import pytest
import torch

from skhgad import HGADDetector
from skhgad.fitting import fit_input
from skhgad.fitting.far_cells import far_cells
from skhgad.fitting.wide_tables import _squared_heights, rounded_rows, rounding_of
from skhgad.model.short_rows import ShortRows


def table(n, n_features=2000, seed=0, spread=0.0, noise=1.0):
    """Rows of eight common factors and noise of their own."""
    rng, factors = (
        np.random.default_rng(seed),
        np.random.default_rng(99).normal(size=(8, n_features)),
    )
    return spread * rng.normal(size=(n, 8)) @ factors + noise * rng.normal(size=(n, n_features))


def n_bits(x):
    """Bits of a value in a file, beside factors; 64 for float64."""
    short = ShortRows.of(torch.from_numpy(x))
    if short is not None:
        return 8 + round(8 * short.low.shape[1] / x.shape[1])
    return 32 if np.array_equal(x.astype(np.float32), x) else 64


def test_heights_are_distances_from_the_flats_through_all_other_rows():
    x = 3 + table(12, 40)
    expected = []
    for row in range(len(x)):
        first, *others = np.delete(x, row, axis=0)
        directions = (np.array(others) - first).T
        weights = np.linalg.lstsq(directions, x[row] - first, rcond=None)[0]
        expected.append(np.square(x[row] - first - directions @ weights).sum())
    np.testing.assert_allclose(_squared_heights(torch.from_numpy(x)), expected, rtol=0.2)


def test_rows_are_rounded_the_less_the_nearer_they_lie_to_what_others_span():
    found = [n_bits(rounded_rows(table(50, noise=noise))) for noise in (1, 0.001)]
    assert found == [12, 12]
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 45)) @ rng.normal(size=(45, 2000))
    assert [n_bits(rounded_rows(flat + table(50, noise=noise))) for noise in (1, 0.01)] == [16, 32]
    assert n_bits(rounded_rows(flat + table(50, noise=1e-6))) == 64
    assert n_bits(rounded_rows(table(50, spread=1, noise=0))) == 64


@pytest.mark.parametrize("n", [50, 150])
@pytest.mark.parametrize("spread", [3, 100, 1e3])
def test_strong_factors_cost_few_bits(n, spread):
    """The noise beside them decides how many."""
    found, alone = (
        ShortRows.of(torch.from_numpy(rounded_rows(table(n, 4000, spread=factors))))
        for factors in (spread, 0)
    )
    n_bytes = [sum(p.nbytes for p in short if p is not None) for short in (found, alone)]
    assert n_bytes[0] < 1.5 * n_bytes[1] < 0.4 * 8 * 4000 * n
    assert spread == 3 or found.factors is not None


def test_tables_that_rounding_does_not_make_small_stay():
    counts = np.random.default_rng(0).poisson(5.0, (50, 2000)).astype(np.float64)
    for x in (table(50, 50), table(50, 60), table(1000, 900), counts):
        assert rounded_rows(x) is x


@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("spread", [0, 2, 300])
def test_scores_are_those_of_the_table_as_it_is(monkeypatch, n_classes, spread):
    names = np.arange(60) % n_classes
    X = table(60, 3000, 1, spread) + 0.3 * table(n_classes, 3000, 2)[names]
    fresh, given = table(30, 3000, 3, spread) + 0.3 * table(1, 3000, 2), X.copy()
    rounded = HGADDetector(random_state=0).fit(X, names)
    assert n_bits(rounded.model_.kept.x) <= 16 and np.array_equal(X, given)
    monkeypatch.setattr(fit_input, "with_rounded_rows", lambda X, rows: X)
    exact = HGADDetector(random_state=0).fit(X, names)
    assert np.array_equal(exact.model_.kept.x, X)
    for score in ("score_samples", "decision_function"):
        found, expected = (getattr(detector, score)(fresh) for detector in (rounded, exact))
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(expected))


def test_an_update_of_several_classes_equals_a_fit_on_everything():
    """The axes of the first fit hold its rows alone, and new ones have a part outside."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(2, 120))
    X, more, fresh = (middles.repeat(12, 0) + rng.normal(size=(24, 120)) for _ in range(3))
    y = np.repeat(["a", "b"], 12)
    detector = HGADDetector(random_state=0).fit(X, y).update(more[:12], "a").update(more[12:], "b")
    expected = HGADDetector(random_state=0).fit(np.concatenate((X, more)), np.r_[y, y])
    np.testing.assert_allclose(detector.score_samples(fresh), expected.score_samples(fresh))
    with pytest.warns(UserWarning, match="are taken for class 'a'"):
        detector.update(more[:12] + rng.normal(0, 0.1, (12, 120)), "b")


def test_rounded_rows_do_not_make_rare_values_far_ones():
    """Of two values of a feature, one may be rare; the kept rows are rounded, the new ones not."""
    rng = np.random.default_rng(0)
    X = (rng.random((200, 700)) < 0.05) * np.exp(rng.normal(size=700)) + rng.normal(size=700)
    X[:, 0] = rng.normal(size=200)
    detector = HGADDetector(random_state=0).fit(X[:100])
    kept = detector.model_.kept.x
    assert kept.shape == (100, 700) and (kept != X[:100]).any()
    assert far_cells(np.concatenate((kept, X[100:])), np.zeros(200, dtype=int))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.update(X[100:])
    assert detector.certificate()[0].n_normals == 200
    X[100, 0] = 1e6
    with pytest.warns(UserWarning, match="far"):
        HGADDetector(random_state=0).fit(X[:100]).update(X[100:])


@pytest.mark.parametrize("kind", ["whole numbers", "float32", "rounded", "long"])
def test_rounding_of_a_table(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 700))
    if kind == "whole numbers":
        found = rounding_of(np.round(10 * x))
        assert (found > 0).all() and (found < 1).all()
    elif kind == "float32":
        x = x.astype(np.float32).astype(np.float64)
        assert (rounding_of(x) >= np.spacing(np.abs(x).max(0).astype(np.float32))).all()
    elif kind == "rounded":
        short = rounded_rows(x)
        assert (np.abs(short - x).max(0) <= rounding_of(short)).all() and (short != x).any()
    else:
        assert not rounding_of(x.T.copy()).any() and not rounding_of(x[:0]).any()
