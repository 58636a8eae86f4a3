"""Two-stage training of all levels at once, by stochastic gradient steps on batches of images."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..model.losses import (
    entropy_loss,
    inter_class_loss,
    intra_class_loss,
    likelihood_margin_loss,
    mutual_information,
    smooth_one_hot,
)
from ..model.workspace import Workspace
from ..parameters import sent
from .processes import ALONE

TERMS = ("inter_class", "mutual_information", "entropy", "intra_class", "likelihood_margin")


@dataclass
class TrainingPlan:
    """Numbers of the optimisation; see `HGADDetector` for their meaning.

    The two-stage switch, the warm-up and the learning rate are functions of the step alone.
    """

    n_passes: int
    batch_size: int
    learning_rate: float
    center_lr_factor: float
    betas: tuple
    weight_decay: float
    warmup_fraction: float
    final_lr_fraction: float
    first_stage_fraction: float
    lambda_inter: float
    lambda_mi: float
    lambda_entropy: float
    lambda_intra: float
    label_smoothing: float
    position_fraction: float
    # Products of the coupling networks in bfloat16: half the time where the processor has it.
    mixed_precision: bool = False

    def lr_factor(self, step, n_steps):
        """Learning rate at `step` over its peak: linear warm-up, then cosine decay."""
        n_warmup = max(1, round(self.warmup_fraction * n_steps))
        if step < n_warmup:
            return (step + 1) / n_warmup
        progress = (step - n_warmup) / max(1, n_steps - n_warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.final_lr_fraction + (1 - self.final_lr_fraction) * cosine

    def in_second_stage(self, step, n_steps):
        """Whether the intra-class terms count at `step`."""
        return step >= round(self.first_stage_fraction * n_steps)


def level_loss(level, x, codes, positions, plan, second_stage, workspace=None):
    """Objective of one level on one batch.

    Parameters
    ----------
    level : LevelModel
    x : Tensor of shape (n_images, n_positions, n_features)
        Features after the level's start.
    codes : Tensor of shape (n_images,), int64
    positions : Tensor of int64 or None
        Positions held by the second axis; None = all.
    plan : TrainingPlan
    second_stage : bool
    workspace : Workspace, default=None
        See `CouplingBlocks.forward`.

    Returns
    -------
    loss : Tensor, 0-d
    terms : Tensor of shape (5,)
        Unweighted means of `TERMS`, detached; nan for terms not yet counted.
    """
    product_dtype = torch.bfloat16 if plan.mixed_precision else None
    z, log_det = level.flow(x, positions, product_dtype, workspace)
    mixture, n_features = level.mixture, x.shape[-1]
    logits, log_prior = mixture.class_logits_of(z), mixture.log_prior()
    targets = smooth_one_hot(codes, len(log_prior), plan.label_smoothing)[:, None].to(z.dtype)
    inter = inter_class_loss(logits, log_prior, log_det, n_features).mean()
    information = mutual_information(logits, log_prior, targets).mean()
    posterior_entropy = entropy_loss(logits).mean()
    loss = (
        plan.lambda_inter * inter
        - plan.lambda_mi * information
        + plan.lambda_entropy * posterior_entropy
    )
    terms = [inter, information, posterior_entropy]
    if second_stage and plan.lambda_intra:
        density = mixture.log_density_within_class(z, codes)
        intra = intra_class_loss(density, log_det, n_features).mean()
        margin = likelihood_margin_loss(density, log_det, n_features).mean()
        loss = loss + plan.lambda_intra * (intra + margin)
        terms += [intra, margin]
    else:
        terms += [torch.full_like(loss, float("nan"))] * 2
    return loss, torch.stack(terms).detach()


def train(levels, read, rows, codes, plan, generator, *, on_pass=None, processes=ALONE):
    """Train flows and mixtures in place.

    Parameters
    ----------
    levels : list of LevelModel
    read : callable
        read(level_index, rows, positions) -> Tensor (n, n_positions, n_features), after the
        level's start, on the levels' device and of their dtype; positions None = all.
    rows : ndarray of int
        Images to train on.
    codes : Tensor of shape (n_images,), int64
        Class of every image, those in `rows` and the others.
    plan : TrainingPlan
    generator : torch.Generator
        On the CPU; draws the order of images and the positions.
    on_pass : callable, optional
        Called as on_pass(pass_number, record) after each pass.
    processes : Processes, default=ALONE
        Who train together: all draw the same batches, and each reads its own images of them.

    Returns
    -------
    list of dict
        One a pass: "loss", the learning rate and every term, means over steps, summed over levels.

    Raises
    ------
    FloatingPointError
        If a loss is not finite.
    """
    device = next(levels[0].parameters()).device
    flow_parameters = [p for level in levels for p in level.flow.parameters()]
    mixture_parameters = [p for level in levels for p in level.mixture.parameters()]
    optimizer = torch.optim.Adam(
        [
            {"params": flow_parameters, "weight_decay": plan.weight_decay, "factor": 1.0},
            {"params": mixture_parameters, "weight_decay": 0.0, "factor": plan.center_lr_factor},
        ],
        lr=plan.learning_rate,
        betas=plan.betas,
        fused=True,
    )
    spare = processes.own(np.arange(len(codes)))[:1]
    batches = math.ceil(len(rows) / plan.batch_size)
    n_steps = plan.n_passes * batches
    history, step = [], 0
    workspaces = [Workspace() for _ in levels]
    for number in range(plan.n_passes):
        totals = torch.zeros(len(TERMS), device=device)
        total_loss = torch.zeros((), device=device)
        order = rows[torch.randperm(len(rows), generator=generator).numpy()]
        for batch in np.array_split(order, batches):
            own = processes.own(batch)
            # Means over own images, so weighted, add up to the mean over the batch. Who owns none
            # of them takes one for nothing, and has gradients of zero where others have theirs.
            share = len(own) / len(batch)
            own = own if len(own) else spare
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * group["factor"] * plan.lr_factor(step, n_steps)
            second_stage = plan.in_second_stage(step, n_steps)
            optimizer.zero_grad(set_to_none=True)
            for index, level in enumerate(levels):
                n_positions = math.prod(level.map_shape)
                positions = _draw_positions(n_positions, plan.position_fraction, generator)
                if positions is not None:
                    positions = sent(positions, device)
                x = read(index, own, positions)
                own_codes, workspace = sent(codes[own], device), workspaces[index]
                loss, terms = level_loss(
                    level, x, own_codes, positions, plan, second_stage, workspace
                )
                (share * loss).backward()  # levels share no parameter: their gradients never mix
                total_loss += share * loss.detach()
                totals += share * terms
            processes.sum_gradients(flow_parameters + mixture_parameters)
            optimizer.step()
            step += 1
        total_loss, totals = processes.total(total_loss), processes.total(totals)
        record = {"loss": float(total_loss) / batches}
        if not math.isfinite(record["loss"]):
            raise FloatingPointError(
                f"training diverged in pass {number + 1}: the loss is {record['loss']}. Lower "
                "learning_rate, keep start='whitened', or scale the features "
                "(sklearn.preprocessing.StandardScaler)."
            )
        record["learning_rate"] = optimizer.param_groups[0]["lr"]
        record.update(zip(TERMS, (totals / batches).tolist(), strict=True))
        history.append(record)
        if on_pass is not None:
            on_pass(number + 1, record)
    return history


def _draw_positions(n_positions, fraction, generator):
    """Draw the positions of a step, the same for all its images; None when all take part."""
    n_drawn = max(1, math.ceil(fraction * n_positions))
    if n_drawn == n_positions:
        return None
    return torch.randperm(n_positions, generator=generator)[:n_drawn]
