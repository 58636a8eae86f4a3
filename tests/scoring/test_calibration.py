"""Thresholds and p-values, where scores are equal up to rounding."""

import numpy as np
import pytest

from skhgad import HGADDetector
from skhgad.scoring.calibration import below_ties, conformal_p_values, threshold

RNG = np.random.default_rng(0)
# Around 0, all of one sign, tiny, all but equal, with what overflowed, with many ties.
SCORES = {
    "standardized": RNG.normal(0, 1, 99),
    "shifted": RNG.normal(-30, 1, 99),
    "small": -RNG.uniform(0, 1e-3, 99),
    "equal": np.zeros(99),
    "overflowed": np.concatenate([np.full(9, np.finfo(float).min / 2), RNG.normal(0, 1, 90)]),
    "tied": np.repeat(RNG.normal(0, 1, 33), 3),
}


def rounded(scores, seed, rounding=1e-14):
    """The same scores, as another batch has them."""
    noise = np.random.default_rng(seed).uniform(-1, 1, len(scores))
    size = np.maximum(np.abs(scores), np.median(np.abs(scores)))
    return scores + rounding * noise * np.maximum(size, 1e-8)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("rate", [0.001, 0.05, 0.1, 0.5])
def test_rounding_changes_no_verdict_and_no_p_value(name, rate):
    scores, codes = SCORES[name], np.zeros(99, dtype=int)
    offset = threshold(scores, rate)
    p_values = conformal_p_values(scores, codes, scores, codes)
    for seed in range(5):
        other = rounded(scores, seed)
        np.testing.assert_array_equal(other < offset, scores < offset)
        assert threshold(other, rate) == pytest.approx(offset, rel=1e-12, abs=1e-12)
        for reference in (scores, other):
            found = conformal_p_values(rounded(scores, seed + 5), codes, reference, codes)
            np.testing.assert_array_equal(found, p_values)


@pytest.mark.parametrize("name", sorted(SCORES.keys() - {"overflowed"}))
def test_rounding_of_float32_changes_no_verdict(name):
    """Of images, whose scores differ between batches by 2e-5 of their size."""
    scores = SCORES[name].astype(np.float32).astype(np.float64)
    for rate in (0.001, 0.05, 0.1, 0.5):
        offset = threshold(scores, rate)
        for seed in range(5):
            other = rounded(scores, seed, 2e-5)
            np.testing.assert_array_equal(other < offset, scores < offset)


def test_scores_of_vectors_that_are_all_but_one_keep_their_order():
    """Exponential maps of samples far from the strangest normal one."""
    scores = -1 + 1e-6 * RNG.uniform(0, 1, 99)
    assert np.sum(scores < threshold(scores, 0.1)) == 9
    codes = np.zeros(99, dtype=int)
    assert len(set(conformal_p_values(scores, codes, scores, codes))) > 90


@pytest.mark.parametrize(("dtype", "most"), [(np.float64, 1e-8), (np.float32, 1e-3)])
def test_the_threshold_is_just_below_the_quantile(dtype, most):
    scores = SCORES["standardized"].astype(dtype).astype(np.float64)
    lowest = np.sort(scores)
    for rank in (1, 5, 50):
        offset = threshold(scores, rank / 100 + 1e-9)
        assert 0 < lowest[rank - 1] - offset < most
        assert np.sum(scores < offset) == rank - 1
    assert threshold(np.array([-2.0]), 0.05) == pytest.approx(-2, abs=1e-3)


def test_a_threshold_between_scores_stays_where_it_is():
    assert below_ties(0.5, np.array([1.0, 0.0, 2.0])) == 0.5


def test_scores_equal_to_a_reference_count_as_not_above_it():
    reference, codes = np.array([-3.0, -2.0, -1.0]), np.zeros(3, dtype=int)
    for shift, expected in ((0, 0.75), (-1e-9, 0.75), (1e-9, 0.75), (-1e-2, 0.5)):
        found = conformal_p_values(np.array([-2.0 + shift]), codes[:1], reference, codes)
        assert found.tolist() == [expected]


@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_no_training_sample_has_the_score_of_the_threshold(contamination):
    """With 31 samples the tenth part is the score of a sample itself."""
    X = RNG.normal(size=(31, 3))
    detector = HGADDetector(
        max_iter=0, n_components=1, contamination=contamination, random_state=0
    ).fit(X)
    distance = np.abs(detector.decision_function(X))
    assert distance.min() > 1e-12
    if contamination != "auto":
        assert distance.min() < 1e-6  # else this test shows nothing
        assert np.sum(detector.predict(X) == -1) == 3
