"""Fit, step by step: features, start, training, covariances, frozen constants."""

import math

import numpy as np
import torch
from tqdm import tqdm

from ..model.flow import ConditionalFlow
from ..model.level import LevelModel
from ..model.mixture import HierarchicalMixture, class_means
from ..model.positions import position_codes
from ..parameters import sent, trains_in_mixed_precision
from ..scoring.calibration import Calibration
from ..scoring.inspection import score_batch, score_evidence
from .class_covariances import align_start, fit_class_covariances, identity_start, whitened_start
from .training import TrainingPlan, train

_BLOCK_BYTES = 16 << 20  # of features read at once; some ten times that is used
# Samples with one vector each say little of its small directions; whitening would blow these up.
_WHITENING_SHRINKAGE = {"maps": 0.1, "vectors": 0.9}
# With fewer, training makes the model worse than its closed-form start.
_VECTORS_PER_FEATURE = 10
# Of a class; from them its mean is known well enough to start from.
_FIRST_IMAGES = 16


def level_shapes(X, extractor):
    """Tell (n_features, height, width) of each level; a vector is a map of one position."""
    return [(X.shape[1], 1, 1)] if extractor is None else extractor.levels


def blocks_of(cache, levels, rows, codes, device="cpu"):
    """Cut cached samples into blocks of bounded memory.

    Parameters
    ----------
    cache : FeatureCache
    levels : iterable of int
    rows : ndarray of int
        Samples to visit, in this order; each process visits its own.
    codes : ndarray of int
        Class of every cached sample.
    device : torch.device, default="cpu"
        Where the blocks go.

    Yields
    ------
    features : list of Tensor of shape (n, n_positions, n_features)
        One for each of `levels`.
    codes : Tensor of shape (n,), int64
    """
    levels, rows = list(levels), cache.processes.own(rows)
    sample = sum(math.prod(cache.shapes[level]) for level in levels) * cache.dtype.itemsize
    step = max(1, _BLOCK_BYTES // sample)
    for first in range(0, len(rows), step):
        chosen = rows[first : first + step]
        features = [cache.read(level, chosen).to(device) for level in levels]
        yield features, torch.from_numpy(codes[chosen]).to(device)


def level_blocks(cache, level, rows, codes):
    """Return a callable that iterates over (x, codes) of one level, as `_closed_form` wants."""

    def blocks():
        for (x,), block_codes in blocks_of(cache, [level], rows, codes):
            yield x, block_codes

    return blocks


def build_level(parameters, cache, level, map_shape, rows, codes, n_classes, generator):
    """Create the untrained level: start, flow and mixture.

    Parameters
    ----------
    parameters : dict
        Of the estimator.
    cache : FeatureCache
    level : int
    map_shape : tuple (height, width)
    rows, codes : ndarray of int
        Training samples; class of every cached sample.
    n_classes : int
    generator : torch.Generator

    Returns
    -------
    LevelModel
    """
    n_features = cache.shapes[level][-1]
    if parameters["start"] == "whitened":
        shrinkage = parameters["whitening_shrinkage"]
        if shrinkage == "auto":
            shrinkage = _WHITENING_SHRINKAGE["vectors" if math.prod(map_shape) == 1 else "maps"]
        blocks = level_blocks(cache, level, rows, codes)
        start = whitened_start(blocks, n_classes, n_features, shrinkage, cache.processes)
    else:
        start = identity_start(n_features)
    built = empty_level(parameters, n_features, map_shape, n_classes, generator)
    if parameters["start"] == "whitened" and n_classes > 1 and math.prod(map_shape) == 1:
        start = align_start(start, blocks, built.flow, built.mixture.means, cache.processes)
    # Vectors may be of any magnitude: their start keeps the float64 of the cache.
    built.start = start.to(torch.float64 if cache.dtype == np.float64 else torch.float32)
    return built


def empty_level(parameters, n_features, map_shape, n_classes, generator=None):
    """Create a level from its shapes alone, its start the identity."""
    generator = torch.Generator() if generator is None else generator
    position_channels = parameters["position_channels"]
    conditioned = position_channels and math.prod(map_shape) > 1
    flow = ConditionalFlow(
        n_features,
        position_codes(*map_shape, position_channels) if conditioned else None,
        n_blocks=parameters["n_blocks"],
        hidden_ratio=parameters["hidden_ratio"],
        clamp=parameters["clamp"],
        identity_start=parameters["start"] == "whitened",
        generator=generator,
    )
    mixture = HierarchicalMixture(
        class_means(n_classes, n_features, parameters["class_separation"]),
        parameters["n_components"],
        offset_scale=parameters["center_scale"],
        generator=generator,
    )
    return LevelModel(identity_start(n_features).float(), flow, mixture, map_shape)


def training_plan(parameters, n_samples, level_shapes, device):
    """Fill the "auto" numbers of the schedule by the kind and the number of the data.

    Parameters
    ----------
    parameters : dict
        Of the estimator.
    n_samples : int
        To train on.
    level_shapes : list of tuples (n_features, height, width)
    device : torch.device
        Where to train.

    Returns
    -------
    TrainingPlan
    """
    is_images = any(height * width > 1 for _, height, width in level_shapes)
    batch_size = parameters["batch_size"]
    if batch_size == "auto":
        batch_size = 16 if is_images else min(64, max(8, n_samples // 8))
    n_passes = parameters["max_iter"]
    if n_passes == "auto":
        steps, most = (240, 30) if is_images else (120, 8)
        n_passes = min(most, max(1, math.ceil(steps * batch_size / n_samples)))
        density = min(n_samples * math.prod(shape[1:]) / shape[0] for shape in level_shapes)
        if parameters["start"] == "whitened" and density < _VECTORS_PER_FEATURE:
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


def train_levels(levels, cache, rows, codes, plan, generator, device, verbose, *, on_pass=None):
    """Train the levels on the cached features; they stay on `device`.

    `on_pass` is called as on_pass(pass_number, levels) after each pass, if given.

    Returns
    -------
    list of dict
        History, see `_training.train`.
    """
    starts = [level.start.to(device) for level in levels]
    for level in levels:
        level.flow.to(device)
        level.mixture.to(device)
    quiet = verbose < 1 or not cache.processes.is_first
    bar = tqdm(total=plan.n_passes, desc="training", unit="pass", disable=quiet)

    def read(level, batch, positions):
        x = sent(cache.read(level, batch), device)
        if positions is not None:
            x = x[:, positions]
        return starts[level](x)[0].float()

    def after_pass(number, record):
        bar.set_postfix(loss=f"{record['loss']:.4g}")
        bar.update()
        if on_pass is not None:
            on_pass(number, levels)

    with bar:
        return train(
            levels, read, rows, torch.from_numpy(codes), plan, generator,
            on_pass=after_pass, processes=cache.processes,
        )  # fmt: skip


def fit_covariances(levels, cache, rows, codes):
    """Replace unit covariances by each class's own, level by level."""
    few = [rows[codes[rows] == code][:_FIRST_IMAGES] for code in np.unique(codes[rows])]
    few = np.sort(np.concatenate(few))
    for index, level in enumerate(levels):
        blocks, first = (level_blocks(cache, index, chosen, codes) for chosen in (rows, few))
        fit_class_covariances(level, blocks, first=first, processes=cache.processes)


@torch.no_grad()
def evidence_of(model, cache, rows, codes, device):
    """Ask the levels about cached samples, once for all constants and scores that rest on it.

    Returns
    -------
    list of tuples (inferred, given) of Evidence
        Block by block, under the class inferred and under that in `codes`; those of all processes.
    """
    found = []
    for features, own in blocks_of(cache, range(cache.n_levels), rows, codes, device):
        inferred = given = model.evidence(features)
        if (inferred.codes != own).any():
            given = model.evidence(features, own)
        found.append((inferred, given))
    return cache.processes.gather(found, device)


@torch.no_grad()
def calibration_of(model, evidence):
    """Judge samples by the model as it is now; `evidence` as from `evidence_of`."""
    nothing, no_codes = np.empty(0), np.empty(0, dtype=np.int64)
    parts = [Calibration(nothing, no_codes, no_codes, nothing, nothing)]
    for inferred, given in evidence:
        batch = score_evidence(model, inferred)
        given_scores = batch.scores if given is inferred else score_evidence(model, given).scores
        codes = given.codes.cpu().numpy()
        parts.append(Calibration(batch.scores, codes, batch.codes, given_scores, batch.typicality))
    return Calibration(*map(np.concatenate, zip(*parts, strict=True)))


@torch.no_grad()
def scores_of(model, cache, device):
    """Score all cached samples, class inferred, in any order; ndarray of shape (n_samples,)."""
    rows = np.arange(len(cache))
    blocks = blocks_of(cache, range(cache.n_levels), rows, rows, device)
    scores = [score_batch(model, features, None).scores for features, _ in blocks]
    return np.concatenate(cache.processes.gather(scores))
