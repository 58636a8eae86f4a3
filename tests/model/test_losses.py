"""Every loss term, their sum and their gradients against formulas written in numpy from the paper.

The oracle below works in float64 on plain arrays and knows neither torch nor the mixture's methods.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plans import PUBLISHED
from scipy.spatial.distance import cdist
from scipy.special import expit, logsumexp, softmax

from skhgad.fitting.training import TERMS, level_loss
from skhgad.model.flow import ConditionalFlow, LinearStart
from skhgad.model.level import LevelModel
from skhgad.model.losses import (
    entropy_loss,
    inter_class_loss,
    intra_class_loss,
    likelihood_margin_loss,
    log_likelihood,
    mutual_information,
    smooth_one_hot,
)
from skhgad.model.mixture import HierarchicalMixture, class_means
from skhgad.model.positions import position_codes

# (K, d, M): also one class, fewer features than classes, one feature, one center
SIZES = [(3, 4, 2), (1, 3, 4), (5, 2, 3), (4, 1, 2), (2, 5, 1), (1, 1, 1), (15, 6, 10)]

# Weights that no two terms share, so that a swapped pair shows.
UNEVEN = replace(PUBLISHED, lambda_inter=0.7, lambda_mi=3.0, lambda_entropy=1.9, lambda_intra=0.4)


# ---------------------------------------------------------------- the oracle


def numpy_terms(z, log_det, y, parameters, smoothing, stopped=None):
    """Five terms at the rows of z, as METHOD.md writes them.

    `stopped` holds the values of parameters behind a stop-gradient: psi in the mutual information,
    mu in the centers. It is `parameters` unless a derivative is taken.
    """
    stopped = parameters if stopped is None else stopped
    mu, psi, delta, phi = (parameters[name] for name in ("mu", "psi", "delta", "phi"))
    d, n_classes = z.shape[1], len(mu)
    half_d = cdist(z, mu, "sqeuclidean") / 2

    log_p = np.log(softmax(psi))
    inter = -(logsumexp(-half_d + log_p, axis=1) + log_det) / d

    q = np.full((len(z), n_classes), smoothing / n_classes)
    q[np.arange(len(z)), y] += 1 - smoothing
    fixed_log_p = np.log(softmax(stopped["psi"]))
    log_posterior = np.log(softmax(-half_d + fixed_log_p, axis=1))
    information = (q * (log_posterior - fixed_log_p)).sum(1)

    posterior = softmax(-half_d, axis=1)
    entropy = -(posterior * np.log(posterior)).sum(1)

    a = np.empty(len(z))
    for i, (vector, k) in enumerate(zip(z, y, strict=True)):
        centers = stopped["mu"][k] + np.vstack([np.zeros(d), delta[k]])
        w = softmax(phi[k])
        a[i] = np.log(np.sum(w * np.exp(-np.square(vector - centers).sum(1) / 2))) + log_det[i]
    intra = -a / d
    margin = -np.log(expit(a / d - 0.5 * np.log(2 * np.pi)))
    return {
        "inter_class": inter,
        "mutual_information": information,
        "entropy": entropy,
        "intra_class": intra,
        "likelihood_margin": margin,
    }


def numpy_loss(terms, plan, second_stage):
    loss = (
        plan.lambda_inter * terms["inter_class"]
        - plan.lambda_mi * terms["mutual_information"]
        + plan.lambda_entropy * terms["entropy"]
    )
    if second_stage:
        loss = loss + plan.lambda_intra * (terms["intra_class"] + terms["likelihood_margin"])
    return loss.mean()


# ---------------------------------------------------------------- the model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_level(n_classes, n_features, n_components, n_blocks=2):
    """Level in float64 with every parameter of the mixture off its start."""
    generator = seeded(n_features)
    codes = position_codes(2, 2, 4)
    flow = ConditionalFlow(n_features, codes, n_blocks=n_blocks, generator=generator)
    means = class_means(n_classes, n_features, 1.0)
    mixture = HierarchicalMixture(means, n_components, generator=generator)
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
        flow.blocks.raw_scale += torch.randn(flow.blocks.raw_scale.shape, generator=generator)
    start = LinearStart(torch.zeros(n_features), torch.eye(n_features))
    return LevelModel(start, flow, mixture, (2, 2)).double()


def make_batch(n_classes, n_features, n_images=6):
    x = 1.5 * torch.randn(n_images, 4, n_features, generator=seeded(3)).double()
    return x, torch.arange(n_images) * 2 % n_classes


def as_numpy(level, x, codes, positions=None):
    """Latent vectors one a row, their log-dets and classes, and the mixture's parameters."""
    with torch.no_grad():
        z, log_det = level.flow(x, positions)
    mixture = level.mixture
    parameters = {
        "mu": mixture.means,
        "psi": mixture.prior_logits,
        "delta": mixture.offsets,
        "phi": mixture.center_logits,
    }
    return (
        z.flatten(0, 1).numpy(),
        log_det.flatten().numpy(),
        np.repeat(codes.numpy(), x.shape[1]),
        {name: p.detach().numpy().copy() for name, p in parameters.items()},
    )


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES)
@torch.no_grad()
def test_each_term_equals_its_formula_vector_by_vector(n_classes, n_features, n_components):
    level = make_level(n_classes, n_features, n_components)
    x, codes = make_batch(n_classes, n_features)
    expected = numpy_terms(*as_numpy(level, x, codes), smoothing=0.02)
    z, log_det = level.flow(x)
    mixture = level.mixture
    logits, log_prior = mixture.class_logits(z), mixture.log_prior()
    density = mixture.log_density_within_class(z, codes)
    targets = smooth_one_hot(codes, n_classes, 0.02)[:, None].double()
    found = {
        "inter_class": inter_class_loss(logits, log_prior, log_det, n_features),
        "mutual_information": mutual_information(logits, log_prior, targets),
        "entropy": entropy_loss(logits),
        "intra_class": intra_class_loss(density, log_det, n_features),
        "likelihood_margin": likelihood_margin_loss(density, log_det, n_features),
    }
    for name, values in found.items():
        assert values.shape == x.shape[:2], name
        np.testing.assert_allclose(
            values.flatten(), expected[name], rtol=1e-6, atol=1e-7, err_msg=name
        )
    # log-likelihood per dimension, from the full Gaussian normalisation of all d dimensions
    full = -expected["intra_class"] * n_features - n_features / 2 * np.log(2 * np.pi)
    likelihood = log_likelihood(density, log_det, n_features)
    np.testing.assert_allclose(likelihood.flatten(), full / n_features, rtol=1e-10)


