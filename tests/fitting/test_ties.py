"""Values that many vectors share."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from skhgad import HGADDetector
from skhgad.fitting import class_mixtures
from skhgad.fitting.gaussian_mixture import fit_mixture, maximize
from skhgad.fitting.gaussian_shrinkage import lasting_relations
from skhgad.fitting.ties import capped, gap_variances, tie_covariances, tie_variances
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
    x = torch.cartesian_prod(*2 * [torch.arange(10, dtype=torch.float64)])
    variances = tie_variances(x)
    assert variances.min() > 0
    expected = matrix.T @ torch.diag(variances) @ matrix
    torch.testing.assert_close(tie_covariances(Level(matrix), x, x @ matrix)[0], expected)
    expected = matrix.T @ torch.diag(gap_variances(x)) @ matrix
    torch.testing.assert_close(tie_covariances(Level(matrix), x, x @ matrix)[1], expected)
    distinct = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = tie_covariances(Level(matrix), distinct, distinct @ matrix)
    assert not any(one.any() for one in found)


def test_ties_are_in_no_direction_wider_than_the_vectors():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(50, 3)))
    z[:, 1] = z[:, 0] + 0.1 * z[:, 1]
    covariance, ties = torch.cov(z.T, correction=0), 0.3 * torch.eye(3, dtype=z.dtype)
    found = capped(ties, z)
    assert float(torch.linalg.eigvalsh(covariance - found)[0]) >= -1e-12
    assert float(torch.linalg.eigvalsh(ties - found)[0]) >= -1e-12
    assert float(found[2, 2]) == pytest.approx(0.3, rel=0.1)
    assert float(torch.linalg.eigvalsh(covariance - ties)[0]) < -0.2
    small = 1e-4 * ties
    assert torch.equal(capped(small, z), small)
    z[:, 1] = z[:, 0] + z[:, 2]
    relation = torch.tensor([1.0, -1, 1]).double()
    for vectors in (z, z[:2]):
        assert float((capped(small, vectors) @ relation).abs().max()) < 1e-12


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
    assert chosen() == 190  # kernels: a center at each vector


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


def categories(rng, n, shift, options):
    """Eight sensors that correlate, and three columns of which one is always 1."""
    mixing = np.random.default_rng(1).normal(size=(3, 8))
    sensors = rng.normal(size=(n, 3)) @ mixing + 0.4 * rng.normal(size=(n, 8)) + shift
    return np.c_[sensors, np.eye(3)[rng.choice(options, n)]]


@pytest.mark.parametrize("n_others", [0, 60])
def test_a_category_that_is_missing_is_anomalous(n_others):
    """The sum of the columns has no ties. And the background must not explain what breaks it."""
    rng = np.random.default_rng(0)
    x = np.r_[categories(rng, 600, 0, 3), categories(rng, n_others, 4, 1)]
    y = ["A"] * 600 + ["B"] * n_others
    scaler = StandardScaler().fit(x)
    # One Gaussian has no ties added.
    detector = HGADDetector(n_components=3, random_state=0).fit(scaler.transform(x), y)
    fresh = categories(rng, 400, 0, 3)
    broken = fresh[:100].copy()
    broken[:, 8:] = 0
    normal, anomalous = (detector.score_samples(scaler.transform(one)) for one in (fresh, broken))
    is_broken = np.r_[np.zeros(400), np.ones(100)]
    assert roc_auc_score(is_broken, -np.r_[normal, anomalous]) > 0.999
    assert (anomalous < detector.offset_).mean() > 0.99
    assert (normal < detector.offset_).mean() < 0.1


def test_an_axis_in_which_nothing_varies_chooses_no_prior():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(np.r_[rng.normal(size=(60, 4)), rng.normal(size=(60, 4)) + 8])
    constant = torch.cat((z, torch.zeros_like(z)), 1)  # as wide as what varies
    counts = [
        fit_mixture(given, 2, torch.Generator().manual_seed(0)).pseudo_count
        for given in (z, constant)
    ]
    assert counts[0] == counts[1] > 1


def test_relations_last_unless_a_single_vector_breaks_one():
    x = torch.randn(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 3] = x[:, 0] + x[:, 1]

    def found(vectors):
        return lasting_relations(vectors - vectors.mean(0))

    expected = torch.tensor([1.0, 1, 0, -1]).double() / 3**0.5
    assert float((found(x)[:, 0] @ expected).abs()) == pytest.approx(1)
    assert found(x[:19]).shape == (4, 0)  # too few
    assert found(torch.cat((x, x), 1)[:15]).shape == (8, 0)
    rare = torch.cat((x, torch.zeros(60, 1)), 1)
    assert found(rare).shape == (5, 2)
    rare[7, 4] = 1.0
    assert found(rare).shape == (5, 0)
    rare[8, 4] = 1.0
    assert found(rare).shape == (5, 1)


def test_a_sensor_that_one_product_lacks_is_watched_there():
    rng = np.random.default_rng(0)

    def products(n):
        x = np.r_[categories(rng, n, 0, 3), categories(rng, n, 4, 1), categories(rng, n, -4, 1)]
        x[n : 2 * n, 7] = 0
        return x

    x, fresh = products(300), products(200)
    scaler = StandardScaler().fit(x)
    detector = HGADDetector(random_state=0).fit(scaler.transform(x), np.repeat([*"ABC"], 300))
    normal, broken = fresh[200:400], fresh[200:300].copy()
    broken[:, 7] = 1
    normal, anomalous = (detector.score_samples(scaler.transform(one)) for one in (normal, broken))
    is_broken = np.r_[np.zeros(200), np.ones(100)]
    assert roc_auc_score(is_broken, -np.r_[normal, anomalous]) > 0.99
    assert (anomalous < detector.offset_).mean() > 0.9


def yes_or_no(rng, n, loadings):
    """Columns of 0 and 1 that four hidden numbers relate."""
    hidden = rng.normal(size=(n, len(loadings))) @ loadings
    return (hidden + 0.5 * rng.normal(size=hidden.shape) > 0).astype(float)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_columns_of_yes_and_no_keep_one_gaussian(seed):
    """Kernels at the corners are likelier, and find fewer rows that break the relations."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(4, 20))
    x, fresh = yes_or_no(rng, 600, loadings), yes_or_no(rng, 400, loadings)
    broken = np.column_stack([rng.permutation(column) for column in fresh.T])
    detector = HGADDetector(random_state=0).fit(x)
    found = roc_auc_score(np.repeat([1, 0], 400), detector.score_samples(np.r_[fresh, broken]))
    one = HGADDetector(n_components=1, random_state=0).fit(x)
    assert (
        found
        >= roc_auc_score(np.repeat([1, 0], 400), one.score_samples(np.r_[fresh, broken])) - 0.002
    )


def test_a_feature_of_two_values_hardly_decides_how_many_centers_there_are():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    two, three = gap_variances(x).tolist()
    assert two == pytest.approx(16 * 0.25)
    assert three < 0.1
    of_few_kinds = x.repeat(2, 1)
    assert gap_variances(of_few_kinds)[0] == pytest.approx(1 / 12)
