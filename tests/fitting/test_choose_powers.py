"""Which features of vectors take a power, and what that is worth."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.fitting.feature_powers import choose_powers

pytestmark = pytest.mark.filterwarnings("ignore:.*held.out:UserWarning")


def sizes(n, seed):
    """Log-normal features with a cause in common; the last is Gaussian."""
    rng = np.random.default_rng(seed)
    skewed = np.exp(rng.normal(size=(n, 1)) + 0.2 * rng.normal(size=(n, 3)))
    return np.concatenate([skewed, rng.normal(size=(n, 1))], 1)


def test_skewed_features_alone_take_a_power():
    exponents = choose_powers(torch.from_numpy(sizes(100, 0)), 0).exponents
    assert (exponents[:3] < 1).all() and exponents[3] == 1


def test_the_order_of_vectors_changes_nothing():
    x = torch.from_numpy(sizes(100, 0))
    first, second = (choose_powers(part, 0).state_dict() for part in (x, x.flip(0)))
    for name, values in first.items():
        torch.testing.assert_close(second[name], values)


@pytest.mark.parametrize("kind", ["blobs", "counts", "few"])
def test_others_stay(kind):
    rng = np.random.default_rng(0)
    if kind == "blobs":  # the far one makes each feature skewed
        x = rng.normal(size=(200, 2)) + 8 * (np.arange(200)[:, None] % 5 == 0)
    else:
        x = rng.poisson(1, (200, 2)).astype(float) if kind == "counts" else sizes(12, 0)
    assert choose_powers(torch.from_numpy(x), 0) is None


def test_a_broken_relation_of_skewed_features_is_found():
    """A third of a size where one as large as the others belongs: one Gaussian finds few."""
    anomalies = sizes(200, 2)
    anomalies[:, 1] /= 3
    test, labels = np.concatenate([sizes(200, 1), anomalies]), np.repeat([0, 1], 200)
    detector = HGADDetector(random_state=0).fit(sizes(100, 0))
    assert roc_auc_score(labels, -detector.score_samples(test)) > 0.95


def test_values_below_the_edge_of_normal_ones_are_found():
    rng = np.random.default_rng(0)
    test = rng.exponential(size=(400, 4))
    test[200:, 2] = -rng.uniform(0.1, 1, 200)
    detector = HGADDetector(random_state=0).fit(rng.exponential(size=(300, 4)))
    assert roc_auc_score(np.repeat([0, 1], 200), -detector.score_samples(test)) > 0.99