@pytest.mark.parametrize("second_stage", [False, True])
@pytest.mark.parametrize("plan", [PUBLISHED, UNEVEN], ids=["published", "uneven"])
@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES)
@torch.no_grad()
def test_level_loss_weighs_the_terms(n_classes, n_features, n_components, plan, second_stage):
    level = make_level(n_classes, n_features, n_components)
    x, codes = make_batch(n_classes, n_features)
    loss, terms = level_loss(level, x, codes, None, plan, second_stage)
    expected = numpy_terms(*as_numpy(level, x, codes), plan.label_smoothing)
    assert float(loss) == pytest.approx(
        numpy_loss(expected, plan, second_stage), rel=1e-6, abs=1e-6
    )
    means = [expected[name].mean() for name in TERMS]
    if not second_stage:
        means[3:] = [np.nan, np.nan]
    np.testing.assert_allclose(terms, means, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES)
@torch.no_grad()
def test_evidence_of_a_level_is_that_of_every_class(n_classes, n_features, n_components):
    """From raw features, the log-det of the start counted: a/d - ln(2 pi)/2 and the entropy."""
    level = make_level(n_classes, n_features, n_components)
    rng = np.random.default_rng(4)
    mean, matrix = rng.normal(size=n_features), rng.normal(size=(n_features, n_features))
    level.start = LinearStart(mean, matrix)
    x, codes = make_batch(n_classes, n_features)
    latent = level.latent(x)
    started = torch.from_numpy((x.numpy() - mean) @ matrix)
    z, log_det, _, parameters = as_numpy(level, started, codes)
    log_det = log_det + np.linalg.slogdet(matrix)[1]
    for k in range(n_classes):
        terms = numpy_terms(z, log_det, np.full(len(z), k), parameters, 0.02)
        expected = -terms["intra_class"] - 0.5 * np.log(2 * np.pi)
        likelihood, background, found_entropy = level.evidence(*latent, torch.full_like(codes, k))
        assert background is None
        np.testing.assert_allclose(likelihood.flatten(), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found_entropy.flatten(), terms["entropy"], atol=1e-9)


@torch.no_grad()
def test_intra_terms_can_be_switched_off():
    level, (x, codes) = make_level(3, 4, 2), make_batch(3, 4)
    without = replace(PUBLISHED, lambda_intra=0.0)
    loss, terms = level_loss(level, x, codes, None, without, second_stage=True)
    assert loss == level_loss(level, x, codes, None, PUBLISHED, second_stage=False)[0]
    assert terms[3:].isnan().all() and terms[:3].isfinite().all()


@torch.no_grad()
def test_level_loss_counts_the_chosen_positions_only():
    level, (x, codes) = make_level(3, 4, 2), make_batch(3, 4)
    chosen = torch.tensor([3, 1])
    loss, _ = level_loss(level, x[:, chosen], codes, chosen, PUBLISHED, True)
    expected = numpy_terms(*as_numpy(level, x[:, chosen], codes, chosen), 0.02)
    assert float(loss) == pytest.approx(numpy_loss(expected, PUBLISHED, True), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.02, 0.5])
