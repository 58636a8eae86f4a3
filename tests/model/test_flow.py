"""Position codes, linear start and the stack of blocks: log-det, inverse, sharing of positions."""

import math

import numpy as np
import pytest
import torch

from skhgad.model.flow import ConditionalFlow, LinearStart
from skhgad.model.level import LevelModel
from skhgad.model.mixture import HierarchicalMixture, class_means
from skhgad.model.positions import position_codes
from skhgad.model.workspace import Workspace


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randomised(module, seed=1):
    """Move every parameter off its start, as training does."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            # Large weights would make the stack chaotic, its inverse ill-conditioned.
            amount = 0.05 if name.endswith("weight") else 0.5
            parameter += amount * torch.randn(parameter.shape, generator=generator)
    return module.double()


def make_start(n_features):
    rng = np.random.default_rng(n_features)
    return LinearStart(rng.normal(size=n_features), rng.normal(size=(n_features, n_features)))


def make_flow(n_features, codes=None, *, n_blocks=4, **kwargs):
    flow = ConditionalFlow(n_features, codes, n_blocks=n_blocks, generator=seeded(), **kwargs)
    return randomised(flow)


def make_x(n_images, n_positions, n_features):
    return torch.randn(n_images, n_positions, n_features, generator=seeded(2)).double()


# ---------------------------------------------------------------- position codes


def slow_position_code(row, column, n_channels):
    """METHOD.md: half for x, half for y; frequencies exp(-2i ln(1e4) / (D/2))."""
    half = n_channels // 2
    code = []
    for place in (column, row):
        for i in range(half // 2):
            frequency = math.exp(-2 * i * math.log(1e4) / half)
            code += [math.sin(place * frequency), math.cos(place * frequency)]
    return code


def values(codes, bias=None):
    """Codes of all positions, by the map that a hidden layer has."""
    n_columns = codes.columns.shape[1]
    identity = torch.eye(n_columns + codes.rows.shape[1])[None]
    bias = torch.zeros(identity.shape[1]) if bias is None else bias
    weights = identity[..., :n_columns], identity[..., n_columns:]
    return codes.bias(*weights, bias[None], Workspace().empty)[0]


@pytest.mark.parametrize("n_channels", [4, 12, 256])
@pytest.mark.parametrize("height, width", [(1, 1), (3, 5), (5, 3), (1, 40)])
def test_position_codes_follow_the_formula(height, width, n_channels):
    expected = np.array(
        [slow_position_code(r, c, n_channels) for r in range(height) for c in range(width)]
    )
    codes = position_codes(height, width, n_channels)
    assert codes.columns.dtype == codes.rows.dtype == torch.float32
    found = values(codes)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    places = torch.arange(height * width)[::3]
    found = values(codes._replace(positions=places), torch.ones(n_channels))
    np.testing.assert_allclose(found.numpy(), expected[::3] + 1, rtol=0, atol=1e-6)


def test_position_codes_spend_half_on_columns_half_on_rows():
    codes = position_codes(3, 4, 16)
    assert codes.columns.shape == (4, 8) and codes.rows.shape == (3, 8)
    assert torch.pdist(values(codes)).min() > 0.1, "two positions share a code"


@pytest.mark.parametrize("n_channels", [2, 7, 254])
def test_position_codes_need_a_multiple_of_four(n_channels):
    with pytest.raises(ValueError, match=f"multiple of 4, got {n_channels}"):
        position_codes(2, 2, n_channels)


# ---------------------------------------------------------------- linear start


@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_linear_start_is_the_affine_map_with_its_log_det(n_features):
    rng = np.random.default_rng(0)
    mean, matrix = rng.normal(size=n_features), rng.normal(size=(n_features, n_features))
    start = LinearStart(mean, matrix)
    x = make_x(3, 2, n_features)
    z, log_det = start(x)
    np.testing.assert_allclose(z, np.einsum("...i,ij->...j", x.numpy() - mean, matrix))
    assert float(log_det) == pytest.approx(np.log(abs(np.linalg.det(matrix))), abs=1e-12)
    torch.testing.assert_close(start.inverse(z), x, rtol=0, atol=1e-10)
    assert not list(start.parameters()), "the start is fixed: nothing of it may be trained"


# ---------------------------------------------------------------- the stack


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("n_blocks", [0, 1, 6])
@pytest.mark.parametrize("n_features", [1, 2, 5, 8])
def test_log_det_is_that_of_the_jacobian(n_features, n_blocks, conditioned):
    """The whole way from raw features to latent vectors, at every position."""
    codes = position_codes(2, 2, 8) if conditioned else None
    level = LevelModel(
        make_start(n_features),
        make_flow(n_features, codes, n_blocks=n_blocks),
        HierarchicalMixture(class_means(2, n_features, 5.0), 1, generator=seeded()),
        (2, 2),
    )
    x = make_x(2, 4, n_features)
    z, log_det = level.latent(x)
    assert log_det.shape == (2, 4)
    for image in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda v: level.latent(v[None])[0][0], x[image]
        )
        for position in range(4):
            own = jacobian[position, :, position]
            expected = torch.linalg.slogdet(own)[1]
            torch.testing.assert_close(log_det[image, position], expected, rtol=0, atol=1e-10)
            others = [p for p in range(4) if p != position]
            assert not jacobian[position, :, others].any(), "positions touch each other"


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("n_features", [1, 2, 5, 16])
@torch.no_grad()
def test_inverse_is_exact_both_ways(n_features, conditioned):
    codes = position_codes(2, 3, 8) if conditioned else None
    start = make_start(n_features)
    flow = make_flow(n_features, codes, n_blocks=12)
    x = make_x(3, 6, n_features)
    z, _ = flow(start(x)[0])
    torch.testing.assert_close(start.inverse(flow.inverse(z)), x, rtol=0, atol=1e-10)
    back = flow(start(start.inverse(flow.inverse(x)))[0])[0]
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)


@torch.no_grad()
def test_single_precision_round_trip():
    flow = make_flow(16, position_codes(2, 3, 8), n_blocks=12).float()
    x = make_x(3, 6, 16).float()
    z, log_det = flow(x)
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(flow.inverse(z), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("chosen", [[2], [4, 0, 3], [5, 4, 3, 2, 1, 0]])
@torch.no_grad()
def test_chosen_positions_are_rows_of_all_positions(chosen):
    flow = make_flow(5, position_codes(2, 3, 8))
    x, chosen = make_x(3, 6, 5), torch.tensor(chosen)
    z, log_det = flow(x)
    some_z, some_log_det = flow(x[:, chosen], chosen)
    torch.testing.assert_close(some_z, z[:, chosen], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(some_log_det, log_det[:, chosen], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flow.inverse(some_z, chosen), x[:, chosen], rtol=0, atol=1e-10)
    # and the codes are at work: the same vectors elsewhere go elsewhere
    elsewhere, _ = flow(x[:, chosen], (chosen + 1) % 6)
    assert (elsewhere - some_z).abs().max() > 1e-3


@torch.no_grad()
def test_positions_change_nothing_without_codes():
    flow = make_flow(5)
    x, chosen = make_x(3, 6, 5), torch.tensor([4, 0])
    assert torch.equal(flow(x[:, chosen], chosen)[0], flow(x[:, chosen])[0])


@torch.no_grad()
def test_images_do_not_touch_each_other():
    flow = make_flow(5, position_codes(2, 3, 8))
    x = make_x(3, 6, 5)
    z, log_det = flow(x)
    for image in range(3):
        own_z, own_log_det = flow(x[[image]])
        torch.testing.assert_close(own_z, z[[image]], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(own_log_det, log_det[[image]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_features", [1, 2, 5])
@torch.no_grad()
def test_identity_start_only_rotates(n_features):
    flow = ConditionalFlow(
        n_features, position_codes(2, 3, 8), identity_start=True, generator=seeded()
    ).double()
    x = make_x(4, 6, n_features)
    z, log_det = flow(x)
    torch.testing.assert_close(log_det, torch.zeros_like(log_det), rtol=0, atol=1e-5)
    distances = torch.cdist(x.flatten(0, 1), x.flatten(0, 1))
    torch.testing.assert_close(
        torch.cdist(z.flatten(0, 1), z.flatten(0, 1)), distances, rtol=1e-5, atol=1e-5
    )


def test_published_number_of_blocks_is_the_default():
    assert len(ConditionalFlow(4, generator=seeded()).blocks.mix) == 12


@torch.no_grad()
def test_blocks_are_drawn_independently():
    flow = ConditionalFlow(4, n_blocks=3, generator=seeded())
    mixes = flow.blocks.mix.flatten(1)
    weights = flow.blocks.hidden_weight.flatten(1)
    assert torch.pdist(mixes).min() > 0.1 and torch.pdist(weights).min() > 0.1


def test_every_parameter_receives_a_gradient():
    flow = make_flow(5, position_codes(2, 3, 8), n_blocks=3)
    z, log_det = flow(make_x(20, 6, 5))
    (z.square().sum() + log_det.sum()).backward()
    still = [name for name, p in flow.named_parameters() if not p.grad.abs().max() > 0]
    assert not still


@pytest.mark.parametrize("n_features, n_blocks", [(1, 2), (5, 1), (6, 3), (4, 0)])
@torch.no_grad()
def test_the_last_mix_can_go_without_a_trace(n_features, n_blocks):
    """Distances to means and centers, densities and log-dets stay; z turns."""
    level = LevelModel(
        make_start(n_features),
        make_flow(n_features, position_codes(2, 2, 8), n_blocks=n_blocks),
        HierarchicalMixture(class_means(3, n_features, 5.0), 4, generator=seeded()),
        (2, 2),
    ).double()
    x, codes = make_x(6, 4, n_features), torch.arange(6) % 3
    before = level.latent(x)
    judged = level.evidence(*before, codes)
    likely = level.class_log_likelihood(before[0])
    level.drop_last_mix()
    after = level.latent(x)
    if n_blocks:
        assert torch.equal(level.flow.blocks.mix[-1], torch.eye(n_features).double())
        assert n_features == 1 or (after[0] - before[0]).abs().max() > 0.1
        torch.testing.assert_close(level.flow.inverse(after[0]), level.start(x)[0])
    torch.testing.assert_close(after[0].norm(dim=-1), before[0].norm(dim=-1))
    torch.testing.assert_close(after[1], before[1])
    for own, expected in zip(level.evidence(*after, codes), judged, strict=True):
        torch.testing.assert_close(own, expected)
    torch.testing.assert_close(level.class_log_likelihood(after[0]), likely)
    level.drop_last_mix()  # a second time changes nothing
    assert torch.equal(level.latent(x)[0], after[0])
