"""Where tails are heavy, the likelihood of a t distribution says how far covariances are shrunk."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.fitting.mixture_choice import ClassVectors, fit_gaussian, fit_gaussian_to
from skhgad.fitting.start import likeliest_shrinkage

pytestmark = pytest.mark.usefixtures("one_thread")


class CorrelatedRows:
    """Multivariate t rows (2 degrees of freedom) whose features are correlated."""

    def __init__(self, n_features, seed):
        self.rng = np.random.default_rng(seed)
        self.mixing = self.rng.normal(size=(n_features, n_features)) / n_features**0.5
        self.mixing += 0.3 * np.eye(n_features)

    def draw(self, n):
        rows = self.rng.normal(size=(n, len(self.mixing))) @ self.mixing
        return rows / np.sqrt(self.rng.chisquare(2, size=(n, 1)) / 2)

    def unrelated(self, n):
        """Rows whose features have the values of different rows."""
        return np.stack([self.rng.permutation(values) for values in self.draw(n).T], 1)


def auroc(detector, normal, anomalies):
    scores = detector.score_samples(np.concatenate((normal, anomalies)))
    return roc_auc_score(np.repeat([1, 0], [len(normal), len(anomalies)]), scores)


@pytest.mark.parametrize("seed", range(2))
def test_broken_relations_of_one_class_are_found(seed):
    rows = CorrelatedRows(20, seed)
    detector = HGADDetector(random_state=0).fit(rows.draw(60))
    # With a fixed shrinkage of the start: 0.72 and 0.78
    assert auroc(detector, rows.draw(400), rows.unrelated(400)) > 0.97


def test_broken_relations_of_classes_of_one_covariance_are_found():
    rows = CorrelatedRows(20, 0)
    means = 6 * rows.rng.normal(size=(5, 1, 20))

    def of_all(draw, n):
        return np.concatenate([mean + draw(n) for mean in means])

    detector = HGADDetector(random_state=0)
    detector.fit(of_all(rows.draw, 50), np.repeat(["a", "b", "c", "d", "e"], 50))
    assert auroc(detector, of_all(rows.draw, 80), of_all(rows.unrelated, 80)) > 0.95  # was 0.67


def tensor_of_rows(n, n_features):
    return torch.from_numpy(CorrelatedRows(n_features, 0).draw(n))


def test_a_class_of_fewer_vectors_than_features_is_shrunk_as_by_ledoit_and_wolf():
    wide, narrow = tensor_of_rows(40, 60), tensor_of_rows(60, 20)
    for z, is_formula in ((wide, True), (narrow, False)):
        expected, _ = ledoit_wolf(z.numpy())
        found = fit_gaussian(z, heavy_tails=True).covariances[0].numpy()
        assert np.allclose(found, expected) is is_formula


def test_the_start_of_fewer_vectors_than_features_has_a_fixed_shrinkage():
    for n, n_classes, is_fixed in ((90, 1, True), (170, 1, False), (170, 2, True)):
        x, codes = tensor_of_rows(n, 100), torch.arange(n) % n_classes
        x -= torch.stack([x[codes == code].mean(0) for code in range(n_classes)])[codes]
        found = likeliest_shrinkage(x, codes, float(x.square().mean()), 100, n_classes > 1)
        assert (found == 0.9) is is_fixed


def test_some_vectors_of_a_class_have_the_prior_of_all():
    z = 3 * tensor_of_rows(44, 40)
    vectors = ClassVectors(z, torch.zeros(44, dtype=torch.int64), seed=0, heavy_tails=True)
    some = vectors.at(torch.arange(38))
    chosen = fit_gaussian_to(some).pseudo_count
    some_alone = fit_gaussian(z[:38], heavy_tails=True, pseudo_count=chosen).covariances
    prior = fit_gaussian(z[:38], pseudo_count=chosen).covariances  # the identity, not scaled
    torch.testing.assert_close(fit_gaussian_to(some).covariances, prior)
    assert not torch.allclose(some_alone, prior)
