"""Known anomalies in fit: they correct the scores where that helps, and do no harm."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector

pytestmark = pytest.mark.usefixtures("one_thread")
N_FEATURES = 8


def two_products(seed=0, n=60):
    rng = np.random.default_rng(seed)
    X = np.concatenate([rng.normal(0, 1, (n, N_FEATURES)), rng.normal(9, 1, (n, N_FEATURES))])
    return X, np.repeat(["bolt", "nut"], n)


def shifted(seed, n, center, by):
    """Anomalies that all lie in the same direction, not far from the normals."""
    rng = np.random.default_rng(seed)
    X = rng.normal(center, 1, (n, N_FEATURES))
    X[:, 0] += by
    return X


@pytest.fixture(scope="module")
def data():
    X, y = two_products()
    known = shifted(1, 12, 0, 2.5)
    return np.concatenate([X, known]), np.concatenate([y, ["-1"] * len(known)])


@pytest.fixture(scope="module")
def corrected(data):
    return HGADDetector(random_state=0).fit(*data)


@pytest.fixture(scope="module")
def ignoring(data):
    return HGADDetector(random_state=0, known_anomalies="ignore").fit(*data)


def test_defects_like_the_known_ones_are_found_better(corrected, ignoring):
    normal, other = two_products(2, 200)[0][:200], shifted(3, 200, 0, 2.5)
    X, is_normal = np.concatenate([normal, other]), np.repeat([1, 0], 200)
    before = roc_auc_score(is_normal, ignoring.score_samples(X))
    assert roc_auc_score(is_normal, corrected.score_samples(X)) > before + 0.03


def test_verdicts_say_what_was_kept_and_why(corrected, ignoring):
    bolt, nut = corrected.known_anomalies_
    assert (bolt.class_label, bolt.n_anomalies, bolt.is_kept) == ("bolt", 12, True)
    assert bolt.gain > bolt.standard_error > 0
    assert (nut.class_label, nut.n_anomalies, nut.is_kept) == ("nut", 0, False)
    assert np.isnan(nut.gain) and np.isnan(nut.standard_error)
    assert ignoring.known_anomalies_ is None
