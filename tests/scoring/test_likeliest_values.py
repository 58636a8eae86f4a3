"""`explain` of vectors: the likeliest value of each feature, and what it would change."""

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
    return HGADDetector(n_components=1, bank_size=0, random_state=0).fit(frame)


def machine(rng, n):
    """Voltage, current, power and temperature, in standard deviations."""
    voltage, current = rng.uniform(200, 240, n), rng.gamma(3, 2, n)
    power = voltage * current * rng.uniform(0.9, 0.95, n)
    heat = 20 + 3 * np.sqrt(power / 100) + rng.normal(0, 1, n)
    return np.stack((voltage, current, power, heat), 1) / [11.5, 3.5, 700, 2]


def test_the_broken_sensor_of_a_relation_is_named():
    """Terms of the score, d * (P @ d), are as large for the others of a relation, or larger."""
    rng = np.random.default_rng(0)
    names = ["voltage", "current", "power", "heat"]
    detector = HGADDetector(random_state=0).fit(pd.DataFrame(machine(rng, 600), columns=names))
    named = []
    for number, name in enumerate(names):
        broken = machine(rng, 60)
        broken[:, number] += 2 * rng.choice([-1, 1], 60)
        found = detector.explain(pd.DataFrame(broken, columns=names))
        named.append([next(iter(one.contributions)) == name for one in found if one.is_anomaly])
    right = [np.mean(own) for own in named]
    assert min(map(len, named)) >= 50 and min(right) >= 0.6 and np.mean(right) >= 0.85, right


def precision_of(detector):
    """Precision of the only class in raw features, and its center."""
    level = detector.model_.model.levels[0]
    densities = level.densities
    center = level.start.inverse(level.flow.inverse(densities.centers_of(0)[None]))[0, 0].numpy()
    unit = torch.eye(level.n_features, dtype=level.start.mean.dtype)
    to_whitened = level.start.matrix @ unit @ densities.whiteners[0]
    return (to_whitened @ to_whitened.T).numpy(), center


def test_of_one_gaussian_it_is_the_conditional_mean(detector):
    X = gaussian(np.random.default_rng(1), 20) + [0, 2, 0]
    precision, center = precision_of(detector)
    for row, found in zip(X, detector.explain(pd.DataFrame(X, columns=NAMES)), strict=True):
        moved = row - center
        slopes, own = precision @ moved, np.diag(precision)
        expected = dict(zip(NAMES, row - slopes / own, strict=True))
        assert found.expected_values == pytest.approx(expected, rel=1e-6)
        at_center = detector.score_samples(pd.DataFrame(center[None], columns=NAMES))[0]
        unit = (at_center - found.score) / (moved @ slopes / 2)  # of a score, in nats
        rises = dict(zip(NAMES, unit * slopes**2 / (2 * own), strict=True))
        assert found.contributions == pytest.approx(rises, rel=1e-6, abs=1e-9)
        ordered = sorted(rises.values(), reverse=True)
        assert list(found.contributions.values()) == pytest.approx(ordered, rel=1e-6, abs=1e-9)
        assert list(found.contributions) == list(found.expected_values)


def ring(rng, n):
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack((np.cos(angle), np.sin(angle), np.sin(2 * angle)), 1) + rng.normal(
        0, 0.05, (n, 3)
    )


def skewed(rng, n):
    return np.exp(gaussian(rng, n))


