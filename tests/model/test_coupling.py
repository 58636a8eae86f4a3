"""The coupling block, alone and stacked, against FrEIA, autograd and its own inverse."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from FrEIA.modules import AllInOneBlock
from scipy import stats
from torch import nn

from skhgad.model.coupling import CouplingBlocks, linear_parameters, random_orthogonal
from skhgad.model.flow import ConditionalFlow
from skhgad.model.positions import GridCondition, position_codes
from skhgad.model.workspace import Workspace

DIMENSIONS = [1, 2, 3, 6, 7]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randomised(block, seed=1):
    """Move every parameter off its start, so that no factor of the block is one or zero."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 3 * torch.randn(parameter.shape, generator=generator)
    return block.double()


def make_inputs(n_features, n_conditions, n_images=3, n_positions=5):
    x = 2 * torch.randn(n_images, n_positions, n_features, generator=seeded(2)).double()
    condition = torch.randn(n_positions, n_conditions, generator=seeded(3)).double()
    return x, one_row(condition) if n_conditions else None


def one_row(condition):
    return GridCondition(condition, torch.zeros(1, 0, dtype=torch.float64))


def of_positions(condition):
    """Condition of each position of the grid, (n_positions, n_conditions)."""
    height, width = len(condition.rows), len(condition.columns)
    columns = condition.columns.repeat(height, 1)
    return torch.cat((columns, condition.rows.repeat_interleave(width, 0)), dim=1)


def freia_block(blocks, number=0):
    """FrEIA's block with the weights of one of ours."""
    block = SimpleNamespace(**{name: p[number] for name, p in blocks.state_dict().items()})
    weight = torch.cat((block.hidden_weight, block.column_weight, block.row_weight), 1)
    n_features = len(block.offset)
    n_conditions = weight.shape[1] - block.hidden_weight.shape[1]

    def subnet(n_in, n_out):
        network = nn.Sequential(
            nn.Linear(n_in, len(block.hidden_bias)),
            nn.ReLU(),
            nn.Linear(len(block.hidden_bias), n_out),
        ).double()
        with torch.no_grad():
            network[0].weight.copy_(weight)
            network[0].bias.copy_(block.hidden_bias)
            network[2].weight.copy_(block.output_weight)
            network[2].bias.copy_(block.output_bias)
        return network

    theirs = AllInOneBlock(
        [(n_features,)],
        dims_c=[(n_conditions,)] if n_conditions else [],
        subnet_constructor=subnet,
        affine_clamping=1.9,
        global_affine_type="SOFTPLUS",
        permute_soft=True,
    )
    with torch.no_grad():
        theirs.global_scale.data = block.raw_scale.detach()[None].clone()
        theirs.global_offset.data = block.offset.detach()[None].clone()
        theirs.w_perm.data = block.mix.clone()
        theirs.w_perm_inv.data = block.mix.T.clone()
    return theirs


def freia_forward(blocks, x, condition):
    """Run FrEIA's blocks in a row on all positions of all images, each with its condition."""
    z = x.flatten(0, 1)
    c = [] if condition is None else [of_positions(condition).repeat(len(x), 1)]
    log_det = torch.zeros(len(z), dtype=torch.float64)
    for block in blocks:
        (z,), own = block((z,), c=c)
        log_det = log_det + own
    return z.reshape(x.shape), log_det.reshape(x.shape[:-1])


@pytest.mark.parametrize("n_conditions", [0, 4])
@pytest.mark.parametrize("n_features", [2, 3, 6, 7, 16])
@torch.no_grad()
def test_same_as_freia(n_features, n_conditions):
    block = randomised(CouplingBlocks(n_features, (n_conditions, 0), generator=seeded()))
    x, condition = make_inputs(n_features, n_conditions)
    z, log_det = block(x, condition)
    expected_z, expected_log_det = freia_forward([freia_block(block)], x, condition)
    torch.testing.assert_close(z, expected_z, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_det, expected_log_det, rtol=1e-12, atol=1e-12)
    # The agreement means something only where every part of the map is at work.
    assert log_det.std() > 0.1
    (back,), _ = freia_block(block)(
        (z.flatten(0, 1),),
        c=[] if condition is None else [of_positions(condition).repeat(len(x), 1)],
        rev=True,
    )
    torch.testing.assert_close(block.inverse(z, condition).flatten(0, 1), back)


