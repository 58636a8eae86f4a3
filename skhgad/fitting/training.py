"""Two-stage training of all levels at once, by stochastic gradient steps."""

import math
import time

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from ..callbacks.pass_info import PassInfo
from ..devices import to_device
from ..model.losses import (
    entropy_loss,
    inter_class_loss,
    intra_class_loss,
    likelihood_margin_loss,
    mutual_information,
    smooth_one_hot,
)
from ..model.workspace import Workspace
from .objective import TrainingStep, step_loss
from .processes import ALONE

TERMS = ("inter_class", "mutual_information", "entropy", "intra_class", "likelihood_margin")


def level_loss(level, x, codes, positions, plan, second_stage, workspace=None):
    """Return the 0-d loss of one level on one batch, and the unweighted means of `TERMS`, detached.

    `x` of shape (n_images, n_positions, n_features) has passed the level's start. `positions` are
    those on its second axis; None = all. Terms not yet counted are nan.
    """
    product_dtype = torch.bfloat16 if plan.mixed_precision else None
    z, log_det = level.flow(x, positions, product_dtype, workspace)
    mixture, n_features = level.mixture, x.shape[-1]
    logits, log_prior = mixture.class_logits(z), mixture.log_prior()
    targets = smooth_one_hot(codes, len(log_prior), plan.label_smoothing)[:, None].to(z.dtype)
    inter = inter_class_loss(logits, log_prior, log_det, n_features).mean()
    information = mutual_information(logits, log_prior, targets).mean()
    posterior_entropy = entropy_loss(logits).mean()
    terms = [inter, information, posterior_entropy]
    if second_stage and plan.lambda_intra:
        density = mixture.log_density_within_class(z, codes)
        intra = intra_class_loss(density, log_det, n_features).mean()
        margin = likelihood_margin_loss(density, log_det, n_features).mean()
        terms += [intra, margin]
    named = dict(zip(TERMS, terms, strict=False))
    step = TrainingStep(z, log_det, codes, mixture, named, plan.weights)
    loss = step_loss(plan.loss, step)
    terms += [torch.full_like(inter, float("nan"))] * (len(TERMS) - len(terms))
    return loss, torch.stack(terms).detach()


def train(levels, read, rows, codes, plan, generator, *, on_pass=None, processes=ALONE):
    """Train flows and mixtures in place.

    read(level_index, rows, positions), positions None = all, returns features (n, n_positions,
    n_features) after the level's start, on the levels' device and of their dtype. `rows` are the
    images to train on; `codes`, an int64 Tensor, holds the class of every image. `generator`, on
    the CPU, draws the order of images and the positions. on_pass(pass_number, record) is called
    after each pass. All processes draw the same batches; each reads its own images.

    Returns a record, a dict, for each pass: "loss", the learning rate and every term, means over
    steps, summed over levels. Raises FloatingPointError if a loss is not finite.
    """
    device = next(levels[0].parameters()).device
    optimizer = _optimizer(levels, plan)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    batches = math.ceil(len(rows) / plan.batch_size)
    n_steps = plan.n_passes * batches
    schedule = LambdaLR(optimizer, lambda step: plan.lr_factor(step, n_steps))
    spare = processes.own(np.arange(len(codes)))[:1]
    workspaces = [Workspace() for _ in levels]
    history, step = [], 0
    for number in range(1, plan.n_passes + 1):
        totals = torch.zeros(len(TERMS), device=device)
        total_loss = torch.zeros((), device=device)
        order = rows[torch.randperm(len(rows), generator=generator).numpy()]
        for batch in np.array_split(order, batches):
            chosen = processes.own(batch)
            # The means of the processes, weighted like this, add up to the batch's mean.
            share = len(chosen) / len(batch)
            # A process with no image in this batch runs one with weight 0 to have gradients.
            chosen = chosen if len(chosen) else spare
            second_stage = plan.in_second_stage(step, n_steps)
            optimizer.zero_grad(set_to_none=True)
            for index, level in enumerate(levels):
                positions = _draw_positions(level.map_shape, plan.position_fraction, generator)
                if positions is not None:
                    positions = to_device(positions, device)
                x, x_codes = read(index, chosen, positions), to_device(codes[chosen], device)
                loss, terms = level_loss(
                    level, x, x_codes, positions, plan, second_stage, workspaces[index]
                )
                (share * loss).backward()  # levels share no parameter: their gradients never mix
                total_loss += share * loss.detach()
                totals += share * terms
            processes.sum_gradients(parameters)
            optimizer.step()
            learning_rate = schedule.get_last_lr()[0]
            schedule.step()
            step += 1
        total_loss, totals = processes.total(total_loss), processes.total(totals)
        record = {"loss": float(total_loss) / batches, "learning_rate": learning_rate}
        _check_finite(record["loss"], number)
        record.update(zip(TERMS, (totals / batches).tolist(), strict=True))
        history.append(record)
        if on_pass is not None:
            on_pass(number, record)
    return history


def train_levels(levels, samples, plan, generator, device, *, verbose=0, on_pass=None):
    """Train the levels on LabelledSamples; they stay on `device`. Return the history, as `train`.

    `verbose` >= 1 shows a progress bar. on_pass(info, levels), with a PassInfo, is called after
    each pass.
    """
    if not plan.n_passes:  # an optimiser would import torch's compiler
        return []
    cache = samples.cache
    starts = [level.start.to(device) for level in levels]
    for level in levels:
        level.flow.to(device)
        level.mixture.to(device)
    quiet = verbose < 1 or not cache.processes.is_first
    bar = tqdm(total=plan.n_passes, desc="training", unit="pass", disable=quiet)

    def read(level, rows, positions):
        x = to_device(cache.read(level, rows), device)
        if positions is not None:
            x = x[:, positions]
        return starts[level](x)[0].float()

    clock = [time.perf_counter()]

    def after_pass(number, record):
        bar.set_postfix(loss=f"{record['loss']:.4g}")
        bar.update()
        clock.append(time.perf_counter())
        if on_pass is not None:
            losses = {name: value for name, value in record.items() if name != "learning_rate"}
            seconds = clock[-1] - clock[-2]
            on_pass(
                PassInfo(
                    number, plan.n_passes, losses, record["learning_rate"], seconds, len(samples)
                ),
                levels,
            )
            clock[-1] = time.perf_counter()  # the time of the callbacks is not that of a pass

    with bar:
        return train(
            levels, read, samples.rows, torch.from_numpy(samples.codes), plan, generator,
            on_pass=after_pass, processes=cache.processes,
        )  # fmt: skip


def _optimizer(levels, plan):
    flows = [p for level in levels for p in level.flow.parameters()]
    mixtures = [p for level in levels for p in level.mixture.parameters()]
    rate = plan.learning_rate
    return torch.optim.Adam(
        [
            {"params": flows, "lr": rate, "weight_decay": plan.weight_decay},
            {"params": mixtures, "lr": rate * plan.center_lr_factor, "weight_decay": 0.0},
        ],
        betas=plan.betas,
        fused=True,
    )


def _check_finite(loss, number):
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"training diverged in pass {number}: the loss is {loss}. Lower learning_rate, keep "
            "start='whitened', or scale the features (sklearn.preprocessing.StandardScaler)."
        )


def _draw_positions(map_shape, fraction, generator):
    """Draw the positions of a step; None when all take part."""
    n_positions = math.prod(map_shape)
    n_drawn = max(1, math.ceil(fraction * n_positions))
    if n_drawn == n_positions:
        return None
    return torch.randperm(n_positions, generator=generator)[:n_drawn]