def test_smoothed_labels(smoothing):
    found = smooth_one_hot(torch.tensor([2, 0, 2]), 4, smoothing)
    low, high = smoothing / 4, 1 - smoothing + smoothing / 4
    expected = [[low, low, high, low], [high, low, low, low], [low, low, high, low]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_information_of_certain_classes_is_the_prior_entropy():
    """By hand: sure and right about each of K equal classes, I = ln K; knowing nothing, 0."""
    log_prior = torch.full((4,), 0.25).double().log()
    targets = torch.eye(4).double()
    sure = mutual_information(1e4 * torch.eye(4).double(), log_prior, targets)
    np.testing.assert_allclose(sure, np.log(4))
    unsure = mutual_information(torch.zeros(4, 4).double(), log_prior, targets)
    np.testing.assert_allclose(unsure, 0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_margin_of_hopeless_vectors_stays_finite(dtype):
    """-log sigmoid(v) is -v there, where a sigmoid of its own would be log(0)."""
    density = torch.tensor([-1e6, 0.0, 1e6], dtype=dtype, requires_grad=True)
    values = likelihood_margin_loss(density, torch.zeros(3, dtype=dtype), 2)
    at_zero = np.log1p(np.sqrt(2 * np.pi))  # -log(1 / (1 + exp(ln(2 pi) / 2)))
    np.testing.assert_allclose(values.detach(), [5e5 + 0.9189385, at_zero, 0], rtol=1e-6)
    values.sum().backward()
    assert density.grad.isfinite().all()
    assert float(density.grad[0]) == pytest.approx(-0.5)


# ---------------------------------------------------------------- gradients


def numeric_gradient(function, array):
    """Central differences of function() over the entries of an array changed in place."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value, step = array[index], 1e-5
        array[index] = value + step
        above = function()
        array[index] = value - step
        gradient[index] = (above - function()) / (2 * step)
        array[index] = value
    return gradient


@pytest.mark.parametrize("second_stage", [False, True])
@pytest.mark.parametrize("n_classes, n_features, n_components", SIZES[:6])
def test_gradients_are_those_of_the_stopped_formulas(
    n_classes, n_features, n_components, second_stage
):
    """Into every parameter of the mixture and into z, with mu and psi held where METHOD.md says.

    Without blocks z is x, so the gradient into x is that into z.
    """
    level = make_level(n_classes, n_features, n_components, n_blocks=0)
    x, codes = make_batch(n_classes, n_features, n_images=3)
    x.requires_grad_(True)
    level_loss(level, x, codes, None, UNEVEN, second_stage)[0].backward()
    z, log_det, y, parameters = as_numpy(level, x.detach().clone(), codes)
    z = z.copy()
    stopped = {name: value.copy() for name, value in parameters.items()}

    def loss():
        terms = numpy_terms(z, log_det, y, parameters, UNEVEN.label_smoothing, stopped)
        return numpy_loss(terms, UNEVEN, second_stage)

    mixture = level.mixture
    found = {
        "mu": mixture.means.grad,
        "psi": mixture.prior_logits.grad,
        "delta": mixture.offsets.grad,
        "phi": mixture.center_logits.grad,
        "z": x.grad.flatten(0, 1),
    }
    for name, array in (parameters | {"z": z}).items():
        expected = numeric_gradient(loss, array)
        gradient = np.zeros_like(array) if found[name] is None else found[name].numpy()
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7, err_msg=name)


NOTHING = dict(lambda_inter=0.0, lambda_mi=0.0, lambda_entropy=0.0, lambda_intra=0.0)


@pytest.mark.parametrize(
    "term, reached",
    [
        ("lambda_inter", {"means", "prior_logits"}),
        ("lambda_mi", {"means"}),
        ("lambda_entropy", {"means"}),
        ("lambda_intra", {"offsets", "center_logits"}),
    ],
)
def test_each_term_reaches_its_own_parameters(term, reached):
    """One term at a time: psi learns from L_g alone, mu not from the centers, deltas only there."""
    level, (x, codes) = make_level(3, 4, 2), make_batch(3, 4)
    plan = replace(PUBLISHED, **(NOTHING | {term: 1.0}))
    level_loss(level, x, codes, None, plan, second_stage=True)[0].backward()
    moved = {
        name
        for name, p in level.mixture.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 1e-12
    }
    assert moved == reached
    # the flow learns from every term, in every tensor
    assert all(p.grad.abs().max() > 1e-12 for p in level.flow.parameters())


def test_centers_rest_in_the_first_stage():
    level, (x, codes) = make_level(3, 4, 2), make_batch(3, 4)
    level_loss(level, x, codes, None, PUBLISHED, second_stage=False)[0].backward()
    mixture = level.mixture
    assert mixture.offsets.grad is None and mixture.center_logits.grad is None
    assert mixture.means.grad.abs().min() > 0 and mixture.prior_logits.grad.abs().min() > 0


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("n_classes, n_features, n_components", [(3, 4, 2), (1, 1, 1)])
def test_losses_and_gradients_are_finite_at_any_scale(n_classes, n_features, n_components, scale):
    """In single precision, with the published weights."""
    level = make_level(n_classes, n_features, n_components).float()
    x, codes = make_batch(n_classes, n_features)
    loss, terms = level_loss(level, scale * x.float(), codes, None, PUBLISHED, True)
    loss.backward()
    assert loss.isfinite() and terms.isfinite().all()
    assert all(p.grad.isfinite().all() for p in level.flow.parameters())
    assert all(p.grad.isfinite().all() for p in level.mixture.parameters())
