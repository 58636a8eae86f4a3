"""Mardia's skewness and kurtosis: what they are, and what they tell."""

import numpy as np
import pytest

from skhgad.metrics import mardia


def written_out(X):
    """The definition, by all pairs."""
    centered = X - X.mean(0)
    g = centered @ np.linalg.inv(centered.T @ centered / len(X)) @ centered.T
    return (g**3).mean(), (np.diag(g) ** 2).mean()


@pytest.mark.parametrize(("n", "d"), [(100, 2), (100, 10), (300, 25)])
def test_figures_are_those_of_the_definition(n, d):
    X = np.random.default_rng(0).exponential(size=(n, d))
    found = mardia(X)
    np.testing.assert_allclose((found.skewness, found.kurtosis), written_out(X), rtol=1e-9)
    assert (found.n_vectors, found.n_axes) == (n, d)


@pytest.mark.parametrize(("n", "d"), [(40, 1), (100, 3), (200, 20)])
def test_standardised_statistics_of_gaussian_vectors_are_standard(n, d):
    rng = np.random.default_rng(0)
    found = [mardia(rng.normal(size=(n, d))) for _ in range(300)]
    z = np.array([(one.skewness_z, one.kurtosis_z) for one in found])
    np.testing.assert_allclose(z.mean(0), 0, atol=0.25)
    np.testing.assert_allclose(z.std(0), 1, atol=0.25)


def test_a_skewed_and_a_heavy_tailed_and_a_light_tailed_set_are_told():
    rng = np.random.default_rng(0)
    skewed = mardia(rng.exponential(size=(500, 4)))
    heavy = mardia(rng.standard_t(5, size=(500, 4)))
    light = mardia(rng.uniform(size=(500, 4)))
    assert skewed.skewness_z > 10
    assert heavy.kurtosis_z > 10 and heavy.kurtosis_ratio > 1.1
    assert light.kurtosis_z < -5 and light.kurtosis_ratio < 0.95
    assert light.skewness_z < 3


def test_a_linear_map_changes_nothing():
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(200, 3))
    np.testing.assert_allclose(mardia(X), mardia(1e3 * X @ rng.normal(size=(3, 3)) + 7), rtol=1e-6)


def test_more_features_than_vectors_can_judge_are_cut_to_leading_axes():
    rng = np.random.default_rng(0)
    found = [mardia(rng.normal(size=(60, 200))) for _ in range(100)]
    assert {one.n_axes for one in found} == {6}
    assert abs(np.mean([one.kurtosis_z for one in found])) < 0.4
    constant = np.concatenate([rng.normal(size=(60, 2)), np.ones((60, 1))], 1)
    assert mardia(constant).n_axes == 2


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((19, 2)), r"at least 20 vectors.* got shape \(19, 2\)"),
        (np.zeros(30), r"got shape \(30,\)"),
        (np.full((30, 2), 0.1), "all vectors of X are equal"),
        (np.where(np.arange(60).reshape(30, 2) == 7, np.nan, 0.0), r"X\[3\] holds"),
    ],
)
def test_what_cannot_be_measured_is_named(X, message):
    with pytest.raises(ValueError, match=message):
        mardia(X)
