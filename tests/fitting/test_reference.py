"""The yardstick of the benchmarks: with the same weights it is skhgad's published configuration."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mixtures import log_density_within
from scipy.ndimage import gaussian_filter
from torch import nn

from benchmarks import reference, reference_maps
from skhgad import HGADDetector
from skhgad.fitting.schedule import training_plan
from skhgad.fitting.training import TERMS, level_loss, train
from skhgad.model.level import empty_level
from skhgad.model.losses import log_likelihood
from skhgad.model.mixture import entropy

CHANNELS, SHAPES = (6, 7), ((3, 4), (2, 2))
K, M, BLOCKS, CODES, N_IMAGES = 3, 4, 3, 8, 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_levels():
    """Levels of `HGADDetector.paper()`, every parameter moved off its start."""
    parameters = HGADDetector.paper(
        n_blocks=BLOCKS, position_channels=CODES, n_components=M, mixed_precision=False
    ).get_params(deep=False)
    generator = seeded()
    levels = [
        empty_level(parameters, d, shape, K, generator).double()
        for d, shape in zip(CHANNELS, SHAPES, strict=True)
    ]
    with torch.no_grad():
        for level in levels:
            for parameter in level.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return parameters, levels


def blocks_of(level):
    """Parameters and their gradients, block by block."""
    blocks = level.flow.blocks
    for number in range(BLOCKS):
        found = SimpleNamespace(mix=blocks.mix[number])
        for name, parameter in blocks.named_parameters():
            own = parameter[number].detach()
            own.grad = None if parameter.grad is None else parameter.grad[number]
            setattr(found, name, own)
        yield found


def make_reference(levels, **kwargs):
    """The reference with the weights of `levels`."""
    model = reference.ReferenceHGAD(
        CHANNELS, K, n_steps=100, n_blocks=BLOCKS, position_channels=CODES, n_centers=M, **kwargs
    ).double()
    with torch.no_grad():
        for i, level in enumerate(levels):
            for theirs, ours in zip(model.flows[i], blocks_of(level), strict=True):
                weight = torch.cat((ours.hidden_weight, ours.column_weight, ours.row_weight), dim=1)
                theirs.subnet[0].weight.copy_(weight)
                theirs.subnet[0].bias.copy_(ours.hidden_bias)
                theirs.subnet[2].weight.copy_(ours.output_weight)
                theirs.subnet[2].bias.copy_(ours.output_bias)
                theirs.global_scale.copy_(ours.raw_scale[None])
                theirs.global_offset.copy_(ours.offset[None])
                theirs.w_perm.copy_(ours.mix)
            mixture = level.mixture
            model.means[i].copy_(mixture.means)
            model.deltas[i].copy_(mixture.offsets)
            model.class_logits[i].copy_(mixture.prior_logits)
            model.center_logits[i].copy_(mixture.center_logits)
    return model


def make_data(n_images=N_IMAGES):
    """Maps of both levels, (n, channels, h, w), and the classes of the images."""
    codes = torch.arange(n_images) % K
    maps = [
        torch.randn(n_images, d, *shape, generator=seeded(d)).double() + codes.view(-1, 1, 1, 1)
        for d, shape in zip(CHANNELS, SHAPES, strict=True)
    ]
    return maps, codes


def vectors(maps):
    """The same as skhgad lays it out, (n, positions, channels)."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def pairs_of(model, index, level):
    """The same parameters in both models: (name, the reference's, skhgad's)."""
    yield "means", model.means[index], level.mixture.means
    yield "deltas", model.deltas[index], level.mixture.offsets
    yield "class_logits", model.class_logits[index], level.mixture.prior_logits
    yield "center_logits", model.center_logits[index], level.mixture.center_logits
    for number, (theirs, ours) in enumerate(zip(model.flows[index], blocks_of(level), strict=True)):
        yield f"hidden bias {number}", theirs.subnet[0].bias, ours.hidden_bias
        yield f"output weight {number}", theirs.subnet[2].weight, ours.output_weight
        yield f"scale {number}", theirs.global_scale, ours.raw_scale
        yield f"offset {number}", theirs.global_offset, ours.offset