def classes(rng, n):
    return np.concatenate([gaussian(rng, n // 2), gaussian(rng, n - n // 2) + 4])


def known(rng, n):
    """A fifth of them, the first, lie a little towards one side, and are known anomalies."""
    X = rng.normal(size=(n, 3))
    X[: n // 5, :2] += 1.5
    return X


def bent(rng, n):
    """A shape that one Gaussian does not have and a flow learns."""
    along = rng.normal(size=n)
    return np.stack((2 * along, along**2 + 0.1 * rng.normal(size=n), rng.normal(size=n)), 1)


TRAINED = {
    "n_components": 1, "max_iter": 40, "batch_size": 32, "learning_rate": 5e-3, "n_blocks": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "draw, labels, parameters",
    [
        (ring, None, {}),
        (ring, None, {"n_components": 3}),
        pytest.param(bent, None, TRAINED, marks=pytest.mark.once),
        (skewed, None, {}),
        (classes, ["a", "b"], {}),
        (classes, ["a", "b"], {"criterion": "likelihood_entropy"}),
        (known, [-1, 0, 0, 0, 0], {}),
    ],
)
def test_rises_are_differences_of_scores(draw, labels, parameters):
    rng, n = np.random.default_rng(0), 200
    X = draw(rng, n)
    y = None if labels is None else np.repeat(labels, n // len(labels))
    detector = HGADDetector(random_state=0, **parameters).fit(X, y)
    level = detector.model_.model.levels[0]
    assert (len(level.flow.blocks.mix) > 0) == (parameters is TRAINED)
    assert (level.start.powers is not None) == (draw is skewed)
    assert any(verdict.is_kept for verdict in detector.known_anomalies_ or []) == (draw is known)
    new = draw(rng, 8)
    new[np.arange(8), rng.integers(0, 3, 8)] += 2
    classes_of = [None] if labels is None else [None, detector.predict_class(new)[::-1]]
    for class_labels in classes_of:
        for row, found in zip(new, detector.explain(new, class_labels=class_labels), strict=True):
            assert sorted(found.contributions) == [0, 1, 2]
            for number, rise in found.contributions.items():
                changed = row.copy()
                changed[number] = found.expected_values[number]
                given = [found.class_label]
                score = detector.score_samples(changed[None], class_labels=given)[0]
                assert score - found.score == pytest.approx(rise, rel=1e-9, abs=1e-9)
            assert max(found.contributions.values()) > 0
            assert min(found.contributions.values()) >= 0


def spiral(rng, n):
    """A shape for kernels, which several values of a feature fit."""
    angle = rng.uniform(0, 5 * np.pi, n)
    both = np.stack((angle * np.cos(angle), angle * np.sin(angle)), 1) / 5
    return both + rng.normal(0, 0.05, (n, 2))


@pytest.mark.parametrize(
    "draw, parameters, n_centers",
    [(ring, {}, (2, 100)), (ring, {"n_components": 4}, (4, 4)), (spiral, {}, (12, 200))],
)
def test_no_other_value_scores_higher(draw, parameters, n_centers):
    """Under kernels and mixtures, against every value of a fine grid."""
    rng = np.random.default_rng(0)
    detector = HGADDetector(bank_size=0, random_state=0, **parameters).fit(draw(rng, 200))
    assert n_centers[0] <= detector.n_components_[0, 0] <= n_centers[1]
    new = draw(rng, 20)
    new[:, 1] += 0.7
    grid = np.linspace(-4, 4, 1601)
    for row, found in zip(new, detector.explain(new), strict=True):
        for number, rise in found.contributions.items():
            changed = np.tile(row, (len(grid), 1))
            changed[:, number] = grid
            best = detector.score_samples(changed).max() - found.score
            assert rise >= best - 0.05


def test_each_mode_has_a_value_of_its_own():
    rng = np.random.default_rng(0)
    modes = np.array([[0.0, 0.0, 0.0, 0.0], [6.0, 6.0, 6.0, 6.0]])
    X = np.concatenate([mode + rng.normal(0, 0.5, (150, 4)) for mode in modes])
    detector = HGADDetector(n_components=2, random_state=0).fit(X)
    strange = modes.copy()
    strange[0, 2], strange[1, 2] = 6.0, 0.0  # as in the other mode
    for mode, found in zip(modes, detector.explain(strange), strict=True):
        assert next(iter(found.contributions)) == 2
        assert found.expected_values[2] == pytest.approx(mode[2], abs=0.3)


def test_a_constant_feature_is_expected_to_be_constant():
    rng = np.random.default_rng(0)
    X = np.concatenate([gaussian(rng, 100), np.full((100, 1), 7.0), np.zeros((100, 1))], 1)
    detector = HGADDetector(random_state=0).fit(X)
    same, other = X[0].copy(), X[0].copy()
    other[3], other[4] = 7.5, 1e-3
    usual, changed = detector.explain([same, other])
    assert [usual.expected_values[i] for i in (3, 4)] == pytest.approx([7, 0], abs=1e-6)
    assert max(usual.contributions[i] for i in (3, 4)) < 1e-3
    assert next(iter(changed.contributions)) == 3
    assert [changed.expected_values[i] for i in (3, 4)] == pytest.approx([7, 0], abs=1e-6)


@pytest.mark.parametrize("n_classes", [1, 2])
def test_wide_tables_name_the_64_features_that_help_most(n_classes):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 300))
    X = rng.normal(size=(61, 3)) @ weights + 0.3 * rng.normal(size=(61, 300))
    y = np.where(np.arange(61) % n_classes, "nut", "bolt")
    X[y == "nut"] += 5
    detector = HGADDetector(random_state=0).fit(X[:60], y[:60])
    odd = X[60].copy()
    odd[7] += 9
    (found,) = detector.explain(odd[None])
    assert next(iter(found.contributions)) == 7 and len(found.contributions) == 64
    changed = odd.copy()
    changed[7] = found.expected_values[7]
    (score,) = detector.score_samples(changed[None])
    assert score - found.score == pytest.approx(found.contributions[7])
    assert found.expected_values[7] == pytest.approx(X[60, 7], abs=2.5)
    rises = list(found.contributions.values())
    assert rises[0] > 3 * rises[1]


@pytest.mark.parametrize("value", [-9999, 1e30, 1e300])
def test_a_cell_that_is_no_measurement_does_not_hide_what_is_expected(detector, value):
    usual, missing = np.array([[0.3, 0.2, -1.0]]), np.array([[0.3, value, -1.0]])
    expected, found = (
        detector.explain(pd.DataFrame(row, columns=NAMES))[0] for row in (usual, missing)
    )
    assert next(iter(found.contributions)) == "width"
    width = expected.expected_values["width"]
    assert found.expected_values["width"] == pytest.approx(width, rel=1e-6)


def test_rises_are_finite_where_scores_overflow(detector):
    hostile = copy.deepcopy(detector)
    hostile.model_.model.peak_scale.fill_(1e-320)  # as a model that someone else wrote may have it
    (found,) = hostile.explain(pd.DataFrame([[1.0, 2.0, 3.0]], columns=NAMES))
    assert found.score < -1e300
    for values in (found.contributions, found.expected_values):
        assert np.isfinite(list(values.values())).all()


def test_copies_explain_the_same(detector):
    X = pd.DataFrame([[1.0, 2.0, 3.0]], columns=NAMES)
    (expected,) = detector.explain(X)
    for other in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        (found,) = other.explain(X)
        assert found.contributions == pytest.approx(expected.contributions)