@pytest.mark.parametrize("map_shape", [None, (2, 3)])
@pytest.mark.parametrize("n_features", [5, 8])
@torch.no_grad()
def test_flow_same_as_freia(n_features, map_shape):
    codes = None if map_shape is None else position_codes(*map_shape, 8)
    flow = randomised(ConditionalFlow(n_features, codes, n_blocks=5, generator=seeded(5)))
    x, _ = make_inputs(n_features, 0, n_positions=6)
    z, log_det = flow(x)
    expected = freia_forward([freia_block(flow.blocks, i) for i in range(5)], x, codes)
    torch.testing.assert_close(z, expected[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(log_det, expected[1], rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_untrained_affine_map_is_freias():
    """Both start with scale 1 and offset 0: the constant behind the raw scale is the same."""
    block = CouplingBlocks(6, generator=seeded())
    theirs = AllInOneBlock(
        [(6,)],
        subnet_constructor=nn.Linear,
        affine_clamping=1.9,
        global_affine_type="SOFTPLUS",
        permute_soft=True,
    )
    torch.testing.assert_close(block.raw_scale, theirs.global_scale.detach())
    torch.testing.assert_close(block.offset, theirs.global_offset.detach())
    scale = 0.1 * nn.functional.softplus(block.raw_scale[0].double(), beta=0.5)
    torch.testing.assert_close(scale, torch.ones(6).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("clamp", [0.5, 1.9])
@pytest.mark.parametrize("n_conditions", [0, 4])
@pytest.mark.parametrize("n_features", DIMENSIONS)
def test_log_det_is_that_of_the_jacobian(n_features, n_conditions, clamp):
    block = randomised(
        CouplingBlocks(n_features, (n_conditions, 0), clamp=clamp, generator=seeded())
    )
    x, condition = make_inputs(n_features, n_conditions, n_images=2, n_positions=3)
    _, log_det = block(x, condition)
    for image in range(2):
        for position in range(3):
            own = None if condition is None else one_row(condition.columns[[position]])
            jacobian = torch.autograd.functional.jacobian(
                lambda v, own=own: block(v[None, None], own)[0][0, 0], x[image, position]
            )
            expected = torch.linalg.slogdet(jacobian)[1]
            torch.testing.assert_close(log_det[image, position], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_conditions", [0, 4])
@pytest.mark.parametrize("n_features", DIMENSIONS)
@torch.no_grad()
def test_inverse_is_exact_both_ways(n_features, n_conditions):
    block = randomised(CouplingBlocks(n_features, (n_conditions, 0), generator=seeded()))
    x, condition = make_inputs(n_features, n_conditions)
    z, _ = block(x, condition)
    assert (z - x).abs().max() > 0.1
    torch.testing.assert_close(block.inverse(z, condition), x, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        block(block.inverse(x, condition), condition)[0], x, rtol=0, atol=1e-10
    )


@torch.no_grad()
def test_log_scale_stays_within_the_clamp():
    block = CouplingBlocks(6, clamp=1.9, generator=seeded()).double()
    block.output_weight *= 1e6  # saturates tanh
    x, _ = make_inputs(6, 0, n_images=50)
    _, log_det = block(x)
    # 3 active channels of at most 1.9 each; the affine map adds nothing at its start
    assert log_det.abs().max() <= 3 * 1.9 + 1e-5
    assert log_det.abs().max() > 3 * 1.9 - 1e-5


@pytest.mark.parametrize("n_features", DIMENSIONS)
@torch.no_grad()
def test_identity_start_is_a_rotation(n_features):
    block = CouplingBlocks(n_features, (4, 0), identity_start=True, generator=seeded()).double()
    x, condition = make_inputs(n_features, 4)
    z, log_det = block(x, condition)
    torch.testing.assert_close(log_det, torch.zeros_like(log_det), rtol=0, atol=1e-5)
    torch.testing.assert_close(z, x @ block.mix[0].T, rtol=0, atol=1e-5)
    norms = x.norm(dim=-1)
    torch.testing.assert_close(z.norm(dim=-1), norms, rtol=1e-6, atol=0)


@torch.no_grad()
def test_published_start_is_no_rotation():
    block = CouplingBlocks(6, (4, 0), generator=seeded()).double()
    x, condition = make_inputs(6, 4)
    assert block(x, condition)[1].abs().min() > 1e-4


@pytest.mark.parametrize("n_features, n_conditions, ratio", [(7, 0, 2.0), (6, 4, 2.0), (6, 4, 0.5)])
def test_hidden_width_is_a_multiple_of_the_input_width(n_features, n_conditions, ratio):
    block = CouplingBlocks(n_features, (n_conditions, 0), hidden_ratio=ratio, generator=seeded())
    width = {(7, 0, 2.0): 8, (6, 4, 2.0): 14, (6, 4, 0.5): 4}[n_features, n_conditions, ratio]
    assert block.hidden_bias.shape == (1, width)
    assert block.output_weight.shape == (1, 2 * (n_features // 2), width)


@torch.no_grad()
def test_condition_of_a_position_acts_there_only():
    block = randomised(CouplingBlocks(5, (3, 0), generator=seeded()))
    x, condition = make_inputs(5, 3)
    z, log_det = block(x, condition)
    moved = one_row(condition.columns.clone())
    moved.columns[1] += 1
    moved_z, moved_log_det = block(x, moved)
    changed = (z != moved_z).any(-1)
    assert changed[:, 1].all() and not changed[:, [0, 2, 3, 4]].any()
    assert torch.equal(log_det[:, 0], moved_log_det[:, 0])
    assert (log_det[:, 1] != moved_log_det[:, 1]).all()


def test_generator_decides_everything():
    def tensors(seed):
        return CouplingBlocks(6, (4, 0), generator=seeded(seed)).state_dict()

    torch.manual_seed(0)
    first = tensors(7)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    again, other = tensors(7), tensors(8)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = ["hidden_weight", "column_weight", "hidden_bias", "output_weight", "output_bias"]
    assert all(not torch.equal(first[name], other[name]) for name in [*drawn, "mix"])


@pytest.mark.parametrize("n_features", DIMENSIONS)
def test_random_orthogonal_is_orthogonal(n_features):
    matrix = random_orthogonal(n_features, seeded())
    identity = torch.eye(n_features, dtype=torch.float64)
    torch.testing.assert_close(matrix.double() @ matrix.double().T, identity, rtol=0, atol=1e-13)


def test_random_orthogonal_is_uniform():
    """Under the Haar measure of O(2), the angle of the first column is uniform, both halves meet.

    Without the sign of R's diagonal, LAPACK's QR leaves the first column in one half plane.
    """
    generator = seeded()
    matrices = torch.stack([random_orthogonal(2, generator) for _ in range(500)]).double()
    angles = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]).numpy()
    uniform = stats.uniform(-np.pi, 2 * np.pi)
    assert stats.kstest(angles, uniform.cdf).pvalue > 1e-3
    assert 200 < (torch.linalg.det(matrices) > 0).sum() < 300


def test_linear_parameters_are_drawn_as_torch_does():
    """Uniform on +-1/sqrt(n_in), as the default of `torch.nn.Linear`."""
    weight, bias = linear_parameters(9, 2000, seeded())
    theirs = nn.Linear(9, 2000)
    bound = theirs.weight.abs().max().item()  # 18000 draws: within 0.1 % of the limit
    assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert bias.abs().max().item() == pytest.approx(bound, rel=1e-2)
    for values in (weight, bias):
        uniform = stats.uniform(-1 / 3, 2 / 3)
        assert stats.kstest(values.detach().numpy().ravel(), uniform.cdf).pvalue > 1e-3


CONDITIONS = {
    "none": None,
    "all positions": None,
    "some positions": torch.tensor([4, 0, 2]),
}


def conditioned(kind):
    """Two blocks, every parameter at work, on a grid of 2 x 3; vectors and their condition."""
    n_conditions = (0, 0) if kind == "none" else (2, 3)
    blocks = randomised(CouplingBlocks(5, n_conditions, n_blocks=2, generator=seeded()))
    with torch.no_grad():  # no chaos
        blocks.hidden_weight /= 5
    positions = CONDITIONS[kind]
    x, _ = make_inputs(5, 0, n_images=2, n_positions=6 if positions is None else 3)
    codes = [torch.randn(*shape, generator=seeded(4)).double() for shape in ((3, 2), (2, 3))]
    return blocks, x, None if kind == "none" else GridCondition(*codes, positions)


@pytest.mark.once
@pytest.mark.parametrize("kind", CONDITIONS)
def test_gradients_are_those_of_finite_differences(kind):
    blocks, x, condition = conditioned(kind)
    names, weights = zip(*blocks.named_parameters(), strict=True)

    def run(x, *weights):
        parameters = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(blocks, parameters, (x, condition))

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *weights))
    with torch.no_grad():
        without = blocks(x, condition)
    for found, expected in zip(blocks(x, condition), without, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_gradients_do_not_depend_on_the_memory_they_are_made_in(kind):
    """Steps of one workspace, of batches that grow, shrink and change their dtype."""
    blocks, x, condition = conditioned(kind)
    workspace = Workspace()

    def gradients(x, dtype, workspace):
        blocks.zero_grad()
        z, log_det = blocks(x, condition, dtype, workspace)
        (z.square().sum() + log_det.sin().sum()).backward()
        return [z.detach().clone(), *(p.grad.clone() for p in blocks.parameters() if p.numel())]

    more = torch.cat((x, x + 1, x - 1))
    for batch, dtype in ((x, None), (more, None), (x + 1, torch.float32), (x - 1, None), (x, None)):
        expected = gradients(batch, dtype, None)
        for found, own in zip(gradients(batch, dtype, workspace), expected, strict=True):
            assert torch.equal(found, own)
    buffers = list(workspace.buffers)
    gradients(more, None, workspace)
    assert any(a is not b for a, b in zip(workspace.buffers, buffers, strict=True))  # too small
    buffers = list(workspace.buffers)
    gradients(x, None, workspace)
    assert all(a is b for a, b in zip(workspace.buffers, buffers, strict=True))


@torch.no_grad()
def test_frozen_blocks_compute_their_constants_once(monkeypatch):
    blocks, x, condition = conditioned("all positions")
    before = blocks(x, condition)
    blocks.freeze(condition)
    monkeypatch.setattr(blocks, "_weights", None)  # not asked for again
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(blocks(x, condition), before, strict=True))


@pytest.mark.parametrize("change", ["load", "move", "drop", "pickle", "thaw"])
@torch.no_grad()
def test_what_changes_frozen_blocks_thaws_them(change):
    blocks, x, condition = conditioned("all positions")
    before = blocks(x, condition)[0]
    blocks.freeze(condition)
    if change == "load":
        state = {name: value + 0.1 for name, value in blocks.state_dict().items()}
        blocks.load_state_dict(state)
        assert (blocks(x, condition)[0] != before).any()
    elif change == "move":
        blocks.float()
        condition = GridCondition(condition.columns.float(), condition.rows.float())
        found = blocks(x.float(), condition)[0]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), before, rtol=1e-4, atol=1e-4)
    elif change == "drop":
        turn = blocks.drop_last_mix()
        torch.testing.assert_close(blocks(x, condition)[0], before @ turn)
    elif change == "pickle":
        blocks = pickle.loads(pickle.dumps(blocks))
        blocks.offset += 0.1
        assert (blocks(x, condition)[0] != before).any()
    else:
        blocks.thaw()
        blocks.offset += 0.1
        assert (blocks(x, condition)[0] != before).any()


@torch.no_grad()
def test_scoring_sees_every_change_of_a_parameter():
    """Blocks that are not frozen keep nothing."""
    blocks, x, condition = conditioned("all positions")
    before = blocks(x, condition)
    for name, parameter in blocks.named_parameters():
        parameter += 0.1
        after = blocks(x, condition)
        assert (after[0] != before[0]).any(), name
        before = after
    state = {name: value + 0.1 for name, value in blocks.state_dict().items()}
    blocks.load_state_dict(state)
    assert (blocks(x, condition)[0] != before[0]).any()
    other = GridCondition(condition.columns + 1, condition.rows)
    assert (blocks(x, other)[0] != blocks(x, condition)[0]).any()
    some = condition._replace(positions=torch.tensor([0, 3, 5]))
    for positions in (some.positions, some.positions.flip(0)):
        found = blocks(x[:, positions], some._replace(positions=positions))[0]
        torch.testing.assert_close(found, blocks(x, condition)[0][:, positions])
