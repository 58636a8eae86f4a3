"""Schedule, optimiser, loop and history of the training, on small levels in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from plans import PUBLISHED
from sklearn.metrics import roc_auc_score
from torch.utils._python_dispatch import TorchDispatchMode

from skhgad import HGADDetector
from skhgad.fitting.training import TERMS, level_loss, train
from skhgad.model.flow import ConditionalFlow, LinearStart
from skhgad.model.level import LevelModel
from skhgad.model.mixture import HierarchicalMixture, class_means
from skhgad.model.positions import position_codes

SHORT = replace(PUBLISHED, n_passes=6, learning_rate=5e-3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_level(
    n_classes=2, n_features=3, n_components=2, map_shape=(2, 2), *, n_blocks=2, seed=0, **kwargs
):
    generator = seeded(seed)
    n_positions = math.prod(map_shape)
    flow = ConditionalFlow(
        n_features,
        position_codes(*map_shape, 4) if n_positions > 1 else None,
        n_blocks=n_blocks,
        generator=generator,
        **kwargs,
    )
    mixture = HierarchicalMixture(
        class_means(n_classes, n_features, 5.0), n_components, generator=generator
    )
    start = LinearStart(torch.zeros(n_features), torch.eye(n_features))
    return LevelModel(start, flow, mixture, map_shape).double()


def make_data(n_classes=2, n_features=3, n_positions=4, n_images=20):
    """Gaussian classes, 6 standard deviations from one to the next."""
    codes = torch.arange(n_images) % n_classes
    x = torch.randn(n_images, n_positions, n_features, generator=seeded(5)).double()
    return x + 6.0 * codes[:, None, None], codes


def reader(*xs):
    """Read function over arrays in memory, one a level."""

    def read(level, rows, positions):
        x = xs[level][rows]
        return x if positions is None else x[:, positions]

    return read


def parameters_of(level):
    return {name: p.detach().clone() for name, p in level.named_parameters()}


def run(level, plan, x, codes, seed=0, **kwargs):
    return train([level], reader(x), np.arange(len(codes)), codes, plan, seeded(seed), **kwargs)


def full_loss(level, x, codes, plan, second_stage=True):
    with torch.no_grad():
        return float(level_loss(level, x, codes, None, plan, second_stage)[0])


# ---------------------------------------------------------------- schedule


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 1 / 8),
        (3, 4 / 8),
        (7, 1.0),
        (8, 1.0),
        (31, 0.001 + 0.999 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the decay
        (54, 0.001 + 0.999 / 2),
        (77, 0.001 + 0.999 * (1 - math.sqrt(0.5)) / 2),
        (100, 0.001),
    ],
)
def test_learning_rate_warms_up_and_decays(step, expected):
    assert PUBLISHED.lr_factor(step, 100) == pytest.approx(expected, rel=1e-12)


def test_learning_rate_without_warm_up_starts_at_its_peak():
    plan = replace(PUBLISHED, warmup_fraction=0.0, final_lr_fraction=0.0)
    assert plan.lr_factor(0, 50) == 1.0
    assert plan.lr_factor(25, 49) == pytest.approx(0.5)
    assert plan.lr_factor(49, 49) == pytest.approx(0.0, abs=1e-15)


def test_learning_rate_that_only_warms_up():
    plan = replace(PUBLISHED, warmup_fraction=0.999)
    assert [plan.lr_factor(step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert plan.lr_factor(0, 1) == 1.0


@pytest.mark.parametrize("fraction, first", [(0.08, 8), (0.0, 0), (0.5, 50), (1.0, 100)])
def test_second_stage_begins_after_its_fraction(fraction, first):
    plan = replace(PUBLISHED, first_stage_fraction=fraction)
    stages = [plan.in_second_stage(step, 100) for step in range(100)]
    assert stages == [False] * first + [True] * (100 - first)


def test_history_shows_the_learning_rate_of_the_last_step_of_each_pass():
    x, codes = make_data()
    plan = replace(PUBLISHED, n_passes=4, batch_size=5, warmup_fraction=0.5)  # 4 steps a pass
    history = run(make_level(), plan, x, codes)
    peak = plan.learning_rate
    expected = [4 / 8, 8 / 8, 0.001 + 0.999 * (1 + math.cos(math.pi * 3 / 8)) / 2]
    expected.append(0.001 + 0.999 * (1 + math.cos(math.pi * 7 / 8)) / 2)
    np.testing.assert_allclose([r["learning_rate"] / peak for r in history], expected)


# ---------------------------------------------------------------- optimiser


def adam(level, plan, x, codes, n_steps):
    """Adam with coupled weight decay by its textbook formulas (Kingma and Ba, algorithm 1)."""
    first, second = {}, {}
    for step in range(n_steps):
        second_stage = plan.in_second_stage(step, n_steps)
        level.zero_grad()
        level_loss(level, x, codes, None, plan, second_stage)[0].backward()
        for name, p in level.named_parameters():
            if p.grad is None or not p.numel():
                continue
            in_flow = name.startswith("flow.")
            factor = 1.0 if in_flow else plan.center_lr_factor
            rate = plan.learning_rate * factor * plan.lr_factor(step, n_steps)
            gradient = p.grad + (plan.weight_decay * p.detach() if in_flow else 0)
            beta1, beta2 = plan.betas
            count, m, v = *first.get(name, (0, 0)), second.get(name, 0)
            count += 1
            m = beta1 * m + (1 - beta1) * gradient
            v = beta2 * v + (1 - beta2) * gradient**2
            first[name], second[name] = (count, m), v
            with torch.no_grad():
                p -= rate * (m / (1 - beta1**count)) / ((v / (1 - beta2**count)).sqrt() + 1e-8)
    return level


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_training_is_adam_with_the_plans_numbers(weight_decay):
    """All samples in one batch, so that their order does not matter; both stages."""
    x, codes = make_data()
    plan = replace(SHORT, n_passes=5, batch_size=20, weight_decay=weight_decay)
    plan = replace(plan, first_stage_fraction=0.4, warmup_fraction=0.4)
    level = make_level()
    history = run(level, plan, x, codes)
    assert [math.isnan(r["intra_class"]) for r in history] == [True, True, False, False, False]
    expected = parameters_of(adam(make_level(), plan, x, codes, 5))
    for name, value in parameters_of(level).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-10, msg=name)


def test_first_step_is_the_learning_rate():
    """By hand: Adam's first step is the rate times the gradient's sign, thrice it for centers."""
    x, codes = make_data()
    plan = replace(PUBLISHED, n_passes=1, batch_size=20, weight_decay=0.0, first_stage_fraction=0)
    level = make_level()
    before = parameters_of(level)
    run(level, plan, x, codes)
    steps = {name: (p.detach() - before[name]).abs() for name, p in level.named_parameters()}
    assert steps["flow.blocks.offset"].max() == pytest.approx(2e-4, rel=1e-3)
    for name in ("means", "prior_logits", "offsets", "center_logits"):
        assert steps[f"mixture.{name}"].max() == pytest.approx(6e-4, rel=1e-3)


def test_weights_decay_in_the_flow_only():
    """A loss that is zero everywhere leaves nothing but the decay."""
    x, codes = make_data()
    nothing = dict(lambda_inter=0.0, lambda_mi=0.0, lambda_entropy=0.0, lambda_intra=0.0)
    level = make_level(identity_start=False)
    before = parameters_of(level)
    run(level, replace(SHORT, weight_decay=0.1, **nothing), x, codes)
    for name, value in parameters_of(level).items():
        if name.startswith("mixture."):
            assert torch.equal(value, before[name]), name
        else:
            decayed = before[name].abs() > 0.1
            assert (value.abs() < before[name].abs())[decayed].all(), name


# ---------------------------------------------------------------- loop


@pytest.mark.parametrize(
    "position_fraction, n_drawn", [(1.0, None), (0.5, 3), (0.1, 1), (0.99, None)]
)
def test_every_image_is_read_once_a_pass(position_fraction, n_drawn):
    x, codes = make_data(n_positions=5, n_images=22)
    seen = []

    def read(level, rows, positions):
        seen.append((sorted(rows.tolist()), positions))
        return x[rows] if positions is None else x[rows][:, positions]

    plan = replace(SHORT, n_passes=3, batch_size=8, position_fraction=position_fraction)
    train([make_level(map_shape=(1, 5))], read, np.arange(len(codes)), codes, plan, seeded())
    assert len(seen) == 9
    for number in range(3):
        batches = [rows for rows, _ in seen[3 * number : 3 * number + 3]]
        assert sorted(sum(batches, [])) == list(range(22))
        assert [len(rows) for rows in batches] == [8, 7, 7]
    assert seen[0][0] != seen[3][0] != seen[6][0], "the order is the same in every pass"
    drawn = [positions for _, positions in seen]
    if n_drawn is None:
        assert drawn == [None] * 9
    else:
        drawn = [sorted(positions.tolist()) for positions in drawn]
        assert all(len(set(positions)) == len(positions) == n_drawn for positions in drawn)
        assert len(set(map(tuple, drawn))) > 2, "the positions are the same in every step"


@pytest.mark.parametrize("position_fraction", [1.0, 0.5])
def test_same_seed_same_model(position_fraction):
    x, codes = make_data()
    plan = replace(SHORT, position_fraction=position_fraction)

    def fitted(seed):
        level = make_level()
        torch.manual_seed(seed + 100)  # the global generator must not matter
        history = run(level, plan, x, codes, seed)
        return parameters_of(level), history

    (first, first_history), (again, again_history), (other, _) = fitted(1), fitted(1), fitted(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    np.testing.assert_array_equal(
        [list(r.values()) for r in first_history], [list(r.values()) for r in again_history]
    )
    assert not torch.equal(first["mixture.means"], other["mixture.means"])


def test_levels_train_as_if_alone():
    (x, codes), (wide, _) = make_data(), make_data(n_features=5, n_positions=1)

    def levels():
        return make_level(), make_level(n_features=5, map_shape=(1, 1))

    together, alone = levels(), levels()
    history = train(list(together), reader(x, wide), np.arange(len(codes)), codes, SHORT, seeded())
    own = [run(alone[0], SHORT, x, codes), run(alone[1], SHORT, wide, codes)]
    for one, other in zip(together, alone, strict=True):
        expected = parameters_of(other)
        for name, value in parameters_of(one).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-10, msg=name)
    for record, *parts in zip(history, *own, strict=True):
        for name in ("loss", *TERMS):
            total = sum(part[name] for part in parts)
            assert record[name] == pytest.approx(total, rel=1e-5, nan_ok=True), name


def test_history_holds_the_mean_of_every_term():
    """With a learning rate of almost nothing, every pass sees the untrained level."""
    x, codes = make_data()
    plan = replace(SHORT, learning_rate=1e-12, first_stage_fraction=0.5, batch_size=5)
    level = make_level()
    seen = []
    history = run(level, plan, x, codes, on_pass=lambda *call: seen.append(call))
    assert seen == [(number + 1, record) for number, record in enumerate(history)]
    assert len(history) == 6
    with torch.no_grad():
        losses, terms = zip(
            *(level_loss(level, x, codes, None, plan, second) for second in (False, True)),
            strict=True,
        )
    for number, record in enumerate(history):
        assert list(record) == ["loss", "learning_rate", *TERMS]
        stage = int(number >= 3)
        assert record["loss"] == pytest.approx(float(losses[stage]), rel=1e-5)
        np.testing.assert_allclose([record[t] for t in TERMS], terms[stage], rtol=1e-4, atol=1e-6)
    assert all(math.isnan(r[t]) for r in history[:3] for t in TERMS[3:])
    assert not any(math.isnan(r[t]) for r in history[3:] for t in TERMS)


def test_no_passes_leave_the_start_alone():
    x, codes = make_data()
    level = make_level()
    before = parameters_of(level)
    assert run(level, replace(SHORT, n_passes=0), x, codes) == []
    assert all(torch.equal(value, before[name]) for name, value in parameters_of(level).items())


# ---------------------------------------------------------------- what is learned

# (K, d, M, positions): the corner cases of every size
SIZES = [
    (2, 4, 3, 4),
    (2, 5, 3, 1),
    (1, 3, 2, 1),  # one class
    (4, 3, 2, 4),  # fewer features than classes
    (3, 1, 2, 1),  # one feature
    (2, 4, 1, 1),  # one center
    (1, 1, 1, 4),
]


def resting(n_classes, n_features, n_components):
    """Parameters that no loss term can move at these sizes."""
    names = set()
    if n_classes == 1:
        names.add("mixture.prior_logits")  # the softmax of one logit is 1
    if n_components == 1:
        names |= {"mixture.center_logits", "mixture.offsets"}
    if n_features == 1:  # nothing to couple
        names |= {"hidden_weight", "hidden_bias", "column_weight", "row_weight"}
        names |= {"output_weight", "output_bias"}
    return names


@pytest.mark.parametrize("start", ["identity", "published"])
@pytest.mark.parametrize("n_classes, n_features, n_components, n_positions", SIZES)
def test_training_beats_the_untrained_start(
    n_classes, n_features, n_components, n_positions, start
):
    x, codes = make_data(n_classes, n_features, n_positions, n_images=16)
    x = x + 1.0  # away from where the means start
    level = make_level(
        n_classes, n_features, n_components, (1, n_positions), identity_start=start == "identity"
    )
    # without decay, what moves is moved by the loss
    plan = replace(SHORT, n_passes=20, learning_rate=1e-2, weight_decay=0.0)
    before, untrained = parameters_of(level), full_loss(level, x, codes, plan)
    history = run(level, plan, x, codes)
    trained = full_loss(level, x, codes, plan)
    assert trained < untrained - 0.1
    assert history[-1]["loss"] < history[2]["loss"]  # both in the second stage
    still = resting(n_classes, n_features, n_components)
    for name, value in parameters_of(level).items():
        assert value.isfinite().all(), name
        rests = name in still or name.rsplit(".", 1)[-1] in still or not value.numel()
        assert torch.equal(value, before[name]) == rests, name


@pytest.mark.slow
def test_trained_level_tells_the_classes_and_the_anomalies():
    """Two classes far apart: own class most likely, low entropy, a point between them unlikely."""
    x, codes = make_data(n_positions=1, n_images=60)
    x = x - 3.0  # centered, as a start would leave it
    level = make_level(map_shape=(1, 1), identity_start=True)
    run(level, replace(SHORT, n_passes=300, batch_size=60, learning_rate=1e-2), x, codes)
    new = torch.randn(40, 1, 3, generator=seeded(77)).double()
    new_codes = torch.arange(40) % 2
    new += 6.0 * new_codes[:, None, None] - 3.0
    with torch.no_grad():
        latent, between = level.latent(new), level.latent(torch.zeros(1, 1, 3).double())
        assert (level.class_log_likelihood(latent[0]).argmax(1) == new_codes).all()
        own, _, entropy = level.evidence(*latent, new_codes)
        for code in (0, 1):
            likelihood, _, between_entropy = level.evidence(*between, torch.tensor([code]))
            assert likelihood < own.median()
            assert between_entropy > entropy.median()


def test_mixture_trains_without_blocks():
    x, codes = make_data()
    level = make_level(n_blocks=0)
    plan = replace(SHORT, n_passes=20, learning_rate=0.1)
    untrained = full_loss(level, x, codes, plan)
    run(level, plan, x, codes)
    assert full_loss(level, x, codes, plan) < untrained - 0.1


@pytest.mark.parametrize("fault", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("first_bad_pass", [1, 3])
def test_loss_that_is_not_finite_names_the_pass(first_bad_pass, fault):
    x, codes = make_data()
    calls, finished = [], []

    def read(level, rows, positions):
        calls.append(rows)
        bad = len(calls) > 3 * first_bad_pass - 1  # in the last of three batches of that pass
        return x[rows] * (fault if bad else 1)

    plan = replace(SHORT, n_passes=5)
    with pytest.raises(FloatingPointError, match=rf"in pass {first_bad_pass}\b.*learning_rate"):
        train(
            [make_level()],
            read,
            np.arange(len(codes)),
            codes,
            plan,
            seeded(),
            on_pass=lambda n, _: finished.append(n),
        )
    assert finished == list(range(1, first_bad_pass))
    assert len(calls) == 3 * first_bad_pass


class Waits(TorchDispatchMode):
    """Counts the operations for which a host would wait for its device."""

    AWAITED = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal", "item")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(func.overloadpacket.__name__.startswith(name) for name in self.AWAITED):
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("mixed_precision", [False, True])
@pytest.mark.parametrize("position_fraction", [1.0, 0.5])
def test_no_step_waits_for_its_result(position_fraction, mixed_precision):
    """On a GPU every such wait would stop the queue; only the end of a pass looks at the loss."""
    x, codes = make_data()
    plan = replace(
        SHORT, n_passes=2, position_fraction=position_fraction, mixed_precision=mixed_precision
    )
    counts = []
    for batch_size in (20, 2):
        with Waits() as waits:
            run(make_level(), replace(plan, batch_size=batch_size), x, codes)
        counts.append(len(waits.found))
    assert counts[0] == counts[1] > 0  # as many with ten times the steps


def test_mixed_precision_rounds_the_gradients_and_no_more():
    x, codes = make_data()
    gradients = {}
    for mixed in (False, True):
        level = make_level()
        loss, _ = level_loss(level, x, codes, None, replace(SHORT, mixed_precision=mixed), True)
        loss.backward()
        gradients[mixed] = torch.cat([p.grad.flatten() for p in level.flow.parameters()])
    exact, rounded = gradients[False], gradients[True]
    assert rounded.dtype == exact.dtype
    error = float((rounded - exact).norm() / exact.norm())
    assert 1e-5 < error < 0.02  # bfloat16 keeps 8 bits


@pytest.mark.slow
def test_scores_do_not_move_with_mixed_precision():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 12)) + 4 * np.repeat(np.eye(3, 12), 100, axis=0)
    odd = X + rng.normal(size=X.shape)
    truth, labels = np.repeat([1, 0], 300), np.repeat(["a", "b", "c"], 100)
    scores = []
    for mixed in (False, True):
        detector = HGADDetector(
            max_iter=20, mixed_precision=mixed, validation_fraction=0, random_state=0
        ).fit(X, labels)
        scores.append(detector.score_samples(np.concatenate([X, odd])))
    exact, rounded = scores
    assert (exact != rounded).any()
    assert np.corrcoef(exact, rounded)[0, 1] > 0.999
    found, expected = roc_auc_score(truth, rounded), roc_auc_score(truth, exact)
    assert found == pytest.approx(expected, abs=0.002)
    assert 0.6 < expected < 0.98
