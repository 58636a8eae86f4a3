"""How long and how fast to train."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..devices import trains_in_mixed_precision


@dataclass
class TrainingPlan:
    """Numbers of the optimisation; see `HGADDetector` for their meaning."""

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
    # Products in bfloat16 take half the time where hardware has them.
    mixed_precision: bool = False
    loss: Callable | None = None  # None: the published objective

    @property
    def weights(self):
        """Weights of the terms of the objective, by the names of the parameters."""
        names = ("lambda_inter", "lambda_mi", "lambda_entropy", "lambda_intra")
        return {name: getattr(self, name) for name in names}

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


def training_plan(parameters, n_samples, level_shapes, device):
    """Choose the "auto" numbers of the schedule by the kind and the number of the training samples.

    `level_shapes` holds (n_features, height, width) of each level.
    """
    is_images = any(height * width > 1 for _, height, width in level_shapes)
    batch_size = parameters["batch_size"]
    if batch_size == "auto":
        batch_size = 16 if is_images else min(64, max(8, n_samples // 8))
    n_passes = parameters["max_iter"]
    if n_passes == "auto":  # the closed form is at least as good
        n_passes = 0
    learning_rate = parameters["learning_rate"]
    if learning_rate == "auto":
        learning_rate = 1e-3
    decided = dict(
        n_passes=n_passes,
        batch_size=batch_size,
        learning_rate=learning_rate,
        mixed_precision=trains_in_mixed_precision(parameters["mixed_precision"], device),
    )
    shared = TrainingPlan.__dataclass_fields__.keys() - decided.keys()
    return TrainingPlan(**decided, **{name: parameters[name] for name in shared})
