"""What each feature of a vector adds to its anomaly score."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from skhgad import HGADDetector

NAMES = ["length", "width", "weight"]


def gaussian(rng, n):
    """Correlated features of different spread."""
    mixing = np.array([[1.0, 0.9, 0.0], [0.0, 0.5, 0.2], [0.0, 0.0, 3.0]])
    return rng.normal(size=(n, 3)) @ mixing


@pytest.fixture(scope="module")
def detector():
    frame = pd.DataFrame(gaussian(np.random.default_rng(0), 300), columns=NAMES)
    return HGADDetector(n_components=1, random_state=0).fit(frame)


def test_the_terms_of_a_gaussian_add_up_and_are_those_of_its_quadratic_form(detector):
    rng = np.random.default_rng(1)
    X = pd.DataFrame(gaussian(rng, 20) + [0, 2, 0], columns=NAMES)
    level = detector.model_.model.levels[0]
    densities = level.densities
    center = level.start.inverse(level.flow.inverse(densities.centers_of(0)[None]))[0, 0].numpy()
    # The precision in raw features, by the linear map that the start is.
    to_whitened = (
        level.start.matrix @ level.flow(unit_vectors(level))[0][0] @ densities.whiteners[0]
    )
    precision = (to_whitened @ to_whitened.T).numpy()
    for row, explanation in zip(X.to_numpy(), detector.explain(X), strict=True):
        shares = np.array([explanation.contributions[name] for name in NAMES])
        whole = explanation.base_score - explanation.score
        assert shares.sum() == pytest.approx(whole, rel=1e-6)
        moved = row - center
        terms = moved * (precision @ moved)
        assert shares == pytest.approx(terms * whole / terms.sum(), rel=1e-6, abs=1e-9)
        assert list(explanation.contributions.values()) == sorted(shares, reverse=True)


def unit_vectors(level):
    """Unit vectors, to read the linear map of an untrained flow."""
    return torch.eye(level.n_features, dtype=level.start.mean.dtype)[None]


def test_shares_of_likelihood_and_entropy_add_up():
    rng = np.random.default_rng(0)
    X = np.concatenate([gaussian(rng, 60), gaussian(rng, 60) + 3])
    detector = HGADDetector(criterion="likelihood_entropy", random_state=0)
    detector.fit(X, ["a"] * 60 + ["b"] * 60)
    for found in detector.explain([[1.5, 1.5, 1.5], [4.0, 0.0, 9.0]]):
        shares = sum(found.contributions.values())
        assert shares == pytest.approx(found.base_score - found.score, rel=1e-2)  # a quadrature


def test_the_center_of_a_class_of_a_wide_table_is_its_mean():
    """It lies outside of what the rows less their means span."""
    rng = np.random.default_rng(0)
    bolts, nuts = rng.normal(size=(20, 60)), rng.normal(size=(20, 60)) + 5
    X, y = np.concatenate([bolts, nuts]), ["bolt"] * 20 + ["nut"] * 20
    detector = HGADDetector(n_components=1, random_state=0).fit(X, y)
    odd = bolts.mean(0)
    odd[7] += 20
    (found,) = detector.explain(odd[None])
    (of_mean,) = detector.score_samples(bolts.mean(0)[None], class_labels="bolt")
    assert found.base_score == pytest.approx(of_mean, rel=1e-3)
    assert next(iter(found.contributions)) == 7
    whole = found.base_score - found.score
    assert sum(found.contributions.values()) == pytest.approx(whole, rel=1e-3)  # a quadrature


def test_the_odd_feature_has_the_largest_share(detector):
    X = pd.DataFrame([[0.0, 0.0, 40.0], [9.0, 9.0, 0.0]], columns=NAMES)
    heavy, long = detector.explain(X)
    assert next(iter(heavy.contributions)) == "weight"
    assert next(iter(long.contributions)) != "weight" and long.is_anomaly


@pytest.mark.once
@pytest.mark.parametrize(
    "parameters", [{"n_components": 3}, {}, {"n_components": 2, "max_iter": 3, "n_blocks": 2}]
)
def test_the_terms_add_up_for_mixtures_kernels_and_flows(parameters):
    rng = np.random.default_rng(2)
    X = np.concatenate([rng.normal(0, 1, (80, 3)), rng.normal(8, 1, (80, 3)) ** 2 / 8])
    y = ["a"] * 80 + ["b"] * 80
    detector = HGADDetector(random_state=0, **parameters).fit(X, y)
    new = X[::40] + rng.normal(0, 2, (4, 3))
    for labels in (None, y[::40]):
        for explanation in detector.explain(new, class_labels=labels):
            whole = explanation.base_score - explanation.score
            total = sum(explanation.contributions.values())
            assert total == pytest.approx(whole, rel=1e-2, abs=1e-2)
            assert sorted(explanation.contributions) == [0, 1, 2]


@pytest.mark.parametrize("scale", [1, 1e-140])
def test_a_score_that_overflows_is_shared_out_like_that_of_a_nearer_vector(detector, scale):
    if scale != 1:
        tiny = gaussian(np.random.default_rng(0), 300) * scale
        detector = HGADDetector(n_components=1, random_state=0).fit(
            pd.DataFrame(tiny, columns=NAMES)
        )
    far, farther = detector.explain(
        pd.DataFrame([[1e100 * scale, 2e100 * scale, 0], [1e300, 2e300, 0]], columns=NAMES)
    )
    whole = farther.base_score - farther.score
    assert sum(farther.contributions.values()) == pytest.approx(whole)
    for name in NAMES:
        share = far.contributions[name] / (far.base_score - far.score)
        assert farther.contributions[name] / whole == pytest.approx(share, abs=1e-6)


def test_nothing_is_shared_out_where_the_center_overflows_too(detector):
    hostile = copy.deepcopy(detector)
    hostile.model_.model.peak_scale.fill_(1e-320)  # as a model that someone else wrote may have it
    (found,) = hostile.explain(pd.DataFrame([[1.0, 2.0, 3.0]], columns=NAMES))
    assert found.score == found.base_score < -1e300
    assert set(found.contributions.values()) == {0.0}


def test_copies_explain_the_same(detector):
    X = pd.DataFrame([[1.0, 2.0, 3.0]], columns=NAMES)
    (expected,) = detector.explain(X)
    for other in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        (found,) = other.explain(X)
        assert found.contributions == pytest.approx(expected.contributions)
