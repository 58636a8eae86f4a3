"""Models that judge a fold decide as the model that scores does."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector
from skhgad.fitting import recipe
from skhgad.fitting.mixture_choice import fit_gaussian


@pytest.fixture(scope="module")
def five_digits():
    """80 images of each of the digits 0 to 4, the others of these, and those of 5 to 9."""
    X, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(digits == digit)) for digit in range(5)]
    seen = np.concatenate([own[:80] for own in rows])
    fresh = np.concatenate([own[80:] for own in rows])
    return X[seen], digits[seen].astype(str), X[fresh], digits[fresh], X[digits > 4]


def test_no_class_of_digits_is_flagged_as_a_whole_and_others_are_found(five_digits):
    # Decided anew without each fold, all fresh normals of one class were flagged: AUROC 0.80.
    X, y, fresh, digits, others = five_digits
    detector = HGADDetector(random_state=0).fit(X, y)
    scores, of_others = detector.score_samples(fresh), detector.score_samples(others)
    is_flagged = scores < detector.offset_
    assert is_flagged.mean() < 0.1
    assert max(is_flagged[digits == digit].mean() for digit in range(5)) < 0.2
    is_normal = np.repeat([1, 0], [len(fresh), len(others)])
    assert roc_auc_score(is_normal, np.concatenate((scores, of_others))) > 0.93


def test_models_without_a_fold_take_over_what_was_chosen(five_digits, monkeypatch):
    X, y, *_ = five_digits
    taken, fit_covariances = [], recipe.fit_covariances

    def look(levels, samples, n_components, seed, choices):
        fit_covariances(levels, samples, n_components, seed, choices)
        densities = levels[0].densities
        n, share = densities.n_vectors, densities.shrinkages
        taken.append((levels[0].start.shrinkage, (n * share / (1 - share)).tolist()))

    monkeypatch.setattr(recipe, "fit_covariances", look)
    HGADDetector(random_state=0).fit(X, y)
    (shrinkage, priors), *folds = taken
    assert len(folds) == 10
    for of_fold, priors_of_fold in folds:
        assert of_fold == shrinkage
        np.testing.assert_allclose(priors_of_fold, priors, rtol=1e-5)


def test_a_gaussian_of_heavy_tails_keeps_the_scale_of_its_prior():
    z = 3 * torch.randn(40, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = fit_gaussian(z, heavy_tails=True)
    again = fit_gaussian(z, heavy_tails=True, pseudo_count=chosen.pseudo_count)
    torch.testing.assert_close(again.covariances, chosen.covariances)


def test_few_vectors_of_features_that_go_together_keep_their_power_beside_a_background():
    # 20 vectors a class of 36 features, four factors: a background shrunk by 0.1 lost 0.13 AUROC.
    rng = np.random.default_rng(0)
    factors, means = rng.normal(size=(4, 36)), 2 * rng.normal(size=(3, 4))

    def draw(n):
        return np.concatenate(
            [
                (m + rng.normal(size=(n, 4))) @ factors + 0.3 * rng.normal(size=(n, 36))
                for m in means
            ]
        )

    X, y = draw(20), np.repeat(["a", "b", "c"], 20)
    normal = draw(60)
    broken = normal.copy()
    broken[np.arange(180), rng.integers(0, 36, 180)] += 1.9
    fresh, is_normal = np.concatenate((normal, broken)), np.repeat([1, 0], 180)
    without, beside = (
        roc_auc_score(
            is_normal,
            HGADDetector(background_weight=weight, random_state=0).fit(X, y).score_samples(fresh),
        )
        for weight in (0, 0.5)
    )
    assert without > 0.93
    assert beside > without - 0.06


def test_one_odd_row_among_equal_ones():
    # Without it, the rows of a fold do not vary: it has a background where the whole fit has none.
    X = np.repeat([0.0, 1.0], 10)[:, None] * np.ones(40)
    X[3, 5:7] = 2, -1
    detector = HGADDetector(random_state=0).fit(X, np.repeat(["a", "b"], 10))
    assert np.isfinite(detector.score_samples(X + 1)).all()