@pytest.mark.parametrize("second_stage", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_losses_and_gradients_are_those_of_skhgad(index, second_stage):
    parameters, levels = make_levels()
    model, level = make_reference(levels), levels[index]
    maps, codes = make_data()
    plan = training_plan(parameters, len(codes), [(1, 2, 2)], torch.device("cpu"))
    expected, terms = level_loss(level, vectors(maps[index]), codes, None, plan, second_stage)
    losses = model.losses(index, maps[index], codes)
    counted = TERMS if second_stage else TERMS[:3]
    for name, term in zip(counted, terms, strict=False):
        assert float(losses[name].detach()) == pytest.approx(float(term), rel=1e-5), name
    found = model.objective(losses, second_stage)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.backward()
    expected.backward()
    for name, theirs, ours in pairs_of(model, index, level):
        if name in ("deltas", "center_logits") and not second_stage:
            assert theirs.grad is None and ours.grad is None
            continue
        assert ours.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(
            theirs.grad.view_as(ours), ours.grad, rtol=1e-4, atol=1e-6, msg=name
        )


def test_training_goes_where_skhgads_goes(monkeypatch):
    """Adam, decay, stages and both learning rates, over 20 steps of the same schedule."""
    parameters, levels = make_levels()
    parameters |= {"max_iter": 20, "batch_size": N_IMAGES}  # all in one batch: no order matters
    plan = training_plan(parameters, N_IMAGES, [(1, 2, 2)], torch.device("cpu"))
    model = make_reference(levels, batch_size=N_IMAGES)
    model.n_steps = 20
    # The schedules differ in how the warm-up meets the cosine.
    monkeypatch.setattr(
        model, "_learning_rate", lambda: plan.learning_rate * plan.lr_factor(model.step, 20)
    )
    maps, codes = make_data()
    before = [ours.detach().clone() for _, _, ours in pairs_of(model, 0, levels[0])]
    losses = model.fit(maps, codes, n_passes=20)
    data = [vectors(level) for level in maps]
    rows = np.arange(N_IMAGES)
    history = train(levels, lambda i, rows, _: data[i][rows], rows, codes, plan, seeded())
    np.testing.assert_allclose(losses, [record["loss"] for record in history], rtol=1e-4)
    for index, level in enumerate(levels):
        for name, theirs, ours in pairs_of(model, index, level):
            torch.testing.assert_close(
                theirs.view_as(ours), ours, rtol=1e-4, atol=1e-5, msg=f"{index}: {name}"
            )
    moved = [
        float((ours.detach() - start).abs().max())
        for start, (_, _, ours) in zip(before, pairs_of(model, 0, levels[0]), strict=True)
    ]
    assert min(moved) > 1e-3  # far beyond the tolerance


def test_learning_rate_warms_up_then_falls_to_a_thousandth():
    model = reference.ReferenceHGAD([4], 2, n_steps=1000, n_blocks=1, position_channels=4)
    rates = []
    for model.step in range(1001):
        rates.append(model._learning_rate())
    assert rates[0] == pytest.approx(2e-5)
    assert np.argmax(rates) == 80
    assert rates[500] == pytest.approx(1e-4, rel=2e-3)
    assert rates[-1] == pytest.approx(2e-7)


def test_a_pass_visits_every_image_of_full_batches():
    seen = []

    class Spy(nn.Module):
        def forward(self, pixels):
            seen.append(pixels[:, 0, 0, 0].tolist())
            return [pixels.permute(0, 3, 1, 2).float()[:, :, :2, :2].clone()]

    pixels = torch.arange(11, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 4, 4, 3)
    model = reference.ReferenceHGAD(
        [3], 2, Spy(), n_steps=10, n_blocks=1, position_channels=4, batch_size=4
    )
    model.fit(pixels, torch.arange(11) % 2, n_passes=2)
    assert [len(batch) for batch in seen] == [4] * 4
    assert all(len(set(seen[i] + seen[i + 1])) == 8 for i in (0, 2))
    assert seen[:2] != seen[2:]


@torch.no_grad()
def test_evidence_is_that_of_skhgads_levels():
    _, levels = make_levels()
    model = make_reference(levels)
    maps, codes = make_data(n_images=30)
    maps = [4 * level for level in maps]  # spread over the classes
    likelihoods, entropies, labels = model.evidence(maps, codes)
    assert torch.equal(labels, codes)
    totals = 0
    for index, level in enumerate(levels):
        z, log_det = level.flow(vectors(maps[index]))
        every = log_likelihood(
            log_density_within(level.mixture, z), log_det[..., None], z.shape[-1]
        )
        totals = totals + z.shape[-1] * every.sum(1)
        own = every[torch.arange(30), :, codes].unflatten(1, SHAPES[index])
        undecided = entropy(level.mixture.class_logits(z)).unflatten(1, SHAPES[index])
        torch.testing.assert_close(likelihoods[index], own, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(entropies[index], -undecided, rtol=1e-5, atol=1e-6)
    for batch_size in (1, 4):
        _, _, inferred = model.evidence(maps, batch_size=batch_size)
        assert torch.equal(inferred, totals.argmax(1))
    assert len(set(inferred.tolist())) == K


def test_maps_are_the_published_product():
    """By hand on the grid of the only level, where nothing is interpolated."""
    rng = np.random.default_rng(0)
    likelihood, negative_entropy = rng.normal(size=(2, 3, 9, 9))
    found, _ = reference_maps.anomaly_maps(
        [torch.from_numpy(likelihood)], [torch.from_numpy(negative_entropy)], (9, 9)
    )
    factors = []
    for values in (likelihood, negative_entropy):
        anomaly = 1 - np.exp(values - values.max())
        factors.append([gaussian_filter(m, 4) for m in anomaly])
    np.testing.assert_allclose(found, np.multiply(*factors), rtol=1e-12)


def test_frozen_maps_do_not_depend_on_companions():
    rng = np.random.default_rng(1)
    values = [torch.from_numpy(rng.normal(size=(4, n, n))) for n in (8, 4)]
    opposite = [-level for level in values]
    _, constants = reference_maps.anomaly_maps(values, opposite, (8, 8))

    def maps(rows, constants):
        chosen = ([level[rows] for level in kind] for kind in (values, opposite))
        return reference_maps.anomaly_maps(*chosen, (8, 8), constants)[0]

    np.testing.assert_array_equal(maps([2], constants)[0], maps([0, 2, 3], constants)[1])
    assert not np.allclose(maps([2], None)[0], maps([0, 2, 3], None)[1])


def test_encoder_sees_every_scale():
    seen = []

    class Backbone(nn.Module):
        def forward(self, x):
            seen.append(x)
            return [x[:, :2], x]

    encoder = reference.Encoder(Backbone(), (1.0, 0.5, 0.25), [0.5] * 3, [0.25] * 3)
    pixels = torch.full((2, 8, 12, 3), 51, dtype=torch.uint8)
    levels = encoder(pixels)
    assert [tuple(x.shape) for x in seen] == [(2, 3, 8, 12), (2, 3, 4, 6), (2, 3, 2, 3)]
    assert [level.shape[1] for level in levels] == [2, 3] * 3
    for x in seen:
        torch.testing.assert_close(x, torch.full_like(x, (0.2 - 0.5) / 0.25))


def test_fewer_features_than_classes_have_no_published_start():
    with pytest.raises(ValueError, match="5 classes need as many features"):
        reference.ReferenceHGAD([4], 5, n_steps=1)
